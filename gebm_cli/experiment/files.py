"""Writing so that a crash, a full disk or a second process never leaves half a file."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from gebm_cli.errors import GebmError, UsageError

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast, where it was built in


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, flush, fsync, rename: the old content stays until the new one is safe on the disk.

    Raises:
        GebmError: it cannot be written; the previous file, if any, is untouched.
    """
    with written_atomically(path) as file:
        file.write(content)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends; as `write_atomically`, for what is too large to copy.

    Raises:
        GebmError: it cannot be written; the previous file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise GebmError(f"{path}: cannot be written: {error.strerror}; nothing was changed") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the system allows a folder to be synced."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_yaml(path: Path, value: Any) -> None:
    """Write plain types as YAML, atomically."""
    write_atomically(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())


def read_yaml(path: Path) -> Any:
    """Read YAML written by `write_yaml`.

    Raises:
        GebmError: it cannot be read or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=SAFE_LOADER)
    except OSError as error:
        raise GebmError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise GebmError(f"{path}: is not readable as YAML; it was not written by gebm, or was changed") from None


def when(file: Path, described: dict[str, Any]) -> float:
    """When a record was written, in seconds: by its own word, else by the file's time, which copying changes."""
    try:
        return datetime.fromisoformat(str(described["written"])).timestamp()
    except (KeyError, ValueError):
        return file.stat().st_mtime


def make_numbered(folder: Path, stem: str, suffix: str = "") -> Path:
    """Make the first free `stem-001`, `stem-002`, ...: a folder, or with a suffix an empty file.

    It is made exclusively, so two processes never get the same name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / f"{stem}-{number:03d}{suffix}"
        with suppress(FileExistsError):
            path.touch(exist_ok=False) if suffix else path.mkdir()
            return path
    raise AssertionError("unreachable")


def require_free(path: Path) -> None:
    """Raise UsageError where `path` exists and is not an empty folder, which is a name kept free."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path}: exists already, and nothing is overwritten; name another, or remove it")


def partial_folder(path: Path) -> Path:
    """The hidden folder beside `path` in which it is filled."""
    return path.with_name(f".{path.name}.partial")


def unfinished(parent: Path) -> list[Path]:
    """The paths in `parent` that are being filled, or were when their process stopped."""
    return sorted(p.with_name(p.name[1 : -len(".partial")]) for p in parent.glob(".*.partial"))


@contextmanager
def name_given_back(path: Path) -> Iterator[None]:
    """Where the block fails and leaves nothing to go on with, an empty folder at `path`, a name kept free, goes."""
    try:
        yield
    except BaseException:
        if not partial_folder(path).exists():
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def folder_appears_whole(
    path: Path, keep: Callable[[Path, BaseException], bool] = lambda folder, error: False
) -> Iterator[Path]:
    """Fill a hidden folder beside `path`; it takes the name `path` only when the block succeeds.

    What is in the hidden folder already is used, so that work can go on; when the block fails, `keep(folder, error)` says whether
    it stays there. An empty folder at `path` is a name kept free for this one, and goes with it.

    Raises:
        UsageError: `path` exists and is not an empty folder.
    """
    require_free(path)
    temporary = partial_folder(path)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        if keep(temporary, error):
            if isinstance(error, OSError):
                raise GebmError(
                    f"{path}: cannot be written: {error.strerror or error}; what was done is kept"
                ) from None
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            path.rmdir()
        if isinstance(error, OSError):
            raise GebmError(f"{path}: cannot be written: {error.strerror or error}; nothing of it is left") from None
        raise
