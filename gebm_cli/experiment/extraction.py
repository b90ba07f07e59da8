"""Features of one side of a score: read from the cache, shared over processes, or simply computed."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gebm_cli.core.data.dataset import Data
from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.data.images import DAMAGED
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.evaluation.moments import Moments, moments
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.build import cache_folder
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.files import written_atomically
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.scored_inputs import content_hash

OnBatch = Callable[[int], None]
RECIPE = "1"  # part of the cache's key: raised when what is computed from the same settings changes
N_VERIFIED = 4
CACHE_LIMIT = 8_000_000_000  # bytes; the oldest files go first
TOLERANCE = 1e-3  # relative, between devices and batch sizes


@dataclass(frozen=True)
class Side:
    """One side of a score, ready to be compared: features (n, d) on the device, or moments alone."""

    name: str
    settings: dict[str, Any]
    source: Input | Known
    features: Tensor | None = None
    known_moments: Moments | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    seconds: float = 0.0
    cached: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int | None:
        """How many samples; None for statistics of other tools, which do not say."""
        return len(self.features) if self.features is not None else self.moments.n

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance, computed once for all sets that are compared with this side."""
        if self.known_moments is not None:
            return self.known_moments
        assert self.features is not None
        return moments(self.features)

    @cached_property
    def is_constant(self) -> bool:
        """Whether more than one sample was seen and all have the same features."""
        known = self.features
        return known is not None and len(known) > 1 and bool((known == known[:1]).all())

    @cached_property
    def row_counts(self) -> Counter[bytes]:
        """How often each row of features occurs, by its digest."""
        rows = np.ascontiguousarray(self.require_features("a test").cpu().numpy())
        return Counter(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)

    @property
    def dimension(self) -> int:
        known = self.features if self.features is not None else self.moments.covariance
        return int(known.shape[1])

    def require_features(self, metric: str) -> Tensor:
        """The features, which `require_alike` has seen to be there where they are needed."""
        if self.features is None:
            raise without_features(self.name, metric)
        return self.features


def without_features(name: str, what: str) -> UsageError:
    """Of a side whose moments alone are known."""
    return UsageError(
        f"{name}: holds mean and covariance only, which is enough for fid, and {what} needs the features of every image; give the "
        "images, or a file written by --save-features"
    )


def extract(
    features: Features, source: Input, world: World, use_cache: bool = False, on_batch: OnBatch = lambda n: None
) -> Side:
    """Features of one side; with `use_cache` they are looked up first and kept afterwards.

    Over several processes each computes a run of whole batches and the first gets everything, so that the features are those of
    one process to the last bit; the others get none.

    Raises:
        UsageError: images that the network cannot take, or features that are not finite.
    """
    settings, start = features.settings(), time.monotonic()
    path = None
    if use_cache and features.name != "pixels":
        path = _cache_path(content_hash(source), settings)
    found = _read_cache(path, features, source) if path is not None and world.first else None
    cached = world.from_first(found is not None)  # all processes do the same, or they would wait for each other
    values = found if cached else _computed(features, source, world, on_batch)
    if cached:
        on_batch(len(source.data))
    elif path is not None and values is not None:
        _keep(path, values)
    return Side(
        source.name,
        settings,
        source,
        values,
        labels=source.labels,
        classes=source.classes,
        seconds=time.monotonic() - start,
        cached=cached,
        notes=source.notes,
    )


def from_file(known: Known, wanted: dict[str, Any], device: torch.device) -> Side:
    """A side whose features or moments were read from a file.

    Raises:
        UsageError: the file says that it was made with other settings than `wanted`, those of the score.
    """
    differ = [
        f"{key} is {known.settings.get(key)} there and {wanted.get(key)} here"
        for key in sorted({*known.settings, *wanted})
        if known.settings and known.settings.get(key) != wanted.get(key)
    ]
    if differ:
        raise UsageError(
            f"{known.name}: was made with other features, so the two sides cannot be compared: {'; '.join(differ)}; make it "
            "again with --save-statistics, or give the options it was made with"
        )
    notes: tuple[str, ...] = ()
    if not known.settings:
        notes = (f"{known.name}: does not say what features made it; they are taken to be those of the score",)
    return Side(
        known.name,
        known.settings or wanted,
        known,
        None if known.features is None else known.features.to(device),
        known.moments,
        labels=known.labels,
        classes=known.classes,
        notes=notes,
    )


# ----------------------------------------------------------------------------------------------------- over processes


