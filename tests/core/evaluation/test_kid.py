"""KID against a double loop and scikit-learn's polynomial kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from gebm_cli.core import mmd
from gebm_cli.core.evaluation.kid import kid, kid_difference, kid_on_subsets, kid_subsets
from gebm_cli.core.kernels import Polynomial


def _normal(n, d, generator, mean=0.0):
    return mean + torch.randn(n, d, generator=generator, dtype=torch.float64)


def _kid_by_sklearn(x, y):
    """The unbiased estimate from scikit-learn's kernel matrices, degree 3, gamma 1 / d, offset 1."""
    n, m = len(x), len(y)
    kxx, kyy, kxy = (polynomial_kernel(*pair, degree=3, coef0=1) for pair in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(kxx, 0)
    np.fill_diagonal(kyy, 0)
    return kxx.sum() / (n * (n - 1)) + kyy.sum() / (m * (m - 1)) - 2 * kxy.mean()


def _kid_by_loops(x, y):
    d, n, m = x.shape[1], len(x), len(y)

    def k(a, b):
        return (sum(s * t for s, t in zip(a, b, strict=True)) / d + 1) ** 3

    x, y = x.tolist(), y.tolist()
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_is_its_double_loop(generator):
    """KID equals the U-statistic with k = (x.y / d + 1)^3 written as loops, to 1e-12."""
    x, y = _normal(9, 5, generator), _normal(13, 5, generator, 0.5)
    assert kid(x, y).value == pytest.approx(_kid_by_loops(x, y), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_kid_is_sklearns(dtype, tolerance, generator):
    """KID equals the value from scikit-learn's kernel, in float64 to 1e-12 and in float32 to 1e-6."""
    x, y = _normal(200, 64, generator), _normal(150, 64, generator, 0.3)
    error = abs(kid(x.to(dtype), y.to(dtype)).value - _kid_by_sklearn(x.numpy(), y.numpy()))
    assert error < tolerance, f"error {error:.1e}"


def test_kid_sees_what_it_should(generator):
    """KID is within 4 standard errors of 0 for equal laws and beyond 10 for shifted ones."""
    x, same, shifted = _normal(500, 16, generator), _normal(400, 16, generator), _normal(400, 16, generator, 0.5)
    null, far = kid(x, same), kid(x, shifted)
    assert abs(null.value) < 4 * null.standard_error, null
    assert far.value > 10 * far.standard_error, far


def test_kid_difference_is_negative_when_x_is_closer(generator):
    """The difference is KID(reference, x) - KID(reference, y), so the closer first gives z < -4."""
    r, near, far = _normal(300, 8, generator), _normal(250, 8, generator, 0.1), _normal(200, 8, generator, 0.8)
    difference = kid_difference(r, near, far)
    assert difference.z < -4 and difference.p_less < 1e-4, difference
    assert difference.value == pytest.approx(kid(r, near).value - kid(r, far).value, rel=1e-12)
    assert kid_difference(r, far, near).z == pytest.approx(-difference.z, rel=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_blocks_change_nothing(monkeypatch, dtype, tolerance, generator):
    """Value and error are the same, relatively, for blocks of any size."""
    x, y = _normal(300, 64, generator).to(dtype), _normal(211, 64, generator, 0.5).to(dtype)
    whole = kid(x, y)
    for block in (7, 37, 64) if dtype == torch.float64 else (37, 128):
        monkeypatch.setattr(mmd, "BLOCK", block)
        blocked = kid(x, y)
        assert blocked.value == pytest.approx(whole.value, rel=tolerance)
        assert blocked.standard_error == pytest.approx(whole.standard_error, rel=100 * tolerance)


def test_progress_is_told_of_every_block(monkeypatch, generator):
    monkeypatch.setattr(mmd, "BLOCK", 10)
    seen = []
    kid(_normal(25, 3, generator), _normal(14, 3, generator), lambda *args: seen.append(args))
    assert seen == [(i, 6 + 3 + 6) for i in range(1, 16)]


def test_inputs_are_left_alone(generator):
    x, y = _normal(30, 3, generator), _normal(30, 3, generator)
    copies = x.clone(), y.clone()
    kid(x, y), kid_subsets(x, y, 3, 10)
    assert torch.equal(x, copies[0]) and torch.equal(y, copies[1])


@pytest.mark.parametrize("n", [2, 3])
def test_few_rows_have_the_first_order_error(n, generator):
    x, y = _normal(n, 3, generator), _normal(9, 3, generator)
    assert kid(x, y) == mmd.mmd2(x, y, Polynomial(3))
    assert kid(x, y).value == pytest.approx(_kid_by_loops(x, y), rel=1e-12)


@pytest.mark.parametrize("shapes", [((1, 2), (9, 2)), ((9, 2), (0, 2)), ((9, 2), (9, 3)), ((9,), (9,))])
def test_what_cannot_be_scored_is_refused(shapes):
    with pytest.raises(ValueError, match="must be"):
        kid(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


# ----------------------------------------------------------------------------------------------------- the field's subsets


def test_subsets_by_loops(generator):
    """Mean and spread (divided by the number of subsets) of the double loop, for the documented draws."""
    x, y = _normal(12, 3, generator), _normal(15, 3, generator, 0.5)
    state = np.random.RandomState(7)
    values = []
    for _ in range(4):
        i, j = state.choice(12, 6, replace=False), state.choice(15, 6, replace=False)
        values.append(_kid_by_loops(x[i], y[j]))
    result = kid_subsets(x, y, 4, 6, seed=7)
    assert (result.mean, result.spread) == pytest.approx((np.mean(values), np.std(values)), rel=1e-12)
    assert (result.n_subsets, result.size) == (4, 6)
    assert kid_subsets(x, y, 4, 6, seed=8).mean != result.mean


def test_subsets_are_torch_fidelitys(generator):
    """The same numbers from the same features, seed and subsets; their default seed is ours."""
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = _normal(120, 16, generator), _normal(150, 16, generator, 0.5)
    theirs = metric.kid_features_to_metric(x, y, kid_subsets=9, kid_subset_size=50, verbose=False)
    ours = kid_subsets(x, y, 9, 50)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    assert ours.spread == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-10)


def test_subsets_are_torchmetrics(generator):
    """The same subsets, drawn as torchmetrics draws them, give its mean and spread."""
    image = pytest.importorskip("torchmetrics.image.kid")
    x, y = _normal(120, 16, generator), _normal(150, 16, generator, 0.5)
    metric = image.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=5, subset_size=40)
    metric.real_features, metric.fake_features = [x], [y]
    torch.manual_seed(3)
    mean, spread = (value.item() for value in metric.compute())
    torch.manual_seed(3)
    pairs = [(torch.randperm(120)[:40].numpy(), torch.randperm(150)[:40].numpy()) for _ in range(5)]
    values = kid_on_subsets(x, y, pairs)
    assert values.mean().item() == pytest.approx(mean, rel=1e-10)
    assert values.std(correction=0).item() == pytest.approx(spread, rel=1e-10)


@pytest.mark.parametrize(("n_subsets", "size", "message"), [(3, 11, "smaller"), (3, 1, "at least 2"), (0, 5, "one of")])
def test_subsets_that_cannot_be_drawn_are_refused(n_subsets, size, message):
    for pair in ((10, 20), (20, 10)):
        with pytest.raises(ValueError, match=message):
            kid_subsets(torch.zeros(pair[0], 2), torch.zeros(pair[1], 2), n_subsets, size)
