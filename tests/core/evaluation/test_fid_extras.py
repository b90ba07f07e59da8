"""Extrapolated FID and its interval: against an independent fit, and against the truth over simulated data sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gebm_cli.core.evaluation.fid_extras import fid_bootstrap, fid_infinity
from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.interval import Interval
from gebm_cli.core.evaluation.moments import Moments, moments

SHIFTS = {"P = Q": (0.0, 1.0), "near": (0.1, 1.1), "far": (0.3, 1.5)}


def _features(n, spectrum, generator, mean=0.0):
    return torch.randn(n, len(spectrum), generator=generator, dtype=torch.float64) * spectrum.sqrt() + mean


def _law(d, shift):
    """Reference variances, those of the model, its mean, and the true FID of the two normal laws."""
    mean, scale = SHIFTS[shift]
    spectrum = torch.logspace(0, -1, d, dtype=torch.float64)
    truth = d * mean**2 + ((1 - math.sqrt(scale)) ** 2 * spectrum).sum().item()
    return spectrum, spectrum * scale, mean, truth


def _coverage(d, n, shift, runs, repetitions, as_moments=False):
    """The share of simulated intervals that hold the true FID, and the values."""
    generator = torch.Generator().manual_seed(3)
    spectrum, model, mean, truth = _law(d, shift)
    known = Moments(None, torch.zeros(d, dtype=torch.float64), spectrum.diag())
    intervals = []
    for seed in range(runs):
        x, y = _features(n, model, generator, mean), _features(n, spectrum, generator)
        intervals.append(fid_bootstrap(x, known if as_moments else y, repetitions, seed))
    held = [interval.contains(truth) for interval in intervals]
    return float(np.mean(held)), np.array([interval.value - truth for interval in intervals])


# ---------------------------------------------------------------------------------------------------------------- interval


def test_interval_contains_its_ends():
    """Both ends belong to it, nothing beyond."""
    interval = Interval(1.0, 2.0, 0.95)
    assert [interval.contains(x) for x in (0.99, 1.0, 1.5, 2.0, 2.01)] == [False, True, True, True, False]


# ----------------------------------------------------------------------------------------------------------- extrapolation


def test_extrapolation_is_numpys_fit_of_its_values(generator):
    """Intercept, slope and the fit's error are those of numpy.polyfit in 1 / N; the last value is FID itself."""
    x, y = _features(600, torch.ones(6), generator, 0.2), _features(500, torch.ones(6), generator)
    result = fid_infinity(x, y, seed=0)
    (slope, intercept), covariance = np.polyfit(1 / np.array(result.sizes), result.values, 1, cov=True)
    assert result.value == pytest.approx(intercept, rel=1e-9)
    assert result.slope == pytest.approx(slope, rel=1e-9)
    assert result.fit_error == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-6)
    whole = frechet_distance(x, y)
    assert result.values[-1] == pytest.approx(whole.value, rel=1e-10)
    assert result.standard_error == pytest.approx(math.hypot(whole.standard_error, result.fit_error), rel=1e-9)


