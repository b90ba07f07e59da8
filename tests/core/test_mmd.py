"""The unbiased MMD against a double loop, a closed form and its own spread over simulated data sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from gebm_cli.core import mmd
from gebm_cli.core.kernels import EnergyDistance, Gaussian, GaussianMixture, Polynomial, RationalQuadratic
from gebm_cli.core.mmd import Difference, difference_of, mmd2, mmd2_loss, relative_mmd2, row_means, sums_against

WIDTH, MEAN, SCALE, DIM = 0.8, 0.6, 1.4, 2


def _normal(n, generator, mean=0.0, scale=1.0, dim=DIM):
    return mean + scale * torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _mmd2_by_loops(x, y, kernel):
    """The U-statistic, term by term."""

    def k(a, b):
        return kernel(a[None], b[None]).item()

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def _mean_kernel(mean, variance):
    """E k(a, b) for a - b ~ N(mean (1, ..., 1), variance I) and a Gaussian kernel of bandwidth WIDTH."""
    total = WIDTH**2 + variance
    return (WIDTH**2 / total) ** (DIM / 2) * math.exp(-DIM * mean**2 / (2 * total))


TRUE_MMD2 = _mean_kernel(0, 2) + _mean_kernel(0, 2 * SCALE**2) - 2 * _mean_kernel(MEAN, 1 + SCALE**2)


@pytest.mark.parametrize(
    "kernel",
    [Gaussian(0.9), Polynomial(3), EnergyDistance(), GaussianMixture(linear=0.7), RationalQuadratic(linear=1.0)],
)
@pytest.mark.parametrize("sizes", [(9, 14), (14, 9), (2, 3), (8, 8)])
def test_mmd2_is_its_double_loop(kernel, sizes, generator):
    """The estimate equals the U-statistic written as loops, for any sizes."""
    x, y = _normal(sizes[0], generator), _normal(sizes[1], generator, 0.5)
    expected = _mmd2_by_loops(x, y, kernel)
    assert mmd2(x, y, kernel).value == pytest.approx(expected, abs=1e-12, rel=1e-12)
    assert mmd2_loss(x, y, kernel).item() == pytest.approx(expected, abs=1e-12, rel=1e-12)


def test_standard_error_is_its_formula(generator):
    """SE^2 = 4 var(h_x) / n + 4 var(h_y) / m with the projections h written as loops."""
    x, y, k = _normal(6, generator), _normal(9, generator, 1.0), Gaussian(1.1)
    kxx, kyy, kxy = k(x, x).numpy(), k(y, y).numpy(), k(x, y).numpy()
    hx = [(sum(kxx[i]) - kxx[i, i]) / 5 - sum(kxy[i]) / 9 for i in range(6)]
    hy = [(sum(kyy[j]) - kyy[j, j]) / 8 - sum(kxy[:, j]) / 6 for j in range(9)]
    expected = math.sqrt(4 * np.var(hx, ddof=1) / 6 + 4 * np.var(hy, ddof=1) / 9)
    assert mmd2(x, y, k).standard_error == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("block", [1, 7, 50])
def test_blocks_change_nothing(monkeypatch, block, generator):
    """Streaming the kernel matrices in blocks that divide no size gives the value of one block."""
    x, y, z = _normal(40, generator), _normal(53, generator, 0.3), _normal(31, generator)
    whole, difference = mmd2(x, y, Gaussian(1.0)), relative_mmd2(x, y, z, Gaussian(1.0))
    monkeypatch.setattr(mmd, "BLOCK", block)
    blocked, blocked_difference = mmd2(x, y, Gaussian(1.0)), relative_mmd2(x, y, z, Gaussian(1.0))
    assert blocked.value == pytest.approx(whole.value, abs=1e-13)
    assert blocked.standard_error == pytest.approx(whole.standard_error, rel=1e-12)
    assert blocked_difference.value == pytest.approx(difference.value, abs=1e-13)
    assert blocked_difference.standard_error == pytest.approx(difference.standard_error, rel=1e-12)


def _lopsided(x, y):
    """A float32 matrix of ones, but 2^30 for a marked point with any other, which 32-bit sums round to multiples of 128."""
    marked = (x[:, :1] != 0) | (y[:, 0] != 0)
    return torch.where(marked, 2.0**30, 1.0)


def test_float32_kernels_are_summed_in_float64():
    """Sums of float32 kernel values are exact where 32-bit sums would have rounded them."""
    x, y = torch.zeros(40, 1), torch.zeros(1030, 1)
    y[-1] = 1
    rows, columns = mmd.column_and_row_means(_lopsided, x, y)
    assert (rows * 1030 - (2**30 + 1029)).abs().max() < 1e-6 and (columns[:-1] == 1).all() and columns[-1] == 2**30
    within = mmd.row_means(_lopsided, y)
    assert (within[:-1] * 1029 - (2**30 + 1028)).abs().max() < 1e-6 and within[-1] == 2**30
    squares = mmd.sums_within(_lopsided, y).squares.item()
    assert squares == pytest.approx(2 * 1029 * 2.0**60 + 1029 * 1028, rel=1e-15)


@pytest.mark.parametrize("kernel", [Gaussian(0.9), Polynomial(3), Polynomial(2), GaussianMixture(linear=0.7)])
@pytest.mark.parametrize("block", [3, 10, 64])
def test_sums_of_kernel_matrices_are_those_of_whole_ones(monkeypatch, kernel, block, generator):
    """Rows, columns and squares in blocks, half of them for the symmetric matrix, which loses its diagonal."""
    monkeypatch.setattr(mmd, "BLOCK", block)
    x, y, ticks = _normal(20, generator), _normal(31, generator, 0.3), []
    whole = kernel(x, x).fill_diagonal_(0.0)
    within = mmd.sums_within(kernel, x, lambda: ticks.append(1))
    assert len(ticks) == mmd.n_blocks(20)
    assert torch.allclose(within.rows, whole.sum(1), rtol=1e-13) and torch.equal(within.rows, within.columns)
    assert within.squares.item() == pytest.approx(whole.square().sum().item(), rel=1e-13)
    whole, ticks = kernel(x, y), []
    between = mmd.sums_between(kernel, x, y, lambda: ticks.append(1))
    assert len(ticks) == mmd.n_blocks(20, 31)
    assert torch.allclose(between.rows, whole.sum(1), rtol=1e-13)
    assert torch.allclose(between.columns, whole.sum(0), rtol=1e-13)
    assert between.squares.item() == pytest.approx(whole.square().sum().item(), rel=1e-13)


def test_row_means_against_another_sample(generator):
    x, y = _normal(5, generator), _normal(8, generator)
    assert torch.allclose(row_means(Gaussian(1.0), x, y), Gaussian(1.0)(x, y).mean(1), rtol=1e-13)


def test_float32_data_agree_with_float64(generator):
    """On 3,000 and 2,000 float32 points the value is float64's to the rounding of single kernel values."""
    x, y = _normal(3000, generator), _normal(2000, generator, 0.2)
    exact, single = mmd2(x, y, Gaussian(1.0)).value, mmd2(x.float(), y.float(), Gaussian(1.0)).value
    assert abs(exact - single) < 2e-7, f"{exact} against {single}"


