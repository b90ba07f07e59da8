"""The permutation test against brute force, its level and its power."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gebm_cli.core.kernels import Gaussian, Polynomial
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.two_sample import permutation
from gebm_cli.core.two_sample.permutation import permutation_test

KERNEL = Gaussian(1.0)


def _normal(n, generator, mean=0.0, dim=2):
    return mean + torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _mmd2_of_assignment(matrix, chosen):
    """The U-statistic of a split of the pooled kernel matrix (numpy), by its three sub-matrices."""
    rest = np.setdiff1d(np.arange(len(matrix)), chosen)
    n, m = len(chosen), len(rest)
    xx, yy = matrix[np.ix_(chosen, chosen)], matrix[np.ix_(rest, rest)]
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within - 2 * matrix[np.ix_(chosen, rest)].mean()


@pytest.mark.parametrize("kernel", [KERNEL, Polynomial(3)])
@pytest.mark.parametrize("sizes", [(2, 3), (20, 20), (31, 12)])
def test_statistic_is_mmd2(kernel, sizes, generator):
    """The observed statistic is the unbiased MMD^2, for any sizes."""
    x, y = _normal(sizes[0], generator), _normal(sizes[1], generator, 0.5)
    assert permutation_test(x, y, kernel, 3, generator).statistic == pytest.approx(mmd2(x, y, kernel).value, abs=1e-10)


@pytest.mark.parametrize("sizes", [(8, 8), (11, 6), (2, 9)])
def test_null_and_p_value_are_brute_force(sizes):
    """With the same permutations, sub-matrix by sub-matrix, the null values and (1 + count) / (1 + B) are the same."""
    (n, m), b = sizes, 200
    x, y = _normal(n, _seeded(1)), _normal(m, _seeded(2), 0.6)
    result = permutation_test(x, y, KERNEL, b, _seeded(3))
    pooled, again = torch.cat([x, y]), _seeded(3)
    matrix = KERNEL(pooled, pooled).numpy()
    null = [_mmd2_of_assignment(matrix, torch.randperm(n + m, generator=again)[:n].numpy()) for _ in range(b)]
    np.testing.assert_allclose(result.null.numpy(), null, atol=1e-12)
    count = sum(value >= _mmd2_of_assignment(matrix, np.arange(n)) - 1e-12 for value in null)
    assert result.p_value == (1 + count) / (1 + b), f"{result.p_value} against {count} of {b}"


def test_p_value_of_tiny_samples_is_the_exact_one():
    """At n = m = 3 the p-value is, to 4 binomial standard errors, the exact share of the 20 splits."""
    from itertools import combinations

    x, y, b = _normal(3, _seeded(4)), _normal(3, _seeded(5), 1.0), 4000
    pooled = torch.cat([x, y])
    matrix = KERNEL(pooled, pooled).numpy()
    values = [_mmd2_of_assignment(matrix, np.array(c)) for c in combinations(range(6), 3)]
    exact = np.mean(np.array(values) >= values[0] - 1e-12)
    p = permutation_test(x, y, KERNEL, b, _seeded(6)).p_value
    assert abs(p - exact) < 4 * np.sqrt(exact * (1 - exact) / b) + 1 / b, f"{p:.4f} against {exact:.4f}"


@pytest.mark.parametrize("block", [1, 7, 16])
def test_blocks_change_nothing(monkeypatch, block):
    """Streaming by blocks of rows gives the values of one block."""
    x, y = _normal(20, _seeded(1)), _normal(13, _seeded(2), 0.5)
    whole = permutation_test(x, y, KERNEL, 50, _seeded(3))
    monkeypatch.setattr(permutation, "BLOCK", block)
    blocked = permutation_test(x, y, KERNEL, 50, _seeded(3))
    torch.testing.assert_close(blocked.null, whole.null, atol=1e-13, rtol=0)
    assert blocked.statistic == pytest.approx(whole.statistic, abs=1e-13) and blocked.p_value == whole.p_value


@pytest.mark.parametrize("sizes", [(20, 20), (30, 12)])
def test_level(sizes):
    """At P = Q, 300 tests of level .05 (B = 99) reject as often as the binomial's central 99.9 % allows."""
    generator = _seeded(7)
    p = [permutation_test(*(_normal(n, generator) for n in sizes), KERNEL, 99, generator).p_value for _ in range(300)]
    low, high = binom.interval(0.999, 300, 0.05)
    rejected = sum(value <= 0.05 for value in p)
    assert low <= rejected <= high, f"{rejected} of 300 rejected, expected {low:.0f} to {high:.0f}"
    below = sum(value <= 0.5 for value in p)
    low, high = binom.interval(0.999, 300, 0.5)
    assert low <= below <= high, f"{below} of 300 below .5, expected {low:.0f} to {high:.0f}"


