"""Two-sample tests of sets that a user names: read, passed through one feature network, tested, recorded, drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.kernels import Gaussian, Kernel, median_bandwidth
from gebm_cli.core.two_sample.multiple import holm
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.files import write_yaml
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.score_checks import require_alike, require_comparable, require_enough, require_one_size
from gebm_cli.experiment.score_checks import require_flags as require_score_flags
from gebm_cli.experiment.score_job import Begin, network_of, reader, settings_of
from gebm_cli.experiment.sides import matched_columns, side_of, standardised
from gebm_cli.experiment.two_sample_drawing import draw_matrix, draw_test
from gebm_cli.experiment.two_sample_job import TwoSampleJob, is_settled, require_files, require_fit, require_testable
from gebm_cli.experiment.two_sample_plans import predicted, relative
from gebm_cli.experiment.two_sample_records import EFFECT_ROWS, tested


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
    require_files(job)
    if is_settled(job):
        require_fit(job)
    read, sources = reader(job.scores, begin), []
    owner = job.scores.run
    for text in [*job.scores.samples, *([job.reference] if job.reference else [])]:
        sources.append(read(text, owner))
        owner = owner or getattr(sources[-1], "run", None)
    job = settle(job, owner)
    require_fit(job)
    require_alike(job.scores, sources)
    sources[1:] = [matched_columns(sources[0], other) for other in sources[1:]]
    require_testable(job, sources)
    # Pixels, or a classifier that would be learned first: either needs one size.
    if job.scores.features is None and owner is None:
        require_one_size("pixels", [source for source in sources if isinstance(source, Input)])
    network = network_of(job.scores, sources, begin)
    require_comparable(job.scores, network, sources)
    settings = settings_of(job.scores, network, sources)
    require_enough(job.scores, network, sources)
    sides = [side_of(job.scores, source, network, settings, begin) for source in sources]
    if job.standardise:
        sides = standardised(sides, "a test")
    outcome = Outcome()
    if job.is_relative:
        _keep(outcome, sides[0], relative(job, sides, network))
    elif job.power:
        _keep(outcome, sides[0], predicted(job, sides[0], sides[1], network, begin))
    else:
        _pairs(job, sides, network, begin, outcome)
    if job.picture is not None:
        outcome.saved.append(f"picture: {job.picture}")
    if job.record is not None:
        write_yaml(Path(job.record), outcome.as_json())
        outcome.saved.append(f"record: {job.record}")
    return outcome


def _keep(outcome: Outcome, side: Side, record: dict[str, Any]) -> None:
    outcome.records.append(record)
    outcome.owned.append((side.source.run if isinstance(side.source, Input) else None, record))


# ------------------------------------------------------------------------------------------------------------- all pairs


def _pairs(job: TwoSampleJob, sides: list[Side], network: Features | None, begin: Begin, outcome: Outcome) -> None:
    pairs = list(combinations(range(len(sides)), 2))
    if len(pairs) == 1:
        finding, record = tested(job, sides[0], sides[1], network, begin)
        _keep(outcome, sides[0], record)
        if job.picture is not None:
            draw_test(Path(job.picture), job.kind, sides[0], sides[1], finding, job.asked.alpha)
        return
    common = _common_kernel(sides)
    for i, j in pairs:
        tell = _named(begin, f"{sides[i].name} and {sides[j].name}: ")
        _keep(outcome, sides[i], tested(job, sides[i], sides[j], network, tell, (i, j), common)[1])
    adjusted = holm({pair: r["p_value"] for pair, r in zip(pairs, outcome.records, strict=True)})
    for pair, record in zip(pairs, outcome.records, strict=True):
        record |= {"p_value_holm": adjusted[pair], "reject_all_pairs": adjusted[pair] <= job.asked.alpha}
    if job.picture is not None:
        draw_matrix(Path(job.picture), [s.name for s in sides], pairs, outcome.records, job.asked.alpha)


def _common_kernel(sides: list[Side]) -> Kernel:
    """One kernel for the effect sizes of all pairs, or they would not compare: Gaussian, the median distance of all sets."""
    few = [side.require_features("a test")[:EFFECT_ROWS] for side in sides]
    return Gaussian(median_bandwidth(torch.cat(few)))


def _named(begin: Begin, front: str) -> Begin:
    return lambda what, unit, total: begin(front + what, unit, total)
