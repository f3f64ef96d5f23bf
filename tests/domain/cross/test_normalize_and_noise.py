import pytest
import torch

from accelerator.errors import ConfigError
from domain.cross.transform.noise import Noise
from domain.cross.transform.normalize import PER, Normalize

X = torch.randn(500, 3, 4, generator=torch.Generator().manual_seed(0)) * 7 + torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("per", PER)
def test_training_split_gets_mean_zero_and_deviation_one_over_what_is_shared(per):
    normalize = Normalize(per)
    normalize.fit(X)
    z = normalize(X)
    shared = {"feature": (0,), "channel": (0, 2), "all": (0, 1, 2)}[per]
    assert z.mean(shared).abs().max() < 1e-6
    assert (z.std(shared, correction=0) - 1).abs().max() < 1e-6


def test_constant_feature_becomes_zero_and_comes_back():
    x = torch.cat([torch.full((1000, 1), 1000.1), torch.linspace(0, 1, 1000)[:, None]], dim=1)
    normalize = Normalize()
    normalize.fit(x)
    assert torch.equal(normalize(x)[:, 0], torch.zeros(1000))
    assert torch.equal(normalize.inverse(normalize(x))[:, 0], x[:, 0])


def test_statistics_keep_their_digits_far_from_zero():
    x = (torch.arange(1_000_000) % 2).float()[:, None] + 30_000
    normalize = Normalize()
    normalize.fit(x)
    assert normalize.mean.item() == 30_000.5
    assert normalize.std.item() == 0.5


def test_data_seen_later_does_not_move_the_statistics():
    normalize = Normalize()
    normalize.fit(X)
    before = normalize.mean.clone()
    normalize(X + 100)
    normalize.train()(X + 100)
    assert torch.equal(normalize.mean, before)


def test_normalize_without_statistics_is_refused():
    with pytest.raises(ValueError, match="no statistics yet: call fit"):
        Normalize()(X)


@pytest.mark.parametrize("per", ["feature", "channel"])
def test_samples_of_another_shape_are_refused_instead_of_broadcast(per):
    normalize = Normalize(per)
    normalize.fit(X[:, :1, :1])
    with pytest.raises(ValueError, match=r"fitted to samples of shape \(1, 1\) .* got \(3, 4\)"):
        normalize(X)


def test_statistics_of_a_channel_serve_every_resolution():
    normalize = Normalize("channel")
    normalize.fit(X)
    assert torch.equal(normalize(X[:, :, ::2]), normalize(X)[:, :, ::2])


def test_class_labels_are_not_normalised():
    with pytest.raises(ValueError, match=r"not int64: class labels .* use transform=normalize_input"):
        Normalize().fit(torch.tensor([0, 1, 2]))


def test_unknown_choice_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown per='chanel' — did you mean 'channel'"):
        Normalize("chanel")


def test_noise_has_the_deviation_asked_for_and_no_bias():
    x = torch.full((1000, 1000), 3.0)
    noise = Noise(std=0.5)(x, torch.Generator().manual_seed(0)) - x
    # Five standard errors: σ/√n for the mean, σ/√(2n) for the deviation, n = 10⁶.
    assert abs(noise.mean().item()) < 5 * 0.5 / 1000
    assert abs(noise.std().item() - 0.5) < 5 * 0.5 / 1000 / 2**0.5


def test_negative_noise_is_refused():
    with pytest.raises(ConfigError, match=r"std=-0.1 must not be negative"):
        Noise(-0.1)
