"""CelebA, LSUN and ImageNet at 32x32 in tiny copies of their published layouts, whole, missing and damaged."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CelebA

from gebm_cli.core.data import archives, images
from gebm_cli.core.data.archives import celeba, centre_square, imagenet32, lsun
from gebm_cli.core.data.images import folder
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.errors import UsageError

RNG = np.random.default_rng(0)


def _picture(h=218, w=178):
    """A smooth random picture, so that how it is resized shows."""
    return Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)


def _reference(picture, size):
    """Resize and CenterCrop as the released code composes them."""
    chain = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
    return chain(picture)


@pytest.mark.parametrize(("h", "w", "size"), [(218, 178, 64), (218, 178, 32), (100, 256, 32), (20, 20, 32)])
def test_crop_is_that_of_the_released_code(h, w, size):
    """centre_square has the bits of torchvision's Resize and CenterCrop."""
    picture = _picture(h, w)
    assert np.array_equal(centre_square(picture, size), _reference(picture, size).permute(1, 2, 0).numpy())


def test_grey_pictures_become_rgb():
    """A grey picture has three equal channels."""
    pixels = centre_square(_picture().convert("L"), 16)
    assert pixels.shape == (16, 16, 3) and (pixels == pixels[:, :, :1]).all()


# ----------------------------------------------------------------------------------------------------------------- CelebA

