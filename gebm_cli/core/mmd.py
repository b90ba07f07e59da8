"""The maximum mean discrepancy: one unbiased estimate with its standard error, for KID and for every test.

    MMD^2_u = sum_{i!=j} k(x_i, x_j) / (n(n-1)) + sum_{i!=j} k(y_i, y_j) / (m(m-1)) - 2 sum_{i,j} k(x_i, y_j) / (nm)

Kernel matrices are streamed in square blocks, so memory is O(block^2 + n), and all sums are float64. Of the symmetric ones
only half of the blocks is computed. n != m is legal everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import ndtr
from torch import Tensor

from gebm_cli.core.kernels import Kernel, Polynomial

BLOCK = 1024


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Difference:
    """The difference x - y of two dependent estimates; z is nan where the variance is not positive."""

    value: float
    standard_error: float
    x: Estimate | None = None
    y: Estimate | None = None

    @property
    def z(self) -> float:
        return self.value / self.standard_error if self.standard_error > 0 else math.nan

    @property
    def p_less(self) -> float:
        """One-sided p-value for the alternative `value < 0`: Phi(z), nan when undecided."""
        return float(ndtr(self.z)) if self.standard_error > 0 else math.nan


@dataclass(frozen=True)
class MatrixSums:
    """Sums of one kernel matrix in float64: of each row (n,), of each column (m,), and of the squares of all entries (scalar)."""

    rows: Tensor
    columns: Tensor
    squares: Tensor


def sums_within(kernel: Kernel, x: Tensor, on_block: Callable[[], None] = lambda: None) -> MatrixSums:
    """Sums of k(x_i, x_j) over i != j; the kernel is symmetric, so a block above the diagonal serves for the one below too."""
    sums = MatrixSums(*(torch.zeros(size, dtype=torch.float64, device=x.device) for size in (len(x), 0, ())))
    for i in range(0, len(x), BLOCK):
        for j in range(i, len(x), BLOCK):
            block = _block(kernel, x[i : i + BLOCK], x[j : j + BLOCK])
            if i == j:
                block.diagonal().zero_()
            else:
                sums.rows[j : j + BLOCK] += block.sum(0)
            sums.rows[i : i + BLOCK] += block.sum(1)
            sums.squares.add_(_square_sum(block), alpha=1 if i == j else 2)
            on_block()
    return MatrixSums(sums.rows, sums.rows, sums.squares)


def sums_between(kernel: Kernel, x: Tensor, y: Tensor, on_block: Callable[[], None] = lambda: None) -> MatrixSums:
    """Sums of k(x_i, y_j) over all i and j."""
    sums = MatrixSums(*(torch.zeros(size, dtype=torch.float64, device=x.device) for size in (len(x), len(y), ())))
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            block = _block(kernel, x[i : i + BLOCK], y[j : j + BLOCK])
            sums.rows[i : i + BLOCK] += block.sum(1)
            sums.columns[j : j + BLOCK] += block.sum(0)
            sums.squares.add_(_square_sum(block))
            on_block()
    return sums


def n_blocks(n: int, m: int | None = None) -> int:
    """How often `sums_within` of n rows, or `sums_between` of n and m, calls `on_block`."""
    rows = -(-n // BLOCK)
    return rows * (rows + 1) // 2 if m is None else rows * -(-m // BLOCK)


def _block(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """kernel(x, y) in float64, computed in the data's type. KID's kernel is cubed in place: no temporaries but one."""
    if kernel == Polynomial(3):
        inner = torch.addmm(x.new_ones(()), x, y.T, alpha=1.0 / x.shape[1])
        return (inner * inner).mul_(inner).double()
    return kernel(x, y).double()


def _square_sum(block: Tensor) -> Tensor:
    flat = block.reshape(-1)
    return flat @ flat


@torch.no_grad()
def row_means(kernel: Kernel, x: Tensor, y: Tensor | None = None) -> Tensor:
    """mean_j k(x_i, y_j) for each i, (n,) float64; without y, the mean over j != i of k(x_i, x_j)."""
    if y is None:
        return sums_within(kernel, x).rows / (len(x) - 1)
    return sums_between(kernel, x, y).rows / len(y)


@torch.no_grad()
def column_and_row_means(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """mean_j k(x_i, y_j) for each i and mean_i k(x_i, y_j) for each j, in one pass over the matrix."""
    sums = sums_between(kernel, x, y)
    return sums.rows / len(y), sums.columns / len(x)


def mmd2(x: Tensor, y: Tensor, kernel: Kernel) -> Estimate:
    """Unbiased MMD^2 of x (n, d) and y (m, d), with the first-order standard error

        SE^2 = 4 var_i(h_x) / n + 4 var_j(h_y) / m,   h_x(i) = mean_{j!=i} k(x_i, x_j) - mean_j k(x_i, y_j).

    The value may be negative. The error is within 7 % of the truth when the laws differ, and about sqrt(2) too large when
    they do not; `feature_mmd` has an error that is right in both cases, and needs four rows a side.
    """
    return _project(x, y, kernel).estimate()


def mmd2_loss(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The same unbiased MMD^2 as a differentiable scalar, for minibatches: x (n, d), y (m, d), n and m at least 2.

    The diagonals are taken from the kernel matrices, whatever they are. Deviation: the released MMD-GAN code takes k(x, x) for a
    constant, which with a linear term shifts MMD^2 at P = Q by c (E|x|^2 + E|y|^2) / (m - 1).
    """
    n, m = len(x), len(y)
    within_x, within_y = kernel(x, x), kernel(y, y)
    mean_x = (within_x.sum() - within_x.trace()) / (n * (n - 1))
    mean_y = (within_y.sum() - within_y.trace()) / (m * (m - 1))
    return mean_x + mean_y - 2.0 * kernel(x, y).mean()


