"""Seconds of a KALE energy step and base step on the reference's networks, against the plainest correct loop, in turn.

    python tests/benchmarks/training_speed.py [--kinds sngan dcgan resnet] [--batch 64] [--repeats 8] [--options ...]
                                              [--device cpu] [--processor-time]

Both train the same networks (latent 100, 32x32) with a zero-centred penalty of weight 1 and Adam; the energy step is that of
`train-energy`, on a frozen base. The plain loop calls the energy on data, on base samples and at interpolates, each with its own
power iteration, builds the gradients of both networks' weights in the base step and calls the energy on data there too, as the
released code does; its layers are torch's own. Each side runs in a process of its own, set up as its user would have it: ours by
what `gebm` sets, the plain one by nothing. Options are keys of the stage, for our side alone. Prints one line for each: seconds
(medians), and the ratio of each pair of repeats with its quartiles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from unittest import mock

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


def build(kind: str, batch: int, options: list[str], stage: str, device: torch.device) -> Training:
    spectral = [] if kind == "dcgan" else ["energy.spectral=norm"]
    keys = [f"base={{kind: {kind}}}", f"energy={{kind: {kind}}}", *spectral, f"{stage}.batch_size={batch}"]
    experiment = load_experiment("experiments/cifar10.yaml", [*keys, *(f"{stage}.{option}" for option in options)])
    images = torch.randint(0, 256, (batch * 4, 3, 32, 32), dtype=torch.uint8, generator=make_generator(0, "images"))
    return build_training(experiment, stage.replace("_", "-"), Dataset("random", images, images), 0, device)


def steps(ours: bool, kind: str, asked: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], None]]:
    options = asked.options if ours else []
    energy, base = (build(kind, asked.batch, options, stage, device) for stage in ("train_energy", "train_base"))
    if ours:
        return {"energy step": energy._critic_step, "base step": base._base_step}
    return {
        "energy step": with_torch_layers(plain_energy_step, energy),
        "base step": with_torch_layers(plain_base_step, base),
    }


def seconds(call: Callable[[], None], device: torch.device, times: int, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(times):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / times


def side(ours: bool, kind: str, asked: argparse.Namespace, wire: Connection) -> None:
    """A process: for every name that comes, the seconds of that step."""
    device = torch.device(asked.device)
    clock = time.process_time if asked.processor_time else time.perf_counter
    calls = steps(ours, kind, asked, device)
    for call in calls.values():
        call()
    while name := wire.recv():
        wire.send(seconds(calls[name], device, 20 if device.type == "cuda" else 1, clock))


def started(ours: bool, kind: str, asked: argparse.Namespace) -> Connection:
    if ours:
        os.environ["GOMP_SPINCOUNT"] = "20000"
    else:
        os.environ.pop("GOMP_SPINCOUNT", None)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=side, args=(ours, kind, asked, there), daemon=True).start()
    return here


def compare(kind: str, asked: argparse.Namespace) -> None:
    wires = [started(ours, kind, asked) for ours in (True, False)]
    for i, name in enumerate(("energy step", "base step")):
        pairs = []
        for _ in range(max(2, asked.repeats)):
            pair = []
            for wire in wires:
                wire.send(name)
                pair.append(wire.recv())
            pairs.append(pair)
        ratios = statistics.quantiles([slow / fast for fast, slow in pairs], n=4)
        told = [f"{statistics.median(times):.3f} (least {min(times):.3f})" for times in zip(*pairs, strict=True)]
        ratio = f"{ratios[1]:.2f} [{ratios[0]:.2f}, {ratios[2]:.2f}]"
        print(f"| {kind} | {name} | {told[0]} | {told[1]} | {ratio} | {REFERENCE[kind][i]:.3f} |", flush=True)
    for wire in wires:
        wire.send("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(REFERENCE), choices=list(REFERENCE))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--options", nargs="*", default=[], help="such as channels_last=true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--processor-time", action="store_true", help="instead of the clock: for a machine with other work"
    )
    asked = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {asked.device}, batch {asked.batch}; {asked.options}"
    )
    print("| networks | step | ours, s | plain, s | plain / ours | released code elsewhere, s |\n|" + " --- |" * 6)
    for kind in asked.kinds:
        compare(kind, asked)


if __name__ == "__main__":
    main()
