"""One battery for all samplers: invariance, reversibility, stated bias, order in h, bookkeeping, and an oracle for each.

Statistical claims are z-tests at |z| < 4 on seeded runs of many independent chains, one final state each.
"""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from scipy.interpolate import make_interp_spline
from targets import (
    KINETIC,
    METROPOLIS,
    SAMPLERS,
    Gaussian,
    LogGamma,
    Ripple,
    Sick,
    TwoModes,
    advance,
    assert_mean,
    assert_moments,
    bitwise_equal,
    build,
    seeded,
)
from torch import nn

from gebm_cli.core.models.networks import Energy, conv_base, conv_energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import log_mean_exp
from gebm_cli.core.sampling import samplers
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.samplers import DEFAULT_STEP, FRICTION, Hmc, Kla, Mala, Ula, make_sampler

every_sampler = pytest.mark.parametrize("name", SAMPLERS)
metropolis = pytest.mark.parametrize("name", METROPOLIS)
kinetic = pytest.mark.parametrize("name", KINETIC)

# The velocity's variance at stationarity on a Gaussian, as a function of (h / 2)^2 K; the position's is exactly 1 / K.
STATIONARY_VELOCITY = {"kla-baoab": lambda x: 1 - x, "kla-gebm": lambda x: 1 / (1 - x)}


class Wild(nn.Module):
    """A network whose output is useless."""

    def forward(self, x):
        return torch.full(x.shape[:1], math.nan)


class Quadratic(nn.Module):
    """E(x) = (x - m)' A (x - m) / 2."""

    def __init__(self, a, m):
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("m", m)

    def forward(self, x):
        return ((x - self.m) @ self.a * (x - self.m)).sum(1) / 2


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


# Invariance -----------------------------------------------------------------------------------------------------------


@every_sampler
def test_beta_zero_leaves_the_prior_invariant(name):
    """With beta = 0 the latent's law stays N(0, I) whatever B and E are; ULA's has the variance 1 / (1 - eps / 2)."""
    step = {"ula": 0.4, "mala": 0.6, "hmc": 1.0, "kla-baoab": 1.0, "kla-gebm": 1.0}[name]
    prior, generator = NormalPrior(8), seeded(1)
    sampler = build(name, LatentPotential(prior, Wild(), Wild(), beta=0.0), step)
    variance = 1 / (1 - step / 2) if name == "ula" else 1.0
    state = sampler.init(math.sqrt(variance) * prior.sample(20_000, generator), generator)
    if name in KINETIC:
        state = state._replace(velocity=math.sqrt(STATIONARY_VELOCITY[name](step**2 / 4)) * state.velocity)
    state, accepted = advance(sampler, state, 8, generator)
    assert accepted < 0.95 or name not in METROPOLIS, f"accepted {accepted:.2f}: no bias would show"
    eye = torch.eye(8, dtype=torch.float64)
    assert_moments(state.position, torch.zeros(8, dtype=torch.float64), variance * eye, name)
    assert_mean(state.position.double().pow(4).mean(1), 3 * variance**2, f"{name}, fourth moment")


@metropolis
@pytest.mark.parametrize("target", [Gaussian.random(16, 0.5, 2.0), LogGamma(16)], ids=["gaussian", "log-gamma"])
def test_started_at_the_target_it_stays_there(name, target):
    """Exact draws stay exact draws, at a step where 20 to 80 % is accepted: moments and mean potential."""
    gaussian = isinstance(target, Gaussian)
    step = {"mala": 0.3 if gaussian else 0.2, "hmc": 0.7 if gaussian else 0.5}[name]
    generator = seeded(2)
    sampler = build(name, target, step)
    state, accepted = advance(sampler, sampler.init(target.sample(20_000, generator), generator), 8, generator)
    assert 0.2 < accepted < 0.8, f"accepted {accepted:.2f}: too easy or too hard"
    assert_mean(state.potential, target.mean_potential, f"{name}, potential")
    if gaussian:
        assert_moments(state.position, target.mean, target.covariance, name)
        return
    mean, variance, third = target.cumulants
    away = state.position - mean
    for power, truth in ((1, 0.0), (2, variance), (3, third)):
        assert_mean(away.pow(power), torch.full((16,), truth), f"{name}, moment {power}")
        assert_mean(away.pow(power).sum(1), 16 * truth, f"{name}, summed moment {power}")


