"""Two-sample tests through the command line: folders, archives, arrays, tables, several sets, references, pilots, good and bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gebm_cli.core.kernels import Gaussian, median_bandwidth
from gebm_cli.core.mmd import mmd2, relative_mmd2
from gebm_cli.core.two_sample.names import KINDS


def points(path: Path, n: int, seed: int, shift: float = 0.0, d: int = 2) -> str:
    np.save(path, np.random.default_rng(seed).normal(shift, 1, (n, d)))
    return str(path)


def images(path: Path, n: int, seed: int, low: int = 0, suffix: str = ".png", size: int = 8) -> str:
    path.mkdir(parents=True)
    for i, image in enumerate(np.random.default_rng(seed).integers(low, 256, (n, size, size, 3), dtype=np.uint8)):
        Image.fromarray(image).save(path / f"{i:04d}{suffix}")
    return str(path)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, str, str]:
    """x and y of one law, z shifted by one."""
    return tuple(
        points(tmp_path / f"{k}.npy", n, s, c) for k, n, s, c in (("x", 60, 1, 0), ("y", 50, 2, 0), ("z", 55, 3, 1))
    )


def found(result) -> dict:  # type: ignore[no-untyped-def]
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 1, "stdout holds the result and nothing else"
    return json.loads(result.out)


def refused(result, *parts: str) -> None:  # type: ignore[no-untyped-def]
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err, result
    for part in parts:
        assert part in result.err, result.err


# -------------------------------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "ctt"])
def test_every_kind_tells_a_shift_from_none(gebm, tmp_path, kind) -> None:
    """A shift of 1.5 in both of two columns is found, the same law is not, and p keeps its rule."""
    a, b, c = (points(tmp_path / f"{i}.npy", 80, i, 1.5 * (i == 2)) for i in range(3))
    told = found(gebm("two-sample-test", a, c, "--test", kind, "--permutations", 99, "--json"))
    assert told["reject"] and told["p_value"] == pytest.approx(0.01) and told["test"] == kind
    same = found(gebm("two-sample-test", a, b, "--test", kind, "--permutations", 99, "--seed", 5, "--json"))
    assert same["p_value"] > 0.02 and same["n_permutations"] == 99
    tested, trained = told["n_tested"], told["n_trained_on"]
    assert tested == ([80, 80] if trained is None else [40, 40]) and trained in (None, [40, 40])


def test_the_median_test_is_the_library_call(gebm, tables) -> None:
    """Statistic, bandwidth and effect size of --test mmd are those of the core functions on the same rows."""
    x, _, z = tables
    told = found(gebm("two-sample-test", x, z, "--test", "mmd", "--json"))
    rows = [torch.from_numpy(np.load(p)).float().double() for p in (x, z)]
    width = median_bandwidth(torch.cat(rows))
    assert told["bandwidth"] == pytest.approx(width, rel=1e-9)
    expected = mmd2(*rows, Gaussian(width))
    assert told["statistic"] == pytest.approx(expected.value, rel=1e-9)
    effect = told["effect"]
    assert effect["mmd2"] == pytest.approx(expected.value, rel=1e-9) and effect["low"] < effect["mmd"] < effect["high"]
    assert told["p_value_standard_error"] == pytest.approx((told["p_value"] * (1 - told["p_value"]) / 1000) ** 0.5)


def test_exit_code_record_and_repeat(gebm, tables, tmp_path) -> None:
    """--fail-if-different gives 4 with the result printed; the record is what --json prints; the seed repeats."""
    x, y, z = tables
    different = gebm("two-sample-test", x, z, "--fail-if-different", "--json", "--record", tmp_path / "r.yaml")
    assert different.code == 4
    printed = json.loads(different.out)
    kept = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert (
        kept["p_value"] == printed["p_value"] and kept["x"] == x and kept["effect"]["mmd"] == printed["effect"]["mmd"]
    )
    assert gebm("two-sample-test", x, y, "--fail-if-different").code == 0
    again = found(gebm("two-sample-test", x, z, "--json"))
    for told in (again, printed):
        del told["seconds"], told["saved"]
    assert again == printed


def test_early_stopping_ends_sooner_and_decides_alike(gebm, tables) -> None:
    x, y, z = tables
    for other in (y, z):
        full = found(gebm("two-sample-test", x, other, "--json"))
        early = found(gebm("two-sample-test", x, other, "--stop-early", "--json"))
        assert early["reject"] == full["reject"] and early["stopped_early"] and early["n_permutations"] < 999


def test_several_sets_are_corrected_and_drawn(gebm, tables, tmp_path) -> None:
    """Three pairs; Holm's p-values are never smaller than the plain ones; the picture is an image."""
    result = found(gebm("two-sample-test", *tables, "--picture", tmp_path / "m.png", "--json"))
    pairs = [(t["x"], t["y"]) for t in result["tests"]]
    x, y, z = tables
    assert pairs == [(x, y), (x, z), (y, z)]
    assert all(t["p_value_holm"] >= t["p_value"] for t in result["tests"])
    assert [t["reject_all_pairs"] for t in result["tests"]] == [False, True, True]
    assert Image.open(tmp_path / "m.png").size[0] > 300
    assert gebm("two-sample-test", *tables, "--fail-if-different").code == 4


