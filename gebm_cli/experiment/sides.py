"""What tests and divergences of sets share: columns that belong together, sets that are independent, features, one scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gebm_cli.core.evaluation.features import Features
from gebm_cli.errors import UsageError
from gebm_cli.experiment.extraction import Side, extract, from_file
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.score_job import Begin, Job
from gebm_cli.experiment.writable import require_writable as require_writable


def matched_columns(a: Input | Known, b: Input | Known) -> Input | Known:
    """B with the columns of a table in the order of A's, by their names; a note tells of other orders and other names.

    Raises:
        UsageError: the tables have different numbers of columns.
    """
    if not isinstance(a, Input) or not isinstance(b, Input) or not a.columns or a.columns == b.columns or not b.columns:
        return b
    alone = [[c for c in side.columns if c not in other.columns] for side, other in ((a, b), (b, a))]
    if len(a.columns) != len(b.columns):
        more, names = (a, alone[0]) if len(a.columns) > len(b.columns) else (b, alone[1])
        shared = [name for name in more.columns if name not in names]
        such = f", such as '{more.name.partition('?')[0]}?keep={','.join(shared)}'" if shared else " by ?keep=NAME,NAME"
        raise UsageError(
            f"{a.name} and {b.name}: have {len(a.columns)} and {len(b.columns)} columns, '{names[0]}' in {more.name} alone; give "
            f"both the same columns{such}"
        )
    if alone[0]:
        told = f"their columns have different names ('{alone[0][0]}' in the first, '{alone[1][0]}' in the second)"
        return replace(b, notes=(*b.notes, f"{a.name} and {b.name}: {told}, and are matched by their places"))
    assert isinstance(b.data, torch.Tensor)
    order = [b.columns.index(name) for name in a.columns]
    told = f"{b.name}: its columns stand in another order than those of {a.name}, and are matched by their names"
    return replace(b, data=b.data[:, order], columns=a.columns, notes=(*b.notes, told))


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
    command = "flow" if stream[1] == "flow" else "sample"
    return f", `gebm {command} --seed {stream[2] + 1}`" if isinstance(stream[2], int) else ""


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
    # Base draws, chains and flows of one seed have streams of their own, so only sets of one kind share them.
    if x.stream is None or y.stream is None or x.stream == y.stream or x.stream[1:] != y.stream[1:]:
        return []
    return [
        f"{told} by two runs with one seed, so from the same latents, and are taken for independent; draw one of them again "
        f"with another seed{_next_seed(y.stream)}"
    ]


def side_of(job: Job, source: Input | Known, network: Features | None, settings: dict[str, Any], begin: Begin) -> Side:
    """The features of a set: of a file as they are, of images by the network, and kept for the next time."""
    if isinstance(source, Known):
        return from_file(source, settings, job.device)
    assert network is not None
    what = "rows" if source.is_points else f"{network.name} features"
    tell = begin(f"{what} of {source.name}", "rows" if source.is_points else "images", len(source.data))
    return extract(network, source, job.world, source.run is None and not job.no_cache, tell)


def standardised(sides: list[Side], what: str) -> list[Side]:
    """Every column with mean 0 and variance 1 over all sets together, which ignores what set a row is of."""
    rows = [side.require_features(what).double() for side in sides]
    pooled = torch.cat(rows)
    spread = pooled.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    return [replace(s, features=((r - pooled.mean(0)) / spread).float()) for s, r in zip(sides, rows, strict=True)]
