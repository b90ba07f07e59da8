"""Every kernel, once. The MMD, KID and the two-sample tests all call these.

A kernel maps (n, d) and (m, d) to the (n, m) matrix k(x_i, y_j), in the data's float type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Kernel(Protocol):
    """k(x, y), symmetric and positive definite."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, d), y (m, d) -> (n, m)."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))."""

    bandwidth: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(squared_distances(x, y) / (-2.0 * self.bandwidth**2))


@dataclass(frozen=True)
class Polynomial:
    """k(x, y) = (x.y / d + 1)^degree; degree 3 is the kernel of KID (Binkowski et al., 2018, section 4)."""

    degree: int = 3

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1.0) ** self.degree


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 by one matrix product, (n, d), (m, d) -> (n, m); rounding below 0 is clamped."""
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2.0 * (x @ y.T)).clamp_(min=0.0)


def median_bandwidth(pooled: Tensor, max_points: int = 2000) -> float:
    """The median of |a - b| over distinct pairs of the pooled sample (n, d): symmetric in the labels, so a test stays valid.

    Above `max_points` every k-th row is used in their order along a fixed random direction, which does not depend on the
    labels either. A median of 0 gives 1.
    """
    rows = pooled.double()
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows[(rows @ direction.to(rows.device)).argsort()[:: -(-len(rows) // max_points)]]
    rows = rows - rows.mean(0)
    i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    median = squared_distances(rows, rows)[i, j].sqrt().median().item()
    return median if median > 0 else 1.0
