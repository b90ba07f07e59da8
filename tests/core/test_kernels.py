"""Kernels against double loops, the bandwidth against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from gebm_cli.core.kernels import (
    EnergyDistance,
    Exponential,
    Gaussian,
    GaussianMixture,
    Laplace,
    MeanKernel,
    OfDistance,
    Polynomial,
    RationalQuadratic,
    l1_distances,
    matrices,
    median_bandwidth,
    pooled_distances,
    squared_distances,
)
from gebm_cli.core.mmd import mmd2_loss


def _gaussian(a, b):
    return math.exp(-sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) / (2 * 0.7**2))


def _polynomial(degree):
    return lambda a, b: (sum(s * t for s, t in zip(a, b, strict=True)) / len(a) + 1) ** degree


def _mixture(linear):
    return lambda a, b: (
        sum(math.exp(-(math.dist(a, b) ** 2) / (2 * s * s)) for s in (2, 5, 10, 20, 40, 80)) + linear * _dot(a, b)
    )


def _rational(alphas, linear):
    return lambda a, b: sum((1 + math.dist(a, b) ** 2 / (2 * r)) ** -r for r in alphas) + linear * _dot(a, b)


def _laplace(a, b):
    return math.exp(-sum(abs(s - t) for s, t in zip(a, b, strict=True)) / 1.3)


def _exponential(a, b):
    return math.exp(-math.dist(a, b) / 0.8)


def _rational_of_width(a, b):
    return sum((1 + math.dist(a, b) ** 2 / (2 * r * 1.7**2)) ** -r for r in (0.2, 0.5, 1, 2, 5)) + 0.4 * _dot(a, b)


def _mean(a, b):
    return (_gaussian(a, b) + _laplace(a, b) + _distance(a, b)) / 3


def _dot(a, b):
    return sum(s * t for s, t in zip(a, b, strict=True))


def _distance(a, b):
    return (math.hypot(*a) + math.hypot(*b) - math.dist(a, b)) / 2


KERNELS = [
    pytest.param(GaussianMixture(), _mixture(0), id="mixture"),
    pytest.param(GaussianMixture(linear=0.3), _mixture(0.3), id="mixture-dot"),
    pytest.param(RationalQuadratic(), _rational((0.2, 0.5, 1, 2, 5), 0), id="rq"),
    pytest.param(RationalQuadratic((0.1, 1.0, 10.0), linear=1.0), _rational((0.1, 1, 10), 1), id="rq-dot"),
    pytest.param(EnergyDistance(), _distance, id="distance"),
    pytest.param(Gaussian(0.7), _gaussian, id="gaussian"),
    pytest.param(Polynomial(), _polynomial(3), id="cubic"),
    pytest.param(Polynomial(2), _polynomial(2), id="quadratic"),
    pytest.param(Laplace(1.3), _laplace, id="laplace"),
    pytest.param(Exponential(0.8), _exponential, id="exponential"),
    pytest.param(RationalQuadratic(linear=0.4, bandwidth=1.7), _rational_of_width, id="rq-width"),
    pytest.param(MeanKernel((Gaussian(0.7), Laplace(1.3), EnergyDistance())), _mean, id="mean"),
]


def _points(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("kernel", "scalar"), KERNELS)
def test_kernel_is_its_double_loop(kernel, scalar):
    """k(x_i, y_j) agrees with the scalar formula, entry by entry, in float64."""
    x, y = _points(7, 3, 0), _points(5, 3, 1)
    loop = np.array([[scalar(a, b) for b in y.tolist()] for a in x.tolist()])
    error = np.abs(kernel(x, y).numpy() - loop).max() / np.abs(loop).max()
    assert error < 1e-12, f"relative error {error:.1e}"


@pytest.mark.parametrize(("kernel", "scalar"), KERNELS)
def test_kernel_is_symmetric(kernel, scalar):
    """k(x, y) is the transpose of k(y, x)."""
    x, y = _points(9, 4, 2), _points(6, 4, 3)
    torch.testing.assert_close(kernel(x, y), kernel(y, x).T, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("kernel", "scalar"), KERNELS)
def test_kernel_matrix_is_positive_semidefinite(kernel, scalar):
    """No eigenvalue of a 60 x 60 kernel matrix, with repeated points in it, is below zero by more than rounding."""
    x = _points(50, 3, 4)
    matrix = kernel(*[torch.cat([x, x[:10]])] * 2)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert values[0] > -1e-10 and values[-1] > 1, f"eigenvalues from {values[0]:.1e} to {values[-1]:.1e}"


@pytest.mark.parametrize(("kernel", "scalar"), KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_keeps_the_type(kernel, scalar, dtype):
    """float32 in gives float32 out, and it agrees with float64 to 32-bit rounding."""
    x, y = _points(8, 3, 5), _points(4, 3, 6)
    result = kernel(x.to(dtype), y.to(dtype))
    assert result.dtype == dtype and result.shape == (8, 4)
    error = ((result.double() - kernel(x, y)).abs() / kernel(x, y).abs().clamp(min=1e-2)).max().item()
    assert error < 5e-5, f"relative error {error:.1e}"


def test_squared_distances_agree_with_scipy():
    """The one-product form equals scipy's cdist to rounding, and is never negative on the diagonal."""
    x, y = _points(30, 5, 7), _points(20, 5, 8)
    error = np.abs(squared_distances(x, y).numpy() - cdist(x, y, "sqeuclidean")).max()
    assert error < 1e-12, f"error {error:.1e}"
    assert (squared_distances(1e3 + x.float(), 1e3 + x.float()) >= 0).all()


