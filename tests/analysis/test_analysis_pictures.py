"""Spectra have the power of the fields, and pictures are files."""

import numpy as np
import pytest
import torch

from accelerator.analysis.pictures import draw_classes, draw_histograms, draw_samples, is_grid, resolved_modes, spectrum


def wave(k, points=32):
    return torch.cos(2 * torch.pi * k * torch.arange(points) / points)


def test_a_wave_has_its_power_at_its_number():
    power = spectrum(3 * wave(5)[None, None])
    assert power.shape == (17,)
    np.testing.assert_allclose(power[5], 9 / 2, rtol=1e-6)
    np.testing.assert_allclose(np.delete(power, 5), 0, atol=1e-10)
    plane = spectrum((wave(3)[:, None] * wave(4)[None, :])[None, None])  # |k| = 5
    np.testing.assert_allclose(plane[5], 1 / 4, rtol=1e-6)


def test_parseval_and_gaps():
    values = torch.randn(4, 2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(spectrum(values).sum(), values.square().mean(), rtol=1e-12)
    values[0, 0, 3] = torch.nan
    assert np.isfinite(spectrum(values)).all()


def test_resolved_modes_hold_the_share_asked_for():
    power = np.array([100.0, 6.0, 3.0, 0.95, 0.05])
    assert [resolved_modes(power, share) for share in (0.5, 0.9, 0.99, 1.0)] == [1, 2, 3, 4]
    assert resolved_modes(np.array([5.0, 0.0])) == 0


def test_grids_have_eight_points_in_each_direction():
    assert [is_grid(shape) for shape in [(1, 8), (3, 8, 9), (3, 7, 9), (64,), (1, 9, 9, 9), ()]] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (3, 3, 8, 8), (3, 5, 9, 8), (3, 2, 16)])
def test_samples_of_every_kind_are_drawn(shape, tmp_path):
    draw_samples(torch.rand(shape), ["a", "b", "c"], tmp_path / "new" / "samples.png", "inputs")
    assert (tmp_path / "new" / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_constant_and_missing_values_can_be_drawn(tmp_path):
    values = torch.full((5, 2), torch.nan)
    values[:, 0] = 3.0
    draw_histograms({"train": values}, ["a", "b"], tmp_path / "h.png", "inputs")
    draw_classes(np.array([[3, 0], [0, 0]]), ["train", "val"], tmp_path / "c.png")
    assert (tmp_path / "h.png").stat().st_size > 1000
    assert (tmp_path / "c.png").stat().st_size > 1000
