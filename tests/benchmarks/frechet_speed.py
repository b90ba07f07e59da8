"""What the Frechet distance costs and how exact it is: against scipy's matrix root, and against closed forms.

    OMP_NUM_THREADS=1 python tests/benchmarks/frechet_speed.py [--dim 2048] [--seed 0]

CPU seconds of this process, all threads, so that other work on the machine counts for little. The root takes about half a minute.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from scipy.linalg import sqrtm

from gebm_cli.core.evaluation.frechet import frechet_distance, trace_of_root
from gebm_cli.core.evaluation.moments import Moments, moments


def timed(function, repeats: int = 3) -> tuple[object, float, float]:
    """The result, and the fastest CPU and wall seconds of a few repeats."""
    cpu, wall = [], []
    for _ in range(repeats):
        clocks = time.process_time(), time.perf_counter()
        result = function()
        cpu.append(time.process_time() - clocks[0])
        wall.append(time.perf_counter() - clocks[1])
    return result, min(cpu), min(wall)


def sets(n: int, d: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of float32 features (n, d) with variances from 30 to 2e-5, one of them mixed and moved a little."""
    scale = torch.logspace(1.5, -4.7, d).sqrt()
    x = torch.randn(n, d, generator=generator) * scale
    mix = torch.eye(d) + 0.05 * torch.randn(d, d, generator=generator) / d**0.5
    return x, (torch.randn(n, d, generator=generator) * scale) @ mix + 0.01


def against_sqrtm(d: int, generator: torch.Generator) -> None:
    """The trace term from the same covariances of 10,000 features a side."""
    s1, s2 = (moments(features).covariance for features in sets(10_000, d, generator))
    ours, cpu, _ = timed(lambda: trace_of_root(s1, s2))
    product = (s1 @ s2).numpy()
    root, cpu_root, _ = timed(lambda: np.trace(sqrtm(product)).real, repeats=1)
    difference = abs(ours - root) / root
    print(f"trace of the root, d = {d}: {cpu:.2f} CPU-s; scipy sqrtm {cpu_root:.1f} CPU-s; ratio {cpu_root / cpu:.0f}")
    print(f"relative difference {difference:.1e}", flush=True)


def closed_forms(generator: torch.Generator, d: int = 512) -> None:
    """Commuting covariances in a rotated frame, whose distance is sum (sqrt a - sqrt b)^2."""
    vectors = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    print(f"\n| smallest eigenvalue | relative error | sqrtm |\n|---|---|---|  (d = {d})")
    for smallest in (-4, -8, -12):
        a = torch.logspace(1.5, smallest, d, dtype=torch.float64)
        b = torch.logspace(1.0, smallest, d, dtype=torch.float64).flip(0).roll(d // 2)
        s1, s2 = ((vectors * v) @ vectors.T for v in (a, b))
        s1, s2 = (s1 + s1.T) / 2, (s2 + s2.T) / 2
        true = (a.sqrt() - b.sqrt()).square().sum().item()
        zero = torch.zeros(d, dtype=torch.float64)
        ours = frechet_distance(Moments(None, zero, s1), Moments(None, zero, s2)).value
        theirs = (s1.trace() + s2.trace()).item() - 2 * np.trace(sqrtm((s1 @ s2).numpy())).real
        print(f"| 1e{smallest} | {abs(ours / true - 1):.1e} | {abs(theirs / true - 1):.1e} |", flush=True)


def whole_calls(d: int, generator: torch.Generator) -> None:
    """From float32 features to the distance."""
    x, y = sets(10_000, d, generator)
    known = moments(y)
    few, other = x[:1000], y[:1000]
    cases = {
        "1,000 a side": lambda: frechet_distance(few, other, with_error=False),
        "1,000 a side, with its error": lambda: frechet_distance(few, other),
        "1,000 against cached moments": lambda: frechet_distance(few, known, with_error=False),
        "1,000 against cached moments, with its error": lambda: frechet_distance(few, known),
        "10,000 against cached moments": lambda: frechet_distance(x, known, with_error=False),
        "10,000 against cached moments, with its error": lambda: frechet_distance(x, known),
        "10,000 a side, with its error": lambda: frechet_distance(x, y),
    }
    print(f"\n| features, d = {d} | CPU-s | wall s |\n|---|---|---|")
    for name, call in cases.items():
        _, cpu, wall = timed(call, repeats=3 if name.startswith("1,") else 1)
        print(f"| {name} | {cpu:.2f} | {wall:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = torch.Generator().manual_seed(options.seed)
    whole_calls(options.dim, source)
    closed_forms(source)
    against_sqrtm(options.dim, source)
