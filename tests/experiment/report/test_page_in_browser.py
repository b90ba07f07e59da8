"""The page in a real browser: what is seen, moved, sorted and printed."""

from __future__ import annotations

import asyncio
from base64 import b64encode

import numpy as np
import pytest
from experiment.report.browser import browser, check_page, contrast, faint_series, faint_texts, opened, overflowing
from experiment.report.synthetic import COLOURS, HOSTILE, flat, synthetic_page

from gebm_cli.experiment.report.blocks import Page, Row, Section, Text
from gebm_cli.experiment.report.figures import energy_histogram
from gebm_cli.experiment.report.learning import learning_curves
from gebm_cli.experiment.report.render import render
from gebm_cli.experiment.report.series import Series

SHOWN = "e => e.checkVisibility() && e.getBoundingClientRect().height > 0"
__all__ = ["browser"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(synthetic_page()), encoding="utf-8")
    return path


def _shown_frames(page):
    """(label, data) of the frames in sight in the first slider."""
    frames = page.locator(".slider").first.locator(".frame")
    every = frames.evaluate_all(f"all => all.filter({SHOWN}).map(e => [e.dataset.label, e.querySelector('img').src])")
    return [tuple(one) for one in every]


def _frame(k):
    return f"step {10 * k}", f"data:image/png;base64,{b64encode(flat(COLOURS[k])).decode()}"


def _column(page, k):
    cells = page.locator("#scores table").first.locator(f"tbody td:nth-child({k + 1})")
    return cells.evaluate_all("all => all.map(e => e.firstChild.textContent.trim())")


def test_a_page_of_all_blocks_is_sound(browser, path):
    check_page(path, browser)


def test_the_slider_moves_by_keyboard(browser, path):
    """It starts at the end; the arrows, Home and End change the picture, the label and what a screen reader says."""
    with opened(path, browser) as (page, wrong):
        slider = page.locator(".slider").first
        handle = slider.get_by_role("slider")
        assert handle.get_attribute("aria-label") == "step along the chain"
        assert _shown_frames(page) == [_frame(4)] and handle.get_attribute("aria-valuetext") == "step 40"
        handle.focus()
        for key, k in [("ArrowLeft", 3), ("ArrowLeft", 2), ("Home", 0), ("ArrowRight", 1), ("End", 4)]:
            page.keyboard.press(key)
            assert _shown_frames(page) == [_frame(k)]
            assert handle.get_attribute("aria-valuetext") == slider.locator("output").inner_text() == f"step {10 * k}"
        assert not wrong


def test_the_slider_moves_by_mouse_beside_the_still_base(browser, path):
    with opened(path, browser) as (page, _):
        slider = page.locator(".slider").first
        slider.get_by_role("slider").scroll_into_view_if_needed()
        box = slider.get_by_role("slider").bounding_box()
        for where, k in [(0.02, 0), (0.5, 2), (0.98, 4)]:
            page.mouse.click(box["x"] + where * box["width"], box["y"] + box["height"] / 2)
            assert _shown_frames(page) == [_frame(k)]
            still = slider.locator(".still")
            assert still.locator("img").get_attribute("src") == _frame(0)[1] and still.is_visible()
            assert still.inner_text() == "base, step 0"


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_the_two_pictures_stand_side_by_side_and_text_can_be_read(browser, tmp_path, width):
    """Halves of the width, at one height; figures of both sizes in letters of 10 pixels at least, all within reach."""
    energies = {name: np.arange(9.0) for name in ("training data", "held-out data", "base", "GEBM samples")}
    metrics = {name: Series(np.arange(3), np.arange(3.0), 3) for name in ("kale", "kale_train", "kale_held_out", "lr")}
    pictures = [energy_histogram(energies, 1.0, ""), *learning_curves("s", metrics, "")]
    sections = [Section("figures", "Figures", [Row(pictures)]), synthetic_page().sections[1]]
    (tmp_path / "p.html").write_text(render(Page("t", "run", Text("h"), [], sections)), encoding="utf-8")
    with opened(tmp_path / "p.html", browser, (width, 740)) as (page, wrong):
        frames = page.locator(".slider").first
        still, now = (frames.locator(f"{one} img").bounding_box() for one in (".still", ".now"))
        assert still["y"] == now["y"] and still["width"] == now["width"] and now["x"] > still["x"] + still["width"]
        assert 2 * now["width"] > 0.8 * (width - 32)
        assert page.locator("#figures .drawing").count() == 3 and page.locator("#figures .scroll").count() == 1
        letters = page.evaluate(LETTERS)
        assert len(letters) > 20 and min(letters) >= 10 and overflowing(page) == wrong == []
        page.set_viewport_size({"width": 1440, "height": 900})
        assert max(page.evaluate(LETTERS)) < 16


