"""The samplers, one anatomy for all: `init(z, generator) -> State`, `step(state, generator) -> (State, Info)`.

A chain is a value: position, potential and gradient of the CURRENT position (and velocity), so it can be saved, resumed
and split. A rejected or non-finite proposal leaves position, potential and gradient untouched. (One exception: under the
`gebm` splitting the potential and gradient of a state are those of its last half-step position, the only one evaluated.)
Noise is never scaled; beta lives in U.
Notation: U the potential, g its gradient, xi ~ N(0, I), eps the Langevin step, h the kinetic and Hamiltonian step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gebm_cli.core.sampling.potential import Potential


class State(NamedTuple):
    """n chains: position (n, d), U (n,) float64, its gradient (n, d), and for kinetic samplers the velocity (n, d)."""

    position: Tensor
    potential: Tensor
    gradient: Tensor
    velocity: Tensor | None = None


class Info(NamedTuple):
    """One step of n chains. Samplers without a Metropolis test accept all that is finite, and have no log ratio."""

    accepted: Tensor
    nonfinite: Tensor
    log_ratio: Tensor | None = None


class Sampler(Protocol):
    """A Markov kernel on the latent."""

    @property
    def step_size(self) -> float:
        """h for kinetic and Hamiltonian samplers, eps for Langevin."""
        ...

    @property
    def gradients_per_step(self) -> int:
        """Gradients of U, so backward passes, in one step."""
        ...

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        """The state of chains that start at z (n, d)."""
        ...

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One step of every chain."""
        ...


def _start(potential: Potential, z: Tensor) -> State:
    return State(z, *potential.value_and_grad(z))


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _per_chain(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.dim() - 1))


def _squared_norm(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).sum(1)


def _select(accept: Tensor, new: State, old: State) -> State:
    """The new state where accepted, the old one elsewhere, gradient included."""
    velocity = None
    if new.velocity is not None and old.velocity is not None:
        velocity = torch.where(_per_chain(accept, new.velocity), new.velocity, old.velocity)
    return State(
        torch.where(_per_chain(accept, new.position), new.position, old.position),
        torch.where(accept, new.potential, old.potential),
        torch.where(_per_chain(accept, new.gradient), new.gradient, old.gradient),
        velocity,
    )


def _finite(state: State) -> Tensor:
    return torch.isfinite(state.potential) & torch.isfinite(state.gradient.flatten(1)).all(1)


def _unadjusted(new: State, old: State) -> tuple[State, Info]:
    """Accept all that is finite. A kinetic chain that met anything else turns round, or it would meet it again."""
    finite = _finite(new)
    turned = old if old.velocity is None else old._replace(velocity=-old.velocity)
    return _select(finite, new, turned), Info(finite, ~finite)


def _metropolis(new: State, old: State, log_ratio: Tensor, generator: torch.Generator) -> tuple[State, Info]:
    """Accept with probability min(1, exp(log_ratio)); a NaN anywhere is a rejection, and is counted."""
    u = torch.rand(log_ratio.shape, generator=generator, device=log_ratio.device, dtype=torch.float64)
    finite = _finite(new) & ~log_ratio.isnan()
    accept = finite & (u.log() < log_ratio)
    return _select(accept, new, old), Info(accept, ~finite, log_ratio)


@dataclass(frozen=True)
class Ula:
    """Unadjusted Langevin, z' = z - eps g + sqrt(2 eps) xi (Roberts and Tweedie 1996).

    Biased: on a Gaussian of precision K its stationary variance is 1 / (K (1 - eps K / 2)).
    """

    potential: Potential
    step_size: float
    gradients_per_step: int = 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return _start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        eps = self.step_size
        z = state.position - eps * state.gradient + math.sqrt(2 * eps) * _noise(state.position, generator)
        return _unadjusted(_start(self.potential, z), state)


