"""The picture of divergences: their numbers, and what each sees: its witness function, or the samples that it weighs most."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gebm_cli.core.divergences.kinds import Found
from gebm_cli.core.divergences.names import F_DIVERGENCES, Kind
from gebm_cli.core.fields import Field
from gebm_cli.experiment.divergence_words import NAMES, direction_of, spelled
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.short_names import shorten_both
from gebm_cli.experiment.two_sample_drawing import MOST_ROWS, reader_of
from gebm_cli.experiment.two_sample_panels import (
    INK,
    N_IMAGES,
    A,
    B,
    WitnessImages,
    WitnessLine,
    WitnessMap,
    WitnessValues,
    draw_images,
    line_or_map,
)
from gebm_cli.experiment.two_sample_pictures import DPI, draw_panel, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Eye:
    """How the witness of a divergence is titled, what its axis is, and what its histogram tells."""

    title: str
    unit: str
    told: str


_RATIO = "log dP/dQ: above 0 looks more like A, below 0 more like B"
WITNESSES: dict[str, Eye] = {  # the first four of these that there are, in this order
    "mmd": Eye("Witness of MMD", "witness", "witness; the gap between the means is MMD²"),
    "kale": Eye("Witness of KALE (log dP/dQ)", "log dP/dQ", _RATIO),
    "critic": Eye("Critic (log dP/dQ)", "log dP/dQ", _RATIO),
    "w1": Eye("Kantorovich potential of W1", "potential", "potential; the gap between the means is W1"),
    "energy-distance": Eye(
        "Witness of the energy distance", "witness", "witness; the gap between the means is the distance"
    ),
    "sinkhorn": Eye("Potential of Sinkhorn", "potential", "potential; the gap between the means is the divergence"),
    "sliced-w1": Eye("Potential of sliced W1", "potential", "mean potential; the gap between the means is sliced W1"),
}
MOST_PANELS = 4
OF_NO_ORIGIN = ("w1", "sinkhorn", "sliced-w1")  # potentials, known up to a constant
WEIGHING = ("kale", "mmd", "critic", *WITNESSES)  # the first of these chooses the images that are shown
CELL = (6.0, 4.3)  # inches
OF_IMAGES, UNDER = 9.0, 0.3  # the least width of a row of images, and what stands above and under each
NUMBER = (1.75, 0.6)  # a divergence in the band of numbers, in inches, without
DIRECTION, DIRECTION_LETTERS = 0.14, 28  # a line of its direction
LEGEND = 0.45
LETTER = 0.085
MOST_SEEN = 1000
QUIET = "0.4"


@dataclass(frozen=True)
class DivergencePicture:
    """What a picture of divergences shows.

    Attributes:
        names: of A and B.
        told: the divergences as in the record.
        panels: the witness functions, each under its title.
        images: the samples that a witness weighs most, under its title; of images alone.
    """

    names: tuple[str, str]
    told: list[dict[str, Any]]
    panels: list[tuple[str, WitnessLine | WitnessMap | WitnessValues]] = field(default_factory=list)
    images: list[tuple[str, WitnessImages]] = field(default_factory=list)


def picture_of(
    a: Side,
    b: Side,
    found: list[Found],
    rows: dict[Kind, tuple[Tensor, Tensor]],
    told: list[dict[str, Any]],
    asked: bool = True,
) -> DivergencePicture:
    """The witnesses, functions where rows have one or two columns; of images the samples that each weighs most, or where the
    divergences were not `asked` for by name, one of them."""
    witnesses = _witnesses(found)
    panels = {
        name: panel for name, one in witnesses.items() if (panel := _panel(a, b, name, one, rows[one.kind])) is not None
    }
    values = {name: panel for name, panel in panels.items() if isinstance(panel, WitnessValues)}
    images = []
    if values and all(isinstance(s.source, Input) and not s.source.is_points for s in (a, b)):
        if not asked:
            panels = {name: values[name] for name in WEIGHING if name in values}
            panels = dict([next(iter(panels.items()))])
        for name in (name for name in panels if name in values):
            reads = [reader_of(side, at) for side, at in zip((a, b), rows[witnesses[name].kind], strict=True)]
            images.append((WITNESSES[name].title, WitnessImages(values[name].at_a, values[name].at_b, *reads)))
    shown = [(WITNESSES[name].title, panel) for name, panel in panels.items()]
    return DivergencePicture((a.name, b.name), told, shown, images)


def _witnesses(found: list[Found]) -> dict[str, Found]:
    """What was found with each witness; all f-divergences share that of the critic."""
    named: dict[str, Found] = {}
    for one in found:
        named.setdefault("critic" if one.kind in F_DIVERGENCES else one.kind, one)
    return {name: named[name] for name in [name for name in WITNESSES if name in named][:MOST_PANELS]}


def _panel(
    a: Side, b: Side, name: str, one: Found, rows: tuple[Tensor, Tensor]
) -> WitnessLine | WitnessMap | WitnessValues | None:
    x, y = a.require_features("a picture"), b.require_features("a picture")
    level = 0.0
    if name in OF_NO_ORIGIN and one.witness_x is not None and one.witness_y is not None:
        level = (one.witness_x.mean() + one.witness_y.mean()).item() / 2
    if x.shape[1] <= 2 and one.field is not None:
        used = [s[at.to(s.device)[:MOST_ROWS]].double() for s, at in zip((x, y), rows, strict=True)]
        return _of_field(one.field, level, used[0], used[1], WITNESSES[name].unit, _columns(a, b))
    if one.witness_x is None or one.witness_y is None:
        return None
    return WitnessValues(one.witness_x - level, one.witness_y - level, WITNESSES[name].told)


def _columns(a: Side, b: Side) -> tuple[str, ...]:
    """The names of a table's columns, where both sides have the same."""
    known = [side.source.columns if isinstance(side.source, Input) else () for side in (a, b)]
    return tuple(name.replace("$", r"\$") for name in known[0]) if known[0] == known[1] else ()


