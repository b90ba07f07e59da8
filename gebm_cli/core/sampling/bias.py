"""The bias meter: the same chains at step h and at h / 2 under the same Brownian noise; their difference is the bias of h."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Ula
from gebm_cli.core.sampling.state import State


@dataclass(frozen=True)
class Difference:
    """Mean over chains of f at step h minus f at h / 2, in units of f's standard deviation, and its standard error."""

    value: float
    standard_error: float


class CoupledNoise:
    """Stands in for a generator: records the noise of the fine chain, and then replays it, two by two, to the coarse one.

    Two fine moves v = c v + s x_1, v = c v + s x_2 are one coarse move with (c x_1 + x_2) / sqrt(1 + c^2), again N(0, I).
    """

    def __init__(self, generator: torch.Generator, c: float) -> None:
        self.generator, self.c = generator, c
        self.recorded: list[Tensor] = []
        self.replaying = False

    def normal(self, like: Tensor) -> Tensor:
        if self.replaying:
            first, second = self.recorded.pop(0), self.recorded.pop(0)
            return (self.c * first + second) / math.sqrt(1 + self.c**2)
        noise = torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)
        self.recorded.append(noise)
        return noise


def bias_meter(
    sampler: Ula | LeimkuhlerMatthews | Kla,
    state: State,
    n_steps: int,
    observe: Callable[[Tensor], dict[str, Tensor]],
    generator: torch.Generator,
) -> dict[str, Difference]:
    """What halving the step changes, n_steps from `state` on: an estimate of the bias of h for an unadjusted sampler.

    `state` should be near stationarity at step h. The fine chains relax from there to the law of h / 2 within the n_steps h of time
    they have, so a bias of slow modes is seen in part. `observe` maps positions (n, ...) to scalars (n,).
    """
    halved = sampler.step_size / 2
    if isinstance(sampler, Kla):
        per_move = halved / sampler.letters.count("o")
        c = math.exp(-sampler.friction * per_move)
    else:
        c = 1.0
    fine_sampler = replace(sampler, step_size=halved)
    coarse, fine, noise = state, state, CoupledNoise(generator, c)
    for _ in range(n_steps):
        noise.replaying = False
        for _ in range(2):
            fine, _ = fine_sampler.step(fine, noise)  # type: ignore[arg-type]
        noise.replaying = True
        coarse, _ = sampler.step(coarse, noise)  # type: ignore[arg-type]
    return {
        name: _difference(x, y)
        for (name, x), y in zip(observe(coarse.position).items(), observe(fine.position).values(), strict=True)
    }


def _difference(coarse: Tensor, fine: Tensor) -> Difference:
    gap = (coarse - fine).double()
    gap = gap[torch.isfinite(gap)]
    if len(gap) < 2:
        return Difference(math.nan, math.nan)
    scale = fine[torch.isfinite(fine)].double().std().item()
    if not scale > 0:
        return Difference(math.nan, math.nan)
    return Difference(gap.mean().item() / scale, gap.std().item() / math.sqrt(len(gap)) / scale)
