"""Relabelings: uniform over the right set, the observed one first, their number by enumeration, and how they come in batches."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch

from gebm_cli.core.two_sample import relabelling
from gebm_cli.core.two_sample.relabelling import Permutations, SignFlips, batches

GROUPS = [Permutations(3, 2), Permutations(2, 5), SignFlips(4)]


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _all_labels(group):
    """Every relabeling as a tuple, by enumeration."""
    if isinstance(group, SignFlips):
        return list(product((-1.0, 1.0), repeat=group.n))
    chosen = combinations(range(group.rows), group.n)
    return [tuple(float(i in c) for i in range(group.rows)) for c in map(set, chosen)]


def test_permutations_hold_the_observed_labels_and_n_ones():
    """Column 0 marks the first n rows, every other one marks n rows, nothing is other than 0 or 1."""
    labels = Permutations(7, 4).draw(200, _seeded())
    assert labels.shape == (11, 201) and labels.dtype == torch.float32
    assert labels[:, 0].tolist() == [1.0] * 7 + [0.0] * 4
    assert (labels.sum(0) == 7).all() and ((labels == 0) | (labels == 1)).all()


def test_sign_flips_hold_the_observed_signs():
    """Column 0 is all ones, the others are of +1 and -1 in any number."""
    signs = SignFlips(6).draw(200, _seeded())
    assert signs.shape == (6, 201) and signs.dtype == torch.float32
    assert (signs[:, 0] == 1).all() and (signs.abs() == 1).all()
    assert set(signs[:, 1:].sum(0).tolist()) == {-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0}


@pytest.mark.parametrize("group", GROUPS)
def test_relabelings_are_uniform(group):
    """In 20,000 draws every one of the relabelings turns up equally often: chi-square within 4 standard deviations."""
    expected = _all_labels(group)
    drawn = [tuple(column) for column in group.draw(20_000, _seeded(1))[:, 1:].T.tolist()]
    counts = np.array([drawn.count(labels) for labels in expected])
    assert counts.sum() == 20_000, "labels outside of the group"
    degrees, share = len(expected) - 1, 20_000 / len(expected)
    z = (((counts - share) ** 2 / share).sum() - degrees) / math.sqrt(2 * degrees)
    assert abs(z) < 4, f"z = {z:.2f}, counts {counts}"


@pytest.mark.parametrize("group", [*GROUPS, Permutations(3, 3), Permutations(4, 4), SignFlips(1), SignFlips(7)])
def test_number_of_distinct_relabelings_is_that_of_an_enumeration(group):
    """A statistic that is the same for exchanged sides takes `n_distinct` values over all relabelings, and no more."""
    scores = torch.randn(group.rows, generator=_seeded(2), dtype=torch.float64).numpy()
    values = np.array(_all_labels(group)) @ scores
    if isinstance(group, SignFlips):
        values = np.abs(values)
    elif group.n == group.m:
        values = np.abs(values - scores.sum() / 2)
    assert group.n_distinct == len(np.unique(values.round(10)))


def test_number_of_distinct_relabelings_of_large_samples():
    """It is right to rounding where it is finite, and infinite, not an overflow, where no float holds it."""
    assert Permutations(30, 20).n_distinct == pytest.approx(math.comb(50, 20), rel=1e-9)
    assert Permutations(30, 30).n_distinct == pytest.approx(math.comb(60, 30) / 2, rel=1e-9)
    assert SignFlips(60).n_distinct == 2.0**59
    assert Permutations(10_000, 10_000).n_distinct == SignFlips(10_000).n_distinct == math.inf


@pytest.mark.parametrize("group", GROUPS)
def test_the_generator_decides(group):
    """One seed gives one draw, another seed another, and a second draw from the same generator is a new one."""
    generator = _seeded(3)
    first, second = group.draw(50, generator), group.draw(50, generator)
    assert torch.equal(first, group.draw(50, _seeded(3)))
    assert not torch.equal(first, second) and not torch.equal(first, group.draw(50, _seeded(4)))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("count", "most", "first", "sizes"),
    [
        (10, 4, None, [4, 4, 2]),
        (10, 100, None, [10]),
        (100, 40, 8, [8, 16, 32, 40, 4]),
        (5, 40, 8, [5]),
        (20, 3, 8, [3] * 6 + [2]),
        (3, 0, None, [1, 1, 1]),
    ],
)
def test_batches_sum_to_the_count(group, count, most, first, sizes):
    """`count` relabelings in all, at most `most` at a time, doubling from `first`, the observed labels in front of each."""
    found = list(batches(group, count, _seeded(5), most, first))
    assert [part.shape[1] - 1 for part in found] == sizes
    observed = group.draw(0, _seeded())
    assert all(torch.equal(part[:, :1], observed) for part in found)


def test_batches_are_new_relabelings():
    """No batch repeats the one before."""
    first, second = batches(SignFlips(40), 100, _seeded(6), 50)
    assert not torch.equal(first, second)


def test_batches_fit_into_memory(monkeypatch):
    """Of many rows fewer columns are made at a time, the observed one counted, and never none."""
    monkeypatch.setattr(relabelling, "COLUMNS_BYTES", 4 * 10 * 6)
    assert [part.shape[1] for part in batches(Permutations(5, 5), 12, _seeded(), 100)] == [6, 6, 3]
    assert [part.shape[1] for part in batches(Permutations(50, 50), 2, _seeded(), 100)] == [2, 2]
