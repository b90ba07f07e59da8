"""What `gebm sample` prints: the list of samplers, what one set is, and the table of a sweep. Imports no torch."""

from __future__ import annotations

import itertools
from typing import Any

from gebm_cli.cli.tables import drawn, table_of
from gebm_cli.core.sampling.catalogue import CATALOGUE, ENTRIES
from gebm_cli.errors import UsageError

Flags = dict[str, str | None]
LISTED = ("beta", "friction", "sampler", "step_size", "n_steps", "seed")


def option(name: str, comparing: bool = False) -> str:
    """The option that a flag was typed as."""
    return "--compare" if comparing and name == "sampler" else f"--{name.replace('_', '-')}"


def combinations(flags: Flags, comparing: bool = False) -> list[dict[str, str]]:
    """Every combination of the values of flags that hold a list, in the order written.

    Raises:
        UsageError: a list with an empty or a repeated value, or for a flag that takes one value.
    """
    values: dict[str, list[str]] = {}
    for name, text in flags.items():
        if text is None:
            continue
        parts = [part.strip() for part in text.split(",")]
        if len(parts) > 1 and name not in LISTED:
            raise UsageError(f"{option(name)}: got '{text}', expected one value")
        if "" in parts or len({_value(part) for part in parts}) < len(parts):
            raise UsageError(
                f"{option(name, comparing)}: got '{text}', expected different values with commas between them"
            )
        values[name] = parts
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _value(text: str) -> float | str:
    """1 and 1.0 are one value."""
    try:
        return float(text)
    except ValueError:
        return text


def sweep_label(one: dict[str, str], every: list[dict[str, str]]) -> str:
    """A set's name on a plot: the values that differ between the sets, but not the seed, over which curves are averaged."""
    differ = [k for k in one if k != "seed" and len({other.get(k) for other in every}) > 1]
    return ", ".join(one[k] if k == "sampler" else f"{k.replace('_', ' ')} {one[k]}" for k in differ) or "samples"


def refuse_unused(sampler: str, given: dict[str, str], comparing: bool) -> None:
    """An option that the sampler does not have is a misunderstanding, better told than ignored; a comparison may mix."""
    if comparing:
        if sampler == "none":
            raise UsageError("--compare: the base is on every plot already; leave none out")
        return
    entry = CATALOGUE.get(sampler)
    unused = {
        "friction": entry is None or "friction" not in entry.keys,
        "step_size": entry is None or not entry.unit,
        **dict.fromkeys(("beta", "n_steps", "mode", "track"), entry is None),
    }
    for name, none_of_its in unused.items():
        if none_of_its and name in given:
            raise UsageError(f"--{name.replace('_', '-')}: has no meaning for the sampler '{sampler}'; leave it out")


# -------------------------------------------------------------------------------------------------------------- output


def list_of_samplers() -> tuple[dict[str, Any], str]:
    """Every sampler in one line: its target, its cost, its source; as a result and as text."""
    rows = [
        {"name": e.name, "title": e.title, "target": e.target, "cost_per_step": e.cost, "source": e.source}
        for e in ENTRIES
    ]
    table = table_of("name", "what it is", "target", "cost of a step", "source")
    for row in rows:
        table.add_row(*row.values())
    return {"samplers": rows}, drawn(table)


def describe_sampler(result: dict[str, Any]) -> str:
    """What was drawn, how, and the verdict, in a few lines."""
    if result["sampler"] == "none":
        return f"{result['n_samples']} samples of the base of {result['run']}, seed {result['seed']}: {result['out']}"
    lines = [
        f"{result['n_samples']} samples of {result['run']} by {result['n_steps']} steps of {result['sampler']} "
        f"({settings(result)}), seed {result['seed']}: {result['out']}"
    ]
    facts = [f"acceptance {result['acceptance']}", f"correlation with the start {result['correlation_with_start']}"]
    if "mean_exp_log_ratio" in result:
        ratio = result["mean_exp_log_ratio"]
        facts.append(f"mean exp(log ratio) {ratio['value']:.4g} +- {ratio['standard_error']:.2g}")
    if result["nonfinite_steps"]:
        facts.append(
            f"{result['nonfinite_steps']} steps met a non-finite energy ({result['stuck_chains']} chains at the end)"
        )
    lines.append(", ".join(facts))
    if "bias_of_step" in result:
        shown = [
            f"{k} {v['value']:+.3g} +- {v['standard_error']:.2g}"
            for k, v in result["bias_of_step"].items()
            if v["value"] is not None
        ]
        lines.append(f"bias of the step size (the step minus half of it, in standard deviations): {', '.join(shown)}")
    if "verdict" in result:
        lines.append(result["verdict"])
    # Of chains that have not mixed the number would only say how many there are.
    unit = (
        None
        if not result.get("mixed")
        else next((u for u in ("gradient", "value") if result.get(f"ess_per_{u}") is not None), None)
    )
    if unit is not None:
        rate, speed = result[f"ess_per_{unit}"], result["ess_per_second"]
        lines.append(f"effective draws: {rate:.3g} per {unit}, {speed:.3g} per second of the watched chains")
    return "\n".join(lines)


def settings(result: dict[str, Any]) -> str:
    """The settings as used, in one unit."""
    words = [f"beta {result['beta']:.4g}"]
    if "beta_standard_error" in result:
        words[0] += f" +- {result['beta_standard_error']:.2g}, calibrated"
    if "h" in result:
        words.append(f"h {result['h']:.3g} = epsilon {result['epsilon']:.3g}")
    if result.get("friction") is not None:
        words.append(f"friction {result['friction']:g}, C {result['damping']:.3g}")
    if "total_time" in result:
        words.append(f"total time {result['total_time']:.3g}")
    return "; ".join(words)


COLUMNS = {
    "set": "set", "sampler": "sampler", "beta": "beta", "friction": "friction", "seed": "seed", "h": "h",
    "total_time": "time", "acceptance": "accepted", "mean_energy": "mean E", "rhat": "R-hat", "ess_bulk": "ESS",
    "seconds": "seconds",
}  # fmt: skip
SCORES = {"gradients": "gradients", "fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall"}


def sweep_table(results: list[dict[str, Any]]) -> str:
    """One line a set; with scores at the end of the chains where they were tracked, and the base's in the first line."""
    shown = [name for name in COLUMNS if any(r.get(name) is not None for r in results)]
    tracked = [r["track"]["scores"] for r in results if "track" in r]
    scored = [name for name in SCORES if any(points[-1].get(name) is not None for points in tracked)]
    table = table_of(*(COLUMNS[name] for name in shown), *(SCORES[name] for name in scored))
    if tracked:
        table.add_row("base", *[""] * (len(shown) - 1), *(_cell(tracked[0][0], name) for name in scored))
    for result in results:
        end = result["track"]["scores"][-1] if "track" in result else {}
        table.add_row(*(_cell(result, name) for name in shown), *(_cell(end, name) for name in scored))
    return drawn(table)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    error = row.get(f"{name}_standard_error")
    return text if error is None else f"{text} +- {error:.2g}"
