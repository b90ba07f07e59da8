"""Several tests at once: p-values that keep the chance of even one false rejection below the level."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down adjusted p-values, by key: rejecting those <= alpha errs anywhere with probability <= alpha.

    With p_(1) <= ... <= p_(k), adjusted p_(i) = max_{j<=i} min(1, (k - j + 1) p_(j)), for any dependence of the tests
    (Holm 1979). Equal p-values get equal ones.

    Raises:
        ValueError: a p-value that is not between 0 and 1.
    """
    for key, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p-values must lie between 0 and 1, got {p} for {key!r}")
    adjusted: dict[Key, float] = {}
    reached = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        # A tie's later members have smaller factors, so the maximum gives them the first one's value.
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = reached
    return {key: adjusted[key] for key in p_values}
