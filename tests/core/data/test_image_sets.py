"""Image sets: folders and archives in which anything may lie. Order, contents, checksum, notes; bad files are named at once."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import threading
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gebm_cli.core.data import containers, decoding
from gebm_cli.core.data.image_sets import read_image_set
from gebm_cli.core.data.images import read_folder
from gebm_cli.errors import UsageError

RNG = np.random.default_rng(0)
NAMES = ["b.png", "a/2.png", "a/10.png", "a-b/x y.png", "ä/ü.PNG", "c/d/e.bmp"]


def _pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _encoded(pixels=None, kind="png", **options):
    """The bytes of an image (random 6x6 RGB unless given)."""
    buffer = io.BytesIO()
    Image.fromarray(_pixels(6, 6, 3) if pixels is None else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _write(root, files):
    """Files by name below a folder; returns its path."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def _zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return str(path)


def _member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def _tarred(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.addfile(*_member(name, content))
    return str(path)


def _kinds(tmp_path, files):
    """The same files as a folder, .zip, .tar, .tar.gz and .tgz."""
    return [
        _write(tmp_path / "set", files),
        _zipped(tmp_path / "set.zip", files),
        _tarred(tmp_path / "set.tar", files),
        _tarred(tmp_path / "set.tar.gz", files, "w:gz"),
        _tarred(tmp_path / "SET.TGZ", files, "w:gz"),
    ]


def _refused(path, *words, **options):
    with pytest.raises(UsageError) as caught:
        read_image_set(str(path), **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- what is in a good set


def test_every_container_gives_the_same_images(tmp_path):
    """Names, pixels, labels, sizes and checksum are those of the files, in a folder and in every archive of it."""
    pixels = {name: _pixels(3 + i, 5, 3) for i, name in enumerate(NAMES)}
    files = {name: _encoded(p, "bmp" if name.endswith("bmp") else "png") for name, p in pixels.items()}
    hashes = set()
    for path in _kinds(tmp_path, files):
        found = read_image_set(path)
        assert found.names == found.kept == sorted(NAMES) and found.name == path and len(found) == 6
        assert found.skipped == [] and found.labels is None
        for i, name in enumerate(found.kept):
            assert found[i].dtype == torch.uint8
            assert np.array_equal(found[i].permute(1, 2, 0).numpy(), pixels[name]), (path, name)
        assert found.sizes == {(3 + i, 5): 1 for i in range(6)}
        assert found.notes == ["images of 6 sizes, 5x3 to 5x8"]
        hashes.add(found.content_hash())
    assert len(hashes) == 1


def test_it_reads_what_training_reads(tmp_path):
    """On a folder of classes, pixels and labels equal those of `read_folder`; so do they in an archive."""
    files = {f"{c}/{i:02}.png": _encoded(_pixels(4, 4)) for c in ("dog", "cat", "ant") for i in range(3)}
    path = _write(tmp_path / "set", files)
    images, labels = read_folder(path)
    for source in (path, _zipped(tmp_path / "set.zip", files), _tarred(tmp_path / "set.tar", files)):
        found = read_image_set(source)
        assert torch.equal(found.whole(), images) and torch.equal(found.labels, labels)


def test_labels_belong_to_the_images_that_are_kept(tmp_path):
    """Where a bad image is skipped, labels and names shift with the others."""
    files = {f"{c}/{i}.png": _encoded() for c in "xy" for i in range(2)} | {"x/0.png": b"bad"}
    found = read_image_set(_write(tmp_path, files), on_bad="skip")
    assert found.labels.tolist() == [0, 1, 1] and found.kept == ["x/1.png", "y/0.png", "y/1.png"]
    assert found.names == ["x/0.png", *found.kept] and len(found) == 3
    assert torch.equal(found[0], read_image_set(str(tmp_path / "x"), on_bad="skip")[0])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """41 images of many sizes, some grey, whose number can be read off their first pixel."""
    root, files = tmp_path_factory.mktemp("many"), {}
    for i in range(41):
        pixels = _pixels(1 + i % 5, 2 + i % 3, 3) if i % 4 else _pixels(3, 4)
        pixels.reshape(-1)[0] = i
        files[f"{i:03}.png"] = _encoded(pixels)
    return _write(root, files)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 50), workers=st.sampled_from([0, 1, 3]),
    start=st.integers(0, 41), stop=st.integers(0, 41), step=st.integers(1, 7),
)  # fmt: skip
def test_batches_are_the_rows_asked_for(many, n, workers, start, stop, step):
    """Any rows in batches of any size by any number of threads: those images in that order, none too many or too few."""
    found, rows = read_image_set(many, workers=workers), range(start, stop, step)
    batches = list(found.batches(n, rows))
    assert [int(image.flatten()[0]) for batch in batches for image in batch] == list(rows)
    assert [len(b) for b in batches] == [n] * (len(rows) // n) + [len(rows) % n] * (len(rows) % n > 0)
    for i, image in zip(rows, (image for batch in batches for image in batch), strict=True):
        assert torch.equal(image, found[i])


def test_all_rows_are_the_default_and_shares_make_the_whole(many):
    """Without rows all images come once; the rows of three processes together are the same."""
    found = read_image_set(many)
    everything = [int(i.flatten()[0]) for b in found.batches(7) for i in b]
    shares = [[int(i.flatten()[0]) for b in found.batches(4, range(r, 41, 3)) for i in b] for r in range(3)]
    assert everything == list(range(41)) == sorted(sum(shares, []))
    assert [int(i.flatten()[0]) for i in found] == everything and torch.equal(found[-1], found[40])


@pytest.mark.parametrize("rows", [range(42), range(-1, 3), range(41, 45), range(40, -2, -1)])
def test_rows_that_are_not_there(many, rows):
    """They are an error at once, not when the batch is reached."""
    found = read_image_set(many)
    with pytest.raises(IndexError, match="of 41 images"):
        found.batches(4, rows)
    with pytest.raises(IndexError):
        found.batches(0)
    with pytest.raises(IndexError):
        found[41]


def test_an_abandoned_pass_stops_its_threads(many):
    """A consumer that stops early leaves no thread behind, and little was decoded for nothing."""
    found, before = read_image_set(many, workers=2), threading.active_count()
    batches = found.batches(2)
    next(batches)
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before


def test_images_are_decoded_ahead_and_memory_is_bounded(many, monkeypatch):
    """When the first batch is there, later ones are under way; but not all of the set."""
    import gebm_cli.core.data.image_sets as module

    seen, decode = [], module.decode
    monkeypatch.setattr(module, "decode", lambda content: seen.append(1) or decode(content))
    monkeypatch.setattr(module, "PIECE", 1)
    batches = read_image_set(many, workers=1).batches(2)
    next(batches)
    for _ in range(200):
        if len(seen) >= 6:
            break
        time.sleep(0.01)
    assert 6 <= len(seen) <= 9, len(seen)


def test_progress_counts_every_image(many):
    """`on_image` is told 1 of 41 to 41 of 41, by the thread that called."""
    told = []
    read_image_set(many, on_image=lambda *numbers: told.append((*numbers, threading.current_thread())))
    assert told == [(i + 1, 41, threading.main_thread()) for i in range(41)]


def test_whole_needs_one_size_and_colour(tmp_path):
    """One shape gives one tensor in order; otherwise two images that differ are named."""
    files = {f"{i}.png": _encoded(_pixels(4, 5, 3)) for i in range(4)}
    found = read_image_set(_write(tmp_path, files))
    assert found.whole().shape == (4, 3, 4, 5) and all(torch.equal(found.whole()[i], found[i]) for i in range(4))
    for odd, described in ((_pixels(5, 4, 3), "4x5 RGB"), (_pixels(4, 5), "5x4 grey")):
        (tmp_path / "2.png").write_bytes(_encoded(odd))
        with pytest.raises(ValueError, match=f"0.png is 5x4 RGB, 2.png is {described}"):
            read_image_set(str(tmp_path)).whole()


# ------------------------------------------------------------------------------------------------------------- checksum


def test_the_checksum_is_of_names_and_contents_alone(tmp_path):
    """It ignores times, place, threads and skipped files, and differs by a name, a byte, an image more, and who is who."""
    a, b = _encoded(), _encoded()
    base = {"x/1.png": a, "x/2.png": b}
    known = read_image_set(_write(tmp_path / "base", base)).content_hash()
    assert len(known) == 64
    os.utime(tmp_path / "base/x/1.png", (1, 1))
    same = {
        "moved": _write(tmp_path / "elsewhere/deep", base),
        "again": str(tmp_path / "base"),
        "inside": str(tmp_path / "base/x"),
        "packed": _zipped(tmp_path / "p.zip", {f"top/{n}": c for n, c in reversed(base.items())}),
        "other files": _write(tmp_path / "more", base | {"x/readme.txt": b"x", "x/.h.png": a, "bad.png": b""}),
    }
    for what, path in same.items():
        assert read_image_set(path, on_bad="skip", workers=0).content_hash() == known, what
    different = {
        "renamed": {"x/1.png": a, "x/3.png": b},
        "swapped": {"x/1.png": b, "x/2.png": a},
        "more": base | {"x/3.png": a},
        "fewer": {"x/1.png": a},
        "split": {"x/1.png": a, "y/2.png": b},
    }
    hashes = [read_image_set(_write(tmp_path / f"d{i}", f)).content_hash() for i, f in enumerate(different.values())]
    assert len({known, *hashes}) == 6


def test_what_no_checksum_shows_is_named_when_its_turn_comes(tmp_path):
    """A PNG whose writer stored too few pixels under right checksums is found when decoded, and still named."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(9)), b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    found = read_image_set(_write(tmp_path, {"a.png": b"\x89PNG\r\n\x1a\n" + b"".join(parts)}))
    with pytest.raises(UsageError, match=f"{tmp_path}/a.png: is not a readable image, perhaps truncated"):
        list(found.batches(1))


def test_a_file_that_changes_is_an_error(tmp_path):
    """Other pixels of the same size under the same name are not scored as what was checked; nor is a file that went away."""
    _write(tmp_path, {"a.png": _encoded(), "b.png": _encoded()})
    found = read_image_set(str(tmp_path))
    (tmp_path / "b.png").write_bytes(_encoded())
    with pytest.raises(UsageError, match="b.png: has changed since it was first read"):
        list(found.batches(1))
    (tmp_path / "b.png").unlink()
    with pytest.raises(UsageError, match="b.png: cannot be read .No such file"):
        found[1]
    assert found[0].shape == (3, 6, 6)


# ------------------------------------------------------------------------------------------------- what is left out, noted


def test_other_files_are_counted(tmp_path):
    """Text among images is left out and counted by extension, hidden files without a word."""
    extra = {"a.txt": b"", "b.TXT": b"", "labels.csv": b"", "README": b"", ".DS_Store": b"", ".git/x.png": b"no"}
    files = {"1.png": _encoded(), "__MACOSX/1.png": b"no", "s/._1.png": b"no"} | extra
    for path in _kinds(tmp_path, files):
        found = read_image_set(path)
        assert found.names == ["1.png"]
        assert found.notes == ["4 files of other kinds left out (.txt 2, .csv 1, without extension 1)"]


def test_a_sample_set_is_its_images(tmp_path):
    """Of a sample set only images/ counts, in a folder and in an archive of the folder; grid.png is not a sample."""
    files = {"sample.yaml": b"", "grid.png": _encoded(_pixels(50, 50, 3)), "images/0.png": _encoded()}
    paths = [*_kinds(tmp_path, files), _zipped(tmp_path / "top.zip", {f"top/{n}": c for n, c in files.items()})]
    for path in paths:
        found = read_image_set(path)
        assert [n.removeprefix("top/") for n in found.names] == ["images/0.png"] and found.notes == []
    del files["sample.yaml"]
    assert read_image_set(_write(tmp_path / "plain", files)).names == ["grid.png", "images/0.png"]
    with_no_images = {"sample.yaml": b"", "grid.png": _encoded()}
    assert read_image_set(_write(tmp_path / "other", with_no_images)).names == ["grid.png"]


NOTED = {
    "grey": ({"a": _encoded(_pixels(6, 6)), "b": _encoded()}, "1 of 2 images is grey: repeated to RGB where a network needs it"),
    "all grey": ({"a": _encoded(_pixels(6, 6)), "b": _encoded(_pixels(6, 6))}, "all 2 images are grey: repeated"),
    "jpeg": ({"a": _encoded(kind="jpeg")}, "the one image is JPEG: compression alone moves scores"),
    "alpha": (
        {"a": _encoded(np.dstack([_pixels(6, 6, 3), np.full((6, 6), 255, np.uint8)])), "b": _encoded(), "c": _encoded()},
        "1 of 3 images is stored with an alpha channel, opaque everywhere, which is dropped",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOTED)
def test_notes(tmp_path, kind):
    """What a user should know is said once, with its count; nothing is said of the rest."""
    files, expected = NOTED[kind]
    found = read_image_set(_write(tmp_path, {f"{n}.png": c for n, c in files.items()}))
    assert len(found.notes) == 1 and found.notes[0].startswith(expected)


def test_plain_images_need_no_note(tmp_path):
    """PNGs of one size and colour: nothing to say."""
    assert read_image_set(_write(tmp_path, {f"{i}.png": _encoded() for i in range(3)})).notes == []


# ----------------------------------------------------------------------------------------------------------- bad images


def test_all_bad_images_are_named_at_once(tmp_path):
    """In any container: one error names every bad image and its reason before anything is computed, and no good one."""
    jpeg = _encoded(kind="jpeg")
    files = {
        "good.png": _encoded(), "a/text.png": b"hello, world", "b/empty.jpg": b"", "cut.jpg": jpeg[: len(jpeg) // 2],
        "deep.png": _encoded(_pixels(6, 6).astype(np.uint16) * 256),
    }  # fmt: skip
    for path in _kinds(tmp_path, files):
        front = path + ("/" if os.path.isdir(path) else ": ")
        message = _refused(path, f"{front}a/text.png: is not an image", f"{front}b/empty.jpg: is empty (0 bytes)")
        assert f"{front}cut.jpg: is not a readable image" in message and "more than 8 bits" in message
        assert "good" not in message and len(message.splitlines()) == 4
        found = read_image_set(path, on_bad="skip")
        assert found.kept == ["good.png"] and [s.split(": ")[0] for s in found.skipped] == [
            n for n in found.names if n != "good.png"
        ]
        assert found.notes == ["4 images left out that cannot be used"]


def test_of_many_bad_images_ten_are_named(tmp_path):
    """Of thirteen, ten are named and three counted; of ten none is only counted."""
    path = _write(tmp_path, {f"{i:02}.png": b"x" for i in range(13)} | {"good.png": _encoded()})
    message = _refused(path, "09.png", "\n... and 3 more")
    assert "10.png" not in message and len(message.splitlines()) == 11
    for i in range(10, 13):
        (tmp_path / f"{i}.png").unlink()
    assert len(_refused(path).splitlines()) == 10
    assert len(read_image_set(path, on_bad="skip").skipped) == 10


def test_nothing_good_is_an_error_even_when_skipping(tmp_path):
    """A set of bad images alone is no set."""
    _refused(_write(tmp_path, {"a.png": b"x"}), "a.png: is not an image", on_bad="skip")


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_threads_do_not_change_what_is_found(tmp_path, workers):
    """The error is the same text for any number of threads."""
    path = _write(tmp_path, {f"{i:02}.png": b"x" if i % 3 else _encoded() for i in range(40)})
    assert _refused(path, workers=workers) == _refused(path, workers=2)


def test_names_that_cannot_be_printed(tmp_path):
    """A name that is no UTF-8, or would break the line, is read, and shown escaped; a good one has a checksum."""
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    try:
        with open(raw, "wb") as stream:
            stream.write(b"bad")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (tmp_path / "a\nb.png").write_bytes(b"bad")
    message = _refused(tmp_path, "\\udcff\\udcfe.png: is not", "a\\nb.png: is not")
    message.encode()
    assert len(message.splitlines()) == 2
    with open(raw, "wb") as stream:
        stream.write(_encoded())
    found = read_image_set(str(tmp_path), on_bad="skip")
    assert found[0].shape == (3, 6, 6) and len(found.content_hash()) == 64


# --------------------------------------------------------------------------------------------------------------- folders


def test_no_images_says_what_there_is(tmp_path):
    """An empty folder and one of other files say where and for what was looked, and what was found."""
    (tmp_path / "set").mkdir()
    _refused(tmp_path / "set", str(tmp_path / "set"), "no images here", ".jpeg, .jpg, .png", "found no file")
    _write(tmp_path / "set", {"a/x.txt": b"", "b.npy": b"", "c.txt": b""})
    _refused(tmp_path / "set", "found .txt 2, .npy 1")
    _refused(_zipped(tmp_path / "empty.zip", {}), "empty.zip: no images here", "found no file")
    _refused(_tarred(tmp_path / "empty.tar", {}), "empty.tar: no images here", "found no file")


def test_what_is_no_container(tmp_path):
    """Nothing, and a file of another kind, are named with what would be taken."""
    _refused(tmp_path / "absent", "absent: no such folder or archive of images, seen from")
    _refused(
        _write(tmp_path, {"a.png": _encoded()}) + "/a.png",
        "is neither a folder nor an archive (.zip, .tar, .tar.gz, .tgz)",
    )


def test_links(tmp_path):
    """A linked file is an image, a linked folder is not entered but noted, loops end, what leads nowhere is bad."""
    _write(tmp_path / "else", {"x.png": _encoded()})
    root = tmp_path / "set"
    _write(root, {"a.png": _encoded(), "d/b.png": _encoded()})
    (root / "l.png").symlink_to(tmp_path / "else/x.png")
    (root / "loop").symlink_to(root)
    (root / "d/up").symlink_to("..")
    found = read_image_set(str(root))
    assert found.names == ["a.png", "d/b.png", "l.png"] and found.notes == ["2 links or devices not followed"]
    (root / "broken.png").symlink_to("nowhere")
    (root / "self.png").symlink_to("self.png")
    message = _refused(root, "broken.png: cannot be read (No such file or directory)", "self.png: cannot be read (")
    assert len(message.splitlines()) == 2


def test_a_pipe_is_not_waited_for(tmp_path):
    """A named pipe with an image's name is refused, where opening it would never return; a folder so named is a folder."""
    os.mkfifo(tmp_path / "pipe.png")
    _write(tmp_path, {"folder.png/a.png": _encoded()})
    assert len(_refused(tmp_path, "pipe.png: is a pipe or device").splitlines()) == 1


def test_what_may_not_be_read(tmp_path, monkeypatch):
    """Without permission a file is bad, and a folder is an error: its images would be missing without a word."""
    path = _write(tmp_path, {"s/a.png": _encoded(), "b.png": _encoded()})
    real_open, real_scan = open, os.scandir

    def denied(real, end):
        def call(file, *rest):
            if str(file).endswith(end):
                raise PermissionError(13, "Permission denied", str(file))
            return real(file, *rest)

        return call

    monkeypatch.setattr(containers, "open", denied(real_open, "a.png"), raising=False)
    _refused(path, "s/a.png: cannot be read (Permission denied)")
    monkeypatch.setattr(os, "scandir", denied(real_scan, "/s"))
    _refused(path, f"{path}/s: cannot be listed (Permission denied)", on_bad="skip")


def test_too_large_files_are_not_read(tmp_path, monkeypatch):
    """A file beyond the limit of bytes is refused by its size alone, in every container."""
    files = {"a.png": _encoded(), "b.png": _encoded(_pixels(90, 90, 3))}
    monkeypatch.setattr(containers, "MAX_BYTES", 10_000)
    for path in _kinds(tmp_path, files):
        message = _refused(path, "b.png: has 0 MB, more than 0; make it smaller")
        assert len(message.splitlines()) == 1


def test_a_trailing_slash_changes_nothing(tmp_path):
    """`set/` is `set`."""
    path = _write(tmp_path, {"a.png": b""})
    assert _refused(path + "/") == _refused(path)


# -------------------------------------------------------------------------------------------------------------- archives


def test_names_of_archives_stay_inside(tmp_path, monkeypatch):
    """Names that lead out, absolute ones and those of Windows are read in place; nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    names = ["../../evil.png", "/abs/a.png", "./dot.png", "win\\b.png"]
    good = {name: _encoded() for name in names}
    before = sorted(tmp_path.parent.rglob("*"))
    for path in (_zipped(tmp_path / "a.zip", good), _tarred(tmp_path / "a.tar", good)):
        found = read_image_set(path)
        windows = "win/b.png" if path.endswith("zip") else "win\\b.png"
        assert found.names == sorted(["../../evil.png", "abs/a.png", "dot.png", windows])
        assert all(image.shape == (3, 6, 6) for image in found)
    made = set(tmp_path.parent.rglob("*")) - set(before)
    assert made == {tmp_path / "a.zip", tmp_path / "a.tar"}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_repeated_name_is_the_last(tmp_path):
    """As when unpacked, the last of two entries of a name counts; it is noted, and each name is there once."""
    last = _pixels(6, 6, 3)
    files = [("a.png", _encoded()), ("b.png", _encoded()), ("a.png", _encoded(last))]
    for path in (_zipped(tmp_path / "a.zip", files), _tarred(tmp_path / "a.tar", files)):
        found = read_image_set(path)
        assert found.names == ["a.png", "b.png"] and np.array_equal(found[0].permute(1, 2, 0).numpy(), last)
        assert found.notes == ["1 entry of the archive replaced by a later one of its name"]


def test_links_and_devices_of_archives_are_left_out(tmp_path):
    """Links, devices and pipes in an archive are no images and are counted."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            archive.addfile(*_member(f"l{kind.decode()}.png", type=kind, linkname="/etc/passwd"))
        archive.addfile(*_member("folder.png", type=tarfile.DIRTYPE))
        archive.addfile(*_member("a.png", _encoded()))
    link = zipfile.ZipInfo("l.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder.png/", b"")
        archive.writestr("a.png", _encoded())
    for name, note in (("a.tar", "4 links or devices not followed"), ("a.zip", "1 link or device not followed")):
        found = read_image_set(str(tmp_path / name))
        assert found.names == ["a.png"] and found.notes == [note]


def test_an_encrypted_archive_is_said_to_be_one(tmp_path):
    """The flag of encryption is told as such, by the name of the image."""
    path = _zipped(tmp_path / "a.zip", {"a.png": _encoded()})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    _refused(path, "a.zip: a.png: is encrypted; unpack the archive and give its folder")


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_cut_anywhere_is_refused(tmp_path, kind):
    """However short it was cut, an archive is an error that names it, or is read whole: an image is never just missing."""
    files = {f"{i}.png": _encoded(_pixels(20, 20, 3)) for i in range(3)}
    file = tmp_path / f"a.{kind}"
    _zipped(file, files) if kind == "zip" else _tarred(file, files, "w:gz" if kind == "tgz" else "w")
    content, expected = file.read_bytes(), read_image_set(str(file)).content_hash()
    for length in sorted({*range(0, len(content), 193), *range(0, len(content), 512), len(content) - 1}):
        file.write_bytes(content[:length])
        try:
            found = read_image_set(str(file), workers=0)
        except UsageError as error:
            assert str(file) in str(error)
        else:
            assert found.content_hash() == expected, f"cut to {length} of {len(content)} bytes"
    file.write_bytes(content[: len(content) // 2])
    _refused(file, "cannot be read as an archive")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_damaged_archive_is_refused_or_harmless(tmp_path, kind):
    """With bytes overwritten anywhere: an error that names the archive, or every image as it was, under whatever name."""
    files = {f"{i}.png": _encoded(_pixels(8, 8, 3)) for i in range(3)}
    file = tmp_path / f"a.{kind}"
    _zipped(file, files) if kind == "zip" else _tarred(file, files)
    content = file.read_bytes()
    expected = {image.numpy().tobytes() for image in read_image_set(str(file))}
    for position in range(0, len(content), 61):
        file.write_bytes(
            content[:position] + bytes(b ^ 0xFF for b in content[position : position + 4]) + content[position + 4 :]
        )
        try:
            found = read_image_set(str(file), workers=0)
        except UsageError as error:
            assert str(file) in str(error)
        else:
            got = {image.numpy().tobytes() for image in found}
            assert got <= expected and (got == expected or found.notes), f"bytes {position} to {position + 4}"


def test_a_tar_whose_header_is_damaged_does_not_just_end(tmp_path):
    """tarfile takes a damaged header for the end of the archive; the images behind it would be missing without a word."""
    file = tmp_path / "a.tar"
    _tarred(file, {f"{i}.png": _encoded() for i in range(3)})
    content = bytearray(file.read_bytes())
    position = content.index(b"1.png")
    content[position] ^= 0xFF
    file.write_bytes(content)
    _refused(file, f"cannot be read as an archive (cut off or damaged at byte {position})", on_bad="skip")


def test_a_compressed_tar_by_another_name_is_read_and_bounded(tmp_path, monkeypatch):
    """What is compressed is known by its content; one that swells beyond the limit is refused with advice."""
    files = {f"{i}.png": _encoded() for i in range(3)}
    path = _tarred(tmp_path / "a.tar", files, "w:gz")
    assert len(read_image_set(path)) == 3
    monkeypatch.setattr(containers, "MAX_UNPACKED", 5000)
    _refused(path, "a.tar: holds more than 0 GB; unpack it and give its folder")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x1f\x8b", bytes(100)])
def test_what_is_no_archive_inside(tmp_path, name, content):
    """A file that only has an archive's name is refused by it."""
    _refused(_write(tmp_path, {name: content}) + f"/{name}", f"{name}: cannot be read as an archive (")


def test_many_threads_read_one_archive(tmp_path):
    """Eight threads on one archive get every image right."""
    files = {f"{i:03}.png": _encoded(_pixels(9, 9, 3)) for i in range(100)}
    expected = read_image_set(_write(tmp_path / "set", files), workers=0).whole()
    for path in (_zipped(tmp_path / "a.zip", files), _tarred(tmp_path / "a.tar", files)):
        found = read_image_set(path, workers=8)
        assert torch.equal(found.whole(), expected)


def test_the_limit_of_pixels_is_pillows():
    """The limit stated is the one Pillow warns at."""
    assert decoding.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
