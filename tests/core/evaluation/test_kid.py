"""KID against a double loop and scikit-learn's polynomial kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from gebm_cli.core.evaluation.kid import kid, kid_difference


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