@dataclass(frozen=True)
class Mala:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): the ULA proposal, accepted with

        log a = U(z) - U(z') - (|z - z' + eps g(z')|^2 - |z' - z + eps g(z)|^2) / (4 eps).

    Deviation: the reference GEBM code multiplies by eps / 4 where it must divide by 4 eps, and so accepts everything.
    """

    potential: Potential
    step_size: float
    gradients_per_step: int = 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return _start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        eps, z = self.step_size, state.position
        new = _start(self.potential, z - eps * state.gradient + math.sqrt(2 * eps) * _noise(z, generator))
        moved = new.position - z
        there, back = _squared_norm(moved + eps * state.gradient), _squared_norm(eps * new.gradient - moved)
        return _metropolis(new, state, state.potential - new.potential - (back - there) / (4 * eps), generator)


@dataclass(frozen=True)
class Hmc:
    """Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): fresh v ~ N(0, I), n_leapfrog steps of size h, accepted on H.

    Deviation: the reference GEBM code keeps the gradient of a rejected point; here state and gradient go together.
    """

    potential: Potential
    step_size: float
    n_leapfrog: int = 10

    @property
    def gradients_per_step(self) -> int:
        return self.n_leapfrog

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return _start(self.potential, z)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        h, new = self.step_size, state
        start = v = _noise(state.position, generator)
        for _ in range(self.n_leapfrog):
            v = v - h / 2 * new.gradient
            new = _start(self.potential, new.position + h * v)
            v = v - h / 2 * new.gradient
        kinetic = (_squared_norm(start) - _squared_norm(v)) / 2
        return _metropolis(new, state, state.potential - new.potential + kinetic, generator)


@dataclass(frozen=True)
class Kla:
    """Kinetic Langevin, dz = v dt, dv = -friction v dt - g dt + sqrt(2 friction) dW, by a splitting of step h; v starts at N(0, I).

    With C = exp(-friction h) and O: v = C v + sqrt(1 - C^2) xi, B: v -= h/2 g, A: z += h/2 v, one gradient a step:
    `baoab` is B A O A B (Leimkuhler and Matthews 2013), `gebm` is A B O B A, the scheme of Arbel et al. 2021.
    Both are exact in position on a Gaussian; elsewhere baoab's bias is 5 to 20 times smaller at high friction.
    Deviation: the reference GEBM code starts at v = 0, which shrinks latents towards 0.
    """

    potential: Potential
    step_size: float
    friction: float
    scheme: str = "baoab"
    gradients_per_step: int = 1

    @property
    def damping(self) -> float:
        """C = exp(-friction h), the share of the velocity that survives a step."""
        return math.exp(-self.friction * self.step_size)

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        return _start(self.potential, z)._replace(velocity=_noise(z, generator))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        if state.velocity is None:
            raise ValueError("`state` has no velocity; make it with `init`")
        step = self._baoab if self.scheme == "baoab" else self._aboba
        return _unadjusted(step(state.position, state.velocity, state.gradient, generator), state)

    def _refresh(self, v: Tensor, generator: torch.Generator) -> Tensor:
        return self.damping * v + math.sqrt(1.0 - self.damping**2) * _noise(v, generator)

    def _baoab(self, z: Tensor, v: Tensor, gradient: Tensor, generator: torch.Generator) -> State:
        half = self.step_size / 2
        v = v - half * gradient
        z = z + half * v
        v = self._refresh(v, generator)
        new = _start(self.potential, z + half * v)
        return new._replace(velocity=v - half * new.gradient)

    def _aboba(self, z: Tensor, v: Tensor, gradient: Tensor, generator: torch.Generator) -> State:
        half = self.step_size / 2
        middle = _start(self.potential, z + half * v)
        v = self._refresh(v - half * middle.gradient, generator) - half * middle.gradient
        # Potential and gradient belong to the half-step position: this scheme never reads them at the end of a step, and
        # a second gradient only to report the end would double its cost.
        return middle._replace(position=middle.position + half * v, velocity=v)


FRICTION = {"low": 0.2, "critical": 2.0, "high": 20.0}
DEFAULT_STEP = {"kla": 0.2, "hmc": 0.2, "ula": 0.02, "mala": 0.02}


def make_sampler(
    name: str,
    potential: Potential,
    step_size: float | None = None,
    friction: str | float = "critical",
    scheme: str = "baoab",
    n_leapfrog: int = 10,
) -> Ula | Mala | Hmc | Kla:
    """The sampler of that name, with the default step size of its kind where none is given.

    Raises:
        ValueError: an unknown name, scheme or friction word.
    """
    if name not in DEFAULT_STEP:
        raise ValueError(f"`name` must be one of {', '.join(DEFAULT_STEP)}, got '{name}'")
    if scheme not in ("baoab", "gebm"):
        raise ValueError(f"`scheme` must be baoab or gebm, got '{scheme}'")
    if isinstance(friction, str) and friction not in FRICTION:
        raise ValueError(f"`friction` must be a number or one of {', '.join(FRICTION)}, got '{friction}'")
    step = step_size if step_size is not None else DEFAULT_STEP[name]
    if name == "kla":
        return Kla(potential, step, FRICTION[friction] if isinstance(friction, str) else friction, scheme)
    if name == "hmc":
        return Hmc(potential, step, n_leapfrog)
    return (Ula if name == "ula" else Mala)(potential, step)
