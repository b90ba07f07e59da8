"""The streamed product against loops over sub-matrices, against the formulas of released codes, and the test of one kernel."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from gebm_cli.core.kernels import (
    EnergyDistance,
    Exponential,
    Gaussian,
    GaussianMixture,
    Laplace,
    MeanKernel,
    Polynomial,
    RationalQuadratic,
)
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.two_sample import relabelled_mmd
from gebm_cli.core.two_sample.aggregation import One
from gebm_cli.core.two_sample.p_values import relabelling_test
from gebm_cli.core.two_sample.relabelled_mmd import RelabelledMmd
from gebm_cli.core.two_sample.relabelling import Permutations, SignFlips

KERNEL = Gaussian(1.0)
KERNELS = [
    Gaussian(0.9),
    Laplace(1.3),
    Exponential(0.8),
    Polynomial(3),
    RationalQuadratic(bandwidth=1.7),
    EnergyDistance(),
    GaussianMixture(linear=0.7),
    MeanKernel((Gaussian(0.3), Laplace(2.0))),
]


def _normal(n, seed, mean=0.0, dim=2):
    return mean + torch.randn(n, dim, generator=_seeded(seed), dtype=torch.float64)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _matrix(kernel, x, y):
    """The kernel matrix of the pooled rows, entry by entry."""
    rows = torch.cat([x, y])
    return np.array([[kernel(a[None], b[None]).item() for b in rows] for a in rows])


def _mmd2_of_assignment(matrix, chosen):
    """The U-statistic of a split of the pooled kernel matrix, by its three sub-matrices."""
    rest = np.setdiff1d(np.arange(len(matrix)), chosen)
    n, m = len(chosen), len(rest)
    xx, yy = matrix[np.ix_(chosen, chosen)], matrix[np.ix_(rest, rest)]
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within - 2 * matrix[np.ix_(chosen, rest)].mean()


def _mmd2_of_pairs(matrix, signs):
    """The one-sample U-statistic after the pairs with sign -1 have changed places, term by term."""
    n = len(signs)
    first = [i if s > 0 else i + n for i, s in enumerate(signs)]
    second = [i + n if s > 0 else i for i, s in enumerate(signs)]
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += matrix[first[i], first[j]] + matrix[second[i], second[j]]
                total -= matrix[first[i], second[j]] + matrix[second[i], first[j]]
    return total / (n * (n - 1))


def _by_loops(kernels, x, y, labels, paired):
    rows = []
    for kernel in kernels:
        matrix = _matrix(kernel, x, y)
        one = _mmd2_of_pairs if paired else lambda k, column: _mmd2_of_assignment(k, np.flatnonzero(column))
        rows.append([one(matrix, column) for column in labels.T.numpy()])
    return np.array(rows)


CASES = [(8, 8, False), (11, 6, False), (2, 9, False), (6, 11, False), (8, 8, True), (11, 11, True), (2, 2, True)]


@pytest.mark.parametrize("block", [4, 6, 10, 1024])
@pytest.mark.parametrize(("n", "m", "paired"), CASES)
def test_values_are_those_of_a_loop(monkeypatch, n, m, paired, block):
    """Eight kernels at once, under 12 relabelings, in blocks that cut through x, through y and between them: to 1e-10."""
    monkeypatch.setattr(relabelled_mmd, "BLOCK", block)
    x, y = _normal(n, 1), _normal(m, 2, 0.5)
    labels = (SignFlips(n) if paired else Permutations(n, m)).draw(12, _seeded(3))
    found = RelabelledMmd(KERNELS, x, y, paired)(labels)
    assert found.shape == (len(KERNELS), 13) and found.dtype == torch.float64
    expected = _by_loops(KERNELS, x, y, labels, paired)
    error = np.abs(found.numpy() - expected).max(1) / np.abs(expected).max(1)
    assert error.max() < 1e-10, f"relative errors {error}"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("sizes", [(2, 3), (20, 20), (31, 12)])
def test_observed_value_is_mmd2(kernel, sizes):
    """Column 0 is the unbiased MMD^2, for any sizes."""
    x, y = _normal(sizes[0], 4), _normal(sizes[1], 5, 0.5)
    found = RelabelledMmd([kernel], x, y)(Permutations(*sizes).draw(3, _seeded()))
    assert found[0, 0].item() == pytest.approx(mmd2(x, y, kernel).value, abs=1e-10)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("block", [4, 10, 1024])
def test_squares_are_those_of_the_matrix_without_its_diagonal(monkeypatch, paired, block):
    """sum_{i != j} k_ij^2 over the pooled rows, for pairs too, and a second call does not add to the first."""
    monkeypatch.setattr(relabelled_mmd, "BLOCK", block)
    x, y = _normal(9, 6), _normal(9, 7, 0.5)
    mmd, labels = RelabelledMmd(KERNELS, x, y, paired), (SignFlips(9) if paired else Permutations(9, 9))
    for seed in range(2):
        mmd(labels.draw(2, _seeded(seed)))
    for kernel, found in zip(KERNELS, mmd.squares.tolist(), strict=True):
        matrix = _matrix(kernel, x, y)
        np.fill_diagonal(matrix, 0)
        assert found == pytest.approx((matrix**2).sum(), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "paired"), [(200, 200, True), (200, 200, False), (260, 120, False)])
def test_float32_is_close_on_the_scale_of_the_null(n, m, paired):
    """Errors of float32 are below 1 % of the null's standard deviation for every kernel."""
    x, y = _normal(n, 8, dim=8), _normal(m, 9, dim=8)
    labels = (SignFlips(n) if paired else Permutations(n, m)).draw(100, _seeded(10))
    exact, single = (RelabelledMmd(KERNELS, x.to(t), y.to(t), paired)(labels) for t in (torch.float64, torch.float32))
    assert single.dtype == torch.float64
    error = (exact - single).abs().max(1).values / exact.std(1)
    assert error.max() < 0.01, f"errors {error.tolist()} of the null's spread"


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n", [500, 800])
def test_float32_is_close_for_wide_kernels_too(n, paired):
    """A kernel near 1 everywhere leaves MMD^2 a small difference of large sums: still below 1 % of the null's spread."""
    m = 500
    if paired and n != m:
        return
    x, y = _normal(n, 24), _normal(m, 25)
    labels = (SignFlips(n) if paired else Permutations(n, m)).draw(100, _seeded(26))
    for kernel in (Gaussian(10.0), Laplace(30.0), EnergyDistance()):
        exact, single = (
            RelabelledMmd([kernel], x.to(t), y.to(t), paired)(labels) for t in (torch.float64, torch.float32)
        )
        error = (exact - single).abs().max() / exact.std()
        assert error < 0.01, f"{kernel}: error {error:.4f} of the null's spread"


