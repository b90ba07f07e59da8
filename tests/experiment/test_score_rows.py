"""Records of scores as rows: what each number is of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gebm_cli.experiment.durations import clock, seconds_of
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.score_rows import home_of, score_rows
from gebm_cli.experiment.scoring import verdict

PRDC = {"metric": "prdc", "value": 0.7, "standard_error": 0.1, "precision": 0.7, "recall": 0.4, "density": 0.9}
PRDC |= {
    "density_standard_error": 0.2,
    "coverage": 0.6,
    "k": 5,
    "samples": "renamed/kla-001",
    "reference": "digits:train",
}


@pytest.fixture
def home(gebm):
    """The run `renamed`, made as digits-001: a base set, a GEBM's and a flow's; another run beside it."""
    path = Path("runs/renamed")
    for name, told in {
        "base-001": {"sampler": "none"},
        "kla-001": {"sampler": "kla"},
        "f-001": {"flow": "mmd"},
    }.items():
        (path / "samples" / name).mkdir(parents=True)
        (path / "samples" / name / "sample.yaml").write_text(yaml.safe_dump(told))
    Path("runs/other").mkdir()
    Path("runs/other/record.yaml").write_text("{}")
    return home_of(path, {"run": "digits-001"}, load_experiment("experiments/digits.yaml"))


def fid(**more) -> dict:
    return {"metric": "fid", "value": 1.0, "samples": "renamed/kla-001", "reference": "digits:train", **more}


@pytest.mark.parametrize(
    ("samples", "side"),
    [
        ("renamed/base-001", "base"),
        ("digits-001/kla-001", "GEBM"),
        ("renamed/f-001", "flow"),
        ("runs/renamed/samples/kla-001", "GEBM"),
        ("run:digits-001?n=5", "base"),
        ("renamed/gone-001", None),
        ("other/kla-001", None),
        ("renamed/\0", None),
    ],
)
def test_the_side_is_read_from_the_set_that_was_scored(home, samples, side):
    (row,) = score_rows(fid(samples=samples), home)
    assert (row.side, row.samples) == (side, samples)


@pytest.mark.parametrize(
    ("reference", "of_samples"),
    [
        ({"reference": "digits:train", "split": "train"}, False),
        ({"reference": "renamed/base-001"}, True),
        ({"reference": "digits-001/gone-001"}, True),
        ({"reference": "other/kla-001"}, True),
        ({"reference": "run:other?n=5"}, True),
        ({"reference": "runs/renamed/samples/kla-001"}, True),
        ({"reference": "pictures/cats"}, False),
        ({"reference": "statistics.npz"}, False),
        ({"reference": None}, False),
    ],
)
def test_a_sample_set_for_a_reference_is_told_from_data(home, reference, of_samples):
    (row,) = score_rows(fid(**reference), home)
    assert (row.of_samples, row.reference) == (of_samples, reference["reference"])


def test_prdc_is_four_rows_each_with_its_own_error(home):
    rows = score_rows(PRDC, home)
    assert [(r.metric, r.value, r.standard_error) for r in rows] == [
        ("precision", 0.7, 0.1),
        ("recall", 0.4, None),
        ("density", 0.9, 0.2),
        ("coverage", 0.6, None),
    ]
    assert all(r.options == {"k": 5} and r.side == "GEBM" for r in rows), "precision is no option here"


def test_a_verdict_is_read_as_the_command_writes_it(home, generator):
    """Against the entry itself, made by the function behind `gebm verdict`."""
    import torch

    base, gebm, real = (torch.randn(30, 3, generator=generator) for _ in range(3))
    entry = verdict(base, gebm, {"train": real})["train"]
    record = {"metric": "verdict", "base": "renamed/base-001", "gebm": "renamed/kla-001", "n_base": 30, "n_gebm": 30}
    rows = score_rows(record | {"features": "pixels", "weights_hash": "none", "references": {"train": entry}}, home)
    assert {(r.metric, r.side): r.value for r in rows} == {
        ("fid", "base"): entry["fid_base"],
        ("fid", "GEBM"): entry["fid_gebm"],
        ("kid", "base"): entry["kid_base"],
        ("kid", "GEBM"): entry["kid_gebm"],
        ("kid-difference", None): entry["kid_difference"],
    }
    last = rows[-1]
    assert (last.samples, last.p_value) == ("renamed/kla-001 less renamed/base-001", entry["p_value"])
    assert {(r.reference, r.split, r.n_real, r.network) for r in rows} == {("digits:train", "train", 30, "pixels")}
    assert {r.n_fake for r in rows[:-1]} == {30} and all(r.standard_error > 0 for r in rows)


def test_a_difference_of_two_kids_is_told_with_its_sides_and_p_value(home):
    record = {"metric": "kid-difference", "a": "renamed/a", "b": "renamed/b", "kid_b_minus_a": -0.1, "p_value": 0.02}
    (row,) = score_rows(record | {"reference": "digits:train", "standard_error": 0.05}, home)
    assert (row.samples, row.value, row.p_value, row.label) == (
        "renamed/b less renamed/a",
        -0.1,
        0.02,
        "KID difference",
    )


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"metric": "fid"},
        {"metric": "fid", "value": "low"},
        {"metric": "fid", "value": True},
        {"metric": "verdict"},
        {"metric": "verdict", "references": [1]},
        {"metric": "verdict", "references": {"train": None}},
        {"metric": "prdc"},
        {"metric": ["fid"]},
        {"test": "mmd-fuse", "p_value": 0.1},
    ],
)
def test_what_is_no_score_or_is_damaged_has_no_rows(home, record):
    assert score_rows(record, home) == []


@pytest.mark.parametrize(("hash_", "told"), [("none", "pixels"), (None, "pixels"), ("ab" * 32, "pixels abababab")])
def test_features_without_weights_are_named_alone(home, hash_, told):
    assert score_rows(fid(features="pixels", weights_hash=hash_), home)[0].network == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360_000, "100:00:00")]
)
def test_a_duration_is_hours_minutes_and_seconds(seconds, told):
    assert clock(seconds) == told


def test_a_session_takes_from_its_start_to_its_end_or_is_not_known():
    start = "2026-01-01T10:00:00+00:00"
    assert seconds_of({"start": start, "end": "2026-01-01T12:02:30+01:00"}) == 62 * 60 + 30
    for end in (None, "soon", "2026-01-01T10:00:00"):
        assert seconds_of({"start": start, "end": end}) is None
    assert seconds_of({}) is None
