"""Figures of a page beside the learning curves: histograms of energies and of null distributions, frames of points."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gebm_cli.experiment.report.blocks import Picture
from gebm_cli.experiment.report.panels import WIDE, colour_of, finish, is_finite, legend, new_figure
from gebm_cli.experiment.report.series import LARGEST
from gebm_cli.experiment.report.svg import INK, QUIET, STYLE, to_svg
from gebm_cli.experiment.report.words import number, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BINS = 48
OUTSIDE = 0.005  # the share of all energies beyond the axis, at each end, where they are far out
OFF_SCALE = 4.0  # widths of the null beyond which the observed value is an arrow at the edge
POINT = "#3b87c4"  # seen well on white and on black
FRAME = 360  # pixels
N_POINTS = 1000
BEHIND, GREY = 0.45, 128  # opacity and colour of points behind a frame
LEVELS = 6  # of opacity: a third of the bytes of all 255


def energy_histogram(energies: dict[str, np.ndarray], beta: float | None, reproduce: str, note: str = "") -> Picture:
    """Shares of each set in common bins of energy; what is not finite or far out is counted in the caption.

    Args:
        energies: the energies (n,) of each set, by its name.
        beta: at which the samples were drawn, if they were.
        note: what else the caption says of the samples, e.g. what their sampler draws from.
    """
    from matplotlib import rc_context

    finite = {name: values[np.abs(values) < LARGEST] for name, values in _flat(energies).items()}
    edges = _edges([v for v in finite.values() if len(v)])
    with rc_context(STYLE):
        figure, panels = new_figure(WIDE, 290)
        axes = panels[0]
        _draw_shares(axes, finite, edges)
        legend(figure, axes, 4)
        finish(figure, panels, "energy", "energy E: the lower, the more weight against the base", steps=False)
        axes.set_ylabel("% of the set in a bin", color=QUIET)
        figure.subplots_adjust(left=0.13)
        alt = "Histogram of energies. " + "; ".join(map(_described, finite, finite.values()))
        caption = ["Energies of " + ", ".join(f"{name} (n = {len(v)})" for name, v in finite.items()) + "."]
        caption += [] if beta is None else [f"The samples were drawn at beta = {number(beta)}."]
        caption += [note] if note else []
        caption += _not_drawn(energies, finite, edges)
        return Picture(to_svg(figure, alt), alt, caption=" ".join(caption), reproduce=reproduce)


def null_histogram(record: dict[str, Any], reproduce: str) -> Picture:
    """The relabelled statistics of a two-sample test and the observed one, an arrow at the edge where it is far out.

    Args:
        record: of the test, with `null_histogram` of `low`, `high`, `counts` in equal bins, and `n`.

    Raises:
        ValueError: the bins have no finite ends, or there are none.
    """
    from matplotlib import rc_context

    null, edges = record["null_histogram"], _null_edges(record["null_histogram"])
    p_value = record.get("p_value")
    p_words = f"p = {number(p_value)}" if p_value is not None and is_finite(p_value) else "p is not known"
    sets = f"{record['x']} against {record['y']}: " if {"x", "y"} <= set(record) else ""
    with rc_context(STYLE):
        figure, panels = new_figure()
        panels[0].stairs(null["counts"], edges, fill=True, color=colour_of(7), alpha=0.55)
        panels[0].set_ylim(0, 1.18 * max([1, *null["counts"]]))
        where = _mark_observed(panels[0], record.get("statistic"), edges[0], edges[-1])
        finish(
            figure,
            panels,
            f"{record.get('test', 'two-sample test')} under relabelling",
            f"statistic ({null['n']} relabellings)",
            steps=False,
        )
        ends = " to ".join(number(float(null[end])) for end in ("low", "high"))
        alt = f"{sets}{null['n']} relabelled statistics from {ends}; {where}; {p_words}"
        return Picture(to_svg(figure, alt), alt, caption=f"{sets}{where}; {p_words}.", reproduce=reproduce)


def point_frames(frames: np.ndarray, behind: np.ndarray | None = None, size: int = FRAME) -> list[bytes]:
    """WebP pictures, transparent, of the first 1000 of points (n_frames, n, 2) on common axes; those beyond lie on the edge.

    Args:
        behind: points (m, 2) in grey behind every frame, say the data.
    """
    frames = np.asarray(frames, np.float64)[:, :N_POINTS]
    limits = limits_of(frames, behind)
    under = np.zeros((size, size)) if behind is None else _ink(np.asarray(behind, np.float64)[:N_POINTS], limits, size)
    return [_scatter(_ink(frame, limits, size), under) for frame in frames]


def limits_of(frames: np.ndarray, behind: np.ndarray | None = None) -> list[tuple[float, float]]:
    """(low, high) of both axes in all frames: equally long, about all finite points but the outermost thousandth at each end."""
    points = np.asarray(frames, np.float64).reshape(-1, 2)
    if behind is not None:
        points = np.concatenate([points, np.asarray(behind, np.float64)[:N_POINTS]])
    points = points[(np.abs(points) < LARGEST).all(1)]
    if not len(points):
        return [(-1.0, 1.0), (-1.0, 1.0)]
    low, high = np.quantile(points, [0.001, 0.999], axis=0)
    half = 0.54 * float((high - low).max()) or 1.0
    return [(float(centre - half), float(centre + half)) for centre in (low + high) / 2]


# ------------------------------------------------------------------------------------------------------------ energies


def _flat(energies: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values, np.float64).ravel() for name, values in energies.items()}


def _edges(sets: list[np.ndarray]) -> np.ndarray:
    """Common bins over all values, or over their bulk where the rest is so far out that the bulk would be a line."""
    if not sets:
        return np.linspace(-1.0, 1.0, BINS + 1)
    low, high = min(v.min() for v in sets), max(v.max() for v in sets)
    bulk = [np.quantile(v, [OUTSIDE, 1 - OUTSIDE]) for v in sets]
    inner, outer = min(b[0] for b in bulk), max(b[1] for b in bulk)
    room = outer - inner
    if room > 0:
        low, high = max(low, inner - 0.5 * room), min(high, outer + 0.5 * room)
    if high <= low:
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    return np.linspace(low, high, BINS + 1)


def _draw_shares(axes: Axes, sets: dict[str, np.ndarray], edges: np.ndarray) -> None:
    for k, (name, values) in enumerate(sets.items()):
        if len(values):
            percent = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(percent, edges, color=colour_of(k), linewidth=1.6, label=shortened(name, 24))
            axes.stairs(percent, edges, color=colour_of(k), alpha=0.12, fill=True)
    axes.set_ylim(bottom=0)


def _not_drawn(energies: dict[str, np.ndarray], finite: dict[str, np.ndarray], edges: np.ndarray) -> Iterator[str]:
    """How many of each set are beyond the axis, or have no place on one."""
    for name, values in finite.items():
        if beyond := int(((values < edges[0]) | (values > edges[-1])).sum()):
            yield f"{beyond} of {len(values)} of {name} are beyond the axis."
    for name, values in finite.items():
        if gone := (n := np.size(energies[name])) - len(values):
            yield f"{gone} of {n} of {name} have no finite energy."


def _described(name: str, values: np.ndarray) -> str:
    if not len(values):
        return f"{name}: none"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{name}: median {number(middle)}, 90 % between {number(low)} and {number(high)}"


# ---------------------------------------------------------------------------------------------------------- null, points


def _null_edges(null: dict[str, Any]) -> np.ndarray:
    """The edges of its bins, of which there is some width even where all values are equal."""
    low, high = float(null["low"]), float(null["high"])
    if not (is_finite(low) and is_finite(high) and null["counts"]):
        raise ValueError(f"null_histogram: no bins between {low} and {high}")
    pad = 0.0 if high > low else 0.5 * (abs(low) or 1.0)
    return np.linspace(low - pad, high + pad, len(null["counts"]) + 1)


def _mark_observed(axes: Axes, observed: Any, low: float, high: float) -> str:
    """A line at the observed statistic, or an arrow towards it; returns where it is, in words."""
    if not is_finite(observed):
        return "the observed statistic is not known"
    width = high - low
    edge = 1 if observed > high + OFF_SCALE * width else -1 if observed < low - OFF_SCALE * width else 0
    if edge:
        place = _point_beyond(axes, low, high, edge)
    else:
        place = observed
        axes.axvline(observed, color=colour_of(1), linewidth=2)
        axes.set_xlim(min(low, observed) - 0.06 * width, max(high, observed) + 0.06 * width)
    side, offset = ("right", -5) if place > sum(axes.get_xlim()) / 2 else ("left", 5)
    words, at = f"observed {number(observed)}", axes.get_xaxis_transform()
    axes.annotate(words, (place, 0.99), (offset, 0), at, "offset points", color=INK, ha=side, va="top")
    where = "above" if observed > high else "below" if observed < low else "within"
    off = ", off the axis (arrow)" if edge else ""
    return f"the observed statistic, {number(observed)}, is {where} the range of the relabelled ones{off}"


def _point_beyond(axes: Axes, low: float, high: float, edge: int) -> float:
    """An arrow out of the null, upwards or downwards by the sign of `edge`; returns where its tip is."""
    width, end = high - low, high if edge > 0 else low
    start, tip = end + 0.25 * edge * width, end + 0.6 * edge * width
    middle = 0.5 * axes.get_ylim()[1]
    arrow = {"arrowstyle": "-|>", "color": colour_of(1), "linewidth": 2}
    axes.annotate("", (tip, middle), (start, middle), arrowprops=arrow)
    axes.set_xlim(low - (0.65 if edge < 0 else 0.05) * width, high + (0.65 if edge > 0 else 0.05) * width)
    return tip


def _ink(points: np.ndarray, limits: list[tuple[float, float]], size: int) -> np.ndarray:
    """How densely the finite points lie on each pixel (size, size)."""
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return np.zeros((size, size))
    low, high = np.array(limits).T
    places = np.clip((points - low) / (high - low), 0.01, 0.99) * [1, -1] + [0, 1]
    return _splat(places * size, size)


def _scatter(ink: np.ndarray, under: np.ndarray) -> bytes:
    """Discs with soft edges, denser where many lie over each other, over those in grey."""
    from PIL import Image

    over, grey = (np.rint((1 - np.exp(-i)) * LEVELS) / LEVELS for i in (ink, under))
    grey = BEHIND * grey * (1 - over)
    alpha = over + grey
    share = np.divide(over, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    colour = [share * int(POINT[i : i + 2], 16) + (1 - share) * GREY for i in (1, 3, 5)]
    layers = np.dstack([*(np.where(alpha > 0, c, int(POINT[1:3], 16)) for c in colour), 255 * alpha])
    file = io.BytesIO()
    Image.fromarray(np.rint(layers).astype(np.uint8)).save(file, "WEBP", lossless=True)
    return file.getvalue()


def _splat(places: np.ndarray, size: int, radius: float = 2.2) -> np.ndarray:
    """The sum over points of a disc with a soft edge about each, in pixels (size, size)."""
    reach = int(np.ceil(radius)) + 1
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
    pixels = np.floor(places).astype(np.int64)[:, None] + offsets
    distance = np.linalg.norm(pixels + 0.5 - places[:, None], axis=-1)
    weight = np.clip(radius + 0.5 - distance, 0, 1)
    inside = ((pixels >= 0) & (pixels < size)).all(-1)
    flat = pixels[inside][:, 1] * size + pixels[inside][:, 0]
    return np.bincount(flat, weight[inside], size * size).reshape(size, size)
