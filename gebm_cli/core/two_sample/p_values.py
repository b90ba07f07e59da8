"""From a statistic and a group of relabelings to a p-value: (1 + count) / (1 + B), ties counted, never 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.stats import binom
from torch import Tensor

from gebm_cli.core.two_sample.relabelling import Relabelings, batches

RISK = 1e-6  # of a decision by an early stop that all permutations would not have given
FIRST = 64  # relabelings before the first look of an early stop


class Statistic(Protocol):
    """A statistic whose large values speak against P = Q."""

    def __call__(self, labels: Tensor) -> Tensor:
        """labels (rows, b), as `Relabelings.draw` gives them -> the statistic under each of the b columns, (b,) float64."""
        ...

    @property
    def rounding(self) -> float:
        """How far two values that are equal in exact arithmetic may lie apart. Read after the call."""
        ...

    @property
    def max_columns(self) -> int:
        """How many relabelings one call should be given."""
        ...


@dataclass(frozen=True)
class Relabelled:
    """The outcome of a test by relabelling.

    Attributes:
        statistic: the observed value.
        null: the values under the relabelings that were made, float64 on the CPU.
        p_value: (1 + #{null >= statistic}) / (1 + B), ties counted.
        rounding: how far values that are equal in exact arithmetic may lie apart.
        stopped_early: whether the decision was certain before all relabelings were made; `p_value` is then the estimate so far.
    """

    statistic: float
    null: Tensor
    p_value: float
    rounding: float = 0.0
    stopped_early: bool = False

    @property
    def p_error(self) -> float:
        """Monte-Carlo standard error of the p-value: that of a share of B relabelings."""
        return math.sqrt(self.p_value * (1 - self.p_value) / (len(self.null) + 1))


def relabelling_test(
    statistic: Statistic,
    relabelings: Relabelings,
    count: int,
    generator: torch.Generator,
    stop_at: float | None = None,
) -> Relabelled:
    """Test by `count` uniform relabelings. Exact: under P = Q, P(p <= a) <= a for every a (Phipson & Smyth 2010).

    The observed value goes through the same product as those it is compared with. With `stop_at`, the level, relabelings end as
    soon as it is certain on which side of it p lies (see `is_certain`).

    Raises:
        ValueError: no relabeling.
    """
    if count < 1:
        raise ValueError(f"need at least 1 relabeling, got {count}")
    exceeding, parts = 0, []
    observed = math.nan
    for labels in batches(relabelings, count, generator, statistic.max_columns, None if stop_at is None else FIRST):
        values = statistic(labels).cpu()
        observed, null = values[0].item(), values[1:]
        parts.append(null)
        exceeding += count_reaching(null, observed, statistic.rounding)
        done = sum(map(len, parts))
        if stop_at is not None and done < count and is_certain(exceeding, done, stop_at):
            break
    null = torch.cat(parts)
    p = (1 + exceeding) / (1 + len(null))
    return Relabelled(observed, null, p, statistic.rounding, len(null) < count)


def count_reaching(null: Tensor, observed: float, rounding: float) -> int:
    """#{null >= observed}, where values that differ by rounding alone are equal."""
    tolerance = rounding + 1e-10 * max(abs(observed), null.abs().max().item() if len(null) else 0.0)
    return int((null >= observed - tolerance).sum())


def is_certain(exceeding: int, done: int, alpha: float, risk: float = RISK) -> bool:
    """Whether `exceeding` of `done` relabelings settle on which side of alpha the p-value of all relabelings lies.

    alpha has left the confidence sequence {p : (n + 1) Binomial(S; n, p) > risk}, which holds the true p at all n at once with
    probability 1 - risk (Robbins 1970; Lai 1976; Gandy 2009), so one may look as often as one likes.
    """
    return bool((done + 1) * binom.pmf(exceeding, done, alpha) <= risk)


def smallest_p(relabelings: Relabelings, count: int) -> float:
    """The smallest p-value that can be expected: 1 / (1 + B), or 1 / the number of distinct relabelings where that is larger."""
    return max(1.0 / (1 + count), 1.0 / relabelings.n_distinct)
