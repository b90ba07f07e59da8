"""`make bench`: what an energy step costs through the loop against the same calls written bare, in one process, in turn.

    python tests/benchmarks/training_overhead.py [--repeats 40]

Both train the digits' energy (batch 128, gradient penalty) from the same start; blocks of 20 steps alternate, and the ratio
of each pair is taken, so that a change of the machine's speed touches both. Prints the median ratio and its quartiles.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch

from gebm_cli.core.training.loop import Callbacks, Training
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.build_training import build_training
from gebm_cli.experiment.load import load_experiment

STEPS = 20


def bare(training: Training, data: torch.Tensor, order: torch.Tensor, steps: int) -> None:
    """The same forward, backward and optimiser calls, with nothing around them."""
    energy, base, n = training.energy, training.base, 128
    generator, optimiser, d = training.generator, training.critic_optimiser, training.prior.dim
    for step in range(steps):
        x = data[order[step % len(order)]].float().div_(127.5).sub_(1.0)
        with torch.no_grad():
            y = base(torch.randn(n, d, generator=generator))
        both = torch.cat([x, y])
        both = both + training.method.noise_std * torch.randn(both.shape, generator=generator)
        x, y = both[:n], both[n:]
        e = energy(both)
        a = torch.rand(n, generator=generator).view(-1, 1, 1, 1)
        between = torch.lerp(y, x, a).requires_grad_()
        (gradient,) = torch.autograd.grad(energy(between).sum(), between, create_graph=True)
        kale = 1.0 - (e[:n] + energy.log_partition).mean() - torch.exp(-e[n:] - energy.log_partition).mean()
        loss = -kale + training.method.penalty.weight * gradient.square().sum() / n
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    file = Path(__file__).parents[2] / "experiments/digits.yaml"
    total = STEPS * (repeats + 2)
    experiment = load_experiment(file, [f"train_energy.steps={total}", "train_energy.checkpoint_every=1000000"])
    dataset = build_dataset(experiment.data)
    looped, alone = (build_training(experiment, "train-energy", dataset, 0, torch.device("cpu")) for _ in range(2))
    order = torch.randperm(len(dataset.train))[: 128 * (len(dataset.train) // 128)].view(-1, 128)
    ratios = []
    for repeat in range(repeats + 2):
        start = time.perf_counter()
        bare(alone, dataset.train, order, STEPS)
        middle = time.perf_counter()
        _run_to(looped, looped.step + STEPS)
        end = time.perf_counter()
        if repeat >= 2:
            ratios.append((end - middle) / (middle - start))
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"loop / bare energy step, {repeats} pairs of {STEPS} steps: median {median:.3f} [{low:.3f}, {high:.3f}]")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; bound 1.05")
    if median > 1.05:
        raise SystemExit("the loop costs more than 1.05 times the bare calls")


def _run_to(training: Training, step: int) -> None:
    """The loop itself, with a schedule that ends at this step (and so with one look at the losses)."""
    training.schedule = replace(training.schedule, steps=step)
    training.run(Callbacks())


if __name__ == "__main__":
    main()
