"""The residual network."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from accelerator.errors import ConfigError
from domain.cv.model.resnet import ResNet


def test_the_20_layers_of_the_paper_have_its_270_000_parameters():
    model = ResNet((3, 32, 32), (10,), channels=(16, 32, 64), blocks=3)
    assert sum(p.numel() for p in model.parameters()) == 272_474  # 269,722 and the two projections
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20 + 2


def test_each_stage_but_the_first_halves_images_of_every_size():
    model = ResNet((1, 8, 8), (10,), channels=(4, 6, 8)).eval()
    x = model.stem(torch.rand(2, 1, 17, 33))
    sizes = []
    for stage in model.stages:
        x = stage(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(4, 17, 33), (6, 9, 17), (8, 5, 9)]
    assert model(torch.rand(2, 1, 1, 1)).shape == (2, 10)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_with_zero_init_every_block_starts_as_its_shortcut(norm):
    model = ResNet((1, 8, 8), (3,), channels=(8, 16), blocks=2, norm=norm, zero_init=True)
    x = model.stem(torch.randn(2, 1, 8, 8))
    assert torch.equal(model.stages[0](x), x)
    halving = model.stages[1][0]
    assert torch.equal(halving(x), functional.relu(halving.shortcut(x)))
    assert not torch.equal(ResNet((1, 8, 8), (3,), channels=(8, 16), norm=norm).stages[0](x), x)


def test_convolutions_start_with_a_variance_that_keeps_the_gradients():
    torch.manual_seed(0)
    (conv, *_) = ResNet((1, 8, 8), (3,), channels=(32, 64)).stages[1][0].branch
    assert conv.weight.var().item() == pytest.approx(2 / (9 * 64), rel=0.05)


def test_a_group_norm_does_not_see_the_rest_of_the_batch_in_training():
    model = ResNet((1, 8, 8), (3,), channels=(8, 16), norm="group").double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"channels": []}, r"model\.channels=\[\]"),
        ({"channels": [8, 0]}, r"model\.channels=\[8, 0\]"),
        ({"blocks": 0}, r"model\.blocks=0"),
        ({"norm": "bach"}, "unknown model.norm 'bach' — did you mean 'batch'"),
        ({"norm": "group", "groups": 3}, r"model\.groups=3 must divide .* \[16, 32, 64\]"),
        ({"norm": "group", "groups": 0}, r"model\.groups=0"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        ResNet((1, 8, 8), (10,), **knobs)
