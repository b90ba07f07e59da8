"""One image file, or an array, to uint8: the right pixels, or a sentence. Never clipped, composited or rounded down in silence."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gebm_cli.core.data.dataset import to_float
from gebm_cli.core.data.decoding import MAX_PIXELS, BadImage, decode, inspect
from gebm_cli.core.data.image_sets import read_image_set, read_images_array
from gebm_cli.core.data.images import read_array
from gebm_cli.errors import UsageError

RNG = np.random.default_rng(0)
LOSSLESS = {"png": {}, "bmp": {}, "webp": {"lossless": True}, "tiff": {}, "gif": {}}


def _pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def _rgb(*shape):
    return Image.fromarray(_pixels(*(shape or (6, 7)), 3))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, depth, colour, data=b"", extra=b""):
    """A PNG by hand, of kinds and sizes that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# ------------------------------------------------------------------------------------------------------------ good images


@settings(max_examples=60, deadline=None)
@given(
    h=st.integers(1, 9), w=st.integers(1, 9), grey=st.booleans(), kind=st.sampled_from(["png", "bmp", "tiff", "webp"]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_pixels_come_back(h, w, grey, kind, seed):
    """What was saved without loss is read bit for bit, channels first; inspecting knows its shape and has nothing to note."""
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w) if grey else (h, w, 3), dtype=np.uint8)
    content = _encoded(pixels, kind, **LOSSLESS[kind])
    expected = pixels[None] if grey else pixels.transpose(2, 0, 1)
    if kind == "webp" and grey:
        expected = expected.repeat(3, 0)  # WebP knows no grey
    assert decode(content).dtype == np.uint8 and np.array_equal(decode(content), expected)
    facts = inspect(content)
    assert facts.shape == expected.shape and facts.traits == frozenset() and len(facts.digest) == 32


def test_jpeg_is_decoded_and_said_to_be_one():
    """A JPEG decodes as Pillow does, grey stays grey, and its trait is told whatever its name."""
    for image, channels in ((_rgb(), 3), (_rgb().convert("L"), 1)):
        content = _encoded(image, "jpeg")
        with Image.open(io.BytesIO(content)) as opened:
            expected = np.asarray(opened).reshape(6, 7, channels).transpose(2, 0, 1)
        assert np.array_equal(decode(content), expected)
        assert inspect(content).traits == {"jpeg"} and inspect(content).shape == (channels, 6, 7)


def test_palettes_bilevel_and_few_bits():
    """Palette images become RGB, black and white and 1, 2 and 4-bit grey become grey over all of 0..255."""
    palette = _rgb().quantize(5)
    for kind in ("png", "bmp", "tiff", "gif"):
        assert np.array_equal(decode(_encoded(palette, kind)).transpose(1, 2, 0), np.asarray(palette.convert("RGB"))), (
            kind
        )
    bilevel = Image.fromarray(_pixels(5, 5) > 127)
    assert np.array_equal(decode(_encoded(bilevel))[0], np.asarray(bilevel) * 255)
    assert inspect(_encoded(bilevel)).shape == (1, 5, 5) and inspect(_encoded(palette)).shape == (3, 6, 7)
    for depth, byte, level in ((2, 0b10_00_00_00, 170), (4, 0b0111_0000, 119)):
        content = _png(1, 1, depth, 0, bytes([0, byte]))
        assert decode(content).item() == level and inspect(content).shape == (1, 1, 1)


def _opaque():
    rgb = _rgb()
    rgba, palette = rgb.copy(), rgb.quantize(5)
    rgba.putalpha(255)
    unused = Image.new("RGB", (6, 6), (9, 9, 9))
    return {
        "RGBA png": (_encoded(rgba), np.asarray(rgb)),
        "RGBA webp": (_encoded(rgba, "webp", lossless=True, exact=True), np.asarray(rgb)),
        "RGBA tiff": (_encoded(rgba, "tiff"), np.asarray(rgb)),
        "LA png": (_encoded(Image.merge("LA", (rgb.getchannel(0), rgba.getchannel(3)))), np.asarray(rgb)[:, :, 0]),
        "palette": (_encoded(palette, transparency=b"\xff" * 5), np.asarray(palette.convert("RGB"))),
        "unused key": (_encoded(unused, transparency=(1, 2, 3)), np.asarray(unused)),
        "unused grey key": (_encoded(unused.convert("L"), transparency=3), np.asarray(unused.convert("L"))),
    }


