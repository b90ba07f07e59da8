"""What a live panel knows of a work: the histories of its figures in little memory, its speed, and the memory it takes."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field

ERROR = "_standard_error"  # of a figure's name: the figure is the error of the one without it

RECENT_S = 15.0
TICK_S = 0.25
SMALLER_IS_BETTER = {"nll", "kid", "fid"}  # words of a name


def direction(name: str) -> int:
    """1 where larger is better, -1 where smaller is, 0 where it depends: in a game of two neither side's value has a best."""
    if name == "loss" or SMALLER_IS_BETTER & set(name.split("_")):
        return -1
    return 1 if name == "watched_kale" else 0


class History:
    """The values of one figure in at most 2 `width` points, evenly spaced in time; the extremes of what was thinned are kept."""

    def __init__(self, width: int = 120) -> None:
        self._most, self._stride = 2 * width, 1
        self._points: list[float] = []
        self._open: list[float] = []  # the first and the last extreme of the values not yet in a point
        self._n_open = 0
        self.newest = math.nan

    def add(self, value: float) -> None:
        self.newest = value
        if self._stride == 1:
            self._points.append(value)
        else:
            self._open = _extremes([*self._open, value])
            self._n_open += 1
            if self._n_open == 2 * self._stride:
                self._points += self._open
                self._open, self._n_open = [], 0
        if len(self._points) >= self._most:
            self._points = [v for i in range(0, len(self._points), 4) for v in _extremes(self._points[i : i + 4])]
            self._stride *= 2

    def values(self) -> list[float]:
        return self._points + self._open


def _extremes(values: list[float]) -> list[float]:
    """The smallest and the largest in the order in which they came; values that are not finite only where there are no others."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return [math.nan, math.nan]
    low, high = min(finite), max(finite)
    return [low, high] if finite.index(low) <= finite.index(high) else [high, low]


class Pace:
    """Speed overall and of late (averaged over about 15 s), and the time left; counted from where this session began."""

    def __init__(self, now: float) -> None:
        self.start = self.told = self._began = self._ticked = now
        self.first: int | None = None
        self.done = self._at_tick = 0
        self.total = 0
        self.recent: float | None = None

    def tell(self, done: int, total: int, now: float) -> bool:
        """Note how far it is; true where enough time has passed for the speed to be taken anew."""
        if self.first is None:
            self.first = self._at_tick = done
            self._began = self._ticked = now  # what came before was preparing
        self.done, self.total, self.told = done, total, now
        passed = now - self._ticked
        if passed < TICK_S or done <= self._at_tick:
            return False
        rate = (done - self._at_tick) / passed
        share = max(1 - math.exp(-passed / RECENT_S), passed / (now - self._began))  # at first the mean of all
        self.recent = rate if self.recent is None else self.recent + share * (rate - self.recent)
        self._ticked, self._at_tick = now, done
        return True

    def overall(self, now: float) -> float | None:
        done = self.done - (self.first or 0)
        return done / (now - self._began) if done > 0 and now > self._began else None

    def left(self, now: float) -> float | None:
        """Seconds to the end at the recent speed; None where that is not known."""
        speed = self.recent or self.overall(self.told)
        if not speed or self.done >= self.total:
            return None
        return max((self.total - self.done) / speed - (now - self.told), 0.0)


def memory() -> list[str]:
    """The process's memory, and on CUDA the most that torch has held; asks nothing of a device that is not in use already."""
    told = [f"memory {_bytes(_resident())}"]
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        told.append(f"GPU at most {_bytes(sum(map(cuda.max_memory_allocated, range(cuda.device_count()))))}")
    return told


def _resident() -> int:
    """Bytes; where the system does not tell those of now, the most so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource  # not on every system

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _bytes(n: int) -> str:
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


@dataclass
class Figure:
    """A figure's history, its newest standard error and, where it has a direction, its best value and the step of that."""

    history: History = field(default_factory=History)
    error: float | None = None
    best: float | None = None
    best_step: int = 0

    def add(self, value: float, step: int, way: int) -> None:
        self.history.add(value)
        if way and math.isfinite(value) and (self.best is None or way * (value - self.best) > 0):
            self.best, self.best_step = value, step

    def newest(self) -> tuple[str, str]:
        return f"{self.history.newest:.4g}", "" if self.error is None else f" ± {self.error:.1g}"
