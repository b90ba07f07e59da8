"""Learning-rate schedules: a factor on the rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["constant", "linear", "cosine", "step"]


@dataclass(frozen=True)
class RateSchedule:
    """constant; linear: 1 for the first half of `steps`, then falling linearly to 0; cosine: half a period from 1 to 0;
    step: times `factor` at every `every`-th step."""

    kind: Kind
    steps: int
    every: int = 1
    factor: float = 1.0

    def __call__(self, step: int) -> float:
        if self.kind == "linear":
            return min(1.0, 2.0 * (1.0 - step / self.steps))
        if self.kind == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.factor ** (step // self.every) if self.kind == "step" else 1.0
