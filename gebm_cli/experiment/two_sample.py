"""Two-sample tests of sets that a user names: read, passed through one feature network, tested, recorded, drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.feature_mmd import feature_mmd
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.kernels import Gaussian, Kernel, median_bandwidth
from gebm_cli.core.mmd import Estimate, relative_mmd2
from gebm_cli.core.two_sample.collections import described, kernel_of
from gebm_cli.core.two_sample.kinds import Finding, Streams, prepared, run_test
from gebm_cli.core.two_sample.multiple import holm
from gebm_cli.core.two_sample.names import LEARNED, NO_BANDWIDTH
from gebm_cli.core.two_sample.sample_size import PowerCurve, power_curve
from gebm_cli.errors import UsageError
from gebm_cli.experiment.extraction import Side, extract, from_file
from gebm_cli.experiment.files import write_yaml
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.score_checks import require_alike, require_comparable, require_enough, require_one_size
from gebm_cli.experiment.score_checks import require_flags as require_score_flags
from gebm_cli.experiment.score_job import Begin, network_of, reader, settings_of
from gebm_cli.experiment.scored_inputs import describe_side
from gebm_cli.experiment.two_sample_drawing import draw_matrix, draw_power, draw_test
from gebm_cli.experiment.two_sample_job import TwoSampleJob, coarse_p, require_flags, require_testable
from gebm_cli.experiment.two_sample_warnings import of_finding, of_sides

CONFIDENCE, NORMAL_95 = 0.95, 1.959964
EFFECT_ROWS = 10_000  # of each side, for the effect size and the witness: the time of a test grows with their square
SIZES = 25  # points of a power curve


@dataclass
class Outcome:
    """The records in the order of the pairs, and who keeps them."""

    records: list[dict[str, Any]] = field(default_factory=list)
    owned: list[tuple[Run | None, dict[str, Any]]] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(w for record in self.records for w in record["warnings"]))

    @property
    def differs(self) -> bool:
        """Whether some pair differs, after Holm's correction where there are several."""
        return any(record.get("reject_all_pairs", record.get("reject", False)) for record in self.records)

    def as_json(self) -> dict[str, Any]:
        """One test by itself; several in a list."""
        if len(self.records) == 1:
            return self.records[0] | {"saved": self.saved}
        return {"tests": self.records, "saved": self.saved}


def compare_sets(
    job: TwoSampleJob, settle: Callable[[TwoSampleJob, Run | None], TwoSampleJob], begin: Begin
) -> Outcome:
    """Test all pairs of the sets, or which of two is closer to a reference, or predict the power of their test.

    `settle` puts the defaults of the experiment of the run, if there is one, under the flags.

    Raises:
        UsageError: a set, a network or an option that cannot be used; all of them are read before any long work.
    """
    require_score_flags(job.scores)
    require_flags(job)
    read, sources = reader(job.scores, begin), []
    owner = job.scores.run
    for text in [*job.scores.samples, *([job.reference] if job.reference else [])]:
        sources.append(read(text, owner))
        owner = owner or getattr(sources[-1], "run", None)
    job = settle(job, owner)
    require_flags(job)
    require_alike(job.scores, sources)
    require_testable(job, sources)
    if (
        job.scores.features is None and owner is None
    ):  # pixels, or a classifier that is learned first: either needs one size
        require_one_size("pixels", [source for source in sources if isinstance(source, Input)])
    network = network_of(job.scores, sources, begin)
    require_comparable(job.scores, network, sources)
    settings = settings_of(job.scores, network, sources)
    require_enough(job.scores, network, sources)
    sides = [_side(job, source, network, settings, begin) for source in sources]
    if job.standardise:
        sides = _standardised(sides)
    outcome = Outcome()
    if job.is_relative:
        _keep(outcome, sides[0], _relative(job, sides, network))
    elif job.power:
        _keep(outcome, sides[0], _power(job, sides[0], sides[1], network, begin, outcome))
    else:
        _pairs(job, sides, network, begin, outcome)
    if job.record is not None:
        write_yaml(Path(job.record), outcome.as_json())
        outcome.saved.append(f"record: {job.record}")
    return outcome


