"""Compress Then Test (Domingo-Enrich, Dwivedi & Mackey 2023): the kernel test on coresets, in nearly linear time.

The coresets come from the authors' `goodpoints` (extra `ctt`); bins, permutations and p-value are ours.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.two_sample.p_values import Relabelled, relabelling_test
from gebm_cli.core.two_sample.relabelling import Permutations

BINS = 32  # at least so many of both samples together, as in the paper (s = 16)
OVERSAMPLING = 2  # the paper's g: a bin of r rows is compressed to 2^g sqrt(r)
MIN_SIDE = 4  # bins of the smaller sample
MOST_BINS = 1024  # of either: where sizes are very unequal, more of the larger one would add nothing but time
DELTA = 0.5  # failure probability of kernel thinning, the default of `goodpoints`


@dataclass(frozen=True)
class Bins:
    """How the rows were compressed: `x` and `y` bins of `rows` rows each, a power of 4, every bin thinned to `kept` rows."""

    x: int
    y: int
    rows: int
    kept: int

    @property
    def used(self) -> tuple[int, int]:
        """Rows of x and of y that the test has seen; the remainder is dropped."""
        return self.x * self.rows, self.y * self.rows


@dataclass(frozen=True)
class CompressedTest:
    """The outcome of the test and what it used of the data."""

    outcome: Relabelled
    bins: Bins


def compressed_test(
    x: Tensor,
    y: Tensor,
    bandwidth: float,
    n_permutations: int,
    generator: torch.Generator,
    oversampling: int = OVERSAMPLING,
    n_bins: int = BINS,
) -> CompressedTest:
    """CTT of x (n, d) and y (m, d) with the Gaussian kernel exp(-|a - b|^2 / (2 bandwidth^2)), which must ignore the labels.

    Both samples are shuffled and cut into bins of equal size, each bin thinned by KT-Compress. The statistic is MMD^2_v of the
    union of the coresets, and whole bins are permuted: exact under P = Q, as the bins are then exchangeable (the paper's
    proposition 1). Memory is O(n d + block), time O(4^g n (d + log n)).

    Deviation: bins are the largest power of 4 that leaves `n_bins` of them, where the released code cuts exactly that many and
    then thins each at regular steps to a power of 4 (3 rows of 4 may go). For n != m the two means weigh 1 / bins of their side;
    the released code gives every bin +-1, which adds a constant part of the kernel to the statistic. Ties count against
    rejection, where the paper breaks them at random.

    Raises:
        ImportError: `goodpoints` is not installed.
        ValueError: too few rows for 4 bins of the smaller sample, or no permutation.
    """
    compress = _library()
    bins = plan(len(x), len(y), oversampling, n_bins)
    coresets = [
        _coresets(rows, count, bins, bandwidth, compress, oversampling, generator)
        for rows, count in ((x, bins.x), (y, bins.y))
    ]
    means = bin_means(torch.cat(coresets), Gaussian(bandwidth))
    outcome = relabelling_test(BinStatistic(means, bins.x), Permutations(bins.x, bins.y), n_permutations, generator)
    return CompressedTest(outcome, bins)


def plan(n: int, m: int, oversampling: int = OVERSAMPLING, n_bins: int = BINS) -> Bins:
    """The bins for n and m rows.

    Raises:
        ValueError: a sample has fewer than 4 rows, or an option is out of range.
    """
    if min(n, m) < MIN_SIDE:
        raise ValueError(f"the compressed test needs at least {MIN_SIDE} rows a side, got {n} and {m}")
    if oversampling < 0 or n_bins < 2 * MIN_SIDE:
        raise ValueError(f"need oversampling >= 0 and >= {2 * MIN_SIDE} bins, got {oversampling} and {n_bins}")
    limit = min((n + m) // n_bins, min(n, m) // MIN_SIDE)
    root = 1
    while (2 * root) ** 2 <= limit:
        root *= 2
    size = root**2
    return Bins(min(n // size, MOST_BINS), min(m // size, MOST_BINS), size, min(size, 2**oversampling * root))


@dataclass(frozen=True)
class BinStatistic:
    """MMD^2_v by the mean kernel (k, k) between bins of equal size: w'Mw, w = 1 / k_x for a bin of x, -1 / k_y for one of y."""

    means: Tensor
    n: int

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (k, b), 1 for a bin of x and 0 for one of y -> (b,) float64."""
        ones = labels.to(self.means)
        weights = ones / self.n - (1.0 - ones) / (len(self.means) - self.n)
        return (weights * (self.means @ weights)).sum(0)

    @property
    def rounding(self) -> float:
        # A sum of k^2 terms of both signs whose sizes add to at most 4 max |M|.
        return 1e-14 * self.means.abs().max().item()

    @property
    def max_columns(self) -> int:
        """How many relabelings one call should be given: the matrices are small."""
        return 100_000


def bin_means(coresets: Tensor, kernel: Gaussian) -> Tensor:
    """The mean of the kernel between the points of two bins, coresets (k, c, d) -> (k, k) float64, one bin of rows at a time."""
    count, _, width = coresets.shape
    # Distances are a difference of squares: about a common centre they keep their digits.
    coresets = coresets - coresets.mean((0, 1))
    means = coresets.new_zeros(count, count)
    for i in range(count):
        block = kernel(coresets[i], coresets[i:].reshape(-1, width))
        means[i, i:] = means[i:, i] = block.mean(0).reshape(count - i, -1).mean(1)
    return means


def _coresets(
    rows: Tensor, count: int, bins: Bins, bandwidth: float, compress: Any, oversampling: int, generator: torch.Generator
) -> Tensor:
    """KT-Compress of `count` random bins of a sample, (count, kept, d) float64."""
    order = torch.randperm(len(rows), generator=generator)[: count * bins.rows].to(rows.device)
    chosen = rows[order].double()
    seed = int(torch.randint(2**31, (1,), generator=generator))
    kept = compress.compress_kt(
        np.ascontiguousarray(chosen.cpu().numpy()),
        b"gaussian",
        k_params=np.array([2.0 * bandwidth**2]),
        g=oversampling,
        num_bins=count,
        delta=DELTA,
        seed=seed,
    )
    return chosen[torch.from_numpy(np.asarray(kept)).to(rows.device)].reshape(count, bins.kept, -1)


def _library() -> Any:
    """`goodpoints.compress`, which only this test needs.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module("goodpoints.compress")
    except ImportError as error:
        raise ImportError("the compressed test needs goodpoints: pip install 'gebm-cli[ctt]'") from error
