"""The table of refusals in docs/training.md: what is typed there is refused with the very sentence that stands beside it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()
ROWS = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", PAGE.partition("## What is refused")[2], re.MULTILINE)


def test_the_table_is_found():
    """Most of its rows can be typed."""
    assert len(ROWS) > 12


@pytest.mark.parametrize(("typed", "sentence"), ROWS, ids=[typed for typed, _ in ROWS])
def test_a_row_of_the_table_is_what_happens(gebm, typed, sentence):
    """By `gebm validate`: one sentence, after the place, which is the override or the line of the file."""
    result = gebm("validate", *shlex.split(typed))
    assert result.code == 2 and result.err.endswith(f": {sentence}\n"), result.err
    assert len(result.err.splitlines()) == 1 and result.err.startswith(("gebm: override '", "gebm: experiments/"))
