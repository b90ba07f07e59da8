"""Potentials whose laws and curvatures are known, for the tests of what surrounds the samplers: tuning, bias, blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gebm_cli.core.sampling.potential import LatentPotential


@dataclass(frozen=True)
class DoublePrior:
    """z ~ N(0, I) in `dim` dimensions, in float64."""

    dim: int

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dim, generator=generator, dtype=torch.float64)

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)


class Formula(nn.Module):
    """An energy written as a function of z; `calls` counts how often it is asked."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula, self.calls = formula, 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.formula(z)


def tilted(dim: int, formula: Callable[[Tensor], Tensor], beta: float = 1.0) -> LatentPotential:
    """U(z) = |z|^2 / 2 + beta formula(z), in float64."""
    return LatentPotential(DoublePrior(dim), nn.Identity(), Formula(formula), beta)


def gaussian(precision: Tensor | list[float]) -> LatentPotential:
    """U(z) = z' K z / 2; a list is the diagonal of K."""
    k = torch.as_tensor(precision, dtype=torch.float64)
    k = (torch.diag(k) if k.dim() == 1 else k) - torch.eye(len(k), dtype=torch.float64)
    return tilted(len(k), lambda z: ((z @ k) * z).sum(1) / 2)


def rotated(spectrum: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    d = len(spectrum)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed), dtype=torch.float64))
    return (q * torch.tensor(spectrum, dtype=torch.float64)) @ q.T


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def z_score(values: Tensor, truth: float = 0.0) -> float:
    """How many standard errors the mean of independent values lies above the truth."""
    return (values.double().mean().item() - truth) / (values.double().std().item() / math.sqrt(len(values)))