def test_extrapolation_draws_from_its_seed_only(generator):
    """One seed, one result; another seed, other subsets; torch's own stream is not touched."""
    x, y = _features(400, torch.ones(4), generator), moments(_features(300, torch.ones(4), generator))
    state = torch.get_rng_state()
    first, again, other = (fid_infinity(x, y, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.values != other.values
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("n", "d", "first"), [(1000, 4, 100), (1000, 99, 200), (60_000, 1, 5000)], ids=["tenth", "dimension", "5000"]
)
def test_sizes_of_the_extrapolation(n, d, first, generator):
    """15 equally spaced sizes up to n, from n / 10, but neither below 2 (d + 1) nor above 5,000; every step is told."""
    told = []
    known = Moments(None, torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    result = fid_infinity(_features(n, torch.ones(d), generator), known, 0, on_step=lambda *step: told.append(step))
    np.testing.assert_allclose(result.sizes, np.linspace(first, n, 15), atol=0.51)
    assert told == [(k, 15) for k in range(1, 16)]


@pytest.mark.parametrize(("n", "d", "sizes"), [(34, 9, 15), (100, 2, 2)])
def test_too_few_rows_cannot_be_extrapolated(n, d, sizes, generator):
    """Too few rows for the dimension, or too few sizes for a line with an error, is a ValueError."""
    known = Moments(None, torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"over {sizes} sizes"):
        fid_infinity(_features(n, torch.ones(d), generator), known, 0, n_sizes=sizes)


def test_extrapolation_removes_the_bias():
    """Over 40 data sets (d = 8, n = 500, reference known) the mean is within 4 errors of the truth, FID is not within 10."""
    generator = torch.Generator().manual_seed(4)
    spectrum, model, mean, truth = _law(8, "near")
    known = Moments(None, torch.zeros(8, dtype=torch.float64), spectrum.diag())
    runs = [fid_infinity(_features(500, model, generator, mean), known, seed) for seed in range(40)]
    z = [
        (np.mean(values) - truth) / (np.std(values, ddof=1) / math.sqrt(40))
        for values in ([r.value for r in runs], [r.values[-1] for r in runs])
    ]
    assert abs(z[0]) < 4, f"z = {z[0]:.1f}"
    assert z[1] > 5, f"the plain distance is biased by z = {z[1]:.1f} only"


@pytest.mark.slow
@pytest.mark.parametrize("shift", ["near", "far"])
def test_error_of_the_extrapolation(shift):
    """Over 300 data sets (d = 16, n = 1,000) the combined error is within 15 % of the spread; the fit's is half of it."""
    generator = torch.Generator().manual_seed(5)
    spectrum, model, mean, truth = _law(16, shift)
    known = Moments(None, torch.zeros(16, dtype=torch.float64), spectrum.diag())
    runs = [fid_infinity(_features(1000, model, generator, mean), known, seed) for seed in range(300)]
    spread = np.std([r.value for r in runs], ddof=1)
    combined, alone = (
        np.sqrt(np.mean(np.square(e))) / spread for e in zip(*((r.standard_error, r.fit_error) for r in runs))
    )
    held = np.mean([abs(r.value - truth) < 1.96 * r.standard_error for r in runs])
    print(f"{shift}: combined / spread {combined:.3f}, fit alone {alone:.3f}, coverage {held:.3f}")
    assert abs(combined - 1) < 0.15, f"combined {combined:.3f}"
    assert alone < 0.7, f"fit alone {alone:.3f}"
    assert held > 0.90, f"coverage {held:.3f}"


# --------------------------------------------------------------------------------------------------------------- bootstrap


@pytest.mark.parametrize(("shift", "as_moments"), [("P = Q", False), ("near", False), ("far", True)])
def test_interval_holds_the_truth(shift, as_moments):
    """25 small data sets (d = 6, n = 300): no fewer than 95 % less four errors hold it, and the value has no bias."""
    held, errors = _coverage(6, 300, shift, 25, 39, as_moments)
    assert held >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 25), f"{held:.2f} held"
    z = errors.mean() / (errors.std(ddof=1) / math.sqrt(25))
    assert abs(z) < 4, f"value biased by {errors.mean():.4f}, z = {z:.1f}"


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(8, 500), (64, 1000), (64, 200)])
@pytest.mark.parametrize("shift", SHIFTS)
def test_coverage_over_300_data_sets(d, n, shift):
    """The promise: at nominal 95 %, at least 90 % of 300 intervals hold the true FID, at P = Q and at two shifts."""
    held, errors = _coverage(d, n, shift, 300, 100)
    print(f"d = {d}, n = {n}, {shift}: {held:.3f} held, bias of the value {errors.mean():+.4f}, sd {errors.std():.4f}")
    assert held >= 0.90, f"{held:.3f}"


def test_interval_is_around_its_value_and_not_below_zero(generator):
    """The value is FID less the bias, inside the interval; a set against itself gives an interval from 0."""
    x, y = _features(300, torch.ones(5), generator, 0.5), _features(200, torch.ones(5), generator)
    result = fid_bootstrap(x, y, 50, seed=0)
    assert result.value + result.bias == pytest.approx(frechet_distance(x, y).value, rel=1e-10)
    assert 0 < result.low < result.value < result.high
    assert (fid_bootstrap(x, x, 50, seed=0).low, result.level) == (0.0, 0.95)


