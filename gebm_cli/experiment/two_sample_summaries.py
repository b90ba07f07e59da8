"""Two-sample pictures of more than one test: predicted power against size, and all pairs of several sets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gebm_cli.core.two_sample.sample_size import PowerCurve
from gebm_cli.experiment.curves import COLOURS
from gebm_cli.experiment.two_sample_panels import INK, plain, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
NORMAL_95 = 1.959964
WIDE = 8.0  # a range of sizes beyond which their axis is logarithmic
WIDE_BAND = 1.5
LONGEST_IN_MATRIX = 20


def power_figure(curve: PowerCurve, pilot_n: tuple[int, int], alpha: float) -> Figure:
    """The figure of `save_power_picture`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    sizes, order = np.array(curve.sizes), np.argsort(curve.sizes)
    low, power, high = (values.numpy()[order] for values in (curve.low, curve.power, curve.high))
    sizes = sizes[order]
    axes.fill_between(sizes, low, high, color=COLOURS[0], alpha=0.22, linewidth=0, label="10-90 % band")
    axes.plot(sizes, power, color=COLOURS[0], linewidth=2, marker="o", markersize=4, label="predicted power")
    axes.axhline(curve.target, color=INK, linewidth=1, linestyle="--", label=f"{100 * curve.target:.0f} % power")
    axes.axhline(
        alpha, color="0.6", linewidth=1, linestyle=":", label=f"level {alpha:g}: what no difference at all gives"
    )
    _size_axis(axes, sizes)
    if sizes[0] <= curve.needed <= sizes[-1]:
        axes.plot([curve.needed] * 2, [0, curve.target], color=COLOURS[1], linewidth=1.6)
        axes.plot(curve.needed, curve.target, "D", color=COLOURS[1], markersize=8, label=f"{curve.needed:,.0f} a side")
    axes.set(ylim=(0, 1.02), xlabel="samples on each side, in all", ylabel="chance of finding the difference (power)")
    axes.set_title(power_words(curve, pilot_n), fontsize="medium", loc="left", wrap=True)
    axes.grid(color="0.93")
    plain(axes)
    figure.legend(loc="outside lower left", ncols=3, frameon=False)
    return figure


def relative_figure(record: dict[str, Any]) -> Figure:
    """MMD^2 of either set to the reference, and their difference with its 95 % interval, from the record of a relative test."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=DPI, layout="constrained")
    axes, difference = figure.subplots(2, 1, height_ratios=[2, 1.2])
    names = [shorten(str(record[key])) for key in ("x", "y")]
    for place, (key, name, colour) in enumerate(zip(("x", "y"), names, COLOURS, strict=False)):
        error = NORMAL_95 * record[f"mmd2_{key}_standard_error"]
        axes.errorbar(
            record[f"mmd2_{key}"], -place, xerr=error, fmt="o", color=colour, capsize=4, markersize=8, label=name
        )
    axes.set_yticks([0, -1], [f"A: {names[0]}", f"B: {names[1]}"])
    axes.set(ylim=(-1.6, 0.6), xlabel=f"MMD² to {shorten(str(record['reference']))}; bars: 95 % interval")
    error = NORMAL_95 * record["standard_error"]
    difference.axvline(0, color=INK, linewidth=1, linestyle="--")
    difference.errorbar(record["statistic"], 0, xerr=error, fmt="D", color=INK, capsize=4)
    difference.set_yticks([])
    difference.set_xlabel("MMD² of A less that of B: left of 0 A is closer, right of it B")
    for panel in (axes, difference):
        panel.grid(axis="x", color="0.93")
        plain(panel)
    figure.suptitle(relative_words(record, names))
    return figure


def relative_words(record: dict[str, Any], names: list[str]) -> str:
    """Which of A and B is closer, with p."""
    p = record["p_value"]
    if not math.isfinite(p):
        return "Nothing tells which of A and B is closer"
    closer = {record["x"]: names[0], record["y"]: names[1]}.get(record["closer"])
    told = "Neither is shown to be closer" if closer is None else f"{closer} is closer"
    return f"{told} at level {record['alpha']:g}: two-sided p = {p:.3g}"


def power_words(curve: PowerCurve, pilot_n: tuple[int, int]) -> str:
    """The rows needed, in words, with their band and how much it can be trusted."""
    n, m = pilot_n
    pilot = f"{n:,} samples a side" if n == m else f"{n:,} and {m:,} samples"
    if math.isinf(curve.needed):
        return f"The pilot of {pilot} shows no difference: how many samples would find one is not known."
    upper = f"to {curve.needed_high:,.0f}" if math.isfinite(curve.needed_high) else "upwards without a known limit"
    wide = curve.needed_high > WIDE_BAND * curve.needed_low
    return (
        f"For {100 * curve.target:.0f} % power about {curve.needed:,.0f} samples a side "
        f"(10-90 %: from {curve.needed_low:,.0f} {upper}).\n"
        + (
            f"The band is wide: the pilot had only {pilot}, and a larger one narrows it."
            if wide
            else f"Pilot: {pilot}."
        )
    )


def _size_axis(axes: Axes, sizes: np.ndarray) -> None:
    """A logarithmic axis with plain numbers where the sizes span much."""
    if sizes[-1] <= WIDE * sizes[0]:
        return
    axes.set_xscale("log")
    ticks = [d * 10**k for k in range(12) for d in (1, 2, 5) if sizes[0] <= d * 10**k <= sizes[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)


def matrix_figure(names: list[str], mmd: Tensor, errors: Tensor, adjusted: Tensor, alpha: float) -> Figure:
    """The figure of `save_matrix_picture`: each pair once, below the diagonal."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    k, short = len(names), [shorten(name, LONGEST_IN_MATRIX) for name in names]
    figure = Figure(figsize=(3.6 + 1.35 * (k - 1), 2.6 + 1.05 * (k - 1)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    below = np.tril(np.ones((k, k), bool), -1)[1:, :-1]
    values = np.where(below, mmd.double().numpy()[1:, :-1], np.nan)
    # Pale enough that black words can be read on all of it.
    colours = LinearSegmentedColormap.from_list("mmd", ["#F7F7F7", COLOURS[5]])
    shown = axes.imshow(values, cmap=colours, vmin=min(0.0, float(np.nanmin(values))))
    for i, j in zip(*np.nonzero(below), strict=True):
        cell = values[i, j], errors[i + 1, j].item(), adjusted[i + 1, j].item()
        _pair(axes, i, j, cell, alpha)
    axes.set_xticks(range(k - 1), short[:-1], rotation=30, ha="right")
    axes.set_yticks(range(k - 1), short[1:])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(shown, ax=axes, shrink=0.8).set_label("MMD²")
    figure.suptitle(
        "MMD² of each pair by one kernel for all, its standard error, and p after Holm.\n"
        f"Framed: differs at level {alpha:g} over all pairs.",
        fontsize="medium",
    )
    return figure


def _pair(axes: Axes, i: int, j: int, values: tuple[float, float, float], alpha: float) -> None:
    """The words of one cell, and the frame where the pair differs."""
    from matplotlib.patches import Rectangle

    value, error, p = values
    differs = p <= alpha
    lines = [
        f"{value:.3g}",
        f"± {error:.2g}" if math.isfinite(error) else "",
        f"p = {p:.2g}" if math.isfinite(p) else "p unknown",
    ]
    weight = "bold" if differs else "normal"
    axes.text(j, i, "\n".join(filter(None, lines)), ha="center", va="center", fontsize=9.5, weight=weight)
    if differs:
        axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=COLOURS[1], linewidth=3))
