"""The panels of a two-sample test's picture that show what tells the two sets apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gebm_cli.core.kernels import Kernel
from gebm_cli.core.two_sample.witness import witness, witness_at
from gebm_cli.experiment.curves import COLOURS
from gebm_cli.experiment.pictures import LARGEST_TILE, numbers
from gebm_cli.experiment.short_names import shorten as shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

A, B = COLOURS[0], COLOURS[1]  # blue and vermilion, told apart with any colour vision
INK = "0.15"
MOST_BINS, GRID, N_POINTS, N_IMAGES = 40, 60, 1000, 8
MOST_LEVELS, COPIES = 30, 3  # distinct values, of so many rows each, that are drawn as bars


@dataclass(frozen=True)
class WitnessLine:
    """One-dimensional data x (n,), y (m,), and the witness (g,) along a grid (g,); `column` names the data, `unit` the witness."""

    x: Tensor
    y: Tensor
    grid: Tensor
    values: Tensor
    column: str = "value"
    unit: str = "witness"


@dataclass(frozen=True)
class WitnessMap:
    """Points of the plane x (n, 2), y (m, 2), and the witness (g_up, g_across) on the grid of `across` and `up`.

    Its colours end at +-`limit`, if there is one; `columns` names the data, `unit` the witness.
    """

    x: Tensor
    y: Tensor
    across: Tensor
    up: Tensor
    values: Tensor
    limit: float | None = None
    columns: tuple[str, str] | None = None
    unit: str = "witness"


@dataclass(frozen=True)
class WitnessValues:
    """The witness at each row of A (n,) and of B (m,), for data that cannot be drawn themselves; `label` says what it is."""

    at_a: Tensor
    at_b: Tensor
    label: str = "witness: above 0 looks more like A, below 0 more like B"


@dataclass(frozen=True)
class WitnessImages:
    """The witness at each image of A (n,) and of B (m,), and how image i of either is read: uint8 (c, h, w), c 1 or 3."""

    at_a: Tensor
    at_b: Tensor
    image_a: Callable[[int], Tensor]
    image_b: Callable[[int], Tensor]


Panel = WitnessLine | WitnessMap | WitnessValues | WitnessImages


def panel_of(kernel: Kernel, x: Tensor, y: Tensor) -> WitnessLine | WitnessMap | WitnessValues:
    """The panel for rows x (n, d) and y (m, d): a line for d = 1, a map for d = 2, else the values of the witness."""
    if x.shape[1] > 2:
        return WitnessValues(*witness(kernel, x, y))
    return line_or_map(x, y, lambda t: witness_at(kernel, x, y, t))


def line_or_map(x: Tensor, y: Tensor, function: Callable[[Tensor], Tensor]) -> WitnessLine | WitnessMap:
    """The panel of a function (k, d) -> (k,) over the range of rows x (n, d) and y (m, d), d of 1 or 2."""
    axes = [_grid(torch.cat([x, y])[:, j], 4 * GRID if x.shape[1] == 1 else GRID) for j in range(x.shape[1])]
    at = levels(x, y) if x.shape[1] == 1 else None
    if at is not None:  # from the left edge of the first bar to the right edge of the last
        half = at.diff().min() / 2
        axes = [torch.linspace((at[0] - half).item(), (at[-1] + half).item(), 4 * GRID).to(x)]
    if x.shape[1] == 1:
        return WitnessLine(x[:, 0], y[:, 0], axes[0], function(axes[0][:, None]))
    up, across = torch.meshgrid(axes[1], axes[0], indexing="ij")
    values = function(torch.stack([across, up], dim=-1).reshape(-1, 2))
    return WitnessMap(x, y, axes[0], axes[1], values.reshape(up.shape))


def speak_most(at_a: Tensor, at_b: Tensor, count: int = N_IMAGES) -> tuple[list[int], list[int]]:
    """Which rows of A are most typical of A, witness (n,) highest first, and which of B, witness (m,) lowest first."""
    order_a, order_b = at_a.argsort(descending=True, stable=True), at_b.argsort(stable=True)
    return order_a[:count].tolist(), order_b[:count].tolist()


def levels(x: Tensor, y: Tensor) -> Tensor | None:
    """The distinct values (k,) of x and y where they are few, each with some rows; else None."""
    found = torch.cat([x.reshape(-1), y.reshape(-1)]).unique()
    return found if 1 < len(found) <= min(MOST_LEVELS, (len(x) + len(y)) // COPIES) else None


def n_bins(count: int) -> int:
    """Few enough bins that each is filled: about the square root of the count, 40 at most."""
    return min(MOST_BINS, max(5, math.ceil(math.sqrt(count))))


def plain(axes: Axes) -> None:
    """No frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _some(values: Tensor) -> np.ndarray:
    """At most `N_POINTS` rows, evenly spread over their order."""
    return _numpy(values[:: max(1, math.ceil(len(values) / N_POINTS))])


