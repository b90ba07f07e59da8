"""What `gebm compare` prints: short tables, or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gebm_cli.cli.tables import drawn, table_of
from gebm_cli.experiment.run_comparison import Comparison, value_with_error
from gebm_cli.experiment.run_scores import Scores
from gebm_cli.experiment.run_sets import SET_COLUMNS
from gebm_cli.experiment.score_rows import ScoreRow, network_of
from gebm_cli.experiment.writing import printable

LONGEST = 32  # letters of a value
OF_AN_ENTRY = ("value", "standard_error", "samples", "n_fake", "n_real")
MOST_KEYS = 40  # rows of keys; the page has them all


def as_json(comparison: Comparison, tests: dict[str, Any] | None) -> dict[str, Any]:
    """Everything, as plain types; `tests` is null where they were left out by --no-test."""
    labels = comparison.labels
    return {
        "runs": [
            {"run": label, "path": str(found.path), "experiment": found.record.get("experiment")}
            for label, found in zip(labels, comparison.founds, strict=True)
        ],
        "n_keys": comparison.n_keys,
        "only_seed": comparison.only_seed,
        "sample_sets": [dict(zip(SET_COLUMNS, compared.row, strict=True)) for compared in comparison.sets],
        "drawn_otherwise": comparison.of_sets or None,
        "differences": [
            {"key": row.key, "values": dict(zip(labels, row.values, strict=True))} for row in comparison.differences
        ],
        "metrics": [
            {"stage": stage, "metric": name, "last": dict(zip(labels, values, strict=True))}
            for stage, name, values in comparison.last
        ],
        "scores": [_as_json(row, labels) for row in comparison.scores],
        "test": tests,
        "notes": comparison.notes,
    }


def _as_json(row: Scores, labels: list[str]) -> dict[str, Any]:
    shared = {key: getattr(row.one, key) for key in ("metric", "features", "weights_hash", "reference")}
    own = [None if e is None else {key: getattr(e, key) for key in OF_AN_ENTRY} for e in row.entries]
    return {"of": row.of, **shared, "entries": dict(zip(labels, own, strict=True))}


def text(comparison: Comparison, tests: dict[str, Any] | None, page: Path | None) -> str:
    """The comparison for people."""
    parts = [printable(comparison.told), _keys(comparison), _last(comparison), _scores(comparison)]
    parts += [_sets(comparison), _tests(tests)]
    return "\n\n".join([*(part for part in parts if part), *([printable(f"page: {page}")] if page else [])])


def _keys(comparison: Comparison) -> str:
    rows = comparison.differences
    if not rows:
        return ""
    cells = [[row.key, *["-" if value is None else value for value in row.values]] for row in rows[:MOST_KEYS]]
    more = f"\n... and {len(rows) - MOST_KEYS} more, all on the page" if len(rows) > MOST_KEYS else ""
    return _table(["key", *comparison.labels], cells) + more


def _last(comparison: Comparison) -> str:
    rows = [[name, stage, *["-" if v is None else f"{v:.4g}" for v in vs]] for stage, name, vs in comparison.last]
    return _table(["last value", "stage", *comparison.labels], rows) if rows else ""


def _scores(comparison: Comparison) -> str:
    if not comparison.scores:
        return "no scores yet; `gebm verdict` makes some"
    rows = []
    for row in comparison.scores:
        one = row.one
        rows.append([one.label, row.of, one.reference or "-", one.network or "-", *map(_score, row.entries)])
    return _table(["score", "of", "reference", "features", *comparison.labels], rows)


def _sets(comparison: Comparison) -> str:
    rows = [
        ["-" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in c.row] for c in comparison.sets
    ]
    return _table(["sample set", *SET_COLUMNS[1:]], rows) if rows else ""


def _score(entry: ScoreRow | None) -> str:
    if entry is None:
        return "-"
    n = "?" if entry.n_fake is None else entry.n_fake
    return f"{_plain(value_with_error(entry.value, entry.standard_error))} (n {n})"


def _tests(tests: dict[str, Any] | None) -> str:
    if tests is None:
        return ""
    from gebm_cli.experiment.report.comparison_page import findings

    lines = findings(tests)
    if lines:
        network = network_of(tests["features"], tests["weights_hash"])
        against = f"{tests['n_reference']} of {tests['reference']}, features: {network}"
        lines += [tests["caution"]] if tests["caution"] else []
        lines.append(f"(relative test on KID against {against}, two-sided, level {tests['alpha']})")
    return "\n".join(_plain(line) for line in [*lines, *[f"not tested: {why}" for why in tests["left_out"]]])


def _plain(told: str) -> str:
    """On one line, and in ASCII where it is ours."""
    return printable(told.replace(" ± ", " +- "))


def _table(columns: list[str], rows: list[list[str]]) -> str:
    from rich.text import Text

    table = table_of()
    for column in columns:
        table.add_column(Text(_cut(column)), no_wrap=True)
    for row in rows:
        table.add_row(*[Text(_cut(cell)) for cell in row])
    return drawn(table)


def _cut(value: str) -> str:
    value = printable(value)
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."
