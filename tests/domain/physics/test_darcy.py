import logging

import numpy as np
import pytest
import torch

from accelerator.errors import ConfigError
from domain.physics.data.darcy import darcy, gaussian_field
from domain.physics.data.diffusion import solve

SMALL = {"grid": 8, "train": 4, "val": 2, "test": 2}


def test_the_covariance_of_the_field_is_that_of_its_cosine_series():
    """With ξ the unit vectors in turn, ΣZZᵀ is the covariance: compared with the operator's power on the grid."""
    n, tau, alpha = 6, 3.0, 2.0
    samples = np.stack([gaussian_field(n, unit.reshape(n, n), tau=tau, alpha=alpha).ravel() for unit in np.eye(n * n)])
    x = (np.arange(n) + 0.5) / n
    covariance = np.zeros((n * n, n * n))
    for k in range(n):
        for m in range(n):
            if (k, m) == (0, 0):
                continue
            norm = (np.sqrt(2) if k else 1) * (np.sqrt(2) if m else 1)
            phi = norm * np.outer(np.cos(np.pi * k * x), np.cos(np.pi * m * x)).ravel()
            covariance += tau**2 * (np.pi**2 * (k**2 + m**2) + tau**2) ** -2 * np.outer(phi, phi)
    np.testing.assert_allclose(samples.T @ samples, covariance, atol=1e-13)


def test_the_field_is_the_same_on_every_grid():
    """Every third cell centre of a grid three times as fine is one of the coarse grid."""
    xi = np.random.default_rng(0).standard_normal((5, 5))
    coarse, fine = (gaussian_field(n, xi, tau=2.0, alpha=1.5) for n in (7, 21))
    np.testing.assert_allclose(fine[1::3, 1::3], coarse, atol=1e-13)


def test_the_field_has_mean_zero():
    xi = np.random.default_rng(0).standard_normal((64, 64))
    assert abs(gaussian_field(16, xi, tau=3.0, alpha=2.0).mean()) < 1e-13


def test_without_refinement_the_solution_is_the_solver_s(tmp_path):
    inputs, targets = darcy(**SMALL, refinement=1, source=2.0, cache_dir=str(tmp_path))["val"]
    for log_kappa, u in zip(inputs[:, 0], targets[:, 0], strict=True):
        np.testing.assert_allclose(u, solve(np.exp(log_kappa.double().numpy()), 2.0), rtol=1e-5)


def test_a_disc_has_two_materials(tmp_path):
    inputs, _ = darcy(**SMALL, refinement=1, cache_dir=str(tmp_path))["train"]
    torch.testing.assert_close(inputs.unique().exp(), torch.tensor([3.0, 12.0]))


def test_a_sample_is_the_means_over_its_cells(tmp_path):
    fine = darcy(grid=16, train=2, val=1, test=1, refinement=1, cache_dir=str(tmp_path))["train"]
    coarse = darcy(grid=8, train=2, val=1, test=1, refinement=2, cache_dir=str(tmp_path))["train"]
    for solved, kept in zip(fine, coarse, strict=True):
        torch.testing.assert_close(torch.nn.functional.avg_pool2d(solved, 2), kept)


def test_more_samples_extend_the_same_sequence(tmp_path):
    few, many = (darcy(**(SMALL | {"train": n}), cache_dir=str(tmp_path))["train"] for n in (4, 6))
    assert torch.equal(few[0], many[0][:4])
    assert torch.equal(few[1], many[1][:4])


def test_a_second_call_reads_what_the_first_kept(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = darcy(**SMALL, cache_dir=str(tmp_path))
    assert "solving 8 Darcy problems on a 16×16 grid" in caplog.text
    caplog.clear()
    again = darcy(**SMALL, cache_dir=str(tmp_path))
    assert "solving" not in caplog.text
    assert all(torch.equal(a, b) for split in first for a, b in zip(first[split], again[split], strict=True))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"coefficient": "discs"}, "unknown data.coefficient 'discs'"),
        ({"alpha": 1.0}, "data.alpha=1.0 must be above 1"),
        ({"tau": 0.0}, "data.tau=0.0 must be positive"),
        ({"refinement": 0}, "data.refinement=0 must be at least 1"),
        ({"grid": 1}, "data.grid=1: at least 2 cells"),
        ({"val": 0}, "data.val=0: at least one sample"),
        ({"seed": -1}, "data.seed=-1 must not be negative"),
        ({"workers": 0}, "data.workers=0 must be at least 1"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, message):
    with pytest.raises(ConfigError, match=message):
        darcy(**(SMALL | knobs))
