"""What `two-sample-test` prints for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gebm_cli.cli.tables import drawn, seen, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from gebm_cli.experiment.two_sample import Outcome


def describe(outcome: Outcome) -> str:
    """All that was found, then the files that were written."""
    first = outcome.records[0]
    if len(outcome.records) > 1:
        text = _table(outcome.records)
    elif first["test"] == "relative":
        text = _relative(first)
    elif first["test"] == "power":
        text = _power(first)
    else:
        text = _sentence(first)
    return "\n".join([text, *outcome.saved])


def _sentence(found: dict[str, Any]) -> str:
    word = "differ" if found["reject"] else "are not shown to differ"
    return (
        f"{found['x']} and {found['y']} {word} at level {found['alpha']:g}: p = {_p(found)}\n"
        f"{_accuracy(found)}{_effect(found['effect'])}\n{_how(found)}"
    )


def _p(found: dict[str, Any]) -> str:
    """The p-value with its Monte-Carlo error; or that it is the smallest there is."""
    p, error = found["p_value"], found["p_value_standard_error"]
    if round(p * (found["n_permutations"] + 1)) == 1:
        return f"{p:.2g}, the smallest that {found['n_permutations']} relabellings can give"
    return f"{p:.3g} +- {error:.1g}" if error > 0 else f"{p:.3g}"


def _effect(effect: dict[str, Any]) -> str:
    caution = "; a little large, as the kernel was chosen on these samples" if _is_optimistic(effect) else ""
    return (
        f"effect size MMD = {effect['mmd']:.3g}, {effect['level']:.0%} interval [{effect['low']:.3g}, {effect['high']:.3g}] "
        f"({_kernel(effect)}{caution})"
    )


def _is_optimistic(effect: dict[str, Any]) -> bool:
    return "kernel_chosen_on_these_samples" in effect and effect["mmd"] > 0


def _accuracy(found: dict[str, Any]) -> str:
    if "accuracy" not in found:
        return ""
    return f"held-out accuracy {found['accuracy']:.3f} +- {found['accuracy_standard_error']:.1g} (0.5: no difference)\n"


def _how(found: dict[str, Any]) -> str:
    n, m = found["n_tested"]
    parts = [f"{found['test']} on {n} and {m} samples"]
    if found["n_trained_on"]:
        parts.append(f"learned on {found['n_trained_on'][0]} and {found['n_trained_on'][1]} others")
    if "n_kernels" in found:
        parts.append(f"the most telling of {found['n_kernels']} kernels")
    parts.append(seen(found))
    stopped = " (stopped early: the decision is certain, p is an estimate)" if found["stopped_early"] else ""
    return ", ".join(parts) + f", {found['n_permutations']} relabellings{stopped}"


def _kernel(found: dict[str, Any]) -> str:
    width = found.get("bandwidth", [])
    widths = ", ".join(f"{w:.3g}" for w in (width if isinstance(width, list) else [width]))
    return f"{found['kernel']} kernel{f' of bandwidth {widths}' if widths else ''}"


def _table(records: list[dict[str, Any]]) -> str:
    table = table_of("A", "B", "n", "MMD", "95 % interval", "p", "p (Holm)", "")
    for r in records:
        effect = r["effect"]
        interval = f"[{effect['low']:.3g}, {effect['high']:.3g}]"
        sizes = "{} and {}".format(*r["n_tested"])
        verdict = "differ" if r["reject_all_pairs"] else "not shown to differ"
        table.add_row(
            r["x"],
            r["y"],
            sizes,
            f"{effect['mmd']:.3g}",
            interval,
            f"{r['p_value']:.3g}",
            f"{r['p_value_holm']:.3g}",
            verdict,
        )
    first = records[0]
    return (
        f"{drawn(table)}\n{first['test']}, {seen(first)}; MMD by one {_kernel(first['effect'])} for all pairs; "
        f"Holm's correction keeps the chance of any false difference among the {len(records)} pairs below {first['alpha']:g}"
    )


def _relative(found: dict[str, Any]) -> str:
    a, b, reference = found["x"], found["y"], found["reference"]
    p = found["p_value"]
    if not math.isfinite(p):
        verdict = f"{a} and {b}: nothing tells which is closer to {reference}"
    elif found["closer"] is None:
        verdict = f"{a} and {b}: neither is shown to be closer to {reference} at level {found['alpha']:g}: two-sided p = {p:.3g}"
    else:
        other = b if found["closer"] == a else a
        verdict = f"{found['closer']} is closer to {reference} than {other} at level {found['alpha']:g}: two-sided p = {p:.3g}"
    values = "; ".join(
        f"MMD^2({reference}, {name}) = {found[f'mmd2_{key}']:.4g} +- {found[f'mmd2_{key}_standard_error']:.1g}"
        for key, name in (("x", a), ("y", b))
    )
    sizes = f"{found['n_reference']}, {found['n_x']} and {found['n_y']} samples"
    return f"{verdict}\n{values}\nrelative test on {sizes}, {_kernel(found)}, {seen(found)}"


def _power(found: dict[str, Any]) -> str:
    power, learned = found["power"], found["n_trained_on"]
    split = f", of which {learned[0]} and {learned[1]} chose the kernel" if learned else ""
    pilot = f"{found['x']} and {found['y']} as a pilot of {found['n_x']} and {found['n_y']} samples{split}"
    return (
        f"{pilot} (p = {found['p_value']:.3g}):\n{_needed(power)}\n{drawn(_curve(power))}\n"
        f"{found['pilot_test']}, level {found['alpha']:g}, {_kernel(found)}, {seen(found)}"
    )


def _needed(power: dict[str, Any]) -> str:
    if power["needed"] is None:
        return "the pilot shows no difference, so no size can be promised"
    high = "no limit" if power["needed_high"] is None else f"{power['needed_high']:,}"
    return (
        f"about {power['needed']:,} samples a side in all for {power['target']:.0%} power; of 100 such pilots 80 would say between "
        f"{power['needed_low']:,} and {high}, which is wide"
    )


def _curve(power: dict[str, Any]) -> Table:
    table = table_of("samples a side", "power", "10-90 % band")
    rows = list(zip(*(power[key] for key in ("sizes", "power", "power_low", "power_high")), strict=True))
    for n, value, low, high in rows[:: max(1, len(rows) // 8)]:
        table.add_row(f"{n:,}", f"{value:.2f}", f"[{low:.2f}, {high:.2f}]")
    return table
