"""Flows of particles through the command line: in the plane, in tables, in the latents of a base; stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.kernels import Gaussian
from gebm_cli.experiment import flow_path
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.checkpoint import load_checkpoint
from gebm_cli.experiment.files import partial_folder
from gebm_cli.experiment.load import load_experiment

PLANE = """
name: plane
seed: 3
data: {kind: toy, name: gaussian, n: 60}
flow:
  source: {kind: normal, mean: [1, 0], std: 0.3}
  n_particles: 40
  n_steps: 30
  bandwidth: 1
  n_frames: 2
"""


@pytest.fixture(autouse=True)
def plain(request, monkeypatch):
    """Pictures take four fifths of a small flow's time: they are empty files but in the tests that look at them."""
    if request.node.originalname not in DRAWN:
        for name in ("save_flow", "save_film"):
            monkeypatch.setattr(flow_path, name, lambda path, *rest, **more: path.touch())


@pytest.fixture
def plane(gebm, tmp_path):
    (tmp_path / "plane.yaml").write_text(PLANE)
    return gebm


DRAWN = ("test_a_flow_is_a_sample_set_of_a_new_run", "test_a_table_flows_in_its_own_dimension")


def found(result) -> dict:
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 1
    return json.loads(result.out)


def refused(result, *parts: str) -> None:
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err, result
    for part in parts:
        assert part in result.err, result.err


def samples(told: dict) -> np.ndarray:
    return np.load(Path(told["out"]) / "samples.npz")["samples"]


# ------------------------------------------------------------------------------------------------------------- the set


@pytest.mark.parametrize("divergence", ["mmd", "kale"])
def test_a_flow_is_a_sample_set_of_a_new_run(plane, divergence):
    """The set has particles, pictures and a record; the run's record and metrics tell of it; a test can read it."""
    told = found(plane("flow", "plane.yaml", f"flow.divergence={divergence}", "flow.n_frames=5", "--json"))
    out = Path(told["out"])
    assert out == Path(f"runs/plane-001/samples/{divergence}-flow-001")
    assert sorted(os.listdir(out)) == ["flow.gif", "flow.png", "sample.yaml", "samples.npz"]
    assert samples(told).shape == (40, 2) and told["value"]["end"] < 0.2 * told["value"]["start"]
    assert told["sliced_w1"]["end"] < told["sliced_w1"]["start"]
    assert ("duality_gap" in told) == (divergence == "kale") and told.get("duality_gap", 0) <= 1e-8
    assert Image.open(out / "flow.gif").n_frames == 5
    (session,) = yaml.safe_load((out.parents[1] / "record.yaml").read_text())["stages"]
    assert (session["stage"], session["status"], session["step"]) == ("flow", "completed", 30)
    rows = [json.loads(line) for line in (out.parents[1] / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 2, 8, 17, 30] and rows[-1]["value"] == told["value"]["end"]
    assert plane("two-sample-test", out, "held-out", "--run", "plane-001", "--json").code == 0


def test_the_recorded_kale_is_that_of_the_particles_and_the_data(plane):
    """The value in the record, recomputed from the files."""
    told = found(plane("flow", "plane.yaml", "flow.divergence=kale", "flow.regularisation=0.1", "--json"))
    data = build_dataset(load_experiment("plane.yaml").data).train
    value = KaleProblem(data, Gaussian(1.0), 0.1).solve(torch.from_numpy(samples(told))).value
    assert told["value"]["end"] == pytest.approx(value, abs=1e-7)
    assert told["kernel"] == "gaussian" and told["bandwidth"] == 1.0 and told["n_data"] == 60


def test_a_seed_gives_the_same_particles_and_another_seed_others(plane):
    """Noise and start come from the seed, which is the run's."""
    words = ["flow", "plane.yaml", "flow.step_control=fixed", "flow.noise_std=0.3", "--json"]
    one, two, three = (found(plane(*words, "--seed", s)) for s in (1, 1, 2))
    assert (samples(one) == samples(two)).all() and not (samples(one) == samples(three)).all()
    assert one["seed"] == 1


def test_a_table_flows_in_its_own_dimension(plane, tmp_path):
    """A csv of four columns: the particles have four, and the pictures show two directions of them."""
    rows = np.random.default_rng(0).normal(size=(80, 4)) @ np.diag([1, 2, 3, 4])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="a,b,c,d", comments="")
    (tmp_path / "table.yaml").write_text(
        PLANE.replace("{kind: toy, name: gaussian, n: 60}", "{kind: csv, path: t.csv}").replace(
            "mean: [1, 0]", "mean: 1"
        )
    )
    assert samples(found(plane("flow", "table.yaml", "--json"))).shape == (40, 4)


