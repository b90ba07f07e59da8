"""`gebm runs`: one list of rows as table, JSON and CSV; filtered, sorted, and quick."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from run_folders import described_set, made_run, score, session, verdict_record, write_metrics

from gebm_cli.cli import runs_text
from gebm_cli.experiment import newest_rows, run_table
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import all_runs
from gebm_cli.experiment.run_table import read_row, read_rows

ROOT = Path("runs")


@pytest.fixture
def three(gebm):
    """Learning rates 1e-3, 1e-4 and 1e-2; the last crashed; FIDs on Inception, random features, and none."""
    made_run(
        ROOT, "train_energy.lr=1e-3", scores=[score(value=9.0), score(value=5.0), score(value=7.0)], kale=[0.0, 4.0]
    )
    made_run(
        ROOT, "train_energy.lr=1e-4", scores=[score(value=2.0, features="random"), score("kid", 0.03)], kale=[1.0, 3.0]
    )
    made_run(ROOT, "train_energy.lr=1e-2", sessions=[session(status="running", step=None, end=None)], kale=[2.0, 1.0])
    return gebm


def listed(gebm, *argv: str) -> list[str]:
    result = gebm("runs", *argv, "--json")
    assert result.code == 0, result.err
    return [row["run"][-1] for row in json.loads(result.out)["runs"]]


def test_a_row_is_what_the_runs_own_reader_says(three):
    """The quick reader against `all_runs`, which parses every file in full."""
    rows, unreadable = read_rows(ROOT)
    assert not unreadable and [row.experiment for row in rows] == [run.experiment for run in all_runs(ROOT)]
    for row, run in zip(rows, all_runs(ROOT), strict=True):
        last = run.last_session("train-energy")
        assert (row.summary["status"], row.summary["seed"]) == (last["status"], run.seed)
        assert row.scores == run.scores()
    assert [row.summary["status"] for row in rows] == ["completed", "completed", "crashed"]
    assert [row.summary["step"] for row in rows] == [3, 3, 2], "of a crashed session the last step of its metrics"
    assert rows[0].summary["duration_s"] == 150 and rows[2].summary["duration_s"] is None
    assert (rows[0].summary["objective"], rows[0].curve) == ("kale", [0.0, 4.0])


@pytest.mark.parametrize(
    "text",
    [
        "latent_dim: 010",
        "latent_dim: '10'",
        "latent_dim: 1e1",
        "seed: null",
        "seed: ~",
        "evaluate:",
        "prior: !!str normal",
    ],
)
def test_an_experiment_changed_by_hand_reads_as_the_loader_reads_it(gebm, text):
    run = made_run(ROOT)
    file = run.path / "experiment.yaml"
    key = text.partition(":")[0]
    tree = yaml.safe_load(file.read_text())
    tree.pop(key)
    file.write_text(yaml.safe_dump(tree) + text + "\n")
    try:
        wanted = load_experiment(file)
    except Exception as error:
        with pytest.raises(type(error)):
            read_row(run.path)
    else:
        assert read_row(run.path).experiment == wanted


def test_an_alias_in_an_experiment_is_refused_as_ever(gebm):
    file = made_run(ROOT).path / "experiment.yaml"
    text = file.read_text()
    assert "latent_dim: 16\n" in text and "\nseed: 0\n" in text
    file.write_text(text.replace("\nseed: 0\n", "\nseed: &n 16\n").replace("latent_dim: 16", "latent_dim: *n"))
    result = gebm("runs", "--json")
    assert json.loads(result.out)["runs"] == [] and "digits-001: passed over" in result.err


def test_newest_scores_are_told_and_the_best_is_of_those_like_the_newest(gebm):
    other = score(value=0.1, features="random")
    made_run(ROOT, scores=[score(value=9.0), score(value=5.0), other, score(value=6.0, n_fake=50), score(value=7.0)])
    (row,) = json.loads(gebm("runs", "--json").out)["runs"]
    assert (row["fid"]["value"], row["best_fid"]["value"]) == (7.0, 5.0)
    assert {"value", "standard_error", "samples", "reference"} <= set(row["fid"]) and row["kid"] is None


@pytest.mark.parametrize(("name", "age"), [("fid-002", -100), ("score-001", 100)])
def test_scores_are_read_from_their_files_where_the_record_does_not_have_them(gebm, name, age):
    """A score that was kept while the run was locked stands in its file alone; one that was changed is newer than the record."""
    run = made_run(ROOT, scores=[score(value=3.0)])
    times = [(run.path / "record.yaml").stat().st_mtime + extra for extra in (0, age)]
    os.utime(run.path / "evaluation" / "score-001.yaml", (times[0] - 200, times[0] - 200))
    file = run.path / "evaluation" / f"{name}.yaml"
    file.write_text(yaml.safe_dump(score(value=4.0)))
    os.utime(file, (times[1], times[1]))
    (row,) = json.loads(gebm("runs", "--json").out)["runs"]
    assert row["fid"]["value"] == 4.0


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (["train_energy.lr=1e-4"], "2"),
        (["train_energy.lr=0.0001"], "2"),
        (["train_energy.lr<=1e-3"], "12"),
        (["train_energy.lr>1e-3"], "3"),
        (["train_energy.lr!=1e-3"], "23"),
        (["train_energy.lr>=1e-4", "train_energy.lr<1e-2"], "12"),
        (["status=comp*"], "12"),
        (["status!=comp*"], "3"),
        (["run=digits-00[13]"], "13"),
        (["run=DIGITS*"], ""),
        (["kale>=3"], "12"),
        (["fid<6"], "2"),
        (["best_fid=5"], "1"),
        (["fid=null"], "3"),
        (["experiment=digits", "stage=train-energy"], "123"),
        (["data=digits", "base=conv"], "123"),
        (["train_energy.objective=kale"], "123"),
        (["started>=2026-01-01"], "123"),
        (["started<2026-01-01"], ""),
        (["seed = 0"], "123"),
    ],
)
def test_all_filters_must_hold(three, filters, left):
    assert "".join(listed(three, *(word for text in filters for word in ("--filter", text)))) == left


@pytest.mark.parametrize(
    ("argv", "order"),
    [
        ([], "123"),
        (["--reverse"], "321"),
        (["--sort", "-started"], "321"),
        (["--sort", "train_energy.lr"], "213"),
        (["--sort", "-train_energy.lr"], "312"),
        (["--sort", "train_energy.lr", "--reverse"], "312"),
        (["--sort", "-train_energy.lr", "--reverse"], "213"),
        (["--sort", "kale"], "321"),
        (["--sort", "fid"], "213"),
        (["--sort", "-fid"], "123"),
        (["--sort", "-kid"], "213"),
        (["--sort", "status"], "123"),
    ],
)
def test_rows_are_sorted_and_what_is_missing_is_last_either_way(three, argv, order):
    if "started" not in str(argv) and argv != ["--reverse"] and argv:
        assert "".join(listed(three, *argv)) == order
    else:  # all began at the same second, so they stay in the order they were made
        made_run(ROOT, sessions=[session(start="2026-02-01T00:00:00+00:00")])
        assert listed(three, *argv)[0 if "3" == order[0] else -1] == "4"


def test_run_names_are_sorted_by_their_numbers(gebm):
    for number in (2, 10, 1):
        made_run(ROOT).path.rename(ROOT / f"digits-{number}")
    rows = json.loads(gebm("runs", "--sort", "run", "--json").out)["runs"]
    assert [row["run"] for row in rows] == ["digits-1", "digits-2", "digits-10"]


def test_nan_is_sorted_last_and_is_null_in_json(gebm):
    for value in (math.nan, 1.0):
        made_run(ROOT, kale=[2.0, value])
    assert listed(gebm, "--sort", "kale") == ["2", "1"] and listed(gebm, "--sort", "-kale") == ["2", "1"]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--filter", "train_energy.lrr=3"], ["'train_energy.lrr'", "did you mean train_energy.lr"]),
        (["--filter", "log_every=3"], ["did you mean", "train_energy.log_every"]),
        (["--sort", "fidd"], ["--sort fidd", "did you mean fid"]),
        (["--sort", "qqqqqqqq"], ["expected one of run, experiment"]),
        (["--filter", "status"], ["--filter 'status'", "expected KEY=VALUE"]),
        (["--filter", "step>many"], ["got 'many'", "a number behind >"]),
        (["--filter", "step>nan"], ["a number behind >"]),
        (["--filter", "started<monday"], ["a date", "2026-11-22"]),
        (["--json", "--csv"], ["--json and --csv"]),
    ],
)
def test_what_cannot_be_asked_is_told_with_what_can(three, argv, parts):
    result = three("runs", *argv)
    assert result.code == 2 and result.out == "" and all(part in result.err for part in parts), result.err


def test_csv_has_the_rows_of_json_and_survives_odd_names(three):
    (ROOT / "digits-001").rename(ROOT / 'a,"b"\nc')
    result = three("runs", "--csv", "--sort", "train_energy.lr")
    rows = list(csv.DictReader(io.StringIO(result.out, newline="")))
    own = json.loads(three("runs", "--json", "--sort", "train_energy.lr").out)["runs"]
    assert [row["run"] for row in rows] == [row["run"] for row in own] == ["digits-002", 'a,"b"\nc', "digits-003"]
    for line, row in zip(rows, own, strict=True):
        assert line["fid"] == ("" if row["fid"] is None else str(row["fid"]["value"]))
        assert line["fid_features"] == ("" if row["fid"] is None else row["fid"]["features"])
        assert float(line["train_energy.lr"]) == row["keys"]["train_energy.lr"]


def test_a_csv_without_rows_has_its_head(gebm):
    result = gebm("runs", "--csv")
    assert result.code == 0 and result.out.startswith("run,experiment,") and len(result.out.splitlines()) == 1


def test_features_that_are_not_inceptions_are_named_and_their_order_is_doubted(three):
    result = three("runs", "--sort", "fid")
    assert "2 (kla-001, digits:train, random)" in result.out and "7 (kla-001, digits:train)" in result.out
    assert "different features (inception, random)" in result.err


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 25])
def test_nothing_wraps_at_any_width_and_the_run_stays(three, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = three("runs").out.rstrip("\n").split("\n")
    assert len(lines) == 4 and max(len(line.rstrip()) for line in lines) <= width
    assert lines[0].startswith("run") and "status" in lines[0]
    for part in ("stage", "step", "curve", "FID"):
        assert (part in lines[0]) or width < 80


@pytest.mark.parametrize("width", [200, 80, 60, 40, 25])
@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("kid", "KID"),
        ("-fid", "FID"),
        ("duration", "took"),
        ("seed", "seed"),
        ("-started", "started"),
        ("step", "step"),
        ("best_kid", "best_kid"),
        ("status", "status"),
    ],
)
def test_the_column_sorted_by_stays_at_any_width(three, monkeypatch, width, key, column):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = three("runs", "--sort", key).out.rstrip("\n").split("\n")
    assert len(lines) == 4 and column in lines[0].split()
    assert max(len(line.rstrip()) for line in lines) <= max(width, 28)
    if key == "kid":
        assert any("0.03" in line for line in lines)


def test_a_start_is_written_alike_at_every_width(three, monkeypatch):
    for width in (300, 200, 150):
        monkeypatch.setenv("COLUMNS", str(width))
        out = three("runs").out
        assert out.count("  2026-01-01 10:00  ") == 3 and "T10" not in out


def test_a_key_sorted_or_filtered_by_is_a_column(three):
    out = three("runs", "--sort", "train_energy.lr", "--filter", "train_energy.steps>1").out
    assert "train_energy.lr" in out and "train_energy.steps" in out and "0.0001" in out


def test_the_curve_is_ascii_where_blocks_cannot_be_written(three, monkeypatch):
    assert "▁█" in three("runs").out
    monkeypatch.setattr(runs_text, "can_write", lambda text, stream: text.isascii())
    monkeypatch.setattr("gebm_cli.cli.sparkline.can_write", lambda text, stream: text.isascii())
    (ROOT / "digits-001").rename(ROOT / "zähler")
    out = three("runs").out
    assert out.isascii() and "_@" in out and "z?hler" in out


def test_markup_and_escapes_in_a_name_are_shown_as_text(gebm):
    made_run(ROOT).path.rename(ROOT / "[red]x\x1b[31m")
    out = gebm("runs").out
    assert "[red]x?[31m" in out and "\x1b" not in out


def test_the_curve_is_of_the_newest_stage_and_its_objective(gebm):
    run = made_run(ROOT, sessions=[session("train-base"), session("train-energy")], kale=[])
    write_metrics(run.path, "train-base", {"kale": [9.0, 8.0]})
    write_metrics(run.path, "train-energy", {"lr": [0.1, 0.2], "kale": [5.0, 6.0]})
    (row,) = json.loads(gebm("runs", "--json").out)["runs"]
    assert (row["curve_name"], row["curve"]) == ("kale", [5.0, 6.0])


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\n", b'{"stage": "train-energy"', b"[1]\n3\n"])
def test_metrics_that_are_missing_or_torn_leave_the_curve_out(gebm, content):
    run = made_run(ROOT)
    (run.path / "metrics.jsonl").unlink()
    if content is not None:
        (run.path / "metrics.jsonl").write_bytes(content)
    result = gebm("runs", "--json")
    assert result.code == 0 and json.loads(result.out)["runs"][0]["curve"] == []


def test_a_damaged_run_is_passed_over_by_name_and_the_others_listed(three):
    (ROOT / "digits-002" / "record.yaml").write_text("stages: 3")
    (ROOT / "digits-003" / "experiment.yaml").write_text("nonsense: 1\n")
    result = three("runs", "--json")
    assert [row["run"] for row in json.loads(result.out)["runs"]] == ["digits-001"]
    assert "digits-002: passed over" in result.err and "digits-003: passed over" in result.err


def test_no_runs_says_how_to_start_one_and_no_match_says_so(gebm):
    assert "starts one" in gebm("runs").out
    made_run(ROOT)
    assert "fits every --filter" in gebm("runs", "--filter", "status=failed").out


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_runs_folder_that_is_a_file_or_was_mistyped_is_an_error(gebm, monkeypatch, form):
    """A default that is not there yet is none."""
    Path("README.md").write_text("")
    for name, why in (("README.md", "is a file"), ("nonexist", "no such folder")):
        refused = gebm("runs", "--runs-dir", name, *form)
        assert refused.code == 2 and refused.out == "" and f"--runs-dir {name}: {why}" in refused.err
    monkeypatch.delenv("GEBM_RUNS_DIR", raising=False)
    assert gebm("runs", *form).code == 0 and not ROOT.exists()
    monkeypatch.setenv("GEBM_RUNS_DIR", "later")
    assert gebm("runs", *form).code == 0
    monkeypatch.setenv("GEBM_RUNS_DIR", "README.md")
    refused = gebm("runs", *form)
    assert refused.code == 2 and "GEBM_RUNS_DIR=README.md: is a file" in refused.err


def test_a_run_without_sessions_is_empty(gebm):
    made_run(ROOT, sessions=[], kale=[])
    (row,) = json.loads(gebm("runs", "--json").out)["runs"]
    assert (row["status"], row["stage"], row["duration_s"]) == ("empty", None, None)


def test_a_row_is_read_without_the_slow_readers(gebm, monkeypatch):
    """Neither the loader that knows every key's place, nor more than the end of a long file of metrics."""
    run = made_run(ROOT, scores=[score(value=v) for v in range(4)], kale=[float(v) for v in range(20_000)])
    parsed: list[int] = []

    class Counted:
        @staticmethod
        def loads(line):
            parsed.append(len(line))
            return json.loads(line)

    def slow(*argv):
        raise AssertionError("a sound file is not read by the loader for users")

    monkeypatch.setattr(run_table, "load_experiment", slow)
    monkeypatch.setattr(newest_rows, "json", Counted)
    row = read_row(run.path)
    assert row.experiment == run.experiment and 0 < len(parsed) < 500, len(parsed)


