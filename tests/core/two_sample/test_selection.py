"""Choosing a kernel: the split, the criterion against its formula, and the scale that it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from benchmarks.two_sample_problems import blob

from gebm_cli.core.kernels import EnergyDistance, Gaussian
from gebm_cli.core.two_sample import selection
from gebm_cli.core.two_sample.collections import grid
from gebm_cli.core.two_sample.selection import LAMBDA, best_kernel, criterion, split_rows


def _normal(n, seed, mean=0.0, dim=2):
    return mean + torch.randn(n, dim, generator=_seeded(seed), dtype=torch.float64)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "share", "train"), [(10, 0.5, 5), (11, 0.3, 3), (2, 0.5, 1), (1000, 0.75, 750)])
def test_split_is_disjoint_and_complete(n, share, train):
    """Every row is in one part, and the parts have the sizes asked for."""
    split = split_rows(n, share, _seeded())
    assert len(split.train) == train
    assert sorted(split.train.tolist() + split.test.tolist()) == list(range(n))


def test_split_is_random():
    """Another seed gives another split, and each row is trained on in half of 400 splits, to 4 standard errors."""
    assert torch.equal(split_rows(50, 0.5, _seeded(1)).train, split_rows(50, 0.5, _seeded(1)).train)
    counts = np.zeros(20)
    for seed in range(400):
        counts[split_rows(20, 0.5, _seeded(seed)).train.numpy()] += 1
    assert np.abs(counts - 200).max() < 4 * 10, counts


@pytest.mark.parametrize("kernel", [Gaussian(0.8), EnergyDistance()])
@pytest.mark.parametrize(("n", "m"), [(9, 9), (12, 7)])
def test_criterion_is_its_formula(kernel, n, m):
    """J = MMD^2_u / sqrt(2nm/(n+m) (4 var(h_x)/n + 4 var(h_y)/m) + 1e-12), with the projections h as loops."""
    x, y = _normal(n, 1), _normal(m, 2, 0.7)
    kxx, kyy, kxy = kernel(x, x).numpy(), kernel(y, y).numpy(), kernel(x, y).numpy()
    hx = [sum(kxx[i, j] for j in range(n) if j != i) / (n - 1) - kxy[i].mean() for i in range(n)]
    hy = [sum(kyy[i, j] for j in range(m) if j != i) / (m - 1) - kxy[:, i].mean() for i in range(m)]
    value = np.mean(hx) + np.mean(hy)
    variance = 2 * n * m / (n + m) * (4 * np.var(hx, ddof=1) / n + 4 * np.var(hy, ddof=1) / m)
    assert criterion(x, y, kernel) == pytest.approx(value / math.sqrt(variance + LAMBDA), rel=1e-8)


def test_criterion_of_a_constant_sample_is_zero():
    """Where there is no variance, and no difference, nothing is divided by 0."""
    assert criterion(torch.ones(5, 2), torch.ones(6, 2), Gaussian(1.0)) == 0.0


def test_criterion_of_equal_sizes_tends_to_that_of_pairs():
    """For n = m it is near the paired estimate of Liu et al. (2020, eq. 5), whose variance pairs the rows: 10 % at n = 2,000."""
    x, y, kernel, n = _normal(2000, 3), _normal(2000, 4, 0.5), Gaussian(1.0), 2000
    h = (kernel(x, x) + kernel(y, y) - kernel(x, y) - kernel(y, x)).numpy()
    variance = 4 / n**3 * (h.sum(1) ** 2).sum() - 4 / n**4 * h.sum() ** 2
    paired = (h.sum() - np.trace(h)) / (n * (n - 1)) / math.sqrt(variance)
    assert criterion(x, y, kernel) == pytest.approx(paired, rel=0.1)


def test_best_kernel_has_the_largest_criterion():
    """Of several kernels the one with the largest J, reported one by one, wherever it stands in the list."""
    x, y, told = _normal(40, 5), _normal(30, 6, 0.8), []
    kernels = [Gaussian(b) for b in (0.05, 0.5, 1.5, 30.0)]
    scores = [criterion(x, y, k) for k in kernels]
    assert best_kernel(x, y, kernels, told.append) == kernels[int(np.argmax(scores))] and told == [1] * 4
    assert best_kernel(x, y, kernels[::-1]) == kernels[int(np.argmax(scores))]


def test_best_kernel_looks_at_the_first_rows_only(monkeypatch):
    """Beyond `MOST_ROWS` rows a side nothing is read."""
    monkeypatch.setattr(selection, "MOST_ROWS", 20)
    x, y = _normal(60, 7), _normal(50, 8, 1.0)
    x[20:], y[20:] = torch.nan, torch.nan
    assert best_kernel(x, y, [Gaussian(1e-6), Gaussian(1.0)]) == Gaussian(1.0)


def test_fine_scale_of_blobs_is_found():
    """Nine modes 1 apart differ inside of each, at a scale of 0.1 to 0.2: the chosen bandwidth is below 0.4 in 9 of 10 sets."""
    widths = []
    for seed in range(10):
        x, y = blob(360, _seeded(seed)), blob(360, _seeded(100 + seed), different=True)
        widths.append(best_kernel(x, y, grid("gaussian", torch.cat([x, y]))).bandwidth)
    assert sum(width < 0.4 for width in widths) >= 9, widths
