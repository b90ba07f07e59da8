"""The whole method through the command line, on the real digits with a few steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from same_bits import equal

from gebm_cli.cli.app import run as command

SMALL = [
    "train_base.steps=30",
    "train_base.log_every=5",
    "train_base.checkpoint_every=10",
    "base.width=4",
    "energy.width=4",
]
SMALL_ENERGY = ["train_energy.steps=30", "train_energy.n_log_partition=2000", "base.width=4", "energy.width=4"]
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one trained run of a few steps, shared by the tests that only read it."""
    path = tmp_path_factory.mktemp("job")
    runs = ["--runs-dir", str(path / "runs")]
    digits = str(EXPERIMENTS / "digits.yaml")
    assert command(["train-base", digits, *SMALL, "--seed", "5", *runs]) == 0
    assert command(["train-energy", digits, *SMALL_ENERGY, *runs]) == 0
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def result(gebm_call) -> dict:
    assert gebm_call.code == 0, gebm_call.err
    assert len(gebm_call.out.splitlines()) == 1, "stdout holds the result and nothing else"
    return json.loads(gebm_call.out)


def call(capsys, *argv):
    capsys.readouterr()
    code = command(list(argv))
    out, err = capsys.readouterr()
    return type("Result", (), {"code": code, "out": out, "err": err})


def test_training_leaves_a_complete_record(here):
    """experiment.yaml resolves every key, record.yaml tells both stages, metrics.jsonl has one object a line."""
    run = here / "runs/digits-001"
    record = yaml.safe_load((run / "record.yaml").read_text())
    assert [(s["stage"], s["status"], s["step"], s["exit_code"]) for s in record["stages"]] == [
        ("train-base", "completed", 30, 0),
        ("train-energy", "completed", 30, 0),
    ]
    assert yaml.safe_load((run / "experiment.yaml").read_text())["seed"] == 5
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["stage"] == "train-base"] == [5, 10, 15, 20, 25, 30]
    assert {"kale", "penalty", "base_loss", "log_partition", "time_s"} <= set(rows[0])
    figures = record["stages"][1]["figures"]
    assert {"kale_train", "kale_held_out", "log_partition_estimate", "log_partition_standard_error", "ess"} <= set(
        figures
    )


def test_sample_writes_images_pictures_and_its_recipe(here, capsys):
    """The usage of the mission: beta 100, friction low, no positional argument; stable JSON keys."""
    got = result(
        call(capsys, "sample", "--beta", "100", "--friction", "low", "--n-samples", "30", "--n-steps", "5", "--json")
    )
    assert {"out", "n_samples", "run", "seed", "beta", "friction", "sampler"} <= set(got)
    assert (got["n_samples"], got["beta"], got["friction"], got["sampler"], got["seed"]) == (30, 100.0, 0.2, "kla", 5)
    out = Path(got["out"])
    pictures = ["chain.gif", "chains.png", "extremes.png", "grid.png", "nearest.png", "trace.png"]
    assert sorted(os.listdir(out)) == sorted([*pictures, "images", "latents.npy", "sample.yaml", "shown.npz"])
    assert len(os.listdir(out / "images")) == 30
    assert Image.open(out / "images/000000.png").size == (8, 8)
    assert Image.open(out / "chain.gif").n_frames == 6
    assert Image.open(out / "grid.png").width > 300


@pytest.mark.parametrize("sampler", ["none", "kla"])
def test_the_same_seed_gives_the_same_samples_whatever_the_batch_size(here, capsys, tmp_path, sampler):
    """Bit for bit, one at a time too, and fewer samples are the first of more. (Every sampler in two sizes: test_sampling.)"""
    chains = [] if sampler == "none" else ["sample.n_steps=4", "sample.block_size=20", "sample.diagnose=false"]

    def draw(name, n, batch):
        argv = ["sample", "--sampler", sampler, "--n-samples", str(n), "--batch-size", str(batch), "--format", "npz"]
        out = str(tmp_path / name)
        assert call(capsys, *argv, "--out", out, *chains).code == 0
        return np.load(tmp_path / name / "samples.npz")

    a, b, c = draw("a", 50, 1), draw("b", 50, 1000), draw("c", 30, 7)
    assert np.array_equal(a["latents"], b["latents"]) and np.array_equal(a["images"], b["images"])
    assert np.array_equal(a["latents"][:30], c["latents"])
    assert len(np.unique(a["latents"], axis=0)) == 50


