"""Pictures of a sample set for a page: the frames of its chains, and its pictures made small enough. Imports no torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gebm_cli.errors import GebmError
from gebm_cli.experiment.report.blocks import Picture
from gebm_cli.experiment.report.figures import point_frames
from gebm_cli.experiment.tiles import as_picture, tiled

COLUMNS = 6
LOSSLESS_PIXELS = 60_000  # of a frame; larger ones are compressed with a loss that is not seen
QUALITY = 88
WIDEST = 1400  # pixels of a picture in a page
SMALL_GRID = 200  # pixels of a picture that is enlarged without smoothing
KEPT_BYTES = 120_000  # a PNG up to this size is taken as it is


@dataclass(frozen=True)
class Shown:
    """What shown.npz holds: frames (n_frames, n, h, w, c) uint8 or (n_frames, n, d) float, their steps, energies by name, and of
    points some of the training data (m, d)."""

    steps: list[int]
    frames: np.ndarray
    energies: dict[str, np.ndarray]
    data: np.ndarray | None = None

    @property
    def is_images(self) -> bool:
        return self.frames.ndim == 5


def read_shown(folder: Path) -> Shown | None:
    """shown.npz of a sample set; None where it has none.

    Raises:
        GebmError: it is damaged.
    """
    path = folder / "shown.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            energies = {k: arrays[k] for k in ("train", "held_out", "base", "samples") if k in arrays}
            data = arrays.get("data")
            shown = Shown([int(step) for step in arrays["steps"]], arrays["frames"], energies, data)
    except Exception as error:
        # A damaged archive raises what its damage happens to meet: zlib, zip, key and value errors.
        raise GebmError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    if len(shown.steps) != len(shown.frames) or shown.frames.ndim not in (3, 5):
        raise GebmError(f"{path}: holds {len(shown.steps)} steps and frames of shape {shown.frames.shape}")
    return shown


def frames_of(shown: Shown) -> list[tuple[str, bytes]]:
    """(label, WebP) of each frame: the chains as tiles, or as points in the plane of the first two columns."""
    labels = [f"step {step}" for step in shown.steps]
    if not shown.is_images:
        behind = None if shown.data is None else shown.data[:, :2]
        return list(zip(labels, point_frames(shown.frames[:, :, :2], behind), strict=True))
    return list(zip(labels, [_webp(as_picture(tiled(images, COLUMNS))) for images in shown.frames], strict=True))


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    lossless = picture.width * picture.height <= LOSSLESS_PIXELS
    picture.save(buffer, "WEBP", lossless=lossless, quality=60 if lossless else QUALITY, method=2)
    return buffer.getvalue()


def picture_of(path: Path, alt: str, caption: str = "", reproduce: str = "") -> Picture | None:
    """A picture of the sample set for the page; a large one narrower and as WebP. None where there is no such file.

    Raises:
        GebmError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise GebmError(f"{path}: is not a picture that can be read ({error})") from None
    content, media = path.read_bytes(), "image/png"
    if len(content) > KEPT_BYTES or image.width > WIDEST:
        content, media = _small(image), "image/webp"
    return Picture(content, alt, caption, reproduce, media, pixelated=max(image.size) < SMALL_GRID)


def _small(image: Image.Image) -> bytes:
    shrunk, buffer = image.convert("RGB"), io.BytesIO()
    shrunk.thumbnail((WIDEST, 10 * WIDEST))
    shrunk.save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()
