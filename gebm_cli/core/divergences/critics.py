"""Critics: functions v for log dP/dQ learned from two samples by logistic regression, whose logit it is.

Each sample weighs 1/2, so equal logits mean equal densities whatever the sizes. A quadratic model, which holds the log ratio of
any two Gaussians, and a network are both fitted; the network is taken where its loss on validation rows is a standard error less.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.linalg import LinAlgWarning
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import softplus

from gebm_cli.core.progress import Begin, Steps, silent
from gebm_cli.core.two_sample.classifiers import learn_classifier
from gebm_cli.core.two_sample.selection import split_rows

VALIDATION = 0.2
RIDGES = (1e-8, 1e-5, 1e-3, 1e-2, 1e-1)  # on the weights of standardised features, against the mean loss
MOST_PRODUCTS = 300  # features of the quadratic model; beyond, it has squares alone
MOST_ENTRIES = 2_000_000  # features of all rows together that the quadratic model is fitted to
STEPS = 1000  # of the network, at most
NOTHING_LEFT = (
    1e-4  # a loss of the quadratic model on validation rows below which no network is tried: they are separated
)
ROWS = 2048

Logit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Critic:
    """v, clipped to [-floor, ceiling], as a field; `logits` is without the clipping. `learned`: from the rows, and not known.

    `name` is "quadratic", "network", or "atom" where a sample is one point over and over, or two of them of a mean; `settings`
    say more.
    """

    logit: Logit
    name: str
    floor: float
    ceiling: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def learned(self) -> bool:
        return self.name != "atom"

    @torch.no_grad()
    def logits(self, t: Tensor) -> Tensor:
        """t (k, d) -> (k,) float64."""
        return torch.cat([self.logit(part.double()) for part in t.split(ROWS)])

    def value(self, t: Tensor) -> Tensor:
        """t (k, d) -> (k,) float64."""
        return self.logits(t).clamp(-self.floor, self.ceiling)

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """v (k,) float64 and its gradient (k, d), which is 0 where v is clipped."""
        values, grads = [], []
        for part in t.detach().split(ROWS):
            with torch.enable_grad():
                rows = part.double().requires_grad_()
                value = self.logit(rows).clamp(-self.floor, self.ceiling)
                (grad,) = torch.autograd.grad(value.sum(), rows, allow_unused=True, materialize_grads=True)
            values.append(value.detach())
            grads.append(grad.to(t.dtype))
        return torch.cat(values), torch.cat(grads)


def learn_critic(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    image_shape: tuple[int, int, int] | None = None,
    begin: Begin = silent,
) -> Critic:
    """A critic of training rows x (n, d) of P and y (m, d) of Q, n and m at least 4.

    A sample of one point over and over is an atom: v is then the log ratio of its shares, and nothing has to be learned. The
    network's logit is calibrated on the validation rows (Platt 1999); the quadratic model, once chosen, is fitted to all rows.
    """
    bounds = math.log(len(x)), math.log(len(y))
    point = next((side[0] for side in (x, y) if (side == side[0]).all()), None)
    if point is not None:
        return Critic(_atom(point, x, y), "atom", *bounds)
    splits = [split_rows(len(side), VALIDATION, generator) for side in (x, y)]
    check, fit = ([side[getattr(s, part).to(side.device)] for side, s in zip((x, y), splits, strict=True)]
                  for part in ("train", "test"))  # fmt: skip
    quadratics = [_fit_quadratic(fit[0], fit[1], ridge) for ridge in RIDGES]
    losses = [_losses(logit, check) for logit in quadratics]
    best = min(range(len(RIDGES)), key=lambda i: _mean(losses[i])[0])
    if _mean(losses[best])[0] < NOTHING_LEFT:
        return Critic(_fit_quadratic(x, y, RIDGES[best]), "quadratic", *bounds, {"ridge": RIDGES[best]})
    network = _network(fit, check, generator, image_shape, begin)
    of_network = _losses(network, check)
    gain, error = _mean([a - b for a, b in zip(losses[best], of_network, strict=True)])
    told = {"loss_quadratic": _mean(losses[best])[0], "loss_network": _mean(of_network)[0]}
    if gain > error:
        return Critic(network, "network", *bounds, told)
    return Critic(_fit_quadratic(x, y, RIDGES[best]), "quadratic", *bounds, told | {"ridge": RIDGES[best]})


def averaged(critics: Sequence[Critic]) -> Critic:
    """The mean of v, each clipped to its own bounds."""
    bounds = ([getattr(critic, end) for critic in critics] for end in ("floor", "ceiling"))
    floor, ceiling = (sum(ends) / len(ends) for ends in bounds)
    names = list(dict.fromkeys(critic.name for critic in critics))

    def logit(t: Tensor) -> Tensor:
        return torch.stack([c.logit(t).clamp(-c.floor, c.ceiling) for c in critics]).mean(0)

    return Critic(logit, " and ".join(names), floor, ceiling, {"critics": [critic.settings for critic in critics]})


def _atom(point: Tensor, x: Tensor, y: Tensor) -> Logit:
    """log of (share of x) / (share of y), at the point and off it, a count of 0 taken for a half."""
    shares = []
    for side in (x, y):
        at = int((side == point).all(1).sum())
        shares.append([math.log(max(k, 0.5) / len(side)) for k in (at, len(side) - at)])
    on, off = (shares[0][i] - shares[1][i] for i in (0, 1))
    return lambda t: torch.where((t == point.to(t)).all(1), on, off) + 0.0 * t.sum(1)  # a graph, with gradient 0


@torch.no_grad()
def _losses(logit: Logit, sides: list[Tensor]) -> list[Tensor]:
    """The logistic loss at each row of x, the positive class, and of y."""
    return [
        torch.cat([softplus(sign * logit(part.double())) for part in side.split(ROWS)])
        for side, sign in zip(sides, (-1, 1), strict=True)
    ]


def _mean(sides: list[Tensor]) -> tuple[float, float]:
    """The mean with each sample weighing 1/2, and its standard error, 0 for single rows."""
    mean = sum(0.5 * side.mean().item() for side in sides)
    variance = sum(0.25 * side.var().item() / len(side) for side in sides if len(side) > 1)
    return mean, math.sqrt(variance)


def _n_features(d: int) -> int:
    products = d * (d + 3) // 2
    return products if products <= MOST_PRODUCTS else 2 * d


def _quadratic_features(t: Tensor) -> Tensor:
    """(k, d) -> the columns, and their products while they are few, else their squares."""
    d = t.shape[1]
    if _n_features(d) == 2 * d:
        return torch.cat([t, t.square()], 1)
    i, j = torch.triu_indices(d, d, device=t.device)
    return torch.cat([t, t[:, i] * t[:, j]], 1)


def _fit_quadratic(x: Tensor, y: Tensor, ridge: float) -> Logit:
    """Logistic regression on standardised quadratic features, minimising the mean loss + ridge |w|^2 / 2."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n_features = _n_features(x.shape[1])
    most = max(100, MOST_ENTRIES // (2 * n_features))
    sides = [side[:most].double() for side in (x, y)]
    centre, scale = _moments(torch.cat(sides))
    features = [_quadratic_features((side - centre) / scale) for side in sides]
    shift, spread = _moments(torch.cat(features))
    table = ((torch.cat(features) - shift) / spread).cpu().numpy()
    labels = np.repeat([1, 0], [len(side) for side in sides])
    weights = np.repeat([0.5 / len(side) for side in sides], [len(side) for side in sides])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of separated samples: the ridge ends it, or the steps
        warnings.simplefilter("ignore", LinAlgWarning)
        solver = "newton-cholesky" if n_features <= MOST_PRODUCTS else "lbfgs"
        model = LogisticRegression(C=1 / ridge, solver=solver, max_iter=100, tol=1e-8)
        model.fit(table, labels, sample_weight=weights)
    weight, bias = torch.from_numpy(model.coef_[0]).to(x.device), float(model.intercept_[0])
    return lambda t: (_quadratic_features((t - centre) / scale) - shift) / spread @ weight + bias


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, 1 where it is constant up to rounding."""
    mean, spread = rows.mean(0), rows.std(0, correction=0)
    return mean, torch.where(spread > 1e-12 * mean.abs(), spread, 1.0)


def _network(
    fit: list[Tensor],
    check: list[Tensor],
    generator: torch.Generator,
    image_shape: tuple[int, int, int] | None,
    begin: Begin,
) -> Logit:
    """The classifier of the two-sample test, and its logit calibrated on rows that it has not seen."""
    learned = learn_classifier(
        fit[0],
        fit[1],
        generator,
        image_shape=image_shape,
        steps=STEPS,
        on_step=Steps(begin, "learning the critic", "steps"),
    )
    logits = [learned.logits(side) for side in check]
    slope, offset = _calibrated(*logits)

    def logit(t: Tensor) -> Tensor:
        shaped = t if image_shape is None else t.reshape(-1, *image_shape)
        return slope * learned.network(((shaped - learned.mean) / learned.scale).flatten(1))[:, 0] + offset

    return logit


def _calibrated(at_x: Tensor, at_y: Tensor) -> tuple[float, float]:
    """Slope a and offset c with the least logistic loss of a v + c on validation rows, with a prior a ~ N(1, 1), c ~ N(0, 1)."""
    signed = np.concatenate([-at_x.cpu().numpy(), at_y.cpu().numpy()])
    sign = np.repeat([-1.0, 1.0], [len(at_x), len(at_y)])
    weight = np.repeat([0.5 / len(at_x), 0.5 / len(at_y)], [len(at_x), len(at_y)])
    prior = 1 / len(signed)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[0] * signed + at[1] * sign
        pull = weight * expit(z)
        value = weight @ np.logaddexp(0, z) + prior / 2 * ((at[0] - 1) ** 2 + at[1] ** 2)
        return value, np.array([pull @ signed + prior * (at[0] - 1), pull @ sign + prior * at[1]])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(slope), float(offset)
