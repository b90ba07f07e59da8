"""Learning curves: which metrics share a panel, what is drawn of each, and the same metric of several runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gebm_cli.experiment.report.blocks import Picture
from gebm_cli.experiment.report.panels import (
    MANY,
    WIDE,
    colour_of,
    draw_errors,
    draw_line,
    finish,
    legend,
    new_figure,
    set_scale,
)
from gebm_cli.experiment.report.series import Series, drawable
from gebm_cli.experiment.report.svg import GRID, INK, PAPER, QUIET, STYLE, to_svg
from gebm_cli.experiment.report.words import LABELS, WATCHED, label_of, lost, number, shortened, told

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[str, Series]

ERROR = "_standard_error"
PARTS = {"_train": "training data", "_held_out": "held-out data", "_estimate": "estimate"}
SHORT = {"log_partition": "learned c", "log_partition_estimate": "estimated from base samples"}
RULE = ("rule_multiplier", "rule_p_value")
LARGER_IS_BETTER = {"watched_kale"}
ORDER = ["kale", "critic_value", "loss", "base_loss", "log_partition", "penalty", "gradients", "lr"]
BY_ORDERS = {"penalty", "lr", "gradients"}  # panels whose numbers are positive and compared by their ratio


def learning_curves(stage: str, series: Lines, reproduce: str) -> list[Picture]:
    """A panel for each group of metrics: objective, loss, log-partition, penalty, gradients, rate, scores, then all others."""
    panels = _grouped({name: line for name, line in series.items() if not name.endswith(ERROR)})
    return [_panel(stage, key, lines, series, reproduce) for key, lines in panels.items()]


def overlaid_curves(runs: dict[str, Lines], name: str, label: str) -> Picture | None:
    """One metric of several runs over their steps; None where no run has a value of it that can be drawn."""
    from matplotlib import rc_context

    found = {run: lines[name] for run, lines in runs.items() if name in lines and drawable(lines[name]).any()}
    if not found:
        return None
    columns = 2 if max(map(len, found)) <= 28 else 1  # of names
    rows = -(-len(found) // columns)
    with rc_context(STYLE):
        figure, panels = new_figure(WIDE, 260 + 19 * rows)
        for k, (run, line) in enumerate(found.items()):
            draw_line(panels[0], line, colour_of(k), label=shortened(run, 56 // columns), faint=len(found) <= 3)
            draw_errors(panels[0], line, runs[run].get(name + ERROR), colour_of(k))
        scale = set_scale(panels[0], list(found.values()), name in BY_ORDERS or name.endswith("_grad_norm"))
        finish(figure, panels, label)
        _names_below(figure, rows, columns)
        alt = f"{label} of {len(found)} runs: " + "; ".join(told(line, run) for run, line in found.items())
        missing = ", ".join(run for run in runs if run not in found)
        notes = [WATCHED.get(name, ""), scale, *(lost(line, run) for run, line in found.items())]
        notes.append(missing and f"not known of {missing}")
        return Picture(to_svg(figure, alt), alt, caption=_sentences(notes))


def _names_below(figure: Figure, rows: int, columns: int) -> None:
    height = 72 * figure.get_size_inches()[1]
    figure.subplots_adjust(bottom=(52 + 19 * rows) / height)
    figure.legend(loc="lower left", ncols=columns, bbox_to_anchor=(0.0, 0.0))


# -------------------------------------------------------------------------------------------------------------- groups


def _grouped(series: Lines) -> dict[str, Lines]:
    """The lines of each panel by a key, the panels in the order in which they are read."""
    groups: dict[str, Lines] = {}
    for name, line in series.items():
        groups.setdefault(_group_of(name, series), {})[name] = line
    if not set(groups.get("lr", {})) - set(RULE):  # a rule without a rate
        groups |= {name: {name: line} for name, line in groups.pop("lr", {}).items()}
    return {key: groups[key] for key in sorted(groups, key=_place)}


def _place(key: str) -> int:
    """What is known in the order of `ORDER`, then scores, then all else as it comes."""
    return ORDER.index(key) if key in ORDER else len(ORDER) + (not key.startswith("watched_"))


def _group_of(name: str, series: Lines) -> str:
    if name.endswith("_grad_norm"):
        return "gradients"
    if name == "lr" or name in RULE:
        return "lr"
    for part in PARTS:
        root = name.removesuffix(part)
        if root != name and (
            root in LABELS or root in series or any(root + other in series for other in PARTS if other != part)
        ):
            return root
    return name


def _titled(key: str, lines: Lines) -> str:
    if len(lines) == 1:
        return label_of(next(iter(lines)))
    return {"gradients": "gradient norms", "log_partition": "log-partition"}.get(key, label_of(key))


def _short(key: str, name: str) -> str:
    """What a line is called in the legend of its panel."""
    if key == "gradients":
        return name.removesuffix("_grad_norm").replace("_", " ")
    return SHORT.get(name) or PARTS.get(name.removeprefix(key), "minibatches")


# -------------------------------------------------------------------------------------------------------------- panels


def _panel(stage: str, key: str, lines: Lines, series: Lines, reproduce: str) -> Picture:
    from matplotlib import rc_context

    with rc_context(STYLE):
        p_values = lines.get("rule_p_value") if key == "lr" and len(lines) > 1 else None
        figure, panels = new_figure(ratios=(3, 1) if p_values else (1,))
        axes = panels[0]
        curves = {name: line for name, line in lines.items() if key != "lr" or name not in RULE or len(lines) == 1}
        notes: list[str] = []
        for k, (name, line) in enumerate(curves.items()):
            draw_line(axes, line, colour_of(k), label=_short(key, name), smooth=key != "lr")
            notes.append(draw_errors(axes, line, series.get(name + ERROR), colour_of(k)))
            notes.append(lost(line, label_of(name)))
        if key != "lr" and any(drawable(line).sum() > MANY for line in curves.values()):
            notes.append("Lines are running medians of the values, which are faint")
        notes.append(set_scale(axes, list(curves.values()), key in BY_ORDERS))
        notes.append(WATCHED.get(key, ""))
        if key.startswith("watched_"):
            notes.append(_mark_best(panels, key, next(iter(curves.values()))))
        if "rule_multiplier" in lines and key == "lr" and len(lines) > 1:
            notes.append(_mark_cuts(panels, lines["rule_multiplier"]))
        if p_values:
            notes.append(_draw_p_values(panels[1], p_values))
        legend(figure, axes)
        finish(figure, panels, _titled(key, curves))
        alt = f"{stage}: " + "; ".join(told(line, label_of(name)) for name, line in lines.items())
        return Picture(to_svg(figure, alt), alt, caption=_sentences(notes), reproduce=reproduce)


def _mark_best(panels: list[Axes], key: str, line: Series) -> str:
    fits = drawable(line)
    if not fits.any():
        return ""
    steps, values = line.steps[fits], line.values[fits]
    best = int(values.argmax() if key in LARGER_IS_BETTER else values.argmin())
    panels[0].plot(
        steps[best], values[best], "o", color=PAPER, markeredgecolor=INK, markersize=8, markeredgewidth=1.6, zorder=5
    )
    return f"Best, ringed: {number(values[best])} at step {steps[best]}"


def _mark_cuts(panels: list[Axes], multiplier: Series) -> str:
    """A dashed line at each step where the rule lowered its multiplier, which starts at 1."""
    fits = drawable(multiplier)
    steps, values = multiplier.steps[fits], multiplier.values[fits]
    cuts = steps[np.diff(values, prepend=1.0) < 0]
    for axes in panels:
        for step in cuts[:100]:
            axes.axvline(step, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    if not len(cuts):
        return "Never cut by the rule"
    shown = ", ".join(map(str, cuts[:8])) + (f" and {len(cuts) - 8} more" if len(cuts) > 8 else "")
    return f"Cut by the rule at step{'s' * (len(cuts) > 1)} {shown} (dashed)"


def _draw_p_values(axes: Axes, p_values: Series) -> str:
    fits = drawable(p_values)
    axes.plot(p_values.steps[fits], p_values.values[fits], "o", color=colour_of(1), markersize=3)
    axes.set_ylim(-0.05, 1.05)
    axes.set_title("p-value of the rule", loc="left", fontsize=11, color=INK, pad=3)
    axes.axhline(0, color=GRID, linewidth=0.8)
    if not fits.any():
        return ""
    last = int(np.flatnonzero(fits)[-1])
    return f"Below: p-values of the rule, the last {number(p_values.values[last])} at step {p_values.steps[last]}"


def _sentences(notes: list[str]) -> str:
    """Notes that are not empty, each once, as sentences."""
    told = dict.fromkeys(note for note in notes if note)
    return " ".join(f"{note[:1].upper()}{note[1:]}." for note in told)
