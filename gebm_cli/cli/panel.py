"""The live panel: what a long work tells of itself, drawn in at most 80 x 24 characters or whatever the terminal has.

It shows only figures that it is given, so it costs the work no synchronisation with a device. The work reports from one thread
and rich draws from another; a lock keeps a drawing whole.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from threading import Lock

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.text import Text

from gebm_cli.cli.measures import ERROR, Figure, History, Pace, direction, memory
from gebm_cli.cli.sparkline import sparkline
from gebm_cli.experiment.durations import clock

MOST_ROWS = 14  # of figures; the panel is to leave room for what was there before
MEMORY_S = 1.0


class Board:
    """What is shown: the phases of a work, how far the present one is and how fast, and its figures."""

    def __init__(
        self,
        title: str,
        now: Callable[[], float] = time.monotonic,
        memory: Callable[[], list[str]] = memory,
    ) -> None:
        self.title, self._now, self._memory = title, now, memory
        self._lock = Lock()
        self._over: list[str] = []
        self._conclusion = ""
        self._asked, self._told_memory = -math.inf, [""]
        self._start("", "")

    def _start(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self._pace, self._figures, self._speed = Pace(self._now()), dict[str, Figure](), History()

    def begin(self, what: str, unit: str) -> None:
        """A phase begins, and the one before is over."""
        with self._lock:
            if self.unit:
                self._over.append(self._phase())
            self._start(what, unit)

    def report(self, done: int, total: int, figures: dict[str, float]) -> None:
        with self._lock:
            if self._pace.tell(done, total, self._now()):
                self._speed.add(self._pace.recent or 0.0)
            for name, value in figures.items():
                if not name.endswith(ERROR):
                    figure = self._figures.get(name)
                    if figure is None:
                        figure = self._figures[name] = Figure()
                    figure.add(value, done, direction(name))
                    figure.error = figures.get(name + ERROR)

    def conclude(self, text: str) -> None:
        """What came of it, for the last line."""
        with self._lock:
            self._conclusion = text

    # ------------------------------------------------------------------------------------------------------ drawing it

    def summary(self) -> str:
        """The one line that is left when the panel goes: how far each phase came, and in what time; empty if nothing was begun."""
        with self._lock:
            if self._pace.first is None and not self._over:
                return ""
            line = f"{self.title}: {', '.join([*self._over, self._phase()])}"
            return f"{line}; {self._conclusion}" if self._conclusion else line

    def _phase(self) -> str:
        pace, now = self._pace, self._now()
        count = f"{pace.done:,}" if pace.done == pace.total else f"{pace.done:,}/{pace.total:,}"
        speed = pace.overall(now)
        rate = f", {_rate(speed)} {self.unit}/s" if speed else ""
        return f"{self.what} {count} {self.unit} in {clock(now - pace.start)}{rate}".strip()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = console.height - 1  # the last line is the cursor's
        width = options.max_width - 2  # the terminal's `^C` has room on the last line, so the panel stays where it is
        framed = height >= 7 and width >= 20
        with self._lock:
            lines = self._lines(width - 4, height - 2) if framed else self._bare(max(width, 1), max(height, 1))
        text = Text("\n", no_wrap=True, overflow="crop").join(lines)
        title = Text(_fitting(self.title, width - 8))
        yield Panel(text, title=title, border_style="dim", width=width) if framed else text

    def _bare(self, width: int, height: int) -> list[Text]:
        """On a terminal that has no room for a frame."""
        title = [Text(_fitting(self.title, width))] if height > 3 else []
        return title + self._lines(width, height - len(title))

    def _lines(self, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` characters."""
        lines = [self._bar(width), *self._facts(width)]
        if self._over:
            lines.append(Text(_fitting(f"before: {', '.join(self._over)}", width), style="dim"))
        return (lines + self._rows(width, min(height - len(lines), MOST_ROWS)))[:height]

    def _bar(self, width: int) -> Text:
        pace = self._pace
        if not pace.total:
            return Text(_fitting(f"{self.what or 'starting'} ...", width))
        share = min(pace.done / pace.total, 1.0)
        before = f"{self.what} " if self.what else ""
        after = f" {pace.done:,}/{pace.total:,} {self.unit} {math.floor(100 * share)} %"
        room = width - len(before) - len(after)
        if room < 5:
            return Text(_fitting((before + after.strip()), width))
        full = math.floor(share * room)
        return Text.assemble(before, ("━" * full, "green"), ("─" * (room - full), "dim"), after)

    def _facts(self, width: int) -> list[Text]:
        """Speed, times and memory, on as many lines as they need."""
        now, pace = self._now(), self._pace
        if now - self._asked >= MEMORY_S:
            self._asked, self._told_memory = now, self._memory()
        overall, left = pace.overall(pace.told), pace.left(now)
        facts = [] if pace.recent is None else [f"{_rate(pace.recent)} {self.unit}/s"]
        if facts and overall is not None:
            facts[0] += f" ({_rate(overall)} overall)"
        facts += [] if left is None else [f"ETA {clock(left)}"]
        lines = [""]
        for fact in [*facts, f"elapsed {clock(now - pace.start)}", *self._told_memory]:
            joined = f"{lines[-1]}   {fact}" if lines[-1] else fact
            lines[-1:] = [joined] if len(joined) <= width else [lines[-1], fact]
        return [Text(_fitting(line, width), style="cyan") for line in lines if line]

    def _rows(self, width: int, most: int) -> list[Text]:
        """A line for each figure: scores first, its sparkline, its newest value and its best one."""
        ordered = sorted(self._figures, key=lambda name: (not name.startswith("watched"), name == "lr"))
        shown = {name.replace("_", "-"): self._figures[name] for name in ordered}
        if self._speed.values() and len(shown) < most:
            shown[f"{self.unit}/s"] = Figure(self._speed)
        if len(shown) > most > 0:
            names = list(shown)
            hidden = Text(
                _fitting(f"and {len(names) - most + 1} more: {', '.join(names[most - 1 :])}", width), style="dim"
            )
            return [*_table(dict(list(shown.items())[: most - 1]), width), hidden]
        return _table(shown, width) if most > 0 else []


def _table(shown: dict[str, Figure], width: int) -> list[Text]:
    if not shown:
        return []
    newest = [figure.newest() for figure in shown.values()]
    bests = ["" if f.best is None else f"best {f.best:.4g} at {f.best_step}" for f in shown.values()]
    for_name = min(max(map(len, shown)), max(width // 3, 8))
    for_value, for_error, for_best = (max(map(len, texts)) for texts in (*zip(*newest, strict=True), bests))
    room = width - for_name - for_value - 4
    for_error = for_error if room - for_error >= 4 else 0  # what does not fit goes: the best first, then the error
    room -= for_error
    for_best = for_best + 2 if for_best and room - for_best - 2 >= 10 else 0
    room -= for_best
    lines = []
    for (name, figure), (value, error), best in zip(shown.items(), newest, bests, strict=True):
        line = Text(f"{_fitting(name, for_name):<{for_name}}  ")
        if room >= 4:
            line.append(f"{sparkline(figure.history.values(), room):<{room}}  ", style="cyan")
        line.append(f"{value:>{for_value}}", style="bold")
        line.append(f"{error[:for_error]:<{for_error}}", style="dim")
        if for_best:
            line.append(f"  {best}", style="green")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 1000 else f"{speed:.3g}"


def _fitting(text: str, width: int) -> str:
    """In one line of so many characters, without what could move the cursor."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"
