"""A page as a file: it bears a mark, so that a page may be written again and nobody else's file is. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from gebm_cli.errors import UsageError
from gebm_cli.experiment.files import write_atomically

MARK = b"<!-- written by gebm -->\n"  # behind the page
SUFFIXES = (".html", ".htm")


def write_page(path: Path, html: str) -> None:
    """Write a page with its mark, atomically.

    Raises:
        GebmError: it cannot be written; the previous file, if any, is untouched.
    """
    write_atomically(path, html.encode("utf-8", "replace") + MARK)


def require_page_place(path: Path, flag: str = "") -> None:
    """That a page may be written to `path`; `flag` (`--out`) is what it was given by, empty where nobody gave it.

    Raises:
        UsageError: its name does not end in .html, its folder is not there, or something stands there that is no page of ours.
    """
    told = f"{flag} {path}".strip()
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{told}: expected a name that ends in .html")
    if flag and not path.absolute().parent.is_dir():
        raise UsageError(f"{told}: its folder does not exist; make it, or name a file in another one")
    if path.is_dir() or (path.exists() and not is_page(path)):
        way_out = "name another file" if flag else "move it, or name another file with --out"
        raise UsageError(f"{told}: exists already and is no page of gebm, and nothing is overwritten; {way_out}")


def is_page(path: Path) -> bool:
    """Whether a file bears the mark."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(MARK), os.SEEK_END)
            return file.read() == MARK
    except OSError:
        return False
