"""Kernels by name and their bandwidths, against numpy's quantiles of scipy's distances."""

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
    Laplace,
    MeanKernel,
    Polynomial,
    RationalQuadratic,
)
from gebm_cli.core.two_sample import collections
from gebm_cli.core.two_sample.collections import (
    OF_BANDWIDTH,
    collection,
    described,
    grid,
    kernel_of,
)
from gebm_cli.core.two_sample.names import KERNELS, NO_BANDWIDTH

COLLECTIONS = [collection, lambda p: grid("gaussian", p), lambda p: grid("laplace", p)]


def _normal(n, seed, dim=3):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _median(distances):
    return np.quantile(distances, 0.5, method="lower")


def _quantiles(distances):
    return (np.quantile(distances, q, method="lower") for q in (0.05, 0.95))


def _widths(kernels):
    return [kernel.bandwidth for kernel in kernels]


@pytest.mark.parametrize("dim", [1, 3])
def test_kernel_of_a_name_has_the_median_bandwidth(dim):
    """The median of the distance that the kernel takes: |x - y|_1 for Laplace's, else |x - y|; those without are themselves."""
    pooled = _normal(21, 0, dim)
    euclidean, l1 = _median(pdist(pooled)), _median(pdist(pooled, "cityblock"))
    for name, kind, width in (
        ("gaussian", Gaussian, euclidean),
        ("exponential", Exponential, euclidean),
        ("rational-quadratic", RationalQuadratic, euclidean),
        ("laplace", Laplace, l1),
    ):
        kernel = kernel_of(name, (), pooled)
        assert type(kernel) is kind and kernel.bandwidth == pytest.approx(width, rel=1e-10)
    assert kernel_of("polynomial", (), pooled) == Polynomial(3) and kernel_of("energy", (), pooled) == EnergyDistance()


