"""Step sizes, ladders and bounds found on pilot draws: against exact curvatures, closed forms and brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from known import gaussian, rotated, seeded, tilted, z_score

from gebm_cli.core.sampling import tuning
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.langevin import Ula
from gebm_cli.core.sampling.make import Options, make_sampler
from gebm_cli.core.sampling.state import Info, State
from gebm_cli.core.sampling.tempering import ReplicaExchange, geometric_ladder
from gebm_cli.core.sampling.tuning import (
    default_step,
    dual_averaging,
    largest_curvature,
    pilot_steps,
    space_ladder,
    stability_bound,
    steepness,
    tune,
)

every_name = pytest.mark.parametrize("name", CATALOGUE)
SPECTRUM = [0.5 + 0.15 * i for i in range(20)]


def smooth(dim=6, seed=1):
    """A potential with an MLP energy whose Hessian is another at every z."""
    a, b, c = (torch.randn(dim, 12, generator=seeded(seed + i), dtype=torch.float64) for i in range(3))
    return tilted(dim, lambda z: ((z @ a).sin() * c[0]).sum(1) + 3 * (z @ b).tanh().mean(1))


def hard(dim=5):
    """A quadratic energy, so steep that swaps of a doubling ladder differ; the largest curvature of U is 21."""
    weight = torch.linspace(5, 10, dim, dtype=torch.float64)
    return tilted(dim, lambda z: (weight * (z - 1).square()).sum(1))


# ----------------------------------------------------------------------------------------------------------- curvature


@pytest.mark.parametrize("spectrum", [[10, 3, 2, 1, 1], [-8, 3, 1, 0.5, 0.1], [1, 1, 1], [7]])
def test_curvature_of_a_quadratic_is_its_largest_eigenvalue_in_size(spectrum):
    """At every z and for either sign: central differences of a linear gradient are exact."""
    potential = gaussian(rotated(spectrum))
    found = largest_curvature(potential, 3 * potential.prior.sample(20, seeded(0)), seeded(1))
    assert found.shape == (20,) and found.dtype == torch.float64
    assert (found - max(map(abs, spectrum))).abs().max() < 1e-7


def test_curvature_of_a_smooth_network_is_that_of_its_hessian_chain_by_chain():
    """Power iteration agrees with the eigenvalues of autograd's Hessian at each z, and these differ between chains."""
    potential = smooth()
    z = potential.prior.sample(12, seeded(0))

    def u(x):
        return x.square().sum() / 2 + potential.energy(x[None]).squeeze(0)

    exact = torch.stack([torch.linalg.eigvalsh(torch.autograd.functional.hessian(u, x)).abs().max() for x in z])
    found = largest_curvature(potential, z, seeded(1), n_iterations=200)
    assert (found / exact - 1).abs().max() < 0.02
    assert exact.max() > 1.5 * exact.min()
    short = largest_curvature(potential, z, seeded(1))
    assert ((short / exact - 1).abs() < 0.15).all(), "20 iterations are near"


@pytest.mark.parametrize("dim", [1, 16])
def test_curvature_of_straight_pieces_sees_the_bends_within_its_reach(dim):
    """E = 5 |z_1| has no second derivative, but across the bend it is 1 + 5 / (.01 sqrt(d)), and away from it 1."""
    potential = tilted(dim, lambda z: 5 * z[:, 0].relu() + 5 * (-z[:, 0]).relu())
    z = torch.zeros(2, dim, dtype=torch.float64)
    z[1, 0] = 1.0
    found = largest_curvature(potential, z, seeded(0))
    assert found.tolist() == pytest.approx([1 + 5 / (0.01 * math.sqrt(dim)), 1.0], rel=1e-6)


def test_curvature_of_a_relu_network_is_not_that_of_the_prior():
    """Where autograd's Hessian of U is the identity, at all pilot draws, the largest curvature is far from 1."""
    w = torch.randn(8, 64, generator=seeded(0), dtype=torch.float64)
    potential = tilted(8, lambda z: (z @ w).relu().sum(1))
    assert largest_curvature(potential, potential.prior.sample(64, seeded(1)), seeded(2)).max() > 10


