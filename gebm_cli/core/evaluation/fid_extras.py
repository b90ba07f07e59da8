"""Two ways round the bias of FID, b / n with b unknown and different for every model: extrapolation and an interval.

Both form moments of parts of the features at hand, and go through no network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.interval import Interval
from gebm_cli.core.evaluation.moments import BLOCK, Moments, gram, moments

Reference = Tensor | Moments
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class FidInfinity:
    """FID extrapolated to infinitely many samples of the model.

    Attributes:
        value: the intercept of FID against 1 / N.
        standard_error: its spread over repetitions, sqrt(SE(FID at n)^2 + fit_error^2).
        slope: the b of a + b / N.
        sizes: the N of the fit, ascending; the last is n.
        values: FID at each.
        fit_error: the error of the intercept that least squares gives by itself. It sees only how subsets of this one sample
            differ, not how another sample would, and is too small to be quoted.
    """

    value: float
    standard_error: float
    slope: float
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    fit_error: float


@dataclass(frozen=True)
class FidInterval(Interval):
    """An interval for the FID of the two laws themselves, around `value`, the FID at hand less its estimated `bias`."""

    value: float
    bias: float


def _no_report(done: int, total: int) -> None:
    """Nobody watches."""


def fid_infinity(
    x: Tensor, reference: Reference, seed: int, n_sizes: int = 15, on_step: OnStep = _no_report
) -> FidInfinity:
    """FID_inf of features x (n, d) by a straight line in 1 / N (Chong and Forsyth, 2020).

    N runs over `n_sizes` equally spaced sizes, from min(5000, n / 10) but at least 2 (d + 1), to n; each takes a fresh random
    subset of x without replacement. The reference stays as it is, so its own bias, b / m, remains.
    Deviation: the first size is kept above the dimension; below it covariances are singular and FID is no line in 1 / N.
    Terms in 1 / N^2 stay: at n = 16 d the intercept is about a tenth of the bias too low.

    Raises:
        ValueError: n is less than 2 (d + 1) + n_sizes.
    """
    n, d = x.shape
    first = max(min(5000, n // 10), 2 * (d + 1))
    if n < first + n_sizes or n_sizes < 3:
        raise ValueError(f"extrapolation over {n_sizes} sizes needs n >= {first + n_sizes} rows at d = {d}, got {n}")
    generator = torch.Generator().manual_seed(seed)
    fixed = reference if isinstance(reference, Moments) else moments(reference)
    sizes = [round(first + (n - first) * k / (n_sizes - 1)) for k in range(n_sizes)]
    values = []
    for done, size in enumerate(sizes, 1):
        part = moments(x[torch.randperm(n, generator=generator)[:size].to(x.device)])
        values.append(frechet_distance(part, fixed).value)
        on_step(done, n_sizes)
    known = fixed if isinstance(reference, Tensor) else None
    sampling = frechet_distance(x, reference, y_moments=known).standard_error or 0.0
    intercept, slope, fit_error = _line([1.0 / size for size in sizes], values)
    return FidInfinity(intercept, math.hypot(sampling, fit_error), slope, tuple(sizes), tuple(values), fit_error)


def _line(t: list[float], v: list[float]) -> tuple[float, float, float]:
    """Least squares v = a + b t: a, b and the standard error of a, s sqrt(1 / k + mean(t)^2 / sum (t - mean)^2)."""
    times, values = torch.tensor(t, dtype=torch.float64), torch.tensor(v, dtype=torch.float64)
    centred = times - times.mean()
    spread = centred.square().sum()
    slope = centred @ values / spread
    intercept = values.mean() - slope * times.mean()
    noise = (values - intercept - slope * times).square().sum() / (len(t) - 2)
    error = (noise * (1.0 / len(t) + times.mean().square() / spread)).sqrt()
    return intercept.item(), slope.item(), error.item()


def fid_bootstrap(
    x: Tensor,
    reference: Reference,
    repetitions: int,
    seed: int,
    level: float = 0.95,
    on_step: OnStep = _no_report,
) -> FidInterval:
    """An interval for FID(P, Q), the laws behind features x (n, d) and the reference; moments as reference count as Q.

    A plain percentile interval of resampled distances does not hold the truth: resampling adds the bias once more. Here

        bias  = mean FID of half samples - FID                (FID = a + b / n, so the halves are b / n higher)
        value = FID - bias
        [low, high] = value - (FID* - mean FID*) at its 1 - alpha / 2 and alpha / 2 quantiles, cut at 0

    with FID* the distances of resampled sets (the basic bootstrap of Davison and Hinkley 1997, ch. 5, centred anew).
    Halves come in complementary pairs, whose errors cancel to first order. The interval is wider than needed near P = Q.
    A repetition costs one covariance of the resampled rows a resampled side, from multinomial counts, and one trace term.

    Raises:
        ValueError: a set with fewer than 2 (d + 1) rows, whose halves would have singular covariances; or so few
            repetitions that none would lie beyond the ends (39 are needed for 95 %).
    """
    if (repetitions + 1) * (1 - level) / 2 < 1 - 1e-9:
        raise ValueError(f"an interval at level {level:g} needs more than {repetitions} repetitions")
    samples = [x] if isinstance(reference, Moments) else [x, reference]
    for rows in samples:
        if len(rows) < 2 * (rows.shape[1] + 1):
            need, d = 2 * (rows.shape[1] + 1), rows.shape[1]
            raise ValueError(f"an interval for FID needs at least {need} rows a set at d = {d}, got {len(rows)}")
    generator, pairs = torch.Generator().manual_seed(seed), max(8, repetitions // 10)
    whole = [moments(rows) for rows in samples]
    fixed = [reference] if isinstance(reference, Moments) else []
    halves, resampled = [], []
    for done in range(pairs):
        for part in zip(*(_halves(rows, generator) for rows in samples), strict=True):
            halves.append(_between([*part, *fixed]))
        on_step(done + 1, pairs + repetitions)
    for done in range(repetitions):
        again = [_resampled(rows, known, generator) for rows, known in zip(samples, whole, strict=True)]
        resampled.append(_between([*again, *fixed]))
        on_step(pairs + done + 1, pairs + repetitions)
    value = _between([*whole, *fixed])
    return _interval(value, torch.tensor(halves).double(), torch.tensor(resampled).double(), level)


def _between(sides: list[Moments]) -> float:
    x, y = sides
    return frechet_distance(x, y).value


def _interval(value: float, halves: Tensor, resampled: Tensor, level: float) -> FidInterval:
    bias = halves.mean().item() - value
    # The k-th of B ordered values stands at k / (B + 1), not (k - 1) / (B - 1): at B = 100 that is 2 % of coverage.
    tail = max(((len(resampled) + 1) * (1 - level) / 2 - 1) / (len(resampled) - 1), 0.0)
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    below, above = (resampled - resampled.mean()).quantile(ends).tolist()
    middle = value - bias
    return FidInterval(max(middle - above, 0.0), max(middle - below, 0.0), level, middle, bias)


def _halves(rows: Tensor, generator: torch.Generator) -> tuple[Moments, Moments]:
    """The moments of a random half of the rows and of the other half."""
    order, half = torch.randperm(len(rows), generator=generator).to(rows.device), len(rows) // 2
    return moments(rows[order[:half]]), moments(rows[order[half:]])


def _resampled(rows: Tensor, known: Moments, generator: torch.Generator) -> Moments:
    """The moments of n rows drawn with replacement, by counts: rows not drawn cost nothing, rows drawn twice cost once."""
    n = len(rows)
    counts = torch.randint(n, (n,), generator=generator).bincount(minlength=n)
    total, scatter = torch.zeros_like(known.mean), torch.zeros_like(known.covariance)
    for start in range(0, n, BLOCK):
        drawn = counts[start : start + BLOCK].nonzero()[:, 0] + start
        root = counts[drawn].double().sqrt()[:, None]
        weighted = (rows[drawn.to(rows.device)].cpu().double() - known.mean) * root
        total += (weighted * root).sum(0)
        scatter += gram(weighted)
    mean = total / n
    return Moments(n, known.mean + mean, (scatter - n * torch.outer(mean, mean)) / (n - 1))
