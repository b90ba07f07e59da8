"""The picture of divergences: their numbers, and what each sees: its witness function, or the samples that it weighs most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gebm_cli.core.divergences.kinds import Found
from gebm_cli.core.divergences.names import F_DIVERGENCES, Kind
from gebm_cli.core.fields import Field
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.two_sample_drawing import MOST_ROWS, in_spreads, reader_of
from gebm_cli.experiment.two_sample_panels import (
    INK,
    WitnessImages,
    WitnessLine,
    WitnessMap,
    WitnessValues,
    draw_images,
    line_or_map,
    shorten,
)
from gebm_cli.experiment.two_sample_pictures import DPI, draw_panel, legend_under, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITNESSES: dict[str, str] = {
    "mmd": "MMD: mean kernel at A less mean kernel at B",
    "kale": "KALE: log(dA/dB) as far as its space can say",
    "critic": "critic: log(dA/dB) as it was learned",
}
NAMES: dict[str, str] = {
    "w1": "Wasserstein-1",
    "sliced-w1": "sliced Wasserstein-1",
    "sinkhorn": "Sinkhorn",
    "mmd": "MMD²",
    "energy-distance": "energy distance",
    "kale": "KALE(A ‖ B)",
    "kl": "KL(A ‖ B)",
    "js": "Jensen-Shannon",
    "tv": "total variation",
    "chi2": "Pearson χ²(A ‖ B)",
    "hellinger": "squared Hellinger",
}
WEIGHING = ("kale", "mmd", "critic")  # the first of these chooses the images that are shown
CELL = (6.0, 5.0)  # inches
IMAGES = 3.6
ROW = 0.083
MOST_SEEN = 1000
QUIET = "0.4"


@dataclass(frozen=True)
class DivergencePicture:
    """What a picture of divergences shows.

    Attributes:
        names: of A and B.
        told: the divergences as in the record.
        panels: the witness functions, each under its title.
        images: the samples that the witness of the one panel weighs most; of images alone.
    """

    names: tuple[str, str]
    told: list[dict[str, Any]]
    panels: list[tuple[str, WitnessLine | WitnessMap | WitnessValues]] = field(default_factory=list)
    images: WitnessImages | None = None


def spelled(told: dict[str, Any]) -> str:
    """`0.693 +- 0.012`, the value to the second digit of its standard error; `infinite (>= 7.1)`."""
    if told["infinite"]:
        return "infinite" if told["at_least"] is None else f"infinite (>= {told['at_least']:.3g})"
    value, error = told["value"], told["standard_error"]
    if error is None or not error > 0 or abs(value) >= 1e6:
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(error))
    if decimals > 6:
        return f"{value:.2e} +- {error:.0e}"
    return f"{value:.{max(0, decimals)}f} +- {error:.{max(0, decimals)}f}"


def direction_of(told: dict[str, Any]) -> str:
    """Which way the estimate errs; an infinite one is none."""
    return "" if told["infinite"] else str(told["direction"])


def picture_of(
    a: Side, b: Side, found: list[Found], rows: dict[Kind, tuple[Tensor, Tensor]], told: list[dict[str, Any]]
) -> DivergencePicture:
    """The witnesses of MMD, KALE and the critic, functions where rows have one or two columns; of images the samples of one."""
    witnesses = _witnesses(found)
    panels = {
        name: panel for name, one in witnesses.items() if (panel := _panel(a, b, one, rows[one.kind])) is not None
    }
    clearest = next((name for name in WEIGHING if isinstance(panels.get(name), WitnessValues)), None)
    if clearest is None or not all(isinstance(s.source, Input) and not s.source.is_points for s in (a, b)):
        return DivergencePicture((a.name, b.name), told, [(WITNESSES[name], panel) for name, panel in panels.items()])
    values, title = panels[clearest], WITNESSES[clearest]
    assert isinstance(values, WitnessValues)
    reads = [reader_of(side, at) for side, at in zip((a, b), rows[witnesses[clearest].kind], strict=True)]
    images = WitnessImages(values.at_a, values.at_b, reads[0], reads[1])
    return DivergencePicture((a.name, b.name), told, [(title, values)], images)


def _witnesses(found: list[Found]) -> dict[str, Found]:
    """What was found with each witness; all f-divergences share that of the critic."""
    named: dict[str, Found] = {}
    for one in found:
        named.setdefault("critic" if one.kind in F_DIVERGENCES else one.kind, one)
    return {name: named[name] for name in WITNESSES if name in named}


def _panel(
    a: Side, b: Side, one: Found, rows: tuple[Tensor, Tensor]
) -> WitnessLine | WitnessMap | WitnessValues | None:
    x, y = a.require_features("a picture"), b.require_features("a picture")
    if x.shape[1] <= 2 and one.field is not None:
        return _of_field(
            one.field, *(s[at.to(s.device)[:MOST_ROWS]].double() for s, at in zip((x, y), rows, strict=True))
        )
    if one.witness_x is None or one.witness_y is None:
        return None
    # A log ratio means something by itself; what a mean kernel is at a row depends on how far out it lies.
    scaled = in_spreads if one.kind == "mmd" else lambda *at: at
    return WitnessValues(*scaled(one.witness_x, one.witness_y))


def _of_field(function: Field, x: Tensor, y: Tensor) -> WitnessLine | WitnessMap:
    """Cut off beyond what it is at the samples: what a critic makes of places without any would take all colours."""
    most = torch.cat([function.value(side[:MOST_SEEN]) for side in (x, y)]).abs().max()
    return line_or_map(x, y, lambda t: function.value(t).clamp(-most, most))


# ------------------------------------------------------------------------------------------------------------- the figure


def save_divergence_picture(path: Path, picture: DivergencePicture) -> None:
    """The numbers and the witnesses; the suffix gives the format.

    Raises:
        UsageError: a suffix that no picture has.
        GebmError: it cannot be written.
    """
    save_figure(path, divergence_figure(picture))


def divergence_figure(picture: DivergencePicture) -> Figure:
    """The figure of `save_divergence_picture`: a cell of numbers and one for each witness, in two columns; images below."""
    from matplotlib.figure import Figure

    labels = f"A: {shorten(picture.names[0])}", f"B: {shorten(picture.names[1])}"
    cells = 1 + len(picture.panels)
    columns = cells if cells <= 3 else 2
    high = math.ceil(cells / columns) * CELL[1]
    below = IMAGES if picture.images is not None else 0.0
    figure = Figure(figsize=(CELL[0] * columns, high + below), dpi=DPI, layout="constrained")
    figure.suptitle(" · ".join(labels))
    upper: Any = figure
    if picture.images is not None:
        halves: Any = figure.subfigures(2, 1, height_ratios=[high, below])
        upper = halves[0]
        draw_images(halves[1].subfigures(2, 1), picture.images, labels)
    grid = upper.subplots(math.ceil(cells / columns), columns, squeeze=False).ravel()
    _draw_numbers(grid[0], picture.told)
    for axes, (title, panel) in zip(grid[1:], picture.panels, strict=False):
        draw_panel(axes, panel, labels)
        axes.set_title(title, fontsize="medium")
        legend_under(axes)
    for axes in grid[cells:]:
        axes.set_axis_off()
    return figure


def _draw_numbers(axes: Axes, told: list[dict[str, Any]]) -> None:
    """The divergences as a table: name, value and standard error, and which way the estimate errs."""
    axes.set_axis_off()
    axes.set_title("divergences of A from B", fontsize="medium")
    for i, one in enumerate(told):
        up = 0.95 - ROW * i
        style: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "color": INK}
        axes.text(0.0, up, NAMES.get(one["kind"], one["kind"]), **style)
        axes.text(0.36, up, spelled(one).replace("+-", "±").replace(">=", "≥"), **style)
        axes.text(1.0, up, direction_of(one), **style | {"ha": "right", "color": QUIET})
