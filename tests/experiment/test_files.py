"""Atomic writes: the old content survives whatever happens to the new."""

from __future__ import annotations

import errno
import os

import pytest

from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.files import folder_appears_whole, make_numbered, read_yaml, write_atomically


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    """ENOSPC while writing is one sentence, and nothing half-written stays."""
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GebmError, match="No space left on device; nothing was changed"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    """A failure inside removes what was made; success renames it; an existing folder is never overwritten."""
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        with folder_appears_whole(target) as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    target.mkdir()  # a name kept free by its process
    with folder_appears_whole(target) as folder:
        (folder / "whole").write_text("x")
    assert (target / "whole").exists()
    with pytest.raises(UsageError, match="nothing is overwritten"), folder_appears_whole(target):
        pass


def test_numbers_count_up_and_broken_yaml_is_named(tmp_path):
    """x-001, x-002, ...; a damaged record is an error that names the file."""
    assert [make_numbered(tmp_path, "x").name for _ in range(2)] == ["x-001", "x-002"]
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(GebmError, match=r"bad\.yaml: is not readable as YAML"):
        read_yaml(tmp_path / "bad.yaml")
