"""What a p-value alone does not say: duplicates, sets that differ in how they were stored, statistics that all tie."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.two_sample.kinds import Finding
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.sides import shared_draws

MOSTLY = 0.05  # two sets are stored alike where at most this share would have to change
UNEVEN = 100.0  # of the spreads of two columns
FEW = 3  # copies of each value on average, from which on the values are few
BY_CHANCE = 3.0  # times as many equal pairs as expected
MOST_ROUNDED = 64  # columns; rows of more are equal by no chance


def of_sides(a: Side, b: Side, network: Features | None) -> list[str]:
    """What a user should know of the two sets before the p-value is believed."""
    told = [*a.notes, *b.notes, *duplicates(a, b, _WHY), *shared_draws(a, b)]
    told += [f"{side.name}: all its samples have the same features" for side in (a, b) if side.is_constant]
    told += stored(a, b)
    told += uneven(a, b)
    if network is not None and network.name == "classifier":
        told += [
            f"{side.name}: the classifier features were learned on this side, which can make the two differ by itself; compare "
            "with held-out data, or use --features pixels"
            for side in (a, b)
            if isinstance(side.source, Input) and side.source.split == "train"
        ]
    return told


def of_finding(a: Side, b: Side, finding: Finding) -> list[str]:
    """What the null statistics tell."""
    found = finding.outcome
    if bool(((found.null - found.statistic).abs() <= found.rounding + 1e-10 * abs(found.statistic)).all()):
        return [
            f"{a.name} and {b.name}: every relabelling gives the same statistic, so the test cannot see anything (p = 1): the "
            "samples are constant, or the bandwidth is far too small or large"
        ]
    return []


def _same_path(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve())


def duplicates(a: Side, b: Side, why: str) -> list[str]:
    """Equal samples are no independent draws; `why` that matters. A relabelling that parts them is less likely than one thinks.

    In one line; none where a sample's rounding or its few distinct values make so many equal by chance.
    """
    counts = [side.row_counts for side in (a, b)]
    if _same_path(a.name, b.name) or counts[0] == counts[1]:
        return [f"{a.name} and {b.name}: hold the same samples, so no difference can be found between them"]
    told, mostly = [], False
    for side, count in zip((a, b), counts, strict=True):
        extra = sum(count.values()) - len(count)
        pairs = sum(n * (n - 1) // 2 for n in count.values())
        if extra and not side.is_constant and not _by_chance(pairs, side.n or 0, side.n or 0, side, side):
            told.append(f"{side.name}: {extra:,} of its {side.n:,} samples are equal to an earlier one")
            mostly = mostly or 2 * extra >= (side.n or 0)
    shared = sum(n for row, n in counts[0].items() if row in counts[1])
    pairs = sum(n * counts[1][row] for row, n in counts[0].items())
    if shared and not (a.is_constant or b.is_constant) and not _by_chance(pairs, a.n or 0, 2 * (b.n or 0), a, b):
        told.append(f"{a.name} and {b.name}: {shared:,} samples of the first are in the second too")
    return ["; ".join(told) + why + ("" if mostly else ": remove the copies")] if told else []


def _by_chance(pairs: int, n: int, m: int, a: Side, b: Side) -> bool:
    """Whether independent rows of such columns would have about as many pairs of equal ones, n m / 2 times their probability."""
    rows = torch.cat([side.require_features("a test") for side in ((a,) if a is b else (a, b))]).cpu().numpy()
    if rows.shape[1] > MOST_ROUNDED:
        return False
    few = len(rows) / len({row.tobytes() for row in np.ascontiguousarray(rows)}) >= FEW
    expected = n * m / 2 * math.prod(_collision(column) for column in rows.T)
    return few or pairs <= BY_CHANCE * expected + 1


def _collision(column: np.ndarray) -> float:
    """The probability that two draws of a column are equal: from its values where they are few, else from how they are rounded.

    The second is spacing over spread, the spacing the smallest between two values, summed over the tenths of the column.
    """
    values, counts = np.unique(column, return_counts=True)
    if FEW * len(values) <= len(column):
        return float(((counts / len(column)) ** 2).sum())
    edges = np.quantile(column.astype(np.float64), np.linspace(0, 1, 11))
    spacing = np.maximum(np.diff(values.astype(np.float64)).min(), np.spacing(np.abs(edges[1:]).astype(np.float32)))
    widths = np.maximum(np.diff(edges), spacing)
    return float((0.01 * spacing / widths).sum())


_WHY = "; the test takes all for independent draws, and its p-value may be wrong"


def stored(a: Side, b: Side) -> list[str]:
    """The kinds of files and the sizes of images, where the two sets differ in them."""
    images = [side.source.data for side in (a, b) if isinstance(side.source, Input)]
    if len(images) < 2 or not all(isinstance(data, ImageSet) for data in images):
        return []
    traits = {
        "file type": [Counter(_suffix(name) for name in data.kept) for data in images if isinstance(data, ImageSet)],
        "image size": [
            Counter({f"{w}x{h}": n for (h, w), n in data.sizes.items()})
            for data in images
            if isinstance(data, ImageSet)
        ],
    }
    return [
        f"{a.name} and {b.name}: differ in {what} ({_spelled(first)} against {_spelled(second)}), and a test may find just "
        "that; store both alike before asking whether their contents differ"
        for what, (first, second) in traits.items()
        if _distance(first, second) > MOSTLY
    ]


def _suffix(name: str) -> str:
    suffix = Path(name).suffix.lower().lstrip(".")
    return {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)


def _distance(first: Counter[str], second: Counter[str]) -> float:
    """The total variation between two sets of counts."""
    shares = [{key: n / sum(c.values()) for key, n in c.items()} for c in (first, second)]
    return sum(abs(shares[0].get(k, 0.0) - shares[1].get(k, 0.0)) for k in {*shares[0], *shares[1]}) / 2


def _spelled(counts: Counter[str]) -> str:
    common = counts.most_common(2)
    more = f" and {len(counts) - 2} more" if len(counts) > 2 else ""
    return ", ".join(f"{n:,} {key}" for key, n in common) + more


def uneven(a: Side, b: Side) -> list[str]:
    """Columns of a table in units of very different size: the kernel sees the widest alone."""
    if not (isinstance(a.source, Input) and a.source.is_points) or a.dimension < 2 or 1 in (a.n, b.n):
        return []
    x, y = a.require_features("a test").double(), b.require_features("a test").double()
    spread = ((x.var(0) * len(x) + y.var(0) * len(y)) / (len(x) + len(y))).sqrt()
    spread = spread[spread > 0]
    if len(spread) < 2 or spread.max() <= UNEVEN * spread.min():
        return []
    return [
        f"{a.name} and {b.name}: the columns' spreads differ by a factor of {spread.max() / spread.min():.0f}, so distances are "
        "those of the widest columns; use --standardise"
    ]
