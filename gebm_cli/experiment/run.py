"""The run folder: what was asked for, what happened, and what came out.

runs/<experiment>-NNN/ experiment.yaml record.yaml metrics.jsonl checkpoints/ samples/ evaluation/
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gebm_cli.errors import DivergedError, GebmError, InterruptedRun, UsageError
from gebm_cli.experiment.files import make_numbered, read_yaml, when, write_atomically, write_yaml
from gebm_cli.experiment.load import load_experiment, to_yaml
from gebm_cli.experiment.schema import Experiment

TRAINED = "completed"
PATIENCE_S = 0.3  # for another process that only looks whether the run is held


@dataclass(frozen=True)
class Run:
    """One run folder and the experiment it resolved."""

    path: Path
    experiment: Experiment

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seed(self) -> int:
        """The seed of everything random in the run; always known once a run exists."""
        if self.experiment.seed is None:
            raise GebmError(f"{self.path / 'experiment.yaml'}: has no seed; it was changed by hand")
        return self.experiment.seed

    @property
    def option(self) -> str:
        """What finds the run on a command line: `--run NAME`, with `--runs-dir` where it lies elsewhere than runs usually do."""
        return f"--run {shlex.quote(self.name)}{runs_dir_option(self.path.parent)}"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    # --------------------------------------------------------------------------------------------------------- record

    def record(self) -> dict[str, Any]:
        """What happened so far: `stages`, a list of sessions in order, and `scores`."""
        record = read_yaml(self.path / "record.yaml")
        if not isinstance(record, dict) or not isinstance(record.get("stages"), list):
            raise GebmError(f"{self.path / 'record.yaml'}: is not a record of a run; it was changed by hand")
        return record

    def last_session(self, stage: str) -> dict[str, Any] | None:
        """The newest session of a stage; one marked running that no process holds is reported as crashed."""
        sessions = [s for s in self.record()["stages"] if s.get("stage") == stage]
        if not sessions:
            return None
        last = dict(sessions[-1])
        if last["status"] == "running" and not self.is_locked():
            last["status"] = "crashed"
        return last

    def has(self, stage: str) -> bool:
        """True when the stage was trained to its end, or has nothing to train (a fixed base, an energy of the user's)."""
        if not self.experiment.is_gebm:
            return False
        if not (self.experiment.trains_base if stage == "train-base" else self.experiment.trains_energy):
            return True
        last = self.last_session(stage)
        return last is not None and last["status"] == TRAINED

    def add_score(self, score: dict[str, Any], stem: str) -> Path:
        """Write a score as `evaluation/<stem>-NNN.yaml`, also while another process trains in this run.

        The record lists the scores too; while it is locked, the process that holds it adds them at its end.
        """
        path = make_numbered(self.path / "evaluation", stem, ".yaml")
        write_yaml(path, score | {"argv": command_line(), "written": _now("microseconds")})
        with suppress(UsageError), self.lock():
            self._write_record(self.record())
        return path

    def scores(self) -> list[dict[str, Any]]:
        """All scores, oldest first."""
        paths = [p for p in (self.path / "evaluation").glob("[!.]*.yaml") if p.stat().st_size]
        dated = [(when(path, score), path.name, score) for path in paths if isinstance(score := read_yaml(path), dict)]
        return [score for *_, score in sorted(dated, key=lambda d: d[:2])]

    def _write_record(self, record: dict[str, Any]) -> None:
        write_yaml(self.path / "record.yaml", record | {"scores": self.scores()})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; released by the system even when the process is killed.

        Raises:
            UsageError: another process holds it.
        """
        try:
            with FileLock(self.path / ".lock", timeout=PATIENCE_S, poll_interval=0.02):
                yield
        except Timeout:
            raise UsageError(
                f"{self.path}: another gebm process is writing to this run; wait for it, or start a run of its own"
            ) from None

    def is_locked(self) -> bool:
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    @contextmanager
    def session(self, stage: str, device: str) -> Iterator[dict[str, Any]]:
        """Record a stage from start to end, however it ends; yields the entry, to which figures may be added."""
        with self.lock():
            entry = {
                "stage": stage,
                "status": "running",
                "seed": self.seed,
                "device": device,
                **provenance("start"),
            }
            record = self.record()
            begun = any(s.get("stage") == stage for s in record["stages"])
            record["stages"].append(entry)

            def close(status: str, code: int, failure: str | None = None) -> None:
                entry.update({"status": status, "end": _now(), "exit_code": code})
                if failure:
                    entry["failure"] = failure
                if begun and code == UsageError.exit_code and "step" not in entry:
                    record["stages"].remove(entry)  # refused before it began: the session before it still stands
                self._write_record(record)

            self._write_record(record)
            yield from _closing(entry, close)

    # -------------------------------------------------------------------------------------------------------- metrics

    def metrics_writer(self, stage: str, from_step: int) -> Callable[[int, dict[str, float]], None]:
        """A function that appends one line of metrics; lines of this stage after `from_step` are dropped first."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in _complete_lines(path) if not _later(line, stage, from_step)]
            write_atomically(path, b"".join(kept))
        start = datetime.now(UTC)

        def write(step: int, figures: dict[str, float]) -> None:
            time_s = round((datetime.now(UTC) - start).total_seconds(), 3)
            row = {"stage": stage, "step": step, "time_s": time_s, **figures}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

        return write


def _closing(entry: dict[str, Any], close: Callable[..., None]) -> Iterator[dict[str, Any]]:
    try:
        yield entry
    except DivergedError as error:
        close("diverged", error.exit_code, str(error))
        raise
    except (InterruptedRun, KeyboardInterrupt) as error:
        close("interrupted", InterruptedRun.exit_code, str(error))
        raise
    except BaseException as error:
        close("failed", getattr(error, "exit_code", 1), f"{type(error).__name__}: {error}")
        raise
    close(TRAINED, 0)


def _complete_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _later(line: bytes, stage: str, step: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return True
    return row.get("stage") == stage and row.get("step", 0) > step


# ------------------------------------------------------------------------------------------------- making and finding


def create_run(experiment: Experiment, root: Path, data_shape: tuple[int, ...] = ()) -> Run:
    """A new folder `<root>/<experiment>-NNN`; numbering by exclusive mkdir, so two processes never share one.

    Raises:
        GebmError: the folder cannot be written.
    """
    try:
        path = make_numbered(root, experiment.name)
    except OSError as error:
        raise GebmError(f"{root}: cannot be written: {error.strerror}; choose another folder with --runs-dir") from None
    run = Run(path, experiment)
    write_atomically(path / "experiment.yaml", to_yaml(experiment).encode())
    record: dict[str, Any] = {"run": run.name, "experiment": experiment.name, "created": _now("milliseconds")}
    write_yaml(path / "record.yaml", record | {"data_shape": list(data_shape), "stages": [], "scores": []})
    return run


def open_run(path: Path) -> Run:
    """A run from its folder.

    Raises:
        UsageError: it is not a run folder.
    """
    missing = [name for name in ("experiment.yaml", "record.yaml") if not (path / name).is_file()]
    if len(missing) == 1 and (path / "checkpoints").is_dir():
        raise UsageError(f"{path}: is a damaged run: its {missing[0]} is gone; put it back, or train in a new run")
    if missing:
        raise UsageError(f"{path}: is not a run folder (no {' and '.join(missing)} in it)")
    return Run(path, load_experiment(path / "experiment.yaml"))


def all_runs(root: Path) -> list[Run]:
    """Every run below `root`, oldest first. What is not a run, or not one this version can read, is passed over."""
    runs = [run for run in map(_opened, run_folders(root)) if run is not None]
    return sorted(runs, key=lambda run: (str(run.record().get("created", "")), run.name))


def run_folders(root: Path) -> list[Path]:
    """The folders below `root` that hold a run."""
    if not root.is_dir():
        return []
    paths = [p for p in root.iterdir() if (p / "record.yaml").is_file() and (p / "experiment.yaml").is_file()]
    return sorted(paths)


def _opened(path: Path) -> Run | None:
    try:
        run = open_run(path)
        run.record()
    except GebmError:
        return None
    return run


def find_run(root: Path, name: str) -> Run:
    """The run of that name below `root`, or at that path.

    Raises:
        UsageError: there is none; the message lists the newest ones there are.
    """
    return open_run(find_run_folder(root, name, "--run "))


def find_run_folder(root: Path, name: str, flag: str = "") -> Path:
    """The folder of the run of that name below `root`, or at that path, whether it can be read or not.

    Raises:
        UsageError: there is none; the message lists the newest ones there are.
    """
    for path in (Path(name), root / name):
        if (path / "record.yaml").is_file():
            return path
    damaged = next((p for p in (Path(name), root / name) if name and (p / "experiment.yaml").is_file()), None)
    if damaged is not None:
        gone = damaged / "record.yaml"
        raise UsageError(f"{flag}{name}: is a damaged run: {gone} is gone; put it back, or train in a new run")
    known = [run.name for run in all_runs(root)][-5:]
    have = f"the newest here: {', '.join(known)}" if known else f"there are none in {root}"
    raise UsageError(f"{flag}{name}: no such run; {have}")


def newest_run(root: Path, stage: str, experiment: str | None = None) -> Run:
    """The newest run below `root` (of an experiment) in which a stage is trained to its end.

    Raises:
        UsageError: there is none; the message says how to get one.
    """
    runs = [r for r in all_runs(root) if experiment is None or r.experiment.name == experiment]
    for run in reversed(runs):
        if run.has(stage):
            return run
    of = f" of experiment '{experiment}'" if experiment else ""
    unfinished = next((r for r in reversed(runs) if r.last_session(stage)), None)
    if unfinished is not None:
        status = (unfinished.last_session(stage) or {}).get("status")
        raise UsageError(
            f"no run{of} in {root} has finished {stage}; the newest, {unfinished.name}, is {status}: "
            f"continue it with `gebm {stage} {unfinished.option}`"
        )
    command = (
        f"gebm {stage} " + (f"experiments/{experiment}.yaml" if experiment else "EXPERIMENT") + runs_dir_option(root)
    )
    raise UsageError(f"no run{of} in {root} has finished {stage}; run `{command}` first")


# ---------------------------------------------------------------------------------------------------------- provenance


def command_line() -> list[str]:
    """What was typed."""
    return ["gebm", *sys.argv[1:]]


def provenance(moment: str = "written") -> dict[str, Any]:
    """Time (as `moment`), command line, machine, versions and, inside a git checkout, the commit and whether it was changed."""
    packages = {name: version(name) for name in ("gebm-cli", "torch", "numpy")}
    return {
        moment: _now(),
        "argv": command_line(),
        "host": platform.node(),
        "versions": {"python": platform.python_version(), **packages},
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _now(timespec: str = "seconds") -> str:
    return datetime.now(UTC).isoformat(timespec=timespec)


def runs_root(option: str | None) -> Path:
    """Where runs live: the option, else the variable GEBM_RUNS_DIR, else ./runs."""
    return Path(option or os.environ.get("GEBM_RUNS_DIR") or "runs")


def runs_dir_option(root: Path) -> str:
    """` --runs-dir DIR`, quoted for a shell, of a folder that a command would not take by itself, else nothing."""
    return "" if root.resolve() == runs_root(None).resolve() else f" --runs-dir {shlex.quote(str(root))}"
