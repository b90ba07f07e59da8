"""The Frechet distance between two Gaussians fitted to features (FID, Heusel et al. 2017), exact and in float64.

    FID = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

The trace of the root is the nuclear norm of F1' F2 for any F F' = S: from the features themselves when they are fewer
than their dimension, else from Cholesky factors. No matrix square root, no epsilon on the diagonal, no complex numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrechetDistance:
    """The distance, its standard error, and whether n <= d, so that a covariance must be singular (compare only at equal n)."""

    value: float
    standard_error: float
    singular: bool


def frechet_distance(x: Tensor, y: Tensor) -> FrechetDistance:
    """FID between features x (n, d) and y (m, d), each with at least 2 rows.

    The standard error is the delta method's: with T the optimal transport map of one Gaussian onto the other, the
    influence of x_i is 2 (m1 - m2).(x_i - m1) + (x_i - m1)'(I - T)(x_i - m1), and SE^2 = var(influence_x) / n + the same
    for y. It measures the spread over repetitions, not the bias, which falls like 1/n.

    Raises:
        ValueError: fewer than 2 rows, or different dimensions.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` and `y` must be (n, d) and (m, d) with n, m >= 2, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    x, y = x.double().cpu(), y.double().cpu()
    xc, yc = x - x.mean(0), y - y.mean(0)
    shift = x.mean(0) - y.mean(0)
    s1, s2 = xc.T @ xc / (len(x) - 1), yc.T @ yc / (len(y) - 1)
    d = x.shape[1]
    if min(len(x), len(y)) <= d:
        cross = _nuclear_norm(xc @ yc.T) / math.sqrt((len(x) - 1) * (len(y) - 1))
    else:
        cross = trace_of_root(s1, s2)
    value = (shift @ shift + s1.trace() + s2.trace() - 2.0 * cross).item()
    to_y, to_x = transport_maps(s1, s2)
    variance = _influence(xc, shift, to_y).var() / len(x) + _influence(yc, -shift, to_x).var() / len(y)
    return FrechetDistance(value, math.sqrt(variance.item()), min(len(x), len(y)) <= d)


def trace_of_root(s1: Tensor, s2: Tensor) -> Tensor:
    """tr (S1 S2)^(1/2) of two covariances (d, d), float64: sum sqrt(eig(L' S2 L)) with S1 = L L'.

    Cholesky keeps 1e-11 where sqrtm is off by 4e-5 (eigenvalues down to 1e-12). A singular S1 falls back to
    eigendecompositions, clipped at 0, and singular values, which is as exact and four times slower.
    """
    factor, info = torch.linalg.cholesky_ex(s1)
    if info.item() == 0:
        inner = factor.T @ s2 @ factor
        return torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    return _nuclear_norm(_half(s1).T @ _half(s2))


def transport_maps(s1: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """T with T S1 T = S2 and its inverse map, (d, d) each; on singular directions the pseudo-inverse.

    With S1 = F1 F1', S2 = F2 F2' and F1' F2 = U D V': T = F1^-T (D on U) F1^-1.
    """
    return _map(s1, s2), _map(s2, s1)


def _map(source: Tensor, target: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(source)
    keep = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root = torch.where(keep, values, 0.0).sqrt()
    inverse = torch.where(keep, 1.0 / root, 0.0)
    inner = (vectors * root).T @ target @ (vectors * root)
    inner_values, inner_vectors = torch.linalg.eigh((inner + inner.T) / 2)
    middle = (inner_vectors * inner_values.clamp(min=0).sqrt()) @ inner_vectors.T
    return (vectors * inverse) @ middle @ (vectors * inverse).T


def _half(s: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(s)
    return vectors * values.clamp(min=0).sqrt()


def _nuclear_norm(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix).sum()


def _influence(centred: Tensor, shift: Tensor, transport: Tensor) -> Tensor:
    """Influence of each row, up to a constant: 2 shift.x + x'(I - T)x."""
    return 2.0 * centred @ shift + centred.square().sum(1) - ((centred @ transport) * centred).sum(1)
