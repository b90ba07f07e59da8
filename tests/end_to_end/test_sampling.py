"""`gebm sample` through the command line, on a tiny trained run: every sampler, sweeps, refusals, stops and processes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from gebm_cli.cli.app import run as command
from gebm_cli.core.sampling import tuning
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.chains import BlockRun
from gebm_cli.errors import GebmError
from gebm_cli.experiment import drawing, sampleset, watching

N_BIAS_STEPS = watching.N_BIAS_STEPS
DIGITS = str(Path(__file__).parents[2] / "experiments/digits.yaml")
TINY = [
    "base.width=2",
    "energy.width=2",
    "evaluate.features=pixels",
]  # pixels: no classifier is trained to track scores
BASE = ["train_base.steps=20", "train_base.checkpoint_every=20"]
ENERGY = ["train_energy.steps=20", "train_energy.checkpoint_every=20", "train_energy.n_log_partition=500"]
QUICK = ["--n-samples", "40", "--n-steps", "4", "sample.block_size=20"]
ALONE = "sample.diagnose=false"  # without the watched chains
WHEN = ("seconds", "ess_per_second", "written", "argv", "host", "versions", "git")  # what two equal sets may differ in


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with one trained run, shared by all tests."""
    path = tmp_path_factory.mktemp("sampling")
    runs = ["--runs-dir", str(path / "runs")]
    assert command(["train-base", DIGITS, *TINY, *BASE, "--seed", "5", *runs]) == 0
    assert command(["train-energy", DIGITS, *TINY, *ENERGY, *runs]) == 0
    return path


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """What has tests of its own takes little time here, where any step, ladder or bias will do that the seed decides.

    Pilots are 30 and 2 x 8 steps long, not 180 and 6 x 20 (test_tuning, test_kernel), the bias is of 5 steps, not 30 (test_bias,
    test_watching); trace.png, track.png and chain.gif are empty (test_pictures; two of them are drawn in test_main_job).
    """
    monkeypatch.setattr(tuning, "dual_averaging", partial(tuning.dual_averaging, n_steps=25, n_check=5))
    monkeypatch.setattr(tuning, "space_ladder", partial(tuning.space_ladder, n_rounds=2, n_steps=8))
    monkeypatch.setattr(watching, "N_BIAS_STEPS", 5)
    for module, name in ((sampleset, "save_traces"), (sampleset, "save_chain"), (drawing, "save_score_curves")):
        monkeypatch.setattr(module, name, lambda path, *rest: path.touch())


@pytest.fixture
def as_elsewhere(monkeypatch):
    """As many steps of the bias as in another process, whose record is to be the same."""
    monkeypatch.setattr(watching, "N_BIAS_STEPS", N_BIAS_STEPS)


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


@pytest.fixture
def sample(job, capsys, monkeypatch):
    """Call `gebm sample` in the job's folder."""
    monkeypatch.chdir(job)

    def call(*argv) -> Result:
        capsys.readouterr()
        code = command(["sample", *map(str, argv)])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def altered(job, tmp_path):
    """Copy the run and change the weights of its energy; gives the options that choose the copy."""

    def copy(change) -> list[str]:
        shutil.copytree(job / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("samples", "evaluation"))
        path = next((tmp_path / "runs").glob("digits-001/checkpoints/train-energy/*.pt"))
        saved = torch.load(path, weights_only=True)
        weights = saved["state"]["energy"]
        saved["state"]["energy"] = {k: change(k, v) if k.startswith("network") else v for k, v in weights.items()}
        torch.save(saved, path)
        return ["--runs-dir", str(tmp_path / "runs")]

    return copy


def record(folder) -> dict:
    """sample.yaml."""
    return yaml.safe_load((Path(folder) / "sample.yaml").read_text())


def without_times(value):
    """A record without what may differ between two equal sets."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in WHEN}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def assert_same_set(a, b) -> None:
    """Two sets stored as .npz hold the same bits and tell the same."""
    x, y = (np.load(Path(folder) / "samples.npz") for folder in (a, b))
    assert all(np.array_equal(x[k], y[k]) for k in ("latents", "images"))
    assert without_times(record(a)) == without_times(record(b))
    assert sorted(os.listdir(a)) == sorted(os.listdir(b))


def sets(job) -> list[str]:
    """What is in the run's samples/, hidden folders included."""
    folder = job / "runs/digits-001/samples"
    return sorted(os.listdir(folder)) if folder.exists() else []


