"""Divergences in words: their names, and a number to the digits that its error leaves. Imports no torch."""

from __future__ import annotations

import math
from typing import Any

NAMES: dict[str, str] = {
    "w1": "Wasserstein-1",
    "sliced-w1": "sliced Wasserstein-1",
    "sinkhorn": "Sinkhorn",
    "mmd": "MMD²",
    "energy-distance": "energy distance",
    "kale": "KALE(A ‖ B)",
    "kl": "KL(A ‖ B)",
    "js": "Jensen-Shannon",
    "tv": "total variation",
    "chi2": "Pearson χ²(A ‖ B)",
    "hellinger": "squared Hellinger",
}
CEILINGS = {"js": (math.log(2), "log 2"), "tv": (1.0, "1"), "hellinger": (2.0, "2")}
AT_CEILING = 1e-4  # of it, and nearer
ROUNDING = 1e-9  # of the value: a standard error below is none


def spelled(told: dict[str, Any]) -> str:
    """`0.693 +- 0.012`, the value to the second digit of its standard error; `infinite (>= 7.1)`; `1 (its ceiling)`."""
    if told["infinite"]:
        return "infinite" if told["at_least"] is None else f"infinite (>= {told['at_least']:.3g})"
    value, error = told["value"], told["standard_error"]
    ceiling, name = CEILINGS.get(told["kind"], (math.inf, ""))
    if value >= (1 - AT_CEILING) * ceiling:
        return f"{value:.4g} (its ceiling{f', {name}' if ' ' in name else ''})"
    if error is None or not error > ROUNDING * abs(value) or abs(value) >= 1e6:
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(error))
    if decimals <= 6:
        return f"{value:.{max(0, decimals)}f} +- {error:.{max(0, decimals)}f}"
    return f"{value:.2e} +- {error:.0e}" if abs(value) < 100 * error else f"{value:.4g} +- {error:.0e}"


def direction_of(told: dict[str, Any]) -> str:
    """Which way the estimate errs; an infinite one is none."""
    return "" if told["infinite"] else str(told["direction"])
