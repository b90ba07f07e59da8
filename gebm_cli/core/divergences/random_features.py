"""Random Fourier features: k(x, y) ~ phi(x).phi(y), for kernels whose spectral measure is easily drawn from.

    phi(x) = sqrt(2 / D) [cos(W x), sin(W x)],   rows of W ~ the Fourier transform of k      (Rahimi and Recht 2007)

phi.phi is unbiased and k(x, x) = 1 exactly. Rows of W in blocks of d are orthogonal where the kernel is rotation invariant, which
lowers the variance (Yu et al. 2016); for the Laplace kernel, a product over coordinates, they are independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from gebm_cli.core.fields import Field
from gebm_cli.core.kernels import Exponential, Gaussian, Kernel, Laplace

BLOCK_ENTRIES = 2**22
"""Entries of phi that are held at once besides phi(y): 32 MB."""


@dataclass(frozen=True)
class RandomFeatures:
    """phi: (n, d) -> (n, D) float64, with frequencies W (D / 2, d) float64."""

    frequencies: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        angles = x.double() @ self.frequencies.T
        return torch.cat([angles.cos(), angles.sin()], 1).mul_(len(self.frequencies) ** -0.5)

    def to(self, device: torch.device) -> RandomFeatures:
        return RandomFeatures(self.frequencies.to(device))

    @property
    def count(self) -> int:
        """D."""
        return 2 * len(self.frequencies)

    def blocks(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their features, a block at a time."""
        size = max(1, BLOCK_ENTRIES // self.count)
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            yield rows, self(x[rows])

    def weighted_sum(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_i weights_i phi(x_i), (D,)."""
        total = torch.zeros(self.count, dtype=torch.float64, device=x.device)
        for rows, phi in self.blocks(x):
            total += phi.T @ weights[rows]
        return total


def random_features(kernel: Kernel, dim: int, count: int, generator: torch.Generator) -> RandomFeatures:
    """`count` features D of a kernel on R^dim. A Cauchy vector is a normal one divided by an independent |N(0, 1)|.

    Raises:
        ValueError: `count` is odd or not positive, or a kernel other than Gaussian, Exponential and Laplace.
    """
    if count < 2 or count % 2:
        raise ValueError(f"the number of random features must be even and at least 2, got {count}")
    half = count // 2
    if not isinstance(kernel, Gaussian | Exponential | Laplace):
        _refuse(kernel)
    if isinstance(kernel, Laplace):
        frequencies = _normal(generator, half, dim) / _normal(generator, half, dim)
    else:
        frequencies = _orthogonal(generator, half, dim) * _normal(generator, half, dim).norm(dim=1, keepdim=True)
    if isinstance(kernel, Exponential):
        frequencies = frequencies / _normal(generator, half, 1).abs()
    return RandomFeatures(frequencies / kernel.bandwidth)


def _refuse(kernel: Kernel) -> NoReturn:
    raise ValueError(
        f"random features exist for the kernels Gaussian, Exponential and Laplace, got {type(kernel).__name__}"
    )


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device=generator.device)


def _orthogonal(generator: torch.Generator, rows: int, dim: int) -> Tensor:
    """Unit vectors (rows, dim), orthogonal in blocks of dim, each uniform up to its sign, which phi.phi does not see."""
    q = torch.linalg.qr(_normal(generator, -(-rows // dim), dim, dim)).Q
    return q.mT.reshape(-1, dim)[:rows]


@dataclass(frozen=True)
class FeatureField:
    """f(t) = phi(t).weights with weights (D,) float64, and its gradient, computed in float64 in blocks of rows."""

    features: RandomFeatures
    weights: Tensor

    @torch.no_grad()
    def value(self, t: Tensor) -> Tensor:
        found = [phi @ self.weights for _, phi in self.features.blocks(t)]
        return torch.cat(found) if found else t.new_zeros(0, dtype=torch.float64)

    @torch.no_grad()
    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = t.new_zeros(len(t), dtype=torch.float64), torch.zeros_like(t)
        on_cos, on_sin = self.weights.chunk(2)
        for rows, phi in self.features.blocks(t):
            cos, sin = phi.chunk(2, 1)
            value[rows] = phi @ self.weights
            gradient[rows] = ((cos * on_sin - sin * on_cos) @ self.features.frequencies).to(t.dtype)
        return value, gradient


class FeatureGram:
    """The Gram matrix phi(y) phi(y)' of y (m, d), never formed: memory O(m D), a linear system costs O(m D^2 + D^3)."""

    def __init__(self, y: Tensor, features: RandomFeatures) -> None:
        self._features, self._phi = features, features(y)
        self.patience = features.count // 40

    def times(self, a: Tensor) -> Tensor:
        return self._phi @ (self._phi.T @ a)

    def solve(self, s: Tensor, right: Tensor) -> Tensor:
        """(I + S K S)^-1 right by Woodbury's identity: right - B (I + B'B)^-1 B' right, B = S phi."""
        b = s[:, None] * self._phi
        inner = (b.T @ b).diagonal_scatter((b * b).sum(0) + 1.0)
        return right - b @ torch.cholesky_solve((b.T @ right)[:, None], torch.linalg.cholesky(inner))[:, 0]

    def matrix(self) -> Tensor:
        return self._phi @ self._phi.T

    def field(self, points: Tensor, weights: Tensor) -> Field:
        return FeatureField(self._features, self._features.weighted_sum(points, weights))
