"""Kernel KALE against scalar equations, other optimisers, both of its limits, and what theory says of it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from scipy.stats import norm, wasserstein_distance

from gebm_cli.core.divergences import kernel_kale
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.kernels import EnergyDistance, Exponential, Gaussian, Laplace, Polynomial, RationalQuadratic

ALL_LAMS = [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6]
TIGHT = 1e-13


def _normal(n, generator, mean=0.0, scale=1.0, dim=2):
    return mean + scale * torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _solve(x, y, kernel=Gaussian(1.0), lam=0.1, **options):
    return KaleProblem(y, kernel, lam).solve(x, **options)


def _column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def _primal(found, x, y, kernel):
    """(1 + lam) [1 + mean_P h - mean_Q exp(h) - (lam / 2) |h|^2] of the field, |h|^2 from one matrix of the pooled sample."""
    pooled, lam = torch.cat([x, y]), found.regularisation
    weights = torch.cat([x.new_full((len(x),), 1 / (len(x) * lam)), -found.log_ratio.exp() / (len(y) * lam)])
    norm2 = weights @ kernel(pooled, pooled) @ weights
    h_x, h_y = found.field.value(x), found.field.value(y)
    return (1 + lam) * (1 + h_x.mean() - h_y.exp().mean() - 0.5 * lam * norm2).item()


# --- exact answers


@pytest.mark.parametrize("lam", ALL_LAMS)
@pytest.mark.parametrize("distance", [0.3, 2.0, 50.0])
def test_two_point_masses_are_a_scalar_equation(lam, distance):
    """n = m = 1: v + (e^v - k) / lam = 0, and the value follows; the standard error does not exist."""
    k = math.exp(-(distance**2) / 2)
    v = brentq(lambda v: v + (math.exp(v) - k) / lam, -50, 50, xtol=1e-14)
    a = math.exp(v)
    expected = (1 + lam) * (a * v - math.expm1(v) + (1 - 2 * a * k + a * a) / (2 * lam))
    found = _solve(_column(0.0), _column(distance), lam=lam, tolerance=TIGHT)
    assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.log_ratio.item() == pytest.approx(v, abs=2e-7 * (1 + lam**-0.5))
    assert math.isnan(found.standard_error)


@pytest.mark.parametrize("lam", [1e-5, 1e-3, 0.1, 10.0])
def test_atoms_far_apart_are_independent_scalar_equations(lam):
    """Under an identity-like kernel each atom has p - q e^h - lam h = 0, |h|^2 = sum h^2; atoms of P alone and Q alone too."""
    x, y = _column(0, 0, 0, 100, 100, 200, 300), _column(0, 100, 100, 100, 200, 400, 400)
    p, q = np.array([3, 2, 1, 1, 0]) / 7, np.array([1, 3, 1, 0, 2]) / 7
    h = np.array(
        [
            brentq(lambda t, i=i: p[i] - q[i] * math.exp(t) - lam * t, -1e7, 700) if q[i] else p[i] / lam
            for i in range(5)
        ]
    )
    expected = (1 + lam) * (1 + p @ h - q @ np.exp(np.where(q > 0, h, 0)) - 0.5 * lam * (h @ h))
    found = _solve(x, y, lam=lam, tolerance=TIGHT)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.field.value(_column(0, 100, 200, 300, 400)).numpy() == pytest.approx(h, rel=1e-5, abs=1e-4)


def test_small_regularisation_gives_the_discrete_kl():
    """P << Q on atoms that the kernel separates: the limit is KL(P || Q), reached at the rate lam."""
    x, y = _column(0, 0, 0, 100, 100, 200), _column(0, 100, 100, 200, 200, 200)
    kl = math.log(3) * 3 / 6 + math.log(1) * 2 / 6 + math.log(1 / 3) * 1 / 6
    errors = [_solve(x, y, lam=lam, tolerance=TIGHT).value - kl for lam in (1e-4, 1e-5)]
    assert abs(errors[1]) < 1e-4
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("kernel", [Gaussian(1.0), Laplace(1.5), EnergyDistance(), Polynomial(2)])
def test_large_regularisation_gives_half_the_biased_mmd2(kernel, generator):
    """lam -> infinity: MMD^2 / 2 of the V-statistic, at the rate 1 / lam."""
    x, y = _normal(30, generator, 0.4), _normal(40, generator, scale=1.3)
    mmd2 = (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()).item()
    errors = [_solve(x, y, kernel, lam, tolerance=1e-11).value - mmd2 / 2 for lam in (1e3, 1e4)]
    assert abs(errors[1]) < 1e-2 * mmd2
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


# --- other optimisers


@pytest.mark.parametrize("lam", [0.03, 1.0])
@pytest.mark.parametrize("kernel", [Gaussian(0.8), Exponential(1.0), RationalQuadratic(linear=0.5)])
def test_other_optimisers_find_the_same_value(kernel, lam, generator):
    """L-BFGS on the primal over all functions in the span, and on the dual, both of which know nothing of our code."""
    x, y = _normal(9, generator, 0.5), _normal(13, generator)
    pooled, k_yy = torch.cat([x, y]), kernel(y, y).numpy()
    factor = np.linalg.cholesky(kernel(pooled, pooled).numpy() + 1e-13 * np.eye(22))

    def primal(beta):
        h = factor @ beta
        slope = np.concatenate([np.full(9, 1 / 9), -np.exp(h[9:]) / 13])
        value = 1 + h[:9].mean() - np.exp(h[9:]).mean() - 0.5 * lam * beta @ beta
        return -value, -(factor.T @ slope - lam * beta)

    mu_y, norm2 = kernel(y, x).mean(1).numpy(), kernel(x, x).mean().item()

    def dual(v):
        a = np.exp(v) / 13
        value = a @ v - a.sum() + 1 + (norm2 - 2 * a @ mu_y + a @ k_yy @ a) / (2 * lam)
        return value, a * (v - (mu_y - k_yy @ a) / lam)

    below = -minimize(
        primal, np.zeros(22), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 9999}
    ).fun
    above = minimize(
        dual, np.zeros(13), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 9999}
    ).fun
    found = _solve(x, y, kernel, lam, tolerance=1e-12)
    assert found.value / (1 + lam) == pytest.approx(below, abs=2e-8)
    assert found.value / (1 + lam) == pytest.approx(above, abs=2e-8)


@pytest.mark.parametrize("lam", [0.02, 1.0, 1e3])
def test_coordinate_descent_agrees_with_newton(lam, generator):
    """Two solvers that share nothing but the dual find the same h, each with its certificate."""
    x, y = _normal(25, generator, 1.0), _normal(20, generator)
    newton, sweeps = (_solve(x, y, lam=lam, solver=s, tolerance=1e-12) for s in ("newton", "coordinate-descent"))
    assert max(newton.duality_gap, sweeps.duality_gap) <= 1e-12
    assert sweeps.value == pytest.approx(newton.value, abs=4e-12)
    assert sweeps.log_ratio.numpy() == pytest.approx(newton.log_ratio.numpy(), abs=1e-4)
    assert sweeps.iterations > 0 and newton.iterations > 0


def test_conjugate_gradients_and_cholesky_lead_to_the_same_end(generator, monkeypatch):
    """Both ways of solving for the Newton direction, each alone."""
    x, y = _normal(60, generator, 1.0), _normal(50, generator)
    products, factor = KaleProblem(y, Gaussian(1.0), 0.05), KaleProblem(y, Gaussian(1.0), 0.05)
    products._gram.patience, factor._gram.patience = 1000, 0
    monkeypatch.setattr(products._gram, "solve", None)
    first, second = products.solve(x, tolerance=1e-11), factor.solve(x, tolerance=1e-11)
    assert first.iterations == second.iterations
    assert first.value == pytest.approx(second.value, abs=2e-11)


# --- the certificate, everywhere


def _samples(name, generator):
    base = _normal(24, generator)
    return {
        "overlapping": (_normal(31, generator, 0.3), base),
        "disjoint": (_normal(20, generator, scale=0.1) + 3, 0.1 * base),
        "far apart": (base[:13] + 1e3, base),
        "equal": (base, base.flip(0)),
        "duplicates": (base[:3].repeat(5, 1), base[2:6].repeat(4, 1)),
        "one x": (base[:1], base[1:]),
        "one y": (base[1:], base[:1]),
        "a point and itself": (base[:1].repeat(4, 1), base[:1].repeat(3, 1)),
        "rings on a blob": (torch.tensor([0.0, -0.3]) + 0.01 * base, 3 * base),
    }[name]


NAMES = [
    "overlapping",
    "disjoint",
    "far apart",
    "equal",
    "duplicates",
    "one x",
    "one y",
    "a point and itself",
    "rings on a blob",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_is_solved_to_its_gap(name, generator):
    """Any samples, kernel and lam in 1e-6 .. 1e6: gap <= 1e-8, cold, warm from the next lam, and from nonsense."""
    x, y = _samples(name, generator)
    for kernel in (Gaussian(1.0), Gaussian(0.1), Exponential(1.0)):
        before = None
        for lam in ALL_LAMS:
            problem = KaleProblem(y, kernel, lam)
            nonsense = 100 * torch.randn(len(y), generator=generator)
            for start in (None, before, nonsense, nonsense * math.nan):
                found = problem.solve(x, start=start)
                assert 0 <= found.duality_gap <= 1e-8, (kernel, lam)
                assert found.iterations <= 100
                assert found.lower == found.value - found.duality_gap
                assert found.value >= 0
                assert math.isfinite(found.value)
            before = found.log_ratio


@pytest.mark.parametrize("lam", [1e-3, 0.1, 10.0, 1e4])
@pytest.mark.parametrize("name", ["overlapping", "disjoint", "duplicates", "one y"])
def test_the_certificate_is_the_gap_to_the_primal_value(name, lam, generator):
    """`lower` is the primal value of the field, also where the search ends long before the optimum; `value` is above the sup."""
    x, y = _samples(name, generator)
    problem = KaleProblem(y, Gaussian(1.0), lam)
    sup = problem.solve(x, tolerance=1e-12)
    for steps in range(4):
        found = problem.solve(x, max_iterations=steps)
        assert found.iterations <= steps
        assert found.lower == pytest.approx(_primal(found, x, y, Gaussian(1.0)), rel=1e-9, abs=1e-9)
        assert found.lower - 1e-9 <= sup.value <= found.value + 1e-9


def test_a_kernel_of_huge_values_is_solved_or_says_that_it_is_not(generator):
    """(x.y / d + 1)^3 at |x| ~ 30, k ~ 7e8: solved. At 300, k ~ 7e14: beyond float64, which the gap shows."""
    noise_x, noise_y = _normal(20, generator), _normal(25, generator)
    solved, lost = (_solve(noise_x + s, noise_y + 0.97 * s, Polynomial(3), 1.0) for s in (30.0, 300.0))
    assert solved.duality_gap <= 1e-8
    assert solved.value > 1
    assert lost.duality_gap > 1 and lost.lower < lost.value


def test_warm_starts_save_iterations(generator):
    """A solve that starts at the solution of a slightly moved sample is shorter, and at its own solution it is over at once."""
    x, y = _normal(80, generator, 1.0), _normal(60, generator)
    problem = KaleProblem(y, Gaussian(1.0), 1e-3)
    cold = problem.solve(x)
    warm = problem.solve(x + 1e-3, start=cold.log_ratio)
    assert warm.iterations < cold.iterations
    assert problem.solve(x, start=cold.log_ratio).iterations == 0


def test_a_start_is_used_only_where_it_is_better_than_zero(generator):
    """A bad start takes exactly the path of v = 0."""
    x, y = _normal(30, generator, 1.0), _normal(20, generator)
    problem = KaleProblem(y, Gaussian(1.0), 0.01)
    cold, bad = problem.solve(x), problem.solve(x, start=torch.full((20,), 30.0))
    assert torch.equal(cold.log_ratio, bad.log_ratio) and cold.iterations == bad.iterations


def test_a_point_of_the_base_without_weight_keeps_its_certificate(generator):
    """v = -800, where exp(v) is 0 in float64: h = 0 there, so the gap is (1 + lam) (e^0 - 0), and the search gets away from it."""
    problem, start = KaleProblem(_column(0.0), Gaussian(1.0), 1e-3), torch.tensor([-800.0])
    stuck, found = problem.solve(_column(50.0), start, max_iterations=0), problem.solve(_column(50.0), start)
    assert stuck.log_ratio.item() == -800
    assert stuck.duality_gap == pytest.approx(1.001, rel=1e-12)
    assert found.duality_gap <= 1e-8
    assert found.log_ratio.item() == pytest.approx(problem.solve(_column(50.0)).log_ratio.item(), abs=1e-3)


# --- what theory says


def test_equal_samples_have_kale_zero_and_others_not(generator):
    """KALE >= 0, zero iff the samples are equal as measures: order and repetition do not count."""
    y = _normal(30, generator)
    for lam in (1e-3, 1.0, 1e3):
        assert _solve(y.flip(0), y, lam=lam).value <= 1e-12
        assert _solve(y.repeat(2, 1), y, lam=lam).value <= 1e-12
        moved = y.clone()
        moved[0] += 0.5
        assert _solve(moved, y, lam=lam, tolerance=1e-12).lower > 1e-6


def test_only_the_empirical_measures_matter(generator):
    """Every point twice changes neither value nor witness, but the standard error by sqrt(2) up to the correction of n - 1."""
    x, y = _normal(20, generator, 0.6), _normal(16, generator)
    once, twice = (_solve(x.repeat(k, 1), y.repeat(k, 1), tolerance=TIGHT) for k in (1, 2))
    assert twice.value == pytest.approx(once.value, abs=1e-11)
    assert twice.log_ratio[:16].numpy() == pytest.approx(once.log_ratio.numpy(), abs=1e-6)
    assert once.standard_error / twice.standard_error == pytest.approx(math.sqrt(2), rel=0.03)


def test_the_penalised_sup_falls_and_is_convex_in_lam(generator):
    """value / (1 + lam) is a sup of functions that fall linearly in lam; its slope is -|h|^2 / 2."""
    x, y = _normal(25, generator, 1.0), _normal(30, generator)
    lams = np.linspace(0.05, 2, 9)
    values = np.array([_solve(x, y, lam=lam, tolerance=1e-11).value / (1 + lam) for lam in lams])
    assert (np.diff(values) < 0).all()
    assert (np.diff(values, 2) > 0).all()


def test_far_supports_have_a_large_finite_value_that_falls_as_they_approach(generator):
    """The smoothie: KL is infinite at every distance but 0, KALE at fixed lam falls to 0 with it."""
    y = _normal(30, generator, scale=0.2)
    shift = torch.tensor([1.0, 0.0], dtype=torch.float64)
    values = [_solve(y + s * shift, y, lam=0.01).value for s in (1e3, 3, 2, 1.5, 1, 0.5, 0.2, 0)]
    assert math.isfinite(values[0]) and values[0] > 10
    assert all(after < before - 1e-3 for before, after in pairwise(values))
    assert values[-1] <= 1e-12


@pytest.mark.parametrize("lam", [0.02, 3.0])
def test_the_gradient_in_the_samples_is_that_of_the_witness(lam, generator):
    """Envelope theorem: d value / d x_i = (1 + lam) grad h(x_i) / n, and d value / d y_j = -(1 + lam) e^h grad h(y_j) / m."""
    x, y = _normal(7, generator, 0.7), _normal(6, generator)
    found, step = _solve(x, y, lam=lam, tolerance=TIGHT), 1e-5
    for which, points in (("x", x), ("y", y)):
        h, gradient = found.field.value_and_grad(points)
        expected = (1 + lam) * (gradient / 7 if which == "x" else -h.exp()[:, None] * gradient / 6)
        for i, c in ((0, 0), (3, 1), (5, 0)):
            ends = []
            for sign in (1, -1):
                moved = points.clone()
                moved[i, c] += sign * step
                pair = (moved, y) if which == "x" else (x, moved)
                ends.append(_solve(*pair, lam=lam, tolerance=TIGHT).value)
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected[i, c].item(), rel=1e-5, abs=1e-7)


def test_kale_is_at_most_the_lipschitz_constant_times_w1(generator):
    """KALE / (1 + lam) <= mean_P h - mean_Q h <= L W1, with L of h on a fine grid; and the bound is not idle."""
    x, y = _normal(60, generator, 0.5, dim=1), _normal(50, generator, dim=1)
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    for lam in (0.01, 0.1, 1.0):
        found = _solve(x, y, lam=lam)
        bound = found.field.value_and_grad(grid)[1].abs().max().item() * wasserstein_distance(x[:, 0], y[:, 0])
        assert 0.05 * bound < found.value / (1 + lam) < bound


def test_gaussians_stay_below_their_kl(generator):
    """value / (1 + lam) <= KL(P || Q) + 3 standard errors; samples at the quantiles stay below it and come near."""
    kl = math.log(1 / 0.8) + (0.8**2 + 0.5**2) / 2 - 0.5
    quantiles = torch.from_numpy(norm.ppf((np.arange(400) + 0.5) / 400))[:, None]
    exact = [_solve(0.5 + 0.8 * quantiles, quantiles, lam=lam) for lam in (0.01, 0.1, 1.0)]
    assert kl > exact[0].value / 1.01 > exact[1].value / 1.1 > exact[2].value / 2
    assert exact[0].value / 1.01 > 0.85 * kl
    x, y = _normal(500, generator, 0.5, 0.8, dim=1), _normal(500, generator, dim=1)
    for lam, truth in zip((0.1, 1.0), exact[1:]):
        found = _solve(x, y, lam=lam)
        assert found.value / (1 + lam) < kl + 3 * found.standard_error / (1 + lam)
        assert abs(found.value - truth.value) < 4 * found.standard_error


@pytest.mark.parametrize("sizes", [(40, 400), (400, 40)])
def test_the_standard_error_is_the_spread_over_data_sets(sizes):
    """Standard deviation of the value over 120 data sets against the mean of the errors reported, at n << m and n >> m."""
    generator, values, errors = torch.Generator().manual_seed(5), [], []
    for _ in range(120):
        found = _solve(_normal(sizes[0], generator, 1.0, 0.7, 1), _normal(sizes[1], generator, dim=1), lam=0.5)
        values.append(found.value)
        errors.append(found.standard_error)
    spread = np.std(values, ddof=1)  # known to 1 / sqrt(2 * 119) = 6.5 %
    assert np.mean(errors) / spread == pytest.approx(1.0, abs=4 * 0.065)


def test_the_standard_error_is_its_formula(generator):
    """(1 + lam) sqrt(var_P(h) / n + var_Q(e^h) / m), of the field itself."""
    x, y = _normal(12, generator, 1.0), _normal(17, generator)
    found = _solve(x, y, lam=0.3, tolerance=TIGHT)
    h_x, h_y = found.field.value(x).numpy(), found.field.value(y).numpy()
    expected = 1.3 * math.sqrt(np.var(h_x, ddof=1) / 12 + np.var(np.exp(h_y), ddof=1) / 17)
    assert found.standard_error == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kernel, scale, lam", [(Gaussian(1.0), 1.0, 1e-8), (Polynomial(3), 1e6, 1.0)])
def test_what_is_not_solved_is_not_said_to_be(kernel, scale, lam):
    """The dual of 200 rows at lam = 1e-8, and of k ~ 1e36: a gap that is infinite or of the value's size, and not `converged`."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator) + 1
    found = _solve(x * scale, y * scale, kernel, lam)
    assert not found.converged and found.duality_gap > 0.1 * found.value


