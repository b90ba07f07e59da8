"""The names of the divergences, and what each number is. Imports no torch, so that a configuration can be checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["w1", "sliced-w1", "sinkhorn", "mmd", "energy-distance", "kale", "kl", "js", "tv", "chi2", "hellinger"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TRANSPORT: tuple[Kind, ...] = ("w1", "sliced-w1", "sinkhorn")
F_DIVERGENCES: tuple[Kind, ...] = ("kl", "js", "tv", "chi2", "hellinger")
OF_A_KERNEL: tuple[Kind, ...] = ("mmd", "kale")  # those that take a kernel by name

FEWEST_ROWS: dict[Kind, int] = {
    kind: 8 if kind in F_DIVERGENCES else 2 if kind in ("mmd", "energy-distance") else 1 for kind in KINDS
}
"""Rows of each sample that a kind needs."""

BY_DEFAULT: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "sinkhorn")  # which takes longer than all others

MOST_TRANSPORTED = 5000
"""Rows of each sample whose transport is solved exactly: 25 million costs take 4 s of one core and 1.2 GB where n = m = 5,000."""

MOST_SINKHORN = 2000
"""Rows of each sample for `sinkhorn`, which runs over all pairs a hundred times: 10 s of one core where n = m = 2,000."""


def most_rows(kind: Kind, n_columns: int) -> int | None:
    """Rows of each sample that a kind can use at most, None without a limit. `kale` has features beyond its own."""
    if kind == "w1":
        return MOST_TRANSPORTED if n_columns > 1 else None
    return MOST_SINKHORN if kind == "sinkhorn" else None


@dataclass(frozen=True)
class Told:
    """A divergence in words: what it is, how it is estimated, which way that errs, its upper bound, and where it is from."""

    title: str
    estimator: str
    direction: str
    bounded: str
    source: str


_CRITIC = "by a critic, on rows that it was not trained on"

TOLD: dict[Kind, Told] = {
    "w1": Told(
        "Wasserstein-1 distance, inf E|X - Y| over couplings",
        "exact optimal transport between the samples",
        "biased upward",
        "no bound; 0 only where equal; in units of the data",
        "Kantorovich & Rubinstein 1958; Flamary et al. 2021 (POT)",
    ),
    "sliced-w1": Told(
        "sliced Wasserstein-1 distance, the mean W1 of projections on directions",
        "exact in one dimension, a mean over random directions",
        "biased upward",
        "W1; in units of the data",
        "Rabin et al. 2011; Bonneel et al. 2015",
    ),
    "sinkhorn": Told(
        "Sinkhorn divergence of |x - y|, debiased",
        "entropic transport between the samples, less that of each with itself",
        "biased upward",
        "no bound; W1 at no regularisation, half the energy distance at infinite; in units of the data",
        "Genevay et al. 2018; Feydy et al. 2019",
    ),
    "mmd": Told(
        "squared maximum mean discrepancy, |mu_P - mu_Q|^2",
        "U-statistic over all pairs",
        "unbiased",
        "4 sup k(x, x); 2 for a kernel with values in [0, 1]",
        "Gretton et al. 2012",
    ),
    "energy-distance": Told(
        "energy distance, 2 E|X - Y| - E|X - X'| - E|Y - Y'|",
        "U-statistic over all pairs",
        "unbiased",
        "2 W1; in units of the data",
        "Szekely & Rizzo 2013; Sejdinovic et al. 2013",
    ),
    "kale": Told(
        "KL approximate lower-bound estimator in an RKHS, (1 + lam) sup_h {1 + E_P h - E_Q e^h - lam |h|^2 / 2}",
        "convex dual, its optimum on the rows themselves",
        "biased upward",
        "(1 + lam) KL; MMD^2 / 2 at lam = inf, KL at lam = 0",
        "Arbel et al. 2021; Glaser et al. 2021",
    ),
    "kl": Told(
        "Kullback-Leibler divergence KL(P || Q) in nats",
        f"E_P[v] + 1 - E_Q[e^v] {_CRITIC}",
        "lower bound",
        "no bound; infinite where P has mass and Q has none",
        "Nguyen et al. 2010",
    ),
    "js": Told(
        "Jensen-Shannon divergence in nats",
        f"its Fenchel dual {_CRITIC}",
        "lower bound",
        "log 2 = 0.693",
        "Lin 1991; Nowozin et al. 2016",
    ),
    "tv": Told(
        "total variation distance, sup_A |P(A) - Q(A)|",
        f"P(v > 0) - Q(v > 0) {_CRITIC}",
        "lower bound",
        "1",
        "Nowozin et al. 2016",
    ),
    "chi2": Told(
        "Pearson's chi-squared divergence, E_Q[(dP/dQ - 1)^2]",
        f"its Fenchel dual {_CRITIC}",
        "lower bound",
        "no bound; infinite where P has mass and Q has none",
        "Pearson 1900; Nowozin et al. 2016",
    ),
    "hellinger": Told(
        "squared Hellinger distance, E_Q[(sqrt(dP/dQ) - 1)^2]",
        f"its Fenchel dual {_CRITIC}",
        "lower bound",
        "2",
        "Hellinger 1909; Nowozin et al. 2016",
    ),
}