# ------------------------------------------------------------------------------------------------- what a score is of


def summary(gebm) -> dict:
    return json.loads(gebm("runs", "--json").out)["runs"][0]


def test_a_score_against_another_sample_set_is_no_score_of_the_run(gebm):
    """KID of the base against the GEBM's own samples, and of the GEBM's against a set of another run."""
    of_data = score("kid", 0.5)
    among = {"metric": "kid", "samples": "digits-001/base-001", "features": "inception", "n_fake": 5}
    made_run(ROOT, scores=[of_data, among | {"value": 0.03, "reference": "digits-001/kla-001"}])
    made_run(ROOT, scores=[among | {"value": 0.02, "reference": "digits-001/base-001"}])
    made_run(ROOT, scores=[among | {"value": 0.01, "reference": "statistics.npz"}])
    rows = json.loads(gebm("runs", "--json").out)["runs"]
    assert [row["kid"] and row["kid"]["value"] for row in rows] == [0.5, None, 0.01]
    assert [row["best_kid"] and row["best_kid"]["value"] for row in rows] == [0.5, None, 0.01]


def test_a_score_names_its_side_and_one_of_a_verdict_is_the_gebms_against_training_data(gebm):
    run = made_run(ROOT, scores=[score(value=0.5, samples="digits-001/base-001", n_fake=6, n_real=9), verdict_record()])
    for name, sampler in (("base-001", "none"), ("kla-001", "kla")):
        described_set(run.path, name, sampler=sampler)
    row = summary(gebm)
    told = {key: row["fid"][key] for key in ("value", "side", "samples", "reference", "n_fake", "n_real")}
    wanted = {"value": 1.0, "side": "GEBM", "samples": "digits-001/kla-001", "reference": "digits:train"}
    assert told == wanted | {"n_fake": 6, "n_real": 9} and (row["kid"]["value"], row["kid"]["side"]) == (0.1, "GEBM")
    assert row["best_fid"]["value"] == 1.0, "the base's 0.5 is of another side"
    out = gebm("runs").out
    assert "1 (GEBM, digits:train)" in out and "0.1 (GEBM, digits:train)" in out
    (run.path / "evaluation" / "score-003.yaml").write_text(
        yaml.safe_dump(score(value=0.7, samples="digits-001/base-001"))
    )
    assert "0.7 (base, digits:train)" in gebm("runs").out