PARTITION = [0, 0, 1, 2, 0, 2, 1, 2]


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """The layout of CelebA with eight faces; the archive's checksums are left out."""
    monkeypatch.setattr(CelebA, "file_list", [])
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(PARTITION))]
    for name in names:
        _picture().save(root / "img_align_celeba" / name)
    lists = {"list_eval_partition.txt": "", "identity_CelebA.txt": "", "list_bbox_celeba.txt": "8\nx y\n"}
    lists |= {"list_landmarks_align_celeba.txt": "8\nx y\n", "list_attr_celeba.txt": "8\nSmiling Young\n"}
    for file, head in lists.items():
        rows = [f"{n} {p}" if not head else f"{n} 1 -1" for n, p in zip(names, PARTITION, strict=True)]
        (root / file).write_text(head + "\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("size", [32, 64])
def test_celeba_has_its_own_three_splits(faces, size):
    """Faces are split by the published partition and cropped as the released code crops them; held out is the test split."""
    data = celeba(str(faces), size, False, workers=2)
    assert data.shape == (3, size, size) and data.is_images
    for part, number in ((data.train, 0), (data.validation, 1), (data.held_out, 2)):
        files = [f"{i + 1:06d}.jpg" for i, p in enumerate(PARTITION) if p == number]
        expected = [_reference(Image.open(faces / "celeba/img_align_celeba" / f), size) for f in files]
        assert isinstance(part, LazyImages) and torch.equal(part[:], torch.stack(expected))


def test_a_missing_face_is_named_when_it_is_read(faces):
    """A file that is gone or cut short is a usage error with its name, and only when it is its turn."""
    (faces / "celeba/img_align_celeba/000002.jpg").unlink()
    cut = faces / "celeba/img_align_celeba/000005.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    data = celeba(str(faces), 32, False)
    assert len(data.train) == 3 and len(data.train[:1]) == 1
    for row, name in ((1, "000002.jpg"), (2, "000005.jpg")):
        with pytest.raises(UsageError, match=name):
            data.train[row]


def test_absent_celeba_says_what_goes_where(tmp_path, monkeypatch):
    """Absent, or not to be downloaded, the error names the page, the folder and the files, and leaves no folder behind."""
    root = tmp_path / "new"

    def fail(self):
        (root / "celeba").mkdir(parents=True)
        raise RuntimeError("quota exceeded")

    monkeypatch.setattr(CelebA, "download", fail)
    for download, expected in ((False, "data.download is false"), (True, "quota exceeded")):
        with pytest.raises(UsageError, match=expected) as caught:
            celeba(str(root), 64, download)
        for part in ("mmlab.ie.cuhk.edu.hk", str(root / "celeba"), "img_align_celeba", "list_eval_partition.txt"):
            assert part in str(caught.value)
        assert not root.exists()


# ------------------------------------------------------------------------------------------------------------------- LSUN


def _database(path, n):
    import lmdb

    path.mkdir(parents=True)
    pictures = {}
    with lmdb.open(str(path)) as database, database.begin(write=True) as transaction:
        for _ in range(n):
            content = io.BytesIO()
            _picture(40, 56).save(content, "WEBP", lossless=True)
            key = RNG.bytes(20).hex().encode()
            transaction.put(key, content.getvalue())
            pictures[key] = content.getvalue()
    return [_reference(Image.open(io.BytesIO(pictures[k])).convert("RGB"), 16) for k in sorted(pictures)]


def test_lsun_is_read_from_its_databases(tmp_path, monkeypatch):
    """Both databases are read in the order of their keys, cropped, twice in one process, and no pickle is written."""
    pytest.importorskip("lmdb", reason="the package lmdb is not installed")
    monkeypatch.chdir(tmp_path)
    expected = [_database(tmp_path / f"tower_{split}_lmdb", n) for split, n in (("train", 6), ("val", 3))]
    for _ in range(2):
        data = lsun(str(tmp_path), "tower", 16, workers=3)
        for part, images_ in ((data.train, expected[0]), (data.held_out, expected[1])):
            assert torch.equal(part[:], torch.stack(images_))
    assert data.name == "lsun-tower" and not list(tmp_path.glob("_cache_*"))


def test_damaged_lsun_is_named(tmp_path):
    """A file that is no database is refused by name."""
    pytest.importorskip("lmdb", reason="the package lmdb is not installed")
    for split in ("train", "val"):
        (tmp_path / f"bedroom_{split}_lmdb").mkdir()
        (tmp_path / f"bedroom_{split}_lmdb/data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(UsageError, match="bedroom_train_lmdb: is not a readable LMDB database"):
        lsun(str(tmp_path))


def test_lsun_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    """Without lmdb the error is the command that installs it."""
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "bedroom_train_lmdb").mkdir()
    (tmp_path / "bedroom_train_lmdb/data.mdb").write_bytes(b"")
    with pytest.raises(UsageError, match="pip install lmdb"):
        lsun(str(tmp_path))


def test_absent_lsun_says_what_goes_where(tmp_path):
    """The error names the page, the archives and the file looked for."""
    with pytest.raises(UsageError, match="github.com/fyu/lsun") as caught:
        lsun(str(tmp_path), "kitchen")
    assert str(tmp_path / "kitchen_train_lmdb" / "data.mdb") in str(caught.value)
    assert "kitchen_val_lmdb.zip" in str(caught.value)


# --------------------------------------------------------------------------------------------------------- ImageNet at 32


@pytest.fixture
def shards(tmp_path):
    """Ten training shards of 1 to 10 images and a validation shard of 4, and all their pixels and labels."""
    made = {}
    for split, names in (("train", [f"train_data_batch_{i}" for i in range(1, 11)]), ("val", ["val_data"])):
        place = tmp_path / f"Imagenet32_{split}_npz" if split == "train" else tmp_path
        place.mkdir(exist_ok=True)
        parts = []
        for i, name in enumerate(names):
            n = i + 1 if split == "train" else 4
            data, labels = RNG.integers(0, 256, (n, 3072), dtype=np.uint8), RNG.integers(1, 1001, n)
            np.savez(place / f"{name}.npz", data=data, labels=labels, mean=data.mean(0))
            parts.append((data, labels))
        made[split] = tuple(np.concatenate(p) for p in zip(*parts, strict=True))
    return tmp_path, made


def test_imagenet32_is_all_shards_in_order(shards):
    """Pixels are by channel, labels count from 0, shards come 1, 2, ..., 10, and the second time without the archives."""
    root, made = shards
    for again in (False, True):
        data = imagenet32(str(root))
        for part, labels, split in (
            (data.train, data.train_labels, "train"),
            (data.held_out, data.held_out_labels, "val"),
        ):
            assert np.array_equal(part.numpy(), made[split][0].reshape(-1, 3, 32, 32)), again
            assert np.array_equal(labels.numpy(), made[split][1] - 1) and labels.dtype == torch.int64
        for archive in root.rglob("*.npz"):
            archive.unlink()
    assert not [f for f in root.iterdir() if f.name.startswith(".")]


def test_imagenet32_is_mapped_not_loaded(shards):
    """The images lie in a mapped file, and writing to them does not reach it."""
    root, made = shards
    data = imagenet32(str(root))
    data.train[0] = 255 - data.train[0]
    assert np.array_equal(imagenet32(str(root)).train.numpy(), made["train"][0].reshape(-1, 3, 32, 32))
    kind = np.load(root / "imagenet32-train.npy", mmap_mode="r")
    assert isinstance(kind, np.memmap) and kind.shape == (55, 3, 32, 32)


def test_an_interrupted_unpacking_leaves_nothing(shards, monkeypatch):
    """Where a shard fails half-way, no file has its final name, and the next use unpacks all."""
    root, _ = shards
    member = archives._member

    def fail(shard, name):
        if name == "data" and shard.name == "train_data_batch_7.npz":
            raise KeyboardInterrupt
        return member(shard, name)

    monkeypatch.setattr(archives, "_member", fail)
    with pytest.raises(KeyboardInterrupt):
        imagenet32(str(root))
    assert sorted(f.name for f in root.iterdir()) == ["Imagenet32_train_npz", "val_data.npz"]
    monkeypatch.undo()
    assert len(imagenet32(str(root)).train) == 55


BAD_SHARDS = {
    "pickled": ({"data": np.array([None, {}], object), "labels": np.array([1, 2])}, "no readable array `data`"),
    "no labels": ({"data": np.zeros((2, 3072), np.uint8)}, "no readable array `labels`"),
    "float": ({"data": np.zeros((2, 3072)), "labels": np.array([1, 2])}, "`data` is float64"),
    "64 pixels": ({"data": np.zeros((2, 12288), np.uint8), "labels": np.array([1, 2])}, r"\(2, 12288\)"),
    "few labels": ({"data": np.zeros((2, 3072), np.uint8), "labels": np.array([1])}, r"expected uint8 \(1, 3072\)"),
    "label 0": ({"data": np.zeros((2, 3072), np.uint8), "labels": np.array([0, 1])}, "whole numbers from 1"),
}


@pytest.mark.parametrize("kind", BAD_SHARDS)
def test_bad_shards_are_named(shards, kind):
    """A shard of another layout, or with pickled objects, is refused by name and nothing stays."""
    root, _ = shards
    arrays, expected = BAD_SHARDS[kind]
    np.savez(root / "Imagenet32_train_npz/train_data_batch_3.npz", **arrays)
    with pytest.raises(UsageError, match=expected) as caught:
        imagenet32(str(root))
    assert "train_data_batch_3.npz" in str(caught.value) and not list(root.glob("*.npy"))


def test_truncated_shard_is_named(shards):
    """An archive cut short is refused by name."""
    root, _ = shards
    path = root / "Imagenet32_train_npz/train_data_batch_2.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="train_data_batch_2.npz: has no readable array"):
        imagenet32(str(root))


def test_absent_imagenet32_says_what_goes_where(shards):
    """A shard that is missing is named with both places looked at, the page and the archives."""
    root, _ = shards
    (root / "Imagenet32_train_npz/train_data_batch_10.npz").unlink()
    with pytest.raises(UsageError, match="image-net.org") as caught:
        imagenet32(str(root))
    for part in ("train_data_batch_10.npz", "Imagenet32_train_npz", "Imagenet32_val_npz.zip", str(root)):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [np.zeros((5, 3, 32, 32), np.uint8), np.zeros((55, 3, 32, 32), np.float32), None])
