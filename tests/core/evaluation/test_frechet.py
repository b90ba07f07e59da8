"""The Frechet distance against closed forms, scipy's matrix root, and its own spread over simulated data sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from gebm_cli.core.evaluation.frechet import frechet_distance, trace_of_root
from gebm_cli.core.evaluation.moments import Moments, moments


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


def _given(covariance, mean=None, n=None) -> Moments:
    return Moments(n, torch.zeros(len(covariance), dtype=torch.float64) if mean is None else mean, covariance)


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
    error = trace_of_root(s1, s2) - (a * b).sqrt().sum().item()
    assert abs(error) < 1e-9, f"error {error:.1e}"
    distance = (s1.trace() + s2.trace()).item() - 2 * trace_of_root(s1, s2)
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    assert abs(distance - expected) < 1e-9, f"{distance} against {expected}"


def test_trace_of_root_of_rotated_covariances_is_scipys(generator):
    """Without common eigenvectors it is the trace of scipy's square root of the product, whichever comes first."""
    s1, s2 = _random_covariance(64, generator), _random_covariance(64, generator)
    expected = np.trace(sqrtm((s1 @ s2).numpy())).real
    for pair in ((s1, s2), (s2, s1)):
        assert trace_of_root(*pair) == pytest.approx(expected, rel=1e-8)


def test_trace_of_root_of_singular_covariances(generator):
    """With s1 = diag(a, 0) and s2 = diag(b, 0) in one rotated frame it is still sum sqrt(a b)."""
    a = torch.cat([torch.linspace(1, 2, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)])
    b = torch.cat([torch.linspace(3, 1, 6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)])
    vectors = _rotation(9, generator)
    result = trace_of_root(_covariance(a, vectors), _covariance(b, vectors))
    expected = (a * b).sqrt().sum().item()
    assert abs(result - expected) < 1e-7, f"{result} against {expected}"


def test_trace_of_root_of_a_zero_covariance_is_zero(generator):
    """A point mass on either side has no root to add, exactly."""
    zero, other = torch.zeros(5, 5, dtype=torch.float64), _random_covariance(5, generator)
    assert [trace_of_root(zero, other), trace_of_root(other, zero)] == [0.0, 0.0]


SPECTRA = {
    "opposite": (torch.logspace(-12, 0, 96), torch.logspace(1, -12, 96)),
    "same order": (torch.logspace(1, -12, 96), torch.logspace(0.5, -12, 96)),
    "one flat": (torch.logspace(1, -12, 96), torch.ones(96)),
    "half tiny": (torch.cat([torch.full((48,), 1e-12), torch.ones(48)]), torch.linspace(0.5, 2, 96)),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_distance_of_ill_conditioned_covariances(name, generator):
    """sum (sqrt a - sqrt b)^2 to 1e-9 with eigenvalues down to 1e-12, in a rotated frame, either way round."""
    a, b = (v.double() for v in SPECTRA[name])
    vectors = _rotation(len(a), generator)
    sides = [_given(_covariance(v, vectors)) for v in (a, b)]
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    for pair in (sides, sides[::-1]):
        assert frechet_distance(*pair).value == pytest.approx(expected, rel=1e-9)


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
    single, double = (frechet_distance(torch.cat([x] * k, 1), torch.cat([y] * k, 1)) for k in (1, 2))
    assert double.value == pytest.approx(2 * single.value, abs=1e-9)
    assert double.standard_error == pytest.approx(2 * single.standard_error, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (10, 16)])
def test_same_set_twice_is_zero(n, d, generator):
    """The distance of a set to itself is 0 to 1e-10 of its trace, never below, from features and from moments."""
    x = _normal(n, d, generator) @ _normal(d, d, generator)
    trace = torch.cov(x.T).trace().item()
    for pair in ((x, x), (x, moments(x)), (moments(x), moments(x)), (torch.cat([x, x], 1), torch.cat([x, x], 1))):
        value = frechet_distance(*pair).value
        assert 0.0 <= value <= 1e-10 * trace, f"{value:.1e} of {trace:.1e}"


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


