"""metrics.jsonl as series: read a few megabytes at a time, and thinned out with every extreme kept."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gebm_cli.experiment.writing import printable

CHUNK = 1 << 22  # bytes of lines that are parsed at once
LARGEST = 1e100  # beyond it axes overflow, and nothing could be told apart
LONGEST_NAME = 120
NOT_SERIES = {"stage", "step", "time_s"}

Columns = dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Series:
    """One metric of one stage.

    Attributes:
        steps, values: ascending (int64) and float64, not all finite; thinned where there were many.
        n: rows before thinning.
        middle: (steps, medians) of buckets of all rows, where they were thinned: thinned values alone lean to the extremes.
    """

    steps: np.ndarray
    values: np.ndarray
    n: int
    middle: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Metrics:
    """stage -> name -> series, in order of appearance; `n_bad` of `n_rows` lines were no objects with a stage and a step."""

    stages: dict[str, dict[str, Series]]
    n_rows: int
    n_bad: int


def read_metrics(path: Path, width: int = 600) -> Metrics:
    """Every number of the file at its step; of rows of one step the last counts, and text or null is no value.

    Names are printable and of bounded length, different ones different still.
    Held at once: 8 bytes for each value and each line, and one chunk of parsed lines. A file that is not there has no stages.
    """
    columns: Columns = {}
    n_rows = n_bad = 0
    for rows in _chunks(path):
        n_rows += len(rows)
        n_bad += _add(columns, rows)
    stages: dict[str, dict[str, Series]] = {}
    stage_words, name_words = (_words(part) for part in zip(*columns, strict=True)) if columns else ({}, {})
    for key in list(columns):
        stage, name = key
        stages.setdefault(stage_words[stage], {})[name_words[name]] = _series(columns.pop(key), width)
    return Metrics(stages, n_rows, n_bad)


def drawable(series: Series) -> np.ndarray:
    """Which of its values are finite and have a place on an axis."""
    with np.errstate(invalid="ignore"):
        return np.abs(series.values) < LARGEST


def downsample(steps: np.ndarray, values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `width` buckets of rows the first, smallest, largest and last, and its first and last that are not finite.

    At most 4 * width rows are returned as they are. The extremes are those of the finite values; the first of equal ones is kept.
    """
    n = len(values)
    if n <= 4 * width:
        return steps, values
    rows = _buckets(n, width)
    drawn = values[rows]
    finite = np.isfinite(drawn)
    columns = [
        np.zeros(width, np.int64),
        np.where(finite, drawn, np.inf).argmin(1),
        np.where(finite, drawn, -np.inf).argmax(1),
        np.full(width, rows.shape[1] - 1),
        finite.argmin(1),
        rows.shape[1] - 1 - finite[:, ::-1].argmin(1),
    ]
    kept = np.unique(np.concatenate([rows[np.arange(width), column] for column in columns]))
    return steps[kept], values[kept]


def medians(steps: np.ndarray, values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The median of the finite values of each of `width` buckets of rows, at the bucket's middle step."""
    rows = _buckets(len(values), width)
    fresh = (np.diff(rows.ravel(), prepend=-1) > 0).reshape(rows.shape)  # the last buckets repeat the last row
    drawn = np.where(fresh & np.isfinite(values[rows]), values[rows], np.nan)
    ordered, counts = np.sort(drawn, axis=1), np.isfinite(drawn).sum(1)
    some = counts > 0
    ordered, counts, every = ordered[some], counts[some], np.arange(some.sum())
    centre = steps[rows[some, rows.shape[1] // 2]]
    return centre, (ordered[every, (counts - 1) // 2] + ordered[every, counts // 2]) / 2


def _buckets(n: int, width: int) -> np.ndarray:
    """Rows 0 to n - 1 in buckets (width, n / width), the last row repeated where they do not come out even."""
    return np.minimum(np.arange(width * -(-n // width)), n - 1).reshape(width, -1)


# ------------------------------------------------------------------------------------------------------------- parsing


def _chunks(path: Path) -> Iterator[list[Any]]:
    try:
        with open(path, "rb") as file:
            while lines := file.readlines(CHUNK):
                yield _parsed([line for line in lines if not line.isspace()])
    except OSError:
        return


def _parsed(lines: Sequence[bytes]) -> list[Any]:
    """What each line holds, None where it is not JSON: all parsed as one list, which is cut in halves where that fails."""
    try:
        rows = json.loads((b"[" + b",".join(lines) + b"]").decode())
        if len(rows) == len(lines):
            return rows
    except (ValueError, RecursionError):
        pass
    if len(lines) == 1:
        return [None]
    half = len(lines) // 2
    return _parsed(lines[:half]) + _parsed(lines[half:])


# ------------------------------------------------------------------------------------------------------------- columns


def _add(columns: Columns, rows: list[Any]) -> int:
    """Append rows, put together by the keys they have, to the columns of their stages; returns how many could not be."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    n_bad = 0
    for row in rows:
        if type(row) is dict and type(row.get("stage")) is str and _is_step(row.get("step")):
            alike[row["stage"], *row].append(row)
        else:
            n_bad += 1
    for (stage, *names), group in alike.items():
        steps = np.array([row["step"] for row in group], np.int64)
        for name in dict.fromkeys(names):
            if name in NOT_SERIES:
                continue
            kept, values = _numbers([row[name] for row in group])
            if len(values):
                columns.setdefault((stage, name), []).append((steps if kept is None else steps[kept], values))
    return n_bad


def _words(names: Iterable[str]) -> dict[str, str]:
    """What each name is shown as."""
    words: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        word = plain = printable(name)[:LONGEST_NAME] or "?"
        n = 1
        while word in taken:
            word = f"{plain} ({(n := n + 1)})"
        words[name] = word
        taken.add(word)
    return words


def _is_step(step: Any) -> bool:
    return type(step) in (int, float) and abs(step) < 2**53 and step == int(step)


def _numbers(column: list[Any]) -> tuple[list[int] | None, np.ndarray]:
    """The numbers of a column, and in which rows they are where some hold something else."""
    try:
        if set(map(type, column)) <= {int, float}:
            return None, np.array(column, np.float64)
    except OverflowError:  # an integer beyond all floats
        pass
    kept = [i for i, value in enumerate(column) if type(value) in (int, float)]
    return kept, np.array([_as_float(column[i]) for i in kept], np.float64)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _series(parts: list[tuple[np.ndarray, np.ndarray]], width: int) -> Series:
    """Parts in the order of the file as one series: sorted by step, and of equal steps the last."""
    steps, values = np.concatenate([s for s, _ in parts]), np.concatenate([v for _, v in parts])
    if not (np.diff(steps) > 0).all():
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        last = np.append(np.diff(steps) > 0, True)
        steps, values = steps[last], values[last]
    thinned = downsample(steps, values, width)
    return Series(*thinned, len(steps), medians(steps, values, width) if len(steps) > 4 * width else None)
