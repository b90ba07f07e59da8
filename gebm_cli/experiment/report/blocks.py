"""What a page is made of: sections of blocks. Text is plain text here, and is escaped where the page is rendered.

Both pages, that of one run and that of a comparison, are values of these types; `render` turns any of them into HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True)
class Text:
    """A paragraph. `tone`: `plain`, `good`, `bad` (coloured and marked by a word, never by colour alone) or `quiet`."""

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Missing:
    """What is not there, why, and the command that would make it (None where there is none)."""

    what: str
    why: str
    command: str | None = None


@dataclass(frozen=True)
class Code:
    """Commands to copy, a line each."""

    lines: list[str]
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns. Numbers are right-aligned and sorted as numbers, None is an em dash and sorts last.

    Args:
        marked: the rows (by index) that are emphasised, with the word that says why in `mark_word`.
        folded: shown only when opened, under its caption.
        sortable: a click on a column's head sorts.
    """

    columns: list[str]
    rows: list[list[Cell]]
    caption: str = ""
    marked: frozenset[int] = frozenset()
    mark_word: str = ""
    folded: bool = False
    sortable: bool = True


@dataclass(frozen=True)
class Picture:
    """A figure: SVG text that follows the page's colours, or the bytes of a PNG or WebP (`media` says which).

    Args:
        alt: what it shows, for those who do not see it; never empty.
        reproduce: the command that makes what is drawn.
        pixelated: enlarged without smoothing.
    """

    content: str | bytes
    alt: str
    caption: str = ""
    reproduce: str = ""
    media: str = "image/svg+xml"
    pixelated: bool = False


@dataclass(frozen=True)
class Slider:
    """The same chains at successive steps, one picture shown at a time, beside the first where `beside` says so.

    Args:
        frames: (label, bytes) from start to end; the label is shown beside the slider, e.g. `step 40`.
        beside: the caption of the first frame, shown still on the left, e.g. `base, step 0`; empty for none.
    """

    frames: list[tuple[str, bytes]]
    alt: str
    caption: str = ""
    beside: str = ""
    reproduce: str = ""
    media: str = "image/webp"
    pixelated: bool = False


@dataclass(frozen=True)
class Row:
    """Pictures side by side where there is room."""

    pictures: list[Picture]


Block = Text | Missing | Code | Table | Picture | Slider | Row


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; `key` is its anchor: lower-case letters and hyphens."""

    key: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    introduction: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page. `facts` are the (name, value) pairs under the title; `headline` the one sentence to take away."""

    title: str
    kind: str
    headline: Text
    facts: list[tuple[str, str]]
    sections: list[Section]