@pytest.mark.parametrize(
    ("typical", "largest", "h"),
    [
        (4.0, 4.0, 0.25),
        (100.0, 300.0, 0.05),
        (1.0, 400.0, 0.05),
        (0.01, 0.01, 0.5),
        (0.0, 1.0, 0.5),
        (math.nan, math.nan, 1e-3),
        (4.0, math.inf, 1e-3),
        (0.0, 0.0, 1e-3),
    ],
)
def test_default_step(typical, largest, h):
    """h = min(.5, .5 / sqrt(typical), 1 / sqrt(largest)), epsilon = h^2 / 2; small and finite where nothing is known."""
    assert default_step(typical, largest, "h") == pytest.approx(h)
    assert default_step(typical, largest, "epsilon") == pytest.approx(h * h / 2)


@pytest.mark.parametrize(
    ("curvature", "h", "epsilon"),
    [(4.0, 1.0, 0.5), (0.01, 20.0, 200.0), (math.nan, math.inf, math.inf), (0.0, math.inf, math.inf)],
)
def test_stability_bound(curvature, h, epsilon):
    """2 / sqrt(L) for h and 2 / L for epsilon; none where no curvature is known."""
    assert stability_bound(curvature, "h") == pytest.approx(h)
    assert stability_bound(curvature, "epsilon") == pytest.approx(epsilon)


@pytest.mark.parametrize("name", ["ula", "lm", "kla", "kla-gebm", "kla-obabo"])
@pytest.mark.parametrize("friction", [0.2, 20.0])
def test_unadjusted_samplers_explode_beyond_their_bound_and_not_below(name, friction):
    """On a Gaussian, from the bound that `tune` reports: 5 % beyond a chain grows without end, 5 % below it stays."""
    name, _, scheme = name.partition("-")
    potential, options = gaussian([4.0, 1.0]), Options(friction=friction, scheme=scheme or "baoab")
    bound = tune(name, potential, 0.1, options, seeded(0)).stability_bound
    for factor, explodes in ((1.05, True), (0.95, False)):
        sampler, generator = make_sampler(name, potential, factor * bound, options), seeded(1)
        state = sampler.init(potential.prior.sample(20, generator), generator)
        for _ in range(250):
            state, _ = sampler.step(state, generator)
        assert state.position.abs().max().item() > 1e6 if explodes else state.position.abs().max().item() < 50


# ------------------------------------------------------------------------------------------------------ dual averaging


def tuned_step(name, seed, potential, options=Options(n_leapfrog=3), factor=1.0):
    """A step found from draws of the prior, and the acceptance that came with it."""
    entry, generator = CATALOGUE[name], seeded(seed)
    z, first = potential.prior.sample(64, generator), factor * default_step(max(SPECTRUM), max(SPECTRUM), entry.unit)
    return dual_averaging(lambda s: make_sampler(name, potential, s, options), z, first, entry.acceptance, generator)


@pytest.mark.parametrize("name", ["mala", "hmc", "ghmc", "rw"])
def test_dual_averaging_reaches_its_target(name):
    """In 20 dimensions the acceptance of exact draws is the target, within 4 times the noise that pilots have among seeds."""
    potential, target = gaussian(SPECTRUM), CATALOGUE[name].acceptance
    reached, told = [], []
    for seed in range(5):
        step, acceptance = tuned_step(name, seed, potential)
        generator = seeded(100 + seed)
        z = potential.prior.sample(4000, generator) / torch.tensor(SPECTRUM).double().sqrt()
        sampler = make_sampler(name, potential, step, Options(n_leapfrog=3))
        _, info = sampler.step(sampler.init(z, generator), generator)
        reached.append(info.log_ratio.clamp(max=0).exp().mean().item())
        told.append(acceptance)
    reached, told = torch.tensor(reached), torch.tensor(told)
    assert reached.std() < 0.02
    assert ((reached - target).abs() < 4 * reached.std()).all(), reached
    assert abs(z_score(told - reached)) < 4 and (told - reached).abs().max() < 0.04, "what it measures afterwards"


