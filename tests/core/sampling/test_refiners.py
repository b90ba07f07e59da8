"""Refiners that are not Markov chains on pi: each does what its docstring says, and no more is claimed."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from targets import Gaussian, Normal, Ripple, Sick, Skewed, advance, assert_mean, bitwise_equal, seeded, tensors

from gebm_cli.core.sampling.refiners import DgFlow, Dot, Rejection, Resampling, drs_acceptance
from gebm_cli.core.sampling.state import pack, unpack

TARGET = Skewed((4,), 2.0)
REFINERS = {
    "dot": lambda target, step=0.05: Dot(target, step, steepness=3.0),
    "dgflow": lambda target, step=0.05: DgFlow(target, step, 0.3, "js"),
    "drs": lambda target: Rejection(target, log_bound=-1.0),
    "resample": Resampling,
}
every_refiner = pytest.mark.parametrize("name", REFINERS)


def force(target, z, z0, steepness):
    """DOT's force before projection, chain by chain in numpy: the gradient of |z - z_0 + .001| + beta E / k_eff."""
    away = z - z0 + 1e-3
    return away / np.linalg.norm(away, axis=1, keepdims=True) + target.beta * (np.exp(2 * z) - 1) / steepness


def objective(target, z, z0, steepness):
    return (z - z0 + 1e-3).norm(dim=1) + target.beta * target.energy_at(z) / steepness


# DOT ------------------------------------------------------------------------------------------------------------------


def moved(step, n_steps=3):
    """Chains that have left z_0, and a sampler of that step."""
    sampler = Dot(TARGET, 0.1, steepness=3.0)
    state, _ = advance(
        sampler, sampler.init(TARGET.prior.sample(200, seeded(1)).clamp(max=0.8), seeded(0)), n_steps, seeded(0)
    )
    return Dot(TARGET, step, steepness=3.0), state


def test_dot_follows_the_gradient_of_its_objective():
    """The step is minus the central difference of the objective, with its component along z removed."""
    sampler, state = moved(1e-3)
    z, z0 = state.position, state.memory
    slope = torch.zeros_like(z)
    for i, direction in enumerate(1e-6 * torch.eye(4).double()):
        up, down = (objective(TARGET, z + sign * direction, z0, 3.0) for sign in (1, -1))
        slope[:, i] = (up - down) / 2e-6
    tangent = slope - (slope * z).sum(1, keepdim=True) / z.square().sum(1, keepdim=True) * z
    step = (sampler.step(state, seeded(0))[0].position - z) / 1e-3
    assert (step + tangent).abs().max() < 1e-7
    expected = force(TARGET, z.numpy(), z0.numpy(), 3.0)
    assert np.abs(slope.numpy() - expected).max() < 1e-7


def test_dot_descends_and_keeps_the_radius_to_second_order():
    """A small step lowers the objective in every chain; |z|^2 grows by exactly the square of the step, never linearly."""
    for step in (1e-3, 1e-4):
        sampler, state = moved(step)
        after, info = sampler.step(state, seeded(0))
        change = objective(TARGET, after.position, state.memory, 3.0) - objective(
            TARGET, state.position, state.memory, 3.0
        )
        far = (after.position - state.position).square().sum(1) > 1e-8 * step**2
        assert info.accepted.all() and far.sum() > 150 and (change[far] < 0).all()
        growth = after.position.square().sum(1) - state.position.square().sum(1)
        assert (growth - (after.position - state.position).square().sum(1)).abs().max() < 1e-13
    long, _ = advance(*moved(0.02), 100, seeded(0))
    assert TARGET.energy_at(long.position).mean() < TARGET.energy_at(long.memory).mean() - 0.2


# DGflow ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["kl", "js", "logd"])
def test_dgflow_is_its_formula(divergence):
    """Ten steps with shared noise are z + eta s(d) grad d + sqrt(2 eta gamma) xi, d = -beta E - c, in plain numpy."""
    eta, gamma, c, z = 0.1, 0.02, 0.7, TARGET.prior.sample(20, seeded(2))
    sampler = DgFlow(TARGET, eta, c, divergence, gamma)
    state, _ = advance(sampler, sampler.init(z, seeded(3)), 10, seeded(4))
    x, generator = z.numpy(), seeded(4)
    for _ in range(10):
        d = -2.0 * np.sum(np.exp(2 * x) / 2 - x, axis=1, keepdims=True) - c
        s = {"kl": 1.0, "js": 1 / (1 + np.exp(-d)), "logd": 1 / (1 + np.exp(d))}[divergence]
        xi = torch.randn(20, 4, generator=generator, dtype=torch.float64).numpy()
        x = x - eta * s * 2.0 * (np.exp(2 * x) - 1) + math.sqrt(2 * eta * gamma) * xi
    assert np.abs(state.position.numpy() - x).max() < 1e-12