def draw_line(axes: Axes, panel: WitnessLine, names: tuple[str, str]) -> None:
    """Both samples as histograms, or as a bar for each value where they are few, and the witness over the grid on an own axis."""
    grid = _numpy(panel.grid)
    at = levels(panel.x, panel.y)
    if at is None:
        _draw_densities(axes, panel, names)
    else:
        _draw_bars(axes, panel, _numpy(at), names)
    axes.set(ylabel="density" if at is None else "share of samples", xlabel=panel.column, xlim=(grid[0], grid[-1]))
    other = axes.twinx()
    values = _numpy(panel.values)
    limit = float(np.abs(values).max()) * 1.1 or 1.0
    other.plot(grid, values, color=INK, linewidth=2)
    axes.plot([], [], color=INK, linewidth=2, label="witness: above 0 where A has more, below 0 where B has")
    other.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    other.set(ylim=(-limit, limit), ylabel=panel.unit)
    other.spines["top"].set_visible(False)
    plain(axes)


def _draw_densities(axes: Axes, panel: WitnessLine, names: tuple[str, str]) -> None:
    grid = _numpy(panel.grid)
    edges = np.linspace(grid[0], grid[-1], n_bins(min(len(panel.x), len(panel.y))) + 1).tolist()
    for data, colour, name, rug in zip((panel.x, panel.y), (A, B), names, (-0.015, -0.045), strict=True):
        axes.hist(_numpy(data), bins=edges, density=True, histtype="stepfilled", alpha=0.35, color=colour, label=name)
        some = _some(data)
        where = axes.get_xaxis_transform()
        axes.plot(some, np.full(len(some), rug), "|", color=colour, alpha=0.4, transform=where, clip_on=False)
    axes.tick_params(axis="x", pad=12)


def _draw_bars(axes: Axes, panel: WitnessLine, at: np.ndarray, names: tuple[str, str]) -> None:
    """The share of each sample at each of the values `at` (k,)."""
    width = 0.8 * float(np.diff(at).min())
    for data, colour, name in zip((panel.x, panel.y), (A, B), names, strict=True):
        shares = (_numpy(data)[:, None] == at).mean(0)
        axes.bar(at, shares, width, alpha=0.35, color=colour, label=name)


