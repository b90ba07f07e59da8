"""What a score can read besides what every command can: images of any sizes, archives, a base drawn on the fly, statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import torch

from gebm_cli.core.data.containers import ARCHIVES
from gebm_cli.core.data.decoding import SUFFIXES
from gebm_cli.core.data.image_sets import ImageSet, read_image_set, read_images_array
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.evaluation.features import data_hash
from gebm_cli.core.sampling.chains import base_block, block_keeps
from gebm_cli.errors import UsageError
from gebm_cli.experiment import sampleset
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.drawing import data_shape
from gebm_cli.experiment.inputs import Input, read_input
from gebm_cli.experiment.known import Known, is_known, read_known
from gebm_cli.experiment.run import Run, find_run

N_NAMED = 10  # of the images left out, in a record
OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class Reading:
    """How a score reads what it is given."""

    root: Path
    context: Run | None = None
    on_bad: Literal["error", "skip"] = "error"
    value_range: tuple[float, float] | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    allow_plugins: bool = False
    on_image: OnItem = lambda done, total: None


def read_scored(text: str, reading: Reading) -> Input | Known:
    """One side of a score: a folder or archive of images, an array, statistics or features, `run:NAME?n=N`, or whatever
    `read_input` knows.

    Raises:
        UsageError: it is none of these, or cannot be read; for images one sentence for each of the first ten bad ones.
    """
    if text.startswith("run:"):
        return _base_samples(text, reading)
    path = Path(text)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise UsageError(f"{text}: is one image; give a folder or an archive of images")
    if holds_images(text):
        images = read_image_set(text, on_bad=reading.on_bad, on_image=reading.on_image)
        return Input(
            text,
            images,
            labels=images.labels,
            classes=images.classes,
            notes=tuple(f"{text}: {note}" for note in images.notes),
        )
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        if is_known(path):
            return read_known(path)
        data, notes = read_images_array(text, reading.value_range)
        return Input(text, data, notes=tuple(f"{text}: {note}" for note in notes))
    return read_input(text, reading.root, reading.context)


def holds_images(text: str) -> bool:
    """Whether it is a folder or an archive of images that belongs to no run."""
    path = Path(text)
    if path.is_dir():
        return not any((path / name).is_file() for name in ("record.yaml", "sample.yaml"))
    return path.is_file() and text.lower().endswith(ARCHIVES)


def _base_samples(text: str, reading: Reading) -> Input:
    """`run:NAME?n=N&seed=S`: samples of the run's base, drawn now and kept in memory. N is the experiment's, S the score's own."""
    name, _, query = text.removeprefix("run:").partition("?")
    asked: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ("n", "seed") or not (value.isascii() and value.isdecimal()) or (key == "n" and int(value) < 1):
            raise UsageError(f"{text}: got {key}={value}, expected n=NUMBER or seed=NUMBER, such as run:{name}?n=10000")
        asked[key] = int(value)
    try:
        run = find_run(reading.root, name)
    except UsageError as error:
        raise UsageError(str(error).replace("--run ", "run:", 1)) from None
    n, seed = asked.get("n", run.experiment.sample.n_samples), asked.get("seed", reading.seed)
    gebm = load_gebm(run, data_shape(run), reading.device, False, reading.allow_plugins)
    size, parts = run.experiment.sample.block_size, []
    with torch.inference_mode():
        for block, keep in enumerate(block_keeps(n, size)):
            z = base_block(gebm.prior, size, seed, block, reading.device)
            parts.append(sampleset.decode(gebm, z)[:keep])
            reading.on_image(min((block + 1) * size, n), n)
    stream = (str(run.path), "base", seed)
    return Input(f"run:{run.name}?n={n}&seed={seed}", torch.cat(parts), run, stream=stream)


# ------------------------------------------------------------------------------------------------- what a record tells


def content_hash(side: Input) -> str:
    """sha256 of the data as they will be read."""
    if isinstance(side.data, ImageSet):
        return side.data.content_hash()
    if isinstance(side.data, LazyImages):
        digest = hashlib.sha256(str(tuple(side.data.shape)).encode())
        for batch in side.data.split(500):
            digest.update(batch.numpy().tobytes())
        return digest.hexdigest()
    return data_hash(side.data)


def describe_side(side: Input | Known) -> dict[str, Any]:
    """What a record tells of one side besides its name and size."""
    if isinstance(side, Known):
        return {"kind": side.kind}
    told: dict[str, Any] = {"resolution": list(side.item_shape)}
    if isinstance(side.data, ImageSet):
        if len(side.data.sizes) > 1:
            told["sizes"] = len(side.data.sizes)
        if side.data.skipped:
            told["skipped"] = len(side.data.skipped)
            told["skipped_images"] = side.data.skipped[:N_NAMED]
    return told