@dataclass(frozen=True)
class _Part:
    """Some of the images of a set."""

    whole: ImageSet
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, n: int, rows: range | None = None) -> Iterator[list[Tensor]]:
        return self.whole.batches(n, self.rows if rows is None else self.rows[rows.start : rows.stop])


def _part(data: Data | ImageSet, rows: range) -> Any:
    if isinstance(data, ImageSet):
        return _Part(data, rows)
    if isinstance(data, LazyImages):
        return data.select(torch.arange(rows.start, rows.stop))
    return data[rows.start : rows.stop]


def first_of(source: Input) -> Input:
    """The first image alone, from which the dimension of its features is known."""
    return replace(source, data=_part(source.data, range(1)))


def _computed(features: Features, source: Input, world: World, on_batch: OnBatch) -> Tensor | None:
    try:
        if world.size > 1:
            values = _shared(features, source, world, on_batch)
        else:
            values = features(source.data, on_batch=on_batch)
    except ValueError as error:
        raise UsageError(f"{source.name}: {error}") from None
    if values is not None:
        require_finite(source.name, values)
    return values


def require_finite(name: str, values: Tensor) -> None:
    """Raise UsageError for features (n, d) that are not finite."""
    bad = (~values.sum(1).isfinite()).nonzero().flatten()
    if len(bad):
        raise UsageError(
            f"{name}: {len(bad)} of its {len(values)} images have features that are not finite, the first the image number "
            f"{int(bad[0])}; the network's weights or the data hold NaN, infinite or huge numbers"
        )


def _shared(features: Features, source: Input, world: World, on_batch: OnBatch) -> Tensor | None:
    """Whole batches in turn, so that every batch is the one that a single process would have passed; gathered by the first."""
    n, size = len(source.data), features.batch_size
    n_batches = -(-n // size)
    cuts = [min(n, size * (n_batches * rank // world.size)) for rank in range(world.size + 1)]
    rows = range(cuts[world.rank], cuts[world.rank + 1])
    tell = (lambda done: on_batch(min(done * world.size, n))) if world.first else (lambda done: None)
    own = features(_part(source.data, rows), on_batch=tell).cpu() if len(rows) else None
    dimension = torch.tensor([0 if own is None else own.shape[1]])
    dist.all_reduce(dimension, dist.ReduceOp.MAX)
    longest = max(b - a for a, b in pairwise(cuts))
    padded = torch.zeros(longest, int(dimension))
    if own is not None:
        padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(world.size)] if world.first else None
    dist.gather(padded, parts)
    if parts is None:
        return None
    kept = [part[: b - a] for part, (a, b) in zip(parts, pairwise(cuts), strict=True)]
    return torch.cat(kept).to(features.device)


# --------------------------------------------------------------------------------------------------------------- cache


def _cache_path(content: str, settings: dict[str, Any]) -> Path:
    key = hashlib.sha256(f"{RECIPE} {content} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()
    return cache_folder() / "features" / f"{key[:40]}.npz"


def _read_cache(path: Path, features: Features, source: Input) -> Tensor | None:
    """The cached features, if they are whole and those of a few images, computed again, are the same; else None."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values, digest = file["features"], str(file["digest"])
    except (*DAMAGED, KeyError):
        return None
    if values.ndim != 2 or len(values) != len(source.data) or _digest(values) != digest:
        return None
    cached = torch.from_numpy(values)
    last = len(source.data) - 1
    for i in sorted({round(last * k / (N_VERIFIED - 1)) for k in range(N_VERIFIED)}):
        (again,) = features(_part(source.data, range(i, i + 1))).cpu()
        if again.shape != cached[i].shape or (again - cached[i]).norm() > TOLERANCE * (1e-6 + again.norm()):
            return None
    path.touch()  # the last use, by which the oldest are told
    return cached.to(features.device)


def _keep(path: Path, values: Tensor) -> None:
    """Write the features; a full or read-only disk costs the cache and not the score."""
    array = values.cpu().numpy()
    if array.nbytes > CACHE_LIMIT // 2:
        return
    with suppress(OSError, GebmError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as file:
            np.savez(file, features=array, digest=np.asarray(_digest(array)))
        _prune(path.parent)


def _prune(folder: Path) -> None:
    """Keep the most recently used files that fit in the limit."""
    files = sorted(folder.glob("*.npz"), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > CACHE_LIMIT:
            file.unlink(missing_ok=True)


def _digest(values: np.ndarray) -> str:
    digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
