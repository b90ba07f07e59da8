"""Every kernel, once. The MMD, KID and the two-sample tests all call these.

A kernel maps (n, d) and (m, d) to the (n, m) matrix k(x_i, y_j), in the data's float type.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Kernel(Protocol):
    """k(x, y), symmetric and positive definite."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, d), y (m, d) -> (n, m)."""
        ...


class OfDistance(ABC):
    """A kernel that is a function of one distance, so that kernels of the same distance can share its matrix."""

    metric: ClassVar[str] = "squared"

    @abstractmethod
    def of(self, distances: Tensor) -> Tensor:
        """The kernel of distances of its metric, elementwise; a new tensor."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of(METRICS[self.metric](x, y))


class Radial(ABC):
    """A kernel phi(|x - y|^2) + rest(x, y), whose rest has sums in closed form: what fields and their gradients are made of."""

    cusp: ClassVar[bool] = False
    """Whether phi has no slope at 0, which is then taken as 0."""

    @property
    def length(self) -> float:
        """The distance over which phi changes, the shortest where there are several; infinite where phi has no scale."""
        return math.inf

    @abstractmethod
    def with_slope(self, squared: Tensor) -> tuple[Tensor, Tensor | float]:
        """phi and phi' of squared distances, which are used up; a number for the slope is that multiple of phi."""

    def rest(self, t: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor] | None:
        """sum_j weights_j rest(t, points_j), (k,) float64, and its gradient in t (k, d); None where there is no rest."""
        return None


@dataclass(frozen=True)
class Gaussian(OfDistance, Radial):
    """k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))."""

    bandwidth: float

    @property
    def length(self) -> float:
        return self.bandwidth

    def of(self, distances: Tensor) -> Tensor:
        return (distances * (-0.5 / _least(self.bandwidth**2, distances))).exp_()

    def with_slope(self, squared: Tensor) -> tuple[Tensor, Tensor | float]:
        slope = -0.5 / _least(self.bandwidth**2, squared)
        return squared.mul_(slope).exp_(), slope


@dataclass(frozen=True)
class Laplace(OfDistance):
    """k(x, y) = exp(-|x - y|_1 / bandwidth), a product over coordinates."""

    bandwidth: float
    metric: ClassVar[str] = "l1"

    def of(self, distances: Tensor) -> Tensor:
        return (distances * (-1.0 / _least(self.bandwidth, distances))).exp_()


@dataclass(frozen=True)
class Exponential(OfDistance, Radial):
    """k(x, y) = exp(-|x - y| / bandwidth), the Matern kernel of order 1/2; Laplace's where |.|_1 would cost too much."""

    bandwidth: float
    cusp: ClassVar[bool] = True

    @property
    def length(self) -> float:
        return self.bandwidth

    def of(self, distances: Tensor) -> Tensor:
        return (distances.sqrt() * (-1.0 / _least(self.bandwidth, distances))).exp_()

    def with_slope(self, squared: Tensor) -> tuple[Tensor, Tensor | float]:
        root = squared.sqrt_()
        kernel = (root * (-1.0 / _least(self.bandwidth, root))).exp_()
        return kernel, (kernel * _inverse(root)).mul_(-0.5 / _least(self.bandwidth, root))


@dataclass(frozen=True)
class Polynomial:
    """k(x, y) = (x.y / d + 1)^degree; degree 3 is the kernel of KID (Binkowski et al., 2018, section 4)."""

    degree: int = 3

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1.0) ** self.degree

    def with_slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """k and its derivative by x.y, (n, m) each."""
        base = (x @ y.T).div_(x.shape[1]).add_(1.0)
        power = base ** (self.degree - 1)
        return base.mul_(power), power.mul_(self.degree / x.shape[1])


@dataclass(frozen=True)
class GaussianMixture(Radial):
    """k(x, y) = sum_s exp(-|x - y|^2 / (2 s^2)) + linear x.y, by default with the bandwidths of MMD-GAN's code, unit weights."""

    bandwidths: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
    linear: float = 0.0

    @property
    def length(self) -> float:
        return min(self.bandwidths)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        distances = squared_distances(x, y)
        mixture = torch.stack([torch.exp(distances / (-2.0 * _least(s**2, distances))) for s in self.bandwidths]).sum(0)
        return _plus_linear(mixture, self.linear, x, y)

    def with_slope(self, squared: Tensor) -> tuple[Tensor, Tensor | float]:
        kernel, slope = torch.zeros_like(squared), torch.zeros_like(squared)
        for rate in (-0.5 / _least(s**2, squared) for s in self.bandwidths):
            term = (squared * rate).exp_()
            kernel.add_(term)
            slope.add_(term, alpha=rate)
        return kernel, slope

    def rest(self, t: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor] | None:
        return _linear_sum(self.linear, t, points, weights) if self.linear else None


