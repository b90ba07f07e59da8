"""How images become Inception's 299x299 input: one preset for each convention in use, in batches on the device.

They differ by far more than rounding, so that scores of different presets do not compare.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Preset = Literal["pytorch-fid", "tf1", "clean"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
SIZE = 299


def resize(images: Tensor, preset: Preset) -> Tensor:
    """uint8 images (n, 1 or 3, h, w) -> float32 (n, 3, 299, 299), channels last, in about [-1, 1]; grey is made RGB.

    Args:
        preset: `pytorch-fid`: bilinear with half-pixel centres, not antialiased, then 2 x/255 - 1 (pytorch-fid 0.3).
            `tf1`: TensorFlow 1's bilinear, aligned top left, then (x - 128) / 128 (torch-fidelity, StyleGAN, EDM).
            `clean`: bicubic, antialiased when it shrinks, not rounded, clipped to [0, 255], then (x - 128) / 128
            (clean-fid: Parmar et al. 2022).

    Raises:
        ValueError: not uint8 images, or an unknown preset.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected uint8 images (n, 1 or 3, h, w), got {images.dtype} of shape {tuple(images.shape)}")
    images = images.expand(-1, 3, -1, -1)  # first, as the tools do: torch's rounding depends on the number of channels
    if preset == "pytorch-fid":
        x = interpolate(images.float().div_(255), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        x = x.mul_(2).sub_(1)
    elif preset == "tf1":
        x = _tensorflow_bilinear(images.float()).sub_(128).div_(128)
    elif preset == "clean":
        x = _pillow_bicubic(images).sub_(128).div_(128)
    else:
        raise ValueError(f"resize preset '{preset}': expected one of {', '.join(PRESETS)}")
    return x.contiguous(memory_format=torch.channels_last)


def _pillow_bicubic(images: Tensor) -> Tensor:
    """What Pillow's BICUBIC makes of each channel in its mode F, clipped to [0, 255] as clean-fid does.

    Pillow computes its weights in double precision; torch's in float32 would be off by up to 0.006 levels.
    """
    x = interpolate(images.double(), size=(SIZE, SIZE), mode="bicubic", align_corners=False, antialias=True)
    return x.clamp_(0, 255).float()


def _tensorflow_bilinear(x: Tensor) -> Tensor:
    """TensorFlow 1's resize_bilinear, align_corners=False: output i reads the source at i * (size / 299), not centred.

    First along rows, then along columns, in float32 and in TensorFlow's order of operations.
    """
    low, high, fraction = _sources(x.shape[3], x.device)
    left, right = x[..., low], x[..., high]
    x = left + (right - left) * fraction
    low, high, fraction = _sources(x.shape[2], x.device)
    top, bottom = x[:, :, low], x[:, :, high]
    return top + (bottom - top) * fraction.view(-1, 1)


def _sources(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of the 299 outputs: its two source positions, and the weight of the second."""
    position = torch.arange(SIZE, dtype=torch.float32, device=device) * torch.tensor(size / SIZE, dtype=torch.float32)
    low = position.long()
    return low, (low + 1).clamp_max(size - 1), position - low.float()