def test_latents_of_a_base_flow_through_it(gebm, tmp_path):
    """The particles are latents: samples are images of the base, in the base's own run, nearer to the data than they began."""
    (tmp_path / "dg.yaml").write_text(
        "name: dg\nseed: 1\ndata: {kind: digits}\nlatent_dim: 4\nbase: {kind: conv, width: 4}\nenergy: {kind: conv, width: 4}\n"
        "train_base: {steps: 2, batch_size: 8}\nflow: {space: latent, n_particles: 12, n_data: 50, n_steps: 3, step_size: 1}\n"
    )
    refused(gebm("flow", "dg.yaml"), "no run of experiment 'dg'", "train-base")
    assert gebm("train-base", "dg.yaml").code == 0
    told = found(gebm("flow", "dg.yaml", "--json"))
    out = Path(told["out"])
    assert out == Path("runs/dg-001/samples/mmd-flow-001") and len(list((out / "images").iterdir())) == 12
    assert {"grid.png", "flow.png", "flow.gif", "latents.npy"} <= set(os.listdir(out))
    assert np.load(out / "latents.npy").shape == (12, 4) and told["value"]["end"] < told["value"]["start"]
    assert gebm("sample", "--run", "dg-001").code == 2, "a flow trains no energy"
    assert gebm("sample", "--run", "dg-001", "--sampler", "none", "--n-samples", 12).code == 0
    refused(gebm("verdict", "--run", "dg-001"), "has no")
    refused(gebm("flow", "dg.yaml", "base.width=5"), "has other settings", "base.width")


# ---------------------------------------------------------------------------------------------------- stopping, going on


def test_a_flow_that_was_killed_goes_on_with_the_same_bits(plane, tmp_path):
    """SIGINT after the first steps: exit 130, a hidden folder; --resume ends with the particles of an unstopped flow."""
    words = ["flow.n_steps=3000", "flow.step_control=fixed", "flow.noise_std=0.1", "flow.step_size=0.01"]
    whole = found(plane("flow", "plane.yaml", *words, "--json"))
    process = subprocess.Popen(
        [sys.executable, "-m", "gebm_cli", "flow", "plane.yaml", *words], stderr=subprocess.PIPE, text=True
    )
    hidden = partial_folder(Path("runs/plane-002/samples/mmd-flow-001"))
    for _ in range(600):
        if (hidden / "state.pt").is_file():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "gebm flow --resume runs/plane-002/samples/mmd-flow-001" in told, told
    assert 0 <= load_checkpoint(hidden / "state.pt", "flow")["state"]["step"] < 3000
    refused(plane("flow", "--resume", "runs/plane-002/samples/mmd-flow-001", "flow.noise_std=0"), "may only change")
    resumed = found(plane("flow", "--resume", "runs/plane-002/samples/mmd-flow-001", "--json"))
    assert (samples(resumed) == samples(whole)).all() and resumed["value"] == whole["value"]
    assert resumed["sliced_w1"] == whole["sliced_w1"] and not hidden.exists()
    refused(plane("flow", "--resume", "runs/plane-002/samples/mmd-flow-001"), "is complete")


def test_particles_that_leave_all_bounds_end_with_exit_code_3_and_go_on_with_smaller_steps(plane):
    """A step far too large: the message says how to go on, the record that it diverged; then it does."""
    words = ["flow.step_control=fixed", "flow.step_size=1e38", "flow.kernel=polynomial", "flow.bandwidth=null"]
    result = plane("flow", "plane.yaml", *words)
    assert result.code == 3 and "Traceback" not in result.err, result.err
    again = "gebm flow --resume runs/plane-001/samples/mmd-flow-001 flow.step_size="
    assert again in result.err
    assert yaml.safe_load(Path("runs/plane-001/record.yaml").read_text())["stages"][0]["status"] == "diverged"
    refused(plane(*again.split()[1:-1], "flow.step_size=-1"), "flow.step_size: got '-1'")
    told = found(plane(*again.split()[1:-1], "flow.step_size=1e-3", "--json"))
    assert told["value"]["end"] < told["value"]["start"] and told["flow"]["step_size"] == 1e-3


