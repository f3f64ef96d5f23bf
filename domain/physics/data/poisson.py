"""A regression set of diffusion problems with random coefficients, solved when first asked for and then cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelerator.errors import ConfigError, did_you_mean
from domain.cross.data.cache import Arrays, cached_arrays, default_cache_dir
from domain.physics.data.diffusion import SOLVER_VERSION, boundary_flux, solve
from domain.physics.data.random_field import karhunen_loeve, standard_normal
from domain.physics.data.splits import solve_splits

if TYPE_CHECKING:  # a worker process imports this module and has no use for torch
    from torch import Tensor


INPUTS = ("coefficients", "field")
TARGETS = ("solution", "flux")


def poisson(
    *,
    grid: int = 32,
    train: int = 2048,
    val: int = 256,
    test: int = 256,
    inputs: str = "coefficients",
    targets: str = "solution",
    kl_terms: int = 32,
    covariance: str = "exponential",
    variance: float = 1.0,
    correlation_length: float = 0.3,
    source: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
    cache_dir: str | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """−∇·(κ∇u) = f on the unit square, u = 0 on its boundary, κ = exp(Z) with a random Gaussian field Z.

    Z = Σ_k ξ_k √λ_k φ_k is a truncated Karhunen–Loève expansion (`karhunen_loeve`), ξ_k ~ N(0, 1) independent, and
    f = ``source``. The network learns the map from κ to the solution or to the boundary flux, the regression
    problem of Ponce, Li, Mao, Vassilevski, "Multilevel-in-Width Training for Deep Neural Network Regression"
    (Numer. Linear Algebra Appl. 30, 2023).

    | knob | value | shape of a sample |
    |---|---|---|
    | inputs | ``coefficients``: ξ | (kl_terms,) |
    | | ``field``: log κ at the cell centres | (1, grid, grid) |
    | targets | ``solution``: u at the cell centres | (1, grid, grid) |
    | | ``flux``: −κ ∂u/∂n on the boundary faces, west, east, south, north | (4, grid) |

    Sample i of a split depends on (seed, split, i) alone: not on the sizes, the grid or the number of processes, so
    runs with more samples or another grid see the same problems, and the splits share none.

    Args:
        grid: cells in each direction.
        train: number of training samples.
        val: number of validation samples.
        test: number of test samples.
        inputs: ``coefficients`` or ``field``.
        targets: ``solution`` or ``flux``.
        kl_terms: terms of the expansion.
        covariance: ``exponential`` (rough) or ``gaussian`` (smooth).
        variance: of log κ, before truncation.
        correlation_length: of log κ; the domain has length 1.
        source: the constant right-hand side f.
        seed: of the samples.
        workers: processes that solve; None: one for each core, or none for little work.
        cache_dir: where solved sets are kept; None: ``$XDG_CACHE_HOME/accelerator`` or ``~/.cache/accelerator``.

    Returns:
        {"train" | "val" | "test": (inputs, targets)}, float32, sample dimension first.

    Raises:
        ConfigError: a knob has no such value.
    """
    import torch

    sizes = {"train": train, "val": val, "test": test}
    _check(grid, sizes, inputs, targets, workers, seed)
    problem = {
        "grid": grid,
        "kl_terms": kl_terms,
        "covariance": covariance,
        "variance": float(variance),
        "correlation_length": float(correlation_length),
        "source": float(source),
        "seed": seed,
    }
    key = json.dumps({**problem, **sizes, "solver": SOLVER_VERSION}, sort_keys=True)
    name = f"poisson-{grid}x{grid}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    folder = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    sample_shapes = {
        "coefficients": (kl_terms,),
        "field": (1, grid, grid),
        "solution": (1, grid, grid),
        "flux": (4, grid),
    }
    shapes = {
        f"{split}_{kind}": (size, *sample_shapes[kind]) for split, size in sizes.items() for kind in sample_shapes
    }
    arrays = cached_arrays(folder / name, shapes, lambda: _generate(problem, sizes, workers))
    return {
        split: (torch.from_numpy(arrays[f"{split}_{inputs}"]), torch.from_numpy(arrays[f"{split}_{targets}"]))
        for split in sizes
    }


def _check(grid: int, sizes: dict[str, int], inputs: str, targets: str, workers: int | None, seed: int) -> None:
    problems = [f"data.{split}={size}: at least one sample is needed" for split, size in sizes.items() if size < 1]
    if grid < 2:
        problems.append(f"data.grid={grid}: at least 2 cells in each direction are needed")
    if seed < 0:
        problems.append(f"data.seed={seed} must not be negative")
    if workers is not None and workers < 1:
        problems.append(f"data.workers={workers} must be at least 1, or null for one process for each core")
    if inputs not in INPUTS:
        problems.append(f"unknown data.inputs '{inputs}'{did_you_mean(inputs, INPUTS)}")
    if targets not in TARGETS:
        problems.append(f"unknown data.targets '{targets}'{did_you_mean(targets, TARGETS)}")
    if problems:
        raise ConfigError(problems)


def _generate(problem: dict[str, Any], sizes: dict[str, int], workers: int | None) -> Arrays:
    """Solve every sample of every split."""
    return solve_splits(_solve_samples, problem, sizes, workers, name="Poisson", cells=problem["grid"])


def _solve_samples(problem: dict[str, Any], split: int, samples: range) -> Arrays:
    """The samples of one split: each kind of input and target, (samples, *shape), float32."""
    modes = karhunen_loeve(
        problem["grid"],
        problem["kl_terms"],
        covariance=problem["covariance"],
        variance=problem["variance"],
        correlation_length=problem["correlation_length"],
    )
    found: dict[str, list[Any]] = {kind: [] for kind in (*INPUTS, *TARGETS)}
    for sample in samples:
        coefficients = standard_normal(problem["kl_terms"], seed=problem["seed"], split=split, sample=sample)
        field = np.tensordot(coefficients, modes, axes=1)
        kappa = np.exp(field)
        solution = solve(kappa, problem["source"])
        found["coefficients"].append(coefficients)
        found["field"].append(field[None])
        found["solution"].append(solution[None])
        found["flux"].append(boundary_flux(kappa, solution))
    return {kind: np.stack(values).astype(np.float32) for kind, values in found.items()}
