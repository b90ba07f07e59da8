"""The training loop of both stages: a state that advances by one optimiser call at a time, so it can stop anywhere.

`train-base` is rounds of critic steps, each round closed by one base step; `train-energy` is critic steps alone. What
is random comes from one generator and from the data order, both part of the state: k steps, a checkpoint, a new process
and k more steps give the same numbers as 2k steps, bit for bit on a CPU, wherever in a critic round the cut falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gebm_cli.core.data.dataset import Minibatches
from gebm_cli.core.device import random_state, set_random_state
from gebm_cli.core.mmd import Estimate
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.training.direct import Direct, Models
from gebm_cli.core.training.lr_rule import RateRule
from gebm_cli.core.training.optimise import Method, adam, base_step, critic_step, frozen
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
    observe: Callable[[], Metrics] = dict  # figures that are logged with those of a checkpoint
    save: Callable[[int, dict[str, Any]], None] = lambda step, state: None
    keep_best: Callable[[int, dict[str, Any]], None] = lambda step, state: None
    keep_diverged: Callable[[int, dict[str, Any]], None] = lambda step, state: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass
class Watch:
    """A score that is taken every `every` steps, as a metric of its name; the networks that had the best one are the result."""

    name: str
    every: int
    score: Callable[[Training], Estimate]
    best: float | None = None
    best_step: int = 0
    larger_is_better: bool = False

    def prefers(self, score: float) -> bool:
        """Whether it is better than the best so far, of which there may be none; a score that is no number never is."""
        if self.best is None or math.isnan(self.best):
            return True
        return score > self.best if self.larger_is_better else score < self.best


@dataclass(frozen=True)
class Rates:
    """Adam's settings: the learning rate, the averaging coefficients, the rates of the critic and of its log-partition where they
    differ (null: that of all, that of the critic), and the schedule."""

    lr: float
    betas: tuple[float, float] = (0.5, 0.999)
    lr_critic: float | None = None
    lr_log_partition: float | None = None
    schedule: Callable[[int], float] = lambda step: 1.0


@dataclass
class Training:
    """One training stage: networks, optimisers, data order, random state and counters.

    With `train_base` false the base is frozen and only energy and log-partition learn. `step` counts base updates in the
    first case and energy updates in the second. With a `direct` objective there is no critic: every call is a step.
    """

    base: nn.Module
    energy: Energy
    prior: NormalPrior
    batches: Minibatches
    schedule: Schedule
    generator: torch.Generator
    train_base: bool
    rates: Rates
    method: Method = field(default_factory=Method)
    direct: Direct | None = None
    ema_halflife_steps: float | None = None
    rule: RateRule | None = None
    watch: Watch | None = None
    step: int = 0
    critic_steps_done: int = 0
    position_in_round: int = 0
    _last: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.energy.holds_statistics = not self.train_base
        self.energy.train()
        self.base.train(self.train_base)
        rates = self.rates
        lr_critic = rates.lr if rates.lr_critic is None else rates.lr_critic
        self.critic_optimiser = adam(self.energy, lr_critic, rates.betas, rates.lr_log_partition)
        self.base_optimiser: torch.optim.Adam | None = None
        self.averaged: AveragedModel | None = None
        if self.train_base:
            self.base_optimiser = adam(self.base, self.rates.lr, self.rates.betas)
            if self.ema_halflife_steps:
                decay = 0.5 ** (1.0 / self.ema_halflife_steps)
                self.averaged = AveragedModel(self.base, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._start_rates = [group["lr"] for group in self._groups()]
        self.models = Models(self.base, self.energy, self.prior, self.method.share, self.generator)

    # ------------------------------------------------------------------------------------------------------- stepping

    def advance(self) -> bool:
        """One optimiser call; true when it completed a step (an update of what this stage counts)."""
        if self.direct is not None:
            self._direct_step(self.direct)
            return self._step_done()
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
        name = "kale" if isinstance(self.method.objective, Kale) else "critic_value"
        self._last[name], penalty = critic_step(
            self.energy,
            self.base,
            self.prior,
            self.batches.next(),
            self.critic_optimiser,
            self.method,
            self.generator,
            with_penalty := self.critic_steps_done % self.method.penalty.every == 0,
        )
        if with_penalty:
            self._last["penalty"] = penalty
        self.critic_steps_done += 1

    def _base_step(self) -> None:
        optimiser = self._trained_by()
        data = self.batches.next() if self.method.objective.base_sees_data else None
        n = self.batches.batch_size // self.method.share.size
        self.energy.eval()
        with frozen(self.energy):
            self._last["base_loss"] = base_step(
                self.base, self.energy, self.prior, n, optimiser, self.method, self.generator, data
            )
        self.energy.train()
        self._average()

    def _direct_step(self, direct: Direct) -> None:
        optimiser = self._trained_by()
        network = self.base if self.train_base else self.energy
        optimiser.zero_grad(set_to_none=True)
        loss = direct.loss(self.models, *self.method.noisy([self.batches.next()], self.generator))
        loss.backward()
        self.method.share.sum_gradients(network.parameters())
        optimiser.step()
        self._last["loss"] = loss.detach()
        self._average()

    def _trained_by(self) -> torch.optim.Adam:
        return self.base_optimiser if self.base_optimiser is not None else self.critic_optimiser

    def _average(self) -> None:
        if self.averaged is not None:
            self.averaged.update_parameters(self.base)

    def _step_done(self) -> bool:
        self.step += 1
        if self.rule is not None and self.step % self.rule.every == 0:
            self.rule.update(self.result_base(), self.prior, self.step)
            self.rule.multiplier = self._agreed(self.rule.multiplier)
        factor = self.rates.schedule(self.step)
        for group, rate in zip(self._groups(), self._start_rates, strict=True):
            group["lr"] = rate * factor if self.rule is None else self.rule.rate(rate * factor)
        return True

    def result_base(self) -> nn.Module:
        """The base that the stage would end with now: the averaged one where averaging is on."""
        return self.averaged.module if self.averaged is not None else self.base

    def _optimisers(self) -> list[torch.optim.Adam]:
        return [o for o in (self.critic_optimiser, self.base_optimiser) if o is not None]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self._optimisers() for group in optimiser.param_groups]

    def metrics(self) -> Metrics:
        """The last losses and the norms of the last gradients, read from the device (one synchronisation)."""
        for name, network in (("critic_grad_norm", self.energy), ("base_grad_norm", self.base)):
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            if gradients:  # else the last ones were those before a checkpoint, which has their norm
                self._last[name] = torch.nn.utils.get_total_norm(gradients)
        last = dict(self._last)
        if self.direct is None and self.method.objective.learns_constant:
            last["log_partition"] = self.energy.log_partition.detach()
        values = torch.stack([v.to(self.generator.device).double() for v in last.values()]).tolist()
        told = dict(zip(last, values, strict=True)) | {"lr": self._trained_by().param_groups[0]["lr"]}
        return told if self.rule is None else told | self.rule.metrics()

    # -------------------------------------------------------------------------------------------------------- running

    def run(self, callbacks: Callbacks) -> None:
        """Train to the end of the schedule.

        Raises:
            DivergedError: a loss is not finite; seen at the next log line, and always before a checkpoint is written.
            InterruptedRun: `should_stop` turned true; the state was saved first.
        """
        schedule = self.schedule
        if self.watch is not None and self.step == 0:
            self._score(callbacks, self.watch)
        while self.step < schedule.steps:
            if self.advance():
                self._after_step(callbacks)
            if callbacks.should_stop():  # after the score of this step, which is not taken again
                self._check(callbacks)
                callbacks.save(self.step, self.state_dict())
                raise InterruptedRun(f"interrupted at step {self.step} of {schedule.steps}; the state is saved")

    def _after_step(self, callbacks: Callbacks) -> None:
        """Score, log and save, each where this step is one for it."""
        schedule, last = self.schedule, self.step == self.schedule.steps
        if self.watch is not None and (self.step % self.watch.every == 0 or last):
            self._score(callbacks, self.watch)
        save = self.step % schedule.checkpoint_every == 0 or last
        if save or self.step % schedule.log_every == 0:
            callbacks.log(self.step, self._check(callbacks) | (callbacks.observe() if save else {}))
        if save:
            callbacks.save(self.step, self.state_dict())

    def _score(self, callbacks: Callbacks, watch: Watch) -> None:
        """Score the networks as they are now, and keep them where no earlier score was better."""
        score = watch.score(self)
        score = replace(score, value=self._agreed(score.value))
        callbacks.log(self.step, {watch.name: score.value, f"{watch.name}_standard_error": score.standard_error})
        if watch.prefers(score.value):
            watch.best, watch.best_step = score.value, self.step
            callbacks.keep_best(self.step, self.state_dict())

    def _agreed(self, number: float) -> float:
        """The first process's number, in all of them."""
        told = torch.tensor([number], dtype=torch.float64, device=self.generator.device)
        self.method.share.agree([told])
        return told.item()

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
            "chains": None if self.models.chains is None else self.method.share.together(self.models.chains),
            "rule": self.rule.state_dict() if self.rule is not None else None,
            "watch": [self.watch.best, self.watch.best_step] if self.watch is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            UsageError: the state belongs to another kind of device, whose random numbers this one cannot continue, or to a stage
                with other things to go on with.
            KeyError, RuntimeError: the state belongs to other networks.
        """
        if state["device"] != self.generator.device.type:
            raise UsageError(f"was trained on {state['device']}; continue with --device {state['device']}")
        parts = (("averaged", "ema_halflife_steps"), ("rule", "lr_rule"), ("watch", "keep_best"))
        for part, key in parts:
            if (state[part] is None) != (getattr(self, part) is None):
                begun, now = ("without", "has it") if state[part] is None else ("with", "has it not")
                raise UsageError(
                    f"was begun {begun} {key}, and its experiment.yaml now {now}; put the key back as it was"
                )
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
        if state["chains"] is not None:
            self.models.chains = self.method.share.of(state["chains"].to(self.generator.device))
        if self.rule is not None:
            self.rule.load_state_dict(state["rule"])
        if self.watch is not None:
            self.watch.best, self.watch.best_step = state["watch"]
