"""What a flow of particles descends: a divergence F of the particles to a fixed target, and the f whose gradient moves them.

One anatomy for all: `at(x) -> Point`. F is the divergence as a function of the law P of the particles, f its first variation,

    d/ds F(law of x - s v(x)) = -mean_i <grad f(x_i), v(x_i)>  at s = 0,    so  dF/dx_i = grad f(x_i) / n,

and a step is x' = x - step grad f(x). Moved by v = grad f, F falls at the rate mean_i |grad f(x_i)|^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from gebm_cli.core.fields import Field, KernelField, Scaled
from gebm_cli.core.kernels import Kernel

if TYPE_CHECKING:
    from gebm_cli.core.divergences.kernel_kale import KaleProblem, KaleSolution


SMALL_GAP = 1e-3
"""Of the value: a gap with which a step may be judged, where the solver has ended before its tolerance."""


class Point(Protocol):
    """The divergence at one set of particles. Nothing is computed before it is asked for, and nothing twice."""

    @property
    def value(self) -> float:
        """F."""
        ...

    @property
    def gap(self) -> float:
        """How far F may be below `value`, which a solver's upper bound is: its duality gap, at most the value. 0 without one."""
        ...

    @property
    def converged(self) -> bool:
        """Whether the solver has, or there is none."""
        ...

    @property
    def rounding(self) -> float:
        """How far the value may be off by rounding."""
        ...

    @property
    def field(self) -> Field:
        """f."""
        ...

    @property
    def start(self) -> Tensor | None:
        """What the solver may start from at particles nearby; None where there is no solver."""
        ...

    def gradient(self, t: Tensor | None = None) -> Tensor:
        """grad f at t (k, d), without t at the particles themselves."""
        ...


class Descent(Protocol):
    """A divergence to a fixed target."""

    def at(self, x: Tensor, start: Tensor | None = None) -> Point:
        """The divergence of the particles x (n, d), a solver starting from `start`."""
        ...


class MmdDescent:
    """F = MMD^2 / 2 of the particles to `target` (m, d), with f = mean_i k(., x_i) - mean_j k(., y_j)   (Arbel et al. 2019).

    F is the biased V-statistic, diagonals included, because that is what the flow descends: the diagonal of the particles is
    where the repulsion of a particle from itself would be, 0 for a kernel of the distance.
    """

    def __init__(self, target: Tensor, kernel: Kernel) -> None:
        self.kernel, self.target = kernel, _mean_embedding(kernel, target)
        self.within_target = self.target.value(target).mean().item()

    def at(self, x: Tensor, start: Tensor | None = None) -> MmdPoint:
        return MmdPoint(self, x)


@dataclass(frozen=True)
class MmdPoint:
    """F costs nothing beside the gradient at the particles: mean k(x, x) and mean k(x, y) come out of the same pass."""

    descent: MmdDescent
    particles: Tensor
    start: None = None
    gap: float = 0.0
    converged: bool = True

    @cached_property
    def field(self) -> Field:
        (x, u), (y, w) = ((f.points, f.weights) for f in (self._own, self.descent.target))
        return KernelField(self.descent.kernel, torch.cat([x, y.to(x.dtype)]), torch.cat([u, -w]))

    @property
    def value(self) -> float:
        own, target, _ = self._at_particles
        return 0.5 * (own + self.descent.within_target) - target

    @property
    def rounding(self) -> float:
        own, target, _ = self._at_particles
        terms = 0.5 * (abs(own) + abs(self.descent.within_target)) + abs(target)
        return 8 * torch.finfo(self.particles.dtype).eps * terms

    def gradient(self, t: Tensor | None = None) -> Tensor:
        return self._at_particles[2] if t is None else self.field.value_and_grad(t)[1]

    @cached_property
    def _own(self) -> KernelField:
        return _mean_embedding(self.descent.kernel, self.particles)

    @cached_property
    def _at_particles(self) -> tuple[float, float, Tensor]:
        """mean k(x, x), mean k(x, y), and grad f at x."""
        own, repulsion = self._own.value_and_grad(self.particles)
        target, attraction = self.descent.target.value_and_grad(self.particles)
        return own.mean().item(), target.mean().item(), repulsion - attraction


@dataclass(frozen=True)
class KaleDescent:
    """F = KALE of the particles to the problem's target, with f = (1 + lam) h*   (Glaser et al. 2021).

    `options` go to `KaleProblem.solve`, e.g. solver and tolerance.
    """

    problem: KaleProblem
    options: dict[str, Any] | None = None

    def at(self, x: Tensor, start: Tensor | None = None) -> KalePoint:
        return KalePoint(self, x, start)


