"""How often the 95 % intervals of KID and of the Inception Score hold the true value, over repeated data sets.

    python tests/benchmarks/score_coverage.py [--repeats 300] [--sizes 500x500 2000x500 1000x1000]

KID: features of 64 dimensions, positive and skewed, the second law scaled and shifted. Truth: 0 where the laws are equal, else
the mean over the repetitions and as many more data sets (KID is unbiased). "old" is the first-order error of `mmd2`. "SE / sd"
is the mean error bar over the spread of the values. Inception Score: five laws of logits; truth from 400,000 of them.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

from gebm_cli.core.evaluation.inception_score import inception_score
from gebm_cli.core.evaluation.kid import kid
from gebm_cli.core.kernels import Polynomial
from gebm_cli.core.mmd import mmd2

DIMS, Z = 64, 1.959964
SEPARATIONS = {"none": 0.0, "small": 0.05, "medium": 0.1, "clear": 0.5}


def features(n: int, separation: float, generator: torch.Generator) -> torch.Tensor:
    scale = 2 * torch.linspace(1.0, 0.2, DIMS) ** 2
    rectified = torch.relu(torch.randn(n, DIMS, generator=generator) * scale + 0.3)
    return rectified * (1 + 0.3 * separation) + 0.1 * separation


def logits(law: str, n: int, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(n, 20, generator=generator)
    if law == "nearly uninformative":
        return 0.1 * noise
    if law == "unequal classes":
        kinds = torch.multinomial(0.6 ** torch.arange(20.0), n, True, generator=generator)
        return 5 * torch.nn.functional.one_hot(kinds, 20) + noise
    if law == "unequal confidence":
        return noise * torch.exp(torch.randn(n, 1, generator=generator))
    if law == "sure and even":
        return 50.0 * torch.nn.functional.one_hot(torch.randint(20, (n,), generator=generator), 20)
    return 6 * noise


def describe(inside: np.ndarray) -> str:
    rate = inside.mean()
    return f"{100 * rate:.1f} % ± {100 * math.sqrt(rate * (1 - rate) / len(inside)):.1f}"


def kid_row(name: str, n: int, m: int, repeats: int, generator: torch.Generator) -> str:
    separation, kernel = SEPARATIONS[name], Polynomial(3)
    pairs = ((features(n, 0.0, generator), features(m, separation, generator)) for _ in range(repeats))
    runs = [(kid(x, y), mmd2(x, y, kernel).standard_error) for x, y in pairs]
    values, errors = (np.array([getattr(run[0], key) for run in runs]) for key in ("value", "standard_error"))
    old = np.array([run[1] for run in runs])
    more = [kid(features(n, 0.0, generator), features(m, separation, generator)).value for _ in range(repeats)]
    truth = 0.0 if separation == 0 else np.concatenate([values, more]).mean()
    spread = np.concatenate([values, more]).std(ddof=1)
    cells = [f"{errors.mean() / spread:.2f}", f"{old.mean() / spread:.2f}"]
    cells += [describe(np.abs(values - truth) <= Z * e) for e in (errors, old)]
    return f"| {name} | {n}, {m} | {truth:.3g} | {spread:.2g} | " + " | ".join(cells) + " |"


def score_row(law: str, n: int, repeats: int, generator: torch.Generator) -> str:
    truth = inception_score(logits(law, 400_000, generator)).corrected
    runs = [inception_score(logits(law, n, generator)) for _ in range(repeats)]
    value, full, corrected = (np.array([getattr(run, k) for run in runs]) for k in ("value", "full", "corrected"))
    ratio = np.mean([run.standard_error for run in runs]) / corrected.std(ddof=1)
    inside = np.array([run.interval.contains(truth) for run in runs])
    return (
        f"| {law} | {n} | {truth:.5f} | {value.mean():.5f} | {full.mean():.5f} | {corrected.mean():.5f} | {ratio:.2f} | "
        f"{describe(inside)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--sizes", nargs="*", default=["500x500", "2000x500", "1000x1000"])
    asked = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    print("| separation | n, m | true KID | sd | SE / sd | old SE / sd | coverage | old coverage |\n|" + " --- |" * 8)
    for size in asked.sizes:
        n, m = map(int, size.split("x"))
        for name in SEPARATIONS:
            print(kid_row(name, n, m, asked.repeats, generator), flush=True)
    print("\n| logits | n | true IS | 10 splits | full | corrected | SE / sd | coverage |\n|" + " --- |" * 8)
    for law in ("nearly uninformative", "unequal classes", "unequal confidence", "sharp", "sure and even"):
        for n in (500, 2000):
            print(score_row(law, n, asked.repeats, generator), flush=True)


if __name__ == "__main__":
    main()
