"""Large image data sets in the layout their makers published: CelebA, LSUN and ImageNet at 32x32."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.data.images import DAMAGED, one_line
from gebm_cli.core.data.streaming import WORKERS, LazyImages
from gebm_cli.errors import UsageError

CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
LSUN_PAGE = "https://github.com/fyu/lsun"
IMAGENET_PAGE = "https://image-net.org/download-images"
N_SHARDS = 10


def centre_square(image: Image.Image, size: int) -> np.ndarray:
    """The image as RGB (size, size, 3) uint8: its short side resized to `size`, bilinear and antialiased, its centre cropped.

    This is `Resize(size)`, `CenterCrop(size)` of torchvision, as in the released code of the GEBM paper.
    """
    from torchvision.transforms import functional

    return np.asarray(functional.center_crop(functional.resize(image.convert("RGB"), [size]), [size, size]))


def _decoded(source: Any, name: str, size: int) -> np.ndarray:
    try:
        with Image.open(source) as image:
            return centre_square(image, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{name}: is not a readable image, perhaps truncated ({one_line(error)}); unpack the archive again"
        ) from None


# ---------------------------------------------------------------------------------------------------------------- CelebA


def celeba(root: str, size: int = 64, download: bool = True, workers: int = WORKERS) -> Dataset:
    """CelebA (Liu et al. 2015), aligned, in its own split: 162,770 training, 19,867 validation and 19,962 held-out faces.

    Images are decoded when they are read: the short side of 178x218 resized to `size`, the centre cropped (`centre_square`).

    Deviation: what the released code calls its test set is the training split again; here held out is the test split.

    Raises:
        UsageError: it is neither there nor can be downloaded; the message says where to put it.
    """
    from torchvision.datasets import CelebA

    folder = Path(root) / CelebA.base_folder
    missing = [f for f in (folder, Path(root)) if not f.exists()]
    parts = []
    for split in ("train", "valid", "test"):
        try:
            names = CelebA(root, split=split, download=download).filename
        except (OSError, RuntimeError, ValueError, ImportError, IndexError) as error:
            for made in missing:
                with suppress(OSError):
                    os.rmdir(made)  # torchvision makes it before it finds no network
            what = "could not be downloaded" if download else "is not there and data.download is false"
            raise UsageError(
                f"data: CelebA {what} (looked in {folder}; {one_line(error)}); from {CELEBA_PAGE} put the folder "
                "img_align_celeba (of img_align_celeba.zip) and the files list_eval_partition.txt, list_attr_celeba.txt, "
                f"identity_CelebA.txt, list_bbox_celeba.txt and list_landmarks_align_celeba.txt into {folder}"
            ) from None
        read = _reader([folder / "img_align_celeba" / name for name in names], size)
        parts.append(LazyImages(read, len(names), (3, size, size), workers))
    return Dataset("celeba", parts[0], parts[2], validation=parts[1])


def _reader(files: list[Path], size: int) -> Callable[[int], np.ndarray]:
    return lambda i: _decoded(files[i], str(files[i]), size)


# ------------------------------------------------------------------------------------------------------------------ LSUN


def lsun(root: str, category: str = "bedroom", size: int = 64, workers: int = WORKERS) -> Dataset:
    """A category of LSUN (Yu et al. 2015) in its own split of training and validation (held out, 300 images).

    Images are decoded from the LMDB databases when they are read, cropped as CelebA's. They are opened here and not through
    torchvision, which keeps their keys as a pickle in the working folder and loads whatever pickle it finds there.

    Raises:
        UsageError: lmdb is not installed, or a database is not there or damaged; the message says what to do.
    """
    parts = []
    for split in ("train", "val"):
        path = Path(root) / f"{category}_{split}_lmdb"
        if not (path / "data.mdb").is_file():
            raise UsageError(
                f"data: LSUN {category} is not there (looked for {path / 'data.mdb'}); it is not downloaded for you: get "
                f"{category}_train_lmdb.zip and {category}_val_lmdb.zip by {LSUN_PAGE} and unpack both into {root}"
            )
        database, keys = _opened(str(path.resolve()))
        parts.append(LazyImages(_lmdb_reader(database, keys, str(path), size), len(keys), (3, size, size), workers))
    return Dataset(f"lsun-{category}", parts[0], parts[1])


@cache
def _opened(path: str) -> tuple[Any, list[bytes]]:
    """A database and its keys, in their order; a process may open it only once, so it stays open."""
    try:
        lmdb: Any = import_module("lmdb")
    except ImportError:
        raise UsageError(
            "data: LSUN is kept in LMDB databases, and the package lmdb is not installed; pip install lmdb"
        ) from None
    try:
        database = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
        with database.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise UsageError(f"{path}: is not a readable LMDB database ({one_line(error)}); unpack it again") from None
    if not keys:
        raise UsageError(f"{path}: holds no image; unpack it again")
    return database, keys


def _lmdb_reader(database: Any, keys: list[bytes], name: str, size: int) -> Callable[[int], np.ndarray]:
    def read(i: int) -> np.ndarray:
        with database.begin() as transaction:
            content = transaction.get(keys[i])
        return _decoded(io.BytesIO(content), f"{name}: image {i}", size)

    return read


# -------------------------------------------------------------------------------------------------------- ImageNet at 32


def imagenet32(root: str) -> Dataset:
    """ImageNet at 32x32 (Chrabaszcz et al. 2017): 1,281,167 training images, the 50,000 for validation held out; labels 0 to 999.

    Read from the official .npz archives (keys `data`, uint8 (n, 3072) by channel, and `labels` from 1), never from pickles. An
    .npz cannot be mapped into memory, so the first use unpacks the shards into four .npy files in `root` (4.1 GB), each
    renamed to its name only when it is whole; they are mapped, so that a CPU reads only the pages it needs, and used from
    then on without the archives. Delete them to unpack again.

    Raises:
        UsageError: an archive is missing, damaged or of another layout, or the folder cannot be written.
    """
    train = [f"train_data_batch_{i + 1}.npz" for i in range(N_SHARDS)]
    images, labels = _unpacked(Path(root), "train", train)
    held_out, held_out_labels = _unpacked(Path(root), "val", ["val_data.npz"])
    return Dataset("imagenet32", images, held_out, labels, held_out_labels)


def _unpacked(root: Path, split: str, shards: list[str]) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) uint8, mapped, and labels (n,) of a split, unpacked first where they are not yet."""
    pixels, labels = root / f"imagenet32-{split}.npy", root / f"imagenet32-{split}-labels.npy"
    if not (pixels.is_file() and labels.is_file()):
        _unpack([_find_shard(root, split, name) for name in shards], pixels, labels)
    try:
        mapped, numbers = np.load(pixels, mmap_mode="c", allow_pickle=False), np.load(labels, allow_pickle=False)
    except DAMAGED as error:
        raise UsageError(f"{pixels}: cannot be read ({one_line(error)}); delete it, and it is unpacked again") from None
    if mapped.dtype != np.uint8 or mapped.shape != (len(numbers), 3, 32, 32):
        raise UsageError(
            f"{pixels}: is {mapped.dtype} of shape {mapped.shape}, expected uint8 ({len(numbers)}, 3, 32, 32); delete it, and "
            "it is unpacked again"
        )
    return torch.from_numpy(mapped), torch.from_numpy(numbers.astype(np.int64))