def test_a_divergence_that_rose_is_said_and_not_praised(plane):
    """A fixed step that throws the particles about without end: the note says so."""
    words = ["flow.source={kind: normal}", "flow.step_control=fixed", "flow.step_size=1e5"]
    result = plane("flow", "plane.yaml", *words)
    assert result.code == 0 and "the divergence did not fall" in result.err


def test_two_flows_in_one_run_keep_their_metrics_and_the_same_one_is_refused(plane):
    """Rows of the first stay when a second is drawn in the run; the very same flow again is refused, another seed is not."""
    assert plane("flow", "plane.yaml").code == 0
    first = Path("runs/plane-001/metrics.jsonl").read_text()
    assert plane("flow", "--run", "plane-001", "flow.divergence=kale").code == 0
    assert Path("runs/plane-001/metrics.jsonl").read_text().startswith(first)
    refused(plane("flow", "--run", "plane-001"), "is this very flow, with seed 3")
    assert plane("flow", "--run", "plane-001", "--seed", "4").code == 0
    refused(plane("flow", "plane.yaml", "--run", "plane-001", "data.n=61"), "only keys of `flow.`")
    Path("other.yaml").write_text(PLANE.replace("n: 60", "n: 61"))
    refused(plane("flow", "other.yaml", "--run", "plane-001"), "has other settings", "data.n")


@pytest.fixture
def dies_at_the_rename():
    """The process is stopped when all is written but the set's name."""
    rename = Path.replace

    def replace(self, to):
        if to.name == "mmd-flow-001":
            raise KeyboardInterrupt
        return rename(self, to)

    @contextmanager
    def within():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            yield

    return within


def test_a_crash_before_the_set_has_its_name_loses_nothing(plane, dies_at_the_rename):
    """--resume ends it, with the same particles and nothing left over."""
    whole = found(plane("flow", "plane.yaml", "--json"))
    with dies_at_the_rename():
        stopped = plane("flow", "plane.yaml")
    assert stopped.code == 130 and "gebm flow --resume runs/plane-002/samples/mmd-flow-001" in stopped.err
    told = found(plane("flow", "--resume", "runs/plane-002/samples/mmd-flow-001", "--json"))
    assert (samples(told) == samples(whole)).all()
    assert sorted(os.listdir(told["out"])) == ["flow.gif", "flow.png", "sample.yaml", "samples.npz"]


def test_a_run_that_was_moved_goes_on_where_it_is(plane, dies_at_the_rename):
    """The set's own run, not the place where it began."""
    with dies_at_the_rename():
        assert plane("flow", "plane.yaml").code == 130
    Path("runs/plane-001").rename("runs/moved")
    told = found(plane("flow", "--resume", "runs/moved/samples/mmd-flow-001", "--json"))
    assert told["run"] == "moved" and Path("runs/moved/samples/mmd-flow-001/samples.npz").is_file()