# --------------------------------------------------------------------------------------------------------- every sampler


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_sampler_draws_a_set_that_the_seed_alone_decides(sample, tmp_path, name):
    """Fewer samples in other batches and another format are the first of more, bit for bit; the record has the settings as used."""
    entry, argv = CATALOGUE[name], ["--sampler", name, "--n-steps", "4", "sample.block_size=20"]
    argv += ["sample.n_leapfrog=3"] if "n_leapfrog" in entry.keys else []
    many = sample(*argv, "--n-samples", "50", "--batch-size", "7", "--out", tmp_path / "a", "--json").json
    few = [*argv, ALONE, "--n-samples", "30", "--batch-size", "1000", "--format", "npz"]
    assert sample(*few, "--out", tmp_path / "b").code == 0
    latents, other = np.load(tmp_path / "a/latents.npy"), np.load(tmp_path / "b/samples.npz")
    assert latents.shape == (50, 16) and np.array_equal(latents[:30], other["latents"])
    assert len(np.unique(latents, axis=0)) == 50
    pictures = sorted((tmp_path / "a/images").iterdir())
    assert len(pictures) == 50
    assert np.array_equal(np.stack([np.asarray(Image.open(p)) for p in pictures[:30]]), other["images"][..., 0])

    told = record(tmp_path / "a")
    assert many["n_samples"] == told["n_samples"] == 50 and many["seed"] == told["seed"] == 5
    assert (told["n_steps"], told["n_warmup"], told["mode"], told["beta"]) == (4, 0, "refine", 1.5)
    assert set(entry.keys) - {"drs_percentile", "n_rungs"} <= set(told), "the sampler's own keys are told"
    assert ("friction" in told) == ("friction" in entry.keys)
    assert ("verdict" in told) == ("n_watched" in told or "too few" in told.get("verdict", "")) == entry.markov
    if not entry.unit:
        assert not {"h", "epsilon", "damping", "total_time", "step_size"} & set(told)
        return
    h, c = told["h"], told["damping"]
    assert told["epsilon"] == pytest.approx(h * h / 2, rel=1e-4)
    assert told["step_size"] == pytest.approx(h if entry.unit == "h" else h * h / 2, rel=1e-4)
    assert c == pytest.approx(math.exp(-2 * h) if "friction" in entry.keys else 0, rel=1e-4)
    moves = told.get("n_leapfrog", 1) ** 2 * told.get("n_local", 1) * (1 + told.get("jitter", 0) ** 2 / 3)
    assert told["total_time"] == pytest.approx(4 * moves * h * h / 2 * (1 + c) / (1 - c), rel=1e-4)


def test_another_seed_gives_other_samples(sample, tmp_path):
    """--seed decides the chains, and no latent of one seed is found under another."""
    for seed in ("0", "1"):
        argv = [*QUICK, ALONE, "--seed", seed, "--format", "npz", "--out", tmp_path / seed]
        assert sample(*argv, "--json").json["seed"] == int(seed)
    a, b = (np.load(tmp_path / seed / "samples.npz")["latents"] for seed in ("0", "1"))
    assert not np.isin(a, b).any()


# ----------------------------------------------------------------------------------------------------------- mode: sample


