"""The battery, third part: what holds bit for bit. Oracles, constants, non-finite energies, states, counts, identities."""

from __future__ import annotations

import io
import math

import numpy as np
import oracles
import pytest
import targets
import torch
from targets import (
    EXACT,
    METROPOLIS,
    SAMPLERS,
    UNADJUSTED,
    Gaussian,
    Normal,
    Sick,
    Skewed,
    advance,
    bitwise_equal,
    seeded,
    tensors,
)
from torch import nn

from gebm_cli.core.models.convolutional import conv_base, conv_energy
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.kinetic import Ghmc
from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.state import State, pack, unpack

every_sampler = pytest.mark.parametrize("name", SAMPLERS)
DRIFT_LAST = ("kla-gebm", "kla-obabao")  # their U and gradient are those of the last kick's position
INDEPENDENT = ("ihm", "isir")
# The first are epsilons; h is .6 for the kinetic ones.
STEP = {"ula": 0.05, "lm": 0.1, "mala": 0.3, "rw": 0.3, "ex2": 0.3, "pt": 0.3, "hmc": 0.45, "hmc-jitter": 0.45}


def build(name, potential, step=None):
    return targets.build(name, potential, STEP.get(name, 0.6) if step is None else step)


def started(name, target, n, seed=17):
    """The sampler on that target, and its chains after two steps: rejections and a mixed ladder are behind them."""
    sampler = build(name, target)
    state = sampler.init(target.prior.sample(n, seeded(seed)), seeded(seed + 1))
    return sampler, advance(sampler, state, 2, seeded(seed + 2))[0]


# Oracles --------------------------------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_equal_to_the_oracle(name, beta, build=build):
    """With the same noise, 15 steps give the positions of the plain numpy oracle to 1e-9, after rejections and moves."""
    target = Skewed((3,), beta)
    z, generator = target.prior.sample(12, seeded(14)).clamp(max=1.0), seeded(15)
    sampler = build(name, target)
    state, accepted = advance(sampler, sampler.init(z, generator), 15, generator)
    expected = oracles.run(name, z.numpy(), oracles.SkewedModel(beta), sampler.step_size, 15, seeded(15))
    difference = np.abs(state.position.numpy() - expected).max()
    assert difference < 1e-9, f"{name} differs from its oracle by {difference:.2e}"
    assert (0.1 < accepted < 0.97) == (name in EXACT), accepted


@pytest.mark.parametrize("target", [Skewed((2, 4)), Gaussian.random(3, 0.5, 2.0)], ids=["skewed", "gaussian"])
def test_one_leapfrog_step_is_mala_and_memoryless_ghmc(target):
    """HMC of one leapfrog step h and MALA of eps = h^2 / 2 are one move; so is GHMC whose velocity forgets all."""
    h = 0.7
    z = target.sample(500, seeded(16))
    hmc, mala, ghmc = Hmc(target, h, n_leapfrog=1), Mala(target, h * h / 2), Ghmc(target, h, friction=1e4)
    a, info = hmc.step(hmc.init(z, seeded(0)), seeded(17))
    assert 0.2 < info.accepted.double().mean() < 0.95
    for other in (mala, ghmc):
        b, other_info = other.step(other.init(z, seeded(0)), seeded(17))
        assert torch.equal(info.accepted, other_info.accepted)
        assert (a.position - b.position).abs().max() < 1e-13
        assert (info.log_ratio - other_info.log_ratio).abs().max() < 1e-10


@pytest.mark.parametrize("name", [*METROPOLIS, "pt", "ex2"])
def test_the_log_ratio_decides(name):
    """A chain moves where the log of the next uniform lies below the log ratio, and the rest stay: shares agree."""
    target, n = Skewed(), 20_000
    sampler = build(name, target)
    state = sampler.init(target.sample(n, seeded(18)), seeded(19))
    _, info = sampler.step(state, seeded(20))
    targets.assert_mean(info.accepted.double() - info.log_ratio.clamp(max=0).exp(), 0.0, name)
    assert info.accepted[info.log_ratio >= 0].all()


# Constants ------------------------------------------------------------------------------------------------------------


class Raised(nn.Module):
    """E + constant, added in float64 so that the constant costs the energy no digits that matter."""

    def __init__(self, energy, constant):
        super().__init__()
        self.energy, self.constant = energy, constant

    def forward(self, x):
        return self.energy(x).double() + self.constant


