"""The battery, first part: the laws that every sampler keeps. Invariance, reversibility, the ratio's identities, modes, swaps.

Statistical claims are z-tests at |z| < 4 on seeded runs of many independent chains, one final state each. A test takes `build`
so that `test_mutants` can put a broken sampler through it.
"""

from __future__ import annotations

import math

import pytest
import targets
import torch
from targets import (
    EXACT,
    METROPOLIS,
    PALINDROMES,
    SAMPLERS,
    Gaussian,
    Normal,
    Skewed,
    TwoModes,
    advance,
    assert_mean,
    assert_moments,
    at_stationarity,
    biased_covariance,
    seeded,
)
from torch import nn

from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.tempering import ReplicaExchange, swap_log_ratio

exact = pytest.mark.parametrize("name", EXACT)
GAUSSIAN = Gaussian.random(4, 1.2, 3.0)
both_targets = pytest.mark.parametrize("target", [GAUSSIAN, Skewed()], ids=["gaussian", "skewed"])

# Step sizes at which .2 to .9 is accepted on these targets of three and four dimensions; 0 where there is none.
STEP = {"mala": 0.25, "hmc": 0.6, "hmc-jitter": 0.6, "ghmc": 0.8, "rw": 0.15, "ex2": 0.25, "pt": 0.25}


class Wild(nn.Module):
    """A network whose output is useless."""

    def forward(self, x):
        return torch.full(x.shape[:1], math.nan)


@pytest.mark.parametrize("name", SAMPLERS)
def test_beta_zero_leaves_the_prior_invariant(name, build=targets.build):
    """With beta = 0 the law of the latent stays N(0, I), or the stated biased one, though B and E are NaN."""
    step = {"ula": 0.4, "lm": 0.4, "mala": 0.7, "rw": 0.3, "ex2": 0.7, "pt": 0.7}.get(name, 1.1)
    nothing = Gaussian((6,), 0.0, torch.eye(6).double(), torch.zeros(6).double())
    generator = seeded(1)
    sampler = build(name, LatentPotential(Normal((6,)), Wild(), Wild(), beta=0.0), step)
    state, accepted = advance(sampler, at_stationarity(sampler, nothing, 30_000, generator), 6, generator)
    assert accepted < 0.95 or name not in STEP, f"accepted {accepted:.2f}: no bias would show"
    covariance = biased_covariance(sampler, nothing)
    assert_moments(state.position, nothing.mean, covariance, name)
    assert_mean(state.position.pow(4).mean(1), 3 * covariance[0, 0] ** 2, f"{name}, fourth moment")


@pytest.mark.parametrize("name", ["lm", *EXACT])
def test_beta_zero_leaves_the_prior_invariant_from_init_on(name):
    """Chains that `init` starts at draws of N(0, I) are N(0, I) after the first step and the second."""
    prior, generator = Normal((4,)), seeded(2)
    sampler = targets.build(name, LatentPotential(prior, Wild(), Wild(), beta=0.0), 0.5)
    state = sampler.init(prior.sample(30_000, generator), generator)
    for n in (1, 2):
        state, _ = sampler.step(state, generator)
        assert_moments(state.position, torch.zeros(4).double(), torch.eye(4).double(), f"{name}, step {n}")


@exact
@both_targets
def test_started_at_the_target_it_stays_there(name, target, build=targets.build):
    """Exact draws stay exact draws, at a step where 20 to 90 % is accepted: moments and mean potential."""
    generator = seeded(3)
    sampler = build(name, target, STEP.get(name, 0.0))
    state, accepted = advance(sampler, at_stationarity(sampler, target, 30_000, generator), 6, generator)
    assert 0.2 < accepted < 0.9, f"accepted {accepted:.2f}: too easy or too hard"
    assert_mean(state.potential, target.mean_potential, f"{name}, potential")
    target.assert_law(state.position, name)


