"""MMD^2 of features: value and variance against loops, closed forms, and the spread over simulated data sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from gebm_cli.core.evaluation.feature_mmd import energy_distance, feature_mmd, gaussian_mmd
from gebm_cli.core.evaluation.kid import kid
from gebm_cli.core.kernels import EnergyDistance, Gaussian, Polynomial, median_bandwidth
from gebm_cli.core.mmd import mmd2


def _normal(n, d, generator, mean=0.0, scale=1.0):
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kernel", [Gaussian(0.9), Polynomial(3), EnergyDistance()])
@pytest.mark.parametrize("sizes", [(9, 14), (4, 6), (8, 8)])
def test_the_value_is_mmd2(kernel, sizes, generator):
    x, y = _normal(sizes[0], 3, generator), _normal(sizes[1], 3, generator, 0.5)
    assert feature_mmd(x, y, kernel).value == pytest.approx(mmd2(x, y, kernel).value, rel=1e-12, abs=1e-14)


def _mean_of_products(matrix, indices):
    """Mean over ordered tuples of distinct rows of the product of entries, for U-statistics by loops."""
    return np.mean([math.prod(matrix[a, b] for a, b in pairs) for pairs in indices])


def _own_terms(kxx, n):
    """E k^2 - 2 E k(x, x') k(x, x'') + (E k)^2 over distinct points, term by term."""
    k = range(n)
    second = _mean_of_products(kxx, [((a, b), (a, b)) for a, b in itertools.permutations(k, 2)])
    third = _mean_of_products(kxx, [((a, b), (a, c)) for a, b, c in itertools.permutations(k, 3)])
    fourth = _mean_of_products(kxx, [((a, b), (c, e)) for a, b, c, e in itertools.permutations(k, 4)])
    return second - 2 * third + fourth


def _cross_terms(kxy, n, m):
    second = np.mean(kxy**2)
    rows = np.mean([kxy[i, a] * kxy[i, b] for i in range(n) for a, b in itertools.permutations(range(m), 2)])
    columns = np.mean([kxy[a, j] * kxy[b, j] for j in range(m) for a, b in itertools.permutations(range(n), 2)])
    both = np.mean(
        [
            kxy[a, c] * kxy[b, e]
            for a, b in itertools.permutations(range(n), 2)
            for c, e in itertools.permutations(range(m), 2)
        ]
    )
    return second - rows - columns + both


def _linear_term(kxx, kxy):
    """Var<delta, a> by U-statistics of distinct points: E of products of h over two partners less that over two points."""
    n, m = kxy.shape
    same, apart = [], []
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        own = [kxx[i, a] * kxx[i, b] for a, b in itertools.permutations(rest, 2)]
        other = [kxy[i, a] * kxy[i, b] for a, b in itertools.permutations(range(m), 2)]
        mixed = [kxx[i, a] * kxy[i, b] for a in rest for b in range(m)]
        same.append(np.mean(own) + np.mean(other) - 2 * np.mean(mixed))
    points = list(itertools.permutations(range(n), 4))
    apart.append(np.mean([kxx[i, a] * kxx[j, b] for i, j, a, b in points]))
    pairs, fakes = list(itertools.permutations(range(n), 2)), list(itertools.permutations(range(m), 2))
    apart.append(np.mean([kxy[i, a] * kxy[j, b] for i, j in pairs for a, b in fakes]))
    triples = list(itertools.permutations(range(n), 3))
    apart.append(-2 * np.mean([kxx[i, a] * kxy[j, b] for i, j, a in triples for b in range(m)]))
    return np.mean(same) - sum(apart)


@pytest.mark.parametrize(("mean", "sizes"), [(2.0, (6, 7)), (-1.5, (7, 5)), (0.0, (6, 6))])
def test_the_variance_is_its_u_statistics_by_loops(mean, sizes, generator):
    """Each term of the variance written as a mean over tuples of distinct points, which is unbiased by construction."""
    n, m = sizes
    x, y, k = _normal(n, 2, generator, 0.3), _normal(m, 2, generator, mean), Polynomial(3)
    kxx, kyy, kxy = k(x, x).numpy(), k(y, y).numpy(), k(x, y).numpy()
    linear = 4 * _linear_term(kxx, kxy) / n + 4 * _linear_term(kyy, kxy.T) / m
    degenerate = 2 * _own_terms(kxx, n) / (n * (n - 1)) + 2 * _own_terms(kyy, m) / (m * (m - 1))
    degenerate += 4 * _cross_terms(kxy, n, m) / (n * m)
    expected = math.sqrt(max(linear, 0) + max(degenerate, 0))
    assert feature_mmd(x, y, k).standard_error == pytest.approx(expected, rel=1e-9)


def _runs(repeats, n, m, shift, generator):
    """KID of rectified Gaussians of 64 dimensions with a decaying spectrum, as pooled features are."""
    scale = 2 * torch.linspace(1.0, 0.2, 64) ** 2

    def law(size, shift):
        return torch.relu(torch.randn(size, 64, generator=generator) * scale + 0.3) + shift

    estimates = [kid(law(n, 0.0), law(m, shift)) for _ in range(repeats)]
    return np.array([e.value for e in estimates]), np.array([e.standard_error for e in estimates])


@pytest.mark.parametrize(
    ("n", "m", "shift", "low", "high"),
    [(200, 200, 0.0, 0.95, 1.3), (400, 150, 0.0, 0.95, 1.3), (200, 300, 0.03, 0.9, 1.15), (300, 200, 0.1, 0.9, 1.12)],
)
def test_the_error_is_the_spread(n, m, shift, low, high, generator):
    """Over 300 data sets: near the spread where the laws differ, at most 30 % above where they are equal, and 95 % intervals
    hold the true value in at least 90 %."""
    values, errors = _runs(300, n, m, shift, generator)
    truth = 0.0 if shift == 0 else values.mean()
    ratio = errors.mean() / values.std(ddof=1)
    covered = np.mean(np.abs(values - truth) <= 1.96 * errors)
    z = values.mean() / (values.std(ddof=1) / math.sqrt(len(values)))
    assert low < ratio < high and covered >= 0.9, f"error / spread {ratio:.2f}, coverage {covered:.3f}"
    assert abs(z) < 4 if shift == 0 else z > 4, f"z = {z:.1f}"


def test_the_variance_is_unbiased_without_its_floor(generator):
    """In one dimension with a linear kernel Var MMD^2_u is known: 4 s delta^2 (1/n + 1/m) + s^2 (2/(n(n-1)) + 2/(m(m-1)) + 4/(nm))
    for equal variances s; the mean squared error bar of 2,000 data sets is that, within 4 of its own errors."""
    n, m, delta = 12, 9, 3.0
    variance = 4 * delta**2 * (1 / n + 1 / m) + 2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)

    def linear(x, y):
        return x @ y.T

    squares = np.array(
        [
            feature_mmd(_normal(n, 1, generator, 5.0), _normal(m, 1, generator, 5.0 + delta), linear).standard_error
            ** 2
            for _ in range(2000)
        ]
    )
    z = (squares.mean() - variance) / (squares.std(ddof=1) / math.sqrt(len(squares)))
    assert abs(z) < 4, f"{squares.mean():.3f} against {variance:.3f}, z = {z:.1f}"


