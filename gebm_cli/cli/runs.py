"""`gebm runs`: the table of runs."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gebm_cli.cli.options import Json, RunsDir, print_result
from gebm_cli.cli.runs_text import draw_table
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import runs_root
from gebm_cli.experiment.run_query import COLUMNS, SCORES, filtered, number_of, ordered, parse_filter, value_of
from gebm_cli.experiment.run_table import OF_A_SCORE, RunRow, read_rows
from gebm_cli.experiment.writing import printable

DEFAULT = "started"  # what rows are sorted by
WIDE = 200  # columns of a table that is not printed on a terminal
FORMULA = ("=", "+", "-", "@", "\t")  # what text begins with that a spreadsheet takes for a formula
OF_ONE_SCALE = {"features": "features", "weights_hash": "weights", "reference": "references", "side": "sides"}


def register(app: typer.Typer) -> None:
    app.command(
        "runs",
        epilog="""Examples:\n
    gebm runs\n
    gebm runs --sort fid\n
    gebm runs --filter status=completed --filter 'train_energy.lr<=1e-4' --sort -kid\n
    gebm runs --filter run='digits-*' --csv > runs.csv\n
    gebm runs --runs-dir elsewhere --json""",
    )(runs)


Sort = Annotated[
    str,
    typer.Option(
        metavar="KEY",
        help="started, run, status, step, fid, kid, another column, a metric (its newest value), or a key of the experiment such "
        "as train_energy.lr; -KEY is descending.",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only runs of which this holds; repeatable. The keys of --sort; =, !=, <, >, <=, >=; VALUE may hold * and ?.",
    ),
]


def runs(
    sort: Sort = DEFAULT,
    filters: Filters = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Descending; what is missing stays last.")] = False,
    json: Json = False,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="The rows as CSV on stdout; text that a spreadsheet would run gets an apostrophe."),
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """List the runs, newest last: what was trained, how far, its curve, and the newest scores against data.

    A score names whose samples it is of: the GEBM's, the base's or a flow's.
    """
    if json and as_csv:
        raise UsageError("--json and --csv: give one of them; stdout holds one result")
    wanted = [parse_filter(text) for text in filters or []]
    root, key = _root(runs_dir), sort.removeprefix("-")
    everything, unreadable = read_rows(root)
    for path in unreadable:
        _tell(f"{path}: passed over, its experiment.yaml or record.yaml cannot be read by this version")
    rows = ordered(filtered(everything, wanted), key, reverse != sort.startswith("-"))
    extra = list(dict.fromkeys(k for k in (key, *(f.key for f in wanted)) if _is_extra(k)))
    _warn_of_features(rows, key)
    if json:
        own = [row.summary | ({"keys": {k: value_of(row, k) for k in extra}} if extra else {}) for row in rows]
        print_result({"runs": own}, True, "")
    elif as_csv:
        _print_csv(rows, extra)
    elif not rows:
        print(printable(_nothing(root, bool(everything))))
    else:
        draw_table(rows, extra, _width(), "" if sort == DEFAULT else key)


def _root(runs_dir: str | None) -> Path:
    """Where runs live; a default folder may not be there yet.

    Raises:
        UsageError: it is no folder, or was named by the option and is not there.
    """
    root = runs_root(runs_dir)
    where = "--runs-dir " if runs_dir else "GEBM_RUNS_DIR=" if os.environ.get("GEBM_RUNS_DIR") else ""
    if root.is_dir() or not (root.exists() or runs_dir):
        return root
    told = "is a file" if root.exists() else "no such folder"
    raise UsageError(f"{where}{root}: {told}; expected the folder that holds the runs, ./runs where none is named")


def _tell(text: str) -> None:
    print(f"gebm: {printable(text)}", file=sys.stderr)


def _is_extra(key: str) -> bool:
    return key not in COLUMNS and key not in SCORES


def _nothing(root: Any, filtered_out: bool) -> str:
    if filtered_out:
        return f"no run in {root} fits every --filter"
    return f"no runs in {root}; `gebm train-base EXPERIMENT` starts one"


def _width() -> int:
    """Of the terminal; a pipe or a file gets wide lines, or what COLUMNS says."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or WIDE
    except (OSError, ValueError):
        return WIDE


def _warn_of_features(rows: list[RunRow], key: str) -> None:
    """Scores on other features, data or numbers have another scale, so their order means nothing."""
    if key not in SCORES:
        return
    scores = [row.summary[key] for row in rows if row.summary[key]]
    for what, name in OF_ONE_SCALE.items():
        found = sorted({str(score[what]) for score in scores if score[what] is not None})
        if len(found) > 1:
            told = ", ".join(text[:12] if what == "weights_hash" else text for text in found)
            _tell(
                f"note: --sort {key}: the scores have different {name} ({told}), so their order tells nothing across these"
            )
            return


def _print_csv(rows: list[RunRow], extra: list[str]) -> None:
    """RFC 4180; a score in a column for each of its parts, without the curve."""
    writer = csv.writer(sys.stdout)
    writer.writerow(map(_cell, _flat(None, extra)))
    writer.writerows(map(_cell, _flat(row, extra).values()) for row in rows)


def _cell(value: Any) -> Any:
    """A cell of a CSV: text that a spreadsheet would run as a formula gets an apostrophe, and nothing acts on a terminal."""
    if not isinstance(value, str):
        return "" if value is None else value
    value = "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in value)
    return f"'{value}" if value.startswith(FORMULA) and number_of(value) is None else value


def _flat(row: RunRow | None, extra: list[str]) -> dict[str, Any]:
    names = ("run", "experiment", "stage", "status", "step", "seed", "start", "duration_s", "objective")
    flat: dict[str, Any] = {name: row.summary[name] if row else None for name in names}
    for metric in SCORES:
        for part in OF_A_SCORE:
            name = metric if part == "value" else f"{metric}_{part}"
            flat[name] = (row.summary[metric] or {}).get(part) if row else None
    return flat | {key: value_of(row, key) if row else None for key in extra}