def test_an_unpacked_file_of_another_kind_is_not_used(shards, content):
    """An unpacked file that does not fit its labels is refused with what to delete."""
    root, _ = shards
    imagenet32(str(root))
    path = root / "imagenet32-train.npy"
    path.unlink()
    path.write_bytes(b"x" * 50) if content is None else np.save(path, content)
    with pytest.raises(UsageError, match="imagenet32-train.npy.*delete it"):
        imagenet32(str(root))


# ----------------------------------------------------------------------------------------------------------- large folders


@pytest.fixture
def tree(tmp_path):
    """Twenty small images in two classes."""
    for i in range(20):
        path = tmp_path / "set" / ("cat" if i % 3 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "set"


@pytest.mark.parametrize("options", [(None, None), (4, None), (4, 1)])
def test_a_large_folder_streams_the_same_images(tree, monkeypatch, options):
    """Above the limit the same images, labels and splits are decoded when read; at the limit they are in memory."""
    size, channels = options
    memory = folder(str(tree), size, channels, 0.25)
    monkeypatch.setattr(images, "STREAM_ABOVE", memory.train[0].numel() * 20)
    assert isinstance(folder(str(tree), size, channels, 0.25).train, torch.Tensor)
    monkeypatch.setattr(images, "STREAM_ABOVE", memory.train[0].numel() * 20 - 1)
    streamed = folder(str(tree), size, channels, 0.25, workers=2)
    assert isinstance(streamed.train, LazyImages) and streamed.shape == memory.shape
    assert torch.equal(streamed.train[:], memory.train) and torch.equal(streamed.held_out[:], memory.held_out)
    assert torch.equal(streamed.train_labels, memory.train_labels)


def test_a_large_folder_names_a_bad_file_when_it_is_read(tree, monkeypatch):
    """An image of another size, or a broken one, is found when it is its turn."""
    monkeypatch.setattr(images, "STREAM_ABOVE", 0)
    Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tree / "cat/04.png")
    data = folder(str(tree), None, None, 0.0)
    with pytest.raises(UsageError, match="04.png: is 9x9 RGB, most images here are 8x6 RGB"):
        data.train[:]
    (tree / "cat/04.png").write_bytes(b"")
    with pytest.raises(UsageError, match="04.png: is not a readable image"):
        folder(str(tree), None, None, 0.0).train[:]
