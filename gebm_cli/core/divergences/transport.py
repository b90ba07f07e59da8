"""Wasserstein-1 distances of two samples: exact, by projections, and entropic, each with its Kantorovich potentials as witness.

    W1(P, Q) = sup { E_P f - E_Q f : f 1-Lipschitz },     mean f(x) - mean f(y) = the value, for each of the three

To first order in the samples the value moves as its potentials do, so its standard error is sqrt(var f(x) / n + var f(y) / m), as
del Barrio & Loubes (2019) prove for |x - y|^2. Deviation: it is used for |x - y|, where their law holds if the potential is unique.
It is of the noise alone: the distance between samples exceeds that of their laws on average, by about n^(-1/d) at P = Q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.divergences.names import MOST_SINKHORN, MOST_TRANSPORTED
from gebm_cli.core.progress import Begin, silent

BLOCK_ENTRIES = 2**21  # of projections that are sorted at once
DIRECT_COLUMNS = 64  # up to which distances are taken without a product, that is without cancellation
ROWS = 1024  # of a block of points where a potential is evaluated
SINKHORN_STEPS, SINKHORN_TOLERANCE = 1000, 1e-4  # of the plan's marginals in L1; the value's error is of its square
MOST_MISSED = 1e-2  # of a plan's mass: with more the iteration has not converged, and its value is none


@dataclass(frozen=True)
class KantorovichPotential:
    """f(t) = min_j (|t - y_j| + level_j), the largest 1-Lipschitz f with f(y_j) <= level_j; y = `points` (m, d), `levels` (m,)."""

    points: Tensor
    levels: Tensor

    @torch.no_grad()
    def value(self, t: Tensor) -> Tensor:
        """t (k, d) -> (k,) float64."""
        return torch.cat([self._nearest(part)[0] for part in t.double().split(ROWS)])

    @torch.no_grad()
    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f (k,) float64 and its gradient (k, d), a unit vector away from the nearest point; 0 on a point."""
        values, grads = [], []
        for part in t.double().split(ROWS):
            value, index = self._nearest(part)
            away = part - self.points[index]
            values.append(value)
            grads.append(away / away.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny))
        return torch.cat(values), torch.cat(grads).to(t.dtype)

    def _nearest(self, t: Tensor) -> tuple[Tensor, Tensor]:
        found = (_distances(t, self.points) + self.levels).min(1)
        return found.values, found.indices


@dataclass(frozen=True)
class Transport:
    """A distance, its standard error (nan where a sample has one row), the witness f at x (n,) and at y (m,), how it was computed,
    and f everywhere where it is known."""

    value: float
    standard_error: float
    witness_x: Tensor
    witness_y: Tensor
    settings: dict[str, Any]
    field: KantorovichPotential | None = None


def wasserstein1(x: Tensor, y: Tensor) -> Transport:
    """W1 of x (n, d) and y (m, d) exactly: by the distribution functions where d = 1, else by the network simplex of POT.

    The potential is feasible by its c-transform, so mean f(x) - mean f(y) <= W1 <= the cost of the plan; the first is the value,
    the difference is `duality_gap`.

    Raises:
        ValueError: shapes that do not fit, or d > 1 and more than 5,000 rows a side, which take (n m) numbers several times.
    """
    x, y = _checked(x, y)
    if x.shape[1] == 1:
        each, *columns = _on_lines(x, y)
        at_x, at_y = (column[:, 0] for column in columns)
        return Transport(each.item(), _error(at_x, at_y), at_x, at_y, {}, KantorovichPotential(y, at_y))
    _refuse_above(MOST_TRANSPORTED, x, y, "exact W1", "`sliced-w1`")
    costs = _distances(x, y)
    cost, levels = _simplex(costs)
    at_x = costs.add_(levels).min(1).values
    value = (at_x.mean() - levels.mean()).item()
    field = KantorovichPotential(y, levels)
    return Transport(value, _error(at_x, levels), at_x, levels, {"duality_gap": cost - value}, field)


