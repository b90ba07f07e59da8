"""Bases and energies: plain modules. A base maps latents (n, d) to data in [-1, 1]; an energy maps data (n, ...) to (n,)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from gebm_cli.errors import UsageError

Shape = tuple[int, ...]


class Energy(nn.Module):
    """An energy E and its log-partition c: the model weighs a point of the base by exp(-E(x) - c).

    c is a scalar parameter, kept with the network so that no checkpoint can lose it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.log_partition = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """E(x), (n, ...) -> (n,)."""
        return self.network(x).flatten()


class Circle(nn.Module):
    """x = z / |z|: uniform on the unit circle for z ~ N(0, I) in the plane."""

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.normalize(z, dim=1)


def conv_base(latent_dim: int, shape: Shape, width: int, batch_norm: bool = False) -> nn.Sequential:
    """Linear, then one transposed convolution (4x4, stride 2) per doubling, ReLU between, tanh: DCGAN (Radford et al. 2016)
    with or without batch norm. `width` is the number of channels at half the resolution; it doubles at each halving.

    Raises:
        UsageError: the image is not square with a side of s * 2^k, s in {2, 3, 5, 7} and k at least 1.
    """
    channels, start, doublings = _halvings(shape)
    widths = [width * 2**i for i in reversed(range(doublings))]
    layers: list[nn.Module] = [nn.Linear(latent_dim, widths[0] * start**2), nn.Unflatten(1, (widths[0], start, start))]
    for wide_in, wide_out in pairwise([*widths, channels]):
        layers += [nn.BatchNorm2d(wide_in)] if batch_norm else []
        layers += [nn.ReLU(), nn.ConvTranspose2d(wide_in, wide_out, 4, 2, 1)]
    return nn.Sequential(*layers, nn.Tanh())


def conv_energy(shape: Shape, width: int, with_spectral_norm: bool) -> nn.Sequential:
    """One convolution (4x4, stride 2) and leaky ReLU (.2) per halving, then linear: the mirror of `conv_base`."""
    channels, end, halvings = _halvings(shape)
    widths = [width * 2**i for i in range(halvings)]
    normed = spectral_norm if with_spectral_norm else nn.Identity()
    layers: list[nn.Module] = []
    for wide_in, wide_out in pairwise([channels, *widths]):
        layers += [normed(nn.Conv2d(wide_in, wide_out, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * end**2, 1))


def sngan_base(latent_dim: int, shape: Shape) -> nn.Sequential:
    """The reference's `sngan` generator ("ConvNet"): 3,584,003 parameters at latent 100, xavier initialised."""
    _require_rgb32(shape)
    layers: list[nn.Module] = [nn.Linear(latent_dim, 512 * 4 * 4), nn.Unflatten(1, (512, 4, 4))]
    for wide in (512, 256, 128):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(), nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1)]
    layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 3, 3, 1, 1), nn.Tanh()]
    network = nn.Sequential(*layers)
    for module in network:
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
    return network


def sngan_energy(shape: Shape) -> nn.Sequential:
    """The reference's `sngan` critic: seven convolutions with spectral norm, leaky ReLU (.1), 5,860,865 parameters.

    Deviation: the released code clips E at -10 from below and keeps torch's default initialisation through a no-op
    xavier call; we keep the initialisation and do not clip.
    """
    _require_rgb32(shape)
    layers: list[nn.Module] = []
    for i, (wide_in, wide_out) in enumerate(
        [(3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    ):
        kernel, stride = (4, 2) if i % 2 else (3, 1)
        layers += [spectral_norm(nn.Conv2d(wide_in, wide_out, kernel, stride, 1)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, 1))


def mlp(n_in: int, n_out: int, width: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers of `width` units with SiLU, smooth so that second derivatives exist."""
    layers: list[nn.Module] = []
    for wide in [width] * depth:
        layers += [nn.Linear(n_in, wide), nn.SiLU()]
        n_in = wide
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))


def freeze(network: nn.Module, own: bool = True) -> nn.Module:
    """The network ready to be sampled: eval mode, no gradient of any weight, every normalised weight computed once.

    Spectral norm divides the weights at each call, although in eval mode the result never changes; it is taken out and leaves the
    same numbers. `own` networks also take the channels-last layout: on a CPU 5 to 14 % faster, other rounding. A user's own module
    is left as it is but for eval mode: other layouts break modules that call `view`. Changes the module in place and returns it.
    """
    network.eval().requires_grad_(
        False
    )  # before anything is taken out: in training mode spectral norm would change once more
    if not own:
        return network
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    network.to(memory_format=torch.channels_last)
    return network.requires_grad_(False)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in module.parameters())


def _halvings(shape: Shape) -> tuple[int, int, int]:
    """(channels, smallest side, number of halvings) of a square image; the smallest side lies in 2..7."""
    if len(shape) != 3 or shape[1] != shape[2]:
        raise UsageError(
            f"data: conv networks need square images, got {shape}; crop them (data.size does it for a folder)"
        )
    side, count = shape[1], 0
    while side % 2 == 0 and side >= 4:
        side, count = side // 2, count + 1
    if side > 7 or count == 0:
        raise UsageError(
            f"data: conv networks halve the side of an image at least once, down to 2..7, which {shape[1]} does not "
            f"allow; set data.size to {2 ** max(2, round(math.log2(shape[1])))}"
        )
    return shape[0], side, count


def _require_rgb32(shape: Shape) -> None:
    if shape != (3, 32, 32):
        raise UsageError(
            f"data: the sngan networks are for (3, 32, 32) images, got {shape}; use base and energy kind conv"
        )
