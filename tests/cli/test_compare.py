"""`gebm compare`: what differs, what may be compared, and whether a difference is more than chance."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from run_folders import described_set, made_run, score, session, verdict_record, write_metrics

from gebm_cli.cli.app import run as command
from gebm_cli.core.evaluation.kid import kid, kid_difference
from gebm_cli.core.two_sample.multiple import holm
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import create_run, open_run
from gebm_cli.experiment.run_comparison import value_with_error
from gebm_cli.experiment.run_sets import pairs_to_test
from gebm_cli.experiment.showing import resolve

ROOT = Path("runs")


def compared(gebm, *argv: str) -> dict:
    result = gebm("compare", *argv, "--json")
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 1
    return json.loads(result.out)


@pytest.fixture
def two(gebm):
    made_run(ROOT, "train_energy.lr=1e-3", scores=[score(value=9.0), score(value=5.0)])
    made_run(ROOT, "train_energy.lr=1e-4", "energy.width=7", seed=1, kale=[1.0, 5.0], scores=[score(value=4.0)])
    return gebm


def sample_set(run: Path, name: str, points: np.ndarray, **described) -> Path:
    """A sample set of points, as `gebm sample` leaves it."""
    folder = run / "samples" / name
    folder.mkdir(parents=True)
    np.savez(folder / "samples.npz", points.astype(np.float32))
    told = {"run": run.name, "run_path": str(run), "sampler": "kla", "seed": 0, "n_samples": len(points)}
    (folder / "sample.yaml").write_text(yaml.safe_dump(told | described))
    return folder


def ring_run(spread: float, seed: int = 0, **described) -> Path:
    """A run of experiments/ring.yaml whose chains are the ring's eight modes with another spread."""
    run = made_run(ROOT, name="ring", seed=seed)
    rng = np.random.default_rng(seed + 10)
    angles = 2 * np.pi * rng.integers(0, 8, 200) / 8
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * 2 + spread * rng.normal(size=(200, 2))
    sample_set(run.path, "kla-001", points, seed=seed, **described)
    return run.path


# ---------------------------------------------------------------------------------------------------------------- keys


def test_every_key_that_differs_is_told_and_no_other(two):
    got = compared(two, "digits-001", "digits-002", "--no-test")
    values = [{v.name: v.value for v in resolve(open_run(ROOT / f"digits-00{k}")).values} for k in (1, 2)]
    wanted = [key for key in values[0] if values[0][key] != values[1][key]]
    assert [row["key"] for row in got["differences"]] == wanted == ["seed", "energy.width", "train_energy.lr"]
    assert got["differences"][2]["values"] == {"digits-001": "0.001", "digits-002": "0.0001"}
    assert not got["only_seed"] and got["test"] is None and got["n_keys"] == len(values[0])


def test_runs_that_differ_by_their_seed_alone_are_repetitions(gebm):
    made_run(ROOT), made_run(ROOT, seed=1), made_run(ROOT)
    assert "by their seed alone" in gebm("compare", "digits-001", "digits-002", "--no-test").out
    same = gebm("compare", "digits-001", "digits-003", "--no-test").out
    assert "keys are equal, the seed too" in same and "alone" not in same


def test_runs_whose_samples_were_drawn_otherwise_are_no_repetitions(gebm):
    """Beta, steps and sampler count; another seed or number of samples does not."""
    drawn = {"beta": 1.0, "n_steps": 100, "mode": "refine"}
    for k, odd in enumerate([{}, {"n_samples": 400, "seed": 5}, {"beta": 2.0}, {"sampler": "mala", "n_steps": 50}]):
        described_set(made_run(ROOT, seed=k).path, "own-001", **({"seed": 0, "n_samples": 500} | drawn | odd))
    alike = compared(gebm, "digits-001", "digits-002", "--no-test")
    assert alike["only_seed"] and alike["drawn_otherwise"] is None
    columns = ("set", "of", "sampler", "beta", "steps", "n", "seed")
    assert [tuple(one[c] for c in columns) for one in alike["sample_sets"]] == [
        ("digits-001/own-001", "GEBM", "kla", 1.0, 100, 500, 0),
        ("digits-002/own-001", "GEBM", "kla", 1.0, 100, 400, 5),
    ]
    assert not compared(gebm, "digits-001", "digits-003", "--no-test")["only_seed"]
    out = gebm("compare", "digits-001", "digits-003", "--no-test").out
    assert "seed alone, but the compared samples were drawn otherwise: beta 1 (digits-001) and 2 (digits-003)\n" in out
    assert "repetitions" not in out and "digits-003/own-001  GEBM  kla      2     100    500  0" in out
    told = compared(gebm, "digits-001", "digits-004", "--no-test")["drawn_otherwise"]
    assert "sampler kla (digits-001) and mala (digits-004); steps 100 (digits-001) and 50 (digits-004)" in told
    html = (ROOT / "compare-digits-001-digits-003.html").read_text()
    assert "drawn otherwise: beta 1 (digits-001) and 2 (digits-003)" in html and "repetitions" not in html
    assert "digits-003/own-001" in html