@pytest.mark.parametrize("name", ["kla", "pt"])
def test_long_chains_discard_the_warm_up_and_keep_evenly_spaced_draws(sample, tmp_path, name):
    """14 chains of 5 + 12 steps with 3 draws are cut to exactly 40 samples; draws at 9, 13, 17 go on as those of 9 + 8."""
    argv = ["--sampler", name, "--mode", "sample", "--format", "npz", "sample.block_size=20", ALONE]
    long = ["--n-samples", "40", "--n-steps", "12", "sample.n_draws=3", "sample.n_warmup=5"]
    later = ["--n-samples", "28", "--n-steps", "8", "sample.n_draws=2", "sample.n_warmup=9"]
    got = sample(*argv, *long, "--out", tmp_path / "a", "--json").json
    assert (got["n_samples"], got["n_draws"], got["n_steps"], got["n_warmup"]) == (40, 3, 12, 5)
    assert sample(*argv, *later, "--out", tmp_path / "b").code == 0
    a, b = (np.load(tmp_path / x / "samples.npz") for x in "ab")
    assert a["latents"].shape == (40, 16) and a["images"].shape == (40, 8, 8, 1) and b["latents"].shape == (28, 16)
    assert np.array_equal(a["latents"][14:], b["latents"][:26])
    assert np.array_equal(a["images"][14:], b["images"][:26])


@pytest.mark.parametrize(
    ("argv", "begins", "mixed"),
    [
        (["--mode", "sample", "--sampler", "ihm", "--beta", "0", "--n-steps", "30"], "mixed: R-hat", True),
        (["--mode", "sample", "--sampler", "rw", "--step-size", "1e-4", "--n-steps", "30"], "not mixed: R-hat", False),
        (["--sampler", "rw", "--step-size", "1e-4", "--n-steps", "30"], "refined, not mixed: R-hat", False),
        (["--sampler", "ihm", "--beta", "0", "--n-steps", "60"], "refined, and mixed: R-hat", True),
        (["--sampler", "kla", "--n-steps", "3"], "not judged: 3 steps are too few to judge mixing", False),
    ],
)
def test_the_verdict_says_whether_chains_mixed(sample, tmp_path, argv, begins, mixed):
    """Independent draws mix, tiny random steps do not, and a line of the answer says so."""
    out = tmp_path / "set"
    said = sample(*argv, "--n-samples", "40", "sample.block_size=20", "--out", out)
    told = record(out)
    assert said.code == 0 and told["verdict"] in said.out.splitlines()
    assert told["verdict"].startswith(begins) and told["mixed"] is mixed
    assert ("bias_of_step" in told) == (told["sampler"] == "kla"), (
        "chains with a Metropolis test have no bias to measure"
    )


# ------------------------------------------------------------------------------------------------------------- beta auto


def _weights(sign: float, scale: float = 0.3):
    """Random weights: an energy that tells data from base a little; the last layer's sign decides which it favours."""
    g = torch.Generator().manual_seed(0)

    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(value.shape, generator=g) * scale
        return sign * drawn if name.startswith("network.5") else drawn

    return change


def test_beta_auto_calibrates_and_says_how_surely(sample, altered, capsys):
    """Of an energy and the same with its sign flipped, one prints a slope with its error, the other says that it is no use."""
    answers = []
    for sign in (1.0, -1.0):
        runs = altered(_weights(sign))
        answers.append(sample(*runs, "--beta", "auto", *QUICK, ALONE))
        shutil.rmtree(runs[1])
    good, bad = sorted(answers, key=lambda r: r.code)
    assert good.code == 0 and re.search(r"beta [\d.]+ \+- [\d.]+, calibrated", good.out)
    assert bad.code == 1 and "the energy does not favour data over base samples, so no positive beta helps" in bad.err
    assert "beta: auto: the slope is -" in bad.err and "+-" in bad.err


def test_beta_auto_records_its_standard_error(sample, altered):
    """The set's beta is the slope; with --json its standard error stands beside it."""
    for sign in (1.0, -1.0):
        runs = altered(_weights(sign))
        got = sample(*runs, "--beta", "auto", *QUICK, ALONE, "--json")
        if got.code == 0:
            assert 0 < got.json["beta_standard_error"] < got.json["beta"]
            assert record(Path(runs[1]) / "digits-001/samples/kla-001")["beta"] == got.json["beta"]
            return
        shutil.rmtree(runs[1])
    pytest.fail("neither sign of the energy has a positive slope")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda k, v: torch.zeros_like(v), "the energy is the same everywhere"),
        (lambda k, v: v * torch.nan, "energies are not finite"),
    ],
    ids=["constant", "nan"],
)
def test_beta_auto_of_a_useless_energy_is_one_sentence(sample, altered, change, sentence):
    """Exit 1, what is wrong with the energy and the way out; no set is left."""
    runs = altered(change)
    got = sample(*runs, "--beta", "auto", *QUICK)
    assert got.code == 1 and sentence in got.err and "give beta as a number" in got.err and "defect" not in got.err
    assert not any((Path(runs[1]) / "digits-001/samples").iterdir())