def _simplex(costs: Tensor) -> tuple[float, Tensor]:
    """The cost of the optimal plan of costs (n, m) between uniform weights, and the potential's level at each y."""
    import ot

    n, m = costs.shape
    uniform = (torch.full((k,), 1.0 / k, dtype=torch.float64).numpy() for k in (n, m))
    _, log = ot.emd(*uniform, costs.cpu().numpy(), numItermax=10**8, log=True)
    if log["warning"] is not None:
        raise ValueError(f"the optimal transport of {n} and {m} rows was not found: {log['warning']}")
    return float(log["cost"]), -torch.from_numpy(log["v"]).to(costs.device)


def sliced_wasserstein1(
    x: Tensor, y: Tensor, generator: torch.Generator, n_projections: int = 200, begin: Begin = silent
) -> Transport:
    """The mean over uniform directions u of W1(u.x, u.y), for x (n, d) and y (m, d) of any sizes; at most W1.

    The witness is the mean of those of the projections. The standard error has two parts, of the rows (from the witness) and of the
    directions (the spread over them; `directions_error`); in one dimension there is one direction.
    """
    x, y = _checked(x, y)
    directions = torch.randn(n_projections, x.shape[1], generator=generator, dtype=torch.float64).to(x.device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    if x.shape[1] == 1:
        directions = directions[:1].abs()
    tell = begin("projecting", "directions", len(directions))
    values, at_x, at_y = [], torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0])
    for block in directions.split(max(1, BLOCK_ENTRIES // (len(x) + len(y)))):
        each, on_x, on_y = _on_lines(x @ block.T, y @ block.T)
        values.append(each)
        at_x += on_x.sum(1) / len(directions)
        at_y += on_y.sum(1) / len(directions)
        tell(len(block))
    found = torch.cat(values)
    spread = found.std().item() / math.sqrt(len(found)) if len(found) > 1 else math.nan
    of_directions = spread if x.shape[1] > 1 else 0.0
    settings = {"n_projections": len(found), "directions_error": of_directions}
    return Transport(found.mean().item(), math.hypot(_error(at_x, at_y), of_directions), at_x, at_y, settings)


def _on_lines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W1 of each column of x (n, L) and y (m, L), (L,), and its potential at x (n, L) and y (m, L).

    With F and G their distribution functions it is the integral of |F - G|, and f' = sign(G - F). n m (G - F) is a whole number, so
    its sign is exact.
    """
    n, m = len(x), len(y)
    ordered, order = torch.cat([x, y]).sort(dim=0)
    jumps = torch.where(order < n, -m, n)
    excess, gaps = jumps.cumsum(0)[:-1], ordered.diff(dim=0)
    values = (excess.abs() * gaps).sum(0) / (n * m)
    climb = (excess.sign() * gaps).cumsum(0)
    potential = torch.zeros_like(ordered).scatter_(0, order, torch.cat([torch.zeros_like(ordered[:1]), climb]))
    return values, potential[:n], potential[n:]


def sinkhorn_divergence(x: Tensor, y: Tensor, regularisation: float = 0.05, begin: Begin = silent) -> Transport:
    """The Sinkhorn divergence of x (n, d) and y (m, d) with cost |x - y| (Feydy et al. 2019, eq. 3)

        S = OT(P, Q) - OT(P, P) / 2 - OT(Q, Q) / 2,   OT(P, Q) = min_pi <pi, |x - y|> + epsilon KL(pi || P x Q)

    with epsilon = `regularisation` times the median of |x_i - y_j|; S >= 0, and 0 where the samples are equal. The potentials of
    OT(P, Q) are POT's, in the log domain; for OT(P, P) their symmetric update takes a tenth of the steps. The witness is the
    difference of the two. The plan's second marginal misses by `marginal_error` in L1.

    Raises:
        ValueError: shapes that do not fit, more than 2,000 rows a side, a regularisation that is not positive, or one that is so
            small that a plan's marginal still misses by 1e-2 after 1,000 steps.
    """
    x, y = _checked(x, y)
    _refuse_above(MOST_SINKHORN, x, y, "the Sinkhorn divergence", "`sliced-w1`")
    if not (regularisation > 0 and math.isfinite(regularisation)):
        raise ValueError(f"`regularisation` must be positive and finite, got {regularisation}")
    costs = _distances(x, y)
    epsilon = regularisation * (costs.median().item() or costs.mean().item() or 1.0)
    tell = begin("entropic transport", "problems", 3)
    f, g, missed = _entropic(costs, epsilon)
    _refuse_unconverged(missed, regularisation)
    tell(1)
    selves = []
    for side in (x, y):
        potential, missed_too = _entropic_self(_distances(side, side), epsilon)
        _refuse_unconverged(missed_too, regularisation)
        selves.append(potential)
        tell(1)
    at_x, at_y = f - selves[0], selves[1] - g
    settings = {"regularisation": regularisation, "epsilon": epsilon, "marginal_error": missed}
    return Transport((at_x.mean() - at_y.mean()).item(), _error(at_x, at_y), at_x, at_y, settings)


def _entropic(costs: Tensor, epsilon: float) -> tuple[Tensor, Tensor, float]:
    """The potentials f (n,) and g (m,) of OT with costs (n, m), and how far the plan's second marginal is off in L1."""
    import ot

    n, m = costs.shape
    uniform = [torch.full((k,), 1.0 / k, dtype=torch.float64, device=costs.device) for k in (n, m)]
    bound = SINKHORN_TOLERANCE / math.sqrt(m)  # POT's is in L2
    _, log = ot.bregman.sinkhorn_log(
        *uniform, costs, epsilon, numItermax=SINKHORN_STEPS, stopThr=bound, log=True, warn=False
    )
    f, g = epsilon * (log["log_u"] + math.log(n)), epsilon * (log["log_v"] + math.log(m))
    plan = ((f[:, None] + g - costs) / epsilon).exp_()
    return f, g, (plan.mean(0) - 1).abs().mean().item()


def _entropic_self(costs: Tensor, epsilon: float) -> tuple[Tensor, float]:
    """The potential f = g of a sample and itself, and how far its plan's marginal was off in L1 before the last step:

    f <- (f + T f) / 2, T f(x_i) = -epsilon log mean_j e^{(f_j - c_ij) / epsilon}.
    """
    log_n, missed = math.log(len(costs)), math.inf
    f = torch.zeros_like(costs[0])
    for _ in range(SINKHORN_STEPS):
        step = -epsilon * (torch.logsumexp((f - costs) / epsilon, 1) - log_n) - f
        f = f + step / 2
        missed = torch.expm1(-step / epsilon).abs().mean().item()
        if missed < SINKHORN_TOLERANCE:
            break
    return f, missed


def _refuse_unconverged(missed: float, regularisation: float) -> None:
    if not missed <= MOST_MISSED:
        raise ValueError(
            f"the Sinkhorn divergence has not converged in {SINKHORN_STEPS:,} steps at regularisation {regularisation:g}: "
            f"a marginal of its plan is off by {missed:.2g}; take a larger regularisation, or `w1`"
        )


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y), x.shape[1]) < 1:
        raise ValueError(f"`x` and `y` must be (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    return x.double(), y.double()


def _refuse_above(most: int, x: Tensor, y: Tensor, what: str, remedy: str) -> None:
    if max(len(x), len(y)) > most:
        raise ValueError(
            f"{what} takes at most {most:,} rows a side, got {len(x):,} and {len(y):,}; take fewer, or {remedy}"
        )


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|, (n, m) float64; of many columns by a product about the mean of y."""
    if x.shape[1] <= DIRECT_COLUMNS:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    centre = y.mean(0)
    return torch.cdist(x - centre, y - centre, compute_mode="use_mm_for_euclid_dist")


def _error(at_x: Tensor, at_y: Tensor) -> float:
    """sqrt(var f(x) / n + var f(y) / m), nan where a sample has one row."""
    if min(len(at_x), len(at_y)) < 2:
        return math.nan
    return math.sqrt(at_x.var().item() / len(at_x) + at_y.var().item() / len(at_y))