def test_png_and_npz_hold_the_same_images(here, capsys, tmp_path):
    """The format changes the storage only."""
    for kind in ("png", "npz"):
        argv = ["sample", "--sampler", "none", "--n-samples", "12", "--format", kind, "--out", str(tmp_path / kind)]
        assert call(capsys, *argv).code == 0
    pngs = np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / "png/images").iterdir())])
    assert np.array_equal(pngs, np.load(tmp_path / "npz/samples.npz")["images"][..., 0])


def test_scores_tests_and_verdict_agree_on_what_they_compare(here, capsys):
    """evaluate-*, two-sample-test and verdict print their documented keys, and the run records the scores."""
    assert call(capsys, "sample", "--sampler", "none", "--n-samples", "200").code == 0
    assert call(capsys, "sample", "--n-samples", "200", "--n-steps", "5").code == 0
    keys = {"metric", "value", "standard_error", "n_real", "n_fake", "features", "weights_hash"}
    fid = result(call(capsys, "evaluate-fid", "--json"))
    assert keys <= set(fid) and (fid["metric"], fid["n_real"], fid["n_fake"], fid["features"]) == (
        "fid",
        1437,
        200,
        "classifier",
    )
    kid = result(call(capsys, "evaluate-kid", "digits-001/base-001", "held-out", "--json"))
    assert keys <= set(kid) and kid["n_real"] == 360 and kid["weights_hash"] == fid["weights_hash"]
    test = result(
        call(capsys, "two-sample-test", "digits-001/base-001", "digits:held-out", "--permutations", "99", "--json")
    )
    assert {"test", "statistic", "p_value", "alpha", "reject", "n_x", "n_y"} <= set(test)
    assert test["reject"] and test["p_value"] == 0.01, "samples of a base trained for 30 steps are told from digits"
    verdict = result(call(capsys, "verdict", "--json"))
    assert verdict["references"]["train"]["fid_gebm"] > 0 and verdict["references"]["held-out"]["n_real"] == 360
    record = yaml.safe_load((here / "runs/digits-001/record.yaml").read_text())
    assert [s.get("metric", s.get("test")) for s in record["scores"]] == ["fid", "kid", "mmd-fuse", "verdict"]
    table = call(capsys, "runs")
    assert "digits-001" in table.out and "completed" in table.out


def test_a_base_is_scored_as_it_is_drawn(here, capsys):
    """`run:` draws what `gebm sample --sampler none` draws from the same seed, and the Inception Score shares the extraction."""
    argv = ["sample", "--sampler", "none", "--n-samples", "120", "--seed", "3", "--out", "drawn"]
    assert call(capsys, *argv).code == 0
    options = ["digits:held-out", "--features", "classifier", "--metrics", "fid,is", "--json"]
    drawn = result(call(capsys, "evaluate-fid", "drawn", *options))["scores"]
    directly = result(call(capsys, "evaluate-fid", "run:digits-001?n=120&seed=3", *options))["scores"]
    assert [s["value"] for s in drawn] == pytest.approx([s["value"] for s in directly], rel=1e-6)
    assert 1 <= directly[1]["value"] <= 10 and directly[1]["interval"][0] <= directly[1]["corrected"]
    assert directly[0]["split"] == "held-out" and directly[0]["samples"] == "run:digits-001?n=120&seed=3"


def test_real_digits_are_not_told_from_real_digits(here, capsys):
    """The test keeps its level on the same law: training against held-out digits."""
    got = result(call(capsys, "two-sample-test", "digits:train", "digits:held-out", "--features", "pixels", "--json"))
    assert not got["reject"], got


def test_two_sets_of_the_same_random_numbers_are_not_tested(here, capsys):
    """Chains of one seed share starts and noise, which would hide any difference; another --seed makes them independent."""
    for beta, name in (("1", "a"), ("2", "b")):
        argv = ["sample", "--beta", beta, "--n-samples", "20", "--n-steps", "2", "--out", f"coupled-{name}"]
        assert call(capsys, *argv).code == 0
    refused = call(capsys, "two-sample-test", "coupled-a", "coupled-b", "--features", "pixels")
    assert refused.code == 2 and "same random numbers" in refused.err and "--seed 6" in refused.err


@pytest.mark.parametrize("argv", [["--sampler", "none", "--beta", "3"], ["--sampler", "mala", "--friction", "low"]])
def test_an_option_that_the_sampler_does_not_have_is_refused(here, capsys, argv):
    """Nothing the user asks for is ignored in silence."""
    refused = call(capsys, "sample", *argv)
    assert refused.code == 2 and f"{argv[2]}: has no meaning for the sampler '{argv[1]}'" in refused.err