@pytest.mark.parametrize(("n", "m", "paired"), [(150, 150, True), (150, 150, False), (130, 70, False)])
def test_rounding_bounds_the_errors_of_equal_values(n, m, paired):
    """On data of two values, whose statistics tie, float32 values that tie in float64 differ by less than `rounding`."""
    rows = (torch.rand(n + m, 2, generator=_seeded(11)) < 0.5).double() * torch.tensor([1.0, 0.3])
    labels = (SignFlips(n) if paired else Permutations(n, m)).draw(400, _seeded(12))
    for kernel in (Gaussian(0.7), Laplace(1.1), Polynomial(3)):
        exact = RelabelledMmd([kernel], rows[:n], rows[n:], paired)(labels)[0]
        mmd = RelabelledMmd([kernel], rows[:n].float(), rows[n:].float(), paired)
        single, groups = mmd(labels)[0], (exact / 1e-12).round()
        spread = max(single[groups == g].max() - single[groups == g].min() for g in groups.unique())
        assert spread <= mmd.rounding < 0.1 * exact.std(), (spread, mmd.rounding, exact.std())


def test_blocks_are_reported(monkeypatch):
    """`n_blocks` is how often `on_block` is called: the blocks on and above the diagonal."""
    monkeypatch.setattr(relabelled_mmd, "BLOCK", 10)
    for n, m, paired, expected in ((23, 12, False, 10), (12, 12, True, 6), (5, 5, False, 1)):
        ticks = []
        mmd = RelabelledMmd([KERNEL] * 3, _normal(n, 1), _normal(m, 2), paired, lambda: ticks.append(1))  # noqa: B023
        mmd((SignFlips(n) if paired else Permutations(n, m)).draw(2, _seeded()))
        assert len(ticks) == mmd.n_blocks == expected


