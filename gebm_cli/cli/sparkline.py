"""A curve on one line of text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TextIO

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=+*#@"  # for terminals that have no blocks: more ink is higher
GAP = " "


def sparkline(values: Sequence[float], width: int, levels: str = BLOCKS) -> str:
    """At most `width` letters from the lowest level to the highest; what is not finite is a gap, a constant a flat middle line.

    Of more values than letters, the one farthest from the median of all stands for its neighbours, so a spike stays.
    """
    finite = [float(v) for v in values if math.isfinite(v)]
    if not finite or width < 1:
        return GAP * min(len(values), max(width, 0))
    low, high, middle = min(finite), max(finite), statistics.median(finite)
    return "".join(_letter(_farthest(part, middle), low, high, levels) for part in _parts(values, width))


def _parts(values: Sequence[float], width: int) -> list[Sequence[float]]:
    n = min(len(values), width)
    return [values[len(values) * i // n : len(values) * (i + 1) // n] for i in range(n)]


def _farthest(part: Sequence[float], middle: float) -> float:
    return max((float(v) for v in part if math.isfinite(v)), key=lambda v: abs(v - middle), default=math.nan)


def _letter(value: float, low: float, high: float, levels: str) -> str:
    if math.isnan(value):
        return GAP
    if low == high:
        return levels[(len(levels) - 1) // 2]
    by = 2 if math.isinf(high - low) else 1  # halved only there: half of the smallest float is 0
    share = (value / by - low / by) / (high / by - low / by)
    return levels[min(int(share * len(levels)), len(levels) - 1)]


def levels_for(stream: TextIO) -> str:
    """Blocks where the stream's encoding has them."""
    return BLOCKS if can_write(BLOCKS, stream) else ASCII


def can_write(text: str, stream: TextIO) -> bool:
    """Whether a stream's encoding has all letters of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
