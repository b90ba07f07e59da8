"""How long something took, from what records say of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def seconds_of(session: dict[str, Any]) -> float | None:
    """From the start to the end of a session; None where it has not ended."""
    try:
        start, end = (datetime.fromisoformat(str(session[key])) for key in ("start", "end"))
        return (end - start).total_seconds()
    except (KeyError, ValueError, TypeError):  # TypeError: one of the two has a time zone
        return None