def test_constant_features_have_no_error():
    assert vars(feature_mmd(torch.ones(5, 2), torch.ones(6, 2), Polynomial(3))) == {"value": 0.0, "standard_error": 0.0}


@pytest.mark.parametrize("shapes", [((3, 2), (9, 2)), ((9, 2), (3, 2)), ((9, 2), (9, 3)), ((9,), (9,))])
def test_what_cannot_be_scored_is_refused(shapes):
    with pytest.raises(ValueError, match="n, m >= 4"):
        feature_mmd(torch.zeros(shapes[0]), torch.zeros(shapes[1]), Polynomial(3))


# ---------------------------------------------------------------------------------------------------------- the two scores


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_energy_distance_by_loops(offset, generator):
    """2 E|x - y| - E|x - x'| - E|y - y'| over distinct pairs, also far from the origin and in float32."""
    x, y = _normal(7, 3, generator, offset), _normal(9, 3, generator, 0.5 + offset)

    def mean(a, b, distinct):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not distinct or i != j]
        return sum(math.dist(a[i].tolist(), b[j].tolist()) for i, j in pairs) / len(pairs)

    expected = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    result = energy_distance(x, y)
    assert result.value == pytest.approx(expected, rel=1e-9)
    half = feature_mmd(x - offset, y - offset, EnergyDistance())
    assert result.standard_error == pytest.approx(2 * half.standard_error, rel=1e-6)
    x, y = x.float(), y.float()
    expected = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    assert energy_distance(x, y).value == pytest.approx(expected, rel=1e-4)


def test_energy_distance_of_two_gaussians_on_a_line(generator):
    """x - y is N(1, 2), whose mean absolute value is 2 sqrt(2) phi(t) + 2 Phi(t) - 1 at t = 1 / sqrt(2)."""
    spread, t = math.sqrt(2), 1 / math.sqrt(2)
    density, below = math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(t / math.sqrt(2)))
    expected = 2 * (2 * spread * density + 2 * below - 1) - 2 * 2 / math.sqrt(math.pi)
    runs = [energy_distance(_normal(60, 1, generator), _normal(40, 1, generator, 1.0)) for _ in range(300)]
    values = np.array([run.value for run in runs])
    z = (values.mean() - expected) / (values.std(ddof=1) / math.sqrt(len(values)))
    assert abs(z) < 4, f"{values.mean():.4f} against {expected:.4f}, z = {z:.1f}"


@pytest.mark.parametrize("bandwidth", [None, 3.0])
def test_gaussian_mmd_is_mmd2_with_the_references_bandwidth(bandwidth, generator):
    real, fake = _normal(50, 4, generator, 2.0), _normal(40, 4, generator, 2.5, 3.0)
    result = gaussian_mmd(real, fake, bandwidth)
    width = median_bandwidth(real) if bandwidth is None else bandwidth
    assert result.bandwidth == width
    expected = feature_mmd(real, fake, Gaussian(width))
    assert (result.value, result.standard_error) == pytest.approx((expected.value, expected.standard_error), rel=1e-9)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, math.inf])
def test_bandwidths_that_are_none_are_refused(bandwidth):
    with pytest.raises(ValueError, match="positive and finite"):
        gaussian_mmd(torch.randn(5, 2), torch.randn(5, 2), bandwidth)


def test_float32_far_from_the_origin_keeps_its_digits(generator):
    """Both scores are invariant to shifts and do not lose the distances in |x|^2 + |y|^2 - 2 x.y."""
    real, fake = _normal(100, 8, generator).float() + 100, _normal(100, 8, generator, 0.3).float() + 100
    for score in (energy_distance, gaussian_mmd):
        single, double = score(real, fake), score(real.double(), fake.double())
        assert single.value == pytest.approx(double.value, rel=1e-4)


@pytest.mark.parametrize("score", [energy_distance, gaussian_mmd])
def test_progress_is_reported(score, generator):
    seen = []
    score(_normal(9, 2, generator), _normal(8, 2, generator), on_block=lambda *args: seen.append(args))
    assert seen == [(1, 3), (2, 3), (3, 3)]
