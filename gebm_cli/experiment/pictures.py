"""The pictures of a sample set made of tiles: images enlarged without smoothing, with numbers under them. Points are scattered."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gebm_cli.core.data.dataset import is_images
from gebm_cli.experiment.curves import paths_figure
from gebm_cli.experiment.tiles import as_picture, tiled

GRID = 10
FRAME_MS = 120
SCATTER = 2000

N_COLUMNS = 10
N_EXTREMES = 8
N_PAIRS = 24
TILE = 80
LARGEST_TILE = 144
WIDEST_ROW = 1200
NARROWEST_SHEET = 480
MARGIN, GAP = 12, 8
CAPTION, HEADING = 13, 15
LONGEST_NUMBER, MOST_DECIMALS = 9, 5
INK, QUIET, EDGE = (30, 30, 30), (90, 90, 90), (190, 190, 190)

Cell = tuple[np.ndarray, str]


def save_grid(path: Path, data: Tensor, beside: Tensor | None = None) -> None:
    """The first 100 images in a 10 x 10 grid; beside them on the left, where given, where the same chains started."""
    if is_images(data):
        tiles = [tile(d) for d in (beside, data) if d is not None]
        gap = np.full((tiles[0].shape[0], max(4, tiles[0].shape[0] // 40), tiles[0].shape[2]), 255, np.uint8)
        _enlarged(np.concatenate([tiles[0], gap, tiles[1]] if len(tiles) == 2 else tiles, axis=1)).save(path)
    else:
        panels = [("samples", data)] if beside is None else [("base", beside), ("samples", data)]
        save_scatter(path, panels)


def save_chain(path: Path, frames: list[tuple[int, Tensor]]) -> None:
    """An animation of the same chains at successive steps; frames are (step, images or points)."""
    pictures = []
    limit = max(_extent(data) for _, data in frames)
    for step, data in frames:
        if is_images(data):
            pictures.append(_enlarged(tile(data)))
        else:
            pictures.append(_scatter([(f"step {step}", data)], limit * 1.1))
    first, *rest = pictures
    durations = [FRAME_MS] * len(rest) + [8 * FRAME_MS]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def save_trace(path: Path, potential: Tensor, title: str) -> None:
    """U(z) averaged over the chains against the step: a curve still falling at its end says that the chains have not mixed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(potential.numpy(), color="tab:blue")
    axes.set(xlabel="step", ylabel="mean of U(z)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def save_scatter(path: Path, panels: list[tuple[str, Tensor]]) -> None:
    """Points in the plane, one panel each, on common axes."""
    limit = max(_extent(points) for _, points in panels)
    _scatter(panels, limit * 1.1).save(path)


def tile(images: Tensor, columns: int = GRID) -> np.ndarray:
    """The first 100 images (n, c, h, w) uint8 as one array (H, W, c)."""
    return tiled(images[: columns * columns].cpu().numpy().transpose(0, 2, 3, 1), columns)


def _enlarged(pixels: np.ndarray) -> Image.Image:
    """Small grids are enlarged without smoothing, so that single pixels can be judged."""
    factor = max(1, 360 // pixels.shape[0])
    picture = as_picture(pixels)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _extent(points: Tensor) -> float:
    """The largest finite coordinate, for the axes: a chain that diverged is out of the picture and does not end it."""
    return float(points.abs().float().nan_to_num(0.0, 0.0, 0.0).max()) or 1.0


def _scatter(panels: list[tuple[str, Tensor]], limit: float) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 4), dpi=90, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, points) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        kept = points[:SCATTER].cpu().numpy()
        axes.scatter(kept[:, 0], kept[:, 1], s=3, alpha=0.5, color="tab:blue", linewidths=0)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


# --------------------------------------------------------------------------------------------------- tiles with numbers


def save_chain_grid(path: Path, frames: list[tuple[int, Tensor]], energies: Tensor, n_chains: int = 8) -> None:
    """Chains as rows and about 10 of their steps as columns, the energy (n, n_frames) under each; of points, their paths."""
    if not is_images(frames[0][1]):
        paths_figure(frames, n_chains).savefig(path)
        return
    columns = np.unique(np.linspace(0, len(frames) - 1, min(N_COLUMNS, len(frames))).round().astype(int)).tolist()
    captions = numbers(energies[:n_chains][:, columns])
    rows = []
    for chain in range(min(n_chains, len(frames[0][1]))):
        rows.append(("", [(_tile(frames[k][1][chain]), captions[chain][j]) for j, k in enumerate(columns)]))
    title = "Each row is a chain. Above, the step; under each image, its energy."
    sheet(rows, title, [f"step {frames[k][0]}" for k in columns]).save(path)