def test_an_alpha_channel_that_is_opaque_is_dropped():
    """A channel, a palette's and an unused colour key: the pixels are those beneath, bit for bit, and the trait is told."""
    for kind, (content, pixels) in _opaque().items():
        expected = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        assert np.array_equal(decode(content), expected), kind
        assert inspect(content).shape == expected.shape, kind
        # Pillow's WebP encoder leaves an opaque channel out.
        assert inspect(content).traits == (set() if "webp" in kind else {"alpha"}), kind


def test_animations_give_their_first_frame():
    """Animated GIF, PNG and WebP, and a TIFF of two pages: the first frame, noted."""
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    for kind, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tiff", {})):
        content = _encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert inspect(content).traits == {"frames"}, kind
        assert decode(content)[:, 2, 2].tolist() == [255, 0, 0], kind
    assert inspect(_encoded(frames[0], "gif")).traits == frozenset()


def test_the_tiff_made_by_hand_is_one():
    """Of 8 bits it is read, so that of 16 it is refused for its bits alone."""
    assert decode(_tiff(8)).flatten().tolist() == [0, 1, 2]
    assert Image.open(io.BytesIO(_tiff(16))).mode == "RGB"


def test_an_exif_block_that_cannot_be_read_is_no_fault(monkeypatch):
    """No pixel depends on it."""

    def damaged(image):
        raise SyntaxError("not a TIFF file")

    content = _encoded(_rgb(), "jpeg")
    monkeypatch.setattr(Image.Image, "getexif", damaged)
    assert inspect(content).traits == {"jpeg"}


