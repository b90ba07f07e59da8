"""The newest scores of several runs side by side, where they may be compared. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gebm_cli.experiment.report.found import Found
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.score_rows import OPTIONS, ScoreRow, home_of, score_rows

Shared = tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """The newest score of each run (None where it has none), of those that may be compared; `of` is their side, else their set."""

    of: str
    entries: list[ScoreRow | None]

    @property
    def one(self) -> ScoreRow:
        """Any of them, for what they share."""
        return next(entry for entry in self.entries if entry is not None)


def scores_of(founds: list[Found]) -> list[Scores]:
    """The newest of each run, under what they must share to be compared."""
    groups: dict[Shared, list[ScoreRow | None]] = {}
    for i, found in enumerate(founds):
        home = home_of(found.path, found.record, found.run.experiment if found.run is not None else None)
        for score in found.scores:
            for row in score_rows(score.record, home):
                if row.metric != "kid-difference":
                    groups.setdefault(_shared(row, found), [None] * len(founds))[i] = row
    return [Scores(key[1], entries) for key, entries in groups.items()]


def _shared(row: ScoreRow, found: Found) -> Shared:
    """What scores must have in common: metric, side and the rest. A split is that of the data of its own run, whatever its name."""
    data = data_of(found.run.experiment) if row.split is not None and found.run is not None else ""
    if row.of_samples:
        data = str(found.path)  # a sample set of its own
    heading = (row.metric, row.side or row.samples, str(row.features), str(row.weights_hash), str(row.reference), data)
    return (*heading, *(str(row.options.get(key)) for key in OPTIONS))


def uneven(scores: list[Scores]) -> list[str]:
    """FIDs of different numbers of samples differ by their bias alone."""
    told = []
    for row in scores:
        fake, real = ({str(getattr(e, n)) for e in row.entries if e is not None} for n in ("n_fake", "n_real"))
        if row.one.metric == "fid" and max(len(fake), len(real)) > 1:
            counts = ", ".join(sorted(fake if len(fake) > 1 else real))
            told.append(
                f"FID of {row.of} against {row.one.reference}: is of different numbers of samples ({counts}), and its bias "
                "depends on them; compare at equal n, or by KID"
            )
    return told


def same_data(a: Experiment, b: Experiment) -> bool:
    """Whether two experiments have the same data; how they came to the disk does not matter."""
    return data_of(a) == data_of(b)


def data_of(experiment: Experiment) -> str:
    """The data section as text, without what does not change the data."""
    return json.dumps(experiment.data.model_dump(mode="json", exclude={"download", "workers"}), sort_keys=True)
