"""The data of a coarser level: fields and images resampled onto a coarser grid.

The points of a grid of n cells over [0, 1] are the cell centres (i + ½)/n, i = 0 … n − 1, on every level; the centres
of a coarse grid are therefore no subset of the fine ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from accelerator.errors import ConfigError, DataError, did_you_mean

Method = Literal["area", "spectral"]
METHODS: tuple[Method, ...] = ("area", "spectral")

_POOLS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def coarsen_grid(x: Tensor, shape: Sequence[int], method: Method = "area") -> Tensor:
    """A field on a coarser grid; linear in x, constants and the mean over the grid are kept.

    - ``area``: the mean over each coarse cell, for images and fields of any kind. The coarse grid divides the fine one:
      means over cells cut in two would weigh cells twice or lose the mean.
    - ``spectral``: the Fourier series of a *periodic* field without its frequencies |k| ≥ m/2 along a direction of m
      cells, at the coarse cell centres. A field without such frequencies is reproduced exactly there; in one that has
      them, or that is not periodic, they are cut off without aliasing, and jumps ring (Gibbs).

    Periodic samples at the nodes i/n may be passed too: coarse samples then lie at (j + ½)/m − ½/n, the same points for
    every field, so that a translation-invariant operator between fields remains the same.

    Args:
        x: (…, n₁, …, n_d), floating; leading dimensions (batch, channels) are kept.
        shape: (m₁, …, m_d), d = 1, 2 or 3, with m ≤ n.
        method: ``area`` or ``spectral``.

    Returns:
        (…, m₁, …, m_d), of x's type; ``spectral`` computes half precision in single.

    Raises:
        ConfigError: the grid is finer than x's or, for ``area``, does not divide it.
    """
    return _cell_means(x, shape) if method == "area" else _truncated(x, shape)


class GridSampling:
    """Which grid each level has, and a batch of the finest level on the grid of any level.

    Resampled is every floating tensor of three or more dimensions whose last ones are the finest grid, so (B, C, n, m)
    and (B, n, m), in inputs and targets alike; class labels, vectors and tokens pass as they are.

    Args:
        example_input: a batch as the model is called with; the grid is what follows (B, C) in its first floating tensor
            of three to five dimensions.
        levels: how many, the finest included.
        factor: by which every direction is divided from a level to the next coarser one.
        grids: instead of `factor`: the cells of each level below the finest, finest first; one number for all
            directions or one for each.
        method: ``area`` or ``spectral``; see `coarsen_grid`.

    Attributes:
        grids: the cells of each level, finest first.

    Raises:
        ConfigError: an option is out of range, the input has no grid, or the grid cannot be coarsened so.
    """

    def __init__(
        self,
        example_input: Any,
        levels: int,
        *,
        factor: int = 2,
        grids: Sequence[int | Sequence[int]] | None = None,
        method: Method = "area",
    ) -> None:
        if method not in METHODS:
            raise ConfigError(f"resolution: method='{method}' is unknown{did_you_mean(method, METHODS)}")
        fine = _grid_of(example_input)
        self.grids = _divided(fine, levels, factor) if grids is None else _stated(fine, levels, grids, method)
        self.method: Method = method

    def __repr__(self) -> str:
        sizes = " → ".join("×".join(map(str, grid)) for grid in self.grids)
        return f"{type(self).__name__}({sizes}, method={self.method})"

    def resample(self, level: int, batch: Any) -> Any:
        """A batch of the finest level (a tensor, or tensors in lists, tuples and dicts) on the grid of a level.

        On level 0 it is the same object.

        Raises:
            DataError: a tensor of whole numbers lies on the grid (a label map): its values cannot be averaged.
        """
        if level == 0:
            return batch
        if isinstance(batch, Tensor):
            return self._coarse(batch, self.grids[level])
        return tree_map(lambda leaf: self._coarse(leaf, self.grids[level]), batch)

    def level_batch(self, level: int, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Inputs and targets on the grid of a level; see `resample`."""
        return self.resample(level, inputs), self.resample(level, targets)

    def _coarse(self, x: Any, grid: tuple[int, ...]) -> Any:
        if not isinstance(x, Tensor) or x.dim() < 3 or x.shape[-len(grid) :] != self.grids[0]:
            return x
        if not x.is_floating_point():
            raise DataError(
                f"resolution: a batch holds a tensor of shape {list(x.shape)} and type {str(x.dtype)[6:]} on the grid "
                f"{_words(self.grids[0])}; only floating fields can be resampled: give it as class probabilities, or "
                "train without the resolution axis"
            )
        return coarsen_grid(x, grid, self.method)


