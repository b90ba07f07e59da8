"""What to score, and all that is read and checked before the long work begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from gebm_cli.core.evaluation.features import Features
from gebm_cli.errors import UsageError
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.extraction import extract, first_of, from_file
from gebm_cli.experiment.files import require_free
from gebm_cli.experiment.inputs import Input, newest_sample_set, read_sample_set, split_of
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.metrics import Asked, require_size
from gebm_cli.experiment.run import Run, newest_run
from gebm_cli.experiment.scored_inputs import Reading, read_scored
from gebm_cli.experiment.scoring import choose_features

Begin = Callable[[str, str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Job:
    """What to score, against what, and how; the flags of the command."""

    samples: list[str]
    reference: str | None
    metrics: list[str]
    root: Path
    run: Run | None
    device: torch.device
    world: World
    seed: int = 0
    features: str | None = None
    weights: str | None = None
    resize: str | None = None
    layer: int | None = None
    precision: str = "float32"
    compile: bool = False
    infinity: bool = False
    bootstrap: int = 0
    subsets: tuple[int, int] | None = None
    neighbours: int = 5
    per_class: bool = False
    on_bad: Literal["error", "skip"] = "error"
    value_range: tuple[float, float] | None = None
    picture: str | None = None
    save_statistics: str | None = None
    save_features: str | None = None
    allow_plugins: bool = False
    no_cache: bool = False

    @property
    def asked(self) -> Asked:
        """The options of the metrics."""
        return Asked(self.seed, self.infinity, self.bootstrap, self.subsets, k=self.neighbours)

    @property
    def saves_only(self) -> bool:
        return bool(self.save_statistics or self.save_features) and self.reference is None


# ------------------------------------------------------------------------------------------------------------- reading


def read_sides(job: Job, begin: Begin) -> tuple[list[Input | Known], Input | Known | None]:
    reading = Reading(
        job.root,
        job.run,
        job.on_bad,
        job.value_range,
        job.seed,
        job.device,
        job.allow_plugins,
        counted(begin, "reading"),
    )
    if job.samples:
        sources = [read_scored(text, reading) for text in job.samples]
    else:
        sources = [read_sample_set(newest_sample_set(job.run or newest_run(job.root, "train-base")))]
    owner = job.run or next((s.run for s in sources if isinstance(s, Input) and s.run is not None), None)
    if job.reference is not None:
        return sources, read_scored(job.reference, replace(reading, context=owner))
    if job.saves_only or job.metrics == ["is"]:
        return sources, None
    if owner is None:
        raise UsageError(
            f"{sources[0].name}: belongs to no run, so a reference is needed: --reference with a folder, an archive, an .npz, a "
            "run or a data set"
        )
    return sources, split_of(owner, "train")


def counted(begin: Begin, what: str) -> Callable[[int, int], None]:
    """A report of (done, total) as increments of a phase that begins with the first."""
    state: dict[str, Any] = {"done": 0, "tell": None}

    def report(done: int, total: int) -> None:
        if state["tell"] is None or done <= state["done"]:
            state.update(done=0, tell=begin(what, "images", total))
        state["tell"](done - state["done"])
        state["done"] = done

    return report


def network_of(job: Job, sides: list[Input | Known], begin: Begin) -> Features | None:
    """The network, or None where every side is features or statistics already."""
    images = [side for side in sides if isinstance(side, Input)]
    if not images:
        return None
    owner = job.run or next((side.run for side in images if side.run is not None), None)
    return choose_features(
        images[0],
        images[-1],
        owner,
        job.features,
        job.weights,
        job.device,
        "inception",
        counted(begin, "classifier"),
        resize=job.resize,
        layer=job.layer,
        precision=job.precision,
        compile=job.compile,
        allow_plugins=job.allow_plugins,
        seed=job.seed,
    )


def require_alike(job: Job, sides: list[Input | Known]) -> None:
    """Refuse points beside images, and a picture of what has no images."""
    inputs = [side for side in sides if isinstance(side, Input)]
    for side in inputs[1:]:
        if side.is_points != inputs[0].is_points:
            points, images = (side, inputs[0]) if side.is_points else (inputs[0], side)
            raise UsageError(
                f"{points.name} and {images.name}: one holds points, the other images; compare like with like"
            )
    undrawn = [side for side in sides if isinstance(side, Known) or side.is_points]
    if job.picture and undrawn:
        raise UsageError(f"--picture: {undrawn[0].name} has no images to draw, only numbers; leave it out")


def require_comparable(job: Job, features: Features | None, sides: list[Input | Known]) -> None:
    """Refuse what the network cannot do: several sizes where it takes one, or class probabilities where it has none."""
    inputs = [side for side in sides if isinstance(side, Input)]
    if features is not None and "is" in job.metrics and features.head is None:
        raise UsageError(
            f"--metrics is: needs class probabilities, and {features.name} features have none; use inception or classifier"
        )
    if features is None or features.any_size:
        return
    shapes = {side.name: side.item_shape for side in inputs}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape[-2:] != shapes[first][-2:]:
            raise UsageError(
                f"{first} and {name}: cannot be compared by {features.name} features, their items are {shapes[first]} and {shape} "
                "(channels, height, width); bring both to one size and colour first, or use --features inception"
            )


def require_enough(job: Job, features: Features | None, sides: list[Input | Known]) -> None:
    """Refuse, before any long work, sides too small for what is asked, and features of different dimensions."""
    counts = {side.name: len(side.data) if isinstance(side, Input) else side.n for side in sides}
    dimensions = {side.name: side.dimension for side in sides if isinstance(side, Known)}
    one = next((side for side in sides if isinstance(side, Input) and len(side.data)), None)
    if one is not None and features is not None:
        dimensions = {one.name: extract(features, first_of(one), World()).dimension, **dimensions}
    if len(set(dimensions.values())) > 1:
        (a, d), (b, e) = next(pair for pair in pairwise(dimensions.items()) if pair[0][1] != pair[1][1])
        raise UsageError(f"{a} and {b}: have features of {d} and {e} dimensions; use one network for both")
    for name, n in counts.items():
        require_size(name, n, next(iter(dimensions.values())), job.metrics, job.asked)


def settings_of(features: Features | None, sides: list[Input | Known]) -> dict[str, Any]:
    """What made the features of this score: the network's settings, else those that a file tells; all files must agree."""
    known = [side for side in sides if isinstance(side, Known)]
    if features is not None:
        settings = features.settings()
    else:
        settings = next(
            (side.settings for side in known if side.settings), {"features": "unknown", "weights_hash": "unknown"}
        )
    for side in known:
        from_file(side, settings)
    return settings


def require_free_names(job: Job) -> None:
    """Names of files to write are looked at before the hours of work, not after."""
    for name in (job.picture, job.save_statistics, job.save_features):
        if name is not None:
            require_free(Path(name))
            if not Path(name).absolute().parent.is_dir():
                raise UsageError(f"{name}: its folder does not exist; make it, or name a file in another one")
