"""An interval for a number that was estimated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """[low, high], meant to hold the true value in a share `level` of all repetitions of the experiment."""

    low: float
    high: float
    level: float

    def contains(self, x: float) -> bool:
        """Whether x lies inside, ends included."""
        return self.low <= x <= self.high
