"""Divergences through the command line: points, tables, toys, images; what is infinite, what is left out, and bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from gebm_cli.core.divergences.names import BY_DEFAULT, F_DIVERGENCES
from gebm_cli.core.evaluation.feature_mmd import feature_mmd
from gebm_cli.core.kernels import Gaussian, median_bandwidth
from gebm_cli.experiment import divergences

QUICK = "w1,sliced-w1,mmd,energy-distance,kale"


def points(path: Path, n: int, seed: int, shift: float = 0.0, d: int = 2) -> str:
    np.save(path, np.random.default_rng(seed).normal(shift, 1, (n, d)))
    return str(path)


def images(path: Path, n: int, seed: int, low: int = 0) -> str:
    path.mkdir(parents=True)
    for i, image in enumerate(np.random.default_rng(seed).integers(low, 256, (n, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(image).save(path / f"{i:04d}.png")
    return str(path)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, str]:
    return points(tmp_path / "x.npy", 60, 1), points(tmp_path / "y.npy", 50, 2, 1.0)


def found(result) -> dict:  # type: ignore[no-untyped-def]
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 1, "stdout holds the result and nothing else"
    return json.loads(result.out)


def by_kind(told: dict) -> dict:
    return {one["kind"]: one for one in told["divergences"]}


def refused(result, *parts: str) -> None:  # type: ignore[no-untyped-def]
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err, result
    for part in parts:
        assert part in result.err, result.err


# -------------------------------------------------------------------------------------------------------------- the answer


def test_all_divergences_stand_side_by_side(gebm, tables, tmp_path) -> None:
    """Every kind once, in the order of the list, with estimator, direction, sizes and settings; the record is what is printed."""
    told = found(gebm("divergence", *tables, "--json", "--record", tmp_path / "r.yaml"))
    assert [one["kind"] for one in told["divergences"]] == list(BY_DEFAULT)
    for one in told["divergences"]:
        assert one["estimator"] and one["direction"] and one["bounded_by"] and one["n"] == [60, 50]
        assert (one["value"] is None) == one["infinite"]
    assert (told["x"], told["n_x"], told["n_y"], told["features"]) == (tables[0], 60, 50, "pixels")
    kept = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert kept["divergences"] == told["divergences"]


def test_numbers_are_those_of_other_programs(gebm, tables) -> None:
    """W1 of equally many points is an assignment's; MMD and its bandwidth are the core's; the energy distance by its definition."""
    x, y = (np.load(path).astype(np.float32).astype(np.float64) for path in tables)
    told = by_kind(found(gebm("divergence", *tables, "--kinds", "mmd,energy-distance", "--json")))
    rows = [torch.from_numpy(side) for side in (x, y)]
    width = median_bandwidth(torch.cat(rows))
    expected = feature_mmd(*rows, Gaussian(width))
    assert told["mmd"]["value"] == pytest.approx(expected.value, rel=1e-9)
    assert told["mmd"]["standard_error"] == pytest.approx(expected.standard_error, rel=1e-9)
    assert told["mmd"]["settings"]["bandwidth"] == pytest.approx(width)
    within = [cdist(s, s).sum() / (len(s) * (len(s) - 1)) for s in (x, y)]
    assert told["energy-distance"]["value"] == pytest.approx(2 * cdist(x, y).mean() - sum(within), rel=1e-9)
    np.save("x50.npy", x[:50])
    w1 = by_kind(found(gebm("divergence", "x50.npy", tables[1], "--kinds", "w1", "--json")))["w1"]["value"]
    cost = cdist(x[:50], y)
    assert w1 == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=1e-6)


def test_a_number_does_not_depend_on_the_others_asked_for(gebm, tables) -> None:
    """One at a time, in another order, and at one seed again, to the last bit; another seed draws other directions."""
    every = by_kind(found(gebm("divergence", *tables, "--kinds", f"{QUICK},kl,tv", "--json")))
    for kinds in ("tv", "kl", "sliced-w1", "kale,sliced-w1"):
        told = found(gebm("divergence", *tables, "--kinds", kinds, "--json"))
        assert [one["kind"] for one in told["divergences"]] == kinds.split(",")
        for one in told["divergences"]:
            assert one == every[one["kind"]]
    other = by_kind(found(gebm("divergence", *tables, "--kinds", QUICK, "--seed", 1, "--json")))
    assert other["sliced-w1"]["value"] != every["sliced-w1"]["value"] and other["w1"] == every["w1"]


def test_options_reach_their_divergence(gebm, tables) -> None:
    """Kernel, bandwidth, regularisation and projections are used and told; KALE at a large lambda is near MMD^2 / 2."""
    flags = ("--kernel", "laplace", "--bandwidth", "0.7", "--regularisation", "1e5", "--projections", "17")
    told = by_kind(found(gebm("divergence", *tables, "--kinds", QUICK, *flags, "--json")))
    for kind in ("mmd", "kale"):
        assert told[kind]["settings"]["kernel"] == "laplace" and told[kind]["settings"]["bandwidth"] == 0.7
    assert told["kale"]["settings"]["regularisation"] == 1e5 and 17 in told["sliced-w1"]["settings"].values()
    rows = [torch.from_numpy(np.load(p)).float().double() for p in tables]
    kernel = [torch.exp(-torch.cdist(a, b, p=1) / 0.7).mean() for a, b in ((rows[0],) * 2, (rows[1],) * 2, rows)]
    assert told["kale"]["value"] == pytest.approx((kernel[0] + kernel[1] - 2 * kernel[2]).item() / 2, rel=1e-3)


def test_text_has_a_line_for_each_and_says_what_it_is(gebm, tables) -> None:
    text = gebm("divergence", *tables, "--kinds", "w1,mmd,kl").out
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["divergence", "value"] and [line.split()[0] for line in lines[1:4]] == [
        "w1",
        "mmd",
        "kl",
    ]
    assert "+-" in lines[2] and "unbiased" in lines[2] and "bandwidth" in lines[2] and "lower bound" in lines[3]
    assert "E_P[v]" in lines[3], "no bracket is taken for markup"
    assert f"A (P): 60 of {tables[0]}; B (Q): 50 of {tables[1]}" in text and "kl is of A from B" in text


# ------------------------------------------------------------------------------------------------------------- disjoint, equal


def test_disjoint_supports_are_infinitely_far_in_kl_alone(gebm) -> None:
    """Parallel segments 2 apart: KL and chi^2 have no number but `at_least`; the bounded ones are near their bounds; W1 is 2.

    (The critic's log ratio is kept below the log of 100, the rows that it learns from, which costs Hellinger a tenth of its bound.)
    """
    sets = ("segment?n=200", "segment?n=200&shift=2,0")
    told = by_kind(found(gebm("divergence", *sets, "--kinds", "w1,kl,js,tv,chi2,hellinger", "--json")))
    for kind in ("kl", "chi2"):
        assert told[kind]["value"] is None and told[kind]["infinite"] and told[kind]["at_least"] > 1, told[kind]
    for kind, bound in (("js", math.log(2)), ("tv", 1.0), ("hellinger", 2.0)):
        assert 0.85 * bound < told[kind]["value"] <= bound and not told[kind]["infinite"]
    assert 2.0 <= told["w1"]["value"] < 2.02
    text = gebm("divergence", *sets, "--kinds", "kl,js", "--record", "r.yaml")
    kept = by_kind(yaml.safe_load(Path("r.yaml").read_text()))["kl"]
    assert kept["value"] is None and kept["standard_error"] is None and kept["at_least"] > 1
    assert "infinite (>= " in text.out and "nan" not in text.out and "inf " not in text.out
    assert (
        "rows not seen in learning it takes 0 for the other set's" in text.out
        and "\nkl: infinite, or too large for so few rows" in text.out
    )


def test_kl_is_of_a_from_b(gebm) -> None:
    """N(0, I) from N(0, 4 I) is 2 (log 2 - 3/8), |z| below 4; the other way round more, and at most 2 (3/2 - log 2)."""
    sets = "gaussian?n=1500", "gaussian?n=1500&scale=2"
    kl, back = (by_kind(found(gebm("divergence", *s, "--kinds", "kl", "--json")))["kl"] for s in (sets, sets[::-1]))
    assert abs(kl["value"] - 2 * (math.log(2) - 3 / 8)) < 4 * kl["standard_error"] < 0.2, kl
    most = 2 * (3 / 2 - math.log(2)) + 4 * back["standard_error"]
    assert kl["value"] + 4 * (kl["standard_error"] + back["standard_error"]) < back["value"] < most, back


def test_a_set_and_itself(gebm, tables) -> None:
    told = gebm("divergence", tables[0], tables[0], "--kinds", "w1,sliced-w1,kale", "--json")
    assert "hold the same samples, so no difference can be found" in told.err
    for one in found(told)["divergences"]:
        assert abs(one["value"]) < 1e-7, one


def test_toys_of_one_law_at_two_seeds_are_told_apart_from_shared_numbers(gebm) -> None:
    """Moved toys have numbers of their own; two of the first toys at one seed share theirs, and a note says what to do."""
    moved = gebm("divergence", "gaussian?n=50", "gaussian?n=50&shift=1,0", "--kinds", "mmd")
    assert moved.code == 0 and "random numbers" not in moved.err
    shared = gebm("divergence", "ring?n=50", "grid?n=50", "--kinds", "mmd")
    assert "were drawn with the same random numbers" in shared.err and "such as grid:train?seed=1" in shared.err
    assert "random numbers" not in gebm("divergence", "ring?n=50", "grid?n=50&seed=1", "--kinds", "mmd").err
    assert "random numbers" not in gebm("divergence", "ring?n=50", "ring:held-out?n=50", "--kinds", "mmd").err


def test_a_set_larger_than_a_limit_and_itself(gebm, tables, monkeypatch) -> None:
    """Both sides take the same part of it, so it is 0 from itself; the note says it once."""
    monkeypatch.setattr(divergences, "most_rows", lambda kind, d: 30)
    result = gebm("divergence", tables[0], tables[0], "--kinds", "w1", "--json")
    assert by_kind(found(result))["w1"]["value"] < 1e-9 and result.err.count("used 30 of its 60") == 1


# -------------------------------------------------------------------------------------------------------- forms of input


def table(path: Path, names: str, rows: np.ndarray) -> str:
    np.savetxt(path, rows, delimiter=",", header=names, comments="")
    return str(path)


def test_columns_of_tables_are_matched_by_name(gebm, tmp_path) -> None:
    """In another order they are what they are in the same, with a note; under other names a note says that places count."""
    rng = np.random.default_rng(0)
    x, y = rng.normal([0, 5], 1, (30, 2)), rng.normal([1, 5], 1, (20, 2))
    a, same = table(tmp_path / "a.csv", "u,v", x), table(tmp_path / "b.csv", "u,v", y)
    turned, other = table(tmp_path / "t.csv", "v,u", y[:, ::-1]), table(tmp_path / "o.csv", "u,w", y)
    results = [gebm("divergence", a, b, "--kinds", "w1,mmd", "--json") for b in (same, turned, other)]
    values = [[one["value"] for one in found(result)["divergences"]] for result in results]
    assert values[1] == pytest.approx(values[0], rel=1e-12) and values[2] == values[0]
    assert "note" not in results[0].err
    assert (
        "t.csv: its columns stand in another order than those of" in results[1].err
        and "by their names" in results[1].err
    )
    assert "different names ('v' in the first, 'w' in the second), and are matched by their places" in results[2].err
    more = table(tmp_path / "m.csv", "u,v,q", np.hstack([x, x[:, :1]]))
    refused(gebm("divergence", a, more), "have 2 and 3 columns, 'q' in", f"such as '{more}?keep=u,v'")
    kept = gebm("divergence", a, f"{more}?keep=v,u", "--kinds", "w1", "--json")
    assert abs(found(kept)["divergences"][0]["value"]) < 1e-7 and "hold the same samples" in kept.err


def test_copies_are_told_where_chance_does_not_make_them(gebm, tmp_path) -> None:
    """One line; none for whole numbers or for the rounding of float32; no advice where most rows are copies."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (200, 2)), rng.normal(0, 1, (150, 2))

    def told(x: np.ndarray, y: np.ndarray) -> list[str]:
        paths = [tmp_path / f"{len(list(tmp_path.iterdir()))}{k}.npy" for k in "xy"]
        for path, rows in zip(paths, (x, y), strict=True):
            np.save(path, rows.astype(float))
        result = gebm("divergence", *paths, "--kinds", "sliced-w1")
        assert result.code == 0, result.err
        return [line for line in result.err.splitlines() if "samples are equal" in line or "in the second too" in line]

    assert told(x, y) == []
    (line,) = told(np.vstack([x, x[:7]]), np.vstack([y, x[:3]]))
    assert "7 of its 207 samples are equal to an earlier one" in line and "remove the copies" in line
    assert "6 samples of the first are in the second too" in line
    (line,) = told(np.vstack([x, x]), y)
    assert "200 of its 400 samples are equal to an earlier one" in line and "remove" not in line
    assert told(rng.poisson(6, (300, 1)), rng.poisson(7, (300, 1))) == []
    assert told(rng.binomial(1, 0.3, (200, 3)), rng.binomial(1, 0.4, (200, 3))) == []
    assert told(rng.normal(0, 1, (3000, 1)).round(3), rng.normal(0, 1, (3000, 1)).round(3)) == []
    rounded = 4096 + rng.random((2000, 1))  # 2,048 float32 numbers
    assert told(rounded, 4096 + rng.random((2000, 1))) == []
    uneven = np.where(np.arange(2000)[:, None] % 2, rounded, rounded % 1)  # half of them with far more digits
    assert told(uneven, rng.normal(0, 1, (100, 1))) == []
    levels = rng.poisson(6, (300, 1)) * np.ones(5)  # columns that are not independent
    assert told(levels, rng.poisson(7, (300, 1)) * np.ones(5)) == []
    (line,) = told(np.vstack([x[:, :1], x[:20, :1]]), y[:, :1])
    assert "20 of its 220" in line


def test_a_stopped_set_says_how_to_go_on(gebm, tables) -> None:
    """By its path or as RUN/SET, there as an empty folder or not at all: of a flow and of a sample."""
    for name, order in (("a", {"flow": {}}), ("b", {"sample": {}})):
        hidden = Path("runs/r/samples") / f".{name}.partial"
        hidden.mkdir(parents=True)
        (hidden / "order.yaml").write_text(yaml.safe_dump(order))
    Path("runs/r/samples/a").mkdir()
    refused(
        gebm("divergence", "r/a", tables[0]), "r/a: this set was stopped; `gebm flow --resume runs/r/samples/a` goes on"
    )
    refused(gebm("divergence", tables[0], "runs/r/samples/b"), "`gebm sample --resume runs/r/samples/b` goes on")
    np.save("runs/r/samples/a/x.npy", np.zeros((3, 2)))
    assert "was stopped" not in gebm("divergence", "runs/r/samples/a", tables[0]).err


def test_a_bandwidth_that_connects_no_two_rows_is_told(gebm, tables, tmp_path) -> None:
    """Not the median's half, nor a small one of whole numbers, whose copies it connects."""
    narrow = gebm("divergence", *tables, "--kinds", "w1,mmd,kale", "--bandwidth", "1e-6")
    assert "--bandwidth 1e-06: is so small that the kernel hardly connects any two rows, and mmd and kale" in narrow.err
    assert "note" not in gebm("divergence", *tables, "--kinds", "mmd", "--bandwidth", "0.7").err
    assert "note" not in gebm("divergence", *tables, "--kinds", "mmd", "--kernel", "energy").err
    for k in range(2):
        np.save(tmp_path / f"{k}.npy", np.random.default_rng(k).poisson(3.0, (50, 1)).astype(float))
    whole = gebm("divergence", tmp_path / "0.npy", tmp_path / "1.npy", "--kinds", "kale", "--bandwidth", "0.01")
    assert whole.code == 0 and "note" not in whole.err


def test_words_for_what_was_compared(gebm, tables, tmp_path) -> None:
    """A table has columns, not features; in one dimension sliced W1 is exact."""
    assert "; the columns as they are; +- is" in gebm("divergence", *tables, "--kinds", "mmd").out
    assert "; the columns, standardised; +- is" in gebm("divergence", *tables, "--kinds", "mmd", "--standardise").out
    one = [points(tmp_path / f"{k}.npy", 20, k, d=1) for k in range(2)]
    text = gebm("divergence", *one, "--kinds", "sliced-w1").out
    assert "exact by quantiles" in text and "random" not in text
    assert "random directions" in gebm("divergence", *tables, "--kinds", "sliced-w1").out


def test_a_run_is_compared_with_its_data_and_keeps_the_record(gebm) -> None:
    """Its base drawn on the fly, and a split of its data by --run; the record lies in the run."""
    assert gebm("train-base", "experiments/ring.yaml", "train_base.steps=2", "data.n=256").code == 0
    told = found(
        gebm("divergence", "run:ring-001?n=60", "held-out", "--run", "ring-001", "--kinds", "mmd,w1", "--json")
    )
    assert (told["x"], told["y"], told["n_y"]) == ("run:ring-001?n=60&seed=0", "ring:held-out", 256)
    kept = yaml.safe_load(Path("runs/ring-001/evaluation/divergence-001.yaml").read_text())
    assert kept["divergences"] == told["divergences"]


def test_tables_in_text_are_read(gebm, tmp_path) -> None:
    """Columns as they are, by both commands; units matter, and --standardise takes them away."""
    paths = []
    for name, seed, shift, d in (("a.csv", 1, 0.0, ","), ("b.csv", 2, 1.0, ";")):
        rows = np.random.default_rng(seed).normal(shift, 1, (40, 2)) * [1, 1000]
        np.savetxt(name, rows, delimiter=d, header=f"u{d}v", comments="")
        paths.append(name)
    raw = gebm("divergence", *paths, "--kinds", "w1", "--json")
    x, y = (np.loadtxt(p, delimiter=d, skiprows=1) for p, d in zip(paths, ",;"))
    cost = cdist(x, y)
    assert found(raw)["divergences"][0]["value"] == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=1e-5)
    assert "use --standardise" in raw.err
    standardised = gebm("divergence", *paths, "--kinds", "w1", "--standardise", "--json")
    value = found(standardised)["divergences"][0]["value"]
    both = np.concatenate([x, y])
    cost = cdist((x - both.mean(0)) / both.std(0), (y - both.mean(0)) / both.std(0))
    assert (
        value == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=1e-5)
        and "standardise" not in standardised.err
    )
    assert found(gebm("two-sample-test", *paths, "--standardise", "--json"))["reject"]


