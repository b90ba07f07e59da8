"""The page of a run, for runs in every state."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from report_runs import EXPERIMENTS, add_chains, add_metrics, add_session, new_run, two_sample_record, verdict

from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.report.blocks import Code, Missing, Picture, Slider, Table, Text
from gebm_cli.experiment.report.found import find
from gebm_cli.experiment.report.run_page import page_of, write_report
from gebm_cli.experiment.run import create_run
from gebm_cli.experiment.schema import TrainBase


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
    run.add_score(
        {"metric": "fid", "value": 0.65, "standard_error": 0.1, "samples": f"{run.name}/kla-001", "features": "pixels"},
        "fid",
    )
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
    step = section(made, "Next step").blocks[1]
    assert step.lines == ["gebm train-base --run digits-001"]
    assert missing(section(made, "Learning curves: train-base"))[0].command == step.lines[0]
    for title in ("Samples", "Energies", "Chains", "Nearest neighbours", "Learning curves: train-energy"):
        (first, *_) = missing(section(made, title))
        assert first.why == "it comes after train-base, which is not done" and first.command is None
    assert missing(section(made, "What was run"))


def next_lines(run):
    return section(page(run), "Next step").blocks[-1].lines


def test_the_next_step_is_the_first_that_is_not_done_and_its_command_can_be_typed(run):
    add_session(run, "train-base")
    assert next_lines(run) == ["gebm train-energy --run digits-001"]
    add_session(run, "train-energy")
    sampling = ["gebm sample --run digits-001 --sampler none", "gebm sample --run digits-001"]
    assert next_lines(run) == sampling
    add_chains(run)
    assert next_lines(run) == sampling[:1]
    add_chains(run, "base-001", sampler="none")
    assert next_lines(run) == ["gebm verdict --run digits-001"]
    run.add_score(verdict(), "verdict")
    assert not [s for s in page(run).sections if s.title == "Next step"]


def test_a_run_that_diverged_is_begun_anew_with_a_smaller_rate_and_others_go_on(run):
    add_session(run, "train-base", "diverged", failure="kale = nan")
    rate = run.experiment.train_base.lr / 10
    assert next_lines(run) == [f"gebm train-base experiments/digits.yaml train_base.lr={rate:g}"]
    add_session(run, "train-base", "interrupted")
    assert next_lines(run) == ["gebm train-base --run digits-001"]


def test_an_absurd_rate_is_replaced_by_the_usual_one(tmp_path):
    experiment = load_experiment(EXPERIMENTS / "digits.yaml", ["seed=7", "train_base.lr=1e30"])
    run = create_run(experiment, tmp_path / "runs")
    add_session(run, "train-base", "diverged", argv=["gebm", "train-base", "digits", "train_base.lr=1e30", "-q"])
    usual = TrainBase.model_fields["lr"].default
    assert next_lines(run) == [f"gebm train-base digits -q train_base.lr={usual:g}"]


def test_names_are_quoted_for_a_shell(tmp_path):
    run = new_run(tmp_path / "my runs; touch x")
    (line,) = next_lines(run)
    assert line == f"gebm train-base --run '{run.path}'"


def test_the_command_of_a_run_whose_seed_was_drawn_has_that_seed(run):
    add_session(run, "train-base", argv=["gebm", "train-base", "digits"], seed=7)
    add_session(run, "train-base", argv=["gebm", "train-base", "--run", "digits-001"], seed=7)
    lines = section(page(run), "How to reproduce").blocks[0].lines
    assert lines[:2] == ["gebm train-base digits --seed 7", "gebm train-base --run digits-001"]


def test_a_newer_set_than_the_verdict_is_said_not_to_be_judged(run):
    whole(run)
    add_chains(run, "kla-002", written="2999-01-01T00:00:00+00:00")
    assert page(run).headline.text.endswith("Newer, and not judged: kla-002.")


def test_what_is_newest_is_said_by_the_records_and_not_by_the_files_times(run):
    for name, moment in (("kla-001", "2026-02-02"), ("kla-002", "2026-01-01")):
        add_chains(run, name, written=f"{moment}T00:00:00+00:00")
    os.utime(run.path / "samples/kla-001/sample.yaml", (0, 0))
    assert find(run.path).newest("chains").name == "kla-001"


def test_a_damaged_set_is_told_and_the_others_stay(run):
    whole(run)
    (add_chains(run, "kla-002") / "sample.yaml").write_text("[")
    found = find(run.path)
    assert [s.name for s in found.sets] == ["kla-001"] and "kla-002" in found.problems[0]


def test_a_set_that_was_stopped_is_told_with_the_command_that_goes_on(run):
    folder = run.path / "samples/.kla-009.partial"
    folder.mkdir(parents=True)
    (folder / "order.yaml").write_text("{}")
    codes = [b for b in section(page(run), "Samples").blocks if isinstance(b, Code)]
    assert codes[0].lines == [f"gebm sample --resume {run.path / 'samples/kla-009'}"]


def test_the_closing_figures_of_a_stage_stand_with_their_errors(run):
    add_session(run, "train-base", figures={"nll_held_out": 12.5, "nll_held_out_standard_error": 0.25})
    tables = [b for b in section(page(run), "Learning curves: train-base").blocks if isinstance(b, Table)]
    assert tables[0].rows[0][1:] == ["nll_held_out", 12.5, 0.25]


def test_a_log_z_of_few_samples_is_doubted_above_the_closing_figures(run):
    figures = {"ess": 5.0, "n_log_partition": 50000.0, "log_partition_heaviest": 0.5, "kale_held_out": 20.5}
    for ess, heaviest, kale in ((5.0, 0.5, 20.5), (9000.0, 0.01, 1.0)):
        told = figures | {"ess": ess, "log_partition_heaviest": heaviest, "kale_held_out": kale}
        add_session(run, "train-energy", figures=told)
        blocks = section(page(run), "Learning curves: train-energy").blocks
        said = [b.text for b in blocks if isinstance(b, Text) and b.tone == "bad" and "log Z" in b.text]
        assert len(said) == (kale > 2)
        assert not said or ("50 % of the sum of squared weights (ESS 5)" in said[0] and "KALE 20.5 is above" in said[0])


def test_points_have_no_neighbours_among_images(tmp_path):
    run = new_run(tmp_path, "ring")
    record = run.record() | {"data_shape": [2]}
    (run.path / "record.yaml").write_text(yaml.safe_dump(record))
    Image.new("RGB", (600, 300)).save(add_chains(run, images=False) / "chains.png")
    made = page(run)
    assert "Nearest neighbours" not in [s.title for s in made.sections]
    captions = [b.caption for b in section(made, "Chains").blocks if isinstance(b, Picture)]
    assert "The paths of single chains, from circle to square." in captions


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_a_run_that_ended_early_says_so_first_with_its_message(run, status):
    add_session(run, "train-base", status, failure="penalty = nan at step 7", exit_code=3)
    made = page(run)
    assert made.headline.tone == "bad" and status in made.headline.text
    told = [b.text for b in section(made, "Next step").blocks if isinstance(b, Text)]
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
    assert "Against 360 held-out points: worse, p = 0.99." in made.headline.text


def test_scores_stand_in_one_table_with_sets_by_their_own_names(run):
    (table,) = [b for b in section(page(whole(run)), "Scores").blocks if isinstance(b, Table)]
    cells = {(row[0], row[1], row[2]): row[3] for row in table.rows}
    assert cells[("FID", "kla-001", None)] == 0.65
    assert cells[("KID", "base-001", "digits:train")] == 0.03 and cells[("KID", "kla-001", "digits:train")] == 0.01


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
    assert others in html and "</html>" in html
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
        assert page(run).sections[-2].title == "How to reproduce"


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


def test_the_curves_of_a_flow_name_the_command_of_its_set(tmp_path):
    run = new_run(tmp_path, "flow-three-rings")
    add_session(run, "flow", argv=["gebm", "flow", "first"])
    add_session(run, "flow", argv=["gebm", "flow", "second"])
    add_metrics(run, "flow/mmd-flow-002")
    found = find(run.path)
    assert found.command("flow/mmd-flow-002") == "gebm flow first"
    add_chains(run, "mmd-flow-002", images=False, flow={}, argv=["gebm", "flow", "second"])
    assert find(run.path).command("flow/mmd-flow-002") == "gebm flow second"
