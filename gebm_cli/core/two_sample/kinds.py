"""The kinds of two-sample test, one function each: rows of x and y in, a finding out. The command and the level checks run these.

A kind that learns does so on a random part of each side and tests on the rest: no caller can test on what was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gebm_cli.core.kernels import Gaussian, Kernel, median_bandwidth
from gebm_cli.core.progress import Begin, Steps, silent
from gebm_cli.core.two_sample.aggregation import Fuse, One, aggregated, relabelings_of, relabelled_each
from gebm_cli.core.two_sample.classifiers import accuracy_of, learn_classifier
from gebm_cli.core.two_sample.collections import (
    collection,
    described,
    grid,
    kernel_of,
)
from gebm_cli.core.two_sample.compressed import compressed_test
from gebm_cli.core.two_sample.deep_training import train_deep_kernel
from gebm_cli.core.two_sample.feature_means import MeanDifference
from gebm_cli.core.two_sample.locations import learn_characteristic, learn_mean_embedding
from gebm_cli.core.two_sample.names import DEFAULT_COUNT, LEARNED, ONE_KERNEL, KernelName, Kind
from gebm_cli.core.two_sample.p_values import FIRST, Relabelled, relabelling_test
from gebm_cli.core.two_sample.relabelled_mmd import RelabelledMmd
from gebm_cli.core.two_sample.relabelling import Permutations, SignFlips, n_batches
from gebm_cli.core.two_sample.selection import MOST_ROWS, best_kernel, split_rows

Streams = Callable[[str], torch.Generator]

N_LOCATIONS = 10
LARGE = 2000  # pooled rows up to which all is float64: then ties are exact, and it costs nothing


@dataclass(frozen=True)
class Asked:
    """How to test.

    Args:
        count: relabelings B.
        kernel, bandwidths: of `mmd`, and the kernel of `mmd-opt`; no bandwidth is the median.
        split: the share of each side that a kind that learns learns from.
        stop_early: end the relabelings as soon as the decision at alpha is certain.
        image_shape: (c, h, w) where the rows are flattened images, for networks that look at them as such.
        begin: told of each phase: what, unit, total; returns a function that is told of progress.
    """

    alpha: float = 0.05
    count: int = DEFAULT_COUNT
    kernel: KernelName = "gaussian"
    bandwidths: tuple[float, ...] = ()
    split: float = 0.5
    stop_early: bool = False
    image_shape: tuple[int, int, int] | None = None
    n_locations: int = N_LOCATIONS
    begin: Begin = silent

    @property
    def stop_at(self) -> float | None:
        return self.alpha if self.stop_early else None


@dataclass(frozen=True)
class Finding:
    """What a test found.

    Attributes:
        outcome: statistic, null and p-value.
        kernel, x, y: a kernel and the tested rows in the form that it takes, for the effect size and the witness.
        rows: the numbers of the rows of each side that were tested, in the order of x and y.
        chosen: the kernel, bandwidths or features, in words and numbers.
        n_train: how many rows of each side were learned from; None where nothing was learned.
        same_rows: whether `kernel` was picked with the labels among the rows that were tested, so that its effect size is a little
            large. (The p-value is not affected: it allows for the choice.)
        scores: for tests by a classifier, its output at x (n,) and y (m,).
    """

    outcome: Relabelled
    kernel: Kernel
    x: Tensor
    y: Tensor
    rows: tuple[Tensor, Tensor]
    chosen: dict[str, Any]
    n_train: tuple[int, int] | None = None
    same_rows: bool = False
    scores: tuple[Tensor, Tensor] | None = None


def run_test(kind: Kind, x: Tensor, y: Tensor, asked: Asked, streams: Streams) -> Finding:
    """Test whether x (n, d) and y (m, d) have one law; `streams` gives a generator for each purpose by its name.

    Raises:
        ValueError: too few rows for the kind, or features that it cannot use.
        ImportError: `ctt` without its library.
    """
    x, y = prepared((x, y), asked.kernel if kind in ONE_KERNEL else "gaussian")
    if kind in LEARNED:
        parting = streams("split")
        splits = [split_rows(len(side), asked.split, parting) for side in (x, y)]
        train = [side[s.train.to(side.device)] for side, s in zip((x, y), splits, strict=True)]
        rows = (splits[0].test, splits[1].test)
    else:  # pairs must not look at the values, and files come in some order
        order = streams("pairing")
        train, rows = [], (torch.randperm(len(x), generator=order), torch.randperm(len(y), generator=order))
    at = _At(kind, x[rows[0].to(x.device)], y[rows[1].to(y.device)], rows, asked, streams)
    return _TESTS[kind](at, *train)


def prepared(sides: Sequence[Tensor], kernel: str = "gaussian") -> list[Tensor]:
    """Float64 where there are few rows; about the pooled mean, where the digits are, unless the kernel is about the origin."""
    n = sum(map(len, sides))
    dtype = torch.float64 if n <= LARGE else torch.float32
    if kernel == "polynomial":
        return [side.to(dtype) for side in sides]
    centre = torch.stack([side.sum(0, dtype=torch.float64) for side in sides]).sum(0) / n
    return [torch.cat([(part - centre).to(dtype) for part in side.split(LARGE)]) for side in sides]


@dataclass(frozen=True)
class _At:
    """The rows to test, and all that the tests share."""

    kind: Kind
    x: Tensor
    y: Tensor
    rows: tuple[Tensor, Tensor]
    asked: Asked
    streams: Streams

    @property
    def pooled(self) -> Tensor:
        return torch.cat([self.x, self.y])

    @property
    def count(self) -> int:
        return self.asked.count

    def mmd(self, kernels: list[Kernel], x: Tensor, y: Tensor) -> RelabelledMmd:
        engine = RelabelledMmd(kernels, x, y, isinstance(relabelings_of(len(x), len(y)), SignFlips))
        size = min(self.count, engine.max_columns)
        calls = n_batches(self.count, size, FIRST if self.asked.stop_early else None)
        tell = self.asked.begin("relabellings", "blocks", engine.n_blocks * calls)
        engine.on_block = lambda: tell(1)
        return engine

    def relabelled(self, statistic: One | Fuse) -> Relabelled:
        group = relabelings_of(len(statistic.mmd.x), len(statistic.mmd.y))
        return relabelling_test(statistic, group, self.count, self.streams("relabelings"), self.asked.stop_at)

    def of_one(self, kernel: Kernel, x: Tensor, y: Tensor, chosen: dict[str, Any], n_train: Any = None) -> Finding:
        outcome = self.relabelled(One(self.mmd([kernel], x, y)))
        return Finding(outcome, kernel, x, y, self.rows, chosen, n_train)

    def of_features(self, features: Tensor, chosen: dict[str, Any], train: tuple[Tensor, ...], **more: Any) -> Finding:
        statistic = MeanDifference(features, len(self.x), one_sided=self.kind.startswith("c2st"))
        group = Permutations(len(self.x), len(self.y))  # signs of pairs would save nothing here
        outcome = relabelling_test(statistic, group, self.count, self.streams("relabelings"), self.asked.stop_at)
        kernel = more.pop("kernel", None) or Gaussian(median_bandwidth(self.pooled))
        return Finding(outcome, kernel, self.x, self.y, self.rows, chosen, _sizes(*train), **more)


def _sizes(x: Tensor, y: Tensor) -> tuple[int, int]:
    return len(x), len(y)


# ----------------------------------------------------------------------------------------------------- without a split


def _mmd(at: _At) -> Finding:
    kernel = kernel_of(at.asked.kernel, at.asked.bandwidths, at.pooled)
    return at.of_one(kernel, at.x, at.y, described(kernel))


def _fuse(at: _At) -> Finding:
    kernels = collection(at.pooled)
    statistic = Fuse(at.mmd(kernels, at.x, at.y))
    outcome = at.relabelled(statistic)
    best = int((statistic.weights * statistic.observed).argmax())
    return _most_telling(at, outcome, kernels, best)


def _aggregated(at: _At) -> Finding:
    kernels = collection(at.pooled)
    engine = at.mmd(kernels, at.x, at.y)
    values = relabelled_each(engine, relabelings_of(len(at.x), len(at.y)), at.count, at.streams("relabelings"))
    spread = values.square().mean(1).sqrt().clamp(min=1e-300)
    return _most_telling(at, aggregated(values, engine.rounding), kernels, int((values[:, 0] / spread).argmax()))


def _most_telling(at: _At, outcome: Relabelled, kernels: list[Kernel], best: int) -> Finding:
    chosen = described(kernels[best]) | {"n_kernels": len(kernels)}
    return Finding(outcome, kernels[best], at.x, at.y, at.rows, chosen, same_rows=True)


def _compressed(at: _At) -> Finding:
    bandwidth = median_bandwidth(at.pooled)
    found = compressed_test(at.x, at.y, bandwidth, at.count, at.streams("relabelings"))
    kernel, bins = Gaussian(bandwidth), found.bins
    chosen = described(kernel) | {"bins": [bins.x, bins.y], "rows_of_a_bin": bins.rows, "kept_of_a_bin": bins.kept}
    return Finding(found.outcome, kernel, at.x, at.y, at.rows, chosen)


# --------------------------------------------------------------------------------------------- learned on a training split


def _optimised(at: _At, x: Tensor, y: Tensor) -> Finding:
    kernels = grid(at.asked.kernel, torch.cat([x[:MOST_ROWS], y[:MOST_ROWS]]))
    tell = at.asked.begin("choosing the kernel", "kernels", len(kernels))
    kernel = best_kernel(x, y, kernels, tell)
    return at.of_one(kernel, at.x, at.y, described(kernel) | {"of": len(kernels)}, _sizes(x, y))


def _deep(at: _At, x: Tensor, y: Tensor) -> Finding:
    tell = Steps(at.asked.begin, "learning the kernel", "steps")
    learned = train_deep_kernel(
        x.float(), y.float(), at.streams("training"), image_shape=at.asked.image_shape, on_step=tell
    )
    rows = [learned.rows(side.float()).to(at.x.dtype) for side in (at.x, at.y)]
    # The plain Gaussian kernel is taken where no network promises more.
    chosen: dict[str, Any] = {"kernel": "deep" if learned.networks else "gaussian", "n_networks": len(learned.networks)}
    chosen |= {"criterion": learned.criterion, "gaussian_criterion": learned.gaussian_criterion}
    return at.of_one(learned.kernel, rows[0], rows[1], chosen, _sizes(x, y))


def _classifier(at: _At, x: Tensor, y: Tensor) -> Finding:
    tell = Steps(at.asked.begin, "learning the classifier", "steps")
    feature: Literal["sign", "logit"] = "sign" if at.kind == "c2st-sign" else "logit"
    learned = learn_classifier(x, y, at.streams("training"), feature, at.asked.image_shape, on_step=tell)
    scores = learned.logits(at.x), learned.logits(at.y)
    accuracy = accuracy_of(*scores)
    chosen = {"accuracy": accuracy.value, "accuracy_standard_error": accuracy.standard_error, "steps": learned.steps}
    return at.of_features(learned.feature_of(torch.cat(scores)), chosen, (x, y), scores=scores)


def _mean_embedding(at: _At, x: Tensor, y: Tensor) -> Finding:
    learned = learn_mean_embedding(x, y, at.asked.n_locations, at.streams("training"))
    kernel = Gaussian(learned.bandwidth)
    chosen = described(kernel) | {"n_locations": at.asked.n_locations}
    return at.of_features(learned(at.pooled), chosen, (x, y), kernel=kernel)


def _characteristic(at: _At, x: Tensor, y: Tensor) -> Finding:
    learned = learn_characteristic(x, y, at.asked.n_locations, at.streams("training"))
    chosen = {"smoothing_bandwidth": learned.bandwidth, "n_frequencies": at.asked.n_locations}
    return at.of_features(learned(at.pooled), chosen, (x, y))


_TESTS: dict[Kind, Callable[..., Finding]] = {
    "mmd": _mmd,
    "mmd-fuse": _fuse,
    "mmd-agg": _aggregated,
    "ctt": _compressed,
    "mmd-opt": _optimised,
    "deep": _deep,
    "c2st": _classifier,
    "c2st-sign": _classifier,
    "me": _mean_embedding,
    "scf": _characteristic,
}