def _keep(outcome: Outcome, side: Side, record: dict[str, Any]) -> None:
    outcome.records.append(record)
    outcome.owned.append((side.source.run if isinstance(side.source, Input) else None, record))


def _side(
    job: TwoSampleJob, source: Input | Known, network: Features | None, settings: dict[str, Any], begin: Begin
) -> Side:
    if isinstance(source, Known):
        return from_file(source, settings, job.scores.device)
    assert network is not None
    tell = begin(f"{network.name} features of {source.name}", "images", len(source.data))
    return extract(network, source, job.scores.world, source.run is None and not job.scores.no_cache, tell)


def _standardised(sides: list[Side]) -> list[Side]:
    """Every column with mean 0 and variance 1 over all sets together, which ignores what set a row is of."""
    rows = [side.require_features("a test").double() for side in sides]
    pooled = torch.cat(rows)
    spread = pooled.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    return [replace(s, features=((r - pooled.mean(0)) / spread).float()) for s, r in zip(sides, rows, strict=True)]


# ------------------------------------------------------------------------------------------------------------- all pairs


def _pairs(job: TwoSampleJob, sides: list[Side], network: Features | None, begin: Begin, outcome: Outcome) -> None:
    pairs = list(combinations(range(len(sides)), 2))
    if len(pairs) == 1:
        finding, record = _tested(job, sides[0], sides[1], network, begin)
        _keep(outcome, sides[0], record)
        if job.picture is not None:
            draw_test(Path(job.picture), job.kind, sides[0], sides[1], finding, job.asked.alpha)
            outcome.saved.append(f"picture: {job.picture}")
        return
    common = _common_kernel(sides)
    for i, j in pairs:
        tell = _named(begin, f"{sides[i].name} and {sides[j].name}: ")
        _keep(outcome, sides[i], _tested(job, sides[i], sides[j], network, tell, (i, j), common)[1])
    adjusted = holm({pair: r["p_value"] for pair, r in zip(pairs, outcome.records, strict=True)})
    for pair, record in zip(pairs, outcome.records, strict=True):
        record |= {"p_value_holm": adjusted[pair], "reject_all_pairs": adjusted[pair] <= job.asked.alpha}
    if job.picture is not None:
        draw_matrix(Path(job.picture), [s.name for s in sides], pairs, outcome.records, job.asked.alpha)
        outcome.saved.append(f"picture: {job.picture}")


def _common_kernel(sides: list[Side]) -> Kernel:
    """One kernel for the effect sizes of all pairs, or they would not compare: Gaussian, the median distance of all sets."""
    few = [side.require_features("a test")[:EFFECT_ROWS] for side in sides]
    return Gaussian(median_bandwidth(torch.cat(few)))


def _named(begin: Begin, front: str) -> Begin:
    return lambda what, unit, total: begin(front + what, unit, total)


def _tested(
    job: TwoSampleJob,
    a: Side,
    b: Side,
    network: Features | None,
    begin: Begin,
    pair: tuple[int, ...] = (),
    common: Kernel | None = None,
) -> tuple[Finding, dict[str, Any]]:
    start = time.monotonic()
    finding = _found(job, a, b, begin, pair)
    outcome, (n, m) = finding.outcome, (len(finding.rows[0]), len(finding.rows[1]))
    record: dict[str, Any] = {
        "test": job.kind,
        "statistic": outcome.statistic,
        "p_value": outcome.p_value,
        "p_value_standard_error": outcome.p_error,
        "alpha": job.asked.alpha,
        "reject": outcome.p_value <= job.asked.alpha,
        **_heading(a, b),
        "n_tested": [n, m],
        "n_trained_on": list(finding.n_train) if finding.n_train else None,
        **finding.chosen,
        "n_permutations": len(outcome.null),
        "stopped_early": outcome.stopped_early,
        "effect": _effect(finding) if common is None else _effect_by(common, a, b, finding),
        "standardised": job.standardise,
        "seed": job.scores.seed,
    }
    record["seconds"] = round(a.seconds + b.seconds + time.monotonic() - start, 3)
    warnings = [*of_sides(a, b, network), *of_finding(a, b, finding)]
    least = coarse_p(job, _n(a), _n(b))
    if least is not None:
        warnings.append(
            f"{a.name} and {b.name}: so few samples have few relabellings, and p cannot be below {least:.2g}"
        )
    return finding, record | {"warnings": warnings}


