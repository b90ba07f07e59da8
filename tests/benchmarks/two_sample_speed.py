"""Cost of relabelling: CPU-seconds and peak memory of MMD^2 under B relabelings, d = 64, one kernel or the default's sixteen.

    python tests/benchmarks/two_sample_speed.py [--n 2000 10000] [--relabelings 1000] [--kinds permutations flips fuse]

Every entry runs in a fresh process with one thread; medians are printed. CPU-seconds are the process's, drawing the relabelings
included; memory is the rise of the peak resident size over the data and the imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor


def measure(kind: str, n: int, count: int) -> tuple[float, float]:
    import torch

    from gebm_cli.core.kernels import Gaussian, Kernel
    from gebm_cli.core.two_sample.aggregation import relabelled_each
    from gebm_cli.core.two_sample.collections import collection
    from gebm_cli.core.two_sample.relabelled_mmd import RelabelledMmd
    from gebm_cli.core.two_sample.relabelling import Permutations, SignFlips

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 64, generator=generator) for _ in range(2))
    small = RelabelledMmd([Gaussian(8.0)], x[:64], y[:64])
    relabelled_each(small, Permutations(64, 64), 8, generator)  # libraries are loaded
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    kernels: list[Kernel] = collection(torch.cat([x, y])) if kind == "fuse" else [Gaussian(8.0)]
    group = Permutations(n, n) if kind == "permutations" else SignFlips(n)
    relabelled_each(RelabelledMmd(kernels, x, y, paired=kind != "permutations"), group, count, generator)
    return time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--relabelings", type=int, default=1000)
    parser.add_argument(
        "--kinds", nargs="+", choices=("permutations", "flips", "fuse"), default=["permutations", "flips"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for n in given.n:
        for kind in given.kinds:
            found = []
            for _ in range(given.repeats):
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    found.append(pool.submit(measure, kind, n, given.relabelings).result())
            seconds, memory = (statistics.median(values) for values in zip(*found, strict=True))
            told = {"kind": kind, "n": n, "relabelings": given.relabelings}
            print(json.dumps(told | {"cpu_s": round(seconds, 2), "mb": round(memory)}), flush=True)


if __name__ == "__main__":
    main()