# --------------------------------------------------------------------------------------------------- sweeps, comparisons


def test_a_sweep_writes_one_set_each_and_a_table(sample, job, tmp_path):
    """Two betas by two frictions: four sets in the order written, their record, the table on stdout, `sets` in JSON."""
    argv = [*QUICK, ALONE, "--beta", "1,3", "--friction", "low,high"]
    got = sample(*argv)
    assert got.code == 0, got.err
    head, *rows, files = got.out.splitlines()
    assert head.split()[:4] == ["set", "sampler", "beta", "friction"]
    assert [row.split()[:4] for row in rows] == [
        ["kla-001", "kla", "1", "0.2"],
        ["kla-002", "kla", "1", "20"],
        ["kla-003", "kla", "3", "0.2"],
        ["kla-004", "kla", "3", "20"],
    ]
    kept = yaml.safe_load(Path(files).read_text())
    assert files.endswith("evaluation/sweep-001.yaml") and not Path(files).with_suffix(".png").exists()
    assert [s["label"] for s in kept["sets"]][:2] == ["beta 1, friction low", "beta 1, friction high"]
    assert [record(job / "runs/digits-001/samples" / s["set"])["friction"] for s in kept["sets"]] == [0.2, 20, 0.2, 20]
    table = sample(*argv, "--out", tmp_path / "sets", "--json").json
    assert sorted(os.listdir(tmp_path / "sets")) == ["kla-001", "kla-002", "kla-003", "kla-004"]
    assert [(s["beta"], s["friction"]) for s in table["sets"]] == [(1, 0.2), (1, 20), (3, 0.2), (3, 20)]
    assert table["files"] == [str(Path("runs/digits-001/evaluation/sweep-002.yaml"))]


def test_a_comparison_plots_quality_against_cost_from_the_base_on(sample, job):
    """Three samplers by two seeds: a curve each, averaged over seeds, all from the base's scores; the plot and a table."""
    got = sample(*QUICK, ALONE, "--compare", "kla,ihm,dot", "--seed", "0,1")
    assert got.code == 0, got.err
    head, base, *rows, files = got.out.splitlines()
    path, picture = files.split(", ")
    assert path.endswith("evaluation/compare-001.yaml") and Image.open(picture).width > 400
    assert "KID" in head and base.split()[0] == "base" and len(rows) == 6
    kept = yaml.safe_load(Path(path).read_text())
    assert [(s["label"], s["seed"]) for s in kept["sets"]] == [(n, s) for n in ("kla", "ihm", "dot") for s in (0, 1)]
    curves = kept["curves"]
    assert list(curves) == ["kla", "ihm", "dot"]
    for name, points in curves.items():
        scores = [s["track"]["scores"] for s in kept["sets"] if s["label"] == name]
        assert [p["step"] for p in points] == [0, 1, 2, 3, 4] and {p["n_seeds"] for p in points} == {2}
        assert [p["gradients"] for p in points] == [(0.5 if name == "ihm" else 1) * k for k in range(5)]
        for i, point in enumerate(points):
            a, b = (s[i]["kid"] for s in scores)
            assert point["kid"] == pytest.approx((a + b) / 2)
            assert point["kid_standard_error"] == pytest.approx(abs(a - b) / 2)
        assert points[0] | {"seconds": 0} == curves["kla"][0] | {"seconds": 0}, "all start at the base"
        assert points[-1]["kid"] != points[0]["kid"]
    assert (job / "runs/digits-001/samples" / kept["sets"][0]["set"] / "track.png").is_file()


# ---------------------------------------------------------------------------------------------------------------- errors

