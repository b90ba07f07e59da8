"""One unit for all samplers, so that their settings can be compared."""

from __future__ import annotations

import math

from gebm_cli.core.sampling.chains import Plan
from gebm_cli.core.sampling.global_moves import Ex2
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.kinetic import Ghmc, Kla
from gebm_cli.core.sampling.state import Sampler


def effective(sampler: Sampler, unit: str) -> dict[str, float]:
    """h, epsilon and C of one move, and `step_time`, the time an overdamped Langevin diffusion needs to spread as far as one step.

    A move of size h spreads as epsilon = h^2 / 2 does when the velocity is forgotten after it; where C = exp(-friction h) of it
    survives, as h^2 / 2 (1 + C) / (1 - C) (the sum of the velocity's correlations; infinite without friction); a trajectory of
    HMC as (L h)^2 / 2. Samplers without a step size have none of these.
    """
    if not unit:
        return {}
    h = sampler.step_size if unit == "h" else math.sqrt(2 * sampler.step_size)
    damping, time = 0.0, h * h / 2
    if isinstance(sampler, Kla | Ghmc):
        damping = sampler.damping
        time *= _correlations(sampler.letters if isinstance(sampler, Kla) else "oao", damping)
    if isinstance(sampler, Hmc):
        time *= sampler.n_leapfrog**2 * (1 + sampler.jitter**2 / 3)
    if isinstance(sampler, Ex2):
        time *= sampler.n_local
    return {"h": h, "epsilon": h * h / 2, "damping": damping, "step_time": time}


def _correlations(letters: str, damping: float) -> float:
    """The mean over the drifts A of a step of the sum of the velocity's correlations with all drifts, past and to come.

    Two drifts with j of the m letters O between them have correlation C^(j / m). For one O it is (1 + C) / (1 - C).
    """
    if not damping < 1:
        return math.inf
    m = letters.count("o")
    c = damping ** (1 / m)
    places = [letters[:i].count("o") for i, letter in enumerate(letters) if letter == "a"]
    gaps = [y - x for x in places for y in places]
    return sum(c ** abs(d) + (c ** (m + d) + c ** (m - d)) / (1 - damping) for d in gaps) / len(gaps)


def total_time(plan: Plan, unit: str) -> float:
    """The overdamped time of all steps of a plan, stage by stage."""
    ends = [*[min(stage.first, plan.n_steps) for stage in plan.stages[1:]], plan.n_steps]
    times = [effective(stage.sampler, unit).get("step_time", 0.0) for stage in plan.stages]
    return sum(t * max(0, end - stage.first) for t, end, stage in zip(times, ends, plan.stages, strict=True))
