"""Is a set of chains mixed, is its kernel reversible, and what beta calibrates the energy?

R-hat, nested R-hat and the effective sample sizes are those of arviz-stats. The bars they are held against are ours, since
the usual ones (R-hat < 1.01, ESS > 400) are made for four long chains and not for many short ones:

* ESS, bulk and tail, above 400, and unknown below 10 draws a chain. Under 10, arviz's estimate (split chains shorter than
  Geyer's sequence) is n log10(n) whatever the chains do: 1387 for 128 stuck chains of 4 draws.
* R-hat below min(max(1.01, sqrt(1 + 2 C / 400)), 1.1) for C chains. 400 effective draws shared by the 2 C half chains give
  R-hat^2 = 1 + 2 C / 400, which at C = 4 is the 1.01 of Vehtari et al. (2021). It stops at 1.1, five effective draws in a
  half chain, because a half chain with fewer cannot tell a slow chain from a stuck one. The plain 1.01 would reject 32 % of
  sets of 128 x 10 independent draws, and every set of 128 x 50 of an AR(1) with coefficient 0.5.
* Nested R-hat below 1.01 where superchains differ by more than chance, below 1.1 where they do not. Stationary chains give
  about sqrt(1 + 1 / (M ESS of one chain)) (Margossian et al. 2024: sqrt(1 + 1 / M) for one draw), which exceeds 1.01 by
  itself when chains are short. "Chance" is a one-way analysis of variance of the chain means: within a
  superchain they are independent given the start, however autocorrelated each chain is, so with nothing of the start left
  F has its law with K - 1 and K (M - 1) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_ESS = 400
MIN_DRAWS_FOR_ESS = 10
STRICT, LOOSE = 1.01, 1.1
LEVEL = 0.01


@dataclass(frozen=True)
class Scalar:
    """One scalar's diagnostics; `start_p` is the p-value of "superchains differ by chance only", nan with one chain a start."""

    name: str
    rhat: float
    nested_rhat: float
    ess_bulk: float
    ess_tail: float
    start_p: float


@dataclass(frozen=True)
class Mixing:
    """Diagnostics of C = `n_chains` chains of `n_draws`, all scalars; the criteria are those at the head of the module.

    `constant` names the scalars that never changed in any chain: they say nothing and have no row. `dropped` chains had a
    value that was not finite; nested R-hat needs superchains of one size, and used `n_starts` of `chains_per_start`.
    """

    rows: tuple[Scalar, ...]
    n_chains: int
    n_draws: int
    n_starts: int
    chains_per_start: int
    dropped: int = 0
    constant: tuple[str, ...] = ()

    @property
    def worst_rhat(self) -> float:
        return _extreme(max, (row.rhat for row in self.rows))

    @property
    def worst_nested_rhat(self) -> float:
        return _extreme(max, (row.nested_rhat for row in self.rows))

    @property
    def least_ess_bulk(self) -> float:
        return _extreme(min, (row.ess_bulk for row in self.rows))

    @property
    def least_ess_tail(self) -> float:
        return _extreme(min, (row.ess_tail for row in self.rows))

    @property
    def rhat_bar(self) -> float:
        """What R-hat must stay below: min(max(1.01, sqrt(1 + 2 C / 400)), 1.1)."""
        return min(max(STRICT, math.sqrt(1 + 2 * self.n_chains / MIN_ESS)), LOOSE)

    def nested_bar(self, row: Scalar) -> float:
        """What nested R-hat must stay below: 1.01 where the start shows at the 1 % level over all scalars (Bonferroni), else 1.1.

        With one chain a start nested R-hat is R-hat without the split, and is held against R-hat's bar.
        """
        if self.chains_per_start == 1:
            return self.rhat_bar
        return STRICT if row.start_p * len(self.rows) < LEVEL else LOOSE

    @property
    def agree(self) -> bool:
        """Whether chains and superchains agree on every scalar, by both R-hats; False with no scalar to judge by."""
        agreeing = (row.rhat < self.rhat_bar and row.nested_rhat < self.nested_bar(row) for row in self.rows)
        return bool(self.rows) and all(agreeing)

    @property
    def mixed(self) -> bool:
        """Whether chains agree and every scalar has more than 400 effective draws; what is unknown (nan) is not mixed."""
        return self.agree and all(row.ess_bulk > MIN_ESS and row.ess_tail > MIN_ESS for row in self.rows)


def _extreme(choose: Any, values: Iterable[float]) -> float:
    """max or min; nan when there are none or one is nan."""
    values = list(values)
    return choose(values) if values and not any(math.isnan(v) for v in values) else math.nan


