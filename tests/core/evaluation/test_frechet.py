"""The Frechet distance against closed forms, scipy's matrix root, and its own spread over simulated data sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from gebm_cli.core.evaluation.frechet import frechet_distance, trace_of_root, transport_maps


def _normal(n, d, generator):
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def _rotation(d, generator) -> Tensor:
    return torch.linalg.qr(_normal(d, d, generator))[0]


def _covariance(values, vectors) -> Tensor:
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


def _random_covariance(d, generator) -> Tensor:
    return _covariance(torch.logspace(-2, 1, d, dtype=torch.float64), _rotation(d, generator))


def _with_moments(n, mean, covariance, generator) -> Tensor:
    """n > d points whose sample mean and covariance are exactly these."""
    x = _normal(n, len(mean), generator)
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return x @ whiten @ torch.linalg.cholesky(covariance).T + mean


def _fid_by_sqrtm(x, y) -> float:
    """The definition, by numpy's covariances and scipy's matrix square root."""
    x, y = x.double().numpy(), y.double().numpy()
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(s1 @ s2)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real))


# ----------------------------------------------------------------------------------------------------- trace of the root


def test_trace_of_root_of_commuting_covariances(generator):
    """With common eigenvectors the trace is sum sqrt(a b), to 1e-9 with eigenvalues down to 1e-12."""
    d = 64
    a, b = torch.logspace(-12, 0, d, dtype=torch.float64), torch.logspace(1, -12, d, dtype=torch.float64)
    vectors = _rotation(d, generator)
    s1, s2 = _covariance(a, vectors), _covariance(b, vectors)
    error = trace_of_root(s1, s2).item() - (a * b).sqrt().sum().item()
    assert abs(error) < 1e-9, f"error {error:.1e}"
    distance = (s1.trace() + s2.trace() - 2 * trace_of_root(s1, s2)).item()
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    assert abs(distance - expected) < 1e-9, f"{distance} against {expected}"


def test_trace_of_root_of_rotated_covariances_is_scipys(generator):
    """Without common eigenvectors it is the trace of scipy's square root of the product, whichever comes first."""
    s1, s2 = _random_covariance(64, generator), _random_covariance(64, generator)
    expected = np.trace(sqrtm((s1 @ s2).numpy())).real
    for pair in ((s1, s2), (s2, s1)):
        assert trace_of_root(*pair).item() == pytest.approx(expected, rel=1e-8)


def test_trace_of_root_of_singular_covariances(generator):
    """With s1 = diag(a, 0) and s2 = diag(b, 0) in one rotated frame it is still sum sqrt(a b)."""
    a = torch.cat([torch.linspace(1, 2, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)])
    b = torch.cat([torch.linspace(3, 1, 6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)])
    vectors = _rotation(9, generator)
    result = trace_of_root(_covariance(a, vectors), _covariance(b, vectors)).item()
    expected = (a * b).sqrt().sum().item()
    assert abs(result - expected) < 1e-7, f"{result} against {expected}"


def test_trace_of_root_of_a_zero_covariance_is_zero(generator):
    """A point mass on either side has no root to add, exactly."""
    zero, other = torch.zeros(5, 5, dtype=torch.float64), _random_covariance(5, generator)
    assert [trace_of_root(zero, other).item(), trace_of_root(other, zero).item()] == [0.0, 0.0]


# --------------------------------------------------------------------------------------------------------- transport maps


