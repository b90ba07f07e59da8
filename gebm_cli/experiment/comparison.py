"""Sample sets scored against one reference: every side is passed through the feature network once, for all metrics."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gebm_cli.core.evaluation.features import Features
from gebm_cli.errors import UsageError
from gebm_cli.experiment import metrics
from gebm_cli.experiment.extraction import Side, extract, from_file
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known, write_features, write_statistics
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.score_checks import require_alike, require_comparable, require_enough, require_flags
from gebm_cli.experiment.score_job import Begin, Job, counted, network_of, read_sides, settings_of
from gebm_cli.experiment.scored_inputs import describe_side
from gebm_cli.experiment.typical import save_typical


@dataclass
class Outcome:
    """The records of all scores, in the order asked for, and what else was found."""

    records: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    owned: list[tuple[Run | None, dict[str, Any]]] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(w for record in self.records for w in record["warnings"]))

    def as_json(self) -> dict[str, Any]:
        """One score by itself; several in a list, with the comparisons."""
        if len(self.records) == 1 and not self.comparisons:
            return self.records[0] | ({"saved": self.saved} if self.saved else {})
        return {"scores": self.records, "comparisons": self.comparisons, "saved": self.saved}


def compare(job: Job, begin: Begin) -> Outcome:
    """Score every sample set against the reference.

    Raises:
        UsageError: an input, a network or an option that cannot be used; all of them are read before any long work.
    """
    require_flags(job)
    sources, reference = read_sides(job, begin)
    sides = [*sources, *([reference] if reference else [])]
    require_alike(job, sides)
    features = network_of(job, sides, begin)
    require_comparable(job, features, sides)
    settings = settings_of(job, features, sides)
    require_enough(job, features, sides)
    real = _side(job, reference, features, settings, begin, is_reference=True) if reference is not None else None
    outcome = Outcome()
    first: Side | None = None
    for source in sources:
        fake = _side(job, source, features, settings, begin)
        if not job.world.first:
            continue  # the others have lent their hands
        _save(job, fake, outcome)
        if job.saves_only:
            continue
        owner = source.run if isinstance(source, Input) else None
        for metric in job.metrics:
            record = _record(job, metric, fake, real, features, begin)
            outcome.records.append(record)
            outcome.owned.append((owner, record))
        wanted = {"fid", "kid"} & set(job.metrics)
        if wanted and first is not None and real is not None and metrics.comparable(real, first, fake):
            found = metrics.difference(real, first, fake)
            outcome.comparisons.append(found)
            outcome.owned.append((owner, {"metric": "kid-difference", "reference": real.name, **found, **settings}))
        if first is None:
            first = fake
            if job.picture and real is not None:
                save_typical(Path(job.picture), fake, real)
                outcome.saved.append(f"typical images: {job.picture}")
    job.world.wait()
    return outcome


# -------------------------------------------------------------------------------------------------------------- scores


def _side(
    job: Job,
    source: Input | Known,
    features: Features | None,
    settings: dict[str, Any],
    begin: Begin,
    is_reference: bool = False,
) -> Side:
    if isinstance(source, Known):
        return from_file(source, settings, job.device)
    assert features is not None
    tell = begin(f"{features.name} features of {source.name}", "images", len(source.data))
    return extract(features, source, job.world, is_reference and not job.no_cache, tell)


def _save(job: Job, side: Side, outcome: Outcome) -> None:
    if job.save_statistics:
        write_statistics(Path(job.save_statistics), side.moments, side.settings)
        outcome.saved.append(f"mean and covariance of {side.n} images of {side.name}: {job.save_statistics}")
    if job.save_features:
        write_features(
            Path(job.save_features), side.require_features("--save-features"), side.labels, side.classes, side.settings
        )
        outcome.saved.append(f"features of {side.n} images of {side.name}: {job.save_features}")


def _record(
    job: Job, metric: str, fake: Side, real: Side | None, features: Features | None, begin: Begin
) -> dict[str, Any]:
    asked = replace(job.asked, on_step=counted(begin, metric))
    other = real if real is not None else fake
    start = time.monotonic()
    record = {"metric": metric, **metrics.METRICS[metric](fake, other, asked, features)}
    if not math.isfinite(record["value"]):
        raise UsageError(
            f"{fake.name}: {metric} against {other.name} is {record['value']}: features as large as {_largest(fake):.2g} "
            "overflow; scale them"
        )
    if job.per_class and metric in ("fid", "kid"):
        record["per_class"] = metrics.per_class(metric, fake, other)
    return record | _heading(job, metric, fake, real, time.monotonic() - start)


def _heading(job: Job, metric: str, fake: Side, real: Side | None, seconds: float) -> dict[str, Any]:
    """What a score needs to be defended: sides, sizes, features and their weights, seed, time, warnings."""
    described = describe_side(fake.source)
    heading: dict[str, Any] = {"samples": fake.name, "reference": real.name if real else None, "n_fake": fake.n}
    heading["n_real"] = real.n if real else None
    if real is not None and isinstance(real.source, Input) and real.source.split:
        heading["split"] = real.source.split
    heading |= {"resolution": described.pop("resolution", None), **fake.settings, **described}
    if real is not None:
        other = describe_side(real.source)
        heading |= {f"reference_{key}": value for key, value in other.items() if key != "kind"}
        heading["reference_cached"] = real.cached
    heading |= {"seed": job.seed, "seconds": round(fake.seconds + seconds, 3)}
    if fake.seconds > 0 and fake.n:
        heading["images_per_second"] = round(fake.n / fake.seconds, 2)
    warnings = metrics.warnings_of(metric, fake, real) if real is not None else list(fake.notes)
    sizes = [heading["resolution"], heading.get("reference_resolution")]
    if all(sizes) and sizes[0][-2:] != sizes[1][-2:]:
        h, w = (f"{s[-1]}x{s[-2]}" for s in sizes)
        warnings.append(
            f"{heading['samples']} and {heading['reference']}: have images of {h} and {w}, which a network that resizes hides and "
            "one that does not may see"
        )
    return heading | {"warnings": warnings}


def _largest(side: Side) -> float:
    known = side.moments.mean if side.features is None else side.features
    return float(known.abs().max())
