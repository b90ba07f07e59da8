"""The criterion J of a deep kernel, with its gradient by blocks (Liu et al. 2020, section 4).

    J = MMD^2_u / sqrt(sigma^2 + lambda),   sigma^2 = 2 N / n var_i(h_x) + 2 N / m var_j(h_y),   N = n + m,
    h_x(i) = mean_{j != i} k(x_i, x_j) - mean_j k(x_i, y_j)

J needs only the sums of the kernel matrix over rows, so dJ/dK_ij is g_i + g_j: the backward pass needs those N numbers a side,
makes each block of the matrix again and forgets it. The distances |x - y|^2, which do not change in training, are kept.

Deviation: sigma^2 of unpaired samples. The paper's 4 var_i(h_x(i) + h_y(i)) pairs x_i with y_i, for n = m alone; both estimate
N / 2 times the first-order variance of MMD^2_u and agree in expectation at n = m, and this one is less noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.kernels import squared_distances
from gebm_cli.core.two_sample.deep_kernel import DeepKernel

BLOCK = 512
LEAST = -60.0  # exponents below it count as it: arithmetic on the denormal numbers they would give is many times slower
LAMBDA = 1e-8  # the paper's; kernels are 1 on the diagonal


class Pairs:
    """Blocks of |z_i - z_j|^2 of the pooled rows z = [x; y], on and above the diagonal, each of one side by one side.

    Attributes:
        sizes: n and m.
        blocks: rows, columns, the columns' side (0 for x) and the rows' side, and the distances (rows, columns).
    """

    def __init__(self, x: Tensor, y: Tensor, block: int | None = None) -> None:
        block = block or (BLOCK if x.device.type == "cpu" else 8 * BLOCK)
        self.sizes = len(x), len(y)
        starts = [(side, at) for side, z in enumerate((x, y)) for at in range(0, len(z), block)]
        chunks = [
            (side, slice(side * len(x) + at, side * len(x) + min(at + block, self.sizes[side]))) for side, at in starts
        ]
        pooled = torch.cat([x, y])
        self.blocks = []
        for number, (side_i, i) in enumerate(chunks):
            for side_j, j in chunks[number:]:
                distances = squared_distances(pooled[i], pooled[j])
                if i == j:
                    distances.fill_diagonal_(0.0)
                self.blocks.append((i, j, side_j, side_i, distances))
        # Two blocks to work in: fresh memory for each would cost as much as the arithmetic.
        self._work = torch.empty(2, min(block, max(self.sizes)) ** 2, dtype=x.dtype, device=x.device)

    def work(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Two buffers of a block's shape, with whatever they hold."""
        first, second = (flat[: like.numel()].view(like.shape) for flat in self._work)
        return first, second


