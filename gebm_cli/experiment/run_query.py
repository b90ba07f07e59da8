"""Which runs, in which order: `train_energy.lr<=1e-4`, `status=comp*`, sorted by any column, figure or key."""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gebm_cli.errors import UsageError
from gebm_cli.experiment.run_table import RunRow

WRITTEN = re.compile(r"\s*([^<>=!\s]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
COLUMNS = ("run", "experiment", "stage", "status", "step", "seed", "started", "objective", "duration")
SCORES = ("fid", "kid", "best_fid", "best_kid")
OWN_NAMES = {"started": "start", "duration": "duration_s"}
MOMENT = re.compile(r"\d{4}-\d\d.*")


def value_of(row: RunRow, key: str) -> Any:
    """A column, a score's value, the newest value of a metric, or a key of the experiment; None where the run has none."""
    if key in COLUMNS:
        return row.summary[OWN_NAMES.get(key, key)]
    if key in SCORES:
        return (row.summary[key] or {}).get("value")
    return row.metrics[key] if key in row.metrics else row.keys.get(key)


def require_known(key: str, rows: Iterable[RunRow], flag: str) -> None:
    """Raise UsageError for a key that is no column and that no run has; the message has the nearest."""
    rows = list(rows)
    if key in COLUMNS or key in SCORES or not rows:
        return
    known = {*COLUMNS, *SCORES}
    for row in rows:
        known.update(row.metrics, row.keys)
    if key in known:
        return
    tails: dict[str, list[str]] = {}
    for name in sorted(known):
        tails.setdefault(name.rpartition(".")[2], []).append(name)
    near = tails.get(key) or difflib.get_close_matches(key, sorted(known), 3, 0.6)
    near = near or [name for tail in difflib.get_close_matches(key, sorted(tails), 2, 0.6) for name in tails[tail]]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else f"expected one of {', '.join((*COLUMNS, *SCORES))}, "
    hint += "" if near else "a metric such as kale, or a key of an experiment such as train_energy.lr"
    raise UsageError(f"{flag}: '{key}' is no column, and no run here has a metric or a key of that name; {hint}")


# ------------------------------------------------------------------------------------------------------------- filters


@dataclass(frozen=True)
class Filter:
    """One condition: key, sign and what is wanted, as it was typed."""

    key: str
    sign: str
    wanted: str

    def holds(self, row: RunRow) -> bool:
        value = value_of(row, self.key)
        if self.sign in ("=", "!="):
            return is_alike(value, self.wanted) == (self.sign == "=")
        if self.key == "started":
            return value is not None and _ordered(str(value), self.wanted, self.sign)
        wanted, number = float(self.wanted), number_of(value)
        return number is not None and _ordered(number, wanted, self.sign)


def parse_filter(text: str) -> Filter:
    """`KEY=VALUE`, `KEY!=VALUE`, or with <, >, <= or >= and a number.

    Raises:
        UsageError: it is none of these.
    """
    found = WRITTEN.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--filter '{text}': expected KEY=VALUE, such as status=completed, run='digits-*' or 'train_energy.lr<=1e-4'"
        )
    key, sign, wanted = found[1], "=" if found[2] == "==" else found[2], found[3]
    if sign not in ("=", "!="):
        if key == "started" and not MOMENT.fullmatch(wanted):
            raise UsageError(f"--filter '{text}': got '{wanted}', expected a date behind {sign}, such as 2026-11-22")
        number = number_of(wanted)
        if key != "started" and (number is None or math.isnan(number)):
            raise UsageError(f"--filter '{text}': got '{wanted}', expected a number behind {sign}")
    return Filter(key, sign, wanted)


def is_alike(value: Any, wanted: str) -> bool:
    """Equal as numbers, else as text, in which * ? and [...] stand for letters; what is missing is null."""
    text = written_plainly(value)
    numbers = number_of(value), number_of(wanted)
    if None not in numbers and not isinstance(value, bool):
        return numbers[0] == numbers[1]
    return text == wanted or text.replace(" ", "") == wanted.replace(" ", "") or fnmatch.fnmatchcase(text, wanted)


def written_plainly(value: Any) -> str:
    """As an experiment file has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def number_of(value: Any) -> float | None:
    """The number that a value is, or that a text says."""
    if value is None or isinstance(value, bool | list | dict):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _ordered(value: Any, wanted: Any, sign: str) -> bool:
    return bool({"<": value < wanted, ">": value > wanted, "<=": value <= wanted, ">=": value >= wanted}[sign])


def filtered(rows: list[RunRow], filters: list[Filter]) -> list[RunRow]:
    """The rows for which all filters hold.

    Raises:
        UsageError: a key that no run has.
    """
    for one in filters:
        require_known(one.key, rows, f"--filter '{one.key}{one.sign}{one.wanted}'")
    return [row for row in rows if all(one.holds(row) for one in filters)]


# --------------------------------------------------------------------------------------------------------------- order


def ordered(rows: list[RunRow], key: str, descending: bool = False) -> list[RunRow]:
    """By a key, numbers before words, missing and nan last in either direction; equals stay as they were, oldest first.

    Raises:
        UsageError: a key that no run has.
    """
    require_known(key, rows, f"--sort {key}")
    there = [(_rank(value_of(row, key)), row) for row in rows]
    some = [pair for pair in there if pair[0] is not None]
    some.sort(key=lambda pair: pair[0], reverse=descending)  # type: ignore[arg-type,return-value]
    return [row for _, row in some] + [row for rank, row in there if rank is None]


def _rank(value: Any) -> tuple[int, float, tuple[Any, ...]] | None:
    number = None if isinstance(value, str) else number_of(value)
    if value is None or (number is not None and math.isnan(number)):
        return None
    if number is not None:
        return 0, number, ()
    # digits-2 before digits-10
    parts = re.findall(r"\d+|\D+", written_plainly(value))
    return 1, 0.0, tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)