def test_relative_test_names_the_closer_set(gebm, tables) -> None:
    """Against a reference of y's law x is closer than z, in either order; the numbers are the core function's."""
    x, y, z = tables
    told = found(gebm("two-sample-test", x, z, "--reference", y, "--json"))
    assert told["closer"] == x and told["reject"] and told["test"] == "relative"
    assert found(gebm("two-sample-test", z, x, "--reference", y, "--json"))["closer"] == x
    rows = {p: torch.from_numpy(np.load(p)).float().double() for p in (x, y, z)}
    expected = relative_mmd2(rows[y], rows[x], rows[z], Gaussian(told["bandwidth"]))
    assert told["statistic"] == pytest.approx(expected.value) and told["z"] == pytest.approx(expected.z)
    text = gebm("two-sample-test", x, z, "--reference", y)
    assert f"{x} is closer to {y} than {z}" in text.out


def test_power_of_a_pilot(gebm, tables, tmp_path) -> None:
    """A clear pilot needs few samples, and its curve rises; one without a difference promises none."""
    x, _, z = tables
    told = found(gebm("two-sample-test", x, z, "--power", "--picture", tmp_path / "p.pdf", "--json"))
    power = told["power"]
    assert power["needed_low"] <= power["needed"] <= power["needed_high"] and power["needed"] < 200
    assert power["power"] == sorted(power["power"]) and (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
    assert told["n_trained_on"] == [30, 28] and told["pilot_test"] == "mmd-opt"
    copy = shutil.copy(x, tmp_path / "copy.npy")
    assert found(gebm("two-sample-test", x, copy, "--power", "--test", "mmd", "--json"))["power"]["needed"] is None


# ------------------------------------------------------------------------------------------------------------------ images


def test_images_from_folders_and_archives(gebm, tmp_path) -> None:
    """A folder and a zip of the same images never differ; a darker set does, and its picture is drawn."""
    a, b = images(tmp_path / "a", 30, 1), images(tmp_path / "b", 24, 2, low=60)
    packed = shutil.make_archive(str(tmp_path / "a"), "zip", a)
    same = gebm("two-sample-test", a, packed, "--json")
    assert found(same)["p_value"] == 1.0 and "hold the same samples" in same.err
    told = found(gebm("two-sample-test", a, b, "--picture", tmp_path / "i.png", "--json"))
    assert told["reject"] and told["features"] == "pixels" and told["x_resolution"] == [3, 8, 8]
    assert Image.open(tmp_path / "i.png").size[1] > 500
    assert found(gebm("two-sample-test", a, b, "--features", "random", "--json"))["reject"]


def test_features_from_a_file_are_tested(gebm, tmp_path) -> None:
    """--save-features of the scores is read; statistics alone are refused."""
    a, b = images(tmp_path / "a", 30, 1), images(tmp_path / "b", 24, 2, low=60)
    kept, moments = tmp_path / "f.npz", tmp_path / "m.npz"
    saving = ("evaluate-fid", a, "--features", "random")
    assert gebm(*saving, "--save-features", kept, "--save-statistics", moments).code == 0
    direct = found(gebm("two-sample-test", a, b, "--features", "random", "--json"))
    assert found(gebm("two-sample-test", kept, b, "--features", "random", "--json"))["p_value"] == direct["p_value"]
    refused(gebm("two-sample-test", moments, b, "--features", "random"), "m.npz: holds mean and covariance only")


def test_different_storage_is_told(gebm, tmp_path) -> None:
    """PNG against JPEG, and 8 against 16 pixels: the test will find exactly that, and a note says so."""
    a, b = images(tmp_path / "a", 12, 1), images(tmp_path / "b", 12, 2, suffix=".jpg")
    c = images(tmp_path / "c", 12, 3, size=16)
    assert "differ in file type (12 png against 12 jpeg)" in gebm("two-sample-test", a, b).err
    sizes = gebm("two-sample-test", a, c, "--features", "random")
    assert sizes.code == 0 and "differ in image size (12 8x8 against 12 16x16)" in sizes.err
    refused(gebm("two-sample-test", a, c), "(3, 8, 8) of 0000.png and (3, 16, 16) of 0000.png")


# --------------------------------------------------------------------------------------------------------------- bad input


def test_what_a_p_value_does_not_say_is_a_note(gebm, tmp_path) -> None:
    """The same path, duplicates, constants, ties and columns of different units are used, and told."""
    x, z = points(tmp_path / "x.npy", 20, 1), points(tmp_path / "z.npy", 20, 2)
    assert "hold the same samples, so no difference can be found" in gebm("two-sample-test", x, x).err
    rows = np.load(x)
    np.save(tmp_path / "d.npy", np.vstack([rows, rows[:3]]))
    told = gebm("two-sample-test", tmp_path / "d.npy", x)
    assert (
        "3 of its 23 samples are equal to an earlier one" in told.err
        and "23 samples of the first are in the" in told.err
    )
    np.save(tmp_path / "c.npy", np.ones((9, 2)))
    constant = gebm("two-sample-test", tmp_path / "c.npy", tmp_path / "c.npy", "--json")
    assert found(constant)["p_value"] == 1.0 and "every relabelling gives the same statistic" in constant.err
    tiny = gebm("two-sample-test", x, z, "--test", "mmd", "--bandwidth", "1e-6", "--json")
    assert found(tiny)["p_value"] == 1.0 and "bandwidth is far too small" in tiny.err
    np.save(tmp_path / "u.npy", np.load(z) * [1, 1e4])
    assert "use --standardise" in gebm("two-sample-test", tmp_path / "u.npy", x).err


def test_standardising_ignores_units(gebm, tmp_path) -> None:
    """With --standardise the p-value does not depend on the units of a column."""
    x, z = points(tmp_path / "x.npy", 40, 1), points(tmp_path / "z.npy", 30, 2, 0.5)
    for path in (x, z):
        np.save(path.replace(".npy", "-mm.npy"), np.load(path) * [1, 1000])
    plain = found(gebm("two-sample-test", x, z, "--standardise", "--json"))
    scaled = found(
        gebm("two-sample-test", x.replace(".npy", "-mm.npy"), z.replace(".npy", "-mm.npy"), "--standardise", "--json")
    )
    assert plain["p_value"] == scaled["p_value"] and plain["standardised"]


def test_few_samples(gebm, tmp_path) -> None:
    """Three are refused; with four a side the smallest p-value is told, and a level below it is refused."""
    three, four, five = (points(tmp_path / f"{n}.npy", n, n) for n in (3, 4, 5))
    refused(gebm("two-sample-test", three, five), "3.npy: a test needs at least 4 samples a side, got 3")
    assert "p cannot be below 0.0079" in gebm("two-sample-test", four, five).err
    refused(
        gebm("two-sample-test", four, four, "--alpha", "0.01"), "only 35 relabellings that differ", "at least 0.029"
    )
    refused(gebm("two-sample-test", five, five, "--test", "mmd-opt"), "--split 0.5 of 5 samples leaves 2 to learn from")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--alpha", "1"], "--alpha: got '1.0'"),
        (
            ["--alpha", "1e-4"],
            "--alpha 0.0001: cannot be reached with 999 permutations; use at least --permutations 9999",
        ),
        (["--test", "mmdfuse"], "--test: got 'mmdfuse'"),
        (["--kernel", "laplace"], "--kernel: is for --test mmd, --test mmd-opt and --reference; mmd-fuse has"),
        (["--test", "mmd", "--kernel", "energy", "--bandwidth", "1"], "the energy kernel has none"),
        (["--bandwidth", "1,x"], "--bandwidth: got '1,x', expected a positive number"),
        (["--split", "0.3"], "--split: is for tests that learn"),
        (
            ["--test", "mmd-opt", "--split", "0.99"],
            "--split 0.99 of 60 samples leaves 59 to learn from and 1 to test on",
        ),
        (["--test", "mmd-agg", "--stop-early"], "--stop-early: mmd-agg ranks every relabelling"),
        (["--power", "--test", "me"], "--power: predicts for one kernel"),
        (["--power", "--stop-early"], "--stop-early: does not go with --power"),
        (["--power", "--fail-if-different"], "--fail-if-different: does not go with --power"),
        (["--reference", "ring", "--kernel", "polynomial", "--bandwidth", "2"], "the polynomial kernel has none"),
        (["--reference", "ring", "--power"], "--power: does not go with --reference"),
        (["--picture", "a.bmp"], "a.bmp: a picture's name must end in one of .png"),
        (["--record", "a.json"], "--record a.json: expected a name that ends in .yaml"),
        (["--record", "no/a.yaml"], "--record no/a.yaml: its folder does not exist"),
        (["--features", "inception"], "is for images"),
    ],
)
def test_flags_that_cannot_be_are_refused(gebm, tables, flags, part) -> None:
    """One sentence with the flag, exit 2, and nothing is written."""
    refused(gebm("two-sample-test", tables[0], tables[2], *flags), part)