class _RowSums(torch.autograd.Function):
    """u (N, k), t scalar -> sums over j != i of exp(-|u_i - u_j|^2 - t D_ij) and of exp(-t D_ij), each (N, 2): j in x, j in y.

    The derivatives in t are row sums too, made in the forward pass; that in u, with W_ij = (g_i + g_j) P_ij, is
    2 (W u - (W 1) u) row by row.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, t: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        near, far, near_slope, far_slope = u.new_zeros(4, len(u), 2)
        left, right = _factors(u)
        rate, ones = t.item(), u.new_ones(max(pairs.sizes))
        for i, j, side_j, side_i, distances in pairs.blocks:
            product, raw = pairs.work(distances)
            _exponential(left[i], right[j], distances, rate, product)
            torch.mul(distances, -rate, out=raw).clamp_(min=LEAST).exp_()
            for block, sums, slopes in ((product, near, near_slope), (raw, far, far_slope)):
                if i == j:
                    block.fill_diagonal_(0.0)
                for target in (sums, slopes):
                    target[i, side_j] += block @ ones[: block.shape[1]]
                    if i != j:
                        target[j, side_i] += block.T @ ones[: block.shape[0]]
                    if target is sums:
                        block.mul_(distances)
        ctx.save_for_backward(u, near_slope, far_slope)
        ctx.pairs, ctx.rate = pairs, rate
        return near, far

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        u, near_slope, far_slope = ctx.saved_tensors
        near, far = gradients
        left, right = _factors(u)
        extended = torch.cat([u, torch.ones_like(u[:, :1])], dim=1)
        total = torch.zeros_like(extended)
        for i, j, side_j, side_i, distances in ctx.pairs.blocks:
            product, weights = ctx.pairs.work(distances)
            _exponential(left[i], right[j], distances, ctx.rate, product)
            torch.add(near[i, side_j, None], near[None, j, side_i], out=weights).mul_(product)
            if i == j:
                weights.fill_diagonal_(0.0)
            total[i].addmm_(weights, extended[j])
            if i != j:
                total[j].addmm_(weights.T, extended[i])
        slope = -(near * near_slope).sum() - (far * far_slope).sum()
        return 2.0 * (total[:, :-1] - total[:, -1:] * u), slope, None


def _factors(u: Tensor) -> tuple[Tensor, Tensor]:
    """A and B with (A B')_ij = -|u_i - u_j|^2: the whole exponent is one product."""
    square = u.square().sum(1, keepdim=True)
    ones = torch.ones_like(square)
    return torch.cat([2.0 * u, -square, ones], dim=1), torch.cat([u, ones, -square], dim=1)


def _exponential(left: Tensor, right: Tensor, distances: Tensor, rate: float, out: Tensor) -> None:
    torch.addmm(distances, left, right.T, beta=-rate, out=out).clamp_(min=LEAST).exp_()


def criterion_of_sums(sums: Tensor, n: int, floor: float = LAMBDA) -> Tensor:
    """J from the sums over j != i of k(z_i, z_j), (N, 2), of pooled rows of which the first n are x; scalar float64."""
    m = len(sums) - n
    xx, xy, yx, yy = (part.double() for part in (sums[:n, 0], sums[:n, 1], sums[n:, 0], sums[n:, 1]))
    within_x, within_y, across_x, across_y = xx / (n - 1), yy / (m - 1), xy / m, yx / n
    value = within_x.mean() + within_y.mean() - across_x.mean() - across_y.mean()
    projections = ((within_x - across_x, n), (within_y - across_y, m))
    variance = torch.stack([2.0 * (n + m) / size * h.var(correction=0) for h, size in projections]).sum()
    return value / (variance + floor).sqrt()


@dataclass
class Scales:
    """The logarithms of s0 and s, and the logit of epsilon: scalars that are learned."""

    feature: Tensor
    raw: Tensor
    mixing: Tensor

    @classmethod
    def start(cls, feature: float, raw: float, epsilon: float, like: Tensor) -> Scales:
        """From the values themselves, in the type and on the device of `like`."""
        values = (math.log(feature), math.log(raw), math.log(epsilon / (1.0 - epsilon)))
        return cls(*(torch.tensor(v, dtype=like.dtype, device=like.device, requires_grad=True) for v in values))

    def all(self) -> list[Tensor]:
        """The three, for an optimiser."""
        return [self.feature, self.raw, self.mixing]

    def kernel(self, split: int) -> DeepKernel:
        """The kernel with these scales."""
        epsilon = torch.sigmoid(self.mixing).item()
        return DeepKernel(split, epsilon, self.feature.exp().item(), self.raw.exp().item())


def criterion(phi: Tensor, scales: Scales, pairs: Pairs) -> Tensor:
    """J of the deep kernel, differentiable in phi (N, k) and the scales; the blocks are made again in the backward pass."""
    centred = phi - phi.detach().mean(0)
    near, far = _RowSums.apply(centred * (-0.5 * scales.feature).exp(), (-scales.raw).exp(), pairs)
    epsilon = torch.sigmoid(scales.mixing)
    return criterion_of_sums((1.0 - epsilon) * near + epsilon * far, pairs.sizes[0])


@torch.no_grad()
def gaussian_criterion(scale: float, pairs: Pairs) -> float:
    """J of exp(-|x - y|^2 / scale)."""
    first = pairs.blocks[0][-1]
    sums = first.new_zeros(sum(pairs.sizes), 2)
    ones = first.new_ones(max(pairs.sizes))
    for i, j, side_j, side_i, distances in pairs.blocks:
        block, _ = pairs.work(distances)
        torch.mul(distances, -1.0 / scale, out=block).clamp_(min=LEAST).exp_()
        if i == j:
            block.fill_diagonal_(0.0)
        else:
            sums[j, side_i] += block.T @ ones[: block.shape[0]]
        sums[i, side_j] += block @ ones[: block.shape[1]]
    return criterion_of_sums(sums, pairs.sizes[0]).item()
