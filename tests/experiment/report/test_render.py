"""The document that a page becomes: all of it there, all of it escaped, nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import html
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from experiment.report.synthetic import HOSTILE, flat, synthetic_page

from gebm_cli.experiment.report.blocks import Page, Picture, Row, Section, Slider, Table, Text
from gebm_cli.experiment.report.render import numeric_columns, render, shown_cell

VOID = {"meta", "link", "img", "input", "br"}
UNSHOWN = {
    "content",
    "frames",
    "media",
    "tone",
    "key",
}  # fields that are not text to be read; labels of frames are below


class Document(HTMLParser):
    """Elements with their attributes, and the text of the document by the standard library's rules."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.inside, self.text = [], [], {"script": "", "style": ""}, ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID and tag not in ("path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in ("path", "rect") or self.open.pop() == tag

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        if tag in self.inside:
            self.inside[tag] += data
        else:
            self.text += data

    def values(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def _page(*blocks, title="t", headline="h"):
    return Page(title, "run", Text(headline), [], [Section("s", "S", list(blocks))])


def _strings(value):
    """Every text to be read in a page, wherever it stands."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            if f.name not in UNSHOWN:
                yield from _strings(getattr(value, f.name))
        yield from (label for label, _ in getattr(value, "frames", ()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)


def test_every_text_of_a_page_is_in_the_document_and_none_of_it_is_markup():
    """A hostile end on each text adds no element and no attribute to those of the page without it."""
    friendly, hostile = (Document(render(synthetic_page(add))) for add in ("", HOSTILE))
    shapes = [
        [(tag, set(a) - {"class"}) for tag, a in one.elements] for one in (friendly, hostile)
    ]  # long words have a class
    assert shapes[0] == shapes[1]
    readable = hostile.text + "\n".join(v or "" for _, a in hostile.elements for v in a.values())
    texts = list(_strings(synthetic_page(HOSTILE)))
    assert len(texts) > 100 and [t for t in texts if t not in readable] == []


def test_nothing_comes_from_elsewhere():
    document = Document(render(synthetic_page(HOSTILE)))
    assert all(value.startswith("data:") for value in document.values("src"))
    assert all(re.match("#|data:,$", value) for value in document.values("href"))
    names = {name for _, attributes in document.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} and "style" not in names
    assert not re.search(r"url\(|@import|https?:", document.inside["style"] + document.inside["script"])


def test_the_policy_allows_this_style_and_this_script_alone():
    document = Document(render(synthetic_page()))
    policy = next(a["content"] for _, a in document.elements if a.get("http-equiv") == "Content-Security-Policy")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == "'none'" and parts["img-src"] == "data:"
    for name in ("script", "style"):
        digest = b64encode(sha256(document.inside[name].encode()).digest()).decode()
        assert len(document.inside[name]) > 1000 and parts[f"{name}-src"] == f"'sha256-{digest}'"


def test_the_bytes_of_pictures_arrive():
    page = synthetic_page()
    slider = next(b for b in page.sections[1].blocks if isinstance(b, Slider))
    images = [a["src"] for tag, a in Document(render(page)).elements if tag == "img"]
    for _, content in slider.frames:
        assert sum(b64decode(src.partition("base64,")[2]) == content for src in images) == 1


def test_a_figure_with_a_hostile_label_stays_a_figure():
    """matplotlib escapes the label; its text in the page is the label, and there is no element of another kind."""
    from matplotlib.figure import Figure

    from gebm_cli.experiment.report.svg import to_svg

    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [1, 0], label=HOSTILE)
    axes.set_title(HOSTILE)
    axes.legend()
    picture = Picture(to_svg(figure, HOSTILE), HOSTILE)
    text = render(_page(picture))
    drawing = re.search(r'<div class="drawing">(.*?)</div>', text, re.S)[1]
    tree = ElementTree.fromstring(drawing)
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert tags <= {"svg", "g", "path", "text", "tspan", "defs", "use", "clipPath", "rect"}
    assert "".join(tree.itertext()).count(HOSTILE) == 2 and tree.get("aria-label") == HOSTILE
    assert text.count("<script") == 1 and "<img" not in text


def test_a_drawing_is_as_wide_as_its_text_reads_well():
    """640 units are 800 pixels at most; a drawing that does not say how large it is, is as wide as its place."""
    for view, width in [('viewBox="0 0 640 200" ', "800"), ("", "100%")]:
        picture = Picture(f'<svg {view}width="100%" role="img" aria-label="a"></svg>', "a")
        assert next(a for tag, a in Document(render(_page(picture))).elements if tag == "svg")["width"] == width


@pytest.mark.parametrize(("units", "scrolls"), [(360, False), (480, True)])
def test_a_drawing_whose_text_would_be_too_small_on_a_phone_scrolls_by_keyboard_too(units, scrolls):
    picture = Picture(f'<svg viewBox="0 0 {units} 200" width="100%" role="img" aria-label="a"></svg>', "a")
    place = next(a for tag, a in Document(render(_page(picture))).elements if "drawing" in (a.get("class") or ""))
    assert place.get("class") == ("drawing scroll" if scrolls else "drawing") and ("tabindex" in place) == scrolls


@pytest.mark.parametrize(
    ("value", "text", "number", "absent"),
    [
        (None, "—", "", True), ("a", "a", "", False), ("", "", "", False), (3, "3", "3", False), (50000, "50000", "50000", False),
        (0.123456, "0.1235", "0.123456", False), (12345.6, "12346", "12345.6", False), (-0.0, "-0", "-0.0", False),
        (float("nan"), "nan", "", True), (float("-inf"), "-inf", "-Infinity", False), (True, "True", "", False),
    ],
)  # fmt: skip
def test_cells_are_short_to_read_and_sorted_by_all_their_digits(value, text, number, absent):
    cell = shown_cell(value)
    assert (cell.text, cell.number, cell.absent) == (text, number, absent)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "0.0001"), (1.23456e-4, "0.0001235"), (9.9e-5, "9.9e-05"), (6e-6, "6e-06"), (0.5, "0.5"), (12.34567, "12.35"),
        (999.96, "1000"), (1234.5678, "1235"), (9999.7, "10000"), (99999.7, "100000"), (-12345.678, "-12346"), (999999.4, "999999"),
        (1e6, "1e+06"), (1234567.8, "1.235e+06"),
    ],
)  # fmt: skip
def test_usual_numbers_are_written_without_exponent(value, text):
    """From 1e-4 to a million: to half of the fourth digit, or of the last before the point, whichever is less."""
    assert shown_cell(value).text == text
    digits = 10.0 ** min(0, int(f"{abs(value):e}".partition("e")[2]) - 3) if abs(value) < 1e6 else 1000.0
    assert float(text) == pytest.approx(value, abs=0.500001 * digits)


def test_columns_of_numbers_alone_stand_to_the_right():
    table = Table(["a", "b", "c", "d"], [[1, "x", None, 1], [None, 2, None, True], [2.5]])
    assert numeric_columns(table) == [True, False, False, False]


@pytest.mark.parametrize(
    ("size", "beside", "width"), [((8, 4), "", 440), ((197, 4), "base", 394), ((700, 9), "", 700), ((300, 9), "", 300)]
)
def test_small_pixels_are_enlarged_by_a_whole_number(size, beside, width):
    """And the size is told in advance, so that nothing moves while the page loads."""
    slider = Slider([("a", flat((1, 2, 3), size=size))], "alt", beside=beside, media="image/png", pixelated=True)
    image = next(a for tag, a in Document(render(_page(slider))).elements if tag == "img")
    assert int(image["width"]) == width and int(image["height"]) * size[0] == width * size[1]


def test_a_page_of_empty_parts_is_a_page():
    """No facts, rows, columns, frames or pictures; rows that are too short or too long; bytes that are no image."""
    tables = [Table([], []), Table(["a"], []), Table(["a", "b"], [[1], [1, 2, 3]]), Table(["a"], [], folded=True)]
    document = Document(
        render(_page(*tables, Slider([], "a"), Row([]), Picture(b"x", "a", media="image/png"), Text("")))
    )
    assert [a for tag, a in document.elements if tag == "img"] == [{"src": "data:image/png;base64,eA==", "alt": "a"}]
    assert document.text.count("none") == 3
    assert Document(render(Page("", "", Text(""), [], []))).elements


def test_text_that_is_not_unicode_can_still_be_written():
    """A file name of other bytes, as Python holds it, and the characters that HTML is made of."""
    text = render(_page(title="caf\udce9 & <b> 'x' \"y\""))
    assert html.escape("caf? & <b>") in text and text.encode("utf-8")


def test_what_is_no_block_is_refused():
    with pytest.raises(TypeError, match="not of str"):
        render(_page("text"))


def test_a_page_is_made_without_torch():
    code = "import sys, gebm_cli.experiment.report.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
