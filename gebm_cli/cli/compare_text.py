"""What `gebm compare` prints: short tables, or one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gebm_cli.cli.tables import drawn, table_of
from gebm_cli.experiment.run_comparison import Comparison, value_with_error
from gebm_cli.experiment.writing import printable

LONGEST = 32  # letters of a value
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
        "differences": [
            {"key": row.key, "values": dict(zip(labels, row.values, strict=True))} for row in comparison.differences
        ],
        "metrics": [
            {"stage": stage, "metric": name, "last": dict(zip(labels, values, strict=True))}
            for stage, name, values in comparison.last
        ],
        "scores": [asdict(row) | {"entries": dict(zip(labels, row.entries, strict=True))} for row in comparison.scores],
        "test": tests,
        "notes": comparison.notes,
    }


def text(comparison: Comparison, tests: dict[str, Any] | None, page: Path | None) -> str:
    """The comparison for people."""
    parts = [comparison.told, _keys(comparison), _last(comparison), _scores(comparison), _tests(tests)]
    return "\n\n".join([*(part for part in parts if part), *([f"page: {page}"] if page else [])])


def _keys(comparison: Comparison) -> str:
    table = table_of("key", *map(_name, comparison.labels))
    rows = comparison.differences
    for row in rows[:MOST_KEYS]:
        table.add_row(row.key, *[_cut("-" if value is None else value) for value in row.values])
    more = f"\n... and {len(rows) - MOST_KEYS} more, all on the page" if len(rows) > MOST_KEYS else ""
    return drawn(table) + more if rows else ""


def _last(comparison: Comparison) -> str:
    table = table_of("last value", "stage", *map(_name, comparison.labels))
    for stage, name, values in comparison.last:
        table.add_row(_cut(name), stage, *["-" if value is None else f"{value:.4g}" for value in values])
    return drawn(table) if comparison.last else ""


def _scores(comparison: Comparison) -> str:
    if not comparison.scores:
        return "no scores yet; `gebm verdict` makes some"
    table = table_of("score", "of", "reference", "features", *map(_name, comparison.labels))
    for row in comparison.scores:
        features = row.features + ("" if row.weights_hash in ("none", "None") else f" {row.weights_hash[:8]}")
        cells = [
            "-" if e is None else f"{_plain(value_with_error(e['value'], e['standard_error']))} (n {e['n_fake']})"
            for e in row.entries
        ]
        table.add_row(row.metric.upper(), _cut(row.of), _cut(row.reference), _cut(features), *cells)
    return drawn(table)


def _tests(tests: dict[str, Any] | None) -> str:
    if tests is None:
        return ""
    from gebm_cli.experiment.report.comparison_page import findings

    lines = findings(tests)
    if lines:
        against = (
            f"{tests['n_reference']} of {tests['reference']}, {tests['features']} features {tests['weights_hash'][:8]}"
        )
        lines.append(f"(relative test on KID against {against}, two-sided, level {tests['alpha']})")
    return "\n".join([*map(_plain, lines), *[f"not tested: {why}" for why in tests["left_out"]]])


def _plain(told: str) -> str:
    return told.replace(" ± ", " +- ")


def _name(label: str) -> str:
    return _cut(label)


def _cut(value: str) -> str:
    from rich.markup import escape

    value = printable(value)
    return escape(value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}...")
