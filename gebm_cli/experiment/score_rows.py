"""The records of evaluation/ as rows, a number each: of which samples, against what, on which features. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gebm_cli.errors import GebmError
from gebm_cli.experiment.sample_sets import describe_sample_set, kind_of
from gebm_cli.experiment.schema import Experiment

SIGNIFICANT = 0.01  # the p-value below which a verdict calls the GEBM better
PLAIN = ("fid", "kid", "is", "fd-mmd", "energy-distance")
PRDC = ("precision", "recall", "density", "coverage")
OPTIONS = ("resize", "layer", "precision", "k")  # what scores must share besides their features, to be compared
LABELS = {"fid": "FID", "kid": "KID", "is": "IS", "fd-mmd": "FD-MMD", "energy-distance": "energy distance"}
LABELS |= {"kid-difference": "KID difference"}
SIDES = {"base": "base", "chains": "GEBM", "flow": "flow"}


@dataclass(frozen=True)
class ScoreRow:
    """One number.

    Attributes:
        metric: fid, kid, is, precision, recall, density, coverage, fd-mmd, energy-distance or kid-difference.
        samples: the set it is of; of a difference both.
        side: what these samples are of, base, GEBM or flow; None where the set is gone, and for a difference.
        reference: what it was taken against; None for an Inception Score.
        of_samples: whether the reference is a sample set, so that the number says nothing of the data.
        split: the reference's part of a data set; None where it is no data set.
        features, weights_hash: None where the record has none.
        options: those of `OPTIONS` that the record has.
    """

    metric: str
    value: float
    standard_error: float | None
    samples: str
    side: str | None = None
    reference: str | None = None
    of_samples: bool = False
    split: str | None = None
    n_fake: int | None = None
    n_real: int | None = None
    features: str | None = None
    weights_hash: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    p_value: float | None = None

    @property
    def label(self) -> str:
        return LABELS.get(self.metric, self.metric)

    @property
    def network(self) -> str | None:
        return network_of(self.features, self.weights_hash)


def network_of(features: Any, weights_hash: Any) -> str | None:
    """`classifier 5fe48cd8`; of features without weights their name alone."""
    return " ".join(word for word in (_text(features), (_text(weights_hash) or "")[:8]) if word) or None


@dataclass(frozen=True)
class Home:
    """The run whose scores they are, by its folder's name and the one it was made with; what its data are called."""

    path: Path
    names: frozenset[str]
    data: str
    _sides: dict[str, str | None] = field(default_factory=dict)

    def side(self, samples: str) -> str | None:
        """base, GEBM or flow; None where the set is not there."""
        if samples.startswith("run:"):
            return "base"
        if samples not in self._sides:
            self._sides[samples] = self._read_side(samples)
        return self._sides[samples]

    def _read_side(self, samples: str) -> str | None:
        name, _, own = samples.rpartition("/")
        folders = [self.path / "samples" / own] if own and name in self.names else []
        for folder in (*folders, Path(samples)):
            try:
                return SIDES[kind_of(describe_sample_set(folder))]
            except (GebmError, ValueError):  # ValueError: a path no file can have
                continue
        return None

    def has_samples(self, reference: str) -> bool:
        """Whether a reference is a sample set, of this run or of another, and not data."""
        first, _, rest = reference.partition("/")
        if reference.startswith("run:") or first in self.names:
            return True
        there = [Path(reference) / "sample.yaml", self.path.parent / first / "record.yaml"]
        return there[0].is_file() or bool(first and rest and there[1].is_file())


def home_of(path: Path, record: dict[str, Any], experiment: Experiment | None) -> Home:
    """Of a run's folder, its record.yaml and its experiment (None where it cannot be read)."""
    names = frozenset({path.name, str(record.get("run", path.name))})
    return Home(path, names, "data" if experiment is None else _name_of(experiment.data))


def _name_of(data: Any) -> str:
    """What a data set of this section is called in the names of its splits."""
    if data.kind == "lsun":
        return f"lsun-{data.category}"
    path = Path(str(getattr(data, "path", "")))
    return str(getattr(data, "name", None) or (path.name if data.kind == "folder" else path.stem) or data.kind)


def score_rows(record: dict[str, Any], home: Home) -> list[ScoreRow]:
    """What a record says, number by number; of a test, a sweep, or what is damaged, nothing."""
    metric = record.get("metric")
    if metric == "verdict":
        return list(_of_verdict(record, home))
    if metric == "kid-difference":
        told = f"{record.get('b')} less {record.get('a')}"
        return _row(record, home, metric, record.get("kid_b_minus_a"), record.get("standard_error"), samples=told)
    if metric == "prdc":
        errors = {name: record.get(f"{name}_standard_error") for name in PRDC}
        errors["precision"] = record.get("standard_error")
        values = {name: record.get(name) for name in PRDC} | {"precision": record.get("value")}
        return [row for name in PRDC for row in _row(record, home, name, values[name], errors[name])]
    return _row(record, home, metric, record.get("value"), record.get("standard_error")) if metric in PLAIN else []


def _row(
    record: dict[str, Any], home: Home, metric: str, value: Any, error: Any, *, samples: str | None = None, **more: Any
) -> list[ScoreRow]:
    if not is_number(value):
        return []
    own = str(record.get("samples"))
    reference = record.get("reference")
    of_samples = reference is not None and "split" not in record and home.has_samples(str(reference))
    # A record of prdc has its precision under the key of an option, the numbers' precision.
    options = {k: record[k] for k in OPTIONS if record.get(k) is not None and not isinstance(record[k], float)}
    told: dict[str, Any] = {
        "side": home.side(own) if samples is None else None,
        "reference": _text(reference),
        "of_samples": of_samples,
        "split": _text(record.get("split")),
        "n_fake": _count(record.get("n_fake")),
        "n_real": _count(record.get("n_real")),
        "features": _text(record.get("features")),
        "weights_hash": _text(record.get("weights_hash")),
        "options": options,
        "p_value": _number(record.get("p_value")),
    }
    return [ScoreRow(metric, float(value), _number(error), own if samples is None else samples, **(told | more))]


def _of_verdict(record: dict[str, Any], home: Home) -> Iterator[ScoreRow]:
    """FID and KID of both sides against each reference, and the difference of the KIDs."""
    references = record.get("references")
    for split, entry in (references if isinstance(references, dict) else {}).items():
        if not isinstance(entry, dict):
            continue
        shared = record | {"reference": f"{home.data}:{split}", "split": split, "n_real": entry.get("n_real")}
        for metric in ("fid", "kid"):
            for key, side in (("base", "base"), ("gebm", "GEBM")):
                own = shared | {"samples": record.get(key), "n_fake": record.get(f"n_{key}")}
                value, error = (entry.get(f"{metric}_{key}{end}") for end in ("", "_standard_error"))
                yield from _row(own, home, metric, value, error, side=side)
        both = shared | {"p_value": entry.get("p_value")}
        value, error = (entry.get(f"kid_difference{end}") for end in ("", "_standard_error"))
        told = f"{record.get('gebm')} less {record.get('base')}"
        yield from _row(both, home, "kid-difference", value, error, samples=told)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: Any) -> str | None:
    return None if value is None or value == "none" else str(value)
