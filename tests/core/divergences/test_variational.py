"""Bounds of f-divergences against closed forms and integrals of Gaussians, and what is said of separated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2 as chi2_law
from scipy.stats import norm

from gebm_cli.core.divergences import critics, variational
from gebm_cli.core.divergences.bounds import ENOUGH, Half, bound, cross_fitted
from gebm_cli.core.divergences.critics import Critic, learn_critic
from gebm_cli.core.divergences.names import F_DIVERGENCES
from gebm_cli.core.divergences.variational import f_divergences, separation_of

OF_RATIO = {  # f(u) with D_f = E_Q f(u), written down once more
    "kl": lambda u: u * math.log(u) if u > 0 else 0.0,
    "js": lambda u: 0.5 * (u * math.log(2 * u / (1 + u)) if u > 0 else 0.0) + 0.5 * math.log(2 / (1 + u)),
    "tv": lambda u: abs(u - 1) / 2,
    "chi2": lambda u: (u - 1) ** 2,
    "hellinger": lambda u: (math.sqrt(u) - 1) ** 2,
}
PAIRS = [(0.5, 1.0), (1.0, 1.0), (0.0, 0.6), (0.4, 0.8)]  # mean and scale of P; Q is standard normal


def _truth(kind, mean, scale):
    def integrand(t):
        return norm.pdf(t) * OF_RATIO[kind](math.exp(norm.logpdf(t, mean, scale) - norm.logpdf(t)))

    return quad(integrand, -14, 14, points=[mean - 1, mean, mean + 1], limit=500)[0]


def _kl(mean, scale):
    return (scale**2 + mean**2 - 1) / 2 - math.log(scale)


def _normal(n, generator, d=1, mean=0.0, scale=1.0):
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def _log_ratio(t, mean, scale):
    return (t.square() - ((t - mean) / scale).square())[:, 0] / 2 - math.log(scale)


def _segment(n, generator, at=0.0):
    return torch.stack([torch.full((n,), at), torch.rand(n, generator=generator)], 1).double()


@pytest.fixture
def quadratic_alone(monkeypatch):
    """Without the network, which takes most of the time: it says nothing, and is never chosen."""
    monkeypatch.setattr(critics, "_network", lambda *args: lambda t: torch.zeros(len(t), dtype=torch.float64))


@pytest.fixture
def few_steps(monkeypatch):
    """Where the network is no part of what is tested."""
    monkeypatch.setattr(critics, "STEPS", 60)


def test_the_integrals_agree_with_closed_forms():
    for mean, scale in PAIRS:
        assert _truth("kl", mean, scale) == pytest.approx(_kl(mean, scale), abs=1e-8)
    assert _truth("chi2", 0.5, 1.0) == pytest.approx(math.expm1(0.25), abs=1e-8)
    assert _truth("hellinger", 1.0, 1.0) == pytest.approx(2 - 2 * math.exp(-1 / 8), abs=1e-8)
    assert _truth("tv", 1.0, 1.0) == pytest.approx(2 * norm.cdf(0.5) - 1, abs=1e-8)


@pytest.mark.parametrize("kind", F_DIVERGENCES)
@pytest.mark.parametrize("mean, scale", PAIRS)
def test_the_bound_is_tight_at_the_log_ratio(kind, mean, scale, generator):
    """With the true v each bound is an unbiased estimate of its divergence: within four errors of the integral, and these small."""
    x, y = _normal(200_000, generator, 1, mean, scale), _normal(150_000, generator)
    found = bound(kind, _log_ratio(x, mean, scale), _log_ratio(y, mean, scale))
    truth = _truth(kind, mean, scale)
    assert abs(found.value - truth) < 4 * found.standard_error < 0.2 * truth


@pytest.mark.parametrize("kind", F_DIVERGENCES)
def test_any_other_function_gives_less(kind, generator):
    """Wrong slopes, offsets, clipping and wiggles: never above the truth by more than chance, and far below it for some."""
    mean, scale = 0.5, 1.0
    x, y, truth = _normal(100_000, generator, 1, mean, scale), _normal(100_000, generator), _truth(kind, mean, scale)
    wrong = [
        lambda t: 1.5 * _log_ratio(t, mean, scale),
        lambda t: _log_ratio(t, mean, scale) + 0.3,
        lambda t: _log_ratio(t, mean, scale).clamp(-0.3, 0.3),
        lambda t: _log_ratio(t, mean, scale) + t[:, 0].mul(3).sin(),
        lambda t: -_log_ratio(t, mean, scale),
    ]
    below = []
    for v in wrong:
        found = bound(kind, v(x), v(y))
        assert found.value < truth + 4 * found.standard_error
        below.append((truth - found.value) / found.standard_error)
    assert sum(z > 4 for z in below) >= 2


@pytest.mark.parametrize("kind", F_DIVERGENCES)
def test_the_error_of_a_bound_is_its_spread(kind, generator):
    """Over 300 repetitions, to the width that chance gives their ratio."""
    values, squared_errors = [], []
    for _ in range(300):
        x, y = _normal(200, generator, 1, 0.4, 0.8), _normal(300, generator)
        found = bound(kind, _log_ratio(x, 0.4, 0.8), _log_ratio(y, 0.4, 0.8))
        values.append(found.value)
        squared_errors.append(found.standard_error**2)
    ratio = np.var(values, ddof=1) / np.mean(squared_errors)
    low, high = chi2_law.ppf([1e-4, 1 - 1e-4], 299) / 299
    assert low < ratio < high


@pytest.mark.parametrize("mean, scale", PAIRS)
@pytest.mark.parametrize("d", [1, 2])
def test_learned_bounds_of_gaussians_meet_the_truth_from_below(mean, scale, d, generator, quadratic_alone):
    """P and Q differ in the first of d columns. What the critic lacks is of the order of parameters / rows, at most 6 / 2,000."""
    x, y = _normal(4000, generator, d), _normal(4000, generator, d)
    x[:, 0] = mean + scale * x[:, 0]
    found = f_divergences(x, y, generator)
    assert found.critic.name == "quadratic"
    for kind, b in found.by_kind.items():
        truth = _truth(kind, mean, scale)
        short = 0.02 * (1 + truth)
        assert truth - 4 * b.standard_error - short < b.value < truth + 4 * b.standard_error, kind
        assert b.standard_error < 0.2 * (0.2 + truth) and not b.infinite and b.at_least is None


def test_a_difference_in_correlation_and_uneven_sizes_are_learned(generator, quadratic_alone):
    """KL = -log(1 - r^2) / 2 of two standard normal columns with correlation r against none, from 8,000 and 2,000 rows: the offset
    log(n / m) of an unweighted logistic regression would cost the bound 3 - log 4 = 1.6."""
    x, y, r = _normal(8000, generator, 2), _normal(2000, generator, 2), 0.6
    x[:, 1] = r * x[:, 0] + math.sqrt(1 - r**2) * x[:, 1]
    b, truth = f_divergences(x, y, generator, ["kl"]).by_kind["kl"], -math.log(1 - r**2) / 2
    assert truth - 4 * b.standard_error - 0.01 < b.value < truth + 4 * b.standard_error < 2 * truth


def test_the_bound_of_kl_is_not_biased_upward_by_learning(quadratic_alone):
    """Over 60 pairs of small samples the mean bound lies below KL, and by less than what six parameters can cost at 100 rows."""
    values, errors = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        found = f_divergences(_normal(200, generator, 1, 0.5), _normal(200, generator), generator, ["kl"]).by_kind["kl"]
        values.append(found.value)
        errors.append(found.standard_error)
    error = math.sqrt(np.mean(np.square(errors)) / 60)
    assert -0.1 < np.mean(values) - 0.125 < 3 * error and error < 0.02


def test_the_error_covers_the_learning_of_critics(quadratic_alone):
    """Over 100 pairs of 200 rows against a shift by 1, the mean printed error of each kind is 0.8 to 1.25 of the spread of the
    estimates, to two errors of a spread of 100. KL and chi^2 are never below 0, and seldom above the truth."""
    by_kind = {kind: [] for kind in F_DIVERGENCES}
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        x, y = _normal(200, generator, 2), _normal(200, generator, 2)
        x[:, 0] += 1.0
        for kind, b in f_divergences(x, y, generator).by_kind.items():
            by_kind[kind].append((b.value, b.standard_error))
    for kind, pairs in by_kind.items():
        values, errors = np.array(pairs).T
        chance = 1 + 2 / math.sqrt(2 * 99)
        assert 0.8 / chance < errors.mean() / values.std(ddof=1) < 1.25 * chance, kind
        assert values.min() >= 0 and values.mean() < _truth(kind, 1.0, 1.0) + 3 * errors.mean() / 10
        assert values.mean() > (0.5 if kind == "chi2" else 0.75) * _truth(kind, 1.0, 1.0), kind


def test_rows_that_a_critic_overrates_do_not_ruin_the_bounds(generator):
    """v is 10 too high at one in 200 rows of Q and P: plain, KL and chi^2 lie far below 0; with the family they are above it."""
    x, y = _normal(600, generator, 1, 1.0), _normal(600, generator)
    at = [_log_ratio(t, 1.0, 1.0) + 10.0 * (torch.arange(600) % 200 == 0) for t in (x, y)]
    halves = [Half((at[0][i], at[1][i]), (at[0][i], at[1][i]), 6.0, 6.0) for i in (slice(0, 300), slice(300, 600))]
    for kind in ("kl", "chi2"):
        found = cross_fitted(kind, halves)
        assert bound(kind, *(v.clamp(-6, 6) for v in at)).value < -1
        assert found.below is None and 2 * found.standard_error < found.value < _truth(kind, 1.0, 1.0)


@pytest.mark.parametrize("kind", F_DIVERGENCES)
def test_cross_fitting_keeps_a_true_log_ratio(kind, generator):
    """With v = log dP/dQ in both halves the bound is that of all rows at once, error included; nothing is left to learn."""
    x, y = _normal(6000, generator, 1, 0.5), _normal(4000, generator)
    at_x, at_y = _log_ratio(x, 0.5, 1.0), _log_ratio(y, 0.5, 1.0)
    halves = [Half((at_x[i::2], at_y[i::2]), (at_x[i::2], at_y[i::2]), 8.0, 8.0) for i in (0, 1)]
    found, plain = cross_fitted(kind, halves), bound(kind, at_x, at_y)
    assert found.value == pytest.approx(plain.value, abs=0.1 * plain.standard_error)
    assert found.standard_error == pytest.approx(plain.standard_error, rel=0.02)
    assert found.clipped == 0 and not found.notes


def test_the_error_grows_by_what_two_critics_disagree_about(generator):
    """By 3/4 of the squared error that the bound of their difference would have; JS keeps v as it is."""
    x, y = _normal(500, generator, 1, 1.0), _normal(500, generator)
    at, seen = ([f(t) for t in (x, y)] for f in (lambda t: _log_ratio(t, 1.0, 1.0), lambda t: _log_ratio(t, 1.4, 0.9)))
    alone = cross_fitted("js", [Half(tuple(at), tuple(at), 9.0, 9.0)] * 2)
    both = cross_fitted("js", [Half(tuple(at), tuple(seen), 9.0, 9.0)] * 2)
    terms = [
        np.logaddexp(0, sign * v.numpy()) / 2 for side in (at, seen) for sign, v in zip((-1, 1), side, strict=True)
    ]
    extra = sum(np.var(a - b, ddof=1) / 1000 for a, b in zip(terms[:2], terms[2:], strict=True))
    assert both.value == alone.value
    assert both.standard_error**2 - alone.standard_error**2 == pytest.approx(0.75 * extra, rel=1e-6)


def test_a_member_of_the_family_is_chosen_without_the_rows_that_it_is_evaluated_on(generator):
    """v is noise: over 150 draws the mean bound is not above 0, where that of the best on the very rows is."""
    values, best = [], []
    for _ in range(150):
        at = [torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(4)]
        halves = [Half((x, y), (x, y), 3.0, 3.0) for x, y in (at[:2], at[2:])]
        found = cross_fitted("kl", halves)
        values.append(found.value if found.below is None else found.below)
        best += [max((s * x[i::5]).mean() - (s * y[i::5]).exp().mean().log() for s in (0.2, 0.4, 0.6, 0.8, 1.0))
                 for x, y in (at[:2], at[2:]) for i in range(5)]  # fmt: skip
    assert np.mean(values) < 3 * np.std(values) / math.sqrt(150) and np.mean(best) > 0.03


def test_a_bound_below_0_is_reported_as_0_and_says_so(generator):
    """v has the wrong sign."""
    x, y = _normal(600, generator, 1, 1.0), _normal(600, generator)
    at = -_log_ratio(x, 1.0, 1.0), -_log_ratio(y, 1.0, 1.0)
    found = cross_fitted("js", [Half(at, at, 6.0, 6.0)] * 2)
    assert found.value == 0 and found.standard_error > 0 and "0 for a negative estimate" in found.notes
    assert found.below == pytest.approx(bound("js", *at).value, rel=1e-9) and found.below < -0.1


def test_a_bound_at_its_ceiling_says_so(generator, few_steps):
    """KL = 8 of 600 rows: a third of P's rows and more have v above log 300; half of that distance says nothing."""
    x, y = _normal(600, generator, 1, 4.0), _normal(600, generator)
    found = f_divergences(x, y, generator, ["kl", "chi2", "js"]).by_kind
    assert found["kl"].clipped > 0.3 and found["kl"].value < math.log(300) + 1
    for kind, most in (("kl", "log 300"), ("chi2", "3/4 log 300")):
        assert found[kind].notes == (f"at its ceiling of {most} in {100 * found[kind].clipped:.0f} % of A's rows",)
    assert found["js"].notes == ()
    near = f_divergences(x - 3, y, generator, ["kl"]).by_kind["kl"]
    assert near.notes == () and near.clipped < 0.05 and 0.03 < near.carried < 0.3