def test_inputs_are_left_alone(generator):
    """No estimate writes into its inputs."""
    x, y = _normal(10, generator), _normal(12, generator)
    copies = x.clone(), y.clone()
    relative_mmd2(x, y, x, Polynomial(3))
    assert torch.equal(x, copies[0]) and torch.equal(y, copies[1])


def _simulate(repetitions, n, m, mean, scale, seed):
    """Values and squared standard errors over independent data sets."""
    generator = torch.Generator().manual_seed(seed)
    runs = [
        mmd2(_normal(n, generator), _normal(m, generator, mean, scale), Gaussian(WIDTH)) for _ in range(repetitions)
    ]
    return np.array([r.value for r in runs]), np.array([r.standard_error**2 for r in runs])


def _z(values, expected=0.0):
    return (values.mean() - expected) / (values.std(ddof=1) / math.sqrt(len(values)))


def test_mean_is_zero_when_the_laws_are_equal():
    """The estimate is unbiased at P = Q, with sizes that differ."""
    values, _ = _simulate(1000, 30, 50, 0.0, 1.0, 1)
    assert abs(_z(values)) < 4, f"mean {values.mean():.2e}, z = {_z(values):.2f}"
    assert (values < 0).any(), "an unbiased estimate of 0 must sometimes be negative"


def test_mean_is_the_closed_form_for_two_gaussians():
    """The estimate is unbiased for MMD^2 of N(0, I) and N(mean, scale^2 I) under a Gaussian kernel."""
    values, _ = _simulate(1000, 40, 60, MEAN, SCALE, 2)
    assert abs(_z(values, TRUE_MMD2)) < 4, f"{values.mean():.5f} against {TRUE_MMD2:.5f}, z = {_z(values, TRUE_MMD2)}"


def test_standard_error_is_the_spread_when_the_laws_differ():
    """The reported error is within 10 % of the root mean square deviation from the truth over 1,000 data sets."""
    values, variances = _simulate(1000, 200, 300, MEAN, SCALE, 3)
    ratio = math.sqrt(variances.mean() / ((values - TRUE_MMD2) ** 2).mean())
    assert abs(ratio - 1) < 0.1, f"standard error / spread = {ratio:.3f}"


def test_standard_error_is_conservative_when_the_laws_are_equal():
    """At P = Q and n = m the mean squared error bar is twice the variance, to within 4 standard errors."""
    values, variances = _simulate(1000, 100, 100, 0.0, 1.0, 4)
    z = _z(variances - 2 * values**2)
    ratio = math.sqrt(variances.mean() / (values**2).mean())
    assert abs(z) < 4 and ratio > 1.2, f"standard error / spread = {ratio:.3f}, z = {z:.2f}"


