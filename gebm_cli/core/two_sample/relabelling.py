"""Relabelings of a pooled sample: what the null hypothesis P = Q allows, as columns of a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

COLUMNS_BYTES = 256_000_000  # of labels held at a time


class Relabelings(Protocol):
    """A group of relabelings that leaves the law of the pooled sample alone when P = Q."""

    @property
    def rows(self) -> int:
        """How many labels one relabeling has."""
        ...

    @property
    def n_distinct(self) -> float:
        """How many relabelings a symmetric statistic can tell apart; 1 / n_distinct is the smallest p-value there is."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(rows, 1 + count) float32: the observed labels, then `count` uniform relabelings."""
        ...


@dataclass(frozen=True)
class Permutations:
    """Which n of the n + m pooled rows are called x: 1 for x, 0 for y; the first n are the observed ones."""

    n: int
    m: int
    one_sided: bool = False  # the statistic tells x from y, so that with equal sizes the two may not change places

    @property
    def rows(self) -> int:
        return self.n + self.m

    @property
    def n_distinct(self) -> float:
        log = math.lgamma(self.rows + 1) - math.lgamma(self.n + 1) - math.lgamma(self.m + 1)
        return math.inf if log > 600 else round(math.exp(log)) / (2 if self.n == self.m and not self.one_sided else 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        labels = torch.zeros(1 + count, self.rows)
        labels[0, : self.n] = 1.0
        for row in labels[1:]:
            row[torch.randperm(self.rows, generator=generator)[: self.n]] = 1.0
        return labels.T


@dataclass(frozen=True)
class SignFlips:
    """Which of n pairs (x_i, y_i) change places: +1 as observed, -1 changed. For n = m, at a quarter of the cost.

    Exact under P = Q for any pairing that does not look at the values ("wild bootstrap", Schrab et al. 2023).
    """

    n: int

    @property
    def rows(self) -> int:
        return self.n

    @property
    def n_distinct(self) -> float:
        return math.inf if self.n > 1000 else 2.0 ** (self.n - 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        bits = torch.randint(0, 2, (1 + count, self.n), generator=generator, dtype=torch.int8)
        signs = bits.float().mul_(2.0).sub_(1.0)
        signs[0] = 1.0
        return signs.T


def batches(
    relabelings: Relabelings, count: int, generator: torch.Generator, most: int, first: int | None = None
) -> Iterator[Tensor]:
    """`count` relabelings, at most `most` at a time, the observed labels in front of each batch; from `first` on sizes double."""
    most = max(1, min(most, COLUMNS_BYTES // (4 * relabelings.rows) - 1))
    size = most if first is None else min(first, most)
    while count > 0:
        size = min(size, count)
        yield relabelings.draw(size, generator)
        count -= size
        size = most if first is None else min(most, 2 * size)


def n_batches(count: int, most: int, first: int | None = None) -> int:
    """How many batches `batches` makes, where memory does not limit them further."""
    size, made = most if first is None else min(first, most), 0
    while count > 0:
        count, made = count - size, made + 1
        size = most if first is None else min(most, 2 * size)
    return made
