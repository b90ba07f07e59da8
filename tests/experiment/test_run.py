"""The run folder: exclusive numbers, honest status, metrics that a resume does not double."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
from pathlib import Path

import pytest

from gebm_cli.errors import DivergedError, GebmError, InterruptedRun, UsageError
from gebm_cli.experiment.continuing import energy_run
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, all_runs, create_run, find_run, newest_run, open_run

EXPERIMENT = load_experiment(Path(__file__).parents[2] / "experiments/digits.yaml", ["seed=1"])


@pytest.fixture
def run(tmp_path):
    return create_run(EXPERIMENT, tmp_path)


def _create_many(root: str) -> list[str]:
    return [create_run(EXPERIMENT, Path(root)).name for _ in range(5)]


def test_two_processes_never_share_a_run(tmp_path):
    """Ten runs made by two processes at once have ten names."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        names = sum(pool.map(_create_many, [str(tmp_path)] * 2), [])
    assert len(set(names)) == 10 and len(all_runs(tmp_path)) == 10


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "completed", 0),
        (DivergedError("nan"), "diverged", 3),
        (InterruptedRun("stop"), "interrupted", 130),
        (KeyboardInterrupt(), "interrupted", 130),
        (RuntimeError("boom"), "failed", 1),
        (UsageError("bad"), "failed", 2),
    ],
)
def test_a_session_is_recorded_however_it_ends(run, error, status, code):
    """Status, exit code and message are in record.yaml, and the error goes on to the caller."""
    try:
        with run.session("train-base", "cpu") as entry:
            entry["step"] = 7
            if error is not None:
                raise error
    except BaseException as caught:
        assert caught is error
    last = run.last_session("train-base")
    assert (last["status"], last["exit_code"], last["step"], last["seed"]) == (status, code, 7, 1)
    assert run.has("train-base") == (status == "completed")
    assert {"argv", "start", "end", "device", "versions", "git"} <= set(last)


def test_a_running_session_that_nobody_holds_is_called_crashed(run):
    """While the lock is held it runs; once the process is gone it has crashed."""
    with run.session("train-base", "cpu"):
        assert run.last_session("train-base")["status"] == "running"
        text = (run.path / "record.yaml").read_text()
    (run.path / "record.yaml").write_text(text)
    assert run.last_session("train-base")["status"] == "crashed"


def test_a_second_writer_is_refused(run):
    """The lock is held for the whole session."""
    with run.session("train-base", "cpu"), pytest.raises(UsageError, match="another gebm process is writing"):
        with run.lock():
            pass


def test_metrics_after_the_resumed_step_and_half_lines_are_dropped(run):
    """A crash may leave later lines and half a line; a resume at step 2 keeps what came before, and the other stage."""
    write = run.metrics_writer("train-base", 0)
    for step in (1, 2, 3):
        write(step, {"kale": float(step)})
    run.metrics_writer("train-energy", 0)(9, {"kale": 0.0})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "train-base", "st')
    run.metrics_writer("train-base", 2)(3, {"kale": 30.0})
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"], r["kale"]) for r in rows] == [
        ("train-base", 1, 1.0),
        ("train-base", 2, 2.0),
        ("train-energy", 9, 0.0),
        ("train-base", 3, 30.0),
    ]


def test_finding_runs_says_what_to_do_when_there_is_none(tmp_path, run):
    """An unknown name lists the known ones; an unfinished stage is continued by the command in the message."""
    assert find_run(tmp_path, run.name).path == run.path == find_run(Path("elsewhere"), str(run.path)).path
    with pytest.raises(UsageError, match="no such run; the newest here: digits-001"):
        find_run(tmp_path, "digits-009")
    with pytest.raises(UsageError, match=f"run `gebm train-base experiments/digits.yaml --runs-dir {tmp_path}` first"):
        newest_run(tmp_path, "train-base", "digits")
    with pytest.raises(InterruptedRun), run.session("train-base", "cpu"):
        raise InterruptedRun("stop")
    continued = f"gebm train-base --run digits-001 --runs-dir {tmp_path}"
    with pytest.raises(UsageError, match=f"is interrupted: continue it with `{continued}`"):
        newest_run(tmp_path, "train-base", "digits")