def test_orientation_is_not_applied_but_told():
    """A JPEG or WebP that EXIF says to turn is used as stored; one that is upright, or whose EXIF is damaged, has no note."""
    image, exif = _rgb(4, 8), Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        for kind, traits in (("jpeg", {"jpeg"}), ("webp", set())):
            content = _encoded(image, kind, exif=exif)
            assert inspect(content).shape == (3, 4, 8)
            assert inspect(content).traits == traits | ({"turned"} if orientation == 6 else set())
            assert np.array_equal(decode(content), decode(_encoded(image, kind)))
    damaged = _encoded(image, "jpeg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert inspect(damaged).shape == (3, 4, 8)


# ------------------------------------------------------------------------------------------------------------- bad images


def _tiff(bits):
    """A TIFF of one RGB pixel, of so many bits a channel; Pillow reads 16 but does not write them."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 3 * bits // 8)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 20) + struct.pack("<HHH", bits, bits, bits) + bytes(range(6)) + directory


def _clear(mode="RGBA"):
    image = _rgb().convert(mode)
    image.putpixel((1, 1), (*image.getpixel((1, 1))[:-1], 254))
    return image


REFUSED = {
    "empty": (lambda: b"", r"is empty \(0 bytes\)"),
    "text": (lambda: b"this is not a picture", "is not an image, or damaged from its first bytes"),
    "grey of 16 bits": (lambda: _encoded(_pixels(6, 6).astype(np.uint16) * 256), "more than 8 bits a channel"),
    "small grey of 16 bits": (lambda: _encoded(_pixels(6, 6).astype(np.uint16)), "more than 8 bits a channel"),
    "RGB of 16 bits": (lambda: _png(1, 1, 16, 2, bytes(7)), "more than 8 bits a channel"),
    "RGBA of 16 bits": (lambda: _png(1, 1, 16, 6, bytes(9)), "more than 8 bits a channel"),
    "LA of 16 bits": (lambda: _png(1, 1, 16, 4, bytes(5)), "more than 8 bits a channel"),
    "TIFF of 16 bits": (lambda: _encoded(_pixels(6, 6).astype(np.uint16), "tiff"), "more than 8 bits a channel"),
    "RGB TIFF of 16 bits": (lambda: _tiff(16), "more than 8 bits a channel"),
    "TIFF of floats": (lambda: _encoded(RNG.random((6, 6)).astype(np.float32), "tiff"), "more than 8 bits a channel"),
    "RGBA": (lambda: _encoded(_clear()), "is partly transparent"),
    "RGBA webp": (lambda: _encoded(_clear(), "webp", lossless=True), "is partly transparent"),
    "RGBA tiff": (lambda: _encoded(_clear(), "tiff"), "is partly transparent"),
    "LA": (lambda: _encoded(_clear("LA")), "is partly transparent"),
    "key": (lambda: _encoded(Image.new("RGB", (3, 3), (1, 2, 3)), transparency=(1, 2, 3)), "is partly transparent"),
    "grey key": (lambda: _encoded(Image.new("L", (3, 3), 7), transparency=7), "is partly transparent"),
    "palette": (lambda: _encoded(_rgb().quantize(4), transparency=0), "is partly transparent"),
    "palette gif": (lambda: _encoded(_rgb().quantize(4), "gif", transparency=0), "is partly transparent"),
    "palette alpha": (lambda: _encoded(_rgb().quantize(4), transparency=b"\xff\xff\x80\xff"), "is partly transparent"),
    "CMYK": (lambda: _encoded(_rgb().convert("CMYK"), "jpeg"), "is CMYK, and what that is in RGB depends"),
    "CMYK tiff": (lambda: _encoded(_rgb().convert("CMYK"), "tiff"), "is CMYK, and what that is in RGB depends"),
    "LAB": (lambda: _encoded(_rgb().convert("LAB"), "tiff"), "is LAB, and what that is in RGB depends"),
    "another format": (lambda: _encoded(_rgb(), "ppm"), "is not an image"),
    "program": (lambda: _encoded(_rgb(), "eps"), "is not an image"),
    "large": (lambda: _png(10_000, 10_000, 8, 0), "has 10000x10000 pixels, more than 89,478,485; make it smaller"),
    "huge": (lambda: _png(50_000, 50_000, 8, 0), "has more than 89,478,485 pixels; make it smaller"),
    "no end": (lambda: _encoded(_rgb())[:-12], "is not a readable image, perhaps truncated"),
    "no pixels, alpha": (lambda: _png(5, 5, 8, 6, bytes(9)), "is not a readable image, perhaps truncated"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_bad_image_is_refused(kind):
    """Each kind has its one sentence, from inspecting and, if it came to that, from decoding."""
    make, reason = REFUSED[kind]
    content = make()
    with pytest.raises(BadImage, match=reason) as caught:
        inspect(content)
    assert "\n" not in str(caught.value)
    if kind != "no end":  # decoding alone forgives it, which is why it is looked for first
        with pytest.raises(BadImage, match=reason):
            decode(content)


def test_huge_images_print_no_warning(tmp_path):
    """Pillow's warning about a large image is one sentence of ours, and nothing besides."""
    (tmp_path / "a.png").write_bytes(_png(10_000, 10_000, 8, 0))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(UsageError, match="a.png: has 10000x10000 pixels"):
            read_image_set(str(tmp_path))
    assert not seen, [str(w.message) for w in seen]


def test_an_image_at_the_limit_is_taken():
    """The limit itself is allowed: one row less or exactly as many pixels."""
    width = MAX_PIXELS // 5  # 89,478,485 = 5 x 17,895,697
    assert width * 5 == MAX_PIXELS
    assert inspect(_png(width, 5, 8, 0, bytes(10))).shape == (1, 5, width)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp", "gif", "tiff", "rgba", "cmp"])
def test_truncation_at_any_byte_is_refused_or_harmless(kind):
    """Cut anywhere, inspecting either refuses a file, or it decodes to its picture; nothing surfaces later."""
    image = _rgb().convert("RGBA") if kind == "rgba" else _rgb()
    content = _encoded(
        image, {"rgba": "png", "cmp": "tiff"}.get(kind, kind), **({"compression": "tiff_lzw"} if kind == "cmp" else {})
    )
    expected, refused = decode(content), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for length in range(len(content)):
            try:
                inspect(content[:length])
            except BadImage:
                refused += 1
            else:
                assert np.array_equal(decode(content[:length]), expected), f"cut to {length} of {len(content)} bytes"
    assert refused >= 0.6 * len(content), f"{refused} of {len(content)} lengths refused"


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp", "gif", "tiff"])
@pytest.mark.filterwarnings("ignore")
def test_damage_is_refused_or_decodes(kind):
    """With any byte changed: refused, or decoded when its turn comes. A PNG is never other pixels, as it has checksums."""
    content = _encoded(_rgb(), kind)
    expected = decode(content)
    for position in range(0, len(content), 1 if kind == "png" else 5):
        for change in (0x01, 0x80, 0xFF):
            damaged = content[:position] + bytes([content[position] ^ change]) + content[position + 1 :]
            try:
                shape = inspect(damaged).shape
            except BadImage:
                continue
            pixels = decode(damaged)
            assert pixels.shape == shape and pixels.dtype == np.uint8
            assert kind != "png" or np.array_equal(pixels, expected), f"byte {position} changed by {change}"


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"\xff\xd8\xff", b"RIFF"]),
)
@pytest.mark.filterwarnings("ignore")
def test_arbitrary_bytes_are_refused_in_one_line(rest, magic):
    """No bytes whatever raise anything but `BadImage`."""
    try:
        inspect(magic + rest)
    except BadImage as error:
        assert "\n" not in str(error)


# ----------------------------------------------------------------------------------------------------------------- arrays


