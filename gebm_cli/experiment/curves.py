"""The pictures of a sample set made of curves: traces of the chains, their paths in the plane, and quality against cost."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LATENT_NORM = "|z|/sqrt(d)"
METRICS = {
    "fid": "FID (lower is better)",
    "kid": "KID (lower is better)",
    "precision": "precision (higher is better)",
    "recall": "recall (higher is better)",
}
COSTS = ["gradients", "seconds"]
# Okabe and Ito's colours without yellow and black, and two of Tol's: told apart with any colour vision, and dark enough on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#777777"]
MARKERS: list[Any] = [*"os^DvP*X<>pd8h", (4, 1, 0), (3, 1, 0)]  # the last two are stars of four and three points
N_POINTS = 2000

Point = dict[str, Any]


def save_traces(path: Path, steps: list[int], traces: dict[str, Tensor], title: str, n_warmup: int = 0) -> None:
    """Quantiles over the chains of each trace (n_chains, n_records) against the step; still falling means not yet mixed."""
    traces_figure(steps, traces, title, n_warmup).savefig(path)


def save_score_curves(path: Path, series: dict[str, list[Point]]) -> None:
    """Quality against cost, a line for each sampler; a metric or a cost that no point has is left out."""
    score_figure(series).savefig(path)


# ------------------------------------------------------------------------------------------------------------- traces


def traces_figure(steps: list[int], traces: dict[str, Tensor], title: str, n_warmup: int = 0) -> Figure:
    """One panel for each trace (n_chains, n_records), named by its key, over common steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 1.2 + 2.2 * len(traces)), dpi=120, layout="constrained")
    panels = figure.subplots(len(traces), sharex=True, squeeze=False)[:, 0]
    handles: dict[str, Any] = {}
    for axes, (name, trace) in zip(panels, traces.items(), strict=True):
        if n_warmup > 0:
            axes.axvspan(steps[0], n_warmup, color="0.9", linewidth=0, label=f"warm-up ({n_warmup} steps)")
        _quantiles(axes, steps, trace)
        if name == LATENT_NORM:
            axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--", label="1: draws of the prior N(0, I)")
        axes.set_ylabel(name)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        handles |= _labelled(axes)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(steps) == 1:
        panels[-1].set_xticks(steps)
    figure.suptitle(title, wrap=True)
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _quantiles(axes: Axes, steps: list[int], trace: Tensor) -> None:
    """The median of (n_chains, n_records) over the finite chains, in bands of 25-75 % and 5-95 %; says how many are not finite."""
    values = trace.detach().double().cpu().numpy()
    finite = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN")
        low, lower, median, upper, high = np.nanquantile(finite, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    single = len(steps) == 1
    edge = 3.0 if single else 0.0  # a band of no width is seen by its edge alone
    if len(values) > 1:
        axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.18, linewidth=edge, label="5-95 %")
        axes.fill_between(steps, lower, upper, color=COLOURS[0], alpha=0.35, linewidth=edge, label="25-75 %")
    label = f"median of {len(values)} chains" if len(values) > 1 else "the one chain"
    axes.plot(steps, median, color=COLOURS[0], linewidth=1.4, marker="o" if single else "", label=label)
    lost = int((~np.isfinite(values)).any(1).sum())
    if lost:
        axes.set_title(f"not finite in {lost} of {len(values)} chains", loc="right", fontsize="small", color=COLOURS[1])


# -------------------------------------------------------------------------------------------------- paths in the plane


