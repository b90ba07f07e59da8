"""The statistic of the tests by learned features (me, scf, c2st): how far apart the mean features of x and y lie."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-8  # added to the correlation matrix of the features: only so that equal features have an inverse
CONSTANT = 1e-12  # a feature that varies by less than this share of its size varies by rounding alone
LABELS = 16_000_000  # of one call


class MeanDifference:
    """T = d' S^-1 d of features (N, J), where d = mean over x - mean over y and S is the covariance of all N rows.

    S ignores the labels, so under relabelings T is one matrix product, and the test is exact for features that did not see these
    rows. With Hotelling's T^2 (pooled covariance within the samples, N - 2 degrees of freedom) and q = T n m / N^2 <= 1,
    T^2 = (N - 2) q / (1 - q): the same test, as is lambda_n of Jitkrittum et al. (2016, eq. 1) up to its pairing of the rows.

    Deviation: lambda_n is compared with chi^2_J and needs n = m. Here permutations give the threshold, at any n and m: chi^2_J
    rejects too often in small samples. `one_sided` is d / s of a single feature, for a classifier, which has learned the sign.

    Raises:
        ValueError: a sample without rows, features that are not finite, or several features in a one-sided test.
    """

    def __init__(self, features: Tensor, n: int, one_sided: bool = False) -> None:
        rows, width = features.shape
        if not 0 < n < rows:
            raise ValueError(f"need rows of both samples, got {n} of {rows}")
        if one_sided and width != 1:
            raise ValueError(f"a one-sided test takes 1 feature, got {width}")
        if not features.isfinite().all():
            raise ValueError("the features of the held-out rows are not finite")
        self._whitened = whitened(features.double())
        self._n, self._m, self._one_sided = n, rows - n, one_sided

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (N, b), 1 for x and 0 for y, n ones a column -> T (b,) float64."""
        # The whitened features have mean 0, so their sum over y is minus that over x.
        difference = (labels.to(self._whitened).T @ self._whitened) * (1.0 / self._n + 1.0 / self._m)
        return difference[:, 0] if self._one_sided else difference.square().sum(1)

    @property
    def rounding(self) -> float:
        # T is at most N^2 / (n m), its value where the samples do not overlap.
        return 1e-12 * (self._n + self._m) ** 2 / (self._n * self._m)

    @property
    def max_columns(self) -> int:
        """How many relabelings one call should be given: labels are widened to float64."""
        return max(1, LABELS // len(self._whitened))


def whitened(features: Tensor, ridge: float = RIDGE) -> Tensor:
    """Features (..., N, J) with mean 0, covariance I over the rows; `ridge` damps near-collinear ones, constants become 0."""
    centred = features - features.mean(-2, keepdim=True)
    size = features.detach().abs().amax(-2, keepdim=True)
    floor = (CONSTANT * size).clamp(min=1e-150)
    variance = centred.square().mean(-2, keepdim=True)
    # Where a feature is constant, neither its rounding nor the gradient of the root at 0 may come through.
    varies = variance > floor.square()
    scaled = torch.where(varies, centred, 0.0) / torch.where(varies, variance, 1.0).sqrt()
    correlation = scaled.mT @ scaled / features.shape[-2]
    eye = torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    factor = torch.linalg.cholesky(correlation + ridge * eye)
    return torch.linalg.solve_triangular(factor, scaled.mT, upper=False).mT


def separation(features: Tensor, n: int, ridge: float = RIDGE) -> Tensor:
    """The T of `MeanDifference` for features (..., N, J) whose first n rows are x, (...,), differentiable."""
    rows = whitened(features, ridge)
    return (rows[..., :n, :].mean(-2) - rows[..., n:, :].mean(-2)).square().sum(-1)
