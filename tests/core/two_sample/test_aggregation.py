"""Tests of many kernels: MMD-FUSE against its formula, the smallest of many p-values against loops, and the levels of both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from gebm_cli.core.kernels import Gaussian, Laplace
from gebm_cli.core.two_sample.aggregation import (
    FEWEST_PAIRS,
    Fuse,
    One,
    aggregated,
    relabelings_of,
    relabelled_each,
)
from gebm_cli.core.two_sample.p_values import relabelling_test
from gebm_cli.core.two_sample.relabelled_mmd import RelabelledMmd
from gebm_cli.core.two_sample.relabelling import Permutations, SignFlips

KERNELS = [Laplace(0.5), Gaussian(0.2), Gaussian(1.0), Gaussian(3.0)]


def _normal(n, seed, mean=0.0, dim=2):
    return mean + torch.randn(n, dim, generator=_seeded(seed), dtype=torch.float64)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _grams(x, y):
    """The matrices of KERNELS over the pooled rows with a zero diagonal, in numpy."""
    rows = torch.cat([x, y]).numpy()
    difference = rows[:, None] - rows[None]
    found = [np.exp(-np.abs(difference).sum(-1) / 0.5)]
    found += [np.exp(-(difference**2).sum(-1) / (2 * b * b)) for b in (0.2, 1.0, 3.0)]
    for gram in found:
        np.fill_diagonal(gram, 0)
    return found


# ------------------------------------------------------------------------------------------------------------------ MMD-FUSE


@pytest.mark.parametrize(("m", "n"), [(25, 25), (31, 18)])
def test_fuse_is_the_formula_of_its_code(m, n):
    """The released MMD-FUSE for m >= n: logsumexp, b = 1/K, of the three products over sqrt(sum K~^2) times sqrt(n(n-1)).

    To 1e-8, whichever sample comes first: n is the smaller.
    """
    x, y = _normal(m, 1), _normal(n, 2, 0.6)
    labels = Permutations(m, n).draw(40, _seeded(3))
    v10 = labels.double().numpy()
    v01 = v10 - 1
    v11 = v10 + v01
    forms = []
    for k in _grams(x, y):
        form = (v10 * (k @ v10)).sum(0) * (n - m + 1) * (n - 1) / (m * (m - 1))
        form += (v01 * (k @ v01)).sum(0) * (m - n + 1) / m + (v11 * (k @ v11)).sum(0) * (n - 1) / m
        forms.append(form / np.sqrt((k**2).sum()) * np.sqrt(n * (n - 1)))
    expected = logsumexp(np.array(forms), axis=0, b=1 / len(forms))
    found = Fuse(RelabelledMmd(KERNELS, x, y))(labels).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    order = torch.cat([torch.arange(m, m + n), torch.arange(m)])
    exchanged = Fuse(RelabelledMmd(KERNELS, y, x))((1 - labels)[order]).numpy()
    np.testing.assert_allclose(exchanged, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_fuse_of_sign_flips():
    """With pairs the same weights go with the one-sample statistics."""
    n = 20
    x, y = _normal(n, 4), _normal(n, 5, 0.5)
    labels = SignFlips(n).draw(30, _seeded(6))
    v, forms = labels.double().numpy(), []
    for k in _grams(x, y):
        h = k[:n, :n] + k[n:, n:] - k[:n, n:] - k[n:, :n]
        np.fill_diagonal(h, 0)
        forms.append((v * (h @ v)).sum(0) / (n * (n - 1)) * (n * (n - 1)) ** 1.5 / np.sqrt((k**2).sum()))
    statistic = Fuse(RelabelledMmd(KERNELS, x, y, paired=True))
    found = statistic(labels).numpy()
    np.testing.assert_allclose(found, logsumexp(np.array(forms), axis=0, b=1 / 4), rtol=0, atol=1e-8)
    standardised = statistic.weights * statistic.observed
    np.testing.assert_allclose(standardised.numpy(), np.array(forms)[:, 0], rtol=0, atol=1e-8)


def test_fuse_keeps_the_observed_values_and_a_rounding_of_its_scale():
    """`observed` is MMD^2 of each kernel, and `rounding` that of MMD^2 times the largest weight."""
    x, y = _normal(12, 7), _normal(9, 8)
    statistic, labels = Fuse(RelabelledMmd(KERNELS, x, y)), Permutations(12, 9).draw(5, _seeded())
    statistic(labels)
    torch.testing.assert_close(statistic.observed, statistic.mmd(labels)[:, 0])
    assert statistic.rounding == pytest.approx((statistic.weights * statistic.mmd.rounding).max().item())
    assert statistic.max_columns == One(statistic.mmd).max_columns == statistic.mmd.max_columns


def test_a_kernel_that_is_zero_everywhere_has_no_weight():
    """A bandwidth at which K~ underflows gives 0, not nan; if all are such, p = 1."""
    x, y = _normal(20, 9), _normal(14, 10)
    labels = Permutations(20, 14).draw(30, _seeded())
    mixed = Fuse(RelabelledMmd([Gaussian(1e-9), Gaussian(1.0)], x, y))
    assert mixed(labels).isfinite().all() and mixed.weights[0] == 0 < mixed.weights[1]
    empty = Fuse(RelabelledMmd([Gaussian(1e-9)] * 2, x, y))
    assert relabelling_test(empty, Permutations(20, 14), 39, _seeded()).p_value == 1.0


@pytest.mark.parametrize(("n", "m"), [(6, 9), (60, 60), (80, 60)])
def test_constant_data_give_p_one(n, m):
    """Where all values tie, all tests give p = 1, in float32 too."""
    for dtype in (torch.float32, torch.float64):
        mmd = RelabelledMmd(KERNELS, *(torch.full((k, 2), 0.1, dtype=dtype) for k in (n, m)), paired=n == m)
        group = SignFlips(n) if n == m else Permutations(n, m)
        assert relabelling_test(Fuse(mmd), group, 99, _seeded()).p_value == 1.0
        values = relabelled_each(mmd, group, 99, _seeded())
        assert aggregated(values, mmd.rounding).p_value == 1.0


# -------------------------------------------------------------------------------------------------------- the smallest p-value


def _order_by_loops(values):
    """For each column (min_k p_k, -max_k value / root mean square), p_k(b) the share of columns that reach column b."""
    kernels, columns = values.shape
    spread = [math.sqrt(sum(v * v for v in row) / columns) or 1.0 for row in values]
    order = []
    for b in range(columns):
        shares = [sum(values[k][c] >= values[k][b] for c in range(columns)) for k in range(kernels)]
        order.append((min(shares), -round(max(values[k][b] / spread[k] for k in range(kernels)), 9)))
    return order


@pytest.mark.parametrize("seed", range(12))
def test_aggregated_is_a_brute_force(seed):
    """On continuous values and on integers full of ties, for one to six kernels, p is that of loops.

    The share of columns that come no later than the observed one, by the smallest p of the kernels and then by the largest value.
    """
    generator = _seeded(seed)
    values = torch.randn(1 + seed % 6, 30, generator=generator, dtype=torch.float64)
    values[:, 0] += 0.5 * (seed % 5)
    if seed % 2:
        values = (2 * values).round()
    order = _order_by_loops(values.numpy())
    found = aggregated(values, 0.0)
    assert found.p_value == sum(place <= order[0] for place in order) / 30
    ranks = sorted(range(29), key=lambda c: order[1 + c])
    assert (found.null[ranks].diff() <= 1e-12).all() and not found.stopped_early
    assert -found.statistic == pytest.approx(order[0][0] / 30, abs=0.5 / 30), (
        "the statistic is the smallest p but for ties"
    )


def test_aggregated_of_one_kernel_is_its_p_value():
    """With a single kernel p is (1 + #{null >= observed}) / (1 + B)."""
    values = torch.randn(1, 200, generator=_seeded(20), dtype=torch.float64)
    assert aggregated(values, 0.0).p_value == (values[0] >= values[0, 0]).double().mean().item()


def test_aggregated_counts_values_within_rounding_as_equal():
    """Noise below the rounding changes nothing about a matrix of ties."""
    generator = _seeded(21)
    ties = torch.randint(0, 5, (4, 100), generator=generator).double()
    noisy = ties + 1e-6 * torch.rand(4, 100, generator=generator, dtype=torch.float64)
    assert aggregated(noisy, 2e-6).p_value == aggregated(ties, 0.0).p_value
    torch.testing.assert_close(aggregated(noisy, 2e-6).null, aggregated(ties, 0.0).null)
    slight = ties + 1e-12 * torch.rand(4, 100, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(aggregated(slight, 0.0).null, aggregated(ties, 0.0).null)


def test_columns_that_differ_from_the_observed_one_by_rounding_tie_with_it():
    """Five copies of the observed column, slightly lower, count, in front as in the midst; without the rounding they do not."""
    for shift in (0.0, 2.0):
        values = torch.randn(3, 60, generator=_seeded(27), dtype=torch.float64)
        values[:, 0] += shift
        values[:, 1:6] = values[:, :1]
        exact = aggregated(values, 0.0).p_value
        values[:, 1:6] -= 1e-6
        assert aggregated(values, 2e-6).p_value == exact >= 0.1
        assert aggregated(values, 0.0).p_value < exact


def test_constant_rows_do_not_matter():
    """All rows constant: p = 1. One among others: every share of it is 1, so it is never the smallest."""
    assert aggregated(torch.full((3, 50), 0.1, dtype=torch.float64), 0.0).p_value == 1.0
    assert aggregated(torch.zeros(3, 50, dtype=torch.float64), 0.0).p_value == 1.0
    values = torch.randn(2, 50, generator=_seeded(22), dtype=torch.float64)
    values[:, 0] += 2
    with_constant = torch.cat([values, torch.zeros(1, 50, dtype=torch.float64)])
    assert aggregated(with_constant, 0.0).p_value == aggregated(values, 0.0).p_value < 0.5


def test_ties_of_the_smallest_p_are_broken_by_size():
    """Three columns are each the largest of one kernel: only those with a larger multiple of their kernel's spread come before."""
    values = torch.randn(3, 100, generator=_seeded(26), dtype=torch.float64).clamp(-2, 2)
    values[0, 0], values[1, 1], values[2, 2] = 5, 4, 3
    values[1] *= 100  # the unit of a kernel does not matter
    assert aggregated(values, 0.0).p_value == 0.01
    for first, p in ((1, 0.02), (2, 0.03)):
        order = [first, *(c for c in range(100) if c != first)]
        assert aggregated(values[:, order], 0.0).p_value == p


@pytest.mark.parametrize("ties", [False, True])
def test_aggregated_p_values_are_valid(ties):
    """On 3,000 matrices of exchangeable, dependent columns P(p <= a) <= a, to 3 standard errors, and near a without ties."""
    generator, runs, p = _seeded(23), 3000, []
    for _ in range(runs):
        values = torch.randn(5, 40, generator=generator, dtype=torch.float64) + torch.randn(1, 40, generator=generator)
        p.append(aggregated(values.round() if ties else values, 0.0).p_value)
    for alpha in (0.05, 0.2, 0.5):
        rate, error = np.mean(np.array(p) <= alpha + 1e-12), math.sqrt(alpha * (1 - alpha) / runs)
        assert rate <= alpha + 3 * error, f"{rate:.4f} at {alpha}"
        if not ties:
            assert rate > alpha - 4 * error, f"{rate:.4f} at {alpha}"
    assert min(p) > 0


def test_the_smallest_p_value_alone_is_not_a_p_value():
    """Without the second step, five kernels would reject far more often: what the aggregation corrects."""
    generator = _seeded(24)
    matrices = [torch.randn(5, 40, generator=generator, dtype=torch.float64) for _ in range(400)]
    uncorrected = np.mean([-aggregated(values, 0.0).statistic <= 0.05 for values in matrices])
    corrected = np.mean([aggregated(values, 0.0).p_value <= 0.05 for values in matrices])
    assert uncorrected > 0.09 and corrected <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400), (uncorrected, corrected)


def test_aggregated_p_of_a_clear_difference():
    """If every kernel's observed value is the largest, p = 1 / (1 + B) where no other column is the largest of any kernel."""
    values = torch.randn(3, 100, generator=_seeded(25), dtype=torch.float64)
    values[:, 0] = 10
    assert aggregated(values, 0.0).p_value == 0.01


# -------------------------------------------------------------------------------------------------------------- the relabelings


@pytest.mark.parametrize("paired", [False, True])
def test_batches_give_the_values_of_one_batch(monkeypatch, paired):
    """Observed and relabelled values in batches of 7, which draw the same relabelings one after the other."""
    x, y = _normal(20, 30), _normal(20, 31, 0.5)
    group = SignFlips(20) if paired else Permutations(20, 20)
    whole = relabelled_each(RelabelledMmd(KERNELS, x, y, paired), group, 23, _seeded(32))
    monkeypatch.setattr(RelabelledMmd, "max_columns", 7)
    generator = _seeded(32)
    drawn = torch.cat([group.draw(0, _seeded()), *(group.draw(b, generator)[:, 1:] for b in (7, 7, 7, 2))], 1)
    parts = relabelled_each(RelabelledMmd(KERNELS, x, y, paired), group, 23, _seeded(32))
    assert whole.shape == parts.shape == (4, 24)
    torch.testing.assert_close(parts, RelabelledMmd(KERNELS, x, y, paired)(drawn), rtol=0, atol=1e-14)
    torch.testing.assert_close(whole[:, 0], parts[:, 0], rtol=0, atol=1e-14)
    if not paired:  # permutations are drawn one by one, so the batches are cuts of one stream
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-14)


