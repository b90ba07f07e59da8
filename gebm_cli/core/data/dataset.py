"""What a data set is, the order in which training walks through it, and how images become numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator


@dataclass(frozen=True)
class Dataset:
    """Training and held-out points of one law.

    Images are uint8, (n, channels, height, width); points are float32, (n, d). Labels are int64, (n,), where known.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None

    @property
    def is_images(self) -> bool:
        return is_images(self.train)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point: (channels, height, width) or (d,)."""
        return tuple(self.train.shape[1:])

    def split(self, name: str) -> tuple[Tensor, Tensor | None]:
        """`train` or `held-out`, with its labels."""
        return (self.train, self.train_labels) if name == "train" else (self.held_out, self.held_out_labels)


def is_images(data: Tensor) -> bool:
    """True for (n, c, h, w) uint8 images, False for (n, d) points."""
    return data.dtype == torch.uint8


def to_float(data: Tensor) -> Tensor:
    """uint8 images to [-1, 1] by x / 127.5 - 1; points are returned as they are."""
    return data.float().div_(127.5).sub_(1.0) if is_images(data) else data


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to uint8 by rounding to the nearest level (truncation would darken half the levels by one)."""
    return images.clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)


class Minibatches:
    """Endless minibatches, epoch after epoch, each epoch in its own seeded order. The position is one integer.

    The order of epoch e is a permutation drawn from (seed, e), so resuming needs the count alone; the last points of an
    epoch that do not fill a batch are left to the next epoch's order.
    """

    def __init__(self, data: Tensor, batch_size: int, seed: int) -> None:
        self.data = data
        self.batch_size = min(batch_size, len(data))
        self.seed = seed
        self.drawn = 0
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def next(self) -> Tensor:
        """The next batch, float, (batch_size, ...)."""
        epoch, index = divmod(self.drawn, len(self.data) // self.batch_size)
        if epoch != self._epoch:
            order = torch.randperm(len(self.data), generator=make_generator(self.seed, "order", epoch))
            self._epoch, self._order = epoch, order.to(self.data.device)
        self.drawn += 1
        start = index * self.batch_size
        return to_float(self.data[self._order[start : start + self.batch_size]])
