"""Predicted power against real tests, the formula against brute force, and pilots that show nothing."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.two_sample_problems import blob
from scipy.stats import norm

from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.two_sample.aggregation import kernel_test
from gebm_cli.core.two_sample.sample_size import power_curve, threshold

KERNEL = Gaussian(2.0)
SIZES = [10, 20, 40, 80, 160]


def shift(n, generator, different=False):
    points = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    points[:, 0] += 0.7 * different
    return points


def _pilot(n, m, generator, kernel=KERNEL, draw=shift, different=True, b=199):
    x, y = draw(n, generator), draw(m, generator, different)
    return x, y, kernel, kernel_test(x, y, kernel, b, generator).null


def _rejections(n, runs, generator, kernel, draw):
    pairs = ((draw(n, generator), draw(n, generator, True)) for _ in range(runs))
    return sum(kernel_test(x, y, kernel, 99, generator).p_value <= 0.05 for x, y in pairs) / runs


@pytest.mark.parametrize(("draw", "kernel", "pilot", "n"), [(shift, KERNEL, 60, 40), (blob, Gaussian(0.12), 180, 90)])
def test_prediction_is_the_power_of_real_tests(draw, kernel, pilot, n, generator):
    """The mean prediction of 40 pilots is the share of 80 real tests that reject, and the bands hold it as often as they say.

    The tolerance is three standard errors and the shift of a mean of a curved function; measured: .67 for .67, .28 for .21.
    """
    real = _rejections(n, 80, generator, kernel, draw)
    curves = [power_curve(*_pilot(pilot, pilot, generator, kernel, draw), 0.05, [n]) for _ in range(40)]
    power = torch.stack([c.power for c in curves])[:, 0]
    error = math.sqrt(real * (1 - real) / 80 + power.var().item() / 40)
    assert abs(power.mean().item() - real) < 3 * error + 0.08, f"{power.mean():.3f} against {real:.3f}"
    held = sum(c.low.item() <= real <= c.high.item() for c in curves)
    assert held >= 24, f"{held} of 40 bands of 80 % hold {real:.3f}"


def test_needed_size_is_where_the_curve_reaches_the_target(generator):
    """At the needed size the predicted power is the target, one row fewer is below it; the ends of the band likewise."""
    for target in (0.3, 0.5, 0.8, 0.99):
        x, y, kernel, null = _pilot(60, 45, generator)
        curve = power_curve(x, y, kernel, null, 0.05, SIZES, target)
        for key, which in (("needed", "power"), ("needed_low", "high"), ("needed_high", "low")):
            n = getattr(curve, key)
            if math.isinf(n):
                continue
            at, before = getattr(
                power_curve(x, y, kernel, null, 0.05, [int(n), max(2, int(n) - 1)], target), which
            ).tolist()
            assert at >= target - 1e-9 and (n == 2 or before < target), f"{key} {n}: {before} then {at}"


def test_formula(generator):
    """With equal sizes the power is Phi((M - c/n) / sqrt(L/n + Q/n^2)), from quantities computed here again."""
    x, y, kernel, null = _pilot(50, 50, generator)
    estimate, n0 = mmd2(x, y, kernel), 50
    variance = null.var(correction=0).item()
    linear = max(n0 * estimate.standard_error**2 - 2 * n0 * variance, 0.0)
    cut = n0 * null.sort(descending=True).values[9].item()
    for n, power in zip(SIZES, power_curve(x, y, kernel, null, 0.05, SIZES).power.tolist()):
        spread = math.sqrt(linear / n + n0**2 * variance / n**2)
        assert power == pytest.approx(max(0.05, norm.cdf((estimate.value - cut / n) / spread)), rel=1e-9)


def test_curve_is_ordered(generator):
    """Over many pilots, null ones too: alpha <= low <= power <= high <= 1, all rising with n, and the sizes needed in order."""
    for k in range(30):
        pilot = _pilot(8 + 3 * k, 60 - k, generator, different=k % 3 > 0, b=99)
        curve = power_curve(*pilot, 0.05, SIZES)
        stacked = torch.stack([curve.low, curve.power, curve.high])
        assert (stacked.diff(dim=0) >= 0).all() and (stacked.diff(dim=1) >= -1e-12).all(), stacked
        assert stacked.min() >= 0.05 and stacked.max() <= 1
        assert 2 <= curve.needed_low <= curve.needed <= curve.needed_high


def test_a_larger_pilot_narrows_the_band(generator):
    """Four times the rows about halve the band; unequal sizes predict the same curve in the mean."""

    def width(n, m):
        curves = [power_curve(*_pilot(n, m, generator), 0.05, [40]) for _ in range(25)]
        return sum((c.high - c.low).item() for c in curves) / 25, sum(c.power.item() for c in curves) / 25

    (wide, power), (narrow, closer), (_, unequal) = width(60, 60), width(240, 240), width(50, 200)
    assert narrow < 0.65 * wide, f"{narrow:.3f} against {wide:.3f}"
    assert abs(unequal - closer) < 0.15 and abs(power - closer) < 0.15, f"{power:.3f} {closer:.3f} {unequal:.3f}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pilot_without_a_difference_promises_nothing(dtype, generator):
    """With MMD^2 <= 0, on constant data too, the power is alpha and the needed size is inf, which is "unknown"."""
    constant = torch.full((6, 2), 0.1, dtype=dtype)
    curve = power_curve(constant, constant, KERNEL, torch.zeros(99), 0.05, SIZES)
    assert curve.power.tolist() == [0.05] * 5 == curve.low.tolist() and math.isinf(curve.needed)
    draws = (torch.randn(2, 40, 2, generator=generator, dtype=dtype) for _ in range(100))
    x, y = next(pair for pair in draws if -0.005 < mmd2(pair[0], pair[1], KERNEL).value < 0)
    curve = power_curve(x, y, KERNEL, kernel_test(x, y, KERNEL, 99, generator).null, 0.05, SIZES)
    assert (curve.power == 0.05).all() and math.isinf(curve.needed) and math.isinf(curve.needed_high)
    assert curve.high.max() > 0.05 and 160 > curve.needed_low > 10  # but it may have missed one


def test_a_clear_difference_needs_few_rows(generator):
    """Two laws far apart: power 1 at all sizes but the smallest, and a small, certain size."""
    x, y = torch.randn(50, 2, generator=generator), torch.randn(50, 2, generator=generator) + 20
    curve = power_curve(x, y, KERNEL, kernel_test(x, y, KERNEL, 199, generator).null, 0.05, SIZES)
    assert curve.low[0] > 0.99 and curve.needed_high <= 10


@pytest.mark.parametrize(
    ("b", "alpha", "rank"), [(99, 0.05, 5), (199, 0.05, 10), (19, 0.05, 1), (100, 0.05, 5), (9, 0.9, 9)]
)
def test_threshold_is_the_p_value_rule(b, alpha, rank, generator):
    """A statistic above it has (1 + count) / (1 + B) <= alpha; one that ties with it has not."""
    null = torch.randn(b, generator=generator, dtype=torch.float64)
    cut = threshold(null, alpha)
    assert cut == null.sort(descending=True).values[rank - 1]
    p = [(1 + int((null >= value).sum())) / (1 + b) for value in (cut, math.nextafter(cut, math.inf))]
    assert p[1] <= alpha + 1e-12 < p[0]


def test_what_cannot_be_planned_is_refused(generator):
    """Too few rows, no size, a level that no relabeling reaches, a target below the level."""
    x, y, kernel, null = _pilot(8, 8, generator, b=19)
    for rows, sizes in ((1, [10]), (8, []), (8, [1])):
        with pytest.raises(ValueError, match="at least 2 rows"):
            power_curve(x[:rows], y, kernel, null, 0.05, sizes)
    with pytest.raises(ValueError, match="at least 1 / \\(19 \\+ 1\\) and below 1, got 0.01"):
        power_curve(x, y, kernel, null, 0.01, [10])
    for target in (0.05, 1.0):
        with pytest.raises(ValueError, match="`target` must lie between"):
            power_curve(x, y, kernel, null, 0.05, [10], target)