def test_a_run_whose_experiment_was_edited_does_not_go_on(here, capsys, tmp_path):
    """experiment.yaml edited after an interruption: continuing lists what differs, exit 2."""
    shutil.copytree(here / "runs", tmp_path / "runs")
    run = tmp_path / "runs/digits-001"
    text = (run / "record.yaml").read_text().replace("status: completed", "status: interrupted")
    (run / "record.yaml").write_text(text)
    (run / "experiment.yaml").write_text((run / "experiment.yaml").read_text().replace("width: 4", "width: 5"))
    refused = call(capsys, "train-base", "--run", "digits-001", "--runs-dir", str(tmp_path / "runs"))
    assert refused.code == 2 and "was changed since its checkpoint was written" in refused.err
    assert "base.width: the checkpoint has 4, now it is 5" in refused.err


def test_a_second_energy_on_the_same_base_is_a_run_of_its_own(here, capsys):
    """Another train-energy with other keys forks the run; nothing is overwritten; a third base run is refused its seed."""
    argv = [str(EXPERIMENTS / "digits.yaml"), *SMALL_ENERGY, "train_energy.penalty_weight=0.5"]
    got = result(call(capsys, "train-energy", *argv, "--json"))
    assert (got["run"], got["stage"], got["step"], got["status"]) == ("digits-002", "train-energy", 30, "completed")
    refused = call(capsys, "train-energy", "--run", "digits-002", "--seed", "3")
    assert refused.code == 2 and "--seed: a run keeps its seed" in refused.err
    assert call(capsys, "train-energy", "--run", "digits-002").code == 2


