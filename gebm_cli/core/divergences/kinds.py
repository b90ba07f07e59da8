"""The divergences by name, one door: rows of P and Q in, for each kind a value, its error, which way it errs, and a witness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import MAX_BYTES, KaleProblem
from gebm_cli.core.divergences.names import F_DIVERGENCES, FEWEST_ROWS, KINDS, TOLD, Kind
from gebm_cli.core.divergences.transport import Transport, sinkhorn_divergence, sliced_wasserstein1, wasserstein1
from gebm_cli.core.divergences.variational import Bounds, f_divergences
from gebm_cli.core.evaluation.feature_mmd import energy_distance, feature_mmd
from gebm_cli.core.fields import Field, Scaled
from gebm_cli.core.kernels import EnergyDistance, Kernel
from gebm_cli.core.mmd import Estimate, mmd2
from gebm_cli.core.progress import Begin, Steps, silent
from gebm_cli.core.two_sample.collections import described, kernel_of
from gebm_cli.core.two_sample.names import KernelName
from gebm_cli.core.two_sample.witness import mean_difference, witness

FEATURES = 2000  # of `kale` where the kernel matrix of y does not fit


@dataclass(frozen=True)
class Options:
    """What the divergences depend on besides the samples.

    Args:
        kernel, bandwidth: of `mmd` and `kale`; no bandwidth is the median distance of the pooled sample.
        regularisation: lam of `kale`.
        features: random features for the kernel of `kale`; none is the kernel itself, or 2,000 of them where y has too many rows.
        n_projections: directions of `sliced-w1`.
        sinkhorn_regularisation: epsilon of `sinkhorn` in medians of |x - y|.
        image_shape: (c, h, w) where the rows are flattened images, for the critic of the f-divergences.
    """

    kernel: KernelName = "gaussian"
    bandwidth: float | None = None
    regularisation: float = 0.1
    features: int | None = None
    n_projections: int = 200
    sinkhorn_regularisation: float = 0.05
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        positive = ("bandwidth", "regularisation", "features", "n_projections", "sinkhorn_regularisation")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be positive and finite, got {value}")


@dataclass(frozen=True)
class Found:
    """A divergence of P from Q, estimated.

    Attributes:
        value, standard_error: inf and nan where `infinite`; the error is nan where there is none.
        estimator, direction: how, and which way the value errs, in words.
        infinite, at_least: the divergence is infinite or too large for the rows to measure, and how large it is at least.
        settings: kernel, bandwidth, regularisation, duality_gap, ... as far as the kind has them.
        witness_x, witness_y: where P has more than Q: a function at x (n,) and y (m,), float64. Of `mmd`, `energy-distance`, `w1`,
            `sliced-w1` and `sinkhorn` its mean over x less that over y is the value; of `kale` and the f-divergences it is
            log dP/dQ as far as they know it.
        field: the same function everywhere, where it is known. That of `mmd` has each row in its own mean, the witness has not.
    """

    kind: Kind
    value: float
    standard_error: float
    estimator: str
    direction: str
    infinite: bool
    at_least: float | None
    settings: dict[str, Any]
    witness_x: Tensor | None
    witness_y: Tensor | None
    field: Field | None


def divergences(
    x: Tensor,
    y: Tensor,
    kinds: Sequence[Kind],
    options: Options,
    generator: torch.Generator,
    begin: Begin = silent,
) -> list[Found]:
    """The divergences of P from Q by x (n, d) of P and y (m, d) of Q, in the order of `kinds`; all is float64.

    One draw of `generator` seeds each kind, so what a kind finds does not depend on the others.

    Raises:
        ValueError: an unknown kind, shapes that do not fit, rows that are not finite, or more or fewer rows than a kind can use.
    """
    _check(x, y, kinds)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    at = _At(x.double(), y.double(), options, lambda kind: make_generator(seed, kind), begin)
    asked = [kind for kind in kinds if kind in F_DIVERGENCES]
    bounds = f_divergences(at.x, at.y, at.stream("critic"), asked, options.image_shape, begin) if asked else None
    return [_of_critic(kind, bounds, at) if bounds and kind in asked else _FINDERS[kind](kind, at) for kind in kinds]


def _check(x: Tensor, y: Tensor, kinds: Sequence[Kind]) -> None:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or x.shape[1] < 1:
        raise ValueError(f"`x` and `y` must be (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    for name, side in (("x", x), ("y", y)):
        if not side.isfinite().all():
            raise ValueError(f"`{name}` has rows that are not finite")
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown divergence {kind!r}, expected one of {', '.join(KINDS)}")
        if min(len(x), len(y)) < FEWEST_ROWS[kind]:
            raise ValueError(f"{kind} needs {FEWEST_ROWS[kind]} rows of each sample, got {len(x)} and {len(y)}")


@dataclass(frozen=True)
class _At:
    """Two samples, and all that the kinds share."""

    x: Tensor
    y: Tensor
    options: Options
    stream: Callable[[str], torch.Generator]
    begin: Begin

    def kernel(self) -> Kernel:
        widths = () if self.options.bandwidth is None else (self.options.bandwidth,)
        return kernel_of(self.options.kernel, widths, torch.cat([self.x, self.y]))


def _found(
    kind: Kind, estimate: Estimate, settings: dict[str, Any], at_x: Tensor, at_y: Tensor, f: Field | None
) -> Found:
    told = TOLD[kind]
    value, error = estimate.value, estimate.standard_error
    return Found(kind, value, error, told.estimator, told.direction, False, None, settings, at_x, at_y, f)


def _transport(kind: Kind, at: _At) -> Found:
    found = _transported(kind, at)
    estimate = Estimate(found.value, found.standard_error)
    return _found(kind, estimate, found.settings, found.witness_x, found.witness_y, found.field)


def _transported(kind: Kind, at: _At) -> Transport:
    if kind == "w1":
        return wasserstein1(at.x, at.y)
    if kind == "sinkhorn":
        return sinkhorn_divergence(at.x, at.y, at.options.sinkhorn_regularisation, at.begin)
    return sliced_wasserstein1(at.x, at.y, at.stream(kind), at.options.n_projections, at.begin)


def _mmd(kind: Kind, at: _At) -> Found:
    """With fewer than 4 rows the whole variance cannot be estimated; the error is then that of the first order."""
    kernel, few = at.kernel(), min(len(at.x), len(at.y)) < 4
    estimate = mmd2(at.x, at.y, kernel) if few else feature_mmd(at.x, at.y, kernel, _blocks(at))
    at_x, at_y = witness(kernel, at.x, at.y)
    return _found(kind, estimate, described(kernel), at_x, at_y, mean_difference(kernel, at.x, at.y))


def _energy(kind: Kind, at: _At) -> Found:
    """Twice the MMD^2 of the distance-induced kernel, and so twice its witness and error."""
    kernel, few = EnergyDistance(), min(len(at.x), len(at.y)) < 4
    half = mmd2(at.x, at.y, kernel) if few else None
    estimate = Estimate(2 * half.value, 2 * half.standard_error) if half else energy_distance(at.x, at.y, _blocks(at))
    at_x, at_y = (2 * values for values in witness(kernel, at.x, at.y))
    return _found(kind, estimate, {}, at_x, at_y, Scaled(mean_difference(kernel, at.x, at.y), 2.0))


def _blocks(at: _At) -> Steps:
    return Steps(at.begin, "kernel sums", "blocks")


def _kale(kind: Kind, at: _At) -> Found:
    """Where the dual has not converged its value is still a bound, as 0 is; there is no error then."""
    kernel, options = at.kernel(), at.options
    features = options.features or (FEATURES if 8 * len(at.y) ** 2 > MAX_BYTES else None)
    tell = at.begin("KALE", "problems", 1)
    problem = KaleProblem(at.y, kernel, options.regularisation, features, at.stream(kind) if features else None)
    solution = problem.solve(at.x)
    tell(1)
    settings = described(kernel) | {"regularisation": options.regularisation}
    settings |= {"features": features} if features else {}
    field, value = solution.field, solution.value
    if not math.isfinite(value):
        raise ValueError(
            "kale: the kernel's values are too large for float64; standardise the rows, or take a larger bandwidth"
        )
    gap = min(solution.duality_gap, value)  # KALE is not negative
    settings |= {"duality_gap": gap, "iterations": solution.iterations}
    error = solution.standard_error if solution.converged else math.nan
    found = _found(kind, Estimate(value, error), settings, field.value(at.x), field.value(at.y), field)
    if solution.converged:
        return found
    return replace(found, direction=f"between {value - gap:.4g} and {value:.4g}: the dual has not converged")


def _of_critic(kind: Kind, bounds: Bounds, at: _At) -> Found:
    """The witness is v at all rows, those that it was learned from included."""
    found, apart, critic = bounds.by_kind[kind], bounds.separation, bounds.critic
    told, settings = TOLD[kind], {"critic": critic.name, "misjudged": apart.misjudged, "held_out": apart.rows}
    settings |= {"n_train": list(bounds.n_train), "n_held_out": list(bounds.n_held_out)}
    shares = {"clipped": found.clipped, "carried": found.carried, "negative_estimate": found.below}
    settings |= {name: value for name, value in shares.items() if value is not None}
    direction = ", ".join([told.direction, *found.notes])
    if found.infinite:
        direction = f"infinite or too large to measure: {apart.misjudged} of {apart.rows} held-out rows misjudged"
    value, error, infinite = found.value, found.standard_error, found.infinite
    at_x, at_y = critic.value(at.x), critic.value(at.y)
    return Found(kind, value, error, told.estimator, direction, infinite, found.at_least, settings, at_x, at_y, critic)


_FINDERS: dict[Kind, Callable[[Kind, _At], Found]] = {
    "w1": _transport,
    "sliced-w1": _transport,
    "sinkhorn": _transport,
    "mmd": _mmd,
    "energy-distance": _energy,
    "kale": _kale,
}
