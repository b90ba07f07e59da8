"""From a matplotlib figure to SVG inside a page, in the colours of the page.

A figure is drawn in the colours named here, which the page replaces by its own, light or dark. No style sheet and no style
attribute is left, so that a page may forbid them; and no id but those that the picture itself refers to.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING, Any

from gebm_cli.experiment.writing import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Hex colours that nothing else in a figure has: each stands for a variable of the page.
INK, QUIET, GRID, PAPER = "#1f2329", "#626a73", "#e4e7eb", "#fefefe"
# Okabe and Ito's colours, yellow and black replaced by Tol's wine and grey; the page has a lighter set for the dark.
SERIES = ["#0072b2", "#d55e00", "#008e67", "#b8629b", "#a87200", "#2e86b5", "#882255", "#757575"]

_VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{k + 1}" for k, colour in enumerate(SERIES)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gebm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "path.simplify": True,
}
# Attributes of SVG that matplotlib writes as style; what it writes besides is of no effect here.
_ATTRIBUTES = {
    *("fill", "fill-opacity", "fill-rule", "opacity", "font-size", "font-style", "font-weight", "text-anchor"),
    *("stroke", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit"),
    *("stroke-opacity", "stroke-width"),
}


def to_svg(figure: Figure, title: str) -> str:
    """One <svg> as wide as its place, labelled `title`; the same bytes for the same figure. Text stays text, in the page's font."""
    svg, title = _drawn(figure), printable(title)
    width, height = (f"{72 * side:g}" for side in figure.get_size_inches())
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.S)
    body = body[body.index(">") + 1 :]
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    prefix = "f" + hashlib.sha256((title + body).encode()).hexdigest()[:8]
    body = re.sub(r"<[^/][^>]*>", lambda tag: _tag(tag[0], used, prefix), body)
    body = re.sub(r"<defs>\s*</defs>", "", re.sub(r"\s*\n\s*", "\n", body))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="100%" role="img"'
        f' aria-label="{escape(title)}" stroke-linejoin="round" stroke-linecap="butt">'
    )
    return head + body.strip()


def _drawn(figure: Figure) -> str:
    """What matplotlib writes; it need not have the letters of the text, for the page's font has."""
    from matplotlib import rc_context

    file = io.StringIO()
    metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(file, format="svg", metadata=metadata, facecolor="none", edgecolor="none")
    return file.getvalue()


def _tag(tag: str, used: set[str], prefix: str) -> str:
    """One start tag: style as attributes, colours as variables, ids of this picture alone, coordinates to .01 pixel."""
    tag = re.sub(r'style="([^"]*)"', lambda style: _attributes(style[1]), tag)
    tag = re.sub(r' id="([^"]*)"', lambda name: f' id="{prefix}-{name[1]}"' if name[1] in used else "", tag)
    tag = re.sub(r'xlink:href="#', f'href="#{prefix}-', tag).replace("url(#", f"url(#{prefix}-")
    tag = re.sub(
        r'"(#[0-9a-fA-F]{6})"',
        lambda c: f'"var({_VARIABLES[c[1].lower()]})"' if c[1].lower() in _VARIABLES else c[0],
        tag,
    )
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    return re.sub(r' (?:d|x|y|width|height)="[^"]*"', _short, tag)


def _short(path: re.Match[str]) -> str:
    return re.sub(r"\s*\n\s*", "", re.sub(r"(\.\d\d)\d+", r"\1", path[0]))


def _attributes(style: str) -> str:
    """`fill: none; font: 11px sans` as attributes; of a font its size and weight, for the family is the page's."""
    told: dict[str, str] = {}
    for name, value in (part.split(":", 1) for part in style.split(";") if ":" in part):
        name, value = name.strip(), value.strip()
        if name == "font":
            for part, pattern in (("font-size", r"[\d.]+px"), ("font-weight", r"\b(?:bold|[1-9]00)\b(?!px)")):
                if found := re.search(pattern, value):
                    told[part] = found[0]
        elif name in _ATTRIBUTES:
            told[name] = value
    return " ".join(f'{name}="{value}"' for name, value in told.items())
