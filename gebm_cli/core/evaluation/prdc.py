"""Improved precision and recall (Kynkaanniemi et al. 2019) and density and coverage (Naeem et al. 2020), exact, in blocks.

With real x_i (n, d), fake y_j (m, d), and r_k(x_i) the distance from x_i to its k-th nearest other real point,

    precision = mean_j 1[some i: |y_j - x_i| <= r_k(x_i)]        recall   = mean_i 1[some j: |x_i - y_j| <= r_k(y_j)]
    density   = sum_j #{i: |y_j - x_i| <= r_k(x_i)} / (k m)      coverage = mean_i 1[some j: |x_i - y_j| <= r_k(x_i)]

Precision and density fall when fakes lie where no data are, recall and coverage when data are missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-30  # of squared distances between features of size 1: products below the smallest float32 vanish
ROWS = 1024  # converted to float64 at once
PAIRS = 2**22  # features a side of the pairs whose distance is worked out at once


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
    if real_radii is None:
        real_radii = radii(real, k, block_size)
    fake_radii = radii(fake, k, block_size)
    bounds = _Bounds(fake, real)
    holders = []  # for each fake, how many real balls hold it
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    for start in range(0, len(fake), block_size):
        rows = slice(start, start + block_size)
        upper, slack = bounds.block(rows)
        inside = bounds.within(upper, slack, start, real_radii[None, :])
        holders.append(inside.sum(1))
        covered |= inside.any(0)
        recalled |= bounds.within(upper, slack, start, fake_radii[rows, None]).any(0)
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
    """Distance (n,) from each of n > k points (n, d) to its k-th nearest other; a duplicate is another point, at distance 0.

    Raises:
        ValueError: features that are not finite.
    """
    if not points.isfinite().all():
        raise ValueError("`points` must be finite")
    bounds, nearest = _Bounds(points, points), []
    for start in range(0, len(points), block_size):
        upper, slack = bounds.block(slice(start, start + block_size))
        upper.diagonal(start).fill_(math.inf)
        limit = upper.topk(k, 1, largest=False).values[:, -1:]  # the k-th distance is no longer than this
        candidates = upper - slack <= limit
        nearest.append(_kth_of_candidates(bounds, candidates, start, k))
    return torch.cat(nearest)


def _kth_of_candidates(bounds: _Bounds, candidates: Tensor, start: int, k: int) -> Tensor:
    """The k-th smallest distance of each row (b,) among its candidates, a mask (b, n) with at least k in each row."""
    i, j = candidates.nonzero(as_tuple=True)
    distance = bounds.exact(i + start, j)
    order = distance.argsort()
    order = order[i[order].argsort(stable=True)]
    per_row = candidates.sum(1)
    return distance[order[per_row.cumsum(0) - per_row + k - 1]]


def _largest(z: Tensor, centre: Tensor) -> float:
    return max((part.double() - centre).abs().max().item() for part in z.split(ROWS))


class _Bounds:
    """Bounds on squared distances between x (n, d) and y (m, d) from one matrix product, and exact distances where they matter.

    |x|^2 + |y|^2 - 2 x.y rounds by position in the block: copies would not be at distance 0, and a point on the edge of a ball
    would fall in or out with the block size. So it only decides what lies outside its own rounding error, bounded rigorously
    (Higham 2002, section 3.1: |error of x.y| <= d u |x| |y|); the few pairs within are taken by differences in float64. The
    scores are those of the exact distances, bit for bit.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.source = x, y
        # A lowered precision of products (TF32, bfloat16) would void the bound of float32.
        exact = torch.get_float32_matmul_precision() == "highest" and x.shape[1] <= 2**14
        self.type = torch.float32 if exact else torch.float64
        centre = y.mean(0, dtype=torch.float64)
        self.scale = max(_largest(x, centre), _largest(y, centre)) or 1.0
        # 16 for the rounding of the features, of the sums of three terms and of the radii.
        self.slack = (x.shape[1] + 16) * torch.finfo(self.type).eps
        self.y, self.y_squares = self._prepared(y, centre)
        self.x, self.x_squares = (self.y, self.y_squares) if x is y else self._prepared(x, centre)

    def _prepared(self, z: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """The features centred and scaled to at most 1, (n, d), and their squared norms (n,), in the bounds' type."""
        parts = [((part.double() - centre) / self.scale).to(self.type) for part in z.split(ROWS)]
        squares = [part.double().square().sum(1).to(self.type) for part in parts]
        return torch.cat(parts), torch.cat(squares)

    def block(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Upper bounds (b, m) on the squared distances of some rows of x, scaled, and by how much less they may be (b, m)."""
        squares = self.x_squares[rows, None] + self.y_squares
        slack = (squares * self.slack).add_(TINY)
        upper = torch.addmm(squares, self.x[rows], self.y.T, alpha=-2.0).add_(slack, alpha=0.5)
        return upper, slack

    def within(self, upper: Tensor, slack: Tensor, start: int, radius: Tensor) -> Tensor:
        """Whether |x_i - y_j| <= radius, (b, m), for rows from `start`; radius (1, m) or (b, 1)."""
        square = (radius / self.scale).square().to(self.type)
        inside = upper <= square
        i, j = ((upper - slack <= square) & ~inside).nonzero(as_tuple=True)
        inside[i, j] = self.exact(i + start, j) <= radius.expand_as(inside)[i, j]
        return inside

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """|x_i - y_j| (len(i),) in float64 by differences: the same number for a pair wherever it is asked for."""
        x, y = self.source
        step = max(1, PAIRS // x.shape[1])
        parts = [
            torch.cdist(x[a][:, None].double(), y[b][:, None].double(), compute_mode="donot_use_mm_for_euclid_dist")
            for a, b in zip(i.split(step), j.split(step), strict=True)
        ]
        return torch.cat(parts).flatten()