def test_sorting_by_scores_of_different_sides_is_doubted(gebm):
    for sampler in ("none", "kla"):
        run = made_run(ROOT)
        described_set(run.path, "own-001", sampler=sampler)
        (run.path / "evaluation").mkdir()
        record = score(samples=f"{run.name}/own-001")
        (run.path / "evaluation" / "score-001.yaml").write_text(yaml.safe_dump(record))
    assert "different sides (GEBM, base)" in gebm("runs", "--sort", "fid").err


def test_scores_in_their_files_are_in_the_order_they_say_they_were_written(gebm):
    """Copying a run gives all its files other times."""
    moments = ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
    run = made_run(ROOT, scores=[score(value=float(k), written=at) for k, at in enumerate(moments)])
    os.utime(run.path / "record.yaml", (0, 0))
    assert summary(gebm)["fid"]["value"] == 0.0


# ---------------------------------------------------------------------------------------------------------- the curve


def test_the_curve_of_a_short_stage_behind_a_long_one_has_its_shape(gebm):
    run = made_run(ROOT, sessions=[session("train-base"), session("train-energy")], kale=[])
    write_metrics(run.path, "train-base", {"kale": [9.0] * 4000})
    write_metrics(run.path, "train-energy", {"kale": [float(k) for k in range(40)]})
    assert summary(gebm)["curve"] == [float(k) for k in range(40)]