def test_settings_of_a_base_are_not_held_against_those_of_a_gebm(gebm):
    """Of three runs the last has base samples alone: what is compared is one pair of each kind, drawn alike."""
    for k in range(3):
        path = made_run(ROOT, seed=k).path
        described_set(path, "base-001", sampler="none")
        if k < 2:
            described_set(path, "own-001", beta=1.0, n_steps=9)
    made_run(ROOT, seed=3)
    described_set(ROOT / "digits-004", "base-001", sampler="none")
    got = compared(gebm, "digits-001", "digits-002", "digits-003", "digits-004", "--no-test")
    assert [(one["set"], one["of"], one["sampler"]) for one in got["sample_sets"]] == [
        ("digits-001/own-001", "GEBM", "kla"),
        ("digits-002/own-001", "GEBM", "kla"),
        ("digits-003/base-001", "base", "the base alone"),
        ("digits-004/base-001", "base", "the base alone"),
    ]
    assert got["only_seed"] and got["drawn_otherwise"] is None


def test_a_key_that_only_one_run_has_is_a_difference_from_nothing(gebm):
    made_run(ROOT), made_run(ROOT, name="ring")
    got = compared(gebm, "digits-001", "ring-001", "--no-test")
    rows = {row["key"]: row["values"] for row in got["differences"]}
    assert rows["data.noise_std"]["digits-001"] is None and rows["data.noise_std"]["ring-001"] is not None


# ---------------------------------------------------------------------------------------------------- metrics and scores


def test_metrics_of_both_are_told_with_their_last_value(two):
    write_metrics(ROOT / "digits-001", "train-energy", {"penalty": [3.0], "nll": [1.0]})
    write_metrics(ROOT / "digits-002", "train-base", {"penalty": [4.0]})
    got = compared(two, "digits-001", "digits-002", "--no-test")["metrics"]
    assert got == [{"stage": "train-energy", "metric": "kale", "last": {"digits-001": 3.0, "digits-002": 5.0}}]


ODD = [
    {"features": "random"},
    {"weights_hash": "b" * 64},
    {"reference": "digits:held-out"},
    {"resize": "clean"},
    {"metric": "kid"},
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: next(iter(odd)))
def test_scores_that_may_not_be_compared_are_not_put_together(two, odd):
    both = compared(two, "digits-001", "digits-002", "--no-test")["scores"]
    assert [[e["value"] for e in row["entries"].values()] for row in both] == [[5.0, 4.0]], "the newest of each"
    made_run(ROOT, scores=[score(value=3.0, **odd)])
    rows = compared(two, "digits-001", "digits-003", "--no-test")["scores"]
    assert [[e and e["value"] for e in row["entries"].values()] for row in rows] == [[5.0, None], [None, 3.0]]


def test_scores_of_a_base_are_not_put_beside_those_of_a_gebm(gebm):
    for k, kind in enumerate(("none", "kla"), 1):
        run = made_run(ROOT, scores=[score(samples=f"digits-00{k}/own-001")])
        sample_set(run.path, "own-001", np.zeros((3, 2)), sampler=kind)
    rows = compared(gebm, "digits-001", "digits-002", "--no-test")["scores"]
    assert [row["of"] for row in rows] == ["base", "GEBM"]


