"""`gebm runs`: the table of runs."""

from __future__ import annotations

import sys
from typing import Any

import typer

from gebm_cli.cli.options import Json, RunsDir, print_result
from gebm_cli.experiment.run import Run, all_runs, run_folders, runs_root


def register(app: typer.Typer) -> None:
    app.command(
        "runs",
        epilog="""Examples:\n
    gebm runs\n
    gebm runs --runs-dir elsewhere --json""",
    )(runs)


def runs(json: Json = False, runs_dir: RunsDir = None) -> None:
    """List the runs, newest last: what was trained, how far, and the newest scores."""
    root = runs_root(runs_dir)
    readable = all_runs(root)
    rows = [_row(run) for run in readable]
    for path in run_folders(root):
        if path not in [run.path for run in readable]:
            print(
                f"gebm: {path}: passed over, its experiment.yaml or record.yaml cannot be read by this version",
                file=sys.stderr,
            )
    if json:
        print_result({"runs": rows}, True, "")
        return
    if not rows:
        print(f"no runs in {root}; `gebm train-base EXPERIMENT` starts one")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "stage", "status", "step", "seed", "started", "FID", "KID", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*[_cell(row[k]) for k in ("run", "stage", "status", "step", "seed", "start", "fid", "kid")])
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _row(run: Run) -> dict[str, Any]:
    record = run.record()
    last = record["stages"][-1] if record["stages"] else {}
    session = run.last_session(last["stage"]) if last else {}
    scores = {s.get("metric"): s for s in run.scores()}
    return {
        "run": run.name,
        "stage": (session or {}).get("stage"),
        "status": (session or {}).get("status", "empty"),
        "step": (session or {}).get("step"),
        "seed": run.experiment.seed,
        "start": (session or {}).get("start"),
        "fid": _score(scores.get("fid")),
        "kid": _score(scores.get("kid")),
    }


def _score(score: dict[str, Any] | None) -> dict[str, Any] | None:
    return (
        None if score is None else {key: score.get(key) for key in ("value", "standard_error", "samples", "reference")}
    )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.4g} ({value['reference']})"
    return "-" if value is None else str(value)
