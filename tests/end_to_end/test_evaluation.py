"""Scores through the command line, on folders, archives, arrays, statistics and runs, good and bad."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.kid import kid

PIXELS = ["--features", "pixels"]
RANDOM = ["--features", "random"]


def images(n: int, seed: int, size: int = 8, low: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (n, size, size, 3), dtype=np.uint8)


def folder(path: Path, pixels: np.ndarray, start: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(path / f"{start + i:04d}.png")
    return path


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of 30 images in 3 x 8 x 8 that differ."""
    return folder(tmp_path / "a", images(30, 1)), folder(tmp_path / "b", images(40, 2, low=40))


def scored(result) -> dict:  # type: ignore[no-untyped-def]
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 1, "stdout holds the result and nothing else"
    return json.loads(result.out)


def as_features(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float().div(127.5).sub(1).flatten(1)


def test_scores_of_folders_are_those_of_their_pixels(gebm, sides) -> None:
    a, b = sides
    x, y = as_features(images(30, 1)), as_features(images(40, 2, low=40))
    fid = scored(gebm("evaluate-fid", a, b, *PIXELS, "--json"))
    assert fid["value"] == pytest.approx(frechet_distance(x, y).value, rel=1e-6)
    assert (fid["n_fake"], fid["n_real"], fid["features"], fid["metric"]) == (30, 40, "pixels", "fid")
    assert any("covariance is singular" in w for w in fid["warnings"])
    found = scored(gebm("evaluate-kid", a, "--reference", b, *PIXELS, "--json"))
    estimate = kid(x, y)
    assert (found["value"], found["standard_error"]) == pytest.approx(
        (estimate.value, estimate.standard_error), rel=1e-5
    )


def test_every_metric_has_a_flag_and_a_name() -> None:
    """The command knows them without importing torch, so they are written there again."""
    from gebm_cli.cli import evaluate, score_text
    from gebm_cli.experiment.metrics import METRICS

    assert evaluate.METRICS == tuple(METRICS) == tuple(score_text.LABELS)


def test_the_form_of_an_input_does_not_matter(gebm, sides, tmp_path) -> None:
    """A folder, nested or not, a zip, a tar, NHWC and NCHW arrays, floats in a stated range: one value."""
    a, b = sides
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in a.iterdir():
            archive.write(file, f"inside/{file.name}")
    shutil.make_archive(str(tmp_path / "a"), "tar", a)
    nested = folder(tmp_path / "nested/x", images(30, 1)[:15])
    folder(tmp_path / "nested/y", images(30, 1)[15:], 15)
    pixels = images(30, 1)
    np.save(tmp_path / "nhwc.npy", pixels)
    np.save(tmp_path / "nchw.npy", pixels.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "floats.npz", images=(pixels / 255).astype(np.float32))
    forms = ["a.zip", "a.tar", str(nested.parent), "nhwc.npy", "nchw.npy"]
    wanted = scored(gebm("evaluate-fid", a, b, *RANDOM, "--json"))["value"]
    for form in forms:
        assert scored(gebm("evaluate-fid", form, b, *RANDOM, "--json"))["value"] == pytest.approx(wanted, rel=1e-9), (
            form
        )
    ranged = scored(gebm("evaluate-fid", "floats.npz", b, *RANDOM, "--json", "--value-range", "0,1"))
    assert ranged["value"] == pytest.approx(wanted, rel=1e-9)
    refused = gebm("evaluate-fid", "floats.npz", b, *RANDOM)
    assert refused.code == 2 and "--value-range" in refused.err


def test_several_sets_metrics_and_a_comparison(gebm, sides, tmp_path) -> None:
    """Three sets, four metrics, one pass of the reference; each further set is compared with the first."""
    a, b = sides
    c = folder(tmp_path / "c", images(30, 5, low=40))
    found = scored(gebm("evaluate-fid", a, c, "-r", b, "--metrics", "fid,kid,prdc,energy-distance", *PIXELS, "--json"))
    assert [(s["samples"], s["metric"]) for s in found["scores"]] == [
        (str(side), metric) for side in (a, c) for metric in ("fid", "kid", "prdc", "energy-distance")
    ]
    (comparison,) = found["comparisons"]
    values = {s["samples"]: s["value"] for s in found["scores"] if s["metric"] == "kid"}
    assert comparison["kid_b_minus_a"] == pytest.approx(values[str(c)] - values[str(a)], rel=1e-4)
    assert comparison["p_value"] < 0.01 and comparison["kid_b_minus_a"] < 0
    equal = scored(gebm("evaluate-kid", a, a, "-r", b, *PIXELS, "--json"))["comparisons"][0]
    assert equal["kid_b_minus_a"] == 0 and equal["p_value"] == 1
    table = gebm("evaluate-fid", a, c, "-r", b, "--metrics", "fid,kid,prdc", *PIXELS)
    assert table.code == 0 and "recall" in table.out and f"{c} is closer than {a}" in table.out


def test_statistics_and_features_are_written_and_read(gebm, sides) -> None:
    a, b = sides
    fid = scored(gebm("evaluate-fid", a, b, *RANDOM, "--json"))["value"]
    value = scored(gebm("evaluate-kid", a, b, *RANDOM, "--json"))["value"]
    assert gebm("evaluate-fid", b, "--save-statistics", "b.npz", *RANDOM).code == 0
    assert gebm("evaluate-fid", b, "--save-features", "bf.npz", *RANDOM).code == 0
    with np.load("b.npz") as file:
        assert file["mu"].shape == (256,) and file["sigma"].shape == (256, 256)
    assert scored(gebm("evaluate-fid", a, "b.npz", *RANDOM, "--json"))["value"] == pytest.approx(fid, rel=1e-8)
    assert scored(gebm("evaluate-fid", a, "bf.npz", *RANDOM, "--json"))["value"] == pytest.approx(fid, rel=1e-8)
    assert scored(gebm("evaluate-kid", a, "bf.npz", *RANDOM, "--json"))["value"] == pytest.approx(value, rel=1e-6)
    refused = gebm("evaluate-kid", a, "b.npz", *RANDOM)
    assert refused.code == 2 and "kid needs the features of every image" in refused.err
    other = gebm("evaluate-fid", a, "b.npz", *PIXELS)
    assert other.code == 2 and "was made with other features" in other.err and "pixels" in other.err
    again = gebm("evaluate-fid", b, "--save-statistics", "b.npz", *RANDOM)
    assert again.code == 2 and "nothing is overwritten" in again.err


def test_foreign_statistics(gebm, sides) -> None:
    """pytorch-fid's files say neither n nor network: used, with a note; of another dimension: refused."""
    a, _ = sides
    np.savez("foreign.npz", mu=np.zeros(192), sigma=np.eye(192))
    found = scored(gebm("evaluate-fid", a, "foreign.npz", *PIXELS, "--json"))
    assert found["n_real"] is None
    assert any("does not say what features" in w for w in found["warnings"])
    assert any("does not say how many" in w for w in found["warnings"])
    np.savez("small.npz", mu=np.zeros(5), sigma=np.eye(5))
    refused = gebm("evaluate-fid", a, "small.npz", *PIXELS)
    assert refused.code == 2 and "192 and 5 dimensions" in refused.err
    for name, arrays, word in [
        ("skew.npz", {"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
        ("nan.npz", {"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "NaN"),
        ("shape.npz", {"mu": np.zeros(2), "sigma": np.eye(3)}, "expected floats (d,) and (d, d)"),
        ("flat.npz", {"features": np.zeros(3)}, "expected floats (n, d)"),
    ]:
        np.savez(name, **arrays)
        refused = gebm("evaluate-fid", a, name, *PIXELS)
        assert refused.code == 2 and word in refused.err, name


def test_the_reference_is_cached_and_the_cache_verified(gebm, sides, monkeypatch, tmp_path) -> None:
    """A second score reads it; a changed image, a damaged file and a forged one are noticed."""
    monkeypatch.setenv("GEBM_CACHE", str(tmp_path / "cache"))
    a, b = sides
    argv = ["evaluate-fid", a, b, *RANDOM, "--json"]
    first, second = scored(gebm(*argv)), scored(gebm(*argv))
    assert (first["reference_cached"], second["reference_cached"]) == (False, True)
    assert first["value"] == second["value"]
    (file,) = (tmp_path / "cache/features").glob("*.npz")
    with np.load(file) as held:
        arrays = dict(held)
    from gebm_cli.experiment.extraction import _digest

    forged = arrays["features"] + 1
    np.savez(file, features=forged, digest=np.asarray(_digest(forged)))
    third = scored(gebm(*argv))
    assert (third["reference_cached"], third["value"]) == (False, first["value"])
    file.write_bytes(file.read_bytes()[:500])
    assert scored(gebm(*argv))["value"] == first["value"]
    assert not scored(gebm(*argv, "--no-cache"))["reference_cached"]
    Image.fromarray(images(1, 9)[0]).save(b / "0000.png")
    changed = scored(gebm(*argv))
    assert not changed["reference_cached"] and changed["value"] != first["value"]


def test_what_is_not_finite_is_refused(gebm, sides) -> None:
    """Huge features, and a covariance that is none, never become a score."""
    a, b = sides
    np.save("huge.npy", np.full((8, 3), 1e20))
    np.save("points.npy", np.random.default_rng(0).normal(size=(8, 3)))
    refused = gebm("evaluate-kid", "huge.npy", "points.npy")
    assert refused.code == 2 and "overflow" in refused.err
    np.savez("negative.npz", mu=np.zeros(192), sigma=-np.eye(192))
    refused = gebm("evaluate-fid", a, "negative.npz", *PIXELS)
    assert refused.code == 2 and "negative eigenvalues" in refused.err
    np.savez("far.npz", features=np.full((9, 192), 1e200))
    refused = gebm("evaluate-kid", a, "far.npz", *PIXELS)
    assert refused.code == 2 and "too large" in refused.err
    Image.fromarray(images(1, 1)[0]).convert("L").save(b / "grey.png")
    refused = gebm("evaluate-kid", a, b, *PIXELS)
    assert refused.code == 2 and "one size and colour" in refused.err


def test_extras_of_fid_and_kid(gebm, tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, shift in (("x", 0.0), ("y", 0.2)):
        np.savez(f"{name}.npz", features=rng.normal(shift, 1, (600, 4)))
    found = scored(gebm("evaluate-fid", "x.npz", "y.npz", "--infinity", "--bootstrap", "50", "--json"))
    assert found["bootstrap"]["low"] <= found["bootstrap"]["high"] and found["infinity"]["n_sizes"] == 15
    again = scored(gebm("evaluate-fid", "x.npz", "y.npz", "--infinity", "--bootstrap", "50", "--json"))
    assert found["bootstrap"] == again["bootstrap"] and found["infinity"] == again["infinity"]
    other = scored(gebm("evaluate-fid", "x.npz", "y.npz", "--infinity", "--bootstrap", "50", "--json", "--seed", "1"))
    assert found["bootstrap"] != other["bootstrap"] and found["value"] == other["value"]
    subsets = scored(gebm("evaluate-kid", "x.npz", "y.npz", "--subsets", "10x100", "--json"))["subsets"]
    assert subsets["n_subsets"] == 10 and subsets["spread"] > 0
    assert gebm("evaluate-kid", "x.npz", "y.npz", "--subsets", "10x1000").code == 2
    text = gebm("evaluate-fid", "x.npz", "y.npz", "--infinity", "--bootstrap", "50").out
    assert "FID at infinitely many samples" in text and "95% confidence" in text


def test_classes(gebm, tmp_path) -> None:
    """Classes are the sub-folders; each class's KID is that of its images."""
    for side, seed in (("a", 1), ("b", 2)):
        for c in range(2):
            folder(tmp_path / side / f"class{c}", images(10, seed + 10 * c), 10 * c)
    found = scored(gebm("evaluate-kid", "a", "b", *PIXELS, "--per-class", "--json"))
    assert [row["class"] for row in found["per_class"]] == ["class0", "class1"]
    wanted = kid(as_features(images(10, 11)), as_features(images(10, 12))).value
    assert found["per_class"][1]["value"] == pytest.approx(wanted, rel=1e-4)
    os.rename("b/class1", "b/other")
    refused = gebm("evaluate-kid", "a", "b", *PIXELS, "--per-class")
    assert refused.code == 2 and "'class1'" in refused.err and "'other'" in refused.err
    flat = folder(tmp_path / "flat", images(10, 3))
    refused = gebm("evaluate-kid", "a", flat, *PIXELS, "--per-class")
    assert refused.code == 2 and "has no labels" in refused.err


def test_a_class_that_was_skipped_whole_moves_no_other(gebm, tmp_path) -> None:
    """Its number stays empty on one side, and the others are matched by their names."""
    for side, seed in (("a", 1), ("b", 2)):
        for c in (1, 2):
            folder(tmp_path / side / f"class{c}", images(10, seed + 10 * c), 10 * c)
    wanted = scored(gebm("evaluate-kid", "a", "b", *PIXELS, "--per-class", "--json"))["per_class"]
    (tmp_path / "a/class0").mkdir()
    (tmp_path / "a/class0/bad.png").write_bytes(b"")
    found = scored(gebm("evaluate-kid", "a", "b", *PIXELS, "--per-class", "--on-bad", "skip", "--json"))["per_class"]
    assert found == wanted and [row["class"] for row in found] == ["class1", "class2"]


def test_a_picture_of_the_typical(gebm, sides) -> None:
    a, b = sides
    assert gebm("evaluate-kid", a, b, *PIXELS, "--picture", "typical.png").code == 0
    with Image.open("typical.png") as picture:
        assert min(picture.size) > 200
    refused = gebm("evaluate-kid", a, b, *PIXELS, "--picture", "typical.png")
    assert refused.code == 2 and "nothing is overwritten" in refused.err
    refused = gebm("evaluate-kid", a, b, *PIXELS, "--picture", "nowhere/typical.png")
    assert refused.code == 2 and "folder does not exist" in refused.err


def test_bad_images_are_told_or_skipped(gebm, sides) -> None:
    a, b = sides
    (a / "0003.png").write_bytes(b"")
    (a / "0004.png").write_bytes((a / "0005.png").read_bytes()[:60])
    (a / "notes.txt").write_text("x")
    refused = gebm("evaluate-fid", a, b, *PIXELS)
    assert refused.code == 2 and "0003.png" in refused.err and "0004.png" in refused.err
    found = scored(gebm("evaluate-fid", a, b, *PIXELS, "--on-bad", "skip", "--json"))
    assert (found["n_fake"], found["skipped"]) == (28, 2)
    assert any("1 file" in w for w in found["warnings"])


def test_sizes(gebm, sides, tmp_path) -> None:
    """Mixed sizes are one input of a network that resizes, noted; pixels refuse them."""
    _, b = sides
    folder(tmp_path / "mixed", images(10, 1))
    folder(tmp_path / "mixed", images(10, 2, size=12), 10)
    found = scored(gebm("evaluate-fid", "mixed", b, *RANDOM, "--json"))
    assert found["sizes"] == 2 and any("2 sizes" in w for w in found["warnings"])
    refused = gebm("evaluate-fid", "mixed", b, *PIXELS)
    assert refused.code == 2 and "need images of one size and colour" in refused.err
    folder(tmp_path / "large", images(10, 2, size=12))
    refused = gebm("evaluate-fid", "large", b, *PIXELS)
    assert refused.code == 2 and "bring both to one size" in refused.err
    different = scored(gebm("evaluate-fid", "large", b, *RANDOM, "--json"))
    assert any("12x12 and 8x8" in w for w in different["warnings"])


def test_the_same_images_twice_and_constant_ones(gebm, sides, tmp_path) -> None:
    a, _ = sides
    found = scored(gebm("evaluate-fid", a, a, *PIXELS, "--json"))
    assert abs(found["value"]) < 1e-6 and any("the same images" in w for w in found["warnings"])
    folder(tmp_path / "flat", np.full((6, 8, 8, 3), 100, np.uint8))
    flat = scored(gebm("evaluate-fid", "flat", a, *PIXELS, "--json"))
    assert np.isfinite(flat["value"]) and any("the same features" in w for w in flat["warnings"])
    folder(tmp_path / "one", images(1, 1))
    refused = gebm("evaluate-fid", "one", a, *PIXELS)
    assert refused.code == 2 and "at least 2 images" in refused.err


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["evaluate-fid", "a", "b", "--metrics", "fud"], "expected some of fid, kid"),
        (["evaluate-fid", "a", "b", "a"], "--reference"),
        (["evaluate-fid", "a"], "so a reference is needed"),
        (["evaluate-fid", "a", "c"], "no such file, folder, run or data set"),
        (["evaluate-fid", "a", "b", "--features", "incepton"], "expected inception"),
        (["evaluate-fid", "a", "b", "--features", "mine:network"], "--allow-plugins"),
        (["evaluate-fid", "a", "b", "--metrics", "is", "--features", "pixels"], "class probabilities"),
        (["evaluate-fid", "f.npz", "f.npz", "--metrics", "is"], "features from a file have none"),
        (["evaluate-fid", "a", "b", "--subsets", "10x10"], "--subsets: is for kid"),
        (["evaluate-kid", "a", "b", "--subsets", "many"], "100x1000"),
        (["evaluate-kid", "a", "b", "--value-range", "0,7"], "0,1 or -1,1 or 0,255"),
        (["evaluate-kid", "a", "b", "--resize", "clean", *PIXELS], "--resize clean"),
        (["evaluate-kid", "a", "b", "--layer", "7"], "--layer 7"),
        (["evaluate-fid", "--save-statistics", "x.npz"], "give one, got none"),
        (["evaluate-fid", "run:nobody?n=3", "b"], "nobody"),
        (["evaluate-fid", "a", "b", "--weights", "none.pth"], "none.pth: no such file"),
        (["evaluate-fid", "a", "b", "--weights", "a/0001.png", *RANDOM], "random features have no weights file"),
        (["evaluate-kid", "a", "b", "--picture", "x.txt", *PIXELS], "ends in .png"),
        (["evaluate-kid", "a", "--save-features", "x", *PIXELS], "ends in .npz"),
        (["evaluate-kid", "a", "b", "-r", "a", "--save-features", "x.npz", *PIXELS], "holds one sample set"),
        (["evaluate-kid", "a", "b", "--per-class", *PIXELS], "has no labels"),
        (["evaluate-fid", "a/0001.png", "b", *PIXELS], "is one image"),
        (["evaluate-fid", "run:nobody?n=²", "b"], "expected n=NUMBER"),
    ],
)
def test_bad_flags(gebm, sides, argv, word) -> None:
    """One sentence, and of flags before anything is read."""
    np.savez("f.npz", features=np.random.default_rng(0).normal(size=(9, 3)))
    refused = gebm(*argv)
    assert refused.code == 2 and word in refused.err, refused.err
    assert sum(line.startswith("gebm:") for line in refused.err.splitlines()) == 1
    if word.startswith("--"):
        assert "reading" not in refused.err


def test_two_processes_give_the_features_of_one(gebm, tmp_path) -> None:
    """Under torchrun the images are shared out in whole batches: the features are those of one process, bit for bit."""
    np.save("x.npy", images(620, 1))
    np.save("y.npy", images(300, 2, low=30))
    argv = ["evaluate-fid", "x.npy", "--reference", "y.npy", *RANDOM, "--metrics", "fid,kid", "--no-cache", "--json"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gebm_cli"]
    words = [sys.executable, *launcher, *argv, "--save-features", "two.npz"]
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two, one = json.loads(done.stdout), scored(gebm(*argv, "--save-features", "one.npz"))
    with np.load("one.npz") as ours, np.load("two.npz") as theirs:
        assert np.array_equal(ours["features"], theirs["features"])
    for here, there in zip(one["scores"], two["scores"], strict=True):  # the linear algebra rounds by memory addresses
        assert here["value"] == pytest.approx(there["value"], rel=1e-12)
        assert here["standard_error"] == pytest.approx(there["standard_error"], rel=1e-9)


@pytest.mark.parametrize("layer", [64, pytest.param(2048, marks=pytest.mark.slow)])
def test_fid_of_folders_is_pytorch_fids(gebm, tmp_path, monkeypatch, layer) -> None:
    """Folders of PNGs and a weights file in its format, through its own code and ours. Slow: 2048 features of 68 images twice."""
    from core.evaluation.inception_weights import smooth_and_noise, without_first_weights, write_inception_weights
    from pytorch_fid import fid_score
    from pytorch_fid import inception as theirs

    without_first_weights(monkeypatch)
    weights = write_inception_weights(tmp_path / "weights.pth")
    for name, seed in (("x", 1), ("y", 2)):
        folder(tmp_path / name, smooth_and_noise(68, seed).permute(0, 2, 3, 1).numpy())
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: torch.load(weights))
    network = theirs.InceptionV3([theirs.InceptionV3.BLOCK_INDEX_BY_DIM[layer]]).eval()
    statistics = [
        fid_score.calculate_activation_statistics(sorted((tmp_path / name).iterdir()), network, 50, layer, "cpu", 0)
        for name in ("x", "y")
    ]
    (m1, s1), (m2, s2) = statistics
    root = np.sqrt(np.maximum(np.linalg.eigvals(s1 @ s2).real, 0)).sum()  # its own sqrtm call fails on newer scipy
    wanted = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root
    argv = ["evaluate-fid", "x", "--weights", weights, "--layer", str(layer), "--json"]
    assert scored(gebm(*argv, "-r", "y"))["value"] == pytest.approx(wanted, rel=1e-4)
    np.savez("theirs.npz", mu=m2, sigma=s2)
    assert scored(gebm(*argv, "-r", "theirs.npz"))["value"] == pytest.approx(wanted, rel=1e-4)
