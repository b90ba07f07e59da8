"""`gebm report`, and the pages that other commands make anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
        (["digits-001", "--out", "page.pdf"], "--out page.pdf: expected a name that ends in .html"),
        (["digits-001", "--out", "no/where.html"], "no/where.html: its folder does not exist"),
        (["--runs-dir", "empty"], "no runs in empty"),
    ],
)
def test_what_cannot_be_done_is_told(gebm, run, argv, told):
    result = gebm("report", *argv)
    assert result.code in (1, 2) and told in result.err and result.out == ""


def test_a_file_of_someone_else_is_not_overwritten_and_an_own_page_is(gebm, run, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    result = gebm("report", run.name, "--out", "mine.html")
    assert result.code == 2 and "is no page of gebm" in result.err and (tmp_path / "mine.html").read_text() == "mine"
    assert [gebm("report", run.name, "--out", "page.html").code for _ in range(2)] == [0, 0]


def test_every_stage_leaves_a_page_however_it_ends(gebm, monkeypatch, tmp_path):
    monkeypatch.delenv("GEBM_REPORT")
    argv = ["train-base", "experiments/ring.yaml", "train_base.steps=2", "train_base.batch_size=8"]
    assert gebm(*argv, "train_energy.steps=2").code == 0
    page = tmp_path / "runs/ring-001/report.html"
    assert "gebm train-energy --run ring-001" in page.read_text()
    assert gebm("train-energy", "--run", "ring-001").code == 0
    assert "gebm sample --run ring-001" in page.read_text()
    assert gebm(*argv, "train_base.lr=1e30").code == 3
    assert "ended early: diverged" in (tmp_path / "runs/ring-002/report.html").read_text()


def test_a_name_that_the_encoding_of_stdout_lacks_is_no_defect(run):
    other = run.path.rename(run.path.with_name("rühe-001"))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "gebm_cli", "report", other], env=environment, capture_output=True)
    assert done.returncode == 0 and b"r\\xfche-001" in done.stdout


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
