"""TensorBoard's event files of a training, beside metrics.jsonl: for those who watch their runs there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gebm_cli.errors import GebmError, UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_S = 10  # TensorBoard's own 120 is long for who watches, and all of it is lost with a killed process


class Report(Protocol):
    """Told that `done` of `total` steps are done, and the figures there."""

    def __call__(self, done: int, total: int, figures: dict[str, float]) -> None: ...


def require_tensorboard() -> None:
    """Refuse before any work where event files cannot be written. Imports torch.

    Raises:
        UsageError: the package is missing, or does not fit torch.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--tensorboard: needs the package tensorboard, which cannot be imported ({error}); "
            "`pip install 'gebm-cli[tensorboard]'` brings it"
        ) from None


@contextmanager
def event_files(run: Path, stage: str) -> Iterator[Report]:
    """A report of (done, total, figures) that writes each figure as the scalar `stage/name` into `run`/tensorboard/`stage`/.

    The first report tells where the session begins: what an earlier one wrote of later steps, as after a checkpoint that was gone
    back to, is marked as void, as the lines of metrics.jsonl are dropped.

    Raises:
        GebmError: the folder cannot be written.
    """
    folder = run / "tensorboard" / stage
    begun: int | None = None
    writer: SummaryWriter | None = None

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal begun, writer
        begun = done if begun is None else begun
        if not figures:
            return
        writer = writer or _open(folder, begun + 1 if begun else 0)
        for name, value in figures.items():
            writer.add_scalar(f"{stage}/{name}", value, done, new_style=False)

    try:
        yield report
    finally:
        if writer is not None:
            writer.close()


def _open(folder: Path, void_from: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=void_from, flush_secs=FLUSH_S)
    except OSError as error:
        raise GebmError(f"{folder}: cannot be written: {error.strerror or error}") from None