def test_one_column_is_transported_by_quantiles(gebm, tmp_path) -> None:
    a, b = points(tmp_path / "a.npy", 30, 1, d=1), points(tmp_path / "b.npy", 41, 2, 0.7, d=1)
    told = found(gebm("divergence", a, b, "--kinds", "w1", "--json", "--picture", tmp_path / "p.png"))
    x, y = (np.load(p).astype(np.float32)[:, 0] for p in (a, b))
    assert told["divergences"][0]["value"] == pytest.approx(wasserstein_distance(x, y), rel=1e-6)
    assert told["saved"] == [f"picture: {tmp_path / 'p.png'}"]


def test_images_are_compared_and_drawn(gebm, tmp_path) -> None:
    """Darker against brighter pixels; the picture shows images, and is taller than one of numbers."""
    a, b = images(tmp_path / "a", 30, 1), images(tmp_path / "b", 24, 2, low=60)
    told = found(gebm("divergence", a, b, "--kinds", "mmd,kale,tv", "--picture", tmp_path / "i.png", "--json"))
    assert told["features"] == "pixels" and told["x_resolution"] == [3, 8, 8] and told["divergences"][0]["value"] > 0
    assert Image.open(tmp_path / "i.png").size[1] > 900


def test_pictures_of_the_plane_and_the_line(gebm, tables, tmp_path) -> None:
    """A panel for each witness, side by side up to three; W1 alone has its potential."""
    flags = ("--kinds", "mmd,kale,js", "--picture")
    assert gebm("divergence", *tables, *flags, tmp_path / "p.png").code == 0
    assert gebm("divergence", *tables, "--kinds", "w1", "--picture", tmp_path / "q.png").code == 0
    wide, one = (Image.open(tmp_path / f"{k}.png").size for k in "pq")
    assert wide == (3 * one[0], one[1]) and one[1] > 400


