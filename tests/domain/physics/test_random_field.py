import numpy as np
import pytest
from scipy.optimize import brentq

from accelerator.errors import ConfigError
from domain.physics.data.random_field import karhunen_loeve, standard_normal

KERNELS = {
    "exponential": lambda dx, dy, length: np.exp(-(np.abs(dx) + np.abs(dy)) / length),
    "gaussian": lambda dx, dy, length: np.exp(-(dx**2 + dy**2) / (2 * length**2)),
}


@pytest.mark.parametrize("covariance", KERNELS)
def test_all_terms_together_have_the_covariance_exactly(covariance):
    n, length = 6, 0.4
    modes = karhunen_loeve(n, n * n, covariance=covariance, variance=2.5, correlation_length=length)
    points = (np.arange(n) + 0.5) / n
    dx = points[:, None, None, None] - points[None, None, :, None]
    dy = points[None, :, None, None] - points[None, None, None, :]
    expected = 2.5 * KERNELS[covariance](dx, dy, length)
    np.testing.assert_allclose(np.einsum("kab,kcd->abcd", modes, modes), expected, atol=1e-12)


def test_the_largest_eigenvalues_are_those_of_the_continuous_operator():
    # One direction, exponential kernel on an interval of half-width a: λ = 2ℓ/(1 + ℓ²ω²) with 1 = ℓω tan(aω) for the
    # even and ℓω = −tan(aω) for the odd eigenfunctions (Ghanem, Spanos, Stochastic Finite Elements, 1991, §2.3.3).
    length, a = 0.3, 0.5
    even = brentq(lambda w: 1 - length * w * np.tan(a * w), 1e-9, np.pi - 1e-9)
    odd = brentq(lambda w: length * w + np.tan(a * w), np.pi + 1e-9, 2 * np.pi)
    first, second = (2 * length / (1 + (length * w) ** 2) for w in (even, odd))
    modes = karhunen_loeve(128, 4, correlation_length=length)
    eigenvalues = (modes**2).mean(axis=(1, 2))
    np.testing.assert_allclose(eigenvalues[:3], [first**2, first * second, first * second], rtol=1e-3)


def test_modes_are_orthogonal_and_ordered():
    modes = karhunen_loeve(16, 40).reshape(40, -1)
    gram = modes @ modes.T
    eigenvalues = np.diag(gram)
    np.testing.assert_allclose(gram, np.diag(eigenvalues), atol=1e-10)
    assert np.all(np.diff(eigenvalues) < 1e-12)


def test_more_terms_extend_an_expansion():
    assert np.array_equal(karhunen_loeve(16, 50)[:20], karhunen_loeve(16, 20))


def test_the_same_coefficients_give_the_same_field_on_a_finer_grid():
    coarse, fine = karhunen_loeve(16, 10), karhunen_loeve(64, 10)
    averaged = fine.reshape(10, 16, 4, 16, 4).mean(axis=(2, 4))
    assert np.abs(averaged - coarse).max() < 0.03 * np.abs(coarse).max()


def test_coefficients_are_independent_standard_normal():
    xi = np.stack([standard_normal(5, seed=0, split=0, sample=i) for i in range(4000)])
    # Five standard errors.
    assert np.abs(xi.mean(axis=0)).max() < 5 / 4000**0.5
    assert np.abs(np.cov(xi.T) - np.eye(5)).max() < 5 * (2 / 4000) ** 0.5


def test_coefficients_depend_on_seed_split_and_sample_alone():
    one = standard_normal(8, seed=1, split=2, sample=3)
    assert np.array_equal(one, standard_normal(8, seed=1, split=2, sample=3))
    assert np.array_equal(one[:5], standard_normal(5, seed=1, split=2, sample=3))
    for other in ({"seed": 0}, {"split": 3}, {"sample": 2}):
        assert not np.intersect1d(one, standard_normal(8, **({"seed": 1, "split": 2, "sample": 3} | other))).size


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"terms": 17}, r"kl_terms=17: a 4×4 grid has between 1 and 16"),
        ({"covariance": "gausian"}, "unknown covariance 'gausian' — did you mean 'gaussian'"),
        ({"variance": 0.0}, r"variance=0\.0 and .* must be positive"),
        ({"correlation_length": -1.0}, r"correlation_length=-1\.0 must be positive"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        karhunen_loeve(4, knobs.pop("terms", 2), **knobs)


def test_modes_are_signed_to_be_positive_at_the_first_cell():
    # LAPACK leaves the sign open; without a rule the same coefficients would mean another problem elsewhere.
    assert all((karhunen_loeve(n, 20)[:, 0, 0] > 0).all() for n in (8, 16, 31, 32))