def test_a_run_whose_folder_was_renamed_keeps_what_its_scores_are_of(gebm):
    for _ in range(2):
        run = made_run(ROOT, scores=[score(samples="digits-001/own-001")])
        sample_set(run.path, "own-001", np.zeros((3, 2)))
        run.path.rename(ROOT / f"renamed-{len(list(ROOT.iterdir()))}")
    (row,) = compared(gebm, "renamed-1", "renamed-2", "--no-test")["scores"]
    assert row["of"] == "GEBM" and None not in row["entries"].values()


def test_a_split_of_other_data_is_another_reference(gebm):
    made_run(ROOT, scores=[score()]), made_run(ROOT, "data.held_out=300", scores=[score()])
    assert len(compared(gebm, "digits-001", "digits-002", "--no-test")["scores"]) == 2


def test_a_verdict_holds_scores_of_both_sides(gebm):
    record = verdict_record()
    del record["references"]["held-out"]
    made_run(ROOT, scores=[record]), made_run(ROOT, scores=[score(value=7.0)])
    sample_set(ROOT / "digits-002", "kla-001", np.zeros((3, 2)))
    (ROOT / "digits-002" / "evaluation" / "score-001.yaml").write_text(
        yaml.safe_dump(score(value=7.0, samples="digits-002/kla-001", n_fake=6))
    )
    rows = compared(gebm, "digits-001", "digits-002", "--no-test")["scores"]
    found = {(row["metric"], row["of"]): [e and e["value"] for e in row["entries"].values()] for row in rows}
    wanted = {("fid", "base"): [2.0, None], ("fid", "GEBM"): [1.0, 7.0]}
    assert found == wanted | {("kid", "base"): [0.2, None], ("kid", "GEBM"): [0.1, None]}


def test_fids_of_different_numbers_of_samples_come_with_a_warning(gebm):
    made_run(ROOT, scores=[score(n_fake=100)]), made_run(ROOT, scores=[score(n_fake=5000)])
    got = gebm("compare", "digits-001", "digits-002", "--no-test")
    assert "different numbers of samples (100, 5000)" in got.err


