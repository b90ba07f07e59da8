"""Transport distances against assignment, quantiles and scipy, their potentials, and their errors against simulated spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import gamma
from scipy.stats import chi2, norm, wasserstein_distance

from gebm_cli.core.divergences import transport
from gebm_cli.core.divergences.transport import sinkhorn_divergence, sliced_wasserstein1, wasserstein1

SOLVERS = {
    "w1": wasserstein1,
    "sliced-w1": lambda x, y: sliced_wasserstein1(x, y, torch.Generator().manual_seed(3), 20),
    "sinkhorn": sinkhorn_divergence,
}


def _normal(n, generator, d=2, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def _by_assignment(x, y):
    """W1 of n and m rows as the assignment of lcm(n, m) repeated rows."""
    common = math.lcm(len(x), len(y))
    costs = cdist(np.repeat(x, common // len(x), 0), np.repeat(y, common // len(y), 0))
    return costs[linear_sum_assignment(costs)].mean()


def _by_quantiles(x, y):
    """The integral over u in (0, 1) of |F^-1(u) - G^-1(u)|, both step functions, at the middles of a grid that both jump on."""
    common = math.lcm(len(x), len(y))
    u = (np.arange(common) + 0.5) / common
    inverse = [np.sort(side)[np.floor(u * len(side)).astype(int)] for side in (x, y)]
    return np.abs(inverse[0] - inverse[1]).mean()


@pytest.mark.parametrize("sizes", [(12, 12), (9, 14), (20, 5), (1, 7), (3, 1)])
def test_w1_on_a_line_is_the_quantile_formula(sizes, generator):
    """And scipy's, with ties within and between the samples."""
    x, y = (_normal(n, generator, 1, shift=s).mul_(4).round_() / 4 for n, s in zip(sizes, (0.0, 0.3)))
    found = wasserstein1(x, y).value
    assert found == pytest.approx(_by_quantiles(x[:, 0].numpy(), y[:, 0].numpy()), abs=1e-14)
    assert found == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), abs=1e-14)


@pytest.mark.parametrize("sizes", [(15, 15), (12, 8), (9, 6), (1, 4)])
@pytest.mark.parametrize("d", [2, 5, 100])
def test_w1_is_the_best_assignment(sizes, d, generator):
    x, y = _normal(sizes[0], generator, d), _normal(sizes[1], generator, d, 0.4, 1.5)
    found = wasserstein1(x, y)
    assert found.value == pytest.approx(_by_assignment(x.numpy(), y.numpy()), rel=1e-12)
    assert abs(found.settings["duality_gap"]) < 1e-12


