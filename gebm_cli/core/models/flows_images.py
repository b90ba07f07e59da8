"""A flow for small images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gebm_cli.core.models.flows import Flow, zero_start
from gebm_cli.errors import UsageError

ALPHA = 0.05  # the logit sees [ALPHA, 1 - ALPHA]: without it the values -1 and 1 would lie at infinity


class ImageRealNvp(Flow):
    """Real NVP for images in [-1, 1] (Dinh, Sohl-Dickstein and Bengio 2017, sections 3.4 to 3.6 and 4.1), in one scale.

    Towards the latent: the logit y of alpha + (1 - 2 alpha) (x + 1) / 2, alpha = .05; `n_blocks` couplings by alternating
    checkerboards; the squeeze of 2x2 pixels into 4 channels; `n_blocks` couplings between the two halves of the channels. The
    networks are three convolutions (3x3, 1x1, 3x3) of `width` channels with SiLU, smooth because chains follow its gradient.

    The density is with respect to x, and the logit's part is in the log-determinant. Its support is |x| < 1 / (1 - 2 alpha) =
    1.11: samples may leave [-1, 1] by that much (what is drawn as a picture is clipped), and no x outside it has a latent.

    Deviation: the paper has alpha + (1 - alpha) p, p in [0, 1], which sends p = 1 to infinity.

    Raises:
        UsageError: the shape is not (channels, height, width) with even sides.
    """

    def __init__(self, shape: tuple[int, ...], width: int, n_blocks: int) -> None:
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise UsageError(f"data: base.kind realnvp-image needs images with even sides, got {shape}; set data.size")
        super().__init__(math.prod(shape))
        channels, height, width_in_pixels = shape
        board = (torch.arange(height)[:, None] + torch.arange(width_in_pixels)) % 2
        halves = (torch.arange(4 * channels) < 2 * channels).long()[:, None, None]
        self.squeezed = (4 * channels, height // 2, width_in_pixels // 2)
        self.fine = _couplings(channels, board[None], width, n_blocks)
        self.coarse = _couplings(4 * channels, halves, width, n_blocks)

    def forward(self, z: Tensor) -> Tensor:
        y = z.reshape(-1, *self.squeezed)
        for coupling in reversed(self.coarse):
            log_scale, shift = coupling(y)
            y = (y - shift) * torch.exp(-log_scale)
        y = nn.functional.pixel_shuffle(y, 2)
        for coupling in reversed(self.fine):
            log_scale, shift = coupling(y)
            y = (y - shift) * torch.exp(-log_scale)
        return torch.tanh(y / 2) / (1 - 2 * ALPHA)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # logit(1/2 + r x / 2) = 2 atanh(r x), r = 1 - 2 alpha. A sample whose tanh was rounded to 1 stays finite by the clamp.
        edge = 1 - torch.finfo(x.dtype).eps
        y = 2 * torch.atanh(((1 - 2 * ALPHA) * x).clamp(-edge, edge))
        # dy/dx = (r / 2) / (p (1 - p)), p = sigmoid(y)
        softplus = nn.functional.softplus
        log_det = (math.log(0.5 - ALPHA) + softplus(y) + softplus(-y)).flatten(1).sum(1)
        for couplings in (self.fine, self.coarse):
            if couplings is self.coarse:
                y = nn.functional.pixel_unshuffle(y, 2)
            for coupling in couplings:
                log_scale, shift = coupling(y)
                y = y * torch.exp(log_scale) + shift
                log_det = log_det + log_scale.flatten(1).sum(1)
        return y.flatten(1), log_det


def _couplings(channels: int, mask: Tensor, width: int, n_blocks: int) -> nn.ModuleList:
    """Couplings that leave alone, in turn, what the mask (0 or 1, of integers) marks by 1 and what it marks by 0."""
    return nn.ModuleList(_ImageCoupling(channels, 1 - mask if i % 2 else mask, width) for i in range(n_blocks))


class _ImageCoupling(nn.Module):
    """y (n, c, h, w) -> log-scale and shift of every number, both 0 where the mask is 1; functions of the numbers there.

    The log-scale is a tanh(network), a learned for each channel from 1: an unbounded one overflows far from the data.
    """

    mask: Tensor

    def __init__(self, channels: int, mask: Tensor, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 1),
            nn.SiLU(),
            zero_start(nn.Conv2d(width, 2 * channels, 3, 1, 1)),
        )
        self.bound = nn.Parameter(torch.ones(channels, 1, 1))
        # In the parameters' float type, as EMA rounds integers.
        self.register_buffer("mask", mask.to(self.bound), persistent=False)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(y * self.mask).chunk(2, 1)
        moved = 1 - self.mask
        return moved * self.bound * torch.tanh(raw), moved * shift