def test_a_damaged_order_or_state_is_a_sentence(plane):
    """An empty order.yaml, one of other keys, a truncated state: what to remove, and no traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gebm_cli.experiment.flow._written", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert plane("flow", "plane.yaml").code == 130
    hidden = partial_folder(Path("runs/plane-001/samples/mmd-flow-001"))
    words = ("flow", "--resume", "runs/plane-001/samples/mmd-flow-001")
    order = (hidden / "order.yaml").read_text()
    for text in ("", "[1]", "flow: 3\nseed: 1\nrun_path: x"):
        (hidden / "order.yaml").write_text(text)
        assert (result := plane(*words)).code == 2 and "does not describe a flow" in result.err, result.err
    (hidden / "order.yaml").write_text(order)
    whole = (hidden / "state.pt").read_bytes()
    (hidden / "state.pt").write_bytes(whole[: len(whole) // 2])
    result = plane(*words)
    assert result.code == 1 and "remove the folder and start the flow again" in result.err
    (hidden / "state.pt").write_bytes(whole)
    assert plane(*words).code == 0


def test_a_flow_ends_where_it_was_stopped_if_asked_to(plane):
    """Stopped after 9 of 30 steps, which is no moment of its path: fewer steps are refused, 9 are its end, with a value there."""
    from gebm_cli.experiment import flow

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "SAVE_EVERY_S", -1.0)
        told = flow.run_flow

        def stops(descent, state, left, *rest):
            told(descent, state, 9, *rest)
            raise KeyboardInterrupt

        patch.setattr(flow, "run_flow", stops)
        assert plane("flow", "plane.yaml").code == 130
    words = ("flow", "--resume", "runs/plane-001/samples/mmd-flow-001")
    refused(plane(*words, "flow.n_steps=8"), "8 steps, but 9 are done")
    ended = found(plane(*words, "flow.n_steps=9", "--json"))
    assert ended["step"] == 9 and ended["sliced_w1"]["curve"][-1][0] == 9
    assert ended["value"]["end"] < ended["value"]["start"]


def test_data_without_a_held_out_part_have_no_distance_to_it(plane):
    """An array with held_out 0: no sliced W1, and the particles of images are images without latents."""
    np.save("im.npy", np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8))
    Path("im.yaml").write_text(
        "name: im\nseed: 1\ndata: {kind: array, path: im.npy, held_out: 0}\nflow: {n_particles: 10, n_steps: 3}\n"
    )
    told = found(plane("flow", "im.yaml", "--json"))
    assert told["sliced_w1"] is None and "latents.npy" not in os.listdir(told["out"])
    assert len(os.listdir(Path(told["out"]) / "images")) == 10


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["plane.yaml", "flow.bandwidth=0"], ["flow.bandwidth", "a number above 0"]),
        (["plane.yaml", "flow.regularisation=-1"], ["flow.regularisation"]),
        (["plane.yaml", "flow.noise_std=1"], ["flow.step_control", "fixed"]),
        (["plane.yaml", "flow.n_data=61"], ["flow.n_data: 61 points, but gaussian has 60"]),
        (["plane.yaml", "flow.source.mean=[1,2,3]"], ["flow.source.mean: 3 numbers", "has 2"]),
        (["plane.yaml", "flow.space=latent"], ["flow.source: in space: latent"]),
        (["plane.yaml", "flow.space=latent", "flow.source={kind: normal}"], ["flow.space: latent needs a base"]),
        (["plane.yaml", "flow.n_features=100"], ["flow.n_features"]),
        (["plane.yaml", "flow.divergence=kale", "flow.n_features=255"], ["flow.n_features", "even"]),
        (["plane.yaml", "flow.divergence=kale", "data.n=20000", "flow.n_data=20000"], ["flow.n_data", "GB"]),
        (["plane.yaml", "flow.source={kind: toy, name: heart, n: 5}"], ["flow.source.n"]),
        (["plane.yaml", "flow.diverence=kale"], ["did you mean 'divergence'"]),
        (["plane.yaml", "--seed", "x"], ["--seed: seed: got 'x'"]),
        ([], ["give an experiment file"]),
        (["--resume", "nowhere"], ["--resume nowhere", "nothing to go on with"]),
        (["--resume", "nowhere", "--seed", "1"], ["--resume", "leave --seed out"]),
    ],
)
def test_what_cannot_work_leaves_no_run(plane, words, parts):
    """Exit 2, the key or the flag, and no folder."""
    refused(plane("flow", *words), *parts)
    assert not Path("runs").exists()


def test_an_experiment_of_particles_has_nothing_to_train(plane):
    """train-base, train-energy and sample say that there is no network, and validate that the file is well."""
    refused(plane("train-base", "plane.yaml"), "only particles; run `gebm flow plane.yaml`")
    refused(plane("train-energy", "plane.yaml"), "only particles")
    assert "40 particles" in plane("validate", "plane.yaml").out
    assert plane("flow", "plane.yaml").code == 0
    refused(plane("sample"), "has finished train-energy")
    assert "flow" in plane("runs").out
