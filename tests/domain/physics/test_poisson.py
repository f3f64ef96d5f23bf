import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from accelerator.errors import ConfigError
from domain.physics.data import poisson as module
from domain.physics.data.diffusion import boundary_flux, solve
from domain.physics.data.poisson import poisson
from domain.physics.data.random_field import karhunen_loeve


@pytest.fixture
def small(tmp_path):
    """The data set, small, cached in a folder of this test."""
    knobs = {"grid": 8, "train": 70, "val": 4, "test": 3, "kl_terms": 6, "cache_dir": str(tmp_path)}
    return lambda **changed: poisson(**knobs | changed)


def same(first, second):
    return all(torch.equal(a, b) for split in first for a, b in zip(first[split], second[split], strict=True))


def test_coefficients_field_solution_and_flux_belong_together(small):
    coefficients, solution = small(source=2.0)["val"]
    field, flux = small(source=2.0, inputs="field", targets="flux")["val"]
    log_kappa = np.tensordot(coefficients.double().numpy(), karhunen_loeve(8, 6), axes=1)
    np.testing.assert_allclose(field[:, 0], log_kappa, atol=1e-5)
    for i, kappa in enumerate(np.exp(log_kappa)):
        u = solve(kappa, 2.0)
        np.testing.assert_allclose(solution[i, 0], u, rtol=1e-4)
        np.testing.assert_allclose(flux[i], boundary_flux(kappa, u), rtol=1e-4)
    torch.testing.assert_close(flux.mean(2).sum(1), torch.full((4,), 2.0))  # ∫f


def test_a_sample_does_not_depend_on_the_sizes_of_the_splits(small):
    few, many = small(train=3), small(train=70, val=9)
    for split, size in (("train", 3), ("val", 4), ("test", 3)):
        for a, b in zip(few[split], many[split], strict=True):
            assert torch.equal(a, b[:size])


def test_a_sample_does_not_depend_on_the_number_of_processes(small, tmp_path):
    one = small(workers=1)
    two = small(workers=2, cache_dir=str(tmp_path / "other"))
    assert same(one, two)


def test_processes_work_from_a_script_without_a_main_guard_and_end_with_the_work(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, pathlib, torch
        torch.rand(500, 500) @ torch.rand(500, 500)
        from domain.physics.data.poisson import poisson
        data = poisson(grid=8, train=70, val=4, test=3, workers=2, cache_dir={str(tmp_path)!r})
        print("main", len(data["train"][0]))
        for child in pathlib.Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split():
            command = pathlib.Path(f"/proc/{{child}}/cmdline").read_text()
            if "resource_tracker" not in command:
                print("left", command)
        """)
    )
    run = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["main 70"]


def test_a_solved_set_is_read_back_without_solving(small, monkeypatch):
    first = small()
    monkeypatch.setattr(module, "_generate", None)
    assert same(first, small())
    assert small(inputs="field", targets="flux")["train"][0].shape == (70, 1, 8, 8)


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": 9},
        {"train": 71},
        {"kl_terms": 5},
        {"covariance": "gaussian"},
        {"variance": 2.0},
        {"correlation_length": 0.2},
        {"source": 2.0},
        {"seed": 1},
    ],
)
def test_every_knob_that_changes_the_numbers_changes_the_name_in_the_cache(changed, small, tmp_path):
    small()
    small(**changed)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_another_solver_does_not_read_the_sets_of_this_one(small, tmp_path, monkeypatch):
    small()
    monkeypatch.setattr(module, "SOLVER_VERSION", -1)
    small()
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_the_cache_folder_follows_the_xdg_convention(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    small(cache_dir=None)
    assert len(list((tmp_path / "xdg" / "accelerator").glob("poisson-8x8-*.npz"))) == 1


def test_knobs_out_of_range_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        poisson(grid=1, train=0, inputs="feild", targets="fluxes", workers=0, seed=-1)
    assert len(caught.value.problems) == 6
    assert "unknown data.inputs 'feild' — did you mean 'field'?" in caught.value.problems
