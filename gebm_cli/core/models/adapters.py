"""What stands between the chain's flat normal latent and networks that were made for something else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class UniformLatent(nn.Module):
    """A base for z ~ U(-1, 1)^d, driven by u ~ N(0, I): u -> base(z), z = 2 Phi(u) - 1 = erf(u / sqrt 2) per coordinate.

    With |dz/du| = 2 phi(u), phi the standard normal density, the uniform density (1/2)^d becomes in u

        (1/2)^d * prod_i 2 phi(u_i) = prod_i phi(u_i) = N(u; 0, I),

    so the law of the chain's variable is exactly the normal prior: draws from it give exact draws of the base, and beta = 0
    is the base, as with any other. State dicts have the prefix `base.`, so weights learned under one prior are refused
    under the other.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, u: Tensor) -> Tensor:
        """(n, d) -> data, (n, ...)."""
        return self.base(torch.erf(u / math.sqrt(2)))


class ExternalBase(nn.Module):
    """A user's generator, called with the latent in the shapes it wants. `factory` names where it came from.

    One shape s: module(z.reshape(n, *s)). Several: z is split in order, and module(z1, z2, ...). None: module(z).
    """

    def __init__(self, module: nn.Module, factory: str, shapes: Sequence[tuple[int, ...]] | None) -> None:
        super().__init__()
        self.module = module
        self.factory = factory
        self.shapes = shapes

    def forward(self, z: Tensor) -> Tensor:
        """(n, d) -> data, (n, ...); d is the sum of the shapes' sizes."""
        if self.shapes is None:
            return self.module(z)
        parts = z.split([math.prod(shape) for shape in self.shapes], dim=1)
        return self.module(*(part.reshape(len(z), *shape) for part, shape in zip(parts, self.shapes, strict=True)))


class ExternalEnergy(nn.Module):
    """A user's energy, or, with `is_logit`, a critic whose logit D of being data is an energy E = -D."""

    def __init__(self, module: nn.Module, factory: str, is_logit: bool) -> None:
        super().__init__()
        self.module = module
        self.factory = factory
        self.is_logit = is_logit

    def forward(self, x: Tensor) -> Tensor:
        """E(x), in the shape in which the module returns it."""
        return -self.module(x) if self.is_logit else self.module(x)