@metropolis
@pytest.mark.parametrize("target", [Gaussian.random(6, 0.5, 2.0), LogGamma(6)], ids=["gaussian", "log-gamma"])
def test_metropolis_samplers_are_reversible(name, target):
    """At stationarity E[f(z0) g(z1)] = E[g(z0) f(z1)] for any f and g."""
    generator = seeded(3)
    step = {"mala": 0.4, "hmc": 0.6}[name]
    sampler = build(name, target, step)
    before = sampler.init(target.sample(100_000, generator), generator)
    after, info = sampler.step(before, generator)
    assert 0.2 < info.accepted.double().mean() < 0.95
    first, energy = (lambda s: s.position[:, 0]), (lambda s: s.potential)
    sines = lambda s: s.position.sin().sum(1)  # noqa: E731
    cubes = lambda s: s.position.clamp(-4, 4).pow(3).sum(1)  # noqa: E731
    for f, g in ((first, energy), (energy, sines), (sines, cubes), (energy, lambda s: s.potential.square())):
        assert_mean(f(before) * g(after) - g(before) * f(after), 0.0, f"{name}, asymmetry")


@kinetic
def test_kinetic_samplers_are_reversible_up_to_the_velocity_sign(name):
    """On a Gaussian at stationarity, with R: v -> -v, E[f(x0) g(R x1)] = E[g(x0) f(R x1)] for x = (z, v)."""
    h, n, generator = 0.9, 200_000, seeded(4)
    one = torch.ones(1, 1, dtype=torch.float64)
    sampler = build(name, Gaussian(one, torch.zeros(1, dtype=torch.float64)), h, friction=0.5)
    before = sampler.init(torch.randn(n, 1, generator=generator, dtype=torch.float64), generator)
    before = before._replace(velocity=math.sqrt(STATIONARY_VELOCITY[name](h**2 / 4)) * before.velocity)
    after, _ = sampler.step(before, generator)
    x0 = torch.cat([before.position, before.velocity], 1)
    x1 = torch.cat([after.position, -after.velocity], 1)
    pairs = [
        (lambda x: x[:, 0], lambda x: x[:, 1]),
        (lambda x: x[:, 0].square(), lambda x: x[:, 1].square()),
        (lambda x: x.prod(1), lambda x: x[:, 1].square()),
        (lambda x: x[:, 0].exp(), lambda x: x[:, 1].sin()),
    ]
    for i, (f, g) in enumerate(pairs):
        assert_mean(f(x0) * g(x1) - g(x0) * f(x1), 0.0, f"{name}, asymmetry {i}")


@metropolis
@pytest.mark.parametrize("target", [Gaussian.random(16, 0.5, 2.0), LogGamma(16)], ids=["gaussian", "log-gamma"])
def test_mean_exp_log_ratio_is_one(name, target):
    """At stationarity the mean of exp(log ratio) is 1; and so is its bounded form, in which no outlier hides a bias.

    Detailed balance of the proposal makes p(r) exp(r / 2) even in the log ratio r, so E[sigmoid(r) tanh(r / 2)] = 0.
    """
    gaussian = isinstance(target, Gaussian)
    step = {"mala": 0.2 if gaussian else 0.1, "hmc": 0.6 if gaussian else 0.35}[name]
    generator = seeded(5)
    sampler = build(name, target, step)
    _, info = sampler.step(sampler.init(target.sample(50_000, generator), generator), generator)
    assert info.log_ratio.std() > 0.2, f"sd of the log ratio {info.log_ratio.std():.3f}: nothing to see"
    assert_mean(info.log_ratio.exp(), 1.0, f"{name}, exp(log ratio)")
    assert_mean(info.log_ratio.sigmoid() * (info.log_ratio / 2).tanh(), 0.0, f"{name}, bounded identity")