def test_columns_of_a_call_fit_the_buffer(monkeypatch):
    """More kernels or wider numbers mean fewer columns, but never fewer than 64."""
    monkeypatch.setattr(relabelled_mmd, "BUFFER_BYTES", 8 * 30 * 1000)
    x, y = _normal(20, 1), _normal(10, 2)
    assert RelabelledMmd([KERNEL], x, y).max_columns == 1000
    assert RelabelledMmd([KERNEL] * 4, x, y).max_columns == 250
    assert RelabelledMmd([KERNEL], x.float(), y.float()).max_columns == 2000
    assert RelabelledMmd([KERNEL] * 100, x, y).max_columns == 64


@pytest.mark.parametrize(
    ("x", "y"), [((1, 2), (5, 2)), ((5, 2), (1, 2)), ((0, 2), (5, 2)), ((5, 2), (5, 3)), ((5,), (5,))]
)
def test_too_little_is_refused(x, y):
    """Fewer than two rows a side, or rows of different length, is a ValueError that gives the shapes."""
    with pytest.raises(ValueError, match="at least 2") as told:
        RelabelledMmd([KERNEL], torch.zeros(x), torch.zeros(y))
    assert f"{x} and {y}" in str(told.value)


def test_pairs_of_unequal_number_are_refused():
    """Sign flips need a partner for each row."""
    with pytest.raises(ValueError, match="got 5 and 6"):
        RelabelledMmd([KERNEL], torch.zeros(5, 2), torch.zeros(6, 2), paired=True)


def test_the_data_are_left_alone():
    """No call writes into x, y or the labels."""
    x, y, labels = _normal(9, 1), _normal(7, 2), Permutations(9, 7).draw(5, _seeded())
    copies = x.clone(), y.clone(), labels.clone()
    RelabelledMmd(KERNELS, x, y)(labels)
    assert all(torch.equal(a, b) for a, b in zip((x, y, labels), copies, strict=True))


# ------------------------------------------------------------------------------------- the formulas of released codes, in numpy


def _gram(bandwidth, x, y):
    rows = torch.cat([x, y]).numpy()
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    return np.exp(-squared / (2 * bandwidth**2))


@pytest.mark.parametrize("bandwidth", [0.1, 1.0, 4.0])
def test_sign_flips_are_the_wild_bootstrap_of_mmdagg(bandwidth):
    """v'H~v / (n(n-1)) with Kxx + Kyy - Kxy - Kyx, diagonal 0 (MMDAgg, and at v = 1 DK-for-TST's statistic), to 1e-8."""
    x, y = _normal(30, 13), _normal(30, 14, 0.4)
    signs = SignFlips(30).draw(50, _seeded(15))
    gram = _gram(bandwidth, x, y)
    h = gram[:30, :30] + gram[30:, 30:] - gram[:30, 30:] - gram[30:, :30]
    np.fill_diagonal(h, 0)
    v = signs.double().numpy()
    expected = (v * (h @ v)).sum(0) / (30 * 29)
    found = RelabelledMmd([Gaussian(bandwidth)], x, y, paired=True)(signs)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("sizes", [(25, 25), (31, 18)])
