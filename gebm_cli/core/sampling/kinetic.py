"""Kinetic (underdamped) Langevin samplers: splittings spelt by their letters, and GHMC, their exact relative.

dz = v dt, dv = -gamma v dt - g dt + sqrt(2 gamma) dW, with the friction gamma in 1/time and unit mass; v starts at N(0, I).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.sampling.catalogue import splitting
from gebm_cli.core.sampling.hamiltonian import leapfrog
from gebm_cli.core.sampling.potential import Potential
from gebm_cli.core.sampling.state import Info, State, metropolis, normal, squared_norm, start, unadjusted


@dataclass(frozen=True)
class Kla:
    """Kinetic Langevin by a splitting of step h, one letter after the other, each sharing h with its equals:

        B: v -= t g(z);  A: z += t v;  O: v = c v + sqrt(1 - c^2) xi, c = exp(-gamma t);  t = h / (times the letter occurs).

    `baoab` (default; Leimkuhler and Matthews 2013), `obabo` (Bussi and Parrinello 2007), and `gebm` = `aboba`, the scheme of
    Arbel et al. 2021. All three are exact in position on a Gaussian but obabo, of variance 1 / (K (1 - h^2 K / 4)); elsewhere
    baoab's bias is 5 to 20 times smaller at high friction. A splitting that does not read the same backwards has in
    general a bias of first order. The gradient is evaluated where a B follows an A, so all of these cost one gradient a step.
    Deviation: the reference GEBM code starts at v = 0, which shrinks latents towards 0.
    """

    potential: Potential
    step_size: float
    friction: float
    scheme: str = "baoab"
    values_per_step: int = 0

    @property
    def letters(self) -> str:
        return splitting(self.scheme)

    @property
    def damping(self) -> float:
        """C = exp(-friction h), the share of the velocity that survives a step."""
        return math.exp(-self.friction * self.step_size)

    @property
    def gradients_per_step(self) -> int:
        """How often a B meets a position at which the gradient is not known."""
        fresh, count = self._ends_fresh, 0
        for letter in self.letters:
            if letter == "a":
                fresh = False
            elif letter == "b" and not fresh:
                fresh, count = True, count + 1
        return count

    @property
    def _ends_fresh(self) -> bool:
        """Whether the gradient at the end of a step is that of its end position."""
        return self.letters.rindex("b") > self.letters.rindex("a")

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return start(self.potential, z)._replace(velocity=normal(z, generator))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        if state.velocity is None or state.gradient is None:
            raise ValueError("`state` has no velocity; make it with `init`")
        z, v, at, fresh = state.position, state.velocity, state, self._ends_fresh
        letters = self.letters
        share = {letter: self.step_size / letters.count(letter) for letter in "bao"}
        for letter in letters:
            if letter == "a":
                z, fresh = z + share["a"] * v, False
            elif letter == "o":
                v = refresh(v, math.exp(-self.friction * share["o"]), generator)
            else:
                at, fresh = (at if fresh else start(self.potential, z)), True
                v = v - share["b"] * at.gradient  # type: ignore[operator]
        # After a last A, potential and gradient stay those of the last B: a second evaluation only to report the end would
        # double the cost.
        return unadjusted(at._replace(position=z, velocity=v), state)


def refresh(v: Tensor, c: float, generator: torch.Generator) -> Tensor:
    """c v + sqrt(1 - c^2) xi, which leaves N(0, I) as it is."""
    return c * v + math.sqrt(1.0 - c * c) * normal(v, generator)


@dataclass(frozen=True)
class Ghmc:
    """Generalised HMC (Horowitz 1991): OBABO with its middle Metropolised, so exact at any step size.

    v = c v + sqrt(1 - c^2) xi with c = exp(-gamma h / 2); one leapfrog step of size h, accepted on H; on rejection v -> -v, which
    detailed balance with respect to time reversal asks for; the first move again.
    """

    potential: Potential
    step_size: float
    friction: float
    gradients_per_step: int = 1
    values_per_step: int = 0

    @property
    def damping(self) -> float:
        """C = exp(-friction h), the share of the velocity that survives an accepted step."""
        return math.exp(-self.friction * self.step_size)

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return start(self.potential, z)._replace(velocity=normal(z, generator))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        if state.velocity is None:
            raise ValueError("`state` has no velocity; make it with `init`")
        c = math.exp(-self.friction * self.step_size / 2)
        v = refresh(state.velocity, c, generator)
        new, moved = leapfrog(self.potential, state, v, self.step_size)
        log_ratio = state.potential - new.potential + (squared_norm(v) - squared_norm(moved)) / 2
        state, info = metropolis(new._replace(velocity=moved), state._replace(velocity=-v), log_ratio, generator)
        assert state.velocity is not None
        return state._replace(velocity=refresh(state.velocity, c, generator)), info
