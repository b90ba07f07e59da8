"""Reports of long work, as core functions give them: who draws them is not their business."""

from __future__ import annotations

from collections.abc import Callable

Begin = Callable[[str, str, int], Callable[[int], None]]
"""Told of each phase: what, its unit, its total; returns a function that is told of increments."""


def silent(what: str, unit: str, total: int) -> Callable[[int], None]:
    """No report of progress."""
    return lambda done: None


class Steps:
    """A report of (done, total) as increments of a phase that begins with the first, and anew when `done` falls."""

    def __init__(self, begin: Begin, what: str, unit: str) -> None:
        self._begin, self._what, self._unit = begin, what, unit
        self._tell: Callable[[int], None] | None = None
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        if self._tell is None or done <= self._done:
            self._done, self._tell = 0, self._begin(self._what, self._unit, total)
        self._tell(done - self._done)
        self._done = done
