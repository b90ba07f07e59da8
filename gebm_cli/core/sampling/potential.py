"""The latent potential U(z) = -log eta(z) + beta E(B(z)) of the tilted law pi_beta ~ exp(-U). Only E is tempered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Prior(Protocol):
    """The law eta of the latent."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor: ...


class Potential(Protocol):
    """What a sampler sees."""

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """U(z) (n,) in float64, and its gradient, of z's shape (n, ...)."""
        ...


@dataclass(frozen=True)
class LatentPotential:
    """U(z) = -log eta(z) + beta E(B(z)); with beta = 0 the networks are not called, so the prior is exact for any B and E.

    The networks must be frozen and in eval mode: a sampler changes nothing in them.
    """

    prior: Prior
    base: nn.Module
    energy: nn.Module
    beta: float

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """U (n,) float64 and grad U (n, d), by one forward and one backward pass."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = -self.prior.log_prob(z).double()
            if self.beta:
                value = value + self.beta * self.energy(self.base(z)).double()
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient
