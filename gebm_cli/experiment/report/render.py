"""A `Page` as one self-contained HTML file: style, script and pictures inside, nothing fetched, all text escaped."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from gebm_cli.experiment.report.blocks import Block, Cell, Page, Picture, Slider, Table

HERE = Path(__file__).parent
SHORT_TEXT, LONG_WORD = 16, 30  # letters
SCALE = 1.25  # CSS pixels of a unit of a drawing, where there is room: its text of 11 units is as large as a caption's
NARROW = 360  # units that fit a phone with text of 11 units at 10 pixels
WIDEST_PIXELS = 440  # CSS pixels that a small picture is enlarged to at most, by a whole number; two stand side by side


@dataclass(frozen=True)
class ShownCell:
    """A cell as it is shown, and what it is sorted by: `number` as JavaScript reads it, or the text, or nothing (last)."""

    text: str
    number: str = ""
    absent: bool = False

    @property
    def classes(self) -> str:
        """Long words (paths, hashes) are broken wherever the line ends, others at spaces and hyphens, short texts nowhere."""
        if len(self.text) <= SHORT_TEXT:
            return "short"
        return "long" if max(map(len, self.text.split()), default=0) > LONG_WORD else ""


def render(page: Page) -> str:
    """The whole HTML document, to be written as UTF-8."""
    style, script = _asset("page.css"), _asset("page.js")
    text = _environment().get_template("page.html.j2").render(
        page=page, style=Markup(style), script=Markup(script), policy=_policy(style, script)
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode()  # a file name that is not UTF-8 holds surrogates


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "kind": kind,
        "cell": shown_cell,
        "numeric_columns": numeric_columns,
        "data_uri": data_uri,
        "size": shown_size,
        "drawing": drawing,
        "is_wide": is_wide,
    }
    return environment


@cache
def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def kind(block: Block) -> str:
    """The name of the block's type, by which the template shows it."""
    if not isinstance(block, Block):
        raise TypeError(f"a page is made of blocks (see blocks.py), not of {type(block).__name__}")
    return type(block).__name__


def _policy(style: str, script: str) -> str:
    """Nothing is fetched, and no style and no script counts but these two: no attributes of either kind."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


# -------------------------------------------------------------------------------------------------------------- tables


def shown_cell(value: Cell) -> ShownCell:
    """Numbers as `_digits` writes them, but integers in full; None is an em dash; what is no number sorts last as None does."""
    if value is None:
        return ShownCell("—", absent=True)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ShownCell(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        number = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "")
        return ShownCell(format(value, "g"), number, absent=not number)
    return ShownCell(str(value) if isinstance(value, int) else _digits(value), repr(value))


def _digits(value: float) -> str:
    """Four digits, or all of the integer part below a million; an exponent only from there, and below 1e-4."""
    return format(value, ".0f" if 1000 <= abs(value) < 1e6 else ".4g")


def numeric_columns(table: Table) -> list[bool]:
    """Of each column, whether it holds numbers alone (and None), which are set to the right."""
    return [_all_numbers([row[k] for row in table.rows if k < len(row)]) for k in range(len(table.columns))]


def _all_numbers(cells: Sequence[Cell]) -> bool:
    known = [cell for cell in cells if cell is not None]
    return bool(known) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in known)


# ------------------------------------------------------------------------------------------------------------ pictures


def data_uri(content: bytes, media: str) -> str:
    return f"data:{media};base64,{b64encode(content).decode()}"


def drawing(svg: str) -> Markup:
    """SVG of our own making as it is, but not larger than its text can be read well: as wide as told, times `SCALE`."""
    units = _units(svg)
    width = f'width="{SCALE * units:.0f}"' if units else 'width="100%"'
    return Markup(svg.replace('width="100%"', width, 1))


def is_wide(svg: str) -> bool:
    """Whether its text could not be read at the width of a phone: it keeps a width, and scrolls there."""
    return (_units(svg) or 0.0) > NARROW


def _units(svg: str) -> float | None:
    found = re.search(r"viewBox=\"[-\d.]+ [-\d.]+ ([\d.]+) ", svg)
    return float(found[1]) if found else None


def shown_size(block: Picture | Slider, content: bytes) -> dict[str, Any]:
    """Width and height in CSS pixels, so that nothing moves while the page loads; empty where the bytes do not tell."""
    try:
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return {}
    times = max(1, WIDEST_PIXELS // width) if block.pixelated else 1
    return {"width": width * times, "height": height * times}
