"""The bias of E z^2 on U = z^2 / 2 + .8 cos 2z (exact 1.4457) of each sampler without a Metropolis test.

    python tests/benchmarks/splitting_bias.py

100,000 chains from exact draws, 60 steps of warm-up, 400 kept; standard errors between chains. ULA and LM take
epsilon = h^2 / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Ula

N_CHAINS, N_WARMUP, N_KEPT = 100_000, 60, 400
CASES = [(100.0, 0.4), (100.0, 0.6), (100.0, 0.8), (10.0, 0.6), (1.0, 0.6), (1.0, 0.8)]


@dataclass(frozen=True)
class Ripple:
    def value(self, z: Tensor) -> Tensor:
        return (z.square() / 2 + 0.8 * (2 * z).cos()).sum(1)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(z), z - 1.6 * (2 * z).sin()


def draws(generator: torch.Generator) -> tuple[Tensor, float]:
    """Exact draws by the inverse distribution function on a grid, and E z^2 by the trapezoidal rule."""
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weight = (-Ripple().value(grid[:, None])).exp()
    cdf = weight.cumsum(0) / weight.sum()
    u = torch.rand(N_CHAINS, generator=generator, dtype=torch.float64)
    return grid[torch.searchsorted(cdf, u).clamp(max=len(grid) - 1)][:, None], float(
        (weight * grid**2).sum() / weight.sum()
    )


def bias(sampler, seed: int = 0) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    z, truth = draws(generator)
    state, second = sampler.init(z, generator), torch.zeros(N_CHAINS, dtype=torch.float64)
    for step in range(N_WARMUP + N_KEPT):
        state, _ = sampler.step(state, generator)
        if step >= N_WARMUP:
            second += state.position[:, 0].square() / N_KEPT
    return second.mean().item() / truth - 1, second.std().item() / math.sqrt(N_CHAINS) / truth


if __name__ == "__main__":
    names = ("aboba (gebm)", "obabo", "baoab", "ula", "lm")
    print("| friction | h | " + " | ".join(names) + " |\n| --- | --- | " + " | ".join("---" for _ in names) + " |")
    for friction, h in CASES:
        kinetic = [Kla(Ripple(), h, friction, scheme) for scheme in ("gebm", "obabo", "baoab")]
        cells = [bias(s) for s in (*kinetic, Ula(Ripple(), h * h / 2), LeimkuhlerMatthews(Ripple(), h * h / 2))]
        print(
            f"| {friction:g} | {h} | " + " | ".join(f"{100 * b:+.2f} +- {100 * e:.2f} %" for b, e in cells) + " |",
            flush=True,
        )