REFUSED = [
    (["--beta", "1,,2"], "--beta: got '1,,2', expected different values with commas between them"),
    (["--beta", "1,2,1"], "--beta: got '1,2,1', expected different values"),
    (["--compare", "kla,kla"], "--compare: got 'kla,kla', expected different values"),
    (["--mode", "refine,sample"], "--mode: got 'refine,sample', expected one value"),
    (["--n-samples", "4,5"], "--n-samples: got '4,5', expected one value"),
    (["--batch-size", "4,5"], "--batch-size: got '4,5', expected one value"),
    (["--sampler", "klaa"], "'drs', 'resample' or 'none'; did you mean 'kla'?"),
    (["--sampler", "mala,nuts"], "--sampler: sample.sampler: got 'nuts', expected 'kla', 'ghmc', 'ula'"),
    (["--compare", "kla,ihn"], "--compare: sample.sampler: got 'ihn', expected 'kla'"),
    (["--compare", "kla", "--sampler", "kla"], "--compare: names the samplers already; leave --sampler out"),
    (["--compare", "kla,none"], "--compare: the base is on every plot already; leave none out"),
    (["--sampler", "mala", "--friction", "low"], "--friction: has no meaning for the sampler 'mala'; leave it out"),
    (["--sampler", "ihm", "--step-size", "1"], "--step-size: has no meaning for the sampler 'ihm'; leave it out"),
    (["--sampler", "none", "--track"], "--track: has no meaning for the sampler 'none'; leave it out"),
    (["--beta", "-1"], "--beta: sample.beta: got '-1', expected 'auto' or a number of at least 0"),
    (["--beta", "1,x"], "--beta: sample.beta: got 'x', expected 'auto' or a number"),
    (["--seed", "0,-1"], "--seed: got '-1', expected a whole number of at least 0"),
    (
        ["sample.scheme=baxoab"],
        "got 'baxoab', expected gebm, or a splitting spelt with the letters B (kick), A (drift)",
    ),
    (["sample.scheme=ba"], "got 'ba', expected gebm, or a splitting"),
    (["--sampler", "drs", "--mode", "sample"], "drs is no Markov chain for pi, so mode: sample does not fit"),
    (["--mode", "sample", "--n-steps", "4"], "4 steps cannot hold 20 draws; lower n_draws"),
    (["sample.beta_start=0", "--sampler", "pt"], "sample.beta_start: pt cannot be annealed; leave it out"),
    (["train_base.lr=1"], "here only keys of `sample.` can be overridden"),
    (["--resume", "x"], "--resume x: was not begun, or nothing of it is left; there is nothing to go on with"),
    (["--resume", "x", "--seed", "3", "--track"], "the settings that were begun; leave --track, --seed out"),
    (["--resume", "x", "--format", "png", "--compare", "a,b"], "were begun; leave --compare, --format out"),
    (["--resume", "x", "--run", "r", "--out", "y", "sample.n_steps=3"], "leave sample.n_steps=3, --run, --out out"),
]


@pytest.mark.parametrize(("argv", "sentence"), REFUSED, ids=lambda value: value if isinstance(value, str) else None)
def test_a_mistake_is_one_sentence_and_draws_nothing(sample, job, argv, sentence):
    """Exit 2, one line on stderr, nothing on stdout, no set and no name taken."""
    before = sets(job)
    got = sample(*argv)
    assert got.code == 2 and sentence in got.err and len(got.err.splitlines()) == 1, got
    assert got.out == "" and sets(job) == before


def test_a_complete_set_is_neither_overwritten_nor_resumed(sample, tmp_path):
    """--out that exists is refused, and so is --resume of what is complete."""
    out = tmp_path / "set"
    assert sample(*QUICK, ALONE, "--out", out).code == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again, resumed = sample(*QUICK, "--out", out), sample("--resume", out)
    assert again.code == resumed.code == 2
    assert f"{out}: exists already, and nothing is overwritten" in again.err
    assert f"--resume {out}: is complete; there is nothing to go on with" in resumed.err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


# ------------------------------------------------------------------------------------ steps too large, broken energies


