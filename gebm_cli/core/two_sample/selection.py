"""Choosing a kernel on a training split, by the power that it promises on the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import mmd2

LAMBDA = 1e-12  # added to the variance: only against division by 0
MOST_ROWS = 3000  # of each side that the choice looks at


@dataclass(frozen=True)
class Split:
    """Row numbers of one side: `train` may be looked at with the labels, `test` may not."""

    train: Tensor
    test: Tensor


def split_rows(n: int, share: float, generator: torch.Generator) -> Split:
    """A random `share` of n rows to train on, the rest to test on."""
    order = torch.randperm(n, generator=generator)
    cut = round(share * n)
    return Split(order[:cut], order[cut:])


def criterion(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """J = MMD^2_u / sqrt(n Var + 1e-12), whose maximiser has the most power (Liu et al. 2020, eq. 3); x (n, d), y (m, d).

    Deviation: n Var is the unpaired estimate 2 n m / (n + m) (4 var(h_x) / n + 4 var(h_y) / m) of `mmd2`, for any n and m; theirs
    pairs x_i with y_i, which adds chance covariances.
    """
    found = mmd2(x, y, kernel)
    size = 2 * len(x) * len(y) / (len(x) + len(y))
    return found.value / math.sqrt(size * found.standard_error**2 + LAMBDA)


def best_kernel(
    x: Tensor, y: Tensor, kernels: Sequence[Kernel], on_kernel: Callable[[int], None] = lambda done: None
) -> Kernel:
    """The kernel with the largest `criterion` on training rows x (n, d) and y (m, d), of which the first 3,000 are used."""
    scores = []
    for kernel in kernels:
        scores.append(criterion(x[:MOST_ROWS], y[:MOST_ROWS], kernel))
        on_kernel(1)
    return kernels[max(range(len(kernels)), key=scores.__getitem__)]
