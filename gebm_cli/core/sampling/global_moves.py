"""Samplers whose proposals do not follow the gradient: random walk, independence sampler, i-SIR, and Ex2 which adds MALA.

Notation: w(z) = exp(-beta E(B(z))) is the weight of z among draws of the prior eta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.potential import Potential, TiltedPotential
from gebm_cli.core.sampling.state import Info, State, metropolis, normal, per_chain, start, uniform


def log_weight(potential: TiltedPotential, state: State) -> Tensor:
    """log w = -beta E of the current positions (n,), from the potential at hand: no network is called."""
    return -(state.potential + potential.prior.log_prob(state.position).double())


@dataclass(frozen=True)
class RandomWalk:
    """Random-walk Metropolis (Metropolis et al. 1953): z' = z + sqrt(2 eps) xi, log a = U(z) - U(z'). No gradient."""

    potential: Potential
    step_size: float
    gradients_per_step: int = 0
    values_per_step: int = 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return State(z, self.potential.value(z))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        z = state.position + math.sqrt(2 * self.step_size) * normal(state.position, generator)
        new = State(z, self.potential.value(z))
        return metropolis(new, state, state.potential - new.potential, generator)


@dataclass(frozen=True)
class Ihm:
    """Independence sampler (Tierney 1994; MH-GAN, Turner et al. 2019): z' ~ eta, a = w(z') / w(z). No gradient, no step size.

    Deviation: MH-GAN starts each chain at a real image; here it starts at a draw of the base.
    """

    potential: TiltedPotential
    step_size: float = 0.0
    gradients_per_step: int = 0
    values_per_step: int = 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return State(z, self.potential.value(z))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        z = self.potential.prior.sample(len(state.position), generator)
        new = State(z, self.potential.value(z))
        log_ratio = log_weight(self.potential, new) - log_weight(self.potential, state)
        return metropolis(new, state, log_ratio, generator)


@dataclass(frozen=True)
class ISir:
    """Iterated sampling importance resampling (Andrieu et al. 2010): of the current point and n_proposals - 1 draws of eta one is
    kept, with probability proportional to w. It leaves pi invariant for any n_proposals, and n_proposals = 2 is Barker's rule.

    The points are visited one after the other with a running total of weights (a reservoir), so memory is that of one.
    A weight that is not finite is no weight, and is counted.
    """

    potential: TiltedPotential
    n_proposals: int = 10
    step_size: float = 0.0
    gradients_per_step: int = 0

    @property
    def values_per_step(self) -> int:
        return self.n_proposals - 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return State(z, self.potential.value(z))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        moved = torch.zeros_like(state.potential, dtype=torch.bool)
        broken = moved.clone()
        total = usable(log_weight(self.potential, state))
        for _ in range(self.n_proposals - 1):
            state, total, taken, bad = reservoir(self.potential, state, total, generator)
            moved, broken = moved | taken, broken | bad
        return state, Info(moved, broken)


def usable(log_w: Tensor) -> Tensor:
    """Log weights with NaN and +inf, which no density has, made weights of 0."""
    return torch.where(log_w.isnan() | log_w.isposinf(), -math.inf, log_w)


def reservoir(
    potential: TiltedPotential, state: State, total: Tensor, generator: torch.Generator
) -> tuple[State, Tensor, Tensor, Tensor]:
    """One draw of eta replaces the kept one with probability w' / (total + w'): after all draws each was kept in proportion to w.

    Returns state, log total weight, the chains that took the new draw, and those whose new draw had no finite weight.
    """
    z = potential.prior.sample(len(state.position), generator)
    value = potential.value(z)
    log_w = usable(log_weight(potential, State(z, value)))
    new_total = torch.logaddexp(total, log_w)
    take = uniform(log_w, generator).log() < log_w - new_total  # NaN where both weights are 0: not taken
    position = torch.where(per_chain(take, z), z, state.position)
    kept = State(position, torch.where(take, value, state.potential))
    return kept, torch.where(new_total.isnan(), -math.inf, new_total), take, ~torch.isfinite(value)


@dataclass(frozen=True)
class Ex2:
    """Ex2MCMC (Samsonov et al. 2022): one i-SIR move over the whole latent space, then n_local MALA steps around it.

    `log_ratio` and `accepted` are those of the last MALA step.
    """

    potential: TiltedPotential
    step_size: float
    n_proposals: int = 10
    n_local: int = 3

    @property
    def gradients_per_step(self) -> int:
        return self.n_local + 1  # the point that i-SIR chose needs its gradient

    @property
    def values_per_step(self) -> int:
        return self.n_proposals - 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        jumped, far = ISir(self.potential, self.n_proposals).step(State(state.position, state.potential), generator)
        state = start(self.potential, jumped.position)
        local, broken = Mala(self.potential, self.step_size), far.nonfinite
        for _ in range(self.n_local):
            state, info = local.step(state, generator)
            broken = broken | info.nonfinite
        return state, Info(info.accepted, broken, info.log_ratio)