def test_dual_averaging_is_the_recursion_of_hoffman_and_gelman():
    """Against algorithm 5 written out, where a step h is accepted with probability exp(-h) exactly."""

    @dataclass
    class Known:
        step_size: float

        def init(self, z, generator):
            return State(z, torch.zeros(len(z), dtype=torch.float64))

        def step(self, state, generator):
            yes = torch.ones(len(state.position), dtype=torch.bool)
            return state, Info(yes, ~yes, torch.full((len(yes),), -self.step_size, dtype=torch.float64))

    h, h_bar, log_mean, first, target = 0.3, 0.0, 0.0, 0.3, 0.65
    for m in range(1, 151):
        h_bar = (1 - 1 / (m + 10)) * h_bar + (target - math.exp(-h)) / (m + 10)
        h = math.exp(math.log(10 * first) - math.sqrt(m) / 0.05 * h_bar)
        log_mean = m**-0.75 * math.log(h) + (1 - m**-0.75) * log_mean
    found = dual_averaging(Known, torch.zeros(4, 1), first, target, seeded(0))
    assert found == pytest.approx((math.exp(log_mean), math.exp(-math.exp(log_mean))), rel=1e-9)
    assert found[1] == pytest.approx(target, abs=0.02)


def test_dual_averaging_is_a_function_of_its_seed():
    """The same seed finds the same step, another a near one, and a first step 30 times too large or small does not matter."""
    potential = gaussian(SPECTRUM)
    step, _ = tuned_step("mala", 0, potential)
    assert tuned_step("mala", 0, potential)[0] == step
    others = [
        tuned_step("mala", 1, potential)[0],
        *(tuned_step("mala", 0, potential, factor=f)[0] for f in (1 / 30, 30)),
    ]
    assert all(other != step and 0.9 < other / step < 1.1 for other in others), others


def test_acceptance_of_hmc_in_high_dimension():
    """On N(0, I_d) it is 2 Phi(-sqrt(mu / 2)) with mu = E dH (Beskos et al. 2013), known exactly from the leapfrog matrix."""
    d, h, n_leapfrog = 500, 0.5, 4
    kick, drift = torch.tensor([[1.0, 0], [-h / 2, 1]]).double(), torch.tensor([[1.0, h], [0, 1]]).double()
    mu = d * (torch.linalg.matrix_power(kick @ drift @ kick, n_leapfrog).square().sum().item() - 2) / 2
    potential, generator = gaussian([1.0] * d), seeded(0)
    sampler = Hmc(potential, h, n_leapfrog)
    _, info = sampler.step(sampler.init(potential.prior.sample(2000, generator), generator), generator)
    assert abs(z_score(-info.log_ratio, mu)) < 4
    assert abs(z_score(info.log_ratio.clamp(max=0).exp(), 1 + math.erf(-math.sqrt(mu) / 2))) < 4
    assert abs(z_score(info.accepted.double(), 1 + math.erf(-math.sqrt(mu) / 2))) < 4


# ------------------------------------------------------------------------------------------------------- every sampler


@every_name
def test_every_sampler_is_tuned_and_runs(name):
    """Each has a step where it needs one, and tells what was found and nothing else; 20 steps later all is finite."""
    entry, generator, potential = CATALOGUE[name], seeded(0), hard()
    tuned = tune(name, potential, None, Options(n_leapfrog=3), generator)
    assert (tuned.sampler.step_size > 0) == bool(entry.unit)
    assert (tuned.acceptance is None) == (entry.acceptance is None)
    assert (tuned.curvature is None) == (tuned.stability_bound is None) == (not (entry.unit and entry.markov))
    assert (tuned.swap_rates is None) == (name != "pt")
    if tuned.acceptance is not None:
        assert abs(tuned.acceptance - entry.acceptance) < 0.06
    if tuned.curvature is not None:
        assert tuned.curvature == pytest.approx(21.0, rel=1e-3)
        assert tuned.stability_bound == pytest.approx(stability_bound(21.0, entry.unit), rel=1e-3)
        if entry.acceptance is None:
            assert tuned.sampler.step_size == pytest.approx(default_step(21.0, 21.0, entry.unit), rel=0.03)
    if entry.published:
        assert tuned.sampler.step_size == entry.published
    state = tuned.sampler.init(potential.prior.sample(50, generator), generator)
    accepted = []
    for _ in range(20):
        state, info = tuned.sampler.step(state, generator)
        accepted.append(info.accepted.double().mean().item())
    assert torch.isfinite(state.position).all() and not info.nonfinite.any()
    if entry.acceptance is not None:
        assert abs(sum(accepted[10:]) / 10 - entry.acceptance) < 0.12, "the sampler tuned is the sampler run"


