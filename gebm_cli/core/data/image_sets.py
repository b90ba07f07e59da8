"""Images to be scored: a folder or an archive of any sizes, decoded when they are read, or an array with a stated range."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from gebm_cli.core.data.containers import Container, candidates, count, open_container, printable, shared_folder
from gebm_cli.core.data.decoding import BadImage, Facts, decode, inspect
from gebm_cli.core.data.decoding import read_images_array as read_images_array
from gebm_cli.core.data.images import labels_of_folders
from gebm_cli.core.data.streaming import AHEAD, WORKERS
from gebm_cli.errors import UsageError

PIECE = 8  # images that a thread decodes at a time
NAMED = 10  # bad images that a message names

_TRAITS = {
    "jpeg": "{} JPEG: compression alone moves scores",
    "frames": "{} animated or of several pages: the first frame is used",
    "alpha": "{} stored with an alpha channel, opaque everywhere, which is dropped",
    "turned": "{} marked by EXIF to be turned: used as stored",
}
In = TypeVar("In")
Out = TypeVar("Out")


class ImageSet:
    """Images of any sizes, in the order of their names, decoded when they are read (in threads, ahead).

    What is read depends on the images alone, never on the threads, the batch size or the order of a folder. Grey images have
    one channel, all others three. An image whose file has changed since the set was read is an error and never a wrong score.

    Attributes:
        name: the path as it was given.
        names: of all files that are images by their extension, sorted, '/'-separated, relative to the folder or archive.
        kept: the names of those that can be used, whose rows all else speaks of.
        labels: the number of the folder that each lies in, (n,) int64; None where there is one, or an image outside all.
        notes: what a user should know of the images, a sentence each.
        skipped: `name: why` of each that was left out.
        classes: the names of those folders, in the order of their numbers; None with them.
        sizes: how many there are of each (height, width); shapes: of each (channels, height, width).
    """

    def __init__(
        self,
        name: str,
        container: Container,
        names: list[str],
        found: list[Facts | str],
        notes: list[str],
        workers: int,
    ) -> None:
        good = [(n, facts) for n, facts in zip(names, found, strict=True) if isinstance(facts, Facts)]
        self.name, self.names, self.workers = name, names, workers
        self.kept = [n for n, _ in good]
        self.skipped = [f"{printable(n)}: {f}" for n, f in zip(names, found, strict=True) if isinstance(f, str)]
        self.labels, self.classes = _classes(names, [isinstance(facts, Facts) for facts in found])
        self._container, self._facts = container, [facts for _, facts in good]
        self.sizes = Counter(facts.shape[1:] for facts in self._facts)
        self.shapes = Counter(facts.shape for facts in self._facts)
        self.notes = [*notes, *_notes(self._facts, self.skipped)]

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, i: int) -> Tensor:
        """One image, uint8 (1 or 3, h, w).

        Raises:
            IndexError: there is no such image.
            UsageError: its file has changed or can no longer be read.
        """
        return self._image(range(len(self))[i])

    def batches(self, n: int, rows: range | None = None) -> Iterator[list[Tensor]]:
        """The images of `rows` (all of them), n at a time, each uint8 (1 or 3, h, w); the next are decoded meanwhile.

        Raises:
            IndexError: a row that is not there.
            UsageError: a file has changed or can no longer be read.
        """
        rows = range(len(self)) if rows is None else rows
        if n < 1 or any(not 0 <= i < len(self) for i in (*rows[:1], *rows[-1:])):
            raise IndexError(f"rows {rows} of {len(self)} images, {n} at a time")
        pieces = [rows[i : i + PIECE] for i in range(0, len(rows), PIECE)]
        decoded = _in_threads(
            lambda piece: [self._image(i) for i in piece], pieces, self.workers, self.workers + AHEAD * n // PIECE
        )
        images = chain.from_iterable(decoded)
        return iter(lambda: list(islice(images, n)), [])

    def example(self, shape: tuple[int, ...]) -> str:
        """The name of the first image of a shape (channels, height, width) that some have."""
        return next(name for name, facts in zip(self.kept, self._facts, strict=True) if facts.shape == shape)

    def content_hash(self) -> str:
        """sha256 of the names and the bytes of the files, in order; equal for a folder and an archive of it.

        What all names have in common at their front does not count, so that a folder may be moved or packed with its name.
        """
        shared = shared_folder(self.kept)
        digest = hashlib.sha256()
        for name, facts in zip(self.kept, self._facts, strict=True):
            encoded = name[len(shared) :].encode("utf-8", "surrogateescape")
            digest.update(len(encoded).to_bytes(8, "little") + encoded + facts.digest)
        return digest.hexdigest()

    def whole(self) -> Tensor:
        """All images as one tensor, uint8 (n, c, h, w).

        Raises:
            ValueError: two differ in size or channels; the message names them.
            UsageError: a file has changed or can no longer be read.
        """
        first = self._facts[0].shape
        for name, facts in zip(self.kept, self._facts, strict=True):
            if facts.shape != first:
                described = (
                    f"{printable(self.kept[0])} is {_described(first)}, {printable(name)} is {_described(facts.shape)}"
                )
                raise ValueError(f"{self.name}: {described}")
        result = torch.empty((len(self), *first), dtype=torch.uint8)
        for row, image in zip(result, chain.from_iterable(self.batches(64)), strict=True):
            row.copy_(image)
        return result

    def _image(self, i: int) -> Tensor:
        try:
            content = self._container.read(self.kept[i])
            if hashlib.sha256(content).digest() != self._facts[i].digest:
                raise BadImage("has changed since it was first read; start again")
            return torch.from_numpy(decode(content).copy())
        except BadImage as error:
            raise UsageError(f"{self.name}{self._container.separator}{printable(self.kept[i])}: {error}") from None


def read_image_set(
    path: str,
    on_bad: Literal["error", "skip"] = "error",
    workers: int = WORKERS,
    on_image: Callable[[int, int], None] = lambda done, n: None,
) -> ImageSet:
    """The images below a folder (any extension, any letter case) or in a .zip or .tar; each file is read once and checked.

    Hidden files are left out, as are those beside the images of a sample set. Links to files are followed, links to folders
    are not. Of what is read only its shape and checksum are kept.

    Args:
        on_bad: what to do with images that cannot be used.
        workers: threads that read and decode; 0 reads where it is asked for.
        on_image: called with how many of how many images were checked.

    Raises:
        UsageError: there is no image; or, unless they are skipped, some cannot be used: ten are named, the rest counted.
    """
    container = open_container(path)
    names, notes = candidates(path, container)
    found: list[Facts | str] = []
    pieces = [names[i : i + PIECE] for i in range(0, len(names), PIECE)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them is an error or a note here
        for piece in _in_threads(lambda piece: [_fact(container, n) for n in piece], pieces, workers, 4 * workers):
            for fact in piece:
                found.append(fact)
                on_image(len(found), len(names))
    front = path.rstrip("/") + container.separator
    bad = [f"{front}{printable(n)}: {f}" for n, f in zip(names, found, strict=True) if isinstance(f, str)]
    if bad and (on_bad == "error" or len(bad) == len(names)):
        raise UsageError("\n".join(bad[:NAMED]) + (f"\n... and {len(bad) - NAMED} more" if len(bad) > NAMED else ""))
    return ImageSet(path, container, names, found, notes, workers)


def _fact(container: Container, name: str) -> Facts | str:
    try:
        return inspect(container.read(name))
    except BadImage as error:
        return str(error)


def _in_threads(work: Callable[[In], Out], items: Iterable[In], workers: int, ahead: int) -> Iterator[Out]:
    """`work` of each item, in their order, at most `ahead` + 1 of them begun before they are asked for."""
    if workers < 1:
        yield from map(work, items)
        return
    pending: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for job in pending:
                job.cancel()


def _classes(names: list[str], good: list[bool]) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Numbers of the folders of the good images, and the names of all folders: a class keeps its number when images are skipped."""
    labels = labels_of_folders([Path(n) for n in names], ".")
    if labels is None:
        return None, None
    return labels[torch.tensor(good)], tuple(sorted({Path(n).parent.name for n in names}))


def _notes(facts: list[Facts], skipped: list[str]) -> list[str]:
    """What a user should know of the images that are used and of those that are not."""
    notes = [f"{count(len(skipped), 'image')} left out that cannot be used"] if skipped else []
    sizes = sorted({f.shape[1:] for f in facts}, key=lambda s: (s[0] * s[1], s))
    if len(sizes) > 1:
        small, large = (f"{w}x{h}" for h, w in (sizes[0], sizes[-1]))
        notes.append(f"images of {len(sizes)} sizes, {small} to {large}")
    grey = sum(f.shape[0] == 1 for f in facts)
    if grey:
        notes.append(f"{_of(grey, len(facts))} grey: repeated to RGB where a network needs it")
    for trait, sentence in _TRAITS.items():
        n = sum(trait in f.traits for f in facts)
        if n:
            notes.append(sentence.format(_of(n, len(facts))))
    return notes


def _of(n: int, total: int) -> str:
    if total == 1:
        return "the one image is"
    return f"all {n:,} images are" if n == total else f"{n:,} of {total:,} images {'is' if n == 1 else 'are'}"


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"
