"""Sparklines: lowest to highest, spikes kept, gaps seen."""

from __future__ import annotations

import io
import math

import pytest

from gebm_cli.cli.sparkline import ASCII, BLOCKS, levels_for, sparkline


def test_levels_rise_with_the_values_from_the_lowest_block_to_the_highest():
    assert sparkline(range(8), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8 - i for i in range(8)], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline(range(8), 8, ASCII) == ASCII


def test_a_constant_is_a_flat_middle_line_and_one_value_is_one_letter():
    assert sparkline([2.5] * 4, 10) == "▄▄▄▄"
    assert sparkline([-1e300], 10) == "▄"


def test_what_is_not_finite_is_a_gap_and_does_not_set_the_scale():
    assert sparkline([0.0, math.nan, 1.0, math.inf, -math.inf], 5) == "▁ █  "
    assert sparkline([math.nan] * 3, 5) == "   "
    assert sparkline([], 5) == ""


def test_one_spike_among_ten_thousand_values_is_seen():
    values = [0.5] * 10_000
    values[7_777] = 100.0
    assert sparkline(values, 12).count("█") == 1 and sparkline(values, 12)[9] == "█"


def test_huge_values_do_not_overflow():
    assert sparkline([-1.7e308, 0.0, 1.7e308], 3) == "▁▅█"


def test_the_smallest_values_are_told_apart():
    assert sparkline([5e-324, 0.0], 8) == "█▁" and sparkline([-5e-324, 0.0, 5e-324], 3) == "▁▅█"


@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 47, 48, 1000])
def test_it_is_never_longer_than_asked(n):
    line = sparkline([math.sin(i) for i in range(n)], 12)
    assert len(line) == min(n, 12) and set(line) <= set(BLOCKS)


@pytest.mark.parametrize(
    ("encoding", "levels"), [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), ("cp1252", ASCII)]
)
def test_blocks_where_the_encoding_has_them(encoding, levels):
    assert levels_for(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == levels
