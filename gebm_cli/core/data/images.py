"""Image data sets: scikit-learn's digits, CIFAR-10, any folder, any array. All become uint8 (n, c, h, w)."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from gebm_cli.core.data import streaming
from gebm_cli.core.data.dataset import Data, Dataset
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.device import make_generator
from gebm_cli.errors import UsageError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
STREAM_ABOVE = 2_000_000_000  # bytes of pixels; a larger folder is decoded while it is read
# What numpy and zipfile raise on damaged array files; RuntimeError covers "is encrypted" and unknown compression.
DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
SHUFFLE_SEED = 2021  # the held-out points are the same in every run, whatever its seed


def digits(held_out: int) -> Dataset:
    """The 1,797 8x8 digits of scikit-learn (UCI, Alpaydin and Kaynak 1998); levels 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.from_numpy(np.rint(loaded.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return _split("digits", images, torch.from_numpy(loaded.target.astype(np.int64)), held_out)


def cifar10(root: str, download: bool, size: int = 32) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009) in its own split of 50,000 and 10,000, made smaller (antialiased bicubic) where `size` is.

    Raises:
        UsageError: it is neither there nor can be downloaded; the message says where to put it.
    """
    from torchvision.datasets import CIFAR10

    remedy = (
        f"put the extracted folder cifar-10-batches-py into '{root}' (data.root), or use a folder of its images "
        "with data.kind: folder"
    )
    parts: list[tuple[Tensor, Tensor]] = []
    for train in (True, False):
        try:
            loaded = CIFAR10(root, train=train, download=download)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                os.rmdir(root)  # torchvision makes it before it finds no network
            what = "could not be downloaded" if download else "is not there and data.download is false"
            raise UsageError(f"data: CIFAR-10 {what} ({one_line(error)}); {remedy}") from None
        images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        parts.append((images if size == 32 else _smaller(images, size), torch.tensor(loaded.targets)))
    return Dataset("cifar10", parts[0][0], parts[1][0], parts[0][1], parts[1][1])


def _smaller(images: Tensor, size: int) -> Tensor:
    """uint8 images (n, c, h, w) at size x size, in parts that fit in memory."""
    resized = [
        interpolate(part.float(), (size, size), mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)
        for part in images.split(5000)
    ]
    return torch.cat(resized)


def folder(
    path: str, size: int | None, channels: int | None, held_out: float, workers: int = streaming.WORKERS
) -> Dataset:
    """Every image below `path`; the names of class sub-folders, sorted, become labels 0, 1, ...

    Above 2 GB of pixels, judged by the first image, they stay on the disk and are decoded whenever they are read, by
    `workers` threads: then a bad file is found only when it is its turn.
    """
    files = image_files(path)
    first = _read_image(files[0], size, channels)
    if isinstance(first, str) or len(files) * first.size <= STREAM_ABOVE:
        images, labels = read_folder(path, size, channels)
        return _split(Path(path).name, images, labels, round(held_out * len(images)))
    shape = first.shape

    def read(i: int) -> np.ndarray:
        pixels = _read_image(files[i], size, channels)
        problem = [f"{files[i]}: {pixels}"] if isinstance(pixels, str) else _disagreements([files[i]], [pixels], shape)
        if problem or isinstance(pixels, str):
            raise UsageError(problem[0])
        return pixels

    lazy = LazyImages(read, len(files), (shape[2], *shape[:2]), workers)
    return _split(Path(path).name, lazy, labels_of_folders(files, path), round(held_out * len(files)))


def array(path: str, held_out: float) -> Dataset:
    """The images of a .npy or .npz file."""
    data, labels = read_array(path)
    if data.dtype != torch.uint8:
        raise UsageError(f"{path}: expected uint8 images, got {data.dtype} of shape {tuple(data.shape)}")
    return _split(Path(path).stem, data, labels, round(held_out * len(data)))


def _split(name: str, images: Data, labels: Tensor | None, held_out: int) -> Dataset:
    order = torch.randperm(len(images), generator=make_generator(SHUFFLE_SEED, "held-out"))
    kept, out = order[held_out:], order[:held_out]
    if len(kept) < 2:
        raise UsageError(f"{name}: {len(images)} image(s) leave {len(kept)} for training; at least 2 are needed")
    train, rest = (images.select(i) if isinstance(images, LazyImages) else images[i] for i in (kept, out))
    if labels is None:
        return Dataset(name, train, rest)
    return Dataset(name, train, rest, labels[kept], labels[out])


# ------------------------------------------------------------------------------------------------------------- reading


def read_folder(path: str, size: int | None = None, channels: int | None = None) -> tuple[Tensor, Tensor | None]:
    """All images below `path` in the order of their names, uint8 (n, c, h, w), with labels from the sub-folder each is in.

    With `size`, the short side is resized (antialiased bicubic) and the centre cropped; with `channels`, every image is
    converted to grey or RGB. Without them nothing is converted, and images that disagree are an error.

    Raises:
        UsageError: no folder, no images, unreadable or disagreeing images; bad files are named, at most ten of them.
    """
    files = image_files(path)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        loaded = list(pool.map(lambda file: _read_image(file, size, channels), files))
    problems = [f"{f}: {p}" for f, p in zip(files, loaded, strict=True) if isinstance(p, str)]
    arrays = [a for a in loaded if not isinstance(a, str)]
    if not problems:
        problems = _disagreements(files, arrays)
    if problems:
        more = f"\n... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UsageError("\n".join(problems[:10]) + more)
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), labels_of_folders(files, path)


def labels_of_folders(files: list[Path], path: str) -> Tensor | None:
    """The number of the folder each file lies in, (n,); None where there is one folder, or a file outside all of them."""
    classes = ["" if file.parent == Path(path) else file.parent.name for file in files]
    numbers = {name: i for i, name in enumerate(sorted(set(classes)))}
    return torch.tensor([numbers[c] for c in classes]) if len(numbers) > 1 and "" not in numbers else None


def image_files(path: str) -> list[Path]:
    """The image files below a folder, sorted by name; `grid.png` and other pictures beside a sample set are not among them.

    Raises:
        UsageError: it is not a folder or holds no image.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else f"no such folder, seen from {Path.cwd()},"
        raise UsageError(f"{path}: {what} of images")
    if (root / "sample.yaml").exists() and (root / "images").is_dir():
        root = root / "images"
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in EXTENSIONS and not _hidden(f, root))
    if not files:
        raise UsageError(f"{path}: no images here; looked, also in sub-folders, for {', '.join(sorted(EXTENSIONS))}")
    return files


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


