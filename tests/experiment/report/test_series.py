"""Metrics as series: faithful to the last extreme, whatever the file went through."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gebm_cli.experiment.report import series as module
from gebm_cli.experiment.report.series import downsample, medians, read_metrics

VALUES = npst.arrays(
    np.float64,
    st.integers(1, 400),
    elements=st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0]),
)


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(step, stage="train-base", **figures):
    return {"stage": stage, "step": step, "time_s": 0.1, **figures}


def measured(path, read=read_metrics):
    """What was read, and the most bytes that Python held on the way."""
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, peak


# ------------------------------------------------------------------------------------------------------------ thinning


@settings(deadline=None, max_examples=200)
@given(VALUES, st.integers(1, 40))
def test_thinned_values_hold_every_extreme_the_ends_and_what_is_not_finite(values, width):
    """Against the whole series: rows are unchanged and in order, no bucket lost its extremes, and few are left."""
    steps = 7 * np.arange(len(values))
    kept_steps, kept = downsample(steps, values, width)
    assert (np.diff(kept_steps) > 0).all() and len(kept) <= 6 * width
    assert np.array_equal(values[kept_steps // 7], kept, equal_nan=True)
    assert kept_steps[0] == 0 and kept_steps[-1] == steps[-1]
    finite = values[np.isfinite(values)]
    if len(finite):
        assert kept[np.isfinite(kept)].min() == finite.min() and kept[np.isfinite(kept)].max() == finite.max()
    lost = steps[~np.isfinite(values)]
    if len(lost):
        assert lost[0] in kept_steps and lost[-1] in kept_steps
    if len(values) > 4 * width:
        size = -(-len(values) // width)
        for start in range(0, len(values), size):
            bucket = values[start : start + size]
            inside = kept[(kept_steps >= 7 * start) & (kept_steps < 7 * (start + size))]
            for extreme in (np.min, np.max):
                some = bucket[np.isfinite(bucket)]
                assert not len(some) or extreme(some) == extreme(inside[np.isfinite(inside)])


@settings(deadline=None, max_examples=100)
@given(VALUES, st.integers(1, 40))
def test_the_middle_of_a_bucket_is_its_median(values, width):
    """Against numpy's median of each bucket's finite values, one after the other."""
    steps = np.arange(len(values))
    _, found = medians(steps, values, width)
    size = -(-len(values) // width)
    buckets = [values[k : k + size] for k in range(0, len(values), size)]
    expected = [np.median(b[np.isfinite(b)]) for b in buckets if np.isfinite(b).any()]
    assert found == pytest.approx(expected)


def test_few_rows_are_not_thinned_and_have_no_middle(tmp_path):
    """2400 rows are what 600 buckets hold; one more is thinned, and its medians do not lean to the extremes."""
    rows = [row(k, kale=float(k % 10 == 0)) for k in range(2401)]
    whole = read_metrics(write(tmp_path / "m", rows[:2400])).stages["train-base"]["kale"]
    assert len(whole.values) == whole.n == 2400 and whole.middle is None
    thinned = read_metrics(write(tmp_path / "m", rows)).stages["train-base"]["kale"]
    assert thinned.n == 2401 and len(thinned.values) < 2400 and thinned.middle is not None
    thinned = read_metrics(write(tmp_path / "m", rows), width=20).stages["train-base"]["kale"]
    assert (thinned.middle[1] == 0).all() and thinned.values.mean() > 0.2


# ------------------------------------------------------------------------------------------------------------- reading


def test_series_are_those_of_the_rows_in_order_of_appearance(tmp_path):
    """Against a plain loop over the rows, with names that come and go, over two stages."""
    rng = np.random.default_rng(0)
    rows = []
    for stage in ("train-base", "train-energy"):
        for step in range(50, 5000, 50):
            some = {"kale_held_out": rng.normal(), "kale_held_out_standard_error": 0.1} if step % 500 == 0 else {}
            rows.append(row(step, stage, kale=rng.normal(), lr=1, **some))
    metrics = read_metrics(write(tmp_path / "m", rows))
    assert (metrics.n_rows, metrics.n_bad, list(metrics.stages)) == (198, 0, ["train-base", "train-energy"])
    for stage, lines in metrics.stages.items():
        assert list(lines) == ["kale", "lr", "kale_held_out", "kale_held_out_standard_error"]
        for name, line in lines.items():
            expected = [(r["step"], r[name]) for r in rows if r["stage"] == stage and name in r]
            assert list(zip(line.steps, line.values)) == expected and line.n == len(expected)
            assert line.steps.dtype == np.int64 and line.values.dtype == np.float64


def test_a_file_that_is_not_there_or_empty_has_no_stages(tmp_path):
    """Nor has a folder; none of them is an error, of a sample of rows neither."""
    (tmp_path / "empty").touch()
    for path in (tmp_path / "none", tmp_path / "empty", tmp_path):
        metrics = read_metrics(path)
        assert (metrics.stages, metrics.n_rows, metrics.n_bad) == ({}, 0, 0)


BAD = [
    '{"stage": "train-base", "step": 7, "kal',
    "not json",
    "[1, 2]",
    "3",
    "null",
    '{"step": 7, "kale": 1}',
    '{"stage": "train-base", "kale": 1}',
    '{"stage": ["x"], "step": 7, "kale": 1}',
    '{"stage": "train-base", "step": "7", "kale": 1}',
    '{"stage": "train-base", "step": 7.5, "kale": 1}',
    '{"stage": "train-base", "step": NaN, "kale": 1}',
    '{"stage": "train-base", "step": true, "kale": 1}',
    '{"stage": "train-base", "step": 1e300, "kale": 1}',
    '{"stage": "a", "step": 1}, {"stage": "b", "step": 2}',
    "[" * 3000,
    "9" * 5000,
    "\x00\x00",
    "\udcff",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_damaged_line_is_counted_and_harms_no_other(tmp_path, bad):
    """Between two good lines, at the start and at the end without its line break."""
    path = tmp_path / "m"
    good = [json.dumps(row(k, kale=k)) for k in (1, 2)]
    for lines in ([good[0], bad, good[1]], [bad, *good], [*good, bad]):
        path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
        metrics = read_metrics(path)
        assert (metrics.n_rows, metrics.n_bad, list(metrics.stages)) == (3, 1, ["train-base"])
        assert metrics.stages["train-base"]["kale"].values.tolist() == [1, 2]


def test_what_is_no_number_is_no_value_and_what_is_not_finite_is_one(tmp_path):
    """Text, null, truth and lists are passed over; NaN, Infinity and integers beyond all floats are kept."""
    values = [1, "2", None, True, [3], {"a": 1}, math.nan, math.inf, 10**400, -(10**400), 5.5]
    rows = [row(k, kale=value, lr=0.5) for k, value in enumerate(values)] + ["", "   "]
    metrics = read_metrics(write(tmp_path / "m", rows))
    line = metrics.stages["train-base"]["kale"]
    assert line.steps.tolist() == [0, 6, 7, 8, 9, 10] and (metrics.n_rows, metrics.n_bad) == (11, 0)
    assert np.array_equal(line.values, [1, math.nan, math.inf, math.inf, -math.inf, 5.5], equal_nan=True)
    assert len(metrics.stages["train-base"]["lr"].steps) == 11


def test_where_steps_go_back_the_later_row_counts(tmp_path):
    """A second session from step 3; the score of a step and its losses are rows of their own and both stay."""
    rows = [row(k, kale=k) for k in range(1, 6)] + [row(k, kale=-k) for k in (4, 5, 6)] + [row(6, watched_kid=0.5)]
    lines = read_metrics(write(tmp_path / "m", rows)).stages["train-base"]
    assert lines["kale"].steps.tolist() == [1, 2, 3, 4, 5, 6] and lines["kale"].values.tolist() == [1, 2, 3, -4, -5, -6]
    assert lines["watched_kid"].steps.tolist() == [6]


def test_names_are_shown_in_letters_and_none_takes_the_place_of_another(tmp_path):
    """A lone surrogate, control characters, nothing, and names that differ in what is not shown: each has its own values."""
    names = ["kale", "a\ud800", "a\x1b", "a?", "", "x\n y", "z" * 200, "z" * 201]
    path = write(tmp_path / "m", [row(1, stage="train\x07", **{name: float(k) for k, name in enumerate(names)})])
    ((stage, lines),) = read_metrics(path).stages.items()
    assert stage == "train?" and [line.values.item() for line in lines.values()] == list(range(len(names)))
    assert list(lines)[:6] == ["kale", "a?", "a? (2)", "a? (3)", "?", "x y"]
    assert all(name.isprintable() and len(name) < 130 for name in lines)


def test_reading_in_chunks_changes_nothing_and_does_not_hold_the_file(tmp_path, monkeypatch):
    """Chunks of 20 kB against one of all 2.8 MB, which takes several times the memory: what is left is the values."""
    rng = np.random.default_rng(1)
    rows = [row(k, kale=rng.normal(), **({"lr": 0.1} if k % 7 else {"nll": "x"})) for k in range(30_000)]
    path = write(tmp_path / "m", [*rows[:100], "{", *rows[100:]])
    whole, at_once = measured(path)
    monkeypatch.setattr(module, "CHUNK", 20_000)
    chunked, peak = measured(path)
    assert (whole.n_rows, whole.n_bad) == (chunked.n_rows, chunked.n_bad) == (30_001, 1)
    for name, line in whole.stages["train-base"].items():
        other = chunked.stages["train-base"][name]
        assert np.array_equal(line.steps, other.steps) and np.array_equal(line.values, other.values)
    assert 3 * peak < at_once
