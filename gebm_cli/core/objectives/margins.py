"""Objectives that bound no density ratio: the hinge loss and the Wasserstein distance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu

from gebm_cli.core.objectives.objective import Objective


@dataclass(frozen=True)
class Hinge(Objective):
    """-E_P[relu(1 + E)] - E_Q[relu(1 - E)], E the energy with its constant; the base minimises E_Q[E] (Lim and Ye 2017;
    Miyato et al. 2018, equation 17, with logit D = -E)."""

    def value(self, on_data: Tensor, on_base: Tensor) -> Tensor:
        return -relu(1 + on_data).mean() - relu(1 - on_base).mean()

    def base_loss(self, on_base: Tensor, on_data: Tensor | None = None) -> Tensor:
        return on_base.mean()


@dataclass(frozen=True)
class Wasserstein(Objective):
    """E_Q[E] - E_P[E], the Kantorovich dual when E is 1-Lipschitz; the base minimises E_Q[E].

    The Lipschitz bound comes from a penalty (Gulrajani et al. 2017), or, with `clip`, from clamped weights (Arjovsky et al. 2017).
    """

    clip: float | None = None
    learns_constant = False

    def value(self, on_data: Tensor, on_base: Tensor) -> Tensor:
        return on_base.mean() - on_data.mean()

    def base_loss(self, on_base: Tensor, on_data: Tensor | None = None) -> Tensor:
        return on_base.mean()