@pytest.mark.parametrize("name", ["mala", "hmc", "kla-baoab", "kla-gebm"])
def test_mode_weights(name):
    """Chains that all start in the light mode end with the target's share on each side."""
    target, generator = TwoModes(), seeded(6)
    step, n_steps = {"mala": (0.3, 250), "hmc": (0.3, 90)}.get(name, (0.2, 450))
    sampler = build(name, target, step, friction=1.0)
    start = torch.full((20_000, 1), -target.centre, dtype=torch.float64)
    state, _ = advance(sampler, sampler.init(start, generator), n_steps, generator)
    assert_mean((state.position > 0).double(), target.right, f"{name}, share of the heavy mode")


# Closed forms ---------------------------------------------------------------------------------------------------------


def tilted_gaussian(beta):
    """B(z) = W z + b in three dimensions from two, E quadratic: the potential, and pi's mean, covariance and log Z."""
    generator = seeded(7)
    base = nn.Linear(2, 3).requires_grad_(False)
    base.weight.copy_(torch.randn(3, 2, generator=generator))
    base.bias.copy_(torch.tensor([0.3, -0.5, 0.2]))
    root = torch.randn(3, 3, generator=generator) / 2
    energy = Quadratic(root @ root.T + torch.eye(3) / 2, torch.tensor([1.0, -1.0, 0.5]))
    w, a, r = base.weight.double(), energy.a.double(), energy.m.double() - base.bias.double()
    precision = torch.eye(2, dtype=torch.float64) + beta * w.T @ a @ w
    mean = torch.linalg.solve(precision, beta * w.T @ a @ r)
    log_z = (mean @ precision @ mean - beta * r @ a @ r - torch.logdet(precision)) / 2
    return LatentPotential(NormalPrior(2), base, energy, beta), mean, precision, log_z.item()


@every_sampler
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_linear_base_and_quadratic_energy_give_the_closed_gaussian(name, beta):
    """From the prior every sampler reaches pi = N(mu, (I + beta W'AW)^-1), exactly; ULA its biased covariance."""
    potential, mean, precision, _ = tilted_gaussian(beta)
    stiff = torch.linalg.eigvalsh(precision)[-1].item()
    h = 0.9 / math.sqrt(stiff)
    sampler = build(name, potential, 0.5 / stiff if name in ("ula", "mala") else h, friction=2.0)
    generator = seeded(8)
    state = sampler.init(NormalPrior(2).sample(20_000, generator), generator)
    state, _ = advance(sampler, state, 30 if name == "hmc" else 120, generator)
    matrix = precision
    if name == "ula":
        matrix = precision @ (torch.eye(2, dtype=torch.float64) - sampler.step_size / 2 * precision)
    assert_moments(state.position, mean, torch.linalg.inv(matrix), name)


def test_log_partition_of_the_closed_gaussian():
    """log mean exp(-E) over base samples is the closed log Z within 4 of its own standard errors."""
    potential, _, _, truth = tilted_gaussian(1.0)
    z = NormalPrior(2).sample(100_000, seeded(9))
    got = log_mean_exp(-potential.energy(potential.base(part)) for part in z.split(30_000))
    assert got.standard_error < 0.02
    score = (got.value - truth) / got.standard_error
    assert abs(score) < 4, f"z {score:.2f}: log Z {got.value:.5f} +- {got.standard_error:.5f}, expected {truth:.5f}"


def test_ula_has_its_stated_bias():
    """On precision K, N(m, 1 / (K (1 - eps K / 2))) is stationary for ULA up to eps K = 1.5, and chains reach it."""
    precision = torch.tensor([0.2, 1.0, 2.0, 3.0], dtype=torch.float64)
    target, eps, n, generator = Gaussian(torch.diag(precision), torch.arange(4.0).double()), 0.5, 50_000, seeded(10)
    biased = 1 / (precision * (1 - eps * precision / 2))
    sampler = Ula(target, eps)
    noise = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    for what, z, n_steps in (("stays", target.mean + biased.sqrt() * noise, 3), ("reached", torch.zeros(n, 4), 60)):
        state, _ = advance(sampler, sampler.init(z.double(), generator), n_steps, generator)
        assert_moments(state.position, target.mean, torch.diag(biased), what)


