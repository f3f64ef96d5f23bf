"""Statistics of a pass in pieces are those of NumPy on the whole, in float64; what is planted is found."""

import numpy as np
import pytest
import torch

from accelerator.analysis.statistics import Reference, Statistics


def passed(values, pieces=7, limit=8.0, pilot=None):
    seen = Statistics(Reference.of(values if pilot is None else pilot), limit)
    for rows in np.array_split(np.arange(len(values)), pieces):
        seen.add(rows, values[torch.from_numpy(rows)])
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1000,), (1000, 3), (200, 3, 8, 8), (100, 2, 30)])
def test_moments_are_numpys_in_float64_where_the_mean_is_a_million_deviations(shape, dtype):
    values = torch.from_numpy(np.random.default_rng(0).normal(1e6, 1.0, shape)).to(dtype)
    seen = passed(values)
    flat = values.double().numpy().reshape(shape[0], shape[1] if len(shape) > 1 else 1, -1)
    np.testing.assert_allclose(seen.mean, flat.mean((0, 2)), rtol=1e-14)
    np.testing.assert_allclose(seen.std, flat.std((0, 2)), rtol=1e-10)
    np.testing.assert_array_equal(seen.low, flat.min((0, 2)))
    np.testing.assert_array_equal(seen.high, flat.max((0, 2)))


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])  # its square is nothing float32 has, but for 1
def test_moments_of_float32_do_not_depend_on_the_unit(unit):
    values = torch.from_numpy(np.random.default_rng(0).normal(3.0, 1.0, (20_000, 2)) * unit).float()
    seen, exact = passed(values, pieces=2), values.double().numpy()
    np.testing.assert_allclose(seen.mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(seen.std, exact.std(0), rtol=1e-6)


def test_gaps_are_counted_by_channel_and_left_out_of_the_moments():
    values = torch.from_numpy(np.random.default_rng(0).normal(5.0, 2.0, (300, 2)))
    values[7, 0] = values[250, 0] = torch.nan
    values[7, 1], values[91, 1] = torch.inf, -torch.inf
    assert passed(values, pieces=1).bad_samples == 3
    seen = passed(values)
    assert seen.nan.tolist() == [2, 0]
    assert seen.infinite.tolist() == [0, 2]
    assert (seen.bad_samples, seen.bad_rows) == (3, [7, 91, 250])
    finite = np.where(np.isfinite(values.numpy()), values.numpy(), np.nan)
    np.testing.assert_allclose(seen.mean, np.nanmean(finite, 0), rtol=1e-12)
    np.testing.assert_allclose(seen.std, np.nanstd(finite, 0), rtol=1e-12)
    np.testing.assert_array_equal(seen.high, np.nanmax(finite, 0))


def test_constant_and_empty_channels_are_named():
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    values[:, 1], values[:, 3] = 3.0, torch.nan
    seen = passed(values)
    assert (seen.constant, seen.empty) == ([1], [3])


def test_planted_outliers_are_found_exactly_and_the_farthest_comes_first():
    values = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    values[17, 1], values[4000, 2], values[4001, 2] = 50.0, -30.0, 20.0
    found = passed(values).outliers
    assert (found.samples, found.values, found.by_channel.tolist()) == (3, 3, [0, 1, 2])
    assert [(row, channel, value) for row, channel, value, _ in found.farthest] == [
        (17, 1, 50.0),
        (4000, 2, -30.0),
        (4001, 2, 20.0),
    ]
    assert found.farthest[0][3] == pytest.approx(50.0, rel=0.1)
    assert passed(values, limit=0.0).outliers.samples == 0


def test_a_rare_category_and_two_heaps_are_no_outliers():
    generator = torch.Generator().manual_seed(0)
    rare = (torch.rand(2000, 1, generator=generator) < 0.01).float()
    heaps = torch.where(torch.rand(2000, 1, generator=generator) < 0.3, 1.0, 0.001) * torch.rand(
        2000, 1, generator=generator
    )
    found = passed(torch.cat([rare, heaps], 1)).outliers
    assert found.by_channel.tolist() == [0, 0]


def test_a_pilot_of_images_is_not_one_column_of_them():
    images = torch.zeros(400, 1, 32, 32)
    images[..., 1::2] = torch.randn(400, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    scale = Reference.of(images).scale[0]
    assert 0.3 < scale < 0.8  # every 6th or 32nd value would be of even columns alone, which are zero


def test_median_and_scale_of_a_normal_distribution():
    for seed in range(3):
        x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 3
        median, scale = Reference.of(x)
        assert median[0] == pytest.approx(3, abs=0.06)
        assert scale[0] == pytest.approx(2, rel=0.03)
