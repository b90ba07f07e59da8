"""The table of runs as text: what matters least makes room where the terminal is narrow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gebm_cli.cli.sparkline import can_write, levels_for, sparkline
from gebm_cli.experiment.durations import clock
from gebm_cli.experiment.run_query import value_of, written_plainly
from gebm_cli.experiment.run_table import RunRow
from gebm_cli.experiment.writing import printable

GAP = 2  # letters between columns
CURVE = 16
LEAST_NAME = 12  # letters that stay of a run's name
DROPPED = ("seed", "took", "objective", "started", "KID", "stage", "curve", "step", "FID")  # first to last
UNSEEN = ("experiment", "best_fid", "best_kid")  # of rows, columns only where they are sorted by
SHOWN_AS = {"fid": "FID", "kid": "KID", "duration": "took"}
USUAL = "inception"  # the features of a score that does not name them

Columns = dict[str, list[str]]


def draw_table(rows: list[RunRow], extra: list[str], width: int, key: str = "") -> None:
    """Print the rows in a table of at most `width` letters; the column of `key`, what they were asked to be sorted by, stays."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    extra = [*extra, key] if key in UNSEEN else extra
    columns = fitted(_columns(rows, extra), rows, width, SHOWN_AS.get(key, key))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for name in columns:
        table.add_column(
            Text(_writable(printable(name))), no_wrap=True, justify="right" if name in ("step", "seed") else "left"
        )
    for line in zip(*columns.values(), strict=True):
        table.add_row(*[Text(_writable(cell)) for cell in line])
    Console(width=max(width, _total(columns)), highlight=False).print(table)


def _columns(rows: list[RunRow], extra: list[str]) -> Columns:
    """Every column in full, in the order they are shown."""
    levels = levels_for(sys.stdout)
    of: dict[str, Callable[[RunRow], str]] = {
        "run": lambda row: row.name,
        "stage": lambda row: cell(row.summary["stage"]),
        "status": lambda row: cell(row.summary["status"]),
        "step": lambda row: cell(row.summary["step"]),
        "seed": lambda row: cell(row.summary["seed"]),
        "started": lambda row: cell(row.summary["start"])[:16].replace("T", " "),
        "took": lambda row: _span(row.summary["duration_s"]),
        "objective": lambda row: cell(row.summary["objective"]),
        **{key: _value(key) for key in extra},
        "curve": lambda row: sparkline(row.curve, CURVE, levels) or "-",
        "FID": lambda row: _score(row.summary["fid"], True),
        "KID": lambda row: _score(row.summary["kid"], True),
    }
    clean = {name: str if name == "curve" else printable for name in of}  # gaps of a curve stay
    return {name: [clean[name](tell(row)) for row in rows] for name, tell in of.items()}


def _value(key: str) -> Callable[[RunRow], str]:
    return lambda row: cell(value_of(row, key))


def fitted(columns: Columns, rows: list[RunRow], width: int, kept: str = "") -> Columns:
    """Shorter cells and fewer columns, the least important first and `kept` never, until it is no wider than `width`."""
    columns = dict(columns)
    shorter: list[Callable[[], Any]] = [
        lambda: columns.update(KID=[_score(row.summary["kid"], False) for row in rows]),
        lambda: columns.update(FID=[_score(row.summary["fid"], False) for row in rows]),
        *[(lambda name=name: columns.pop(name)) for name in DROPPED if name != kept],
        *([lambda: columns.update({kept: [_bare(row, kept) for row in rows]})] if kept in ("FID", "KID") else []),
        *([lambda: columns.pop("status")] if kept not in ("", "status") else []),
    ]
    for step in shorter:
        if _total(columns) <= width:
            return columns
        step()
    room = width - _total(columns) + _width("run", columns["run"])
    if _total(columns) > width:
        columns["run"] = [_cut(name, max(room, LEAST_NAME)) for name in columns["run"]]
    return columns


def _total(columns: Columns) -> int:
    return sum(_width(name, cells) for name, cells in columns.items()) + GAP * (len(columns) - 1)


def _width(name: str, cells: list[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(text) for text in (name, *cells))


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def _writable(text: str) -> str:
    return text if can_write(text, sys.stdout) else text.encode("ascii", "replace").decode()


def cell(value: Any) -> str:
    """A value as a person writes it; what is missing is a dash."""
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else written_plainly(value)


def _score(score: dict[str, Any] | None, full: bool) -> str:
    """`0.649 (GEBM, digits:train, classifier)`, or without the reference; features go unnamed only where they are Inception's."""
    if score is None:
        return "-"
    told = [score["side"] or str(score["samples"]).rpartition("/")[2]]
    told += [score["reference"] or "no reference"] if full else []
    told += [] if score["features"] == USUAL else [score["features"] or "unknown"]
    return printable(f"{score['value']:.4g} ({', '.join(told)})")


def _bare(row: RunRow, column: str) -> str:
    """The number of a score alone."""
    score = row.summary[column.lower()]
    return "-" if score is None else f"{score['value']:.4g}"


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else clock(seconds)
