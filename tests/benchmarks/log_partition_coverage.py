"""How often log Z lies within two of its standard errors, by the share of the heaviest weight and by the effective sample size.

    python tests/benchmarks/log_partition_coverage.py [--n 1000 10000 50000] [--repeats 400] [--seed 0]

The base is N(0, 1) and the energy exact, so that the truth is known. Shift: data N(d, 1), -E = d x, log Z = KL = d^2 / 2; the
weights are lognormal. Scale: data N(0, s^2), -E = k x^2 / 2 with k = 1 - 1 / s^2, log Z = log s, KL = (s^2 - 1) / 2 - log s; the
weights have the tail of a power law of index 1 / k, and from s^2 = 2 on no variance. Printed: a table by KL for the shift at the
largest n, then coverage and error of log Z in bins, over a grid of KL from .25 to 16 (shift) and of s^2 from 1.2 to 8 (scale).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from gebm_cli.core.objectives.kale import log_mean_exp
from gebm_cli.experiment.doubts import HEAVY, most_certified

SHIFT_KL = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 12.5, 18.0)
SHARES = (0.0, 0.02, 0.05, 0.1, HEAVY, 0.4, 1.01)
SIZES = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, np.inf)
BUDGET = 2_000_000  # draws for each point of the grid, so that every n costs the same


@dataclass(frozen=True)
class Law:
    """-E of base draws, the true log Z, E_P[-E] and KL."""

    minus_energy: Callable[[np.ndarray], np.ndarray]
    log_z: float
    on_data: float

    @property
    def kl(self) -> float:
        return self.on_data - self.log_z


def shift(kl: float) -> Law:
    d = np.sqrt(2 * kl)
    return Law(lambda x: d * x, kl, 2 * kl)


def scale(variance: float) -> Law:
    k = 1 - 1 / variance
    return Law(lambda x: k * x * x / 2, np.log(variance) / 2, (variance - 1) / 2)


def repeated(law: Law, n: int, repeats: int, seed: int) -> np.ndarray:
    """Rows of error of log Z, z-score, ESS and share of the heaviest weight, (repeats, 4)."""
    draws = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        found = log_mean_exp([torch.from_numpy(law.minus_energy(draws.standard_normal(n)))])
        error = found.value - law.log_z
        rows.append((error, error / found.standard_error, found.effective_sample_size, found.heaviest))
    return np.array(rows)


def by_kl(n: int, repeats: int, seed: int) -> None:
    print(f"\nshift, n = {n:,}, {repeats} repeats, log(n / 3) = {most_certified(n):.2f}")
    print("| KL | mean KALE | mean z of KALE | largest z | within 2 SE | median ESS | told |\n" + "| --- " * 7 + "|")
    for kl in SHIFT_KL:
        law = shift(kl)
        error, z, ess, heaviest = repeated(law, n, repeats, seed).T
        told = np.mean((heaviest > HEAVY) | (law.kl - error > most_certified(n)))
        print(
            f"| {kl:g} | {kl - error.mean():.3f} | {-z.mean():.1f} | {-z.min():.1f} | {np.mean(np.abs(z) < 2):.2f} | "
            f"{np.median(ess):,.0f} | {told:.2f} |"
        )


def by_bins(name: str, found: np.ndarray, values: np.ndarray, edges: tuple[float, ...]) -> None:
    for low, high in pairwise(edges):
        error, z = found[(values >= low) & (values < high), :2].T
        if len(z) >= 50:
            print(
                f"| {name} {low:g} to {high:g} | {len(z):,} | {np.mean(np.abs(z) < 2):.2f} | {z.mean():.1f} | {error.mean():.3f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    by_kl(max(options.n), options.repeats, options.seed)
    grids = {
        "shift": [shift(kl) for kl in np.geomspace(0.25, 16, 20)],
        "scale": [scale(s2) for s2 in np.linspace(1.2, 8, 20)],
    }
    for family, laws in grids.items():
        for n in options.n:
            repeats = min(400, BUDGET // n)
            found = np.concatenate([repeated(law, n, repeats, options.seed + i) for i, law in enumerate(laws)])
            print(f"\n{family}, n = {n:,}\n| bin | sets | within 2 SE | mean z | mean error |\n" + "| --- " * 5 + "|")
            by_bins("heaviest", found, found[:, 3], SHARES)
            by_bins("ESS", found, found[:, 2], SIZES)


if __name__ == "__main__":
    main()