def test_transport_maps_carry_one_covariance_to_the_other(generator):
    """T S1 T = S2 and T' S2 T' = S1, T symmetric and positive, and the two maps are inverse."""
    s1, s2 = _random_covariance(16, generator), _random_covariance(16, generator)
    to_y, to_x = transport_maps(s1, s2)
    for result, expected in ((to_y @ s1 @ to_y, s2), (to_x @ s2 @ to_x, s1), (to_y, to_y.T)):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_y @ to_x, torch.eye(16, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert torch.linalg.eigvalsh(to_y)[0] > 0


def test_transport_map_of_commuting_covariances():
    """For diagonal covariances the map is the diagonal of sqrt(b / a), and 0 where the source has no mass."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in ([4.0, 1.0, 0.0], [1.0, 9.0, 2.0]))
    to_y, to_x = transport_maps(torch.diag(a), torch.diag(b))
    for result, expected in ((to_y, [0.5, 3.0, 0.0]), (to_x, [2.0, 1 / 3, 0.0])):
        torch.testing.assert_close(result, torch.diag(torch.tensor(expected, dtype=torch.float64)), atol=1e-12, rtol=0)


# --------------------------------------------------------------------------------------------------------------- distance


def test_distance_is_the_closed_form_of_its_moments(generator):
    """Samples with given commuting moments have |m1 - m2|^2 + sum (sqrt a - sqrt b)^2."""
    d, vectors = 12, _rotation(12, generator)
    a, b = torch.linspace(0.1, 3, d, dtype=torch.float64), torch.linspace(2, 0.01, d, dtype=torch.float64)
    m1, m2 = _normal(2, d, generator)
    x = _with_moments(50, m1, _covariance(a, vectors), generator)
    y = _with_moments(80, m2, _covariance(b, vectors), generator)
    expected = ((m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item()
    assert frechet_distance(x, y).value == pytest.approx(expected, abs=1e-9)


def test_distance_is_the_definition_by_sqrtm(generator):
    """At d = 64 it equals numpy's covariances and scipy's square root to 1e-8, float32 features included."""
    mix = _normal(64, 64, generator)
    x, y = (_normal(300, 64, generator) @ mix).float(), _normal(200, 64, generator).float() + 0.3
    result, expected = frechet_distance(x, y), _fid_by_sqrtm(x, y)
    assert result.value == pytest.approx(expected, rel=1e-8)
    assert not result.singular


def test_distance_of_few_points_agrees_with_the_covariances(generator):
    """Where n <= d, the nuclear norm of the features gives what eigendecompositions of the covariances give."""
    x, y = _normal(30, 40, generator), 2 * _normal(35, 40, generator) + 0.5
    s1, s2 = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(s1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp(min=0).sqrt().sum()
    expected = ((x.mean(0) - y.mean(0)).square().sum() + s1.trace() + s2.trace() - 2 * cross).item()
    result = frechet_distance(x, y)
    assert result.singular
    assert result.value == pytest.approx(expected, abs=1e-6), "beyond the oracle's roots of rounded zeros"


def test_distance_of_two_points_a_side():
    """With two points a side S1 = a a' and S2 = b b', so the trace of the root is |a.b|, by hand."""
    x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0, 0.0], [4.0, 5.0, 0.0]], dtype=torch.float64)
    a, b = (x[1] - x[0]) / math.sqrt(2), (y[1] - y[0]) / math.sqrt(2)
    expected = (1.5**2 + 3.0**2) + a @ a + b @ b - 2 * (a @ b).abs()
    assert frechet_distance(x, y).value == pytest.approx(expected.item(), abs=1e-12)


def test_distance_of_repeated_features_doubles(generator):
    """Each feature written twice doubles the distance, although both covariances become singular at n > d."""
    x, y = _normal(100, 6, generator), 1.5 * _normal(120, 6, generator) + 0.4
    single, double = (frechet_distance(torch.cat([x] * k, 1), torch.cat([y] * k, 1)).value for k in (1, 2))
    assert double == pytest.approx(2 * single, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (10, 16)])
def test_same_set_twice_is_zero(n, d, generator):
    """The distance of a set to itself is 0 to 1e-9 of its trace, above and below n = d."""
    x = _normal(n, d, generator) @ _normal(d, d, generator)
    value, trace = frechet_distance(x, x).value, torch.cov(x.T).trace().item()
    assert abs(value) <= 1e-9 * trace, f"{value:.1e} of {trace:.1e}"


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 16), (12, 150, 16), (12, 9, 16)])
def test_distance_is_symmetric(n, m, d, generator):
    """Value, standard error and flag do not depend on which set comes first."""
    x, y = _normal(n, d, generator) @ _normal(d, d, generator), _normal(m, d, generator) + 1
    there, back = frechet_distance(x, y), frechet_distance(y, x)
    assert there.value == pytest.approx(back.value, abs=1e-9 * there.value)
    assert there.standard_error == pytest.approx(back.standard_error, rel=1e-6)
    assert there.singular == back.singular


@pytest.mark.parametrize("n", [3, 10])
def test_distance_of_constant_sets_is_exact(n):
    """Two point masses are |m1 - m2|^2 apart, with no error, above and below n = d."""
    x, y = torch.zeros(n, 4), torch.full((n + 1, 4), 2.0)
    result = frechet_distance(x, y)
    assert (result.value, result.standard_error) == (16.0, 0.0)


def test_distance_of_a_constant_set_to_a_spread_one(generator):
    """A point mass against y is |m1 - m2|^2 + tr S2."""
    y = _normal(50, 4, generator)
    expected = (y.mean(0).square().sum() + torch.cov(y.T).trace()).item()
    assert frechet_distance(torch.zeros(20, 4), y).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "singular"), [(5, 9, False), (4, 9, True), (9, 4, True), (5, 5, False)])
def test_singular_flag(n, m, singular, generator):
    """The flag is set exactly where one set has no more points than dimensions (d = 4)."""
    assert frechet_distance(_normal(n, 4, generator), _normal(m, 4, generator)).singular is singular


@pytest.mark.parametrize(("x", "y"), [((1, 3), (5, 3)), ((5, 3), (1, 3)), ((5, 3), (5, 4))])
def test_bad_shapes_are_refused(x, y):
    """One row, or different dimensions, is a ValueError that gives both shapes."""
    with pytest.raises(ValueError, match=r"got \(\d, 3\), \(\d, \d\)"):
        frechet_distance(torch.zeros(x), torch.zeros(y))


def test_standard_error_is_the_spread():
    """Over 400 data sets of different laws (d = 8, n = 400, m = 600) the error is within 15 % of the spread."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.eye(8, dtype=torch.float64) + 0.3 * _normal(8, 8, generator)
    runs = [frechet_distance(_normal(400, 8, generator), _normal(600, 8, generator) @ mix + 0.3) for _ in range(400)]
    spread = np.std([r.value for r in runs], ddof=1)
    ratio = math.sqrt(np.mean([r.standard_error**2 for r in runs])) / spread
    assert abs(ratio - 1) < 0.15, f"standard error / spread = {ratio:.3f} (spread {spread:.4f})"


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_standard_error_of_gaussians_is_the_closed_form(shift):
    """For N(shift, I) against N(0, 4 I): var influence = 4 |shift|^2 + 2 d, and 16 |shift|^2 + 8 d / 4 for y."""
    d, n = 3, 40_000
    generator = torch.Generator().manual_seed(2)
    x, y = _normal(n, d, generator) + shift, 2 * _normal(n, d, generator)
    # T = 2 I from x to y and I / 2 back: (I - T) = -I and I / 2; var z'Az = 2 tr A^2 for z ~ N(0, I).
    variance = (4 * d * shift**2 + 2 * d) / n + (16 * d * shift**2 + 2 * d * (4 / 2) ** 2) / n
    ratio = frechet_distance(x, y).standard_error / math.sqrt(variance)
    assert abs(ratio - 1) < 4 * math.sqrt(10 / n), f"ratio {ratio:.4f}"