# ---------------------------------------------------------------------------------------------------------------- test


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two tiny runs of the ring, trained and sampled by the commands."""
    path = tmp_path_factory.mktemp("trained")
    ring = str(Path(__file__).parents[2] / "experiments/ring.yaml")
    few = ["train_base.steps=2", "train_base.burst_critic_steps=1", "train_energy.steps=2", "sample.diagnose=false"]
    runs = ["--runs-dir", str(path / "runs")]
    for seed in ("0", "1"):
        assert command(["train-base", ring, *few, "--seed", seed, *runs]) == 0
        name = f"ring-00{int(seed) + 1}"
        assert command(["train-energy", "--run", name, *runs]) == 0
        argv = ["sample", "--run", name, "--n-samples", "60", "--n-steps", "2", "--seed", "3", *runs]
        assert command(argv) == 0
    return path / "runs"


def test_the_test_of_two_trained_runs_is_that_of_the_core(trained, gebm):
    """Against `kid_difference` on the files themselves, read here."""
    got = compared(gebm, "ring-001", "ring-002", "--runs-dir", str(trained))["test"]
    (test,) = got["tests"]
    sets = [np.load(next((trained / name / "samples").glob("*/samples.npz"))) for name in ("ring-001", "ring-002")]
    x, y = (torch.from_numpy(s[s.files[0]]).float() for s in sets)
    from gebm_cli.experiment.build import build_dataset

    real = build_dataset(open_run(trained / "ring-001").experiment.data).split("train")[0]
    wanted = kid_difference(real, y, x)
    assert test["kid_b_minus_a"] == pytest.approx(wanted.value, rel=1e-5)
    assert test["standard_error"] == pytest.approx(wanted.standard_error, rel=1e-5)
    assert test["p_value"] == pytest.approx(math.erfc(abs(wanted.z) / math.sqrt(2)), rel=1e-4)
    assert test["kid_a"] == pytest.approx(kid(x, real).value, rel=1e-5)
    assert (test["n_a"], test["n_b"], got["n_reference"], test["of"]) == (60, 60, len(real), "GEBM")
    assert "p_value_holm" not in test and got["features"] == "pixels"
    assert any("one seed, so from the same latents" in note for note in got["notes"])


def test_the_closer_run_is_found_whichever_comes_first(gebm):
    good, bad = ring_run(0.02).name, ring_run(1.5, seed=1).name
    for names in ((good, bad), (bad, good)):
        (test,) = compared(gebm, *names)["test"]["tests"]
        assert test["significant"] and test["closer"] == good and test["p_value"] < 1e-3
        assert (test["kid_b_minus_a"] > 0) == (names[0] == good)
    assert f"samples of {good} are closer" in gebm("compare", good, bad).out


def test_of_points_it_is_said_what_kid_cannot_see_with_a_command_that_runs(gebm, tmp_path):
    """A ring against a normal law of the same moments up to the third: KID sees nothing, a Gaussian kernel does."""
    rng = np.random.default_rng(0)
    good, bad = ring_run(0.1), made_run(ROOT, name="ring", seed=1).path
    sample_set(bad, "kla-001", rng.normal(scale=2**0.5, size=(200, 2)), seed=1)
    got = compared(gebm, good.name, bad.name)
    caution = got["test"]["caution"]
    assert "moments up to the third alone" in caution and not got["test"]["tests"][0]["significant"]
    html = Path(got["page"]).read_text()
    assert "moments up to the third alone" in html and "first three moments of raw coordinates" in html
    assert caution in gebm("compare", good.name, bad.name).out.splitlines()
    argv = shlex.split(caution.split("`")[1])[1:]
    assert json.loads(gebm(*argv, "--json").out)["p_value"] < 0.05, argv


def test_of_images_nothing_is_said_of_raw_coordinates(gebm):
    for k in range(2):
        images = np.random.default_rng(k).integers(0, 255, (8, 8, 8, 1), np.uint8)
        folder = sample_set(made_run(ROOT, seed=k).path, "kla-001", images, seed=k)
        np.savez(folder / "samples.npz", images)
    got = compared(gebm, "digits-001", "digits-002", "--features", "pixels")["test"]
    assert len(got["tests"]) == 1 and got["features"] == "pixels" and got["caution"] is None


def test_several_p_values_are_adjusted_by_holm(gebm):
    names = [ring_run(spread, seed).name for seed, spread in enumerate((0.1, 0.35, 0.6))]
    tests = compared(gebm, *names)["test"]["tests"]
    assert [(t["a"], t["b"]) for t in tests] == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    adjusted = holm({k: t["p_value"] for k, t in enumerate(tests)})
    assert [t["p_value_holm"] for t in tests] == [adjusted[k] for k in range(3)]
    assert all(t["significant"] == (t["p_value_holm"] <= 0.05) for t in tests)
    assert any(t["p_value_holm"] > t["p_value"] for t in tests)


def test_sets_of_one_seed_are_said_to_share_latents_and_copies_to_be_the_same(gebm):
    a, b = ring_run(0.1), ring_run(0.1)
    for path in (a, b):
        (path / "samples" / "kla-001" / "samples.npz").unlink()
    rng = np.random.default_rng(0)
    for path in (a, b):
        np.savez(path / "samples" / "kla-001" / "samples.npz", rng.normal(size=(50, 2)).astype(np.float32))
    assert "by two runs with one seed, so from the same latents" in gebm("compare", a.name, b.name).err
    (b / "samples/kla-001/samples.npz").write_bytes((a / "samples/kla-001/samples.npz").read_bytes())
    got = gebm("compare", a.name, b.name)
    assert "hold the same samples" in got.err and "No difference is seen" in got.out


def test_base_and_gebm_are_never_tested_against_each_other(gebm):
    """Both have base sets, and only one a GEBM's: nothing is tested, and the command that helps is told."""
    a, b = ring_run(0.1), ring_run(0.1, seed=1)
    for path in (a, b):
        sample_set(path, "base-001", np.random.default_rng(5).normal(size=(50, 2)), sampler="none")
    (b / "samples" / "kla-001" / "sample.yaml").unlink()
    got = compared(gebm, a.name, b.name)["test"]
    assert got["tests"] == [] and f"`gebm sample --run {b.name}`" in got["left_out"][0]
    (a / "samples" / "kla-001" / "sample.yaml").unlink()
    (test,) = compared(gebm, a.name, b.name)["test"]["tests"]
    assert test["of"] == "base" and test["samples_a"] == f"{a.name}/base-001"