def _find_shard(root: Path, split: str, name: str) -> Path:
    places = [root / name, root / f"Imagenet32_{split}_npz" / name]
    for place in places:
        if place.is_file():
            return place
    raise UsageError(
        f"data: ImageNet 32x32 is not there (looked for {' and '.join(map(str, places))}); it is not downloaded for you: with an "
        f"account at {IMAGENET_PAGE} get Imagenet32_train_npz.zip and Imagenet32_val_npz.zip (downsampled image data, "
        f"npz format) and unpack both into {root}"
    )


def _unpack(shards: list[Path], pixels: Path, labels: Path) -> None:
    """One shard in memory at a time; a file has its name only once it is whole."""
    temporary = pixels.with_name(f".{pixels.name}.{os.getpid()}.tmp")
    numbers = [_member(shard, "labels") for shard in shards]
    for shard, found in zip(shards, numbers, strict=True):
        if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or found.min(initial=1) < 1:
            raise UsageError(
                f"{shard}: `labels` is {found.dtype} of shape {found.shape}; expected whole numbers from 1"
            )
    try:
        target = np.lib.format.open_memmap(temporary, "w+", np.uint8, (sum(map(len, numbers)), 3, 32, 32))
        start = 0
        for shard, found in zip(shards, numbers, strict=True):
            data = _member(shard, "data")
            if data.dtype != np.uint8 or data.shape != (len(found), 3072):
                raise UsageError(
                    f"{shard}: `data` is {data.dtype} of shape {data.shape}; expected uint8 ({len(found)}, 3072)"
                )
            target[start : start + len(found)] = data.reshape(-1, 3, 32, 32)
            start += len(found)
        target.flush()
        del target
        os.replace(temporary, pixels)
        with open(temporary, "wb") as file:
            np.save(file, np.concatenate(numbers).astype(np.int64) - 1)
        os.replace(temporary, labels)
    except OSError as error:
        raise UsageError(
            f"{pixels}: cannot be written ({error.strerror}); ImageNet 32x32 is unpacked into its folder, which needs 4.1 GB there"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _member(shard: Path, name: str) -> np.ndarray:
    """One array of an .npz, which is data and never objects."""
    try:
        with np.load(shard, allow_pickle=False) as archive:
            return archive[name]
    except DAMAGED as error:
        raise UsageError(
            f"{shard}: has no readable array `{name}` ({type(error).__name__}: {one_line(error)}); get the npz format, and unpack "
            "the archive again"
        ) from None
