"""TensorBoard's event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import math
import sys
import time

import pytest

from gebm_cli.cli import train as command_module
from gebm_cli.cli.app import run as command
from gebm_cli.errors import UsageError
from gebm_cli.experiment.event_files import event_files, require_tensorboard

pytest.importorskip(
    "tensorboard", reason="event files are read back with tensorboard; pip install 'gebm-cli[tensorboard]'"
)


def read(folder):
    """{tag: [(step, value, wall time)]} as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value, e.wall_time) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_figure_is_a_scalar_of_its_step_and_its_time(tmp_path):
    """Tags are stage/name; steps, values (float32) and times are those of the reports."""
    before = time.time()
    with event_files(tmp_path, "train-base") as report:
        report(0, 100, {})
        report(50, 100, {"kale": 9.25, "lr": 1e-3})
        report(100, 100, {"kale": 0.5, "lr": 5e-4, "watched_kid": math.nan})
    found = read(tmp_path / "tensorboard" / "train-base")
    assert set(found) == {"train-base/kale", "train-base/lr", "train-base/watched_kid"}
    assert [(s, v) for s, v, _ in found["train-base/kale"]] == [(50, 9.25), (100, 0.5)]
    assert [v for _, v, _ in found["train-base/lr"]] == pytest.approx([1e-3, 5e-4], rel=1e-6)
    assert math.isnan(found["train-base/watched_kid"][0][1])
    assert all(before <= at <= time.time() for rows in found.values() for _, _, at in rows)


def test_what_came_after_the_checkpoint_is_void_when_a_run_goes_on(tmp_path):
    """Of a session to step 80, resumed at 50, the steps up to 50 are left, then those of the new session."""
    for first, steps in ((0, (25, 50, 75, 80)), (50, (75, 100))):
        with event_files(tmp_path, "train-energy") as report:
            report(first, 100, {})
            for step in steps:
                report(step, 100, {"kale": first + step / 1000})
    rows = read(tmp_path / "tensorboard" / "train-energy")["train-energy/kale"]
    assert [(s, round(v, 3)) for s, v, _ in rows] == [(25, 0.025), (50, 0.05), (75, 50.075), (100, 50.1)]


def test_a_session_without_figures_leaves_no_folder(tmp_path):
    """What stops before its first log line writes nothing."""
    with event_files(tmp_path, "train-base") as report:
        report(0, 100, {})
    assert not (tmp_path / "tensorboard").exists()


def test_figures_are_kept_when_training_fails(tmp_path):
    """What was told before an error is in the files."""
    with pytest.raises(RuntimeError), event_files(tmp_path, "train-base") as report:
        report(50, 100, {"kale": 1.0})
        raise RuntimeError
    assert len(read(tmp_path / "tensorboard" / "train-base")["train-base/kale"]) == 1


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch, capsys):
    """Exit code 2 with the words to install it, and no run folder."""
    for name in [m for m in sys.modules if m.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'gebm-cli\[tensorboard\]'"):
        require_tensorboard()
    assert command(["train-base", "ring", "--tensorboard", "--runs-dir", str(tmp_path / "runs")]) == 2
    assert "--tensorboard: needs the package tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


TINY = [
    f"train_base.{key}" for key in ("steps=6", "log_every=2", "checkpoint_every=4", "batch_size=8", "critic_steps=1")
]
TINY += ["train_base.burst_critic_steps=1", "train_energy.batch_size=8", "data.n=200"]


def test_a_training_writes_what_metrics_jsonl_holds(tmp_path, capsys):
    """Each number of each line under its step, no other, and quiet means quiet."""
    argv = [
        "train-base",
        "ring",
        *TINY,
        "--seed",
        "0",
        "--runs-dir",
        str(tmp_path),
        "--tensorboard",
        "--quiet",
        "--json",
    ]
    assert command(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and json.loads(captured.out)["step"] == 6
    lines = [json.loads(line) for line in (tmp_path / "ring-001" / "metrics.jsonl").read_text().splitlines()]
    expected = {
        (f"train-base/{name}", row["step"]): value
        for row in lines
        for name, value in row.items()
        if name not in ("stage", "step", "time_s")
    }
    found = read(tmp_path / "ring-001" / "tensorboard" / "train-base")
    told = {(tag, step): value for tag, rows in found.items() for step, value, _ in rows}
    assert told == pytest.approx(expected, rel=1e-6) and len(told) == sum(map(len, found.values())) > 10


def test_of_several_processes_the_first_one_writes(tmp_path, monkeypatch):
    """A process of another rank makes no event files and shows nothing."""
    from gebm_cli.experiment.load import load_experiment
    from gebm_cli.experiment.run import create_run

    run = create_run(load_experiment("ring", []), tmp_path)
    monkeypatch.setenv("RANK", "1")
    command_module._finish("train-base", run, False, True, lambda run, report: report(1, 2, {"kale": 1.0}) or {})
    assert not (run.path / "tensorboard").exists()
