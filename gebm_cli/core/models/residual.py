"""Bases and energies for images made of residual blocks: the SN-ResNets of Miyato et al. 2018.

Bases map latents (n, d) to images in [-1, 1]; energies map images to (n, n_out), n_out = 1 but for critics with a kernel.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from gebm_cli.core.models.convolutional import Shape, require_rgb
from gebm_cli.core.models.second_order import Conv2d, ReLU
from gebm_cli.core.models.spectral import Spectral, normalised

SIDES = (32, 64, 128)
Gains = tuple[float, float]  # of the xavier initialisation: in the residual branch, in the shortcut
REFERENCE: Gains = (1.0, math.sqrt(2))
MIYATO: Gains = (math.sqrt(2), 1.0)


def resnet_base(latent_dim: int, shape: Shape, width: int = 128) -> nn.Sequential:
    """Linear, then one upsampling residual block per doubling, batch norm, ReLU, 3x3 convolution, tanh; no spectral norm.

    32 pixels: the reference's `resnet-sn`, `width` channels throughout; 1,097,603 parameters at latent 100.
    128 pixels: Miyato et al. 2018, appendix, from 1024 channels down to 64; 64 pixels: the same without its first block, as in
    the authors' code. These channels are for a `width` of 128 and proportional to it.

    Raises:
        UsageError: the images are not RGB of side 32, 64 or 128.
    """
    side = require_rgb("resnet", shape, SIDES)
    if side == 32:
        widths, gains = [width] * 4, REFERENCE
    else:
        widths, gains = _widths(width, side)[::-1], MIYATO
    first, last = nn.Linear(latent_dim, widths[0] * 4 * 4), nn.Conv2d(widths[-1], 3, 3, 1, 1)
    for layer in (first, last):
        nn.init.xavier_uniform_(layer.weight)
    blocks = [_up(*wide, gains, projected=side > 32) for wide in pairwise(widths)]
    ending = [nn.BatchNorm2d(widths[-1]), nn.ReLU(), last, nn.Tanh()]
    return nn.Sequential(first, nn.Unflatten(1, (widths[0], 4, 4)), *blocks, *ending)


def resnet_energy(shape: Shape, width: int = 128, spectral: Spectral = "norm", n_out: int = 1) -> nn.Sequential:
    """Residual blocks, ReLU, pooling over the image, linear; no batch norm, `spectral` of every layer.

    32 pixels: the reference's `resnet-sn`, two halving blocks and two plain ones of `width` channels, then the mean over the
    image; 1,053,825 parameters.
    128 pixels: Miyato et al. 2018, appendix, five halving blocks of 64 to 1024 channels and a plain one, then the sum over the
    image; 64 pixels: the same without the plain block, as in the authors' code. These channels are for a `width` of 128 and
    proportional to it.

    Raises:
        UsageError: the images are not RGB of side 32, 64 or 128.
    """
    side = require_rgb("resnet", shape, SIDES)
    if side == 32:
        widths, gains, halvings, pool = [width] * 4, REFERENCE, 2, nn.AvgPool2d(8)
    else:
        widths, gains, halvings = _widths(width, side), MIYATO, 5
        pool = nn.AvgPool2d(side // 32, divisor_override=1)  # divided by 1: the sum
    blocks = [_first_down(widths[0], gains, spectral)]
    blocks += [_down(*wide, gains, spectral, i < halvings) for i, wide in enumerate(pairwise(widths), 1)]
    last = nn.Linear(widths[-1], n_out)
    nn.init.xavier_uniform_(last.weight)
    return nn.Sequential(*blocks, ReLU(), pool, nn.Flatten(), normalised(last, spectral))


class _Block(nn.Module):
    """x -> residual(x) + shortcut(x)."""

    def __init__(self, residual: list[nn.Module], shortcut: list[nn.Module]) -> None:
        super().__init__()
        self.residual, self.shortcut = nn.Sequential(*residual), nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


def _up(wide_in: int, wide_out: int, gains: Gains, projected: bool) -> _Block:
    """Twice the side. `projected`: a 1x1 convolution in the shortcut, which commutes with repeating pixels."""
    first, second = _convolution(wide_in, wide_out, 3, gains[0]), _convolution(wide_out, wide_out, 3, gains[0])
    residual = [nn.BatchNorm2d(wide_in), nn.ReLU(), nn.Upsample(scale_factor=2), first]
    residual += [nn.BatchNorm2d(wide_out), nn.ReLU(), second]
    shortcut = [_convolution(wide_in, wide_out, 1, gains[1])] if projected else []
    return _Block(residual, [*shortcut, nn.Upsample(scale_factor=2)])


def _down(wide_in: int, wide_out: int, gains: Gains, spectral: Spectral, halving: bool) -> _Block:
    """Half the side, or the same. The mean over 2x2 pixels commutes with the 1x1 convolution and comes first, as it is cheaper."""
    first = _convolution(wide_in, wide_in, 3, gains[0], spectral)
    residual = [ReLU(), first, ReLU(), _convolution(wide_in, wide_out, 3, gains[0], spectral)]
    if not halving:
        return _Block(residual, [])
    return _Block(
        [*residual, nn.AvgPool2d(2)], [nn.AvgPool2d(2), _convolution(wide_in, wide_out, 1, gains[1], spectral)]
    )


def _first_down(width: int, gains: Gains, spectral: Spectral) -> _Block:
    """Half the side of an RGB image, without a ReLU of the pixels."""
    first, second = _convolution(3, width, 3, gains[0], spectral), _convolution(width, width, 3, gains[0], spectral)
    shortcut = [nn.AvgPool2d(2), _convolution(3, width, 1, gains[1], spectral)]
    return _Block([first, ReLU(), second, nn.AvgPool2d(2)], shortcut)


def _convolution(wide_in: int, wide_out: int, kernel: int, gain: float, spectral: Spectral = "none") -> nn.Conv2d:
    """A convolution that keeps the side."""
    layer = Conv2d(wide_in, wide_out, kernel, 1, kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain)
    return normalised(layer, spectral)


def _widths(width: int, side: int) -> list[int]:
    """width / 2 * (1, 2, 4, 8, 16), the last twice at 128 pixels; rounded up."""
    return [(width * factor + 1) // 2 for factor in (1, 2, 4, 8, 16, *([16] if side == 128 else []))]