def test_values_are_mmdfuses_three_products(sizes):
    """MMD-FUSE's V10, V01 and V11 forms for m >= n, divided by n(n-1): the same values under the same permutations, to 1e-8."""
    m, n = sizes  # the names of their code: x has m rows, y has n
    x, y = _normal(m, 16), _normal(n, 17, 0.4)
    labels = Permutations(m, n).draw(50, _seeded(18))
    k = _gram(0.8, x, y)
    np.fill_diagonal(k, 0)
    v10 = labels.double().numpy()
    v01 = v10 - 1
    v11 = v10 + v01
    form = (v10 * (k @ v10)).sum(0) * (n - m + 1) * (n - 1) / (m * (m - 1))
    form += (v01 * (k @ v01)).sum(0) * (m - n + 1) / m + (v11 * (k @ v11)).sum(0) * (n - 1) / m
    mmd = RelabelledMmd([Gaussian(0.8)], x, y)
    found = mmd(labels)[0].numpy()
    np.testing.assert_allclose(found * n * (n - 1), form, rtol=0, atol=1e-8 * np.abs(form).max())
    assert mmd.squares.item() == pytest.approx((k**2).sum(), rel=1e-10)


def test_hyppos_biased_statistic_is_a_line_in_ours():
    """For n = m, hyppo 0.5.2's MMD (bias=True) is tr(KHLH), normalised, with L of the labels: increasing in ours, so p is the same.

    tr(KHLH) = N^2 2 n^2 m^2 / N^4 MMD_v^2, and with T the sum of K~, S_xy = (T / (n(n-1)) - MMD_u^2) n^2 (n-1) / (2 (2n - 1)) gives
    MMD_v^2 = (T + tr K - 4 S_xy) / n^2. For n != m the two rank relabelings differently.
    """
    n = 15
    x, y = _normal(n, 19), _normal(n, 20, 0.4)
    labels = Permutations(n, n).draw(60, _seeded(21))
    k, h = _gram(0.8, x, y), np.eye(2 * n) - 1 / (2 * n)
    hsic = []
    for column in labels.double().numpy().T:
        label = np.outer(column, column) + np.outer(1 - column, 1 - column)
        hsic.append(np.trace(k @ h @ label @ h) / (2 * n) ** 2)
    biased = np.array(hsic) / (2 * n**4 / (2 * n) ** 4)
    ours = RelabelledMmd([Gaussian(0.8)], x, y)(labels)[0].numpy()
    total = k.sum() - np.trace(k)
    between = (total / (n * (n - 1)) - ours) * n**2 * (n - 1) / (2 * (2 * n - 1))
    np.testing.assert_allclose(biased, (total + np.trace(k) - 4 * between) / n**2, rtol=0, atol=1e-8 * biased.max())
    assert (np.argsort(biased) == np.argsort(ours)).all()


# ----------------------------------------------------------------------------------------------------- the test of one kernel


def _test(x, y, kernel, count, seed, paired=False):
    group = SignFlips(len(x)) if paired else Permutations(len(x), len(y))
    return relabelling_test(One(RelabelledMmd([kernel], x, y, paired)), group, count, _seeded(seed))


@pytest.mark.parametrize("sizes", [(8, 8), (11, 6), (2, 9)])
def test_null_and_p_value_are_brute_force(sizes):
    """With the same permutations, sub-matrix by sub-matrix, the null values and (1 + count) / (1 + B) are the same."""
    (n, m), b = sizes, 200
    x, y = _normal(n, 1), _normal(m, 2, 0.6)
    result = _test(x, y, KERNEL, b, 3)
    matrix, labels = _matrix(KERNEL, x, y), Permutations(n, m).draw(b, _seeded(3))[:, 1:]
    null = [_mmd2_of_assignment(matrix, np.flatnonzero(column)) for column in labels.T.numpy()]
    np.testing.assert_allclose(result.null.numpy(), null, atol=1e-12)
    count = sum(value >= _mmd2_of_assignment(matrix, np.arange(n)) - 1e-12 for value in null)
    assert result.p_value == (1 + count) / (1 + b), f"{result.p_value} against {count} of {b}"


