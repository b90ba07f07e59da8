"""What tests and divergences of sets share: files to write, sets that are independent, their features, one scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gebm_cli.core.evaluation.features import Features
from gebm_cli.errors import UsageError
from gebm_cli.experiment.extraction import Side, extract, from_file
from gebm_cli.experiment.files import require_free
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.score_job import Begin, Job
from gebm_cli.experiment.two_sample_pictures import require_picture_suffix


def require_writable(picture: str | None, record: str | None) -> None:
    """Refuse, before anything is read, a picture or a record that cannot be written."""
    if picture is not None:
        require_picture_suffix(Path(picture))
    if record is not None and not record.endswith((".yaml", ".yml")):
        raise UsageError(f"--record {record}: expected a name that ends in .yaml")
    for flag, name in (("--picture", picture), ("--record", record)):
        if name is not None:
            require_free(Path(name))
            if not Path(name).absolute().parent.is_dir():
                raise UsageError(f"{flag} {name}: its folder does not exist; make it, or name a file in another one")


def require_independent(sources: list[Input | Known], what: str) -> None:
    """Refuse sets that were drawn with the same random numbers; a set and itself is no mistake, but a note."""
    streams: dict[object, str] = {}
    for source in sources:
        stream = source.stream if isinstance(source, Input) else None
        if stream is not None and streams.get(stream, source.name) != source.name:
            raise UsageError(
                f"{streams[stream]} and {source.name}: were drawn with the same random numbers, and {what} needs independent "
                f"sets; draw one of them again with another seed{_next_seed(stream)}"
            )
        streams[stream] = source.name


def _next_seed(stream: tuple[object, ...]) -> str:
    return f", `gebm sample --seed {stream[2] + 1}`" if isinstance(stream[2], int) else ""


def shared_draws(a: Side, b: Side) -> list[str]:
    """A note where two sets were made of the same random numbers: of two runs at one seed, or two toys at one seed."""
    sources = [side.source for side in (a, b) if isinstance(side.source, Input)]
    if len(sources) < 2 or a.name == b.name:
        return []
    (x, y), told = sources, f"{a.name} and {b.name}: were drawn"
    if x.draws is not None and x.draws == y.draws:
        again = y.name.partition("?")[0] + "?seed=1"
        return [
            f"{told} with the same random numbers, and are taken for independent; give one another seed, such as {again}"
        ]
    if x.stream is None or y.stream is None or x.stream == y.stream or x.stream[2:] != y.stream[2:]:
        return []
    return [
        f"{told} by two runs with one seed, so from the same latents, and are taken for independent; draw one of them again "
        "with another --seed of `gebm sample`"
    ]


def side_of(job: Job, source: Input | Known, network: Features | None, settings: dict[str, Any], begin: Begin) -> Side:
    """The features of a set: of a file as they are, of images by the network, and kept for the next time."""
    if isinstance(source, Known):
        return from_file(source, settings, job.device)
    assert network is not None
    tell = begin(f"{network.name} features of {source.name}", "images", len(source.data))
    return extract(network, source, job.world, source.run is None and not job.no_cache, tell)


def standardised(sides: list[Side], what: str) -> list[Side]:
    """Every column with mean 0 and variance 1 over all sets together, which ignores what set a row is of."""
    rows = [side.require_features(what).double() for side in sides]
    pooled = torch.cat(rows)
    spread = pooled.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    return [replace(s, features=((r - pooled.mean(0)) / spread).float()) for s, r in zip(sides, rows, strict=True)]
