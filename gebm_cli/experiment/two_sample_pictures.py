"""The pictures of two-sample tests: one test, predicted power against size, and all pairs of several sets."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gebm_cli.core.two_sample.sample_size import PowerCurve, threshold
from gebm_cli.experiment.files import write_atomically
from gebm_cli.experiment.two_sample_panels import (
    INK,
    Panel,
    WitnessImages,
    WitnessLine,
    WitnessMap,
    WitnessValues,
    draw_images,
    draw_line,
    draw_map,
    draw_values,
    n_bins,
    plain,
    shorten,
)
from gebm_cli.experiment.two_sample_summaries import matrix_figure, power_figure, relative_figure
from gebm_cli.experiment.writable import require_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
NULL, TAIL = "0.72", "#F8EBD6"
OFF_SCALE = 4.0  # widths of the null beyond it after which the observed value is an arrow at the edge


@dataclass(frozen=True)
class TestPicture:
    """What a test's picture shows.

    Attributes:
        names: of A and B.
        statistic, null, p_value, alpha: the observed value, the relabelled ones (B,), the p-value and the level.
        panel: what tells the two apart, beside the null histogram; none where there is nothing to draw.
        label: what the statistic is, in words, for its axis.
    """

    names: tuple[str, str]
    statistic: float
    null: Tensor
    p_value: float
    alpha: float
    panel: Panel | None = None
    label: str = "MMD²: how far A and B are apart"


def save_test_picture(path: Path, picture: TestPicture) -> None:
    """The null histogram of one test, and beside or under it what tells the two sets apart; the suffix gives the format.

    Raises:
        UsageError: a suffix that is none of `PICTURE_SUFFIXES`.
        GebmError: it cannot be written.
    """
    save_figure(path, test_figure(picture))


def save_power_picture(path: Path, curve: PowerCurve, pilot_n: tuple[int, int], alpha: float) -> None:
    """Predicted power against rows a side with its 10-90 % band, and the rows needed for the target. Raises as above."""
    save_figure(path, power_figure(curve, pilot_n, alpha))


def save_relative_picture(path: Path, record: dict[str, Any]) -> None:
    """Which of two sets is closer to a third, from the record of the relative test. Raises as above."""
    save_figure(path, relative_figure(record))


def save_matrix_picture(
    path: Path, names: list[str], mmd: Tensor, errors: Tensor, adjusted: Tensor, alpha: float
) -> None:
    """MMD^2 of all pairs (k, k), k >= 2, with standard errors and Holm's p-values; framed where they differ. Raises as above."""
    save_figure(path, matrix_figure(names, mmd, errors, adjusted, alpha))


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format that its suffix names. Raises as above."""
    require_suffix(str(path))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=DPI)
    write_atomically(path, buffer.getvalue())


# ------------------------------------------------------------------------------------------------------------ one test


def test_figure(picture: TestPicture) -> Figure:
    """The figure of `save_test_picture`."""
    from matplotlib.figure import Figure

    labels = f"A: {shorten(picture.names[0])}", f"B: {shorten(picture.names[1])}"
    images = isinstance(picture.panel, WitnessImages)
    wide = picture.panel is not None and not images
    figure = Figure(figsize=(12.5 if wide else 9.5, 8.4 if images else 5.2), dpi=DPI, layout="constrained")
    figure.suptitle(f"{' · '.join(labels)}\n{verdict(picture.p_value, picture.alpha, len(picture.null))}")
    if isinstance(picture.panel, WitnessImages):
        halves: Any = figure.subfigures(2, 1, height_ratios=[1.0, 0.9])
        null_axes = halves[0].subplots()
        draw_images(halves[1].subfigures(2, 1), picture.panel, labels)
    else:
        null_axes, *right = figure.subplots(1, 2 if wide else 1, squeeze=False)[0]
        for axes in right:
            draw_panel(axes, picture.panel, labels)
            legend_under(axes)
    draw_null(null_axes, picture.statistic, picture.null, picture.alpha, picture.label)
    legend_under(null_axes)
    return figure


def verdict(p_value: float, alpha: float, n_relabelings: int) -> str:
    """The p-value and what it says, in words."""
    smallest = ", the smallest this many relabellings can give" if p_value * (n_relabelings + 1) < 1.5 else ""
    says = "A and B differ" if p_value <= alpha else "no difference shown; what stands out may be chance"
    return f"p = {p_value:.2g}{smallest}: {says} (level {alpha:g})"


def draw_panel(axes: Axes, panel: Panel | None, labels: tuple[str, str]) -> None:
    if isinstance(panel, WitnessLine):
        draw_line(axes, panel, labels)
    elif isinstance(panel, WitnessMap):
        draw_map(axes, panel, labels)
    elif isinstance(panel, WitnessValues):
        draw_values(axes, panel, labels)


def legend_under(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.17), frameon=False, borderaxespad=0.0, markerscale=2)


def draw_null(axes: Axes, statistic: float, null: Tensor, alpha: float, label: str) -> None:
    """The relabelled statistics (B,), the observed one as a line, and the tail in which a test at `alpha` rejects."""
    values = null.double().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    constant = high - low <= 1e-12 * max(abs(low), abs(high))
    span = (0.2 * max(abs(high), abs(statistic)) or 1.0) if constant else high - low
    # The bar of a constant null ends at its value, where the tail begins.
    edges = [high - span / 20, high] if constant else np.linspace(low, high, n_bins(len(values)) + 1).tolist()
    kept = min(max(statistic, low - OFF_SCALE * span), high + OFF_SCALE * span)
    left, right = min(edges[0], kept) - 0.12 * span, max(high, kept) + 0.12 * span
    told = f"where it would fall if A and B did not differ ({len(values):,} relabellings)"
    axes.hist(values.clip(edges[0], edges[-1]), bins=edges, color=NULL, label=told)
    if alpha * (len(values) + 1) >= 1 - 1e-9:
        told = f"beyond this the test says they differ (level {alpha:g})"
        axes.axvspan(threshold(null, alpha), right, color=TAIL, zorder=0, label=told)
    axes.set(xlim=(left, right), xlabel=label, ylabel="relabellings")
    _observed(axes, statistic, left, right)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
    axes.locator_params(axis="x", nbins=6)
    plain(axes)


def _observed(axes: Axes, statistic: float, left: float, right: float) -> None:
    """The observed value as a line, or where it is far out, as an arrow at the edge."""
    text = f"observed: {statistic:,.0f}" if 1e3 <= abs(statistic) < 1e9 else f"observed: {statistic:.3g}"
    if left <= statistic <= right:
        axes.axvline(statistic, color=INK, linewidth=2.2, label=text)
        return
    tip, tail = (0.995, 0.8) if statistic > right else (0.005, 0.2)
    axes.annotate(
        "",
        (tip, 0.5),
        (tail, 0.5),
        xycoords="axes fraction",
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 2.2, "mutation_scale": 18},
    )
    axes.plot([], [], color=INK, linewidth=2.2, label=f"{text}, far off this picture")