LETTERS = """() => [...document.querySelectorAll('#figures text')].map(t => parseFloat(getComputedStyle(t).fontSize)
    * t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)"""


def test_play_runs_to_the_end_and_is_left_out_where_motion_is_unwelcome(browser, path):
    with opened(path, browser) as (page, _):
        page.clock.install()
        play = page.get_by_role("button", name="Play")
        play.click()
        assert _shown_frames(page) == [_frame(0)]
        page.clock.run_for(500)
        assert _shown_frames(page) == [_frame(1)]
        page.get_by_role("button", name="Pause").click()
        page.clock.run_for(5000)
        assert _shown_frames(page) == [_frame(1)]
        play.click()
        page.clock.run_for(5000)
        assert _shown_frames(page) == [_frame(4)] and play.is_visible()
        play.click()
        page.get_by_role("slider").press("ArrowRight")  # whoever takes hold of the slider stops it
        page.clock.run_for(5000)
        assert _shown_frames(page) == [_frame(1)]
        page.emulate_media(reduced_motion="reduce")
        assert not play.is_visible()


UNSORTED = ["run-10", "run-2", "Base", "run-1", "—", "x"]


SORTED = {
    "samples": (["Base", "run-1", "run-2", "run-10", "x", "—"], ["x", "run-10", "run-2", "run-1", "Base", "—"]),
    "KID": (["-3", "1e-07", "0.1235", "20", "—", "nan"], ["20", "0.1235", "1e-07", "-3", "—", "nan"]),
    "n": (["7", "8", "900", "1000", "2000", "50000"], ["50000", "2000", "1000", "900", "8", "7"]),
    "note": (["3.5", "a", "b", "c", "—", "—"], ["c", "b", "a", "3.5", "—", "—"]),
}


def test_a_head_sorts_up_and_down_with_what_is_absent_last(browser, path):
    """Numbers as numbers, text as people count it, one column at a time; a marked row takes its mark along."""
    with opened(path, browser) as (page, wrong):
        heads = page.locator("#scores table").first.locator("th")
        assert _column(page, 0) == UNSORTED and page.locator("[aria-sort]").count() == 0
        for column, (ascending, descending) in SORTED.items():
            k = ["samples", "n", "KID", "note"].index(column)
            for order, expected in [("ascending", ascending), ("descending", descending), ("ascending", ascending)]:
                heads.nth(k).get_by_role("button", name=column, exact=True).press("Enter")
                assert _column(page, k) == expected and heads.nth(k).get_attribute("aria-sort") == order
            assert page.locator("[aria-sort]").all_inner_texts() == [column]
            marked = page.locator("tr.marked").inner_text()
            assert "run-2" in marked and "best" in marked
        assert not wrong


def test_hostile_text_is_shown_as_text_in_every_field(browser, tmp_path):
    """As often as the page holds the mark of it; no dialog opens, and nothing is fetched or logged."""
    path = tmp_path / "report.html"
    path.write_text(render(synthetic_page(HOSTILE)), encoding="utf-8")
    with opened(path, browser) as (page, wrong):
        shown = page.evaluate("document.body.textContent").count(HOSTILE)
        plain = render(synthetic_page("@@@")).partition("<body>")[2]
        assert shown == 1 + sum(part.count("@@@") for part in _texts(plain)) > 50  # the still frame repeats its label
        assert page.evaluate("document.querySelectorAll('script').length") == 1
        assert page.evaluate("[...document.images].every(i => i.src.startsWith('data:'))")
        assert HOSTILE in page.title()
        page.set_viewport_size({"width": 360, "height": 740})
        assert overflowing(page) == [] and wrong == []