def test_interval_is_wider_at_a_higher_level_and_wider_with_a_sampled_reference(generator):
    """Levels nest, and a reference of features adds its own spread to that of fixed moments."""
    x, y = _features(300, torch.ones(5), generator, 0.5), _features(100, torch.ones(5), generator)
    half, most, fixed = (
        fid_bootstrap(x, ref, 199, 0, level) for ref, level in ((y, 0.5), (y, 0.99), (moments(y), 0.99))
    )
    assert most.low < half.low < half.high < most.high
    assert fixed.high - fixed.low < 0.8 * (most.high - most.low)


def test_spread_of_the_interval_is_the_delta_methods(generator):
    """Far from zero, half the width of the 95 % interval is 1.96 standard errors, within 20 %, at n != m."""
    x, y = _features(2000, torch.ones(3), generator, 1.0).float(), _features(1000, torch.ones(3), generator)
    result, error = fid_bootstrap(x, y, 400, seed=0), frechet_distance(x, y).standard_error
    assert (result.high - result.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.2)


def test_resampled_moments_are_those_of_the_drawn_rows(generator, monkeypatch):
    """Counts give numpy.cov of the rows written out, in blocks as well."""
    from gebm_cli.core.evaluation import fid_extras

    monkeypatch.setattr(fid_extras, "BLOCK", 7)
    x = _features(40, torch.ones(4), generator, 2.0)
    result = fid_extras._resampled(x, moments(x), torch.Generator().manual_seed(9))
    drawn = x[torch.randint(40, (40,), generator=torch.Generator().manual_seed(9))].numpy()
    np.testing.assert_allclose(result.mean, drawn.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(drawn, rowvar=False), rtol=1e-10, atol=1e-12)


def test_ends_are_order_statistics():
    """At 95 % of 39 repetitions the ends are the smallest and the largest, of 79 the second from either end; 38 are too few."""
    from gebm_cli.core.evaluation.fid_extras import _interval

    for count, k in ((39, 1), (79, 2)):
        resampled = torch.linspace(-1, 1, count, dtype=torch.float64).square()
        ordered = (resampled - resampled.mean()).sort().values
        result = _interval(10.0, torch.tensor([12.0, 13.0]).double(), resampled, 0.95)
        assert (result.value, result.bias) == (7.5, 2.5)
        assert result.low == pytest.approx(7.5 - ordered[-k].item(), rel=1e-9)
        assert result.high == pytest.approx(7.5 - ordered[k - 1].item(), rel=1e-9)
    with pytest.raises(ValueError, match="more than 38 repetitions"):
        fid_bootstrap(torch.randn(20, 2), torch.randn(20, 2), 38, 0)


def test_bootstrap_draws_from_its_seed_only(generator):
    """One seed, one interval; another seed, another; torch's own stream is not touched, and every step is told."""
    x, y = _features(60, torch.ones(3), generator), _features(50, torch.ones(3), generator)
    state, told = torch.get_rng_state(), []
    first = fid_bootstrap(x, y, 39, 0, on_step=lambda *step: told.append(step))
    assert first == fid_bootstrap(x, y, 39, 0)
    assert first != fid_bootstrap(x, y, 39, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [(k, 47) for k in range(1, 48)]


@pytest.mark.parametrize(("n", "m"), [(7, 50), (50, 7)])
def test_too_few_rows_have_no_interval(n, m, generator):
    """Fewer than 2 (d + 1) rows on a resampled side is a ValueError; with moments there, that side does not count."""
    x, y = _features(n, torch.ones(3), generator), _features(m, torch.ones(3), generator)
    with pytest.raises(ValueError, match="at least 8 rows a set at d = 3, got 7"):
        fid_bootstrap(x, y, 39, 0)
    if m == 7:
        assert fid_bootstrap(x, moments(y), 39, 0).high > 0
