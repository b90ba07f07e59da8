"""The deep kernel: CPU seconds and memory of one training step against plain autograd, training time, and power.

    python tests/benchmarks/deep_kernel_speed.py [--sizes 500 2000 4000] [--d 10] [--threads 1]
    python tests/benchmarks/deep_kernel_speed.py --power {blob,hdgm} [--kernels 5] [--tests 20] [--n 360] [--null]

"Plain" is the criterion as the released code computes it: whole kernel matrices of the pooled rows under autograd. Every entry
runs in a fresh process. CPU seconds are the process's, the median of three steps; memory is the rise of the peak resident size.
`--power` trains kernels on n rows a side each and tests each on fresh sets of the same size, B = 199, level .05; with `--null`
both sides have one law. The standard error is that over kernels.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from two_sample_problems import blob, hdgm

from gebm_cli.core.two_sample.aggregation import kernel_test
from gebm_cli.core.two_sample.deep_criterion import Pairs, Scales, criterion
from gebm_cli.core.two_sample.deep_kernel import mlp
from gebm_cli.core.two_sample.deep_training import train_deep_kernel

PROBLEMS = {"blob": (blob, 360), "hdgm": (hdgm, 2000)}


def own(x: torch.Tensor, y: torch.Tensor, scales: Scales) -> Callable:
    pairs = Pairs(x, y)
    return lambda phi: criterion(phi, scales, pairs)


def plain(x: torch.Tensor, y: torch.Tensor, scales: Scales) -> Callable:
    n, z = len(x), torch.cat([x, y])

    def distances(a: torch.Tensor) -> torch.Tensor:
        return (a.square().sum(1)[:, None] + a.square().sum(1)[None] - 2 * a @ a.T).clamp(min=0)

    def value(phi: torch.Tensor) -> torch.Tensor:
        epsilon = torch.sigmoid(scales.mixing)
        near = torch.exp(-distances(phi) / scales.feature.exp())
        k = ((1 - epsilon) * near + epsilon) * torch.exp(-distances(z) / scales.raw.exp())
        h = k[:n, :n] + k[n:, n:] - k[:n, n:] - k[:n, n:].T
        variance = 4 * h.sum(1).square().sum() / n**3 - 4 * h.sum() ** 2 / n**4
        return (h.sum() - h.trace()) / (n * (n - 1)) / (variance + 1e-8).sqrt()

    return value


STEPS = {"blocks": own, "plain autograd": plain}


def step(name: str, n: int, d: int, threads: int) -> tuple[float, float, float]:
    """J, CPU seconds of a step, and extra MB. Call it in a fresh process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, y, network = torch.randn(n, d), torch.randn(n, d) + 0.1, mlp(d)
    scales = Scales.start(0.02, 2.0 * d, 0.1, x)
    network(x[:64]).sum().backward()
    before, seconds = _peak(), []
    evaluate = STEPS[name](x, y, scales)
    for _ in range(3):
        start = time.process_time()
        value = evaluate(network(torch.cat([x, y])))
        value.backward()
        seconds.append(time.process_time() - start)
    return value.item(), statistics.median(seconds), _peak() - before


def train(problem: str, n: int, seed: int, n_tests: int, null: bool, threads: int) -> tuple[float, float, float]:
    """CPU seconds of training, extra MB, and the share of `n_tests` fresh tests that reject (nan of none)."""
    torch.set_num_threads(threads)
    sample, generator = PROBLEMS[problem][0], torch.Generator().manual_seed(seed)
    before, start = _peak(), time.process_time()
    trained = train_deep_kernel(sample(n, generator), sample(n, generator, not null), generator)
    seconds, memory, rejected = time.process_time() - start, _peak() - before, 0
    for _ in range(n_tests):
        x, y = (trained.rows(sample(n, generator, side and not null)) for side in (False, True))
        rejected += kernel_test(x, y, trained.kernel, 199, generator).p_value <= 0.05
    return seconds, memory, rejected / n_tests if n_tests else float("nan")


def fresh(function: Callable, *arguments: object) -> tuple:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def power(asked: argparse.Namespace) -> None:
    n = asked.n or PROBLEMS[asked.power][1]
    runs = []
    for seed in range(asked.kernels):
        runs.append(fresh(train, asked.power, n, seed, asked.tests, asked.null, asked.threads))
        print(f"kernel {seed}: rejects {runs[-1][2]:.3f}, {runs[-1][0]:.1f} CPU s", flush=True)
    shares = [run[2] for run in runs]
    error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else float("nan")
    print(f"{asked.power}, n = {n} a side: {statistics.mean(shares):.3f} +- {error:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 4000])
    parser.add_argument("--d", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--power", choices=list(PROBLEMS))
    parser.add_argument("--kernels", type=int, default=5)
    parser.add_argument("--tests", type=int, default=20)
    parser.add_argument("--n", type=int)
    parser.add_argument("--null", action="store_true")
    asked = parser.parse_args()
    if asked.power:
        power(asked)
        return
    print("| what | n a side | J | CPU s | extra memory MB |\n|" + " --- |" * 5)
    for n in asked.sizes:
        for name in STEPS:
            value, cpu, memory = fresh(step, name, n, asked.d, asked.threads)
            print(f"| step, {name} | {n} | {value:.4f} | {cpu:.3f} | {memory:.0f} |", flush=True)
    for problem, (_, n) in PROBLEMS.items():
        cpu, memory, _ = fresh(train, problem, n, 0, 0, False, asked.threads)
        print(f"| training, {problem} | {n} | - | {cpu:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