# ------------------------------------------------------------------------------------------------- fewer rows than there are


def test_rows_beyond_a_limit_are_left_out_and_told(gebm, tables, monkeypatch) -> None:
    """Where a kind has a limit it uses the first rows of a shuffle by the seed; the others use all."""
    whole = by_kind(found(gebm("divergence", *tables, "--kinds", "w1,mmd", "--json")))
    monkeypatch.setattr(divergences, "most_rows", lambda kind, d: 55 if kind == "w1" else None)
    result = gebm("divergence", *tables, "--kinds", "w1,mmd", "--json")
    told = by_kind(found(result))
    assert told["w1"]["n"] == [55, 50] and told["mmd"] == whole["mmd"]
    assert "x.npy: w1 used 55 of its 60 samples, the first of a shuffle by --seed" in result.err
    assert "y.npy: w1" not in result.err
    value = told["w1"]["value"]
    assert value != whole["w1"]["value"] and abs(value - whole["w1"]["value"]) < 0.2
    again = by_kind(found(gebm("divergence", *tables, "--kinds", "w1", "--json")))
    other = by_kind(found(gebm("divergence", *tables, "--kinds", "w1", "--seed", "3", "--json")))
    assert again["w1"]["value"] == value != other["w1"]["value"]


def test_one_sample_has_only_what_is_defined_for_it(gebm, tmp_path) -> None:
    """W1 of two points is their distance, without an error; what needs more is left out with a note, or refused where asked for."""
    np.save(tmp_path / "a.npy", [[0.0, 0.0]])
    np.save(tmp_path / "b.npy", [[3.0, 4.0]])
    sets = (tmp_path / "a.npy", tmp_path / "b.npy")
    result = gebm("divergence", *sets, "--json", "--picture", tmp_path / "p.png")
    told = by_kind(found(result))
    assert set(told) == {"w1", "sliced-w1", "kale"} and told["w1"]["value"] == pytest.approx(5.0)
    assert told["w1"]["standard_error"] is None and told["kale"]["standard_error"] is None and told["kale"]["value"] > 0
    assert f"1 sample is too few for mmd, energy-distance, {', '.join(F_DIVERGENCES)}, left out" in result.err
    refused(gebm("divergence", *sets, "--kinds", "w1,mmd"), "a.npy: mmd needs at least 2 samples a side, got 1")
    assert " +- " not in gebm("divergence", *sets, "--kinds", "w1").out.splitlines()[1]


