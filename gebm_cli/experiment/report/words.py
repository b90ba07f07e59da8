"""The words of figures: what metrics are called, numbers with few digits, and a curve in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gebm_cli.experiment.report.series import LARGEST, Series, drawable
from gebm_cli.experiment.writing import printable

LABELS = {
    "kale": "KALE",
    "kale_train": "KALE, training data",
    "kale_held_out": "KALE, held-out data",
    "critic_value": "objective of the critic",
    "penalty": "penalty",
    "base_loss": "loss of the base",
    "loss": "loss",
    "log_partition": "log-partition, learned c",
    "log_partition_estimate": "log-partition estimated from base samples",
    "log_partition_learned": "log-partition, learned c",
    "log_partition_heaviest": "log-partition: the heaviest base sample's share of the sum of squared weights",
    "ess": "effective sample size of the base samples' weights",
    "n_log_partition": "base samples for the log-partition",
    "critic_grad_norm": "gradient norm, critic",
    "base_grad_norm": "gradient norm, base",
    "lr": "learning rate",
    "rule_p_value": "p-value of the rule",
    "rule_multiplier": "multiplier of the rule",
    "watched_kale": "watched KALE",
    "watched_kid": "watched KID of the base",
    "watched_nll": "watched negative log-likelihood",
}
WATCHED = {
    "watched_kale": "taken on validation points, or on training points where there are none",
    "watched_kid": "of base samples against validation points, or training points where there are none",
    "watched_nll": "taken on validation points, or on training points where there are none",
}


def label_of(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def shortened(text: str, length: int = 40) -> str:
    """Printable, and of too long a text its two ends."""
    text = printable(text)
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def number(value: float, digits: int = 3) -> str:
    """Some digits; all before the point below a million, else an exponent without zeros."""
    if 10**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def numbers(values: Sequence[float]) -> list[str]:
    """Numbers with as few digits, at least 3, as tell different ones apart."""
    n = len(set(values))
    digits = next((d for d in range(3, 17) if len({number(value, d) for value in values}) == n), 17)
    return [number(value, digits) for value in values]


def step_word(step: float) -> str:
    """A step on an axis: 500, 20k, 1.5M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if abs(step) >= 10 * size or (unit == "M" and abs(step) >= size):
            return f"{step / size:g}{unit}"
    return f"{step:g}"


def told(series: Series, name: str) -> str:
    """`KALE from 9.4 at step 50 to 0.37 at step 4000, lowest 0.31 at step 3900`."""
    fits = drawable(series)
    if not fits.any():
        return f"{name} is nowhere finite"
    steps, values = series.steps[fits], series.values[fits]
    low, high = int(values.argmin()), int(values.argmax())
    if values[low] == values[high]:
        where = f"at step {steps[0]}" if len(steps) == 1 else f"from step {steps[0]} to {steps[-1]}"
        return f"{name} {number(values[0])} {where}"
    first, last, least, most = numbers([values[k] for k in (0, -1, low, high)])
    text = f"{name} from {first} at step {steps[0]} to {last} at step {steps[-1]}"
    for word, shown, k in (("lowest", least, low), ("highest", most, high)):
        if values[k] not in (values[0], values[-1]):
            text += f", {word} {shown} at step {steps[k]}"
    return text


def lost(series: Series, name: str) -> str:
    """What is said of values that cannot be drawn; empty where all can."""
    steps = series.steps[~drawable(series)]
    if not len(steps):
        return ""
    where = f"at step {steps[0]}" if len(steps) == 1 else f"at some steps from {steps[0]} to {steps[-1]}"
    beyond = "" if not np.isfinite(series.values[~drawable(series)]).any() else f" or beyond {number(LARGEST)}"
    return f"{name} is not finite{beyond} {where} (marks at the top edge)"