def test_an_existing_out_folder_is_never_overwritten(here, capsys, tmp_path):
    """`--out` that exists is refused, exit 2."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("x")
    refused = call(capsys, "sample", "--n-samples", "2", "--n-steps", "1", "--out", str(tmp_path / "x"))
    assert refused.code == 2 and "nothing is overwritten" in refused.err and os.listdir(tmp_path / "x") == ["mine"]


def test_a_damaged_checkpoint_is_one_sentence(here, capsys, tmp_path):
    """sample on a truncated checkpoint exits 1, names it, and leaves no sample set."""
    shutil.copytree(here / "runs", tmp_path / "runs")
    path = next((tmp_path / "runs/digits-001/checkpoints/train-energy").glob("*30.pt"))
    path.write_bytes(path.read_bytes()[:1000])
    refused = call(
        capsys, "sample", "--run", "digits-001", "--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "o")
    )
    assert refused.code == 1 and "is damaged or not a checkpoint" in refused.err and not (tmp_path / "o").exists()


def test_sample_before_train_energy_says_what_to_run(capsys, tmp_path):
    """A run with a base only."""
    runs = ["--runs-dir", str(tmp_path / "runs")]
    argv = [str(EXPERIMENTS / "digits.yaml"), *SMALL, "train_base.steps=2"]
    assert call(capsys, "train-base", *argv, *runs).code == 0
    refused = call(capsys, "sample", "--run", "digits-001", *runs)
    assert (
        refused.code == 2
        and f"has not finished train-energy; run `gebm train-energy --run digits-001 {' '.join(runs)}` first"
        in refused.err
    )
    assert call(capsys, "sample", "--sampler", "none", "--n-samples", "3", *runs).code == 0


def test_a_diverged_run_exits_3_and_keeps_the_last_good_checkpoint(capsys, tmp_path):
    """With an absurd learning rate from the start there is none; the state seen is kept aside, the status is recorded."""
    runs = ["--runs-dir", str(tmp_path / "runs")]
    argv = [str(EXPERIMENTS / "digits.yaml"), *SMALL, "train_base.lr=1e30"]
    refused = call(capsys, "train-base", *argv, *runs)
    assert refused.code == 3 and "diverged at step" in refused.err and "A smaller lr" in refused.err
    run = tmp_path / "runs/digits-001"
    assert os.listdir(run / "checkpoints/train-base") == ["diverged.pt"]
    assert yaml.safe_load((run / "record.yaml").read_text())["stages"][0]["status"] == "diverged"


def test_a_base_without_parameters_goes_straight_to_the_energy(capsys, tmp_path):
    """The thin-manifold example: right support, wrong mass; 300 steps of the energy already move the mass the right way."""
    runs = ["--runs-dir", str(tmp_path / "runs")]
    file = str(EXPERIMENTS / "thin-manifold.yaml")
    assert call(capsys, "train-energy", file, "train_energy.steps=300", "--seed", "0", *runs).code == 0
    got = result(call(capsys, "sample", "--n-samples", "500", "--json", *runs))
    points = np.load(Path(got["out"]) / "samples.npz")["samples"]
    assert np.allclose((points**2).sum(1), 1, atol=1e-5)
    # Under the data's density (1 + .9 cos a) / 2 pi the mean of cos a is .45; under the base it is 0 +- .03.
    assert points[:, 0].mean() > 0.3, points[:, 0].mean()


# ------------------------------------------------------------------------------- stopping and resuming, as real processes


def _train(runs: Path, *argv: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GEBM_RUNS_DIR": str(runs)}
    return subprocess.Popen(
        [sys.executable, "-m", "gebm_cli", *argv], env=environment, stderr=subprocess.PIPE, text=True
    )


def _state(runs: Path) -> dict:
    folder = runs / "digits-001/checkpoints/train-base"
    loaded = torch.load(folder / (folder / "latest").read_text().strip(), weights_only=True)
    return {k: v for k, v in loaded["state"].items() if k != "random_state"}


STEPPED = [
    str(EXPERIMENTS / "digits.yaml"),
    *["base.width=2", "energy.width=2", "train_base.steps=24", "train_base.critic_steps=15"],
    *["train_base.batch_size=16", "train_base.checkpoint_every=2", "train_base.log_every=4", "--seed", "7"],
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    runs = tmp_path_factory.mktemp("whole")
    assert command(["train-base", *STEPPED, "--runs-dir", str(runs)]) == 0
    return _state(runs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_run_cut_by_a_signal_and_continued_ends_in_the_same_bits(tmp_path, uninterrupted, number):
    """SIGTERM and SIGINT save (in the middle of a critic round) and exit 130; SIGKILL loses what came after the checkpoint.

    What is cut is a process of its own; this one goes on with it, and has trained the run that was left alone.
    """
    process = _train(tmp_path, "train-base", *STEPPED)
    pointer = tmp_path / "digits-001/checkpoints/train-base/latest"
    deadline = time.monotonic() + 300
    while not pointer.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    error = process.communicate(timeout=300)[1]
    before = _state(tmp_path)
    assert before["step"] < 24, "the signal came too late to cut anything"
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130 and "continue with `gebm train-base --run digits-001`" in error
    assert command(["train-base", "--run", "digits-001", "--runs-dir", str(tmp_path)]) == 0
    assert equal(_state(tmp_path), uninterrupted)


def test_sampling_stopped_by_a_signal_goes_on_bit_for_bit(here, tmp_path):
    """SIGTERM: exit 130, no set, a sentence that says how to go on; --resume ends with the samples of an uninterrupted draw."""
    argv = [
        "sample",
        "--n-steps",
        "150",
        "--n-samples",
        "100",
        "sample.block_size=20",
        "sample.diagnose=false",
        "--format",
        "npz",
        "--run",
        str(here / "runs/digits-001"),
    ]
    process = _train(tmp_path, *argv, "--out", str(tmp_path / "x"))
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".x.partial/block-00000.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert "--resume" in process.communicate(timeout=300)[1]
    assert process.returncode == 130 and not (tmp_path / "x").exists()
    assert command(["sample", "--resume", str(tmp_path / "x")]) == 0
    assert command([*argv, "--out", str(tmp_path / "y")]) == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    a, b = (np.load(tmp_path / name / "samples.npz") for name in "xy")
    assert np.array_equal(a["latents"], b["latents"]) and np.array_equal(a["images"], b["images"])


def test_a_second_process_on_the_same_run_is_refused_and_a_new_start_gets_its_own(tmp_path, capsys):
    """While one trains, continuing the same run is exit 2; starting the experiment again makes digits-002."""
    first = _train(tmp_path, "train-base", *STEPPED, "train_base.steps=4000")
    deadline = time.monotonic() + 300
    while not (tmp_path / "digits-001/checkpoints/train-base/latest").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = call(capsys, "train-base", "--run", "digits-001", "--runs-dir", str(tmp_path))
    assert "another gebm process is writing to this run" in second.err and second.code == 2
    assert call(capsys, "train-base", *STEPPED, "train_base.steps=2", "--runs-dir", str(tmp_path)).code == 0
    assert (tmp_path / "digits-002/record.yaml").exists() and first.poll() is None
    first.terminate()
    assert first.wait(timeout=60) == 130
