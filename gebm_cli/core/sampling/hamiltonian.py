"""Hamiltonian Monte Carlo, and the leapfrog step it shares with GHMC."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.sampling.potential import Potential
from gebm_cli.core.sampling.state import Info, State, metropolis, normal, per_chain, squared_norm, start, uniform


def leapfrog(potential: Potential, state: State, v: Tensor, h: float | Tensor) -> tuple[State, Tensor]:
    """v -= h/2 g(z); z += h v; v -= h/2 g(z): volume preserving, and reversed by v -> -v. h is a number or (n, 1, ...)."""
    assert state.gradient is not None
    v = v - h / 2 * state.gradient
    new = start(potential, state.position + h * v)
    assert new.gradient is not None
    return new, v - h / 2 * new.gradient


@dataclass(frozen=True)
class Hmc:
    """Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): fresh v ~ N(0, I), n_leapfrog steps of size h, accepted on H.

    With `jitter` j each chain takes its own step size, uniform on h [1 - j, 1 + j], drawn before the trajectory: lengths then
    vary, and no period of the dynamics is met for ever.
    Deviation: the reference GEBM code keeps the gradient of a rejected point; here state and gradient go together.
    """

    potential: Potential
    step_size: float
    n_leapfrog: int = 5
    jitter: float = 0.0
    values_per_step: int = 0

    @property
    def gradients_per_step(self) -> int:
        return self.n_leapfrog

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        new, first = state, normal(state.position, generator)
        v, h = first, self._step_sizes(state, generator)
        for _ in range(self.n_leapfrog):
            new, v = leapfrog(self.potential, new, v, h)
        kinetic = (squared_norm(first) - squared_norm(v)) / 2
        return metropolis(new, state, state.potential - new.potential + kinetic, generator)

    def _step_sizes(self, state: State, generator: torch.Generator) -> float | Tensor:
        if not self.jitter:
            return self.step_size
        factor = 1 + self.jitter * (2 * uniform(state.potential, generator) - 1)
        return per_chain(self.step_size * factor.to(state.position.dtype), state.position)
