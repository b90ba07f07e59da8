"""The bytes of one image file, or an array of many, to uint8 pixels. Nothing is guessed, and little is converted in silence."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gebm_cli.core.data.images import EXTENSIONS, load_arrays, one_line, read_array
from gebm_cli.errors import UsageError

SUFFIXES = EXTENSIONS | {".gif", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # of what else Pillow reads, some start other programs
MAX_PIXELS = 89_478_485  # Pillow's limit for files one does not know, here also where Pillow only warns
ORIENTATION = 0x0112  # the EXIF tag
BITS_PER_SAMPLE = 258  # the TIFF tag
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
ARRAYS = ("images", "samples", "arr_0")  # numpy calls an array without a name arr_0, as in published sample sets

_GREY = ("1", "L", "LA", "La")
_COLOUR = ("RGB", "RGBA", "RGBa", "P", "PA")


class BadImage(Exception):
    """Why a file cannot be used as an image, a phrase to follow its name."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an image that can be used.

    Attributes:
        shape: (1 or 3, height, width).
        traits: what a user should know of it, out of `jpeg`, `frames`, `alpha`, `turned`.
        digest: sha256 of the bytes of its file.
    """

    shape: tuple[int, int, int]
    traits: frozenset[str]
    digest: bytes


def inspect(content: bytes) -> Facts:
    """The facts of an image file, once it is certain that it can be read.

    A PNG without transparency is proven whole by its checksums, a sixtieth of the work of decoding 1024x1024; all others
    are decoded, as nothing else shows that a JPEG is cut off, or that all of an image with an alpha channel is opaque.

    Raises:
        BadImage: it cannot be used.
    """
    image = _opened(content)
    try:
        traits = _traits(image)
        if image.format == "PNG":
            _opened(content).verify()  # it uses an image up; Pillow decodes what has no end, verify does not
        if image.format == "PNG" and not image.has_transparency_data:
            shape = (1 if image.mode in _GREY else 3, image.height, image.width)
        else:
            shape = decode(content).shape
    except BadImage:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise _unreadable(error) from None
    return Facts(shape, traits, hashlib.sha256(content).digest())


def decode(content: bytes) -> np.ndarray:
    """The first frame of an image file, uint8 (1 or 3, h, w); what an EXIF tag says of its orientation is not applied.

    Raises:
        BadImage: it is damaged, too large, has more than 8 bits, is not opaque or neither grey nor RGB.
    """
    image = _opened(content)
    try:
        image.load()
        # A colour key is in no mode of its own, but becomes an alpha channel when RGBA is asked for.
        clear = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
        pixels = np.asarray(_without_alpha(image))
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise _unreadable(error) from None
    if clear:
        raise BadImage("is partly transparent, and what lies behind it is unknown; put it on a background first")
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(content: bytes) -> Image.Image:
    """The image, of which only the header was read, of a colour model and size that can be used."""
    if not content:
        raise BadImage("is empty (0 bytes); remove or replace it")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        deep = image.mode.startswith(("I", "F")) or _bits(image, content) > 8
    except Image.UnidentifiedImageError:
        raise BadImage("is not an image, or damaged from its first bytes; remove or replace it") from None
    except Image.DecompressionBombError:
        raise BadImage(f"has more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise _unreadable(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}; make it smaller")
    if deep:
        raise BadImage("has more than 8 bits a channel; convert it to 8 bits first")
    if image.mode not in (*_GREY, *_COLOUR):
        raise BadImage(
            f"is {image.mode}, and what that is in RGB depends on its colour profile; convert it to RGB first"
        )
    return image


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits of a channel in the file. Pillow itself drops the lower eight of 16-bit RGB without a word."""
    if image.format == "PNG":
        return content[24]  # of the header, which is the first chunk
    tags = getattr(image, "tag_v2", None)  # TIFF only
    return max(tags.get(BITS_PER_SAMPLE, (1,))) if image.format == "TIFF" and tags else 8


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode in _GREY:
        return image.convert("L")
    return image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA") else image.convert("RGB")


def _traits(image: Image.Image) -> frozenset[str]:
    found = {
        "jpeg": image.format in ("JPEG", "MPO"),
        "frames": getattr(image, "is_animated", False),
        "alpha": image.has_transparency_data,
        # Pillow itself turns a TIFF, so every tool built on it does; a PNG would have to be decoded to be asked.
        "turned": image.format in ("JPEG", "MPO", "WEBP") and _orientation(image) != 1,
    }
    return frozenset(name for name, true in found.items() if true)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # what is damaged is the EXIF block alone, which no pixel depends on
        return 1


