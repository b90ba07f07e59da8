"""Steps until particles reach the three rings: the KALE flow against the MMD flow, both with backtracking, a seed a row.

    python tests/benchmarks/flow_rings.py [--seeds 10 11 12 13 14] [--regularisation 0.03]

60 particles at one point of the first ring, 20 data points on each, Gaussian kernel of bandwidth 0.1. A flow has reached
the rings to a distance when W1 to them is below it at a step that is a multiple of 10.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.divergences.transport import wasserstein1
from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.particles.descents import Descent, KaleDescent, MmdDescent
from gebm_cli.core.particles.flow import FlowState, run

DISTANCES = (0.2, 0.1, 0.08, 0.06)


def rings(n_each: int) -> torch.Tensor:
    """Evenly spaced points of three circles of radius 0.3, one under the other (Glaser et al. 2021)."""
    angle = torch.arange(n_each, dtype=torch.float64) * (2 * math.pi / n_each)
    ring = 0.3 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([ring - torch.tensor([0.0, 0.75 * i]) for i in range(3)])


def steps_to(descent: Descent, target: torch.Tensor, seed: int, n_steps: int) -> tuple[list[float], float, float]:
    """The step at which each distance is reached, infinite where it is not; W1 at the end; and processor seconds a step."""
    start = torch.tensor([0.0, -0.3]) + 0.01 * torch.randn(
        len(target), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    state, begun, spent = FlowState(start, 0.01), [math.inf] * len(DISTANCES), 0.0
    apart = math.nan
    for step in range(10, n_steps + 1, 10):
        clock = time.process_time()
        state = run(descent, state, 10, "backtracking")
        spent += time.process_time() - clock
        apart = wasserstein1(state.particles, target).value
        begun = [min(b, step) if apart < distance else b for b, distance in zip(begun, DISTANCES, strict=True)]
    return begun, apart, spent / n_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--regularisation", type=float, default=0.03)
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()
    target, kernel = rings(20), Gaussian(0.1)
    descents: dict[str, Descent] = {
        "kale": KaleDescent(KaleProblem(target, kernel, asked.regularisation)),
        "mmd": MmdDescent(target, kernel),
    }
    print("| seed | flow |" + "".join(f" W1 < {d} |" for d in DISTANCES) + " W1 at the end | ms a step |")
    print("|" + " --- |" * (len(DISTANCES) + 4))
    for seed in asked.seeds:
        for name, descent in descents.items():
            begun, apart, spent = steps_to(descent, target, seed, asked.steps)
            cells = "".join(f" {b:g} |" for b in begun)
            print(f"| {seed} | {name} |{cells} {apart:.4f} | {1e3 * spent:.1f} |", flush=True)


if __name__ == "__main__":
    main()
