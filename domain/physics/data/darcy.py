"""A regression set of Darcy flow problems with random permeabilities, solved when first asked for and then cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accelerator.errors import ConfigError, did_you_mean
from domain.cross.data.cache import Arrays, cached_arrays, default_cache_dir
from domain.physics.data.diffusion import SOLVER_VERSION, solve
from domain.physics.data.splits import solve_splits

if TYPE_CHECKING:  # a worker process imports this module and has no use for torch
    from torch import Tensor


COEFFICIENTS = {
    "disc": lambda field: np.where(field >= 0, 12.0, 3.0),
    "lognormal": np.exp,
}

# Cosines in each direction. A constant, so that a problem does not depend on the grid it is solved on.
_TERMS = 64


def darcy(
    *,
    grid: int = 32,
    train: int = 1024,
    val: int = 256,
    test: int = 256,
    coefficient: str = "disc",
    tau: float = 3.0,
    alpha: float = 2.0,
    refinement: int = 2,
    source: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
    cache_dir: str | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """−∇·(κ∇u) = f on the unit square, u = 0 on its boundary, for a κ of two materials or a log-normal one.

    A Gaussian random field Z (see `gaussian_field`) gives κ: ``disc`` is 12 where Z ≥ 0 and 3 elsewhere, ``lognormal``
    is exp(Z). Each problem is solved on a grid ``refinement`` times as fine; a sample is the means over the cells of
    ``grid``, of log κ → u, both (1, grid, grid). Source: Li et al., "Fourier Neural Operator for Parametric Partial
    Differential Equations", ICLR 2021, §5.2 (there solved on 421² and subsampled, and κ is the input).

    Sample i of a split depends on (seed, split, i) alone: not on the sizes or the number of processes, and on the grid
    only by the error of discretisation.

    Args:
        grid: cells in each direction.
        train: number of training samples.
        val: number of validation samples.
        test: number of test samples.
        coefficient: ``disc`` or ``lognormal``.
        tau: inverse correlation length of Z.
        alpha: smoothness of Z; above 1.
        refinement: the solver's cells in a cell, in each direction.
        source: the constant right-hand side f.
        seed: of the samples.
        workers: processes that solve; None: one for each core, or none for little work.
        cache_dir: where solved sets are kept; None: ``$XDG_CACHE_HOME/accelerator`` or ``~/.cache/accelerator``.

    Returns:
        {"train" | "val" | "test": (log κ, u)}, float32, sample dimension first.

    Raises:
        ConfigError: a knob has no such value.
    """
    import torch

    sizes = {"train": train, "val": val, "test": test}
    _check(grid, sizes, coefficient, tau, alpha, refinement, seed, workers)
    problem = {
        "grid": grid,
        "coefficient": coefficient,
        "tau": float(tau),
        "alpha": float(alpha),
        "refinement": refinement,
        "source": float(source),
        "seed": seed,
    }
    key = json.dumps({**problem, **sizes, "solver": SOLVER_VERSION}, sort_keys=True)
    name = f"darcy-{grid}x{grid}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    folder = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    shapes = {f"{split}_{kind}": (size, 1, grid, grid) for split, size in sizes.items() for kind in ("input", "target")}
    arrays = cached_arrays(folder / name, shapes, lambda: _generate(problem, sizes, workers))
    return {
        split: (torch.from_numpy(arrays[f"{split}_input"]), torch.from_numpy(arrays[f"{split}_target"]))
        for split in sizes
    }


def gaussian_field(grid: int, xi: NDArray[np.float64], *, tau: float, alpha: float) -> NDArray[np.float64]:
    """A sample of N(0, τ^(2α−2) (−Δ + τ²)^−α), ∂Z/∂n = 0 on the boundary, mean 0, at the centres of grid² cells.

    Z(x) = Σ_k ξ_k τ^(α−1) (π²|k|² + τ²)^(−α/2) φ_k(x) over k ≠ 0, φ_k the products of √2 cos(πk_i x_i), or of 1 for
    k_i = 0; ``xi`` (terms, terms) are the ξ_k. Frequencies that the grid does not carry are left out.
    """
    from scipy.fft import idctn

    k = np.arange(min(grid, len(xi)))
    scale = tau ** (alpha - 1) * (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
    scale[0, 0] = 0
    series = np.zeros((grid, grid))
    series[: len(k), : len(k)] = scale * xi[: len(k), : len(k)]
    return grid * np.asarray(idctn(series, norm="ortho"))


def _check(
    grid: int,
    sizes: dict[str, int],
    coefficient: str,
    tau: float,
    alpha: float,
    refinement: int,
    seed: int,
    workers: int | None,
) -> None:
    problems = [f"data.{split}={size}: at least one sample is needed" for split, size in sizes.items() if size < 1]
    if grid < 2:
        problems.append(f"data.grid={grid}: at least 2 cells in each direction are needed")
    if refinement < 1:
        problems.append(f"data.refinement={refinement} must be at least 1")
    if not tau > 0:
        problems.append(f"data.tau={tau} must be positive")
    if not alpha > 1:
        problems.append(f"data.alpha={alpha} must be above 1: rougher fields have no values at points")
    if seed < 0:
        problems.append(f"data.seed={seed} must not be negative")
    if workers is not None and workers < 1:
        problems.append(f"data.workers={workers} must be at least 1, or null for one process for each core")
    if coefficient not in COEFFICIENTS:
        problems.append(f"unknown data.coefficient '{coefficient}'{did_you_mean(coefficient, COEFFICIENTS)}")
    if problems:
        raise ConfigError(problems)


def _generate(problem: dict[str, Any], sizes: dict[str, int], workers: int | None) -> Arrays:
    """Solve every sample of every split."""
    return solve_splits(
        _solve_samples, problem, sizes, workers, name="Darcy", cells=problem["grid"] * problem["refinement"]
    )


def _solve_samples(problem: dict[str, Any], split: int, samples: range) -> Arrays:
    """The samples of one split: log κ and u, (samples, 1, grid, grid), float32."""
    grid, cells = problem["grid"], problem["refinement"]
    found: dict[str, list[NDArray[np.float64]]] = {"input": [], "target": []}
    for sample in samples:
        sequence = np.random.SeedSequence(problem["seed"], spawn_key=(split, sample))
        xi = np.random.default_rng(sequence).standard_normal((_TERMS, _TERMS))
        field = gaussian_field(grid * cells, xi, tau=problem["tau"], alpha=problem["alpha"])
        kappa = COEFFICIENTS[problem["coefficient"]](field)
        found["input"].append(_cell_means(np.log(kappa), cells))
        found["target"].append(_cell_means(solve(kappa, problem["source"]), cells))
    return {kind: np.stack(values)[:, None].astype(np.float32) for kind, values in found.items()}


def _cell_means(field: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    n = len(field) // cells
    return field.reshape(n, cells, n, cells).mean(axis=(1, 3))
