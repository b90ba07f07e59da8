"""Names of sets on one line of a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_NAME = 28
PARTS = re.compile(r"[^/?&:\s]+[/?&:\s]*|[/?&:\s]+")  # a word of a name and what follows it


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """A name on one line, its middle left out where it is long, safe as text of a figure ($ would begin a formula)."""
    name = " ".join(name.split())
    if len(name) > longest:
        head = longest // 2
        name = f"{name[:head]}…{name[head + 1 - longest :]}"
    return name.replace("$", r"\$")


def shorten_both(a: str, b: str, longest: int = LONGEST_NAME) -> tuple[str, str]:
    """Two names as by `shorten`, but what they do not share stays, and of what they share as much as fits."""
    names = [" ".join(name.split()) for name in (a, b)]
    parts = [PARTS.findall(name) for name in names]
    before = _shared(*parts)
    after = _shared(*(part[before:][::-1] for part in parts))
    first, second = (_cut(part, before, len(part) - after, longest) for part in parts)
    return first, second


def _cut(parts: list[str], begin: int, end: int, longest: int) -> str:
    """Words of a name on `longest` letters: those from `begin` to `end`, then how it begins and how it ends."""
    start, own, rest = ("".join(part) for part in (parts[:begin], parts[begin:end], parts[end:]))
    room = longest - len(own)
    if len(start) + len(rest) <= room or room < 2:
        return shorten(start + own + rest if room >= 2 else own, longest)
    kept = rest if len(rest) <= room // 2 else "…"
    room -= len(kept)
    return shorten((start if len(start) <= room else f"{start[: room - 1]}…") + own + kept, longest)


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """How many words two names begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
