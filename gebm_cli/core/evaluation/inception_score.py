"""The Inception Score (Salimans et al. 2016) with an error and an interval for what an infinite sample would score.

    IS = exp(I),   I = mean_x KL(p(y | x) || p(y)) = H(p(y)) - mean_x H(p(y | x)),   p(y) = mean_x p(y | x)

On a finite sample I is too low by about sum_y Var_x p(y | x) / (2 n p(y)), at most (classes - 1) / (2 n); the more so on the
parts of a split. Values are comparable only at equal n and splits; the interval is about the limit of large n.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from gebm_cli.core.evaluation.interval import Interval

ROWS = 4096


@dataclass(frozen=True)
class InceptionScore:
    """The score as the field prints it, and what can be said of its limit for large n.

    `value` and `spread_over_splits` are mean and standard deviation (divided by splits) over the splits: the usual two numbers,
    the second of which is the spread of scores of n / splits images, not the error of `value`. `full` is the score of all
    images at once, `corrected` that without its bias in n to first order, `standard_error` the error of both, and
    `interval` holds the score of infinitely many images.
    """

    value: float
    spread_over_splits: float
    full: float
    corrected: float
    standard_error: float
    interval: Interval
    n: int
    splits: int


@torch.no_grad()
def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020, level: float = 0.95) -> InceptionScore:
    """Inception Score of class logits (n, classes), in log space and float64 whatever their type.

    Splits are torch-fidelity's: rows in the order of numpy.random.RandomState(seed).permutation(n), split i from
    i n // splits. The bias is removed from I by the jackknife (Quenouille 1956), whose pseudo-values also give the error:
    the interval is normal in I = log IS and not below IS = 1. Their variance counts the part D of the variance of I that is
    quadratic in the error of p(y) twice (Efron and Stein 1981), so D is taken off; where it is all there is (sure and evenly
    spread classes, IS near the number of classes) the estimate may be near 0 by chance, so D is also the least there can be.

    Raises:
        ValueError: logits that are not (n, classes) or not finite, fewer than 2 rows or than `splits`, or a level not in (0, 1).
    """
    if logits.dim() != 2 or len(logits) < max(splits, 2) or splits < 1 or logits.shape[1] < 1:
        raise ValueError(f"`logits` must be (n, classes) with n >= {max(splits, 2)} rows, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("`logits` must be finite")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}")
    n = len(logits)
    order = torch.from_numpy(np.random.RandomState(seed).permutation(n)).to(logits.device)
    bounds = [i * n // splits for i in range(splits + 1)]
    parts = [_information(logits[order[a:b]]) for a, b in itertools.pairwise(bounds)]
    scores = np.exp(parts)
    pseudo = _pseudo_values(logits)
    corrected, quadratic = pseudo.mean().item(), _quadratic_variance(logits)
    error = math.sqrt(max(pseudo.var().item() / n - quadratic, quadratic))
    reach = float(ndtri(0.5 + level / 2)) * error
    interval = Interval(max(1.0, math.exp(corrected - reach)), math.exp(corrected + reach), level)
    return InceptionScore(
        value=float(scores.mean()),
        spread_over_splits=float(scores.std()),
        full=math.exp(_information(logits)),
        corrected=math.exp(corrected),
        standard_error=math.exp(corrected) * error,
        interval=interval,
        n=n,
        splits=splits,
    )


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(1)


def _log_marginal(logits: Tensor) -> Tensor:
    """log p(y), (classes,): in log space, where a class that no image favours does not underflow to -inf."""
    parts = [_log_probabilities(part).logsumexp(0) for part in logits.split(ROWS)]
    return torch.stack(parts).logsumexp(0) - math.log(len(logits))


def _information(logits: Tensor) -> float:
    """I, the mean KL divergence of p(y | x) from p(y), in nats."""
    marginal = _log_marginal(logits)
    total = 0.0
    for part in logits.split(ROWS):
        log_p = _log_probabilities(part)
        total += (log_p.exp() * (log_p - marginal)).sum().item()
    return max(total / len(logits), 0.0)


def _pseudo_values(logits: Tensor) -> Tensor:
    """n I - (n - 1) I_{-i} for each i, (n,): their mean is I without its 1/n bias, their spread gives its error.

    The entropy of p(y | x) is a plain mean, its own pseudo-value; only that of p(y) is worked out without each image.
    """
    n, marginal = len(logits), _log_marginal(logits).exp()
    whole, values = _entropy(marginal), []
    for part in logits.split(ROWS):
        p = _log_probabilities(part).exp()
        without = ((n * marginal - p) / (n - 1)).clamp_(min=0.0)  # rounding, where one image holds all of a class
        values.append(n * whole - (n - 1) * _entropy(without) - _entropy(p))
    return torch.cat(values)


def _quadratic_variance(logits: Tensor) -> float:
    """D = tr(S^2) / (2 n^2), the variance of sum_y (error of p(y))^2 / (2 p(y)), with S_yz = cov(p_y, p_z) / sqrt(p(y) p(z)).

    With rows w = p(. | x) / sqrt(p(.)), tr(S^2) = E (w.w')^2 - 1 over independent images, taken over distinct ones.
    """
    n, root = len(logits), _log_marginal(logits).exp().sqrt().clamp(min=1e-150)
    products, own = torch.zeros(len(root), len(root), dtype=torch.float64, device=logits.device), 0.0
    for part in logits.split(ROWS):
        w = _log_probabilities(part).exp() / root
        products += w.T @ w
        own += w.square().sum(1).square().sum().item()
    trace = (products.square().sum().item() - own) / (n * (n - 1)) - 1.0
    return (trace if trace > 1e-12 else 0.0) / (2 * n**2)  # below lies rounding


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)
