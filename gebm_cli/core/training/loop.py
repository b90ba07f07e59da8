"""The training loop of both stages: a state that advances by one optimiser call at a time, so it can stop anywhere.

`train-base` is rounds of critic steps, each round closed by one base step; `train-energy` is critic steps alone. What
is random comes from one generator and from the data order, both part of the state: k steps, a checkpoint, a new process
and k more steps give the same numbers as 2k steps, bit for bit on a CPU, wherever in a critic round the cut falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gebm_cli.core.data.dataset import Minibatches
from gebm_cli.core.device import random_state, set_random_state
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.training.optimise import adam, base_step, energy_step, frozen, linear_decay
from gebm_cli.errors import DivergedError, InterruptedRun, UsageError

Metrics = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """How many steps, and how many critic steps before each base step (0 base training: every step is a critic step)."""

    steps: int
    critic_steps: int = 1
    burst_critic_steps: int = 1
    burst_every: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000

    def critic_steps_before(self, step: int) -> int:
        """Critic updates before base update `step` (from 0): a burst at the start and at every `burst_every`-th.

        Deviation: the released code counts its bursts on a counter that mixes both kinds of steps, so that their length
        depends on the phase (measured: 100, 100, 1, 5, ..., 45); here each burst is whole.
        """
        return self.burst_critic_steps if step % self.burst_every == 0 else self.critic_steps


@dataclass
class Callbacks:
    """What the loop tells the outside. None of them may change the state."""

    log: Callable[[int, Metrics], None] = lambda step, metrics: None
    save: Callable[[int, dict[str, Any]], None] = lambda step, state: None
    keep_diverged: Callable[[int, dict[str, Any]], None] = lambda step, state: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass
class Training:
    """One training stage: networks, optimisers, data order, random state and counters.

    With `train_base` false the base is frozen and only energy and log-partition learn. `step` counts base updates in the
    first case and energy updates in the second.
    """

    base: nn.Module
    energy: Energy
    prior: NormalPrior
    batches: Minibatches
    schedule: Schedule
    generator: torch.Generator
    train_base: bool
    lr: float
    betas: tuple[float, float]
    penalty_weight: float
    noise_std: float = 0.0
    lr_log_partition: float | None = None
    linear_schedule: bool = False
    ema_halflife_steps: float | None = None
    step: int = 0
    critic_steps_done: int = 0
    position_in_round: int = 0
    _last: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.energy.train()
        self.base.train(self.train_base)
        self.critic_optimiser = adam(self.energy, self.lr, self.betas, self.lr_log_partition)
        self.base_optimiser: torch.optim.Adam | None = None
        self.averaged: AveragedModel | None = None
        if self.train_base:
            self.base_optimiser = adam(self.base, self.lr, self.betas)
            if self.ema_halflife_steps:
                decay = 0.5 ** (1.0 / self.ema_halflife_steps)
                self.averaged = AveragedModel(self.base, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._start_rates = [group["lr"] for group in self._groups()]

    # ------------------------------------------------------------------------------------------------------- stepping

    def advance(self) -> bool:
        """One optimiser call; true when it completed a step (an update of what this stage counts)."""
        if not self.train_base:
            self._critic_step()
            return self._step_done()
        if self.position_in_round < self.schedule.critic_steps_before(self.step):
            self._critic_step()
            self.position_in_round += 1
            return False
        self._base_step()
        self.position_in_round = 0
        return self._step_done()

    def _critic_step(self) -> None:
        self._last["kale"], self._last["penalty"] = energy_step(
            self.energy,
            self.base,
            self.prior,
            self.batches.next(),
            self.critic_optimiser,
            self.penalty_weight,
            self.generator,
            self.noise_std,
        )
        self.critic_steps_done += 1

    def _base_step(self) -> None:
        optimiser = self.base_optimiser
        if optimiser is None:
            raise RuntimeError("this stage does not train the base")
        self.energy.eval()
        with frozen(self.energy):
            self._last["base_loss"] = base_step(
                self.base, self.energy, self.prior, self.batches.batch_size, optimiser, self.generator, self.noise_std
            )
        self.energy.train()
        if self.averaged is not None:
            self.averaged.update_parameters(self.base)

    def _step_done(self) -> bool:
        self.step += 1
        if self.linear_schedule:
            factor = linear_decay(self.schedule.steps)(self.step)
            for group, rate in zip(self._groups(), self._start_rates, strict=True):
                group["lr"] = rate * factor
        return True

    def _optimisers(self) -> list[torch.optim.Adam]:
        return [o for o in (self.critic_optimiser, self.base_optimiser) if o is not None]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self._optimisers() for group in optimiser.param_groups]

    def metrics(self) -> Metrics:
        """The last losses, read from the device (one synchronisation)."""
        last = dict(self._last)
        last["log_partition"] = self.energy.log_partition.detach()
        values = torch.stack([v.to(self.generator.device).double() for v in last.values()]).tolist()
        return dict(zip(last, values, strict=True)) | {"lr": self.critic_optimiser.param_groups[0]["lr"]}

    # -------------------------------------------------------------------------------------------------------- running

    def run(self, callbacks: Callbacks) -> None:
        """Train to the end of the schedule.

        Raises:
            DivergedError: a loss is not finite; seen at the next log line, and always before a checkpoint is written.
            InterruptedRun: `should_stop` turned true; the state was saved first.
        """
        schedule = self.schedule
        while self.step < schedule.steps:
            done = self.advance()
            if callbacks.should_stop():
                self._check(callbacks)
                callbacks.save(self.step, self.state_dict())
                raise InterruptedRun(f"interrupted at step {self.step} of {schedule.steps}; the state is saved")
            if not done:
                continue
            save = self.step % schedule.checkpoint_every == 0 or self.step == schedule.steps
            if save or self.step % schedule.log_every == 0:
                callbacks.log(self.step, self._check(callbacks))
            if save:
                callbacks.save(self.step, self.state_dict())

    def _check(self, callbacks: Callbacks) -> Metrics:
        metrics = self.metrics()
        bad = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if not self._weights_are_finite():
            bad.append("a weight or its optimiser's average is not finite")
        if bad:
            callbacks.keep_diverged(self.step, self.state_dict())
            raise DivergedError(f"diverged at step {self.step}: {', '.join(bad)}")
        return metrics

    @torch.no_grad()
    def _weights_are_finite(self) -> bool:
        """Weights, and Adam's averages of squared gradients: an infinite one would freeze its weight without any sign."""
        tensors = [*self.energy.parameters(), *self.base.parameters()]
        tensors += [s["exp_avg_sq"] for o in self._optimisers() for s in o.state.values()]
        return bool(torch.stack([t.abs().amax().float() for t in tensors if t.numel()]).isfinite().all())

    # ---------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything: networks, optimisers, schedules, average, random states, data order and counters; plain types only."""
        return {
            "base": self.base.state_dict(),
            "energy": self.energy.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "base_optimiser": self.base_optimiser.state_dict() if self.base_optimiser is not None else None,
            "device": self.generator.device.type,
            "last": {name: value.cpu() for name, value in self._last.items()},
            "generator": self.generator.get_state(),
            "random_state": random_state(),
            "batches_drawn": self.batches.drawn,
            "step": self.step,
            "critic_steps_done": self.critic_steps_done,
            "position_in_round": self.position_in_round,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            UsageError: the state belongs to another kind of device, whose random numbers this one cannot continue.
            KeyError, RuntimeError: the state belongs to other networks.
        """
        if state["device"] != self.generator.device.type:
            raise UsageError(f"was trained on {state['device']}; continue with --device {state['device']}")
        self.base.load_state_dict(state["base"])
        self.energy.load_state_dict(state["energy"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        if self.base_optimiser is not None:
            self.base_optimiser.load_state_dict(state["base_optimiser"])
        self._last = dict(state["last"])
        self.generator.set_state(state["generator"].cpu())
        set_random_state(state["random_state"])
        self.batches.drawn = state["batches_drawn"]
        self.step = state["step"]
        self.critic_steps_done = state["critic_steps_done"]
        self.position_in_round = state["position_in_round"]