def test_a_metric_of_a_few_of_the_last_rows_can_be_sorted_by(gebm):
    for value in (2.0, 1.0):
        run = made_run(ROOT, kale=[1.0] * 500)
        write_metrics(run.path, "train-energy", {"watched_kale": [value]})
        write_metrics(run.path, "train-energy", {"kale": [3.0] * 5})
    assert listed(gebm, "--sort", "watched_kale") == ["2", "1"]
    assert listed(gebm, "--filter", "kale=3") == ["1", "2"], "the newest of each"


def test_a_gap_in_a_curve_stays_a_gap(gebm):
    made_run(ROOT, kale=[0.0, math.nan, math.nan, 1.0])
    assert "▁  █" in gebm("runs").out


# ------------------------------------------------------------------------------------------------- terminals and files


def test_no_text_from_files_or_names_acts_on_the_terminal(gebm):
    evil = "\x1b]0;x\x07\x1b[31m"
    for features in (evil, "random"):
        made_run(ROOT, scores=[score(features=features, reference=evil, samples=f"d/{evil}")])
    write_metrics(ROOT / "digits-001", "train-energy", {f"k{evil}": [1.0]})
    broken = made_run(ROOT).path
    (broken / "record.yaml").write_text("stages: 3")
    broken.rename(ROOT / f"broken{evil}")
    for argv in (["--sort", "fid"], ["--sort", f"k{evil}"], ["--csv"], ["--csv", "--sort", f"k{evil}"], ["--json"]):
        got = gebm("runs", *argv)
        assert got.code == 0 and "\x1b" not in got.out + got.err and "\x07" not in got.out + got.err
        assert "passed over" in got.err
    assert "different features (?]0;x??[31m, random)" in gebm("runs", "--sort", "fid").err
    nothing = gebm("runs", "--runs-dir", f"no{evil}")
    assert "--runs-dir no?]0" in nothing.err and "\x1b" not in nothing.err
    Path(f"no{evil}").mkdir()
    nothing = gebm("runs", "--runs-dir", f"no{evil}")
    assert "no runs in no?]0" in nothing.out and "\x1b" not in nothing.out


@pytest.mark.parametrize(
    ("name", "told"), [("=1+1", "'=1+1"), ("@x", "'@x"), ("+a", "'+a"), ("-a", "'-a"), ("-5", "-5"), ("a=1", "a=1")]
)
def test_text_in_a_csv_is_no_formula_and_numbers_stay_numbers(gebm, name, told):
    made_run(ROOT, kale=[-1.5]).path.rename(ROOT / name)
    (row,) = csv.DictReader(io.StringIO(gebm("runs", "--csv", "--sort", "kale").out, newline=""))
    assert row["run"] == told and float(row["kale"]) == -1.5


def test_a_csv_in_ascii_is_whole(gebm):
    for _ in range(2):
        made_run(ROOT)
    (ROOT / "digits-001").rename(ROOT / "rühe")
    code = "import sys; from gebm_cli.cli.app import run; sys.exit(run(sys.argv[1:]))"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code, "runs", "--csv"], capture_output=True, env=env, timeout=60)
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode("ascii"), newline="")))
    assert done.returncode == 0 and done.stderr == b"" and [row["run"] for row in rows] == [r"r\xfche", "digits-002"]
