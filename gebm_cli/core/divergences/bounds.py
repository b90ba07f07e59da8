"""The lower bound of an f-divergence by a function v of rows that v was not learned from, its standard error, and its limits.

    D_f(P || Q) >= E_P[T(v)] - E_Q[f*(T(v))]     for every v, with equality at v = log dP/dQ (core/objectives/f_divergences)

JS and TV weigh no row by more than 1; the duals of KL, chi^2 and Hellinger weigh Q's by e^v, e^2v and e^(v/2), and few rows that
v overrates outweigh all others. So v -> min(s v, t) + c: of a small family the member with the best bound on four fifths of the
held-out rows is evaluated on the last, each fifth in turn, which is unbiased for the bound that this member gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.divergences.names import Kind
from gebm_cli.core.objectives.f_divergences import DUALS, Name

ENOUGH = 100  # held-out rows a side on which a learned critic's word is taken: for a separation, and that an error is 0
BLOCKS = 5  # of the held-out rows of a half
SCALES = (1.0, 0.8, 0.6, 0.4, 0.2)  # s
DROPS = (0.0, 0.7, 1.4, 2.1, 2.8)  # of t below its limit
OFFSET = 1.0  # the largest |c|
MOST_CLIPPED, MOST_CARRIED = 0.1, 0.5  # shares above which a bound says so

_DUAL: dict[Kind, tuple[Name, float]] = {
    "kl": ("kl", 1.0),
    "js": ("js", 0.5),  # the dual's f is that of twice the Jensen-Shannon divergence
    "chi2": ("pearson", 1.0),
    "hellinger": ("hellinger", 1.0),
}


@dataclass(frozen=True)
class Bound:
    """A lower bound and its standard error; for `infinite` ones inf and nan, and `at_least` holds with 95 % confidence.

    `clipped` is the share of P's rows with v at its limit or beyond; where it is large the bound says how many rows were learned
    from, and not what D_f is. `carried` is the share of E_Q[e^v] (e^2v, e^(v/2)) in the largest 1 % of Q's rows; where it is
    large the error is uncertain itself. `below` is the negative estimate for which 0 stands. `notes`: these in words.
    """

    value: float
    standard_error: float
    infinite: bool = False
    at_least: float | None = None
    clipped: float | None = None
    carried: float | None = None
    below: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Half:
    """Logits of the critic that has not seen these rows of P (n,) and Q (m,), and of the one that has; -floor <= v <= ceiling."""

    at: tuple[Tensor, Tensor]
    seen: tuple[Tensor, Tensor]
    floor: float
    ceiling: float


def bound(kind: Kind, at_x: Tensor, at_y: Tensor) -> Bound:
    """The bound from a given v at rows of P, (n,), and of Q, (m,), with the error sqrt(var T(v_x) / n + var f*(T(v_y)) / m).

    For `tv` T = sign(v) / 2, the optimum; the smooth T of the training objective gives less.
    """
    on_x, on_y = _terms(kind, (at_x, at_y))
    error = math.sqrt(on_x.var().item() / len(on_x) + on_y.var().item() / len(on_y))
    return Bound((on_x.mean() - on_y.mean()).item(), error)


def cross_fitted(kind: Kind, halves: list[Half]) -> Bound:
    """The mean bound of all blocks of both halves, and its error.

    The squared error sums w_i^2 (t_i - mean)^2 over the terms T and f* and their weights, which takes v for given, and 3/4 of the
    same for t_i(v_1) - t_i(v_2), v_1 and v_2 the two critics, for learning them: with p parameters and n rows a half that is
    p / n^2 to second order, where the covariance of the halves, each of which teaches the other's critic, adds p / 2 n^2, and
    the variance of what the critics lack p / 4 n^2. The error is nan where few rows all have one value: it would be 0.
    """
    value, variance, clipped, weights = 0.0, 0.0, [], []
    n_blocks = min(BLOCKS, *(len(at) for half in halves for at in half.at))
    for half in halves:
        blocks = [torch.arange(len(at), device=at.device) % n_blocks for at in half.at]
        shape = _shape(kind, half, blocks)
        at, seen = shape.of(half.at, blocks), shape.of(half.seen, blocks)
        for sign, block, t, u in zip((1, -1), blocks, _terms(kind, at), _terms(kind, seen), strict=True):
            sizes = block.bincount().double()
            w = (1 / (len(halves) * n_blocks * sizes))[block]
            value += sign * (_sums(t, block) / sizes).mean().item() / len(halves)
            variance += _variance(w, t) + 0.75 * _variance(w, t - u)
        clipped.append(half.at[0] >= _limit(kind, half))
        weights.append(_HEAVY[kind].on_y(at[1]) if kind in _HEAVY else torch.ones_like(at[1]))
    error, fewest = math.sqrt(variance), min(sum(len(half.at[side]) for half in halves) for side in (0, 1))
    if error <= 1e-12 * abs(value) and value != 0 and fewest < ENOUGH:
        error = math.nan
    ceiling = min(half.ceiling for half in halves)
    return _told(kind, value, error, torch.cat(clipped).double().mean().item(), _carried(torch.cat(weights)), ceiling)


def _told(kind: Kind, value: float, error: float, clipped: float, carried: float, ceiling: float) -> Bound:
    notes = []
    if clipped > MOST_CLIPPED and kind in ("kl", "chi2"):
        most = f"{'3/4 ' if kind == 'chi2' else ''}log {math.exp(ceiling):,.0f}"
        notes.append(f"at its ceiling of {most} in {100 * clipped:.0f} % of A's rows")
    elif carried > MOST_CARRIED and kind in _HEAVY:
        notes.append(f"1 % of B's rows are {100 * carried:.0f} % of its weight")
    if value < 0:
        notes.append("0 for a negative estimate")
    below = value if value < 0 else None
    share = carried if kind in _HEAVY else None
    return Bound(max(0.0, value), error, clipped=clipped, carried=share, below=below, notes=tuple(notes))


def _terms(kind: Kind, at: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """T(v) at rows of P, f*(T(v)) at rows of Q."""
    if kind == "tv":
        return at[0].sign() / 2, at[1].sign() / 2
    name, factor = _DUAL[kind]
    return factor * DUALS[name].on_data(at[0]), factor * DUALS[name].on_base(at[1])


def _variance(w: Tensor, t: Tensor) -> float:
    """Of sum_i w_i t_i with sum_i w_i = const."""
    n = len(t)
    return (w * (t - t.mean())).square().sum().item() * n / (n - 1)


def _carried(weights: Tensor) -> float:
    """The share of the sum in the largest 1 %, or in the largest where there are few."""
    most = max(1, round(0.01 * len(weights)))
    return (weights.topk(most).values.sum() / weights.sum()).item()


# ------------------------------------------------------------------------------------------------- the family min(s v, t) + c


@dataclass(frozen=True)
class _Heavy:
    """The bound of v + c by p = E_P[on_x(v)], q = E_Q[on_y(v)] and c, its maximiser in c, and the limit of v in units of log m."""

    limit: float
    on_x: Callable[[Tensor], Tensor]
    on_y: Callable[[Tensor], Tensor]
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    best: Callable[[Tensor, Tensor], Tensor]


_HEAVY: dict[Kind, _Heavy] = {
    "kl": _Heavy(  # the best c is the constant of Donsker & Varadhan (1983)
        limit=1.0,
        on_x=lambda v: v,
        on_y=torch.exp,
        value=lambda p, q, c: p + c + 1 - c.exp() * q,
        best=lambda p, q: -q.log(),
    ),
    "chi2": _Heavy(
        limit=0.75,
        on_x=torch.exp,
        on_y=lambda v: (2 * v).exp(),
        value=lambda p, q, c: 2 * c.exp() * p - (2 * c).exp() * q - 1,
        best=lambda p, q: (p / q).log(),
    ),
    "hellinger": _Heavy(
        limit=1.0,
        on_x=lambda v: (-v / 2).exp(),
        on_y=lambda v: (v / 2).exp(),
        value=lambda p, q, c: 2 - (-c / 2).exp() * p - (c / 2).exp() * q,
        best=lambda p, q: (p / q).log(),
    ),
}


@dataclass(frozen=True)
class _Shape:
    """min(s v, t) + c above -floor, with s, t and c of each block, (blocks,)."""

    floor: float
    scale: Tensor
    top: Tensor
    offset: Tensor

    def of(self, at: tuple[Tensor, Tensor], blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, y = (
            (self.scale[b] * v).clamp_min(-self.floor).minimum(self.top[b]) + self.offset[b]
            for v, b in zip(at, blocks, strict=True)
        )
        return x, y


def _limit(kind: Kind, half: Half) -> float:
    return half.ceiling * (_HEAVY[kind].limit if kind in _HEAVY else 1.0)


def _shape(kind: Kind, half: Half, blocks: list[Tensor]) -> _Shape:
    """For each block the member of the family with the best bound on all others, min(s v, t) + c never above the limit of v.

    From each bound the mean weight of one more row of Q at the top is taken: what a rare row may do without having been seen
    (as in the range term of Maurer & Pontil 2009). JS and TV keep v.
    """
    limit, n_blocks = _limit(kind, half), int(blocks[0].max()) + 1
    shape = half.at[0].new_tensor([[1.0], [limit], [0.0]]).repeat(1, n_blocks)
    if kind not in _HEAVY:
        return _Shape(half.floor, *shape)
    heavy, best = _HEAVY[kind], torch.full_like(shape[0], -math.inf)
    for scale in SCALES:
        for drop in (drop for drop in DROPS if drop < limit):
            x, y = ((scale * v).clamp(-half.floor, limit - drop) for v in half.at)
            p, q = _means_of_others(heavy.on_x(x), blocks[0]), _means_of_others(heavy.on_y(y), blocks[1])
            c = heavy.best(p, q).clamp(-OFFSET, min(OFFSET, drop))
            score = heavy.value(p, q, c) - heavy.on_y(limit - drop + c) / (len(y) - blocks[1].bincount())
            member = torch.stack([torch.full_like(c, scale), torch.full_like(c, limit - drop), c])
            shape, best = torch.where(score > best, member, shape), best.maximum(score)
    return _Shape(half.floor, *shape)


def _means_of_others(values: Tensor, block: Tensor) -> Tensor:
    """For each block the mean over the rows of all others, (blocks,)."""
    sums = _sums(values, block)
    return (sums.sum() - sums) / (len(values) - block.bincount())


def _sums(values: Tensor, block: Tensor) -> Tensor:
    return torch.zeros(int(block.max()) + 1, dtype=values.dtype, device=values.device).index_add(0, block, values)
