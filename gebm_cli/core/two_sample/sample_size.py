"""How many rows a test needs: the power of a future test against its size, from one pilot.

With n rows a side MMD^2_u is nearly normal about M with variance L / n + Q / n^2, and is rejected above c / n, so

    power(n) = Phi((M - c / n) / sqrt(L / n + Q / n^2)).

L is the part of the first-order variance that is due to the difference, Q / n^2 the variance under P = Q, which does not shrink
to nothing beside L / n at the sizes where a test has some but not all power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import column_and_row_means, row_means

BAND = 0.8  # the share of pilots whose band should hold the true power: from the 10 % to the 90 % point
FEWEST = 2  # rows a side that a test can have


@dataclass(frozen=True)
class PowerCurve:
    """Predicted power of a test at level `alpha` with equally many rows a side.

    Attributes:
        sizes: rows a side.
        power, low, high: the prediction and its 10-90 % band for each size, float64; never below `alpha`.
        target: the power that `needed` is for.
        needed, needed_low, needed_high: rows a side for that power, whole numbers, and the 10-90 % band. inf is "unknown": the
            pilot shows no difference (MMD^2 <= 0, or the lower end of its band), and no size can be promised.
    """

    sizes: tuple[int, ...]
    power: Tensor
    low: Tensor
    high: Tensor
    alpha: float
    target: float
    needed: float
    needed_low: float
    needed_high: float


@dataclass(frozen=True)
class _Law:
    """M, L, Q and c of the module's formula, at level alpha."""

    effect: float
    linear: float
    quadratic: float
    cut: float
    alpha: float

    def power(self, n: int) -> float:
        """A test has no less power than its level, and that much where there is no difference."""
        if self.effect <= 0:
            return self.alpha
        above = self.effect - self.cut / n
        spread = math.sqrt(self.linear / n + self.quadratic / n**2)
        return max(self.alpha, float(ndtr(above / spread)) if spread > 0 else float(above > 0))

    def needed(self, target: float) -> float:
        """The n with power(n) = target: the root of (M n - c)^2 = z^2 (L n + Q) on the side of the sign of z = Phi^-1(target).

        At Q = 0 this is sqrt(n) = (z + sqrt(z^2 + 4 (M / s)(c / s))) / (2 M / s) with s^2 = L.
        """
        if self.effect <= 0:
            return math.inf
        z, m, c = float(ndtri(target)), self.effect, self.cut
        inner = z**2 * self.linear**2 + 4 * m * c * self.linear + 4 * m**2 * self.quadratic
        root = (2 * m * c + z**2 * self.linear + z * math.sqrt(max(inner, 0.0))) / (2 * m**2)
        return float(max(FEWEST, math.ceil(root * (1 - 1e-12))))


def power_curve(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    null: Tensor,
    alpha: float,
    sizes: Sequence[int],
    target: float = 0.8,
    null_sizes: tuple[int, int] | None = None,
) -> PowerCurve:
    """Predict the power of future tests from a pilot x (n, d), y (m, d) and its relabelled MMD^2_u `null` (B,), same kernel.

    M is the pilot's MMD^2_u; with h_x(i) = mean_{j!=i} k(x_i, x_j) - mean_j k(x_i, y_j), u = 1/n + 1/m and v = var(null),
    Q = 4 v / u^2, L = 4 var(h_x) + 4 var(h_y) - 4 v / u (the last is what noise adds to the first two), c = 2 q / u with q the
    pilot's threshold. The pilot's sizes may differ; a future test's are equal. The band puts M +- 1.28 standard errors into the
    formula, with L in proportion to M, as it is when a difference grows without changing its kind; power is monotone in M.
    Over pilots it holds the power of real tests a little more often than the 80 % it is made for, less where that is near alpha.
    `null_sizes` are the sizes that the null belongs to, where x and y are only a part of that pilot.
    The kernel must not have been chosen by the pilot's labels, or M is too large and so is every prediction.
    Deviation: Sutherland et al. (2017, section 2) leave out Q and the noise term; a curve without them is too flat.

    Raises:
        ValueError: fewer than 2 rows a side, no size or one below 2, alpha below 1 / (B + 1), or a target not in (alpha, 1).
    """
    if min(len(x), len(y)) < 2 or not sizes or min(sizes) < FEWEST:
        raise ValueError(
            f"need at least 2 rows a side and sizes of at least 2, got {len(x)}, {len(y)} and {list(sizes)}"
        )
    if not alpha < target < 1:
        raise ValueError(f"`target` must lie between alpha = {alpha} and 1, got {target}")
    low, middle, high = _laws(x, y, kernel, null, alpha, null_sizes or (len(x), len(y)))
    power, *band = (torch.tensor([law.power(n) for n in sizes], dtype=torch.float64) for law in (middle, low, high))
    needed, *between = (law.needed(target) for law in (middle, high, low))
    return PowerCurve(tuple(sizes), power, band[0], band[1], alpha, target, needed, between[0], between[1])


def threshold(null: Tensor, alpha: float) -> float:
    """The value that a statistic must exceed to be rejected at `alpha` by p = (1 + #{null >= statistic}) / (1 + B).

    Raises:
        ValueError: alpha below 1 / (B + 1), where nothing is rejected, or not below 1.
    """
    rank = math.floor(alpha * (len(null) + 1) + 1e-9)
    if not 1 <= rank <= len(null):
        raise ValueError(f"`alpha` must be at least 1 / ({len(null)} + 1) and below 1, got {alpha}")
    return null.topk(rank).values[-1].item()


def _laws(
    x: Tensor, y: Tensor, kernel: Kernel, null: Tensor, alpha: float, null_sizes: tuple[int, int]
) -> tuple[_Law, _Law, _Law]:
    """The law at the lower end of M's band, at M, and at the upper end."""
    values = null.double()
    u, variance = sum(1 / n for n in null_sizes), values.var(correction=0).item()
    effect, first_order, error = _effect(x, y, kernel)
    error = max(error, math.sqrt(variance))  # there is no smaller one
    linear, quadratic = max(first_order - 4 * variance / u, 0.0), 4 * variance / u**2
    slope = linear / max(effect, error) if error > 0 else 0.0
    half = float(ndtri((1 + BAND) / 2)) * error
    cut = 2 * threshold(values, alpha) / u
    at = [_Law(effect + d, max(linear + slope * d, 0.0), quadratic, cut, alpha) for d in (-half, 0.0, half)]
    return at[0], at[1], at[2]


def _effect(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[float, float, float]:
    """MMD^2_u, 4 var(h_x) + 4 var(h_y), and the first-order standard error; a value within rounding of 0 is 0."""
    xx, yy = row_means(kernel, x), row_means(kernel, y)
    xy, yx = column_and_row_means(kernel, x, y)
    of_x, of_y = 4 * (xx - xy).var().item(), 4 * (yy - yx).var().item()
    value = (xx.mean() + yy.mean() - 2 * xy.mean()).item()
    rounding = torch.finfo(x.dtype).eps * float(torch.stack([xx.mean(), yy.mean(), xy.mean()]).abs().max())
    return (value if abs(value) > 4 * rounding else 0.0), of_x + of_y, math.sqrt(of_x / len(x) + of_y / len(y))
