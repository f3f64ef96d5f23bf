import cmath
import math

import pytest
import torch

from accelerator.errors import ConfigError
from domain.physics.model.fno import FNO, SpectralConv


def kernel(weight, modes, cells):
    """The real periodic kernel (C_in, C_out, *cells) behind a weight, by direct Fourier sums.

    Frequencies along the last direction also stand for their negatives: twice the real part, once for frequency 0.
    """
    weight = torch.view_as_complex(weight.detach())
    values = torch.zeros(weight.shape[-2], weight.shape[-1], *cells, dtype=weight.dtype)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in cells)).reshape(-1, len(cells)).tolist():
        for index in torch.cartesian_prod(*(torch.arange(k) for k in weight.shape[: len(cells)])).reshape(
            -1, len(cells)
        ):
            frequency = index.tolist()
            frequency[:-1] = [f - kept for f, kept in zip(frequency, modes[:-1], strict=False)]
            phase = sum(f * x / n for f, x, n in zip(frequency, place, cells, strict=True))
            twice = 1 if frequency[-1] == 0 else 2
            values[(..., *place)] += twice * weight[tuple(index)] * cmath.exp(2j * math.pi * phase)
    return values.real / math.prod(cells)


@pytest.mark.parametrize(
    ("modes", "cells"), [([4], [9]), ([3], [8]), ([2, 3], [5, 7]), ([3, 2], [8, 6]), ([2, 1, 2], [5, 3, 4])]
)
def test_spectral_convolution_is_the_circular_convolution_with_its_kernel(modes, cells):
    layer = SpectralConv(2, 3, modes).double()
    x = torch.randn(2, 2, *cells, dtype=torch.float64)
    k = kernel(layer.weight, modes, cells)
    expected = torch.zeros(2, 3, *cells, dtype=torch.float64)
    for shift in torch.cartesian_prod(*(torch.arange(n) for n in cells)).reshape(-1, len(cells)).tolist():
        dims = tuple(range(2, 2 + len(cells)))
        expected += torch.einsum("bi...,io->bo...", x.roll(shift, dims), k[(..., *shift)])
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_a_spectral_convolution_in_three_dimensions_is_the_direct_fourier_sum():
    """y(x) = N⁻¹ Re Σ_k c_k e^{2πik·x/n} Σ_x' W_k v(x') e^{−2πik·x'/n}; c = 2 but for last frequency 0, where c = 1."""
    modes, cells = (2, 1, 3), (5, 4, 6)
    layer = SpectralConv(2, 3, modes).double()
    v = torch.randn(2, 2, *cells, dtype=torch.float64)
    place = torch.cartesian_prod(*(torch.arange(n) for n in cells)).double() / torch.tensor(cells)  # (N, 3)
    frequencies = torch.cartesian_prod(torch.arange(-2, 2), torch.arange(-1, 1), torch.arange(3)).double()  # (F, 3)
    wave = torch.exp(2j * torch.pi * (frequencies @ place.T))
    weight = torch.view_as_complex(layer.weight.detach()).reshape(len(frequencies), 2, 3)
    coefficients = torch.einsum("bix,fx->bfi", v.flatten(2).to(wave.dtype), wave.conj())
    twice = torch.where(frequencies[:, 2] == 0, 1.0, 2.0).double()
    y = torch.einsum("f,bfi,fio,fx->box", twice.to(wave.dtype), coefficients, weight, wave).real / len(place)
    torch.testing.assert_close(layer(v), y.reshape(2, 3, *cells), atol=1e-12, rtol=0)


@pytest.mark.parametrize("cells", [[12], [12, 10], [12, 10, 11]])
def test_spectral_convolution_commutes_with_translation(cells):
    layer = SpectralConv(2, 2, [5] * len(cells)).double()
    x = torch.randn(3, 2, *cells, dtype=torch.float64)
    shift, dims = (3, 1, 2)[: len(cells)], (2, 3, 4)[: len(cells)]
    torch.testing.assert_close(layer(x.roll(shift, dims)), layer(x).roll(shift, dims))


def band_limited(cells, dimensions):
    """Σ of waves up to frequency 3 at the points i/cells, (1, 1, *cells)."""
    x = torch.arange(cells, dtype=torch.float64) / cells
    wave = 1 + torch.cos(2 * torch.pi * x) - 0.7 * torch.sin(6 * torch.pi * x)
    other = 0.3 + torch.sin(4 * torch.pi * x)
    last = 1 + torch.sin(2 * torch.pi * x)
    factors = ["x", "xy", "xyz"][dimensions - 1]
    field = torch.einsum(f"{','.join(factors)}->{factors}", *[wave, other, last][:dimensions])
    return field[None, None]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_operator_is_the_same_on_every_resolution(dimensions):
    shape = (1, *[16] * dimensions)
    model = FNO(shape, shape, width=3, modes=4, layers=2, projection=4, activation="identity", coordinates=False)
    model.double()
    coarse, fine = (model(band_limited(cells, dimensions)) for cells in (16, 48))
    thirds = (..., *[slice(None, None, 3)] * dimensions)
    torch.testing.assert_close(fine[thirds], coarse, atol=1e-12, rtol=0)


