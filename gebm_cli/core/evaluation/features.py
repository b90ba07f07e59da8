"""Feature networks: what a score compares. Every score names its network, the hash of its weights, and how it was fed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from gebm_cli.core.data.dataset import Data, to_float
from gebm_cli.core.data.streaming import LazyImages

Precision = Literal["float32", "bfloat16", "tf32"]


class Images(Protocol):
    """Images of possibly different sizes, decoded when they are read."""

    def __len__(self) -> int: ...

    def batches(self, n: int, rows: range | None = None) -> Iterator[list[Tensor]]:
        """All images in order, or those of `rows`, at most n at a time; each uint8 (1 or 3, h, w)."""
        ...


@dataclass(frozen=True)
class Features:
    """A named map from data to (n, dim) features, with the hash of what it was made of.

    Args:
        network: maps what `prepare` returns, (n, ...) of one shape, to (n, dim).
        resize: the convention by which images are brought to the network's size, `none` where they are not.
        layer: the layer that is read, where there is a choice.
        precision: of the network's arithmetic; resizing and the features are float32 always.
        any_size: whether images of different sizes have features that compare.
        prepare: maps uint8 images (n, c, h, w) or points (n, d) to the network's input, on the device.
        head: maps features to the network's class logits, where it has classes.
    """

    name: str
    network: nn.Module
    weights_hash: str
    device: torch.device
    batch_size: int = 250
    resize: str = "none"
    layer: int | None = None
    precision: Precision = "float32"
    any_size: bool = False
    prepare: Callable[[Tensor], Tensor] = to_float
    head: Callable[[Tensor], Tensor] | None = None

    def __call__(self, data: Data | Images, on_batch: Callable[[int], None] = lambda n: None) -> Tensor:
        """Features (n, dim) of images or points, float32 on the device, in their order; `on_batch` hears of progress.

        Raises:
            ValueError: images of different shapes, where the network does not take them.
        """
        done, whole = 0, torch.empty(0, device=self.device)
        with torch.inference_mode(), _arithmetic(self.precision):
            for batch in self._batches(data):
                part = self._extract(batch)
                if not done:  # one block, since 50,000 features would else be held twice; gradients may meet it
                    with torch.inference_mode(False):
                        whole = torch.empty(len(data), part.shape[1], device=part.device)
                whole[done : done + len(part)] = part
                done += len(part)
                on_batch(len(batch))
        return whole

    def logits(self, features: Tensor) -> Tensor | None:
        """Class logits (n, classes) of features that were extracted by this network; None where it has no classes."""
        if self.head is None:
            return None
        with torch.inference_mode(), _arithmetic("float32"):
            return self.head(features.to(self.device))

    def settings(self) -> dict[str, Any]:
        """What a record says of the features, and what must be the same on both sides of a comparison."""
        described = {
            "features": self.name,
            "weights_hash": self.weights_hash,
            "resize": self.resize,
            "layer": self.layer,
        }
        if self.precision != "float32":
            described["precision"] = self.precision
        accuracy = getattr(self.network, "held_out_accuracy", None)
        return described if accuracy is None else described | {"classifier_accuracy": round(float(accuracy), 4)}

    def _batches(self, data: Data | Images) -> Iterator[Tensor | list[Tensor]]:
        if isinstance(data, Tensor | LazyImages):
            yield from data.split(self.batch_size)
            return
        first = None
        for batch in data.batches(self.batch_size):
            for image in batch:
                first = image.shape if first is None else first
                if image.shape != first and not self.any_size:
                    raise ValueError(
                        f"{self.name} features: images of {_spelled(first)} and of {_spelled(image.shape)} (channels x height "
                        "x width) do not compare; bring them to one size and colour, or use inception features"
                    )
            yield batch

    def _extract(self, batch: Tensor | list[Tensor]) -> Tensor:
        """Features of one batch. Images of one shape are prepared together, and pass the network with all that then fit."""
        groups = [(list(range(len(batch))), batch)] if isinstance(batch, Tensor) else by_shape(batch)
        inputs = [self.prepare(images.to(self.device)) for _, images in groups]
        if len({x.shape[1:] for x in inputs}) == 1:
            inputs = [torch.cat(inputs) if len(inputs) > 1 else inputs[0]]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            features = torch.cat([self.network(x).float() for x in inputs])
        ordered = torch.empty_like(features)
        ordered[torch.tensor([row for rows, _ in groups for row in rows], device=features.device)] = features
        return ordered


def pixels(device: torch.device) -> Features:
    """The data themselves, flattened; images in [-1, 1]."""
    return Features("pixels", nn.Flatten(), "none", device)


def by_shape(images: list[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Images of one shape together: their rows in the list, and themselves, (m, c, h, w)."""
    rows: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image.shape, []).append(row)
    return [(same, torch.stack([images[row] for row in same])) for same in rows.values()]


def rgb(images: Tensor) -> Tensor:
    """(n, 1 or 3, h, w) -> (n, 3, h, w): grey is repeated."""
    return images.expand(-1, 3, -1, -1)


def _spelled(shape: torch.Size) -> str:
    return "x".join(map(str, shape))


@contextmanager
def _arithmetic(precision: Precision) -> Iterator[None]:
    """Deterministic convolutions, and TF32 only where it was asked for: a score must not depend on the kind of GPU."""
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=precision == "tf32"):
        try:
            matmul.allow_tf32 = precision == "tf32"
            yield
        finally:
            matmul.allow_tf32 = before


def state_hash(network: nn.Module) -> str:
    """sha256 of a network's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_hash(*tensors: Tensor) -> str:
    """sha256 of the contents, types and shapes of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
