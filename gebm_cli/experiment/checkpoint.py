"""Checkpoints: atomic, two kept, read as data only. A checkpoint never runs code."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from gebm_cli.errors import GebmError
from gebm_cli.experiment.files import write_atomically

FORMAT = "gebm checkpoint 1"
KEEP = 2
BEST = "best.pt"  # the state with the best score, beside the newest ones, where a score is watched


def save_checkpoint(folder: Path, stage: str, step: int, state: dict[str, Any]) -> Path:
    """Write `step_NNNNNNNN.pt`, then point `latest` at it, then delete all but the newest two.

    The state is serialised in memory first (its size once more), so that a full disk is an ordinary error that leaves
    the previous checkpoint and the pointer as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    path = folder / f"step_{step:08d}.pt"
    write_checkpoint(path, stage, step, state)
    write_atomically(folder / "latest", f"{path.name}\n".encode())
    for old in sorted(folder.glob("step_*.pt"))[:-KEEP]:
        old.unlink()
    return path


def write_checkpoint(path: Path, stage: str, step: int, state: dict[str, Any]) -> None:
    """One checkpoint file, atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "stage": stage, "step": step, "state": state}, buffer)
    write_atomically(path, buffer.getvalue())


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `latest` names, or None where none was written."""
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    return folder / Path(pointer.read_text(encoding="utf-8").strip()).name


def load_checkpoint(path: Path, stage: str) -> dict[str, Any]:
    """The state in a checkpoint of this stage, on the CPU.

    Raises:
        GebmError: it is missing, truncated, of another program, of another stage, or holds code.
    """
    others = sorted(p.name for p in path.parent.glob("step_*.pt") if p != path)
    remedy = (
        f"write {others[-1]} into {path.parent / 'latest'} to go back to it" if others else "train this stage again"
    )
    if path.name == BEST and others:
        remedy = f"delete it to use the newest networks, {others[-1]}, instead"
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise GebmError(
            f"{path}: refused, because it holds something other than tensors and numbers; {remedy}"
        ) from None
    except FileNotFoundError:
        raise GebmError(f"{path}: no such checkpoint; {remedy}") from None
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        raise GebmError(f"{path}: is damaged or not a checkpoint, perhaps cut short while copied; {remedy}") from None
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        raise GebmError(f"{path}: was not written by gebm (expected format '{FORMAT}'); {remedy}")
    if loaded["stage"] != stage:
        raise GebmError(f"{path}: is a checkpoint of {loaded['stage']}, expected one of {stage}; {remedy}")
    return loaded["state"]