def test_a_heavy_tail_says_so(generator):
    """1 % of Q's rows, six of 600, have nearly all of E_Q[e^v] while few rows of P are clipped."""
    at_x, at_y = torch.full((600,), 1.0).double(), torch.full((600,), -5.0).double()
    at_y[:6] = 4.0
    order = torch.randperm(600, generator=generator)
    at = at_x, at_y[order]
    found = cross_fitted("kl", [Half(at, at, 6.0, 6.0)] * 2)
    assert found.carried > 0.5 and any("1 % of B's rows are" in note for note in found.notes)


def test_the_witness_is_the_mean_of_two_critics_each_within_its_bounds(generator, quadratic_alone):
    x, y = _normal(90, generator, 1, 3.0), _normal(60, generator)
    both = [learn_critic(x[:40], y[:30], generator), learn_critic(x[40:], y[30:], generator)]
    mean, t = critics.averaged(both), torch.linspace(-3, 6, 50).double()[:, None]
    assert torch.allclose(mean.value(t), (both[0].value(t) + both[1].value(t)) / 2, atol=1e-12)
    assert mean.value(t).max() == pytest.approx(math.log(30)) and mean.name == "quadratic"
    step = 1e-6
    slope = (mean.value(t + step) - mean.value(t - step)) / (2 * step)
    assert torch.allclose(slope, mean.value_and_grad(t)[1][:, 0], atol=1e-5)