def test_sets_that_cannot_be_compared_are_refused(gebm, tables, tmp_path) -> None:
    wide = points(tmp_path / "wide.npy", 20, 1, d=3)
    refused(gebm("two-sample-test", tables[0], wide), "have points of 2 and 3 numbers")
    np.save(tmp_path / "nan.npy", np.full((9, 2), np.nan))
    refused(gebm("two-sample-test", tmp_path / "nan.npy", tables[0]), "nan.npy", "NaN")
    refused(gebm("two-sample-test", tables[0]), "a test needs two sets, got 1")
    refused(gebm("two-sample-test", tables[0], "nowhere"), "nowhere: no such file, folder, run or data set")
    refused(gebm("two-sample-test", *tables, "--reference", tables[0]), "--reference: asks which of two sets")
    refused(gebm("two-sample-test", *tables[:2], "--reference", tables[0]), "is one of the two sets")


def test_many_sets_need_many_relabellings(gebm, tmp_path) -> None:
    """Where no pair could pass Holm's correction the test is refused, or a difference would stay unseen without a word."""
    sets = [points(tmp_path / f"{i}.npy", 20, i, 5.0 * (i == 6)) for i in range(7)]
    told = gebm("two-sample-test", *sets, "--permutations", 99)
    refused(told, "by one of 21 pairs (Holm's correction) with 99 permutations; use at least --permutations 419")
    found_all = found(gebm("two-sample-test", *sets, "--permutations", 499, "--test", "mmd", "--json"))
    assert [t["reject_all_pairs"] for t in found_all["tests"]] == [t["y"] == sets[6] for t in found_all["tests"]]
    kernels = {(t["effect"]["kernel"], t["effect"]["bandwidth"]) for t in found_all["tests"]}
    assert len(kernels) == 1, "effect sizes of pairs compare only by one kernel"
    refused(gebm("two-sample-test", *sets[:3], "--stop-early"), "--stop-early: Holm's correction needs")


