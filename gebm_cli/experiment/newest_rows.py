"""Rows of the newest stage of metrics.jsonl, found in a file of any size by a few reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

Row = dict[str, Any]
Placed = tuple[int, Row]  # the byte at which its line begins, and what the line holds

LONGEST_LINE = 1 << 20  # what is read of a line
COARSE = 12  # rows by which other stages are found
TAIL = 1 << 14  # bytes at the end whose rows are all read: some figures are there at some steps only


def newest_rows(path: Path, stage: Any, n: int = 48) -> tuple[list[Row], list[Row]]:
    """Rows of a stage: n evenly spaced from its first to its last, and those at the end of the file; both in order.

    Lines that hold no object are left out, and a file that is not there has none.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            tail = [(place, row) for place, row in _tail(file, size) if row.get("stage") == stage]
            start = _start(file, size, stage, tail)
            found = dict(_spread(file, start, size, n) + tail[-1:])
    except OSError:
        return [], []
    return [found[k] for k in sorted(found) if found[k].get("stage") == stage], [row for _, row in tail]


def _start(file: BinaryIO, size: int, stage: Any, tail: list[Placed]) -> int:
    """Where the stage begins: behind the last row of another one before it, to the line."""
    coarse = _spread(file, 0, size, COARSE)
    of_stage = [place for place, row in [*coarse, *tail] if row.get("stage") == stage]
    if not of_stage:
        return size
    high = min(of_stage)
    low = max((place for place, _ in coarse if place < high), default=0)
    while high - low > 1:  # the first row at or behind `high` is of the stage, that behind `low` of another
        middle = (low + high) // 2
        placed = _row_behind(file, middle)
        if placed is None or placed[1].get("stage") == stage:
            high = middle
        else:
            low = middle
    return high


def _spread(file: BinaryIO, start: int, end: int, n: int) -> list[Placed]:
    """The rows at or behind n places from `start` on, each once."""
    places = dict.fromkeys(start + (end - start) * k // n for k in range(n) if end > start)
    found = dict(placed for place in places if (placed := _row_behind(file, place)) is not None)
    return sorted(found.items())


def _row_behind(file: BinaryIO, place: int) -> Placed | None:
    """The row on the first line that begins at `place` or later; None where that line holds no row."""
    file.seek(max(place - 1, 0))
    if place:
        file.readline(LONGEST_LINE)  # the rest of the line that byte place - 1 is in
    begins = file.tell()
    row = _parsed(file.readline(LONGEST_LINE))
    return None if row is None else (begins, row)


def _tail(file: BinaryIO, size: int) -> list[Placed]:
    place = max(0, size - TAIL)
    file.seek(max(place - 1, 0))
    if place:
        file.readline(LONGEST_LINE)
    found = []
    while file.tell() < size:
        begins = file.tell()
        line = file.readline(LONGEST_LINE)
        row = _parsed(line)
        found += [] if row is None else [(begins, row)]
        if not line:
            break
    return found


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
