"""The Frechet distance between two Gaussians fitted to features (FID, Heusel et al. 2017), exact and in float64.

    FID = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))        (Dowson and Landau, 1982)

The trace of the root is the nuclear norm of F1' F2 for any F F' = S. F is the centred features themselves where they are no
more than their dimension, else a Cholesky factor, else the eigenvectors above rounding. With two Cholesky factors it is
sum sqrt(eig(L2' S1 L2)). No matrix square root, no epsilon on the diagonal, no complex numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gebm_cli.core.evaluation.moments import BLOCK, PANEL, Moments, centre, moments

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class FrechetDistance:
    """The distance and what is to be known about it.

    Attributes:
        value: the distance. What rounding puts below zero (up to 1e-9 of the traces) is reported as 0.
        standard_error: spread over repetitions of the sides given by features; a side given by moments counts as fixed.
            None when both are, or when it was not asked for.
        singular: a side has no more rows than dimensions (where n is not known: no Cholesky factor), so that its covariance
            is singular: the bias is large, compare only at equal n.
        clipped: share of the eigenvalues' mass that was negative and set to 0. Rounding gives 1e-16; more than 1e-9 means
            that a covariance that was handed in is none.
    """

    value: float
    standard_error: float | None
    singular: bool
    clipped: float


def frechet_distance(
    x: Tensor | Moments, y: Tensor | Moments, with_error: bool = True, y_moments: Moments | None = None
) -> FrechetDistance:
    """FID between x and y: features (n, d) with n >= 2, or moments. `y_moments` saves forming those of features y again.

    The standard error is the delta method's: with T the optimal transport map of one Gaussian onto the other, the
    influence of x_i is 2 (m1 - m2).(x_i - m1) + (x_i - m1)'(I - T)(x_i - m1), and SE^2 = var(influence_x) / n + the same
    for y. It measures the spread over repetitions, not the bias, which falls like 1/n. The value is the same to the bit
    whether or not the error is asked for.

    Raises:
        ValueError: fewer than 2 rows, different dimensions, or values that are not finite.
    """
    a, b = _side(x), _side(y, y_moments)
    if a.dim != b.dim:
        raise ValueError(f"`x` and `y` must be (n, d) and (m, d), got {(a.n, a.dim)}, {(b.n, b.dim)}")
    shift = a.mean - b.mean
    traces = (a.variances.sum() + b.variances.sum()).item()
    left, right = _live(a, b)
    root, clipped = _trace_of_root(left, right)
    value = (shift @ shift).item() + traces - 2.0 * root
    if -1e-9 * traces <= value < 0.0:
        value = 0.0
    error = _standard_error(left, right, shift) if with_error else None
    return FrechetDistance(value, error, a.singular or b.singular, clipped)


def trace_of_root(s1: Tensor, s2: Tensor) -> float:
    """tr (S1 S2)^(1/2) of two covariances (d, d), float64."""
    return _trace_of_root(*_live(*(_side(Moments(None, s.new_zeros(len(s)), s)) for s in (s1, s2))))[0]


# ------------------------------------------------------------------------------------------------------- one of the two sets


@dataclass(frozen=True)
class _Side:
    """One set. Its factor is made of `centred` (n, d') where n <= d, of `moments` otherwise; d' counts the features `live`."""

    n: int | None
    mean: Tensor
    variances: Tensor
    rows: Tensor | None
    centred: Tensor | None
    moments: Moments | None
    live: Tensor | None = None

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def triangle(self) -> Tensor | None:
        """The Cholesky factor (d', d'), where there is one; known to be singular, a covariance is not asked for it."""
        return None if self.moments is None or self.low else self.moments.cholesky

    @property
    def low(self) -> bool:
        return self.n is not None and self.n <= self.dim

    @property
    def singular(self) -> bool:
        return self.low or (self.n is None and self.triangle is None)


def _side(given: Tensor | Moments, known: Moments | None = None) -> _Side:
    if isinstance(given, Moments):
        side = _Side(given.n, given.mean, given.covariance.diagonal(), None, None, given)
    elif given.ndim != 2 or len(given) < 2:
        raise ValueError(f"features must be (n, d) with n >= 2, got {tuple(given.shape)}")
    elif len(given) <= given.shape[1]:
        mean, centred = centre(given.cpu())
        side = _Side(len(given), mean, centred.square().sum(0) / (len(given) - 1), given, centred, None)
    else:
        known = moments(given) if known is None else known
        side = _Side(len(given), known.mean, known.covariance.diagonal(), given, None, known)
    if not bool(side.variances.isfinite().all()):
        raise ValueError("the features hold values that are not finite (nan or infinity)")
    return side


def _live(a: _Side, b: _Side) -> tuple[_Side, _Side]:
    """Both without the features that are constant on either side: they add nothing, and Cholesky is exact without them."""
    live = (a.variances != 0) & (b.variances != 0)
    return (a, b) if bool(live.all()) else (_restricted(a, live), _restricted(b, live))


def _restricted(side: _Side, live: Tensor) -> _Side:
    whole = side.moments
    part = None if whole is None else Moments(whole.n, whole.mean[live], whole.covariance[live][:, live])
    return replace(side, centred=None if side.centred is None else side.centred[:, live], moments=part, live=live)


def _factor(side: _Side) -> tuple[Tensor, float]:
    """F (d', r) with F F' = S, and the share of eigenvalues clipped."""
    if side.centred is not None:
        return side.centred.T / math.sqrt(len(side.centred) - 1), 0.0
    assert side.moments is not None
    if side.triangle is not None:
        return side.triangle, 0.0
    values, vectors = torch.linalg.eigh(side.moments.covariance)
    kept = _above_rounding(values)
    if side.n is not None:  # n rows span n - 1 dimensions; what a stored covariance holds beyond them is its rounding
        kept[: max(len(values) - side.n + 1, 0)] = False
    return vectors[:, kept] * values[kept].sqrt(), _negative_share(values)


def _negative_share(values: Tensor) -> float:
    total = values.abs().sum().item()
    return (-values).clamp(min=0).sum().item() / total if total > 0 else 0.0


# ---------------------------------------------------------------------------------------------------- the trace of the root


def _trace_of_root(a: _Side, b: _Side) -> tuple[float, float]:
    """tr (S1 S2)^(1/2) and the share of eigenvalues clipped.

    Two regular covariances: eigenvalues of L2' S1 L2, 1e-11 where sqrtm is off by 4e-5 (eigenvalues down to 1e-12).
    Otherwise the singular values of F1' F2: the root of an eigenvalue that should be zero would cost half the digits.
    """
    if not a.low and b.triangle is not None:
        values = torch.linalg.eigvalsh(_inner(a, b))
        # Eigenvalues that are all more than rounding show that S1 is regular too; else its own factor decides.
        if bool(_above_rounding(values).all()) or a.triangle is not None:
            return values.clamp(min=0).sqrt().sum().item(), _negative_share(values)
    (left, clipped_left), (right, clipped_right) = _factor(a), _factor(b)
    return torch.linalg.svdvals(left.T @ right).sum().item(), max(clipped_left, clipped_right)


def _inner(other: _Side, base: _Side) -> Tensor:
    """F' S F (r, r), its lower triangle, with F the factor of `base` and S the covariance of `other`."""
    factor = _factor(base)[0]
    if other.centred is not None:
        cross = other.centred @ factor / math.sqrt(len(other.centred) - 1)
        return cross.T @ cross
    assert other.moments is not None
    whole = other.moments.covariance
    return factor.T @ whole @ factor if base.triangle is None else _between_triangles(factor, whole)


def _between_triangles(factor: Tensor, covariance: Tensor) -> Tensor:
    """The lower triangle of L' S L (d, d) in panels of columns: the zeros of L and the upper half cost nothing."""
    right, inner = torch.empty_like(covariance), torch.zeros_like(covariance)
    panels = [(start, slice(start, start + PANEL)) for start in range(0, len(factor), PANEL)]
    for start, columns in panels:
        right[:, columns] = covariance[:, start:] @ factor[start:, columns]
    for start, rows in panels:
        inner[rows, : start + PANEL] = factor[start:, rows].T @ right[start:, : start + PANEL]
    return inner


# ------------------------------------------------------------------------------------------------------ the standard error


def _standard_error(a: _Side, b: _Side, shift: Tensor) -> float | None:
    """The delta method's error of the sides that have features, from one eigendecomposition of size r = rank of a factor.

    With S2 = F F', F' S1 F = U D^2 U', y = F c: y' T y = |D^(1/2) U' c|^2 and, back, x' T^-1 x = |D^(-1/2) U' F' x|^2.
    Neither map is ever formed. On singular covariances this is the infinitesimal jackknife of the statistic itself.
    """
    if a.rows is None and b.rows is None:
        return None
    if a.centred is not None and (b.centred is None or len(a.centred) < len(b.centred)):
        a, b, shift = b, a, -shift
    factor = _factor(b)[0]
    squares, basis = torch.linalg.eigh(_inner(a, b))  # reads the lower triangle
    kept = _above_rounding(squares)
    roots, basis = squares[kept].sqrt(), basis[:, kept]
    variance = 0.0
    if a.rows is not None:
        influence = _flat(a, a.rows, shift) - _form(a, a.rows, factor @ basis, 1.0 / roots)
        variance += influence.var().item() / len(a.rows)
    if b.rows is not None:
        influence = _flat(b, b.rows, -shift) - _own_form(b, b.rows, factor, basis, roots)
        variance += influence.var().item() / len(b.rows)
    return math.sqrt(variance)


def _above_rounding(values: Tensor) -> Tensor:
    """Which of the ascending eigenvalues (r,) are more than rounding."""
    return values > (4.0 * len(values) ** 0.5 * EPS * values[-1].clamp(min=0) if len(values) > 0 else 0.0)


def _flat(side: _Side, rows: Tensor, shift: Tensor) -> Tensor:
    """2 shift.x + |x|^2 for each centred row x, (n,)."""
    blocks = (block.cpu().double() - side.mean for block in rows.split(BLOCK))
    return torch.cat([2.0 * x @ shift + x.square().sum(1) for x in blocks])


def _form(side: _Side, rows: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k (W' x)_k^2 for each centred row x, (n,), for W (d', r) and w (r,)."""
    sums = []
    for block in rows.split(BLOCK):
        x = block.cpu().double() - side.mean
        sums.append(((x if side.live is None else x[:, side.live]) @ basis).square() @ weights)
    return torch.cat(sums)


def _own_form(side: _Side, rows: Tensor, factor: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k (U' c)_k^2 for each centred row x = F c of the side that F is the factor of, (n,)."""
    if side.centred is not None:  # F is made of the rows, so c is a unit vector
        return basis.square() @ weights * (len(rows) - 1)
    if side.triangle is not None:
        return _form(side, rows, torch.linalg.solve_triangular(factor.T, basis, upper=True), weights)
    return _form(side, rows, factor / factor.square().sum(0) @ basis, weights)
