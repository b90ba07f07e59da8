"""What to test and how: the flags of `gebm two-sample-test`, and what is refused before the long work begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from gebm_cli.core.two_sample.aggregation import relabelings_of
from gebm_cli.core.two_sample.kinds import Asked
from gebm_cli.core.two_sample.names import FEATURE_MEANS, LEARNED, NO_BANDWIDTH, ONE_KERNEL, STOPPABLE, Kind
from gebm_cli.core.two_sample.p_values import smallest_p
from gebm_cli.core.two_sample.relabelling import Permutations, Relabelings
from gebm_cli.errors import UsageError
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.score_job import Job
from gebm_cli.experiment.scored_inputs import holds_images
from gebm_cli.experiment.sides import require_independent, require_writable

FEWEST = 4
FEWEST_TO_LEARN = {"mmd-opt": 4, "deep": 20, "c2st": 10, "c2st-sign": 10, "me": 4, "scf": 4}
POWER_KINDS: tuple[Kind, ...] = ("mmd", "mmd-opt", "deep")


@dataclass(frozen=True)
class TwoSampleJob:
    """Which sets to test, by what test, and what to write.

    Attributes:
        scores: how the sets are read and made into features; `scores.samples` are the sets.
        reference: of the relative test; None for a two-sample test.
        given: the flags that were typed, for messages about those that do not fit.
    """

    scores: Job
    kind: Kind
    asked: Asked
    reference: str | None = None
    power: bool = False
    standardise: bool = False
    picture: str | None = None
    record: str | None = None
    given: frozenset[str] = frozenset()

    @property
    def is_relative(self) -> bool:
        return self.reference is not None

    @property
    def n_pairs(self) -> int:
        k = len(self.scores.samples)
        return k * (k - 1) // 2

    @property
    def strictest(self) -> float:
        """The level that the clearest of all pairs must reach (Holm 1979)."""
        return self.asked.alpha / max(1, self.n_pairs)


def require_files(job: TwoSampleJob) -> None:
    """Refuse, before anything is read, too few sets and files that cannot be written."""
    sets = len(job.scores.samples)
    if sets < 2:
        raise UsageError(f"a test needs two sets, got {sets}; give two folders, archives, arrays, runs or data sets")
    require_writable(job.picture, job.record)


def is_settled(job: TwoSampleJob) -> bool:
    """Whether no set can bring an experiment, whose keys would stand under the flags."""
    names = job.scores.samples
    return job.scores.run is not None or all(holds_images(name) or Path(name).is_file() for name in names)


def require_fit(job: TwoSampleJob) -> None:
    """Refuse flags that do not fit each other, or the test that the flags and the experiment ask for."""
    sets = len(job.scores.samples)
    if job.is_relative:
        _require_relative(job, sets)
    elif job.power:
        _require_power(job, sets)
    if job.strictest < 1 / (job.asked.count + 1) and not job.is_relative:
        pairs = f" by one of {job.n_pairs} pairs (Holm's correction)" if job.n_pairs > 1 else ""
        raise UsageError(
            f"--alpha {job.asked.alpha:g}: cannot be reached{pairs} with {job.asked.count} permutations; use at least "
            f"--permutations {math.ceil(1 / job.strictest) - 1}"
        )
    _require_options(job)


def _require_relative(job: TwoSampleJob, sets: int) -> None:
    if sets != 2:
        raise UsageError(f"--reference: asks which of two sets is closer to it, got {sets} sets; give two")
    unfit = job.given & {"--test", "--power", "--stop-early", "--permutations", "--split", "--fail-if-different"}
    if unfit:
        raise UsageError(
            f"{min(unfit)}: does not go with --reference, whose test is another (a normal law, no permutations); leave it out"
        )
    if job.reference in job.scores.samples:
        raise UsageError(
            f"--reference {job.reference}: is one of the two sets, and nothing is closer to it than itself; give a third"
        )


def _require_power(job: TwoSampleJob, sets: int) -> None:
    if sets != 2:
        raise UsageError(f"--power: predicts from one pilot of two sets, got {sets} sets")
    if job.kind not in POWER_KINDS:
        raise UsageError(
            f"--power: predicts for one kernel, so it is for --test {', '.join(POWER_KINDS)}, got {job.kind}"
        )
    if job.asked.stop_early:
        raise UsageError("--stop-early: does not go with --power, which needs all relabellings; leave it out")
    if "--fail-if-different" in job.given:
        raise UsageError("--fail-if-different: does not go with --power, which asks about later tests; leave it out")


def _require_options(job: TwoSampleJob) -> None:
    kind, asked = job.kind, job.asked
    if "--kernel" in job.given and kind not in ONE_KERNEL and not job.is_relative:
        raise UsageError(
            f"--kernel: is for --test {', --test '.join(ONE_KERNEL)} and --reference; {kind} has kernels of its own; leave it out"
        )
    if "--bandwidth" in job.given and asked.kernel in NO_BANDWIDTH:
        raise UsageError(f"--bandwidth: the {asked.kernel} kernel has none; leave it out")
    if "--bandwidth" in job.given and kind != "mmd" and not job.is_relative:
        raise UsageError(f"--bandwidth: is for --test mmd and --reference; {kind} finds its own; leave it out")
    if "--split" in job.given and kind not in LEARNED:
        raise UsageError(
            f"--split: is for tests that learn ({', '.join(LEARNED)}); {kind} tests on all samples; leave it out"
        )
    if asked.stop_early and (kind not in STOPPABLE or job.n_pairs > 1):
        why = (
            "Holm's correction needs the p-value of every pair"
            if job.n_pairs > 1
            else f"{kind} ranks every relabelling among all others"
        )
        raise UsageError(f"--stop-early: {why}, so all relabellings are needed; leave it out")


# ------------------------------------------------------------------------------------------------------- the sets as read


def size_of(side: Input | Known) -> int:
    """How many samples it has.

    Raises:
        UsageError: statistics alone are known, which no test can use.
    """
    if isinstance(side, Input):
        return len(side.data)
    if side.features is None:
        raise UsageError(
            f"{side.name}: holds mean and covariance only, and a test needs the features of every sample; give the samples, or a "
            "file written by --save-features"
        )
    return len(side.features)


def require_testable(job: TwoSampleJob, sides: list[Input | Known]) -> None:
    """Refuse sets that are too small, or were drawn with the same random numbers, before any feature is computed."""
    for side in sides:
        if size_of(side) < FEWEST:
            raise UsageError(f"{side.name}: a test needs at least {FEWEST} samples a side, got {size_of(side)}")
    require_independent(sides, "the test")
    if job.is_relative:
        return
    for side in sides:
        _require_split(job, side)
    sizes = sorted(size_of(side) for side in sides)
    group = group_of(job, sizes[0], sizes[1])
    if 1 / group.n_distinct > job.strictest:
        raise UsageError(
            f"--alpha {job.asked.alpha:g}: cannot be reached, since so few samples have only {group.n_distinct:.0f} "
            f"relabellings that differ, and p is at least {1 / group.n_distinct:.2g}; give more samples"
        )


def _require_split(job: TwoSampleJob, side: Input | Known) -> None:
    if job.kind not in LEARNED:
        return
    n, least = size_of(side), FEWEST_TO_LEARN[job.kind]
    train = round(job.asked.split * n)
    if train < least or n - train < FEWEST:
        raise UsageError(
            f"{side.name}: --split {job.asked.split:g} of {n} samples leaves {train} to learn from and {n - train} to test on, and "
            f"{job.kind} needs {least} and {FEWEST}; give more samples, another --split, or --test mmd-fuse, which needs none"
        )


def tested_sizes(job: TwoSampleJob, n: int, m: int) -> tuple[int, int]:
    """How many of n and m samples are tested, and not learned from."""
    if job.kind not in LEARNED:
        return n, m
    return n - round(job.asked.split * n), m - round(job.asked.split * m)


def group_of(job: TwoSampleJob, n: int, m: int) -> Relabelings:
    """The relabelings that the test of n and m samples will use."""
    n, m = tested_sizes(job, n, m)
    if job.kind in (*FEATURE_MEANS, "ctt"):
        return Permutations(n, m, one_sided=job.kind.startswith("c2st"))
    return relabelings_of(n, m)


def coarse_p(job: TwoSampleJob, n: int, m: int) -> float | None:
    """The smallest p-value, where there are fewer distinct relabelings than the test will draw; else None."""
    group = group_of(job, n, m)
    return smallest_p(group, job.asked.count) if group.n_distinct < job.asked.count + 1 else None
