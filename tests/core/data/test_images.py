"""Image data sets: the digits, folders and arrays, good and bad. Each bad one is a usage error that names the file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gebm_cli.core.data.images import array, cifar10, digits, folder, image_files, read_array, read_folder
from gebm_cli.errors import UsageError

RNG = np.random.default_rng(0)


def _pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _save(path, pixels=None, **options):
    """Write an image (random 6x6 RGB unless given), and return its pixels."""
    pixels = _pixels(6, 6, 3) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def _rows(images):
    """The images as a sorted list of bytes, to compare as multisets."""
    return sorted(image.numpy().tobytes() for image in images)


# ----------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_scikit_learns():
    """Both splits together are exactly the 1,797 images with their labels, levels 0..16 spread over 0..255."""
    data, loaded = digits(400), load_digits()
    expected = torch.from_numpy(np.rint(loaded.images * 255 / 16).astype(np.uint8))[:, None]
    both = torch.cat([data.train, data.held_out])
    assert (len(data.train), len(data.held_out), data.shape) == (1397, 400, (1, 8, 8))
    assert both.dtype == torch.uint8 and both.max() == 255 and _rows(both) == _rows(expected)
    label_of = {image.numpy().tobytes(): int(y) for image, y in zip(expected, loaded.target, strict=True)}
    labels = torch.cat([data.train_labels, data.held_out_labels]).tolist()
    assert [label_of[image.numpy().tobytes()] for image in both] == labels


def test_digits_splits_are_disjoint_and_fixed():
    """No image is in both splits, the split ignores the global stream, and a larger held-out set extends a smaller."""
    first = digits(300)
    torch.manual_seed(5)
    again, larger = digits(300), digits(500)
    assert torch.equal(first.train, again.train) and torch.equal(first.held_out, again.held_out)
    assert not set(_rows(first.train)) & set(_rows(first.held_out))
    assert torch.equal(larger.held_out[:300], first.held_out)


def test_digits_splits_are_mixed():
    """All ten classes are in the held-out set in shares that chi-squared accepts at 1e-4."""
    from scipy.stats import chisquare

    data = digits(500)
    everything = np.bincount(load_digits().target)
    p = chisquare(np.bincount(data.held_out_labels, minlength=10), everything * 500 / 1797).pvalue
    assert p > 1e-4, f"p = {p:.1e}"


@pytest.mark.parametrize("held_out", [1796, 1797])
def test_digits_leave_something_to_train_on(held_out):
    """Fewer than two training images is a usage error."""
    with pytest.raises(UsageError, match="at least 2"):
        digits(held_out)


def test_cifar10_made_smaller_is_pillows_reduction(monkeypatch, tmp_path):
    """size 16 agrees with Pillow's antialiased bicubic to one level; 32 leaves every pixel."""
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    fake = type(
        "CIFAR10", (), {"__init__": lambda self, root, train, download: None, "data": images, "targets": [0] * 4}
    )
    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake)
    whole, small = cifar10(str(tmp_path), False), cifar10(str(tmp_path), False, 16)
    expected = np.stack([np.asarray(Image.fromarray(i).resize((16, 16), Image.Resampling.BICUBIC)) for i in images])
    assert np.array_equal(whole.train.permute(0, 2, 3, 1).numpy(), images)
    assert np.abs(small.train.permute(0, 2, 3, 1).numpy().astype(int) - expected.astype(int)).max() <= 1


def test_missing_cifar10_says_where_to_put_it(tmp_path):
    """Without the files and without download the error names the folder to put them into."""
    with pytest.raises(UsageError, match="cifar-10-batches-py") as caught:
        cifar10(str(tmp_path), False)
    assert str(tmp_path) in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- folders


def test_folder_reads_every_image_in_order(tmp_path):
    """Images of several formats come in the order of their names, channels first, bit for bit where lossless."""
    expected = [_save(tmp_path / name) for name in ("a.png", "b.bmp", "c.PNG", "d.webp")[:3]]
    _save(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images, labels = read_folder(str(tmp_path))
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 6, 6) and labels is None
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(expected))


@pytest.mark.parametrize("name", ["x.PNG", "x.JPG", "x.Jpeg", "x.webp", "x.bmp", "x.BMP"])
def test_extensions_in_any_case(tmp_path, name):
    """Every listed extension is found in upper and lower case."""
    _save(tmp_path / name)
    assert [f.name for f in image_files(str(tmp_path))] == [name]
    assert read_folder(str(tmp_path))[0].shape == (1, 3, 6, 6)


