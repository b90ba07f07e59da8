"""Run many chains in blocks. A block has its own random stream and is one network call of fixed shape.

So block k of seed s is the same numbers, bit for bit, whatever the number of samples, the batch size or the number of
processes: the same noise meets the same kernels on the same shapes. The last block is run whole and cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.sampling.diagnostics import RatioMeter
from gebm_cli.core.sampling.potential import Potential, Prior
from gebm_cli.core.sampling.state import Info, Sampler, pack, revalue, unpack


class Stage(NamedTuple):
    """From step `first` (0-based) on, this kernel; `potential` is given where it differs from the stage's before."""

    first: int
    sampler: Sampler
    potential: Potential | None = None


@dataclass(frozen=True)
class Plan:
    """How long chains run, and at which steps (0 is the start) their positions are kept, as draws or as frames of a film.

    After step `settled` the chains count as stationary, as far as they ever do.
    """

    stages: Sequence[Stage]
    n_steps: int
    draws: tuple[int, ...]
    frames: tuple[int, ...] = ()
    settled: int = 0

    def stage(self, step: int) -> Stage:
        """The stage that step `step` (0-based) belongs to."""
        return self.stages[bisect_right([s.first for s in self.stages], step) - 1]


def refine_plan(stages: Sequence[Stage], n_steps: int) -> Plan:
    """The last position of each chain is its one draw."""
    return Plan(stages, n_steps, (n_steps,), settled=n_steps // 2)


def sample_plan(stages: Sequence[Stage], n_warmup: int, n_steps: int, n_draws: int) -> Plan:
    """After n_warmup steps that are discarded, n_draws positions evenly spaced over n_steps more, the last one included."""
    draws = tuple(n_warmup + (i + 1) * n_steps // n_draws for i in range(n_draws))
    return Plan(stages, n_warmup + n_steps, draws, settled=n_warmup)


@dataclass
class Tally:
    """What the steps of a block told, summed on the device: no step waits for it. Of the chains asked for only.

    `ratios` sees the log ratios after step `settled`, since its identities hold at stationarity.
    """

    keep: int
    settled: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    ratios: RatioMeter = field(default_factory=RatioMeter)

    def add(self, step: int, info: Info) -> None:
        self._sum("accepted", info.accepted[: self.keep].sum())
        self._sum("nonfinite", info.nonfinite[: self.keep].sum())
        if info.swaps is not None:
            self._sum("swaps", info.swaps[: self.keep].double().sum(0))
        if info.arrivals is not None:
            self._sum("arrivals", info.arrivals[: self.keep].sum())
        if info.log_ratio is not None and step > self.settled:
            self.ratios = self.ratios.update(info.log_ratio[: self.keep])

    def _sum(self, name: str, value: Tensor) -> None:
        value = value.double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value


class BlockRun:
    """One block of chains as a state machine: `advance` until `done`; its whole state can be saved between two steps.

    The chains start at draws of the prior; with `n_starts`, groups of size / n_starts chains share a start. `stuck` (size,) are
    the chains whose last step met a U that is not finite, or that stand at one.
    """

    def __init__(
        self,
        plan: Plan,
        prior: Prior,
        size: int,
        keep: int,
        seed: int,
        labels: tuple[str | int, ...],
        device: torch.device,
        n_starts: int | None = None,
    ) -> None:
        self.plan, self.keep = plan, keep
        self.generator = make_generator(seed, *labels, device=device)
        z = prior.sample(n_starts or size, self.generator)
        self.start = z if n_starts is None else z.repeat_interleave(size // n_starts, 0)
        self.state = plan.stage(0).sampler.init(self.start, self.generator)
        self.stuck = ~torch.isfinite(self.state.potential)
        self.step = 0
        self.draws: list[Tensor] = []
        self.frames: list[Tensor] = []
        self.tally = Tally(keep, plan.settled)
        self._collect()

    @property
    def done(self) -> bool:
        return self.step >= self.plan.n_steps

    def advance(self) -> Info:
        """One step of every chain. State, generator and counters change together: between two calls they agree."""
        stage = self.plan.stage(self.step)
        if stage.first == self.step and stage.potential is not None and self.step:
            self.state = revalue(stage.potential, self.state)
        self.state, info = stage.sampler.step(self.state, self.generator)
        self.step += 1
        self.tally.add(self.step, info)
        self.stuck = info.nonfinite | ~torch.isfinite(self.state.potential)
        self._collect()
        return info

    def _collect(self) -> None:
        if self.step in self.plan.draws:
            self.draws.append(self.state.position)
        if self.step in self.plan.frames:
            self.frames.append(self.state.position)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain types; what the block does afterwards does not change it."""
        return {
            "step": self.step,
            "start": self.start,
            "state": pack(self.state),
            "generator": self.generator.get_state(),
            "draws": list(self.draws),
            "frames": list(self.frames),
            "tally": dict(self.tally.sums),
            "ratios": self.tally.ratios.sums,
            "stuck": self.stuck,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        device = self.start.device
        self.step = saved["step"]
        self.start = saved["start"].to(device)
        self.state = unpack(_to(saved["state"], device))
        self.generator.set_state(saved["generator"].cpu())
        self.draws, self.frames = _to(saved["draws"], device), _to(saved["frames"], device)
        self.tally.sums = _to(saved["tally"], device)
        self.tally.ratios = RatioMeter(_to(saved["ratios"], device))
        self.stuck = saved["stuck"].to(device)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {k: _to(v, device) for k, v in value.items()}
    if isinstance(value, list):
        return [_to(v, device) for v in value]
    return value.to(device) if isinstance(value, Tensor) else value


def base_block(prior: Prior, size: int, seed: int, block: int, device: torch.device) -> Tensor:
    """Draws of the prior (size, ...), from a stream of their own: a base set and the starts of chains are independent."""
    return prior.sample(size, make_generator(seed, "base", block, device=device))


def block_keeps(n_chains: int, block_size: int) -> list[int]:
    """How many chains of each block were asked for."""
    return [min(block_size, n_chains - first) for first in range(0, n_chains, block_size)]