@pytest.mark.parametrize(
    ("name", "outcome"), [("ula", "will diverge there"), ("mala", "will reject nearly everything")]
)
def test_a_step_beyond_the_stability_bound_is_warned_of_before_the_start(sample, name, outcome, monkeypatch, job):
    """The warning names step, bound and remedy, and comes before the first step of any chain."""

    def stop(*argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockRun, "advance", stop)
    before = sets(job)
    got = sample("--sampler", name, "--step-size", "3", *QUICK)
    bound = re.search(r"warning: step size 3 is beyond the stability bound ([\d.]+) ", got.err)
    assert got.code == 130 and bound and 1 < float(bound[1]) < 3, got.err
    assert outcome in got.err and "--step-size auto chooses one" in got.err
    for name in set(sets(job)) - set(before):
        shutil.rmtree(job / "runs/digits-001/samples" / name)


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["--sampler", "mala", "--step-size", "100"], "at beta 1.5 and step size 100; --step-size auto finds one"),
        (["--sampler", "ghmc", "--step-size", "100"], "at beta 1.5 and step size 100; --step-size auto finds one"),
        (
            ["--sampler", "ihm", "--beta", "1e12", "sample.block_size=1", "--n-steps", "2"],
            "at beta 1e+12; take a smaller",
        ),
    ],
)
def test_chains_that_accept_nothing_end_in_a_sentence_and_leave_nothing(sample, job, argv, where):
    """Exit 1 with step and beta, and neither a set nor its hidden folder stays."""
    before = sets(job)
    got = sample(*QUICK, *argv)
    assert got.code == 1 and "was accepted by any of" in got.err and where in got.err, got.err
    assert "smaller beta" in got.err and got.out == "" and sets(job) == before


def test_one_last_chain_that_rests_is_no_failure(sample, job):
    """Of a block all chains count, not those asked for: a single sample by a kernel that often rejects is drawn."""
    for seed in range(3):
        argv = ["--sampler", "mala", "--step-size", "1.2", "--n-steps", "2", "--n-samples", "1"]
        got = sample(*argv, "sample.block_size=50", "--seed", seed, ALONE)
        assert got.code == 0, got.err


@pytest.mark.parametrize("name", ["kla", "ihm", "dot", "pt"])
def test_an_energy_that_is_nan_exits_3_and_keeps_the_state(sample, altered, name):
    """A sentence says that the energy has diverged and where the chains' state is, which can be read as data."""
    runs = altered(lambda k, v: v * torch.nan)
    got = sample(*runs, "--sampler", name, *QUICK)
    assert got.code == 3 and "every chain of a block met energies that are not finite" in got.err
    assert "step size" not in got.err and got.out == "", "a tuned step is not to blame"
    kept = Path(got.err.split("is kept in ")[1].strip())
    saved = torch.load(kept, weights_only=True)
    assert saved["step"] == 4 and torch.isfinite(saved["state"]["job"]["start"]).all()
    assert not (Path(runs[1]) / f"digits-001/samples/{name}-001/sample.yaml").exists()


# --------------------------------------------------------------------------------------------------- stopping and resuming

KLA = ["--sampler", "kla", "--n-steps", "12", "--n-samples", "40", "--track"]
PT = [
    "--sampler",
    "pt",
    "--mode",
    "sample",
    "--n-steps",
    "8",
    "sample.n_warmup=4",
    "sample.n_draws=2",
    "--n-samples",
    "70",
]


@pytest.mark.parametrize("argv", [KLA, PT], ids=["kla", "pt"])
def test_a_set_stopped_three_times_ends_in_the_same_bits(sample, tmp_path, monkeypatch, argv):
    """SIGTERM within the first block, the second and the watched chains: exit 130 with the way on, no set; then all is the same."""
    argv = [*argv, "sample.block_size=20", "--format", "npz"]
    assert sample(*argv, "--out", tmp_path / "whole").code == 0
    advance = BlockRun.advance

    def stopping_after(n: int):
        steps = iter(range(1, 10**6))

        def step(block):
            if next(steps) == n:
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(block)

        return step

    # Two blocks and the watched chains, 12 steps each: stopped at step 7, at 5 + 10, at 2 + 4.
    cut = tmp_path / "cut"
    for words, n, item in ((argv, 7, "block-00000"), (None, 15, "block-00001"), (None, 6, "watched")):
        monkeypatch.setattr(BlockRun, "advance", stopping_after(n))
        monkeypatch.setattr(sys, "argv", ["gebm", "begun" if words else "gone on"])
        got = sample(*([*words, "--out", cut] if words else ["--resume", cut]))
        assert got.code == 130 and f"of {item}; what was done is kept: `gebm sample --resume {cut}` goes on" in got.err
        assert got.out == "" and not cut.exists()
    monkeypatch.setattr(BlockRun, "advance", advance)
    assert sample("--resume", cut).code == 0
    assert_same_set(cut, tmp_path / "whole")
    assert record(cut)["argv"] == ["gebm", "begun"], "what makes the set again is what began it"
    assert sorted(os.listdir(tmp_path)) == ["cut", "whole"]


