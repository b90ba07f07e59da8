"""Mixing diagnostics against arviz-stats, plain formulas, and chains whose autocorrelation and starts are known."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from gebm_cli.core.sampling.diagnostics import (
    Mixing,
    RatioMeter,
    Scalar,
    diagnose,
    effective_draws_per,
    logistic_slope,
    verdict,
)

STARTS, PER_START = 16, 8


def _ar1(n_chains, n_draws, r, generator, first=None):
    """Chains of N(0, 1) with autocorrelation r^t, from their own law or from `first`; (n_chains, n_draws) float64."""
    noise = torch.randn(n_chains, n_draws, generator=generator, dtype=torch.float64)
    draws = [noise[:, 0] if first is None else first]
    for t in range(1, n_draws):
        draws.append(r * draws[-1] + math.sqrt(1 - r * r) * noise[:, t])
    return torch.stack(draws, 1)


def _one(trace, n_starts=STARTS) -> Scalar:
    (row,) = diagnose({"x": trace}, n_starts).rows
    return row


# -------------------------------------------------------------------------------------------------- plain formulas, numpy


def _split(x):
    half = x.shape[1] // 2
    return np.vstack([x[:, :half], x[:, -half:]])


def _normal_scores(x):
    """Blom's scores of the ranks, without ties."""
    ranks = np.empty(x.size)
    ranks[np.argsort(x.ravel())] = np.arange(1, x.size + 1)
    return np.array([NormalDist().inv_cdf((rank - 3 / 8) / (x.size + 1 / 4)) for rank in ranks]).reshape(x.shape)


def _bulk_and_folded(x):
    split = _split(x)
    return _normal_scores(split), _normal_scores(np.abs(split - np.median(split)))


def _plain_rhat(x):
    values = []
    for z in _bulk_and_folded(x):
        n = z.shape[1]
        within = z.var(1, ddof=1).mean()
        between = n * z.mean(1).var(ddof=1)
        values.append(math.sqrt(((n - 1) / n * within + between / n) / within))
    return max(values)


def _plain_nested_rhat(x, n_starts):
    """Each superchain is the 2 M half chains of one start."""
    m = len(x) // n_starts
    values = []
    for z in _bulk_and_folded(x):
        first, second = np.split(z, 2)
        means, spreads = [], []
        for k in range(n_starts):
            halves = np.concatenate([first[k * m : (k + 1) * m], second[k * m : (k + 1) * m]])
            means.append(halves.mean())
            spreads.append(halves.mean(1).var(ddof=1) + halves.var(1, ddof=1).mean())
        values.append(math.sqrt(1 + np.var(means, ddof=1) / np.mean(spreads)))
    return max(values)


@pytest.mark.parametrize("r", [0.0, 0.7])
@pytest.mark.parametrize("n_draws", [12, 13])
def test_rhats_are_the_plain_formulas(generator, r, n_draws):
    x = _ar1(24, n_draws, r, generator) + torch.linspace(0, 1, 6).repeat_interleave(4)[:, None]
    row = _one(x, 6)
    assert row.rhat == pytest.approx(_plain_rhat(x.numpy()), rel=1e-6)
    assert row.nested_rhat == pytest.approx(_plain_nested_rhat(x.numpy(), 6), rel=1e-6)


def test_all_figures_are_arviz_stats(generator):
    """In its own default layout, and for another number of chains than of draws, so that a transposed trace cannot pass."""
    from arviz_stats.base import array_stats

    x = _ar1(12, 40, 0.6, generator)
    row, array = _one(x, 3), x.numpy()
    assert row.rhat == pytest.approx(array_stats.rhat(array), rel=1e-6)
    assert row.ess_bulk == pytest.approx(array_stats.ess(array), rel=1e-6)
    assert row.ess_tail == pytest.approx(array_stats.ess(array, method="tail", prob=(0.05, 0.95)), rel=1e-6)
    ids = [0] * 4 + [1] * 4 + [2] * 4
    assert row.nested_rhat == pytest.approx(array_stats.rhat_nested(array, superchain_ids=ids), rel=1e-6)
    assert row.rhat != pytest.approx(array_stats.rhat(array.T), rel=1e-3)
    assert row.ess_bulk != pytest.approx(array_stats.ess(array.T), rel=1e-2)


# ------------------------------------------------------------------------------------------------- chains with a known law


