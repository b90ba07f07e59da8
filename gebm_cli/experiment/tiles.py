"""Images as tiles of one picture. Imports no torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

GREY = 128


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, h, w, c) uint8 as one array (H, W, c), in rows, a line of grey between them; few images leave no empty columns."""
    n, h, w, c = images.shape
    columns = min(n, columns)
    canvas = np.full((-(-n // columns) * (h + 1) - 1, columns * (w + 1) - 1, c), GREY, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
        canvas[top : top + h, left : left + w] = image
    return canvas


def as_picture(pixels: np.ndarray) -> Image.Image:
    """An array (H, W, 1 or 3) as a picture."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