KILLED = """
import os, sys
from gebm_cli.cli.app import run
from gebm_cli.core.sampling.chains import BlockRun
from gebm_cli.errors import GebmError
from gebm_cli.experiment import jobs
jobs.SAVE_EVERY_S = 0.0
advance, steps = BlockRun.advance, iter(range(1, 1000))
def step(block):
    if next(steps) == 17:
        os.kill(os.getpid(), 9)
    return advance(block)
BlockRun.advance = step
run(sys.argv[1:])
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_set_cut_by_kill_9_goes_on_from_its_last_checkpoint(sample, job, tmp_path, as_elsewhere):
    """Killed in the second block, a real process leaves a finished block and a checkpoint; the rest gives the same bits."""
    argv = [*KLA[:-1], "sample.block_size=20", "--format", "npz"]
    out = tmp_path / "cut"
    words = [sys.executable, "-c", KILLED, "sample", *argv, "--out", str(out)]
    done = subprocess.run(words, cwd=job, env=_environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = os.listdir(tmp_path / ".cut.partial")
    assert {"block-00000.pt", "block-00001.partial", "order.yaml"} <= set(left) and "block-00001.pt" not in left
    other = sample(*argv, "--n-steps", "11", "--out", out)
    assert (
        other.code == 2
        and "a set with other settings was begun here and stopped; go on with `gebm sample --res" in other.err
    )
    assert sample("--resume", out).code == 0
    assert sample(*argv, "--out", tmp_path / "whole").code == 0
    assert_same_set(out, tmp_path / "whole")


def test_a_set_that_another_process_draws_is_left_alone(sample, tmp_path, monkeypatch):
    """--resume while its folder is locked: exit 2, and what the other has done stays."""
    out = tmp_path / "set"

    def stop(block):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BlockRun, "advance", stop)
        assert sample(*QUICK, ALONE, "--out", out).code == 130
    with FileLock(tmp_path / ".set.partial/.lock"):
        got = sample("--resume", out)
        assert got.code == 2 and "another process is drawing this sample set" in got.err
        assert (tmp_path / ".set.partial/order.yaml").is_file()
    assert sample("--resume", out).code == 0 and (out / "sample.yaml").is_file()


# ------------------------------------------------------------------------------------------------------ several processes


def test_two_processes_under_torchrun_draw_the_set_of_one(sample, job, tmp_path, as_elsewhere):
    """Latents, images and record are the same, bit for bit; one result is printed."""
    argv = ["--n-samples", "50", "--n-steps", "12", "sample.block_size=20", "--format", "npz", "--track"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gebm_cli"]
    words = [sys.executable, *launcher, "sample", *argv, "--out", str(tmp_path / "two"), "--json"]
    done = subprocess.run(words, cwd=job, env=_environment(), capture_output=True, text=True)
    assert Result(done.returncode, done.stdout, done.stderr).json["n_samples"] == 50
    assert sample(*argv, "--out", tmp_path / "one").code == 0
    assert_same_set(tmp_path / "two", tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


# ------------------------------------------------------------------------------------------------------------- absent data


def test_sampling_goes_on_without_the_training_data(sample, tmp_path, monkeypatch):
    """Data that are gone cost one picture and a warning; `--beta auto`, which needs them, says so and leaves nothing."""
    from gebm_cli.core.data import images

    def gone(held_out):
        raise GebmError("digits: gone")

    monkeypatch.setattr(images, "digits", gone)
    got = sample(*QUICK, "--out", tmp_path / "x", ALONE)
    assert got.code == 0 and "nearest.png is left out: the data set cannot be read (digits: gone)" in got.err
    assert not (tmp_path / "x/nearest.png").exists() and (tmp_path / "x/grid.png").exists()
    got = sample(*QUICK, "--beta", "auto", "--out", tmp_path / "y", ALONE)
    assert got.code == 1 and "digits: gone" in got.err and not list(tmp_path.glob("*y*"))


@pytest.mark.parametrize("where", ["a block's file", "a picture"])
def test_an_error_after_chains_were_run_keeps_them(sample, tmp_path, monkeypatch, where):
    """A full disk at the second block, an error in a picture: what was done stays, and --resume ends with the right set."""
    from gebm_cli.experiment import jobs, sampleset

    argv = [*QUICK, ALONE, "--format", "npz"]
    with monkeypatch.context() as patch:
        if where == "a picture":

            def full(*_):
                raise MemoryError("no room")

            patch.setattr(sampleset, "save_chain_grid", full)
        else:
            write, calls = jobs.write_checkpoint, []

            def full(path, *rest):
                calls.append(path)
                if len(calls) == 2:
                    raise GebmError(f"{path}: cannot be written: No space left on device")
                write(path, *rest)

            patch.setattr(jobs, "write_checkpoint", full)
        assert sample(*argv, "--out", tmp_path / "a").code == 1
    assert (tmp_path / ".a.partial/block-00000.pt").is_file() and not (tmp_path / "a").exists()
    assert sample("--resume", tmp_path / "a").code == 0
    assert sample(*argv, "--out", tmp_path / "b").code == 0
    assert_same_set(tmp_path / "a", tmp_path / "b")


def test_a_damaged_item_alone_is_drawn_again(sample, tmp_path, monkeypatch):
    """The file of a block is cut short while the set waits: the error says so, and the next --resume draws that block."""
    from gebm_cli.experiment import sampleset

    def full(*_):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(sampleset, "save_chain_grid", full)
        assert sample(*QUICK, ALONE, "--out", tmp_path / "a").code == 1
    item = tmp_path / ".a.partial/block-00001.pt"
    item.write_bytes(item.read_bytes()[:100])
    got = sample("--resume", tmp_path / "a")
    assert got.code == 1 and "was damaged and is removed" in got.err and "--resume" in got.err
    assert sample("--resume", tmp_path / "a").code == 0


def test_a_device_that_is_not_there_leaves_no_folder(sample, job):
    """--device cuda without CUDA: a sentence, exit 2, and no name is kept."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    before = sorted((job / "runs/digits-001/samples").iterdir()) if (job / "runs/digits-001/samples").exists() else []
    assert sample("--device", "cuda").code == 2
    samples = job / "runs/digits-001/samples"
    assert (sorted(samples.iterdir()) if samples.exists() else []) == before


def test_one_failing_set_does_not_cost_the_others(sample, tmp_path):
    """Of a sweep over step sizes one accepts nothing: its message is told, the table has the other, exit 1."""
    got = sample("--sampler", "mala", "--step-size", "auto,1e6", *QUICK, ALONE, "--out", tmp_path / "s")
    assert got.code == 1 and "no proposal of 4 steps was accepted" in got.err and "1 of 2 sets failed" in got.err
    assert "mala-001" in got.out and (tmp_path / "s/mala-001/sample.yaml").is_file()


def test_chains_that_left_for_infinity_are_called_diverged(sample, tmp_path):
    """Far beyond the stability bound an unadjusted chain explodes; the record and stderr say not to use what looks like samples."""
    got = sample(
        "--step-size",
        "50",
        "--n-samples",
        "20",
        "--n-steps",
        "8",
        "sample.block_size=20",
        "--out",
        tmp_path / "x",
        "--json",
    )
    assert got.json["verdict"].startswith("diverged: ") and got.json["mixed"] is False
    assert "do not use these samples" in got.err
