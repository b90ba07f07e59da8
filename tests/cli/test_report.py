"""`gebm report`, and the pages that other commands make anew."""

from __future__ import annotations

import json

import pytest
from report_runs import add_session, new_run, verdict

from gebm_cli.cli.options import record_scores
from gebm_cli.experiment.run import open_run


@pytest.fixture
def run(gebm, tmp_path):
    return new_run(tmp_path / "runs")


def test_the_newest_run_is_shown_and_its_page_lies_in_its_folder(gebm, run, tmp_path):
    other = new_run(tmp_path / "runs", "ring")
    add_session(other, "train-base")
    result = gebm("report", "--json")
    told = json.loads(result.out)
    assert result.code == 0 and told["run"] == "ring-001"
    assert (other.path / "report.html").stat().st_size == told["bytes"]


def test_a_page_can_lie_elsewhere(gebm, run, tmp_path):
    result = gebm("report", run.name, "--out", "page.html")
    assert result.code == 0 and result.out == "digits-001: page.html\n"
    assert (tmp_path / "page.html").is_file() and not (run.path / "report.html").exists()


@pytest.mark.parametrize(
    "argv, told",
    [
        (["nothing-001"], "nothing-001: no such run; the newest here: digits-001"),
        (["digits-001", "--out", "page.pdf"], "--out page.pdf: a page is a file that ends in .html"),
        (["digits-001", "--out", "no/where.html"], "no/where.html: cannot be written"),
        (["--runs-dir", "empty"], "no runs in empty"),
    ],
)
def test_what_cannot_be_done_is_told(gebm, run, argv, told):
    result = gebm("report", *argv)
    assert result.code in (1, 2) and told in result.err and result.out == ""


def test_a_run_whose_experiment_cannot_be_read_still_gets_a_page(gebm, run):
    (run.path / "experiment.yaml").write_text("name: [")
    assert gebm("report", "digits-001").code == 0
    assert "experiment.yaml" in (run.path / "report.html").read_text()


def test_scores_that_are_kept_make_the_page_of_their_run_anew(monkeypatch, run):
    record_scores([(run, verdict(), "verdict")])
    assert not (run.path / "report.html").exists()  # the tests turn it off
    monkeypatch.delenv("GEBM_REPORT")
    record_scores([(run, verdict(), "verdict"), (None, {}, "kid")])
    assert "significantly better" in (run.path / "report.html").read_text()
    assert len(open_run(run.path).scores()) == 2


def test_a_page_that_cannot_be_made_is_a_note_and_no_error(monkeypatch, run, capsys):
    monkeypatch.delenv("GEBM_REPORT")
    (run.path / "report.html").mkdir()
    record_scores([(run, verdict(), "verdict")])
    assert "report.html could not be made" in capsys.readouterr().err
    assert len(open_run(run.path).scores()) == 1