def test_sub_folders_are_labels(tmp_path):
    """The folder each image lies in, sorted by name, is its label 0, 1, ..., also below a folder for the split."""
    for name in ("train/dog/2.png", "train/cat/1.png", "test/cat/3.png", "test/emu/4.png"):
        _save(tmp_path / name)
    assert read_folder(str(tmp_path))[1].tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("only/a.png", "only/b.png"), ("cat/a.png", "loose.png")])
def test_no_labels_without_two_classes_for_all(tmp_path, names):
    """One folder, or images outside every class, gives no labels."""
    for name in names:
        _save(tmp_path / name)
    assert read_folder(str(tmp_path))[1] is None


def test_a_sample_sets_other_pictures_are_not_samples(tmp_path):
    """Beside a sample.yaml, only the folder `images` is read."""
    _save(tmp_path / "grid.png", _pixels(20, 20, 3))
    _save(tmp_path / "images" / "0.png")
    assert len(image_files(str(tmp_path))) == 2
    (tmp_path / "sample.yaml").write_text("")
    assert [f.name for f in image_files(str(tmp_path))] == ["0.png"]


def test_folder_splits_off_a_share(tmp_path):
    """A share of .3 of ten images holds three out; images, labels and splits belong together."""
    levels = {}
    for i in range(10):
        pixels = _save(tmp_path / ("even" if i % 2 == 0 else "odd") / f"{i}.png", np.full((4, 4), 10 * i, np.uint8))
        levels[int(pixels[0, 0])] = i % 2
    data = folder(str(tmp_path), None, None, 0.3)
    assert (len(data.train), len(data.held_out), data.shape, data.name) == (7, 3, (1, 4, 4), tmp_path.name)
    images = torch.cat([data.train, data.held_out])[:, 0, 0, 0].tolist()
    assert sorted(images) == sorted(levels)
    assert [levels[i] for i in images] == torch.cat([data.train_labels, data.held_out_labels]).tolist()


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (8, 12)])
def test_size_resizes_the_short_side_and_crops_the_centre(tmp_path, shape):
    """With `size` = 4 the picture is that of Pillow's bicubic halving of the whole, cut to its central square."""
    pixels = _save(tmp_path / "a.png", _pixels(*shape, 3))
    height, width = shape[0] // 2, shape[1] // 2
    halved = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    top, left = (height - 4) // 2, (width - 4) // 2
    result = read_folder(str(tmp_path), size=4)[0][0].permute(1, 2, 0).numpy()
    error = np.abs(result - halved[top : top + 4, left : left + 4]).max()
    assert error <= 1, f"{error} levels"


def test_size_is_pillows_bicubic(tmp_path):
    """A square image is resized as Pillow's antialiased bicubic resizes it."""
    pixels = _save(tmp_path / "a.png", _pixels(16, 16, 3))
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(read_folder(str(tmp_path), size=8)[0][0].permute(1, 2, 0).numpy(), expected)


def test_channels_converts(tmp_path):
    """With `channels` grey and RGB mix: 3 repeats grey, 1 takes Pillow's luma."""
    grey, colour = _save(tmp_path / "grey.png", _pixels(5, 5)), _save(tmp_path / "rgb.png", _pixels(5, 5, 3))
    as_rgb, as_grey = (read_folder(str(tmp_path), channels=c)[0] for c in (3, 1))
    assert as_rgb.shape == (2, 3, 5, 5) and as_grey.shape == (2, 1, 5, 5)
    assert np.array_equal(as_rgb[0].numpy(), np.stack([grey] * 3))
    assert np.array_equal(as_grey[1, 0].numpy(), np.asarray(Image.fromarray(colour).convert("L")))


def test_palette_and_bilevel_images_are_read(tmp_path):
    """A palette image becomes RGB and a black and white one grey, with unchanged colours."""
    pixels = RNG.choice(np.array([[255, 0, 0], [0, 0, 255]], np.uint8), (5, 5))
    (tmp_path / "p").mkdir()
    Image.fromarray(pixels).quantize(2).save(tmp_path / "p" / "palette.png")
    assert np.array_equal(read_folder(str(tmp_path / "p"))[0][0].permute(1, 2, 0).numpy(), pixels)
    (tmp_path / "b").mkdir()
    Image.fromarray(pixels[:, :, 0]).convert("1").save(tmp_path / "b" / "bilevel.png")
    assert np.array_equal(read_folder(str(tmp_path / "b"))[0][0, 0].numpy(), pixels[:, :, 0])


