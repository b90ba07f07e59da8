"""All runs of a folder as rows: what each is, how far it came, its scores and its curve. A thousand runs take seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from gebm_cli.errors import GebmError
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, run_folders
from gebm_cli.experiment.schema import Experiment

LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is eight times as fast
HEADING = ("stage", "step", "time_s")
SIDES_OF_A_SCORE = ("features", "weights_hash", "resize", "layer", "precision", "reference", "n_real", "n_fake")
OF_A_SCORE = ("value", "standard_error", "samples", "reference", "features", "weights_hash", "n_fake", "n_real")


@dataclass(frozen=True)
class RunRow:
    """One run. `curve` is the main curve of the newest stage, a few values of it; `metrics` are its newest figures."""

    path: Path
    experiment: Experiment
    stages: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    session: dict[str, Any]
    created: str = ""
    curve_name: str | None = None
    curve: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The row as plain types, by the names of its columns."""
        session = self.session
        newest = {metric: newest_score(self.scores, metric) for metric in ("fid", "kid")}
        best = {f"best_{metric}": best_score(self.scores, metric) for metric in ("fid", "kid")}
        return {
            "run": self.name,
            "stage": session.get("stage"),
            "status": session.get("status", "empty"),
            "step": self._step,
            "seed": self.experiment.seed,
            "start": session.get("start"),
            **newest,
            "experiment": self.experiment.name,
            "objective": objective_of(self.experiment, session.get("stage")),
            "duration_s": duration(self.stages),
            **best,
            "curve_name": self.curve_name,
            "curve": self.curve,
        }

    @property
    def _step(self) -> int | None:
        """Of the session where it has ended, else that of its newest metrics."""
        step = self.session.get("step")
        known = self.metrics.get("step") if step is None else step
        return int(known) if _is_number(known) and math.isfinite(known) else None  # type: ignore[arg-type]

    @cached_property
    def keys(self) -> dict[str, Any]:
        """Every key of the experiment, dotted; a section with a kind has that kind for its value."""
        return dict(flattened(self.experiment.model_dump(mode="json")))


def read_rows(root: Path) -> tuple[list[RunRow], list[Path]]:
    """The rows of all runs below `root`, oldest first, and the folders that this version cannot read."""
    rows, unreadable = [], []
    for path in run_folders(root):
        try:
            rows.append(read_row(path))
        except (GebmError, OSError):
            unreadable.append(path)
    return sorted(rows, key=lambda row: (row.created, row.name)), unreadable


def read_row(path: Path) -> RunRow:
    """One run, each of its files read once.

    Raises:
        GebmError: its experiment or its record cannot be read.
    """
    experiment = _experiment(path / "experiment.yaml")
    record = _yaml(path / "record.yaml")
    if not isinstance(record, dict) or not isinstance(record.get("stages"), list):
        raise GebmError(f"{path / 'record.yaml'}: is not a record of a run; it was changed by hand")
    stages = [s for s in record["stages"] if isinstance(s, dict)]
    session = stages[-1] if stages else {}
    if session.get("status") == "running":  # or crashed, which the lock tells
        session = Run(path, experiment).last_session(str(session.get("stage"))) or session
    name, curve, metrics = _metrics(path / "metrics.jsonl", session.get("stage"), experiment)
    figures = session.get("figures")
    metrics |= {k: float(v) for k, v in (figures if isinstance(figures, dict) else {}).items() if _is_number(v)}
    scores = _scores(path, record)
    return RunRow(path, experiment, stages, scores, session, str(record.get("created", "")), name, curve, metrics)


# ------------------------------------------------------------------------------------------------------------- reading


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except OSError as error:
        raise GebmError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise GebmError(f"{path}: is not readable as YAML; it was not written by gebm, or was changed") from None


