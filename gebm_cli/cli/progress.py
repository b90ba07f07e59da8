"""Live progress on stderr: a bar with figures, speed and ETA on a terminal, plain lines elsewhere. stdout stays clean."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

PLAIN_EVERY_S = 10.0


class Report(Protocol):
    """Tell that `done` of `total` is done, with figures worth showing."""

    def __call__(self, done: int, total: int, figures: dict[str, float]) -> None: ...


def _spell(figures: dict[str, float]) -> str:
    return "  ".join(f"{name.replace('_', '-')} {value:.4g}" for name, value in figures.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class _Speed(ProgressColumn):
    """Speed since the start of this session, and the time left at that speed."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        done = task.completed - (task.fields["first"] or 0)
        if not done or not task.elapsed or task.total is None:
            return Text("")
        speed = done / task.elapsed
        return Text(f"{speed:.4g} {self.unit}/s  ETA {_clock((task.total - task.completed) / speed)}", style="cyan")


@contextmanager
def progress(title: str, unit: str = "steps") -> Iterator[Report]:
    """A report function for one piece of long work."""
    if sys.stderr.isatty():
        yield from _live(title, unit)
    else:
        yield _plain(title, unit)


def _live(title: str, unit: str) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(10), MofNCompleteColumn(), TimeElapsedColumn(), _Speed(unit))
    figures = TextColumn("[dim]{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    with Progress(*columns, figures, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(title, total=None, figures="", first=None)

        def report(done: int, total: int, figures: dict[str, float]) -> None:
            if bar.tasks[task].fields["first"] is None:
                bar.update(task, first=done)
            bar.update(task, completed=done, total=total)
            if figures:
                bar.update(task, figures=_spell(figures))

        yield report


def _plain(title: str, unit: str) -> Report:
    start = time.monotonic()
    first: int | None = None
    shown = 0.0

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal first, shown
        first = done if first is None else first
        elapsed = time.monotonic() - start
        if elapsed - shown < PLAIN_EVERY_S and done < total:
            return
        shown = elapsed
        speed = (done - first) / elapsed if elapsed > 0 else 0.0
        ahead = f"  {speed:.4g} {unit}/s  ETA {_clock((total - done) / speed)}" if speed > 0 and done < total else ""
        print(f"{title}: {done}/{total}{ahead}  {_spell(figures)}".rstrip(), file=sys.stderr, flush=True)

    return report


class Counter:
    """Adds up increments and reports the sum; call it with an increment."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def __call__(self, increment: int) -> None:
        self.done += increment
        self.report(self.done, self.total, {})


@contextmanager
def phases(title: str) -> Iterator[Callable[[str, str, int], Callable[[int], None]]]:
    """For work in several phases: tell what begins, its unit and its total; the phase before it is over then."""
    with ExitStack() as open_phase:

        def begin(what: str, unit: str, total: int) -> Callable[[int], None]:
            open_phase.close()
            return Counter(open_phase.enter_context(progress(f"{title} {what}", unit)), total)

        yield begin
