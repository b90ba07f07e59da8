"""The dual of the kernel KALE and its two solvers: Newton's method, and coordinate descent, which share only the dual and its gap.

    D(a) = sum_j [a_j log(m a_j) - a_j] + 1 + (1 / 2 lam) |mu_P - sum_j a_j k(y_j, .)|^2,     a_j = exp(v_j) / m
    r = v - h_a(y) = v - mu_P(y) / lam + K a / lam,    dD/da = r,    gap to the primal value at h_a: sum_j a_j [exp(-r_j) - 1 + r_j]

Glaser, Arbel and Gretton (2021) name both solvers. Deviation: their code solves for a and floors it; here v is the unknown, so a
stays positive, and points of Q without any weight cost nothing. All is float64 and without the factor 1 + lam, but for the gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.special import wrightomega
from torch import Tensor

from gebm_cli.core.fields import Field

ARMIJO = 1e-4
SMALLEST_STEP = 1e-10
CG_TOLERANCE = 1e-6
ROUNDING = 8 * torch.finfo(torch.float64).eps


class Gram(Protocol):
    """The Gram matrix K (m, m) of y, as far as Newton's method needs it: in full, or by features."""

    patience: int
    """So many products with K cost as much as one linear system."""

    def times(self, a: Tensor) -> Tensor:
        """K a."""
        ...

    def solve(self, s: Tensor, right: Tensor) -> Tensor:
        """(I + S K S)^-1 right with S = diag(s)."""
        ...

    def matrix(self) -> Tensor:
        """K."""
        ...

    def field(self, points: Tensor, weights: Tensor) -> Field:
        """sum_j weights_j k(points_j, .)."""
        ...


@dataclass(frozen=True)
class Iterate:
    """v, a = exp(v) / m, K a and r = v - h_a(y)."""

    v: Tensor
    a: Tensor
    k_a: Tensor
    r: Tensor


@dataclass(frozen=True)
class Dual:
    """The dual without the factor 1 + lam; `slope` is mu_P(y) / lam, `free` a level of v (see `_moved`)."""

    gram: Gram
    slope: Tensor
    lam: float
    free: float

    def at(self, v: Tensor) -> Iterate:
        a = v.exp() / len(v)
        k_a = self.gram.times(a)
        return Iterate(v, a, k_a, v - self.slope + k_a / self.lam)

    def best(self, start: Tensor | None) -> Iterate:
        """The better of v = 0 and the start."""
        zero = self.at(torch.zeros_like(self.slope))
        if start is None:
            return zero
        if start.shape != self.slope.shape:
            raise ValueError(f"`start` must be ({len(self.slope)},), got {tuple(start.shape)}")
        given = self.at(start.to(self.slope))
        better = self._entropy(given) + 0.5 * self._norm2(given) < self._entropy(zero) + 0.5 * self._norm2(zero)
        return given if better else zero

    def objective(self, p: Iterate, mean_norm2: float) -> float:
        """sum_j [a_j v_j - a_j + 1 / m] + (lam / 2) |h|^2, each sum at least 0; `mean_norm2` is |mu_P|^2."""
        return self._entropy(p) + 0.5 * max(mean_norm2 / self.lam + self._norm2(p), 0.0)

    def rounding(self, p: Iterate, mean_norm2: float) -> float:
        """How far the objective may be off by the rounding of its terms."""
        terms = (p.a * (p.v.abs() + 1.0)).sum() + 1.0 + 0.5 * (p.a @ (2.0 * self.slope.abs() + p.k_a.abs() / self.lam))
        return ROUNDING * (terms.item() + 0.5 * mean_norm2 / self.lam)

    def _entropy(self, p: Iterate) -> float:
        return (p.a * p.v - p.v.expm1() / len(p.v)).sum().item()

    def _norm2(self, p: Iterate) -> float:
        """lam |h|^2 less the part that is of P alone."""
        return (p.a @ p.k_a).item() / self.lam - 2.0 * (p.a @ self.slope).item()

    def gap(self, p: Iterate) -> float:
        """(1 + lam) sum_j a_j [exp(-r_j) - 1 + r_j], where a_j may have underflowed and exp(-r_j) be huge."""
        near = p.a * (torch.expm1(-p.r) + p.r)
        below = (p.v - p.r).exp() / len(p.v) + p.a * (p.r - 1.0)
        return (1.0 + self.lam) * torch.where(p.r > -1.0, near, below).sum().item()

    def done(self, p: Iterate, tolerance: float) -> bool:
        """Whether the gap is finite and at most the tolerance, or what the rounding of r makes of it."""
        rounding = ROUNDING * (p.v.abs() + self.slope.abs() + p.k_a.abs() / self.lam)
        gap = self.gap(p)
        return math.isfinite(gap) and gap <= max(tolerance, (1.0 + self.lam) * (p.a @ rounding.square()).item())


