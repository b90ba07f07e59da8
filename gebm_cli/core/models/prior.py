"""The law eta of the latent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormalPrior:
    """z ~ N(0, I) in `dim` dimensions."""

    dim: int

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, dim), float32, on the generator's device."""
        return torch.randn(n, self.dim, generator=generator, device=generator.device)

    def log_prob(self, z: Tensor) -> Tensor:
        """log eta(z) = -|z|^2 / 2 - (dim / 2) log(2 pi), (n, dim) -> (n,)."""
        return -0.5 * z.square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)
