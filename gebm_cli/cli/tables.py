"""Tables as plain text on stdout."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table


def table_of(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def seen(record: dict[str, Any]) -> str:
    """What was compared: `classifier features`; of points, whose features are the data themselves, `the columns`."""
    of_points = record["features"] == "pixels" and len(record.get("x_resolution", ())) == 1
    told = "the columns" if of_points else f"{record['features']} features"
    return told + (", standardised" if record.get("standardised") else " as they are" if of_points else "")


def drawn(table: Table) -> str:
    """The table as plain text, as wide as it needs to be."""
    buffer = io.StringIO()
    Console(file=buffer, width=400, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
