"""What all samplers share: the state of a chain, what a step tells, and how a proposal is accepted.

One anatomy for all: `init(z, generator) -> State`, `step(state, generator) -> (State, Info)`. A chain is a value: position, and
potential and gradient of the CURRENT position, so it can be saved, resumed and split. A rejected or non-finite proposal leaves
them untouched. (One exception: a splitting that ends with a drift, such as `gebm`, keeps potential and gradient of the last
position at which it evaluated them.) Noise is never scaled; beta lives in U.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gebm_cli.core.sampling.potential import Potential


class State(NamedTuple):
    """n chains: position (n, ...) and U (n,) float64, and where the sampler uses them the gradient of U and the velocity
    (n, ...), a memory of its own (n, ...), and the chains of the lower rungs of a ladder."""

    position: Tensor
    potential: Tensor
    gradient: Tensor | None = None
    velocity: Tensor | None = None
    memory: Tensor | None = None
    ladder: State | None = None


class Info(NamedTuple):
    """One step of n chains, each field (n,).

    `accepted` is the chains that moved (a sampler without a test accepts all that is finite). `log_ratio` is the log of the
    Metropolis ratio before the minimum with 0, whose exponential has mean 1 at stationarity. Of a ladder, `swaps` (n, K) are the
    swaps made between neighbouring rungs and `arrivals` the chains whose target rung received a draw come from the prior.
    """

    accepted: Tensor
    nonfinite: Tensor
    log_ratio: Tensor | None = None
    swaps: Tensor | None = None
    arrivals: Tensor | None = None


class Sampler(Protocol):
    """A Markov kernel on the latent."""

    @property
    def step_size(self) -> float:
        """h for kinetic and Hamiltonian samplers, eps for the others (noise sqrt(2 eps)); 0 where there is none."""
        ...

    @property
    def gradients_per_step(self) -> int:
        """Gradients of U, so backward passes, for each chain in one step."""
        ...

    @property
    def values_per_step(self) -> int:
        """Values of U without a gradient, so forward passes only, for each chain in one step."""
        ...

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        """The state of chains that start at z (n, ...)."""
        ...

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One step of every chain."""
        ...


def pack(state: State) -> dict[str, Any]:
    """A state as nested dicts of tensors, which a checkpoint can hold as data."""
    packed = {k: v for k, v in state._asdict().items() if isinstance(v, Tensor)}
    return packed if state.ladder is None else packed | {"ladder": pack(state.ladder)}


def unpack(packed: dict[str, Any]) -> State:
    """The state that `pack` took apart."""
    ladder = unpack(packed["ladder"]) if "ladder" in packed else None
    return State(**{k: v for k, v in packed.items() if k != "ladder"}, ladder=ladder)


def start(potential: Potential, z: Tensor) -> State:
    """The state at z, with its gradient."""
    return State(z, *potential.value_and_grad(z))


def revalue(potential: Potential, state: State) -> State:
    """The same chains under another potential: nothing cached of the old one remains."""
    if state.gradient is None:
        return state._replace(potential=potential.value(state.position))
    value, gradient = potential.value_and_grad(state.position)
    return state._replace(potential=value, gradient=gradient)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, I) of the shape, device and type of `like`.

    A `CoupledNoise` in the generator's place replays the noise of another chain (see `bias`).
    """
    replay = getattr(generator, "normal", None)
    if replay is not None:
        return replay(like)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """U(0, 1), float64, of the shape and device of `like`."""
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=torch.float64)


def per_chain(x: Tensor, like: Tensor) -> Tensor:
    """(n,) shaped to be broadcast against (n, ...)."""
    return x.view(-1, *[1] * (like.dim() - 1))


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 of each chain, in float64."""
    return x.double().square().flatten(1).sum(1)


def select(accept: Tensor, new: State, old: State) -> State:
    """The new state where accepted, the old one elsewhere, all its parts together."""
    picked = [
        torch.where(per_chain(accept, a), a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else b
        for a, b in zip(new[:-1], old[:-1], strict=True)
    ]
    return State(*picked, ladder=old.ladder)  # type: ignore[arg-type, misc]


def finite(state: State) -> Tensor:
    """The chains whose potential and gradient are finite."""
    ok = torch.isfinite(state.potential)
    return ok if state.gradient is None else ok & torch.isfinite(state.gradient.flatten(1)).all(1)


def unadjusted(new: State, old: State) -> tuple[State, Info]:
    """Accept all that is finite. A kinetic chain that met anything else turns round, or it would meet it again."""
    ok = finite(new)
    turned = old if old.velocity is None else old._replace(velocity=-old.velocity)
    return select(ok, new, turned), Info(ok, ~ok)


def metropolis(new: State, old: State, log_ratio: Tensor, generator: torch.Generator) -> tuple[State, Info]:
    """Accept with probability min(1, exp(log_ratio)); a NaN anywhere is a rejection, and is counted.

    A chain that stands where U is not finite has no mass there, so it leaves for any finite proposal.
    """
    draw = uniform(log_ratio, generator)
    stuck = ~torch.isfinite(old.potential)
    ok = finite(new) & (stuck | ~log_ratio.isnan())
    accept = ok & (stuck | (draw.log() < log_ratio))
    return select(accept, new, old), Info(accept, ~ok, log_ratio)