def small_networks(seed=0):
    """A smooth base and a steep smooth energy, 3 -> 4 -> 1."""
    torch.manual_seed(seed)
    base, network = mlp(3, 4, 16, 1), mlp(4, 1, 16, 1)
    with torch.no_grad():
        network[-1].weight.mul_(20)
    return base.eval(), Energy(network).eval()


@every_sampler
@pytest.mark.parametrize("constant", [1000.0, -1000.0])
def test_a_constant_added_to_the_energy_changes_no_position(name, constant):
    """E + constant gives the positions and decisions of E bit for bit, however large exp(-E) becomes."""
    base, energy = small_networks()
    ends = []
    for network in (energy, Raised(energy, constant)):
        generator = seeded(16)
        sampler = build(name, LatentPotential(NormalPrior(3), base, network, beta=2.0))
        ends.append(advance(sampler, sampler.init(NormalPrior(3).sample(300, generator), generator), 15, generator))
    (plain, accepted), (raised, accepted_raised) = ends
    assert accepted == accepted_raised and (accepted < 0.99 or name in UNADJUSTED)
    assert torch.equal(plain.position, raised.position)


# Non-finite energies --------------------------------------------------------------------------------------------------

SICKNESS = [
    ("value", math.nan),
    ("value", math.inf),
    ("value", -math.inf),
    ("gradient", math.nan),
    ("gradient", -math.inf),
]


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [(name, *sick) for name in SAMPLERS for sick in SICKNESS if sick[0] == "value" or name not in ("rw", *INDEPENDENT)],
)
def test_a_nonfinite_energy_is_a_rejection(name, where, what):
    """It is counted, leaves its chain where it was bit for bit, and does not touch the other chains."""
    n, bad, target = 20, [0, 7], Skewed()
    healthy, state = started(name, target, n)
    sick = build(name, Sick(target, bad, where, what, n_chains=n))
    expected, _ = healthy.step(state, seeded(19))
    got, info = sick.step(state, seeded(19))
    others = [i for i in range(n) if i not in bad]
    assert info.nonfinite.nonzero().flatten().tolist() == bad
    assert torch.equal(got.position[others], expected.position[others])
    assert not torch.equal(got.position[others], state.position[others])
    if name == "pt":  # its rungs may still exchange their points
        own = torch.cat([state.ladder.position.view(2, n, 3), state.position[None]])
        assert all((got.position[i] == own[:, i]).all(1).any() for i in bad)
    elif (
        name == "ex2" and where == "gradient"
    ):  # its i-SIR move asks for none; the local moves must not leave that point
        again, _ = build("isir", target).step(State(state.position, state.potential), seeded(19))
        assert torch.equal(got.position[bad], again.position[bad]) and not info.accepted[bad].any()
    else:
        assert not info.accepted[bad].any()
        parts = ("position", "velocity", "memory") if name == "ex2" else state._fields[:-1]
        for field in parts:
            before, after = getattr(state, field), getattr(got, field)
            if before is not None:
                kept = (
                    -before if field == "velocity" else before
                )  # a kinetic chain turns round, or it would meet it again
                if field == "memory":
                    kept = expected.memory  # lm forgets its noise, rejected or not
                if (name, field) != ("ghmc", "velocity"):  # refreshed on both sides of the rejection
                    assert torch.equal(after[bad], kept[bad]), field
                assert torch.equal(after[others], getattr(expected, field)[others]), field


@pytest.mark.parametrize(
    ("name", "where", "calls"),
    [
        ("isir", "value", (0, 1, 2)),
        ("ex2", "value", (0, 1, 2, 4, 5)),
        ("ex2", "gradient", (4, 5)),
        ("pt", "value", (0, 1)),
        ("pt", "gradient", (0, 1)),
    ],
)
def test_a_nonfinite_energy_anywhere_in_a_step_is_counted(name, where, calls):
    """One bad proposal among the several of a step is counted, whichever it is (call 3 of ex2 evaluates no proposal)."""
    for call in calls:
        sick = Sick(Skewed(), [0, 7], where, math.nan, call, n_chains=20)
        _, state = started(name, Skewed(), 20)
        got, info = build(name, sick).step(state, seeded(19))
        assert info.nonfinite.nonzero().flatten().tolist() == [0, 7], call
        assert got.potential.isfinite().all()