def _unreadable(error: Exception) -> BadImage:
    return BadImage(f"is not a readable image, perhaps truncated ({one_line(error)}); remove or replace it")


# --------------------------------------------------------------------------------------------------------------- arrays


def read_images_array(path: str, value_range: tuple[float, float] | None) -> tuple[Tensor, list[str]]:
    """A .npy or .npz file as uint8 images (n, 1 or 3, h, w) or float32 points (n, d), and what a user should know of it.

    Images are (n, h, w) or with 1 or 3 channels first or last. Floats are never guessed to be images of some range: where it
    is stated, each becomes the nearest of the 256 levels.

    Args:
        value_range: what black and white are in floats, one of 0,1 and -1,1 and 0,255.

    Raises:
        UsageError: no such file, not an array file, of another type or shape, or floats without their range or outside it.
    """
    if os.path.isdir(path):
        raise UsageError(f"{path}: is a folder, not a .npy or .npz file")
    if value_range is not None and value_range not in RANGES:
        described = ", ".join(f"{a:g},{b:g}" for a, b in RANGES)
        raise UsageError(f"--value-range {value_range[0]:g},{value_range[1]:g}: expected one of {described}")
    arrays = load_arrays(path)
    known = [name for name in ARRAYS if name in arrays] or list(arrays)[: len(arrays) == 1]
    if not known:
        raise UsageError(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; expected an array named `images`")
    array, what = arrays[known[0]], f"{path}: `{known[0]}`"
    if array.dtype.kind == "f" and array.ndim == 2:
        return read_array(path)[0], ["points, of which --value-range says nothing"] if value_range else []
    pixels = _channels_first(array, what)
    if array.dtype == np.uint8:
        return torch.from_numpy(pixels).contiguous(), [
            "uint8 images, of which --value-range says nothing"
        ] if value_range else []
    if value_range is None:
        raise UsageError(
            f"{what} is {array.dtype} from {np.min(array):g} to {np.max(array):g}, and whether it is meant from 0 to 1 or "
            "from -1 to 1 is not known; say it: --value-range 0,1 or -1,1 or 0,255"
        )
    return _levels(pixels, value_range, what)


def _channels_first(array: np.ndarray, what: str) -> np.ndarray:
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) as (n, c, h, w), c of 1 or 3."""
    shape = array.shape
    last, first = (array.ndim == 4 and shape[axis] in (1, 3) for axis in (3, 1))
    if last and first:
        raise UsageError(
            f"{what} has shape {shape}, and its channels may be the first or the last; save the images as a folder of PNGs"
        )
    if array.ndim == 3 and shape[2] in (1, 3):
        raise UsageError(f"{what} has shape {shape}, as of one image; expected (n, height, width, 1 or 3)")
    if (
        (array.dtype != np.uint8 and array.dtype.kind != "f")
        or not (last or first or array.ndim == 3)
        or not array.size
    ):
        raise UsageError(
            f"{what} is {array.dtype} of shape {shape}; expected uint8 images (n, height, width, 1 or 3) or (n, 1 or 3, "
            "height, width), float images of a stated range, or float points (n, d), with n at least 1"
        )
    return array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2) if last else array


def _levels(pixels: np.ndarray, value_range: tuple[float, float], what: str) -> tuple[Tensor, list[str]]:
    """Floats of a range as the nearest levels, uint8, image by image, as a large array has no room for a copy in float64."""
    low, high = value_range
    least, most = float(pixels.min()), float(pixels.max())
    if np.isnan(least):
        raise UsageError(f"{what} holds NaN; images must be finite")
    outside = sum(int(((image < low) | (image > high)).sum()) for image in pixels)
    if outside:
        raise UsageError(
            f"{what} has {outside:,} of {pixels.size:,} numbers outside {low:g} to {high:g}: they go from {least:g} to {most:g}; "
            "state another --value-range, or clip them first"
        )
    levels = np.empty(pixels.shape, np.uint8)
    for row, image in zip(levels, pixels, strict=True):
        row[...] = np.rint((image.astype(np.float64) - low) * (255 / (high - low)))
    notes = [f"{pixels.dtype} images from {low:g} to {high:g}, rounded to the nearest of 256 levels"]
    if (low < 0 <= least) or (high == 255 and most <= 1):
        notes.append(
            f"no number lies outside {least:g} to {most:g}: is --value-range {low:g},{high:g} what they are in?"
        )
    return torch.from_numpy(levels), notes