def test_a_run_is_named_with_its_folder_unless_runs_lie_there_anyway(tmp_path, monkeypatch):
    """By name alone in ./runs and in $GEBM_RUNS_DIR, however written; elsewhere with the folder, quoted for a shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEBM_RUNS_DIR", raising=False)
    assert create_run(EXPERIMENT, Path("runs")).option == "--run digits-001"
    assert create_run(EXPERIMENT, tmp_path / "runs").option == "--run digits-002"
    elsewhere = create_run(EXPERIMENT, Path("my runs"))
    assert shlex.split(elsewhere.option) == ["--run", "digits-001", "--runs-dir", "my runs"]
    assert find_run(Path("my runs"), "digits-001").path == elsewhere.path
    monkeypatch.setenv("GEBM_RUNS_DIR", str(tmp_path / "my runs"))
    assert elsewhere.option == "--run digits-001"
    assert Run(Path("runs/digits-001"), EXPERIMENT).option == "--run digits-001 --runs-dir runs"


@pytest.mark.parametrize(
    ("gone", "by"), [("record.yaml", find_run), ("record.yaml", None), ("experiment.yaml", find_run)]
)
def test_a_run_that_lost_a_file_is_called_damaged(tmp_path, run, gone, by):
    """Its folder is there, so it is not unknown; by name and by path, and the file that is gone is named."""
    run.checkpoints("train-base").mkdir(parents=True)
    (run.path / gone).unlink()
    with pytest.raises(UsageError, match=rf"is a damaged run: .*{gone} is gone; put it back, or train in a new run"):
        by(tmp_path, run.name) if by else open_run(run.path)
    with pytest.raises(UsageError, match="no such run"):
        find_run(tmp_path, "")


def test_a_refused_resume_leaves_the_session_before_it_as_it_was(run):
    """An interrupted stage stays interrupted, and can go on; a stage that was never begun is recorded as failed."""
    with pytest.raises(InterruptedRun), run.session("train-base", "cpu") as entry:
        entry["step"] = 4
        raise InterruptedRun("stop")
    before = run.record()
    for stage, status in (("train-base", "interrupted"), ("train-energy", "failed")):
        with pytest.raises(UsageError), run.session(stage, "cpu"):
            assert run.record()["stages"][-1]["status"] == "running"
            raise UsageError("experiment.yaml: was changed")
        assert run.last_session(stage)["status"] == status
        assert stage != "train-base" or run.record() == before
    with pytest.raises(UsageError), run.session("train-base", "cpu") as entry:
        entry["step"] = 5
        raise UsageError("in the middle")
    assert (run.last_session("train-base")["status"], run.last_session("train-base")["step"]) == ("failed", 5)


def test_an_unwritable_place_is_one_sentence(tmp_path):
    """A runs folder that cannot be made names itself and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(GebmError, match="cannot be written: .*; choose another folder with --runs-dir"):
        create_run(EXPERIMENT, tmp_path / "file" / "runs")


def _finish(run, stage):
    with run.session(stage, "cpu"):
        run.checkpoints(stage).mkdir(parents=True)
        (run.checkpoints(stage) / "latest").write_text("step_00000001.pt\n")


def test_a_second_energy_gets_a_run_of_its_own_with_the_same_base(tmp_path, run):
    """Untouched settings use the base's run; a finished or different energy forks it; another base is refused."""
    _finish(run, "train-base")
    assert energy_run(run, EXPERIMENT, tmp_path).path == run.path
    changed = load_experiment(run.path / "experiment.yaml", ["train_energy.lr=0.003"])
    assert energy_run(run, changed, tmp_path).path == run.path
    assert find_run(tmp_path, run.name).experiment.train_energy.lr == 0.003
    run = find_run(tmp_path, run.name)
    _finish(run, "train-energy")
    fork = energy_run(run, EXPERIMENT, tmp_path)
    assert fork.name == "digits-002" and fork.has("train-base") and not fork.has("train-energy")
    assert fork.record()["base_from"] == run.name and (fork.checkpoints("train-base") / "latest").exists()
    other = load_experiment(run.path / "experiment.yaml", ["latent_dim=3", "base.width=5"])
    with pytest.raises(
        UsageError, match=r"latent_dim: the run has 16, asked for 3\nbase\.width: the run has \d+, asked for 5"
    ):
        energy_run(run, other, tmp_path)


def test_an_energy_may_have_another_network_than_the_critic(tmp_path, run):
    """In a run of its own, even where the base's has none yet; unless it starts from the critic, which a fork remembers."""
    _finish(run, "train-base")
    wide = load_experiment(run.path / "experiment.yaml", ["energy.width=5"])
    fork = energy_run(run, wide, tmp_path)
    assert fork.path != run.path and fork.has("train-base") and fork.experiment.energy.width == 5
    assert find_run(tmp_path, run.name).experiment == run.experiment
    from_critic = load_experiment(
        run.path / "experiment.yaml", ["energy.width=5", "train_energy.start_from_critic=true"]
    )
    with pytest.raises(UsageError, match=r"energy\.width: the run has 32, asked for 5"):
        energy_run(run, from_critic, tmp_path)
    with pytest.raises(UsageError, match=r"energy: the critic was \{.*width: 32.*\}, asked for \{.*width: 5"):
        energy_run(fork, from_critic, tmp_path)
    again = energy_run(fork, load_experiment(run.path / "experiment.yaml", ["energy.width=6"]), tmp_path)
    assert again.record()["critic"] == run.experiment.energy.model_dump(mode="json")


def test_a_run_of_another_version_is_passed_over_and_does_not_block_the_others(tmp_path, run):
    """A key that this version does not know makes one run unreadable, not all."""
    other = create_run(EXPERIMENT, tmp_path)
    with open(other.path / "experiment.yaml", "a") as file:
        file.write("key_of_the_future: 1\n")
    (create_run(EXPERIMENT, tmp_path).path / "record.yaml").write_text("x: [")
    assert [r.name for r in all_runs(tmp_path)] == [run.name]
    with pytest.raises(UsageError, match="key_of_the_future: unknown key"):
        find_run(tmp_path, other.name)


def test_a_score_is_kept_while_another_process_trains_and_listed_when_it_ends(run):
    """The score's own file is written at once; the record lists it when the lock is free again."""
    with run.session("train-base", "cpu"):
        run.add_score({"metric": "kid", "value": 1.0}, "kid")
        (score,) = run.scores()
        assert (score["metric"], score["value"]) == ("kid", 1.0) and run.record()["scores"] == []
        assert score["argv"][0] == "gebm" and score["written"].startswith("20")
    run.add_score({"metric": "fid", "value": 2.0}, "fid")
    assert [s["metric"] for s in run.record()["scores"]] == ["kid", "fid"]


def test_scores_are_in_the_order_they_were_taken_and_not_in_that_of_their_files_times(run):
    """Copying a folder without its times, as git and archives do, changes no order."""
    paths = [run.add_score({"metric": name}, name) for name in ("kid", "fid", "is")]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    assert [score["metric"] for score in run.scores()] == ["kid", "fid", "is"]