def _of_field(
    function: Field, level: float, x: Tensor, y: Tensor, unit: str, columns: tuple[str, ...]
) -> WitnessLine | WitnessMap:
    """The function less its level. A map has colours up to what it is at the samples: what a critic makes of places without any
    would take them all."""
    panel = line_or_map(x, y, lambda t: function.value(t) - level)
    if isinstance(panel, WitnessLine):
        return replace(panel, unit=unit, column=columns[0] if columns else panel.column)
    most = (torch.cat([function.value(side[:MOST_SEEN]) for side in (x, y)]) - level).abs().max().item()
    return replace(panel, unit=unit, limit=most, columns=(columns[0], columns[1]) if columns else None)


# ------------------------------------------------------------------------------------------------------------- the figure


def save_divergence_picture(path: Path, picture: DivergencePicture) -> None:
    """The numbers and the witnesses; the suffix gives the format.

    Raises:
        UsageError: a suffix that no picture has.
        GebmError: it cannot be written.
    """
    save_figure(path, divergence_figure(picture))


def divergence_figure(picture: DivergencePicture) -> Figure:
    """The figure of `save_divergence_picture`: A and B in their colours, a band of numbers, the witnesses, and images below."""
    from matplotlib.figure import Figure

    cells = len(picture.panels)
    columns = cells if cells <= (2 if picture.images else 3) else 2
    wide = max(OF_IMAGES if picture.images else 0.0, max(1, columns) * CELL[0])
    longest = int(wide / 2 / LETTER) - 8
    labels = tuple(
        f"{side}: {name}" for side, name in zip(("A (P)", "B (Q)"), shorten_both(*picture.names, longest), strict=True)
    )
    lines = math.ceil(len(picture.told) / max(1, int(wide / NUMBER[0])))
    each = NUMBER[1] + DIRECTION * max([len(_direction(one)) for one in picture.told], default=0)
    heights = [LEGEND + lines * each]
    heights += [math.ceil(cells / columns) * CELL[1]] if cells else []
    heights += [2 * (wide / N_IMAGES + UNDER)] * len(picture.images)
    figure = Figure(figsize=(wide, sum(heights)), dpi=DPI, layout="constrained")
    bands: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_numbers(bands[0], picture.told, lines, each, heights[0])
    _draw_legend(bands[0], labels, [panel for _, panel in picture.panels])
    if cells:
        grid = bands[1].subplots(math.ceil(cells / columns), columns, squeeze=False).ravel()
        for axes, (title, panel) in zip(grid, picture.panels, strict=False):
            draw_panel(axes, panel, (labels[0], labels[1]))
            axes.set_title(title)
        for axes in grid[cells:]:
            axes.set_axis_off()
    for band, (title, images) in zip(bands[1 + bool(cells) :], picture.images, strict=True):
        headings = [f"most like {side} – {title}" for side in "AB"]
        draw_images(band.subfigures(2, 1), images, (labels[0], labels[1]), headings)
    return figure


def _draw_legend(band: Any, labels: tuple[str, ...], panels: list[Any]) -> None:
    """A and B once for the whole figure."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=colour, alpha=0.6, label=name) for colour, name in zip((A, B), labels, strict=True)
    ]
    if any(isinstance(panel, WitnessValues) for panel in panels):
        handles.append(Line2D([], [], color=INK, linestyle="--", label="means"))
    band.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False, borderaxespad=0.3)


def _direction(told: dict[str, Any]) -> list[str]:
    return textwrap.wrap(direction_of(told), DIRECTION_LETTERS)


def _draw_numbers(band: Any, told: list[dict[str, Any]], lines: int, deep: float, high: float) -> None:
    """The divergences side by side in so many lines: name, value and standard error, and which way the estimate errs.

    A line takes `deep` inches of the `high` ones of the band.
    """
    each = math.ceil(len(told) / max(1, lines))
    for i, one in enumerate(told):
        across = (i % each + 0.5) / each
        top = 1 - (LEGEND + i // each * deep) / high
        style: dict[str, Any] = {"ha": "center", "va": "top", "color": INK}
        number = spelled(one).replace("+-", "±").replace(">=", "≥")
        band.text(across, top, NAMES.get(one["kind"], one["kind"]), fontsize=9, **style)
        band.text(across, top - 0.2 / high, number, fontsize=11, fontweight="bold", **style)
        band.text(across, top - 0.43 / high, "\n".join(_direction(one)), fontsize=8, **style | {"color": QUIET})
