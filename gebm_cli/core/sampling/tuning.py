"""What a sampler needs to know before it starts: step size, ladder and bounds, from pilot draws; then all is frozen.

Pilot chains have a random stream of their own, so the tuned values depend on the seed and nothing else, and every block of
chains runs the same kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.make import Options, make_sampler
from gebm_cli.core.sampling.potential import Potential, TiltedPotential
from gebm_cli.core.sampling.refiners import drs_logit
from gebm_cli.core.sampling.state import Sampler, State, finite, normal, per_chain
from gebm_cli.core.sampling.tempering import ReplicaExchange

N_PILOT = 64
N_PILOT_VALUES = 10_000
LARGEST_STEP = 0.5
N_POWER, N_AVERAGING, N_CHECK, N_ROUNDS, N_SWAPS = 20, 150, 30, 6, 20


@dataclass(frozen=True)
class Tuned:
    """A sampler ready to run, and what was found out on the way.

    `curvature` is the largest |eigenvalue| of the Hessian of U at the pilot draws, `stability_bound` the step size beyond which an
    unadjusted sampler of its kind explodes there; `acceptance` that of the pilot chains at the step found; `swap_rates` the
    ladder's. None where it does not apply.
    """

    sampler: Sampler
    curvature: float | None = None
    stability_bound: float | None = None
    acceptance: float | None = None
    swap_rates: tuple[float, ...] | None = None


def tune(
    name: str,
    potential: TiltedPotential,
    step_size: float | None,
    options: Options,
    generator: torch.Generator,
    on_step: Callable[[], None] = lambda: None,
) -> Tuned:
    """The sampler of that name with everything it needs; a `step_size` that is given is kept.

    Samplers with a Metropolis test are tuned to their acceptance by dual averaging, the others take
    `default_step` for the curvature of U; published comparison methods take their published step.
    """
    entry = CATALOGUE[name]
    options = _measured(name, potential, options, generator)
    if not entry.unit:
        return Tuned(make_sampler(name, potential, 0.0, options))
    z = potential.prior.sample(N_PILOT, generator)
    curvature, guess = None, entry.published
    if entry.markov:
        sizes = largest_curvature(potential, z, generator, on_step=on_step)
        curvature = _largest_finite(sizes)
        guess = default_step(sizes[torch.isfinite(sizes)].nanmedian().item(), curvature, entry.unit)
    acceptance = None
    if step_size is None and entry.acceptance is not None:
        pilot = "mala" if name in ("ex2", "pt") else name  # their local moves are MALA's

        def make(step: float) -> Sampler:
            return make_sampler(pilot, potential, step, options)

        step_size, acceptance = dual_averaging(make, z, float(guess or 0), entry.acceptance, generator, on_step)
    sampler = make_sampler(name, potential, step_size if step_size is not None else float(guess or 0), options)
    bound = None if curvature is None else stability_bound(curvature, entry.unit)
    rates = None
    if isinstance(sampler, ReplicaExchange):
        sampler, rates = space_ladder(sampler, z, generator, on_step)
    return Tuned(sampler, curvature, bound, acceptance, rates)


def pilot_steps(name: str, step_size: float | None) -> int:
    """How often `tune` will tell of a step."""
    entry = CATALOGUE[name]
    steps = N_POWER if entry.unit and entry.markov else 0
    steps += N_AVERAGING + N_CHECK if step_size is None and entry.acceptance is not None else 0
    return steps + (N_ROUNDS * N_SWAPS if name == "pt" else 0)


# ----------------------------------------------------------------------------------------------------------- curvature


def largest_curvature(
    potential: Potential,
    z: Tensor,
    generator: torch.Generator,
    n_iterations: int = N_POWER,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """The largest |eigenvalue| of the Hessian of U at each z (n,), by power iteration.

    Hessian-vector products are central differences of the gradient over a distance of .01 sqrt(d): a tenth or less of what a step
    moves. So a network of straight pieces, whose second derivative is zero almost everywhere, shows the bends that a chain
    meets.
    """
    d = z[0].numel()
    delta = 0.01 * math.sqrt(d)
    v = _unit(normal(z, generator))
    size = torch.ones(len(z), device=z.device, dtype=torch.float64)
    for _ in range(n_iterations):
        there, back = (potential.value_and_grad(z + sign * delta * v)[1] for sign in (1, -1))
        product = (there - back) / (2 * delta)
        size = product.double().flatten(1).norm(dim=1)
        v = _unit(product)
        on_step()
    return size


def _largest_finite(sizes: Tensor) -> float:
    """The largest of those that are finite, NaN if none is: one broken pilot draw must not decide for all."""
    sizes = sizes[torch.isfinite(sizes)]
    return sizes.max().item() if len(sizes) else math.nan


def _unit(x: Tensor) -> Tensor:
    return x / per_chain(x.flatten(1).norm(dim=1).clamp(min=1e-30), x)


def default_step(typical: float, largest: float, unit: str) -> float:
    """h = min(.5, .5 / sqrt(typical), 1 / sqrt(largest)) for curvatures of U; epsilon = h^2 / 2 moves as far.

    A quarter of the stability bound where chains mostly are, and never more than half of it anywhere seen.
    Deviation: of 64 draws the median is the typical curvature. The maximum in its place, as in a worst-case bound, is set by
    one draw: on the digits it made steps half as long for a bias that could not be told from that of the longer ones.
    """
    if not (0 < largest < math.inf):
        return 1e-3 if unit == "h" else 5e-7
    h = min(LARGEST_STEP, 0.5 / math.sqrt(max(typical, 1e-12)), 1 / math.sqrt(largest))
    return h if unit == "h" else h * h / 2


def stability_bound(curvature: float, unit: str) -> float:
    """2 / sqrt(L) for h, 2 / L for epsilon: beyond it the mode of largest curvature grows without end."""
    if not curvature > 0:
        return math.inf
    return 2 / math.sqrt(curvature) if unit == "h" else 2 / curvature


# ------------------------------------------------------------------------------------------------------ dual averaging


def dual_averaging(
    make: Callable[[float], Sampler],
    z: Tensor,
    first: float,
    target: float,
    generator: torch.Generator,
    on_step: Callable[[], None] = lambda: None,
    n_steps: int = N_AVERAGING,
    n_check: int = N_CHECK,
) -> tuple[float, float]:
    """The step size at which chains from z accept a share `target`, and the acceptance measured at it afterwards.

    Hoffman and Gelman (2014), section 3.2, on the log of the step with gamma .05, t0 10, kappa .75; the statistic of a step is
    the mean over the chains of min(1, exp(log ratio)). Chains that stand where U is not finite have no say; if none has,
    the step stays as it is.
    """
    mu, gamma, t0, kappa = math.log(10 * first), 0.05, 10, 0.75
    error, log_step, log_mean = 0.0, math.log(first), 0.0
    state = make(first).init(z, generator)
    if not finite(state).any():
        return first, 0.0
    for t in range(1, n_steps + 1):
        state, accepted = _probe(make(math.exp(log_step)), state, generator)
        error += (target - accepted - error) / (t + t0)
        log_step = mu - math.sqrt(t) / gamma * error
        weight = t**-kappa
        log_mean = weight * log_step + (1 - weight) * log_mean
        on_step()
    total = 0.0
    sampler = make(math.exp(log_mean))
    for _ in range(n_check):
        state, accepted = _probe(sampler, state, generator)
        total += accepted / n_check
        on_step()
    return math.exp(log_mean), total


def _probe(sampler: Sampler, state: State, generator: torch.Generator) -> tuple[State, float]:
    alive = finite(state)
    state, info = sampler.step(state, generator)
    assert info.log_ratio is not None
    accepted = info.log_ratio.nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=0).exp()
    return state, accepted[alive].mean().item()


# -------------------------------------------------------------------------------------------- ladders and pilot bounds


def space_ladder(
    sampler: ReplicaExchange,
    z: Tensor,
    generator: torch.Generator,
    on_step: Callable[[], None] = lambda: None,
    n_rounds: int = N_ROUNDS,
    n_steps: int = N_SWAPS,
) -> tuple[ReplicaExchange, tuple[float, ...]]:
    """The ladder after some rounds of equalising its swap rates, and the rates of the last round."""
    rates: list[float] = []
    for round_ in range(n_rounds):
        if round_:
            sampler = sampler.spaced(rates)
        state = sampler.init(z, generator)
        swaps = []
        for step in range(n_steps):
            state, info = sampler.step(state, generator)
            if step >= n_steps // 4 and info.swaps is not None:
                swaps.append(info.swaps.double().mean(0))
            on_step()
        rates = torch.stack(swaps).mean(0).tolist()
    return sampler, tuple(rates)


def _measured(name: str, potential: TiltedPotential, options: Options, generator: torch.Generator) -> Options:
    """The options with what dot, dgflow and drs measure on draws of the base."""
    if name == "dot" and options.steepness is None:
        return replace(options, steepness=steepness(potential, generator))
    if name == "dgflow" and options.log_partition is None:
        log_w = _log_weights(potential, generator)
        mean = (log_w.logsumexp(0) - math.log(len(log_w))).item() if len(log_w) else 0.0
        return replace(options, log_partition=mean)
    if name == "drs" and options.log_bound is None:
        log_w = _log_weights(potential, generator)
        bound, shift = log_w.max().item() if len(log_w) else 0.0, 0.0
        if options.drs_percentile is not None and len(log_w):
            shift = drs_logit(log_w, bound).quantile(options.drs_percentile / 100).item()
        return replace(options, log_bound=bound, shift=shift)
    return options


def _log_weights(potential: TiltedPotential, generator: torch.Generator) -> Tensor:
    """-beta E of pilot draws of the base, the finite ones."""
    parts = (potential.prior.sample(500, generator) for _ in range(N_PILOT_VALUES // 500))
    log_w = torch.cat([-potential.beta * potential.energy_at(z) for z in parts])
    return log_w[torch.isfinite(log_w)]


def steepness(potential: TiltedPotential, generator: torch.Generator, n_pairs: int = 100) -> float:
    """k_eff of DOT: the largest |beta E(z) - beta E(z')| / |z - z'| over pairs of prior draws (Tanaka 2019, section 4.2)."""
    a, b = (potential.prior.sample(n_pairs, generator) for _ in range(2))
    rise = (potential.beta * (potential.energy_at(a) - potential.energy_at(b))).abs()
    slope = rise / (a - b).double().flatten(1).norm(dim=1)
    slope = slope[torch.isfinite(slope)]
    return max(slope.max().item(), 1e-12) if len(slope) else 1.0
