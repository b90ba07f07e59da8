"""A page in a real browser: the fixture `browser`, and what every page is checked for.

from experiment.report.browser import browser, check_page  # noqa: F401
def test_the_page_of_a_run_is_sound(browser, page_path): check_page(page_path, browser)
"""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
SCHEMES = ["light", "dark"]
SIZES = [(360, 740), (1440, 900)]
_STARTED = pytest.StashKey()


# ----------------------------------------------------------------------------------------------------------- a browser


@pytest.fixture(name="browser")
def browser(request):
    """The system's Chromium, started once; the test is skipped where there is none. Its event loop runs in such tests alone."""
    stash = request.config.stash
    if _STARTED not in stash:
        stash[_STARTED] = _start(request.config)
    started, reason = stash[_STARTED]
    if started is None:
        pytest.skip(reason)
    with _running(started._loop):
        yield started


def _start(config):
    """(browser, None), or (None, why there is none)."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        return None, f"no browser: none of {', '.join(NAMES)} is on the PATH (apt-get install chromium)"
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return None, "no playwright: pip install --editable '.[dev]'"
    playwright = sync_playwright().start()
    loop = asyncio.get_running_loop()
    try:
        started = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS, timeout=60_000)
    except Error as error:
        _stop(loop, playwright.stop)
        return None, f"{executable} does not start: {str(error).splitlines()[0]}"
    config.add_cleanup(partial(_stop, loop, started.close, playwright.stop))
    asyncio._set_running_loop(None)
    return started, None


@contextmanager
def _running(loop):
    """Playwright's loop counts as running within, and no loop does afterwards, so that other tests can run their own."""
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


def _stop(loop, *calls):
    with _running(loop):
        for call in calls:
            call()


@contextmanager
def opened(path, browser, size=(1440, 900), **options):
    """The page of a file, and the list of what went wrong in it so far: console, errors, dialogs, requests."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(10_000)
    page, wrong = context.new_page(), []
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(f"console {m.type}: {m.text}"))
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    address = Path(path).resolve().as_uri()
    page.on("request", lambda r: r.url in (address, *_local(r.url)) or wrong.append(f"request: {r.url[:200]}"))
    page.goto(address)
    try:
        yield page, wrong
    finally:
        context.close()


def _local(url):
    return [url] if url.startswith("data:") else []


# --------------------------------------------------------------------------------------------------------- the battery


def check_page(path, browser):
    """All that holds for every page; one assertion with all that is wrong."""
    with opened(path, browser) as (page, wrong):
        wrong += alternatives(page) + broken_images(page) + duplicate_ids(page) + printed(page)
        open_all(page)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            wrong += [f"{scheme}: {what}" for what in faint_texts(page) + faint_series(page)]
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            wrong += overflowing(page)
        wrong += violations(page)
    assert not wrong, "\n".join(wrong)


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


def alternatives(page):
    """Pictures that say nothing to those who do not see them."""
    return page.evaluate(
        """() => [...document.querySelectorAll('img, svg')].filter(e => !e.closest('svg svg')).filter(e => e.tagName === 'IMG'
            ? !(e.alt || '').trim() : e.getAttribute('role') !== 'img' || !(e.getAttribute('aria-label') || '').trim())
            .map(e => 'no alternative text: ' + e.outerHTML.slice(0, 120))"""
    )


def broken_images(page):
    return page.evaluate(
        """async () => { const images = [...document.images];
            await Promise.allSettled(images.map(i => i.decode()));
            return images.filter(i => !i.naturalWidth).map(i => 'not an image: ' + i.alt); }"""
    )


def duplicate_ids(page):
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    return [f"id {name} is not unique" for name in dict.fromkeys(ids) if ids.count(name) > 1]


def overflowing(page):
    """What makes the page scroll sideways."""
    return page.evaluate(
        """() => { const width = innerWidth; if (document.scrollingElement.scrollWidth <= width) return [];
            const out = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 1);
            return [`${width} px: scrolls to ${document.scrollingElement.scrollWidth}: ` +
                out.slice(-3).map(e => e.outerHTML.slice(0, 100)).join(' | ')]; }"""
    )


PRINTED = """() => {
    const every = {contentVisibilityAuto: true, visibilityProperty: true, opacityProperty: true};
    const seen = e => e.checkVisibility(every) && e.getBoundingClientRect().height > 0;
    const told = (selector, keep, word) =>
        [...document.querySelectorAll(selector)].filter(keep).map(e => word + ': ' + e.outerHTML.slice(0, 100));
    return [...told('details > :not(summary), td, pre, .frame:first-child', e => !seen(e), 'not printed'),
        ...told('.controls, .still, nav', seen, 'printed')];
}"""


def printed(page):
    """On paper, on which nothing can be opened: folded parts that are not shown, and controls that are."""
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = false)")
    page.emulate_media(media="print")
    for _ in range(20):  # the browser lays folded parts out in its own time
        if not (wrong := page.evaluate(PRINTED)):
            break
        page.wait_for_timeout(50)
    page.emulate_media(media="screen")
    return wrong


def violations(page):
    """What axe-core, another's rules for pages everyone can use, finds: WCAG 2 A and AA."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [f"axe {v['id']}: {v['nodes'][0]['html'][:150]} {v['nodes'][0]['failureSummary']}" for v in found]


