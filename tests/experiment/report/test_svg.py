"""SVG for a page: the page's colours, nothing from outside, nothing that leaks into the page, text as it was."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from matplotlib.figure import Figure

from gebm_cli.experiment.report.svg import GRID, INK, PAPER, QUIET, SERIES, STYLE, to_svg

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a $x^2 \\frac b",
    "--> <!-- & &lt; é",
    'style="#0072b2" id="z"',
]
NAMESPACE = "{http://www.w3.org/2000/svg}"


def figure(text="a line", colours=SERIES):
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(420 / 72, 240 / 72))
        axes = made.subplots()
        for k, colour in enumerate(colours):
            axes.plot([0, 1, 2], [k, k + 1, k], "o-", color=colour, markeredgecolor=PAPER, label=f"{k} {text}")
        axes.fill_between([0, 2], [0, 0], [1, 1], color=colours[0], alpha=0.2, linewidth=0)
        axes.set_title(text, fontweight="bold")
        axes.grid(color=GRID)
        axes.axhline(0, color=QUIET, linestyle="--")
        axes.legend()
    return made


def texts(svg):
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{NAMESPACE}text")]


def test_a_picture_is_one_svg_with_a_label_and_a_frame_and_nothing_before_it():
    """No header, no document type, no metadata; as wide as its place, in the proportions of the figure."""
    svg = to_svg(figure(), "KALE from 9 to 1")
    root = ET.fromstring(svg)
    assert svg.startswith("<svg ") and svg.endswith("</svg>") and root.tag == f"{NAMESPACE}svg"
    assert (root.get("role"), root.get("aria-label"), root.get("width")) == ("img", "KALE from 9 to 1", "100%")
    assert root.get("viewBox") == "0 0 420 240" and root.get("height") is None
    assert not re.search(r"<metadata|<\?xml|<!DOCTYPE|matplotlib|\d\d\d\d-\d\d-\d\d", svg)


def test_colours_are_variables_of_the_page_and_no_style_is_left():
    """Every named colour appears as its variable; a policy against inline styles has nothing to forbid."""
    svg = to_svg(figure(), "t")
    variables = {"--ink", "--quiet", "--grid", "--paper"} | {f"--series-{k}" for k in range(1, 9)}
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) == variables
    assert (
        not re.search(r"#[0-9a-fA-F]{6}\b", svg)
        and " style=" not in svg
        and "<style" not in svg
        and "class=" not in svg
    )
    assert len({INK, QUIET, GRID, PAPER, *SERIES}) == 12 and all(re.fullmatch("#[0-9a-f]{6}", c) for c in SERIES)


def test_a_colour_without_a_name_stays_as_it_is():
    """So that a picture of a colour of its own is possible."""
    assert 'stroke="#123456"' in to_svg(figure(colours=["#123456"]), "t")


def test_what_is_drawn_has_its_width_opacity_and_dashes_still():
    """Style became attributes: the band's opacity, the dashes of the line, the weight of the title."""
    svg = to_svg(figure(), "t")
    assert 'fill-opacity="0.2"' in svg and "stroke-dasharray=" in svg and 'font-weight="700"' in svg
    assert (
        'stroke-width="1.5"' in svg and 'font-size="11px"' in svg and "font-family" not in svg and 'font="' not in svg
    )


def test_every_reference_is_within_the_picture_and_no_id_is_idle():
    """Ids are referred to, and references have their ids; the namespace is the one address there is."""
    svg = to_svg(figure(), "t")
    ids, used = re.findall(r' id="([^"]+)"', svg), re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
    assert len(ids) == len(set(ids)) > 0 and set(ids) == set(used)
    assert re.findall(r"\w+://[^\"]*", svg) == ["http://www.w3.org/2000/svg"] and "xlink" not in svg


def test_two_pictures_of_a_page_share_no_id():
    """Even two that differ in their title or in one value alone."""
    pictures = [to_svg(figure(), "a"), to_svg(figure(), "b"), to_svg(figure("another"), "a")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in pictures]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])


def test_the_same_figure_gives_the_same_bytes():
    """Drawn twice, and made twice."""
    once = figure()
    assert to_svg(once, "t") == to_svg(once, "t") == to_svg(figure(), "t")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text_whatever_it_says(text):
    """In titles, legends and the label: read back by an XML parser as it was, with no element of its own."""
    svg = to_svg(figure(text), text)
    assert text in texts(svg) and f"3 {text}" in texts(svg) and ET.fromstring(svg).get("aria-label") == text
    plain = to_svg(figure("t"), "t")
    count = lambda s: {tag: s.count(f"<{tag} ") + s.count(f"<{tag}>") for tag in re.findall(r"<(\w+)", s)}  # noqa: E731
    assert count(svg) == count(plain)


def test_letters_that_the_drawing_font_lacks_are_no_ones_concern(recwarn):
    """The page's font has them: no warning, the text as it was; other warnings of drawing are still given."""
    import warnings

    assert "標本" in texts(to_svg(figure("標本"), "t")) and not recwarn.list
    drawn = figure()
    drawn.savefig = lambda *_, **__: warnings.warn("Glyphs are round", stacklevel=1)
    with pytest.warns(UserWarning, match="round"), pytest.raises(ValueError, match="substring"):
        to_svg(drawn, "t")


def test_a_label_of_no_letters_costs_no_picture():
    """A folder's name that is not UTF-8, and control characters: XML has no place for them."""
    assert ET.fromstring(to_svg(figure(), "caf\udce9 \x00")).get("aria-label") == "caf? ?"


def test_coordinates_are_kept_to_a_hundredth_of_a_pixel():
    """Against the plain SVG: the same numbers in the same order, cut after two digits."""
    import io

    drawn, file = figure(), io.StringIO()
    with matplotlib.rc_context(STYLE):
        drawn.savefig(file, format="svg", facecolor="none", edgecolor="none")
    numbers = lambda s: [float(x) for d in re.findall(r'\sd="([^"]*)"', s) for x in re.findall(r"-?[\d.]+", d)]  # noqa: E731
    ours, plain = numbers(to_svg(drawn, "t")), numbers(file.getvalue())
    assert len(ours) == len(plain) > 100 and max(abs(a - b) for a, b in zip(ours, plain)) < 0.0101
