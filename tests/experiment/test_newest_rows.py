"""Rows of the newest stage, against a reader of the whole file."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import pytest

from gebm_cli.experiment.newest_rows import newest_rows


def row(stage: str, step: int, **more: float) -> dict:
    return {"stage": stage, "step": step, "time_s": 0.5, **more}


def write(path, rows: list[dict]):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.mark.parametrize(("n_base", "n_energy"), [(0, 5), (4000, 1), (4000, 40), (3, 4000), (20_000, 151)])
def test_a_short_stage_behind_a_long_one_is_sampled_from_its_first_row_to_its_last(tmp_path, n_base, n_energy):
    rows = [row("train-base", k) for k in range(n_base)] + [row("train-energy", k) for k in range(n_energy)]
    spread, tail = newest_rows(write(tmp_path / "m", rows), "train-energy")
    steps = [one["step"] for one in spread]
    assert steps == sorted(set(steps)) and {one["stage"] for one in spread + tail} == {"train-energy"}
    assert (steps[0], steps[-1]) == (0, n_energy - 1) and len(steps) >= min(n_energy, 40)
    assert max((b - a for a, b in itertools.pairwise(steps)), default=1) <= n_energy / 20 + 1, "evenly"


def test_figures_of_a_few_rows_only_are_among_those_of_the_end(tmp_path):
    rows = [row("train-energy", k, kale=1.0) for k in range(2000)]
    rows[-7]["watched_kale"] = 0.3
    _, tail = newest_rows(write(tmp_path / "m", rows), "train-energy", 8)
    assert [one["step"] for one in tail if "watched_kale" in one] == [1993] and tail[-1] == rows[-1]


def test_a_stage_that_went_on_after_another_keeps_its_beginning(tmp_path):
    rows = [row(stage, k) for stage in ("train-base", "train-energy", "train-base") for k in range(300)]
    rows[600:] = [one | {"step": one["step"] + 300} for one in rows[600:]]
    spread, _ = newest_rows(write(tmp_path / "m", rows), "train-base")
    assert spread[0]["step"] == 0 and spread[-1]["step"] == 599 and {one["stage"] for one in spread} == {"train-base"}


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"[1]\n3\n", b'{"stage": "train-energy"', b"\x00\xff\n", b'{"stage": 3}\n']
)
def test_what_holds_no_row_of_the_stage_has_none(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    assert newest_rows(tmp_path / "m", "train-energy") == ([], [])
    assert newest_rows(tmp_path / "none", "train-energy") == ([], [])


def test_torn_lines_between_rows_are_passed_over(tmp_path):
    lines = [json.dumps(row("train-energy", k)) if k % 3 else '{"stage": "train-en' for k in range(30)]
    (tmp_path / "m").write_text("\n".join(lines))
    spread, tail = newest_rows(tmp_path / "m", "train-energy", 4000)
    assert [one["step"] for one in spread] == [one["step"] for one in tail] == [k for k in range(30) if k % 3]


def test_little_of_a_large_file_is_read(tmp_path):
    line = json.dumps(row("train-base", 1, kale=0.5)) + "\n"
    (tmp_path / "m").write_text(line * 200_000 + json.dumps(row("train-energy", 1)) + "\n")
    tracemalloc.start()
    spread, tail = newest_rows(tmp_path / "m", "train-energy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spread == tail == [row("train-energy", 1)] and peak < 1 << 20
