"""The witness of a difference: where one sample has more mass than the other, as a kernel sees it.

    f(t) = mean_i k(x_i, t) - mean_j k(y_j, t)      (Gretton et al. 2012, section 2.3)

Positive where x has more, negative where y has more. Streamed in blocks, so memory is O(block^2 + n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gebm_cli.core.fields import KernelField
from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import column_and_row_means, row_means


def witness(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """f at each row of x (n, d) and of y (m, d), as (n,) and (m,) float64, each row left out of its own side's mean.

    With itself in it, every row would vote for its own side. mean f(x) - mean f(y) = MMD^2_u.

    Raises:
        ValueError: fewer than 2 rows in one set.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"`x` and `y` need at least 2 rows each, got {len(x)} and {len(y)}")
    x_to_y, y_to_x = column_and_row_means(kernel, x, y)
    return row_means(kernel, x) - x_to_y, y_to_x - row_means(kernel, y)


def mean_difference(kernel: Kernel, x: Tensor, y: Tensor) -> KernelField:
    """f everywhere, a row of x (n, d) or y (m, d) in its own mean.

    Raises:
        ValueError: no row in one set.
    """
    if min(len(x), len(y)) < 1:
        raise ValueError(f"`x` and `y` need at least 1 row each, got {len(x)} and {len(y)}")
    signs = [torch.full((len(z),), s / len(z), dtype=torch.float64, device=z.device) for z, s in ((x, 1), (y, -1))]
    return KernelField(kernel, torch.cat([x, y]), torch.cat(signs))


def witness_at(kernel: Kernel, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """f at the points t (k, d), which are rows of neither x (n, d) nor y (m, d), as (k,) float64.

    Raises:
        ValueError: no row in one set.
    """
    return mean_difference(kernel, x, y).value(t)