def test_power():
    """A shift of one standard deviation is found at level .05 in nearly all of 50 tests, with unequal sizes."""
    generator = _seeded(8)
    p = [
        permutation_test(_normal(30, generator), _normal(45, generator, 1.0), KERNEL, 99, generator).p_value
        for _ in range(50)
    ]
    rejected = sum(value <= 0.05 for value in p)
    assert rejected >= 48, f"{rejected} of 50"


@pytest.mark.parametrize("sizes", [(5, 5), (4, 9)])
@pytest.mark.parametrize("kernel", [KERNEL, Polynomial(3)])
def test_constant_data_give_p_one(sizes, kernel, generator):
    """Where all values tie, rounding does not decide: p = 1."""
    x, y = (torch.full((n, 3), 0.1) for n in sizes)
    assert permutation_test(x, y, kernel, 99, generator).p_value == 1.0


def test_ties_of_discrete_data_count(generator):
    """On two-valued data, p counts each permutation that ties with the observed split exactly, as integers show."""
    x, y = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    b, again = 300, _seeded(9)
    p = permutation_test(x, y, KERNEL, b, _seeded(9)).p_value
    values = torch.cat([x, y]).flatten()
    # MMD^2_u of 0/1 data depends on the number of ones in the first part alone.
    ones = torch.stack([values[torch.randperm(7, generator=again)[:3]].sum() for _ in range(b)]).long().tolist()
    matrix = KERNEL(values[:, None].double(), values[:, None].double()).numpy()
    order = np.argsort(values.numpy(), kind="stable")
    statistic = {}
    for k in range(4):
        chosen = np.concatenate([order[: 3 - k], order[len(order) - k :]])
        statistic[k] = round(float(_mmd2_of_assignment(matrix, chosen)), 10)
    assert p == (1 + sum(statistic[k] >= statistic[1] for k in ones)) / (1 + b), p


@pytest.mark.parametrize(("n", "m", "b"), [(1, 5, 9), (5, 1, 9), (5, 5, 0), (0, 5, 9)])
def test_too_little_is_refused(n, m, b, generator):
    """Fewer than two rows a side, or no permutation, is a ValueError that gives the numbers."""
    with pytest.raises(ValueError, match=f"got {n}, {m} and {b}"):
        permutation_test(torch.zeros(n, 2), torch.zeros(m, 2), KERNEL, b, generator)


def test_smallest_p_value():
    """A clear difference gives p = 1 / (1 + B), never 0."""
    x, y = _normal(20, _seeded(1)), _normal(20, _seeded(2), 5.0)
    assert permutation_test(x, y, KERNEL, 19, _seeded(3)).p_value == 1 / 20


def test_float32_data_and_seed_repeat():
    """One seed gives one answer, and float32 points are tested in float64."""
    x, y = _normal(10, _seeded(1)).float(), _normal(12, _seeded(2)).float()
    first, second = (permutation_test(x, y, KERNEL, 20, _seeded(3)) for _ in range(2))
    other = permutation_test(x, y, KERNEL, 20, _seeded(4))
    assert torch.equal(first.null, second.null) and first.null.dtype == torch.float64 and first.null.shape == (20,)
    assert not torch.equal(first.null, other.null)
