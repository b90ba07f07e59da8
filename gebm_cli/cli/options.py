"""The options that commands share, and the few lines every command begins and ends with. Imports no torch."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gebm_cli.cli.completion import complete_experiments, complete_keys, complete_runs
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.run import Run, find_run, runs_root

if TYPE_CHECKING:
    import torch

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
RunName = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="A run, by name or path.", autocompletion=complete_runs),
]
RunsDir = Annotated[
    str | None,
    typer.Option("--runs-dir", metavar="DIR", help="Where runs live. Default: $GEBM_RUNS_DIR, else ./runs."),
]
AllowPlugins = Annotated[
    bool,
    typer.Option(
        "--allow-plugins", help="Run the functions of yours that base.factory, energy.factory or --features name."
    ),
]
ExperimentArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[EXPERIMENT]",
        help="An experiment file, or the name of one in experiments/.",
        autocompletion=complete_experiments,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides of its keys, e.g. train_base.lr=2e-4.",
        autocompletion=complete_keys,
    ),
]


def split_arguments(experiment: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """With --run the experiment may be left out, and the first override then stands in its place."""
    rest = list(overrides or [])
    if experiment is not None and "=" in experiment and not Path(experiment).exists():
        return None, [experiment, *rest]
    return experiment, rest


def open_named_run(name: str | None, runs_dir: str | None) -> Run | None:
    """The run of `--run`, or None where it is not given."""
    return find_run(runs_root(runs_dir), name) if name is not None else None


def resolve(device: str, exact: bool = True) -> torch.device:
    """The device; unless it is for training, with reduced-precision products (TF32) turned off. Imports torch."""
    from gebm_cli.core.device import exact_float32, resolve_device

    if exact:
        exact_float32()
    return resolve_device(device)


def print_result(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result, alone on stdout: one JSON object, or the sentence for people."""
    print(json.dumps(_without_nan(result), allow_nan=False) if as_json else text)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record_scores(scores: Iterable[tuple[Run | None, dict[str, Any], str]]) -> None:
    """Keep (run, score, stem) in the runs that the samples belong to, then make the pages of these runs anew.

    The scores are printed already, so failing to keep one is a note, not an error.
    """
    touched: dict[Path, Run] = {}
    for run, score, stem in scores:
        if run is None:
            continue
        try:
            run.add_score(score, stem)
            touched[run.path] = run
        except (GebmError, OSError) as error:
            print(f"gebm: note: the result could not be kept in {run.path}: {error}", file=sys.stderr)
    for run in touched.values():
        refresh_report(run)


def refresh_report(run: Run) -> None:
    """Make the run's page anew, by one process, unless GEBM_REPORT is off; a page that fails is a note, not an error."""
    if os.environ.get("GEBM_REPORT", "").lower() in ("off", "0", "no", "false") or os.environ.get("RANK", "0") != "0":
        return
    from gebm_cli.experiment.report.run_page import write_report

    try:
        write_report(run.path)
    except Exception as error:
        print(f"gebm: note: {run.path / 'report.html'} could not be made: {error}", file=sys.stderr)


@contextmanager
def closing_with(run: Run) -> Iterator[None]:
    """However the stage within ends, the run's page tells it."""
    try:
        yield
    finally:
        refresh_report(run)


def refuse_overrides(overrides: list[str]) -> None:
    """A finished run has its experiment; only the flags of the command may differ."""
    if overrides:
        raise UsageError(
            f"override '{overrides[0]}': a run keeps the experiment it was trained with; give an override together with "
            "an experiment file, or use the options of this command"
        )
