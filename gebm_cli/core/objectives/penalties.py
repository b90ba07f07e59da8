"""Penalties on a critic: on the gradient of its witness at interpolates, at data or at base samples, and on its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gebm_cli.core.models.second_order import gradient_by_input

Kind = Literal["zero-centred", "one-centred", "r1", "r2"]


@dataclass(frozen=True)
class Penalty:
    """Which penalty, its weight, and at every how many critic steps it is taken (lazily: with `every` times the weight).

    zero-centred: mean |grad f|^2 at interpolates (GEBM); one-centred: mean (|grad f| - 1)^2 there (Gulrajani et al. 2017); r1 and
    r2: mean |grad f|^2 at data and at base samples (Mescheder et al. 2018). `outputs` and `weights` weigh the mean square of
    the critic's outputs (Binkowski et al. 2018) and of its parameters.
    Deviation: the released GEBM code divides the sum of squared parameters by the sum of their dimensions, not of their sizes.
    """

    kind: Kind = "zero-centred"
    weight: float = 1.0
    every: int = 1
    outputs: float = 0.0
    weights: float = 0.0

    def points(self, x: Tensor, y: Tensor, a: Tensor | None) -> Tensor:
        """Where the gradient is taken: data x, base samples y, or a x + (1 - a) y with one a per sample, (n,)."""
        if self.kind == "r1" or (a is None and self.kind != "r2"):
            return x
        if self.kind == "r2" or a is None:
            return y
        return torch.lerp(y, x, a.view(-1, *[1] * (x.dim() - 1)))

    @property
    def interpolates(self) -> bool:
        return self.kind in ("zero-centred", "one-centred")

    def of(self, witness: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        """The penalty of each sample, (n,), differentiable in the critic's weights; no gradient flows into the points."""
        squared = squared_gradient_norm(witness, at)
        if self.kind != "one-centred":
            return squared
        # The norm has no gradient at 0; where it is 0 its direction is, too, and any finite value of the derivative will do.
        return ((squared + torch.finfo(squared.dtype).tiny).sqrt() - 1.0).square()


def squared_gradient_norm(witness: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """|grad f(x_i)|^2 of each point, (n, ...) -> (n,): all axes but the first are one vector.

    Deviation: two released MMD-GAN codes take the norm along one axis of the image, one library over the whole batch.
    """
    at = at.detach().requires_grad_()
    return gradient_by_input(witness(at).sum(), at).flatten(1).square().sum(1)


EXACT_OUTPUTS = 16


def squared_jacobian(features: Callable[[Tensor], Tensor], at: Tensor, directions: Callable[[int], Tensor]) -> Tensor:
    """|J phi(x_i)|_F^2 of each point, (n,), differentiable: one backward pass per output up to 16 outputs, else the unbiased
    estimate |J(x_i)' v_i|^2 with signs v_i of its own for each point (Hutchinson 1990), (n, k) of them from `directions(k)`.

    Signs have the least variance of all v with independent entries, and a v for each point, which costs no more than one for all,
    averages its error away over the batch: with 32 outputs and 64 points it was 58 % of the mean with one normal v, 6 % so.
    """
    at = at.detach().requires_grad_()
    outputs = features(at).view(len(at), -1)
    k = outputs.shape[1]
    if k <= EXACT_OUTPUTS:
        rows = [outputs[:, i].sum() for i in range(k)]
    else:
        rows = [(outputs * directions(k).to(outputs)).sum()]
    return torch.stack([gradient_by_input(row, at).flatten(1).square().sum(1) for row in rows]).sum(0)


def signs(n: int, k: int, generator: torch.Generator) -> Tensor:
    """n x k independent signs, -1 or 1 with equal probability."""
    return torch.randint(0, 2, (n, k), generator=generator, device=generator.device).mul_(2).sub_(1)
