"""Divergences between two sets that a user names: read, passed through one feature network, estimated, recorded, drawn."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kinds import Found, Options, divergences
from gebm_cli.core.divergences.names import BY_DEFAULT, FEWEST_ROWS, KINDS, OF_A_KERNEL, TOLD, Kind, most_rows
from gebm_cli.core.two_sample.names import NO_BANDWIDTH
from gebm_cli.errors import UsageError
from gebm_cli.experiment.divergence_notes import of_bandwidth, of_rows, of_sides
from gebm_cli.experiment.divergence_pictures import picture_of, save_divergence_picture
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.files import write_yaml
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.places import require_finished
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.score_checks import require_alike, require_comparable, require_enough, require_one_size
from gebm_cli.experiment.score_checks import require_flags as require_score_flags
from gebm_cli.experiment.score_job import Begin, Job, network_of, reader, settings_of
from gebm_cli.experiment.sides import matched_columns, require_independent, side_of, standardised
from gebm_cli.experiment.two_sample_records import heading, image_shape
from gebm_cli.experiment.writable import require_writable

WHAT = "a divergence"
ONE_DIRECTION = "exact by quantiles, as one dimension has one direction"
OF_FLAG: dict[str, tuple[Kind, ...]] = {  # the divergences that a flag is for
    "--kernel": OF_A_KERNEL,
    "--bandwidth": OF_A_KERNEL,
    "--regularisation": ("kale",),
    "--random-features": ("kale",),
    "--projections": ("sliced-w1",),
    "--sinkhorn-regularisation": ("sinkhorn",),
}


@dataclass(frozen=True)
class DivergenceJob:
    """Which sets to compare, by what, and what to write.

    Attributes:
        scores: how the sets are read and made into features; `scores.samples` are A and B.
        kinds: those asked for; None for all but sinkhorn that the sets are large enough for.
        given: the flags that were typed, for messages about those that do not fit.
    """

    scores: Job
    kinds: tuple[Kind, ...] | None
    options: Options
    standardise: bool = False
    picture: str | None = None
    record: str | None = None
    given: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """The record, who keeps it, and the files that were written."""

    record: dict[str, Any]
    owner: Run | None
    saved: list[str]

    @property
    def warnings(self) -> list[str]:
        warnings: list[str] = self.record["warnings"]
        return warnings

    def as_json(self) -> dict[str, Any]:
        return self.record | {"saved": self.saved}


def compare(job: DivergenceJob, begin: Begin) -> Outcome:
    """The divergences of A from B.

    Raises:
        UsageError: a set, a network or an option that cannot be used; all of them are read before any long work.
    """
    require_fit(job)
    a, b = _sides(job, begin)
    start = time.monotonic()
    kinds, notes = _kinds_that_fit(job, a, b)
    found, rows = _found(job, a, b, kinds, begin)
    record = {
        **heading(a, b),
        "divergences": [_told(one, *rows[one.kind], a.dimension) for one in found],
        "standardised": job.standardise,
        "seed": job.scores.seed,
        "seconds": round(a.seconds + b.seconds + time.monotonic() - start, 3),
        "warnings": [*of_sides(a, b), *notes, *of_rows(a, b, rows), *of_bandwidth(a, b, kinds, job.options)],
    }
    saved = []
    if job.picture is not None:
        asked = job.kinds is not None
        save_divergence_picture(Path(job.picture), picture_of(a, b, found, rows, record["divergences"], asked))
        saved.append(f"picture: {job.picture}")
    if job.record is not None:
        write_yaml(Path(job.record), record)
        saved.append(f"record: {job.record}")
    return Outcome(
        record, next((s.source.run for s in (a, b) if isinstance(s.source, Input) and s.source.run), None), saved
    )


# -------------------------------------------------------------------------------------------------------- what is refused


def require_fit(job: DivergenceJob) -> None:
    """Refuse, before anything is read, files that cannot be written and flags that do not fit each other."""
    if len(job.scores.samples) != 2:
        raise UsageError(f"a divergence is between two sets, got {len(job.scores.samples)}; give A and B")
    require_score_flags(job.scores)
    require_writable(job.picture, job.record)
    for flag, kinds in OF_FLAG.items():
        if flag in job.given and not set(kinds) & set(job.kinds or BY_DEFAULT):
            raise UsageError(
                f"{flag}: is for {' and '.join(kinds)}, not among --kinds {','.join(job.kinds or BY_DEFAULT)}; leave it out"
            )
    if "--bandwidth" in job.given and job.options.kernel in NO_BANDWIDTH:
        raise UsageError(f"--bandwidth: the {job.options.kernel} kernel has none; leave it out")


def _sides(job: DivergenceJob, begin: Begin) -> list[Side]:
    """A and B as features."""
    scores = job.scores
    read, owner = reader(scores, begin), scores.run
    sources: list[Input | Known] = []
    for text in scores.samples:
        require_finished(text, scores.root)
        sources.append(read(text, owner))
        owner = owner or getattr(sources[-1], "run", None)
    require_alike(scores, sources)
    require_independent(sources, WHAT)
    sources[1] = matched_columns(*sources)
    if scores.features is None and owner is None:
        require_one_size("pixels", [source for source in sources if isinstance(source, Input)])
    network = network_of(scores, sources, begin)
    require_comparable(scores, network, sources)
    settings = settings_of(scores, network, sources)
    require_enough(scores, network, sources)
    sides = [side_of(scores, source, network, settings, begin) for source in sources]
    for side in sides:
        side.require_features(WHAT)
    return standardised(sides, WHAT) if job.standardise else sides


def _kinds_that_fit(job: DivergenceJob, a: Side, b: Side) -> tuple[list[Kind], list[str]]:
    """The kinds to estimate; those that the sets are too small for are refused where asked for, else left out with a note."""
    small = min((a, b), key=lambda side: len(side.require_features(WHAT)))
    n = len(small.require_features(WHAT))
    unfit = [kind for kind in job.kinds or BY_DEFAULT if FEWEST_ROWS[kind] > n]
    if unfit and job.kinds is not None:
        raise UsageError(
            f"{small.name}: {unfit[0]} needs at least {FEWEST_ROWS[unfit[0]]} samples a side, got {n}; give more, or leave it out "
            f"of --kinds ({', '.join(kind for kind in KINDS if FEWEST_ROWS[kind] <= n)} can be had)"
        )
    few = f"{n} sample{'s are' if n > 1 else ' is'} too few for {', '.join(unfit)}, left out"
    return [kind for kind in job.kinds or BY_DEFAULT if kind not in unfit], [f"{small.name}: {few}"] if unfit else []


# ------------------------------------------------------------------------------------------------------------ the numbers

Rows = tuple[Tensor, Tensor]


def _found(
    job: DivergenceJob, a: Side, b: Side, kinds: list[Kind], begin: Begin
) -> tuple[list[Found], dict[Kind, Rows]]:
    """What was found in the order of `kinds`, and the rows of A and B that each used.

    Every call begins the stream of the seed anew, so no number depends on which others are asked for.
    """
    x, y = a.require_features(WHAT), b.require_features(WHAT)
    options = replace(job.options, image_shape=image_shape(a))
    of_y = "x" if torch.equal(x, y) else "y"  # a set is no further from itself where a part of it is used
    groups: dict[int | None, list[Kind]] = {}
    for kind in kinds:
        groups.setdefault(most_rows(kind, x.shape[1]), []).append(kind)
    found: dict[Kind, Found] = {}
    rows: dict[Kind, Rows] = {}
    for most, group in groups.items():
        at = _rows("x", len(x), most, job), _rows(of_y, len(y), most, job)
        rows |= dict.fromkeys(group, at)
        sides = x[at[0].to(x.device)], y[at[1].to(y.device)]
        try:
            told = divergences(*sides, group, options, make_generator(job.scores.seed, "divergence"), begin)
        except ValueError as error:
            raise UsageError(f"{a.name} and {b.name}: --kinds {','.join(group)}: {error}") from None
        found |= {one.kind: one for one in told}
    return [found[kind] for kind in kinds], rows


def _rows(name: str, n: int, most: int | None, job: DivergenceJob) -> Tensor:
    """All n rows, or the first `most` of a seeded shuffle of them."""
    if most is None or n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=make_generator(job.scores.seed, "divergence", "rows", name))[:most]


def _told(found: Found, rows_x: Tensor, rows_y: Tensor, n_columns: int) -> dict[str, Any]:
    """One divergence of a record. An infinite one has no value, but what it is at least."""
    value = None if found.infinite else found.value
    told: dict[str, Any] = {"kind": found.kind, "title": TOLD[found.kind].title, "value": value}
    error = found.standard_error
    told |= {"standard_error": error if math.isfinite(error) else None, "infinite": found.infinite}
    if found.infinite:
        told["at_least"] = found.at_least
    estimator = ONE_DIRECTION if found.kind == "sliced-w1" and n_columns == 1 else found.estimator
    told |= {"estimator": estimator, "direction": found.direction, "bounded_by": TOLD[found.kind].bounded}
    return told | {"n": [len(rows_x), len(rows_y)]} | {"settings": found.settings}
