"""`gebm doctor` on a run of a few steps, and on the same run with its networks broken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from gebm_cli.cli.app import run as command
from gebm_cli.experiment import doctor
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.run import open_run

NAMES = [
    "finite", "deterministic", "gradient", "flat", "prior", "beta_zero", "stability", "overlap", "precision", "metropolis",
    "calibration",
]  # fmt: skip
EXPERIMENT = """
name: tiny
seed: 3
data: {kind: toy, name: ring, n: 2000}
latent_dim: 2
base: {kind: circle}
energy: {kind: mlp, width: 16, depth: 2}
train_energy: {steps: 100, batch_size: 64, n_log_partition: 2000, lr: 1e-3}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one trained run, which the tests may add scores to."""
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    assert command(["train-energy", str(folder / "tiny.yaml"), "--runs-dir", str(folder / "runs")]) == 0
    return folder / "runs"


def scores(runs):
    return sorted((runs / "tiny-001/evaluation").glob("doctor-*.yaml"))


def breaking(monkeypatch, **parts):
    """From here on the run's networks are loaded with these in the place of theirs, each made from the one it replaces."""

    def load(*args):
        gebm = load_gebm(*args)
        return replace(gebm, **{name: make(getattr(gebm, name)) for name, make in parts.items()})

    monkeypatch.setattr(doctor, "load_gebm", load)


def test_a_sound_run_passes_and_is_recorded(runs, gebm):
    """Exit code 0, stable JSON keys, one file more in evaluation/, and the same figures from the same seed."""
    before = len(scores(runs))
    first = gebm("doctor", "--json", "--runs-dir", runs)
    assert first.code == 0, first.err
    result = json.loads(first.out)
    assert (result["run"], result["ok"], result["seed"], result["beta"]) == ("tiny-001", True, 3, 1.0)
    assert [c["name"] for c in result["checks"]] == NAMES
    assert all({"name", "status", "value", "bound", "message"} <= set(c) for c in result["checks"])
    assert "failed" not in [c["status"] for c in result["checks"]]
    assert len(scores(runs)) == before + 1
    kept = yaml.safe_load(scores(runs)[-1].read_text())
    assert kept["metric"] == "doctor" and [c["name"] for c in kept["checks"]] == NAMES
    assert gebm("doctor", "tiny-001", "--json", "--runs-dir", runs).out == first.out
    assert gebm("doctor", "tiny-001", "--json", "--seed", "4", "--runs-dir", runs).out != first.out


def test_people_get_a_line_for_each_check(runs, gebm):
    """Name, status, figure, bound, meaning; and a last line that answers the question. A run is named in either way."""
    got = gebm("doctor", "tiny-001", "--beta", "1e5", "--runs-dir", runs)
    lines = got.out.splitlines()
    assert got.code == 0 and lines[0] == "Doctor on tiny-001 at beta 100000, seed 3:"
    assert [line.split()[0] for line in lines[1:-1]] == NAMES
    assert "overlap       WARNING" in got.out and "--sampler pt" in got.out
    assert lines[-1].startswith("fit to be sampled, with ")
    assert gebm("doctor", "--run", runs / "tiny-001").code == 0


def test_a_failed_check_ends_with_exit_code_1(runs, gebm, monkeypatch):
    """A base that looks at its whole batch; the result is printed and kept all the same."""

    class BatchMean(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, z):
            return self.base(z - z.mean(0))

    before = len(scores(runs))
    breaking(monkeypatch, base=BatchMean)
    got = gebm("doctor", "--runs-dir", runs)
    assert got.code == 1
    assert "deterministic FAILED" in got.out and got.out.splitlines()[-1].startswith("not fit to be sampled: ")
    assert len(scores(runs)) == before + 1


class Changed(nn.Module):
    """An energy put through a function."""

    def __init__(self, energy, change):
        super().__init__()
        self.energy, self.change = energy, change

    def forward(self, x):
        return self.change(self.energy, x)


def raising(energy, x):
    if len(x) == 256:
        raise RuntimeError("no such luck\nand more")
    return energy(x)


BROKEN = {
    "finite": lambda energy, x: energy(x) * torch.nan,
    "gradient": lambda energy, x: energy(x) + energy(x.detach().flip(1)),
    "precision": lambda energy, x: 100 * energy(x) + 1e8,
    "metropolis": raising,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(runs, gebm, monkeypatch, name):
    """The check that is made for it fails; where no energy is finite nothing else is looked at."""
    breaking(monkeypatch, energy=lambda energy: Changed(energy, BROKEN[name]))
    got = gebm("doctor", "--json", "--runs-dir", runs)
    assert got.code == 1, got.err
    found = {c["name"]: c for c in json.loads(got.out)["checks"]}
    assert found[name]["status"] == "failed"
    if name == "finite":
        assert list(found) == ["finite", "calibration"]
    if name == "metropolis":
        assert found[name]["message"].startswith("RuntimeError: no such luck;") and found[name]["value"] is None


def test_beta_auto_takes_the_calibrated_one_and_data_that_cannot_be_read_are_skipped(runs):
    """Without data there is no slope, and the check says why."""
    run = open_run(runs / "tiny-001")
    keys = run.experiment.sample.model_copy(update={"beta": "auto"})
    auto = replace(run, experiment=run.experiment.model_copy(update={"sample": keys}))
    result = doctor.examine(auto, 0, torch.device("cpu"))
    calibration = result["checks"][-1]
    assert result["beta"] == calibration.get("slope", 1.0)
    exam = doctor.check_calibration(None, "the data set cannot be read", 0, torch.device("cpu"))
    assert exam[0].status == "skipped" and exam[1] is None


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["tiny-001", "--run", "tiny-002"], "the run is named already"),
        (["--beta", "-1"], "--beta: got '-1.0'"),
        (["--beta", "nan"], "--beta: got 'nan'"),
        (["nothing"], "no such run"),
    ],
)
def test_what_does_not_fit_is_refused(runs, gebm, argv, told):
    """Exit code 2, and a sentence."""
    got = gebm("doctor", *argv, "--runs-dir", runs)
    assert got.code == 2 and told in got.err
