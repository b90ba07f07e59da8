"""Is an energy fit to be sampled? Checks of a potential U = -log eta + beta E(B(z)) against what every sampler takes for granted.

Each check draws what it needs from the prior, looks at one thing, and returns a `Check`: the figure, the bound it is held
against, and what both mean. "failed" is a defect, which no sampler survives; "warning" is a setting, or a matter of degree.
Draws at which the energy is not finite are counted by `finite` and left out by the others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.diagnostics import RatioMeter
from gebm_cli.core.sampling.global_moves import ISir
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.potential import LatentPotential, Prior
from gebm_cli.core.sampling.state import Sampler, normal, per_chain, squared_norm
from gebm_cli.core.sampling.tuning import default_step, largest_curvature, stability_bound

Status = Literal["ok", "warning", "failed", "skipped"]
FAMILYWISE = 1e-4  # how often a group of z-tests may fail where all is well
LARGEST_Z = 4.0
CHUNK = 250


@dataclass(frozen=True)
class Check:
    """What one check found.

    `value` is the figure, `bound` where it stops being ok, from above or, with `at_least`, from below (None: there is none);
    `figures` is what else was seen.
    """

    name: str
    status: Status
    value: float
    bound: float | None
    message: str
    figures: dict[str, float] = field(default_factory=dict)
    at_least: bool = False


def _grade(value: float, warn: float, fail: float = math.inf) -> Status:
    """ok up to `warn`, a warning up to `fail`; a NaN is as bad as can be."""
    if math.isnan(value):
        return "failed" if fail < math.inf else "warning"
    return "ok" if value <= warn else "warning" if value <= fail else "failed"


# --------------------------------------------------------------------------------------------------- draws and derivatives


def energy_and_grad(potential: LatentPotential, z: Tensor) -> tuple[Tensor, Tensor]:
    """E (n,) and its gradient (n, ...), in chunks; the gradient is 0 where autograd finds no path from z to E."""
    parts = [_one_chunk(potential, part) for part in z.split(CHUNK)]
    return torch.cat([e for e, _ in parts]), torch.cat([g for _, g in parts])


def _one_chunk(potential: LatentPotential, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        energy = potential.energy(potential.base(z)).double()
        if not energy.requires_grad:
            return energy, torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(energy.sum(), z, allow_unused=True)
    return energy.detach(), torch.zeros_like(z) if gradient is None else gradient


def draws(potential: LatentPotential, n: int, generator: torch.Generator) -> Tensor:
    """Of n prior draws those where E is finite, (at most n, ...).

    Raises:
        ValueError: it is finite at fewer than two of them.
    """
    z = potential.prior.sample(n, generator)
    energy = torch.cat([potential.energy_at(part) for part in z.split(CHUNK)])
    z = z[torch.isfinite(energy)]
    if len(z) < 2:
        raise ValueError(f"`potential`: the energy is finite at {len(z)} of {n} prior draws only")
    return z


def _directions(z: Tensor, generator: torch.Generator) -> Tensor:
    """Random vectors (n, ...) as long as one coordinate of z is wide."""
    x = normal(z, generator)
    return x / per_chain(squared_norm(x).sqrt(), x).to(x.dtype) * z.std()


def float64_copy(potential: LatentPotential, z: Tensor) -> LatentPotential | None:
    """The same potential in float64; None where its networks do not compute in float64 throughout.

    A network that casts inside raises, or returns float32, or is a staircase: it cannot tell z from z + 1e-9.
    """
    try:
        base, energy = (copy.deepcopy(network).double() for network in (potential.base, potential.energy))
        prior = copy.deepcopy(potential.prior)
        if isinstance(prior, nn.Module):
            prior.double()
        with torch.no_grad():
            here, there = (energy(base(x)) for x in (z.double(), z.double() + 1e-9))
            of_prior: Tensor = prior.log_prob(z.double())
    except Exception:  # what a user's network raises in a type it was not made for is anything
        return None
    doubles = here.dtype == torch.float64 and of_prior.dtype == torch.float64
    told_apart = doubles and (here != there).double().mean().item() > 0.5
    return LatentPotential(prior, base, energy, potential.beta) if told_apart else None


def _path_gap(potential: LatentPotential, z: Tensor, step: Tensor) -> Tensor:
    """E(z + step) - E(z) - int_0^1 grad E(z + t step) . step dt, (n,), by 32 Gauss nodes; 0 but for rounding, kinks, defects."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    integral = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        gradient = energy_and_grad(potential, z + float(t) * step)[1]
        integral += float(w) * (gradient.double() * step.double()).flatten(1).sum(1)
    return potential.energy_at(z + step) - potential.energy_at(z) - integral


