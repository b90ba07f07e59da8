"""Learning a deep kernel from a training split (Liu et al. 2020): several networks, each stopped by rows that it has not seen.

A kernel learned from labels may be used on other rows only: on its own the test rejects almost always, whatever P and Q are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.kernels import squared_distances
from gebm_cli.core.two_sample.deep_criterion import Pairs, Scales, criterion, gaussian_criterion
from gebm_cli.core.two_sample.deep_kernel import (
    DeepKernel,
    FeatureNetwork,
    KernelMean,
    TrainedKernel,
    convolutional,
    features,
    mlp,
)

FULL = 4000  # rows a side above which each step sees a random subset
PART = 1000  # rows a side of such a subset; of images, IMAGE_PART
IMAGE_PART = 250
N_SCALES = 12
SHARE = 0.1  # of the network in |phi(x) - phi(y)|^2 / s0 at the start, where columns have weights of their own
FLAT, EPSILON_START = 200.0, 0.01  # s at the start, in best Gaussian scales, and epsilon
IMAGE_FLAT, IMAGE_EPSILON_START = 4.0, 0.5
EVERY = 10  # steps between looks at the rows set aside
SET_ASIDE = 0.25
MEMBERS = 3
N_STEPS = 40
NETWORK_RATE, SCALE_RATE = 1e-3, 4e-2


def train_deep_kernel(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    image_shape: Sequence[int] | None = None,
    n_steps: int = N_STEPS,
    n_members: int = MEMBERS,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> TrainedKernel:
    """Learn a kernel that tells x (n, d) from y (m, d); rows are vectors, or with `image_shape` (c, h, w) pixels in [-1, 1].

    Each of `n_members` networks trains on its own three quarters of the rows, from its own start, by Adam on J, and is kept as it
    was when J of the quarter set aside was largest. The result is their mean, each divided by its spread; or the Gaussian kernel of
    the best J, if the rows set aside prefer it. Test on other rows than x and y.

    Deviation: the paper trains one network on all rows for 1000 steps and keeps the last state, which overfits at small n.

    Raises:
        ValueError: fewer than 8 rows on a side, rows that do not match, or a criterion that is not finite.
    """
    _check(x, y, image_shape, n_steps, n_members)
    x, y = x.float(), y.float()
    centre = torch.cat([x, y]).mean(0)
    x, y = x - centre, y - centre
    members = []
    for r in range(n_members):
        split = _Split.draw(x, y, generator)

        def tick(step: int, done: int = r * n_steps) -> None:
            on_step(done + step, n_members * n_steps)

        members.append(_train_member(split, generator, image_shape, n_steps, tick))
    return _combine(members, x, y, centre)


def _check(x: Tensor, y: Tensor, image_shape: Sequence[int] | None, n_steps: int, n_members: int) -> None:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 8:
        raise ValueError(f"need x (n, d) and y (m, d) with n, m >= 8, got {tuple(x.shape)} and {tuple(y.shape)}")
    if image_shape is not None and (len(image_shape) != 3 or math.prod(image_shape) != x.shape[1]):
        raise ValueError(f"rows of {x.shape[1]} columns are no images of shape {tuple(image_shape)}")
    if min(n_steps, n_members) < 1:
        raise ValueError(f"need at least 1 step and 1 member, got {n_steps} and {n_members}")


@dataclass(frozen=True)
class _Split:
    """Rows to fit and rows set aside, both sides."""

    fit: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]

    @classmethod
    def draw(cls, x: Tensor, y: Tensor, generator: torch.Generator) -> _Split:
        """A random quarter of each side is set aside, at most `FULL` rows."""
        sides = []
        for z in (x, y):
            held = min(max(2, round(SET_ASIDE * len(z))), FULL)
            order = torch.randperm(len(z), generator=generator).to(z.device)
            sides.append((z[order[held:]], z[order[:held]]))
        return cls((sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))


@dataclass(frozen=True)
class _Member:
    """One trained network, its kernel, and on its rows set aside J of the kernel and of the Gaussian that fitted best."""

    network: nn.Module
    kernel: DeepKernel
    criterion: float
    gaussian_criterion: float


def _train_member(
    split: _Split,
    generator: torch.Generator,
    image_shape: Sequence[int] | None,
    n_steps: int,
    on_step: Callable[[int], None],
) -> _Member:
    """Train one network on split.fit by Adam with a cosine schedule, and keep the state with the largest J on split.held."""
    draw = _draws(*split.fit, IMAGE_PART if image_shape is not None else None, generator)
    rows, pairs = draw()
    held, held_rows = Pairs(*split.held), torch.cat(split.held)
    fine = best_gaussian(rows, pairs)
    network = _network(rows, image_shape, fine, generator)
    flat, epsilon = (FLAT, EPSILON_START) if image_shape is None else (IMAGE_FLAT, IMAGE_EPSILON_START)
    scales = Scales.start(1.0, flat * fine, epsilon, rows)
    groups = [
        {"params": list(network.body.parameters()), "lr": NETWORK_RATE},
        {"params": [network.log_weights, *scales.all()], "lr": SCALE_RATE},
    ]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    best, state, kernel = -math.inf, network.state_dict(), scales.kernel(1)
    for step in range(1, n_steps + 1):
        phi = network(rows)
        loss = -criterion(phi, scales, pairs)
        if not math.isfinite(loss.item()):
            raise ValueError(f"the criterion is {-loss.item()} at step {step}: are all rows finite?")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % EVERY == 0 or step == n_steps:
            with torch.no_grad():
                value = criterion(features(network, held_rows), scales, held).item()
            if value > best:
                best, state, kernel = value, copy.deepcopy(network.state_dict()), scales.kernel(phi.shape[1])
        on_step(step)
        rows, pairs = draw()
    network.load_state_dict(state)
    return _Member(network.eval().requires_grad_(False), kernel, best, gaussian_criterion(fine, held))


def _draws(x: Tensor, y: Tensor, part: int | None, generator: torch.Generator) -> Callable[[], tuple[Tensor, Pairs]]:
    """What gives each step's pooled rows and their distances: always all rows, or a fresh random subset, an equal share a side."""
    limit = part or FULL
    if max(len(x), len(y)) <= limit:
        whole = torch.cat([x, y]), Pairs(x, y)
        return lambda: whole
    share = (part or PART) / max(len(x), len(y))

    def draw() -> tuple[Tensor, Pairs]:
        sides = []
        for z in (x, y):
            chosen = torch.randperm(len(z), generator=generator)[: max(4, round(share * len(z)))]
            sides.append(z[chosen.to(z.device)])
        return torch.cat(sides), Pairs(sides[0], sides[1])

    return draw