def _saved(path, **arrays):
    np.savez_compressed(path, **arrays) if path.suffix == ".npz" else np.save(path, *arrays.values())
    return str(path)


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 3), (5, 1, 6, 7), (5, 3, 6, 7)])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_uint8_images_of_either_order(tmp_path, shape, name):
    """Channels first, last or none: the same (n, c, h, w) with the same pixels, and no note."""
    pixels = _pixels(*shape)
    images, notes = read_images_array(_saved(tmp_path / name, images=pixels), None)
    expected = pixels[:, None] if len(shape) == 3 else pixels if shape[1] in (1, 3) else pixels.transpose(0, 3, 1, 2)
    assert images.dtype == torch.uint8 and images.is_contiguous() and notes == []
    assert np.array_equal(images.numpy(), expected) and tuple(images.shape[2:]) == (6, 7)


def test_names_within_an_archive(tmp_path):
    """`images`, `samples`, `arr_0` beside labels, and an only array of any name; otherwise it says what there is."""
    pixels = _pixels(3, 4, 4)
    for arrays in (
        {"images": pixels, "x": pixels[:1]},
        {"samples": pixels, "arr_1": pixels[:1]},
        {"arr_0": pixels, "arr_1": np.arange(3)},
        {"y": pixels},
    ):
        assert np.array_equal(read_images_array(_saved(tmp_path / "x.npz", **arrays), None)[0][:, 0].numpy(), pixels)
    with pytest.raises(UsageError, match="holds mu, sigma; expected an array named `images`"):
        read_images_array(_saved(tmp_path / "x.npz", mu=pixels, sigma=pixels), None)


@settings(max_examples=200, deadline=None)
@given(
    value_range=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]), share=st.floats(0, 1, width=32),
    dtype=st.sampled_from(["float16", "float32", "float64", ">f4"]),
)  # fmt: skip
def test_floats_become_the_nearest_level(tmp_path_factory, value_range, share, dtype):
    """Exact rational arithmetic finds no level nearer to a float than the one it becomes."""
    low, high = value_range
    value = np.array(low + share * (high - low), dtype)
    path = _saved(tmp_path_factory.mktemp("f") / "x.npy", x=np.full((1, 2, 2), value))
    level = int(read_images_array(path, value_range)[0][0, 0, 0, 0])
    exact = (Fraction(float(value)) - Fraction(low)) * 255 / (Fraction(high) - Fraction(low))
    assert abs(exact - level) <= Fraction(1, 2) + Fraction(1, 10**9), (float(value), level)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_level_survives_every_range(tmp_path, dtype):
    """The 256 levels, written as floats in any of the ranges, come back as they were: none is truncated to the one below."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    written = {
        (0.0, 1.0): levels.numpy().astype(dtype) / 255,
        (-1.0, 1.0): to_float(levels).numpy().astype(dtype),
        (0.0, 255.0): levels.numpy().astype(dtype),
    }
    for value_range, array in written.items():
        images, notes = read_images_array(_saved(tmp_path / "x.npy", x=array), value_range)
        assert torch.equal(images, levels), value_range
        low, high = value_range
        assert notes == [f"{dtype} images from {low:g} to {high:g}, rounded to the nearest of 256 levels"]


def test_float_images_in_either_order(tmp_path):
    """Channels last and first give the same images, as of uint8."""
    array = RNG.random((4, 5, 6, 3)).astype(np.float32)
    last = read_images_array(_saved(tmp_path / "x.npy", x=array), (0.0, 1.0))[0]
    first = read_images_array(_saved(tmp_path / "y.npy", x=array.transpose(0, 3, 1, 2)), (0.0, 1.0))[0]
    assert torch.equal(last, first) and last.shape == (4, 3, 5, 6)


def _array_refused(path, value_range, *words):
    with pytest.raises(UsageError) as caught:
        read_images_array(path, value_range)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_floats_without_a_range(tmp_path):
    """They are refused with what they are from and to, and the flag that says the range."""
    path = _saved(tmp_path / "x.npy", x=np.linspace(-0.5, 0.75, 32).reshape(2, 4, 4))
    _array_refused(path, None, path, "is float64 from -0.5 to 0.75", "--value-range 0,1 or -1,1 or 0,255")


def test_floats_outside_their_range(tmp_path):
    """The number outside, the least and the largest are told; the ends themselves are inside."""
    array = np.linspace(0, 1, 32).reshape(2, 4, 4)
    read_images_array(_saved(tmp_path / "x.npy", x=array), (0.0, 1.0))
    array[0, 0, :2], array[1, 0, 0] = (-0.25, -1e-9), 1.5
    path = _saved(tmp_path / "x.npy", x=array)
    _array_refused(path, (0.0, 1.0), path, "3 of 32 numbers outside 0 to 1: they go from -0.25 to 1.5", "clip")
    array[0, 0, 0] = np.inf
    _array_refused(_saved(tmp_path / "x.npy", x=array), (0.0, 255.0), "outside 0 to 255", "to inf")
    array[0, 0, 0] = np.nan
    _array_refused(_saved(tmp_path / "x.npy", x=array), (0.0, 1.0), "holds NaN")


def test_a_range_that_looks_wrong_is_noted(tmp_path):
    """Numbers from 0 to 1 of a stated -1,1 or 0,255 are taken at the user's word, with a note."""
    path = _saved(tmp_path / "x.npy", x=np.linspace(0, 1, 32).reshape(2, 4, 4))
    for value_range, stated in (((-1.0, 1.0), "-1,1"), ((0.0, 255.0), "0,255")):
        notes = read_images_array(path, value_range)[1]
        assert notes[1:] == [f"no number lies outside 0 to 1: is --value-range {stated} what they are in?"]
    assert len(read_images_array(path, (0.0, 1.0))[1]) == 1