def test_what_cannot_be_tested_is_told_and_is_no_error(gebm):
    """No samples, other data, too few samples, samples of another shape, unreadable ones."""
    plain, without = ring_run(0.1), made_run(ROOT, name="ring", seed=1).path
    assert "no GEBM samples" in gebm("compare", plain.name, without.name).out
    other = made_run(ROOT, "data.n=77", name="ring", seed=2).path
    sample_set(other, "kla-001", np.ones((50, 2)))
    assert "was trained on other data than" in gebm("compare", plain.name, other.name).out
    few = made_run(ROOT, name="ring", seed=3).path
    sample_set(few, "kla-001", np.ones((3, 2)))
    assert "holds 3 samples, and the test needs 4" in gebm("compare", plain.name, few.name).out
    flat = made_run(ROOT, name="ring", seed=4).path
    sample_set(flat, "kla-001", np.ones((50, 3)))
    assert "has samples of (3,)" in gebm("compare", plain.name, flat.name).out
    torn = made_run(ROOT, name="ring", seed=5).path
    (sample_set(torn, "kla-001", np.ones((50, 2))) / "samples.npz").write_bytes(b"PK")
    got = gebm("compare", plain.name, torn.name)
    assert got.code == 0 and "the samples cannot be compared" in got.out


def test_features_that_were_asked_for_and_cannot_be_had_are_an_error(gebm):
    a, b = ring_run(0.1).name, ring_run(0.1, seed=1).name
    refused = gebm("compare", a, b, "--features", "inception")
    assert refused.code == 2 and "is for images" in refused.err and not list(ROOT.glob("*.html"))
    refused = gebm("compare", a, b, "--no-test", "--features", "pixels")
    assert refused.code == 2 and "--features: is for the test" in refused.err


def test_pairs_are_of_one_kind_each(gebm):
    """Two runs with GEBM samples, two with base samples alone: two pairs in all."""
    for k in range(4):
        sample_set(made_run(ROOT, seed=k).path, "s-001", np.ones((4, 2)), sampler="kla" if k < 2 else "none")
    from gebm_cli.experiment.run_comparison import find_runs

    names = [f"digits-00{k}" for k in range(1, 5)]
    pairs, left_out = pairs_to_test(find_runs(names, ROOT), names)
    assert pairs == {(0, 1): "chains", (2, 3): "base"} and len(left_out) == 4


# ---------------------------------------------------------------------------------------------------------------- page


def test_the_page_holds_curves_scores_keys_and_grids(two):
    for k in (1, 2):
        folder = sample_set(ROOT / f"digits-00{k}", "kla-001", np.ones((4, 2)))
        Image.new("RGB", (20, 10), (200, 0, 0)).save(folder / "grid.png")
    got = compared(two, "digits-001", "digits-002", "--no-test")
    assert got["page"] == str(ROOT / "compare-digits-001-digits-002.html")
    html = Path(got["page"]).read_text()
    assert html.count("<svg") == 1 and html.count("data:image/png;base64,") == 2
    assert all(text in html for text in ("train_energy.lr", "5.00 ± 0.10", "KALE", "left out by --no-test"))


def test_the_page_lies_beside_the_first_run(gebm, monkeypatch):
    """Pages of runs elsewhere that have the same names do not replace each other; a run may be the folder one is in."""
    for folder in (ROOT, Path("rr"), Path("rr")):
        made_run(folder), made_run(folder)
    argv = ("digits-001", "digits-002", "--no-test")
    assert compared(gebm, *argv)["page"] == "runs/compare-digits-001-digits-002.html"
    kept = (ROOT / "compare-digits-001-digits-002.html").read_bytes()
    got = compared(gebm, "rr/digits-001", "runs/digits-002", "--no-test")
    assert got["page"] == "rr/compare-digits-001-digits-002.html" and Path(got["page"]).is_file()
    assert (ROOT / "compare-digits-001-digits-002.html").read_bytes() == kept
    monkeypatch.chdir("rr/digits-001")
    page = Path(compared(gebm, ".", "../digits-003", "--no-test")["page"]).resolve()
    assert page.parent.name == "rr" and page.is_file()


def test_a_title_of_two_is_against_and_one_of_three_a_list(gebm):
    for k in range(3):
        made_run(ROOT, seed=k)
    names = ["digits-001", "digits-002", "digits-003"]
    two, three = (Path(compared(gebm, *names[:n], "--no-test")["page"]).read_text() for n in (2, 3))
    assert "digits-001 against digits-002</h1>" in two and "digits-001, digits-002 and digits-003</h1>" in three