@dataclass(frozen=True)
class KalePoint:
    """One solution of the convex dual gives F, its gap and f."""

    descent: KaleDescent
    particles: Tensor
    started: Tensor | None

    @cached_property
    def solution(self) -> KaleSolution:
        options = {"with_gradient": True} | (self.descent.options or {})
        return self.descent.problem.solve(self.particles, start=self.started, **options)

    @property
    def value(self) -> float:
        return float(self.solution.value)

    @property
    def gap(self) -> float:
        return min(self.solution.duality_gap, self.value)  # KALE is not negative

    @property
    def converged(self) -> bool:
        return self.solution.converged or self.gap <= SMALL_GAP * self.value

    @property
    def rounding(self) -> float:
        """Of the solver in float64, and of the particles in their own type, which F feels by its slope."""
        slope = (self.gradient().double() * self.particles).abs().sum().item() / len(self.particles)
        return self.solution.rounding + torch.finfo(self.particles.dtype).eps * slope

    @property
    def field(self) -> Field:
        return Scaled(self.solution.field, 1.0 + self.solution.regularisation)

    @property
    def start(self) -> Tensor:
        return self.solution.log_ratio

    def gradient(self, t: Tensor | None = None) -> Tensor:
        return self._gradient if t is None else self.field.value_and_grad(t)[1]

    @cached_property
    def _gradient(self) -> Tensor:
        return ((1.0 + self.solution.regularisation) * self.solution.gradient).to(self.particles)


@dataclass(frozen=True)
class Decoded:
    """A divergence of decoded particles, F(B(z)) with f(B(z)), moved in the latents z (n, k): grad = J_B^T grad f(B(z)).

    `decode` maps (n, k) to (n, d), differentiably and each row for itself (networks in eval mode); it is called in blocks of
    `batch_size` rows, whose graphs live one at a time: one pass forward for the values, one forward and back for the gradient.
    """

    inner: Descent
    decode: Callable[[Tensor], Tensor]
    batch_size: int = 1024

    def at(self, x: Tensor, start: Tensor | None = None) -> DecodedPoint:
        return DecodedPoint(self, x, self.inner.at(self.decoded(x), start))

    @torch.no_grad()
    def decoded(self, z: Tensor) -> Tensor:
        """B(z)."""
        return torch.cat([self.decode(part) for part in z.split(self.batch_size)])

    def pulled_back(self, z: Tensor, gradient: Tensor) -> Tensor:
        """J_B(z)^T gradient."""
        found = []
        for part, cotangent in zip(z.split(self.batch_size), gradient.split(self.batch_size), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                found.append(torch.autograd.grad(self.decode(part), part, cotangent)[0])
        return torch.cat(found)


@dataclass(frozen=True)
class DecodedPoint:
    """The divergence of the decoded particles, and the gradient in the latents."""

    descent: Decoded
    particles: Tensor
    inner: Point

    @property
    def value(self) -> float:
        return self.inner.value

    @property
    def gap(self) -> float:
        return self.inner.gap

    @property
    def converged(self) -> bool:
        return self.inner.converged

    @property
    def rounding(self) -> float:
        return self.inner.rounding

    @property
    def start(self) -> Tensor | None:
        return self.inner.start

    @property
    def field(self) -> Field:
        return _DecodedField(self.descent, self.inner.field)

    def gradient(self, t: Tensor | None = None) -> Tensor:
        if t is None:
            return self._gradient
        return self.descent.pulled_back(t, self.inner.gradient(self.descent.decoded(t)))

    @cached_property
    def _gradient(self) -> Tensor:
        return self.descent.pulled_back(self.particles, self.inner.gradient())


@dataclass(frozen=True)
class _DecodedField:
    """f(B(z)) with the gradient J_B(z)^T grad f(B(z))."""

    descent: Decoded
    field: Field

    def value(self, t: Tensor) -> Tensor:
        return self.field.value(self.descent.decoded(t))

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.field.value_and_grad(self.descent.decoded(t))
        return value, self.descent.pulled_back(t, gradient)


def _mean_embedding(kernel: Kernel, points: Tensor) -> KernelField:
    """mean_j k(., points_j)."""
    return KernelField(
        kernel, points, torch.full((len(points),), 1.0 / len(points), dtype=torch.float64, device=points.device)
    )
