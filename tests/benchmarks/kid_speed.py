"""KID and PRDC of the same features by this project and by others, in turn on one machine: CPU seconds, wall time, memory.

    python tests/benchmarks/kid_speed.py [--n 10000] [--dims 2048] [--repeats 3] [--threads 1] [--peers/--no-peers] [--prdc]

Every entry runs in a fresh process, in turn within each repeat, so that a busy machine touches all; medians are printed. CPU
seconds are the process's, over all threads. "Extra memory" is the rise of the peak resident size over the features and imports.
The others are optional: torchmetrics, clean-fid, torch-fidelity (KID) and prdc; those that cannot be imported are left out.
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


def features(n: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of non-negative float32 features with a decaying spectrum, a little apart."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(1.0, 0.05, dims)
    sets = [torch.randn(n, dims, generator=generator).mul_(scale).add_(shift).relu_() for shift in (0.3, 0.32)]
    return sets[0], sets[1]


def own_kid() -> Callable:
    from gebm_cli.core.evaluation.kid import kid

    return lambda x, y: tuple(vars(kid(x, y)).values())


def own_subsets() -> Callable:
    from gebm_cli.core.evaluation.kid import kid_subsets

    return lambda x, y: (lambda k: (k.mean, k.spread))(kid_subsets(x, y))


def torchmetrics() -> Callable:
    from torchmetrics.image.kid import KernelInceptionDistance

    def score(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
        metric = KernelInceptionDistance(feature=torch.nn.Identity())
        metric.real_features, metric.fake_features = [x], [y]
        return tuple(value.item() for value in metric.compute())

    return score


def clean_fid() -> Callable:
    from cleanfid.fid import kernel_distance

    return lambda x, y: (kernel_distance(x.numpy(), y.numpy()), None)


def torch_fidelity() -> Callable:
    from torch_fidelity.metric_kid import kid_features_to_metric

    return lambda x, y: tuple(kid_features_to_metric(x, y, verbose=False).values())


def own_prdc() -> Callable:
    from gebm_cli.core.evaluation.prdc import prdc

    return lambda x, y: (lambda p: (p.precision, p.recall, p.density, p.coverage))(prdc(x, y))


def peer_prdc() -> Callable:
    from prdc import compute_prdc

    return lambda x, y: tuple(float(v) for v in compute_prdc(x.numpy(), y.numpy(), nearest_k=5).values())


KID = {
    "all pairs, with standard error": own_kid,
    "gebm 100 x 1000": own_subsets,
    "torchmetrics 100 x 1000": torchmetrics,
    "clean-fid 100 x 1000": clean_fid,
    "torch-fidelity 100 x 1000": torch_fidelity,
}
PRDC = {"gebm prdc": own_prdc, "prdc package": peer_prdc}


def measure(name: str, n: int, dims: int, threads: int) -> tuple[tuple, float, float, float] | None:
    """Value, CPU seconds, wall seconds, extra MB; None where the package is missing. Call it in a fresh process."""
    torch.set_num_threads(threads)
    try:
        score = (KID | PRDC)[name]()
    except ImportError:
        return None
    x, y = features(n, dims)
    _ = x[:64] @ x[:64].T  # the library's own buffers
    before, cpu, wall = _peak(), time.process_time(), time.perf_counter()
    value = score(x, y)
    return value, time.process_time() - cpu, time.perf_counter() - wall, _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--prdc", action="store_true", help="precision, recall, density, coverage instead of KID")
    asked = parser.parse_args()
    names = list(PRDC if asked.prdc else KID)
    names = names if asked.peers else names[:1]
    runs: dict[str, list] = {name: [] for name in names}
    for _ in range(asked.repeats):
        for name in names:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                runs[name].append(pool.submit(measure, name, asked.n, asked.dims, asked.threads).result())
    print(f"n = {asked.n} a side, d = {asked.dims}, {asked.threads} threads, median of {asked.repeats}")
    print("| what | value | CPU s | wall s | extra memory MB |\n|" + " --- |" * 5)
    for name, results in runs.items():
        if None in results:
            continue
        value = ", ".join("-" if v is None else f"{v:.6g}" for v in results[0][0])
        cpu, wall, memory = (statistics.median(r[i] for r in results) for i in (1, 2, 3))
        print(f"| {name} | {value} | {cpu:.1f} | {wall:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
