"""Finite volumes for −∇·(κ∇u) = f on the unit square with Dirichlet values on its boundary. NumPy and SciPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Changes whenever the numbers this module gives change; part of the name of cached data.
SOLVER_VERSION = 1

SIDES = ("west", "east", "south", "north")


def solve(kappa: NDArray[np.float64], source: ArrayLike = 1.0, boundary: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Solve −∇·(κ∇u) = f by cell-centred, conservative finite volumes and a sparse direct solver.

    Cell (i, j) of the n×n grid is centred at x = ((i+½)h, (j+½)h), h = 1/n. The flux between neighbours a and b is
    T (u_a − u_b) with the harmonic average T = 2κ_aκ_b/(κ_a+κ_b); the flux out through a boundary face is
    2κ (u − g), over half a cell. Second order for smooth κ; what leaves one cell enters its neighbour exactly.
    Source: Eymard, Gallouët, Herbin, "Finite Volume Methods", Handbook of Numerical Analysis VII (2000), §11.

    Args:
        kappa: κ > 0 at the cell centres, (n, n).
        source: f at the cell centres, (n, n) or a constant.
        boundary: u on the faces of each side (see `boundary_flux`), (4, n) or a constant.

    Returns:
        u at the cell centres, (n, n).
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    n = kappa.shape[0]
    assert kappa.shape == (n, n), f"kappa must be square, not {kappa.shape}"
    across = np.zeros((n, n))  # between (i, j) and (i+1, j); the last row stays zero
    across[:-1] = _harmonic_mean(kappa[:-1], kappa[1:])
    along = np.zeros((n, n))  # between (i, j) and (i, j+1); the last column stays zero
    along[:, :-1] = _harmonic_mean(kappa[:, :-1], kappa[:, 1:])

    diagonal = across + along
    diagonal[1:] += across[:-1]
    diagonal[:, 1:] += along[:, :-1]
    right_hand_side = np.broadcast_to(np.asarray(source, dtype=np.float64) / n**2, (n, n)).copy()
    values = np.broadcast_to(np.asarray(boundary, dtype=np.float64), (4, n))
    for face, value in zip(_BOUNDARY_CELLS, values, strict=True):
        diagonal[face] += 2 * kappa[face]
        right_hand_side[face] += 2 * kappa[face] * value

    lower, upper = -along.ravel()[:-1], -across.ravel()[:-n]
    matrix = diags_array(
        [upper, lower, diagonal.ravel(), lower, upper],
        offsets=[-n, -1, 0, 1, n],  # pyright: ignore[reportArgumentType]
        shape=(n * n, n * n),
        format="csc",
    )
    # Symmetric positive definite: no pivoting, and an ordering of the pattern of A + Aᵀ.
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factor.solve(right_hand_side.ravel()).reshape(n, n)


def boundary_flux(
    kappa: NDArray[np.float64], solution: NDArray[np.float64], boundary: ArrayLike = 0.0
) -> NDArray[np.float64]:
    """The outward normal flux density −κ ∂u/∂n on every boundary face, (4, n).

    Row s is the side `SIDES` [s]: west (x₁=0), east (x₁=1), south (x₂=0), north (x₂=1); the faces of a side run with
    the other coordinate. The mean of a row is the total flux through that side; the four means sum to ∫f exactly.
    """
    n = kappa.shape[0]
    values = np.broadcast_to(np.asarray(boundary, dtype=np.float64), (4, n))
    return np.stack(
        [2 * n * kappa[face] * (solution[face] - value) for face, value in zip(_BOUNDARY_CELLS, values, strict=True)]
    )


_BOUNDARY_CELLS = (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1])


def _harmonic_mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * a * b / (a + b)