def _cell_means(x: Tensor, shape: Sequence[int]) -> Tensor:
    dimensions = len(shape)
    cells = []
    for n, m in zip(x.shape[-dimensions:], shape, strict=True):
        if n % m:
            raise ConfigError(f"cannot take means of {n} cells on {m}: take a divisor, or method='spectral'")
        cells.append(n // m)
    pool = _POOLS[dimensions - 1]
    if dimensions < x.dim() <= dimensions + 2:
        return pool(x, cells)
    leading = x.shape[:-dimensions]
    return pool(x.reshape(-1, *x.shape[-dimensions:]), cells).view(*leading, *shape)


def _truncated(x: Tensor, shape: Sequence[int]) -> Tensor:
    half = x.dtype in (torch.float16, torch.bfloat16)
    y = x.float() if half else x
    for dim, m in zip(range(-len(shape), 0), shape, strict=True):
        if (n := y.shape[dim]) < m:
            raise ConfigError(f"cannot coarsen {n} cells to {m}")
        if n != m:
            shift = _shift(n, m, y.dtype.to_complex(), y.device)
            spectrum = torch.fft.rfft(y, dim=dim, norm="forward").narrow(dim, 0, len(shift))
            # irfft fills up with zeros, the frequency m/2 among them, which the coarse grid holds only in part.
            y = torch.fft.irfft(spectrum * shift.view(-1, *[1] * (-dim - 1)), n=m, dim=dim, norm="forward")
    return y.to(x.dtype) if half else y


@lru_cache(maxsize=64)
def _shift(n: int, m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """exp(iπk(1/m − 1/n)) for 0 ≤ k < m/2: from phases at the first fine cell's centre to those at the coarse one's."""
    with torch.inference_mode(False):
        k = torch.arange((m + 1) // 2, dtype=torch.float64)
        return torch.polar(torch.ones_like(k), math.pi * (1 / m - 1 / n) * k).to(device=device, dtype=dtype)


def _grid_of(example_input: Any) -> tuple[int, ...]:
    tensors = [leaf for leaf in tree_leaves(example_input) if isinstance(leaf, Tensor)]
    for tensor in tensors:
        if 3 <= tensor.dim() <= 5 and tensor.is_floating_point():
            return tuple(tensor.shape[2:])
    shapes = ", ".join(f"{list(tensor.shape)} {str(tensor.dtype)[6:]}" for tensor in tensors)
    raise ConfigError(
        f"resolution: the inputs ({shapes or 'no tensors'}) have no grid: floating fields or images "
        "(batch, channels, n[, m[, l]]) are needed; leave the resolution axis out"
    )


def _divided(fine: tuple[int, ...], levels: int, factor: int) -> tuple[tuple[int, ...], ...]:
    if levels < 2 or factor < 2:
        raise ConfigError(f"resolution: levels={levels} and factor={factor} must both be at least 2")
    grids = [fine]
    for level in range(1, levels):
        if any(n % factor or n // factor < 2 for n in grids[-1]):
            remedy = f"levels={level}, another factor, " if level > 1 else "another factor "
            raise ConfigError(
                f"resolution: the grid {_words(grids[-1])} of level {level - 1} cannot be divided by factor={factor} "
                f"into 2 cells or more; ask for {remedy}or name the cells of each level"
            )
        grids.append(tuple(n // factor for n in grids[-1]))
    return tuple(grids)


def _stated(
    fine: tuple[int, ...], levels: int, grids: Sequence[int | Sequence[int]], method: Method
) -> tuple[tuple[int, ...], ...]:
    found = [(grid,) * len(fine) if isinstance(grid, int) else tuple(grid) for grid in grids]
    problems = []
    if levels < 2 or len(found) != levels - 1:
        problems.append(f"resolution: levels={levels} needs {max(levels - 1, 1)} coarse grids, not {len(found)}")
    for finer, grid in zip([fine, *found], found, strict=False):
        if len(grid) != len(fine):
            problems.append(
                f"resolution: the grid {_words(grid)} needs {len(fine)} numbers, as the data's {_words(fine)}"
            )
        elif min(grid) < 2:
            problems.append(f"resolution: the grid {_words(grid)} needs at least 2 cells in each direction")
        elif grid == finer or any(m > n for m, n in zip(grid, finer, strict=False)):
            problems.append(
                f"resolution: the grid {_words(grid)} is not coarser than {_words(finer)}, the next finer one"
            )
        elif method == "area" and any(n % m for m, n in zip(grid, fine, strict=True)):
            problems.append(
                f"resolution: the grid {_words(grid)} does not divide the data's {_words(fine)}; take divisors, or "
                "method='spectral' for periodic fields"
            )
    if problems:
        raise ConfigError(problems)
    return (fine, *found)


def _words(grid: Sequence[int]) -> str:
    return "×".join(map(str, grid)) + (" cells" if len(grid) == 1 else "")
