"""The scores by name: what each makes of two sides, as the part of a record that is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.evaluation.feature_mmd import energy_distance, gaussian_mmd
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.evaluation.fid_extras import fid_bootstrap, fid_infinity
from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.inception_score import inception_score
from gebm_cli.core.evaluation.kid import kid, kid_difference, kid_subsets
from gebm_cli.core.evaluation.prdc import prdc
from gebm_cli.errors import UsageError
from gebm_cli.experiment.extraction import Side

Record = dict[str, Any]
SPLITS_SEED = 2020  # torch-fidelity's, so that the value is its value


@dataclass(frozen=True)
class Asked:
    """Options of the scores.

    Args:
        subsets: number and size of the subsets of KID's convention.
        bootstrap: repetitions of FID's bootstrap; 0 for none.
        splits: of the Inception Score.
        k: neighbours of precision, recall, density and coverage.
    """

    seed: int = 0
    infinity: bool = False
    bootstrap: int = 0
    subsets: tuple[int, int] | None = None
    splits: int = 10
    k: int = 5
    on_step: Callable[[int, int], None] = lambda done, total: None


def fid(fake: Side, real: Side, asked: Asked, features: Features | None) -> Record:
    x, y = (side.moments if side.features is None else side.features for side in (fake, real))
    known = real.moments if real.n is not None and real.n > real.dimension else None  # of fewer rows none are formed
    distance = frechet_distance(x, y, y_moments=known)
    record: Record = {"value": distance.value, "standard_error": distance.standard_error}
    if distance.clipped:
        record["clipped"] = distance.clipped
    if asked.infinity:
        own = fake.require_features("--infinity")
        limit = fid_infinity(own, y, asked.seed, on_step=asked.on_step)
        record["infinity"] = {
            "value": limit.value,
            "standard_error": limit.standard_error,
            "slope": limit.slope,
            "sizes": [limit.sizes[0], limit.sizes[-1]],
            "n_sizes": len(limit.sizes),
        }
    if asked.bootstrap:
        own = fake.require_features("--bootstrap")
        interval = fid_bootstrap(own, y, asked.bootstrap, asked.seed, on_step=asked.on_step)
        record["bootstrap"] = {
            "value": interval.value,
            "bias": interval.bias,
            "low": interval.low,
            "high": interval.high,
            "level": interval.level,
            "repetitions": asked.bootstrap,
        }
    return record


def kernel_distance(fake: Side, real: Side, asked: Asked, features: Features | None) -> Record:
    x, y = fake.require_features("kid"), real.require_features("kid")
    estimate = kid(x, y, asked.on_step)
    record: Record = {"value": estimate.value, "standard_error": estimate.standard_error}
    if asked.subsets is not None:
        number, size = asked.subsets
        found = kid_subsets(x, y, number, size, asked.seed)
        record["subsets"] = {"mean": found.mean, "spread": found.spread, "n_subsets": number, "size": size}
    return record


def score_of_inception(fake: Side, real: Side, asked: Asked, features: Features | None) -> Record:
    logits = None if features is None else features.logits(fake.require_features("is"))
    assert logits is not None, "require_comparable has looked"
    found = inception_score(logits, min(asked.splits, len(logits)), SPLITS_SEED)
    return {
        "value": found.value,
        "standard_error": found.standard_error,
        "splits": found.splits,
        "splits_seed": SPLITS_SEED,
        "spread_over_splits": found.spread_over_splits,
        "full": found.full,
        "corrected": found.corrected,
        "interval": [found.interval.low, found.interval.high],
    }


def shape(fake: Side, real: Side, asked: Asked, features: Features | None) -> Record:
    found = prdc(real.require_features("prdc"), fake.require_features("prdc"), asked.k)
    return {
        "value": found.precision,
        "standard_error": found.precision_error,
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "density_standard_error": found.density_error,
        "coverage": found.coverage,
        "k": asked.k,
    }


def gaussian_distance(fake: Side, real: Side, asked: Asked, features: Features | None) -> Record:
    found = gaussian_mmd(real.require_features("fd-mmd"), fake.require_features("fd-mmd"), on_block=asked.on_step)
    return {"value": found.value, "standard_error": found.standard_error, "bandwidth": found.bandwidth}


def distance_of_energy(fake: Side, real: Side, asked: Asked, features: Features | None) -> Record:
    x, y = fake.require_features("energy-distance"), real.require_features("energy-distance")
    found = energy_distance(x, y, asked.on_step)
    return {"value": found.value, "standard_error": found.standard_error}


METRICS: dict[str, Callable[[Side, Side, Asked, Features | None], Record]] = {
    "fid": fid,
    "kid": kernel_distance,
    "is": score_of_inception,
    "prdc": shape,
    "fd-mmd": gaussian_distance,
    "energy-distance": distance_of_energy,
}


def require_size(name: str, n: int | None, d: int, wanted: list[str], asked: Asked) -> None:
    """Raise UsageError for a side of n samples, features (n, d), that is too small for a metric or an option."""
    needs = {metric: (4 if metric in ("fd-mmd", "energy-distance") else 2, "") for metric in wanted}
    if "prdc" in wanted:
        needs["prdc"] = (asked.k + 1, " for this --neighbours")
    if asked.infinity:
        needs["--infinity"] = (2 * (d + 1) + 15, f" with {d} dimensions")
    if asked.bootstrap:
        needs["--bootstrap"] = (2 * (d + 1), f" with {d} dimensions")
    if asked.subsets is not None:
        needs["--subsets"] = (asked.subsets[1], " for subsets of this size")
    for what, (least, why) in needs.items():
        if n is not None and n < least:
            way_out = "give more, or leave it out" if what.startswith("--") else "give more"
            raise UsageError(f"{name}: {what} needs at least {least} images a side{why}, got {n}; {way_out}")


def per_class(metric: str, fake: Side, real: Side) -> list[Record]:
    """FID or KID of each class, of sides whose classes are known to be the same."""
    assert fake.labels is not None and real.labels is not None
    names = fake.classes or real.classes
    x, y = fake.require_features("--per-class"), real.require_features("--per-class")
    rows = []
    both = (sorted(set(labels.tolist())) for labels in (fake.labels, real.labels))
    for c, other_c in zip(
        *both, strict=True
    ):  # numbers are in the order of names, and may have gaps where a class was skipped
        own, other = x[fake.labels == c], y[real.labels == other_c]
        row: Record = {"class": c if names is None else names[c], "n_fake": len(own), "n_real": len(other)}
        if min(len(own), len(other)) >= 2:
            found = frechet_distance(own, other) if metric == "fid" else kid(own, other)
            row |= {"value": found.value, "standard_error": found.standard_error}
        rows.append(row)
    return rows


def comparable(*sides: Side) -> bool:
    """Whether the relative test can be made: it needs features of every side, and four images."""
    return all(side.features is not None and len(side.features) >= 4 for side in sides)


def difference(real: Side, first: Side, other: Side) -> Record:
    """Which of `first` (a) and `other` (b) is closer to the reference, by the relative test on KID (Bounliphone et al. 2016).

    The p-value is two-sided, for "they are equally far"; nan where the two are the same.
    """
    found = kid_difference(*(side.require_features("the comparison") for side in (real, other, first)))
    return {
        "a": first.name,
        "b": other.name,
        "kid_b_minus_a": found.value,
        "standard_error": found.standard_error,
        "p_value": 2 * min(found.p_less, 1 - found.p_less),
    }


def warnings_of(metric: str, fake: Side, real: Side) -> list[str]:
    """What the numbers alone do not say."""
    told = [*fake.notes, *real.notes]
    if metric == "fid":
        for side in (fake, real):
            if side.n is None:
                told.append(f"{side.name}: does not say how many images it was made of; FID is biased by their number")
            elif side.n <= side.dimension:
                told.append(
                    f"{side.name}: {side.n} images are no more than the {side.dimension} dimensions of the features, so its "
                    "covariance is singular: the value is exact and its bias large; compare at equal n only, or use KID"
                )
    for side in (fake, real):
        if metric == "fid" and side.features is None:
            told.append(f"{side.name}: is known by its moments alone, so its own noise is not in the standard error")
        if side.is_constant:
            told.append(f"{side.name}: all its images have the same features")
    if _same(fake.features, real.features):
        what = "is 0" if metric == "fid" else "means nothing and, where it is unbiased, lies below 0"
        told.append(f"{fake.name} and {real.name}: hold the same images, so the value {what} by construction")
    return told


def _same(x: Tensor | None, y: Tensor | None) -> bool:
    return x is not None and y is not None and x.shape == y.shape and torch.equal(x, y)
