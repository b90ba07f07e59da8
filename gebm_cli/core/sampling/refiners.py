"""Published ways of refining samples with a critic that are not Markov chains on pi. Each says what it does converge to.

They have the samplers' anatomy, so that all can be compared at equal cost. D = -E is the critic's logit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gebm_cli.core.sampling.global_moves import log_weight, reservoir, usable
from gebm_cli.core.sampling.potential import TiltedPotential
from gebm_cli.core.sampling.state import Info, State, finite, normal, per_chain, select, unadjusted, uniform

Divergence = Literal["kl", "js", "logd"]


@dataclass(frozen=True)
class Dot:
    """Discriminator optimal transport in the latent (Tanaka 2019): gradient descent from z_0 on

        |z - z_0 + .001| + beta E(B(z)) / k_eff,      gradient projected on the tangent of the sphere |z| = const,

    where k_eff is the largest slope of beta E seen between pairs of base samples, so that beta itself cancels. A descent, not a
    sampler: no noise, and no law it converges to; run long it stops within k_eff-steepness of its start.
    Deviation: the released code projects by g - z (z.g) / sqrt(128), which over-corrects the radius about tenfold; here it is
    g - z (z.g) / |z|^2. `memory` is z_0.
    """

    potential: TiltedPotential
    step_size: float
    steepness: float
    gradients_per_step: int = 1
    values_per_step: int = 0

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return _tilted(self.potential, z)._replace(memory=z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.gradient is not None and state.memory is not None
        z, away = state.position, state.position - state.memory + 1e-3
        length = squared(away).sqrt().clamp(min=1e-12)
        force = away / length + state.gradient / self.steepness
        radial = (z * force).flatten(1).sum(1) / squared(z).flatten()
        force = force - per_chain(radial, z) * z
        new = _tilted(self.potential, z - self.step_size * force)._replace(memory=state.memory)
        return unadjusted(new, state)


@dataclass(frozen=True)
class DgFlow:
    """Discriminator gradient flow (Ansari, Ang and Soh 2021): z' = z + eta s(d) grad d + sqrt(2 eta gamma) xi, 25 steps.

    d = -beta E - c is the log of the density ratio; s = 1 for the KL divergence, 1 / (1 + e^-d) for JS, 1 / (1 + e^d) for logD.
    There is no prior term, so its stationary law, exp(d / gamma) for KL, has nothing to do with pi: run long it leaves the prior's
    shell, and it is stopped early instead. `step_size` is eta, `noise` is gamma.
    """

    potential: TiltedPotential
    step_size: float
    log_partition: float = 0.0
    divergence: Divergence = "kl"
    noise: float = 0.01
    gradients_per_step: int = 1
    values_per_step: int = 0

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return _tilted(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.gradient is not None
        d = log_weight(self.potential, state) - self.log_partition
        weight = {"kl": torch.ones_like(d), "js": d.sigmoid(), "logd": (-d).sigmoid()}[self.divergence]
        drift = -per_chain(weight.to(state.position.dtype), state.position) * state.gradient
        noise = math.sqrt(2 * self.step_size * self.noise) * normal(state.position, generator)
        return unadjusted(_tilted(self.potential, state.position + self.step_size * drift + noise), state)


@dataclass(frozen=True)
class Rejection:
    """Discriminator rejection sampling (Azadi et al. 2019): a chain draws from the base until a draw is accepted, and then rests.

    With l = -beta E and l_max the largest seen among pilot draws, a draw is accepted with probability sigmoid(F),

        F = l - l_max - log(1 - exp(l - l_max - 1e-14)) - shift.

    With shift = 0 that is exp(l - l_max): exact draws of pi if no l exceeds l_max. `shift`, in the paper a percentile of F, buys
    acceptance and makes the law flatter than pi. Chains not accepted when the steps end keep their last draw, one of the base;
    `memory` (n,) is 1 where a draw was accepted.
    """

    potential: TiltedPotential
    log_bound: float
    shift: float = 0.0
    step_size: float = 0.0
    gradients_per_step: int = 0
    values_per_step: int = 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        state = State(z, self.potential.value(z))
        return state._replace(memory=self._accept(state, generator))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.memory is not None
        z = self.potential.prior.sample(len(state.position), generator)
        new = State(z, self.potential.value(z))
        new = new._replace(memory=self._accept(new, generator))
        running = ~state.memory
        ok = finite(new)
        return select(running & ok, new, state), Info(running & ok & new.memory, running & ~ok)  # type: ignore[operator]

    def _accept(self, state: State, generator: torch.Generator) -> Tensor:
        draw = uniform(state.potential, generator)  # drawn for all, so that the stream does not depend on the values
        return draw < drs_acceptance(log_weight(self.potential, state), self.log_bound, self.shift)


def drs_acceptance(log_w: Tensor, log_bound: float, shift: float) -> Tensor:
    """sigmoid(F) of Azadi et al. 2019, eq. 8; a weight above the bound is accepted."""
    return torch.sigmoid(drs_logit(log_w, log_bound) - shift)


def drs_logit(log_w: Tensor, log_bound: float) -> Tensor:
    """F of Azadi et al. 2019, eq. 8, before its shift."""
    below = (usable(log_w) - log_bound).clamp(max=0.0)
    return below - torch.log(-torch.expm1(below - 1e-14))


@dataclass(frozen=True)
class Resampling:
    """Importance resampling (Rubin 1987): of the n + 1 draws of the base after n steps, one is kept in proportion to exp(-beta E).

    Its law tends to pi as n grows, with a bias of order 1 / n; it is not a chain on pi, since old weights are never forgotten.
    `memory` (n,) is the log of the total weight so far.
    """

    potential: TiltedPotential
    step_size: float = 0.0
    gradients_per_step: int = 0
    values_per_step: int = 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        state = State(z, self.potential.value(z))
        return state._replace(memory=usable(log_weight(self.potential, state)))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.memory is not None
        kept, total, taken, broken = reservoir(self.potential, state, state.memory, generator)
        return kept._replace(memory=total), Info(taken, broken)


def squared(x: Tensor) -> Tensor:
    """|x|^2 of each chain, shaped to be broadcast against x."""
    return per_chain(x.square().flatten(1).sum(1), x)


def _tilted(potential: TiltedPotential, z: Tensor) -> State:
    """The state at z whose gradient is that of beta E alone; its potential is U as everywhere."""
    energy, gradient = potential.energy_and_grad(z)
    value = potential.beta * energy - potential.prior.log_prob(z).double()
    return State(z, value, potential.beta * gradient)
