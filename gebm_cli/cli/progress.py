"""Progress on stderr: a panel or a bar on a terminal, plain lines elsewhere, nothing where quiet is wanted. stdout stays clean."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from gebm_cli.cli.measures import ERROR
from gebm_cli.cli.panel import Board
from gebm_cli.experiment.durations import clock

PLAIN_EVERY_S = 10.0
QUIET = "GEBM_QUIET"
PER_SECOND = 4  # drawings of the panel


class Report(Protocol):
    """Tell that `done` of `total` is done, with figures worth showing."""

    def __call__(self, done: int, total: int, figures: dict[str, float]) -> None: ...


# --------------------------------------------------------------------------------------------------------------- quiet


def quieten(context: typer.Context, wanted: bool) -> bool:
    """The callback of --quiet, wherever it stands: before the command or after it. It lasts until the command is over."""
    if wanted and not os.environ.get(QUIET):
        os.environ[QUIET] = "1"
        context.call_on_close(lambda: os.environ.pop(QUIET, None))
    return wanted


def is_quiet() -> bool:
    """Whether progress is unwanted: by --quiet, or since of all processes of torchrun the first one speaks."""
    return bool(os.environ.get(QUIET)) or os.environ.get("RANK", "0") != "0"


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=quieten, help="No progress; warnings, errors and the result as always."),
]


def say(line: str) -> None:
    """A line on stderr that is no warning, left out where quiet is wanted."""
    if not is_quiet():
        print(line, file=sys.stderr, flush=True)


def _is_terminal() -> bool:
    """Whether stderr can redraw what it shows."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _can_draw() -> bool:
    return _is_terminal() and Console(stderr=True).encoding.startswith("utf")


# ------------------------------------------------------------------------------------------------------ one piece of work


@contextmanager
def progress(title: str, unit: str = "steps", panel: bool = False) -> Iterator[Report]:
    """A report function for one piece of long work; `panel`: with the histories of its figures, for work of minutes and more."""
    if is_quiet():
        yield lambda done, total, figures: None
    elif panel and _can_draw():
        with _shown(Board(title)) as board:
            board.begin("", unit)
            yield board.report
    elif _is_terminal():
        yield from _live(title, unit)
    else:
        yield _plain(title, unit)


@contextmanager
def _shown(board: Board) -> Iterator[Board]:
    """The panel while the work goes on, then one line in its place; the cursor is back however the work ends."""
    console = Console(stderr=True, highlight=False)
    try:
        with Live(
            console=console,
            get_renderable=lambda: board,
            refresh_per_second=PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # elsewhere it would end up on stderr
            vertical_overflow="crop",
        ):
            yield board
    finally:
        console.show_cursor(True)
        if summary := board.summary():
            console.print(Text(summary), style="dim", soft_wrap=True)


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
        return Text(f"{speed:.4g} {self.unit}/s  ETA {clock((task.total - task.completed) / speed)}", style="cyan")


def _live(title: str, unit: str) -> Iterator[Report]:
    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(10), MofNCompleteColumn(), TimeElapsedColumn(), _Speed(unit))
    room = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    figures = TextColumn("{task.fields[figures]}", style="dim", markup=False, table_column=room)
    with Progress(
        *columns,
        figures,
        console=Console(stderr=True),
        expand=True,
        refresh_per_second=PER_SECOND,
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task(title, total=None, figures="", first=None)

        def report(done: int, total: int, figures: dict[str, float]) -> None:
            if bar.tasks[task].fields["first"] is None:
                bar.update(task, first=done)
            bar.update(task, completed=done, total=total)
            if figures:
                bar.update(task, figures=_spell(figures))

        yield report


def _spell(figures: dict[str, float]) -> str:
    """`kale-train 0.929 +- 0.013`: a standard error beside what it is of."""

    def told(name: str, value: float) -> str:
        error = figures.get(name + ERROR)
        return f"{name.replace('_', '-')} {value:.4g}" + ("" if error is None else f" +- {error:.2g}")

    own = [name for name in figures if not (name.endswith(ERROR) and name.removesuffix(ERROR) in figures)]
    return "  ".join(told(name, figures[name]) for name in own)


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
        ahead = f"  {speed:.4g} {unit}/s  ETA {clock((total - done) / speed)}" if speed > 0 and done < total else ""
        print(f"{title}: {done}/{total} {unit}{ahead}  {_spell(figures)}".rstrip(), file=sys.stderr, flush=True)

    return report


# ------------------------------------------------------------------------------------------------ work in several phases


class Counter:
    """Adds up increments and reports the sum; call it with an increment."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def __call__(self, increment: int) -> None:
        self.done += increment
        self.report(self.done, self.total, {})


class Phases:
    """Tell what begins, its unit and its total; the phase before it is over then."""

    def __init__(self, title: str, board: Board | None, present: ExitStack) -> None:
        self._title, self._board, self._present = title, board, present

    def __call__(self, what: str, unit: str, total: int) -> Callable[[int], None]:
        if self._board is not None:
            self._board.begin(what, unit)
            self._board.report(0, total, {})
            return Counter(self._board.report, total)
        self._present.close()
        return Counter(self._present.enter_context(progress(f"{self._title}, {what}", unit)), total)

    def conclude(self, text: str) -> None:
        """What came of it, in a few words, for the line that a panel leaves."""
        if self._board is not None:
            self._board.conclude(text)


@contextmanager
def phases(title: str, panel: bool = False) -> Iterator[Phases]:
    """For work in several phases, with one panel for all of them or a bar for each."""
    with ExitStack() as stack:
        board = stack.enter_context(_shown(Board(title))) if panel and _can_draw() and not is_quiet() else None
        yield Phases(title, board, stack.enter_context(ExitStack()))