@pytest.mark.parametrize(("kernel", "scalar"), KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_has_a_gradient_at_equal_points(kernel, scalar, dtype):
    """Summed over a sample with itself, whose diagonal has distance 0, every kernel has a finite gradient.

    Whole numbers, so that rounding leaves the zeros as they are; the origin is among them.
    """
    x = torch.cat([(3 * _points(6, 3, 12, dtype)).round(), torch.zeros(1, 3, dtype=dtype)]).requires_grad_()
    kernel(x, x).sum().backward()
    assert x.grad.isfinite().all(), x.grad


def test_mmd_of_the_energy_distance_is_half_of_it():
    """MMD^2 with that kernel is E|x - y| - E|x - x'| / 2 - E|y - y'| / 2, by scipy's distances."""
    x, y = _points(9, 2, 14), 0.5 + _points(7, 2, 15)
    expected = cdist(x, y).mean() - pdist(x).mean() / 2 - pdist(y).mean() / 2
    assert mmd2_loss(x, y, EnergyDistance()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [6, 30, 101])
def test_median_bandwidth_is_scipys_median(n):
    """With an even or odd number of points it is the lower median of the pairwise distances."""
    x = _points(n, 3, 9)
    distances = np.sort(pdist(x))
    expected = distances[(len(distances) - 1) // 2]
    assert median_bandwidth(x) == pytest.approx(expected, rel=1e-12)
    if len(distances) % 2:
        assert expected == np.median(distances)


def test_median_bandwidth_does_not_see_the_labels():
    """Shuffling the pooled sample, that is relabelling it, leaves the bandwidth to 1e-12."""
    x = torch.cat([_points(200, 2, 10), 3 + _points(100, 2, 11)])
    widths = [median_bandwidth(x[torch.randperm(300, generator=torch.Generator().manual_seed(s))]) for s in range(5)]
    spread = max(widths) - min(widths)
    assert spread < 1e-12 * widths[0], f"spread {spread:.1e} of {widths[0]:.3f}"


def test_median_bandwidth_of_a_large_sample_does_not_see_the_labels_either():
    """Above `max_points` too, the choice of rows ignores their order: shuffling leaves the bandwidth to 1e-12."""
    x = torch.cat([_points(200, 2, 10), 3 + _points(100, 2, 11)])
    shuffles = [torch.randperm(300, generator=torch.Generator().manual_seed(s)) for s in range(5)]
    widths = [median_bandwidth(x[order], max_points=40) for order in shuffles]
    spread = max(widths) - min(widths)
    assert spread < 1e-12 * widths[0], f"spread {spread:.1e} of {widths[0]:.3f}"
    assert widths[0] != median_bandwidth(x), "all 300 rows were used"


def test_median_bandwidth_of_a_large_sample_is_near_the_whole_ones():
    """Over 50 samples of 500, the bandwidth from 100 rows has the mean of that from all to within 2 %."""
    samples = [torch.cat([_points(250, 2, s), 3 + _points(250, 2, 1000 + s)]) for s in range(50)]
    ratio = np.mean([median_bandwidth(x, max_points=100) / median_bandwidth(x) for x in samples])
    assert abs(ratio - 1) < 0.02, f"ratio {ratio:.4f}"


def test_median_bandwidth_far_from_the_origin():
    """Shifting float32 data by a thousand standard deviations does not move the bandwidth beyond its own rounding."""
    x = _points(101, 2, 13, torch.float32)
    near, far = median_bandwidth(x), median_bandwidth(x + 1000)
    assert abs(near - far) < 4 * 1000 * torch.finfo(torch.float32).eps, f"{near} against {far}"


def test_median_bandwidth_of_a_constant_sample_is_one():
    """Where every distance is 0 a bandwidth of 1 keeps the kernel defined."""
    assert median_bandwidth(torch.full((10, 3), 0.1)) == 1.0


@pytest.mark.parametrize(
    "kernel", [Gaussian(0.7), Laplace(1.3), EnergyDistance(), MeanKernel((Gaussian(1.0), Laplace(2.0)))]
)
def test_gradients_are_those_of_differences(kernel):
    """The gradient of sum k(x, y) in x is that of central differences, to 1e-6."""
    x, y, h = _points(4, 3, 16).requires_grad_(), _points(5, 3, 17), 1e-5
    kernel(x, y).sum().backward()
    for i in range(4):
        for j in range(3):
            step = torch.zeros(4, 3, dtype=torch.float64)
            step[i, j] = h
            slope = (kernel(x.detach() + step, y).sum() - kernel(x.detach() - step, y).sum()).item() / (2 * h)
            assert x.grad[i, j].item() == pytest.approx(slope, abs=1e-6)


MANY = [Gaussian(0.5), Laplace(1.0), Gaussian(2.0), EnergyDistance(), Exponential(1.5), Laplace(0.3), Polynomial(3)]


def test_matrices_are_those_of_each_kernel():
    """One after the other, bit for bit, in the order of the kernels."""
    x, y = _points(6, 3, 18), _points(9, 3, 19)
    found = list(matrices(MANY, x, y))
    assert all(torch.equal(matrix, kernel(x, y)) for matrix, kernel in zip(found, MANY, strict=True))


def test_matrices_share_distances_and_compute_each_once(monkeypatch):
    """Kernels of one metric take its distances from one computation."""
    calls = []

    def counted(name, original):
        return lambda x, y: (calls.append(name), original(x, y))[1]

    from gebm_cli.core import kernels

    metrics = {"squared": counted("squared", squared_distances), "l1": counted("l1", l1_distances)}
    monkeypatch.setattr(kernels, "METRICS", metrics)
    list(matrices([k for k in MANY if isinstance(k, OfDistance)], _points(4, 2, 20), _points(4, 2, 21)))
    assert sorted(calls) == ["l1", "squared"]


def test_matrices_have_memory_of_their_own():
    """Writing into one matrix, as those who zero its diagonal do, leaves all others, before and after it, as they are."""
    x = _points(7, 3, 22)
    expected, kept = [kernel(x, x) for kernel in MANY], []
    for matrix, right in zip(matrices(MANY, x, x), expected, strict=True):
        assert torch.equal(matrix, right)
        matrix.fill_(math.nan)
        kept.append(matrix)
    assert len({matrix.data_ptr() for matrix in kept}) == len(MANY)


@pytest.mark.parametrize("kernel", [k for k in MANY if isinstance(k, OfDistance)], ids=lambda k: type(k).__name__)
def test_kernel_of_distances_leaves_them_alone(kernel):
    """`of` makes a new tensor."""
    distances = _points(4, 5, 23).abs()
    copy = distances.clone()
    kernel.of(distances)
    assert torch.equal(distances, copy)


@pytest.mark.parametrize("n", [2, 7, 30])
def test_pooled_distances_are_scipys(n):
    """All distances of distinct pairs, euclidean or of sums of absolute differences, in float64."""
    x = _points(n, 3, 24).float()
    for metric, name in (("squared", "euclidean"), ("l1", "cityblock")):
        found = pooled_distances(x, metric)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(np.sort(found.numpy()), np.sort(pdist(x.double(), name)), rtol=1e-9)


def test_pooled_distances_of_many_rows_are_of_some():
    """Above `max_points` every k-th row along a direction is used: the number of pairs is that of ceil(N / k) rows."""
    for n, most, rows in ((30, 30, 30), (31, 30, 16), (100, 30, 25), (90, 30, 30)):
        assert len(pooled_distances(_points(n, 2, 25), max_points=most)) == rows * (rows - 1) // 2


@pytest.mark.parametrize("metric", ["squared", "l1"])
def test_pooled_distances_far_from_the_origin(metric):
    """A shift by a million leaves float64 distances to 1e-8: they are taken about the mean."""
    x = _points(20, 3, 26)
    near, far = (pooled_distances(x + shift, metric).sort().values for shift in (0.0, 1e6))
    torch.testing.assert_close(far, near, rtol=0, atol=1e-8)