def test_the_spectral_scale_multiplies_the_initial_spectral_weights_alone():
    models = []
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        models.append(FNO((1, 8, 8), (1, 8, 8), width=4, modes=3, layers=2, projection=4, spectral_scale=scale))
    for (name, whole), scaled in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(scaled, whole * (0.25 if name.startswith("spectral") else 1.0))


@pytest.mark.parametrize("modes", [(4,), (4, 3), (3, 2, 4)])
def test_the_declared_dimensions_are_those_of_the_weight(modes):
    layer = SpectralConv(5, 7, modes)
    directions = {1: ("modes[0]",), 2: ("±modes[0]", "modes[1]"), 3: ("±modes[0]", "±modes[1]", "modes[2]")}[len(modes)]
    assert layer.tensor_dimensions() == {"weight": (*directions, "in", "out", "")}
    assert layer.weight.shape == (*(2 * k for k in modes[:-1]), modes[-1], 5, 7, 2)


def test_coordinates_are_the_cell_centres():
    model = FNO((1, 4, 2), (1, 4, 2), modes=1)
    seen = []
    model.lifting.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.full((3, 1, 4, 2), 7.0))
    value, first, second = seen[0][2]
    assert value.unique().tolist() == [7.0]
    assert first.tolist() == [[0.125] * 2, [0.375] * 2, [0.625] * 2, [0.875] * 2]
    assert second.tolist() == [[0.25, 0.75]] * 4


def test_in_three_dimensions_the_coordinates_are_three_channels():
    model = FNO((2, 4, 2, 6), (1, 4, 2, 6), width=3, modes=1, layers=1, projection=4)
    assert model.lifting.weight.shape == (3, 2 + 3, 1, 1, 1)
    assert model(torch.randn(2, 2, 4, 2, 6)).shape == (2, 1, 4, 2, 6)


def test_gradients_agree_with_finite_differences():
    layer = SpectralConv(1, 2, [2, 2]).double()
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(layer, {"weight": weight}, (x,)), (x, weight)
    )


def test_fno_runs_under_autocast():
    model = FNO((1, 16, 16), (1, 16, 16), width=4, modes=4, layers=2, projection=8)
    x = torch.randn(2, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(x)
    assert (low.float() - model(x)).norm() / model(x).norm() < 0.05


def test_a_fused_optimizer_takes_the_spectral_weights():
    model = FNO((1, 8), (1, 8), width=4, modes=4, layers=1, projection=4)
    before = model.spectral[0].weight.detach().clone()
    model(torch.randn(2, 1, 8)).square().mean().backward()
    torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step()
    # Adam's first step is lr · sign(gradient), where there is a gradient.
    step = (model.spectral[0].weight - before).abs()
    assert step.max().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("input_shape", "output_shape", "knobs", "message"),
    [
        (
            (1, 16),
            (1, 16),
            {"modes": 9},
            "model.modes=9: a grid of 16 cells carries between 1 and 8 .* set model.modes=8",
        ),
        ((1, 16, 8), (1, 16, 8), {"modes": [8, 5]}, "model.modes=5: a grid of 8 cells carries between 1 and 4"),
        ((1, 16, 8), (1, 16, 8), {"modes": [8]}, "one number for each of the 2 directions"),
        ((1, 8, 8, 6), (1, 8, 8, 6), {"modes": 4}, "model.modes=4: a grid of 6 cells carries between 1 and 3"),
        ((1, 4, 4, 4, 4), (1, 4, 4, 4, 4), {}, r"needs fields, \(channels, n\[, m\[, l\]\]\) a sample"),
        ((1, 16, 16), (4, 16), {}, r"targets of shape \(4, 16\): use model=mlp"),
        ((1, 16, 16), (1, 8, 8), {}, r"on the grid of its input, \(16, 16\)"),
        ((1, 16), (1, 16), {"modes": 4, "layers": 0}, "model.layers=0 must be at least 1"),
    ],
)
def test_what_an_fno_cannot_do_is_refused(input_shape, output_shape, knobs, message):
    with pytest.raises(ConfigError, match=message):
        FNO(input_shape, output_shape, **knobs)
