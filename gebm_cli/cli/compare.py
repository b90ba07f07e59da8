"""`gebm compare`: what differs between runs, and whether it matters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gebm_cli.cli.completion import complete_runs
from gebm_cli.cli.evaluate import FeaturesOption, Weights, check_features
from gebm_cli.cli.options import Device, Json, RunsDir, print_result, resolve
from gebm_cli.cli.progress import Quiet, phases
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.run import command_line, runs_root
from gebm_cli.experiment.writing import printable

LONGEST = 120  # letters of a page's name


def register(app: typer.Typer) -> None:
    app.command(
        "compare",
        epilog="""Examples:\n
    gebm compare digits-001 digits-002\n
    gebm compare digits-001 digits-002 digits-003 --no-test      (keys, curves and scores alone; at once)\n
    gebm compare digits-001 digits-002 --features pixels --out comparison.html\n
    gebm compare digits-001 digits-002 --json""",
    )(compare)


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN RUN...", help="Two to eight runs, by name or path.", autocompletion=complete_runs),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Where the page is written. Default: compare-RUN-RUN.html beside the first run."
        ),
    ] = None,
    no_test: Annotated[bool, typer.Option("--no-test", help="Leave out the test of the samples.")] = False,
    features: FeaturesOption = None,
    weights: Weights = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Compare runs: keys that differ, curves they share, newest scores, and whose samples are closer to the data.

    The test is that of the difference of two KIDs (Bounliphone et al. 2016) between the runs' newest GEBM samples, or the newest
    of the bases where neither has any, against the first run's training data. One page holds everything.
    """
    check_features(features)
    given = [f"--{name}" for name, value in (("features", features), ("weights", weights)) if value is not None]
    if no_test and given:
        raise UsageError(f"{given[0]}: is for the test, which --no-test leaves out; give one of the two")
    from gebm_cli.experiment.run_comparison import compare_runs, find_runs

    root = runs_root(runs_dir)
    founds = find_runs(list(names or []), root)
    comparison = compare_runs(founds)
    page = _place(out, founds[0].path, comparison.labels)
    tests = None if no_test else _tests(comparison, device, features, weights)
    for note in [*comparison.notes, *(tests or {}).get("notes", [])]:
        _note(note)
    written = _write(page, comparison, tests, out is not None)
    from gebm_cli.cli.compare_text import as_json, text

    result = as_json(comparison, tests) | {"page": str(written) if written else None}
    print_result(result, json, "" if json else text(comparison, tests, written))


def _tests(comparison: Any, device: str, features: str | None, weights: str | None) -> dict[str, Any]:
    """The tests; torch is imported only where there are samples to be tested."""
    from gebm_cli.experiment.run_sets import pairs_to_test

    pairs, left_out = pairs_to_test(comparison.founds, comparison.labels)
    if not pairs:
        return {"tests": [], "left_out": left_out, "notes": [], "caution": None}
    where = resolve(device)
    from gebm_cli.experiment.run_tests import compare_samples

    with phases("compare") as begin:
        return compare_samples(comparison.founds, comparison.labels, where, begin, features, weights)


# ---------------------------------------------------------------------------------------------------------------- page


def _place(out: str | None, first: Path, labels: list[str]) -> Path:
    """Where the page goes: beside the first run, since runs of other folders may have the same names.

    Raises:
        UsageError: there is something that is no page of ours, or the folder is not there.
    """
    from gebm_cli.experiment.report.page_file import require_page_place

    names = [Path(label).name for label in labels]
    name = f"compare-{'-'.join(names)}"
    if len(name) > LONGEST:
        name = f"compare-{names[0]}-and-{len(names) - 1}-more"[:200]
    beside = first.parent if first.name not in ("", "..") else first.absolute().resolve().parent
    place = Path(out) if out is not None else beside / f"{name}.html"
    require_page_place(place, "--out" if out is not None else "")
    return place


def _write(place: Path, comparison: Any, tests: dict[str, Any] | None, asked: bool) -> Path | None:
    """Write the page; where its place was not asked for, failing is a note, since the result is printed too."""
    from gebm_cli.experiment.report.comparison_page import comparison_page
    from gebm_cli.experiment.report.page_file import write_page
    from gebm_cli.experiment.report.render import render

    html = render(comparison_page(comparison, tests, command_line()))
    try:
        write_page(place, html)
    except GebmError as error:
        if asked:
            raise
        _note(f"{error}; name another place with --out")
        return None
    return place


def _note(text: str) -> None:
    print(f"gebm: note: {printable(text)}", file=sys.stderr)