def relative_mmd2(reference: Tensor, x: Tensor, y: Tensor, kernel: Kernel) -> Difference:
    """MMD^2_u(reference, x) - MMD^2_u(reference, y), with both estimates: negative when x is closer. All (n_i, d), any sizes.

    The joint normal law of the two estimates shares the reference (Bounliphone et al., 2016, section 3): its covariance
    enters through the difference of the reference's two projections, by row sums.
    Deviation: no floor on the variance. The released code floors it at 1e-5, which swamps variances of KID's size.
    """
    own = row_means(kernel, reference) if len(reference) > 1 else None
    return difference_of(sums_against(reference, x, kernel, own), sums_against(reference, y, kernel, own))


@dataclass(frozen=True)
class Sums:
    """All that a comparison needs of one sample against a fixed reference: h of the reference's points (n,), the squared error
    that the sample itself brings, and MMD^2. The sample need not be kept."""

    projection: Tensor
    own_error: float
    value: float

    def as_dict(self) -> dict[str, Tensor | float]:
        """Plain types, for a checkpoint."""
        return {"projection": self.projection, "own_error": self.own_error, "value": self.value}


def sums_against(reference: Tensor, x: Tensor, kernel: Kernel, own: Tensor | None = None) -> Sums:
    """The sums of x (m, d) against the reference (n, d); `own` are the reference's row means, where they are known."""
    projections = _project(reference, x, kernel, own)
    return Sums(projections.x, _error(projections.y), projections.value)


def difference_of(x: Sums, y: Sums) -> Difference:
    """MMD^2(reference, x) - MMD^2(reference, y) of two samples against the same reference."""
    variance = _error(x.projection - y.projection.to(x.projection.device)) + x.own_error + y.own_error
    first, second = (Estimate(s.value, math.sqrt(_error(s.projection) + s.own_error)) for s in (x, y))
    return Difference(first.value - second.value, math.sqrt(variance), first, second)


@dataclass(frozen=True)
class _Projections:
    """h_x (n,), h_y (m,) and the MMD^2 of x and y."""

    x: Tensor
    y: Tensor
    value: float

    def estimate(self) -> Estimate:
        return Estimate(self.value, math.sqrt(_error(self.x) + _error(self.y)))


def _project(x: Tensor, y: Tensor, kernel: Kernel, own_x: Tensor | None = None) -> _Projections:
    if min(len(x), len(y)) < 2:
        raise ValueError(f"`x` and `y` need at least 2 rows each, got {len(x)} and {len(y)}")
    xx, yy = row_means(kernel, x) if own_x is None else own_x, row_means(kernel, y)
    xy, yx = column_and_row_means(kernel, x, y)
    return _Projections(xx - xy, yy - yx, (xx.mean() + yy.mean() - 2.0 * xy.mean()).item())


def _error(projection: Tensor) -> float:
    """4 var(h) / n, the part of the squared standard error that one sample brings."""
    return 4 * projection.var(correction=1).item() / len(projection)
