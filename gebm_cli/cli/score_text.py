"""What the scores print: a sentence for one, a table for several, and a line for each thing beside them."""

from __future__ import annotations

import math
from typing import Any

from gebm_cli.cli.tables import drawn, table_of


def describe(outcome: Any) -> str:
    """One sentence for one score; a table for several, and a line for each comparison."""
    one = len(outcome.records) == 1
    lines = [_sentence(outcome.records[0])] if one else [_table(outcome.records)] if outcome.records else []
    for record in outcome.records:
        name = "" if one else f"{record['samples']}: "
        lines += [f"{name}{line}" for line in _extras(record)] + _classes(record)
    lines += [_comparison(c) for c in outcome.comparisons]
    if len(outcome.comparisons) > 1:
        lines.append(
            f"{len(outcome.comparisons)} comparisons with one set: multiply each p by that before believing the smallest"
        )
    return "\n".join([*lines, *outcome.saved])


LABELS = {
    "fid": "FID",
    "kid": "KID",
    "is": "IS",
    "prdc": "precision",
    "fd-mmd": "FD-MMD",
    "energy-distance": "energy distance",
}
SHAPES = ("recall", "density", "coverage")


def _sentence(score: dict[str, Any]) -> str:
    against = f" against {_count(score['n_real'])} of {score['reference']}" if score.get("reference") else ""
    rest = "".join(f", {name} {score[name]:.3g}" for name in SHAPES if name in score)
    label = LABELS[score["metric"]]
    return (
        f"{label} {number(score)}{rest}  ({_count(score['n_fake'])} of {score['samples']}{against}, {_features(score)})"
    )


def _count(n: int | None) -> str:
    return "an unknown number" if n is None else str(n)


def _features(score: dict[str, Any]) -> str:
    weights = score.get("weights_hash", "none")
    return f"{score['features']} features" + ("" if weights in ("none", "unknown") else f", weights {weights[:8]}")


def number(score: dict[str, Any]) -> str:
    """The value to the second digit of its error."""
    value, error = score["value"], score.get("standard_error")
    if error is None or not (0 < error < math.inf) or abs(value) > 1e6:
        return f"{value:.5g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.2e} +- {error:.0e}" if decimals > 8 else f"{value:.{decimals}f} +- {error:.{decimals}f}"


def _table(records: list[dict[str, Any]]) -> str:
    metrics = list(dict.fromkeys(record["metric"] for record in records))
    columns = [c for m in metrics for c in (LABELS[m], *(SHAPES if m == "prdc" else ()))]
    table = table_of("samples", "n", *columns)
    for start in range(0, len(records), len(metrics)):
        rows = records[start : start + len(metrics)]
        cells = [c for r in rows for c in (number(r), *(f"{r[s]:.3g}" for s in SHAPES if r["metric"] == "prdc"))]
        table.add_row(rows[0]["samples"], _count(rows[0]["n_fake"]), *cells)
    first = records[0]
    against = f"against {_count(first['n_real'])} of {first['reference']}, " if first.get("reference") else ""
    return f"{drawn(table)}\n{against}{_features(first)}"


def _extras(score: dict[str, Any]) -> list[str]:
    lines = []
    if "infinity" in score:
        found = score["infinity"]
        lines.append(f"FID at infinitely many samples {number(found)}, from {found['n_sizes']} sizes")
    if "bootstrap" in score:
        found = score["bootstrap"]
        lines.append(
            f"FID less its bias in n {found['value']:.4g}; the FID of the two laws lies in "
            f"[{found['low']:.4g}, {found['high']:.4g}] with {found['level']:.0%} confidence"
        )
    if "subsets" in score:
        found = score["subsets"]
        lines.append(
            f"KID of {found['n_subsets']} subsets of {found['size']}: mean {found['mean']:.4g}, spread {found['spread']:.2g} "
            "(of subsets, not the error of the mean)"
        )
    return lines


def _classes(score: dict[str, Any]) -> list[str]:
    if not score.get("per_class"):
        return []
    table = table_of("class", "n", "n of reference", LABELS[score["metric"]])
    for row in score["per_class"]:
        value = number(row) if "value" in row else "too few images"
        table.add_row(str(row["class"]), str(row["n_fake"]), str(row["n_real"]), value)
    return [f"\n{score['samples']} by class", drawn(table)]


def _comparison(found: dict[str, Any]) -> str:
    value, p = found["kid_b_minus_a"], found["p_value"]
    closer, other = (found["b"], found["a"]) if value < 0 else (found["a"], found["b"])
    if value == 0 or not math.isfinite(p):
        return f"{closer} and {other}: no difference (relative test)"
    sure = "is closer than" if p < 0.05 else "is not shown to be closer than"
    difference = number({"value": abs(value), "standard_error": found["standard_error"]})
    return f"{closer} {sure} {other} to the reference: KID lower by {difference}, two-sided p = {p:.2g} (relative test)"
