"""Learning-rate schedules at their ends and in between."""

from __future__ import annotations

import math

import pytest

from gebm_cli.core.training.schedules import RateSchedule


@pytest.mark.parametrize(("step", "factor"), [(0, 1), (1, 1), (50, 1), (51, 0.98), (75, 0.5), (99, 0.02), (100, 0)])
def test_linear(step, factor):
    """Of 100 steps the first half has factor 1, then it falls linearly to 0."""
    assert RateSchedule("linear", 100)(step) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("step", [0, 1, 50, 100])
def test_constant(step):
    """The factor is 1 throughout."""
    assert RateSchedule("constant", 100, 10, 0.5)(step) == 1


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1), (25, 0.5 + math.sqrt(0.125)), (50, 0.5), (75, 0.5 - math.sqrt(0.125)), (100, 0)]
)
def test_cosine(step, factor):
    """Half a period from 1 to 0."""
    assert RateSchedule("cosine", 100)(step) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(("step", "factor"), [(0, 1), (29, 1), (30, 0.2), (59, 0.2), (60, 0.04), (100, 0.008)])
def test_step(step, factor):
    """Times .2 at every 30th step, from that step on."""
    assert RateSchedule("step", 100, 30, 0.2)(step) == pytest.approx(factor, abs=1e-12)
