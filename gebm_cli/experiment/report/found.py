"""What a run folder holds, read for its page: everything may be missing or damaged, and nothing of that ends the page."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gebm_cli.errors import GebmError
from gebm_cli.experiment.files import read_yaml, when
from gebm_cli.experiment.report.film import Shown, read_shown
from gebm_cli.experiment.report.series import Metrics, read_metrics
from gebm_cli.experiment.run import Run, open_run
from gebm_cli.experiment.sample_sets import SampleSet, sample_sets
from gebm_cli.experiment.showing import Resolved, resolve

STAGES = ("train-base", "train-energy")
PLAIN = ("value", "samples", "features")
NEEDED = {"verdict": ("references", "base", "gebm"), "two-sample-test": ("x", "y", "p_value", "features")}
NEEDED |= dict.fromkeys(("fid", "kid", "is", "prdc", "fd-mmd", "energy-distance"), PLAIN)


@dataclass(frozen=True)
class Score:
    """A record of evaluation/, with its file."""

    path: Path
    record: dict[str, Any]

    @property
    def metric(self) -> str:
        """`fid`, `kid`, `verdict`, ...; `two-sample-test` for the tests, which name their kind instead."""
        return str(self.record.get("metric", "two-sample-test" if "test" in self.record else self.path.stem))


@dataclass(frozen=True)
class Found:
    """All that could be read, and in `problems` a sentence for each thing that could not."""

    path: Path
    run: Run | None
    resolved: Resolved | None
    record: dict[str, Any]
    sessions: list[dict[str, Any]]
    metrics: Metrics
    sets: list[SampleSet]
    scores: list[Score]
    problems: list[str] = field(default_factory=list)
    _shown: dict[Path, Shown | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def address(self) -> str:
        """What `--run` takes: the name of a run in a folder `runs`, else its path."""
        return self.name if self.path.absolute().parent.name == "runs" else str(self.path)

    def shown(self, samples: SampleSet) -> Shown | None:
        """What shown.npz of a set holds, read once.

        Raises:
            GebmError: it is damaged.
        """
        if samples.path not in self._shown:
            self._shown[samples.path] = read_shown(samples.path)
        return self._shown[samples.path]

    @property
    def is_gebm(self) -> bool:
        return self.run is None or self.run.experiment.is_gebm

    def newest(self, kind: str) -> SampleSet | None:
        """The newest sample set of a kind: base, chains or flow."""
        return next((s for s in reversed(self.sets) if s.kind == kind), None)

    def last(self, stage: str) -> dict[str, Any] | None:
        """The newest session of a stage."""
        return next((s for s in reversed(self.sessions) if s.get("stage") == stage), None)

    def command(self, stage: str) -> str:
        """What was typed to begin a stage, else what would be; a flow's curves are called after its set: `flow/kale-flow-001`."""
        stage, _, own = stage.partition("/")
        of_set = next((typed(s.described) for s in self.sets if s.name == own), "")
        if of_set:
            return of_set
        first = next((s for s in self.sessions if s.get("stage") == stage), {})
        return self.repeatable(first) or shlex.join(["gebm", stage, "--run", self.address])

    def repeatable(self, session: dict[str, Any]) -> str:
        """The command line of a session, with the seed that was drawn where a run began without one."""
        words = session.get("argv")
        begins = bool(self.sessions) and session == self.sessions[0] and session.get("seed") is not None
        if not begins or not isinstance(words, list):
            return typed(session)
        told = {"--run", "--seed"} & {str(word).partition("=")[0] for word in words}
        return typed(session) if told else shlex.join([*map(str, words), "--seed", str(session["seed"])])

    def done(self, stage: str) -> bool:
        """Whether a stage ended well, or has nothing to train."""
        if self.run is not None and self.run.experiment.is_gebm:
            return self.run.has(stage)
        return (self.last(stage) or {}).get("status") == "completed"


def typed(described: dict[str, Any]) -> str:
    """The command line of a session, a sample set or a score; empty where it was not kept."""
    words = described.get("argv")
    return shlex.join(map(str, words)) if isinstance(words, list) else ""


def find(path: Path) -> Found:
    """Read what there is of a run folder."""
    problems: list[str] = []

    def attempt(read: Any, otherwise: Any) -> Any:
        try:
            return read()
        except GebmError as error:
            problems.append(str(error))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"{path}: {type(error).__name__}: {error}")
        return otherwise

    run = attempt(lambda: open_run(path), None)
    record = attempt(lambda: _mapping(path / "record.yaml"), {})
    return Found(
        path=path,
        run=run,
        resolved=attempt(lambda: resolve(run), None) if run is not None else None,
        record=record,
        sessions=attempt(lambda: _sessions(run, record), []),
        metrics=attempt(lambda: read_metrics(path / "metrics.jsonl"), Metrics({}, 0, 0)),
        sets=attempt(lambda: sample_sets(path, problems.append), []),
        scores=attempt(lambda: _scores(path, problems), []),
        problems=problems,
    )


def _mapping(path: Path) -> dict[str, Any]:
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise GebmError(f"{path}: is not the record of a run; it was changed by hand")
    return found


def _sessions(run: Run | None, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The sessions in order; one marked running is told as crashed, but for the last while a process holds the run."""
    sessions = [s for s in record.get("stages") or [] if isinstance(s, dict)]
    running = sessions and sessions[-1].get("status") == "running"
    alive = sessions[-1:] if running and run is not None and run.is_locked() else []
    return [s | {"status": "crashed"} if s.get("status") == "running" and s not in alive else s for s in sessions]


def _scores(path: Path, problems: list[str]) -> list[Score]:
    """The records of evaluation/, oldest first; one that cannot be read is told and passed over."""
    paths = [p for p in (path / "evaluation").glob("[!.]*.yaml") if p.stat().st_size]
    found = []
    for file in paths:
        try:
            score = Score(file, _mapping(file))
            lacking = [key for key in NEEDED.get(score.metric, ()) if score.record.get(key) is None]
            if lacking:
                raise GebmError(f"{file}: is incomplete (no {', '.join(lacking)}); it was cut off or changed by hand")
            found.append(score)
        except GebmError as error:
            problems.append(str(error))
    return sorted(found, key=lambda score: (when(score.path, score.record), score.path.name))
