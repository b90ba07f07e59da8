"""The page of a run, for runs in every state."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from report_runs import add_chains, add_metrics, add_session, new_run, two_sample_record, verdict

from gebm_cli.experiment.report.blocks import Missing, Slider, Table, Text
from gebm_cli.experiment.report.found import find
from gebm_cli.experiment.report.run_page import page_of, write_report


@pytest.fixture
def run(tmp_path):
    return new_run(tmp_path / "runs")


def page(run):
    return page_of(find(run.path))


def section(page, title):
    return next(s for s in page.sections if s.title.startswith(title))


def missing(section):
    return [b for b in section.blocks if isinstance(b, Missing)]


def whole(run):
    """A run in which all was done."""
    for stage in ("train-base", "train-energy"):
        add_session(run, stage)
        add_metrics(run, stage)
    add_chains(run)
    run.add_score(verdict(), "verdict")
    run.add_score(two_sample_record(), "two-sample-test")
    run.add_score({"metric": "fid", "value": 0.65, "standard_error": 0.1, "samples": f"{run.name}/kla-001"}, "fid")
    return run


def test_a_finished_run_has_every_part_and_misses_only_base_samples(run):
    made = page(whole(run))
    absent = [(s.title, m.what) for s in made.sections for m in missing(s)]
    assert absent == [("Samples", "Base samples of their own"), ("Nearest neighbours", "Nearest neighbours")]
    assert made.headline.tone == "good" and "significantly better" in made.headline.text
    assert any(isinstance(b, Slider) and len(b.frames) == 5 for b in section(made, "Samples").blocks)
    assert "gebm sample --run digits-001" in section(made, "How to reproduce").blocks[0].lines
    assert [s.key for s in made.sections] == list(dict.fromkeys(s.key for s in made.sections))


def test_an_empty_run_says_of_each_part_what_is_missing_why_and_what_makes_it(run):
    made = page(run)
    assert made.headline.text == "Nothing has run in this run yet."
    for title in ("Samples", "Energies", "Chains", "Learning curves: train-base", "Learning curves: train-energy"):
        (first, *_) = missing(section(made, title))
        assert first.why and (first.command or "").startswith("gebm ")
    assert missing(section(made, "What was run"))


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_a_run_that_ended_early_says_so_first_with_its_message(run, status):
    add_session(run, "train-base", status, failure="penalty = nan at step 7", exit_code=3)
    made = page(run)
    assert made.headline.tone == "bad" and status in made.headline.text
    told = [b.text for b in section(made, "What was run").blocks if isinstance(b, Text)]
    assert any("penalty = nan at step 7" in text for text in told)


def test_a_stage_that_no_process_holds_has_crashed_and_one_that_is_held_runs(run):
    add_session(run, "train-base", "running", end=None)
    assert "crashed" in page(run).headline.text
    with run.lock():
        assert page(run).headline.text.startswith("train-base is running")


def test_a_verdict_is_told_with_every_reference_and_its_tone_follows_the_first(run):
    whole(run)
    record = verdict(significant=False, p=0.4)
    record["references"]["held-out"] = record["references"]["train"] | {"p_value": 0.995, "n_real": 360}
    run.add_score(record, "verdict")
    made = page(run)
    assert made.headline.tone == "plain" and "not significantly better" in made.headline.text
    assert "(against 360 held-out points: worse, p = 0.99.)" in made.headline.text


def test_scores_stand_in_one_table_with_sets_by_their_own_names(run):
    (table,) = [b for b in section(page(whole(run)), "Scores").blocks if isinstance(b, Table)]
    cells = {(row[0], row[1], row[2]): row[3] for row in table.rows}
    assert cells[("FID", "kla-001", None)] == 0.65
    assert cells[("KID", "base-001", "train")] == 0.03 and cells[("KID", "kla-001", "train")] == 0.01


def test_changed_keys_are_marked_and_typed_values_told(run):
    keys, everything = [b for b in section(page(run), "Experiment").blocks if isinstance(b, Table)]
    assert ["name", "seed"] == [k for k in ("name", "seed") if k in [row[0] for row in keys.rows]]
    assert len(everything.rows) > len(keys.rows) == len(everything.marked) and everything.folded


DAMAGE = {
    "record.yaml": "stages: [",
    "metrics.jsonl": '{"stage": "train-base", "step": 1, "kale": 1\nnot json\n[]\n{"step": "x"}\n',
    "samples/kla-001/sample.yaml": "- a list",
    "samples/kla-001/shown.npz": "no archive",
    "samples/kla-001/trace.png": "no picture",
    "evaluation/verdict-001.yaml": "references: {train: 7}\nmetric: verdict\n",
    "evaluation/fid-001.yaml": "}{",
    "experiment.yaml": "name: [",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_whatever_is_damaged_the_page_comes_and_the_other_parts_with_it(run, name):
    whole(run)
    (run.path / name).write_text(DAMAGE[name])
    html = write_report(run.path).read_text()
    others = {"samples": "All scores", "evaluation": "All sample sets"}.get(name.split("/")[0], "Learning curves")
    assert others in html and html.rstrip().endswith("</html>")
    if name != "metrics.jsonl" and name != "evaluation/verdict-001.yaml":
        assert name.split("/")[-1] in html  # the damaged file is named


@pytest.mark.parametrize("value", [None, 3, "text", [1], {"a": {"b": None}}])
def test_a_record_with_foreign_values_still_gives_a_page(run, value):
    add_session(run, "train-base")
    record = run.record()
    session = record["stages"][0]
    foreign = [record | {key: value} for key in ("stages", "created", "experiment", "scores")]
    foreign += [record | {"stages": [session | {key: value}]} for key in ("status", "argv", "start", "versions", "git")]
    for one in foreign:
        (run.path / "record.yaml").write_text(yaml.safe_dump(one))
        assert page(run).sections[-1].title == "How to reproduce"


def test_a_run_of_particles_alone_has_no_parts_on_networks(tmp_path):
    titles = [s.title for s in page(new_run(tmp_path, "flow-three-rings")).sections]
    assert not {"Energies", "Chains", "Nearest neighbours"} & set(titles) and "Samples" in titles


def test_text_of_the_user_is_escaped(run):
    hostile = "<script>alert(1)</script>"
    add_session(run, "train-base", "failed", failure=hostile, argv=["gebm", hostile])
    html = write_report(run.path).read_text()
    assert hostile not in html and html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2


def test_making_a_page_needs_no_torch(run):
    """Importing torch alone would take longer than the page."""
    whole(run)
    code = "import sys; from pathlib import Path; from gebm_cli.experiment.report.run_page import write_report; "
    code += f"write_report(Path({str(run.path)!r})); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_is_the_same_for_the_same_run(run):
    whole(run)
    assert write_report(run.path).read_bytes() == write_report(run.path).read_bytes()
