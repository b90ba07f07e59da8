"""The pictures of README.md and docs/pictures.md, from two finished runs: parts of their pages, and the live panel.

    make demo SEED=0; make demo SEED=1
    gebm two-sample-test digits-001/kla-001 held-out; gebm two-sample-test digits-001/base-001 held-out
    python tests/benchmarks/result_pictures.py runs/digits-001 runs/digits-002 docs/images

Needs playwright and a Chromium of the system.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from gebm_cli.cli.panel import Board
from gebm_cli.experiment.report.run_page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WIDTH = 1180
PARTS = {"energies": "#energies figure", "curves": "#curves-train-energy .row", "tests": "#tests .row"}


def main(first: Path, second: Path, out: Path) -> None:
    with sync_playwright() as playwright:
        path = next(found for name in BROWSERS if (found := shutil.which(name)))
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page_of_run(browser, write_report(first), out)
        comparison(browser, first, second, out)
        panel(browser, first, out)
        browser.close()


def page_of_run(browser: Browser, file: Path, out: Path) -> None:
    """The top of the page in light and, narrow, in dark; then its parts."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1010}, color_scheme="light")
    page.goto(file.resolve().as_uri())
    keep(page.screenshot(), out / "report.webp")
    for name, selector in PARTS.items():
        keep(page.locator(selector).first.screenshot(), out / f"report-{name}.webp")
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    phone.goto(file.resolve().as_uri())
    keep(phone.screenshot(), out / "report-phone.webp")


def comparison(browser: Browser, first: Path, second: Path, out: Path) -> None:
    file = out / "compare.html"
    command = [sys.executable, "-m", "gebm_cli", "compare", str(first), str(second), "--out", str(file)]
    subprocess.run(command, check=True)
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
    page.goto(file.resolve().as_uri())
    keep(page.screenshot(), out / "report-compare.webp")
    file.unlink()


def panel(browser: Browser, run: Path, out: Path) -> None:
    """The panel as it stood at two thirds of the run's energy stage, by the log lines of that run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["stage"] == "train-energy"]
    clock = [0.0]
    board = Board(f"train-energy {run.name}", now=lambda: clock[0])
    board.begin("", "steps")
    board.report(0, rows[-1]["step"], {})
    for row in rows[: 2 * len(rows) // 3]:
        clock[0] = row["time_s"]
        figures = {k: v for k, v in row.items() if k not in ("stage", "step", "time_s")}
        board.report(row["step"], rows[-1]["step"], figures)
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    console.print(board)
    html = console.export_html(inline_styles=True, code_format=f'<pre style="{STYLE}">{{code}}</pre>')
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    page.set_content(html)
    keep(page.locator("pre").screenshot(), out / "panel.webp")


STYLE = (
    "background:#15171a; color:#e6e6e6; padding:14px; display:inline-block; font:14px/1.25 DejaVu Sans Mono, monospace"
)


def keep(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, "WEBP", quality=82, method=6)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