def test_converged_is_a_gap_within_the_tolerance_or_at_the_floor_of_rounding(generator):
    """Not after one iteration; to 1e-8; and to 0, which rounding ends."""
    x, y = _normal(30, generator, 1.0), _normal(20, generator)
    assert not _solve(x, y, lam=1e-3, max_iterations=1).converged
    assert _solve(x, y, lam=1e-3).converged
    assert _solve(x, y, lam=1e-3, tolerance=0.0).converged
    assert not _solve(x, y, lam=1e-3, max_iterations=1, tolerance=0.0).converged


@pytest.mark.parametrize("lam", [1e-3, 1.0])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_the_gradient_at_x_is_that_of_the_field(with_gradient, lam, generator):
    """In one pass with the value, or by the field itself; of features too."""
    x, y = _normal(30, generator, 1.0), _normal(20, generator)
    for problem in (KaleProblem(y, Gaussian(1.0), lam), KaleProblem(y, Gaussian(1.0), lam, 64, generator)):
        found = problem.solve(x, with_gradient=with_gradient)
        expected = found.field.value_and_grad(x)[1]
        torch.testing.assert_close(found.gradient, expected, rtol=1e-9, atol=1e-11 / lam)


# --- types, memory, misuse


def test_the_witness_is_the_log_ratio_at_the_base(generator):
    """h(y_j) = v_j at the optimum, and float32 samples are solved as their float64 copies, bit for bit."""
    x, y = _normal(30, generator, 1.0).float(), _normal(20, generator).float()
    found, double = _solve(x, y, lam=0.05, tolerance=TIGHT), _solve(x.double(), y.double(), lam=0.05, tolerance=TIGHT)
    assert found.field.value(y).numpy() == pytest.approx(found.log_ratio.numpy(), abs=1e-6)
    assert found.value == double.value and torch.equal(found.log_ratio, double.log_ratio)
    assert found.log_ratio.dtype == torch.float64
    assert found.field.value_and_grad(x)[1].dtype == torch.float32