@pytest.mark.parametrize("name", [n for n, entry in CATALOGUE.items() if entry.unit])
def test_a_step_size_that_is_given_is_kept(name):
    """Bit for bit, and no acceptance is claimed for it; the other options arrive too."""
    options = Options(friction=3.0, scheme="obabo", n_leapfrog=7, jitter=0.1, n_proposals=4, n_local=2, n_rungs=3)
    tuned = tune(name, hard(), 0.0123, options, seeded(0))
    assert tuned.sampler.step_size == 0.0123 and tuned.acceptance is None
    told = {k: v for k, v in vars(options).items() if k in CATALOGUE[name].keys and hasattr(tuned.sampler, k)}
    assert told == {k: getattr(tuned.sampler, k) for k in told}
    if name == "pt":
        assert len(tuned.sampler.betas) == 3


@pytest.mark.parametrize(
    ("name", "steps"), [("mala", 20 + 180), ("pt", 20 + 180 + 120), ("kla", 20), ("drs", 0), ("dot", 0)]
)
def test_pilot_steps_are_told(name, steps):
    """`on_step` hears 20 of the curvature, 150 + 30 of dual averaging, 6 rounds of 20 of the ladder, as `pilot_steps` says."""
    told = []
    tune(name, hard(), None, Options(), seeded(0), lambda: told.append(1))
    assert len(told) == steps == pilot_steps(name, None)


@pytest.mark.parametrize("name", [n for n, entry in CATALOGUE.items() if entry.acceptance])
def test_a_sampler_is_its_own_pilot(name, monkeypatch):
    """Its step is tuned by runs of itself; those of ex2 and pt, whose local moves are MALA's, by runs of MALA."""
    made = []
    monkeypatch.setattr(tuning, "make_sampler", lambda n, *more: (made.append(n), make_sampler(n, *more))[1])
    tune(name, hard(), None, Options(n_leapfrog=1), seeded(0))
    assert set(made[:-1]) == {"mala" if name in ("ex2", "pt") else name} and made[-1] == name and len(made) > 150


def test_tuning_depends_on_the_generator_alone():
    """The same seed gives equal samplers, whatever torch's global stream did in between."""
    potential = hard()
    for name in ("mala", "pt", "kla", "drs", "dot"):
        first = tune(name, potential, None, Options(), seeded(3))
        torch.rand(3)
        assert tune(name, potential, None, Options(), seeded(3)) == first


# ----------------------------------------------------------------------------------------------------- broken energies


@every_name
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_some_broken_pilot_draws_do_not_decide(name, poison):
    """With U (and its gradient) broken at a third of the draws, the step is near that of the whole target, and all is finite."""
    whole = tilted(5, lambda z: 3 * z.square().sum(1))
    broken = tilted(5, lambda z: 3 * z.square().sum(1) * torch.where(z[:, 0] > 0.5, poison, 1.0))
    options = Options(n_leapfrog=2, drs_percentile=80.0)
    good, found = (tune(name, potential, None, options, seeded(0)) for potential in (whole, broken))
    if CATALOGUE[name].unit:
        assert 0.6 < found.sampler.step_size / good.sampler.step_size < 1.6
    if good.curvature is not None:
        assert found.curvature == pytest.approx(good.curvature, rel=0.1)
    for key in ("steepness", "log_bound", "shift"):
        assert math.isfinite(getattr(found.sampler, key, 0.0))


