"""Training through the command line: a table, every way to train a base, stops, other numbers of processes, and refusals."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from same_bits import equal

from gebm_cli.cli.app import run as command
from gebm_cli.core.training.loop import Training

DIGITS = str(Path(__file__).parents[2] / "experiments/digits.yaml")

TABLE = """\
name: table
seed: 3
data: {kind: csv, path: table.csv, test: 0.2, validation: 0.2}
latent_dim: 3
base: {kind: realnvp, n_blocks: 2, width: 8}
energy: {kind: mlp, width: 8, depth: 1}
train_base:
  objective: ml
  steps: 12
  batch_size: 20
  lr: 0.02
  keep_best: nll
  score_every: 4
  log_every: 3
  checkpoint_every: 6
  ema_halflife_steps: 2
  lr_rule: {every: 1, compare_steps: 2, n: 100, p_value: 1e-9, patience: 2, floor: 0}
train_energy: {steps: 12, batch_size: 20, lr: 0.02, keep_best: nll, score_every: 4, n_log_partition: 300, checkpoint_every: 6}
evaluate: {features: pixels}
"""
PLANE = """\
name: plane
seed: 3
data: {kind: toy, name: ring, n: 100}
latent_dim: 2
base: {kind: mlp, width: 8, depth: 1}
energy: {kind: mlp, width: 8, depth: 1}
train_base: {steps: 6, batch_size: 12, lr: 0.01, critic_steps: 2, burst_critic_steps: 3, log_every: 1, checkpoint_every: 3}
train_energy: {batch_size: 12}
"""
IMAGES = """\
name: images
seed: 3
data: {kind: digits}
latent_dim: 3
base: {kind: conv, width: 4, batch_norm: true}
energy: {kind: conv, width: 4}
train_base:
  {steps: 4, batch_size: 24, accumulate: 2, lr: 0.01, critic_steps: 2, burst_critic_steps: 3, log_every: 1, checkpoint_every: 2}
evaluate: {features: pixels}
"""


@dataclass
class Result:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        assert self.code == 0, self.err
        assert len(self.out.splitlines()) == 1, "stdout holds the result and nothing else"
        return json.loads(self.out)


def call(*argv) -> Result:
    """`gebm` in this process, in the folder it is in."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = command([*map(str, argv), "--device", "cpu"])
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with a table, both experiments, and each trained without interruption."""
    path = tmp_path_factory.mktemp("training")
    draw = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    points = torch.stack([draw[:, 0], draw[:, 0].square() + draw[:, 1], draw[:, 2].exp()], 1)
    rows = "\n".join(",".join(f"{v:.6f}" for v in row) for row in points.tolist())
    (path / "table.csv").write_text(f"a,b,c\n{rows}\n")
    (path / "table.yaml").write_text(TABLE)
    (path / "plane.yaml").write_text(PLANE)
    with contextlib.chdir(path):
        results = {
            "base": call("train-base", "table.yaml", "--json"),
            "energy": call("train-energy", "table.yaml", "--json"),
            "plane": call("train-base", "plane.yaml", "--json"),
        }
    return path, results


@pytest.fixture
def here(job, tmp_path, monkeypatch):
    """A folder of one's own with the same files and no runs."""
    for name in ("table.csv", "table.yaml", "plane.yaml"):
        shutil.copy(job[0] / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(run: Path, stage: str) -> list[dict]:
    """The metrics of a stage, without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time_s"} for row in lines if row["stage"] == stage]


def state(run: Path, stage: str, name: str | None = None) -> dict:
    folder = run / "checkpoints" / stage
    loaded = torch.load(folder / (name or (folder / "latest").read_text().strip()), weights_only=True)
    return {k: v for k, v in loaded["state"].items() if k != "random_state"}


def begun(here: Path, step: int, name: str = "plane-001", stage: str = "train-base") -> Path:
    """A run as a kill at some later step leaves it: its newest checkpoint is of `step`, and its stage is not complete."""
    run = here / "runs" / name
    record = yaml.safe_load((run / "record.yaml").read_text())
    record["stages"][-1]["status"] = "interrupted"
    (run / "record.yaml").write_text(yaml.safe_dump(record))
    (run / "checkpoints" / stage / "latest").write_text(f"step_{step:08d}.pt\n")
    return run


@pytest.fixture
def interrupted(job, here):
    """The plane's run, cut at half its steps."""
    shutil.copytree(job[0] / "runs/plane-001", here / "runs/plane-001")
    return begun(here, 3)


# ------------------------------------------------------------------------------------------------------- what is trained


def test_a_flow_and_its_energy_are_trained_on_a_table(job):
    """The figures of --json: NLL with its error on all three splits, the best score and its step, KALE; all in the record too."""
    path, results = job
    base, energy = results["base"].json, results["energy"].json
    assert (base["run"], base["stage"], base["step"], base["status"]) == ("table-001", "train-base", 12, "completed")
    assert (energy["run"], energy["stage"], energy["step"]) == ("table-001", "train-energy", 12)
    nlls = {f"nll_{split}{of}" for split in ("train", "validation", "held_out") for of in ("", "_standard_error")}
    assert nlls | {"best_nll", "best_step", "loss", "lr", "peak_memory_mb"} <= set(base)
    assert nlls | {f"kale_{split}" for split in ("train", "validation", "held_out")} <= set(energy)
    assert {"log_partition_learned", "log_partition_estimate", "ess", "best_nll"} <= set(energy)
    assert base["nll_validation"] == base["best_nll"], "the figures are of the networks that were kept"
    first = next(r["watched_nll"] for r in rows(path / "runs/table-001", "train-base") if r["step"] == 0)
    assert base["best_nll"] < first - 0.1 and base["best_step"] > 0
    for split in ("train", "validation", "held_out"):
        assert energy[f"nll_{split}"] == pytest.approx(base[f"nll_{split}"] - energy[f"kale_{split}"], abs=1e-4)
    record = yaml.safe_load((path / "runs/table-001/record.yaml").read_text())
    assert record["stages"][1]["figures"]["nll_held_out"] == pytest.approx(energy["nll_held_out"], rel=1e-5)
    assert 0 < base["lr"] <= 0.02 / 2, "a rule that no gain satisfies has lowered the rate"


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        ("gan", "critic_value"),
        ("mmd", "critic_value"),
        ("gmmn", "loss"),
        ("{kind: f-gan, divergence: hellinger}", "critic_value"),
    ],
)
def test_other_objectives_train_a_base_of_digits(here, objective, value):
    """Three steps each; the critic's value, or the loss where there is no critic, is logged, finite and changes."""
    keys = ["base.width=2", "energy.width=2", "train_base.batch_size=8", "train_base.steps=3", "train_base.log_every=1"]
    bursts = ["train_base.critic_steps=1", "train_base.burst_critic_steps=2", "--seed", 1]
    got = call("train-base", DIGITS, *keys, *bursts, f"train_base.objective={objective}", "--json").json
    assert got["step"] == 3 and math.isfinite(got[value]) and "kale" not in got
    seen = rows(Path("runs/digits-001"), "train-base")
    assert [r["step"] for r in seen] == [1, 2, 3] and len({r[value] for r in seen}) == 3
    assert ("base_loss" in seen[0]) == (objective != "gmmn")
    assert ("log_partition" in seen[0]) == (objective not in ("gmmn", "mmd"))  # which have no constant to learn
    assert (
        yaml.safe_load(Path("runs/digits-001/experiment.yaml").read_text())["train_base"]["objective"]["kind"]
        in objective
    )