def _refused(path, *words, **options):
    """The message of the usage error that reading the folder raises; it names each of the words."""
    with pytest.raises(UsageError) as caught:
        read_folder(str(path), **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    return str(caught.value)


def _rgba(path):
    Image.fromarray(_pixels(6, 6, 4)).save(path)


def _grey_alpha(path):
    Image.fromarray(_pixels(6, 6, 2), "LA").save(path)


def _transparent_rgb(path):
    Image.fromarray(_pixels(6, 6, 3)).save(path, transparency=(0, 0, 0))


def _transparent_palette(path):
    Image.fromarray(_pixels(6, 6, 3)).quantize(4).save(path, transparency=0)


def _sixteen_bits(path):
    Image.fromarray(RNG.integers(0, 65536, (6, 6), dtype=np.uint16)).save(path)


def _text(path):
    path.write_text("this is not a picture")


def _empty(path):
    path.touch()


BAD = {
    "rgba": (_rgba, "transparency"),
    "grey-alpha": (_grey_alpha, "transparency"),
    "transparent-rgb": (_transparent_rgb, "transparency"),
    "transparent-palette": (_transparent_palette, "transparency"),
    "sixteen-bits": (_sixteen_bits, "more than 8 bits"),
    "text": (_text, "not a readable image"),
    "empty": (_empty, "not a readable image"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_bad_image_is_named(tmp_path, kind):
    """One bad image among good ones is named with its reason, and the good ones are not."""
    write, reason = BAD[kind]
    _save(tmp_path / "good.png")
    write(tmp_path / "bad.png")
    message = _refused(tmp_path, str(tmp_path / "bad.png"), reason)
    assert "good.png" not in message and "\n" not in message


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp"])
def test_truncation_at_any_byte_is_refused_or_harmless(tmp_path, kind):
    """Cut anywhere, a file is either refused by name or still decodes to its picture; no other exception escapes."""
    buffer = io.BytesIO()
    Image.fromarray(_pixels(6, 6, 3)).save(buffer, kind)
    whole = buffer.getvalue()
    file = tmp_path / f"cut.{kind}"
    file.write_bytes(whole)
    expected, refused = read_folder(str(tmp_path))[0], 0
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        try:
            images, _ = read_folder(str(tmp_path))
        except UsageError as error:
            assert str(file) in str(error)
            refused += 1
        else:
            assert torch.equal(images, expected), f"cut to {length} of {len(whole)} bytes, it decoded to something else"
    assert refused >= 0.75 * len(whole), f"{refused} of {len(whole)} lengths refused"


def test_corrupt_image_is_named(tmp_path):
    """A PNG with bytes of its data overwritten is refused by name."""
    file = tmp_path / "corrupt.png"
    _save(file)
    content = bytearray(file.read_bytes())
    content[45:60] = bytes(15)
    file.write_bytes(content)
    _refused(tmp_path, str(file), "not a readable image")


def test_mixed_sizes_name_the_odd_one(tmp_path):
    """The image that differs from most is named with both sizes and the setting that would convert it."""
    for i in range(3):
        _save(tmp_path / f"{i}.png")
    _save(tmp_path / "odd.png", _pixels(4, 5, 3))
    message = _refused(tmp_path, str(tmp_path / "odd.png"), "5x4 RGB", "6x6 RGB", "data.size")
    assert "0.png" not in message


def test_grey_among_rgb_is_named(tmp_path):
    """A grey image among RGB ones is named, not silently converted."""
    for i in range(3):
        _save(tmp_path / f"{i}.png")
    _save(tmp_path / "grey.png", _pixels(6, 6))
    _refused(tmp_path, str(tmp_path / "grey.png"), "6x6 grey", "6x6 RGB", "data.channels")


def test_many_bad_images_are_counted(tmp_path):
    """Of thirteen bad images ten are named and three counted."""
    for i in range(13):
        _text(tmp_path / f"{i:02}.png")
    message = _refused(tmp_path, "09.png", "... and 3 more")
    assert "10.png" not in message and len(message.splitlines()) == 11


def test_empty_folder_says_what_was_looked_for(tmp_path):
    """A folder without images names itself and the extensions."""
    (tmp_path / "notes.txt").write_text("")
    _refused(tmp_path, str(tmp_path), ".png", ".jpeg", "no images")


def test_file_or_nothing_instead_of_a_folder(tmp_path):
    """A file is called a file, an absent folder absent."""
    _save(tmp_path / "a.png")
    _refused(tmp_path / "a.png", "a.png", "is a file, not a folder")
    _refused(tmp_path / "absent", "absent", "no such folder")


def test_one_image_is_not_a_data_set(tmp_path):
    """A folder that leaves fewer than two training images is refused by its name."""
    _save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=f"{tmp_path.name}: 1 image"):
        folder(str(tmp_path), None, None, 0.0)


# ----------------------------------------------------------------------------------------------------------------- arrays


def _write(path, **arrays):
    """A .npz of the arrays, or a .npy of the only one."""
    np.savez_compressed(path, **arrays) if path.suffix == ".npz" else np.save(path, *arrays.values())
    return str(path)


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 3)])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_image_arrays_become_channels_first(tmp_path, shape, name):
    """uint8 (n, h, w) and (n, h, w, 1 or 3) become (n, c, h, w) with the same pixels."""
    pixels = _pixels(*shape)
    images, labels = read_array(_write(tmp_path / name, images=pixels))
    assert images.shape == (5, shape[3] if len(shape) == 4 else 1, 6, 7) and images.dtype == torch.uint8
    assert np.array_equal(images.permute(0, 2, 3, 1).reshape(shape).numpy(), pixels) and labels is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_point_arrays_become_float32(tmp_path, dtype):
    """Float points (n, d) of any width and byte order become float32."""
    points = np.array([[0.5, -2.0], [3.25, 1.0]], dtype)
    result, _ = read_array(_write(tmp_path / "x.npy", images=points))
    assert result.dtype == torch.float32 and result.tolist() == [[0.5, -2.0], [3.25, 1.0]]


