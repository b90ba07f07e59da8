"""f-divergences of two samples from below, all through one critic v for log dP/dQ, learned on half of the rows.

    D_f(P || Q) >= E_P[T(v)] - E_Q[f*(T(v))]     for every v, with equality at v = log dP/dQ (core/objectives/f_divergences)

The right side is a mean over rows that the critic has not seen, so the estimate is unbiased for the bound that this critic gives,
with an ordinary standard error; what it lacks to the divergence is the critic's. Half of the rows is learned from.

v is kept between -log n and log m, n and m the rows learned from: a ratio beyond cannot have been seen (and no clipping makes the
bound invalid). Where the held-out samples are separated entirely, KL and chi^2 are reported as infinite, see `Separation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import beta
from torch import Tensor

from gebm_cli.core.divergences.critics import Critic, learn_critic
from gebm_cli.core.divergences.names import F_DIVERGENCES, FEWEST_ROWS, Kind
from gebm_cli.core.objectives.f_divergences import DUALS, Name
from gebm_cli.core.progress import Begin, silent
from gebm_cli.core.two_sample.selection import split_rows

CONFIDENCE = 0.95  # of `at_least`
ENOUGH = 50  # held-out rows a side on which a learned critic's word is taken for a separation

_DUAL: dict[Kind, tuple[Name, float]] = {
    "kl": ("kl", 1.0),
    "js": ("js", 0.5),  # the dual's f is that of twice the Jensen-Shannon divergence
    "chi2": ("pearson", 1.0),
    "hellinger": ("hellinger", 1.0),
}


@dataclass(frozen=True)
class Separation:
    """How the critic's sign tells held-out rows apart: `misjudged` of `rows`.

    `entire` says that all n + m held-out rows are judged right, and each with |v| > log n or log m: the critic expects less
    than one error among them. Then KL and chi^2 may be infinite, or finite and too large for these rows to measure; nothing
    tells the two apart. `kl` and `chi2` are what they are at least, with 95 % confidence: those of the two-point laws
    (P(v > 0), Q(v > 0)) at their exact binomial limits (Clopper & Pearson 1934), by the data-processing inequality.
    """

    misjudged: int
    rows: int
    entire: bool
    kl: float
    chi2: float


@dataclass(frozen=True)
class Bound:
    """A lower bound and its standard error; for `infinite` ones inf and nan, and `at_least` holds with 95 % confidence."""

    value: float
    standard_error: float
    infinite: bool = False
    at_least: float | None = None


@dataclass(frozen=True)
class Bounds:
    """The bounds by kind, the critic v, and what it does to the held-out rows."""

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
    fit, held = (
        [side[getattr(s, part).to(side.device)] for side, s in zip((x, y), splits, strict=True)]
        for part in ("train", "test")
    )
    critic = learn_critic(fit[0], fit[1], generator, image_shape, begin)
    at_x, at_y = critic.value(held[0]), critic.value(held[1])
    apart = separation_of(critic.logits(held[0]), critic.logits(held[1]), ENOUGH if critic.learned else 1)
    found = {kind: _reported(kind, bound(kind, at_x, at_y), apart) for kind in kinds}
    return Bounds(found, critic, apart, (len(fit[0]), len(fit[1])), (len(at_x), len(at_y)))


def bound(kind: Kind, at_x: Tensor, at_y: Tensor) -> Bound:
    """The bound from v = log dP/dQ at rows of P, (n,), and of Q, (m,), with sqrt(var T(v_x) / n + var f*(T(v_y)) / m).

    For `tv` T = sign(v) / 2, the optimum; the smooth T of the training objective gives less. The error is nan where few rows
    all have one value: it would be 0.
    """
    if kind == "tv":
        on_x, on_y = at_x.sign() / 2, at_y.sign() / 2
    else:
        name, factor = _DUAL[kind]
        on_x, on_y = factor * DUALS[name].on_data(at_x), factor * DUALS[name].on_base(at_y)
    error = math.sqrt(on_x.var().item() / len(on_x) + on_y.var().item() / len(on_y))
    value = (on_x.mean() - on_y.mean()).item()
    unknown = error <= 1e-12 * abs(value) and value != 0 and min(len(on_x), len(on_y)) < ENOUGH
    return Bound(value, math.nan if unknown else error)


def separation_of(at_x: Tensor, at_y: Tensor, enough: int = ENOUGH) -> Separation:
    """The separation by v, not clipped, at held-out rows of P (n,) and of Q (m,); below `enough` rows a side it is never entire."""
    n, m = len(at_x), len(at_y)
    missed_x, missed_y = int((at_x <= 0).sum()), int((at_y > 0).sum())
    apart = min(n, m) >= enough and at_x.min() > math.log(n) and at_y.max() < -math.log(m)
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
    return Bound(math.inf, math.nan, True, apart.kl if kind == "kl" else apart.chi2)