_MODES: dict[str, int] = {"1": 1, "L": 1, "RGB": 3, "P": 3}


def _read_image(file: Path, size: int | None, channels: int | None) -> np.ndarray | str:
    """The image as (h, w, c) uint8, or a sentence that says why not."""
    try:
        with Image.open(file) as image:
            image.verify()  # checks what decoding alone forgives, such as a missing end; it uses the file up
        with Image.open(file) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                return f"has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first"
            if image.mode not in _MODES or "transparency" in image.info:
                return f"has mode {image.mode} or transparency; expected grey or RGB without transparency"
            picture = image.convert({1: "L", 3: "RGB"}[channels or _MODES[image.mode]])
            if size is not None:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"is not a readable image, perhaps truncated ({one_line(error)}); remove or replace it"
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _disagreements(files: list[Path], arrays: list[np.ndarray], common: tuple[int, ...] | None = None) -> list[str]:
    """A sentence for each image whose shape (h, w, c) is not the most common one, or the one given."""
    shapes = [a.shape for a in arrays]
    common = common or Counter(shapes).most_common(1)[0][0]
    describe: Callable[[tuple[int, ...]], str] = lambda s: f"{s[1]}x{s[0]} {'grey' if s[2] == 1 else 'RGB'}"  # noqa: E731
    return [
        f"{file}: is {describe(shape)}, most images here are {describe(common)}; convert it, "
        "or in an experiment set data.size and data.channels"
        for file, shape in zip(files, shapes, strict=True)
        if shape != common
    ]


_REMEDIES = {  # by whether the numbers are whole, and the dimensions
    (True, 2): "; save a table as array.astype('float32')",
    (True, 1): "; save one column as array.astype('float32').reshape(-1, 1)",
    (False, 1): "; save one column as array.reshape(-1, 1)",
}


def read_array(path: str) -> tuple[Tensor, Tensor | None]:
    """A .npy or .npz file as uint8 images (n, c, h, w) or float32 points (n, d), with `labels` where the file has them.

    Raises:
        UsageError: no such file, not an array file, or of another type or shape.
    """
    arrays = load_arrays(path)
    known = [name for name in arrays if name in ("images", "samples") or len(arrays) == 1]
    if not known:
        raise UsageError(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; expected an array named `images`")
    data = arrays[known[0]]
    labels = _labels(arrays.get("labels"), len(data) if data.ndim else 0, path)
    if data.dtype == np.uint8 and data.ndim == 3:
        data = data[..., None]
    if data.dtype == np.uint8 and data.ndim == 4 and data.shape[3] in (1, 3) and data.size:
        return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(), labels
    if np.issubdtype(data.dtype, np.floating) and data.ndim == 2 and data.size:
        with np.errstate(over="ignore"):
            points = data.astype(np.float32)
        if np.isfinite(points).all():
            return torch.from_numpy(points), labels
        row, column = np.argwhere(~np.isfinite(points))[0]
        raise UsageError(
            f"{path}: `{known[0]}` holds NaN, infinite or too large numbers, first in row {row}, column {column}; float32 points "
            "must be finite"
        )
    raise UsageError(
        f"{path}: `{known[0]}` is {data.dtype} of shape {data.shape}; expected uint8 images (n, height, width, 1 or 3) "
        f"or float points (n, d), with n at least 1{_REMEDIES.get((data.dtype.kind in 'iub', data.ndim), '')}"
    )


def load_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz by their names, or the one of a .npy as `images`.

    Raises:
        UsageError: no such file, damaged, or it holds objects, which are never loaded.
    """
    if not Path(path).is_file():
        what = "is a folder; use data.kind: folder" if Path(path).is_dir() else f"no such file, seen from {Path.cwd()}"
        raise UsageError(f"{path}: {what}")
    try:
        loaded = np.load(path, allow_pickle=False)
        return {"images": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except DAMAGED as error:
        raise UsageError(
            f"{path}: is not a readable .npy or .npz file, or holds objects ({type(error).__name__})"
        ) from None


def _labels(labels: np.ndarray | None, n: int, path: str) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise UsageError(
            f"{path}: `labels` is {labels.dtype} of shape {labels.shape}; expected {n} whole numbers from 0"
        )
    return torch.from_numpy(labels.astype(np.int64))


def one_line(error: BaseException) -> str:
    """The message of an error on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