def _network(
    rows: Tensor, image_shape: Sequence[int] | None, width: float, generator: torch.Generator
) -> FeatureNetwork:
    """A fresh network for these rows, in float32; the generator alone decides its start."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with seeded_construction(seed, "deep kernel"):
        body = mlp(rows.shape[1]) if image_shape is None else convolutional(image_shape)
    plain = image_shape is not None
    network = FeatureNetwork(body.to(rows.device), rows, None if plain else width, 1.0 if plain else SHARE)
    return network.to(rows.device)


def best_gaussian(rows: Tensor, pairs: Pairs) -> float:
    """The scale s of exp(-|x - y|^2 / s) with the largest J, of `N_SCALES` from the median squared distance to the nearest
    neighbour up to four times the median one: the fine scales that the median cannot see are among the starts."""
    some = rows[:: -(-len(rows) // 1000)]
    squared = squared_distances(some, some).fill_diagonal_(math.inf)
    nearest = squared.min(1).values.median().item()
    median = squared[squared.isfinite()].median().item()
    if not 0 < median < math.inf:
        raise ValueError("more than half of the rows are equal, or rows are not finite")
    low, high = math.log(max(nearest, 1e-6 * median)), math.log(4.0 * median)
    grid = [math.exp(low + (high - low) * i / (N_SCALES - 1)) for i in range(N_SCALES)]
    return max(grid, key=lambda scale: gaussian_criterion(scale, pairs))


def _combine(members: Sequence[_Member], x: Tensor, y: Tensor, centre: Tensor) -> TrainedKernel:
    """The mean of the members' kernels, or the Gaussian where its mean J on the rows set aside is larger beyond their noise.

    J of h rows a side has a standard error of about 1 / sqrt(h). Without that margin the Gaussian was taken in one HDGM problem of
    six, and missed there what the deep kernels, whose J was lower by chance, would have found.
    """
    deep = sum(member.criterion for member in members) / len(members)
    plain = sum(member.gaussian_criterion for member in members) / len(members)
    if plain >= deep + 2.0 / math.sqrt(max(2.0, SET_ASIDE * min(len(x), len(y)))):
        x, y = (z[:: -(-len(z) // FULL)] for z in (x, y))
        gaussian = DeepKernel(0, 0.0, 1.0, best_gaussian(torch.cat([x, y]), Pairs(x, y)))
        return TrainedKernel((), KernelMean((gaussian,), (1.0,)), centre, plain, plain)
    some = torch.cat([z[:: -(-len(z) // 500)] for z in (x, y)])
    weights = []
    for member in members:
        rows = torch.cat([features(member.network, some), some], dim=1)
        weights.append(1.0 / _spread(member.kernel(rows, rows)))
    networks = tuple(member.network for member in members)
    return TrainedKernel(
        networks, KernelMean(tuple(member.kernel for member in members), tuple(weights)), centre, deep, plain
    )


def _spread(matrix: Tensor) -> float:
    """Root mean square of the off-diagonal entries of the centred kernel matrix, to which the null's spread of MMD^2 is
    proportional (as FUSE normalises, Biggs et al. 2023)."""
    n = len(matrix)
    matrix = matrix.double().fill_diagonal_(0.0)
    means = matrix.sum(1) / (n - 1)
    centred = (matrix - means[:, None] - means[None, :] + means.mean()).fill_diagonal_(0.0)
    return max(math.sqrt(centred.square().sum().item() / (n * (n - 1))), 1e-30)
