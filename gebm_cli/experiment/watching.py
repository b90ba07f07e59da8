"""The watched chains: 16 starts of 8 chains each, run like the others, every step looked at. They say whether chains mix."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.sampling.bias import bias_meter
from gebm_cli.core.sampling.chains import BlockRun
from gebm_cli.core.sampling.diagnostics import Mixing, diagnose, effective_draws_per, verdict
from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Ula
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.experiment.kernel import Kernel

N_STARTS, N_WATCHED = 16, 128
N_RECORDS = 200
N_PROJECTIONS = 4
N_BIAS_STEPS = 30


class Monitor:
    """The scalars that are watched of latents z (n, ...): E, log prior, |z|, and random projections of B(z).

    A projection is a fixed random direction in data space, the same for every run with data of this shape.
    """

    def __init__(self, potential: LatentPotential) -> None:
        self.potential = potential
        self.directions: Tensor | None = None

    @torch.no_grad()
    def __call__(self, z: Tensor) -> dict[str, Tensor]:
        data = self.potential.base(z)
        flat = data.flatten(1).double()
        if self.directions is None:
            drawn = torch.randn(
                flat.shape[1], N_PROJECTIONS, generator=make_generator(0, "projections"), dtype=torch.float64
            )
            self.directions = (drawn / drawn.norm(dim=0)).to(flat)
        projected = flat @ self.directions
        scalars = {
            "E": self.potential.energy(data).double(),
            "log_prior": self.potential.prior.log_prob(z).double(),
            "|z|": z.double().flatten(1).norm(dim=1),
        }
        return scalars | {f"projection_{i + 1}": projected[:, i] for i in range(N_PROJECTIONS)}


def recorded_steps(n_steps: int) -> list[int]:
    """The steps at which the watched chains are looked at: all up to 200, else 100 to 200 evenly spaced; the last always."""
    stride = -(-n_steps // N_RECORDS)
    return [0, *range(n_steps % stride or stride, n_steps + 1, stride)]


class Watched:
    """The block of watched chains with its records: a `BlockRun` that also keeps the scalars, (chains,) at each record."""

    def __init__(self, block: BlockRun, kernel: Kernel) -> None:
        self.block, self.monitor = block, Monitor(kernel.potential)
        self.steps = set(recorded_steps(block.plan.n_steps))
        self.records: list[dict[str, Tensor]] = []
        self._record()

    @property
    def done(self) -> bool:
        return self.block.done

    def advance(self) -> None:
        self.block.advance()
        self._record()

    def _record(self) -> None:
        if self.block.step in self.steps:
            self.records.append(self.monitor(self.block.state.position))

    def state_dict(self) -> dict[str, Any]:
        return self.block.state_dict() | {"records": self.records}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.block.load_state_dict(saved)
        device = self.block.start.device
        self.records = [{k: v.to(device) for k, v in record.items()} for record in saved["records"]]


def traces(records: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Each scalar as (chains, records), on the CPU."""
    return {name: torch.stack([r[name] for r in records], 1).cpu() for name in records[0]}


def judge(kernel: Kernel, watched: dict[str, Tensor], seconds: float) -> dict[str, Any]:
    """What the watched chains say: the verdict in a sentence, and its figures.

    Looked at: after the warm-up, or in refine, which has none, the second half of the chains.
    """
    n_steps = kernel.plan.n_steps
    steps = recorded_steps(n_steps)
    first = kernel.n_warmup if kernel.mode == "sample" else n_steps // 2
    kept = [i for i, step in enumerate(steps) if step > first]
    if len(kept) < 4:
        return {
            "verdict": f"not judged: {n_steps} steps are too few to judge mixing; treat as refinement",
            "mixed": False,
        }
    try:
        mixing = diagnose({name: trace[:, kept] for name, trace in watched.items()}, N_STARTS)
    except ValueError as error:
        return {"verdict": f"not judged: {error}; treat as refinement", "mixed": False}
    cost = kernel.sampler.gradients_per_step or kernel.sampler.values_per_step
    counted = n_steps - first
    rate = effective_draws_per(mixing, int(max(1, counted * cost * N_WATCHED)), max(seconds * counted / n_steps, 1e-9))
    per = "gradient" if kernel.sampler.gradients_per_step else "value"
    return {
        "verdict": verdict(mixing, kernel.mode),
        "mixed": mixing.mixed,
        "rhat": _number(mixing.worst_rhat),
        "nested_rhat": _number(mixing.worst_nested_rhat),
        "ess_bulk": _number(mixing.least_ess_bulk),
        "ess_tail": _number(mixing.least_ess_tail),
        f"ess_per_{per}": _number(rate.per_gradient),
        "ess_per_second": _number(rate.per_second),
        "n_watched": N_WATCHED,
        "watched": _table(mixing),
    }


def _table(mixing: Mixing) -> dict[str, dict[str, float | None]]:
    names = ("rhat", "nested_rhat", "ess_bulk", "ess_tail")
    return {row.name: {name: _number(getattr(row, name)) for name in names} for row in mixing.rows}


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def measure_bias(kernel: Kernel, block: BlockRun, seed: int) -> dict[str, Any] | None:
    """The bias meter on the watched chains' ends: E, log prior and |z| at h against h / 2; None for samplers with a test."""
    sampler = kernel.sampler
    if not isinstance(sampler, Ula | LeimkuhlerMatthews | Kla) or sampler.step_size > (
        kernel.tuned.stability_bound or math.inf
    ):
        return None  # there is no bias with a test, and no law to be biased from beyond the stability bound
    monitor = Monitor(kernel.potential)

    def observe(z: Tensor) -> dict[str, Tensor]:
        return {k: v for k, v in monitor(z).items() if not k.startswith("projection")}

    generator = make_generator(seed, "bias", device=block.start.device)
    found = bias_meter(sampler, block.state, N_BIAS_STEPS, observe, generator)
    return {name: {k: _number(v) for k, v in asdict(d).items()} for name, d in found.items()}