# ----------------------------------------------------------------------------------------------- is E a function with a slope?


def check_finite(potential: LatentPotential, generator: torch.Generator, n: int = 1000) -> Check:
    """The share of n prior draws at which E or its gradient is NaN or infinite."""
    energy, gradient = energy_and_grad(potential, potential.prior.sample(n, generator))
    bad = int((~torch.isfinite(energy) | ~torch.isfinite(gradient.flatten(1)).all(1)).sum())
    message = f"E and its gradient are finite at all {n} prior draws"
    if bad:
        message = (
            f"E or its gradient is NaN or infinite at {bad} of {n} prior draws, where no chain can start; look for log, sqrt or "
            "division of what can be 0, exp of what can be large, and half precision"
        )
    return Check("finite", _grade(bad / n, 0.0, 0.01), bad / n, 0.0, message)


def check_deterministic(potential: LatentPotential, generator: torch.Generator, n: int = 64) -> Check:
    """The largest change of U at a latent when asked again, and when asked alone (n = 1), over the standard deviation of U."""
    z, bound = draws(potential, n, generator), 1e-3
    remedy = "put base and energy in eval mode, and make noise part of the latent"
    first, again = potential.value(z), potential.value(z)
    try:
        alone = torch.cat([potential.value(one) for one in z[:16].split(1)])
    except Exception as error:  # batch norm in train mode refuses a batch of one
        message = f"U of a chain alone cannot be computed ({type(error).__name__}: {error}); {remedy}"
        return Check("deterministic", "failed", math.nan, bound, message)
    spread = first.std().item()
    repeated, apart = ((first[: len(x)] - x).abs().max().item() / spread for x in (again, alone))
    figures = {"repeated": repeated, "alone": apart}
    status: Status = _grade(max(repeated, apart), bound, bound)
    message = "U of a chain is the same when asked again, and alone or in a batch, up to rounding"
    if status == "failed":
        cause = "when asked again" if repeated > bound else "with the other chains in its batch"
        what = "dropout or noise inside" if repeated > bound else "batch norm in train mode"
        message = (
            f"U of a chain changes {cause}, as with {what}: it is no function of z, so no chain samples it; {remedy}"
        )
    elif repeated:
        status, message = "warning", "U is not the same bit for bit when asked again: samples will not be reproducible"
    return Check("deterministic", status, max(repeated, apart), bound, message, figures)


def check_gradient(potential: LatentPotential, generator: torch.Generator, n: int = 64) -> Check:
    """The gradient of E against differences of E, each along a random direction from one of n prior draws.

    An error is in units of |grad E| / sqrt(d), what a random component amounts to. A kink (leaky ReLU) may lie within a difference,
    so what counts is the share of errors beyond the tolerance.
    """
    z = draws(potential, n, generator)
    exact, step = float64_copy(potential, z), _directions(z, generator)
    if exact is None:
        where, tolerance, error = "float32", 0.05, _rough_error(potential, z, step)
    else:
        where, tolerance, error = "float64", 1e-4, _exact_error(potential, exact, z, step)
    beyond, median = (~(error <= tolerance)).double().mean().item(), error.median().item()
    message = f"autograd agrees with differences of E in {where}, median relative error {median:.1g}"
    status = _grade(beyond, 0.02, 0.1)
    if status != "ok":
        message = (
            f"{beyond:.0%} of the gradient's components differ from differences of E in {where} (median relative error "
            f"{median:.1g}): a part of E is detached or has a backward of its own; look for detach(), no_grad(), item(), rounding "
            "and custom autograd functions"
        )
    return Check("gradient", status, beyond, 0.02, message, {"median_error": median, "tolerance": tolerance})


def _exact_error(potential: LatentPotential, exact: LatentPotential, z: Tensor, step: Tensor) -> Tensor:
    """Relative errors (n,) of central differences over 2e-5 `step` in float64; infinite if the float32 gradient is another."""
    x, s = z.double(), step.double()
    gradient, own = energy_and_grad(exact, x)[1], energy_and_grad(potential, z)[1]
    slope = (exact.energy_at(x + 1e-5 * s) - exact.energy_at(x - 1e-5 * s)) / 2e-5
    differ = squared_norm(own - gradient).sqrt() > 0.01 * squared_norm(gradient).sqrt()
    error = _relative(slope - (gradient * s).flatten(1).sum(1), slope, gradient, s)
    return error if differ.double().mean() < 0.5 else torch.full_like(error, math.inf)