@every_name
def test_an_energy_that_is_never_finite_does_not_break_tuning(name):
    """Nothing can be found out, so steps stay at a finite guess, and ladders increase."""
    broken = tilted(3, lambda z: z.square().sum(1) * math.nan)
    tuned = tune(name, broken, None, Options(n_leapfrog=2, drs_percentile=80.0), seeded(0))
    assert not CATALOGUE[name].unit or 1e-7 < tuned.sampler.step_size <= 0.5
    assert tuned.acceptance in (None, 0.0)
    for key in ("steepness", "log_bound", "shift"):
        assert math.isfinite(getattr(tuned.sampler, key, 0.0))
    if name == "pt":
        assert list(tuned.sampler.betas) == sorted(set(tuned.sampler.betas)) and tuned.sampler.betas[-1] == 1.0


# -------------------------------------------------------------------------------------------- ladders and pilot bounds


def test_geometric_ladder():
    """Each rung is twice the one below, and beta is the last."""
    assert geometric_ladder(1.0, 4) == (0.125, 0.25, 0.5, 1.0)
    assert geometric_ladder(3.0, 1) == (3.0,)
    assert make_sampler("pt", replace(hard(), beta=2.0), 0.1, Options(n_rungs=3)).betas == (0.5, 1.0, 2.0)
    assert make_sampler("pt", hard(), 0.1, Options(betas=(0.1, 1.0))).betas == (0.1, 1.0)


def test_spacing_cuts_the_barrier_into_equal_parts():
    """Rejections .2, .6, .0 over 0, 1, 2, 4: levels at .8/3 and 1.6/3 lie between 1 and 2; equal rates change nothing."""
    ladder = ReplicaExchange(hard(), 0.1, (1.0, 2.0, 4.0))
    expected = [1 + (0.8 / 3 - 0.2) / 0.6, 1 + (1.6 / 3 - 0.2) / 0.6, 4.0]
    assert ladder.spaced([0.8, 0.4, 1.0]).betas == pytest.approx(expected, abs=1e-4)
    assert ladder.spaced([0.3, 0.3, 0.3]).betas == pytest.approx((1.0, 2.0, 4.0))
    assert ladder.spaced([1.0, 1.0, 1.0]).betas == pytest.approx((1.0, 2.0, 4.0))


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_spacing_a_ladder_equalises_its_swap_rates(beta):
    """The variance of the swap rates halves in 3 rounds and falls to a fifth in 8; betas increase, and the top stays beta."""
    potential, generator = replace(hard(3), beta=beta), seeded(0)
    first = ReplicaExchange(potential, 0.03 / beta, geometric_ladder(beta, 5))
    z = potential.prior.sample(200, generator)
    same, before = space_ladder(first, z, generator, n_rounds=1, n_steps=60)
    assert same == first
    assert len(before) == 5
    for n_rounds, share in ((3, 1 / 2), (8, 1 / 5)):
        spaced, after = space_ladder(first, z, generator, n_rounds=n_rounds)
        _, again = space_ladder(spaced, z, generator, n_rounds=1, n_steps=60)
        assert torch.tensor(again).var() < share * torch.tensor(before).var(), (before, again)
        assert spaced.betas[-1] == beta and spaced.betas[0] > 0
        assert all(a < b for a, b in pairwise(spaced.betas))
        _, same_length = space_ladder(spaced, z, generator, n_rounds=1)
        assert max(abs(a - b) for a, b in zip(after, same_length, strict=True)) < 0.08, "rates of this ladder"


