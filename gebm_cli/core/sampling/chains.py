"""Run many chains in blocks. A block has its own random stream and is one network call of fixed shape.

So block k of seed s is the same numbers, bit for bit, whatever the number of samples, the batch size or the number of
processes: the same noise meets the same kernels on the same shapes. The last block is run whole and cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.sampling.potential import Prior
from gebm_cli.core.sampling.samplers import Sampler


@dataclass(frozen=True)
class Block:
    """The end of one whole block of chains, of which the first `keep` were asked for, and what was watched on the way.

    `start` and `end` are whole, (block_size, d), so that decoding them is a network call of fixed shape too.

    `potential_trace` is U averaged over the block, before each step and after the last, (n_steps + 1,); `accepted` and
    `nonfinite` count steps of the chains kept, out of `chain_steps`.
    """

    keep: int
    start: Tensor
    end: Tensor
    potential_trace: Tensor
    accepted: int
    nonfinite: int
    chain_steps: int


def run_blocks(
    sampler: Sampler | None,
    prior: Prior,
    n_samples: int,
    n_steps: int,
    block_size: int,
    seed: int,
    device: torch.device,
    on_step: Callable[[int], None] = lambda chain_steps: None,
    watch: Callable[[int, int, Tensor], None] = lambda block, step, z: None,
) -> Iterator[Block]:
    """Chains started from the prior, block after block; with no sampler the prior's draws themselves.

    Args:
        n_samples: chains in all; ceil(n_samples / block_size) blocks are run.
        on_step: told the number of chains advanced after each step, for progress.
        watch: shown the positions (block_size, d) before step 0 and after each step; must not change them.
    """
    for block in range(-(-n_samples // block_size)):
        # Base draws and the starts of chains have streams of their own, so that the two sets can be compared as independent.
        generator = make_generator(seed, "base" if sampler is None else "chains", block, device=device)
        keep = min(block_size, n_samples - block * block_size)
        z = prior.sample(block_size, generator)
        if sampler is None:
            on_step(block_size)
            yield Block(keep, z, z, torch.empty(0), 0, 0, 0)
            continue
        yield _run_block(sampler, z, keep, n_steps, generator, on_step, lambda t, z, b=block: watch(b, t, z))  # type: ignore[misc]


def _run_block(
    sampler: Sampler,
    z: Tensor,
    keep: int,
    n_steps: int,
    generator: torch.Generator,
    on_step: Callable[[int], None],
    watch: Callable[[int, Tensor], None],
) -> Block:
    state = sampler.init(z, generator)
    trace = [state.potential.nanmean()]
    accepted = torch.zeros((), dtype=torch.long, device=z.device)
    nonfinite = accepted.clone()
    watch(0, state.position)
    for step in range(1, n_steps + 1):
        state, info = sampler.step(state, generator)
        accepted += info.accepted[:keep].sum()
        nonfinite += info.nonfinite[:keep].sum()
        trace.append(state.potential.nanmean())
        watch(step, state.position)
        on_step(len(z))
    return Block(keep, z, state.position, torch.stack(trace).cpu(), int(accepted), int(nonfinite), keep * n_steps)