def test_p_value_of_tiny_samples_is_the_exact_one():
    """At n = m = 3 the p-value is, to 4 binomial standard errors, the exact share of the 20 splits; of 4 pairs, of the 16 flips."""
    x, y, b = _normal(3, 4), _normal(3, 5, 1.0), 4000
    matrix = _matrix(KERNEL, x, y)
    values = np.array([_mmd2_of_assignment(matrix, np.array(c)) for c in combinations(range(6), 3)])
    x4, y4 = _normal(4, 30), _normal(4, 31, 0.5)
    flips = np.array(np.meshgrid(*[[1, -1]] * 4)).reshape(4, -1).T
    flipped = np.array([_mmd2_of_pairs(_matrix(KERNEL, x4, y4), signs) for signs in flips])
    for p, null, observed in (
        (_test(x, y, KERNEL, b, 6).p_value, values, values[0]),
        (_test(x4, y4, KERNEL, b, 6, paired=True).p_value, flipped, flipped[0]),
    ):
        exact = np.mean(null >= observed - 1e-12)
        assert exact < 1 and abs(p - exact) < 4 * math.sqrt(exact * (1 - exact) / b) + 1 / b, (
            f"{p:.4f} against {exact:.4f}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "paired"), [(5, 5, False), (4, 9, False), (60, 60, True), (90, 60, False)])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_constant_data_give_p_one(kernel, n, m, paired, dtype):
    """Where all values tie, rounding does not decide: p = 1, in float32 too."""
    x, y = (torch.full((size, 3), 0.1, dtype=dtype) for size in (n, m))
    assert _test(x, y, kernel, 99, 7, paired).p_value == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_pairs_give_p_one(dtype):
    """Where x_i = y_i for every pair, no flip changes anything: p = 1, although the rows differ."""
    x = _normal(70, 22).to(dtype)
    assert _test(x, x.clone(), KERNEL, 99, 23, paired=True).p_value == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_of_discrete_data_count(dtype):
    """On two-valued data, p counts each permutation that ties with the observed split exactly, as integers show."""
    x, y = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    b = 300
    p = _test(x.to(dtype), y.to(dtype), KERNEL, b, 9).p_value
    values = torch.cat([x, y]).flatten().double()
    # MMD^2_u of 0/1 data depends on the number of ones in the first part alone.
    ones = (values @ Permutations(3, 4).draw(b, _seeded(9))[:, 1:].double()).long().tolist()
    matrix = _matrix(KERNEL, values[:3, None], values[3:, None])
    order, statistic = np.argsort(values.numpy(), kind="stable"), {}
    for k in range(4):
        chosen = np.concatenate([order[: 3 - k], order[len(order) - k :]])
        statistic[k] = round(float(_mmd2_of_assignment(matrix, chosen)), 10)
    assert p == (1 + sum(statistic[k] >= statistic[1] for k in ones)) / (1 + b), p


def test_smallest_p_value_and_one_seed():
    """A clear difference gives p = 1 / (1 + B), never 0; one seed gives one null, another another."""
    x, y = _normal(60, 1), _normal(60, 2, 5.0)
    assert _test(x, y, KERNEL, 19, 3).p_value == _test(x, y, KERNEL, 19, 3, paired=True).p_value == 1 / 20
    first, second, other = (_test(x, y, KERNEL, 20, seed) for seed in (3, 3, 4))
    assert torch.equal(first.null, second.null) and first.null.dtype == torch.float64 and first.null.shape == (20,)
    assert not torch.equal(first.null, other.null)