FUNCTIONS = {
    "first": lambda s: s.position[:, 0],
    "energy": lambda s: s.potential,
    "energy squared": lambda s: s.potential.square(),
    "sines": lambda s: s.position.sin().sum(1),
    "cubes": lambda s: s.position.clamp(-4, 4).pow(3).sum(1),
    "velocity": lambda s: s.velocity[:, 0],
    "work": lambda s: (s.velocity * s.position).sum(1),
    "kinetic": lambda s: s.velocity.square().sum(1),
    "jump": lambda s: s.velocity.sin().sum(1) * s.position.exp().clamp(max=20).sum(1),
}
PAIRS = [("first", "energy"), ("energy", "sines"), ("sines", "cubes"), ("energy", "energy squared")]
KINETIC_PAIRS = [
    ("first", "velocity"),
    ("sines", "kinetic"),
    ("work", "kinetic"),
    ("sines", "jump"),
    ("cubes", "velocity"),
]


def assert_reversible(before, after, pairs, what):
    for f, g in pairs:
        x, y = FUNCTIONS[f], FUNCTIONS[g]
        assert_mean(x(before) * y(after) - y(before) * x(after), 0.0, f"{what}, asymmetry of {f} and {g}")


@pytest.mark.parametrize("name", [s for s in EXACT if s not in ("ghmc", "ex2", "pt")])
@both_targets
def test_reversible(name, target, build=targets.build):
    """At stationarity E[f(z0) g(z1)] = E[g(z0) f(z1)] for any f and g.

    Of ex2 and pt, which compose reversible moves one after the other, only invariance can be asked.
    """
    generator = seeded(4)
    sampler = build(name, target, STEP.get(name, 0.0))
    before = at_stationarity(sampler, target, 60_000, generator)
    after, info = sampler.step(before, generator)
    assert 0.2 < info.accepted.double().mean() < 0.95
    assert_reversible(before, after, PAIRS, name)


@pytest.mark.parametrize(
    ("name", "target"),
    [*((s, GAUSSIAN) for s in (*PALINDROMES, "ghmc")), ("ghmc", Skewed())],
    ids=[*PALINDROMES, "ghmc", "ghmc-skewed"],
)
def test_reversible_up_to_the_sign_of_the_velocity(name, target, build=targets.build):
    """At stationarity, with R: v -> -v, E[f(x0) g(R x1)] = E[g(x0) f(R x1)] for x = (z, v)."""
    generator = seeded(5)
    sampler = build(name, target, 0.9, friction=0.5)
    before = at_stationarity(sampler, target, 60_000, generator)
    after, _ = sampler.step(before, generator)
    assert_reversible(before, after._replace(velocity=-after.velocity), KINETIC_PAIRS, name)


@pytest.mark.parametrize("name", [*METROPOLIS, "ex2", "pt"])
@both_targets
def test_mean_exp_log_ratio_is_one(name, target, build=targets.build):
    """At stationarity the mean of exp(log ratio) is 1; and so is its bounded form, in which no outlier hides a bias.

    Detailed balance of the proposal makes p(r) exp(r / 2) even in the log ratio r, so E[sigmoid(r) tanh(r / 2)] = 0.
    On the skewed target the weights of ihm have no second moment, so there its second identity speaks alone.
    """
    generator = seeded(6)
    gaussian = isinstance(target, Gaussian)
    step = {"mala": 0.2, "ex2": 0.2, "pt": 0.2, "rw": 0.02, "ghmc": 0.7}.get(name, 0.55) * (1 if gaussian else 0.6)
    sampler = build(name, target, step)
    _, info = sampler.step(at_stationarity(sampler, target, 40_000, generator), generator)
    assert info.log_ratio.std() > 0.1, f"sd of the log ratio {info.log_ratio.std():.3f}: nothing to see"
    if gaussian or name != "ihm":
        assert_mean(info.log_ratio.exp(), 1.0, f"{name}, exp(log ratio)")
    assert_mean(info.log_ratio.sigmoid() * (info.log_ratio / 2).tanh(), 0.0, f"{name}, bounded identity")