def newton(dual: Dual, p: Iterate, tolerance: float, limit: int) -> tuple[Iterate, int]:
    """Newton's method in a, with steps that keep it positive, and Armijo's line search along them."""
    for iteration in range(limit):
        if dual.done(p, tolerance):
            return p, iteration
        step = _line_search(dual, p, _direction(dual, p))
        if step is None:
            return p, iteration
        p = dual.at(p.v + step)
    return p, limit


def _line_search(dual: Dual, p: Iterate, direction: Tensor) -> Tensor | None:
    """A step that decreases the objective enough, by halving; None where rounding leaves none."""
    slope, t = (p.a * p.r @ direction).item(), 1.0
    while t > SMALLEST_STEP:
        step = _moved(dual, p, t * direction)
        if _change(dual, p, step) <= ARMIJO * t * slope:
            return step
        t /= 2
    return None


def _direction(dual: Dual, p: Iterate) -> Tensor:
    """-(I + K diag(a) / lam)^-1 r, by its symmetric form in S = diag(sqrt a): -(r + K S u / lam), (I + S K S / lam) u = -S r.

    The last product, in place of u / sqrt(a), is exact where a underflows to 0.
    """
    root = p.a.sqrt()
    s, right = root / math.sqrt(dual.lam), -root * p.r
    u = _conjugate_gradients(dual.gram, s, right)
    u = dual.gram.solve(s, right) if u is None else u
    return -(p.r + dual.gram.times(root * u) / dual.lam)


def _conjugate_gradients(gram: Gram, s: Tensor, right: Tensor) -> Tensor | None:
    """(I + S K S)^-1 right, or None where it is cheaper to factorise.

    Both, because the eigenvalues of S K S decide: for lam >= 1e-3 a few products do, for lam <= 1e-6 thousands would not.
    """
    u, residual = torch.zeros_like(right), right.clone()
    p, square = residual.clone(), (right @ right).item()
    goal = CG_TOLERANCE**2 * square
    for _ in range(gram.patience):
        if square <= goal:
            return u
        image = p + s * gram.times(s * p)
        length = square / (p @ image).item()
        u.add_(p, alpha=length)
        residual.sub_(image, alpha=length)
        square, before = (residual @ residual).item(), square
        p = residual + (square / before) * p
    return None


def _moved(dual: Dual, p: Iterate, direction: Tensor) -> Tensor:
    """The step of v along a direction: downward Newton's in v, upward Newton's in a, a (1 + direction), to first order the same.

    The equation of one coordinate, v + c exp(v) = t, is convex in v, and concave as log a + c m a = t: so taken, no step leaps over
    its root. Below the level `free` it is linear in v, and v goes straight up to there. (At lam = 1e-6 steps of exp alone, as of
    log1p alone, took up to three times the iterations.)
    """
    up, room = direction.clamp(min=0.0), (dual.free - p.v).clamp(min=0.0)
    risen = torch.minimum(up, room) + torch.log1p((up - room).clamp(min=0.0))
    return torch.where(direction > 0, risen, direction)


def _change(dual: Dual, p: Iterate, step: Tensor) -> float:
    """The objective at v + step less that at v, by differences alone: near the optimum both would be equal to rounding."""
    after = (p.v + step).exp() / len(p.v)
    delta = torch.where(step < 1.0, p.a * step.expm1(), after - p.a)
    entropy = (p.a + delta) * step - delta
    return (delta @ p.r + entropy.sum() + delta @ dual.gram.times(delta) / (2.0 * dual.lam)).item()


def coordinate_descent(dual: Dual, p: Iterate, tolerance: float, limit: int) -> tuple[Iterate, int]:
    """Sweeps of exact minimisations over one a_j: v + c exp(v) = t, by Lambert's W in the form that cannot overflow. On the CPU."""
    k, slope, size = dual.gram.matrix().cpu().numpy(), dual.slope.cpu().numpy(), len(p.v)
    curvature = k.diagonal() / (size * dual.lam)
    for sweep in range(limit):
        if dual.done(p, tolerance):
            return p, sweep
        v, a, k_a = (t.cpu().numpy().copy() for t in (p.v, p.a, p.k_a))
        for j in range(size):
            v[j] = _root(slope[j] - (k_a[j] - k[j, j] * a[j]) / dual.lam, curvature[j])
            new = math.exp(v[j]) / size
            k_a += (new - a[j]) * k[j]
            a[j] = new
        p = dual.at(torch.from_numpy(v).to(p.v))
    return p, limit


def _root(t: float, c: float) -> float:
    """v with v + c exp(v) = t, c >= 0: with w = c exp(v), w + log w = t + log c."""
    if c <= 0:
        return t
    return t - float(wrightomega(t + math.log(c)))
