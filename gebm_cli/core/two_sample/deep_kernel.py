"""The deep kernel of Liu et al. (2020) and its feature networks.

    k(x, y) = [(1 - epsilon) exp(-|phi(x) - phi(y)|^2 / s0) + epsilon] exp(-|x - y|^2 / s)

The kernels act on augmented rows [phi(x), x], so that whoever sums kernel matrices need not know the networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gebm_cli.core.kernels import squared_distances

MAX_WIDTH = 300  # of the layers on data of many columns
FULL_SIZE = 32  # pixels up to which the first convolution sees every one
BATCH = 4096  # rows that a network sees at a time outside training


@dataclass(frozen=True)
class DeepKernel:
    """k of augmented rows (n, split + d), the first `split` columns of which are phi(x) and the others x (Liu et al. 2020, eq. 1).

    Without phi columns it is the Gaussian kernel exp(-|x - y|^2 / scale). k(x, x) = 1.
    """

    split: int
    epsilon: float
    feature_scale: float
    scale: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        raw = squared_distances(x[:, self.split :], y[:, self.split :])
        return self.of(raw, x[:, : self.split], y[:, : self.split])

    def of(self, raw: Tensor, phi_x: Tensor, phi_y: Tensor) -> Tensor:
        """k from |x - y|^2 (n, m) and the phi of both."""
        wide = (raw * (-1.0 / self.scale)).exp_()
        if self.split == 0:
            return wide
        near = squared_distances(phi_x, phi_y).div_(-self.feature_scale).exp_()
        return near.mul_(1.0 - self.epsilon).add_(self.epsilon).mul_(wide)


@dataclass(frozen=True)
class KernelMean:
    """sum_r w_r k_r / sum_r w_r of deep kernels on rows [phi_1(x), .., phi_R(x), x]: member r reads its own phi, and x."""

    members: tuple[DeepKernel, ...]
    weights: tuple[float, ...]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        total, start = x.new_zeros(len(x), len(y)), 0
        skip = sum(member.split for member in self.members)
        raw = squared_distances(x[:, skip:], y[:, skip:])
        for member, weight in zip(self.members, self.weights, strict=True):
            own = slice(start, start + member.split)
            total += member.of(raw, x[:, own], y[:, own]).mul_(weight / sum(self.weights))
            start += member.split
        return total


@dataclass(frozen=True)
class TrainedKernel:
    """A learned kernel and what makes its rows. Valid in a test of data that it was not trained on, and of no other.

    Attributes:
        networks: the phi of each member of `kernel`; none when the plain Gaussian kernel was the better one.
        kernel: acts on what `rows` returns.
        centre: (d,), subtracted from x, which changes no distance but keeps digits.
        criterion: J of the chosen kernel on rows that its training set aside, the mean over members.
        gaussian_criterion: the same of the plain Gaussian kernel.
    """

    networks: tuple[nn.Module, ...]
    kernel: KernelMean
    centre: Tensor
    criterion: float
    gaussian_criterion: float

    @torch.no_grad()
    def rows(self, x: Tensor) -> Tensor:
        """x (n, d) -> augmented rows (n, k + d), in the float type of x; the networks run in evaluation mode, in float32."""
        parts = [features(network, x).to(x.dtype) for network in self.networks]
        return torch.cat([*parts, x - self.centre.to(x)], dim=1)


@torch.no_grad()
def features(network: nn.Module, x: Tensor) -> Tensor:
    """phi(x) of x (n, d), (n, k) float32, in batches, without gradient and in evaluation mode; the mode is restored."""
    training = network.training
    network.eval()
    parts = [network(batch.float()) for batch in x.split(BATCH)]
    network.train(training)
    return torch.cat(parts)


class FeatureNetwork(nn.Module):
    """phi(x) = [w (x - mean), g(x)]: each column with a learned weight, then a network g of columns standardised.

    It starts as the Gaussian kernel of scale `width`, w = 1 / sqrt(width), plus a little of g, whose median squared distance on
    the rows it is made with is `share`. Without a width (images) there is g alone.

    Deviation: the paper has g alone, fed with raw data. Learned weights of columns are few numbers that hardly overfit, which is
    most of the power where some columns matter and others do not; and a known start of g's scale makes kernels alike.
    """

    def __init__(self, body: nn.Module, rows: Tensor, width: float | None, share: float) -> None:
        super().__init__()
        self.body = body
        plain, std = width is None, rows.std(0)
        # A column that hardly moves here must not explode on other rows.
        floor = max(0.01 * std.square().mean().sqrt().item(), 1e-12)
        self.mean = nn.Buffer(torch.zeros(()) if plain else rows.mean(0))
        self.inverse_std = nn.Buffer(torch.ones(()) if plain else 1.0 / std.clamp(min=floor))
        self.log_weights = nn.Parameter(torch.full_like(std, 0.0 if width is None else -0.5 * math.log(width)))
        self.log_weights.requires_grad_(not plain)
        self.plain = plain
        self.centre, self.gain = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))
        with torch.no_grad():
            some = torch.cat([self._deep(batch) for batch in rows[:: -(-len(rows) // 500)].split(BATCH)])
        median = torch.pdist(some).square().median().item()
        self.centre = nn.Buffer(some.mean(0))
        self.gain = nn.Buffer(torch.tensor(math.sqrt(share / median) if median > 0 else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, d) float32 -> phi(x), (n, d + k); (n, k) of images."""
        deep = self._deep(x)
        return deep if self.plain else torch.cat([(x - self.mean) * self.log_weights.exp(), deep], dim=1)

    def _deep(self, x: Tensor) -> Tensor:
        return (self.body((x - self.mean) * self.inverse_std) - self.centre) * self.gain


def mlp(d: int) -> nn.Sequential:
    """d-h-h-h-h with softplus; h is 50 in the plane, else 3d, at most `MAX_WIDTH` (Liu et al. 2020, appendix B.2)."""
    h = 50 if d <= 2 else min(3 * d, MAX_WIDTH)
    layers: list[nn.Module] = []
    for width in (d, h, h):
        layers += [nn.Linear(width, h), nn.Softplus()]
    return nn.Sequential(*layers, nn.Linear(h, h))


def convolutional(image_shape: Sequence[int]) -> nn.Sequential:
    """Three convolutions, the first at full size up to 32 pixels, the mean over places, and a linear layer: (n, c h w) -> (n, 64).

    Deviation: the paper has four convolutions of stride 2, batch normalisation and a linear layer of all places. With batch norm
    phi(x) depends on what else is in the batch; and without the mean over places a few hundred images do not teach a network
    what compression or blur do to all of them alike.
    """
    c, h, w = image_shape
    stride = max(1, -(-max(h, w) // FULL_SIZE))
    layers: list[nn.Module] = [nn.Unflatten(1, (c, h, w)), nn.Conv2d(c, 16, stride + 2, stride, 1), nn.ReLU()]
    for before, after in ((16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64))