# ------------------------------------------------------------------------------------------------------------ contrast


def contrast(one, other):
    """WCAG 2.2: (lighter + .05) / (darker + .05) of the relative luminances of two colours (r, g, b) in 0..255."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def parsed(text):
    """(r, g, b), alpha of a computed colour."""
    numbers = [float(x) for x in re.fullmatch(r"rgba?\(([^)]*)\)", text)[1].replace(",", " ").replace("/", " ").split()]
    return tuple(numbers[:3]), (numbers[3] if len(numbers) > 3 else 1.0)


def over(colour, alpha, below):
    return tuple(alpha * a + (1 - alpha) * b for a, b in zip(colour, below, strict=True))


TEXTS = """() => {
    const found = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
        if (!text || e.closest('script, style, title') || !e.checkVisibility() || !e.getClientRects().length) continue;
        const style = getComputedStyle(e), backgrounds = [];
        let alpha = 1;
        for (let p = e; p; p = p.parentElement) {
            const s = getComputedStyle(p);
            alpha *= Number(s.opacity);
            if (!p.closest('svg')) backgrounds.push(s.backgroundColor);
        }
        const inside = e.closest('svg');
        if (inside) alpha *= Number(style.fillOpacity);
        const colour = inside ? style.fill : style.color, key = [colour, alpha, ...backgrounds].join();
        if (!found.has(key)) found.set(key, {text: text.slice(0, 60), colour, alpha, backgrounds});
    }
    return [...found.values()];
}"""


def faint_texts(page, least=4.5):
    """Texts, of HTML and of SVG, whose colour is too near the background that is drawn behind them."""
    wrong = []
    for found in page.evaluate(TEXTS):
        behind = (255.0, 255.0, 255.0)
        for background in reversed(found["backgrounds"]):
            behind = over(*parsed(background), behind)
        colour, alpha = parsed(found["colour"])
        ratio = contrast(over(colour, alpha * found["alpha"], behind), behind)
        if ratio < least:
            wrong.append(f"contrast {ratio:.2f} < {least}: {found['text']!r}, {found['colour']} on {behind}")
    return wrong


def faint_series(page, least=3.0):
    """Colours of curves too near the paper."""
    read = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    values = page.evaluate(read, ["paper", *(f"series-{k}" for k in range(1, 9))])
    paper, *series = [tuple(bytes.fromhex(value.lstrip("#"))) for value in values]
    ratios = {k: contrast(colour, paper) for k, colour in enumerate(series, 1)}
    return [f"--series-{k} has contrast {r:.2f} < {least}" for k, r in ratios.items() if r < least]