# ------------------------------------------------------------------------------------------------------ stopping and resuming


def stopped_at(monkeypatch, call_number: int) -> None:
    """SIGTERM within the n-th optimiser call from now."""
    advance, calls = Training.advance, iter(range(1, 10**6))

    def step(training: Training) -> bool:
        if next(calls) == call_number:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(training)

    monkeypatch.setattr(Training, "advance", step)


@pytest.mark.parametrize("stage", ["train-base", "train-energy"])
def test_a_run_stopped_thrice_ends_in_the_same_bits(job, here, monkeypatch, stage):
    """At a step that is scored, between two, and at the last: weights, rule, best networks and metrics of a run left alone."""
    whole, run = job[0] / "runs/table-001", here / "runs/table-001"
    if stage == "train-energy":
        assert call("train-base", "table.yaml").code == 0
    words = ["table.yaml"]
    for calls, step in ((4, 4), (3, 7), (5, 12)):
        with monkeypatch.context() as patch:
            stopped_at(patch, calls)
            got = call(stage, *words)
        assert got.code == 130 and f"interrupted at step {step} of 12" in got.err, got.err
        words = ["--run", "table-001"]
    assert call(stage, *words).code == 0
    assert equal(state(run, stage), state(whole, stage))
    assert equal(state(run, stage, "best.pt"), state(whole, stage, "best.pt"))
    assert rows(run, stage) == rows(whole, stage)
    last = [yaml.safe_load((r / "record.yaml").read_text())["stages"][-1]["figures"] for r in (run, whole)]
    assert last[0] | {"peak_memory_mb": 0} == (last[1] if stage == "train-energy" else _of_base(whole)) | {
        "peak_memory_mb": 0
    }


def _of_base(run: Path) -> dict:
    return yaml.safe_load((run / "record.yaml").read_text())["stages"][0]["figures"]


def test_two_processes_train_as_one_and_one_goes_on_where_two_stopped(job, here):
    """torchrun's metrics are those of one process; so are they when one process goes on from a checkpoint of two."""
    two = torchrun("train-base", "plane.yaml").json
    run, expected = here / "runs/plane-001", rows(job[0] / "runs/plane-001", "train-base")
    assert os.listdir(here / "runs") == ["plane-001"] and two["step"] == 6
    assert_near(rows(run, "train-base"), expected)
    figures = job[1]["plane"].json
    assert {k: v for k, v in two.items() if k != "peak_memory_mb"} == pytest.approx(
        {k: v for k, v in figures.items() if k != "peak_memory_mb"}, abs=1e-4
    )
    begun(here, 3)
    assert call("train-base", "--run", "plane-001").code == 0
    assert_near(rows(run, "train-base"), expected)
    assert expected[0]["kale"] != pytest.approx(expected[-1]["kale"], abs=1e-3)


