"""Whether the files that a command is to write can be written; imports no torch, so that a slip is told at once."""

from __future__ import annotations

from pathlib import Path

from gebm_cli.errors import UsageError
from gebm_cli.experiment.files import require_free

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def require_writable(picture: str | None, record: str | None) -> None:
    """Refuse, before anything is read, a picture or a record that cannot be written."""
    if picture is not None:
        require_suffix(picture)
    if record is not None and not record.endswith((".yaml", ".yml")):
        raise UsageError(f"--record {record}: expected a name that ends in .yaml")
    for flag, name in (("--picture", picture), ("--record", record)):
        if name is not None:
            require_free(Path(name))
            if not Path(name).absolute().parent.is_dir():
                raise UsageError(f"{flag} {name}: its folder does not exist; make it, or name a file in another one")


def require_suffix(picture: str) -> None:
    """Refuse a name under which no picture can be written."""
    if Path(picture).suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"{picture}: a picture's name must end in one of {', '.join(PICTURE_SUFFIXES)}")
