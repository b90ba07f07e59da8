"""Blocks of chains: the same numbers whatever the number of samples, and chains that can be stopped and resumed."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from targets import METROPOLIS, SAMPLERS, Sick, advance, assert_mean, bitwise_equal, build, seeded

from gebm_cli.core.device import make_generator
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.chains import run_blocks
from gebm_cli.core.sampling.potential import LatentPotential

CPU = torch.device("cpu")
PRIOR = NormalPrior(3)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def make(name, potential=None):
    return build(name, potential or latent_potential(), {"ula": 0.05, "mala": 0.3}.get(name, 0.5))


def latent_potential():
    torch.manual_seed(0)
    base, network = mlp(3, 4, 16, 1), mlp(4, 1, 16, 1)
    with torch.no_grad():
        network[-1].weight.mul_(20)
    return LatentPotential(PRIOR, base.eval(), Energy(network).eval(), beta=1.0)


def run(sampler, n_samples, *, n_steps=4, block_size=128, seed=0, **hooks):
    return list(run_blocks(sampler, PRIOR, n_samples, n_steps, block_size, seed, CPU, **hooks))


def joined(blocks, what="end"):
    """The chains asked for, of all blocks."""
    return torch.cat([getattr(b, what)[: b.keep] for b in blocks])


@pytest.mark.parametrize("name", [None, *SAMPLERS])
def test_the_first_samples_do_not_depend_on_how_many_are_drawn(name):
    """The first 300 of 1000 are the 300, bit for bit, starts and ends."""
    sampler = name and make(name)
    few, many = run(sampler, 300), run(sampler, 1000)
    assert joined(few).shape == (300, 3) and joined(many).shape == (1000, 3)
    assert torch.equal(joined(few, "start"), joined(many, "start")[:300])
    assert torch.equal(joined(few), joined(many)[:300])


@every_sampler
def test_a_block_is_its_own_stream(name):
    """Block k is init and steps from the generator of (seed, "chains", k), whatever ran before it."""
    sampler = make(name)
    block = run(sampler, 384)[2]
    generator = make_generator(0, "chains", 2)
    start = PRIOR.sample(128, generator)
    state, _ = advance(sampler, sampler.init(start, generator), 4, generator)
    assert torch.equal(block.start, start) and torch.equal(block.end, state.position)


@every_sampler
def test_the_last_block_is_whole_and_says_what_to_keep(name):
    """Blocks are 128 chains, of which 128, 128, 44 were asked for; counts are of those, out of kept chains times steps."""
    blocks = run(make(name), 300)
    assert [b.keep for b in blocks] == [128, 128, 44]
    assert all(b.start.shape == b.end.shape == (128, 3) for b in blocks)
    assert torch.equal(blocks[2].end, run(make(name), 384)[2].end)
    assert [b.chain_steps for b in blocks] == [512, 512, 176]
    if name in METROPOLIS:
        assert all(0 < b.accepted < b.chain_steps for b in blocks)
    else:
        assert all(b.accepted == b.chain_steps for b in blocks)
    assert all(b.nonfinite == 0 for b in blocks)


def test_rejections_of_chains_nobody_asked_for_are_not_counted():
    """Sick chains 0 and 100 of a block of 128: of the last block 44 are kept and one is counted, of the first both."""

    class SickAfterStart(Sick):
        def value_and_grad(self, z):
            self.only_call = -1 if self.calls % 5 == 0 else None
            return super().value_and_grad(z)

    potential = SickAfterStart(latent_potential(), [0, 100], "value", math.nan)
    full, last = run(make("ula", potential), 128 + 44)
    assert (full.nonfinite, full.accepted) == (8, 512 - 8)
    assert (last.nonfinite, last.accepted) == (4, 176 - 4)
    assert torch.equal(full.end[[0, 100]], full.start[[0, 100]])


@pytest.mark.parametrize("name", [None, "ula", "kla-baoab"])
def test_seeds_and_blocks_differ(name):
    """Another seed gives other chains, and so does every block."""
    sampler = name and make(name)
    zero, one = run(sampler, 256, seed=0), run(sampler, 256, seed=1)
    ends = [*zero, *one]
    assert torch.equal(joined(zero), joined(run(sampler, 256, seed=0)))
    for i, a in enumerate(ends):
        for b in ends[i + 1 :]:
            assert not (a.start == b.start).all(1).any() and not (a.end == b.end).all(1).any()


def test_base_draws_are_independent_of_the_starts_of_chains():
    """With no sampler the draws come from a stream of their own: none is the start of a chain, and they do not correlate."""
    base = run(None, 20_000, block_size=5_000)
    starts = joined(run(make("ula"), 20_000, n_steps=1, block_size=5_000), "start")
    assert not (joined(base) == starts).all(1).any()
    assert_mean(joined(base).double() * starts.double(), torch.zeros(3), "correlation")
    assert all(torch.equal(b.start, b.end) and len(b.potential_trace) == 0 for b in base)
    assert all((b.accepted, b.nonfinite, b.chain_steps) == (0, 0, 0) for b in base)


@pytest.mark.parametrize("name", ["ula", "mala", "hmc", "kla-baoab"])
def test_the_trace_is_the_mean_potential_before_each_step_and_after_the_last(name):
    """potential_trace[t] is U averaged over the block's positions that `watch` saw at t, for t = 0..n_steps."""
    potential, seen = latent_potential(), {}
    blocks = run(make(name, potential), 256, watch=lambda b, t, z: seen.__setitem__((b, t), z.clone()))
    assert sorted(seen) == [(b, t) for b in range(2) for t in range(5)]
    for b, block in enumerate(blocks):
        assert block.potential_trace.shape == (5,)
        expected = torch.stack([potential.value_and_grad(seen[b, t])[0].mean() for t in range(5)])
        assert (block.potential_trace - expected).abs().max() < 1e-9
        assert torch.equal(seen[b, 0], block.start) and torch.equal(seen[b, 4], block.end)


def test_progress_is_told_after_each_step():
    """on_step hears the chains advanced: the whole block at each step, and once per block of base draws."""
    told = []
    run(make("ula"), 300, on_step=told.append)
    assert told == [128] * 12
    told.clear()
    run(None, 300, on_step=told.append)
    assert told == [128] * 3


def test_no_steps_and_no_samples():
    """No steps return the starts and one potential; no samples no block."""
    (block,) = run(make("kla-baoab"), 50, n_steps=0)
    assert torch.equal(block.start, block.end) and block.potential_trace.shape == (1,) and block.chain_steps == 0
    assert run(make("ula"), 0) == []


@every_sampler
def test_resumed_chains_are_the_uninterrupted_ones(name, tmp_path):
    """5 steps, state and generator saved to a file, 5 more from the file: the 10 steps bit for bit, all of the state."""
    sampler, generator = make(name), seeded(3)
    start = sampler.init(PRIOR.sample(64, generator), generator)
    middle, _ = advance(sampler, start, 5, generator)
    torch.save({"state": middle._asdict(), "random": generator.get_state()}, tmp_path / "chain.pt")
    whole, _ = advance(sampler, middle, 5, generator)

    saved = torch.load(tmp_path / "chain.pt")
    resumed_generator = torch.Generator()
    resumed_generator.set_state(saved["random"])
    resumed, _ = advance(make(name), type(middle)(**saved["state"]), 5, resumed_generator)
    assert bitwise_equal(resumed, whole)
    assert all(not torch.equal(a.position, b.position) for a, b in pairwise([start, middle, whole]))
