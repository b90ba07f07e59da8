"""KALE, the variational lower bound on KL(P || Q) that a GEBM is trained by (Arbel, Zhou and Gretton 2021, section 3).

    F(P, Q; E, c) = -mean_P[E + c] - mean_Q[exp(-(E + c))] + 1,    KALE = sup over E and c

KALE >= 0, and = 0 iff P = Q. For fixed E the best c is log mean_Q[exp(-E)], and F is then the Donsker-Varadhan bound.
Sign convention: low energy means likely; the model's weight on a base point is exp(-E - c).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.objectives.objective import Objective


def base_loss(energy_base: Tensor) -> Tensor:
    """What the base minimises: -log mean exp(-E(B(z))), (m,) -> ().

    It is F with c at its optimum, less the data's term, which does not depend on the base; its gradient is that of F,
    mean_z[w(z) dE(B(z))], w = exp(-E(B(z))) / mean exp(-E(B(z))), with the sign that moves the base to low energy.
    Source: the theorem on the gradient of KALE in the base's parameters (Arbel et al. 2021, section 3).
    """
    return math.log(len(energy_base)) - torch.logsumexp(-energy_base, 0)


@dataclass(frozen=True)
class Kale(Objective):
    """F as an objective: with a learned c, or with `batch_log_partition` at the c that is best for the batch.

    In the latter case F is the Donsker-Varadhan bound -mean_P E - log mean_Q exp(-E), in which any constant of E cancels; its
    gradient has a bias of order 1/m, and c stays where it is until it is estimated at the end of training.
    """

    batch_log_partition: bool = False

    @property
    def learns_constant(self) -> bool:  # type: ignore[override]
        return not self.batch_log_partition

    def value(self, on_data: Tensor, on_base: Tensor) -> Tensor:
        if self.batch_log_partition:
            return base_loss(on_base) - on_data.mean()
        return 1.0 - on_data.mean() - torch.exp(-on_base).mean()

    def base_loss(self, on_base: Tensor, on_data: Tensor | None = None) -> Tensor:
        return base_loss(on_base)


@dataclass(frozen=True)
class LogMeanExp:
    """log mean exp(v) of n values, with its standard error and, w = exp(v), the effective sample size (sum w)^2 / sum w^2.

    `heaviest` = max w^2 / sum w^2, between 1 / ESS and 1, tends to 0 exactly where means of w are normal in the limit (O'Brien
    1980; Gine, Gotze and Mason 1997). Beyond a few per cent the value is probably too small, by more than its error says: what
    would make it larger has not been drawn.
    """

    value: float
    standard_error: float
    n: int
    effective_sample_size: float
    heaviest: float


def log_mean_exp(batches: Iterable[Tensor]) -> LogMeanExp:
    """Streaming float64 log-mean-exp of batches (n_i,); with v = -E at base points it is the log-partition.

    The error is the delta method's, sqrt((n / ESS - 1) / n), exact to first order.
    Deviation: the released code seeds the sum with exp(0); a constant energy of 20 then gives -9.5 instead of -20.
    """
    first = torch.tensor(-math.inf, dtype=torch.float64)
    second, largest, n = first.clone(), first.clone(), 0
    for values in batches:
        v = values.double()
        first = torch.logaddexp(first, torch.logsumexp(v, 0).cpu())
        second = torch.logaddexp(second, torch.logsumexp(2 * v, 0).cpu())
        largest = torch.maximum(largest, v.max().cpu())
        n += len(v)
    effective = math.exp(min(2 * first.item() - second.item(), math.log(n)))
    heaviest = math.exp(min(2 * largest.item() - second.item(), 0.0))
    error = math.sqrt(max(n / effective - 1, 0.0) / n)
    return LogMeanExp(first.item() - math.log(n), error, n, effective, heaviest)
