"""All runs of a folder as rows: what each is, how far it came, its scores and its curve. A thousand runs take seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from gebm_cli.errors import GebmError
from gebm_cli.experiment.durations import seconds_of
from gebm_cli.experiment.files import SAFE_LOADER, read_yaml
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.newest_rows import newest_rows
from gebm_cli.experiment.run import Run, run_folders
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.score_rows import ScoreRow, home_of, is_number, score_rows

HEADING = ("stage", "step", "time_s")
OF_A_SCORE = ("value", "standard_error", "side", "samples", "reference", "features", "weights_hash", "n_fake", "n_real")


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        recorded: the name it was made with.
        curve: the main curve of the newest stage, a few values of it.
        metrics: the newest figures of the newest stage.
    """

    path: Path
    experiment: Experiment
    stages: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    session: dict[str, Any]
    created: str = ""
    recorded: str = ""
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
        groups = self.score_groups
        newest = {metric: _told(newest_score(groups, metric)) for metric in ("fid", "kid")}
        best = {f"best_{metric}": _told(best_score(groups, metric)) for metric in ("fid", "kid")}
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

    @cached_property
    def score_groups(self) -> list[list[ScoreRow]]:
        """The numbers of each record of a score, oldest first."""
        home = home_of(self.path, {"run": self.recorded} if self.recorded else {}, self.experiment)
        return [score_rows(record, home) for record in self.scores]

    @property
    def _step(self) -> int | None:
        """Of the session where it has ended, else that of its newest metrics."""
        step = self.session.get("step")
        known = self.metrics.get("step") if step is None else step
        return int(known) if is_number(known) and math.isfinite(known) else None  # type: ignore[arg-type]

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
    record = read_yaml(path / "record.yaml")
    if not isinstance(record, dict) or not isinstance(record.get("stages"), list):
        raise GebmError(f"{path / 'record.yaml'}: is not a record of a run; it was changed by hand")
    stages = [s for s in record["stages"] if isinstance(s, dict)]
    session = stages[-1] if stages else {}
    if session.get("status") == "running":  # or crashed, which the lock tells
        session = Run(path, experiment).last_session(str(session.get("stage"))) or session
    name, curve, metrics = _metrics(path / "metrics.jsonl", session.get("stage"), experiment)
    figures = session.get("figures")
    metrics |= {k: float(v) for k, v in (figures if isinstance(figures, dict) else {}).items() if is_number(v)}
    scores = _scores(Run(path, experiment), record)
    made = (str(record.get("created", "")), str(record.get("run", "")))
    return RunRow(path, experiment, stages, scores, session, *made, name, curve, metrics)


# ------------------------------------------------------------------------------------------------------------- reading


def _experiment(path: Path) -> Experiment:
    """As `load_experiment`, ten times as fast for a file that was written by us; any other is left to it."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) < 1_000_000 and not any(letter in text for letter in "&*!"):
            return Experiment.model_validate(_as_text(yaml.compose(text, Loader=SAFE_LOADER)))
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


def _scores(run: Run, record: dict[str, Any]) -> list[dict[str, Any]]:
    """All scores, oldest first: from the record where it has them all, else from their files."""
    files = [stat for entry in (run.path / "evaluation").glob("[!.]*.yaml") if (stat := entry.stat()).st_size]
    known = record.get("scores")
    written = (run.path / "record.yaml").stat().st_mtime_ns
    if isinstance(known, list) and len(known) == len(files) and all(stat.st_mtime_ns <= written for stat in files):
        return [score for score in known if isinstance(score, dict)]
    return run.scores()


def _metrics(path: Path, stage: Any, experiment: Experiment) -> tuple[str | None, list[float], dict[str, float]]:
    """The name and some values of the newest stage's main curve, and the newest figures."""
    rows, tail = newest_rows(path, stage)
    name = _main_curve(rows, (objective_of(experiment, stage) or "").partition(" ")[0])
    curve = [float(row[name]) for row in rows if is_number(row.get(name))] if name else []
    newest = {k: float(v) for row in [*rows, *tail] for k, v in row.items() if k != "time_s" and is_number(v)}
    return name, curve, newest


def _main_curve(rows: list[dict[str, Any]], objective: str) -> str | None:
    """The value of the objective, which has its name, or is the first figure of a row."""
    names = [key for row in rows for key in row if key not in HEADING and is_number(row[key])]
    return objective if objective in names else next(iter(names), None)


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
    seconds = [known for s in stages if (known := seconds_of(s)) is not None]
    return math.fsum(seconds) if seconds else None


def newest_score(groups: list[list[ScoreRow]], metric: str) -> ScoreRow | None:
    """The newest score of a metric against data, of the rows of each record; of a verdict the GEBM's against training data."""
    for rows in reversed(groups):
        found = [row for row in rows if row.metric == metric and not row.of_samples]
        if found:
            return min(found, key=lambda row: (row.side != "GEBM", row.split != "train"))
    return None


def best_score(groups: list[list[ScoreRow]], metric: str) -> ScoreRow | None:
    """The lowest of the scores that may be compared with the newest: same side, features, weights, reference and numbers."""
    newest = newest_score(groups, metric)
    if newest is None:
        return None
    alike = [row for rows in groups for row in rows if _key(row) == _key(newest) and math.isfinite(row.value)]
    return min(alike, key=lambda row: row.value, default=None)


def _key(row: ScoreRow) -> tuple[Any, ...]:
    of = (row.metric, row.side or row.samples, row.reference, row.of_samples, row.n_fake, row.n_real)
    return (*of, row.features, row.weights_hash, row.options)


def _told(row: ScoreRow | None) -> dict[str, Any] | None:
    return None if row is None else {key: getattr(row, key) for key in OF_A_SCORE}
