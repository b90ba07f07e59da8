"""The power that a pilot predicts against the power that real tests have, and how often the 10-90 % band holds it.

    python tests/benchmarks/power_prediction.py [--problem blob] [--pilot 360] [--pilots 60] [--runs 200] [--sizes 90 180 360]

One kernel, fixed beforehand, permutation tests at 5 %. "without Q" is the formula Phi(sqrt(n) M / s - c / (sqrt(n) s)) with the
first-order variance alone. In brackets: the 10 % and 90 % points over the pilots, which the band of one pilot should mimic. A band
"holds" a share of the runs up to one run.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from scipy.special import ndtr
from two_sample_problems import blob

from gebm_cli.core.kernels import Gaussian, Kernel
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.two_sample.aggregation import kernel_test
from gebm_cli.core.two_sample.sample_size import PowerCurve, power_curve, threshold

ALPHA = 0.05


def shift(n: int, generator: torch.Generator, different: bool = False) -> torch.Tensor:
    """(n, 3) standard normal; `different` moves the first coordinate by .7."""
    points = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return points + (torch.tensor([0.7, 0.0, 0.0]) if different else 0.0)


PROBLEMS = {
    "blob": (blob, Gaussian(0.12), 360, [90, 180, 270, 360, 450]),
    "shift": (shift, Gaussian(2.0), 60, [10, 20, 40, 60, 80]),
}


def without_q(x: torch.Tensor, y: torch.Tensor, kernel: Kernel, null: torch.Tensor, sizes: list[int]) -> list[float]:
    estimate, n = mmd2(x, y, kernel), len(x)
    s, c = estimate.standard_error * math.sqrt(n), n * threshold(null, ALPHA)
    return [max(ALPHA, float(ndtr(math.sqrt(k) * estimate.value / s - c / (math.sqrt(k) * s)))) for k in sizes]


def describe(values: np.ndarray) -> str:
    return f"{values.mean():.2f} [{np.quantile(values, 0.1):.2f}, {np.quantile(values, 0.9):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=PROBLEMS, default="blob")
    parser.add_argument("--pilot", type=int)
    parser.add_argument("--pilots", type=int, default=60)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, kernel, pilot, sizes = PROBLEMS[asked.problem]
    pilot, sizes = asked.pilot or pilot, asked.sizes or sizes
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(asked.seed)
    start = time.process_time()
    curves: list[PowerCurve] = []
    plain = []
    for _ in range(asked.pilots):
        x, y = draw(pilot, generator), draw(pilot, generator, True)
        null = kernel_test(x, y, kernel, 499, generator).null
        curves.append(power_curve(x, y, kernel, null, ALPHA, sizes))
        plain.append(without_q(x, y, kernel, null, sizes))
    print(f"{asked.problem}: {asked.pilots} pilots of {pilot} a side, {asked.runs} real tests for each size")
    print("| n | real | predicted | without Q | mean band | band holds real |\n|" + " --- |" * 6)
    power, low, high = (torch.stack([getattr(c, key) for c in curves]).numpy() for key in ("power", "low", "high"))
    for k, n in enumerate(sizes):
        pairs = ((draw(n, generator), draw(n, generator, True)) for _ in range(asked.runs))
        real = np.mean([kernel_test(x, y, kernel, 199, generator).p_value <= ALPHA for x, y in pairs])
        error, held = (
            math.sqrt(real * (1 - real) / asked.runs),
            ((low[:, k] <= real + 1 / asked.runs) & (real - 1 / asked.runs <= high[:, k])).mean(),
        )
        cells = [f"{real:.2f} ± {error:.2f}", describe(power[:, k]), describe(np.array(plain)[:, k])]
        cells += [f"[{low[:, k].mean():.2f}, {high[:, k].mean():.2f}]"]
        print(f"| {n} | " + " | ".join(cells) + f" | {100 * held:.0f} % |", flush=True)
    needed = np.array([c.needed for c in curves])
    known = needed[np.isfinite(needed)]
    print(f"needed for 80 %: median {np.median(needed):.0f}, known in {len(known)} of {len(needed)} pilots")
    print(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
