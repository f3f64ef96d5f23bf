import numpy as np
import pytest

from domain.physics.data.diffusion import boundary_flux, solve

PI = np.pi


def centres(n):
    points = (np.arange(n) + 0.5) / n
    return np.meshgrid(points, points, indexing="ij")


def manufactured(n):
    """u = sin(πx) sin(2πy) + xy² with κ = 1 + x + y² sin(3x)/2; f and all else by hand.

    Returns κ, f, u at the centres, u on the four sides, −κ ∂u/∂n on the four sides.
    """

    def kappa(x, y):
        return 1 + x + 0.5 * y**2 * np.sin(3 * x)

    def u(x, y):
        return np.sin(PI * x) * np.sin(2 * PI * y) + x * y**2

    def ux(x, y):
        return PI * np.cos(PI * x) * np.sin(2 * PI * y) + y**2

    def uy(x, y):
        return 2 * PI * np.sin(PI * x) * np.cos(2 * PI * y) + 2 * x * y

    x, y = centres(n)
    laplacian = -5 * PI**2 * np.sin(PI * x) * np.sin(2 * PI * y) + 2 * x
    kx, ky = 1 + 1.5 * y**2 * np.cos(3 * x), y * np.sin(3 * x)
    f = -(kappa(x, y) * laplacian + kx * ux(x, y) + ky * uy(x, y))
    s, zero, one = x[:, 0], np.zeros(n), np.ones(n)
    boundary = np.stack([u(zero, s), u(one, s), u(s, zero), u(s, one)])
    outward = np.stack(
        [
            kappa(zero, s) * ux(zero, s),
            -kappa(one, s) * ux(one, s),
            kappa(s, zero) * uy(s, zero),
            -kappa(s, one) * uy(s, one),
        ]
    )
    return kappa(x, y), f, u(x, y), boundary, outward


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def test_the_solution_converges_with_order_two():
    errors = []
    for n in (16, 32, 64, 128):
        kappa, f, u, boundary, _ = manufactured(n)
        errors.append(np.sqrt(np.mean((solve(kappa, f, boundary) - u) ** 2)))
    assert np.all((orders(errors) > 1.9) & (orders(errors) < 2.1)), orders(errors)
    assert errors[-1] < 1e-4


def test_the_boundary_flux_converges_to_minus_kappa_times_the_normal_derivative():
    errors = []
    for n in (16, 32, 64, 128):
        kappa, f, _, boundary, outward = manufactured(n)
        flux = boundary_flux(kappa, solve(kappa, f, boundary), boundary)
        errors.append(np.abs(flux - outward).mean())
    assert np.all(orders(errors) > 0.9), orders(errors)  # first order: one-sided differences, κ of the cell


def rough_kappa(n, seed):
    return np.exp(2 * np.random.default_rng(seed).standard_normal((n, n)))


@pytest.mark.parametrize("seed", range(5))
def test_what_flows_out_is_what_is_produced_to_rounding(seed):
    n = 24
    kappa, f = rough_kappa(n, seed), np.random.default_rng(seed + 100).standard_normal((n, n))
    produced, leaving = f.mean(), boundary_flux(kappa, solve(kappa, f)).mean(axis=1).sum()
    assert leaving == pytest.approx(produced, abs=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_balances_its_fluxes_under_harmonic_averages(seed):
    n = 6
    kappa = rough_kappa(n, seed)
    u = solve(kappa, 3.0, 0.5)
    padded = np.pad(u, 1, constant_values=0.5)
    for i in range(n):
        for j in range(n):
            outflow = 0.0
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                inside = 0 <= i + di < n and 0 <= j + dj < n
                conductance = 2 / (1 / kappa[i, j] + 1 / kappa[i + di, j + dj]) if inside else 2 * kappa[i, j]
                outflow += conductance * (u[i, j] - padded[1 + i + di, 1 + j + dj])
            assert outflow == pytest.approx(3.0 / n**2, abs=1e-12)


def test_the_peak_of_the_unit_membrane_is_the_tabulated_one():
    u = solve(np.ones((129, 129)))
    assert u[64, 64] == pytest.approx(0.0736713, abs=1e-5)  # Timoshenko's torsion of a square bar


def test_sides_are_west_east_south_north():
    n = 8
    kappa = np.ones((n, n))
    source = np.zeros((n, n))
    for side, cell in enumerate([(0, 4), (-1, 4), (4, 0), (4, -1)]):
        placed = source.copy()
        placed[cell] = 1.0
        assert boundary_flux(kappa, solve(kappa, placed)).mean(axis=1).argmax() == side


def test_without_source_the_boundary_value_fills_the_square():
    np.testing.assert_allclose(solve(rough_kappa(12, 0), 0.0, 2.5), 2.5, rtol=1e-12)