def draw_map(axes: Axes, panel: WitnessMap, names: tuple[str, str]) -> None:
    """The witness as a filled contour, white at 0, with up to 1,000 points of either sample over it."""
    from matplotlib.colors import LinearSegmentedColormap

    values, columns, rows = _numpy(panel.values), _numpy(panel.across), _numpy(panel.up)
    most = float(np.abs(values).max()) or 1.0
    limit = panel.limit or most
    # The samples' own colours, paler, so that the points stand out on them.
    colours = LinearSegmentedColormap.from_list("witness", ["#F0A36B", "#FFFFFF", "#7FB9E0"])
    extend = "both" if most > limit else "neither"
    filled = axes.contourf(columns, rows, values, levels=np.linspace(-limit, limit, 22), cmap=colours, extend=extend)
    for data, colour, marker, name in zip((panel.x, panel.y), (A, B), "o^", names, strict=True):
        across, up = _some(data).T
        axes.scatter(across, up, s=8, color=colour, marker=marker, alpha=0.8, linewidths=0, label=name)
    axes.set(xlim=(columns[0], columns[-1]), ylim=(rows[0], rows[-1]))
    if panel.columns is not None:
        axes.set(xlabel=panel.columns[0], ylabel=panel.columns[1])
    bar = axes.figure.colorbar(filled, ax=axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"{-limit:.2g}\nmore B", "0", f"more A\n{limit:.2g}"])
    bar.ax.set_ylabel(panel.unit)


def draw_values(axes: Axes, panel: WitnessValues, names: tuple[str, str]) -> None:
    """Histograms of the witness at the rows of A and of B: the less they overlap, the better the kernel tells them apart."""
    both = _numpy(torch.cat([panel.at_a, panel.at_b]))
    low, high = float(both.min()), float(both.max())
    pad = 0.0 if high > low else abs(high) * 0.1 or 1.0
    edges = np.linspace(low - pad, high + pad, n_bins(min(len(panel.at_a), len(panel.at_b))) + 1).tolist()
    for data, colour, name in zip((panel.at_a, panel.at_b), (A, B), names, strict=True):
        share = np.full(len(data), 1 / len(data))
        kind: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.4, "color": colour, "label": name}
        axes.hist(_numpy(data), bins=edges, weights=share, **kind)
        axes.axvline(float(data.mean()), color=colour, linewidth=1.6, linestyle="--")
    axes.plot([], [], color=INK, linestyle="--", label="means")
    if low <= 0 <= high:
        axes.axvline(0.0, color="0.6", linewidth=1, linestyle=":")
    axes.set(xlabel=panel.label, ylabel="share of samples")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
    plain(axes)


def draw_images(
    figures: Sequence[SubFigure], panel: WitnessImages, names: tuple[str, str], headings: Sequence[str] = ()
) -> None:
    """In one figure the images of A that are most typical of A, in the other those of B; the witness under each."""
    told = "the images least like {}; above 0 looks more like A, below 0 more like B"
    headings = headings or [f"{name} – {told.format(other)}" for name, other in zip(names, "BA", strict=True)]
    chosen = speak_most(panel.at_a, panel.at_b)
    reads, values = (panel.image_a, panel.image_b), (panel.at_a, panel.at_b)
    for figure, order, read, at, heading in zip(figures, chosen, reads, values, headings, strict=True):
        captions = numbers(at[order].double().cpu()[None])[0]
        figure.suptitle(heading, x=0.01, ha="left", fontsize="medium")
        row = figure.subplots(1, N_IMAGES)
        for axes in row:
            axes.set_axis_off()
        for axes, i, caption in zip(row, order, captions, strict=False):
            _image(axes, read(i), caption)


def _image(axes: Axes, image: Tensor, caption: str) -> None:
    pixels = image.cpu().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    if max(pixels.shape[:2]) > LARGEST_TILE:
        picture = Image.fromarray(pixels)
        picture.thumbnail((LARGEST_TILE, LARGEST_TILE))
        pixels = np.asarray(picture)
    axes.set_axis_on()
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, fontsize=9.5)
    axes.spines[:].set_color("0.75")


def _grid(values: Tensor, count: int) -> Tensor:
    """`count` points over the range of the values and a little beyond."""
    low, high = values.min().item(), values.max().item()
    pad = 0.05 * (high - low) or max(abs(high), 1.0) * 0.1
    return torch.linspace(low - pad, high + pad, count, dtype=values.dtype, device=values.device)