def test_given_bandwidths_are_used():
    """One bandwidth gives its kernel, several their mean; the data do not matter then."""
    pooled = _normal(9, 1)
    assert kernel_of("laplace", (0.7,), pooled) == Laplace(0.7)
    several = kernel_of("gaussian", [0.5, 2.0], pooled)
    assert several == MeanKernel((Gaussian(0.5), Gaussian(2.0)))
    expected = (Gaussian(0.5)(pooled, pooled) + Gaussian(2.0)(pooled, pooled)) / 2
    torch.testing.assert_close(several(pooled, pooled), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_described_by_their_names(name):
    """Name and bandwidth, from which `kernel_of` makes the kernel again; of several bandwidths the list."""
    pooled = _normal(9, 2)
    told = described(kernel_of(name, (), pooled))
    assert told["kernel"] == name and ("bandwidth" in told) == (name not in NO_BANDWIDTH)
    if name in NO_BANDWIDTH:
        return
    assert kernel_of(told["kernel"], (told["bandwidth"],), pooled) == kernel_of(name, (), pooled)
    assert described(kernel_of(name, (0.5, 2.0), pooled)) == {"kernel": name, "bandwidth": [0.5, 2.0]}


def test_every_name_is_made_and_no_other():
    """The names with a bandwidth are those of `OF_BANDWIDTH`."""
    assert set(OF_BANDWIDTH) | set(NO_BANDWIDTH) == set(KERNELS) and not set(OF_BANDWIDTH) & set(NO_BANDWIDTH)


@pytest.mark.parametrize("dim", [1, 3])
def test_bandwidths_are_geometric_between_quantiles(dim):
    """Eight from q05 / 4 to 2 q95 of the pooled distances each, by equal factors."""
    pooled = _normal(17, 4, dim)
    kernels = collection(pooled)
    assert [type(k) for k in kernels] == [Laplace] * 8 + [Gaussian] * 8
    for part, metric in ((kernels[:8], "cityblock"), (kernels[8:], "euclidean")):
        low, high = _quantiles(pdist(pooled, metric))
        np.testing.assert_allclose(_widths(part), np.geomspace(low / 4, 2 * high, 8), rtol=1e-10)
    assert len(collection(pooled, 3)) == 6


@pytest.mark.parametrize("name", sorted(OF_BANDWIDTH))
def test_grid_reaches_from_neighbours_to_the_whole(name):
    """24 from half the 10 % quantile of nearest-neighbour distances to 2 q95 of all, by equal factors, in the kernel's distance."""
    pooled = _normal(19, 5)
    metric = "cityblock" if name == "laplace" else "euclidean"
    between = cdist(pooled, pooled, metric)
    np.fill_diagonal(between, np.inf)
    low, high = np.quantile(between.min(1), 0.1) / 2, np.quantile(pdist(pooled, metric), 0.95, method="lower")
    kernels = grid(name, pooled)
    assert {type(k) for k in kernels} == {type(OF_BANDWIDTH[name](1.0))}
    np.testing.assert_allclose(_widths(kernels), np.geomspace(low, 2 * high, 24), rtol=1e-7)


@pytest.mark.parametrize("name", NO_BANDWIDTH)
def test_grid_of_a_kernel_without_bandwidth_is_itself(name):
    """There is nothing to choose."""
    assert grid(name, _normal(9, 6)) == [kernel_of(name, (), _normal(9, 6))]


def test_grid_of_many_rows_looks_at_some_of_them(monkeypatch):
    """Above `max_points` every k-th row, against all rows, gives the nearest neighbours; never itself."""
    pooled = _normal(30, 7)
    between = cdist(pooled, pooled)
    np.fill_diagonal(between, np.inf)
    found = collections._nearest(pooled, "squared", 10)
    np.testing.assert_allclose(found.numpy(), between.min(1)[::3], rtol=1e-7)


def test_grid_far_from_the_origin():
    """A shift by 1e6 in float32 leaves the scale of the neighbours that there are after rounding."""
    pooled = (1e5 + 100 * _normal(50, 8)).float()
    between = cdist(pooled.double(), pooled.double())
    np.fill_diagonal(between, np.inf)
    assert _widths(grid("gaussian", pooled))[0] == pytest.approx(np.quantile(between.min(1), 0.1) / 2, rel=1e-5)


@pytest.mark.parametrize("make", COLLECTIONS)
@pytest.mark.parametrize("dim", [1, 3, 300])
def test_bandwidths_do_not_see_the_labels(make, dim):
    """Shuffling the pooled rows, that is relabelling them, leaves every bandwidth to 1e-9."""
    pooled = torch.cat([_normal(20, 9, dim), 2 + _normal(13, 10, dim)])
    expected = _widths(make(pooled))
    for seed in range(3):
        order = torch.randperm(33, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(_widths(make(pooled[order])), expected, rtol=1e-9)


def test_bandwidths_of_many_rows_do_not_see_the_labels_either():
    """Above `max_points` rows too, which are then some of them, whatever their order."""
    pooled = torch.cat([_normal(100, 11), 2 + _normal(60, 12)])
    expected = _widths(collection(pooled, max_points=30))
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(_widths(collection(pooled[order], max_points=30)), expected, rtol=1e-9)
    assert not np.allclose(expected, _widths(collection(pooled))), "all rows were used"


@pytest.mark.parametrize("make", COLLECTIONS)
def test_constant_data_have_a_kernel(make):
    """A bandwidth of 1 where every distance is 0."""
    widths = _widths(make(torch.full((10, 3), 0.1)))
    assert all(width == pytest.approx(1.0) or width == pytest.approx(math.sqrt(0.5)) for width in widths), widths
    assert kernel_of("laplace", (), torch.full((10, 3), 0.1)) == Laplace(1.0)
    assert kernel_of("gaussian", (), torch.full((10, 3), 0.1)) == Gaussian(1.0)


@pytest.mark.parametrize("make", COLLECTIONS)
def test_equal_rows_do_not_make_a_bandwidth_zero(make):
    """Of rows half of which are repeated every bandwidth is positive and finite; no zero distance is a scale."""
    rows = _normal(12, 13)
    widths = _widths(make(torch.cat([rows, rows, rows[:6]])))
    assert all(0 < width < math.inf for width in widths) and min(widths) > 1e-5 * max(widths)


@pytest.mark.parametrize("make", COLLECTIONS)
@pytest.mark.parametrize("ones", [1, 3, 10])
def test_data_of_two_values_have_a_kernel(make, ones):
    """Where most distances are 0, be it more than 95 % of them, the bandwidths are positive and of the scale of the others."""
    widths = _widths(make(torch.cat([torch.zeros(60, 1), torch.ones(ones, 1)]).double()))
    assert all(1e-5 < width < 10 for width in widths), widths


def test_zeros_stand_at_the_median():
    """Of pooled rows that repeat, the zero distances count as the median in the quantiles."""
    rows = _normal(10, 14)
    pooled = torch.cat([rows, rows])
    distances = pdist(pooled)
    distances[distances < 1e-12] = _median(distances)
    low, high = _quantiles(distances)
    np.testing.assert_allclose(_widths(collection(pooled))[8:], np.geomspace(low / 4, 2 * high, 8), rtol=1e-9)


def test_many_dimensions_use_the_euclidean_distance():
    """Above 256 dimensions the Laplace kernels give way to exponential ones of |x - y|; at 256 they do not."""
    assert type(collection(_normal(9, 15, 256))[0]) is Laplace
    kernels = collection(_normal(9, 15, 257))
    assert [type(k) for k in kernels] == [Exponential] * 8 + [Gaussian] * 8
    np.testing.assert_allclose(_widths(kernels[:8]), _widths(kernels[8:]), rtol=1e-12)
