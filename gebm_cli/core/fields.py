"""Real functions on R^d with their gradients, above all sums of kernels: witnesses, and what flows of particles descend.

    f(t) = sum_j w_j k(t, z_j),     for k = phi(|t - z|^2):   grad f(t) = 2 sum_j w_j phi'(|t - z_j|^2) (t - z_j)

One product of each block of kernel values with [w z, w] gives value and gradient, grad f(t) = 2 [t (Phi' w) - Phi' (w z)]. No graph
is built, and memory is O(block^2 + n d). Products within a block are in the data's type, sums over blocks in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gebm_cli.core.kernels import Kernel, MeanKernel, Polynomial, Radial

CPU_BLOCK, CUDA_BLOCK = 512, 8192
"""Rows and columns of a block: on a CPU it stays in the cache; see tests/benchmarks/flow_speed.py."""

FAR = 32.0
"""Reach of the points in lengths of the kernel beyond which products of float32 rows are taken in float64: an error of 1e-4."""
LOST = 1e6
"""Reach beyond which float64 has lost what the kernel sees: distances that are 0 up to rounding are then taken as 0."""

Products = tuple[Tensor, Tensor]
"""sum_j w_j k (k,) and, before they are made into a gradient, the products of the slopes with [w z, w] (k, d + 1); float64."""


class Field(Protocol):
    """A real function on R^d with its gradient."""

    def value(self, t: Tensor) -> Tensor:
        """t (k, d) -> f(t) (k,) float64."""
        ...

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t (k, d) -> f(t) (k,) float64, and its gradient (k, d) in t's type."""
        ...


@dataclass(frozen=True)
class KernelField:
    """f(t) = sum_j weights_j kernel(t, points_j), with points (n, d) and weights (n,) float64.

    Kernels of the squared distance and the polynomial ones take no graph, others are differentiated block by block. A kernel with
    a cusp at distance 0 (Exponential, EnergyDistance, Laplace) has the gradient 0 there.

    Digits: squared distances are found by products, about the mean of the points, and have an error of eps r^2, r the largest
    distance from that mean: for a kernel of length s relatively eps (r / s)^2, which is at most 1e-4 (beyond, float64 computes,
    which has 1e-4 at r / s = 1e6). A cusp is flat within 2 sqrt(eps) r.
    """

    kernel: Kernel
    points: Tensor
    weights: Tensor

    @torch.no_grad()
    def value(self, t: Tensor) -> Tensor:
        return _sums(self.kernel, t.to(self.points.dtype), self.points, self.weights, False)[0]

    @torch.no_grad()
    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = _sums(self.kernel, t.to(self.points.dtype), self.points, self.weights, True)
        return value, gradient.to(t.dtype)


@dataclass(frozen=True)
class Scaled:
    """factor f."""

    field: Field
    factor: float

    def value(self, t: Tensor) -> Tensor:
        return self.factor * self.field.value(t)

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.field.value_and_grad(t)
        return self.factor * value, self.factor * gradient


