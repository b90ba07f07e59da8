"""How often each kind of two-sample test rejects: its level where nothing differs, its power where something does.

    python tests/benchmarks/two_sample_rates.py --problem gauss --null --n 60 40 --reps 2000 --kinds mmd mmd-fuse mmd-agg
    python tests/benchmarks/two_sample_rates.py --problem blob --n 360 --reps 200 --kinds mmd-fuse mmd-agg mmd deep

Every repetition draws both samples anew (n are those of each side in all; a test that learns splits them) and goes through the
function that the command calls. Printed: the share of p <= alpha with its binomial standard error for alpha .05 and .01, the
smallest p, and CPU-seconds a test. `--mutant split` tests learned kernels on the rows they were learned from, `--mutant rule`
leaves the +1 out of the p-value: both are seen to break the level.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from unittest import mock

import torch
from two_sample_problems import blob, hdgm

from gebm_cli.core.device import make_generator
from gebm_cli.core.two_sample import kinds
from gebm_cli.core.two_sample.kinds import Asked, run_test
from gebm_cli.core.two_sample.names import KINDS
from gebm_cli.core.two_sample.selection import Split


def gauss(n: int, generator: torch.Generator, different: bool = False) -> torch.Tensor:
    """(n, 5) standard normal; `different` shifts every coordinate by .2."""
    return torch.randn(n, 5, generator=generator, dtype=torch.float64) + (0.2 if different else 0.0)


PROBLEMS = {"gauss": gauss, "blob": blob, "hdgm": hdgm}


def everything_twice(n: int, share: float, generator: torch.Generator) -> Split:
    """The split of a mutant: all rows to learn from, and the same to test on."""
    return Split(torch.arange(n), torch.arange(n))


def p_value(kind: str, sizes: list[int], problem: str, different: bool, asked: Asked, seed: int, mutant: str) -> float:
    x, y = (
        PROBLEMS[problem](n, make_generator(seed, "data", side), different and side == 1)
        for side, n in enumerate((sizes[0], sizes[-1]))
    )
    split = everything_twice if mutant == "split" else kinds.split_rows
    with mock.patch.object(kinds, "split_rows", split):
        found = run_test(kind, x, y, asked, lambda purpose: make_generator(seed, purpose)).outcome  # type: ignore[arg-type]
    if mutant == "rule":
        return float((found.null > found.statistic).double().mean())
    return found.p_value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=PROBLEMS, default="gauss")
    parser.add_argument("--null", action="store_true", help="both samples from the first law")
    parser.add_argument("--n", type=int, nargs="+", default=[60])
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--permutations", type=int, default=999)
    parser.add_argument("--stop-early", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["mmd-fuse"])
    parser.add_argument("--mutant", choices=("none", "split", "rule"), default="none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = replace(Asked(), count=given.permutations, stop_early=given.stop_early)
    for kind in given.kinds:
        start = time.process_time()
        seeds = range(given.first_seed, given.first_seed + given.reps)
        args = (given.n, given.problem, not given.null, asked)
        p = torch.tensor([p_value(kind, *args, seed, given.mutant) for seed in seeds], dtype=torch.float64)
        told = {"kind": kind, "problem": given.problem, "null": given.null, "n": given.n, "reps": given.reps}
        for alpha in (0.05, 0.01):
            rate = (p <= alpha).double().mean().item()
            told[f"at {alpha}"] = f"{rate:.4f} +- {max(rate * (1 - rate), 0.0) ** 0.5 / given.reps**0.5:.4f}"
        told |= {"smallest p": p.min().item(), "cpu_s": round((time.process_time() - start) / given.reps, 3)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