def test_a_metric_of_one_value_has_no_curve_and_is_in_the_table(gebm):
    """Unless one of the runs has a second value of it."""
    for k, n in enumerate((1, 1, 2)):
        run = made_run(ROOT, seed=k)
        write_metrics(run.path, "train-energy", {"watched_kale": [7.0] * n})
    alone, drawn = (compared(gebm, "digits-001", other, "--no-test") for other in ("digits-002", "digits-003"))
    assert [row["metric"] for row in alone["metrics"]] == ["kale", "watched_kale"]
    pages = [Path(got["page"]).read_text() for got in (alone, drawn)]
    assert [page.count("<svg") for page in pages] == [1, 2] and all("watched KALE" in page for page in pages)
    for k in (1, 2):
        (ROOT / f"digits-00{k}" / "metrics.jsonl").unlink()
        write_metrics(ROOT / f"digits-00{k}", "train-energy", {"kale": [1.0]})
    html = Path(compared(gebm, "digits-001", "digits-002", "--no-test")["page"]).read_text()
    assert "<svg" not in html and "the shared metrics have one value each" in html


def test_a_name_that_is_markup_is_text_on_the_page(two):
    evil = "<script>alert(1)<"
    (ROOT / "digits-001").rename(ROOT / evil)
    got = compared(two, evil, "digits-002", "--no-test", "--out", "c.html")
    html = Path("c.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;" in html and "<script>alert" not in html
    assert got["runs"][0]["run"] == evil


def test_a_page_is_written_again_and_a_file_of_someone_else_is_not(two):
    argv = ["digits-001", "digits-002", "--no-test"]
    page = ROOT / "compare-digits-001-digits-002.html"
    assert f"page: {page}" in two("compare", *argv).out
    first = page.read_bytes()
    assert two("compare", *argv).code == 0 and page.read_bytes() == first
    page.write_text("mine")
    refused = two("compare", *argv)
    assert refused.code == 2 and "is no page of gebm" in refused.err and page.read_text() == "mine"
    Path("x.html").write_text("")
    assert two("compare", *argv, "--out", "x.html").code == 2 and Path("x.html").read_text() == ""
    assert two("compare", *argv, "--out", "y.html").code == 0 and Path("y.html").is_file()


@pytest.mark.parametrize(("out", "part"), [("x.txt", "ends in .html"), ("none/x.html", "folder does not exist")])
def test_a_place_where_no_page_can_be_is_refused(two, out, part):
    refused = two("compare", "digits-001", "digits-002", "--no-test", "--out", out)
    assert refused.code == 2 and part in refused.err


def test_eight_long_names_have_a_page_too(gebm):
    for seed in range(8):
        made_run(ROOT, "name=a-very-long-name-of-an-experiment-that-goes-on", seed=seed)
    names = sorted(p.name for p in ROOT.iterdir())
    got = compared(gebm, *names, "--no-test")
    assert Path(got["page"]).is_file() and len(Path(got["page"]).name) < 160


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["got 0 runs", "2 to 8"]),
        (["digits-001"], ["got 1 run,", "gebm compare digits-001 digits-002"]),
        (["digits-001"] * 9, ["got 9 runs"]),
        (["digits-001", "digits-001"], ["digits-001: is given twice"]),
        (["digits-001", "runs/../runs/digits-001"], ["is given twice"]),
        (["digits-001", "nowhere"], ["nowhere: no such run", "digits-002"]),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(two, argv, parts):
    refused = two("compare", *argv)
    assert refused.code == 2 and all(part in refused.err for part in parts) and not list(ROOT.glob("*.html")), (
        refused.err
    )
    assert "--run" not in refused.err


def test_an_experiment_changed_by_hand_is_told_by_file_and_line(two):
    file = ROOT / "digits-002" / "experiment.yaml"
    file.write_text(file.read_text().replace("width: 7", "width: seven"))
    refused = two("compare", "digits-001", "digits-002")
    assert refused.code == 2 and "digits-002/experiment.yaml:" in refused.err and "energy.width" in refused.err