@pytest.mark.parametrize("r", [0.0, 0.5, 0.8])
def test_effective_draws_explain_the_spread_of_the_mean(generator, r):
    """Over 200 sets of 16 x 100 draws, variance of the mean times ESS is the variance of a draw, 1, within 4 standard errors."""
    sets = [_ar1(16, 100, r, generator) for _ in range(200)]
    ess = np.mean([_one(x).ess_bulk for x in sets])
    ratio = np.mean([x.mean().item() ** 2 for x in sets]) * ess
    z = (ratio - 1) / math.sqrt(2 / len(sets))
    assert abs(z) < 4, f"variance times ESS {ratio:.3f}, z {z:.1f}"


def test_effective_draws_of_long_chains_are_the_known_share(generator):
    """(1 - r) / (1 + r) of the draws; 40 sets of 4 x 2000, within 4 standard errors of the mean over the sets."""
    ess = np.array([_one(_ar1(4, 2000, 0.5, generator), 4).ess_bulk for _ in range(40)]) / (8000 / 3)
    z = (ess.mean() - 1) / (ess.std(ddof=1) / math.sqrt(len(ess)))
    assert abs(z) < 4, f"ESS {ess.mean():.3f} of the truth, z {z:.1f}"


@pytest.mark.parametrize(("n_draws", "r"), [(10, 0.0), (30, 0.0), (50, 0.5)])
def test_stationary_chains_are_mixed(generator, n_draws, r):
    """128 short chains with seven scalars: at the 1 % level at most 2 of 30 sets may be called unmixed (more: p = 0.003)."""
    unmixed = 0
    for _ in range(30):
        traces = {f"s{i}": _ar1(STARTS * PER_START, n_draws, r, generator) for i in range(7)}
        unmixed += not diagnose(traces, STARTS).mixed
    assert unmixed <= 2


def test_shifted_chains_are_not_mixed(generator):
    x = _ar1(128, 50, 0.0, generator)
    x[::2] += 2
    mixing = diagnose({"x": x}, STARTS)
    assert mixing.worst_rhat > 1.3 and not mixing.mixed
    # Every start has the same chains on each side: its superchain knows nothing of the start.
    assert mixing.rows[0].start_p > 0.01