def test_dgflow_run_long_has_the_stated_law_which_is_not_pi():
    """With the KL weight it is Langevin on exp(d / gamma): on a quadratic energy of precision A its stated variance."""
    a, eta, gamma = 2.0, 0.1, 0.05
    target = Gaussian((1,), 1.0, torch.tensor([[a]]).double(), torch.tensor([0.5]).double())
    sampler, generator = DgFlow(target, eta, 0.0, "kl", gamma), seeded(5)
    state, _ = advance(sampler, sampler.init(target.prior.sample(20_000, generator), generator), 60, generator)
    assert_mean(state.position, 0.5, "mean")
    assert_mean((state.position - 0.5).square(), gamma / a / (1 - eta * a / 2), "variance")


# Rejection ------------------------------------------------------------------------------------------------------------


def test_drs_acceptance_is_equation_8():
    """Without shift it is exp(l - l_max); with it sigmoid(F - shift); no weight, no acceptance; above the bound, all."""
    log_w = torch.linspace(-20, -0.01, 50, dtype=torch.float64)
    assert (drs_acceptance(log_w + 3, 3.0, 0.0) - log_w.exp()).abs().max() < 1e-12
    shift = -1.3
    odds = log_w.exp() / (1 - log_w.exp()) * math.exp(-shift)
    assert (drs_acceptance(log_w, 0.0, shift) - odds / (1 + odds)).abs().max() < 1e-12
    assert (drs_acceptance(log_w, 0.0, shift) > drs_acceptance(log_w, 0.0, 0.0)).all()
    odd = drs_acceptance(torch.tensor([-math.inf, math.nan, math.inf, 5.0, 3.0]).double(), 3.0, 0.0)
    assert torch.equal(odd[:3], torch.zeros(3).double()) and (odd[3:] > 1 - 1e-12).all()


def run_drs(target, bound, shift, n_steps, n=30_000):
    sampler, generator = Rejection(target, bound, shift), seeded(6)
    state = sampler.init(target.prior.sample(n, generator), generator)
    first = state.memory.double()
    return first, advance(sampler, state, n_steps, generator)[0]


@pytest.mark.parametrize(
    ("target", "bound"),
    [(Skewed((2,), 2.0), -2.0), (Gaussian.random(2, 1.5, 4.0), 0.0), (Ripple(), 0.8)],
    ids=["skewed", "gaussian", "ripple"],
)
def test_drs_with_a_true_bound_draws_from_pi(target, bound):
    """Accepted draws have the law pi, and the first try is accepted with probability Z exp(-bound); a chain then rests."""
    first, state = run_drs(target, bound, 0.0, 60)
    assert state.memory.double().mean() > 0.99
    target.assert_law(state.position[state.memory], "accepted draws")
    assert_mean(first, math.exp(target.log_partition - bound), "first try")
    again, info = Rejection(target, bound).step(state, seeded(8))
    assert torch.equal(again.position[state.memory], state.position[state.memory])
    assert not info.accepted[state.memory].any() and not info.nonfinite[state.memory].any()


def test_a_shift_buys_acceptance_and_flattens_the_law():
    """With a percentile shift more is accepted, and the accepted have the law eta sigmoid(F - shift), not pi."""
    target, shift = Ripple(), -2.0
    plain, _ = run_drs(target, 0.8, 0.0, 0)
    first, state = run_drs(target, 0.8, shift, 30)

    def density(x):
        return math.exp(-x * x / 2) * float(drs_acceptance(-target.one(torch.tensor(x))[0].double(), 0.8, shift))

    mass, second = quad(density, -9, 9, limit=400)[0], quad(lambda x: x * x * density(x), -9, 9, limit=400)[0]
    assert first.mean() > 1.5 * plain.mean()
    assert_mean(first, mass / math.sqrt(2 * math.pi), "share accepted")
    assert_mean(state.position[state.memory].square(), second / mass, "E z^2 of the accepted")
    assert target.second_moment - second / mass > 0.2  # the prior's is 1


def test_drs_keeps_the_last_draw_of_the_base_where_nothing_is_accepted():
    """A bound that nothing reaches leaves fresh draws of the base, marked as not accepted."""
    _, state = run_drs(TARGET, 1e6, 0.0, 3)
    assert not state.memory.any()
    assert_mean(state.position, torch.zeros(4).double(), "mean of the base")
    assert_mean(state.position.square(), torch.ones(4).double(), "variance of the base")