def test_a_record_that_cannot_be_read_and_missing_metrics_are_told_on_the_way(two):
    (ROOT / "digits-001" / "record.yaml").write_text("]")
    (ROOT / "digits-002" / "metrics.jsonl").unlink()
    got = two("compare", "digits-001", "digits-002")
    assert got.code == 0 and "digits-001/record.yaml" in got.err and "digits-002: has no metrics" in got.err
    assert "keys cannot be compared" in got.out


def test_a_run_of_particles_alone_can_be_compared(gebm):
    made_run(ROOT)
    create_run(load_experiment("experiments/flow-three-rings.yaml", [], {"seed": ("--seed", "0")}), ROOT)
    got = compared(gebm, "digits-001", "flow-three-rings-001")
    assert got["test"]["tests"] == [] and got["metrics"] == [] and len(got["differences"]) > 10


def test_two_runs_of_one_name_are_told_apart_by_their_folders(gebm):
    made_run(ROOT), made_run(Path("other"))
    got = compared(gebm, "digits-001", "other/digits-001", "--no-test")
    assert [row["run"] for row in got["runs"]] == ["runs/digits-001", "other/digits-001"]


def test_without_a_test_no_torch_is_imported(two):
    code = (
        "import sys; from gebm_cli.cli.app import run; code = run(sys.argv[1:]); "
        "assert code == 0 and 'torch' not in sys.modules, 'torch'"
    )
    argv = ["compare", "digits-001", "digits-002", "--no-test"]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (1.2345, 0.123, "1.23 ± 0.12"),
        (0.01108, 0.00424, "0.0111 ± 0.0042"),
        (12345.6, 250.0, "12346 ± 250"),
        (0.5, None, "0.5"),
        (0.5, 0.0, "0.5"),
        (math.nan, math.nan, "nan"),
        (1e-9, 2e-10, "1e-09 ± 2e-10"),
    ],
)
def test_a_value_is_told_to_the_second_digit_of_its_error(value, error, told):
    assert value_with_error(value, error) == told


def test_sessions_that_failed_are_seen_on_the_page(gebm):
    made_run(ROOT, sessions=[session(status="diverged")]), made_run(ROOT, sessions=[], kale=[])
    got = compared(gebm, "digits-001", "digits-002", "--no-test")
    html = Path(got["page"]).read_text()
    assert "train-energy diverged at step 3" in html and "nothing trained yet" in html


# ------------------------------------------------------------------------------------------- what a score is, and notes


def prdc(value: float, **more) -> dict:
    shape = {"precision": value, "recall": 0.4, "density": 0.9, "density_standard_error": 0.2, "coverage": 0.6, "k": 5}
    return score("prdc", value, **shape, features="pixels", weights_hash="none", **more)


def test_prdc_is_four_rows_and_pixels_have_no_weights(gebm):
    made_run(ROOT, scores=[prdc(0.7)]), made_run(ROOT, scores=[prdc(0.5)])
    for k in (1, 2):
        described_set(ROOT / f"digits-00{k}", "kla-001")
        file = ROOT / f"digits-00{k}" / "evaluation" / "score-001.yaml"
        file.write_text(file.read_text().replace("digits-001/kla", f"digits-00{k}/kla"))
    rows = compared(gebm, "digits-001", "digits-002", "--no-test")["scores"]
    assert [(row["metric"], [e["value"] for e in row["entries"].values()]) for row in rows] == [
        ("precision", [0.7, 0.5]),
        ("recall", [0.4, 0.4]),
        ("density", [0.9, 0.9]),
        ("coverage", [0.6, 0.6]),
    ]
    assert {row["of"] for row in rows} == {"GEBM"} and rows[2]["entries"]["digits-001"]["standard_error"] == 0.2
    out = gebm("compare", "digits-001", "digits-002", "--no-test").out
    html = (ROOT / "compare-digits-001-digits-002.html").read_text()
    assert "0.70 +- 0.10 (n 1000)" in out and "PRDC" not in out + html and "density" in html
    assert "pixels none" not in out + html and "none" not in out.partition("score ")[2]


def test_scores_with_other_options_do_not_share_a_row(gebm):
    made_run(ROOT, scores=[prdc(0.7)]), made_run(ROOT, scores=[prdc(0.5) | {"k": 3}])
    assert len(compared(gebm, "digits-001", "digits-002", "--no-test")["scores"]) == 8


