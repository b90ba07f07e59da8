"""What to score, and how its sides and its feature network are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.progress import Begin as Begin
from gebm_cli.core.progress import Steps
from gebm_cli.errors import UsageError
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.extraction import from_file
from gebm_cli.experiment.inputs import Input, read_sample_set, split_of
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.metrics import Asked
from gebm_cli.experiment.run import Run, newest_run
from gebm_cli.experiment.sample_sets import newest_sample_set
from gebm_cli.experiment.scored_inputs import Reading, holds_images, read_scored
from gebm_cli.experiment.scoring import choose_features


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
    default_features: str = "inception"

    @property
    def asked(self) -> Asked:
        """The options of the metrics."""
        return Asked(self.seed, self.infinity, self.bootstrap, self.subsets, k=self.neighbours)

    @property
    def saves_only(self) -> bool:
        return bool(self.save_statistics or self.save_features) and self.reference is None

    @property
    def needs_reference(self) -> bool:
        return not self.saves_only and any(metric != "is" for metric in self.metrics)


def read_sides(job: Job, begin: Begin) -> tuple[list[Input | Known], Input | Known | None]:
    """The sample sets and the reference; None where none is needed.

    Raises:
        UsageError: one cannot be read, or a reference is needed and there is none.
    """
    if (
        job.reference is None
        and job.run is None
        and job.needs_reference
        and job.samples
        and holds_images(job.samples[0])
    ):
        raise _no_reference(job.samples[0])
    read = reader(job, begin)
    if job.samples:
        sources = [read(text, job.run) for text in job.samples]
    else:
        sources = [read_sample_set(newest_sample_set(job.run or newest_run(job.root, "train-base")))]
    owner = job.run or next((s.run for s in sources if isinstance(s, Input) and s.run is not None), None)
    if job.reference is not None:
        return sources, read(job.reference, owner)
    if not job.needs_reference:
        return sources, None
    if owner is None:
        raise _no_reference(sources[0].name)
    return sources, split_of(owner, "train")


def reader(job: Job, begin: Begin) -> Callable[[str, Run | None], Input | Known]:
    """How one set is read, in the context of a run or of none."""
    plain = Reading(job.root, job.run, job.on_bad, job.value_range, job.seed, job.device, job.allow_plugins)

    def read(text: str, owner: Run | None) -> Input | Known:
        return read_scored(text, replace(plain, context=owner, on_image=counted(begin, f"reading {text}")))

    return read


def _no_reference(name: str) -> UsageError:
    return UsageError(
        f"{name}: belongs to no run, so a reference is needed: --reference with a folder, an archive, an .npz, a run or a data set"
    )


def counted(begin: Begin, what: str) -> Callable[[int, int], None]:
    """A report of (done, total) images as increments of a phase that begins with the first."""
    return Steps(begin, what, "images")


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
        job.default_features,
        counted(begin, "classifier"),
        resize=job.resize,
        layer=job.layer,
        precision=job.precision,
        compile=job.compile,
        allow_plugins=job.allow_plugins,
    )


def settings_of(job: Job, features: Features | None, sides: list[Input | Known]) -> dict[str, Any]:
    """What made the features of this score: the network's settings, else those that a file tells.

    Raises:
        UsageError: a file tells others.
    """
    known = [side for side in sides if isinstance(side, Known)]
    if features is not None:
        settings = features.settings()
    else:
        unknown = {"features": "unknown", "weights_hash": "unknown"}
        settings = next((side.settings for side in known if side.settings), unknown)
        if job.features not in (None, settings["features"]):
            raise UsageError(
                f"--features {job.features}: every side is read from a file that was made with {settings['features']} features; "
                "leave it out, or give the images"
            )
    for side in known:
        from_file(side, settings, job.device)
    return settings