def test_chains_of_another_width_are_not_mixed(generator):
    """The folded ranks see what means do not."""
    x = _ar1(128, 50, 0.0, generator)
    x[: 128 // 2] *= 4
    mixing = diagnose({"x": x}, STARTS)
    assert mixing.worst_rhat > mixing.rhat_bar and mixing.rows[0].start_p < 1e-6 and not mixing.mixed


def test_a_remembered_start_is_seen_by_nested_rhat_alone(generator):
    """Superchains shifted by 0.3 standard deviations: R-hat and ESS are content, the analysis of variance is not."""
    start = 0.3 * torch.randn(STARTS, generator=generator, dtype=torch.float64)
    x = _ar1(128, 50, 0.0, generator) + start.repeat_interleave(PER_START)[:, None]
    mixing = diagnose({"x": x}, STARTS)
    row = mixing.rows[0]
    assert row.rhat < mixing.rhat_bar and row.ess_bulk > 400 and row.ess_tail > 400
    assert row.start_p < 1e-6 and row.nested_rhat > 1.01 and not mixing.mixed
    # The same numbers with the chains of one start dealt out to all: nothing left to see.
    dealt = x.view(STARTS, PER_START, -1).transpose(0, 1).reshape(128, -1)
    assert _one(dealt).nested_rhat < row.nested_rhat and _one(dealt).start_p > 0.01


def test_the_p_value_of_the_start_is_uniform_on_stationary_chains(generator):
    """For autocorrelated chains too: of 400, 5 % are below 0.05 but for Bonferroni's two dependent tests (2.5 to 5 %)."""
    small = sum(_one(_ar1(32, 10, 0.8, generator), 8).start_p < 0.05 for _ in range(400))
    low, high = (400 * p + s * 4 * math.sqrt(400 * p * (1 - p)) for p, s in ((0.025, -1), (0.05, 1)))
    assert max(low, 1) <= small <= high, small


def test_chains_that_remember_their_first_point_until_they_forget_it(generator):
    """From shared starts with r = 0.9, ten draws remember and a thousand do not."""
    first = torch.randn(STARTS, generator=generator, dtype=torch.float64).repeat_interleave(PER_START)
    long = _ar1(128, 2000, 0.9, generator, first=first)
    assert not diagnose({"x": long[:, :20]}, STARTS).mixed
    assert diagnose({"x": long[:, 1000:]}, STARTS).mixed


@pytest.mark.parametrize("n_draws", [4, 9])
def test_effective_draws_of_very_short_chains_are_unknown(generator, n_draws):
    """arviz-stats gives 1387 for 128 x 4 draws even where no chain moves, so it is not asked."""
    mixing = diagnose({"x": _ar1(128, n_draws, 0.99, generator)}, STARTS)
    assert math.isnan(mixing.least_ess_bulk) and math.isnan(mixing.least_ess_tail) and not mixing.mixed
    assert f"unknown from {n_draws} draws" in verdict(mixing, "sample")


def test_the_bar_of_rhat_is_vehtaris_at_four_chains():
    bars = {n: Mixing((), n, 100, 2, n // 2).rhat_bar for n in (2, 4, 16, 128)}
    assert bars == {2: 1.01, 4: 1.01, 16: pytest.approx(math.sqrt(1.08)), 128: 1.1}


# ------------------------------------------------------------------------------------------------------------ odd traces


def test_a_constant_scalar_is_listed_and_not_judged(generator):
    x = _ar1(128, 50, 0.0, generator)
    mixing = diagnose({"x": x, "flat": torch.full_like(x, 3.0)}, STARTS)
    assert mixing.constant == ("flat",) and [row.name for row in mixing.rows] == ["x"] and mixing.mixed
    assert verdict(mixing, "sample").endswith("constant and so not judged: flat")


def test_nothing_but_constants_is_not_mixed():
    mixing = diagnose({"flat": torch.ones(8, 20)}, 4)
    assert not mixing.mixed and not mixing.agree and math.isnan(mixing.worst_rhat)
    assert "no scalar that was watched ever changed" in verdict(mixing, "sample")


@pytest.mark.filterwarnings("error")
def test_chains_that_never_move_are_not_mixed():
    """Each at its own value (no variance within: R-hat is infinite), or all of a start at one."""
    own = torch.arange(16.0)[:, None].expand(16, 20)
    assert not diagnose({"x": own}, 4).mixed and _one(own, 4).rhat > 100
    shared = torch.arange(4.0).repeat_interleave(4)[:, None].expand(16, 20)
    assert not diagnose({"x": shared}, 4).mixed and _one(shared, 4).start_p < 1e-6


@pytest.mark.filterwarnings("error")
def test_a_two_valued_scalar(generator):
    """Its fold about the median may be constant; coins are mixed, and coins that differ by start are not."""
    x = (_ar1(128, 50, 0.0, generator) > 0).double()
    assert diagnose({"x": x}, STARTS).mixed
    biased = x.clone()
    biased[:40] = 1.0
    assert not diagnose({"x": biased}, STARTS).mixed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_chains_with_values_that_are_not_finite_are_left_out(generator, value):
    """One of start 0 and all of start 2: judged on the other 15 chains, nested R-hat on 3 of each start left."""
    x = _ar1(20, 100, 0.0, generator)
    y = _ar1(20, 100, 0.0, generator)
    broken = x.clone()
    broken[1, 50] = value
    broken[8:12, 0] = value
    mixing = diagnose({"x": broken, "y": y}, 5)
    assert (mixing.dropped, mixing.n_chains, mixing.n_starts, mixing.chains_per_start) == (5, 15, 4, 3)
    kept = [0, 2, 3, 4, 5, 6, 7, *range(12, 20)]
    grouped = [0, 2, 3, 4, 5, 6, 12, 13, 14, 16, 17, 18]
    assert mixing.rows[0].rhat == pytest.approx(_plain_rhat(x[kept].numpy()), rel=1e-6)
    assert mixing.rows[1].rhat == pytest.approx(_plain_rhat(y[kept].numpy()), rel=1e-6)
    assert mixing.rows[0].nested_rhat == pytest.approx(_plain_nested_rhat(x[grouped].numpy(), 4), rel=1e-6)
    assert "5 chains with values that are not finite left out" in verdict(mixing, "sample")


def test_one_broken_chain_costs_its_start_not_one_chain_of_every_start(generator):
    x = _ar1(128, 50, 0.0, generator)
    x[0, 0] = math.nan
    mixing = diagnose({"x": x}, STARTS)
    assert (mixing.n_chains, mixing.n_starts, mixing.chains_per_start) == (127, 15, 8)


@pytest.mark.parametrize(
    ("shape", "n_starts", "message"),
    [
        ((8, 3), 2, "at least 2 chains of 4 draws"),
        ((1, 50), 1, "at least 2 chains of 4 draws"),
        ((8, 50), 1, "at least 2 and divide"),
        ((8, 50), 3, "at least 2 and divide"),
        ((8,), 2, "one shape"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(shape, n_starts, message):
    with pytest.raises(ValueError, match=message):
        diagnose({"x": torch.randn(shape)}, n_starts)


def test_traces_that_differ_in_shape_or_are_broken_are_refused():
    for traces in ({}, {"x": torch.randn(4, 9), "y": torch.randn(4, 8)}):
        with pytest.raises(ValueError, match="one shape"):
            diagnose(traces, 2)
    broken = torch.randn(4, 9)
    broken[:2] = math.nan
    with pytest.raises(ValueError, match="fewer than 2 starts"):
        diagnose({"x": broken}, 2)


# --------------------------------------------------------------------------------------------------------------- verdicts


def _mixing(rhat=1.003, nested=1.004, bulk=5200.0, tail=4800.0, start_p=0.5):
    calm = Scalar("energy", 1.001, 1.002, 9000.0, 9000.0, 0.5)
    return Mixing((calm, Scalar("log_prior", rhat, nested, bulk, tail, start_p)), 128, 50, 16, 8)


def test_each_criterion_decides_alone():
    assert _mixing().mixed
    assert not _mixing(rhat=1.11).mixed and _mixing(rhat=1.09).mixed
    assert not _mixing(nested=1.02, start_p=0.004).mixed and _mixing(nested=1.02, start_p=0.006).mixed
    assert not _mixing(nested=1.11).mixed and _mixing(nested=1.009, start_p=1e-9).mixed
    assert not _mixing(bulk=400.0).mixed and not _mixing(tail=400.0).mixed
    for broken in (_mixing(rhat=math.nan), _mixing(nested=math.nan), _mixing(bulk=math.nan), _mixing(tail=math.nan)):
        assert not broken.mixed


def test_one_chain_a_start_is_held_against_rhats_bar():
    row = Scalar("x", 1.001, 1.05, 900.0, 900.0, math.nan)
    assert Mixing((row,), 128, 50, 128, 1).mixed and not Mixing((row,), 4, 50, 4, 1).mixed


def test_worst_and_least_are_over_all_scalars():
    mixing = _mixing(1.2, 1.3, 90.0, 80.0)
    figures = (mixing.worst_rhat, mixing.worst_nested_rhat, mixing.least_ess_bulk, mixing.least_ess_tail)
    assert figures == (1.2, 1.3, 90.0, 80.0)
    assert math.isnan(_mixing(rhat=math.nan).worst_rhat) and math.isnan(_mixing(bulk=math.nan).least_ess_bulk)


def test_the_verdict_is_one_sentence():
    figures = "R-hat 1.003, nested R-hat 1.004, at least 5200 effective draws (bulk) and 4800 (tail) on 2 scalars"
    assert verdict(_mixing(), "sample") == f"mixed: {figures}"
    assert verdict(_mixing(), "refine") == f"refined, and mixed: {figures}"
    sentence = verdict(_mixing(nested=1.31), "sample")
    assert sentence.startswith("not mixed: R-hat 1.003 (log_prior), nested R-hat 1.310 (log_prior), at least 5200")
    assert sentence.endswith(
        "treat as refinement: the samples still depend on where they started; take more steps or a smaller beta to sample"
    )
    sentence = verdict(_mixing(nested=1.31), "refine")
    assert sentence.startswith("refined, not mixed: ") and sentence.endswith(
        "where they started, as a short refinement does"
    )


def test_what_is_not_a_memory_of_the_start_is_not_called_one():
    """Large R-hat beside a small nested one: chains too short for the law; few effective draws alone: too few to tell."""
    assert "each chain has seen only a part of the law" in verdict(_mixing(rhat=1.31), "sample")
    sentence = verdict(_mixing(bulk=210.0), "sample")
    assert sentence.startswith("not mixed: ") and "effective draws are too few to tell" in sentence
    for mode in ("refine", "sample"):
        assert "depend on where" not in verdict(_mixing(bulk=210.0), mode) + verdict(_mixing(rhat=1.31), mode)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="refine or sample"):
        verdict(_mixing(), "both")


def test_efficiency_is_the_least_effective_draws_over_the_cost():
    efficiency = effective_draws_per(_mixing(bulk=500.0), gradients=2000, seconds=10.0)
    assert (efficiency.per_gradient, efficiency.per_second) == (0.25, 50.0)


# ----------------------------------------------------------------------------------------------------------- the ratio meter


def _proposals(n, generator, shift=0.0, step=1.0):
    """Log Metropolis ratios of a random walk on N(0, 1) from x ~ N(shift, 1)."""
    x = torch.randn(n, generator=generator, dtype=torch.float64) + shift
    y = x + step * torch.randn(n, generator=generator, dtype=torch.float64)
    return (x.square() - y.square()) / 2


def test_both_identities_hold_when_stationary_and_not_otherwise(generator):
    """Within 4 of their own standard errors at stationarity; beyond it for chains that start 2 too high, the balance by far."""
    still = RatioMeter().update(_proposals(20_000, generator)).finish()
    assert abs(still.mean_exp - 1) < 4 * still.mean_exp_error and abs(still.balance) < 4 * still.balance_error
    falling = RatioMeter().update(_proposals(20_000, generator, shift=2.0)).finish()
    assert falling.mean_exp - 1 > 4 * falling.mean_exp_error and falling.balance > 40 * falling.balance_error


def test_the_meter_is_the_mean_over_everything_it_saw(generator):
    """In steps and in blocks: means of exp(r) and of sigmoid(r) tanh(r / 2), standard errors between chains."""
    steps = torch.stack([_proposals(50, generator) for _ in range(6)], 1)
    meters = []
    for block in steps.split([20, 30]):
        meter = RatioMeter()
        for t in range(6):
            meter = meter.update(block[:, t])
        meters.append(meter)
    result = RatioMeter().merge(meters[0]).merge(meters[1]).finish()
    r = steps.numpy()
    assert (result.n, result.skipped, result.capped) == (300, 0, 0)
    for mean, error, values in (
        (result.mean_exp, result.mean_exp_error, np.exp(r)),
        (result.balance, result.balance_error, np.tanh(r / 2) / (1 + np.exp(-r))),
    ):
        assert mean == pytest.approx(values.mean(), rel=1e-12)
        assert error == pytest.approx(values.mean(1).std(ddof=1) / math.sqrt(50), rel=1e-12)


def test_an_update_leaves_the_old_meter_as_it_was(generator):
    old = RatioMeter().update(_proposals(5, generator))
    before = old.finish()
    old.update(_proposals(5, generator))
    assert old.finish() == before


def test_standard_errors_allow_for_autocorrelation():
    """The same ratio ten times over says no more than once."""
    r = torch.linspace(-1, 1, 40, dtype=torch.float64)
    once, ten = RatioMeter().update(r), RatioMeter()
    for _ in range(10):
        ten = ten.update(r)
    assert ten.finish().mean_exp_error == pytest.approx(once.finish().mean_exp_error, rel=1e-12)


def test_ratios_that_are_not_finite():
    """nan and both infinities are skipped: where U is not finite there is no reverse move to balance; 31 enters at the cap."""
    r = torch.tensor([math.nan, 0.0, -math.inf, math.inf, 31.0])
    result = RatioMeter().update(r).finish()
    assert (result.n, result.skipped, result.capped) == (2, 3, 1)
    assert result.mean_exp == pytest.approx((1 + math.exp(30)) / 2, rel=1e-12)
    assert result.balance == pytest.approx((0 + 1) / 2, abs=1e-12)
    assert math.isfinite(result.mean_exp_error) and math.isfinite(result.balance_error)
    assert result.balance_error == pytest.approx(np.std([0, 1], ddof=1) / math.sqrt(2), rel=1e-9)


def test_a_chain_that_gave_only_nan_is_no_chain():
    """Not in the mean and not in the number of chains behind the standard error."""
    r = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    with_nan = RatioMeter().update(torch.cat([r, torch.full((2,), math.nan, dtype=torch.float64)])).finish()
    without = RatioMeter().update(r).finish()
    assert with_nan.mean_exp == without.mean_exp and with_nan.balance_error == pytest.approx(without.balance_error)


def test_a_meter_that_saw_nothing_or_one_chain():
    empty = RatioMeter().finish()
    assert empty.n == 0 and math.isnan(empty.mean_exp) and math.isnan(empty.balance_error)
    one = RatioMeter().update(torch.zeros(1)).finish()
    assert one.mean_exp == 1.0 and math.isnan(one.mean_exp_error)


def test_other_chains_need_another_meter():
    with pytest.raises(ValueError, match="one for each chain"):
        RatioMeter().update(torch.zeros(3)).update(torch.zeros(4))


# -------------------------------------------------------------------------------------------------------- the slope


def _tilted(n, m, beta, generator):
    """Energies of a base whose E ~ N(0, 1), and of its law tilted by exp(-beta E): N(-beta, 1). Slope beta exactly."""
    fake = torch.randn(m, generator=generator, dtype=torch.float64)
    return torch.randn(n, generator=generator, dtype=torch.float64) - beta, fake


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e3, 1e5)])
def test_the_slope_is_sklearns(generator, scale, offset):
    """Whatever the unit and zero of the energy; the intercept as well, with unequal numbers."""
    real, fake = (scale * e + offset for e in _tilted(300, 700, 1.3, generator))
    slope = logistic_slope(real, fake)
    design = (torch.cat([real, fake])[:, None].numpy() - offset) / scale
    other = LogisticRegression(C=math.inf, tol=1e-12, max_iter=1000).fit(design, np.repeat([1, 0], [300, 700]))
    assert slope.value * scale == pytest.approx(-other.coef_[0, 0], rel=1e-5)
    assert slope.intercept - slope.value * offset == pytest.approx(other.intercept_[0], rel=1e-4)
    assert (slope.n_real, slope.n_fake) == (300, 700)


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_standard_error_covers_the_known_slope(generator, beta):
    """Of 300 fits, (b - beta) / SE has mean 0 and standard deviation 1 within 4 standard errors."""
    fits = [logistic_slope(*_tilted(400, 600, beta, generator)) for _ in range(300)]
    z = np.array([(fit.value - beta) / fit.standard_error for fit in fits])
    assert abs(z.mean()) < 4 / math.sqrt(len(z)), z.mean()
    assert abs(z.std(ddof=1) - 1) < 4 / math.sqrt(2 * len(z)), z.std(ddof=1)
    assert fits[0].z == (fits[0].value - 1) / fits[0].standard_error


def test_an_energy_of_the_wrong_sign_has_a_negative_slope(generator):
    real, fake = _tilted(500, 500, 1.0, generator)
    assert logistic_slope(-real, -fake).value == pytest.approx(-logistic_slope(real, fake).value, rel=1e-9)
    assert logistic_slope(real, fake).value > 0


def test_sets_that_hardly_overlap_still_have_a_slope(generator):
    """Full Newton steps diverge here; the score at the answer is zero."""
    real, fake = torch.linspace(0, 1, 500).double(), torch.linspace(0.999, 60, 500).double()
    slope = logistic_slope(real, fake)
    energies = torch.cat([real, fake]).numpy()
    residual = np.repeat([1, 0], 500) - expit(slope.intercept - slope.value * energies)
    assert abs(residual.sum()) < 1e-6 and abs((residual * energies).sum()) < 1e-5
    assert slope.value > 0


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        ([0.0, 1.0], [2.0, 3.0], "separates"),
        ([2.0, 3.0], [0.0, 1.0], "separates"),
        ([0.0, 1.0], [1.0, 2.0], "separates"),
        ([1.0, 1.0], [1.0], "the same everywhere"),
        ([], [1.0], "at least one"),
        ([1.0, math.nan], [0.0, math.inf], "2 of 4 energies are not finite"),
    ],
)
def test_energies_without_a_slope_are_refused(real, fake, message):
    with pytest.raises(ValueError, match=message):
        logistic_slope(torch.tensor(real), torch.tensor(fake))


def test_energies_that_meet_in_more_than_an_edge_have_a_slope():
    assert math.isfinite(logistic_slope(torch.tensor([1.0]), torch.tensor([0.0, 2.0])).value)
