"""Mean and covariance of features, streamed in float64: all that the Frechet distance needs to know of a set.

Batches are joined by the update of Chan, Golub and LeVeque (1983), which never subtracts two large sums:

    n = n_a + n_b,   delta = m_b - m_a,   m = m_a + delta n_b / n,   C = C_a + C_b + delta delta' n_a n_b / n

with C the sum of (x - m)(x - m)' and S = C / (n - 1). Sums in float32 would be off by 3e-6, these by 3e-15.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 4096
PANEL = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (d,) and covariance (d, d), divided by n - 1, both float64 on the CPU; n is None where nobody wrote it down."""

    n: int | None
    mean: Tensor
    covariance: Tensor

    @cached_property
    def cholesky(self) -> Tensor | None:
        """Lower L with L L' = covariance; None where it is singular to rounding. Kept, so a reference pays for it once.

        LAPACK may also finish on a singular matrix, with a pivot that is nothing but rounding. A pivot is the variance a
        feature has left given those before it, so it is measured against that feature's own variance.
        """
        factor, info = torch.linalg.cholesky_ex(self.covariance)
        if info.item() != 0:
            return None
        left = factor.diagonal().square() / self.covariance.diagonal()
        smallest = 4.0 * len(left) ** 0.5 * torch.finfo(torch.float64).eps
        return factor if bool((left > smallest).all()) else None


class MomentSums:
    """Streaming sums over batches of features: `add` each batch, `merge` the sums of other processes, read `moments`.

    They live on the CPU, or on the batch's device where that is CUDA, and hold d^2 + d numbers whatever n is.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def add(self, batch: Tensor) -> None:
        """Take in features (b, d) of any floating type and device; an empty batch changes nothing."""
        if batch.ndim != 2:
            raise ValueError(f"features must be (n, d), got {tuple(batch.shape)}")
        for block in batch.split(BLOCK):
            if len(block) > 0:
                mean, centred = centre(block)
                self._join(len(block), mean, gram(centred))

    def merge(self, other: MomentSums) -> None:
        """Take in what another object has summed; `other` is left as it is."""
        if other._mean is not None and other._scatter is not None:
            self._join(other.n, other._mean, other._scatter)

    def moments(self) -> Moments:
        """The moments so far.

        Raises:
            ValueError: fewer than two rows, or a feature that is not finite.
        """
        if self._mean is None or self._scatter is None or self.n < 2:
            raise ValueError(f"a covariance needs at least 2 rows of features, got {self.n}")
        if not bool(self._mean.isfinite().all() and self._scatter.isfinite().all()):
            raise ValueError("the features hold values that are not finite (nan or infinity)")
        return Moments(self.n, self._mean.cpu(), (self._scatter / (self.n - 1)).cpu())

    def _join(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None or self._scatter is None:
            self.n, self._mean, self._scatter = n, mean.clone(), scatter.clone()
            return
        if mean.shape != self._mean.shape:
            raise ValueError(f"features have {len(mean)} columns, those before had {len(self._mean)}")
        delta, total = mean.to(self._mean.device) - self._mean, self.n + n
        self._scatter += scatter.to(self._mean.device)
        scaled = delta * (self.n * n / total) ** 0.5
        self._scatter += torch.outer(scaled, scaled)
        self._mean += delta * (n / total)
        self.n = total


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features (n, d), n >= 2, in blocks of 4,096 rows: no float64 copy of them is made.

    Raises:
        ValueError: fewer than two rows, not a matrix, or a feature that is not finite.
    """
    sums = MomentSums()
    sums.add(features)
    return sums.moments()


def centre(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,) of rows (n, d) and the rows less their mean, float64, on the CPU unless the rows are on CUDA.

    The first row is taken off before the mean is formed, so that a constant feature has a variance of exactly 0.
    """
    rows = (rows if rows.is_cuda else rows.cpu()).double()
    apart = rows - rows[0]
    offset = apart.mean(0)
    return rows[0] + offset, apart - offset


def gram(x: Tensor) -> Tensor:
    """x'x (d, d) for x (n, d), exactly symmetric: the lower panels are computed, the rest is copied from them."""
    d = x.shape[1]
    whole = x.new_empty(d, d)
    for start in range(0, d, PANEL):
        end = min(start + PANEL, d)
        whole[start:end, :end] = x[:, start:end].T @ x[:, :end]
    lower = whole.tril(-1)
    return lower + lower.T + whole.diagonal().diag()