def test_pt_at_beta_zero_is_the_prior():
    """A ladder of zeros runs; its swaps exchange draws of one law."""
    potential, generator = replace(hard(), beta=0.0), seeded(0)
    sampler = tune("pt", potential, 0.1, Options(), generator).sampler
    state = sampler.init(potential.prior.sample(500, generator), generator)
    for _ in range(3):
        state, info = sampler.step(state, generator)
    assert not info.nonfinite.any() and abs(z_score(state.position.square().flatten(), 1.0)) < 4


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_steepness_is_the_largest_slope_between_pairs(beta):
    """Against a loop over the same 100 pairs; the options of dot carry it, and a steepness that is given is kept."""
    potential = replace(hard(), beta=beta)
    generator = seeded(0)
    a, b = (potential.prior.sample(100, generator) for _ in range(2))
    slopes = [
        beta * abs(potential.energy(x[None]) - potential.energy(y[None])).item() / math.dist(x.tolist(), y.tolist())
        for x, y in zip(a, b, strict=True)
    ]
    assert steepness(potential, seeded(0)) == pytest.approx(max(slopes), rel=1e-12)
    assert tune("dot", potential, None, Options(), seeded(0)).sampler.steepness == pytest.approx(max(slopes), rel=1e-12)
    assert tune("dot", potential, None, Options(steepness=2.5), seeded(0)).sampler.steepness == 2.5
    assert steepness(tilted(2, lambda z: 0 * z[:, 0]), seeded(0)) > 0


@pytest.mark.parametrize("percentile", [None, 0.0, 35.0, 80.0, 100.0])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_drs_takes_bound_and_shift_from_the_pilot_draws(percentile, beta):
    """The bound is the largest of 10000 log weights; the shift is the percentile of F of Azadi et al. 2019, however low."""
    potential, generator = replace(hard(), beta=beta), seeded(0)
    log_w = torch.cat([-beta * potential.energy(potential.prior.sample(500, generator)) for _ in range(20)])
    assert len(log_w) == 10_000 and log_w.min() < log_w.max() - 100
    tuned = tune("drs", potential, None, Options(drs_percentile=percentile), seeded(0))
    assert tuned.sampler.log_bound == log_w.max().item()
    if percentile is None:
        assert tuned.sampler.shift == 0.0
        return
    below = log_w - log_w.max()
    f = (below - torch.log(1 - torch.exp(below - 1e-14))).sort().values
    place = percentile / 100 * (len(f) - 1)
    low, high = f[math.floor(place)].item(), f[math.ceil(place)].item()
    assert low - 1e-6 <= tuned.sampler.shift <= high + 1e-6 or percentile == 100.0
    if percentile == 100.0:
        assert tuned.sampler.shift == pytest.approx(-math.log(1e-14), abs=0.01)
    given = tune(
        "drs", potential, None, Options(drs_percentile=percentile, log_bound=1.5, shift=0.5), seeded(0)
    ).sampler
    assert (given.log_bound, given.shift) == (1.5, 0.5)


def test_typical_and_largest_curvature_are_those_of_the_finite_pilot_draws():
    """Flat at a third of the draws, 9 at a third and broken at the rest: the median of the flat and the steep counts."""

    def energy(z):
        bowl = torch.where(z[:, 0] > -0.2, 4.0, 0.0) * z[:, 1:].square().sum(1)
        return bowl * torch.where(z[:, 0] > 0.9, math.nan, 1.0)

    potential, generator = tilted(3, energy), seeded(0)
    z = potential.prior.sample(64, generator)
    sizes = largest_curvature(potential, z, generator)
    sizes = sizes[sizes.isfinite()]
    assert 40 < len(sizes) < 64 and sizes.max() > 8.9 and sizes.min() < 1.1
    tuned = tune("kla", potential, None, Options(), seeded(0))
    assert tuned.curvature == sizes.max().item()
    assert tuned.sampler.step_size == default_step(sizes.median().item(), sizes.max().item(), "h")


def test_the_unit_of_a_step_is_that_of_the_catalogue():
    """Overdamped samplers take epsilon and the bound 2 / L, kinetic ones h and 2 / sqrt(L)."""
    potential = gaussian([4.0, 1.0])
    ula, kla = (tune(name, potential, None, Options(), seeded(0)) for name in ("ula", "kla"))
    assert isinstance(ula.sampler, Ula) and isinstance(kla.sampler, Kla)
    assert (ula.sampler.step_size, ula.stability_bound) == pytest.approx((0.03125, 0.5), rel=1e-4)
    assert (kla.sampler.step_size, kla.stability_bound) == pytest.approx((0.25, 1.0), rel=1e-4)