def test_no_row_is_judged_by_the_critic_that_learned_from_it(generator, monkeypatch):
    """Equal laws, and critics that know their rows by heart: v = 3 next to one of P's, -3 next to one of Q's."""

    def by_heart(x, y, *args):
        def logit(t):
            return 3.0 * (torch.cdist(t, y).min(1).values - torch.cdist(t, x).min(1).values).sign()

        return Critic(logit, "nearest", 5.0, 5.0)

    monkeypatch.setattr(variational, "learn_critic", by_heart)
    found = f_divergences(_normal(300, generator, 2), _normal(300, generator, 2), generator, ["js", "tv"])
    assert found.by_kind["js"].below is not None and found.by_kind["tv"].value < 4 * math.sqrt(0.5 / 300)
    assert 0.4 < found.separation.misjudged / found.separation.rows < 0.6


@pytest.mark.parametrize("sizes", [(1500, 1000), (150, 200)])
def test_equal_laws_are_within_errors_of_0(sizes, generator, few_steps):
    found = f_divergences(*(_normal(n, generator, 2) for n in sizes), generator)
    for b in found.by_kind.values():
        assert abs(b.value) < 4 * b.standard_error + 0.01
    assert not found.separation.entire and 0.4 < found.separation.misjudged / found.separation.rows < 0.6


