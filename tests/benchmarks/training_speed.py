"""Seconds of a KALE energy step and base step on the reference's networks, against the plainest correct loop, in turn.

    python tests/benchmarks/training_speed.py [--kinds sngan dcgan resnet] [--batch 64] [--repeats 8] [--options ...] [--device cpu]

Both train the same networks (latent 100, 32x32) with a zero-centred penalty of weight 1 and Adam. The plain loop calls the
energy on data, on base samples and at interpolates, each with its own power iteration, builds the gradients of both networks'
weights in the base step and calls the energy on data there too, as the released code does; its layers are torch's own.
Options are keys of the experiment, for our side alone. Prints one line for each: seconds (medians), and the ratio of each pair of
repeats with its quartiles.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.device import make_generator
from gebm_cli.core.models import second_order
from gebm_cli.core.training.loop import Training
from gebm_cli.experiment.build_training import build_training
from gebm_cli.experiment.load import load_experiment

# Seconds at batch 64 on two threads of an AMD EPYC without other work: the released code, measured earlier and elsewhere.
REFERENCE = {"sngan": (1.082, 0.621), "dcgan": (0.230, 0.226), "resnet": (2.003, 1.482)}


def plain_energy_step(t: Training, x: Tensor) -> None:
    n = len(x)
    with torch.no_grad():
        y = t.base(t.prior.sample(n, t.generator))
    a = torch.rand(n, 1, 1, 1, generator=t.generator, device=x.device)
    between = (a * x + (1 - a) * y).requires_grad_()
    c = t.energy.log_partition
    loss = (t.energy(x) + c).mean() + torch.exp(-t.energy(y) - c).mean() - 1
    (gradient,) = torch.autograd.grad(t.energy(between).sum(), between, create_graph=True)
    loss = loss + gradient.flatten(1).norm(dim=1).square().mean()
    t.critic_optimiser.zero_grad()
    loss.backward()
    t.critic_optimiser.step()


def plain_base_step(t: Training, x: Tensor) -> None:
    y = t.base(t.prior.sample(len(x), t.generator))
    loss = -t.energy(x).mean() - torch.logsumexp(-t.energy(y), 0)
    assert t.base_optimiser is not None
    t.base_optimiser.zero_grad()
    loss.backward()
    t.base_optimiser.step()


def with_torch_layers(step: Callable[[Training, Tensor], None], t: Training) -> Callable[[], None]:
    def call() -> None:
        with mock.patch.object(second_order, "_is_recorded", return_value=False):
            step(t, t.batches.next())

    return call


def seconds(call: Callable[[], None], device: torch.device, times: int) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def compare(kind: str, batch: int, repeats: int, options: list[str], device: torch.device) -> None:
    spectral = [] if kind == "dcgan" else ["energy.spectral=norm"]
    keys = [f"base={{kind: {kind}}}", f"energy={{kind: {kind}}}", *spectral, f"train_base.batch_size={batch}"]
    experiment = load_experiment("experiments/cifar10.yaml", [*keys, *options])
    images = torch.randint(0, 256, (batch * 4, 3, 32, 32), dtype=torch.uint8, generator=make_generator(0, "images"))
    data = Dataset("random", images, images)
    plain_experiment = load_experiment("experiments/cifar10.yaml", keys)
    ours = build_training(experiment, "train-base", data, 0, device)
    plain = build_training(plain_experiment, "train-base", data, 0, device)
    times = 20 if device.type == "cuda" else 1
    cases: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
        ("energy step", ours._critic_step, with_torch_layers(plain_energy_step, plain)),
        ("base step", ours._base_step, with_torch_layers(plain_base_step, plain)),
    ]
    for i, (name, fast, slow) in enumerate(cases):
        pairs = [(seconds(fast, device, times), seconds(slow, device, times)) for _ in range(repeats + 1)][1:]
        ratios = statistics.quantiles([s / f for f, s in pairs], n=4)
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        least = [min(side) for side in zip(*pairs, strict=True)]
        ratio = f"{ratios[1]:.2f} [{ratios[0]:.2f}, {ratios[2]:.2f}]"
        times_ours, times_plain = f"{mine:.3f} (least {least[0]:.3f})", f"{other:.3f} (least {least[1]:.3f})"
        print(f"| {kind} | {name} | {times_ours} | {times_plain} | {ratio} | {REFERENCE[kind][i]:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(REFERENCE), choices=list(REFERENCE))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--options", nargs="*", default=[], help="such as train_base.channels_last=true")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {asked.device}, batch {asked.batch}; {asked.options}"
    )
    print("| networks | step | ours, s | plain, s | plain / ours | released code elsewhere, s |\n|" + " --- |" * 6)
    for kind in asked.kinds:
        compare(kind, asked.batch, asked.repeats, asked.options, torch.device(asked.device))


if __name__ == "__main__":
    main()