MODES = {  # step size, number of steps
    "kla-baoab": (0.2, 400), "ghmc": (0.4, 250), "mala": (0.3, 250), "hmc": (0.3, 90), "hmc-jitter": (0.3, 90), "rw": (0.5, 150),
    "ihm": (0, 25), "isir": (0, 12), "ex2": (0.3, 12), "pt": (0.3, 30),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_mode_weights(name, build=targets.build):
    """Chains that all start in the light mode end with the target's share on each side."""
    target, generator = TwoModes(), seeded(7)
    step, n_steps = MODES[name]
    sampler = build(name, target, step, friction=1.0)
    start = torch.full((7_000, 1), -1.25, dtype=torch.float64)
    state, _ = advance(sampler, sampler.init(start, generator), n_steps, generator)
    truth = target.expect(lambda z: (z > 0).double())
    assert_mean((state.position > 0).double(), truth, f"{name}, share of the heavy mode")


# Ladders --------------------------------------------------------------------------------------------------------------


@both_targets
def test_exact_draws_on_all_rungs_stay_exact_after_swaps(target, make=ReplicaExchange):
    """With local moves too small to matter, swaps alone leave the law of every rung as it is, whatever betas the rungs have."""
    generator, betas = seeded(8), (0.3, 0.6, 1.0)
    sampler = make(target, 1e-14, betas)
    state = at_stationarity(sampler, target, 30_000, generator)
    for _ in range(4):
        state, info = sampler.step(state, generator)
    rates = info.swaps.double().mean(0)
    assert info.swaps.shape == (30_000, 3) and ((rates > 0.2) & (rates < 0.95)).all(), rates
    rungs = [*state.ladder.position.split(30_000), state.position]
    for beta, z in zip(betas, rungs, strict=True):
        target.at(beta).assert_law(z, f"rung of beta {beta}")
    below = sampler.potential.at(torch.tensor(betas[:-1], dtype=torch.float64).repeat_interleave(30_000))
    for part, potential in ((state, target), (state.ladder, below)):
        value, gradient = potential.value_and_grad(part.position)
        assert (part.potential - value).abs().max() < 1e-9, "U is not that of the rung"
        assert (part.gradient - gradient).abs().max() < 1e-9, "the gradient is not that of the rung"


def test_every_rung_converges_to_its_own_law():
    """From one common start, local moves and swaps bring each rung to exp(-b E) eta."""
    target, generator, betas = Skewed((2,), 2.0), seeded(9), (0.5, 2.0)
    sampler = ReplicaExchange(target, 0.15, betas)
    start = torch.full((12_000, 2), 0.5, dtype=torch.float64)
    state, _ = advance(sampler, sampler.init(start, generator), 40, generator)
    target.assert_law(state.position, "top")
    target.at(0.5).assert_law(state.ladder.position, "below")


def test_swap_log_ratio_is_the_ratio_of_the_joint_laws():
    """It is log pi_i(z_j) pi_j(z_i) / (pi_i(z_i) pi_j(z_j)), for rungs in either order."""
    target = Skewed((3,))
    a, b = target.sample(50, seeded(10)), target.prior.sample(50, seeded(11))
    for lower, upper in ((0.0, 1.0), (0.4, 2.5), (2.0, 0.1)):
        low, high = target.at(lower), target.at(upper)
        truth = low.value(a) + high.value(b) - low.value(b) - high.value(a)
        got = swap_log_ratio(lower, upper, target.energy_at(a), target.energy_at(b))
        assert (got - truth).abs().max() < 1e-10 * truth.abs().max()


def test_arrivals_count_fresh_draws_that_reached_the_top_once():
    """Followed by their position, as many draws of the prior enter the top rung for the first time as `arrivals` says."""
    target, n, generator = Skewed((2,)), 400, seeded(12)
    sampler = ReplicaExchange(target, 1e-30, (0.3, 0.6, 1.0))  # points do not move, so they can be recognised
    state = sampler.init(target.sample(n, generator), generator)
    seen, been = [{float(z)} for z in state.position[:, 0]], [{float(z)} for z in state.position[:, 0]]
    for _ in range(12):
        state, info = sampler.step(state, generator)
        for i, z in enumerate(state.position[:, 0].tolist()):
            arrived = not any(math.isclose(z, old, abs_tol=1e-9) for old in been[i])
            assert bool(info.arrivals[i]) == arrived
            been[i].add(z)
    assert all(len(s) == 1 for s in seen) and sum(len(s) for s in been) > 3 * n
