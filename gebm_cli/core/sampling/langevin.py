"""Overdamped Langevin samplers: ULA, Leimkuhler-Matthews and MALA.

Notation: U the potential, g its gradient, xi ~ N(0, I), eps the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.sampling.potential import Potential
from gebm_cli.core.sampling.state import Info, State, metropolis, normal, squared_norm, start, unadjusted


@dataclass(frozen=True)
class Ula:
    """Unadjusted Langevin, z' = z - eps g + sqrt(2 eps) xi (Roberts and Tweedie 1996).

    Biased: on a Gaussian of precision K its stationary variance is 1 / (K (1 - eps K / 2)). On the logit of a GAN it is
    DDLS (Che et al. 2020).
    Deviation: the released GEBM code's flag L means eps = L / 2; DDLS in practice decouples the noise from the step.
    """

    potential: Potential
    step_size: float
    gradients_per_step: int = 1
    values_per_step: int = 0

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.gradient is not None
        eps = self.step_size
        z = state.position - eps * state.gradient + math.sqrt(2 * eps) * normal(state.position, generator)
        return unadjusted(start(self.potential, z), state)


@dataclass(frozen=True)
class LeimkuhlerMatthews:
    """z' = z - eps g + sqrt(eps / 2) (xi_n + xi_{n+1}) (Leimkuhler and Matthews 2013): ULA's cost, a bias of second order.

    Each noise is used twice, in this step and the next; the state's `memory` is the last one. Exact on a Gaussian.
    The first memory is drawn given z, sqrt(eps / 2) g + sqrt(1 - eps / 2) xi, as it is at stationarity on the prior: with beta = 0
    chains that start there stay there from the first step on. (It is BAOAB with infinite friction, whose kick comes first.)
    """

    potential: Potential
    step_size: float
    gradients_per_step: int = 1
    values_per_step: int = 0

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        state, s = start(self.potential, z), math.sqrt(self.step_size / 2)
        assert state.gradient is not None
        fresh = normal(z, generator)
        return state._replace(memory=s * state.gradient + math.sqrt(max(1 - s * s, 0.0)) * fresh)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.gradient is not None and state.memory is not None
        eps, fresh = self.step_size, normal(state.position, generator)
        z = state.position - eps * state.gradient + math.sqrt(eps / 2) * (state.memory + fresh)
        # A rejected chain forgets its noise too, or one that points into a wall would be proposed again and again.
        return unadjusted(start(self.potential, z)._replace(memory=fresh), state._replace(memory=fresh))


@dataclass(frozen=True)
class Mala:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): the ULA proposal, accepted with

        log a = U(z) - U(z') - (|z - z' + eps g(z')|^2 - |z' - z + eps g(z)|^2) / (4 eps).

    Deviation: the reference GEBM code multiplies by eps / 4 where it must divide by 4 eps, and so accepts everything.
    """

    potential: Potential
    step_size: float
    gradients_per_step: int = 1
    values_per_step: int = 0

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.gradient is not None
        eps, z = self.step_size, state.position
        new = start(self.potential, z - eps * state.gradient + math.sqrt(2 * eps) * normal(z, generator))
        assert new.gradient is not None
        moved = new.position - z
        there, back = squared_norm(moved + eps * state.gradient), squared_norm(eps * new.gradient - moved)
        return metropolis(new, state, state.potential - new.potential - (back - there) / (4 * eps), generator)