def test_what_is_not_quadratic_is_left_to_the_network(generator):
    """P is an even mixture at (1, 1) and (-1, -1), Q at (1, -1) and (-1, 1), turned by 45 degrees and with a third arm: its
    log ratio is known, and the Jensen-Shannon bound gets to within a tenth of it."""
    centres = torch.tensor([[k * math.pi / 3] for k in range(6)])
    centres = 1.5 * torch.cat([centres.cos(), centres.sin()], 1).double()

    def draw(n, which):
        return centres[which][torch.randint(3, (n,), generator=generator)] + _normal(n, generator, 2, scale=0.35)

    def log_density(t, which):
        return torch.logsumexp(-(torch.cdist(t, centres[which]) ** 2) / (2 * 0.35**2), 1)

    p, q = [0, 2, 4], [1, 3, 5]
    x, y = draw(2000, p), draw(2000, q)
    found = f_divergences(x, y, generator, ["js"])
    best = bound("js", *(log_density(t, p) - log_density(t, q) for t in (x, y)))
    assert found.critic.name == "network"
    assert 0.9 * best.value < found.by_kind["js"].value < best.value + 4 * found.by_kind["js"].standard_error


def test_many_columns_are_learned_from(generator, few_steps):
    """300 columns of which all differ a little; KL = 0.5 in sum. Some of it is seen, and no more than there is."""
    x, y = _normal(1600, generator, 300, math.sqrt(1 / 300)), _normal(1400, generator, 300)
    b = f_divergences(x, y, generator, ["js"]).by_kind["js"]
    assert 4 * b.standard_error < b.value < _truth("js", 1.0, 1.0) + 4 * b.standard_error


