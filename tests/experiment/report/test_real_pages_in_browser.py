"""The pages that commands write, in a real browser."""

from __future__ import annotations

import pytest
from experiment.report.browser import browser, check_page, opened
from report_runs import add_chains, add_metrics, add_session, new_run, two_sample_record, verdict

from gebm_cli.experiment.report.comparison_page import comparison_page
from gebm_cli.experiment.report.render import render
from gebm_cli.experiment.report.run_page import write_report
from gebm_cli.experiment.run_comparison import compare_runs, find_runs

__all__ = ["browser"]


@pytest.fixture
def run(tmp_path):
    """A run in which all was done, with a name of the user's that a page must not obey."""
    run = new_run(tmp_path / "runs")
    for stage in ("train-base", "train-energy"):
        add_session(run, stage, argv=["gebm", stage, "<b>digits</b>.yaml"])
        add_metrics(run, stage)
    add_chains(run)
    run.add_score(verdict(), "verdict")
    run.add_score(two_sample_record(), "two-sample-test")
    return run


def test_the_page_of_a_run_is_sound_and_its_slider_moves_the_chains(run, browser):
    page_file = write_report(run.path)
    check_page(page_file, browser)
    with opened(page_file, browser, (1440, 900)) as (page, wrong):
        slider = page.locator("input[type=range]")
        slider.focus()
        page.keyboard.press("Home")
        first = slider.get_attribute("aria-valuetext")
        page.keyboard.press("ArrowRight")
        assert (first, slider.get_attribute("aria-valuetext")) == ("step 0", "step 25")
        assert not wrong


def test_the_page_of_an_empty_run_is_sound(tmp_path, browser):
    check_page(write_report(new_run(tmp_path / "runs").path), browser)


def test_the_page_of_a_comparison_is_sound(run, tmp_path, browser):
    other = new_run(tmp_path / "runs")
    add_metrics(other, "train-base")
    comparison = compare_runs(find_runs([run.name, other.name], tmp_path / "runs"))
    page_file = tmp_path / "compare.html"
    page_file.write_text(render(comparison_page(comparison, None, ["gebm", "compare", "digits-001", "digits-002"])))
    check_page(page_file, browser)
