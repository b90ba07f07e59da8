"""KALE with a critic in an RKHS: convex, solved to a certified gap, between KL and MMD^2 / 2 (Glaser, Arbel and Gretton 2021).

    KALE_lam(P || Q) = (1 + lam) sup_h  1 + mean_P h - mean_Q exp(h) - (lam / 2) |h|^2_H
                     = (1 + lam) min_{a > 0}  sum_j [a_j log(m a_j) - a_j] + 1 + (1 / 2 lam) |mu_P - sum_j a_j k(y_j, .)|^2

P = x (n, d), Q = y (m, d), mu_P = mean_i k(x_i, .). The best h is (mu_P - sum_j a_j k(y_j, .)) / lam, with m a_j = exp(h(y_j)):
h is log dP/dQ as far as the RKHS can say. lam -> 0 gives KL(P || Q) where P << Q and k separates the points of Q, lam -> infinity
MMD^2 / 2. With v_j = log(m a_j) and r_j = v_j - h_a(y_j) the gap of the two lines is (1 + lam) sum_j a_j [exp(-r_j) - 1 + r_j].
Everything is float64, whatever the type of x and y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gebm_cli.core.divergences.kale_dual import ROUNDING, Dual, Gram, Iterate, coordinate_descent, newton
from gebm_cli.core.divergences.random_features import FeatureGram, random_features
from gebm_cli.core.fields import Field, KernelField
from gebm_cli.core.kernels import Kernel, OfDistance

MAX_BYTES = 2**31
"""Of the kernel matrix of y, or of its features: m = 16,384. Newton's method may hold three such matrices for a moment."""
BLOCK = 1024

FLOOR = 1e-6  # of the value: so large a gap may be for rounding to excuse it

Solver = Literal["newton", "coordinate-descent"]
SOLVERS = {"newton": (newton, 200), "coordinate-descent": (coordinate_descent, 10_000)}
"""Each with its limit of iterations (sweeps, for the second)."""


@dataclass(frozen=True)
class KaleSolution:
    """A certified estimate: lower <= sup <= value = lower + duality_gap, all with the factor 1 + lam (rounding aside).

    `log_ratio` is v (m,), the `start` of a next solve with the same m; `field` is h, without the factor 1 + lam, float64 inside.
    What needs a pass over x of its own is computed when it is asked for, and once: `value` (n^2 kernel values), `gradient`
    (of h at x; the same pass as the value where `solve` was told so) and `standard_error`.
    """

    duality_gap: float
    iterations: int
    log_ratio: Tensor
    field: Field
    regularisation: float
    _ended: _Ended

    @cached_property
    def value(self) -> float:
        return (1.0 + self.regularisation) * self._ended.dual.objective(self._ended.at, self._ended.mean_norm2)

    @property
    def lower(self) -> float:
        return self.value - self.duality_gap

    @property
    def converged(self) -> bool:
        """Whether the gap is finite and at most the tolerance, or at the floor that rounding sets and at most 1e-6 of the value.

        Not so where the iterations ended the search (a small lam), or rounding did (k / lam beyond about 1e10).
        """
        if self.duality_gap <= self._ended.tolerance:
            return True
        floor = self._ended.dual.done(self._ended.at, self._ended.tolerance)
        return floor and self.duality_gap <= FLOOR * self.value < math.inf

    @property
    def rounding(self) -> float:
        """How far `value` may be off by rounding."""
        return (1.0 + self.regularisation) * self._ended.dual.rounding(self._ended.at, self._ended.mean_norm2)

    @cached_property
    def gradient(self) -> Tensor:
        """grad h at x (n, d), float64."""
        mean = self._ended.mean_at_x[1]
        if mean is None:
            return self.field.value_and_grad(self._ended.x)[1]
        return (mean - self._ended.base.value_and_grad(self._ended.x)[1]) / self.regularisation

    @cached_property
    def standard_error(self) -> float:
        """(1 + lam) sqrt(var_P(h) / n + var_Q(e^h) / m), of the regularised KALE at this lam, by the envelope theorem; nan where n
        or m is 1.

        It says nothing of KL. The estimate is in sample, so biased upward, most where lam is small, and at P = Q the bias is of the
        error's order.
        """
        x, ratio = self._ended.x, self.log_ratio.exp()
        h_x = (self._ended.mean_at_x[0] - self._ended.base.value(x)) / self.regularisation
        return (1.0 + self.regularisation) * math.sqrt(_variance(h_x) / len(x) + _variance(ratio) / len(ratio))


@dataclass(frozen=True)
class _Ended:
    """Where a search ended: the dual there, x, mu_P, sum_j a_j k(y_j, .), and whether grad mu_P at x comes with its value."""

    dual: Dual
    at: Iterate
    tolerance: float
    x: Tensor
    mean: Field
    base: Field
    with_gradient: bool

    @cached_property
    def mean_at_x(self) -> tuple[Tensor, Tensor | None]:
        return self.mean.value_and_grad(self.x) if self.with_gradient else (self.mean.value(self.x), None)

    @cached_property
    def mean_norm2(self) -> float:
        return self.mean_at_x[0].mean().item()


