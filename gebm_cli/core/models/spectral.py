"""Spectral normalisation of a critic's layers, plain or with a learned scale."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

Spectral = Literal["none", "norm", "parametrised"]
Layer = TypeVar("Layer", bound=nn.Module)


class LearnedScale(nn.Module):
    """W -> s W, with a scalar parameter s, 1 at first."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=like.dtype, device=like.device))

    def forward(self, weight: Tensor) -> Tensor:
        return self.scale * weight


def normalised(layer: Layer, how: Spectral) -> Layer:
    """The layer, changed in place, with its weight as a matrix (out, rest) of spectral norm

        none          whatever it is;
        norm          1:   W = Wbar / |Wbar|_op, |.|_op from one power iteration a training-mode forward pass (Miyato et al. 2018);
        parametrised  |s|: W = s Wbar / |Wbar|_op with a learned scalar s a layer, 1 at first (Arbel et al. 2018, Scaled MMD).

    Both are torch parametrizations of `layer.weight`, the second stacked on the first, and start with the same numbers.
    """
    if how == "none":
        return layer
    spectral_norm(layer)
    if how == "parametrised":
        layer.eval()  # registering looks at the weight, which in training mode is one more power iteration
        parametrize.register_parametrization(layer, "weight", LearnedScale(layer.weight))  # type: ignore[arg-type]
        layer.train()
    return layer
