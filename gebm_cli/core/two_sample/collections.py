"""The kernels of tests, by name, and collections of them; their bandwidths come from the pooled sample alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.kernels import (
    METRICS,
    EnergyDistance,
    Exponential,
    Gaussian,
    Kernel,
    Laplace,
    MeanKernel,
    Polynomial,
    RationalQuadratic,
    median_bandwidth,
    pooled_distances,
)
from gebm_cli.core.two_sample.names import KernelName

N_GRID = 24
L1_DIMENSIONS = 256  # beyond, |x - y|_1 would cost more than all else


OF_BANDWIDTH: dict[str, Callable[[float], Kernel]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "exponential": Exponential,
    "rational-quadratic": lambda b: RationalQuadratic(bandwidth=b),
}


def kernel_of(name: KernelName, bandwidths: Sequence[float], pooled: Tensor) -> Kernel:
    """The kernel of that name: with several bandwidths the mean of their kernels, with none the median of the pooled distances.

    `pooled` (n, d). `polynomial` (KID's cubic) and `energy` have no bandwidth.
    """
    if name == "polynomial":
        return Polynomial(3)
    if name == "energy":
        return EnergyDistance()
    widths = tuple(bandwidths) or (median_bandwidth(pooled, metric=_metric(name)),)
    kernels = tuple(OF_BANDWIDTH[name](b) for b in widths)
    return kernels[0] if len(kernels) == 1 else MeanKernel(kernels)


def described(kernel: Kernel) -> dict[str, Any]:
    """A kernel in words and numbers, for a record."""
    if isinstance(kernel, MeanKernel):
        parts = [described(k) for k in kernel.kernels]
        return {"kernel": parts[0]["kernel"], "bandwidth": [part["bandwidth"] for part in parts]}
    names: dict[type, str] = {Gaussian: "gaussian", Laplace: "laplace", Exponential: "exponential"}
    names |= {RationalQuadratic: "rational-quadratic", Polynomial: "polynomial", EnergyDistance: "energy"}
    told: dict[str, Any] = {"kernel": names.get(type(kernel), type(kernel).__name__)}
    width = getattr(kernel, "bandwidth", None)
    return told if width is None else told | {"bandwidth": width}


def _metric(name: KernelName) -> str:
    return "l1" if name == "laplace" else "squared"


def collection(pooled: Tensor, n_bandwidths: int = 8, max_points: int = 1000) -> list[Kernel]:
    """Laplace and Gaussian kernels, `n_bandwidths` of each, for MMD-FUSE and MMDAgg on a pooled sample (n, d).

    Bandwidths go geometrically from a quarter of the 5 % to twice the 95 % quantile of the pooled distances.
    Deviations: Schrab et al. (2023, section 5.2) and Biggs, Schrab & Gretton (2023, section 5.1) space ten evenly from half the 5 %
    quantile, which leaves one at the finest scale; the quantiles are of at most `max_points` points; above 256 dimensions the
    Laplace kernel is one of |x - y|.
    """
    use_l1 = pooled.shape[1] <= L1_DIMENSIONS
    euclidean = _geometric(pooled_distances(pooled, "squared", max_points), n_bandwidths)
    other = _geometric(pooled_distances(pooled, "l1", max_points), n_bandwidths) if use_l1 else euclidean
    exponential: list[Kernel] = [(Laplace if use_l1 else Exponential)(b) for b in other]
    return exponential + [Gaussian(b) for b in euclidean]


def _geometric(distances: Tensor, n: int) -> list[float]:
    """A constant sample has bandwidth 1."""
    low, high = _range(distances)
    if not high > 0:
        return [1.0]
    steps = torch.linspace(0, 1, n, dtype=torch.float64)
    return [low / 4 * (8 * high / low) ** float(t) for t in steps]


def _range(distances: Tensor) -> tuple[float, float]:
    """The 5 % and 95 % quantiles; zeros, of equal points, stand at the median of the others. 0 for a constant sample."""
    if not (distances > 0).any():
        return 0.0, 0.0
    median = distances[distances > 0].median()
    ordered = torch.where(distances > 0, distances, median).sort().values
    low, high = (ordered[int(q * (len(ordered) - 1))].item() for q in (0.05, 0.95))
    return low, high


def grid(name: KernelName, pooled: Tensor, n_bandwidths: int = N_GRID, max_points: int = 2000) -> list[Kernel]:
    """Kernels of one name from the scale of nearest neighbours to that of the whole pooled sample (n, d), geometrically.

    From half the 10 % quantile of nearest-neighbour distances, since the median alone never finds fine structure, to twice the
    95 % quantile of all distances. A kernel without a bandwidth is alone.
    """
    if name not in OF_BANDWIDTH:
        return [kernel_of(name, (), pooled)]
    metric = _metric(name)
    largest = _range(pooled_distances(pooled, metric, max_points))[1]
    if not largest > 0:
        return [OF_BANDWIDTH[name](1.0)]
    smallest = max(_nearest(pooled, metric, max_points).quantile(0.1).item() / 2, 1e-4 * largest)
    steps = torch.linspace(0, 1, n_bandwidths, dtype=torch.float64)
    return [OF_BANDWIDTH[name](smallest * (2 * largest / smallest) ** float(t)) for t in steps]


def _nearest(pooled: Tensor, metric: str, max_points: int) -> Tensor:
    """Distance of each of at most `max_points` rows to its nearest neighbour among all, (k,) float64."""
    rows = pooled.double() - pooled.double().mean(0)
    some = torch.arange(0, len(rows), -(-len(rows) // max_points), device=rows.device)
    distances = METRICS[metric](rows[some], rows)
    distances[torch.arange(len(some)), some] = torch.inf
    return distances.min(1).values.sqrt() if metric == "squared" else distances.min(1).values
