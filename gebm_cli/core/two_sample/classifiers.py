"""The classifier two-sample test (C2ST): a network learns to tell x from y on a training split, and is tested on the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.two_sample.deep_kernel import convolutional

Feature = Literal["sign", "logit"]

HIDDEN = 128
RATE, WEIGHT_DECAY = 2e-3, 1e-2
BATCH = 128
STEPS = 2000  # at most
PATIENCE = 20  # looks at the validation rows without a gain before training stops
VALIDATION = 0.2  # of the training rows
CHUNK = 2048


@dataclass(frozen=True)
class HeldOutAccuracy:
    """The mean of the shares of x and of y that are told right on rows not trained on; 1/2 at P = Q."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class LearnedClassifier:
    """A network whose logit is positive where it takes a row for one of x; rows are standardised as in training."""

    network: nn.Module
    mean: Tensor
    scale: Tensor
    image_shape: tuple[int, int, int] | None
    feature: Feature
    steps: int

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (n, d) -> (n, 1) float64."""
        return self.feature_of(self.logits(rows))

    def feature_of(self, logits: Tensor) -> Tensor:
        """Logits (n,) -> (n, 1): 1[logit > 0] for `sign` (Lopez-Paz & Oquab 2017, section 3), or the logit itself.

        The logit keeps how sure the classifier is, and with it power (Cheng & Cloninger 2022).
        """
        return (logits[:, None] > 0).double() if self.feature == "sign" else logits[:, None]

    @torch.no_grad()
    def logits(self, rows: Tensor) -> Tensor:
        """Rows (n, d) -> (n,), all of it in float64, so that equal rows tie."""
        parts = [
            self.network(_standardised(part, self.mean, self.scale, self.image_shape)) for part in rows.split(CHUNK)
        ]
        return torch.cat(parts)[:, 0]


def accuracy_of(at_x: Tensor, at_y: Tensor) -> HeldOutAccuracy:
    """(a_x + a_y) / 2 from the logits of held-out x (n,) and y (m,), its error sqrt(a_x (1 - a_x) / n + a_y (1 - a_y) / m) / 2."""
    shares = [(at_x > 0).double().mean().item(), (at_y <= 0).double().mean().item()]
    variance = sum(a * (1 - a) / len(logits) for a, logits in zip(shares, (at_x, at_y), strict=True))
    return HeldOutAccuracy(sum(shares) / 2, variance**0.5 / 2)


def learn_classifier(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    feature: Feature = "logit",
    image_shape: tuple[int, int, int] | None = None,
    steps: int = STEPS,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> LearnedClassifier:
    """A classifier of training rows x (n, d) against y (m, d): a perceptron, or with `image_shape` (c, h, w) a convolutional one.

    AdamW on the binary cross-entropy of the logit, each sample weighing 1/2; the weights kept are those with the least loss on a
    fifth of the rows, set aside. Deviation: the code of Liu et al. (2020) puts a softmax in front of a loss that has its own,
    which bounds the logit and so the gradient; here there is one.

    Raises:
        ValueError: fewer than 2 rows in one sample, or rows that `image_shape` does not fit.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a classifier needs 2 training rows of each sample, got {len(x)} and {len(y)}")
    if image_shape is not None and x.shape[1] != torch.Size(image_shape).numel():
        raise ValueError(f"rows of {x.shape[1]} numbers are no images of shape {image_shape}")
    parts = [_split(rows, generator) for rows in (x, y)]
    mean, scale = _moments(torch.cat([fit for fit, _ in parts]), image_shape)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with seeded_construction(seed, "two-sample classifier"):
        network = _network(x.shape[1], image_shape).to(x.device)
    fit, check = ([_float(part[i], mean, scale, image_shape) for part in parts] for i in (0, 1))
    done = _train(network, fit, check, steps, generator, on_step)
    return LearnedClassifier(network.eval().requires_grad_(False).double(), mean, scale, image_shape, feature, done)


def _network(width: int, image_shape: tuple[int, int, int] | None) -> nn.Module:
    """One logit. No batch normalisation: a row's score must not depend on the rows it is scored with."""
    if image_shape is None:
        return nn.Sequential(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )
    body = convolutional(image_shape)
    last = body[-1]
    assert isinstance(last, nn.Linear)
    return nn.Sequential(body, nn.ReLU(), nn.Linear(last.out_features, 1))


def _split(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The rows to fit, and those to look at: at least one of each."""
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    held = max(1, round(VALIDATION * len(rows)))
    return rows[order[held:]], rows[order[:held]]


def _moments(rows: Tensor, image_shape: tuple[int, int, int] | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1 where constant) of each column, (d,), or of each channel of images, (c, 1, 1)."""
    if image_shape is not None:
        rows = rows.reshape(-1, image_shape[0], image_shape[1] * image_shape[2]).movedim(1, 2).flatten(0, 1)
    mean = rows.mean(0, dtype=torch.float64)
    centred = rows - mean.to(rows.dtype)
    spread = centred.square().mean(0, dtype=torch.float64).sqrt()
    constant = spread <= 2 * torch.finfo(rows.dtype).eps * mean.abs()
    shape = (-1,) if image_shape is None else (-1, 1, 1)
    return mean.reshape(shape), torch.where(constant, 1.0, spread).reshape(shape)


def _standardised(rows: Tensor, mean: Tensor, scale: Tensor, image_shape: tuple[int, int, int] | None) -> Tensor:
    shaped = rows if image_shape is None else rows.reshape(-1, *image_shape)
    return ((shaped.double() - mean) / scale).flatten(1)


def _float(rows: Tensor, mean: Tensor, scale: Tensor, image_shape: tuple[int, int, int] | None) -> Tensor:
    """All rows standardised, in float32, without a float64 copy of the whole."""
    return torch.cat([_standardised(part, mean, scale, image_shape).float() for part in rows.split(CHUNK)])


def _loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy with x the positive class, each sample weighing 1/2 whatever its size."""
    logit = network(torch.cat([x, y]))[:, 0]
    return 0.5 * (nn.functional.softplus(-logit[: len(x)]).mean() + nn.functional.softplus(logit[len(x) :]).mean())


def _train(
    network: nn.Module,
    fit: list[Tensor],
    check: list[Tensor],
    steps: int,
    generator: torch.Generator,
    on_step: Callable[[int, int], None],
) -> int:
    """AdamW with as many rows of x as of y in a batch; leaves the best weights in `network`, returns the steps made."""
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    best, kept, since = float("inf"), network.state_dict(), 0
    every = max(10, steps // 100)
    for step in range(1, steps + 1):
        loss = _loss(network, *(rows[_some(len(rows), generator).to(rows.device)] for rows in fit))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        on_step(step, steps)
        if step % every and step < steps:
            continue
        now = _validation(network, check)
        if now < best:
            best, kept, since = now, copy.deepcopy(network.state_dict()), 0
        else:
            since += 1
        if since >= PATIENCE:
            break
    network.load_state_dict(kept)
    return step


def _some(n: int, generator: torch.Generator) -> Tensor:
    """Numbers of BATCH / 2 of n rows at random, of all n where there are fewer."""
    return torch.randperm(n, generator=generator)[: BATCH // 2]


@torch.no_grad()
def _validation(network: nn.Module, check: list[Tensor]) -> float:
    """The loss on the rows set aside, in parts that fit memory."""
    total = 0.0
    for rows, sign in zip(check, (-1.0, 1.0), strict=True):
        logit = torch.cat([network(part) for part in rows.split(CHUNK)])
        total += 0.5 * nn.functional.softplus(sign * logit).mean().item()
    return total