@pytest.mark.parametrize("name", EXACT)
def test_a_chain_at_a_nonfinite_potential_leaves_it(name):
    """Where only the start has no finite U, every exact sampler moves away at once, and has a finite U again."""
    n, target = 20, Skewed()
    for what in (math.nan, math.inf):
        sick = Sick(target, [0, 7], "value", what, only_call=0, n_chains=n)
        sampler = build(name, sick)
        state = sampler.init(target.sample(n, seeded(17)), seeded(18))
        assert state.potential.isfinite().sum() == n - 2
        after, n_steps = state, 3 if name in ("isir", "pt") else 1
        for _ in range(n_steps):
            after, _ = sampler.step(after, seeded(19))
        assert all(x.isfinite().all() for x in tensors(after).values())
        assert not (after.position[[0, 7]] == state.position[[0, 7]]).any()


class Walled(Skewed):
    """A target whose energy is not defined beyond a wall in the first coordinate."""

    def energy_and_grad(self, z):
        value, gradient = super().energy_and_grad(z)
        return torch.where(z[:, 0] > 0.5, math.nan, value), gradient


@every_sampler
def test_no_chain_freezes_at_a_wall_of_nan(name):
    """With a NaN energy beyond a wall, every chain moves within 100 steps: none proposes the same bad point for ever."""
    target, generator = Walled((2,)), seeded(20)
    sampler = build(name, target, {"ula": 0.02, "lm": 0.02, "mala": 0.02, "rw": 0.05}.get(name, 0.2))
    z = Skewed((2,)).sample(1000, seeded(17))
    state, _ = advance(sampler, sampler.init(z[z[:, 0] < 0.5], generator), 100, generator)
    after, _ = advance(sampler, state, 100, generator)
    frozen = (after.position == state.position).all(1).double().mean().item()
    assert frozen == 0 and bool((after.position[:, 0] < 0.8).all()), f"{name}: {frozen:.1%} of the chains never moved"


def test_hmc_rejects_a_trajectory_that_was_nonfinite_on_its_way():
    """A NaN gradient at the third of five leapfrog steps is a rejection even though the sickness is over at the end."""
    target = Skewed()
    state = build("hmc", target, 0.1).init(target.sample(20, seeded(17)), seeded(18))
    sick = Sick(target, [4], "gradient", math.nan, only_call=2)
    got, info = build("hmc", sick, 0.1).step(state, seeded(19))
    assert sick.calls == 5
    assert info.nonfinite.nonzero().flatten().tolist() == [4] and not info.accepted[4]
    assert torch.equal(got.position[4], state.position[4]) and torch.equal(got.gradient[4], state.gradient[4])


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [s for s in SAMPLERS if s not in DRIFT_LAST])
def test_potential_and_gradient_belong_to_the_position(name, build=build):
    """After every step, rejected chains included, the cached U and gradient are those of the position."""
    target, generator = Skewed(), seeded(20)
    sampler = build(name, target)
    state, rejected = sampler.init(target.sample(200, generator), generator), 0
    for _ in range(10):
        state, info = sampler.step(state, generator)
        rejected += int((~info.accepted).sum())
        value, gradient = target.value_and_grad(state.position)
        off = (state.potential - value).abs().max().item()
        if state.gradient is not None:
            off = max(off, (state.gradient - gradient).abs().max().item())
        # Between the rungs of a ladder U is carried over by its linearity in beta; elsewhere it is the value itself.
        assert off <= (1e-12 if name == "pt" else 0.0), f"{name}: off by {off:.2e}"
    assert rejected > 100 or name in UNADJUSTED


def test_the_gebm_scheme_keeps_the_gradient_of_its_half_step():
    """Its U and gradient are those at z - h/2 v, where it evaluated them."""
    target = Skewed()
    sampler, state = started("kla-gebm", target, 200)
    value, gradient = target.value_and_grad(state.position - sampler.step_size / 2 * state.velocity)
    assert (state.potential - value).abs().max() < 1e-12 and (state.gradient - gradient).abs().max() < 1e-12


@every_sampler
def test_a_state_is_a_value(name):
    """A step does not write into the state it is given, so the same state and noise give the same next state."""
    sampler, state = started(name, Skewed(), 50)
    kept = {k: v.clone() for k, v in tensors(state).items()}
    first, _ = sampler.step(state, seeded(24))
    assert all(torch.equal(v, kept[k]) for k, v in tensors(state).items())
    assert bitwise_equal(sampler.step(state, seeded(24))[0], first)
    assert not torch.equal(first.position, state.position)


