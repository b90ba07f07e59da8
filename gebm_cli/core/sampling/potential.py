"""The latent potential U(z) = -log eta(z) + beta E(B(z)) of the tilted law pi_beta ~ exp(-U). Only E is tempered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn


class Prior(Protocol):
    """The law eta of the latent."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor: ...


class Potential(Protocol):
    """What the local samplers see."""

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """U(z) (n,) in float64, and its gradient, of z's shape (n, ...)."""
        ...

    def value(self, z: Tensor) -> Tensor:
        """U(z) (n,) in float64, without the backward pass."""
        ...


class TiltedPotential(Potential, Protocol):
    """What samplers see that draw from the prior, or act on the energy alone: U = -log eta + beta E in its two parts."""

    @property
    def prior(self) -> Prior: ...

    @property
    def beta(self) -> float | Tensor: ...

    def energy_at(self, z: Tensor) -> Tensor:
        """E(B(z)) (n,) in float64."""
        ...

    def energy_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """E(B(z)) (n,) in float64 and its gradient in z."""
        ...

    def at(self, beta: float | Tensor) -> TiltedPotential:
        """The same parts at another beta: one number, or one for each chain (n,)."""
        ...


@dataclass(frozen=True)
class LatentPotential:
    """U(z) = -log eta(z) + beta E(B(z)), the adapter for any generator, energy and prior.

    `base` maps latents (n, ...) to data, `energy` data to (n,), differentiably; `prior` has `sample` and `log_prob`. They must be
    frozen and in eval mode: a sampler changes nothing in them. With beta = 0 the networks are not called, so the prior is
    exact for any B and E.
    """

    prior: Prior
    base: nn.Module
    energy: nn.Module
    beta: float | Tensor

    def at(self, beta: float | Tensor) -> LatentPotential:
        return replace(self, beta=beta)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """U (n,) float64 and grad U (n, ...), by one forward and one backward pass."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = -self.prior.log_prob(z).double()
            if isinstance(self.beta, Tensor) or self.beta:
                value = value + self.beta * self.energy(self.base(z)).double()
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        """U (n,) float64, by one forward pass."""
        value = -self.prior.log_prob(z).double()
        if isinstance(self.beta, Tensor) or self.beta:
            value = value + self.beta * self.energy(self.base(z)).double()
        return value

    @torch.no_grad()
    def energy_at(self, z: Tensor) -> Tensor:
        return self.energy(self.base(z)).double()

    def energy_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            energy = self.energy(self.base(z)).double()
            (gradient,) = torch.autograd.grad(energy.sum(), z)
        return energy.detach(), gradient