def test_points_are_points(tmp_path):
    """Float (n, d) is read as `read_array` reads it; a stated range, here or of uint8, is noted as of no use."""
    path = _saved(tmp_path / "x.npz", samples=RNG.normal(size=(5, 2)))
    assert torch.equal(read_images_array(path, None)[0], read_array(path)[0]) and read_images_array(path, None)[1] == []
    assert read_images_array(path, (0.0, 1.0))[1] == ["points, of which --value-range says nothing"]
    path = _saved(tmp_path / "y.npy", x=_pixels(2, 4, 4))
    assert read_images_array(path, (0.0, 1.0))[1] == ["uint8 images, of which --value-range says nothing"]
    _array_refused(_saved(tmp_path / "z.npy", x=np.array([[np.nan, 1.0]])), None, "must be finite")


BAD_ARRAYS = {
    "ambiguous": (np.zeros((4, 3, 8, 3), np.uint8), "its channels may be the first or the last"),
    "ambiguous grey": (np.zeros((4, 1, 8, 1), np.uint8), "its channels may be the first or the last"),
    "ambiguous floats": (np.zeros((4, 3, 3, 3)), "its channels may be the first or the last"),
    "one image": (np.zeros((8, 8, 3), np.uint8), "as of one image; expected (n, height, width, 1 or 3)"),
    "two channels": (np.zeros((4, 8, 8, 2), np.uint8), "expected uint8 images"),
    "four channels": (np.zeros((4, 8, 8, 4), np.uint8), "expected uint8 images"),
    "flat": (np.zeros((4, 64), np.uint8), "expected uint8 images"),
    "whole numbers": (np.zeros((4, 8, 8), np.int64), "is int64 of shape (4, 8, 8); expected uint8 images"),
    "16 bits": (np.zeros((4, 8, 8, 3), np.uint16), "is uint16 of shape (4, 8, 8, 3); expected uint8 images"),
    "bool": (np.zeros((4, 8, 8), bool), "expected uint8 images"),
    "none": (np.zeros((0, 8, 8, 3), np.uint8), "expected uint8 images"),
    "no floats": (np.zeros((0, 8, 8, 3)), "expected uint8 images"),
    "scalar": (np.float64(1), "expected uint8 images"),
    "text": (np.array(["a"]), "expected uint8 images"),
    "five axes": (np.zeros((1, 2, 8, 8, 3), np.uint8), "expected uint8 images"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
def test_bad_arrays(tmp_path, kind, value_range):
    """Each is refused by its file, type and shape."""
    array, reason = BAD_ARRAYS[kind]
    path = _saved(tmp_path / "x.npy", x=array)
    _array_refused(path, value_range, path, reason)


def test_bad_ranges_and_files(tmp_path):
    """Another range, a folder, nothing, a damaged file and one of objects are refused."""
    path = _saved(tmp_path / "x.npy", x=np.zeros((2, 4, 4)))
    _array_refused(path, (0.0, 2.0), "--value-range 0,2: expected one of 0,1, -1,1, 0,255")
    _array_refused(str(tmp_path), None, "is a folder, not a .npy or .npz file")
    _array_refused(str(tmp_path / "absent.npy"), None, "no such file")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    _array_refused(str(tmp_path / "bad.npz"), None, "not a readable .npy or .npz file")
    np.save(tmp_path / "o.npy", np.array([{}], object))
    _array_refused(str(tmp_path / "o.npy"), None, "holds objects")
