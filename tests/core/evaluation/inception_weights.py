"""Random weights in pytorch-fid's file format, for tests and benchmarks: the published ones are a download of 95 MB."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from gebm_cli.core.evaluation import inception
from gebm_cli.core.evaluation.resizing import resize


def smooth_and_noise(n: int, seed: int = 0, size: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    """Seeded test images (n, channels, *size), uint8: by turns noise, and smooth blobs with the contrast of photographs."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, channels, *size, generator=generator)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    blobs = nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    images[::2] = blobs[::2]
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)


def random_inception(seed: int = 0) -> dict[str, Tensor]:
    """A state dict whose every layer passes on signals of unit size, and amplifies no rounding, as trained weights do.

    He et al. (2015) initialisation; scales and shifts of the batch norms drawn, their statistics measured on images. The
    shifts are about two deviations, because around zero such a network is chaotic (Yang et al. 2019, "A mean field theory of
    batch normalization"): differences grow by about 1.2 a layer, and float32 and float64 part by 6e-5.
    """
    generator = torch.Generator().manual_seed(seed)
    net = inception._network()
    for name, value in net.state_dict().items():
        if value.dim() == 4:
            value.normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
        elif name.endswith("bn.weight"):
            value.uniform_(0.5, 1, generator=generator)
        elif name.endswith("bias"):
            value.normal_(1.5, 0.1, generator=generator)
        elif name == "fc.weight":
            value.normal_(0, 0.05, generator=generator)
    _measure_statistics(net, [resize(smooth_and_noise(4, seed), "pytorch-fid")])
    return net.state_dict()


def _measure_statistics(net: nn.Module, batches: list[Tensor]) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the batches
            module.reset_running_stats()
    net.train()
    with torch.no_grad():
        for batch in batches:
            net(batch)


def without_first_weights(patch) -> None:
    """Inception networks begin as NaN: drawing 24 million weights takes a quarter of a second, a file is read into them, and a
    weight that is not would show."""
    make = inception._network

    def network() -> nn.Module:
        with patch.context() as within:
            for kind in (nn.Conv2d, nn.Linear):
                within.setattr(kind, "reset_parameters", lambda layer: nn.init.constant_(layer.weight, math.nan))
            return make()

    patch.setattr(inception, "_network", network)


def write_inception_weights(path: Path, seed: int = 0) -> Path:
    """Write `random_inception` as pytorch-fid's file of weights; for `--weights` in tests of the command line."""
    torch.save(random_inception(seed), path)
    return path