def test_far_from_the_origin_nothing_changes(generator):
    """Shifting both samples by 1e4 changes the value of a kernel with a cusp by rounding of the data only."""
    x, y = _normal(20, generator, 0.5), _normal(30, generator)
    near, far = _solve(x, y, Exponential(1.0), 1e-3), _solve(x + 1e4, y + 1e4, Exponential(1.0), 1e-3)
    assert far.value == pytest.approx(near.value, rel=1e-6)


def test_blocks_change_nothing(monkeypatch, generator):
    """A kernel matrix filled in blocks that do not divide its size."""
    x, y = _normal(20, generator, 0.5), _normal(30, generator)
    whole = _solve(x, y)
    monkeypatch.setattr(kernel_kale, "BLOCK", 7)
    assert _solve(x, y).value == pytest.approx(whole.value, abs=1e-12)


def test_too_many_rows_are_refused_with_the_remedy():
    """The kernel matrix may take 2 GiB: 16,384 rows are the last, and the message names random features."""
    with pytest.raises(ValueError, match="random features"):
        KaleProblem(torch.zeros(16_385, 1), Gaussian(1.0), 0.1)
    with pytest.raises(ValueError, match="fewer features"):
        KaleProblem(torch.zeros(10_000, 1), Gaussian(1.0), 0.1, features=30_000, generator=torch.Generator())


def test_misuse_is_refused(generator):
    """What cannot be solved is refused before any work, in words."""
    x, y = _normal(5, generator), _normal(6, generator)
    for lam in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="regularisation"):
            KaleProblem(y, Gaussian(1.0), lam)
    problem = KaleProblem(y, Gaussian(1.0), 0.1)
    with pytest.raises(ValueError, match="same dimension, got 3 and 2"):
        problem.solve(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="finite"):
        problem.solve(x * math.nan)
    with pytest.raises(ValueError, match="at least one row"):
        problem.solve(x[:0])
    with pytest.raises(ValueError, match=r"`start` must be \(6,\)"):
        problem.solve(x, start=torch.zeros(5))
    with pytest.raises(ValueError, match="generator"):
        KaleProblem(y, Gaussian(1.0), 0.1, features=4)
