"""Compress Then Test: bins, statistic and p-value by brute force; level and power where `goodpoints` is installed."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.two_sample.compressed import Bins, BinStatistic, bin_means, compressed_test, plan
from gebm_cli.core.two_sample.relabelling import Permutations

needs_goodpoints = pytest.mark.skipif(
    importlib.util.find_spec("goodpoints") is None, reason="the extra `ctt` is missing"
)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(n, generator, mean=0.0, dim=2):
    return mean + torch.randn(n, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        (100_000, 100_000, Bins(24, 24, 4096, 256)),
        (512, 512, Bins(32, 32, 16, 16)),
        (30, 25, Bins(30, 25, 1, 1)),
        (10_000, 70, Bins(625, 4, 16, 16)),
        (4096, 1024, Bins(64, 16, 64, 32)),
    ],
)
def test_plan(n, m, expected):
    """Bins are the largest power of 4 that leaves 32 of them, 4 of the smaller side; what is over is dropped."""
    bins = plan(n, m)
    assert bins == expected
    assert n - bins.rows < bins.used[0] <= n and m - bins.rows < bins.used[1] <= m


def test_statistic_is_mmd2_of_the_unions(generator):
    """For each permutation of the bins, w'Mw is the V-statistic of the pooled coreset points, to 1e-12."""
    coresets, kernel = _normal(7 * 4, generator).reshape(7, 4, 2) + 100.0, Gaussian(0.8)
    labels = Permutations(3, 4).draw(20, generator)
    ours = BinStatistic(bin_means(coresets, kernel), 3)(labels)
    for column, value in zip(labels.T, ours, strict=True):
        a, b = ((coresets[column == side] - 100.0).reshape(-1, 2) for side in (1, 0))
        expected = kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()
        assert value.item() == pytest.approx(expected.item(), abs=1e-12)


@needs_goodpoints
def test_one_bin_a_row_is_the_plain_test(generator):
    """Below 64 rows nothing is compressed: the statistic is MMD^2_v of all rows."""
    x, y, kernel = _normal(20, generator), _normal(25, generator, 0.5), Gaussian(1.0)
    result = compressed_test(x, y, 1.0, 19, _seeded(1))
    expected = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    assert result.bins.used == (20, 25)
    assert result.outcome.statistic == pytest.approx(expected.item(), abs=1e-12)


@needs_goodpoints
def test_coresets_keep_the_statistic(generator):
    """Thinned 16 times, the statistic of n = 16,384 and m = 8,192 is within 10 % of that of all rows' means by features."""
    x, y = _normal(16_384, generator), _normal(8192, generator, 0.5)
    result = compressed_test(x, y, 1.0, 19, _seeded(1), oversampling=1)
    assert result.bins.kept * 8 <= result.bins.rows
    # E k(a, b) of normals in d = 2: (s^2 / (s^2 + 2)) exp(-|mean difference|^2 / (2 (s^2 + 2))), s = 1.
    expected = 2 / 3 * (1 - np.exp(-0.5 / 6))
    assert result.outcome.statistic == pytest.approx(expected, rel=0.1)


@needs_goodpoints
def test_seed_and_dtype():
    """One seed gives one answer, float32 rows too, and p is never 0."""
    x, y = _normal(600, _seeded(1)), _normal(500, _seeded(2), 2.0)
    first, second, other = (compressed_test(x, y, 1.0, 39, _seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.outcome.null, second.outcome.null) and first.outcome.p_value == 1 / 40
    assert not torch.equal(first.outcome.null, other.outcome.null)
    assert compressed_test(x.float(), y.float(), 1.0, 39, _seeded(3)).outcome.null.dtype == torch.float64


@needs_goodpoints
@pytest.mark.parametrize("sizes", [(300, 300), (400, 130)])
def test_level(sizes):
    """At P = Q, 200 tests of level .05 on compressed bins reject as often as the binomial's central 99.5 % allows."""
    generator = _seeded(7)
    options = {"oversampling": 0, "n_bins": 12}
    assert plan(*sizes, **options).kept < plan(*sizes, **options).rows
    p = [
        compressed_test(*(_normal(n, generator) for n in sizes), 1.0, 99, generator, **options).outcome.p_value
        for _ in range(200)
    ]
    low, high = binom.interval(0.995, 200, 0.05)
    rejected = sum(value <= 0.05 for value in p)
    assert low <= rejected <= high, f"{rejected} of 200 rejected, expected {low:.0f} to {high:.0f}"


@needs_goodpoints
def test_power():
    """A shift of .15 at n = 2,000, m = 1,500 is found in nearly all of 10 tests."""
    generator = _seeded(8)
    p = [
        compressed_test(_normal(2000, generator), _normal(1500, generator, 0.15), 1.0, 99, generator).outcome.p_value
        for _ in range(10)
    ]
    assert sum(value <= 0.05 for value in p) >= 9, p


@needs_goodpoints
def test_constant_data_give_p_one(generator):
    """Where all rows are equal every permutation of the bins ties."""
    x, y = torch.full((300, 2), 0.1), torch.full((90, 2), 0.1)
    assert compressed_test(x, y, 1.0, 99, generator).outcome.p_value == 1.0


def test_without_goodpoints_it_says_what_to_install(monkeypatch, generator):
    """An ImportError that names the extra."""
    monkeypatch.setitem(sys.modules, "goodpoints.compress", None)
    with pytest.raises(ImportError, match=r"pip install 'gebm-cli\[ctt\]'"):
        compressed_test(torch.zeros(9, 2), torch.zeros(9, 2), 1.0, 9, generator)


@pytest.mark.parametrize(
    ("n", "m", "options"), [(3, 9, {}), (9, 3, {}), (9, 9, {"oversampling": -1}), (9, 9, {"n_bins": 4})]
)
def test_too_little_is_refused(n, m, options):
    """Fewer than 4 rows a side, a negative oversampling and fewer than 8 bins."""
    with pytest.raises(ValueError, match="need"):
        plan(n, m, **options)