@pytest.mark.parametrize("distance", [0.05, 0.5, 5.0])
def test_disjoint_supports_are_infinitely_far_in_kl_and_equally_far_in_the_bounded_ones(distance, generator):
    """Segments side by side: KL and chi^2 are infinite, JS, TV and Hellinger at their bounds, whatever the distance."""
    found = f_divergences(_segment(600, generator, distance), _segment(600, generator), generator)
    assert found.separation.entire and found.separation.misjudged == 0 and found.separation.rows == 1200
    tail = 0.025 ** (1 / 600)  # the exact limit of 0 in 600
    kl = tail * math.log(tail / (1 - tail)) + (1 - tail) * math.log((1 - tail) / tail)
    chi = (2 * tail - 1) ** 2 / (tail * (1 - tail))
    for kind, least in (("kl", kl), ("chi2", chi)):
        b = found.by_kind[kind]
        assert b.infinite and b.value == math.inf and math.isnan(b.standard_error)
        assert b.at_least == pytest.approx(least, rel=1e-9)
    assert math.log(2) - 2 / 300 < found.by_kind["js"].value < math.log(2)
    assert found.by_kind["tv"].value == 1.0
    assert 2 - 3 / math.sqrt(300) < found.by_kind["hellinger"].value < 2


@pytest.mark.parametrize("shift", [3.0, 6.0])
def test_a_finite_divergence_is_not_called_infinite(shift, generator, few_steps):
    """KL = 4.5 and 18, where rows of the two samples meet or nearly: a bound, below."""
    b = f_divergences(_normal(1000, generator, 1, shift), _normal(1000, generator), generator).by_kind["kl"]
    assert not b.infinite and b.at_least is None
    assert 2.5 < b.value < shift**2 / 2 + 4 * b.standard_error


