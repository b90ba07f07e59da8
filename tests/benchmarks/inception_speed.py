"""Images per second through our Inception, against pytorch-fid's own `get_activations`, batch by batch in turn.

    python tests/benchmarks/inception_speed.py [--batches 12] [--batch 50] [--size 32] [--device cpu] [--threads 1]
                                               [--compile] [--weights FILE]

Both read the same PNG files in this process and use the same weights (seeded random ones without --weights; the arithmetic
does not depend on them). Prints images per second (medians) by the clock and by processor time, the ratio of each pair of
batches with its quartiles, and how far apart the features are (relative L2). The first batch of each is not timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from core.evaluation.inception_weights import random_inception, smooth_and_noise
from PIL import Image
from pytorch_fid import fid_score, inception
from torch import Tensor

from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.device import exact_float32
from gebm_cli.experiment.features import build_features

Extract = Callable[[list[Path]], Tensor]


def ours(weights: str, batch: int, size: int, device: torch.device, compile: bool = False) -> Extract:
    features = build_features("inception", None, weights, device, compile=compile)
    assert features.batch_size == batch or not compile, "--compile: is for batches of 50"

    def extract(files: list[Path]) -> Tensor:
        images = LazyImages(lambda i: np.asarray(Image.open(files[i])), len(files), (3, size, size), workers=0)
        return features(images).cpu()

    return extract


def theirs(weights: str, batch: int, device: torch.device) -> Extract:
    inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights, map_location="cpu", weights_only=True)
    fid_score.tqdm = lambda batches: batches
    network = inception.InceptionV3().to(device)

    def extract(files: list[Path]) -> Tensor:
        return torch.from_numpy(fid_score.get_activations(files, network, batch, 2048, device, num_workers=0))

    return extract


def timed(extract: Extract, files: list[Path]) -> tuple[Tensor, float, float]:
    """Features, and seconds by the clock and of processor time; both end with a copy to the CPU."""
    clock, processor = time.perf_counter(), time.process_time()
    features = extract(files)
    return features, time.perf_counter() - clock, time.process_time() - processor


def write_images(folder: Path, n: int, size: int) -> list[Path]:
    files = [folder / f"{i:05d}.png" for i in range(n)]
    for file, image in zip(files, smooth_and_noise(n, 1, (size, size)), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return files


def report(
    name: str, batch: int, mine: list[tuple[Tensor, float, float]], other: list[tuple[Tensor, float, float]]
) -> None:
    difference = max(((a[0] - b[0]).norm() / b[0].norm()).item() for a, b in zip(mine, other, strict=True))
    for place, what in ((1, "by the clock"), (2, "processor time")):
        ratios = [b[place] / a[place] for a, b in zip(mine[1:], other[1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        speeds = [batch / statistics.median(r[place] for r in run[1:]) for run in (mine, other)]
        print(
            f"{name}, {what}: {speeds[0]:.1f} images/s, pytorch-fid {speeds[1]:.1f}; {middle:.2f} times as fast "
            f"(quartiles {low:.2f} to {high:.2f}); features differ by {difference:.1e} at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    exact_float32()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights or str(Path(folder) / "weights.pth")
        if not args.weights:
            torch.save(random_inception(0), weights)
        files = write_images(Path(folder), args.batch * args.batches, args.size)
        runs: dict[str, Extract] = {"pytorch-fid": theirs(weights, args.batch, device)}
        runs["gebm"] = ours(weights, args.batch, args.size, device)
        if args.compile:
            runs["gebm, compiled"] = ours(weights, args.batch, args.size, device, compile=True)
        results: dict[str, list[tuple[Tensor, float, float]]] = {name: [] for name in runs}
        for start in range(0, len(files), args.batch):
            for name, extract in runs.items():
                results[name].append(timed(extract, files[start : start + args.batch]))
        for name in list(runs)[1:]:
            first = results[name][0][1]
            print(f"{name}: first batch {first:.1f} s")
            report(name, args.batch, results[name], results["pytorch-fid"])


if __name__ == "__main__":
    main()
