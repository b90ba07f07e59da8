"""`gebm report`: one page that shows a run."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gebm_cli.cli.completion import complete_runs
from gebm_cli.cli.options import Json, RunsDir, print_result
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import find_run_folder, run_folders, runs_root
from gebm_cli.experiment.writing import printable


def register(app: typer.Typer) -> None:
    app.command(
        "report",
        epilog="""Examples:\n
    gebm report                        (the run that was touched last)\n
    gebm report digits-001 --open      (in the browser)\n
    gebm report digits-001 --out page.html""",
    )(report)


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run, by name or path. Default: the one touched last.", autocompletion=complete_runs
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Where to write. Default: report.html in the run.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Write a run's page: samples, scores, energies, chains, curves, and the experiment with its commands; one HTML file.

    The page is also made anew after every stage of a run, unless GEBM_REPORT is off.
    """
    from gebm_cli.experiment.report.page_file import require_page_place
    from gebm_cli.experiment.report.run_page import NAME, write_report

    start = time.monotonic()
    folder = _chosen(run, runs_dir)
    target = Path(out) if out is not None else folder / NAME
    if out is not None:
        require_page_place(target, "--out")
    written = write_report(folder, target)
    result = {
        "run": folder.name,
        "report": str(written),
        "bytes": written.stat().st_size,
        "seconds": round(time.monotonic() - start, 3),
    }
    print_result(result, json, printable(f"{folder.name}: {written}"))
    if open_it:
        webbrowser.open(written.resolve().as_uri())


def _chosen(name: str | None, runs_dir: str | None) -> Path:
    """The folder of the run, also of one whose experiment cannot be read: its page says so."""
    root = runs_root(runs_dir)
    if name is not None:
        return find_run_folder(root, name)
    folders = run_folders(root)
    if not folders:
        raise UsageError(f"no runs in {root}; `gebm train-base EXPERIMENT` starts one")
    return max(folders, key=lambda folder: ((folder / "record.yaml").stat().st_mtime, folder.name))