def paths_figure(frames: list[tuple[int, Tensor]], n_chains: int = 8) -> Figure:
    """The paths of some chains through frames (step, points (n, 2)), over all points of the last frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 7), dpi=120, layout="constrained")
    axes = figure.subplots()
    (first, _), (last, end) = frames[0], frames[-1]
    x, y = end[:N_POINTS, :2].cpu().T.numpy()
    axes.scatter(x, y, s=8, color="0.75", linewidths=0, label=f"all points, step {last}")
    paths = np.stack([points[:n_chains, :2].cpu().numpy() for _, points in frames], axis=1)
    for k, (x, y) in enumerate(paths.transpose(0, 2, 1)):
        colour = COLOURS[k % len(COLOURS)]
        axes.plot(x, y, color=colour, linewidth=1, alpha=0.8)
        axes.plot(x[0], y[0], "o", color="white", markeredgecolor=colour, markersize=6, zorder=3)
        axes.plot(x[-1], y[-1], "s", color=colour, markeredgecolor="white", markersize=7, zorder=4)
    axes.plot([], [], "o", color="white", markeredgecolor="black", label=f"start, step {first}")
    axes.plot([], [], "s", color="black", label=f"end, step {last}")
    axes.set_title(f"paths of {len(paths)} chain{'s' * (len(paths) > 1)}")
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------ quality against cost


def score_figure(series: dict[str, list[Point]]) -> Figure:
    """A row for each metric and a column for each cost that some point has; the base, at no gradients, as a dashed line."""
    from matplotlib.figure import Figure

    points = [point for line in series.values() for point in line]
    metrics = [key for key in METRICS if any(_known(point, key) for point in points)]
    costs = [key for key in COSTS if any(_known(point, key) for point in points)]
    if not metrics or not costs:
        figure = Figure(figsize=(6, 2), dpi=120)
        figure.text(0.5, 0.5, "no scores to draw", ha="center", va="center")
        return figure
    figure = Figure(figsize=(2.6 + 4.6 * len(costs), 0.8 + 2.4 * len(metrics)), dpi=120, layout="constrained")
    panels = figure.subplots(len(metrics), len(costs), sharex="col", sharey="row", squeeze=False)
    handles: dict[str, Any] = {}
    for metric, row in zip(metrics, panels, strict=True):
        for cost, axes in zip(costs, row, strict=True):
            _score_panel(axes, series, metric, cost)
            handles |= _labelled(axes)
        row[0].set_ylabel(METRICS[metric])
    for cost, axes in zip(costs, panels[-1], strict=True):
        _cost_axis(axes, series, cost)
    order = [name for name in dict.fromkeys(["base", *series]) if name in handles]
    figure.legend([handles[name] for name in order], order, loc="outside right upper", frameon=False)
    return figure


def _score_panel(axes: Axes, series: dict[str, list[Point]], metric: str, cost: str) -> None:
    """The lines of one metric against one cost, with error bars where the standard errors are known."""
    error = f"{metric}_standard_error"
    base = next((p for line in series.values() for p in line if _is_base(p) and _known(p, metric)), None)
    if base is not None:
        axes.axhline(base[metric], color="black", linestyle="--", linewidth=1, label="base")
    for k, (name, line) in enumerate(_samplers(series).items()):
        known = sorted((p for p in line if _known(p, metric) and _known(p, cost)), key=lambda p: float(p[cost]))
        if not known:
            continue
        axes.errorbar(
            [p[cost] for p in known],
            [p[metric] for p in known],
            yerr=[p[error] if _known(p, error) else 0.0 for p in known],
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            linestyle="-" if k % (2 * len(COLOURS)) < len(COLOURS) else ":",
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def _cost_axis(axes: Axes, series: dict[str, list[Point]], cost: str) -> None:
    """Cost on a logarithmic axis with plain numbers, which has a place for 0 where a sampler's line starts there."""
    axes.set_xlabel(cost)
    drawn = [float(p[cost]) for line in _samplers(series).values() for p in line if _known(p, cost)]
    positive = sorted(value for value in drawn if value > 0)
    if not positive:
        axes.set_xticks([0.0])
        return
    low, high = positive[0], positive[-1]
    ticks = _round_numbers(low, high)
    if min(drawn) > 0:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.2, high * 1.2)
    else:
        axes.set_xscale("symlog", linthresh=low, linscale=0.4)
        axes.set_xlim(-low / 3, high * 1.2)
        ticks = [0.0, *ticks]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive numbers; the powers alone where there are more than 7."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**k for k in powers for digit in (1, 2, 5) if low <= digit * 10.0**k <= high]
    if len(ticks) > 7:
        return [10.0**k for k in powers if low <= 10.0**k <= high]
    return ticks or [low]


def _labelled(axes: Axes) -> dict[str, Any]:
    """What a legend of the axes would show, by label."""
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def _known(point: Point, key: str) -> bool:
    return point.get(key) is not None and math.isfinite(point[key])


def _samplers(series: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """The series that are lines: all but those of the base alone."""
    return {name: line for name, line in series.items() if not all(map(_is_base, line))}


def _is_base(point: Point) -> bool:
    """A point that took no gradient; where gradients were not counted, one that took no time."""
    return (point["gradients"] if _known(point, "gradients") else point.get("seconds")) == 0