@kinetic
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_kinetic_law_on_a_gaussian_at_every_step(name, n_steps):
    """From z = 0 and v ~ N(0, I), the covariance of (z, v) after n steps is that of the linear recursion."""
    h, k, friction, n, generator = 0.7, 1.5, 0.8, 100_000, seeded(11)
    c = math.exp(-friction * h)
    half = {"A": np.array([[1, h / 2], [0, 1]]), "B": np.array([[1, 0], [-h / 2 * k, 1]]), "O": np.diag([1, c])}
    truth = np.diag([0.0, 1.0])
    for _ in range(n_steps):
        for letter in "BAOAB" if name == "kla-baoab" else "ABOBA":
            truth = half[letter] @ truth @ half[letter].T + (letter == "O") * np.diag([0, 1 - c * c])
    sampler = build(name, Gaussian(torch.tensor([[k]]).double(), torch.zeros(1).double()), h, friction)
    state, _ = advance(sampler, sampler.init(torch.zeros(n, 1).double(), generator), n_steps, generator)
    x = torch.cat([state.position, state.velocity], 1)
    assert_moments(x, torch.zeros(2).double(), torch.from_numpy(truth), name)


@kinetic
def test_velocities_start_at_the_standard_normal(name):
    """init draws v ~ N(0, I), independent of z and of each other."""
    generator = seeded(12)
    z = torch.randn(50_000, 2, generator=generator, dtype=torch.float64)
    v = build(name, LogGamma(2), 0.1).init(z, generator).velocity
    x = torch.cat([z, v], 1)
    assert_moments(x, torch.zeros(4).double(), torch.eye(4).double(), name)


# Order in h -----------------------------------------------------------------------------------------------------------


