import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accelerator.errors import ConfigError, DataError
from accelerator.multilevel.resampling import METHODS, GridSampling, coarsen_grid

SIZES = [((12,), (4,)), ((12, 8), (6, 4)), ((16, 15), (8, 5)), ((8, 6, 4), (4, 2, 2)), ((9, 8), (9, 4))]


def random_field(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def band_limited(grid, below, seed=0):
    """A random real Fourier series with |k_d| < below_d / 2, sampled at the cell centres (i + ½)/n; [2, 3, *grid].

    The coefficients depend on (below, seed) alone, so that two grids sample the same function.
    """
    frequencies = [torch.arange(-((m - 1) // 2), (m - 1) // 2 + 1, dtype=torch.float64) for m in below]
    coefficients = torch.complex(
        random_field(2, 3, *map(len, frequencies), seed=seed), random_field(2, 3, *map(len, frequencies), seed=seed + 1)
    )
    for n, k in zip(grid, frequencies, strict=True):
        points = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        waves = torch.exp(2j * math.pi * k[:, None] * points)
        coefficients = torch.einsum("bck...,ki->bc...i", coefficients, waves)  # the next frequency comes first
    return coefficients.real


@pytest.mark.parametrize(("grid", "shape"), [*SIZES, ((32,), (7,)), ((33, 10), (12, 9)), ((6,), (2,))])
def test_spectral_gives_a_band_limited_field_its_values_at_the_coarse_cell_centres(grid, shape):
    coarse = coarsen_grid(band_limited(grid, below=shape), shape, "spectral")
    torch.testing.assert_close(coarse, band_limited(shape, below=shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [4, 5])
def test_spectral_cuts_off_frequencies_from_half_the_coarse_cells_on(m):
    points = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    for k in range((m + 1) // 2, 9):
        for wave in (torch.sin, torch.cos):
            field = wave(2 * math.pi * k * points)[None, None]
            torch.testing.assert_close(coarsen_grid(field, (m,), "spectral"), torch.zeros(1, 1, m).double())


@pytest.mark.parametrize(("grid", "shape"), SIZES)
def test_area_gives_the_mean_over_each_coarse_cell(grid, shape):
    field = random_field(2, 3, *grid)
    coarse = coarsen_grid(field, shape, "area")
    assert coarse.shape == (2, 3, *shape)
    for cell in torch.cartesian_prod(*(torch.arange(m) for m in shape)).view(-1, len(shape)).tolist():
        part = field
        for d, (j, n, m) in enumerate(zip(cell, grid, shape, strict=True)):
            part = part.narrow(d + 2, j * (n // m), n // m)
        expected = part.flatten(2).mean(-1)
        torch.testing.assert_close(coarse[(..., *cell)], expected, rtol=0, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from(METHODS), st.integers(0, 1000))
def test_resampling_is_linear_and_keeps_constants_and_means(sizes, method, seed):
    grid, shape = sizes
    one, other = random_field(2, 1, *grid, seed=seed), random_field(2, 1, *grid, seed=seed + 1)
    whole = coarsen_grid(2 * one - 3 * other, shape, method)
    parts = 2 * coarsen_grid(one, shape, method) - 3 * coarsen_grid(other, shape, method)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts.flatten(1).mean(1), (2 * one - 3 * other).flatten(1).mean(1), rtol=0, atol=1e-13)
    constant = coarsen_grid(torch.full((1, 1, *grid), 0.7, dtype=torch.float64), shape, method)
    torch.testing.assert_close(constant, torch.full_like(constant, 0.7), rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_leading_dimensions_are_kept_whatever_their_number(method):
    field = random_field(2, 3, 4, 8, 6)
    expected = coarsen_grid(field.flatten(0, 1), (4, 3), method).unflatten(0, (2, 3))
    torch.testing.assert_close(coarsen_grid(field, (4, 3), method), expected)
    torch.testing.assert_close(coarsen_grid(field[0, 0], (4, 3), method), expected[0, 0])


def test_half_precision_is_kept_and_computed_in_single():
    field = random_field(2, 1, 16).to(torch.bfloat16)
    coarse = coarsen_grid(field, (8,), "spectral")
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse, coarsen_grid(field.float(), (8,), "spectral").to(torch.bfloat16))


def test_spectral_is_differentiable_after_a_first_call_in_inference_mode():
    field = random_field(1, 1, 22).requires_grad_()
    with torch.inference_mode():
        coarsen_grid(field, (10,), "spectral")
    assert torch.autograd.gradcheck(lambda x: coarsen_grid(x, (10,), "spectral"), (field,))


def test_a_batch_is_resampled_where_it_lies_on_the_grid_and_left_alone_elsewhere():
    image, vector, tokens = random_field(4, 3, 8, 12), random_field(4, 12), torch.arange(12).view(4, 3)
    sampling = GridSampling((vector, image), levels=3)
    assert sampling.grids == ((8, 12), (4, 6), (2, 3))
    inputs, targets = sampling.level_batch(
        2, [vector, image], {"u": image[:, 0], "flux": random_field(4, 4, 12), "t": tokens}
    )
    assert inputs[0] is vector
    torch.testing.assert_close(inputs[1], coarsen_grid(image, (2, 3)))
    torch.testing.assert_close(targets["u"], coarsen_grid(image, (2, 3))[:, 0])
    assert targets["flux"].shape == (4, 4, 12)
    assert targets["t"] is tokens
    labels = torch.tensor([0, 1, 2, 0])
    found, same = sampling.level_batch(1, image, labels)
    assert same is labels
    assert found.shape == (4, 3, 4, 6)
    assert sampling.level_batch(0, image, labels) == (image, labels)


def test_grids_can_be_named_one_by_one():
    images = torch.zeros(1, 1, 28, 28)
    assert GridSampling(images, 3, grids=[14, [7, 14]]).grids == ((28, 28), (14, 14), (7, 14))
    sampling = GridSampling(images, 3, grids=[20, 9], method="spectral")
    assert repr(sampling) == "GridSampling(28×28 → 20×20 → 9×9, method=spectral)"
    assert sampling.resample(2, images).shape == (1, 1, 9, 9)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 1, 8, 8), {"levels": 4}, "the grid 2×2 of level 2 cannot be divided by factor=2 .*; ask for levels=3"),
        ((1, 1, 9), {"levels": 2}, "the grid 9 cells of level 0 cannot be divided by factor=2"),
        ((1, 1, 9), {"levels": 2, "method": "spectral"}, "cannot be divided by factor=2"),
        ((1, 1, 8), {"levels": 2, "factor": 1}, "levels=2 and factor=1 must both be at least 2"),
        ((1, 1, 8), {"levels": 2, "method": "cubic"}, "method='cubic' is unknown"),
        ((1, 1, 8), {"levels": 3, "grids": [4]}, "levels=3 needs 2 coarse grids, not 1"),
        ((1, 1, 8, 8), {"levels": 2, "grids": [[4]]}, "the grid 4 cells needs 2 numbers, as the data's 8×8"),
        ((1, 1, 8, 8), {"levels": 2, "grids": [1]}, "the grid 1×1 needs at least 2 cells in each direction"),
        ((1, 1, 8, 8), {"levels": 2, "grids": [8]}, "the grid 8×8 is not coarser than 8×8"),
        ((1, 1, 8, 8), {"levels": 2, "grids": [[4, 16]]}, "the grid 4×16 is not coarser than 8×8"),
        ((1, 1, 12), {"levels": 2, "grids": [5]}, "the grid 5 cells does not divide .* 12 cells; take divisors"),
        ((4, 3), {"levels": 2}, r"the inputs \(\[4, 3\] float32\) have no grid"),
    ],
)  # fmt: skip
def test_what_cannot_be_resampled_is_refused(shape, options, message):
    with pytest.raises(ConfigError, match=message):
        GridSampling(torch.zeros(shape), **options)


def test_a_grid_that_does_not_fit_is_refused_for_a_single_field_too():
    with pytest.raises(ConfigError, match="cannot take means of 9 cells on 4: take a divisor, or method='spectral'"):
        coarsen_grid(torch.zeros(1, 1, 8, 9), (4, 4))
    with pytest.raises(ConfigError, match="cannot take means of 8 cells on 16"):
        coarsen_grid(torch.zeros(1, 1, 8), (16,))
    with pytest.raises(ConfigError, match="cannot coarsen 8 cells to 9"):
        coarsen_grid(torch.zeros(1, 1, 8), (9,), "spectral")


def test_whole_numbers_have_no_grid_and_label_maps_are_refused():
    with pytest.raises(ConfigError, match=r"\[1, 3, 8\] int64\) have no grid"):
        GridSampling(torch.zeros(1, 3, 8, dtype=torch.long), 2)
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(DataError, match=r"tensor of shape \[1, 8, 8\] and type int64 on the grid 8×8"):
        GridSampling(images, 2).level_batch(1, images, torch.zeros(1, 8, 8, dtype=torch.long))
