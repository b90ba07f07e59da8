"""Power of two-sample tests on real images: test images of CIFAR-10 against training images, as they are and changed.

    python tests/benchmarks/two_sample_images.py CIFAR [--n 100 250 500 1000] [--reps 100] [--changes none jpeg blur class]

CIFAR holds train/<class>/*.png and test/<class>/*.png. Each repetition draws n of the test images and n of the training images
(without replacement; repetitions overlap), changes the latter, and tests at level .05 with 499 relabellings:

    none   not at all: the rate is the level
    jpeg   stored as JPEG of quality 90 and read again
    blur   Gaussian blur of radius .4 pixels
    class  no image of the class `cat`

by mmd-fuse, mmd-agg and the median heuristic (`mmd`) on pixels; by mmd-fuse on the 64 features of a small classifier learned
on 5,000 training images that are not tested; and by the deep kernel on pixels (half to learn, half to test). Printed: the share of
rejections with its binomial standard error, and CPU-seconds a test.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from gebm_cli.core.data.image_sets import read_image_set
from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.classifier import train_classifier
from gebm_cli.core.evaluation.features import Features, pixels
from gebm_cli.core.two_sample.kinds import Asked, run_test

CPU = torch.device("cpu")
REMOVED = "cat"
N_LEARNED = 5000
POOL = 12_000  # training images that are tested


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.4))


def changed(images: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """uint8 (n, 3, h, w), each passed through Pillow."""
    arrays = [np.asarray(change(Image.fromarray(i.permute(1, 2, 0).numpy()))) for i in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--n", type=int, nargs="+", default=[100, 250, 500, 1000])
    parser.add_argument("--reps", type=int, default=100)
    parser.add_argument("--changes", nargs="+", default=["none", "jpeg", "blur", "class"])
    parser.add_argument(
        "--tests", nargs="+", default=["pixels mmd-fuse", "pixels mmd-agg", "pixels mmd", "classifier mmd-fuse"]
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (read_image_set(str(given.cifar / split)) for split in ("train", "test"))
    assert train.labels is not None and train.classes is not None
    order = torch.randperm(len(train), generator=make_generator(0, "pool"))
    learned, pool = order[:N_LEARNED], order[N_LEARNED : N_LEARNED + POOL]
    everything, clean = train.whole(), test.whole()
    networks = {"pixels": pixels(CPU)}
    if any(name.startswith("classifier") for name in given.tests):
        none = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
        network = train_classifier(everything[learned], train.labels[learned], none, torch.empty(0), CPU)
        networks["classifier"] = Features("classifier", network, "learned", CPU)
    kept = everything[pool]
    others = {
        "none": lambda: kept,
        "jpeg": lambda: changed(kept, jpeg),
        "blur": lambda: changed(kept, blur),
        "class": lambda: kept[train.labels[pool] != train.classes.index(REMOVED)],
    }
    for change in given.changes:
        images = others[change]()
        for name in given.tests:
            features, kind = name.split()
            x, y = (networks[features](side) for side in (clean, images))
            for n in given.n:
                print(json.dumps(rate(kind, x, y, n, given.reps) | {"change": change, "test": name}), flush=True)


def rate(kind: str, x: torch.Tensor, y: torch.Tensor, n: int, reps: int) -> dict[str, object]:
    shape = (3, 32, 32) if x.shape[1] == 3072 else None
    asked, rejected, start = replace(Asked(), count=499, image_shape=shape), 0, time.process_time()
    for seed in range(reps):
        draws = [
            side[torch.randperm(len(side), generator=make_generator(seed, "draw", at))[:n]]
            for at, side in enumerate((x, y))
        ]
        finding = run_test(kind, *draws, asked, lambda purpose, seed=seed: make_generator(seed, purpose))  # type: ignore[arg-type]
        rejected += finding.outcome.p_value <= asked.alpha
    share = rejected / reps
    error = (share * (1 - share) / reps) ** 0.5
    seconds = (time.process_time() - start) / reps
    return {"n": n, "reps": reps, "rejected": f"{share:.3f} +- {error:.3f}", "cpu_s": round(seconds, 3)}


if __name__ == "__main__":
    main()
