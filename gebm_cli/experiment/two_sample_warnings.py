"""What a p-value alone does not say: duplicates, sets that differ in how they were stored, statistics that all tie."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.two_sample.kinds import Finding
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.sides import shared_draws

MOSTLY = 0.05  # two sets are stored alike where at most this share would have to change
UNEVEN = 100.0  # of the spreads of two columns


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
    """Equal samples are no independent draws; `why` that matters. A relabelling that parts them is less likely than one thinks."""
    counts = [side.row_counts for side in (a, b)]
    if _same_path(a.name, b.name) or counts[0] == counts[1]:
        return [f"{a.name} and {b.name}: hold the same samples, so no difference can be found between them"]
    told = []
    for side, count in zip((a, b), counts, strict=True):
        extra = sum(count.values()) - len(count)
        if extra:
            told.append(f"{side.name}: {extra:,} of its {side.n:,} samples are equal to an earlier one{why}")
    shared = sum(n for row, n in counts[0].items() if row in counts[1])
    if shared:
        told.append(f"{a.name} and {b.name}: {shared:,} samples of the first are in the second too{why}")
    return told


_WHY = "; the test takes all for independent draws, and its p-value may be wrong: remove the copies"


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
