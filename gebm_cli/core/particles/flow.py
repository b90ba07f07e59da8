"""The flow of particles, one loop for every divergence:

    x' = x - step grad f(x + beta_n u),   u ~ N(0, I)        (Arbel et al. 2019; beta_n = 0 without noise)

With F and f as in `descents` and no noise, F(x') - F(x) <= -step (1 - 3/2 step L) mean |grad f|^2 for MMD^2 / 2 and a kernel with
|grad_1 k(x, y) - grad_1 k(x', y')| <= L (|x - x'| + |y - y'|) (theirs; L = 1 / bandwidth^2 for the Gaussian kernel).
So `backtracking`, which wants a fall of half of step mean |grad f|^2, accepts every step up to 1 / (3 L).

Where F is an upper bound by a solver it is the bound that falls: started from the solution before, it is no higher than the dual
at that solution, which falls at the same rate. So a duality gap excuses no rise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.particles.descents import Descent, Point
from gebm_cli.errors import DivergedError

SUFFICIENT, GROWTH, MAX_HALVINGS = 0.5, 1.25, 40

Control = Literal["fixed", "backtracking"]


@dataclass(frozen=True)
class Noise:
    """beta_n, the standard deviation of the noise at step n: constant; linear: falling to 0 at `steps`; sqrt: std / sqrt(n + 1).

    With sqrt, sum beta_n^2 is infinite, which Arbel et al. (2019) want for convergence to the target.
    """

    std: float
    kind: Literal["constant", "linear", "sqrt"] = "constant"
    steps: int = 0

    def __post_init__(self) -> None:
        if not self.std >= 0 or (self.kind == "linear" and self.steps < 1):
            raise ValueError(f"noise needs std >= 0, and `steps` >= 1 where it falls linearly; got {self}")

    def __call__(self, step: int) -> float:
        if self.kind == "linear":
            return self.std * max(0.0, 1.0 - step / self.steps)
        return self.std / math.sqrt(step + 1) if self.kind == "sqrt" else self.std


@dataclass(frozen=True)
class FlowState:
    """Particles (n, d) after `step` steps, which is all that the next ones depend on.

    `step_size` is the last one taken (before the first, the one to try), `time` the sum of all of them, `start` what the solver
    starts from at these particles, `lowest` the lowest divergence that backtracking has seen. With backtracking a step size of 0
    says that no step lowers the divergence any more.
    """

    particles: Tensor
    step_size: float
    step: int = 0
    time: float = 0.0
    start: Tensor | None = None
    lowest: float = math.inf

    def pack(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> FlowState:
        """The state that `pack` took apart."""
        return cls(**packed)


def run(
    descent: Descent,
    state: FlowState,
    n_steps: int,
    control: Control = "fixed",
    noise: Noise | None = None,
    seed: int = 0,
    on_step: Callable[[FlowState, Point], None] = lambda state, point: None,
) -> FlowState:
    """`n_steps` steps on from `state`; k and then k more are 2k, bit for bit on a CPU.

    The noise of step n has a stream of its own, of (seed, n). After each step `on_step` is told the new state and the divergence
    there, which costs nothing where it is not asked for; without noise it is part of the next step's work anyway.

    Raises:
        ValueError: noise with backtracking, whose test of a step would be of another field; a step size that is not positive.
        DivergedError: particles that are no longer finite, or a solver that has not found the divergence where a step starts.
    """
    noisy = noise is not None and noise.std > 0
    if noisy and control == "backtracking":
        raise ValueError(
            "backtracking judges a step by the divergence it lowers, and noise need not lower it: use `fixed`"
        )
    if not (state.step_size > 0 or (state.step and state.step_size == 0)):
        raise ValueError(f"`step_size` must be positive, got {state.step_size}")
    point = descent.at(state.particles, state.start)
    for _ in range(n_steps):
        _check_solved(point, state.step + 1)
        if control == "backtracking":
            state, point = _backtracked(descent, state, point)
        else:
            state, point = _moved(descent, state, point, noise(state.step) if noise else 0.0, seed)
        on_step(state, point)
    return state


def _moved(descent: Descent, state: FlowState, point: Point, beta: float, seed: int) -> tuple[FlowState, Point]:
    x, size = state.particles, state.step_size
    if beta > 0:
        generator = make_generator(seed, "flow", state.step, device=x.device)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    new = x - size * (point.gradient(x + beta * noise) if beta > 0 else point.gradient())
    _check(new, state.step + 1, size)
    return FlowState(new, size, state.step + 1, state.time + size, point.start), descent.at(new, point.start)


def _backtracked(descent: Descent, state: FlowState, point: Point) -> tuple[FlowState, Point]:
    """The first of the step sizes, each half of the one before, with F(x') <= F - step mean |grad f|^2 / 2, up to rounding.

    F is the lowest so far, as steps that each rise within rounding would climb together. A fall that rounding hides is judged by
    the gradients at both ends: F(x') - F(x) ~ -step mean <g, g + g'> / 2, enough where mean <g, g'> >= 0 (as Hager & Zhang 2005).
    """
    size, gradient = state.step_size, point.gradient()
    _check(gradient, state.step + 1, size)
    fall = SUFFICIENT * gradient.double().square().sum().item() / len(gradient)
    size *= GROWTH if state.step and fall > 0 else 1.0
    lowest, rounding = min(state.lowest, point.value), point.rounding
    for _ in range(MAX_HALVINGS if size > 0 else 0):
        new = state.particles - size * gradient
        if torch.isfinite(new).all():
            trial = descent.at(new, point.start)
            low = trial.converged and trial.value <= lowest - size * fall + rounding
            if low and (size * fall > rounding or (gradient.double() * trial.gradient()).sum() >= 0):
                lowest = min(lowest, trial.value)
                return FlowState(new, size, state.step + 1, state.time + size, point.start, lowest), trial
        size /= 2
    return FlowState(state.particles, 0.0, state.step + 1, state.time, state.start, lowest), point


def _check_solved(point: Point, step: int) -> None:
    if not point.converged:
        raise DivergedError(
            f"step {step} of the flow: the divergence is only known to lie between {point.value - point.gap:g} and "
            f"{point.value:g}, so its gradient is not to be trusted; use a larger regularisation"
        )


def _check(x: Tensor, step: int, size: float) -> None:
    finite = torch.isfinite(x).flatten(1).all(1)
    if not finite.all():
        lost = len(x) - int(finite.sum())
        raise DivergedError(
            f"step {step} of the flow: {lost} of {len(x)} particles are no longer finite; use a step size smaller than {size:g}"
        )