def memoryless_bias(scheme, h, monkeypatch):
    """Bias of E z^2 on the ripple where friction is infinite, without sampling error.

    There v forgets everything at O, so the position y at O is a Markov chain on the line, and one step of the sampler
    started with its position at O in y gives the next one. The transition operator on splines over a grid, with
    Gauss-Hermite nodes for the noise, is a matrix; its left eigenvector is the stationary law.
    """
    target = Ripple()
    grid = torch.linspace(-7, 7, 301, dtype=torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    noise = torch.from_numpy(np.tile(nodes, len(grid)))[:, None]
    monkeypatch.setattr(samplers, "_noise", lambda like, generator: noise)
    sampler = Kla(target, h, friction=1000 / h, scheme=scheme)
    assert sampler.damping == 0.0
    y = grid.repeat_interleave(len(nodes))[:, None]
    kick = h / 2 if scheme == "baoab" else 0.0
    value, gradient = target.value_and_grad(y)
    end, _ = sampler.step(samplers.State(y, value, gradient, velocity=kick * gradient), seeded(0))
    following = end.position + h / 2 * (end.velocity - kick * target.value_and_grad(end.position)[1])
    splines = make_interp_spline(grid.numpy(), np.eye(len(grid)), k=5)
    share = weights / weights.sum()
    matrix = np.einsum("ikj,k->ij", splines(following.clamp(-7, 7).numpy().reshape(len(grid), -1)), share)
    system = np.vstack([(matrix.T - np.eye(len(grid)))[:-1], np.ones(len(grid))])
    law = np.linalg.solve(system, np.eye(len(grid))[-1])
    second = law @ (end.position.square().numpy().reshape(len(grid), -1) @ share)
    return second / target.second_moment - 1


def test_bias_is_of_second_order_and_baoab_has_less(monkeypatch):
    """At high friction ABOBA's bias of E z^2 halves twice when h is halved, BAOAB's vanishes faster than h^3."""
    assert math.isclose(Ripple().second_moment, 1.4457, abs_tol=5e-5)
    bias = {s: [memoryless_bias(s, h, monkeypatch) for h in (0.15, 0.3, 0.6)] for s in ("gebm", "baoab")}
    assert abs(bias["gebm"][2] + 0.0447) < 0.001 and abs(bias["baoab"][2] + 0.0024) < 0.0005, bias
    assert abs(math.log2(bias["gebm"][1] / bias["gebm"][0]) - 2) < 0.1, bias
    assert abs(bias["baoab"][1] / bias["baoab"][0]) > 8, bias
    assert all(abs(b) < abs(a) / 10 for a, b in zip(bias["gebm"], bias["baoab"], strict=True)), bias


def test_bias_of_both_splittings_at_friction_ten():
    """At h = .6 the bias of E z^2 is -4.48 % for ABOBA and -.24 % for BAOAB, each measured elsewhere to .05 %."""
    truth, n_chains, n_kept, got = Ripple().second_moment, 20_000, 500, {}
    for name in KINETIC:
        generator = seeded(13)
        sampler = build(name, Ripple(), 0.6, friction=10.0)
        start = torch.randn(n_chains, 1, generator=generator, dtype=torch.float64)
        state, _ = advance(sampler, sampler.init(start, generator), 60, generator)
        second = torch.zeros(n_chains, dtype=torch.float64)
        for _ in range(n_kept):
            state, _ = sampler.step(state, generator)
            second += state.position[:, 0].square() / n_kept
        got[name] = (second.mean().item() / truth - 1, second.std().item() / math.sqrt(n_chains) / truth)
    for name, expected in (("kla-gebm", -0.0448), ("kla-baoab", -0.0024)):
        bias, error = got[name]
        score = (bias - expected) / math.hypot(error, 0.0005)
        assert abs(score) < 4, f"{name}: z {score:.2f}, bias {bias:.4f} +- {error:.4f}, expected {expected}"
    (a, a_error), (b, b_error) = got["kla-gebm"], got["kla-baoab"]
    assert (abs(a) - abs(b)) / math.hypot(a_error, b_error) > 10, got


# Exact bookkeeping ----------------------------------------------------------------------------------------------------


@every_sampler
def test_equal_to_the_oracle(name):
    """With the same noise, 20 steps give the positions of the plain numpy oracle to 1e-12."""
    step = {"ula": 0.1, "mala": 0.3}.get(name, 0.5)
    target = LogGamma(3)
    z = target.sample(6, seeded(14))
    sampler, generator = build(name, target, step), seeded(15)
    state, accepted = advance(sampler, sampler.init(z.clone(), generator), 20, generator)
    assert accepted < 1 or name not in METROPOLIS
    arguments = (z.numpy(), lambda x: np.sum(np.exp(x) - 2 * x), lambda x: np.exp(x) - 2, step, 20, seeded(15))
    if name in KINETIC:
        expected = oracles.kla(*arguments, letters="BAOAB" if name == "kla-baoab" else "ABOBA")
    else:
        expected = getattr(oracles, name)(*arguments)
    difference = np.abs(state.position.numpy() - expected).max()
    assert difference < 1e-12, f"{name} differs from its oracle by {difference:.2e}"


@every_sampler
@pytest.mark.parametrize("constant", [1000.0, -1000.0])
def test_a_constant_added_to_the_energy_changes_no_position(name, constant):
    """E + constant gives the positions and decisions of E bit for bit, however large exp(-E) becomes."""
    base, energy = small_networks()
    step = {"ula": 0.05, "mala": 0.2}.get(name, 0.5)
    ends = []
    for network in (energy, Raised(energy, constant)):
        generator = seeded(16)
        sampler = build(name, LatentPotential(NormalPrior(3), base, network, beta=2.0), step)
        ends.append(advance(sampler, sampler.init(NormalPrior(3).sample(500, generator), generator), 20, generator))
    (plain, accepted), (raised, accepted_raised) = ends
    assert accepted == accepted_raised and (accepted < 0.99 or name not in METROPOLIS)
    assert torch.equal(plain.position, raised.position)


@every_sampler
@pytest.mark.parametrize(
    ("where", "what"),
    [("value", math.nan), ("value", math.inf), ("value", -math.inf), ("gradient", math.nan), ("gradient", -math.inf)],
)
def test_a_nonfinite_energy_is_a_rejection(name, where, what):
    """It is counted, leaves its chain where it was bit for bit, and does not touch the other chains."""
    bad, target = [0, 7], LogGamma(3)
    healthy, sick = build(name, target, 0.1), build(name, Sick(target, bad, where, what), 0.1)
    state = healthy.init(target.sample(20, seeded(17)), seeded(18))
    expected, _ = healthy.step(state, seeded(19))
    got, info = sick.step(state, seeded(19))
    others = [i for i in range(20) if i not in bad]
    assert info.nonfinite.nonzero().flatten().tolist() == bad
    assert not info.accepted[bad].any()
    for field, before, after, reference in zip(state._fields, state, got, expected, strict=True):
        if before is not None:
            kept = -before if field == "velocity" else before  # a kinetic chain turns round, or it would meet it again
            assert torch.equal(after[bad], kept[bad]), field
            assert torch.equal(after[others], reference[others]), field
    assert not torch.equal(got.position[others], state.position[others])


class Walled(LogGamma):
    """A target that is not defined beyond a wall in the first coordinate."""

    def value_and_grad(self, z):
        value, gradient = super().value_and_grad(z)
        return torch.where(z[:, 0] > 1, math.nan, value), gradient


@every_sampler
def test_no_chain_freezes_at_a_wall_of_nan(name):
    """With a NaN energy beyond a wall, every chain moves within 200 steps: none proposes the same bad point for ever."""
    target = Walled(2)
    sampler, generator = build(name, target, {"ula": 0.02, "mala": 0.02}.get(name, 0.2)), seeded(20)
    z = target.sample(2000, seeded(17))
    state = sampler.init(z[z[:, 0] < 1], generator)
    for _ in range(200):
        state, _ = sampler.step(state, generator)
    before = state.position
    for _ in range(200):
        state, _ = sampler.step(state, generator)
    frozen = (state.position == before).all(1).double().mean().item()
    assert frozen == 0 and bool((state.position[:, 0] < 1.5).all()), f"{name}: {frozen:.1%} of the chains never moved"


def test_hmc_rejects_a_trajectory_that_was_nonfinite_on_its_way():
    """A NaN gradient at the third of five leapfrog steps is a rejection even though the sickness is over at the end."""
    target = LogGamma(3)
    state = build("hmc", target, 0.1).init(target.sample(20, seeded(17)), seeded(18))
    sick = Sick(target, [4], "gradient", math.nan, only_call=2)
    got, info = build("hmc", sick, 0.1).step(state, seeded(19))
    assert sick.calls == 5
    assert info.nonfinite.nonzero().flatten().tolist() == [4] and not info.accepted[4]
    assert torch.equal(got.position[4], state.position[4]) and torch.equal(got.gradient[4], state.gradient[4])


@pytest.mark.parametrize("name", [s for s in SAMPLERS if s != "kla-gebm"])
def test_potential_and_gradient_belong_to_the_position(name):
    """After every step, rejected chains included, the cached U and gradient are those of the position, bit for bit."""
    target, generator = LogGamma(4), seeded(20)
    sampler = build(name, target, {"ula": 0.1, "mala": 0.5}.get(name, 0.8))
    state, rejected = sampler.init(target.sample(200, generator), generator), 0
    for _ in range(10):
        state, info = sampler.step(state, generator)
        rejected += int((~info.accepted).sum())
        value, gradient = target.value_and_grad(state.position)
        assert torch.equal(state.potential, value) and torch.equal(state.gradient, gradient)
    assert rejected > 100 or name not in METROPOLIS


def test_the_gebm_scheme_keeps_the_gradient_of_its_half_step():
    """Its U and gradient are those at z - h/2 v, where it evaluated them."""
    target, generator = LogGamma(4), seeded(21)
    sampler = build("kla-gebm", target, 0.3)
    state, _ = advance(sampler, sampler.init(target.sample(200, generator), generator), 5, generator)
    value, gradient = target.value_and_grad(state.position - 0.15 * state.velocity)
    assert (state.potential - value).abs().max() < 1e-12 and (state.gradient - gradient).abs().max() < 1e-12


@every_sampler
def test_a_state_is_a_value(name):
    """A step does not write into the state it is given, so the same state and noise give the same next state."""
    target = LogGamma(3)
    sampler = build(name, target, 0.3)
    state = sampler.init(target.sample(50, seeded(22)), seeded(23))
    kept = samplers.State(*(x if x is None else x.clone() for x in state))
    first, _ = sampler.step(state, seeded(24))
    assert bitwise_equal(state, kept)
    assert bitwise_equal(sampler.step(state, seeded(24))[0], first)
    assert not torch.equal(first.position, state.position)


@every_sampler
def test_latents_of_any_shape(name):
    """Latents (n, 2, 4) move as the same latents flattened to (n, 8), bit for bit."""
    flat = LogGamma(8).sample(30, seeded(25))
    ends = []
    for z in (flat, flat.view(30, 2, 4)):
        generator = seeded(26)
        sampler = build(name, LogGamma(8), 0.2)
        ends.append(advance(sampler, sampler.init(z, generator), 5, generator)[0])
    assert ends[1].position.shape == (30, 2, 4)
    assert torch.equal(ends[0].position, ends[1].position.flatten(1))
    assert torch.equal(ends[0].potential, ends[1].potential)


@every_sampler
def test_gradients_per_step_counts_the_calls(name):
    """A step calls the potential as often as the sampler says."""
    sick = Sick(LogGamma(2), [], "value", 0.0)
    sampler = build(name, sick, 0.1)
    state = sampler.init(LogGamma(2).sample(4, seeded(27)), seeded(27))
    before = sick.calls
    sampler.step(state, seeded(28))
    assert sick.calls - before == sampler.gradients_per_step == (5 if name == "hmc" else 1)


@every_sampler
def test_networks_are_left_as_they_were(name):
    """Sampling leaves no .grad and changes no parameter or buffer, spectral norm and batch norm included."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), conv_base(5, (1, 8, 8), 4)).eval()
    energy = Energy(conv_energy((1, 8, 8), 4, with_spectral_norm=True)).eval()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (base, energy)]
    generator = seeded(29)
    sampler = build(name, LatentPotential(NormalPrior(5), base, energy, beta=1.0), 0.1)
    state, _ = advance(sampler, sampler.init(NormalPrior(5).sample(8, generator), generator), 3, generator)
    assert not state.position.requires_grad and not state.gradient.requires_grad
    for module, old in zip((base, energy), before, strict=True):
        assert not module.training
        assert all(p.grad is None for p in module.parameters())
        assert all(torch.equal(v, old[k]) for k, v in module.state_dict().items())


# Construction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("ula", Ula), ("mala", Mala), ("hmc", Hmc), ("kla", Kla)])
def test_make_sampler_knows_each_name_and_its_default_step(name, kind):
    """The name gives the class, with the default step size unless one is given; a step of 0 is not 'none given'."""
    sampler = make_sampler(name, LogGamma(1))
    assert type(sampler) is kind and sampler.step_size == DEFAULT_STEP[name]
    assert make_sampler(name, LogGamma(1), 0.07).step_size == 0.07
    assert make_sampler(name, LogGamma(1), 0.0).step_size == 0.0


@pytest.mark.parametrize(("friction", "value"), [*FRICTION.items(), (0.7, 0.7), (0.0, 0.0)])
def test_make_sampler_takes_friction_as_a_word_or_a_number(friction, value):
    """low, critical and high are .2, 2 and 20; a number is taken as it is, and C = exp(-friction h)."""
    assert FRICTION == {"low": 0.2, "critical": 2.0, "high": 20.0}
    sampler = make_sampler("kla", LogGamma(1), 0.1, friction)
    assert sampler.friction == value and sampler.damping == math.exp(-0.1 * value)


def test_make_sampler_passes_on_scheme_and_leapfrog_steps():
    """scheme goes to kla, baoab by default; n_leapfrog to hmc."""
    assert make_sampler("kla", LogGamma(1)).scheme == "baoab"
    assert make_sampler("kla", LogGamma(1), scheme="gebm").scheme == "gebm"
    assert make_sampler("hmc", LogGamma(1), n_leapfrog=3).n_leapfrog == 3


def test_make_sampler_refuses_an_unknown_name():
    """The error names the choices and what was given."""
    with pytest.raises(ValueError, match="kla, hmc, ula, mala, got 'nuts'"):
        make_sampler("nuts", LogGamma(1))


def test_kinetic_samplers_refuse_a_state_without_velocity():
    """A state of another sampler has no velocity; the error says to use init."""
    state = Ula(LogGamma(1), 0.1).init(torch.zeros(2, 1), seeded(0))
    with pytest.raises(ValueError, match="velocity"):
        Kla(LogGamma(1), 0.1, 2.0).step(state, seeded(0))