# Importance resampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [0, 1, 3, 10])
def test_resampling_has_the_law_of_n_draws(n_steps):
    """After n steps E f is E[sum w f / sum w] over n + 1 draws of the base, simulated on its own; it tends to pi's."""
    target, generator = Ripple(beta=1.5), np.random.default_rng(0)
    z = generator.standard_normal((200_000, n_steps + 1))
    w = np.exp(-1.5 * 0.8 * np.cos(2 * z))
    truth = (w * z**2).sum(1) / w.sum(1)
    sampler = Resampling(target)
    state = sampler.init(target.prior.sample(200_000, seeded(9)), seeded(9))
    state, _ = advance(sampler, state, n_steps, seeded(10))
    assert_mean(state.position.square() - torch.from_numpy(truth)[:, None], 0.0, f"E z^2 after {n_steps} steps")
    gap = target.second_moment - truth.mean()
    assert gap > 0.05 if n_steps < 10 else abs(gap) < 0.1


def test_resampling_remembers_the_total_weight():
    """`memory` is the log of the sum of all weights seen, those of NaN energies left out and counted."""
    target, n = Skewed((2,)), 10
    sick = Sick(target, [3], "value", math.nan, only_call=1, n_chains=n)
    sampler, generator = Resampling(sick), seeded(11)
    draws = [target.prior.sample(n, seeded(12))]
    state = sampler.init(draws[0], generator)
    counted = torch.zeros(n)
    for _ in range(3):
        noise = torch.Generator()
        noise.set_state(generator.get_state())
        draws.append(target.prior.sample(n, noise))
        state, info = sampler.step(state, generator)
        counted += info.nonfinite
    log_w = -torch.stack([target.energy_at(z) for z in draws])
    log_w[1, 3] = -math.inf
    assert (state.memory - log_w.logsumexp(0)).abs().max() < 1e-12
    assert counted.tolist() == [float(i == 3) for i in range(n)]
    assert all((state.position[i] == torch.stack(draws)[:, i]).all(1).any() for i in range(n))


# What refiners share with the samplers --------------------------------------------------------------------------------


@every_refiner
def test_a_saved_refiner_continues_bit_for_bit(name):
    """Its state, memory included, survives a file; and a step does not write into the state it is given."""
    sampler = REFINERS[name](TARGET)
    state, _ = advance(sampler, sampler.init(TARGET.prior.sample(30, seeded(1)), seeded(2)), 2, seeded(3))
    file = io.BytesIO()
    torch.save(pack(state), file)
    file.seek(0)
    kept = {k: v.clone() for k, v in tensors(state).items()}
    ends = [advance(sampler, s, 3, seeded(4))[0] for s in (state, unpack(torch.load(file, weights_only=True)))]
    assert bitwise_equal(*ends)
    assert all(torch.equal(v, kept[k]) for k, v in tensors(state).items())


@every_refiner
def test_refiners_cost_what_they_say(name):
    """A step asks for as many gradients and bare values, for each chain, as the sampler says."""
    counter = Sick(TARGET)
    sampler = REFINERS[name](counter)
    state = sampler.init(TARGET.prior.sample(4, seeded(1)), seeded(2))
    counter.count.clear()
    sampler.step(state, seeded(3))
    asked = (counter.count["gradient"] / 4, counter.count["value"] / 4)
    assert (
        asked
        == (sampler.gradients_per_step, sampler.values_per_step)
        == ((1, 0) if name[0:2] in ("do", "dg") else (0, 1))
    )


@every_refiner
@pytest.mark.parametrize("what", [math.nan, math.inf])
def test_a_nonfinite_energy_moves_no_refiner(name, what):
    """The chain stays where it was and is counted; the others do not notice."""
    n, bad = 20, [0, 7]
    # no weight of drs reaches this bound, so that all chains still run
    healthy, sick = (
        Rejection(t, 1e6) if name == "drs" else REFINERS[name](t)
        for t in (TARGET, Sick(TARGET, bad, "value", what, n_chains=n))
    )
    state = healthy.init(TARGET.prior.sample(n, seeded(1)), seeded(2))
    expected, _ = healthy.step(state, seeded(3))
    got, info = sick.step(state, seeded(3))
    others = [i for i in range(n) if i not in bad]
    assert info.nonfinite.nonzero().flatten().tolist() == bad and not info.accepted[bad].any()
    assert torch.equal(got.position[bad], state.position[bad]) and got.potential.isfinite().all()
    assert torch.equal(got.position[others], expected.position[others])


@every_refiner
def test_refiners_take_latents_of_any_shape(name):
    """Latents (n, 2, 4) move as the same latents flattened."""
    ends = []
    for shape in ((8,), (2, 4)):
        sampler = REFINERS[name](Skewed(shape))
        z = Normal((8,)).sample(30, seeded(5)).view(30, *shape)
        ends.append(advance(sampler, sampler.init(z, seeded(6)), 4, seeded(7))[0].position.flatten(1))
    assert (ends[0] - ends[1]).abs().max() < 1e-14 and not torch.equal(ends[0], z.flatten(1))
