"""From a sampler's name and its options to the sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.global_moves import Ex2, Ihm, ISir, RandomWalk
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.kinetic import Ghmc, Kla
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Mala, Ula
from gebm_cli.core.sampling.potential import TiltedPotential
from gebm_cli.core.sampling.refiners import DgFlow, Divergence, Dot, Rejection, Resampling
from gebm_cli.core.sampling.state import Sampler
from gebm_cli.core.sampling.tempering import ReplicaExchange, geometric_ladder

FRICTION = {"low": 0.2, "critical": 2.0, "high": 20.0}


@dataclass(frozen=True)
class Options:
    """What the samplers can be told beside their step size; each reads its own.

    The last five are measured on pilot draws where they are None (see `tuning`): the rungs of pt, the steepness of dot, bound
    and shift of drs, the log-partition of dgflow at its beta. `friction` is in 1/time.
    """

    friction: float = FRICTION["critical"]
    scheme: str = "baoab"
    n_leapfrog: int = 5
    jitter: float = 0.2
    n_proposals: int = 10
    n_local: int = 3
    n_rungs: int = 4
    divergence: Divergence = "kl"
    drs_percentile: float | None = None
    betas: tuple[float, ...] | None = None
    steepness: float | None = None
    log_bound: float | None = None
    shift: float | None = None
    log_partition: float | None = None


def make_sampler(name: str, potential: TiltedPotential, step_size: float, options: Options = Options()) -> Sampler:
    """The sampler of that name; `step_size` is not read by those that have none.

    Raises:
        ValueError: an unknown name or scheme.
    """
    o = options
    if name in ("dot", "drs") and (o.steepness if name == "dot" else o.log_bound) is None:
        raise ValueError(f"`options`: {name} needs what `tuning.tune` measures on pilot draws")
    makers: dict[str, Callable[[], Sampler]] = {
        "kla": lambda: Kla(potential, step_size, o.friction, o.scheme),
        "ghmc": lambda: Ghmc(potential, step_size, o.friction),
        "ula": lambda: Ula(potential, step_size),
        "ddls": lambda: Ula(potential, step_size),
        "lm": lambda: LeimkuhlerMatthews(potential, step_size),
        "mala": lambda: Mala(potential, step_size),
        "hmc": lambda: Hmc(potential, step_size, o.n_leapfrog, o.jitter),
        "rw": lambda: RandomWalk(potential, step_size),
        "ihm": lambda: Ihm(potential),
        "isir": lambda: ISir(potential, o.n_proposals),
        "ex2": lambda: Ex2(potential, step_size, o.n_proposals, o.n_local),
        "pt": lambda: ReplicaExchange(
            potential, step_size, o.betas or geometric_ladder(float(potential.beta), o.n_rungs)
        ),
        "dot": lambda: Dot(potential, step_size, float(o.steepness or 0)),
        "dgflow": lambda: DgFlow(potential, step_size, float(o.log_partition or 0), o.divergence),
        "drs": lambda: Rejection(potential, float(o.log_bound or 0), float(o.shift or 0)),
        "resample": lambda: Resampling(potential),
    }
    if name not in makers:
        raise ValueError(f"`name` must be one of {', '.join(CATALOGUE)}, got '{name}'")
    sampler = makers[name]()
    if isinstance(sampler, Kla):
        _ = sampler.letters  # an impossible splitting is refused here, not at the first step
    return sampler
