"""ME and SCF: features by their formula, learned on one half, exact and powerful on the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gebm_cli.core.two_sample import locations
from gebm_cli.core.two_sample.feature_means import MeanDifference, separation
from gebm_cli.core.two_sample.locations import (
    MeanEmbedding,
    SmoothCharacteristic,
    learn_characteristic,
    learn_mean_embedding,
)
from gebm_cli.core.two_sample.p_values import relabelling_test
from gebm_cli.core.two_sample.relabelling import Permutations

LEARNERS = [learn_mean_embedding, learn_characteristic]


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(n, generator, mean=0.0, dim=2, scale=1.0):
    return mean + scale * torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _p(learn, train, test, generator, steps=20):
    phi = learn(*train, 3, generator, steps=steps, scales=(1.0,))
    n, m = map(len, test)
    statistic = MeanDifference(phi(torch.cat(test)), n)
    return relabelling_test(statistic, Permutations(n, m), 99, generator).p_value


def test_features_are_their_formula(generator):
    """phi of ME and of SCF against numpy, row by row, also far from the origin."""
    rows, places, far = _normal(7, generator, dim=3), _normal(4, generator, dim=3), 1e5
    kernel = np.exp(-0.5 * ((rows[:, None] - places).square().sum(2)).numpy() / 1.5**2)
    np.testing.assert_allclose(MeanEmbedding(places, 1.5)(rows), kernel, atol=1e-12)
    np.testing.assert_allclose(MeanEmbedding(places + far, 1.5)(rows + far), kernel, atol=1e-9)
    centre = rows.mean(0)
    phase = (rows - centre).numpy() @ places.numpy().T
    smooth = np.exp(-0.5 * (rows - centre).square().sum(1, keepdim=True).numpy() / 1.5**2)
    expected = np.concatenate([smooth * np.sin(phase), smooth * np.cos(phase)], axis=1)
    np.testing.assert_allclose(SmoothCharacteristic(places, centre, 1.5)(rows), expected, atol=1e-12)


@pytest.mark.parametrize(("learn", "width"), [(learn_mean_embedding, 4), (learn_characteristic, 8)])
def test_shape_and_seed(learn, width):
    """J or 2J finite float64 columns; one seed gives one answer, another seed another; float32 rows are fine."""
    x, y = _normal(20, _seeded(1)).float(), _normal(13, _seeded(2), 0.5).float()
    first, second, other = (learn(x, y, 4, _seeded(seed), steps=5)(x) for seed in (3, 3, 4))
    assert first.shape == (20, width) and first.dtype == torch.float64 and first.isfinite().all()
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("learn", LEARNERS)
def test_training_raises_the_statistic(learn):
    """200 steps separate the training samples better than the start does: N(0, I) against variances 2.25 and 1, n != m."""
    x, y = _normal(150, _seeded(1)), _normal(90, _seeded(2)) * torch.tensor([1.5, 1.0])
    before, after = (
        separation(learn(x, y, 3, _seeded(3), steps=s, scales=(1.0,))(torch.cat([x, y])), 150) for s in (0, 200)
    )
    assert after > 1.1 * before, f"{before:.3f} -> {after:.3f}"


@pytest.mark.parametrize("learn", LEARNERS)
def test_scale_and_origin_of_the_data_do_not_matter(learn):
    """Everything is learned in medians about the mean: data in other units about another origin give the same features."""
    x, y = _normal(30, _seeded(1)), _normal(30, _seeded(2), 0.5)
    features = learn(x, y, 3, _seeded(3), steps=20)(x)
    other = learn(1000 * x + 5e4, 1000 * y + 5e4, 3, _seeded(3), steps=20)(1000 * x + 5e4)
    torch.testing.assert_close(other, features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learn", LEARNERS)
@pytest.mark.parametrize("constant", ["column", "all"])
def test_constant_data(learn, constant):
    """A constant column does no harm; where all rows are equal, p = 1."""
    x, y = _normal(20, _seeded(1)), _normal(14, _seeded(2))
    for rows in (x, y):
        rows[:, 0 if constant == "column" else slice(None)] = 0.1
    p = _p(learn, (x[:10], y[:7]), (x[10:], y[7:]), _seeded(3))
    assert p == 1.0 if constant == "all" else 0 < p <= 1


@pytest.mark.parametrize("learn", LEARNERS)
def test_level_on_held_out_rows(learn):
    """At P = Q, 150 tests of level .05, learned and tested on halves with n != m, reject as the binomial allows."""
    generator = _seeded(8)

    def draw():
        return (_normal(16, generator), _normal(12, generator))

    p = [_p(learn, draw(), draw(), generator, steps=3) for _ in range(150)]
    low, high = binom.interval(0.995, 150, 0.05)
    rejected = sum(value <= 0.05 for value in p)
    assert low <= rejected <= high, f"{rejected} of 150 rejected, expected {low:.0f} to {high:.0f}"


@pytest.mark.parametrize("learn", LEARNERS)
def test_power(learn):
    """A standard deviation twice as large is found in nearly all of 10 tests."""
    generator = _seeded(9)

    def draw():
        return (_normal(80, generator), _normal(60, generator, scale=2.0))

    p = [_p(learn, draw(), draw(), generator) for _ in range(10)]
    assert sum(value <= 0.05 for value in p) >= 9, p


@pytest.mark.parametrize("learn", LEARNERS)
def test_large_samples_train_on_batches(learn, monkeypatch):
    """More rows than a batch holds are trained on in random batches; the result is finite and finds a shift."""
    monkeypatch.setattr(locations, "BATCH", 16)
    x, y = _normal(100, _seeded(1)), _normal(40, _seeded(2), 1.5)
    assert _p(learn, (x[:50], y[:20]), (x[50:], y[20:]), _seeded(3)) <= 0.05


@pytest.mark.parametrize("learn", LEARNERS)
@pytest.mark.parametrize(("n", "m", "count"), [(1, 5, 3), (5, 1, 3), (5, 5, 0)])
def test_too_little_is_refused(learn, n, m, count, generator):
    """Fewer than two rows a side, or no location, is a ValueError with the numbers; more locations than rows are not."""
    with pytest.raises(ValueError, match=f"got {n}, {m} and {count}"):
        learn(torch.zeros(n, 2), torch.zeros(m, 2), count, generator)
    few = learn(_normal(2, generator), _normal(3, generator), 7, generator, steps=2)
    assert few(torch.zeros(1, 2)).isfinite().all()