def test_few_rows_never_prove_a_separation(generator):
    """Of 80 held-out rows a side none is misjudged: a number with no error, which would be 0."""
    found = f_divergences(_normal(80, generator, 1, 30.0), _normal(80, generator), generator)
    assert found.separation.misjudged == 0 and found.n_held_out == (80, 80)
    for b in found.by_kind.values():
        assert not b.infinite and math.isfinite(b.value) and math.isnan(b.standard_error)
    many = torch.full((ENOUGH,), 30.0).double()
    assert separation_of(many, -many).entire and not separation_of(many[1:], -many).entire


def test_a_separation_asks_for_a_margin():
    """A row on the wrong side, or on the right one with less than log n, is none."""
    sure = torch.full((100,), 10.0).double()
    unsure = sure.clone()
    unsure[0] = math.log(100) - 0.01
    assert separation_of(sure, -sure).entire
    for at_x, at_y in ((unsure, -sure), (sure, -unsure), (-unsure, -sure)):
        assert not separation_of(at_x, at_y).entire


def test_what_is_promised_at_least_holds_as_often_as_promised():
    """KL and chi^2 of the two-point laws with shares .9 and .2 exceed it in 95 % of 2,000 repetitions, and seldom by nothing."""
    draws = np.random.default_rng(0)
    p, q = 0.9, 0.2
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    chi = (p - q) ** 2 / (q * (1 - q))
    held = []
    for _ in range(2000):
        at_x, at_y = (torch.from_numpy(np.where(draws.random(60) < share, 1.0, -1.0)) for share in (p, q))
        found = separation_of(at_x, at_y)
        held.append((found.kl <= kl, found.chi2 <= chi, found.kl > 0.2 * kl))
    shares = np.mean(held, axis=0)
    assert (shares[:2] > 0.95).all() and shares[2] > 0.9


def test_constant_samples_are_equal_or_disjoint(generator):
    zeros, ones = torch.zeros(200, 3).double(), torch.ones(120, 3).double()
    for b in f_divergences(zeros, zeros[:50], generator).by_kind.values():
        assert b.value == 0 and b.standard_error == 0 and not b.infinite
    for x, y in (
        (zeros, ones),
        (ones, zeros),
        (zeros, _normal(100, generator, 3)),
        (_normal(100, generator, 3), zeros),
    ):
        found = f_divergences(x, y, generator)
        assert found.critic.name == "atom" and found.separation.misjudged == 0
        assert found.by_kind["kl"].infinite and found.by_kind["chi2"].infinite and found.by_kind["kl"].at_least > 2
        assert found.by_kind["tv"].value == 1.0 and found.by_kind["js"].value > math.log(2) - 0.02


def test_an_atom_shared_in_part_has_its_log_share(generator):
    """P is a point that Q takes with probability 1/4: KL = log 4, TV = 3/4."""
    y = _normal(4000, generator, 2)
    y[torch.rand(4000, generator=generator) < 0.25] = 0.0
    found = f_divergences(torch.zeros(4000, 2).double(), y, generator).by_kind
    assert abs(found["kl"].value - math.log(4)) < 4 * found["kl"].standard_error < 0.3
    assert abs(found["tv"].value - 0.75) < 4 * found["tv"].standard_error