@pytest.mark.parametrize("d", [1, 2, 5, 100])
def test_w1_of_a_translate_is_the_length_of_the_shift(d, generator):
    x = _normal(60, generator, d)
    shift = _normal(1, generator, d)
    assert wasserstein1(x, x + shift).value == pytest.approx(shift.norm().item(), rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_potential_is_lipschitz_and_attains_w1(d, generator):
    """So the value is a lower bound by duality, whatever the solver did; with the assignment above it is W1."""
    x, y, t = _normal(25, generator, d), _normal(40, generator, d, 0.5, 0.6), _normal(50, generator, d, scale=3.0)
    found = wasserstein1(x, y)
    assert (found.witness_x.mean() - found.witness_y.mean()).item() == pytest.approx(found.value, rel=1e-12)
    points, f = torch.cat([x, y, t]), torch.cat([found.witness_x, found.witness_y, found.field.value(t)])
    excess = (f[:, None] - f).abs() - torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    assert excess.max() < 1e-12
    assert torch.allclose(found.field.value(torch.cat([x, y])), f[: len(x) + len(y)], atol=1e-12)


def test_the_gradient_of_the_potential_is_its_finite_difference(generator):
    x, y, t = _normal(25, generator), _normal(40, generator, 2, 0.5), _normal(30, generator)
    field, step = wasserstein1(x, y).field, 1e-6
    value, grad = field.value_and_grad(t)
    assert torch.equal(value, field.value(t)) and torch.allclose(grad.norm(dim=1), torch.ones(30).double())
    for axis in range(2):
        move = step * torch.eye(2, dtype=torch.float64)[axis]
        slope = (field.value(t + move) - field.value(t - move)) / (2 * step)
        assert (slope - grad[:, axis]).abs().max() < 1e-5  # none of these points lies on a kink
    on_point = field.value_and_grad(y[:1])[1]
    assert on_point.isfinite().all() and on_point.norm() <= 1 + 1e-12


def test_sliced_w1_of_a_translate_is_its_closed_form(generator):
    """|u.s| in each direction u, so |s| E|u_1| = |s| gamma(d / 2) / (sqrt(pi) gamma((d + 1) / 2)) on average."""
    for d in (2, 3, 10):
        x, shift = _normal(30, generator, d), _normal(1, generator, d)
        found = sliced_wasserstein1(x, x + shift, generator, 2000)
        truth = shift.norm().item() * gamma(d / 2) / (math.sqrt(math.pi) * gamma((d + 1) / 2))
        error = found.settings["directions_error"]
        assert abs(found.value - truth) < 4 * error and error < 0.02 * truth


def test_sliced_w1_is_the_mean_of_w1_over_directions(generator):
    """Of other directions, through scipy, for n != m: within four errors of both means."""
    x, y = _normal(23, generator, 3), _normal(31, generator, 3, 0.7, 1.3)
    found = sliced_wasserstein1(x, y, generator, 500)
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    each = [wasserstein_distance(x.numpy() @ u, y.numpy() @ u) for u in directions]
    error = math.hypot(found.settings["directions_error"], np.std(each) / math.sqrt(500))
    assert abs(found.value - np.mean(each)) < 4 * error and error < 0.05 * found.value
    assert (found.witness_x.mean() - found.witness_y.mean()).item() == pytest.approx(found.value, rel=1e-12)


def test_in_one_dimension_sliced_w1_is_w1(generator):
    x, y = _normal(23, generator, 1), _normal(31, generator, 1, 0.7, 1.3)
    found, exact = sliced_wasserstein1(x, y, generator), wasserstein1(x, y)
    assert found.value == pytest.approx(exact.value, rel=1e-14)
    assert found.standard_error == pytest.approx(exact.standard_error, rel=1e-12)


def test_blocks_of_directions_change_nothing(monkeypatch, generator):
    x, y = _normal(23, generator, 3), _normal(31, generator, 3, 0.7)
    whole = sliced_wasserstein1(x, y, torch.Generator().manual_seed(1), 50)
    told = []
    monkeypatch.setattr(transport, "BLOCK_ENTRIES", 7 * 54)
    begin = lambda what, unit, total: told.append(-total) or told.append  # noqa: E731
    blocked = sliced_wasserstein1(x, y, torch.Generator().manual_seed(1), 50, begin)
    assert told == [-50, 7, 7, 7, 7, 7, 7, 7, 1]
    assert blocked.value == pytest.approx(whole.value, rel=1e-13)
    assert torch.allclose(blocked.witness_x, whole.witness_x, atol=1e-13)


def _entropic(costs, epsilon):
    """The primal value of entropic transport by the plain iteration of Sinkhorn, run far."""
    kernel, n, m = np.exp(-costs / epsilon), *costs.shape
    v = np.ones(m)
    for _ in range(5000):
        u = 1 / n / (kernel @ v)
        v = 1 / m / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return (plan * costs).sum() + epsilon * (plan * np.log(plan * n * m)).sum()


@pytest.mark.parametrize("sizes", [(12, 12), (9, 16)])
def test_sinkhorn_is_its_primal_value_debiased(sizes, generator):
    x, y = _normal(sizes[0], generator), _normal(sizes[1], generator, 2, 0.5, 1.4)
    found = sinkhorn_divergence(x, y, 0.2)
    epsilon = found.settings["epsilon"]
    assert epsilon == pytest.approx(0.2 * torch.cdist(x, y).median().item(), rel=1e-12)
    between, *selves = (_entropic(cdist(a, b), epsilon) for a, b in ((x, y), (x, x), (y, y)))
    assert found.value == pytest.approx(between - sum(selves) / 2, abs=1e-7)
    assert found.settings["marginal_error"] < transport.SINKHORN_TOLERANCE


def test_sinkhorn_lies_between_w1_and_half_the_energy_distance(generator):
    """It tends to W1 as the regularisation goes to 0, and to the V-statistic of half the energy distance as it goes to infinity."""
    x, y = _normal(14, generator), _normal(14, generator, 2, 0.5, 1.4)
    exact = wasserstein1(x, y).value
    misses = [abs(sinkhorn_divergence(x, y, r).value - exact) for r in (0.1, 0.03, 0.01)]
    assert misses[0] > 2 * misses[1] > 4 * misses[2] and misses[2] < 0.01 * exact
    energy = cdist(x, y).mean() - cdist(x, x).mean() / 2 - cdist(y, y).mean() / 2
    assert sinkhorn_divergence(x, y, 1e4).value == pytest.approx(energy, rel=1e-3)


def test_sinkhorn_of_a_sample_with_itself_is_0(generator):
    """Up to the tolerance of the plans; between different samples of one law it is positive."""
    x = _normal(50, generator)
    assert abs(sinkhorn_divergence(x, x.clone()).value) < 1e-7
    assert sinkhorn_divergence(x, _normal(50, generator)).value > 1e-3


def test_the_error_of_sinkhorn_is_that_of_the_jackknife(generator):
    x, y = _normal(40, generator), _normal(30, generator, 2, 0.8)
    found = sinkhorn_divergence(x, y)
    regularisation = found.settings["epsilon"]

    def at(a, b):
        return sinkhorn_divergence(a, b, regularisation / torch.cdist(a, b).median().item()).value

    drop = lambda side, i: torch.cat([side[:i], side[i + 1 :]])  # noqa: E731
    of_x = np.var([at(drop(x, i), y) for i in range(40)]) * 39
    of_y = np.var([at(x, drop(y, j)) for j in range(30)]) * 29
    assert found.standard_error == pytest.approx(math.sqrt(of_x + of_y), rel=0.05)


def _spread_and_error(solve, repetitions, n, m, d, shift, scale):
    """Values and squared errors over simulated pairs of samples."""
    generator = torch.Generator().manual_seed(11)
    found = [
        solve(_normal(n, generator, d), _normal(m, generator, d, shift, scale), generator) for _ in range(repetitions)
    ]
    return np.array([f.value for f in found]), np.array([f.standard_error**2 for f in found])


def _assert_same_variance(values, squared_errors):
    """The spread over repetitions against the mean squared error: their ratio is chi-squared to a first order."""
    k = len(values) - 1
    ratio = values.var(ddof=1) / squared_errors.mean()
    low, high = chi2.ppf([1e-4, 1 - 1e-4], k) / k
    assert low < ratio < high, (ratio, low, high)


def test_the_error_of_w1_on_a_line_is_its_spread():
    """And the value lies about the integral of |F - G|."""
    values, errors = _spread_and_error(lambda x, y, g: wasserstein1(x, y), 400, 150, 250, 1, 1.0, 1.3)
    truth = quad(lambda t: abs(norm.cdf(t) - norm.cdf(t, 1.0, 1.3)), -12, 12, limit=500)[0]
    _assert_same_variance(values, errors)
    assert abs(values.mean() - truth) < 4 * math.sqrt(errors.mean() / 400) + 0.01 * truth


def test_the_error_of_w1_in_the_plane_is_its_spread_and_its_bias_is_upward():
    """The expected distance between samples is above that of the laws, here that of a translate."""
    values, errors = _spread_and_error(lambda x, y, g: wasserstein1(x, y), 150, 80, 100, 2, 1.0, 1.0)
    _assert_same_variance(values, errors)
    values, errors = _spread_and_error(lambda x, y, g: wasserstein1(x, y), 60, 50, 50, 2, 0.2, 1.0)
    assert (values.mean() - 0.2 * math.sqrt(2)) / math.sqrt(errors.mean() / 60) > 5


@pytest.mark.parametrize("n_projections", [4, 30])
def test_the_error_of_sliced_w1_covers_rows_and_directions(n_projections):
    """With 4 directions they are most of it, with 30 the rows are."""
    solve = lambda x, y, g: sliced_wasserstein1(x, y, g, n_projections)  # noqa: E731
    values, errors = _spread_and_error(solve, 500, 60, 80, 2, 1.0, 1.0)
    _assert_same_variance(values, errors)


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_single_row_has_a_distance_and_no_error(kind):
    x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    found = SOLVERS[kind](x, y)
    assert math.isnan(found.standard_error)
    assert found.value == (pytest.approx(5.0, rel=1e-6) if kind != "sliced-w1" else pytest.approx(5.0, rel=0.7))


@pytest.mark.parametrize("kind", SOLVERS)
def test_constant_samples_are_as_far_as_their_points(kind):
    x, y = torch.zeros(6, 2), torch.tensor([[3.0, 4.0]]).repeat(9, 1)
    found, none = SOLVERS[kind](x, y), SOLVERS[kind](x, torch.zeros(4, 2))
    assert none.value == pytest.approx(0, abs=1e-12) and none.standard_error == pytest.approx(0, abs=1e-12)
    if kind == "sliced-w1":
        assert found.standard_error == found.settings["directions_error"] > 0
    else:
        assert found.value == pytest.approx(5.0, rel=1e-6) and found.standard_error < 1e-12


def test_too_many_rows_are_refused_with_a_remedy():
    for solve, most in ((wasserstein1, transport.MOST_TRANSPORTED), (sinkhorn_divergence, transport.MOST_SINKHORN)):
        with pytest.raises(ValueError, match=f"at most {most:,} rows a side, got {most + 1:,}.*`sliced-w1`"):
            solve(torch.zeros(most + 1, 2), torch.zeros(3, 2))
    assert wasserstein1(torch.zeros(9000, 1), torch.ones(7000, 1)).value == 1.0


@pytest.mark.parametrize("shapes", [((3, 2), (3, 1)), ((0, 2), (3, 2)), ((3,), (3,))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    for solve in SOLVERS.values():
        with pytest.raises(ValueError, match="must be"):
            solve(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("regularisation", [0.0, -1.0, math.inf, math.nan])
def test_sinkhorn_needs_a_positive_regularisation(regularisation):
    with pytest.raises(ValueError, match="regularisation"):
        sinkhorn_divergence(torch.zeros(3, 2), torch.ones(3, 2), regularisation)


@pytest.mark.parametrize("regularisation", [1e-3, 1e-5])
def test_sinkhorn_that_does_not_converge_is_refused_with_the_remedy(regularisation):
    """At 1e-5 the value would be 0.51 where W1 is 1.45; at 0.01 it converges."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator) + 1
    with pytest.raises(ValueError, match="off by .* larger regularisation"):
        sinkhorn_divergence(x, y, regularisation)
    assert sinkhorn_divergence(x, y, 0.01).settings["marginal_error"] < 1e-3
