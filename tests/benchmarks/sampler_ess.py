"""Effective draws for each gradient: our samplers at their defaults against the reference scheme, on one trained energy.

    python tests/benchmarks/sampler_ess.py RUN [SEEDS]

The reference is ABOBA from v = 0 with friction 100, at the step its readme gives (L = 1e-4, so h = 2 sqrt(L) = .02) and at h = .2,
the best that friction 100 allows here. All chains start at exact draws of the base; a tenth of the gradients is warm-up. ESS is
arviz's bulk ESS of 64 chains, the least and the median over E, log prior, |z| and four projections of B(z); beta = 1.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from arviz_stats.base import array_stats

from gebm_cli.core.device import make_generator
from gebm_cli.core.sampling.catalogue import CATALOGUE, MCMC
from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.make import Options
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.tuning import tune
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.drawing import data_shape
from gebm_cli.experiment.run import open_run
from gebm_cli.experiment.tracking import cost_of
from gebm_cli.experiment.watching import Monitor, traces

N_CHAINS, N_GRADIENTS, N_RECORDS = 64, 2000, 250


def chain_traces(sampler, potential: LatentPotential, seed: int, from_rest: bool = False) -> tuple[dict, float]:
    """The scalars after the warm-up, (chains, records), and the gradients for each chain they took."""
    generator = make_generator(seed, "ess")
    state = sampler.init(potential.prior.sample(N_CHAINS, generator), generator)
    if from_rest:
        state = state._replace(velocity=torch.zeros_like(state.position))
    per_step = cost_of(1, sampler.gradients_per_step, sampler.values_per_step)
    n_steps, monitor, records = max(1, int(N_GRADIENTS / per_step)), Monitor(potential), []
    every, warmup = max(1, n_steps // N_RECORDS), n_steps // 10
    for step in range(1, warmup + n_steps + 1):
        state, _ = sampler.step(state, generator)
        if step > warmup and (step - warmup) % every == 0:
            records.append(monitor(state.position))
    return traces(records), n_steps * per_step


def ess_per_gradient(watched: dict, gradients: float) -> np.ndarray:
    values = [array_stats.ess(t.numpy(), chain_axis=0, draw_axis=1, method="bulk") for t in watched.values()]
    return np.array(values) / (N_CHAINS * gradients)


def main() -> None:
    run, seeds = open_run(Path(sys.argv[1])), range(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    gebm = load_gebm(run, data_shape(run), torch.device("cpu"), with_energy=True)
    assert gebm.energy is not None
    potential = LatentPotential(gebm.prior, gebm.base, gebm.energy, 1.0)
    rows: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        for h in (0.02, 0.2):
            reference = Kla(potential, h, 100.0, "gebm")
            rows.setdefault(f"reference, h {h}", []).append(
                ess_per_gradient(*chain_traces(reference, potential, seed, from_rest=True))
            )
        for name in MCMC:
            sampler = tune(name, potential, None, Options(), make_generator(seed, "tuning")).sampler
            step = sampler.step_size
            rows.setdefault(name, []).append(ess_per_gradient(*chain_traces(sampler, potential, seed)))
            print(f"seed {seed} {name} step {step:.4g} {CATALOGUE[name].unit}", file=sys.stderr)
        halved = replace(tune("kla", potential, None, Options(), make_generator(seed, "tuning")).sampler, scheme="gebm")
        rows.setdefault("kla, scheme gebm", []).append(ess_per_gradient(*chain_traces(halved, potential, seed)))
    readme = np.stack(rows["reference, h 0.02"])
    best = np.stack(rows["reference, h 0.2"])
    print(
        f"{run.name}: ESS per gradient, least and median over {readme.shape[1]} scalars; ratios of the least, "
        f"mean +- standard error over {len(readme)} seeds"
    )
    for name, found in rows.items():
        ess = np.stack(found)
        line = f"{name:18} least {ess.min(1).mean():.2e}  median {np.median(ess, 1).mean():.2e}"
        for label, other in (("readme", readme), ("h .2", best)):
            ratio = ess.min(1) / other.min(1)
            error = ratio.std(ddof=1) / np.sqrt(len(ratio)) if len(ratio) > 1 else float("nan")
            line += f"  / {label} {ratio.mean():.2f} +- {error:.2f}"
        print(line)


if __name__ == "__main__":
    main()
