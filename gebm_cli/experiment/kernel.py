"""From the keys of `sample` to a kernel ready to run: beta calibrated, step size tuned, schedule laid out, limits checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from gebm_cli.core.data.dataset import Dataset, to_float
from gebm_cli.core.device import make_generator
from gebm_cli.core.sampling.catalogue import CATALOGUE, Entry
from gebm_cli.core.sampling.chains import Plan, Stage, refine_plan, sample_plan
from gebm_cli.core.sampling.diagnostics import Slope, logistic_slope
from gebm_cli.core.sampling.effective import effective, total_time
from gebm_cli.core.sampling.make import FRICTION, Options
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.state import Sampler
from gebm_cli.core.sampling.tuning import Tuned, pilot_steps, tune
from gebm_cli.errors import GebmError
from gebm_cli.experiment.build import Gebm
from gebm_cli.experiment.schema.sampling import SAMPLE_STEPS, Sample

N_STAGES = 8
MEASURED = ("steepness", "log_bound", "shift", "log_partition")  # by tuning, for dot, drs and dgflow
N_CALIBRATION = 5000


Begin = Callable[[str, str, int], Callable[[int], None]]


def quietly(what: str, unit: str, total: int) -> Callable[[int], None]:
    """A `Begin` that tells nobody: it is told what long work is ahead, and returns what is told of each part done."""
    return lambda done: None


@dataclass(frozen=True)
class Kernel:
    """A sampler with all it was told and all it found out, and how long its chains run."""

    entry: Entry
    potential: LatentPotential
    tuned: Tuned
    plan: Plan
    mode: str
    n_steps: int
    n_warmup: int
    slope: Slope | None

    @property
    def sampler(self) -> Sampler:
        return self.plan.stages[-1].sampler

    def describe(self) -> dict[str, Any]:
        """The settings as used, in one unit; what tuning found; never a key that does not apply."""
        options = {
            k: getattr(self.tuned.sampler, k)
            for k in ("friction", *self.entry.keys, *MEASURED)
            if hasattr(self.tuned.sampler, k)
        }
        described: dict[str, Any] = {
            "mode": self.mode,
            "beta": float(self.potential.beta),
            "step_size": self.tuned.sampler.step_size or None,
            **options,
            **{k: v for k, v in effective(self.tuned.sampler, self.entry.unit).items() if k != "step_time"},
            "total_time": total_time(self.plan, self.entry.unit) or None,
            "n_steps": self.n_steps,
            "n_warmup": self.n_warmup,
            "n_draws": len(self.plan.draws),
            "gradients_per_step": self.sampler.gradients_per_step,
            "values_per_step": self.sampler.values_per_step,
            "curvature": self.tuned.curvature,
            "stability_bound": self.tuned.stability_bound,
        }
        if self.slope is not None:
            described["beta_standard_error"] = self.slope.standard_error
        if self.tuned.acceptance is not None:
            described["tuned_acceptance"] = self.tuned.acceptance
        if hasattr(self.tuned.sampler, "betas"):
            described["ladder"] = [0.0, *self.tuned.sampler.betas]
        return {k: _rounded(v) for k, v in described.items() if v is not None}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def prepare(
    gebm: Gebm,
    keys: Sample,
    seed: int,
    device: torch.device,
    dataset: Callable[[], Dataset],
    warn: Callable[[str], None] = lambda message: None,
    begin: Begin = quietly,
) -> Kernel:
    """The kernel that `keys` ask for, tuned on pilot draws of the seed's own stream; `dataset` is read only for `beta: auto`.

    Raises:
        GebmError: beta cannot be calibrated, or no pilot draw has a finite energy.
    """
    assert gebm.energy is not None
    entry = CATALOGUE[keys.sampler]
    potential, slope = LatentPotential(gebm.prior, gebm.base, gebm.energy, 1.0), None
    if keys.beta == "auto":
        slope = calibrate(potential, dataset(), seed, device)
    beta = slope.value if slope is not None else float(keys.beta)
    potential = replace(potential, beta=beta)
    options = _options(keys)
    step = None if keys.step_size == "auto" else float(keys.step_size)
    on_pilot = begin("tuning", "pilot steps", pilot_steps(keys.sampler, step))
    tuned = tune(
        keys.sampler, potential, step, options, make_generator(seed, "tuning", device=device), lambda: on_pilot(1)
    )
    _warn_if_unstable(keys, entry, tuned, warn)
    n_steps = keys.n_steps or (entry.n_steps if keys.mode == "refine" else SAMPLE_STEPS)
    n_warmup = 0 if keys.mode == "refine" else n_steps // 2 if keys.n_warmup is None else keys.n_warmup
    stages = schedule(tuned.sampler, potential, keys, n_steps, n_warmup)
    plan = (
        refine_plan(stages, n_steps) if keys.mode == "refine" else sample_plan(stages, n_warmup, n_steps, keys.n_draws)
    )
    return Kernel(entry, potential, tuned, plan, keys.mode, n_steps, n_warmup, slope)


def _options(keys: Sample) -> Options:
    friction = FRICTION[keys.friction] if isinstance(keys.friction, str) else float(keys.friction)
    return Options(
        friction=friction,
        scheme=keys.scheme,
        n_leapfrog=keys.n_leapfrog,
        jitter=keys.jitter,
        n_proposals=keys.n_proposals,
        n_local=keys.n_local,
        n_rungs=keys.n_rungs,
        divergence=keys.divergence,
        drs_percentile=keys.drs_percentile,
    )


def calibrate(potential: LatentPotential, dataset: Dataset, seed: int, device: torch.device) -> Slope:
    """The beta of `auto`: the slope of a logistic fit of held-out data against as many base samples on E; 1 if E is exact.

    Raises:
        GebmError: too few data are held out, or the energy does not tell them from base samples in the right direction.
    """
    held_out = dataset.held_out[:N_CALIBRATION]
    if len(held_out) < 20:
        raise GebmError(
            f"beta: auto: needs at least 20 held-out data points, got {len(held_out)}; give beta as a number"
        )
    generator = make_generator(seed, "calibration", device=device)
    with torch.no_grad():
        real = torch.cat([potential.energy(to_float(x.to(device))).double() for x in held_out.split(500)])
    draws = [potential.prior.sample(min(500, len(held_out) - i), generator) for i in range(0, len(held_out), 500)]
    fake = torch.cat([potential.energy_at(z) for z in draws])
    try:
        slope = logistic_slope(real, fake)
    except ValueError as error:
        raise GebmError(f"beta: auto: {error}; give beta as a number") from None
    if not slope.value > 0:
        raise GebmError(
            f"beta: auto: the slope is {slope.value:.3g} +- {slope.standard_error:.2g}: held out, the energy does not favour data "
            "over base samples, so no positive beta helps; train the energy longer, or give beta as a number"
        )
    return slope


def schedule(sampler: Sampler, potential: LatentPotential, keys: Sample, n_steps: int, n_warmup: int) -> list[Stage]:
    """The stages of the chain: beta rising from beta_start, the step size decaying; one stage where nothing changes."""
    stages = [Stage(0, sampler)]
    if keys.beta_start is not None:
        start, end = keys.beta_start, float(potential.beta)
        span = n_warmup or n_steps // 2
        count = max(1, min(N_STAGES, span))
        stages = []
        for i in range(count + 1):
            share = i / count
            beta = start * (end / start) ** share if start > 0 and end > 0 else start + (end - start) * share
            at = replace(potential, beta=beta)
            stages.append(Stage(i * span // count, replace(sampler, potential=at), at))  # type: ignore[type-var]
    if keys.step_size_decay < 1 and sampler.step_size:
        firsts = sorted({s.first for s in stages} | set(range(0, n_steps, keys.step_size_decay_every)))
        plan = Plan(stages, n_steps, ())
        stages = [_decayed(plan.stage(first), first, keys) for first in firsts]
    return stages


def _decayed(stage: Stage, first: int, keys: Sample) -> Stage:
    factor = keys.step_size_decay ** (first // keys.step_size_decay_every)
    step = stage.sampler.step_size * factor
    # Friction is held, so C = exp(-friction h) grows as h falls.
    return Stage(first, replace(stage.sampler, step_size=step), stage.potential if stage.first == first else None)  # type: ignore[type-var]


def _warn_if_unstable(keys: Sample, entry: Entry, tuned: Tuned, warn: Callable[[str], None]) -> None:
    step, bound = tuned.sampler.step_size, tuned.stability_bound
    if keys.step_size == "auto" or bound is None or step <= bound:
        return
    outcome = "will reject nearly everything" if entry.exact else "will diverge there"
    warn(
        f"step size {step:g} is beyond the stability bound {bound:.3g} (largest curvature of U {tuned.curvature:.3g}), so chains "
        f"{outcome}; --step-size auto chooses one"
    )
