"""What a data set is, the order in which training walks through it, and how images become numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.data.streaming import Ahead, LazyImages
from gebm_cli.core.device import make_generator
from gebm_cli.errors import UsageError

Data = Tensor | LazyImages  # what a data set holds: a tensor, or images that are decoded when they are read


@dataclass(frozen=True)
class Dataset:
    """Training and held-out points of one law, and where its protocol has them, points for choosing among models.

    Images are uint8, (n, channels, height, width); points are float32, (n, d). Labels are int64, (n,), where known. `note` tells
    what was left out of them, if anything was.
    """

    name: str
    train: Data
    held_out: Data
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    validation: Data | None = None
    note: str = ""

    @property
    def is_images(self) -> bool:
        return is_images(self.train)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point: (channels, height, width) or (d,)."""
        return tuple(self.train.shape[1:])

    def split(self, name: str) -> tuple[Data, Tensor | None]:
        """`train` or `held-out`, with its labels."""
        return (self.train, self.train_labels) if name == "train" else (self.held_out, self.held_out_labels)


def is_images(data: Data) -> bool:
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
    epoch that do not fill a batch are left to the next epoch's order. Images that are decoded when read (`LazyImages`)
    come in the same order and with the same bits as from memory; the next batches are decoded ahead.

    Args:
        batch_size: points in a batch, over all processes.
        flip: mirror each image left to right with probability 1/2, drawn from (seed, position).
        share: (rank, size): of every batch only the rows rank, rank + size, ..., for `size` processes that train together.
            Where size does not divide batch_size, the shares' sizes differ by one.

    Raises:
        UsageError: a batch is smaller than the number of processes, or points are to be flipped.
    """

    def __init__(
        self, data: Data, batch_size: int, seed: int, flip: bool = False, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.data = data
        self.batch_size = min(batch_size, len(data))
        self.seed = seed
        self.flip = flip
        self.rank, self.size = share
        self.drawn = 0
        self._orders: dict[int, Tensor] = {}
        self._ahead = Ahead(data, self._rows) if isinstance(data, LazyImages) else None
        if not 0 <= self.rank < self.size:
            raise ValueError(f"share {share}: expected (rank, size) with 0 <= rank < size")
        if self.batch_size < self.size:
            raise UsageError(f"batch_size: {self.batch_size} points cannot be shared by {self.size} processes")
        if flip and not is_images(data):
            raise UsageError("flip: points have no left and right; only images can be flipped")

    def next(self) -> Tensor:
        """The next batch, float, (batch_size, ...), or this process's share of it."""
        position = self.drawn
        self.drawn += 1
        if self._ahead is not None:
            batch = self._ahead.batch(position)
        else:
            assert isinstance(self.data, Tensor)
            batch = self.data[self._rows(position)]
        if self.flip:
            generator = make_generator(self.seed, "flip", position)
            mirrored = torch.rand(self.batch_size, generator=generator)[self.rank :: self.size] < 0.5
            batch = torch.where(mirrored.to(batch.device).view(-1, 1, 1, 1), batch.flip(3), batch)
        return to_float(batch)

    def _rows(self, position: int) -> Tensor:
        """The rows of the data in the batch at a position, as far as they are this process's share."""
        epoch, index = divmod(position, len(self.data) // self.batch_size)
        if epoch not in self._orders:
            order = torch.randperm(len(self.data), generator=make_generator(self.seed, "order", epoch))
            # Reading ahead crosses the end of an epoch, so the neighbours' orders are kept.
            near = {e: o for e, o in self._orders.items() if abs(e - epoch) <= 1}
            self._orders = near | {epoch: order.to(self.data.device) if isinstance(self.data, Tensor) else order}
        start = index * self.batch_size
        return self._orders[epoch][start : start + self.batch_size][self.rank :: self.size]