def _experiment(path: Path) -> Experiment:
    """As `load_experiment`, ten times as fast for a file that was written by us; any other is left to it."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) < 1_000_000 and not any(letter in text for letter in "&*!"):
            return Experiment.model_validate(_as_text(yaml.compose(text, Loader=LOADER)))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        pass
    return load_experiment(path)


def _as_text(node: yaml.Node | None) -> Any:
    """The node as dicts, lists, text and None, as `load` has them: the schema converts each text by its declared type."""
    if isinstance(node, yaml.MappingNode):
        found = {key.value: _as_text(value) for key, value in node.value}
        if len(found) < len(node.value) or "extends" in found:
            raise ValueError
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_as_text(child) for child in node.value]
    if not isinstance(node, yaml.ScalarNode) or (not node.style and node.value in ("", "~", "null", "Null", "NULL")):
        return None
    return node.value


def _scores(path: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """All scores, oldest first: from the record where it has them all, else from their files."""
    files = [(entry.stat(), entry) for entry in (path / "evaluation").glob("[!.]*.yaml")]
    files = [(stat, entry) for stat, entry in files if stat.st_size]
    known = record.get("scores")
    written = (path / "record.yaml").stat().st_mtime_ns
    if isinstance(known, list) and len(known) == len(files) and all(s.st_mtime_ns <= written for s, _ in files):
        scores = known
    else:
        scores = [_yaml(file) for _, file in sorted(files, key=lambda f: (f[0].st_mtime, f[1].name))]
    return [score for score in scores if isinstance(score, dict)]


def _metrics(path: Path, stage: Any, experiment: Experiment) -> tuple[str | None, list[float], dict[str, float]]:
    """The name and some values of the newest stage's main curve, and the newest figures."""
    from gebm_cli.experiment.report.series import sampled_rows

    rows = [row for row in sampled_rows(path) if row.get("stage") == stage]
    last = rows[-1] if rows else {}
    name = _main_curve(rows, (objective_of(experiment, stage) or "").partition(" ")[0])
    curve = [float(row[name]) for row in rows if _is_number(row.get(name))] if name else []
    return name, curve, {k: float(v) for k, v in last.items() if k != "time_s" and _is_number(v)}


def _main_curve(rows: list[dict[str, Any]], objective: str) -> str | None:
    """The value of the objective, which has its name, or is the first figure of a row."""
    names = [key for row in rows for key in row if key not in HEADING and _is_number(row[key])]
    return objective if objective in names else next(iter(names), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------------------------------- figures


def flattened(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """`{"data": {"kind": "digits"}}` as `data: digits` and `data.kind: digits`."""
    for name, value in tree.items():
        if isinstance(value, dict):
            if "kind" in value:
                yield above + name, value["kind"]
            yield from flattened(value, f"{above}{name}.")
        else:
            yield above + name, value


def objective_of(experiment: Experiment, stage: Any) -> str | None:
    """What the stage trains by: `kale`, `f-gan (kl)`; of a flow what it descends."""
    if stage == "flow":
        return experiment.flow.divergence
    if stage not in ("train-base", "train-energy"):
        return None
    objective = (experiment.train_base if stage == "train-base" else experiment.train_energy).objective
    divergence = getattr(objective, "divergence", None)
    return f"{objective.kind} ({divergence})" if divergence else str(objective.kind)


def duration(stages: list[dict[str, Any]]) -> float | None:
    """Seconds from start to end of every session that has ended, in all; None where none has."""
    spans = [(_time(s.get("start")), _time(s.get("end"))) for s in stages]
    seconds = [(end - start).total_seconds() for start, end in spans if start and end]
    return sum(seconds) if seconds else None


def _time(value: Any) -> datetime | None:
    try:
        return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return None


def newest_score(scores: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The newest score of a metric: its value with what it was made from."""
    found = [s for s in scores if s.get("metric") == metric and _is_number(s.get("value"))]
    return {key: found[-1].get(key) for key in OF_A_SCORE} if found else None


def best_score(scores: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The lowest of the scores that may be compared with the newest: same features, weights, reference and numbers."""
    found = [s for s in scores if s.get("metric") == metric and _is_number(s.get("value"))]
    alike = [s for s in found if all(s.get(key) == found[-1].get(key) for key in SIDES_OF_A_SCORE)]
    best = min((s for s in alike if math.isfinite(s["value"])), key=lambda s: s["value"], default=None)
    return None if best is None else {key: best.get(key) for key in OF_A_SCORE}
