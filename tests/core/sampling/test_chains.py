"""Blocks of chains: the same numbers however many are kept, stages that leave nothing stale, and runs that can be resumed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import pytest
import torch
from known import Formula, seeded, z_score

from gebm_cli.core.device import make_generator
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.chains import (
    BlockRun,
    Plan,
    Stage,
    Tally,
    base_block,
    block_keeps,
    refine_plan,
    sample_plan,
)
from gebm_cli.core.sampling.make import Options, make_sampler
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.state import Info, State, revalue

CPU = torch.device("cpu")
PRIOR = NormalPrior(3)
OPTIONS = Options(n_leapfrog=2, n_proposals=3, n_local=2, n_rungs=3, steepness=2.0, log_bound=1.0)
every_sampler = pytest.mark.parametrize("name", CATALOGUE)
cached = pytest.mark.parametrize("name", ["kla", "ghmc", "ula", "lm", "mala", "hmc", "rw", "ihm", "isir", "ex2"])


def latent_potential(beta=1.0):
    torch.manual_seed(0)
    base, network = mlp(3, 4, 16, 1), mlp(4, 1, 16, 1)
    with torch.no_grad():
        network[-1].weight.mul_(20)
    network = Energy(network).eval()
    return LatentPotential(PRIOR, base.eval(), Formula(network), beta=beta)


def make(name, potential=None, step_size=0.1):
    return make_sampler(name, potential or latent_potential(), step_size, OPTIONS)


def block(sampler, n_steps=4, *, size=64, keep=64, seed=0, labels=("chains", 0), **more):
    plan = sampler if isinstance(sampler, Plan) else refine_plan([Stage(0, sampler)], n_steps)
    return BlockRun(plan, PRIOR, size, keep, seed, labels, CPU, **more)


def finished(run):
    """The run, advanced until it is done."""
    while not run.done:
        run.advance()
    return run


def same(a, b):
    """Two nested structures of tensors and plain values are equal, bit for bit and with the same keys."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@dataclass
class Spy:
    """A sampler that writes down the states it is given."""

    inner: object
    seen: list

    def init(self, z, generator):
        return self.inner.init(z, generator)

    def step(self, state, generator):
        self.seen.append(state)
        return self.inner.step(state, generator)


@dataclass
class Scripted:
    """A sampler that tells what the test wrote, and moves each chain by 1."""

    infos: list

    def init(self, z, generator):
        return State(z, torch.zeros(len(z), dtype=torch.float64))

    def step(self, state, generator):
        return state._replace(position=state.position + 1), self.infos.pop(0)


def told(n, **fields):
    """An Info of n chains that all moved, with these fields instead."""
    yes = torch.ones(n, dtype=torch.bool)
    return Info(yes, ~yes)._replace(**fields)


# --------------------------------------------------------------------------------------------------------------- blocks


@every_sampler
def test_a_block_does_not_depend_on_how_many_of_it_are_kept(name):
    """It is run whole and is the same bit for bit with 1, 44 or all of its 64 chains kept."""
    runs = [finished(block(make(name), keep=keep, labels=("chains", 2))) for keep in (1, 44, 64)]
    for run in runs:
        assert run.draws[0].shape == (64, 3)
        assert torch.equal(run.start, runs[0].start) and torch.equal(run.draws[0], runs[0].draws[0])


@every_sampler
def test_a_block_is_its_own_stream(name):
    """Block k is start, init and steps from the generator of (seed, *labels), whatever ran before it."""
    finished(block(make(name), labels=("chains", 1)))
    torch.rand(5)
    run, sampler = finished(block(make(name), seed=7, labels=("chains", 2))), make(name)
    generator = make_generator(7, "chains", 2)
    start = PRIOR.sample(64, generator)
    state = sampler.init(start, generator)
    for _ in range(4):
        state, _ = sampler.step(state, generator)
    assert torch.equal(run.start, start) and torch.equal(run.draws[0], state.position)