def _rough_error(potential: LatentPotential, z: Tensor, step: Tensor) -> Tensor:
    """Relative errors (n,) of differences over `step` / 4 in float32 against the integral of the gradient along the way."""
    gradient, error = energy_and_grad(potential, z)[1], 4 * _path_gap(potential, z, step / 4)
    return _relative(error, error + (gradient * step).flatten(1).sum(1), gradient, step)


def _relative(error: Tensor, slope: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """|error| over |gradient| |step| / sqrt(d); never over less than a thousandth of the typical slope, as where it vanishes."""
    unit = (squared_norm(gradient) * squared_norm(step) / step[0].numel()).sqrt()
    return error.abs() / torch.maximum(unit, slope.square().mean().sqrt() / 1000).clamp(min=1e-30)


def check_flat(potential: LatentPotential, generator: torch.Generator, n: int = 1000) -> Check:
    """The share of n prior draws at which the gradient of E is exactly zero: there a chain sees the prior alone."""
    gradient = energy_and_grad(potential, draws(potential, n, generator))[1]
    share = (squared_norm(gradient) == 0).double().mean().item()
    message = f"the gradient of E vanishes at {share:.1%} of the prior draws"
    if share > 0.01:
        message += (
            ", so that Langevin and Hamiltonian chains there see the prior alone; look for clamp, dead ReLU and detach(), or use a "
            "sampler without a gradient (isir)"
        )
    return Check("flat", _grade(share, 0.01, 0.5), share, 0.01, message)


# ---------------------------------------------------------------------------------------------------- is the prior its own law?


def z_level(n_tests: int) -> float:
    """|z| that the largest of n_tests standard normals exceeds with probability FAMILYWISE at most (Bonferroni)."""
    return NormalDist().inv_cdf(1 - FAMILYWISE / (2 * n_tests))


def _z_of_mean(x: Tensor) -> Tensor:
    """Mean over standard error of each column of x (n, k); 0 / 0 is 0."""
    x = x.double()
    mean, error = x.mean(0), x.std(0) / math.sqrt(len(x))
    return torch.where(mean == 0, 0.0, mean / error)


def _n_draws(prior: Prior, generator: torch.Generator) -> int:
    """4096 draws, fewer where the latent is very large."""
    return max(256, min(4096, 2**24 // prior.sample(1, generator).numel()))


def check_prior(prior: Prior, generator: torch.Generator) -> Check:
    """Whether `sample` draws from `log_prob`: the largest |z| of d + 1 tests of Stein's identities,

    E grad log eta(z) = 0,    E[z . grad log eta(z)] + d = 0    for z ~ eta.
    """
    z = prior.sample(_n_draws(prior, generator), generator)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (score,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
    z, score = z.detach().flatten(1).double(), score.flatten(1).double()
    found = _z_of_mean(torch.cat([score, (z * score).sum(1, keepdim=True) + z.shape[1]], 1))
    worst, bound = found.abs().max().item(), z_level(len(found))
    message = "the prior's draws fit its log_prob (Stein's identities)"
    if not worst <= bound:
        message = (
            "the prior's draws do not fit its log_prob (E grad log eta = 0 or E z.grad log eta = -d is broken), so beta = 0 is not "
            "the base; correct prior.log_prob or prior.sample (a law with edges, such as the uniform, must be made smooth first)"
        )
    return Check("prior", _grade(worst, bound, bound), worst, bound, message)


def check_beta_zero(potential: LatentPotential, generator: torch.Generator, n_steps: int = 20) -> Check:
    """Whether BAOAB, MALA, HMC and i-SIR leave exact draws of the prior as they are at beta = 0: largest |z| of all tests.

    N(0, I): mean and variance of each coordinate (the latter by the cube root of Wilson and Hilferty). Another prior: the mean of
    log eta against that of fresh draws.
    """
    free = potential.at(0.0)
    z = free.prior.sample(_n_draws(free.prior, generator), generator)
    h = default_step(*_typical_and_largest(largest_curvature(free, z[:64], generator)), "h") / 4
    samplers: dict[str, Sampler] = {
        "baoab": Kla(free, h, 2.0), "mala": Mala(free, h), "hmc": Hmc(free, 2 * h, 5), "isir": ISir(free, 4)
    }  # fmt: skip
    found = {
        name: _moments(free.prior, _run(sampler, z, n_steps, generator), generator)
        for name, sampler in samplers.items()
    }
    figures = {name: z_of.abs().max().item() for name, z_of in found.items()}
    worst, bound = max(figures.values(), key=_nan_last), z_level(sum(len(z_of) for z_of in found.values()))
    message = "baoab, mala, hmc and isir leave the prior as it is at beta = 0"
    if not worst <= bound:
        broken = ", ".join(name for name, value in figures.items() if not value <= bound)
        message = (
            f"{broken} changed the prior at beta = 0, where there is nothing but the prior: its log_prob or its gradient is not "
            "that of its draws (see prior); with the normal prior this is a defect of gebm"
        )
    return Check("beta_zero", _grade(worst, bound, bound), worst, bound, message, figures)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _run(
    sampler: Sampler, z: Tensor, n_steps: int, generator: torch.Generator, on_step: Callable[[], None] = lambda: None
) -> Tensor:
    """Positions of chains from z after n steps."""
    state = sampler.init(z, generator)
    for _ in range(n_steps):
        state, _ = sampler.step(state, generator)
        on_step()
    return state.position


def _moments(prior: Prior, z: Tensor, generator: torch.Generator) -> Tensor:
    """z-scores of "z (n, ...) are independent draws of the prior"."""
    n = len(z)
    if isinstance(prior, NormalPrior):
        z = z.double()
        cube = (z.square().mean(0)) ** (1 / 3)
        return torch.cat([z.mean(0) * math.sqrt(n), (cube - 1 + 2 / (9 * n)) / math.sqrt(2 / (9 * n))])
    fresh, moved = (prior.log_prob(x).detach().double() for x in (prior.sample(n, generator), z))
    return ((moved.mean() - fresh.mean()) / ((moved.var() + fresh.var()) / n).sqrt())[None]


# ------------------------------------------------------------------------------------------------ can chains move on it as set?


def _typical_and_largest(sizes: Tensor) -> tuple[float, float]:
    sizes = sizes[torch.isfinite(sizes)]
    return (sizes.median().item(), sizes.max().item()) if len(sizes) else (math.nan, math.nan)


def check_stability(
    potential: LatentPotential, step_size: float | None, unit: str, generator: torch.Generator, n: int = 64
) -> Check:
    """The largest curvature L of U at n prior draws, against 4 / h^2 or 2 / epsilon, beyond which the step is unstable.

    Args:
        step_size: None where it is tuned, and so has no bound to meet.
        unit: h or epsilon; empty for a sampler without a step.
    """
    typical, largest = _typical_and_largest(largest_curvature(potential, draws(potential, n, generator), generator))
    limits = {f"bound_{name}": stability_bound(largest, name) for name in ("h", "epsilon")}
    figures = {"typical": typical, **limits}
    message = (
        f"curvature of U typically {typical:.3g}, at most {largest:.3g}: steps are stable below h = {limits['bound_h']:.3g}, "
        f"epsilon = {limits['bound_epsilon']:.3g}"
    )
    if step_size is None or not unit:
        status: Status = "ok" if largest >= 0 else "warning"
        return Check("stability", status, largest, None, f"{message}; auto keeps to that", figures)
    bears = 4 / step_size**2 if unit == "h" else 2 / step_size
    status = _grade(largest, bears)
    message += f"; sample.step_size is {unit} = {step_size:g}"
    if status != "ok":
        message += ": too large, so chains diverge or reject where U bends most; use --step-size auto"
    return Check("stability", status, largest, bears, message, figures | {"step_size": step_size})


def check_precision(potential: LatentPotential, epsilon: float, generator: torch.Generator, n: int = 250) -> Check:
    """The standard deviation of the rounding error of MALA's log acceptance ratio: float32 against float64, at n steps.

    The gradient in it is the float32 one in both: as the drift of the proposal it may be anything, so its error does no harm.
    Where the networks do not compute in float64: that of beta times the difference between a change of E and its gradient's
    integral, over a tenth of a standard deviation of the latent.
    """
    z = draws(potential, n, generator)
    exact = float64_copy(potential, z)
    if exact is None:
        error = float(potential.beta) * _path_gap(potential, z, _directions(z, generator) / 10)
    else:
        error = _rounding_of_ratio(potential, exact, z, epsilon, generator)
    value = error[torch.isfinite(error)].std().item()
    message = "rounding in float32 does not touch the acceptance ratio"
    if not value <= 0.01:
        message = (
            f"rounding changes the log acceptance ratio by {value:.2g}, so exact samplers are not exact; compute the networks in "
            "float32 throughout (no half precision), take a constant offset out of E, or lower beta"
        )
    return Check("precision", _grade(value, 0.01, 0.1), value, 0.01, message, {"float64": float(exact is not None)})


def _rounding_of_ratio(
    potential: LatentPotential, exact: LatentPotential, z: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """The log ratio of a MALA step from z as it is computed, less the same in float64, (n,)."""
    u, g = potential.value_and_grad(z)
    there = z - epsilon * g + math.sqrt(2 * epsilon) * normal(z, generator)
    u_there, g_there = potential.value_and_grad(there)

    def ratio(u: Tensor, u_there: Tensor, moved: Tensor, g: Tensor, g_there: Tensor) -> Tensor:
        back = squared_norm(epsilon * g_there - moved) - squared_norm(moved + epsilon * g)
        return u - u_there - back / (4 * epsilon)

    x, y = z.double(), there.double()
    truth = ratio(exact.value(x), exact.value(y), y - x, g.double(), g_there.double())
    return ratio(u, u_there, there - z, g, g_there) - truth


def check_metropolis(
    mala: Mala,
    z: Tensor,
    generator: torch.Generator,
    n_steps: tuple[int, int] = (200, 100),
    on_step: Callable[[], None] = lambda: None,
) -> Check:
    """Whether MALA is stationary: the larger of |z| of the balance (see `RatioMeter`) and z of E e^r = 1, r the log ratio.

    The latter counts from above only: without the rare large r on which it may rest, the mean of e^r is below 1, with too small a
    standard error (0.954 +- .011 on stationary chains of the digits); the balance has no such outliers.

    Args:
        z: where the chains start, (n, ...).
        n_steps: how many come first, and how many are looked at.
    """
    state, meter = mala.init(_run(mala, z, n_steps[0], generator, on_step), generator), RatioMeter()
    for _ in range(n_steps[1]):
        state, info = mala.step(state, generator)
        assert info.log_ratio is not None
        meter = meter.update(info.log_ratio)
        on_step()
    r = meter.finish()
    above, balance = (r.mean_exp - 1) / (r.mean_exp_error or math.nan), r.balance / (r.balance_error or math.nan)
    worst = max(abs(balance), 0.0 if above < 0 else above, key=_nan_last)
    figures = {
        "mean_exp_log_ratio": r.mean_exp, "mean_exp_standard_error": r.mean_exp_error,
        "balance": r.balance, "balance_standard_error": r.balance_error,
    }  # fmt: skip
    measured = f"mean exp(log ratio) {r.mean_exp:.4g} +- {r.mean_exp_error:.1g}, balance {r.balance:.2g} +- {r.balance_error:.1g}"
    message = f"MALA is stationary after {n_steps[0]} steps: {measured}"
    if not worst <= LARGEST_Z:
        message = (
            f"MALA is not stationary after {n_steps[0]} steps ({measured}, expected 1 and 0): the chains still move downhill and "
            "need more steps (--mode sample), or U changes when it is asked again (see deterministic, precision)"
        )
    return Check("metropolis", _grade(worst, LARGEST_Z), worst, LARGEST_Z, message, figures)


def check_overlap(potential: LatentPotential, generator: torch.Generator, n: int = 2000) -> Check:
    """The effective share (sum w)^2 / (n sum w^2) of n prior draws weighted by w = exp(-beta E); the bound is one from below."""
    z = draws(potential, n, generator)
    log_w = -float(potential.beta) * torch.cat([potential.energy_at(part) for part in z.split(CHUNK)])
    w = (log_w - log_w.max()).exp()
    share, spread = (w.sum().square() / w.square().sum() / len(w)).item(), log_w.std().item()
    message = (
        f"base draws weighted by exp(-beta E) are worth {share:.1%} as many; beta E has standard deviation {spread:.3g}"
    )
    if share < 0.01:
        message += (
            ": the tilted law and the base hardly overlap, so beta is too large or the energy too steep for short chains; use "
            "--mode sample with --sampler pt, or anneal (sample.beta_start)"
        )
    return Check("overlap", "ok" if share >= 0.01 else "warning", share, 0.01, message, {"spread": spread}, True)
