"""Images that are decoded when they are read: a stand-in for a tensor that is too large for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

WORKERS = 4
AHEAD = 2  # batches decoded before they are asked for


class LazyImages:
    """A read-only stand-in for a uint8 tensor (n, c, h, w): reading rows decodes them, in threads, into a real tensor.

    Threads, not processes: Pillow decodes and resizes outside Python's lock, and nothing need be copied or started again.
    What is read depends on the rows alone, never on the number of workers.

    Args:
        read: one image by its number, uint8 (h, w, c) of the shape given; it is called from several threads at once, and
            raises a `UsageError` that names the file where it cannot.
        shape: (c, h, w) of every image.
        workers: threads that decode; 0 decodes where it is asked for.
    """

    dtype = torch.uint8

    def __init__(
        self, read: Callable[[int], np.ndarray], n: int, shape: tuple[int, ...], workers: int = WORKERS
    ) -> None:
        self.shape = torch.Size((n, *shape))
        self.device = torch.device("cpu")
        self.workers = workers
        self._read = read
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """4, as of the tensor it stands for."""
        return len(self.shape)

    def __getitem__(self, rows: int | slice | Tensor) -> Tensor:
        """One image (c, h, w), or those of a slice or of int64 numbers (m,), (m, c, h, w); uint8, on the device.

        Raises:
            IndexError: a row that is not there.
            UsageError: an image cannot be read.
        """
        if isinstance(rows, int):
            return self[torch.tensor([rows])][0]
        return self.begin(self._numbers(rows))()

    def split(self, n: int) -> Iterator[Tensor]:
        """All images in order, n at a time; the next are decoded while the last are used."""
        ahead = Ahead(self, lambda i: torch.arange(i * n, min((i + 1) * n, len(self))), -(-len(self) // n))
        return (ahead.batch(i) for i in range(-(-len(self) // n)))

    def to(self, device: torch.device | str) -> LazyImages:
        """The same images, whose rows arrive on `device`; nothing is decoded or moved."""
        if torch.device(device) == self.device:
            return self
        moved = LazyImages(self._read, len(self), tuple(self.shape[1:]), self.workers)
        moved.device = torch.device(device)
        return moved

    def select(self, rows: Tensor) -> LazyImages:
        """The images of these numbers (m,), still to be decoded."""
        numbers, read = self._numbers(rows).tolist(), self._read
        return LazyImages(lambda i: read(numbers[i]), len(numbers), tuple(self.shape[1:]), self.workers)

    def begin(self, numbers: Tensor) -> Callable[[], Tensor]:
        """Start to decode these rows, numbers (m,) in [0, n); calling what is returned waits for them."""
        listed = numbers.tolist()
        if not self.workers:
            return lambda: self._joined([self._decode(listed)])
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        parts = [
            part
            for k in range(self.workers)
            if (part := listed[k * len(listed) // self.workers : (k + 1) * len(listed) // self.workers])
        ]
        jobs: list[Future[np.ndarray]] = [self._pool.submit(self._decode, part) for part in parts]
        return lambda: self._joined([job.result() for job in jobs])

    def _numbers(self, rows: slice | Tensor) -> Tensor:
        """Rows as int64 numbers in [0, n) on the CPU."""
        if isinstance(rows, slice):
            return torch.arange(len(self))[rows] if (rows.step or 1) > 0 else torch.tensor(range(len(self))[rows])
        if rows.dtype != torch.int64 or rows.dim() != 1:
            raise TypeError(f"rows are named by int64 numbers (m,), got {rows.dtype} of shape {tuple(rows.shape)}")
        rows = rows.cpu()
        if len(rows) and not (-len(self) <= int(rows.min()) and int(rows.max()) < len(self)):
            raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of {len(self)} images")
        return torch.where(rows < 0, rows + len(self), rows)

    def _decode(self, numbers: list[int]) -> np.ndarray:
        c, h, w = self.shape[1:]
        pixels = np.empty((len(numbers), c, h, w), np.uint8)
        for row, i in zip(pixels, numbers, strict=True):
            row[...] = self._read(i).transpose(2, 0, 1)
        return pixels

    def _joined(self, parts: list[np.ndarray]) -> Tensor:
        pixels = np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), np.uint8)
        return torch.from_numpy(pixels).to(self.device)


class Ahead:
    """Batches of `LazyImages` by their position, of which the next few are already being decoded.

    Args:
        rows: the numbers (m,) of the images of the batch at a position.
        n: number of positions; None where they have no end.
    """

    def __init__(self, images: LazyImages, rows: Callable[[int], Tensor], n: int | None = None) -> None:
        self.images, self.rows, self.n = images, rows, n
        self._under_way: dict[int, Callable[[], Tensor]] = {}

    def batch(self, position: int) -> Tensor:
        """The batch at any position, (m, c, h, w) uint8; those after it are started."""
        end = position + AHEAD + 1 if self.n is None else min(position + AHEAD + 1, self.n)
        wanted = range(position, end)
        kept = {p: wait for p, wait in self._under_way.items() if p in wanted}
        self._under_way = {p: kept.get(p) or self.images.begin(self.rows(p)) for p in wanted}
        return self._under_way.pop(position)()