@every_sampler
def test_a_saved_state_continues_bit_for_bit(name):
    """Packed, saved to a file as plain data, loaded and unpacked, a state takes the steps it would have taken."""
    sampler, state = started(name, Skewed(), 50)
    file = io.BytesIO()
    torch.save(pack(state), file)
    file.seek(0)
    loaded = unpack(torch.load(file, weights_only=True))
    assert bitwise_equal(loaded, state) and tensors(state).keys() >= {"position", "potential"}
    assert ("ladder gradient" in tensors(loaded)) == (name == "pt") and ("memory" in tensors(loaded)) == (
        name in ("lm", "pt")
    )
    assert bitwise_equal(advance(sampler, loaded, 3, seeded(25))[0], advance(sampler, state, 3, seeded(25))[0])


@every_sampler
def test_chains_do_not_know_of_each_other(name):
    """With the same noise, chains whose neighbours stand elsewhere move as they did, bit for bit."""
    target, z = Skewed(), Skewed().sample(30, seeded(26))
    sampler, ends = build(name, target), []
    for shift in (0.0, 0.3):
        moved = torch.cat([z[:10], z[10:] - shift])
        ends.append(advance(sampler, sampler.init(moved, seeded(27)), 5, seeded(28))[0])
    assert torch.equal(ends[0].position[:10], ends[1].position[:10])


@every_sampler
def test_latents_of_any_shape(name):
    """Latents (n, 2, 4) move as the same latents flattened to (n, 8), bit for bit."""
    ends = []
    for shape in ((8,), (2, 4)):
        target, generator = Skewed(shape), seeded(26)
        sampler = build(name, target, STEP.get(name, 0.6) / 2)
        z = Skewed((8,)).sample(30, seeded(25)).view(30, *shape)
        ends.append(advance(sampler, sampler.init(z, generator), 5, generator)[0])
    assert ends[1].position.shape == (30, 2, 4)
    assert torch.equal(ends[0].position, ends[1].position.flatten(1))
    assert torch.allclose(ends[0].potential, ends[1].potential, rtol=0, atol=1e-12)


@every_sampler
def test_costs_per_step_count_the_calls(name):
    """A step asks for as many gradients and as many bare values, for each chain, as the sampler says."""
    stated = {
        "hmc": (5, 0),
        "hmc-jitter": (5, 0),
        "kla-baobab": (2, 0),
        "kla-obabao": (2, 0),
        "rw": (0, 1),
        "ihm": (0, 1),
        "isir": (0, 3),
    }
    counter = Sick(Skewed())
    sampler, state = started(name, counter, 4)
    counter.count.clear()
    sampler.step(state, seeded(28))
    asked = (counter.count["gradient"] / 4, counter.count["value"] / 4)
    assert asked == (sampler.gradients_per_step, sampler.values_per_step)
    assert asked == stated.get(name, {"ex2": (3, 3), "pt": (4, 0)}.get(name, (1, 0)))


@every_sampler
def test_networks_are_left_as_they_were(name):
    """Sampling leaves no .grad and changes no parameter or buffer, spectral norm and batch norm included."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), conv_base(5, (1, 8, 8), 4)).eval()
    energy = Energy(conv_energy((1, 8, 8), 4, spectral="norm")).eval()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (base, energy)]
    generator = seeded(29)
    sampler = build(name, LatentPotential(NormalPrior(5), base, energy, beta=1.0), 0.1)
    state, _ = advance(sampler, sampler.init(NormalPrior(5).sample(8, generator), generator), 2, generator)
    assert not any(x.requires_grad for x in tensors(state).values())
    assert state.position.dtype == torch.float32 and state.potential.dtype == torch.float64
    for module, old in zip((base, energy), before, strict=True):
        assert not module.training
        assert all(p.grad is None for p in module.parameters())
        assert all(torch.equal(v, old[k]) for k, v in module.state_dict().items())


def test_at_beta_zero_no_network_is_called():
    """Every sampler, ladders included, works on the prior alone; so NaN in the networks are not even counted."""
    for name in SAMPLERS:
        counter = LatentPotential(Normal((2,)), nn.Identity(), Forbidden(), beta=0.0)
        sampler = build(name, counter)
        _, info = sampler.step(sampler.init(Normal((2,)).sample(5, seeded(0)), seeded(1)), seeded(2))
        assert not info.nonfinite.any(), name


class Forbidden(nn.Module):
    """A network that must not be called."""

    def forward(self, x):
        raise AssertionError("called")