class ExactGram:
    """K in memory, for any kernel."""

    def __init__(self, y: Tensor, kernel: Kernel) -> None:
        self._kernel, self._matrix = kernel, y.new_empty(len(y), len(y))
        # A kernel of a distance does not mind where the origin is; its digits do.
        near = y - y.mean(0) if isinstance(kernel, OfDistance) else y
        for i in range(0, len(y), BLOCK):
            self._matrix[i : i + BLOCK] = kernel(near[i : i + BLOCK], near)
        self.patience = len(y) // 40

    def times(self, a: Tensor) -> Tensor:
        return self._matrix @ a

    def solve(self, s: Tensor, right: Tensor) -> Tensor:
        system = (self._matrix * s).mul_(s[:, None])
        system.diagonal().add_(1.0)
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed:  # a kernel of huge values has negative eigenvalues by rounding
            system.diagonal().add_(len(s) * ROUNDING * system.diagonal().max())
            factor = torch.linalg.cholesky(system)
        return torch.cholesky_solve(right[:, None], factor)[:, 0]

    def matrix(self) -> Tensor:
        return self._matrix

    def field(self, points: Tensor, weights: Tensor) -> Field:
        return KernelField(self._kernel, points, weights)


class KaleProblem:
    """KALE_lam(x || y) for a fixed y (m, d) and any x (n, d): what depends on y alone is computed once.

    With `features` the kernel is replaced by that many random features: memory O(m features) in place of m x m. Sums over x are
    streamed, so n is bounded by time alone (n^2 kernel values give the value and its error; with features n * features).

    Raises:
        ValueError: y not (m, d) with rows and finite, `regularisation` not positive and finite, no generator for features, a
            kernel without features, or a matrix above MAX_BYTES.
    """

    def __init__(
        self,
        y: Tensor,
        kernel: Kernel,
        regularisation: float,
        features: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not (regularisation > 0 and math.isfinite(regularisation)):
            raise ValueError(f"`regularisation` must be positive and finite, got {regularisation}")
        self._y, self._lam = _rows(y, "y"), float(regularisation)
        _check_memory(len(y), features)
        with torch.no_grad():
            self._gram = _gram(self._y, kernel, features, generator)
            uniform = self._y.new_full((len(y),), 1.0 / len(y))
            # Below this level of v all of Q together is too light to be felt by h, which is then linear in v.
            self._free = -math.log1p(max(self._gram.times(uniform).max().item(), 0.0) / self._lam)

    @property
    def regularisation(self) -> float:
        return self._lam

    @torch.no_grad()
    def solve(
        self,
        x: Tensor,
        start: Tensor | None = None,
        solver: Solver = "newton",
        tolerance: float = 1e-8,
        max_iterations: int | None = None,
        with_gradient: bool = False,
    ) -> KaleSolution:
        """The solution for x (n, d) to a duality gap of `tolerance`. A `start` (m,) that is worse than v = 0 is not used.

        `with_gradient` says that grad h at x will be asked for beside the value: one pass over the n^2 kernel values finds both.

        Raises:
            ValueError: x not (n, d) with rows and finite, of another dimension than y, or a start that is not (m,).
        """
        x, y, lam = _rows(x, "x").to(self._y.device), self._y, self._lam
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"`x` and `y` must have the same dimension, got {x.shape[1]} and {y.shape[1]}")
        mean = self._gram.field(x, x.new_full((len(x),), 1.0 / len(x)))
        dual = Dual(self._gram, mean.value(y) / lam, lam, self._free)
        search, limit = SOLVERS[solver]
        point, iterations = search(
            dual, dual.best(start), tolerance, limit if max_iterations is None else max_iterations
        )
        ended = _Ended(dual, point, tolerance, x, mean, self._gram.field(y, point.a), with_gradient)
        weights = torch.cat([x.new_full((len(x),), 1.0 / (len(x) * lam)), -point.a / lam])
        field = self._gram.field(torch.cat([x, y]), weights)
        return KaleSolution(dual.gap(point), iterations, point.v, field, lam, ended)


def _gram(y: Tensor, kernel: Kernel, features: int | None, generator: torch.Generator | None) -> Gram:
    if features is None:
        return ExactGram(y, kernel)
    if generator is None:
        raise ValueError("random `features` need a `generator`")
    return FeatureGram(y, random_features(kernel, y.shape[1], features, generator).to(y.device))


def _check_memory(m: int, features: int | None) -> None:
    needed, what = (
        8 * m * (m if features is None else features),
        "kernel matrix of y" if features is None else "features of y",
    )
    if needed > MAX_BYTES:
        remedy = (
            "give `features` (random features), or fewer rows" if features is None else "give fewer features or rows"
        )
        raise ValueError(f"the {what} would take {needed / 1e9:.1f} GB, more than {MAX_BYTES / 1e9:.1f}: {remedy}")


def _rows(x: Tensor, name: str) -> Tensor:
    if x.ndim != 2 or not len(x):
        raise ValueError(f"`{name}` must be (n, d) with at least one row, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"`{name}` has values that are not finite")
    return x.detach().double()


def _variance(values: Tensor) -> float:
    return values.var(correction=1).item() if len(values) > 1 else math.nan