def _texts(html):
    """What stands between the tags; the synthetic page without hostile text has no `<` of its own in them."""
    return [part.partition(">")[2] for part in html.split("<")]


def test_without_scripts_the_first_and_the_last_frame_are_seen(browser, path):
    with opened(path, browser, java_script_enabled=False) as (page, wrong):
        assert _shown_frames(page) == [_frame(0), _frame(4)]
        assert not page.locator(".controls").first.is_visible() and not wrong
        assert "base, step 0" in page.locator(".slider").first.inner_text()


def test_on_paper_the_first_and_the_last_frame_are_seen(browser, path):
    with opened(path, browser) as (page, _):
        page.get_by_role("slider").press("ArrowLeft")
        page.emulate_media(media="print", color_scheme="dark")
        assert _shown_frames(page) == [_frame(0), _frame(4)]
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"


def test_printing_opens_what_is_folded_and_folds_it_again(browser, path):
    with opened(path, browser) as (page, _):
        folded = "document.querySelectorAll('details:not([open])').length"
        before = page.evaluate(folded)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(folded) == 0 < before
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(folded) == before


def test_the_policy_stops_a_script_that_would_get_in(browser, path, tmp_path):
    """Even were a text not escaped, nothing runs and nothing is fetched: script, handler, style sheet, picture."""
    hostile = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><style>p{color:red}</style>"
    other = tmp_path / "report.html"
    other.write_text(path.read_text(encoding="utf-8").replace("<main>", f"<main>{hostile}"), encoding="utf-8")
    with opened(other, browser) as (page, wrong):
        assert page.title() == "digits-001 · run" and sum("Content Security Policy" in one for one in wrong) >= 3
        assert page.evaluate("getComputedStyle(document.querySelector('p.text')).color") != "rgb(255, 0, 0)"


def test_the_checks_find_what_is_wrong(browser, path, tmp_path):
    """A page with every fault fails the battery for each of them."""
    text = path.read_text(encoding="utf-8")
    faults = {
        "no alternative text": ('alt="plain"', 'alt=" "'),
        "scrolls to 2": ("</main>", '<table width="2000"><tr><td>wide</table></main>'),
        "contrast 3.45 < 4.5: 'faint'": ("</main>", '<font color="#8a8a8a">faint</font></main>'),
        "console error": ("</main>", "<script>1</script></main>"),
        "id x is not unique": ("</main>", '<b id="x"></b><i id="x"></i></main>'),
        "request: file:": ("</main>", '<img src="other.png" alt="other"></main>'),
        "not an image: other": ("</main>", "</main>"),
        "not printed": ("</main>", '<div class="missing"><pre hidden>command</pre></div></main>'),
        "axe button-name": ("</main>", "<button></button></main>"),
    }
    for old, new in faults.values():
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "bad.html").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError) as caught:
        check_page(tmp_path / "bad.html", browser)
    assert [word for word in faults if word not in str(caught.value)] == []


def test_contrast_is_as_the_guidelines_say():
    """Black on white is 21; #767676 is the lightest grey that passes on white; order does not matter."""
    white, grey, lighter = (255, 255, 255), (0x76,) * 3, (0x77,) * 3
    assert contrast((0, 0, 0), white) == pytest.approx(21.0)
    assert contrast(white, grey) == contrast(grey, white) == pytest.approx(4.54, abs=0.005)
    assert contrast(lighter, white) < 4.5


def test_faint_colours_are_found_within_drawings_and_in_the_dark(browser, path, tmp_path):
    text = path.read_text(encoding="utf-8").replace('fill="var(--quiet)"', 'fill="#59616b"')
    (tmp_path / "bad.html").write_text(text, encoding="utf-8")
    with opened(tmp_path / "bad.html", browser) as (page, _):
        assert faint_texts(page) == faint_series(page) == []
        page.emulate_media(color_scheme="dark")
        assert faint_texts(page) and all("2.87 < 4.5: 'step'" in one for one in faint_texts(page))
        assert len(faint_series(page, 21)) == 8


def test_other_tests_can_run_an_event_loop_of_their_own(browser):
    """While a test has the browser its loop is running; afterwards, none is."""
    assert asyncio.get_running_loop() is browser._loop


def test_no_event_loop_is_left_running():
    assert asyncio.run(asyncio.sleep(0, "done")) == "done"
