"""A picture of the most and the least typical images of a sample set, by the witness of KID."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from gebm_cli.core.evaluation.kid import CUBIC
from gebm_cli.core.two_sample.witness import witness
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.files import write_atomically
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.pictures import TILE, Cell, numbers, sheet

N_SHOWN = 10


def save_typical(path: Path, fake: Side, real: Side) -> None:
    """Samples that look most and least like the reference, and images of the reference that the samples miss most.

    The number under an image is the witness mean k(x, reference) - mean k(x, samples): above zero where the reference has more
    mass than the samples.
    """
    at_real, at_fake = witness(CUBIC, real.require_features("--picture"), fake.require_features("--picture"))
    n = min(N_SHOWN, max(1, len(at_fake) // 2))
    order, missed = at_fake.argsort(descending=True, stable=True), at_real.argsort(descending=True, stable=True)
    rows = [
        (f"of {fake.name}, most like the reference", fake, at_fake, order[:n]),
        (f"of {fake.name}, least like the reference", fake, at_fake, order.flip(0)[:n]),
        (f"of {real.name}, what the samples miss most", real, at_real, missed[: min(N_SHOWN, len(at_real))]),
    ]
    title = (
        f"{fake.name} ({len(at_fake)} images) against {real.name} ({len(at_real)}), {fake.settings['features']} features. "
        "Under each image a score, KID's witness: above 0 where the reference has more images of this kind than the samples "
        "have, below 0 where fewer."
    )
    buffer = io.BytesIO()
    picture = sheet([(heading, _cells(side, values, chosen)) for heading, side, values, chosen in rows], title)
    picture.save(buffer, Image.registered_extensions()[path.suffix.lower()])
    write_atomically(path, buffer.getvalue())


def _cells(side: Side, values: Tensor, chosen: Tensor) -> list[Cell]:
    captions = numbers(values[chosen].cpu()[None])[0]
    assert isinstance(side.source, Input)
    images: list[Tensor] = [side.source.data[i] for i in chosen.tolist()]
    return [(_square(image), caption) for image, caption in zip(images, captions, strict=True)]


def _square(image: Tensor) -> np.ndarray:
    """An image (c, h, w) uint8 as a square tile (TILE, TILE, 3): the whole of it, on white where it is not square."""
    pixels = image.cpu().expand(3, -1, -1).permute(1, 2, 0).numpy()
    factor = TILE / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(
        Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how), ((TILE - size[0]) // 2, (TILE - size[1]) // 2)
    )
    return np.asarray(tile)