def test_the_critic_is_clipped_to_what_its_rows_support(generator, quadratic_alone):
    x, y, far = _normal(50, generator, 1, 9.0), _normal(70, generator), torch.tensor([[9.0], [0.0]]).double()
    critic = learn_critic(x, y, generator)
    assert critic.value(far).tolist() == pytest.approx([math.log(70), -math.log(50)])
    value, grad = critic.value_and_grad(far)
    assert torch.equal(value, critic.value(far)) and not grad.any()


@pytest.mark.parametrize("kind", ["quadratic", "network", "atom"])
def test_the_gradient_of_the_critic_is_its_finite_difference(kind, generator):
    x, y, t = _normal(400, generator, 2, 1.0), _normal(400, generator, 2), _normal(20, generator, 2)
    fit = [x[:300], y[:300]]
    logit = {
        "quadratic": lambda: critics._fit_quadratic(*fit, 1e-3),
        "network": lambda: critics._network(fit, [x[300:], y[300:]], generator, None, critics.silent),
        "atom": lambda: critics._atom(x[0], *fit),
    }[kind]()
    critic = Critic(logit, kind, 50.0, 50.0)
    value, grad = critic.value_and_grad(t.float())
    assert grad.dtype == torch.float32 and torch.equal(value, critic.value(t.float()))
    grad, step = critic.value_and_grad(t)[1], 1e-6
    for axis in range(2):
        move = step * torch.eye(2, dtype=torch.float64)[axis]
        slope = (critic.value(t + move) - critic.value(t - move)) / (2 * step)
        assert torch.allclose(slope, grad[:, axis], atol=1e-6)
    assert grad.any() == (kind != "atom")


def test_calibration_undoes_a_slope_and_an_offset(generator):
    """Logits that are three times too sure and shifted by 1."""
    at_x, at_y = (
        3 * _log_ratio(t, 1.0, 1.0) + 1 for t in (_normal(20_000, generator, 1, 1.0), _normal(5000, generator))
    )
    slope, offset = critics._calibrated(at_x, at_y)
    assert slope == pytest.approx(1 / 3, abs=0.02) and offset == pytest.approx(-1 / 3, abs=0.06)


def test_the_same_generator_gives_the_same_numbers(few_steps):
    generator = torch.Generator().manual_seed(5)
    x, y = _normal(100, generator, 2, 0.5), _normal(90, generator, 2)
    found = [f_divergences(x, y, torch.Generator().manual_seed(1)).by_kind for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] != f_divergences(x, y, torch.Generator().manual_seed(2)).by_kind


def test_learning_is_reported(generator, few_steps):
    told = []

    def begin(what, unit, total):
        told.append((what, unit, total))
        return lambda done: told.append(done)

    f_divergences(_normal(60, generator), _normal(60, generator), generator, ["js"], begin=begin)
    phases = [one for one in told if isinstance(one, tuple)]
    assert [phase[:2] for phase in phases] == [("learning the critic", "steps")] * 2  # a critic of each half
    assert 0 < sum(one for one in told if isinstance(one, int)) <= sum(total for _, _, total in phases)


def test_images_are_looked_at_as_images(generator, few_steps):
    """Rows of flattened 8 x 8 images go through the network in their shape, and through the field too."""
    x, y = (torch.rand(40, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    x[:, 20:30] += 0.5
    fit, check = [x[:30], y[:30]], [x[30:], y[30:]]
    logit = critics._network(fit, check, generator, (1, 8, 8), critics.silent)
    critic = Critic(logit, "network", 5.0, 5.0)
    assert critic.value_and_grad(x[:3])[1].shape == (3, 64) and critic.value(x).mean() > critic.value(y).mean()


def test_fewer_than_eight_rows_are_refused(generator, few_steps):
    with pytest.raises(ValueError, match="need 8 rows of each sample, got 7 and 9"):
        f_divergences(_normal(7, generator), _normal(9, generator), generator)
    assert f_divergences(_normal(8, generator), _normal(8, generator), generator).n_train == (4, 4)
