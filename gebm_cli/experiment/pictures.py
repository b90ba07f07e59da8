"""The pictures of a sample set: grid.png, chain.gif, trace.png. Points in the plane are drawn as a scatter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from gebm_cli.core.data.dataset import is_images

GRID = 10
FRAME_MS = 120
SCATTER = 2000


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
    limit = max((float(data.abs().max()) for _, data in frames), default=1.0)
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
    limit = max(float(points.abs().max()) for _, points in panels)
    _scatter(panels, limit * 1.1).save(path)


def tile(images: Tensor, columns: int = GRID) -> np.ndarray:
    """The first 100 images (n, c, h, w) uint8 as one array (H, W, c) with a line of grey between them."""
    kept = images[: columns * columns].cpu().numpy().transpose(0, 2, 3, 1)
    n, h, w, c = kept.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + 1) - 1, min(n, columns) * (w + 1) - 1, c), 128, np.uint8)
    for i, image in enumerate(kept):
        top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
        canvas[top : top + h, left : left + w] = image
    return canvas


def _enlarged(pixels: np.ndarray) -> Image.Image:
    """Small grids are enlarged without smoothing, so that single pixels can be judged."""
    factor = max(1, 360 // pixels.shape[0])
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


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