@dataclass(frozen=True)
class RationalQuadratic(Radial):
    """k(x, y) = sum_a (1 + |x - y|^2 / (2 a bandwidth^2))^-a + linear x.y (Binkowski et al. 2018, appendix; rq*: linear = 1).

    Deviation: the released code uses a in {.1, 1, 10}; the default is the paper's.
    """

    alphas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)
    linear: float = 0.0
    bandwidth: float = 1.0

    @property
    def length(self) -> float:
        return self.bandwidth

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        distances, unit = squared_distances(x, y), 2.0 * _least(self.bandwidth**2, x)
        mixture = torch.stack([torch.exp(-a * torch.log1p(distances / (a * unit))) for a in self.alphas]).sum(0)
        return _plus_linear(mixture, self.linear, x, y)

    def with_slope(self, squared: Tensor) -> tuple[Tensor, Tensor | float]:
        kernel, slope = torch.zeros_like(squared), torch.zeros_like(squared)
        unit = 2.0 * _least(self.bandwidth**2, squared)
        for a in self.alphas:
            base = (squared / (a * unit)).add_(1.0)
            term = base.log().mul_(-a).exp_()
            kernel.add_(term)
            slope.sub_(term.div_(base), alpha=1.0 / unit)
        return kernel, slope

    def rest(self, t: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor] | None:
        return _linear_sum(self.linear, t, points, weights) if self.linear else None


@dataclass(frozen=True)
class EnergyDistance(Radial):
    """k(x, y) = (|x| + |y| - |x - y|) / 2, with which MMD^2 is half of the energy distance (Sejdinovic et al. 2013)."""

    cusp: ClassVar[bool] = True

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        # sqrt has no gradient at 0, which is where the diagonal lies up to rounding: there the root is taken as 0.
        squared, norms = squared_distances(x, y), (x.norm(dim=1)[:, None], y.norm(dim=1)[None, :])
        positive = squared > torch.finfo(squared.dtype).eps * (norms[0].detach().square() + norms[1].detach().square())
        root = torch.where(positive, squared.where(positive, 1.0).sqrt(), 0.0)
        return 0.5 * (norms[0] + norms[1] - root)

    def with_slope(self, squared: Tensor) -> tuple[Tensor, Tensor | float]:
        root = squared.sqrt_()
        return root * -0.5, _inverse(root).mul_(-0.25)

    def rest(self, t: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor] | None:
        """(|t| sum_j weights_j + sum_j weights_j |points_j|) / 2, which is a constant where the weights sum to 0."""
        norms, others = (torch.linalg.vector_norm(z, dim=1, dtype=torch.float64) for z in (t, points))
        total = weights.sum()
        value = 0.5 * (norms * total + weights @ others)
        return value, (0.5 * total * _inverse(norms))[:, None] * t


def _plus_linear(kernel: Tensor, weight: float, x: Tensor, y: Tensor) -> Tensor:
    """Adds weight x.y; the diagonal of the result is then no constant, so no estimate may take it for one."""
    return kernel + weight * (x @ y.T) if weight else kernel


def _linear_sum(weight: float, t: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """sum_j weights_j weight t.points_j and its gradient, which is the same at every t."""
    direction = weight * (weights.to(points.dtype) @ points)
    return (t @ direction).double(), direction.expand_as(t)


def _least(scale: float, like: Tensor) -> float:
    """The scale, or the least normal number of `like`'s type: one over it is finite, and a distance of 0 is 0 at any bandwidth."""
    return max(scale, torch.finfo(like.dtype).tiny)


def _inverse(root: Tensor) -> Tensor:
    """1 / root, and 0 at 0."""
    return root.reciprocal().masked_fill_(root == 0, 0.0)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 by one matrix product, (n, d), (m, d) -> (n, m); rounding below 0 is clamped."""
    cross = torch.addmm(y.square().sum(1)[None, :], x, y.T, alpha=-2.0)
    return cross.add_(x.square().sum(1)[:, None]).clamp_(min=0.0)


def l1_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|_1, (n, d), (m, d) -> (n, m); d times dearer than a product."""
    return torch.cdist(x, y, p=1.0)


METRICS = {"squared": squared_distances, "l1": l1_distances}


def matrices(kernels: Sequence[Kernel], x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """The matrix of each kernel in turn, in its own memory; kernels of one distance share it."""
    shared: dict[str, Tensor] = {}
    for kernel in kernels:
        if isinstance(kernel, OfDistance):
            if kernel.metric not in shared:
                shared[kernel.metric] = METRICS[kernel.metric](x, y)
            yield kernel.of(shared[kernel.metric])
        else:
            yield kernel(x, y)


@dataclass(frozen=True)
class MeanKernel:
    """k(x, y) = mean_i k_i(x, y)."""

    kernels: tuple[Kernel, ...]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        first, *others = matrices(self.kernels, x, y)
        for matrix in others:
            first = first + matrix
        return first / len(self.kernels)


def median_bandwidth(pooled: Tensor, max_points: int = 2000, metric: str = "squared") -> float:
    """The median of |a - b| over distinct pairs of the pooled sample (n, d); a median of 0 gives 1. See `pooled_distances`."""
    median = pooled_distances(pooled, metric, max_points).median().item()
    return median if median > 0 else 1.0


def pooled_distances(pooled: Tensor, metric: str = "squared", max_points: int = 2000) -> Tensor:
    """|a - b| (for "l1" |a - b|_1) over distinct pairs of the pooled sample (n, d), float64, unordered.

    Symmetric in the labels, so a test whose kernel is chosen by it stays valid. Above `max_points` every k-th row is used in
    their order along a fixed random direction, which does not depend on the labels either.
    """
    direction = torch.randn(pooled.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = torch.cat([part.double() @ direction.to(pooled.device) for part in pooled.split(4096)])
    rows = pooled[along.argsort()[:: -(-len(pooled) // max_points)]].double()
    rows = rows - rows.mean(0)
    i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    distances = METRICS[metric](rows, rows)[i, j]
    return distances.sqrt() if metric == "squared" else distances
