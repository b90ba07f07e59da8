"""f-divergences by their Fenchel duals (Nguyen et al. 2010; Nowozin et al. 2016), in one parametrisation: by the energy.

    D_f(P || Q) = E_Q[f(dP/dQ)] = sup_T  E_P[T] - E_Q[f*(T)],     T = f'(dP/dQ) at the optimum

With v = -(E + c) for log dP/dQ, T = f'(e^v) and f*(T) = e^v f'(e^v) - f(e^v): no output activation has to be chosen, every T
lies in the domain of f*, and at the optimum of each of them E + c = -log dP/dQ. So any of them trains the energy of a GEBM,
but for "pearson-linear" and the sign alone that total variation gives.
Deviation: Nowozin et al. (table 2) choose an output activation g_f for each f; ours is f' after exp, but for "pearson-linear".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gebm_cli.core.objectives.objective import Objective

Name = Literal["kl", "reverse-kl", "pearson", "pearson-linear", "hellinger", "js", "total-variation"]


@dataclass(frozen=True)
class _Dual:
    """`on_data`: v -> T, `on_base`: v -> f*(T); both as functions of v = -(E + c)."""

    on_data: Callable[[Tensor], Tensor]
    on_base: Callable[[Tensor], Tensor]


DUALS: dict[Name, _Dual] = {
    "kl": _Dual(lambda v: v + 1, torch.exp),  # f = u log u
    "reverse-kl": _Dual(lambda v: -torch.exp(-v), lambda v: v - 1),  # f = -log u
    "pearson": _Dual(lambda v: 2 * torch.expm1(v), lambda v: torch.expm1(2 * v)),  # f = (u - 1)^2
    # The same f with T = v: at the optimum v = 2 (dP/dQ - 1), no log ratio. For critics of a base in training: where supports are
    # disjoint the divergence is infinite, and T = 2 (e^v - 1) takes v there in fifty steps on real images. The base ascends T
    # (`non_saturating`): below v = -2, where every sample of such a base ends, f* falls again and would push it away.
    "pearson-linear": _Dual(lambda v: v, lambda v: v * v / 4 + v),
    "hellinger": _Dual(lambda v: -torch.expm1(-v / 2), lambda v: torch.expm1(v / 2)),  # f = (sqrt u - 1)^2
    # f = u log u - (u + 1) log((u + 1) / 2), which is twice the Jensen-Shannon divergence: logistic regression, v the logit.
    "js": _Dual(lambda v: math.log(2) - softplus(-v), lambda v: softplus(v) - math.log(2)),
    # f = |u - 1| / 2. f' is a step, so T is its smooth form tanh(v / 2) / 2; v has the sign of log dP/dQ, not its value.
    "total-variation": _Dual(lambda v: torch.tanh(v / 2) / 2, lambda v: torch.tanh(v / 2) / 2),
}


@dataclass(frozen=True)
class FDivergence(Objective):
    """E_P[T] - E_Q[f*(T)], and for the base -E_Q[f*(T)], or with `non_saturating` -E_Q[T] (Nowozin et al. 2016, section 3.2).

    "js" with `non_saturating` is the non-saturating GAN (Goodfellow et al. 2014): the base minimises softplus(E + c).
    """

    name: Name
    non_saturating: bool = False

    def value(self, on_data: Tensor, on_base: Tensor) -> Tensor:
        dual = DUALS[self.name]
        return dual.on_data(-on_data).mean() - dual.on_base(-on_base).mean()

    def base_loss(self, on_base: Tensor, on_data: Tensor | None = None) -> Tensor:
        dual = DUALS[self.name]
        return -(dual.on_data if self.non_saturating else dual.on_base)(-on_base).mean()