@pytest.mark.parametrize("name", ["images", "samples", "anything"])
def test_npz_names(tmp_path, name):
    """`images`, `samples` and an only array of any name are taken."""
    pixels = _pixels(3, 4, 4)
    images, _ = read_array(_write(tmp_path / "x.npz", **{name: pixels}))
    assert np.array_equal(images[:, 0].numpy(), pixels)


def test_npz_labels(tmp_path):
    """`labels` come along as int64 and stay with their images through the split."""
    pixels = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    path = _write(tmp_path / "x.npz", images=pixels, labels=np.arange(20, dtype=np.int32) % 3)
    assert read_array(path)[1].dtype == torch.int64
    data = array(path, 0.25)
    assert (len(data.train), len(data.held_out), data.name) == (15, 5, "x")
    for images, labels in (data.split("train"), data.split("held-out")):
        assert torch.equal(images[:, 0, 0, 0] % 3, labels)
    assert not set(data.train[:, 0, 0, 0].tolist()) & set(data.held_out[:, 0, 0, 0].tolist())


BAD_ARRAYS = {
    "float-images": np.zeros((3, 4, 4), np.float32),
    "float-rgb": np.zeros((3, 4, 4, 3)),
    "two-channels": np.zeros((3, 4, 4, 2), np.uint8),
    "channels-first": np.zeros((3, 3, 8, 8), np.uint8),
    "flat-uint8": np.zeros((3, 16), np.uint8),
    "int64-points": np.zeros((3, 2), np.int64),
    "vector": np.zeros(5),
    "scalar": np.float64(1.0),
    "no-images": np.zeros((0, 4, 4), np.uint8),
    "no-points": np.zeros((0, 2)),
    "nan": np.array([[0.0, np.nan]]),
    "infinite": np.array([[0.0, np.inf]]),
    "text": np.array(["a", "b"]),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_bad_array_is_named(tmp_path, kind, name):
    """An array of another type or shape is refused with the file, its type and its shape."""
    path = _write(tmp_path / name, images=BAD_ARRAYS[kind])
    expected = "holds NaN, infinite or too large numbers" if kind in ("nan", "infinite") else "expected uint8 images"
    with pytest.raises(UsageError, match=expected) as caught:
        read_array(path)
    assert path in str(caught.value) and (
        kind in ("nan", "infinite") or str(BAD_ARRAYS[kind].dtype) in str(caught.value)
    )


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickled_array_is_refused(tmp_path, name):
    """An object array could run code when loaded, so it is refused by name and not run."""
    path = _write(tmp_path / name, images=np.array([{"a": 1}, None], object))
    with pytest.raises(UsageError, match="not a readable") as caught:
        read_array(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_truncated_array_is_refused(tmp_path, name):
    """Cut at any byte, an array file is refused by name, or read as it was where only the end mark is missing."""
    pixels = _pixels(2, 4, 4)
    path = _write(tmp_path / name, images=pixels)
    with open(path, "rb") as stream:
        whole = stream.read()
    for length in range(len(whole)):
        with open(path, "wb") as stream:
            stream.write(whole[:length])
        with pytest.raises(UsageError) as caught:
            read_array(path)
        assert path in str(caught.value), f"cut to {length} bytes"


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_corrupt_array_is_refused(tmp_path, name):
    """With any byte changed, an array file is refused by name or still read; no other exception escapes."""
    path, escaped, refused = _write(tmp_path / name, images=_pixels(2, 4, 4)), {}, 0
    with open(path, "rb") as stream:
        whole = stream.read()
    changes = [(position, change) for position in range(len(whole)) for change in (0x01, 0x80, 0xFF)]
    for position, change in changes:
        with open(path, "wb") as stream:
            stream.write(whole[:position] + bytes([whole[position] ^ change]) + whole[position + 1 :])
        try:
            read_array(path)
        except UsageError as error:
            assert path in str(error)
            refused += 1
        except Exception as error:
            escaped.setdefault(f"{type(error).__name__}: {error}", position)
    assert not escaped, f"exceptions by the first position changed: {escaped}"
    assert refused > 0.2 * len(changes), f"{refused} of {len(changes)}"


def test_corrupt_npz_never_gives_other_pixels(tmp_path):
    """The checksum of an npz sees to it that changed data are refused instead of read."""
    pixels = _pixels(2, 4, 4)
    path = _write(tmp_path / "x.npz", images=pixels)
    with open(path, "rb") as stream:
        whole = stream.read()
    start = whole.index(b"images.npy") + 40
    for position in range(start, start + 60):
        with open(path, "wb") as stream:
            stream.write(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(UsageError) as caught:
            read_array(path)
        assert path in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path, content):
    """A file that is no array file, or none at all, is refused by name."""
    (tmp_path / "x.npz").write_bytes(content)
    for name, expected in (("x.npz", "not a readable .npy or .npz file"), ("absent.npy", "no such file, seen from")):
        with pytest.raises(UsageError, match=expected) as caught:
            read_array(str(tmp_path / name))
        assert name in str(caught.value)


def test_npz_without_images_says_what_it_holds(tmp_path):
    """Of several arrays none of which is `images`, the names are listed."""
    path = _write(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(UsageError, match="holds mu, sigma") as caught:
        read_array(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    "labels", [np.zeros(2, np.int64), np.zeros((3, 2), np.int64), np.array(["a", "b", "c"])], ids=["few", "2d", "text"]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    """Labels must be one integer an image; others are refused by name."""
    path = _write(tmp_path / "x.npz", images=_pixels(3, 4, 4), labels=labels)
    with pytest.raises(UsageError) as caught:
        read_array(path)
    assert path in str(caught.value)


def test_points_that_overflow_float32_are_refused(tmp_path):
    """A float64 point beyond float32's range is not a finite point: it is refused, or it would be read as infinite."""
    path = _write(tmp_path / "x.npy", images=np.array([[0.0, 1e300]]))
    with pytest.raises(UsageError, match="finite"):
        read_array(path)


def test_points_are_no_image_data_set(tmp_path):
    """`array` is for images: points are refused with their type and shape."""
    path = _write(tmp_path / "x.npy", images=np.zeros((5, 2)))
    with pytest.raises(UsageError, match=r"expected uint8 images, got torch.float32 of shape \(5, 2\)"):
        array(path, 0.2)


SHARD = Path(__file__).parents[4] / "shared/data/cifar10/test.tar"


@pytest.mark.skipif(not SHARD.is_file(), reason="the shared CIFAR-10 images are not on this machine")
def test_real_cifar10_folder_has_ten_classes_and_the_published_means(tmp_path):
    """10,000 PNGs below test/<class>/ become RGB 32x32 with ten labels of 1,000 each; channel means .4942 .4851 .4504."""
    with tarfile.open(SHARD) as archive:
        archive.extractall(tmp_path, filter="data")
    data, labels = read_folder(str(tmp_path))
    assert data.shape == (10_000, 3, 32, 32) and labels is not None
    assert torch.bincount(labels).tolist() == [1000] * 10
    means = (data.double().mean((0, 2, 3)) / 255).tolist()
    assert means == pytest.approx([0.4942, 0.4851, 0.4504], abs=5e-5), means


def test_hidden_folders_are_not_read(tmp_path):
    """What editors and systems keep in folders like .ipynb_checkpoints is not data."""
    for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        _save(tmp_path / name)
    assert [f.name for f in image_files(str(tmp_path))] == ["a.png"]
