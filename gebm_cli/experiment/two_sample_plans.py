"""Two questions beside the test of two sets: which of two is closer to a third, and how many samples a test needs."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import relative_mmd2
from gebm_cli.core.two_sample.collections import described, kernel_of
from gebm_cli.core.two_sample.kinds import prepared
from gebm_cli.core.two_sample.names import LEARNED, NO_BANDWIDTH
from gebm_cli.core.two_sample.sample_size import PowerCurve, power_curve
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.score_job import Begin
from gebm_cli.experiment.two_sample_drawing import draw_power
from gebm_cli.experiment.two_sample_job import TwoSampleJob
from gebm_cli.experiment.two_sample_pictures import save_relative_picture
from gebm_cli.experiment.two_sample_records import EFFECT_ROWS, heading, n_of, tested
from gebm_cli.experiment.two_sample_warnings import of_sides

SIZES = 25  # points of a power curve


def relative(job: TwoSampleJob, sides: list[Side], network: Features | None) -> dict[str, Any]:
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
    record = {
        "test": "relative",
        "statistic": found.value,
        "standard_error": found.standard_error,
        "z": found.z,
        "p_value": p,
        "p_value_x_closer": found.p_less,
        "alpha": job.asked.alpha,
        "reject": bool(p <= job.asked.alpha),
        "closer": closer,
        **heading(a, b),
        "reference": reference.name,
        "n_reference": n_of(reference),
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
    if job.picture is not None:
        save_relative_picture(Path(job.picture), record)
    return record


def _relative_kernel(job: TwoSampleJob, x: Tensor, y: Tensor, r: Tensor) -> Kernel:
    """The bandwidth is the mean of the medians of both pairs, so that neither A nor B is favoured."""
    name, widths = job.asked.kernel, job.asked.bandwidths
    if not widths and name not in NO_BANDWIDTH:
        medians = [kernel_of(name, (), torch.cat([r, side])).bandwidth for side in (x, y)]  # type: ignore[attr-defined]
        widths = (sum(medians) / 2,)
    return kernel_of(name, widths, r)


def predicted(job: TwoSampleJob, a: Side, b: Side, network: Features | None, begin: Begin) -> dict[str, Any]:
    """What the pair as a pilot says of tests with more or fewer samples, by the kernel that the test would use."""
    finding, record = tested(job, a, b, network, begin)
    n, m = record["n_tested"]
    x, y = finding.x[:EFFECT_ROWS], finding.y[:EFFECT_ROWS]
    curve = power_curve(
        x, y, finding.kernel, finding.outcome.null, job.asked.alpha, _sizes(max(n, m)), null_sizes=(n, m)
    )
    curve = _in_all(curve, 1 - job.asked.split if job.kind in LEARNED else 1.0)
    if record["p_value"] > job.asked.alpha:
        record["warnings"].append(
            f"{a.name} and {b.name}: the pilot itself is not significant (p = {record['p_value']:.2g}), so the difference that the "
            "prediction is about may be chance"
        )
    if job.picture is not None:
        draw_power(Path(job.picture), curve, (n_of(a), n_of(b)))
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