@pytest.mark.parametrize(("rows", "others"), [(1, 5), (5, 1), (0, 5)])
def test_one_row_is_refused(rows, others):
    """An unbiased estimate needs two rows a side; the message gives the sizes."""
    with pytest.raises(ValueError, match=f"got {rows} and {others}"):
        mmd2(torch.zeros(rows, 2), torch.zeros(others, 2), Gaussian(1.0))


@pytest.mark.parametrize("short", [0, 1, 2])
def test_one_row_is_refused_in_a_comparison(short):
    """A comparison needs two rows in each of its three sets."""
    sets = [torch.zeros(1 if i == short else 5, 2) for i in range(3)]
    with pytest.raises(ValueError, match="at least 2 rows"):
        relative_mmd2(*sets, Gaussian(1.0))


# ------------------------------------------------------------------------------------------------- three-sample comparison


def test_comparison_value_is_the_difference(generator):
    """The value is MMD^2(reference, x) - MMD^2(reference, y), with three sizes."""
    r, x, y = _normal(20, generator), _normal(30, generator, 0.4), _normal(25, generator, 1.0)
    k = Gaussian(1.0)
    expected = mmd2(r, x, k).value - mmd2(r, y, k).value
    assert relative_mmd2(r, x, y, k).value == pytest.approx(expected, abs=1e-14)


def test_comparison_is_negative_when_x_is_closer(generator):
    """z < -4 and p_less < 1e-4 when x is clearly closer, and the opposite after exchange."""
    r, near, far = _normal(300, generator), _normal(300, generator, 0.1), _normal(300, generator, 1.0)
    closer, farther = (relative_mmd2(r, *pair, Gaussian(1.0)) for pair in ((near, far), (far, near)))
    assert closer.z < -4 and closer.p_less < 1e-4, closer
    assert farther.z > 4 and farther.p_less > 1 - 1e-4, farther
    assert closer.value == pytest.approx(-farther.value, abs=1e-14)


@pytest.mark.parametrize(("n", "m", "k"), [(150, 150, 150), (200, 100, 150)])
def test_comparison_is_calibrated_when_both_are_equally_far(n, m, k):
    """Over 400 data sets z has mean 0 (4 standard errors) and spread between .9 and 1.3."""
    generator = torch.Generator().manual_seed(5)
    z = np.array(
        [
            relative_mmd2(
                _normal(n, generator), _normal(m, generator, 0.5), _normal(k, generator, -0.5), Gaussian(WIDTH)
            ).z
            for _ in range(400)
        ]
    )
    assert abs(_z(z)) < 4, f"mean of z = {z.mean():.3f}"
    assert 0.9 < z.std(ddof=1) < 1.3, f"spread of z = {z.std(ddof=1):.3f}"


def test_comparison_knows_that_the_reference_is_shared(generator):
    """For two samples of one far law the error of the difference is well below that of independent estimates."""
    r = _normal(300, generator)
    x, y = (_normal(300, generator, 1.0) for _ in range(2))
    shared = relative_mmd2(r, x, y, Gaussian(WIDTH)).standard_error
    naive = math.hypot(*(mmd2(r, s, Gaussian(WIDTH)).standard_error for s in (x, y)))
    assert shared < 0.9 * naive, f"{shared:.2e} against {naive:.2e}"


@pytest.mark.parametrize(("value", "error"), [(-0.3, 0.1), (0.2, 0.4), (0.0, 1.0), (-5.0, 0.2)])
def test_p_less_is_the_normal_tail(value, error):
    """p_less = Phi(value / standard_error), far into the tail too."""
    assert Difference(value, error).p_less == pytest.approx(norm.cdf(value / error), rel=1e-12)


def test_comparison_without_variance_is_undecided():
    """On constant data z and p_less are nan, not 0 or an exception."""
    result = relative_mmd2(*[torch.ones(5, 2)] * 3, Gaussian(1.0))
    assert (result.value, result.standard_error) == (0.0, 0.0)
    assert math.isnan(result.z) and math.isnan(result.p_less)


def test_kept_sums_give_the_comparison_of_the_samples(generator):
    """From the sums of either sample alone, with or without the reference's own row means, comes the same comparison."""
    r, x, y = _normal(20, generator), _normal(30, generator, 0.4), _normal(25, generator, 1.0)
    direct = relative_mmd2(r, x, y, Polynomial())
    first, second = sums_against(r, x, Polynomial()), sums_against(r, y, Polynomial(), row_means(Polynomial(), r))
    kept = difference_of(first, second)
    assert (kept.value, kept.standard_error) == pytest.approx((direct.value, direct.standard_error), rel=1e-12)
    assert (kept.x.value, kept.y.value) == pytest.approx(
        (mmd2(r, x, Polynomial()).value, mmd2(r, y, Polynomial()).value)
    )
    assert kept.y.standard_error == pytest.approx(mmd2(r, y, Polynomial()).standard_error, rel=1e-12)