def test_every_note_is_on_the_page_too(gebm):
    made_run(ROOT, scores=[score(n_fake=100)]), made_run(ROOT, scores=[score(n_fake=5000)])
    described_set(ROOT / "digits-001", "torn-001").joinpath("sample.yaml").write_text("]")
    (ROOT / "digits-001" / "evaluation" / "kid-001.yaml").write_text("]")
    with open(ROOT / "digits-001" / "metrics.jsonl", "a") as file:
        file.write("torn\n")
    (ROOT / "digits-002" / "metrics.jsonl").unlink()
    got = compared(gebm, "digits-001", "digits-002", "--no-test")
    html = Path(got["page"]).read_text()
    parts = ("torn-001/sample.yaml", "kid-001.yaml", "1 of 4 lines", "digits-002: has no metrics", "numbers of samples")
    for part in parts:
        assert part in html and any(part in note for note in got["notes"]), part
    assert len(got["notes"]) == len(parts)


def test_a_grid_is_made_again_by_the_command_that_made_it(two):
    argv = ["gebm", "sample", "--run", "digits-001", "--sampler", "mala", "--beta", "1.5"]
    for k, told in ((1, {"argv": argv}), (2, {})):
        folder = sample_set(ROOT / f"digits-00{k}", "own-001", np.ones((4, 2)), **told)
        Image.new("RGB", (20, 10), (200, 0, 0)).save(folder / "grid.png")
    html = Path(compared(two, "digits-001", "digits-002", "--no-test")["page"]).read_text()
    assert (
        "gebm sample --run digits-001 --sampler mala --beta 1.5" in html and "gebm sample --run digits-002" not in html
    )


def test_a_damaged_grid_is_told_and_a_large_one_made_small(two):
    folders = [sample_set(ROOT / f"digits-00{k}", "own-001", np.ones((4, 2))) for k in (1, 2)]
    (folders[0] / "grid.png").write_bytes(b"PNG")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 1600, 3), np.uint8)).save(folders[1] / "grid.png")
    html = Path(compared(two, "digits-001", "digits-002", "--no-test")["page"]).read_text()
    assert "own-001/grid.png: is not a picture" in html and html.count("data:image/webp") == 1
    assert (folders[1] / "grid.png").stat().st_size > 2_000_000 > len(html)


def test_no_text_from_files_or_names_acts_on_the_terminal(gebm):
    evil = "\x1b]0;x\x07[red]:smile:"
    for k in (1, 2):
        made_run(ROOT, scores=[score(features=evil, reference=evil, n_fake=k, samples=evil)])
        write_metrics(ROOT / f"digits-00{k}", f"s{evil}", {f"m{evil}": [1.0]})
    (ROOT / "digits-001").rename(ROOT / f"d{evil}")
    (ROOT / f"d{evil}" / "samples" / evil).mkdir(parents=True)
    (ROOT / f"d{evil}" / "samples" / evil / "sample.yaml").write_text("]")
    got = gebm("compare", f"d{evil}", "digits-002")
    assert got.code == 0 and not {"\x1b", "\x07"} & set(got.out + got.err)
    (head,) = [line for line in got.out.splitlines() if line.startswith("last value")]
    assert "d?]0;x?[red]:smile:" in head and "page: runs/compare-d?]0" in got.out
    assert f"{evil}/sample.yaml".replace("\x1b", "?").replace("\x07", "?") in got.err


def test_what_is_printed_of_two_runs_is_ascii(two):
    (ROOT / "digits-001").rename(ROOT / "rühe")
    code = "import sys; from gebm_cli.cli.app import run; sys.exit(run(sys.argv[1:]))"
    argv = ["compare", "rühe", "digits-002", "--no-test"]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, env=env, timeout=60)
    out = done.stdout.decode("ascii")
    assert done.returncode == 0 and "5.00 +- 0.10" in out and "r\\xfche" in out, done.stderr


def test_quiet_stands_behind_the_command_too(gebm):
    a, b = ring_run(0.1).name, ring_run(0.1, seed=1).name
    loud, quiet = gebm("compare", a, b), gebm("compare", a, b, "-q")
    assert quiet.code == 0 and quiet.out == loud.out and quiet.err == ""