def _found(job: TwoSampleJob, a: Side, b: Side, begin: Begin, pair: tuple[int, ...]) -> Finding:
    x, y = a.require_features("a test"), b.require_features("a test")
    asked = replace(job.asked, image_shape=_image_shape(a), begin=begin)
    try:
        return run_test(job.kind, x, y, asked, _streams(job, pair))
    except ValueError as error:
        raise UsageError(f"{a.name} and {b.name}: --test {job.kind}: {error}") from None
    except ImportError as error:
        raise UsageError(f"--test {job.kind}: {error}") from None


def _streams(job: TwoSampleJob, pair: tuple[int, ...]) -> Streams:
    return lambda purpose: make_generator(job.scores.seed, "two-sample-test", *pair, purpose)


def _image_shape(side: Side) -> tuple[int, int, int] | None:
    """The shape of flattened images, where pixels are the features."""
    source = side.source
    if not isinstance(source, Input) or source.is_points or side.settings.get("features") != "pixels":
        return None
    shape = source.item_shape
    return (shape[0], shape[1], shape[2]) if math.prod(shape) == side.dimension else None


def _n(side: Side) -> int:
    return len(side.require_features("a test"))


def _heading(a: Side, b: Side) -> dict[str, Any]:
    told = {"x": a.name, "y": b.name, "n_x": _n(a), "n_y": _n(b), **a.settings}
    for key, side in (("x", a), ("y", b)):
        told |= {f"{key}_{name}": value for name, value in describe_side(side.source).items()}
    return told


def _effect(finding: Finding) -> dict[str, Any]:
    """MMD by the test's kernel (the median heuristic's where the test has none), and whether that was chosen on these rows."""
    told = _effect_size(finding.x, finding.y, finding.kernel)
    if "kernel" in finding.chosen:
        told |= {key: finding.chosen[key] for key in ("kernel", "bandwidth") if key in finding.chosen}
    return told | ({"kernel_chosen_on_these_samples": True} if finding.same_rows else {})


def _effect_by(kernel: Kernel, a: Side, b: Side, finding: Finding) -> dict[str, Any]:
    """MMD of the tested rows by a kernel that all pairs share."""
    sides = zip((a, b), finding.rows, strict=True)
    rows = [s.require_features("a test")[i[:EFFECT_ROWS].to(s.require_features("a test").device)] for s, i in sides]
    x, y = prepared(rows)
    return _effect_size(x, y, kernel)


def _effect_size(x: Tensor, y: Tensor, kernel: Kernel) -> dict[str, Any]:
    """MMD with a 95 % interval from the whole variance of MMD^2_u, of at most 10,000 rows of each side."""
    x, y = x[:EFFECT_ROWS], y[:EFFECT_ROWS]
    found = feature_mmd(x, y, kernel)
    low, high = _interval(found)
    told: dict[str, Any] = {"mmd": _root(found.value), "low": low, "high": high, "level": CONFIDENCE}
    told |= {"mmd2": found.value, "mmd2_standard_error": found.standard_error, "n": [len(x), len(y)]}
    return told | described(kernel)


def _interval(found: Estimate) -> tuple[float, float]:
    half = NORMAL_95 * found.standard_error
    return _root(found.value - half), _root(found.value + half)


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))


# ------------------------------------------------------------------------------------------------------- relative, power


