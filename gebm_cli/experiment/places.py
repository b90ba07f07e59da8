"""Where a set that is named on the command line may lie, and whether it is there whole."""

from __future__ import annotations

from pathlib import Path

from gebm_cli.errors import UsageError
from gebm_cli.experiment.files import partial_folder, read_yaml


def places(text: str, root: Path) -> tuple[Path, ...]:
    """A path, RUN or a path below the runs folder, and RUN/SET there."""
    run, _, sample_set = text.partition("/")
    return Path(text), root / text, root / run / "samples" / (sample_set or "?")


def require_finished(text: str, root: Path) -> None:
    """Refuse a sample set that was stopped: no folder or an empty one, and beside it the hidden folder of its work.

    Raises:
        UsageError: with the command that goes on with it.
    """
    for place in places(text, root):
        if not place.name or (place.exists() and not (place.is_dir() and not any(place.iterdir()))):
            continue
        order = partial_folder(place) / "order.yaml"
        if order.is_file():
            saved = read_yaml(order)
            command = "flow" if isinstance(saved, dict) and "flow" in saved else "sample"
            raise UsageError(f"{text}: this set was stopped; `gebm {command} --resume {place}` goes on")