def save_nearest(path: Path, samples: Tensor, neighbours: Tensor, distances: Tensor, typical: float | None) -> None:
    """The samples (n, c, h, w) closest to a training image, each beside that image, with the distance (n,) of the two under it.

    `typical` is the distance to compare with: that of held-out images, which nobody copied, to their nearest training image.
    """
    order = distances.argsort(stable=True)[:N_PAIRS].tolist()
    captions = numbers(distances[order][None])[0]
    pairs = []
    for i, caption in zip(order, captions, strict=True):
        left, right = _tile(samples[i]), _tile(neighbours[i])
        pairs.append((np.concatenate([left, np.full((len(left), 4, 3), 255, np.uint8), right], axis=1), caption))
    n_columns = min(6, max(1, WIDEST_ROW // pairs[0][0].shape[1]))
    if len(order) < len(samples):
        title = f"The {len(order)} of {len(samples)} samples nearest to a training image (left), each beside that image (right)."
    else:
        title = "Each sample (left) beside the training image nearest to it (right)."
    title += " Below, their distance: the root mean square difference of pixels from 0 to 1."
    if typical is not None:
        title += (
            f" Held-out images, which are not copies, are typically {typical:.3g} from their nearest training image."
        )
    sheet([("", pairs[k : k + n_columns]) for k in range(0, len(pairs), n_columns)], title).save(path)


def save_extremes(path: Path, images: Tensor, energies: Tensor) -> None:
    """The 8 images (n, c, h, w) of lowest energy (n,) and the 8 of highest, the energy under each; nan counts as highest."""
    count = min(N_EXTREMES, max(1, len(images) // 2))
    order = energies.argsort(stable=True)
    captions = numbers(energies[None])[0]
    rows = []
    for heading, chosen in [
        ("lowest energy (most real to the energy)", order[:count]),
        ("highest energy", order.flip(0)[:count]),
    ]:
        rows.append((heading, [(_tile(images[i]), captions[i]) for i in chosen.tolist()]))
    sheet(rows).save(path)


def sheet(rows: list[tuple[str, list[Cell]]], title: str = "", columns: list[str] | None = None) -> Image.Image:
    """Rows of (heading, cells) as a picture; a cell is pixels (h, w, 3), all of one size, and the caption under them.

    The title is wrapped; `columns` are written above the first row.
    """
    texts = [text for _, cells in rows for _, text in cells] + (columns or [])
    pitch = max(rows[0][1][0][0].shape[1], *(math.ceil(_font(CAPTION).getlength(text)) for text in texts)) + GAP
    width = max(NARROWEST_SHEET, 2 * MARGIN + max(len(cells) for _, cells in rows) * pitch)
    strips = [_white(MARGIN, width), *([_lines(title, width), _white(GAP, width)] if title else [])]
    if columns:
        strips.append(_captions(columns, pitch, width))
    for heading, cells in rows:
        strips += [_lines(heading, width)] if heading else []
        strips.append(_pixels([pixels for pixels, _ in cells], pitch, width))
        strips += [_captions([text for _, text in cells], pitch, width), _white(GAP, width)]
    return Image.fromarray(np.concatenate([np.asarray(strip) for strip in strips]))


def numbers(values: Tensor) -> list[list[str]]:
    """The values (n, m) as text with the decimals that tell them apart, the same for all; what is not finite as nan or inf."""
    finite = values[values.isfinite()].double()
    spread = float(finite.max() - finite.min()) if len(finite) else 0.0
    scale = spread or (float(finite.abs().max()) if len(finite) else 0.0) or 1.0
    decimals = max(0, 2 - math.floor(math.log10(scale)))
    texts = [[f"{value:z.{decimals}f}" for value in row] for row in values.tolist()]
    if decimals > MOST_DECIMALS or max((len(text) for row in texts for text in row), default=0) > LONGEST_NUMBER:
        return [[f"{value:.3g}" for value in row] for row in values.tolist()]
    return texts


def _tile(image: Tensor) -> np.ndarray:
    """One image (c, h, w) uint8 as (H, W, 3) near 80 pixels high: whole pixels repeated, or a large image reduced."""
    pixels = image.cpu().numpy().transpose(1, 2, 0)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    size = max(pixels.shape[:2])
    factor = max(1, round(TILE / size))
    if size > LARGEST_TILE:
        picture = Image.fromarray(pixels)
        picture.thumbnail((LARGEST_TILE, LARGEST_TILE))
        return np.asarray(picture)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _white(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _lines(text: str, width: int) -> Image.Image:
    """The text as a strip, broken between words where a line would leave the picture."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(HEADING).getlength(longer) <= width - 2 * MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    strip = _white(len(lines) * (HEADING + 6), width)
    ImageDraw.Draw(strip).multiline_text((MARGIN, 0), "\n".join(lines), INK, _font(HEADING), spacing=5)
    return strip


def _captions(texts: list[str], pitch: int, width: int) -> Image.Image:
    """Texts as a strip, each centred in its column."""
    strip = _white(CAPTION + 7, width)
    for j, text in enumerate(texts):
        ImageDraw.Draw(strip).text((MARGIN + j * pitch + pitch // 2, 2), text, QUIET, _font(CAPTION), anchor="ma")
    return strip


def _pixels(tiles: list[np.ndarray], pitch: int, width: int) -> Image.Image:
    """Tiles (h, w, 3) as a strip, each centred in its column, with a thin edge that shows where a white one ends."""
    h, w = tiles[0].shape[:2]
    strip = _white(h + 2, width)
    for j, pixels in enumerate(tiles):
        left = MARGIN + j * pitch + (pitch - w) // 2
        ImageDraw.Draw(strip).rectangle((left - 1, 0, left + w, h + 1), outline=EDGE)
        strip.paste(Image.fromarray(pixels), (left, 1))
    return strip
