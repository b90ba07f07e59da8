"""MMD^2 of features with a standard error that is right near zero too, and two scores made of it.

With a = phi(x) - mu_P, b = phi(y) - mu_Q in the kernel's space, delta = mu_P - mu_Q, and a', b' independent copies,

    Var MMD^2_u = 4 Var<delta, a>/n + 4 Var<delta, b>/m + 2 E<a, a'>^2/(n(n-1)) + 2 E<b, b'>^2/(m(m-1)) + 4 E<a, b>^2/(nm)

exactly, for any n and m (Hoeffding's decomposition; its terms are uncorrelated). The first two vanish at P = Q, the rest do not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.kernels import EnergyDistance, Gaussian, Kernel, median_bandwidth
from gebm_cli.core.mmd import Estimate, MatrixSums, n_blocks, sums_between, sums_within

Progress = Callable[[int, int], None]


@torch.no_grad()
def feature_mmd(x: Tensor, y: Tensor, kernel: Kernel, on_block: Progress = lambda done, total: None) -> Estimate:
    """Unbiased MMD^2 of x (n, d) and y (m, d) over all pairs, n and m at least 4, with the standard error from its whole variance.

    Each term of the variance is estimated without bias from row sums and sums of squares of the kernel matrices, in the pass
    that gives the value (the unbiased estimates of Sutherland 2019, here for n != m); the sum of the first two, which must not
    be negative, is floored at 0, so the error never falls below that of P = Q. `on_block(done, total)` is told of each block.

    Raises:
        ValueError: fewer than 4 rows, or sets that are not (n, d) and (m, d).
    """
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 4:
        raise ValueError(
            f"`x` and `y` must be (n, d) and (m, d) with n, m >= 4, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    n, m = len(x), len(y)
    count, total = itertools.count(1), n_blocks(n) + n_blocks(m) + n_blocks(n, m)

    def tick() -> None:
        on_block(next(count), total)

    xx, yy, xy = sums_within(kernel, x, tick), sums_within(kernel, y, tick), sums_between(kernel, x, y, tick)
    value = xx.rows.sum() / (n * (n - 1)) + yy.rows.sum() / (m * (m - 1)) - 2.0 * xy.rows.sum() / (n * m)
    return Estimate(value.item(), math.sqrt(max(_variance(xx, yy, xy), 0.0)))


def _variance(xx: MatrixSums, yy: MatrixSums, xy: MatrixSums) -> float:
    """The whole variance; no floor is put on single terms but on their two groups."""
    n, m = len(xy.rows), len(xy.columns)
    aa, bb, ab = _within_square(xx), _within_square(yy), _between_square(xy)
    linear_x = _projection_variance(xx.rows, xy.rows / m) - aa / (n - 2) - ab / m
    linear_y = _projection_variance(yy.rows, xy.columns / n) - bb / (m - 2) - ab / n
    linear = 4 * linear_x / n + 4 * linear_y / m
    return max(linear, 0.0) + max(2 * aa / (n * (n - 1)) + 2 * bb / (m * (m - 1)) + 4 * ab / (n * m), 0.0)


def _projection_variance(own_sums: Tensor, other_means: Tensor) -> float:
    """Sample variance of sum_{j != i} k(x_i, x_j) / (n - 2) - mean_j k(x_i, y_j), whose expectation is
    Var<delta, a> + E<a, a'>^2 / (n - 2) + E<a, b>^2 / m. With n - 1 in place of n - 2, <mu_P, a> would not cancel."""
    return (own_sums / (len(own_sums) - 2) - other_means).var(correction=1).item()


def _within_square(sums: MatrixSums) -> float:
    """Unbiased E<a, a'>^2 from U-centred sums (Szekely and Rizzo 2014, Proposition 1)."""
    n = len(sums.rows)
    centred = sums.squares - 2 * sums.rows.square().sum() / (n - 2) + sums.rows.sum() ** 2 / ((n - 1) * (n - 2))
    return centred.item() / (n * (n - 3))


def _between_square(sums: MatrixSums) -> float:
    """Unbiased E<a, b>^2: the interaction of a two-way table without replication."""
    n, m = len(sums.rows), len(sums.columns)
    means = sums.rows.square().sum() / m + sums.columns.square().sum() / n - sums.rows.sum() ** 2 / (n * m)
    return (sums.squares - means).item() / ((n - 1) * (m - 1))


def energy_distance(x: Tensor, y: Tensor, on_block: Progress = lambda done, total: None) -> Estimate:
    """Unbiased 2 E|x - y| - E|x - x'| - E|y - y'| of features (n, d) and (m, d) (Szekely and Rizzo 2013), with its error.

    It is twice the MMD^2 of the distance-induced kernel. No bandwidth; scales with the features.
    """
    centre = x.mean(0, dtype=torch.float64).to(x.dtype)  # cancels, and keeps digits in |x|^2 + |y|^2 - 2 x.y
    half = feature_mmd(x - centre, y - centre, EnergyDistance(), on_block)
    return Estimate(2.0 * half.value, 2.0 * half.standard_error)


@dataclass(frozen=True)
class GaussianMmd(Estimate):
    """MMD^2 with a Gaussian kernel, its standard error, and the bandwidth."""

    bandwidth: float


def gaussian_mmd(
    real: Tensor, fake: Tensor, bandwidth: float | None = None, on_block: Progress = lambda done, total: None
) -> GaussianMmd:
    """Unbiased MMD^2 of features (n, d) and (m, d), k = exp(-|x - y|^2 / (2 bandwidth^2)) (CMMD, Jayasumana et al. 2024).

    Without a bandwidth it is the median distance of the reference's own pairs, so every model is scored with the same kernel.
    Deviation: the released CMMD code keeps the diagonal (a bias of order 1/n) and multiplies by 1000; its bandwidth is 10.
    """
    if bandwidth is not None and not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise ValueError(f"`bandwidth` must be positive and finite, got {bandwidth}")
    width = median_bandwidth(real) if bandwidth is None else bandwidth
    centre = real.mean(0, dtype=torch.float64).to(real.dtype)  # as in `energy_distance`
    estimate = feature_mmd(real - centre, fake - centre, Gaussian(width), on_block)
    return GaussianMmd(estimate.value, estimate.standard_error, width)