def test_constant_samples(gebm, tmp_path) -> None:
    """One or both constant: point masses. Apart they are 5 apart, at the same place 0, against a cloud as any other set."""
    for name, at in (("a", [0.0, 0.0]), ("b", [3.0, 4.0]), ("c", [0.0, 0.0])):
        np.save(tmp_path / f"{name}.npy", np.tile(at, (12, 1)))
    cloud = points(tmp_path / "cloud.npy", 30, 1)
    apart = gebm("divergence", tmp_path / "a.npy", tmp_path / "b.npy", "--json", "--picture", tmp_path / "p.png")
    told = by_kind(found(apart))
    assert told["w1"]["value"] == pytest.approx(5.0) and told["kl"]["infinite"] and told["tv"]["value"] > 0.9
    assert "a.npy: all its samples are equal, so its law is taken for a point mass" in apart.err
    same = gebm("divergence", tmp_path / "a.npy", tmp_path / "c.npy", "--json")
    for one in found(same)["divergences"]:
        assert not one["infinite"] and abs(one["value"]) < 1e-7, one
    one = by_kind(found(gebm("divergence", tmp_path / "a.npy", cloud, "--json")))
    assert one["w1"]["value"] == pytest.approx(np.linalg.norm(np.load(cloud), axis=1).mean(), rel=1e-5)


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--kinds", "w1,kall"], "--kinds: got 'kall', expected some of w1, sliced-w1"),
        (["--kinds", "W1"], "did you mean 'w1'?"),
        (["--kinds", "mmd,w1,mmd"], "--kinds: names 'mmd' twice; keep one of them"),
        (["--kinds", ","], "--kinds: got ',', expected some of"),
        (["--bandwidth", "0"], "--bandwidth: got '0', expected a positive number"),
        (["--bandwidth", "-1"], "--bandwidth: got '-1'"),
        (["--bandwidth", "nan"], "--bandwidth: got 'nan'"),
        (["--bandwidth", "inf"], "--bandwidth: got 'inf'"),
        (["--regularisation", "0"], "--regularisation: got '0', expected a positive number such as 0.1"),
        (["--regularisation", "-0.1"], "--regularisation: got '-0.1'"),
        (["--regularisation", "small"], "--regularisation: got 'small'"),
        (["--projections", "0"], "--projections: got '0', expected a whole number"),
        (["--projections", "1.5"], "--projections: got '1.5'"),
        (["--random-features", "0"], "--random-features: got '0'"),
        (["--sinkhorn-regularisation", "0"], "--sinkhorn-regularisation: got '0'"),
        (["--kernel", "gauss"], "--kernel: got 'gauss', expected gaussian, laplace"),
        (["--kernel", "energy", "--bandwidth", "1"], "--bandwidth: the energy kernel has none"),
        (["--kinds", "w1", "--kernel", "laplace"], "--kernel: is for mmd and kale, not among --kinds w1; leave it out"),
        (["--kinds", "w1,mmd", "--regularisation", "1"], "--regularisation: is for kale"),
        (["--kinds", "kale", "--projections", "9"], "--projections: is for sliced-w1"),
        (["--picture", "a.bmp"], "a.bmp: a picture's name must end in one of .png"),
        (["--record", "a.json"], "--record a.json: expected a name that ends in .yaml"),
        (["--record", "no/a.yaml"], "--record no/a.yaml: its folder does not exist"),
        (["--picture", "there.png"], "there.png: exists already, and nothing is overwritten"),
        (["--record", "there.yaml"], "there.yaml: exists already, and nothing is overwritten"),
        (["--features", "inception"], "is for images"),
        (["--features", "inceptoin"], "--features: got 'inceptoin'"),
    ],
)
def test_flags_that_cannot_be_are_refused(gebm, tables, flags, part) -> None:
    """One sentence with the flag, exit 2, and nothing is written."""
    for name in ("there.png", "there.yaml"):
        Path(name).write_text("mine")
    refused(gebm("divergence", *tables, *flags), part)
    assert Path("there.png").read_text() == Path("there.yaml").read_text() == "mine"


