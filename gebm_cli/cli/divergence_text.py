"""What `divergence` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gebm_cli.cli.tables import drawn, seen, table_of
from gebm_cli.core.divergences.names import F_DIVERGENCES
from gebm_cli.experiment.divergence_words import direction_of, spelled

if TYPE_CHECKING:
    from gebm_cli.experiment.divergences import Outcome

DIRECTED = ("kl", "chi2", "kale")


def describe(outcome: Outcome) -> str:
    """The numbers in a table, what they are of, and the files that were written."""
    record = outcome.record
    table = table_of("divergence", "value", "the estimate is", "estimator", "with")
    for told in record["divergences"]:
        cells = (told["kind"], spelled(told), direction_of(told), told["estimator"], _settings(told))
        table.add_row(*map(escape, cells))  # E_P[v] is no markup
    lines = [drawn(table), _what(record), *_critic(record["divergences"])]
    directed = [told["kind"] for told in record["divergences"] if told["kind"] in DIRECTED]
    if directed:
        verb = "is" if len(directed) == 1 else "are"
        lines.append(
            f"{', '.join(directed)} {verb} of A from B, and A's support must lie in B's; B from A is another number"
        )
    return "\n".join([*lines, *outcome.saved])


def _critic(divergences: list[dict[str, Any]]) -> list[str]:
    """The critic that the f-divergences share, and which of them it finds infinite."""
    of_critic = [told for told in divergences if told["kind"] in F_DIVERGENCES]
    if not of_critic:
        return []
    critic = of_critic[0]["settings"]
    n, m = critic["n_train"]
    lines = [
        f"critic: {critic['critic']}, learned on {n:,} and {m:,} rows; of {critic['held_out']:,} rows not seen in learning "
        f"it takes {critic['misjudged']:,} for the other set's"
    ]
    infinite = [told["kind"] for told in of_critic if told["infinite"]]
    if infinite:
        lines.append(
            f"{', '.join(infinite)}: infinite, or too large for so few rows to measure, as the critic parts A from B entirely"
        )
    return lines


def _what(record: dict[str, Any]) -> str:
    sides = "; ".join(f"{p}: {record[f'n_{k}']:,} of {record[k]}" for p, k in (("A (P)", "x"), ("B (Q)", "y")))
    return f"{sides}; {seen(record)}; +- is one standard error"


def _settings(told: dict[str, Any]) -> str:
    """The hyperparameters on one line; those of the critic stand below the table."""
    settings = {} if told["kind"] in F_DIVERGENCES else told["settings"]
    return ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in settings.items() if value is not None)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
