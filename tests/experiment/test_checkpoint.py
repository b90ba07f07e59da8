"""Checkpoints: atomic, two kept, and never code."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from gebm_cli.errors import GebmError
from gebm_cli.experiment import checkpoint
from gebm_cli.experiment.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture
def folder(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "c", "train-base", step, {"x": torch.arange(step)})
    return tmp_path / "c"


def test_the_newest_two_are_kept_and_latest_points_at_the_last(folder):
    """Older ones go only after the new one and the pointer are safe."""
    assert sorted(os.listdir(folder)) == ["latest", "step_00000002.pt", "step_00000003.pt"]
    path = latest_checkpoint(folder)
    assert path is not None and load_checkpoint(path, "train-base")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("written", [b"", b"PK\x03\x04 not really", None])
def test_a_truncated_or_foreign_file_is_refused_with_a_way_back(folder, written):
    """The message names the file and the checkpoint to go back to."""
    path = folder / "step_00000003.pt"
    path.write_bytes(path.read_bytes()[:300] if written is None else written)
    with pytest.raises(GebmError, match=r"step_00000003\.pt: is damaged .* write step_00000002\.pt into"):
        load_checkpoint(path, "train-base")


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(folder, tmp_path):
    """A pickle that would call a function is not unpickled."""
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    path = folder / "step_00000003.pt"
    torch.save({"format": checkpoint.FORMAT, "stage": "train-base", "state": Attack()}, path)
    with pytest.raises(GebmError, match="refused, because it holds something other than tensors and numbers"):
        load_checkpoint(path, "train-base")
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(GebmError):
        load_checkpoint(path, "train-base")
    assert not marker.exists()


def test_another_program_and_another_stage_are_told_apart(folder):
    """A tensor file of something else, and a checkpoint of the other stage."""
    path = folder / "step_00000003.pt"
    with pytest.raises(GebmError, match="is a checkpoint of train-base, expected one of train-energy"):
        load_checkpoint(path, "train-energy")
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(GebmError, match="was not written by gebm"):
        load_checkpoint(path, "train-base")
    with pytest.raises(GebmError, match="no such checkpoint"):
        load_checkpoint(folder / "step_00000009.pt", "train-base")


def test_a_full_disk_keeps_the_previous_checkpoint(folder, monkeypatch):
    """When the new one cannot be written, pointer and previous checkpoints are as they were."""

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GebmError, match=r"step_00000004\.pt: cannot be written: No space left"):
        save_checkpoint(folder, "train-base", 4, {"x": torch.zeros(1)})
    assert sorted(os.listdir(folder)) == ["latest", "step_00000002.pt", "step_00000003.pt"]
    assert latest_checkpoint(folder) == folder / "step_00000003.pt"