@pytest.mark.parametrize("flags", [["--picture", "there.png"], ["--picture", "a.bmp"], ["--record", "no/a.yaml"]])
def test_files_that_cannot_be_written_are_refused_before_torch_is_loaded(tmp_path, flags) -> None:
    (tmp_path / "there.png").write_text("mine")
    argv = ["divergence", "gaussian?n=9", "ring?n=9", *flags]
    code = f"import sys; from gebm_cli.cli.app import run; assert run({argv}) == 2; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and flags[1] in done.stderr, done.stderr


def test_sets_that_cannot_be_compared_are_refused(gebm, tables, tmp_path) -> None:
    wide = points(tmp_path / "wide.npy", 20, 1, d=3)
    refused(gebm("divergence", tables[0], wide), "x.npy and", "have points of 2 and 3 numbers")
    rows = np.zeros((9, 2))
    rows[4, 1] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    refused(gebm("divergence", tmp_path / "nan.npy", tables[0]), "nan.npy", "NaN", "first in row 4, column 1")
    np.savez(tmp_path / "inf.npz", samples=np.where(np.isnan(rows), np.inf, rows))
    refused(gebm("divergence", tables[0], tmp_path / "inf.npz"), "inf.npz", "first in row 4, column 1")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,nan\n")
    refused(gebm("divergence", tables[0], tmp_path / "t.csv"), "t.csv:3:2: column 'b': the value is missing")
    refused(gebm("divergence", tables[0], "nowhere"), "nowhere: no such file, folder, run or data set")
    refused(gebm("divergence", tables[0], "gaussian?sift=1,0"), "unknown key 'sift'; did you mean 'shift'?")
    refused(gebm("divergence", tables[0], images(tmp_path / "i", 3, 1)), "one holds points, the other images")
    assert gebm("divergence", tables[0]).code == 2