@pytest.mark.parametrize(("x", "y"), [((1, 3), (5, 3)), ((5, 3), (1, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_bad_shapes_are_refused(x, y):
    """One row, other dimensions, or no matrix is a ValueError that gives the shape."""
    with pytest.raises(ValueError, match=r"got \((1, 3|5, 3\), \(5, 4|5,)\)"):
        frechet_distance(torch.zeros(x), torch.zeros(y))


@pytest.mark.parametrize("n", [3, 30])
def test_values_that_are_not_finite_are_refused(n, generator):
    """nan and infinity are named, above and below n = d, from moments as well."""
    for bad in (math.nan, math.inf):
        x = _normal(n, 6, generator)
        x[1, 2] = bad
        with pytest.raises(ValueError, match="not finite"):
            frechet_distance(x, _normal(n, 6, generator))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(_given(torch.full((2, 2), math.nan, dtype=torch.float64)), _normal(9, 2, generator))


def test_panels_cover_the_triangle(generator, monkeypatch):
    """Panels that do not divide the dimension give the same distance and error as one panel."""
    x, y = _normal(60, 17, generator) @ _normal(17, 17, generator), _normal(50, 17, generator)
    whole = frechet_distance(x, y)
    monkeypatch.setattr("gebm_cli.core.evaluation.frechet.PANEL", 5)
    panels = frechet_distance(x, y)
    assert panels.value == pytest.approx(whole.value, rel=1e-12)
    assert panels.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


# ----------------------------------------------------------------------------------------------- features, moments, rank


@pytest.mark.parametrize(("n", "m"), [(50, 60), (10, 60), (60, 10), (10, 12)])
def test_moments_stand_for_their_features(n, m, generator):
    """Features, moments, or one of each, at every rank: one distance to 1e-10, symmetric, with the same flag."""
    x, y = _normal(n, 16, generator) @ _normal(16, 16, generator), _normal(m, 16, generator) + 0.5
    whole = frechet_distance(x, y)
    for pair in ((moments(x), y), (x, moments(y)), (moments(x), moments(y)), (moments(y), x)):
        part = frechet_distance(*pair)
        assert part.value == pytest.approx(whole.value, rel=1e-10)
        assert (part.singular, part.clipped < 1e-12) == (whole.singular, True)


def test_known_moments_are_used_and_change_nothing(generator):
    """`y_moments` gives the same bits as forming them; moments of something else would be believed."""
    x, y = _normal(50, 8, generator), _normal(60, 8, generator) + 0.5
    assert frechet_distance(x, y, y_moments=moments(y)) == frechet_distance(x, y)
    assert frechet_distance(x, y, with_error=False, y_moments=moments(x)).value < 1e-12


@pytest.mark.parametrize("n", [10, 60])
def test_repeated_features_on_one_side_only(n, generator):
    """x = (u, u) against y of full rank, and against moments of unknown n: the definition by singular values."""
    u, y = _normal(n, 4, generator), _normal(200, 8, generator) @ _normal(8, 8, generator)
    x = torch.cat([u, u], 1)
    s2, centred = torch.cov(y.T), (x - x.mean(0)) / math.sqrt(n - 1)
    cross = torch.linalg.svdvals(centred @ torch.linalg.cholesky(s2)).sum()
    expected = ((x.mean(0) - y.mean(0)).square().sum() + centred.square().sum() + s2.trace() - 2 * cross).item()
    for pair in ((x, y), (_given(torch.cov(x.T), x.mean(0)), y), (y, moments(x))):
        assert frechet_distance(*pair).value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("n", "m"), [(40, 50), (7, 50), (40, 7), (7, 7)])
def test_dead_features(n, m, generator):
    """Features constant on one side add their variance on the other, whichever they are, also where all are dead."""
    x, y = _normal(n, 10, generator), _normal(m, 10, generator)
    x[:, :2], y[:, 2:5], y[:, 5] = 0.1, 0.3, 0.0
    x[:, 5] = 0.7
    live = frechet_distance(x[:, 6:], y[:, 6:])
    shift = (x.mean(0) - y.mean(0))[:6].square().sum()
    expected = live.value + (shift + x[:, :6].var(0).sum() + y[:, :6].var(0).sum()).item()
    assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-12)
    none = frechet_distance(x[:, :5], y[:, :5])
    assert math.isfinite(none.value + none.standard_error)


def test_indefinite_covariance_is_told_apart(generator):
    """A matrix with a negative eigenvalue that is passed for a covariance shows in `clipped`; true ones do not."""
    broken = torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64))
    assert frechet_distance(_given(broken), _normal(20, 3, generator)).clipped == pytest.approx(0.2)
    assert frechet_distance(_normal(30, 3, generator), _normal(20, 3, generator)).clipped == 0.0


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_noise_beyond_the_rank_of_stored_moments_is_cut(sign, generator):
    """Moments of 10 rows in 16 dimensions, stored with noise of 1e-10: it moves the distance by 1e-9, not by its root."""
    x, y = _normal(10, 16, generator), _normal(60, 16, generator) @ _normal(16, 16, generator)
    exact = moments(x)
    stored = Moments(10, exact.mean, exact.covariance + sign * 1e-10 * torch.eye(16, dtype=torch.float64))
    assert frechet_distance(stored, y).value == pytest.approx(frechet_distance(x, y).value, abs=1e-8)


def test_unknown_n_is_judged_by_rank(generator):
    """Moments without n are singular where there is no Cholesky factor."""
    y = _normal(50, 6, generator)
    full, low = _random_covariance(6, generator), torch.cov(_normal(4, 6, generator).T)
    assert [frechet_distance(_given(s), y).singular for s in (full, low)] == [False, True]


