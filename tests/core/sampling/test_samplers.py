"""Construction of samplers by name, and the letters of a splitting. What the samplers do is the battery's business."""

from __future__ import annotations

import math

import pytest
import torch
from targets import SAMPLERS, Skewed, advance, build, seeded

from gebm_cli.core.sampling.catalogue import CATALOGUE, MCMC
from gebm_cli.core.sampling.global_moves import Ex2, Ihm, ISir, RandomWalk
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.kinetic import Ghmc, Kla, splitting
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Mala, Ula
from gebm_cli.core.sampling.make import FRICTION, Options, make_sampler
from gebm_cli.core.sampling.refiners import DgFlow, Dot, Rejection, Resampling
from gebm_cli.core.sampling.tempering import ReplicaExchange, geometric_ladder

KINDS = {
    "kla": Kla, "ghmc": Ghmc, "ula": Ula, "ddls": Ula, "lm": LeimkuhlerMatthews, "mala": Mala, "hmc": Hmc, "rw": RandomWalk,
    "ihm": Ihm, "isir": ISir, "ex2": Ex2, "pt": ReplicaExchange, "dot": Dot, "dgflow": DgFlow, "drs": Rejection,
    "resample": Resampling,
}  # fmt: skip
MEASURED = Options(steepness=2.0, log_bound=0.5, shift=0.25)


def test_the_battery_holds_every_markov_sampler():
    """What the catalogue calls a Markov chain is put through the battery; ddls is ula by another name."""
    assert {name.partition("-")[0] for name in SAMPLERS} | {"ddls"} == set(MCMC)
    assert make_sampler("ddls", Skewed(), 0.1) == make_sampler("ula", Skewed(), 0.1)
    assert KINDS.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("name", CATALOGUE)
def test_make_sampler_knows_every_name_of_the_catalogue(name):
    """The name gives the class, and the step size is read by those that have one, 0 included."""
    entry = CATALOGUE[name]
    for step in (0.07, 0.0):
        sampler = make_sampler(name, Skewed(), step, MEASURED)
        assert type(sampler) is KINDS[name]
        assert sampler.step_size == (step if entry.unit else 0.0)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_says_what_a_sampler_costs(name):
    """`cost` names a gradient where one is asked for, and a value where one is; `exact` samplers that are local are tuned."""
    sampler, entry = make_sampler(name, Skewed(), 0.1, MEASURED), CATALOGUE[name]
    assert ("gradient" in entry.cost) == (sampler.gradients_per_step > 0)
    assert ("value" in entry.cost) == (sampler.values_per_step > 0)
    assert (entry.acceptance is not None) == (entry.exact and bool(entry.unit))
    assert entry.markov or not entry.exact


def test_make_sampler_passes_its_options_on():
    """Each option reaches the samplers that read it."""
    o = Options(0.7, "obabo", 3, 0.1, 6, 4, 5, "js", log_partition=1.5, steepness=2.0, log_bound=0.5, shift=0.25)
    made = {name: make_sampler(name, Skewed((2,), 2.0), 0.1, o) for name in CATALOGUE}
    assert (made["kla"].friction, made["kla"].scheme, made["ghmc"].friction) == (0.7, "obabo", 0.7)
    assert (made["hmc"].n_leapfrog, made["hmc"].jitter) == (3, 0.1)
    assert (made["isir"].n_proposals, made["ex2"].n_proposals, made["ex2"].n_local) == (6, 6, 4)
    assert made["pt"].betas == geometric_ladder(2.0, 5) == (0.125, 0.25, 0.5, 1.0, 2.0)
    assert make_sampler("pt", Skewed(), 0.1, Options(betas=(0.3, 1.0))).betas == (0.3, 1.0)
    assert (made["dgflow"].divergence, made["dgflow"].log_partition) == ("js", 1.5)
    assert (made["dot"].steepness, made["drs"].log_bound, made["drs"].shift) == (2.0, 0.5, 0.25)
    assert FRICTION == {"low": 0.2, "critical": 2.0, "high": 20.0} and Options().friction == 2.0
    assert Kla(Skewed(), 0.1, 0.7).damping == Ghmc(Skewed(), 0.1, 0.7).damping == math.exp(-0.07)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nuts", Options(), "kla, ghmc, .*, got 'nuts'"),
        ("kla", Options(scheme="babab"), "got 'babab'"),
        ("kla", Options(scheme="baoabx"), "got 'baoabx'"),
        ("dot", Options(), "dot needs what"),
        ("drs", Options(), "drs needs what"),
    ],
)
def test_make_sampler_refuses(name, options, message):
    """The error names the choices and what was given, before any step."""
    with pytest.raises(ValueError, match=message):
        make_sampler(name, Skewed(), 0.1, options)


@pytest.mark.parametrize(
    ("scheme", "letters", "gradients"),
    [
        ("baoab", "baoab", 1),
        ("OBABO", "obabo", 1),
        ("gebm", "aboba", 1),
        ("abo", "abo", 1),
        ("bbao", "bbao", 1),
        ("oaboba", "oaboba", 1),
        ("ababo", "ababo", 2),
        ("baobab", "baobab", 2),
        ("obabao", "obabao", 2),
    ],
)
def test_a_splitting_costs_the_gradients_it_says(scheme, letters, gradients):
    """Names and spellings give the letters; a kick asks for a gradient only where a drift came between."""
    sampler = Kla(Skewed(), 0.1, 2.0, scheme)
    assert splitting(scheme) == sampler.letters == letters and sampler.gradients_per_step == gradients


@pytest.mark.parametrize("name", ["kla", "ghmc"])
def test_kinetic_samplers_refuse_a_state_without_velocity(name):
    """A state of another sampler has no velocity; the error says to use init."""
    state = Ula(Skewed(), 0.1).init(torch.zeros(2, 3), seeded(0))
    with pytest.raises(ValueError, match="velocity"):
        build(name if name == "ghmc" else "kla-baoab", Skewed(), 0.1).step(state, seeded(0))


def test_a_ladder_is_spaced_by_its_rejections():
    """Equal swap rates keep the ladder; where neighbours swap rarely the rungs move together, and the top stays."""
    ladder = ReplicaExchange(Skewed(), 0.1, (0.25, 0.5, 0.75, 1.0))
    assert ladder.spaced([0.6] * 4).betas == pytest.approx(ladder.betas)
    got = ladder.spaced([0.1, 0.9, 0.9, 0.9]).betas
    assert got[0] == pytest.approx(0.25 * 0.3 / 0.9, rel=1e-4) and got[-1] == 1.0 and list(got) == sorted(got)


def test_ladder_of_one_rung_is_a_chain_with_restarts():
    """With one rung the ladder is empty, and draws of the prior are exchanged with the chain itself, exactly."""
    target, generator = Skewed((2,)), seeded(1)
    sampler = ReplicaExchange(target, 0.1, (1.0,))
    state = sampler.init(target.sample(20_000, generator), generator)
    state, _ = advance(sampler, state, 4, generator)
    assert state.ladder is None and sampler.gradients_per_step == 2
    target.assert_law(state.position, "one rung")
