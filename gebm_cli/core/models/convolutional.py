"""Bases and energies for images without residual blocks: conv (any side), and the published dcgan and sngan.

Bases map latents (n, d) to images in [-1, 1]; energies map images to (n, n_out), n_out = 1 but for critics with a kernel.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from gebm_cli.core.models.second_order import Conv2d, LeakyReLU
from gebm_cli.core.models.spectral import Spectral, normalised
from gebm_cli.errors import UsageError

Shape = tuple[int, ...]


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


def conv_energy(shape: Shape, width: int, spectral: Spectral = "none", n_out: int = 1) -> nn.Sequential:
    """One convolution (4x4, stride 2) and leaky ReLU (.2) per halving, then linear: the mirror of `conv_base`.

    `spectral` is of the convolutions; the linear layer is plain.

    Raises:
        UsageError: as `conv_base`.
    """
    channels, end, halvings = _halvings(shape)
    widths = [width * 2**i for i in range(halvings)]
    layers: list[nn.Module] = []
    for wide_in, wide_out in pairwise([channels, *widths]):
        layers += [normalised(Conv2d(wide_in, wide_out, 4, 2, 1), spectral), LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * end**2, n_out))


def dcgan_base(latent_dim: int, shape: Shape, width: int = 64) -> nn.Sequential:
    """The generator of DCGAN (Radford et al. 2016): transposed convolutions with batch norm, without biases.

    At 64 pixels the usual one; at 32 the reference's `dcgan`, whose last layer is 1x1 instead of a doubling: 3,573,824
    parameters at latent 100. Weights start at N(0, .02^2), as in the paper. `width` is the number of channels at 32 pixels.

    Raises:
        UsageError: the images are not RGB of side 32 or 64.
    """
    side = require_rgb("dcgan", shape, (32, 64))
    layers: list[nn.Module] = [
        nn.Unflatten(1, (latent_dim, 1, 1)),
        nn.ConvTranspose2d(latent_dim, 8 * width, 4, bias=False),
    ]
    for wide in (8 * width, 4 * width, 2 * width):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(), nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1, bias=False)]
    kernel, stride, padding = (4, 2, 1) if side == 64 else (1, 1, 0)
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, 3, kernel, stride, padding, bias=False)]
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
    return nn.Sequential(*layers, nn.Tanh())


def dcgan_energy(shape: Shape, width: int = 64, spectral: Spectral = "none", n_out: int = 1) -> nn.Sequential:
    """The critic of DCGAN without its sigmoid, which would hold E in (0, 1): four convolutions (4x4, stride 2), leaky ReLU (.2).

    Plain, it has batch norm after all of them but the first, and no biases: at 32 pixels the reference's `dcgan-ns`,
    2,759,424 parameters. Batch norm would undo any scale of a weight, so with spectral norm, which is then of every layer,
    it is left out and biases are in. Weights start at N(0, .02^2). `width` is the number of channels at half the resolution.

    Raises:
        UsageError: the images are not RGB of side 32 or 64.
    """
    side, plain = require_rgb("dcgan", shape, (32, 64)), spectral == "none"

    def convolution(wide_in: int, wide_out: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
        layer = Conv2d(wide_in, wide_out, kernel, stride, padding, bias=not plain)
        nn.init.normal_(layer.weight, std=0.02)
        return normalised(layer, spectral)

    layers: list[nn.Module] = [convolution(3, width, 4, 2, 1), LeakyReLU(0.2)]
    for wide in (width, 2 * width, 4 * width):
        layers += [
            convolution(wide, 2 * wide, 4, 2, 1),
            *([nn.BatchNorm2d(2 * wide)] if plain else []),
            LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, convolution(8 * width, n_out, side // 16, 1, 0), nn.Flatten())


def sngan_base(latent_dim: int, shape: Shape) -> nn.Sequential:
    """The reference's `sngan` generator ("ConvNet"; the standard CNN of Miyato et al. 2018, table 3), xavier initialised.

    3,584,003 parameters at latent 100 and 32 pixels. At 64 pixels it starts one stage earlier, from 1024 channels; the paper,
    for its 48 pixels, keeps three stages and starts at a side of 6 instead of 4.

    Raises:
        UsageError: the images are not RGB of side 32 or 64.
    """
    widths = [*reversed(_sngan_widths(shape))]
    layers: list[nn.Module] = [nn.Linear(latent_dim, widths[0] * 4 * 4), nn.Unflatten(1, (widths[0], 4, 4))]
    for wide_in, wide_out in pairwise(widths):
        layers += [nn.BatchNorm2d(wide_in), nn.ReLU(), nn.ConvTranspose2d(wide_in, wide_out, 4, 2, 1)]
    layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 3, 3, 1, 1), nn.Tanh()]
    network = nn.Sequential(*layers)
    for module in network:
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
    return network


def sngan_energy(shape: Shape, spectral: Spectral = "norm", n_out: int = 1) -> nn.Sequential:
    """The reference's `sngan` critic: seven convolutions (nine at 64 pixels), 3x3 and 4x4 with stride 2 in turn, leaky ReLU (.1).

    `spectral` is of the convolutions; the linear layer is plain. 5,860,865 parameters at 32 pixels.

    Deviation: the released code clips E at -10 from below and keeps torch's default initialisation through a no-op
    xavier call; we keep the initialisation and do not clip.

    Raises:
        UsageError: the images are not RGB of side 32 or 64.
    """
    widths = _sngan_widths(shape)
    layers: list[nn.Module] = [normalised(Conv2d(3, 64, 3, 1, 1), spectral), LeakyReLU(0.1)]
    for wide_in, wide_out in pairwise(widths):
        layers += [normalised(Conv2d(wide_in, wide_out, 4, 2, 1), spectral), LeakyReLU(0.1)]
        layers += [normalised(Conv2d(wide_out, wide_out, 3, 1, 1), spectral), LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 4 * 4, n_out))


def require_rgb(kind: str, shape: Shape, sides: tuple[int, ...]) -> int:
    """The side of square RGB images, which must be one of `sides`.

    Raises:
        UsageError: another shape; names the sides there are and what to do.
    """
    if len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2] and shape[1] in sides:
        return shape[1]
    possible = f"{', '.join(map(str, sides[:-1]))} or {sides[-1]}"
    resize = f"set data.size to {possible}, or " if shape[:1] == (3,) else ""
    raise UsageError(
        f"data: the {kind} networks are for square RGB images with a side of {possible}, got {shape}; {resize}use base and "
        "energy kind conv"
    )


def _sngan_widths(shape: Shape) -> list[int]:
    """Channels at the full side and after each halving, down to a side of 4."""
    side = require_rgb("sngan", shape, (32, 64))
    return [64 * 2**i for i in range(int(math.log2(side // 4)) + 1)]


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
            f"allow; set data.size to {_nearest_sides(shape[1])}"
        )
    return shape[0], side, count


def _nearest_sides(side: int) -> str:
    """The sides s 2^k, s in {2, 3, 5, 7} and k at least 1, next below and above one that is none."""
    possible = sorted({s * 2**k for s in (2, 3, 5, 7) for k in range(1, side.bit_length() + 1)})
    below, above = [s for s in possible if s < side][-1:], [s for s in possible if s > side][:1]
    return " or ".join(map(str, below + above))
