"""KALE, the variational lower bound on KL(P || Q) that a GEBM is trained by (Arbel, Zhou and Gretton 2021, section 3).

    F(P, Q; E, c) = -mean_P[E + c] - mean_Q[exp(-(E + c))] + 1,    KALE = sup over E and c

KALE >= 0, and = 0 iff P = Q. For fixed E the best c is log mean_Q[exp(-E)], and F is then the Donsker-Varadhan bound.
Sign convention: low energy means likely; the model's weight on a base point is exp(-E - c).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def kale(energy_data: Tensor, energy_base: Tensor, log_partition: Tensor) -> Tensor:
    """F at the energies of data points (n,) and base points (m,), and a scalar c. The energy and c maximise it."""
    return 1.0 - (energy_data + log_partition).mean() - torch.exp(-energy_base - log_partition).mean()


def base_loss(energy_base: Tensor) -> Tensor:
    """What the base minimises: -log mean exp(-E(B(z))), (m,) -> ().

    It is F with c at its optimum, less the data's term, which does not depend on the base; its gradient is that of F,
    mean_z[w(z) dE(B(z))], w = exp(-E(B(z))) / mean exp(-E(B(z))), with the sign that moves the base to low energy.
    Source: the theorem on the gradient of KALE in the base's parameters (Arbel et al. 2021, section 3).
    """
    return math.log(len(energy_base)) - torch.logsumexp(-energy_base, 0)


def gradient_penalty(energy: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Zero-centred penalty, mean_i |grad E(x_i^)|^2 at x^ = a x + (1 - a) y, one a in [0, 1] per sample.

    Args:
        energy: (n, ...) -> (n,).
        x, y: data and base points (n, ...), no gradient flows into them.
        weight: the interpolation weights a, (n,).
    """
    a = weight.view(-1, *[1] * (x.dim() - 1))
    between = torch.lerp(y, x, a).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(between).sum(), between, create_graph=True)
    return gradient.square().sum() / len(x)


@dataclass(frozen=True)
class LogMeanExp:
    """log mean exp(v) of n values, with its standard error and the effective sample size (sum w)^2 / sum w^2, w = exp(v)."""

    value: float
    standard_error: float
    n: int
    effective_sample_size: float


def log_mean_exp(batches: Iterable[Tensor]) -> LogMeanExp:
    """Streaming float64 log-mean-exp of batches (n_i,); with v = -E at base points it is the log-partition.

    The error is the delta method's, sqrt((n / ESS - 1) / n), exact to first order.
    Deviation: the released code seeds the sum with exp(0); a constant energy of 20 then gives -9.5 instead of -20.
    """
    first = torch.tensor(-math.inf, dtype=torch.float64)
    second, n = first.clone(), 0
    for values in batches:
        v = values.double()
        first = torch.logaddexp(first, torch.logsumexp(v, 0).cpu())
        second = torch.logaddexp(second, torch.logsumexp(2 * v, 0).cpu())
        n += len(v)
    effective = math.exp(min(2 * first.item() - second.item(), math.log(n)))
    return LogMeanExp(first.item() - math.log(n), math.sqrt(max(n / effective - 1, 0.0) / n), n, effective)