def test_sign_flips_for_enough_pairs_and_permutations_otherwise():
    """Flips where n = m >= 50; permutations for other sizes, and where pairs are few."""
    assert relabelings_of(FEWEST_PAIRS, FEWEST_PAIRS) == SignFlips(50)
    assert relabelings_of(49, 49) == Permutations(49, 49) and relabelings_of(60, 61) == Permutations(60, 61)


def test_one_is_the_first_kernel():
    """The statistic of a single kernel is its row, and rounds as it does."""
    mmd, labels = RelabelledMmd([KERNELS[2]], _normal(9, 33), _normal(7, 34)), Permutations(9, 7).draw(4, _seeded())
    assert torch.equal(One(mmd)(labels), mmd(labels)[0]) and One(mmd).rounding == mmd.rounding[0]


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 18)])
def test_fine_structure_is_found_by_many_kernels(n, m):
    """A fine grid against its jittered copy: the two tests of many kernels find it, that of the widest kernel does not."""
    x = torch.randint(0, 3, (n, 2), generator=_seeded(35)).double() + 0.02 * _normal(n, 36)
    y = torch.randint(0, 3, (m, 2), generator=_seeded(37)).double() + 0.25 * _normal(m, 38)
    group = relabelings_of(n, m)
    kernels = [Gaussian(b) for b in (0.05, 0.2, 1.0, 3.0)]
    mmd = RelabelledMmd(kernels, x, y, isinstance(group, SignFlips))
    fused = relabelling_test(Fuse(mmd), group, 199, _seeded(39)).p_value
    smallest = aggregated(relabelled_each(mmd, group, 199, _seeded(40)), mmd.rounding).p_value
    wide = relabelling_test(
        One(RelabelledMmd([Gaussian(3.0)], x, y, isinstance(group, SignFlips))), group, 199, _seeded(41)
    )
    assert fused == 1 / 200 and smallest <= 0.05 and wide.p_value > 0.05, (fused, smallest, wide.p_value)


@pytest.mark.parametrize("paired", [True, False])
def test_a_kernel_that_is_nearly_zero_does_not_make_all_tie(paired):
    """In float32 ties are told kernel by kernel: the huge weight of a tiny kernel is no measure of how a wide one rounds."""
    x, y = _normal(120, 50, dim=10).float(), _normal(120, 51, dim=10).float() + 0.6
    mmd = RelabelledMmd([Gaussian(0.4), Gaussian(4.0)], x, y, paired)
    group = SignFlips(120) if paired else Permutations(120, 120)
    found = relabelling_test(Fuse(mmd), group, 199, _seeded(52))
    assert mmd.squares[0] < 1e-6 * mmd.squares[1], "one kernel is nearly zero"
    assert found.rounding < 0.01 * found.null.std() and (found.null >= found.statistic - found.rounding).sum() < 20
