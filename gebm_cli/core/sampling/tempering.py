"""Replica exchange (parallel tempering) whose lowest rung, beta = 0, is drawn afresh from the prior at every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.potential import Potential, TiltedPotential
from gebm_cli.core.sampling.state import Info, State, finite, per_chain, start, uniform


def swap_log_ratio(lower: float, upper: float, energy_lower: Tensor, energy_upper: Tensor) -> Tensor:
    """log min-free acceptance of exchanging the points of two rungs: (b_lower - b_upper) (E_lower - E_upper).

    E_lower is the energy of the point that stands on the rung of beta b_lower. (Geyer 1991; Swendsen and Wang 1986.)
    """
    return (lower - upper) * (energy_lower - energy_upper)


@dataclass(frozen=True)
class ReplicaExchange:
    """MALA on the rungs 0 < b_1 < ... < b_K = beta, and swaps between neighbours with min(1, exp((b_i - b_j)(E_i - E_j))).

    The rung b_0 = 0 is eta itself, so it is drawn afresh at every step instead of moved: each arrival of such a draw at the top is
    an independent restart of the chain. One step is K MALA steps (one on each rung, in one batch), one energy and gradient at
    the fresh draw, and a sweep of swaps from the bottom to the top, so that a draw can rise through all rungs in one step.
    `State.position` is the target rung; `State.ladder` holds the rungs below it, rung after rung, (n (K - 1), ...); `State.memory`
    (n, K) marks points that came from the prior and have not yet been at the top. `log_ratio` is MALA's on the target rung.
    """

    potential: TiltedPotential
    step_size: float
    betas: tuple[float, ...]
    values_per_step: int = 0

    @property
    def gradients_per_step(self) -> int:
        return len(self.betas) + 1

    def init(self, z: Tensor, generator: torch.Generator) -> State:
        """All rungs of a chain start at its z."""
        rungs = self._split(start(self._of_all(z), z.repeat(len(self.betas), *[1] * (z.dim() - 1))), len(z))
        return self._joined(rungs, torch.zeros(len(z), len(self.betas), dtype=torch.bool, device=z.device))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        assert state.memory is not None
        n, k = state.memory.shape
        together = [s for s in (state.ladder, state) if s is not None]
        everyone = _state([torch.cat(p) for p in zip(*map(_parts, together), strict=True)])
        moved, local = Mala(self._of_all(state.position), self.step_size).step(everyone, generator)
        rungs = self._split(moved, n)
        fresh_z = self.potential.prior.sample(n, generator)
        fresh = start(self.potential.at(self.betas[0]), fresh_z)
        # The draws of rung 0 are carried as a state of rung 1: their energy is what a swap with it needs.
        energies = [self._energy(fresh, 0), *[self._energy(rung, i) for i, rung in enumerate(rungs)]]
        new = [torch.ones_like(state.memory[:, 0]), *state.memory.unbind(1)]
        betas, points, swaps = (0.0, *self.betas), [fresh, *rungs], []
        for i in range(k):
            log_ratio = swap_log_ratio(betas[i], betas[i + 1], energies[i], energies[i + 1])
            accept = uniform(log_ratio, generator).log() < log_ratio
            points[i], points[i + 1] = self._swap(accept, points[i], points[i + 1], max(i - 1, 0), i)
            for values in (energies, new):
                values[i], values[i + 1] = (
                    torch.where(accept, values[i + 1], values[i]),
                    torch.where(accept, values[i], values[i + 1]),
                )
            swaps.append(accept)
        arrived = new[-1].clone()
        new[-1] = torch.zeros_like(new[-1])
        top = slice((k - 1) * n, k * n)
        broken = local.nonfinite.view(k, n).any(0) | ~finite(fresh)
        info = Info(local.accepted[top], broken, local.log_ratio[top], torch.stack(swaps, 1), arrived)  # type: ignore[index]
        return self._joined(points[1:], torch.stack(new[1:], 1)), info

    def _of_all(self, z: Tensor) -> Potential:
        """U of all rungs of the chains z at once, each with its own beta; with beta = 0 all are the prior, without networks."""
        if not any(self.betas):
            return self.potential.at(0.0)
        betas = torch.tensor(self.betas, dtype=torch.float64, device=z.device)
        return self.potential.at(betas.repeat_interleave(len(z)))

    def _energy(self, state: State, rung: int) -> Tensor:
        """E of points kept as states of a rung, from their potential: no network is called. Infinite where it or its slope is
        unknown: such a point has no weight, and sinks."""
        if not self.betas[rung]:
            return torch.zeros_like(state.potential)  # beta = 0 throughout: energies are not known and weigh nothing
        energy = (state.potential + self.potential.prior.log_prob(state.position).double()) / self.betas[rung]
        return torch.where(finite(state) & torch.isfinite(energy), energy, torch.inf)

    def _swap(self, accept: Tensor, a: State, b: State, rung_a: int, rung_b: int) -> tuple[State, State]:
        """Exchange the points of two rungs, each state expressed anew for the rung it comes to."""
        a_up, b_down = self._moved(a, rung_a, rung_b), self._moved(b, rung_b, rung_a)
        return _where(accept, b_down, a), _where(accept, a_up, b)

    def _moved(self, state: State, old: int, new: int) -> State:
        """U and its gradient at another beta: U = -log eta + beta E is linear in beta, so no network is called."""
        if self.betas[old] == self.betas[new]:
            return state
        ratio = self.betas[new] / self.betas[old]
        with torch.enable_grad():
            z = state.position.detach().requires_grad_()
            prior = -self.potential.prior.log_prob(z).double()
            (slope,) = torch.autograd.grad(prior.sum(), z)
        prior = prior.detach()
        assert state.gradient is not None
        return State(
            state.position, prior + ratio * (state.potential - prior), slope + ratio * (state.gradient - slope)
        )

    def _split(self, state: State, n: int) -> list[State]:
        return [_state([p[i * n : (i + 1) * n] for p in _parts(state)]) for i in range(len(self.betas))]

    def _joined(self, rungs: list[State], memory: Tensor) -> State:
        *below, top = rungs
        ladder = _state([torch.cat(p) for p in zip(*[_parts(r) for r in below], strict=True)]) if below else None
        return _state(_parts(top))._replace(memory=memory, ladder=ladder)

    def spaced(self, swap_rates: list[float]) -> ReplicaExchange:
        """The same number of rungs, placed so that neighbours would swap equally often.

        The communication barrier Lambda(beta), the running sum of the rejection rates, is interpolated linearly and cut into
        equal parts (Syed et al. 2022, section 5.1).
        """
        import numpy as np

        barrier = np.concatenate([[0.0], np.cumsum(1 - np.asarray(swap_rates) + 1e-6)])
        levels = np.linspace(0, barrier[-1], len(self.betas) + 1)
        betas = np.interp(levels, barrier, (0.0, *self.betas))
        return replace(self, betas=(*map(float, betas[1:-1]), self.betas[-1]))


def geometric_ladder(beta: float, n_rungs: int) -> tuple[float, ...]:
    """b_1 < ... < b_K = beta, each twice the one below: a first guess, to be spaced by what the swaps show."""
    return tuple(beta * 2.0 ** (i - n_rungs) for i in range(1, n_rungs + 1))


def _parts(state: State) -> tuple[Tensor, Tensor, Tensor]:
    assert state.gradient is not None
    return state.position, state.potential, state.gradient


def _state(parts: Iterable[Tensor]) -> State:
    position, potential, gradient = parts
    return State(position, potential, gradient)


def _where(accept: Tensor, a: State, b: State) -> State:
    return _state([torch.where(per_chain(accept, x), x, y) for x, y in zip(_parts(a), _parts(b), strict=True)])
