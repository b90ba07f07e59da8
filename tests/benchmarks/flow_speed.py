"""Cost of one MMD-flow step, value included, against one bare product of the pooled kernel matrix with [w z, w].

    python tests/benchmarks/flow_speed.py [--n 10000] [--d 2] [--repeats 15] [--dtype float32] [--blocks 256 512 1024 2048]

"Bare" is the Gaussian kernel of n particles against the n + m pooled points (m = n), written plainly in blocks of the size given,
times the (n + m) x (d + 1) matrix [w z, w]: the gradient up to a scaling, and no divergence. "In place" is the same product with
no temporaries. All run in turn, in one thread; processor time; the ratio is that of the step to the bare product of the same turn,
its mean with the standard error over turns, the bare product at its own fastest block. Memory is what torch
allocates at most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from memory import peak_bytes

from gebm_cli.core import fields
from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.particles.descents import MmdDescent
from gebm_cli.core.particles.flow import FlowState, run


def pooled(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return x + 0.5, y


def bare(x: Tensor, z: Tensor, w: Tensor, bandwidth: float, block: int) -> Tensor:
    right, out = torch.cat([w[:, None] * z, w[:, None]], 1), x.new_zeros(len(x), x.shape[1] + 1)
    for i in range(0, len(x), block):
        for j in range(0, len(z), block):
            a, b = x[i : i + block], z[j : j + block]
            squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
            out[i : i + block] += torch.exp(-squared / (2 * bandwidth**2)) @ right[j : j + block]
    return out


def in_place(x: Tensor, z: Tensor, w: Tensor, bandwidth: float, block: int) -> Tensor:
    right, out = torch.cat([w[:, None] * z, w[:, None]], 1), x.new_zeros(len(x), x.shape[1] + 1)
    norms, others = x.square().sum(1), z.square().sum(1)
    for i in range(0, len(x), block):
        for j in range(0, len(z), block):
            squared = torch.addmm(others[None, j : j + block], x[i : i + block], z[j : j + block].T, alpha=-2.0)
            kernel = squared.add_(norms[i : i + block, None]).mul_(-0.5 / bandwidth**2).exp_()
            out[i : i + block] += kernel @ right[j : j + block]
    return out


def seconds(call: object, *arguments: object) -> float:
    start = time.process_time()
    call(*arguments)  # type: ignore[operator]
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--d", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--blocks", type=int, nargs="+", default=[256, 512, 1024, 2048])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    x, y = pooled(asked.n, asked.d, getattr(torch, asked.dtype))
    z, bandwidth = torch.cat([x, y]), float(asked.d) ** 0.5
    w = torch.cat([torch.full((asked.n,), s / asked.n, dtype=x.dtype) for s in (1.0, -1.0)])
    descent, state = MmdDescent(y, Gaussian(bandwidth)), FlowState(x, 0.1)

    def step(block: int) -> None:  # the step of `run`, with the value that its gradient brings
        fields.CPU_BLOCK = block
        point = descent.at(state.particles)
        FlowState(state.particles - state.step_size * point.gradient(), state.step_size)
        assert point.value > 0

    kinds = {"step": step} | {
        name: lambda block, product=product: product(x, z, w, bandwidth, block)
        for name, product in (("bare", bare), ("in place", in_place))
    }
    own = fields.CPU_BLOCK
    best = {}
    print(f"n = m = {asked.n}, d = {asked.d}, {asked.dtype}; CPU s by block, the median of 3")
    for name, call in kinds.items():
        found = {block: statistics.median(seconds(call, block) for _ in range(3)) for block in asked.blocks}
        best[name] = min(found, key=found.get)  # type: ignore[arg-type]
        print(f"  {name}: " + ", ".join(f"{block}: {value:.3f}" for block, value in found.items()), flush=True)
    block = {name: own if name == "step" else best[name] for name in kinds}
    turns = [{name: seconds(call, block[name]) for name, call in kinds.items()} for _ in range(asked.repeats)]
    for product in ("bare", "in place"):
        ratios = [turn["step"] / turn[product] for turn in turns]
        error = statistics.stdev(ratios) / len(ratios) ** 0.5
        print(
            f"step with its value (block {own}) / {product} (block {best[product]}): {statistics.mean(ratios):.3f} +- {error:.3f}"
            f" ({statistics.median(t['step'] for t in turns):.3f} s"
            f" against {statistics.median(t[product] for t in turns):.3f} s)",
            flush=True,
        )
    peak = peak_bytes(lambda: run(MmdDescent(y, Gaussian(bandwidth)), state, 1))
    print(f"peak memory of a step beside the data: {peak / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
