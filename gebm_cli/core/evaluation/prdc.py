"""Improved precision and recall (Kynkaanniemi et al. 2019) and density and coverage (Naeem et al. 2020), exact, in blocks.

With real x_i (n, d), fake y_j (m, d), and r_k(x_i) the distance from x_i to its k-th nearest other real point,

    precision = mean_j 1[some i: |y_j - x_i| <= r_k(x_i)]        recall   = mean_i 1[some j: |x_i - y_j| <= r_k(y_j)]
    density   = sum_j #{i: |y_j - x_i| <= r_k(x_i)} / (k m)      coverage = mean_i 1[some j: |x_i - y_j| <= r_k(x_i)]

Precision and density fall when fakes lie where no data are, recall and coverage when data are missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prdc:
    """The four scores. Density may exceed 1; for two samples of one continuous law its expectation is 1.

    Precision and density are means over independent fakes given the real set, so these two have standard errors: the spread
    over new fakes against the same real set (what comparing two models on one data set needs), not over new real sets.
    Recall and coverage are means over points whose radii or coverers are shared; no formula is offered for them.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    precision_error: float
    density_error: float


def prdc(real: Tensor, fake: Tensor, k: int = 5, block_size: int = 1000, real_radii: Tensor | None = None) -> Prdc:
    """Precision, recall, density and coverage of fake features (m, d) against real ones (n, d), any n and m above k.

    All scores depend on n, m and k; compare only at equal ones. k = 5 is Naeem's for density and coverage, k = 3
    Kynkaanniemi's for precision and recall. Memory is O(block_size * max(n, m)), and the result the same for any block.

    `real_radii`, of an earlier call of `radii(real.double(), k)`, saves their computation where one reference serves many sets.

    Balls are closed, as in Kynkaanniemi (equation 1); Naeem's released code has them open. It matters for duplicates only:
    a point with k copies has radius 0, and an open ball of radius 0 would not hold its own centre.

    Raises:
        ValueError: sets that are not (n, d) and (m, d), k < 1, k points or fewer in one, or features that are not finite.
    """
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"`real` and `fake` must be (n, d) and (m, d), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if k < 1 or min(len(real), len(fake)) <= k:
        raise ValueError(f"each set needs more than `k` >= 1 points, got {len(real)} and {len(fake)} for k = {k}")
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise ValueError("`real` and `fake` must be finite")
    real, fake = real.double(), fake.double()
    if real_radii is None:
        real_radii = radii(real, k, block_size)
    fake_radii = radii(fake, k, block_size)
    holders = []  # for each fake, how many real balls hold it
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    for start, distance in _blocks(fake, real, block_size):
        inside = distance <= real_radii
        holders.append(inside.sum(1))
        covered |= inside.any(0)
        recalled |= (distance <= fake_radii[start : start + len(distance), None]).any(0)
    counts = torch.cat(holders).double()
    precise = (counts > 0).double()
    return Prdc(
        precision=precise.mean().item(),
        recall=recalled.double().mean().item(),
        density=counts.mean().item() / k,
        coverage=covered.double().mean().item(),
        precision_error=precise.std().item() / math.sqrt(len(fake)),
        density_error=counts.std().item() / (k * math.sqrt(len(fake))),
    )


def radii(points: Tensor, k: int, block_size: int = 1000) -> Tensor:
    """Distance (n,) from each of n > k points (n, d) to its k-th nearest other; a duplicate is another point, at distance 0."""
    nearest = []
    for start, distance in _blocks(points, points, block_size):
        distance.diagonal(start).fill_(math.inf)
        nearest.append(distance.kthvalue(k, 1).values)
    return torch.cat(nearest)


def _blocks(x: Tensor, y: Tensor, block_size: int) -> Iterator[tuple[int, Tensor]]:
    """Distances (block, len(y)) from consecutive rows of x, with the index of the first.

    By differences, in float64. |x|^2 + |y|^2 - 2 x.y would be faster, but rounds by position in the block: copies would
    not be at distance 0, and a point on the edge of a ball would fall in or out with the block size.
    """
    for start in range(0, len(x), block_size):
        rows = x[start : start + block_size]
        yield start, torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist")