def test_power_counts_all_samples_and_doubts_a_weak_pilot(gebm, tmp_path) -> None:
    """Samples that choose the kernel are counted; a pilot that is not significant is used with a note."""
    x, z = points(tmp_path / "x.npy", 60, 1), points(tmp_path / "z.npy", 60, 2, 0.3)
    half = found(gebm("two-sample-test", x, z, "--power", "--json"))
    assert half["power"]["sizes"][0] == 20 and half["n_tested"] == [30, 30], "10 tested of 20"
    weak = gebm("two-sample-test", x, points(tmp_path / "y.npy", 60, 4), "--power", "--test", "mmd", "--json")
    assert found(weak)["p_value"] > 0.05 and "the pilot itself is not significant" in weak.err


def test_scale_of_the_data_does_not_matter_to_the_energy_kernel(gebm, tmp_path) -> None:
    """Data of the order 1e-5 are told apart as their multiples are."""
    x, z = points(tmp_path / "x.npy", 40, 1), points(tmp_path / "z.npy", 40, 2, 1.0)
    for path in (x, z):
        np.save(path.replace(".npy", "-small.npy"), np.load(path) * 1e-5)
    small = [path.replace(".npy", "-small.npy") for path in (x, z)]
    p = [
        found(gebm("two-sample-test", *s, "--test", "mmd", "--kernel", "energy", "--json"))["p_value"]
        for s in ((x, z), small)
    ]
    assert p[0] == p[1] < 0.01


def test_tables_are_matched_by_the_names_of_their_columns(gebm, tmp_path) -> None:
    """The same law with its columns in another order: no difference, and a note; by their places they would differ."""
    rows = np.random.default_rng(0).normal([0.0, 5.0], 1.0, (160, 2))
    np.savetxt(tmp_path / "a.csv", rows[:80], delimiter=",", header="low,high", comments="")
    np.savetxt(tmp_path / "b.csv", rows[80:, ::-1], delimiter=",", header="high,low", comments="")
    result = gebm("two-sample-test", tmp_path / "a.csv", tmp_path / "b.csv", "--permutations", 99, "--json")
    assert not found(result)["reject"] and "matched by their names" in result.err
