"""The record of one two-sample test: what was tested, how, what was found, and how large the difference is."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.feature_mmd import feature_mmd
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import Estimate
from gebm_cli.core.two_sample.collections import described
from gebm_cli.core.two_sample.kinds import Finding, Streams, prepared, run_test
from gebm_cli.errors import UsageError
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.score_job import Begin
from gebm_cli.experiment.scored_inputs import describe_side
from gebm_cli.experiment.two_sample_job import TwoSampleJob, coarse_p
from gebm_cli.experiment.two_sample_warnings import of_finding, of_sides

NULL_BINS = 40
CONFIDENCE, NORMAL_95 = 0.95, 1.959964
EFFECT_ROWS = 10_000  # of each side, for the effect size and the witness: the time of a test grows with their square


def tested(
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
        **heading(a, b),
        "n_tested": [n, m],
        "n_trained_on": list(finding.n_train) if finding.n_train else None,
        **finding.chosen,
        "n_permutations": len(outcome.null),
        "null_histogram": _histogram(outcome.null),
        "stopped_early": outcome.stopped_early,
        "effect": _effect(finding) if common is None else _effect_by(common, a, b, finding),
        "standardised": job.standardise,
        "seed": job.scores.seed,
    }
    record["seconds"] = round(a.seconds + b.seconds + time.monotonic() - start, 3)
    warnings = [*of_sides(a, b, network), *of_finding(a, b, finding)]
    least = coarse_p(job, n_of(a), n_of(b))
    if least is not None:
        warnings.append(
            f"{a.name} and {b.name}: so few samples have few relabellings, and p cannot be below {least:.2g}"
        )
    return finding, record | {"warnings": warnings}


def _histogram(null: Tensor) -> dict[str, Any]:
    """The relabelled values in equal bins from the least to the largest, for pictures to come."""
    values = null.double()
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, bins=NULL_BINS, min=low, max=high) if high > low else torch.tensor([len(values)])
    return {"low": low, "high": high, "counts": [int(count) for count in counts], "n": len(values)}


def _found(job: TwoSampleJob, a: Side, b: Side, begin: Begin, pair: tuple[int, ...]) -> Finding:
    x, y = a.require_features("a test"), b.require_features("a test")
    asked = replace(job.asked, image_shape=image_shape(a), begin=begin)
    try:
        return run_test(job.kind, x, y, asked, _streams(job, pair))
    except ValueError as error:
        raise UsageError(f"{a.name} and {b.name}: --test {job.kind}: {error}") from None
    except ImportError as error:
        raise UsageError(f"--test {job.kind}: {error}") from None


def _streams(job: TwoSampleJob, pair: tuple[int, ...]) -> Streams:
    return lambda purpose: make_generator(job.scores.seed, "two-sample-test", *pair, purpose)


def image_shape(side: Side) -> tuple[int, int, int] | None:
    """The shape of flattened images, where pixels are the features."""
    source = side.source
    if not isinstance(source, Input) or source.is_points or side.settings.get("features") != "pixels":
        return None
    shape = source.item_shape
    return (shape[0], shape[1], shape[2]) if math.prod(shape) == side.dimension else None


def n_of(side: Side) -> int:
    return len(side.require_features("a test"))


def heading(a: Side, b: Side) -> dict[str, Any]:
    told = {"x": a.name, "y": b.name, "n_x": n_of(a), "n_y": n_of(b), **a.settings}
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