def _relative(job: TwoSampleJob, sides: list[Side], network: Features | None) -> dict[str, Any]:
    """Which of A and B is closer to R, by the normal law of the difference of two dependent MMD^2 (Bounliphone et al. 2016)."""
    start = time.monotonic()
    a, b, reference = sides
    x, y, r = prepared([side.require_features("a test") for side in sides], job.asked.kernel)
    kernel = _relative_kernel(job, x, y, r)
    found = relative_mmd2(r, x, y, kernel)
    assert found.x is not None and found.y is not None
    p = 2 * min(found.p_less, 1 - found.p_less) if found.standard_error > 0 else math.nan
    closer = None if not p <= job.asked.alpha else a.name if found.value < 0 else b.name
    told = list(
        dict.fromkeys([*of_sides(a, reference, network), *of_sides(b, reference, network), *of_sides(a, b, network)])
    )
    return {
        "test": "relative",
        "statistic": found.value,
        "standard_error": found.standard_error,
        "z": found.z,
        "p_value": p,
        "p_value_x_closer": found.p_less,
        "alpha": job.asked.alpha,
        "reject": bool(p <= job.asked.alpha),
        "closer": closer,
        **_heading(a, b),
        "reference": reference.name,
        "n_reference": _n(reference),
        "mmd2_x": found.x.value,
        "mmd2_x_standard_error": found.x.standard_error,
        "mmd2_y": found.y.value,
        "mmd2_y_standard_error": found.y.standard_error,
        **described(kernel),
        "standardised": job.standardise,
        "seed": job.scores.seed,
        "seconds": round(sum(side.seconds for side in sides) + time.monotonic() - start, 3),
        "warnings": told,
    }


def _relative_kernel(job: TwoSampleJob, x: Tensor, y: Tensor, r: Tensor) -> Kernel:
    """The bandwidth is the mean of the medians of both pairs, so that neither A nor B is favoured."""
    name, widths = job.asked.kernel, job.asked.bandwidths
    if not widths and name not in NO_BANDWIDTH:
        medians = [kernel_of(name, (), torch.cat([r, side])).bandwidth for side in (x, y)]  # type: ignore[attr-defined]
        widths = (sum(medians) / 2,)
    return kernel_of(name, widths, r)


def _power(
    job: TwoSampleJob, a: Side, b: Side, network: Features | None, begin: Begin, outcome: Outcome
) -> dict[str, Any]:
    """What the pair as a pilot says of tests with more or fewer samples, by the kernel that the test would use."""
    finding, record = _tested(job, a, b, network, begin)
    n, m = record["n_tested"]
    x, y = finding.x[:EFFECT_ROWS], finding.y[:EFFECT_ROWS]
    tested = power_curve(
        x, y, finding.kernel, finding.outcome.null, job.asked.alpha, _sizes(max(n, m)), null_sizes=(n, m)
    )
    curve = _in_all(tested, 1 - job.asked.split if job.kind in LEARNED else 1.0)
    if record["p_value"] > job.asked.alpha:
        record["warnings"].append(
            f"{a.name} and {b.name}: the pilot itself is not significant (p = {record['p_value']:.2g}), so the difference that the "
            "prediction is about may be chance"
        )
    if job.picture is not None:
        draw_power(Path(job.picture), curve, (_n(a), _n(b)))
        outcome.saved.append(f"picture: {job.picture}")
    return record | {"test": "power", "pilot_test": job.kind, "power": _described_power(curve)}


def _sizes(largest: int) -> list[int]:
    """Sizes from 10 to twenty times the pilot's, by equal factors."""
    return sorted({round(10 * (2 * largest) ** (i / (SIZES - 1))) for i in range(SIZES)})


def _in_all(curve: PowerCurve, share: float) -> PowerCurve:
    """From tested samples, a share of all, to samples in all: those that a test learns from have to be brought too."""
    return replace(
        curve,
        sizes=tuple(math.ceil(n / share) for n in curve.sizes),
        needed=_whole(curve.needed / share),
        needed_low=_whole(curve.needed_low / share),
        needed_high=_whole(curve.needed_high / share),
    )


def _whole(n: float) -> float:
    return math.ceil(n) if math.isfinite(n) else n


def _described_power(curve: PowerCurve) -> dict[str, Any]:
    """Samples a side in all; null where no number is known."""
    needed = {key: getattr(curve, key) for key in ("needed", "needed_low", "needed_high")}
    return {
        "target": curve.target,
        **{key: int(n) if math.isfinite(n) else None for key, n in needed.items()},
        "sizes": list(curve.sizes),
        "power": [round(p, 4) for p in curve.power.tolist()],
        "power_low": [round(p, 4) for p in curve.low.tolist()],
        "power_high": [round(p, 4) for p in curve.high.tolist()],
    }