def diagnose(traces: dict[str, Tensor], n_starts: int) -> Mixing:
    """Diagnostics of chains by the scalars they left: rank-normalised split R-hat, bulk and tail ESS (Vehtari et al.
    2021) and rank-normalised nested R-hat (Margossian et al. 2024, equation 8).

    Args:
        traces: by name (n_chains, n_draws) each, all of one shape.
        n_starts: K; chains i M .. (i + 1) M - 1 were started at the same point, M = n_chains / K.

    Raises:
        ValueError: no traces, shapes that differ, fewer than 4 draws, K that does not divide n_chains, or fewer than
            2 chains or 2 starts with finite values.
    """
    shapes = {tuple(trace.shape) for trace in traces.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2:
        raise ValueError(f"`traces` must be of one shape (n_chains, n_draws), got {sorted(shapes)}")
    n_chains, n_draws = shape
    if n_draws < 4 or n_chains < 2:
        raise ValueError(f"diagnostics need at least 2 chains of 4 draws, got {n_chains} of {n_draws}")
    if n_starts < 2 or n_chains % n_starts:
        raise ValueError(f"`n_starts` must be at least 2 and divide the {n_chains} chains, got {n_starts}")
    arrays = {name: trace.detach().double().cpu().numpy() for name, trace in traces.items()}
    kept = np.all([np.isfinite(array).all(1) for array in arrays.values()], axis=0)
    index, m = _superchains(kept, n_starts)
    varying = {name: array for name, array in arrays.items() if np.ptp(array[kept]) > 0}
    rows = tuple(_scalar(name, array[kept], array[index], m) for name, array in varying.items())
    constant = tuple(name for name in arrays if name not in varying)
    return Mixing(rows, int(kept.sum()), n_draws, len(index) // m, m, int((~kept).sum()), constant)


def _superchains(kept: np.ndarray, n_starts: int) -> tuple[np.ndarray, int]:
    """Chains (K' M',) in order that make K' >= 2 superchains of one size M' from those kept, as many chains as possible."""
    groups = [np.flatnonzero(part) + k * len(part) for k, part in enumerate(kept.reshape(n_starts, -1))]
    sizes = np.array([len(group) for group in groups])
    used = {m: m * int((sizes >= m).sum()) for m in range(1, sizes.max() + 1) if (sizes >= m).sum() > 1}
    if not used:
        raise ValueError(f"fewer than 2 starts have chains with finite values: {int(kept.sum())} of {len(kept)} chains")
    m = max(used, key=lambda size: (used[size], -size))
    return np.concatenate([group[:m] for group in groups if len(group) >= m]), m


def _scalar(name: str, chains: np.ndarray, grouped: np.ndarray, m: int) -> Scalar:
    """One row from all chains kept (C, n_draws) and those in superchains of m, (K m, n_draws)."""
    from arviz_stats.base import array_stats  # takes a second

    axes: dict[str, Any] = {"chain_axis": 0, "draw_axis": 1}
    bulk = tail = math.nan
    with np.errstate(divide="ignore", invalid="ignore"):  # a chain that never moves has no variance: R-hat is inf
        rhat = float(array_stats.rhat(chains, method="rank", **axes))
        groups = np.arange(len(grouped)) // m
        nested = float(array_stats.rhat_nested(grouped, superchain_ids=groups, method="rank", **axes))
        if chains.shape[1] >= MIN_DRAWS_FOR_ESS:
            bulk = float(array_stats.ess(chains, method="bulk", **axes))
            tail = float(array_stats.ess(chains, method="tail", prob=(0.05, 0.95), **axes))
        return Scalar(name, rhat, nested, bulk, tail, _start_p(grouped, m))


def _start_p(grouped: np.ndarray, m: int) -> float:
    """P(F >= M var(superchain means) / mean within-superchain var(chain means)), on ranks and on folded ranks, twice the least."""
    from scipy.special import fdtrc, ndtri
    from scipy.stats import rankdata

    k = len(grouped) // m
    if m == 1:
        return math.nan
    p_values = []
    for values in (grouped, abs(grouped - np.median(grouped))):
        scores = ndtri((rankdata(values, axis=None).reshape(values.shape) - 0.375) / (values.size + 0.25))
        means = scores.mean(1).reshape(k, m)
        ratio = m * means.mean(1).var(ddof=1) / means.var(1, ddof=1).mean()
        p_values.append(fdtrc(k - 1, k * (m - 1), ratio))
    # `fmin`: folded about its median a two-valued trace may be constant, which gives nan and says nothing.
    return min(1.0, 2 * float(np.fmin(*p_values)))


def verdict(mixing: Mixing, mode: str) -> str:
    """One sentence on chains that were run to `refine` (a few steps from the base) or to `sample` (the tilted law itself).

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in ("refine", "sample"):
        raise ValueError(f"`mode` must be refine or sample, got '{mode}'")
    head = ("refined, and mixed" if mode == "refine" else "mixed") if mixing.mixed else "not mixed"
    advice = "" if mixing.mixed else _advice(mixing, mode)
    if mode == "refine" and not mixing.mixed:
        head = "refined, not mixed"
    asides = [f"{mixing.dropped} chains with values that are not finite left out"] if mixing.dropped else []
    if mixing.constant:
        asides.append(f"constant and so not judged: {', '.join(mixing.constant)}")
    return "; ".join([f"{head}: {_figures(mixing)}{advice}", *asides])


def _figures(mixing: Mixing) -> str:
    if not mixing.rows:
        return "no scalar that was watched ever changed"
    rhat, nested = mixing.worst_rhat, mixing.worst_nested_rhat
    at_rhat = "" if mixing.mixed else f" ({_named(mixing, 'rhat')})"
    at_nested = "" if mixing.mixed else f" ({_named(mixing, 'nested_rhat')})"
    bulk, tail, n = mixing.least_ess_bulk, mixing.least_ess_tail, len(mixing.rows)
    ess = f"at least {bulk:.0f} effective draws (bulk) and {tail:.0f} (tail)"
    if math.isnan(bulk) or math.isnan(tail):
        ess = f"effective draws unknown from {mixing.n_draws} draws a chain"
    scalars = f"{n} scalar{'s' * (n > 1)}"
    return f"R-hat {rhat:.3f}{at_rhat}, nested R-hat {nested:.3f}{at_nested}, {ess} on {scalars}"


def _named(mixing: Mixing, figure: str) -> str:
    """The scalar with the largest of a figure, nan first."""
    value = {row.name: getattr(row, figure) for row in mixing.rows}
    return max(value, key=lambda name: math.inf if math.isnan(value[name]) else value[name])


def _advice(mixing: Mixing, mode: str) -> str:
    forgot = all(row.nested_rhat < mixing.nested_bar(row) for row in mixing.rows)
    if mixing.agree:
        why = "the chains agree, but their effective draws are too few to tell"
    elif forgot:
        why = "the starts are forgotten, but each chain has seen only a part of the law"
    else:
        why = "the samples still depend on where they started"
    if mode == "refine":
        return f"; {why}, as a short refinement does"
    return f"; treat as refinement: {why}; take more steps or a smaller beta to sample"


@dataclass(frozen=True)
class Efficiency:
    """Effective draws (bulk, least over scalars) per gradient of U and per second."""

    per_gradient: float
    per_second: float


def effective_draws_per(mixing: Mixing, gradients: int, seconds: float) -> Efficiency:
    """What sampling cost: `gradients` of U over all chains, one for each chain and evaluation, and `seconds`, both > 0."""
    return Efficiency(mixing.least_ess_bulk / gradients, mixing.least_ess_bulk / seconds)


# ---------------------------------------------------------------------------------------------- reversibility of a kernel

EXP_CAP = 30.0


@dataclass(frozen=True)
class Ratios:
    """Means over log Metropolis ratios r with standard errors: of exp(r), 1 when stationary, and of the balance, 0.

    `n` ratios entered, `skipped` were not finite, and `capped` were above 30, where exp(r) was taken as exp(30).
    """

    n: int
    skipped: int
    capped: int
    mean_exp: float
    mean_exp_error: float
    balance: float
    balance_error: float


@dataclass(frozen=True)
class RatioMeter:
    """Streaming sums over log Metropolis ratios; a value, `update` and `merge` return new ones. Nothing leaves the device.

    In stationarity the proposed pair (x, y) and its reversal have densities in the ratio e^r, so E f(-r) = E e^r f(r) for any
    f. f = 1 gives E e^r = 1, whose mean may rest on rare large r. f(r) = sigmoid(-r) tanh(r / 2) gives

        E[sigmoid(r) tanh(r / 2)] = 0,

    the balance: between -1/8 and 1, so that no outlier rules it. Positive: the chains still fall, as on their way in.
    Sums are kept for each chain, (n_chains, 5) float64: only chains are independent, successive ratios of one are not.
    """

    sums: Tensor | None = None

    def update(self, log_ratio: Tensor) -> RatioMeter:
        """With one more step of the same chains, (n_chains,); those that are not finite are counted and left out.

        Raises:
            ValueError: another number of chains than before.
        """
        if self.sums is not None and log_ratio.shape != self.sums.shape[:1]:
            raise ValueError(
                f"`log_ratio` must be ({len(self.sums)},), one for each chain, got {tuple(log_ratio.shape)}"
            )
        valid = torch.isfinite(log_ratio)
        r = log_ratio.detach().double().nan_to_num(0.0, math.inf, -math.inf)
        values = (r.clamp(max=EXP_CAP).exp(), r.sigmoid() * (r / 2).tanh())
        columns = (valid, ~valid, valid & (r > EXP_CAP), *(torch.where(valid, value, 0.0) for value in values))
        new = torch.stack([column.double() for column in columns], 1)
        return RatioMeter(new if self.sums is None else self.sums + new)

    def merge(self, other: RatioMeter) -> RatioMeter:
        """With the chains of another meter, which are other chains (another block)."""
        parts = [sums for sums in (self.sums, other.sums) if sums is not None]
        return RatioMeter(torch.cat(parts) if parts else None)

    def finish(self) -> Ratios:
        """The figures; nan where nothing was seen, and standard errors nan with fewer than 2 chains."""
        sums = torch.zeros(0, 5, dtype=torch.float64) if self.sums is None else self.sums.cpu()
        counts = sums[:, 0]
        n, skipped, capped = (int(total) for total in sums[:, :3].sum(0))
        return Ratios(
            n, skipped, capped, *_mean_over_chains(sums[:, 3], counts), *_mean_over_chains(sums[:, 4], counts)
        )


def _mean_over_chains(totals: Tensor, counts: Tensor) -> tuple[float, float]:
    """m = sum S_i / sum n_i and its standard error between chains, sqrt(C / (C - 1) sum (S_i - m n_i)^2) / sum n_i."""
    n, chains = counts.sum().item(), int((counts > 0).sum())
    if not n:
        return math.nan, math.nan
    mean = totals.sum().item() / n
    if chains < 2:
        return mean, math.nan
    residuals = (totals - mean * counts).square().sum().item()
    return mean, math.sqrt(chains / (chains - 1) * residuals) / n


# -------------------------------------------------------------------------------------------------- calibration of an energy


@dataclass(frozen=True)
class Slope:
    """b of logit P(real | E) = a - b E with its standard error; `z` = (b - 1) / SE tests whether the energy is calibrated."""

    value: float
    standard_error: float
    intercept: float
    n_real: int
    n_fake: int

    @property
    def z(self) -> float:
        return (self.value - 1) / self.standard_error


def logistic_slope(real: Tensor, fake: Tensor) -> Slope:
    """The maximum-likelihood fit of logit P(real | E) = a - b E to energies of held-out data and of base samples.

    If the data's law is the base's tilted by exp(-b E), the log of their density ratio is -b E - log Z: b is the beta that
    calibrates the energy, and the intercept takes up Z and n_real / n_fake. Newton's method (iteratively reweighted
    least squares) in float64, standard error from the observed information. Low energy means real, so b > 0 for a useful energy.

    Args:
        real: energies (n,) of data that trained neither network.
        fake: energies (m,) of independent base samples.

    Raises:
        ValueError: an empty or non-finite set, constant energies, or sets that one threshold separates (b is infinite).
    """
    if not len(real) or not len(fake):
        raise ValueError(f"`real` and `fake` need at least one energy each, got {len(real)} and {len(fake)}")
    energies = torch.cat([real.flatten(), fake.flatten()]).detach().double().cpu()
    if not energies.isfinite().all():
        raise ValueError(f"{int((~energies.isfinite()).sum())} of {len(energies)} energies are not finite")
    if (energies == energies[0]).all():
        raise ValueError("the energy is the same everywhere, so no slope can be fitted to it")
    if real.max() <= fake.min() or fake.max() <= real.min():
        raise ValueError("one threshold on the energy separates real from fake, so the slope has no finite estimate")
    centre, scale = energies.mean(), energies.std()  # of order one, so that Newton's 2 x 2 system is well conditioned
    design = torch.stack([torch.ones_like(energies), -(energies - centre) / scale], 1)
    coefficients, covariance = _fit_logistic(design, torch.arange(len(energies)) < len(real))
    slope = (coefficients[1] / scale).item()
    error = (covariance[1, 1].sqrt() / scale).item()
    return Slope(slope, error, coefficients[0].item() + slope * centre.item(), len(real), len(fake))


def _fit_logistic(design: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (p,) of the logistic model of label (n,) bool on design (n, p), and the inverse of the information."""
    sign, theta = label.double() * 2 - 1, torch.zeros(design.shape[1], dtype=torch.float64)

    def likelihood(theta: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(sign * (design @ theta)).sum()

    for _ in range(200):
        p = (design @ theta).sigmoid()
        information = design.T @ (design * (p * (1 - p))[:, None])
        covariance, singular = torch.linalg.inv_ex(information)
        if singular:
            break
        score = design.T @ (label.double() - p)
        step = covariance @ score
        decrement = (step @ score).item()  # the squared distance to the maximum, in standard errors
        if decrement < 1e-16:
            return theta, covariance
        # A full step may overshoot when real and fake hardly overlap; the likelihood is concave, so a shorter one climbs.
        while decrement > 1e-6 and likelihood(theta + step) < likelihood(theta):
            step = step / 2
        theta = theta + step
    raise ValueError("the logistic fit did not settle: real and fake energies hardly overlap")
