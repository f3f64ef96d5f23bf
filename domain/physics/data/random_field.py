"""Gaussian random fields on the unit square by a truncated Karhunen–Loève (KL) expansion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelerator.errors import ConfigError, did_you_mean

COVARIANCES = {
    "exponential": lambda distance: np.exp(-np.abs(distance)),
    "gaussian": lambda distance: np.exp(-0.5 * distance**2),
}


def karhunen_loeve(
    grid: int, terms: int, *, covariance: str = "exponential", variance: float = 1.0, correlation_length: float = 0.3
) -> NDArray[np.float64]:
    """The scaled eigenfunctions √λ_k φ_k of a stationary covariance, sampled at the centres of grid × grid cells.

    A field with that covariance is Z(x) = Σ_k ξ_k √λ_k φ_k(x) with independent ξ_k ~ N(0, 1), truncated to the
    ``terms`` largest λ_k. The covariance is the product of one factor for each direction (distances d in units of
    the correlation length ℓ), so that the eigenpairs are products of those of one direction:

    - ``exponential``: σ² exp(−(|x₁−y₁| + |x₂−y₂|)/ℓ), rough fields;
    - ``gaussian``: σ² exp(−|x−y|²/(2ℓ²)), smooth fields.

    The integral operator is discretised by the midpoint rule (Nyström's method): with all ``grid``² terms the variance
    is σ² at every cell exactly, and with fewer terms the fields on two grids are the same field up to
    discretisation, because each one-dimensional eigenfunction is signed to be positive at its first cell.
    Source: Lord, Powell, Shardlow, *An Introduction to Computational Stochastic PDEs* (2014), §7.4.

    Returns:
        (terms, grid, grid), largest variance first; entry [k, i, j] belongs to the point ((i+½)/grid, (j+½)/grid).

    Raises:
        ConfigError: unknown covariance, more terms than cells, or a variance or length that is not positive.
    """
    if covariance not in COVARIANCES:
        raise ConfigError(f"unknown covariance '{covariance}'{did_you_mean(covariance, COVARIANCES)}")
    if not 1 <= terms <= grid**2:
        raise ConfigError(f"kl_terms={terms}: a {grid}×{grid} grid has between 1 and {grid**2} terms")
    if variance <= 0 or correlation_length <= 0:
        raise ConfigError(f"variance={variance} and correlation_length={correlation_length} must be positive")
    points = (np.arange(grid) + 0.5) / grid
    kernel = COVARIANCES[covariance]((points[:, None] - points[None, :]) / correlation_length)
    eigenvalues, vectors = np.linalg.eigh(kernel / grid)
    eigenvalues = np.clip(eigenvalues[::-1], 0.0, None)
    functions = vectors[:, ::-1].T * np.sqrt(grid)
    functions *= np.where(functions[:, :1] < 0, -1.0, 1.0)
    products = np.outer(eigenvalues, eigenvalues)
    # Stable, so that the two orders of an equal pair (λ_i λ_j = λ_j λ_i) come out alike on every machine.
    first, second = np.divmod(np.argsort(-products.ravel(), kind="stable")[:terms], grid)
    scale = np.sqrt(variance * products[first, second])
    return scale[:, None, None] * functions[first][:, :, None] * functions[second][:, None, :]


def standard_normal(terms: int, *, seed: int, split: int, sample: int) -> NDArray[np.float64]:
    """The KL coefficients ξ of one sample, (terms,): a function of (seed, split, sample) alone.

    More terms extend the same sequence; they do not change the first ones.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(split, sample))
    return np.random.default_rng(sequence).standard_normal(terms)