def _sums(kernel: Kernel, t: Tensor, z: Tensor, w: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    """f and, if asked for `slopes`, its gradient, both float64."""
    if isinstance(kernel, MeanKernel):
        near = [k for k in kernel.kernels if isinstance(k, Radial)]
        parts = [_sums(k, t, z, w, slopes) for k in kernel.kernels if not isinstance(k, Radial)]
        parts += [_radial(near, t, z, w, slopes)] if near else []
        return sum(v for v, _ in parts) / len(kernel.kernels), sum(g for _, g in parts) / len(kernel.kernels)  # type: ignore[return-value]
    if isinstance(kernel, Radial):
        return _radial([kernel], t, z, w, slopes)
    if isinstance(kernel, Polynomial):
        value, products = _streamed(kernel.with_slope, t, z, w, t, z, slopes)
        return value, products[:, :-1]
    return _differentiated(kernel, t, z, w, slopes)


def _radial(kernels: Sequence[Radial], t: Tensor, z: Tensor, w: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    """The sum over kernels of the squared distance, which is computed once, as one product of rows with more columns."""
    reach = (z - z.mean(0)).norm(dim=1).max().item() / min(k.length for k in kernels)
    given, (t, z) = (t, z), (t.double(), z.double()) if z.dtype == torch.float32 and reach > FAR else (t, z)
    flat = reach > LOST or any(k.cusp for k in kernels)
    centre = z.mean(0)
    near, points = t - centre, z - centre
    left = torch.cat([near, near.square().sum(1, keepdim=True), torch.ones_like(near[:, :1])], 1)
    right = torch.cat([-2.0 * points, torch.ones_like(points[:, :1]), points.square().sum(1, keepdim=True)], 1)

    def matrices(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | float]:
        squared = (a @ b.T).clamp_(min=0.0)
        if flat:  # what is 0 up to rounding is 0
            squared.masked_fill_(squared <= 4 * torch.finfo(a.dtype).eps * (a[:, -2, None] + b[None, :, -1]), 0.0)
        return _matrices(kernels, squared)

    value, products = _streamed(matrices, left, right, w, near, points, slopes)
    lead = near * products[:, -1:]
    gradient = lead - products[:, :-1]
    gradient = 2.0 * gradient.masked_fill_(gradient.abs() <= 4 * torch.finfo(z.dtype).eps * lead.abs(), 0.0)
    for rest in (k.rest(*given, w) for k in kernels):
        if rest is not None:
            value, gradient = value + rest[0], gradient + rest[1]
    return value, gradient


def _matrices(kernels: Sequence[Radial], squared: Tensor) -> tuple[Tensor, Tensor | float]:
    """The sum of the kernels, and its slope, of squared distances, which are used up."""
    found = [k.with_slope(squared if k is kernels[-1] else squared.clone()) for k in kernels]
    if len(found) == 1:
        return found[0]
    slopes = [slope if isinstance(slope, Tensor) else slope * value for value, slope in found]
    return torch.stack([value for value, _ in found]).sum(0), torch.stack(slopes).sum(0)


def _streamed(
    matrices: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]],
    left: Tensor,
    right: Tensor,
    w: Tensor,
    t: Tensor,
    z: Tensor,
    slopes: bool,
) -> Products:
    """Sums over blocks of `matrices(left, right)`, a kernel and its slope, against w and [w z, w]."""
    column = w.to(z.dtype)[:, None]
    weighted = torch.cat([column * z, column], 1)
    value = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    products = torch.zeros(len(t), z.shape[1] + 1, dtype=torch.float64, device=t.device)
    size = block_size(t)
    for i in range(0, len(t), size):
        for j in range(0, len(z), size):
            kernel, slope = matrices(left[i : i + size], right[j : j + size])
            if not slopes or isinstance(slope, Tensor):
                value[i : i + size] += kernel @ column[j : j + size, 0]
            if slopes:
                products[i : i + size] += (slope if isinstance(slope, Tensor) else kernel) @ weighted[j : j + size]
    if slopes and not isinstance(slope, Tensor):
        value, products = products[:, -1], slope * products
    return value, products


def _differentiated(kernel: Kernel, t: Tensor, z: Tensor, w: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    """Any kernel, by a graph for each block."""
    value, gradient = (
        torch.zeros(len(t), dtype=torch.float64, device=t.device),
        torch.zeros_like(t, dtype=torch.float64),
    )
    size, column = block_size(t), w.to(z.dtype)
    for i in range(0, len(t), size):
        for j in range(0, len(z), size):
            with torch.set_grad_enabled(slopes):
                rows = t[i : i + size].detach().requires_grad_(slopes)
                part = kernel(rows, z[j : j + size].detach()) @ column[j : j + size]
            value[i : i + size] += part.detach()
            if slopes:
                gradient[i : i + size] += torch.autograd.grad(part, rows, torch.ones_like(part))[0]
    return value, gradient


def block_size(t: Tensor) -> int:
    """Rows and columns of a block on t's device."""
    return CUDA_BLOCK if t.is_cuda else CPU_BLOCK