# --------------------------------------------------------------------------------------------------------- standard error


def _map(source, target):
    """T with T S1 T = S2 from symmetric roots, T = S1^(-1/2) (S1^(1/2) S2 S1^(1/2))^(1/2) S1^(-1/2), pseudo-inverted."""
    values, vectors = np.linalg.eigh(source.numpy())
    kept = values > 1e-10 * values[-1]
    root = (vectors[:, kept] * values[kept] ** 0.5) @ vectors[:, kept].T
    inverse = (vectors[:, kept] * values[kept] ** -0.5) @ vectors[:, kept].T
    middle_values, middle = np.linalg.eigh(root @ target.numpy() @ root)
    middle = (middle * np.sqrt(np.clip(middle_values, 1e-14 * middle_values[-1], None))) @ middle.T
    return torch.from_numpy(inverse @ middle @ inverse)


def _variance(x, y):
    """The delta method's variance of the x side, with its map formed."""
    centred = x - x.mean(0)
    away = torch.eye(x.shape[1], dtype=torch.float64) - _map(torch.cov(x.T), torch.cov(y.T))
    influence = 2 * centred @ (x.mean(0) - y.mean(0)) + ((centred @ away) * centred).sum(1)
    return influence.var().item() / len(x)


@pytest.mark.parametrize(("n", "m"), [(60, 90), (10, 90), (90, 10), (9, 12), (12, 9)])
@pytest.mark.parametrize("twice", [False, True])
def test_standard_error_is_that_of_the_formed_maps(n, m, twice, generator):
    """Both parts equal the influences under transport maps made of dense roots, at full and low rank, doubled or not."""
    x, y = _normal(n, 15, generator) @ _normal(15, 15, generator), 1.5 * _normal(m, 15, generator) + 0.5
    if twice:
        x, y = torch.cat([x, x], 1), torch.cat([y, y], 1)
    parts = [_variance(x, y), _variance(y, x)]
    assert frechet_distance(x, y).standard_error == pytest.approx(math.sqrt(sum(parts)), rel=1e-5)
    assert frechet_distance(x, moments(y)).standard_error == pytest.approx(math.sqrt(parts[0]), rel=1e-5)
    assert frechet_distance(moments(x), y).standard_error == pytest.approx(math.sqrt(parts[1]), rel=1e-5)


@pytest.mark.parametrize("n", [40, 5])
def test_standard_error_is_the_infinitesimal_jackknife(n, generator):
    """The influences are the derivatives of the distance in the weight of each row, by central differences."""
    x, y = _normal(n, 6, generator) @ _normal(6, 6, generator), _normal(50, 6, generator) + 0.4

    def distance(weights):
        weights = weights / weights.sum()
        mean = weights @ x
        centred = (x - mean) * (weights * n / (n - 1)).sqrt()[:, None]
        cross = torch.linalg.svdvals(centred @ torch.linalg.cholesky(torch.cov(y.T))).sum()
        return ((mean - y.mean(0)).square().sum() + centred.square().sum() - 2 * cross).item()

    step, even = 1e-4 / n, torch.full((n,), 1 / n, dtype=torch.float64)
    push = step * torch.eye(n, dtype=torch.float64)
    influence = np.array([(distance(even + e) - distance(even - e)) / (2 * step) for e in push])
    # The influence has n / (n - 1) on its square part, the code has it on none: exact up to 1 / n of the error.
    expected = math.sqrt(influence.var(ddof=1) / n)
    assert frechet_distance(x, moments(y)).standard_error == pytest.approx(expected, rel=1.5 / n)


@pytest.mark.parametrize("n", [5, 50])
def test_standard_error_can_be_left_out(n, generator, monkeypatch):
    """Without it the value has the same bits, and no eigenvectors are formed; between moments there is none to give."""
    x, y = _normal(n, 8, generator), _normal(n, 8, generator) + 1
    expected = frechet_distance(x, y).value
    assert frechet_distance(moments(x), moments(y)).standard_error is None
    monkeypatch.setattr(torch.linalg, "eigh", lambda *_: pytest.fail("eigenvectors were formed"))
    result = frechet_distance(x, y, with_error=False)
    assert (result.value, result.standard_error) == (expected, None)


def test_standard_error_reads_rows_in_blocks(generator, monkeypatch):
    """Blocks that do not divide the rows change nothing but the last digits."""
    x, y = _normal(50, 6, generator).float(), _normal(61, 6, generator) + 1
    whole = frechet_distance(x, y).standard_error
    monkeypatch.setattr("gebm_cli.core.evaluation.frechet.BLOCK", 7)
    assert frechet_distance(x, y).standard_error == pytest.approx(whole, rel=1e-12)


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
