"""Small panels in one hand: numbers on axes, scales, running medians, error bars, and marks for what is not finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gebm_cli.experiment.report.series import LARGEST, Series, downsample, drawable
from gebm_cli.experiment.report.svg import GRID, INK, QUIET, SERIES
from gebm_cli.experiment.report.words import number, numbers, shortened, step_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 200  # points, from which a running median is drawn over the faint raw line
BUCKETS = 200  # of a panel that is some 300 pixels wide
WIDTH, HEIGHT = 360, 240  # as wide as a phone, where text of 11 is to be read
WIDE = 480
EDGE = 2  # left of titles and legends


def running_median(values: np.ndarray) -> np.ndarray:
    """The median of the fortieth of all values about each."""
    half = max(2, len(values) // 80)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, half, mode="reflect"), 2 * half + 1)
    return np.median(windows, axis=1)


def new_figure(
    width: float = WIDTH, height: float = HEIGHT, ratios: tuple[int, ...] = (1,)
) -> tuple[Figure, list[Axes]]:
    """A figure of some pixels with its panels under each other, over common steps. Within `rc_context(STYLE)`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    panels = figure.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=3)
        axes.set_axisbelow(True)
    return figure, list(panels)


def draw_line(
    axes: Axes, series: Series, colour: str, label: str = "", faint: bool = True, smooth: bool = True
) -> None:
    """A line, or over many points their running median, with marks at the top edge where it is not finite."""
    steps, values = downsample(series.steps, series.values, BUCKETS)
    fits = drawable(Series(steps, values, series.n))
    if not fits.all():
        edge = axes.get_xaxis_transform()
        axes.plot(steps[~fits], np.full((~fits).sum(), 0.97), "v", color=colour, markersize=6, transform=edge)
    values = np.where(fits, values, np.nan)
    if fits.sum() <= MANY or not smooth:
        marker = "o" if fits.sum() <= 30 else ""
        axes.plot(steps, values, color=colour, linewidth=1.5, marker=marker, markersize=3.5, label=label)
        return
    if faint:
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    steps, values = _smooth(series)
    axes.plot(steps, values, color=colour, linewidth=1.5, label=label)


def _smooth(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """The running median of all rows, or of the medians of buckets where rows were thinned."""
    if series.middle is None:
        fits = drawable(series)
        steps, values = series.steps[fits], series.values[fits]
    else:
        steps, values = series.middle
    smooth = running_median(values) if len(values) > 10 else values
    every = -(-len(steps) // 400)
    return steps[::every], smooth[::every]


def draw_errors(axes: Axes, series: Series, errors: Series | None, colour: str) -> str:
    """One standard error to either side at the steps where it is known, as bars, or over many points a band; says which."""
    if errors is None:
        return ""
    steps, here, there = np.intersect1d(series.steps, errors.steps, assume_unique=True, return_indices=True)
    values, spread = series.values[here], errors.values[there]
    fits = (np.abs(values) < LARGEST) & (np.abs(spread) < LARGEST)
    steps, values, spread = steps[fits], values[fits], np.abs(spread[fits])
    if len(steps) > 60:
        some = slice(None, None, -(-len(steps) // BUCKETS))
        steps, values, spread = steps[some], values[some], spread[some]
        axes.fill_between(steps, values - spread, values + spread, color=colour, alpha=0.2, linewidth=0)
    elif len(steps):
        axes.errorbar(steps, values, yerr=spread, color=colour, fmt="none", elinewidth=1, capsize=2)
    return "" if not len(steps) else "band: one standard error" if len(steps) > 60 else "bars: one standard error"


def set_scale(axes: Axes, lines: list[Series], always_log: bool = False) -> str:
    """A logarithmic axis where it takes one to see anything; returns what has to be said of it."""
    values = np.concatenate([series.values[drawable(series)] for series in lines] or [np.zeros(0)])
    if not len(values):
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        return ""
    low, high = float(values.min()), float(values.max())
    if low == high:
        axes.set_ylim(*sorted((0.0, 1.25 * low)) if abs(low) > 1e-250 else (-1.0, 1.0))
        return ""
    if always_log and low > 0 and high > 100 * low:
        axes.set_yscale("log")
        return "logarithmic axis"
    usual = float(np.quantile(np.abs(values), 0.9))
    if usual > 0 and np.abs(values).max() > 100 * usual:
        axes.set_yscale("symlog", linthresh=usual)
        return f"logarithmic axis beyond ±{number(usual)}"
    return ""


def finish(figure: Figure, panels: list[Axes], title: str, xlabel: str = "step", steps: bool = True) -> None:
    """Title, ticks told apart by few digits, grid, and margins by the longest number: a layout that takes no search."""
    longest = max(_place_ticks(axes, "y", 5 if axes.bbox.height > 60 else 2) for axes in panels)
    bottom = panels[-1]
    width, height = 72 * figure.get_size_inches()
    if steps:
        _step_ticks(bottom)
    else:
        _place_ticks(bottom, "x", int(width // 90))
    bottom.set_xlabel(xlabel, color=QUIET)
    for axes in panels:
        axes.grid(axis="y", color=GRID)
    words = shortened(title, int(width / 8.2))
    figure.text(EDGE / width, 1 - 8 / height, words, va="top", fontweight="bold", color=INK, fontsize=12)
    top = 48 if panels[0].get_legend() else 32
    figure.subplots_adjust((18 + 7 * longest) / width, 42 / height, 1 - 16 / width, 1 - top / height, hspace=0.35)


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """In a row under the title, where there is more than one line."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        width, height = 72 * figure.get_size_inches()
        axes.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(EDGE / width, 1 - 25 / height),
            bbox_transform=figure.transFigure,
            ncols=columns,
            handlelength=1.1,
            handletextpad=0.5,
            columnspacing=1.0,
            borderpad=0,
            borderaxespad=0,
        )


def _place_ticks(axes: Axes, side: str, n: int) -> int:
    """Ticks with as few digits as tell them apart; returns the length of the longest."""
    from matplotlib.ticker import MaxNLocator

    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if side == "x" else (axes.yaxis, axes.get_ylim())
    if not len(axis.get_ticklocs()):
        return 2
    locator = MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]) if axis.get_scale() == "linear" else axis.get_major_locator()
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    ticks = ticks[:: -(-len(ticks) // 6)] or [low, high]
    ticks = [0.0 if abs(tick) < 1e-12 * (high - low) else tick for tick in ticks]
    words = [word.replace("-", "−") for word in numbers(ticks)]
    axis.set_ticks(ticks, labels=words)
    axis.set_ticks([], minor=True)
    (axes.set_xlim if side == "x" else axes.set_ylim)(low, high)
    return max(map(len, words))


def _step_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    locator = MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    ticks = [t for t in locator.tick_values(low, high) if low <= t <= high]
    axes.set_xticks(ticks, [step_word(tick) for tick in ticks])
    axes.set_xlim(low, high)


def colour_of(k: int) -> str:
    return SERIES[k % len(SERIES)]


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
