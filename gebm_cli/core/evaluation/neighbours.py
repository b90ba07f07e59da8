"""The nearest training image of each sample, in the space of the pixels: what a copy of a training image would show in."""

from __future__ import annotations

import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Data

LEVELS = 255.0


@torch.no_grad()
def nearest(samples: Tensor, training: Data, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Index (n,) into training (m, c, h, w) uint8 and distance (n,) float64 of the image nearest to each sample (n, c, h, w).

    The distance is the root mean square difference of pixels in [0, 1]. It is exact: whole levels below 256 add up without
    rounding in float64. Memory is O(block * (block + c * h * w)). Which of two equally near images is named is left open.

    Raises:
        ValueError: images of unlike shapes, data that are not uint8, or no training image.
    """
    if samples.shape[1:] != training.shape[1:] or {samples.dtype, training.dtype} != {torch.uint8} or not len(training):
        raise ValueError(f"cannot compare {samples.dtype} {samples.shape} with {training.dtype} {training.shape}")
    indices, squares = [], []
    for part in samples.split(block):
        index, square = _nearest_of_block(part, training, block)
        indices.append(index)
        squares.append(square)
    n_pixels = samples[0].numel() if len(samples) else 1
    return torch.cat(indices), (torch.cat(squares) / n_pixels).sqrt() / LEVELS


def _nearest_of_block(samples: Tensor, training: Data, block: int) -> tuple[Tensor, Tensor]:
    """Index and sum of squared differences in levels, (n,) each, against the training images a block at a time."""
    x = samples.flatten(1).double()
    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(training), block):
        y = training[start : start + block].to(x.device).flatten(1).double()
        square, position = (x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T).min(1)
        nearer = square < best
        best, index = torch.where(nearer, square, best), torch.where(nearer, position + start, index)
    return index, best
