"""Files by their names in a folder, a .zip or a .tar, read where they lie. Nothing of an archive is unpacked by its name."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import IO

from gebm_cli.core.data.decoding import SUFFIXES, BadImage
from gebm_cli.core.data.images import DAMAGED, one_line
from gebm_cli.errors import UsageError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_BYTES = 2**29  # of one file; the largest image that is decoded has 270 MB of pixels
MAX_UNPACKED = 2**35  # of a compressed .tar
KINDS = 10  # extensions of other files that are named
_FAILURES = (*DAMAGED, tarfile.TarError)


@dataclass(frozen=True)
class Container:
    """The files of a folder or archive.

    Attributes:
        names: of regular files, '/'-separated, each once, in no order.
        read: the bytes of one of them; from any thread. Raises `BadImage`.
        links: number of links to folders, and of links and devices in an archive, which are left out.
        repeated: number of names that are more than once in an archive; the last counts, as when it is unpacked.
        separator: between the path of the container and a name.
    """

    names: list[str]
    read: Callable[[str], bytes]
    links: int
    repeated: int = 0
    separator: str = ": "


def open_container(path: str) -> Container:
    """The files below a folder, or in an archive.

    Raises:
        UsageError: there is nothing, it is something else, damaged or cannot be listed.
    """
    if os.path.isdir(path):
        return _folder(path)
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such folder or archive of images, seen from {Path.cwd()}")
    if not os.path.isfile(path) or not path.lower().endswith(ARCHIVES):
        raise UsageError(f"{path}: is neither a folder nor an archive ({', '.join(ARCHIVES)}) of images")
    try:
        return _zip(path) if path.lower().endswith(".zip") else _tar(path)
    except _FAILURES as error:
        raise UsageError(f"{path}: cannot be read as an archive ({_reason(error)}); make it again") from None


def _folder(path: str) -> Container:
    names, links = [], 0

    def failed(error: OSError) -> None:
        raise UsageError(f"{printable(error.filename)}: cannot be listed ({error.strerror})")

    for here, folders, files in os.walk(path, onerror=failed):
        below = os.path.relpath(here, path).replace(os.sep, "/") + "/"
        folders[:] = [f for f in folders if not f.startswith(".")]
        links += sum(os.path.islink(os.path.join(here, f)) for f in folders)  # os.walk does not enter them
        names += [(below + f).removeprefix("./") for f in files]
    return Container(names, _told(lambda name: _read_file(os.path.join(path, name))), links, separator="/")


def _read_file(file: str) -> bytes:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise BadImage("is a pipe or device, not a file; remove it")
    _check_size(status.st_size)
    with open(file, "rb") as stream:
        return stream.read()


def _zip(path: str) -> Container:
    archive, lock = zipfile.ZipFile(path), Lock()
    listed = [info for info in archive.infolist() if not info.is_dir()]
    regular = [info for info in listed if not stat.S_ISLNK(info.external_attr >> 16)]
    members = {_plain(info.filename.replace("\\", "/")): info for info in regular}  # some Windows tools write \

    def read(name: str) -> bytes:
        if members[name].flag_bits & 1:
            raise BadImage("is encrypted; unpack the archive and give its folder")
        _check_size(members[name].file_size)
        with lock:  # zipfile shares one open file, and counts its readers without one
            return archive.read(members[name])

    return Container(list(members), _told(read), len(listed) - len(regular), len(regular) - len(members))


def _tar(path: str) -> Container:
    stream, lock = _uncompressed(path), Lock()
    archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  (open as long as the container)
    listed = [member for member in archive.getmembers() if not member.isdir()]
    stream.seek(archive.offset)
    if stream.read(512) != bytes(512):  # tarfile takes a damaged header for the end, and the rest would be missing
        raise tarfile.ReadError(f"cut off or damaged at byte {archive.offset}")
    regular = [member for member in listed if member.isreg()]
    members = {_plain(member.name): member for member in regular}

    def read(name: str) -> bytes:
        _check_size(members[name].size)
        with lock:
            content = archive.extractfile(members[name])
            return content.read() if content else b""

    return Container(list(members), _told(read), len(listed) - len(regular), len(regular) - len(members))


def _uncompressed(path: str) -> IO[bytes]:
    """The .tar itself; of a compressed one, which has no places to jump to, a temporary file that vanishes when closed."""
    stream: IO[bytes] = open(path, "rb")  # noqa: SIM115
    compressed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    if not compressed:
        return stream
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    with stream, gzip.open(stream) as source:
        while block := source.read(2**20):
            if spool.tell() + len(block) > MAX_UNPACKED:
                raise UsageError(f"{path}: holds more than {MAX_UNPACKED / 1e9:.0f} GB; unpack it and give its folder")
            spool.write(block)
    spool.seek(0)
    return spool


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImage(f"has {size / 1e6:,.0f} MB, more than {MAX_BYTES / 1e6:,.0f}; make it smaller")


def _told(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`read`, with what is raised on unreadable files told as `BadImage`."""

    def told(name: str) -> bytes:
        try:
            return read(name)
        except _FAILURES as error:
            raise BadImage(f"cannot be read ({_reason(error)}); remove or replace it") from None

    return told


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)


# ---------------------------------------------------------------------------------------------------------------- names


def candidates(path: str, container: Container) -> tuple[list[str], list[str]]:
    """The sorted names of those files of the container at `path` that are images by their extension, and what was left out.

    Raises:
        UsageError: there is none; the message says what there is.
    """
    visible = [n for n in container.names if not _hidden(n)]
    top = shared_folder(visible)
    pictures = f"{top}images/"
    if f"{top}sample.yaml" in visible and any(n.startswith(pictures) for n in visible):
        visible = [n for n in visible if n.startswith(pictures)]  # a sample set, beside whose images lies grid.png
    names = sorted(n for n in visible if _suffix(n) in SUFFIXES)
    others = Counter(_suffix(n) or "without extension" for n in visible if _suffix(n) not in SUFFIXES)
    kinds = ", ".join(f"{suffix} {n}" for suffix, n in sorted(others.items(), key=lambda o: (-o[1], o[0]))[:KINDS])
    if not names:
        looked = f"looked, also in sub-folders, for {', '.join(sorted(SUFFIXES))}"
        raise UsageError(f"{path}: no images here; {looked}; found {printable(kinds) or 'no file'}")
    notes = [f"{count(others.total(), 'file')} of other kinds left out ({printable(kinds)})"] if others else []
    if container.links:
        notes.append(f"{count(container.links, 'link or device', 'links or devices')} not followed")
    if container.repeated:
        notes.append(
            f"{count(container.repeated, 'entry', 'entries')} of the archive replaced by a later one of its name"
        )
    return names, notes


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.split("/"))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def shared_folder(names: list[str]) -> str:
    """The folder that all names lie in, with a '/' at its end, or nothing."""
    folders = [n.split("/")[:-1] for n in names] or [[]]
    same = takewhile(lambda parts: parts[0] == parts[1], zip(min(folders), max(folders), strict=False))
    return "".join(f"{part}/" for part, _ in same)


def printable(name: str) -> str:
    """A name as it can be shown on one line: what is no UTF-8 and what would move the cursor becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
