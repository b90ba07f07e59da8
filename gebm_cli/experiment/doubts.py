"""How the log Z that train-energy ends with is told, and what is to be doubted of it and of what rests on it, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SHARE = "log_partition_heaviest"
KALES = ("kale_train", "kale_validation", "kale_held_out")
HEAVY = 0.2  # chosen by tests/benchmarks/log_partition_coverage.py
MISSED = 3.0  # n draws all miss a region of mass MISSED / n with probability exp(-MISSED), 5 %


def told_log_partition(figures: Mapping[str, Any]) -> str:
    """`log-partition 1.2 +- 0.01 (ESS 21,000, 42 % of 50,000)`."""
    ess, n = figures["ess"], figures["n_log_partition"]
    estimate, error = figures["log_partition_estimate"], figures["log_partition_standard_error"]
    return f"log-partition {estimate:.4g} +- {error:.2g} (ESS {ess:,.0f}, {100 * ess / n:.3g} % of {n:,.0f})"


def most_certified(n: float) -> float:
    """log(n / 3) nats: n base samples can miss a region of mass 3 / n (5 %), and data may lie there, with Z >= 3 / n exp(-E)."""
    return math.log(n / MISSED)


def doubts(figures: Mapping[str, Any], exact_nll: bool = False) -> list[str]:
    """Why log Z, and KALE and NLL with it, may look too good, and what helps; empty where nothing says so.

    figures: those of `closing_figures`; of records without the share of the heaviest weight its lower bound 1 / ESS is taken.
    exact_nll: the NLL does not rest on log Z (energies of kind flow).
    """
    known = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    found = [_learned(known), _collapsed(known, exact_nll)]
    return [sentence for sentence in found if sentence]


def _learned(figures: Mapping[str, float]) -> str:
    learned, estimate = figures.get("log_partition_learned"), figures.get("log_partition_estimate")
    error = figures.get("log_partition_standard_error", 0.0)
    if not learned or estimate is None or not abs(learned - estimate) > max(1.0, 5 * error):
        return ""
    return (
        f"the learned c, {learned:.3g}, is far from its estimate: data and base hardly overlap for this energy. A larger "
        "penalty_weight, a base trained for longer, or log_partition: batch usually helps"
    )


def _collapsed(figures: Mapping[str, float], exact_nll: bool) -> str:
    n, ess = figures.get("n_log_partition", 0), figures.get("ess", 0)
    if not (n >= 1 and ess > 0):
        return ""
    kale = max((figures[key] for key in KALES if key in figures), default=-math.inf)
    share, most, reasons = figures.get(SHARE, 1 / ess), most_certified(n), []
    if share > HEAVY:
        of = "the sum of squared weights"
        reasons.append(f"one of {n:,.0f} base samples is {100 * share:.2g} % of {of} (ESS {ess:,.0f})")
    if kale > most:
        reasons.append(f"KALE {kale:.3g} is above log(n / 3) = {most:.3g}, the most that n = {n:,.0f} can certify")
    nll = " and NLL look" if not exact_nll and any(key.startswith("nll_") for key in figures) else " looks"
    if not reasons:
        return ""
    return (
        f"log Z {'is probably' if share > HEAVY else 'may be'} too small, so that KALE{nll} too good, which the standard errors do "
        f"not show: {', and '.join(reasons)}. A larger penalty_weight, noise_std or n_log_partition of train_energy helps"
    )