@pytest.mark.parametrize("name", ["kla", "mala", "ihm"])
def test_streams_of_other_seeds_labels_and_blocks_differ(name):
    """No two runs of another seed, label or block share a start or an end of any chain."""
    keys = [(0, ("chains", 0)), (0, ("chains", 1)), (1, ("chains", 0)), (0, ("diagnose", 0)), (0, ("chains",))]
    runs = [finished(block(make(name), seed=seed, labels=labels)) for seed, labels in keys]
    for a, b in combinations(runs, 2):
        assert not (a.start == b.start).any() and not (a.draws[0] == b.draws[0]).all(1).any()


@pytest.mark.parametrize(("size", "n_starts"), [(12, 3), (12, 12), (12, 1), (64, 16)])
def test_groups_of_chains_share_a_start(size, n_starts):
    """size / n_starts neighbours stand at one point, n_starts points in all; one step later all chains differ."""
    run = block(make("ula"), size=size, keep=size, n_starts=n_starts)
    groups = run.start.view(n_starts, size // n_starts, 3)
    assert (groups == groups[:, :1]).all() and len(run.start.unique(dim=0)) == n_starts
    assert torch.equal(groups[:, 0], PRIOR.sample(n_starts, make_generator(0, "chains", 0)))
    run.advance()
    assert len(run.state.position.unique(dim=0)) == size


def test_base_blocks_have_a_stream_of_their_own():
    """They are the prior's draws of ("base", block), no start of a chain among them, and do not correlate with the starts."""
    base = base_block(PRIOR, 5000, 0, 0, CPU)
    assert torch.equal(base, PRIOR.sample(5000, make_generator(0, "base", 0)))
    starts = block(make("ihm"), size=5000, keep=5000).start
    others = [starts, base_block(PRIOR, 5000, 0, 1, CPU), base_block(PRIOR, 5000, 1, 0, CPU)]
    for other in others:
        assert not (base == other).all(1).any()
        assert abs(z_score((base * other).flatten())) < 4


@pytest.mark.parametrize(
    ("n_chains", "size", "keeps"), [(300, 128, [128, 128, 44]), (256, 128, [128, 128]), (5, 128, [5]), (0, 128, [])]
)
def test_block_keeps(n_chains, size, keeps):
    """Whole blocks, and what is left."""
    assert block_keeps(n_chains, size) == keeps


# ---------------------------------------------------------------------------------------------------------------- plans

ONE = [Stage(0, make("ula"))]


@pytest.mark.parametrize(
    ("plan", "n_steps", "draws", "settled"),
    [
        (refine_plan(ONE, 6), 6, [6], 3),
        (refine_plan(ONE, 7), 7, [7], 3),
        (refine_plan(ONE, 0), 0, [0], 0),
        (sample_plan(ONE, 3, 10, 4), 13, [5, 8, 10, 13], 3),
        (sample_plan(ONE, 0, 5, 5), 5, [1, 2, 3, 4, 5], 0),
        (sample_plan(ONE, 4, 6, 2), 10, [7, 10], 4),
        (sample_plan(ONE, 4, 6, 1), 10, [10], 4),
        (replace(sample_plan(ONE, 1, 4, 2), frames=(0, 2, 5)), 5, [3, 5], 1),
    ],
)
def test_draws_are_taken_at_their_steps(plan, n_steps, draws, settled):
    """Draw t is the position after t steps, none more; frames likewise, and step 0 is the start; then the run is done."""
    assert plan.n_steps == n_steps and list(plan.draws) == draws
    run = block(plan)
    positions = [run.state.position]
    while not run.done:
        run.advance()
        positions.append(run.state.position)
    assert len(positions) == n_steps + 1 and torch.equal(positions[0], run.start)
    assert same(run.draws, [positions[t] for t in draws])
    assert same(run.frames, [positions[t] for t in plan.frames])
    assert run.tally.settled == settled


def test_a_plan_knows_the_stage_of_each_step():
    """A stage reaches from its first step to the next one's; of two at one step the later counts."""
    stages = [Stage(0, make("ula", step_size=h)) for h in (0.1, 0.2, 0.3, 0.4)]
    a, b, c, d = (stage._replace(first=first) for stage, first in zip(stages, (0, 3, 3, 5), strict=True))
    plan = refine_plan([a, b, c, d], 8)
    assert [plan.stage(t) for t in range(8)] == [a, a, a, c, c, d, d, d]


# --------------------------------------------------------------------------------------------------------------- stages


@cached
def test_another_potential_leaves_nothing_stale(name):
    """The first step of a stage sees U and its gradient as they are there, at positions unchanged; noise is the chain's own."""
    old, new, seen = latent_potential(0.2), latent_potential(1.5), []
    before, after = make(name, old), Spy(make(name, new), seen)
    run = block(refine_plan([Stage(0, before, old), Stage(3, after, new)], 5))
    for _ in range(3):
        run.advance()
    last = run.state
    run.advance()
    fresh_value, fresh_gradient = new.value_and_grad(last.position)
    assert torch.equal(seen[0].position, last.position)
    assert torch.equal(seen[0].potential, fresh_value) and not torch.equal(last.potential, fresh_value)
    assert (seen[0].gradient is None) == (last.gradient is None)
    if last.gradient is not None:
        assert torch.equal(seen[0].gradient, fresh_gradient) and not torch.equal(last.gradient, fresh_gradient)
    for a, b in ((seen[0].velocity, last.velocity), (seen[0].memory, last.memory)):
        assert a is b
    state = run.state
    run.advance()
    assert seen[1] is state, "and only the first"


@cached
def test_another_step_size_costs_nothing(name):
    """A stage without a potential hands the state on as it is, and the number of calls of the energy is that of one stage."""
    counts, ends = [], []
    for n_stages in (1, 3):
        potential = latent_potential()
        stages = [Stage(2 * i, make(name, potential, step_size=0.1)) for i in range(n_stages)]
        run = finished(block(refine_plan(stages, 6)))
        counts.append(potential.energy.calls)
        ends.append(run.draws[0])
    assert counts[0] == counts[1] and torch.equal(*ends)
    potential = latent_potential()
    decayed = [
        Stage(0, make(name, potential, 0.1)),
        Stage(2, make(name, potential, 0.05)),
        Stage(4, make(name, potential, 0.02)),
    ]
    end = finished(block(refine_plan(decayed, 6))).draws[0]
    assert potential.energy.calls == counts[0]
    assert torch.equal(end, ends[0]) == (CATALOGUE[name].unit == "")


def test_the_first_stage_is_not_evaluated_twice():
    """A potential of stage 0 is that of its sampler: `init` has just met it."""
    counts = []
    for told_potential in (False, True):
        potential = latent_potential()
        finished(block(refine_plan([Stage(0, make("ula", potential), potential if told_potential else None)], 3)))
        counts.append(potential.energy.calls)
    assert counts == [4, 4]


def test_an_annealed_mala_ends_with_the_law_of_the_last_stage():
    """Energies of chains annealed from beta 0 to 5 have the mean of an independence sampler's at beta 5."""
    stages = []
    for i, beta in enumerate((0.0, 1.0, 5.0)):
        at = latent_potential(beta)
        stages.append(Stage(15 * i, make("mala", at, 0.1), at))
    annealed = finished(block(refine_plan(stages, 90), size=2000, keep=2000)).draws[0]
    exact = finished(block(make("ihm", latent_potential(5.0)), 200, size=2000, keep=2000)).draws[0]
    a, b = (latent_potential().energy_at(z) for z in (annealed, exact))
    prior = latent_potential().energy_at(PRIOR.sample(2000, seeded(5)))
    assert abs((a.mean() - b.mean()) / ((a.var() + b.var()) / 2000).sqrt()) < 4
    assert abs((a.mean() - prior.mean()) / ((a.var() + prior.var()) / 2000).sqrt()) > 10


def test_revalue_without_a_gradient_takes_none():
    """A state without gradient gets its value by a forward pass alone."""
    old, new = latent_potential(0.2), latent_potential(1.5)
    state = make("rw", old).init(PRIOR.sample(8, seeded(0)), seeded(0))
    again = revalue(new, state)
    assert again.gradient is None and torch.equal(again.potential, new.value(state.position))


# -------------------------------------------------------------------------------------------------------------- resume


def two_stages(name):
    """A plan of 9 steps with draws and frames, and another step size, and but for `pt` another beta, from step 5 on."""
    old, new = latent_potential(0.5), latent_potential(1.0)
    change = new if CATALOGUE[name].markov and name != "pt" else None
    stages = [Stage(0, make(name, old)), Stage(5, make(name, change or old, 0.05), change)]
    return replace(sample_plan(stages, 2, 7, 3), frames=(0, 4, 8))


@every_sampler
@pytest.mark.parametrize("stop", [0, 3, 5, 9])
def test_a_resumed_block_is_the_uninterrupted_one(name, stop, tmp_path):
    """Stopped, saved, loaded as plain data into a new run and finished: all of its state is that of one go, bit for bit."""
    whole = block(two_stages(name), keep=40, size=50)
    for _ in range(stop):
        whole.advance()
    torch.save(whole.state_dict(), tmp_path / "block.pt")
    finished(whole)

    resumed = block(two_stages(name), keep=40, size=50, seed=99)
    resumed.advance()
    resumed.load_state_dict(torch.load(tmp_path / "block.pt", weights_only=True))
    assert resumed.step == stop
    finished(resumed)
    assert same(resumed.state_dict(), whole.state_dict())
    assert len(whole.draws) == len(whole.frames) == 3
    assert same(whole.state_dict(), finished(block(two_stages(name), keep=40, size=50)).state_dict())


@every_sampler
def test_a_saved_state_holds_all_of_the_chain(name):
    """Every tensor of the state is in it, the ladder's too, and another block's state is not the same."""
    run = block(make(name))
    run.advance()
    packed = run.state_dict()["state"]
    assert packed.keys() == {k for k, v in run.state._asdict().items() if v is not None}
    assert ("ladder" in packed) == (name == "pt")
    other = block(make(name), seed=1)
    other.advance()
    assert not same(other.state_dict(), run.state_dict())


def test_a_saved_state_is_not_changed_by_what_the_block_does_next():
    """It can be kept in memory: draws, frames and counts of later steps do not appear in it, nor in the block loaded from it."""
    run = block(two_stages("mala"))
    for _ in range(5):
        run.advance()
    saved = run.state_dict()
    draws, accepted = len(saved["draws"]), saved["tally"]["accepted"].item()
    end = finished(run).state_dict()
    assert (len(saved["draws"]), saved["tally"]["accepted"].item()) == (draws, accepted)
    for _ in range(2):
        again = block(two_stages("mala"))
        again.load_state_dict(saved)
        assert same(finished(again).state_dict(), end)


# --------------------------------------------------------------------------------------------------------------- counts


def test_only_chains_that_are_kept_are_counted():
    """Of 4 chains 3 are kept; what the fourth did is in none of the sums."""
    yes = torch.tensor([True, False, True, True])
    infos = [
        told(4, accepted=yes, nonfinite=~yes, swaps=torch.stack([yes, ~yes], 1), arrivals=yes),
        told(4, accepted=yes, nonfinite=torch.tensor([False, False, False, True])),
    ]
    run = finished(block(Scripted(infos), 2, size=4, keep=3))
    assert {k: v.tolist() for k, v in run.tally.sums.items()} == {
        "accepted": 4.0,
        "nonfinite": 1.0,
        "swaps": [2.0, 1.0],
        "arrivals": 2.0,
    }
    assert all(v.dtype == torch.float64 for v in run.tally.sums.values())


@pytest.mark.parametrize(
    ("plan", "counted"),
    [
        (lambda s: refine_plan(s, 7), [4, 5, 6, 7]),
        (lambda s: sample_plan(s, 2, 4, 2), [3, 4, 5, 6]),
        (lambda s: refine_plan(s, 1), [1]),
    ],
)
def test_ratios_are_those_of_settled_chains(plan, counted):
    """After half of a refined chain, after the warm-up of a long one; what is not finite skipped; means as from the list."""
    plan = plan([Stage(0, None)])
    n = plan.n_steps
    r = torch.randn(n, 4, generator=seeded(0), dtype=torch.float64)
    r[-1, 1], r[-1, 3] = math.nan, 20.0  # the last chain is not kept
    if n > 5:
        r[5, 2] = -math.inf
    plan = replace(plan, stages=[Stage(0, Scripted([told(4, log_ratio=row) for row in r]))])
    ratios = finished(block(plan, size=4, keep=3)).tally.ratios.sums
    kept = r[[t - 1 for t in counted], :3].flatten()
    kept = kept[kept.isfinite()]
    odd = kept.sigmoid() * (kept / 2).tanh()
    assert ratios.shape[0] == 3 and ratios[:, 0].sum() == len(kept) < 3 * len(counted)
    assert ratios[:, 3].sum().item() / len(kept) == pytest.approx(kept.exp().mean().item(), rel=1e-12)
    assert ratios[:, 4].sum().item() / len(kept) == pytest.approx(odd.mean().item(), rel=1e-12)


def test_a_tally_alone_settles_where_it_is_told():
    """The step equal to `settled` is not counted, the next is."""
    tally = Tally(2, 3)
    for step in (3, 4):
        tally.add(step, told(2, log_ratio=torch.full((2,), float(step)).double()))
    assert tally.ratios.sums[:, 3].tolist() == pytest.approx([math.exp(4)] * 2)
    assert tally.sums["accepted"] == 4


@pytest.mark.parametrize("name", [n for n, entry in CATALOGUE.items() if entry.exact])
def test_ratios_of_chains_that_start_at_their_law_have_mean_one(name):
    """At beta = 0 the prior is the law: E exp(r) = 1 within 4 standard errors between chains, for samplers that tell r."""
    potential = latent_potential(0.0)
    sampler = make_sampler(name, potential, 0.3, replace(OPTIONS, betas=(0.3, 1.0)))
    if name == "pt":
        sampler = replace(sampler, potential=potential, betas=(0.0,))
    found = finished(block(sampler, 6, size=2000, keep=2000)).tally.ratios
    if name == "isir":
        assert found.sums is None
        return
    found = found.finish()
    assert found.n == 2000 * 3
    means = ((found.mean_exp, found.mean_exp_error), (found.balance, found.balance_error))
    assert all(abs(mean - truth) <= 4 * error + 1e-6 for (mean, error), truth in zip(means, (1.0, 0.0), strict=True))


def test_stuck_chains_are_those_that_met_or_stand_at_what_is_not_finite():
    """At the start those whose U is not finite; later also those whose last proposal was not, until they move on."""
    walls = LatentPotential(
        PRIOR, torch.nn.Identity(), Formula(lambda z: z[:, 0] * torch.where(z[:, 0] > 0, math.nan, 1)), 1.0
    )
    run = block(make("ula", walls))
    assert torch.equal(run.stuck, run.start[:, 0] > 0) and 0 < run.stuck.sum() < 64
    starts = run.stuck
    for _ in range(6):
        info = run.advance()
        assert torch.equal(run.stuck, info.nonfinite | (run.state.position[:, 0] > 0))
    assert run.stuck[starts].all(), "their gradient is NaN, so they cannot leave"
    again = block(make("ula", walls), seed=1)
    again.load_state_dict(run.state_dict())
    assert torch.equal(again.stuck, run.stuck)
    nowhere = block(make("rw", walls))
    for _ in range(30):
        nowhere.advance()
    assert torch.isfinite(nowhere.state.potential).sum() > (~starts).sum(), "a random walk can"
    assert run.tally.sums["nonfinite"] >= 6 * starts.sum()


def test_replica_exchange_at_beta_zero_always_swaps():
    """With beta = 0 all rungs are the prior, so every swap is accepted and every step brings a fresh draw to the top."""
    plan = refine_plan([Stage(0, make("pt", latent_potential(beta=0.0)))], 5)
    tally = finished(block(plan)).tally.sums
    assert (tally["swaps"] == 5 * 64).all() and tally["arrivals"] == 5 * 64