def torchrun(*words: str) -> Result:
    """`gebm ... --json` by two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "gebm_cli"]
    command = [sys.executable, *launcher, *words, "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    return Result(done.returncode, done.stdout, done.stderr)


def test_two_processes_share_batch_norm_and_go_on_where_one_stopped(here):
    """A base with batch norm, the batch in parts: from one process's checkpoint two follow to the same weights.

    But for a bias before a batch norm, which has no effect and a gradient of rounding alone: Adam makes steps of it all the same,
    of the size of the learning rate, and the running mean behind it and what is measured in eval mode follow.
    """
    (here / "images.yaml").write_text(IMAGES)
    assert call("train-base", "images.yaml").code == 0
    run = here / "runs/images-001"
    expected, end = rows(run, "train-base"), state(run, "train-base")["base"]
    begun(here, 2, "images-001")
    assert torchrun("train-base", "--run", "images-001").json["step"] == 4
    losses = ("step", "kale", "penalty", "base_loss", "critic_grad_norm", "base_grad_norm", "log_partition")
    assert_near(*([{k: row[k] for k in losses} for row in found] for found in (rows(run, "train-base"), expected)))
    got = state(run, "train-base")["base"]
    assert list(got) == list(end)
    for key, value in end.items():
        close = 0.05 if key in ("4.bias", "5.running_mean") else 1e-5
        torch.testing.assert_close(got[key], value, rtol=0, atol=close, msg=lambda found, key=key: f"{key}: {found}")
    assert (end["2.running_var"] - 1).abs().min() > 0.1 and end["2.num_batches_tracked"] == 13


def assert_near(got: list[dict], expected: list[dict]) -> None:
    assert [r["step"] for r in got] == [r["step"] for r in expected]
    for a, b in zip(got, expected, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("width: 8", "width: 9", "base.width"),
        ("log_partition: learned", "log_partition: batch", "train_base.objective.log_partition"),
        ("batch_size: 12", "batch_size: 10", "train_base.batch_size"),
        ("keep_best: null", "keep_best: kid", "train_base.keep_best"),
        ("name: ring", "name: grid", "data.name"),
    ],
)
def test_an_experiment_that_was_edited_is_not_gone_on_with(interrupted, old, new, key):
    """Exit 2, the key with both values; the run is left as it was, and goes on once the change is undone."""
    file = interrupted / "experiment.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1).replace("features: inception", "features: pixels"))
    before = state(interrupted, "train-base")
    refused = call("train-base", "--run", "plane-001")
    assert (
        refused.code == 2
        and "runs/plane-001/experiment.yaml: was changed since its checkpoint was written; undo the change"
        in refused.err
    )
    have, now = old.split(": ")[1], new.split(": ")[1]
    assert f"{key}: the checkpoint has {have}, now it is {now}" in refused.err, refused.err
    assert equal(state(interrupted, "train-base"), before)
    file.write_text(text)
    assert call("train-base", "--run", "plane-001").code == 0


def test_a_run_may_be_made_longer(interrupted):
    """`steps` and how often is logged are no part of what was begun."""
    file = interrupted / "experiment.yaml"
    file.write_text(
        file.read_text().replace("steps: 6\n", "steps: 7\n", 1).replace("log_every: 1\n", "log_every: 7\n", 1)
    )
    assert call("train-base", "--run", "plane-001", "--json").json["step"] == 7


def test_a_checkpoint_of_another_experiment_is_refused(job, interrupted):
    """Copied in under the right name: exit 2, and what differs; one of another stage: exit 1."""
    path = interrupted / "checkpoints/train-base/step_00000003.pt"
    shutil.copy(job[0] / "runs/table-001/checkpoints/train-base/step_00000006.pt", path)
    refused = call("train-base", "--run", "plane-001")
    assert refused.code == 2 and "data.kind: the checkpoint has csv, now it is toy" in refused.err
    shutil.copy(job[0] / "runs/table-001/checkpoints/train-energy/step_00000006.pt", path)
    refused = call("train-base", "--run", "plane-001")
    assert refused.code == 1 and "is a checkpoint of train-energy, expected one of train-base" in refused.err


def test_what_cannot_work_leaves_no_run_behind(here):
    """More points in a batch than there are, and features that points do not have."""
    refused = call("train-base", "plane.yaml", "train_base.batch_size=101")
    assert refused.code == 2 and "there are 100 training points; use at most 100" in refused.err
    refused = call("train-base", "plane.yaml", "train_base.keep_best=kid")
    assert refused.code == 2 and "use pixels" in refused.err and not (here / "runs").exists()
