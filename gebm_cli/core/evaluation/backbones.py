"""Other feature networks: torchvision's, a random one, a user's own; and a compiled form of any of ours."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.data.dataset import to_float
from gebm_cli.core.device import seeded_construction
from gebm_cli.core.evaluation.features import rgb
from gebm_cli.errors import UsageError

# torchvision builds these two differently for its published weights, which it does not say in the weights' own entry.
_AS_PUBLISHED: dict[str, dict[str, bool]] = {
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


def torchvision_names() -> list[str]:
    """torchvision's classifiers of images that end in a linear layer, whose input can serve as features."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if not name.startswith("squeezenet")]


class Backbone(nn.Module):
    """A torchvision classifier without its last linear layer: (n, 3, h, w) -> (n, d), the layer's inputs.

    `prepare` is torchvision's own preprocessing for the published weights: the shorter side is resized (antialiased), the
    centre cut out, and ImageNet's mean and deviation taken off. The last layer is kept for the class logits.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        from torchvision.models import get_model, get_model_weights

        published = get_model_weights(model).DEFAULT
        self.url: str = published.url
        self.transforms: Any = published.transforms()
        self.body = get_model(model, weights=None, **_AS_PUBLISHED.get(model, {}))

    def load(self, weights: dict[str, Tensor]) -> Backbone:
        """Load a state dict of the whole classifier; RuntimeError where it is another's. Freezes the network."""
        self.body.load_state_dict(weights)
        name, last = [(k, m) for k, m in self.body.named_modules() if isinstance(m, nn.Linear)][-1]
        parent, _, attribute = name.rpartition(".")
        setattr(self.body.get_submodule(parent), attribute, nn.Identity())
        self.logits = last
        return self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (n, 1 or 3, h, w) -> what the network was trained on."""
        return self.transforms(rgb(images)).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, d) of prepared images."""
        return self.body(x)


# -------------------------------------------------------------------------------------------------------------- random

RANDOM_RECIPE = "conv64-conv128-conv256-conv256, 3x3, stride 2, leaky ReLU, He, mean over the image, version 1"


class RandomNetwork(nn.Module):
    """An untrained convolutional network: (n, 3, h, w) in [-1, 1] -> (n, 256), each the mean of its map.

    Naeem et al. (2020) compare images far from ImageNet by a network with random weights: it favours no kind of image.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        widths = (3, 64, 128, 256, 256)
        layers: list[nn.Module] = []
        with seeded_construction(seed, "random features"):
            for inputs, outputs in pairwise(widths):
                convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
                nn.init.kaiming_normal_(convolution.weight, 0.2)
                layers += [convolution, nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, 256)."""
        return self.body(x)

    @staticmethod
    def prepare(images: Tensor) -> Tensor:
        """uint8 (n, 1 or 3, h, w) to RGB in [-1, 1]."""
        return to_float(rgb(images))


# ---------------------------------------------------------------------------------------------------------- a user's own


class OwnNetwork(nn.Module):
    """A user's map of uint8 images (n, 3, h, w) to features (n, d), whose every output is checked."""

    def __init__(self, function: Any, name: str) -> None:
        super().__init__()
        self.function = function
        self.name = name
        self.dim: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Raises UsageError for what is not a finite float tensor (n, d) with the d of the calls before."""
        what = f"--features {self.name}, called with uint8 images {tuple(images.shape)},"
        try:
            features = self.function(images)
        except Exception as error:
            first_line = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            raise UsageError(f"{what} raised {first_line}") from error
        expected = f"expected a float tensor ({len(images)}, {'d' if self.dim is None else self.dim})"
        if not isinstance(features, Tensor):
            raise UsageError(f"{what} returned an object of type {type(features).__name__}, {expected}")
        if not features.is_floating_point() or features.dim() != 2 or len(features) != len(images):
            dtype = str(features.dtype).removeprefix("torch.")
            raise UsageError(f"{what} returned {dtype} numbers of shape {tuple(features.shape)}, {expected}")
        if features.shape[1] == 0 or self.dim not in (None, features.shape[1]):
            raise UsageError(f"{what} returned shape {tuple(features.shape)}, {expected}, the same for every batch")
        if not features.isfinite().all():
            raise UsageError(f"{what} returned numbers that are not finite, expected finite ones")
        self.dim = features.shape[1]
        return features


# ------------------------------------------------------------------------------------------------------------ compiled


class Compiled(nn.Module):
    """A network through `torch.compile`, called with full batches only: every other size would be compiled anew.

    The weights are taken as constants (inductor's freezing), which lets it lay them out once.
    """

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.network = torch.compile(network, options={"freezing": True})
        self.batch_size = batch_size

    def forward(self, x: Tensor) -> Tensor:
        """As the network itself; raises UsageError where it cannot be compiled."""
        missing = self.batch_size - len(x)
        padded = torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing > 0 else x
        try:
            return self.network(padded)[: len(x)]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            first_line = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            raise UsageError(
                f"--compile: the network cannot be compiled on this machine ({first_line}); leave --compile out"
            ) from error
