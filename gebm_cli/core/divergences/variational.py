"""f-divergences of two samples from below, through critics v for log dP/dQ that judge rows which they were not learned from.

Cross-fitting: a critic is learned on each half of the rows and evaluated on the other, and the two bounds (core/divergences/bounds)
are averaged; every row counts once. What a bound lacks to the divergence is its critic's. 0 is a lower bound too, and stands for
what is below.

v is kept between -log n and log m (for chi^2 3/4 log m), n and m the rows learned from: a ratio beyond cannot have been seen
(and no clipping makes a bound invalid). Where the held-out samples are separated entirely, KL and chi^2 are reported as infinite,
see `Separation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import beta
from torch import Tensor

from gebm_cli.core.divergences.bounds import ENOUGH, Bound, Half, cross_fitted
from gebm_cli.core.divergences.critics import Critic, averaged, learn_critic
from gebm_cli.core.divergences.names import F_DIVERGENCES, FEWEST_ROWS, Kind
from gebm_cli.core.progress import Begin, silent
from gebm_cli.core.two_sample.selection import split_rows

CONFIDENCE = 0.95  # of `at_least`


@dataclass(frozen=True)
class Separation:
    """How the critic's sign tells held-out rows apart: `misjudged` of `rows`.

    `entire` says that all n + m held-out rows are judged right, and each with |v| > log n or log m (of its half, where two critics
    share them): the critic expects less than one error among them. Then KL and chi^2 may be infinite, or finite and too large for
    these rows to measure; nothing tells the two apart. `kl` and `chi2` are what they are at least, with 95 % confidence: those of
    the two-point laws (P(v > 0), Q(v > 0)) at their exact binomial limits (Clopper & Pearson 1934), by the data-processing
    inequality. Two critics that judge half of the rows each have mean shares, whose divergences are no more: they are convex.
    """

    misjudged: int
    rows: int
    entire: bool
    kl: float
    chi2: float


@dataclass(frozen=True)
class Bounds:
    """The bounds by kind, the mean v of the two critics, what they do to the rows that they have not seen, and how many rows:
    `n_train` that one of them learns from, `n_held_out` that are judged, all of them.
    """

    by_kind: dict[Kind, Bound]
    critic: Critic
    separation: Separation
    n_train: tuple[int, int]
    n_held_out: tuple[int, int]


def f_divergences(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    kinds: Sequence[Kind] = F_DIVERGENCES,
    image_shape: tuple[int, int, int] | None = None,
    begin: Begin = silent,
) -> Bounds:
    """Lower bounds of D_f(P || Q) from x (n, d) of P and y (m, d) of Q; `image_shape` (c, h, w) where rows are flattened images.

    KL and chi^2 ask for P << Q: where P has mass and Q none they are infinite. They are not symmetric.

    Raises:
        ValueError: fewer than 8 rows in a sample.
    """
    fewest = FEWEST_ROWS["kl"]
    if min(len(x), len(y)) < fewest:
        raise ValueError(f"f-divergences need {fewest} rows of each sample, got {len(x)} and {len(y)}")
    splits = [split_rows(len(side), 0.5, generator) for side in (x, y)]
    rows = [
        [side[getattr(s, part).to(side.device)] for side, s in zip((x, y), splits, strict=True)]
        for part in ("train", "test")
    ]
    critics = [learn_critic(half[0], half[1], generator, image_shape, begin) for half in rows]
    halves = [_judged(rows[0], critics[1], critics[0]), _judged(rows[1], critics[0], critics[1])]
    critic, held = averaged(critics), [torch.cat([half.at[side] for half in halves]) for side in (0, 1)]
    apart = separation_of(held[0], held[1], ENOUGH if critic.learned else 1, len(critics))
    found = {kind: _reported(kind, cross_fitted(kind, halves), apart) for kind in kinds}
    return Bounds(found, critic, apart, (len(rows[0][0]), len(rows[0][1])), (len(x), len(y)))


def _judged(rows: list[Tensor], critic: Critic, other: Critic) -> Half:
    at, seen = ((c.logits(rows[0]), c.logits(rows[1])) for c in (critic, other))
    return Half(at, seen, critic.floor, critic.ceiling)


def separation_of(at_x: Tensor, at_y: Tensor, enough: int = ENOUGH, n_critics: int = 1) -> Separation:
    """The separation by v, not clipped, at held-out rows of P (n,) and of Q (m,), of which each critic judges one part of
    `n_critics`; below `enough` rows a side it is never entire."""
    n, m = len(at_x), len(at_y)
    missed_x, missed_y = int((at_x <= 0).sum()), int((at_y > 0).sum())
    apart = min(n, m) >= enough and at_x.min() > math.log(n / n_critics) and at_y.max() < -math.log(m / n_critics)
    tail = (1 - CONFIDENCE) / 2
    p = float(beta.ppf(tail, n - missed_x, missed_x + 1)) if missed_x < n else 0.0
    q = float(beta.ppf(1 - tail, missed_y + 1, m - missed_y)) if missed_y < m else 1.0
    return Separation(missed_x + missed_y, n + m, bool(apart), *(_two_point(p, q) if p > q else (0.0, 0.0)))


def _two_point(p: float, q: float) -> tuple[float, float]:
    """KL and chi^2 of the laws (p, 1 - p) and (q, 1 - q), 0 < q < p < 1."""
    kl = p * math.log(p / q) + (1 - p) * (math.log1p(-p) - math.log1p(-q))
    return kl, (p - q) ** 2 / (q * (1 - q))


def _reported(kind: Kind, found: Bound, apart: Separation) -> Bound:
    if not apart.entire or kind not in ("kl", "chi2"):
        return found
    at_least = apart.kl if kind == "kl" else apart.chi2
    return Bound(math.inf, math.nan, True, at_least, found.clipped, found.carried)
