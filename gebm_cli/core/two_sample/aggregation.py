"""Tests of many kernels at once: MMD-FUSE and MMDAgg, and the test of one kernel, over one engine.

Kernels chosen from the pooled sample need no split: under P = Q nothing that is symmetric in the labels can break the level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gebm_cli.core.kernels import Kernel
from gebm_cli.core.two_sample.p_values import Relabelled, count_reaching, relabelling_test
from gebm_cli.core.two_sample.relabelled_mmd import RelabelledMmd
from gebm_cli.core.two_sample.relabelling import Permutations, Relabelings, SignFlips, batches

FEWEST_PAIRS = 50  # below, permutations have more relabelings to offer than sign flips and cost nothing


@dataclass
class One:
    """The MMD^2 of one kernel as a statistic."""

    mmd: RelabelledMmd

    def __call__(self, labels: Tensor) -> Tensor:
        return self.mmd(labels)[0]

    @property
    def rounding(self) -> float:
        return self.mmd.rounding[0].item()

    @property
    def max_columns(self) -> int:
        return self.mmd.max_columns


@dataclass
class Fuse:
    """MMD-FUSE: log mean_k exp(c_k MMD^2_k), c_k = (n(n-1))^{3/2} / sqrt(sum_{i!=j} K_k(i, j)^2), n the smaller size.

    The soft maximum of MMD^2 normalised by the kernel's second moment over the pooled sample, which relabelings leave alone
    (Biggs, Schrab & Gretton 2023, eq. 8; the scale is that of their code, at which it is nearly a maximum). It favours small
    bandwidths: fine structure is found where other tests see none, at the price of some power against plain shifts.
    """

    mmd: RelabelledMmd
    observed: Tensor = field(init=False)  # MMD^2 of each kernel, (K,), after a call

    def __call__(self, labels: Tensor) -> Tensor:
        values = self.mmd(labels)
        self.observed = values[:, 0]
        return torch.logsumexp(self.weights[:, None] * values, 0) - math.log(len(values))

    @property
    def weights(self) -> Tensor:
        """c_k, (K,); 0 for a kernel that is 0 everywhere. After a call."""
        n = min(len(self.mmd.x), len(self.mmd.y))
        norms = self.mmd.squares.sqrt()
        return torch.where(norms > 0, (n * (n - 1)) ** 1.5 / norms, 0.0)

    @property
    def rounding(self) -> float:
        # Kernel by kernel: the weight of one that is nearly 0 is no measure of how another rounds.
        return (self.weights * self.mmd.rounding).max().item()

    @property
    def max_columns(self) -> int:
        return self.mmd.max_columns


def relabelings_of(n: int, m: int) -> Relabelings:
    """Sign flips of pairs where n = m, since they are as good at a quarter of the cost; else permutations."""
    return SignFlips(n) if n == m >= FEWEST_PAIRS else Permutations(n, m)


def kernel_test(x: Tensor, y: Tensor, kernel: Kernel, count: int, generator: torch.Generator) -> Relabelled:
    """The test of one kernel, which may not have seen the labels of these rows: x (n, d) and y (m, d) as they are ordered."""
    group = relabelings_of(len(x), len(y))
    return relabelling_test(One(RelabelledMmd([kernel], x, y, isinstance(group, SignFlips))), group, count, generator)


def relabelled_each(mmd: RelabelledMmd, relabelings: Relabelings, count: int, generator: torch.Generator) -> Tensor:
    """MMD^2 of every kernel, observed and under `count` relabelings, (K, 1 + count) float64 on the CPU."""
    parts = [mmd(labels) for labels in batches(relabelings, count, generator, mmd.max_columns)]
    return torch.cat([parts[0][:, :1], *(part[:, 1:] for part in parts)], 1)


def aggregated(values: Tensor, rounding: Tensor | float) -> Relabelled:
    """MMDAgg: the smallest of the kernels' p-values, tested by its own law under the same relabelings; values (K, 1 + B).

    `rounding` is how far equal values may lie apart, of each kernel (K,) or of all.

    With p_k(b) the share of columns of kernel k that reach column b, the statistic of column b is -min_k p_k(b), and p is the
    share of columns that reach the observed one. Exact, since the observed column is one of 1 + B exchangeable ones. Up to K
    columns have the same smallest p; among those the largest value, in units of its kernel's root mean square, goes first.
    Deviation: Schrab et al. (2023, algorithm 1) find the common correction of the levels by bisection on further relabelings and
    give a decision; this is that test with uniform weights and one set of relabelings (Westfall & Young 1993), and has a p-value.
    """
    columns = values.shape[1]
    rounding = torch.as_tensor(rounding, dtype=values.dtype).expand(len(values))
    smallest = torch.stack([_shares(row, r) for row, r in zip(values, rounding.tolist(), strict=True)]).min(0).values
    scale = values.square().mean(1).sqrt().maximum(rounding).clamp(min=1e-300)
    largest = (values / scale[:, None]).max(0).values
    # Less than half of the distance between two p-values, so that it only breaks ties.
    scores = (largest / (1.0 + largest.abs()) - 1.0) / (4 * columns) - smallest
    tolerance = (rounding / scale).max().item() / (4 * columns)
    observed, null = scores[0].item(), scores[1:]
    return Relabelled(observed, null, (1 + count_reaching(null, observed, tolerance)) / columns)


def _shares(row: Tensor, rounding: float) -> Tensor:
    """For each entry the share of entries that reach it, equal ones included."""
    tolerance = rounding + 1e-10 * row.abs().max()
    ordered = row.sort().values
    return 1.0 - torch.searchsorted(ordered, row - tolerance, side="left").double() / len(row)
