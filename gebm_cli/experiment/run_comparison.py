"""What differs between runs: keys, newest figures, and scores, only those side by side that may be compared. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from gebm_cli.errors import UsageError
from gebm_cli.experiment.report.found import Found, find
from gebm_cli.experiment.run import find_run
from gebm_cli.experiment.run_scores import Scores, scores_of, uneven
from gebm_cli.experiment.run_sets import ComparedSet, compared_sets, drawn_otherwise
from gebm_cli.experiment.writing import written

MOST = 8
OF_NO_WEIGHT = ("name", "seed")  # keys that may differ between runs of one experiment


@dataclass(frozen=True)
class Difference:
    """A key whose resolved value differs; a run that has no such key has None, and a null of its own is the word."""

    key: str
    values: list[str | None]


@dataclass(frozen=True)
class Comparison:
    """Everything but the tests.

    Attributes:
        labels: name the runs, each its own.
        last: (stage, metric, newest value of each).
        sets: the sample sets that are compared, whether they are tested or not.
        problems, of_curves, of_scores: what has to be known: of files that cannot be read, of the curves, of the scores.
    """

    founds: list[Found]
    labels: list[str]
    n_keys: int
    differences: list[Difference]
    last: list[tuple[str, str, list[float | None]]]
    scores: list[Scores]
    sets: list[ComparedSet] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    of_curves: list[str] = field(default_factory=list)
    of_scores: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        return [*self.problems, *self.of_curves, *self.of_scores]

    @property
    def only_seed(self) -> bool:
        """Whether the runs are repetitions of one experiment, with samples that were drawn alike."""
        return self._trained_alike and not self.of_sets

    @property
    def of_sets(self) -> str:
        """What else than the run differs between the compared samples, in a clause; empty where nothing does."""
        told = drawn_otherwise(self.sets)
        return f"the compared samples were drawn otherwise: {'; '.join(told)}" if told else ""

    @property
    def _trained_alike(self) -> bool:
        keys = {d.key for d in self.differences}
        return "seed" in keys and keys <= set(OF_NO_WEIGHT)

    @property
    def told(self) -> str:
        """How much differs, in a sentence."""
        if not self.of_sets:
            return self._told_of_keys
        return f"{self._told_of_keys}, {'but' if self._trained_alike or not self.differences else 'and'} {self.of_sets}"

    @property
    def _told_of_keys(self) -> str:
        n = len(self.differences)
        if any(found.resolved is None for found in self.founds):
            return "The keys cannot be compared: an experiment cannot be read"
        if self._trained_alike:
            told = "differ by their seed alone"
            return (
                f"The experiments {told}"
                if self.of_sets
                else f"The runs {told}: they are repetitions of one experiment"
            )
        if n == 0:
            return f"All {self.n_keys} keys are equal, the seed too"
        return f"{n} of {self.n_keys} keys differ{'' if any(d.key == 'seed' for d in self.differences) else '; the seed is equal'}"


def find_runs(names: list[str], root: Path) -> list[Found]:
    """The runs of these names, each once.

    Raises:
        UsageError: fewer than two or more than `MOST`, one that is not there, or one that is given twice.
    """
    if not 2 <= len(names) <= MOST:
        raise UsageError(
            f"compare: got {len(names)} run{'' if len(names) == 1 else 's'}, expected 2 to {MOST}, for instance "
            "`gebm compare digits-001 digits-002`; `gebm runs` lists them"
        )
    paths: list[Path] = []
    for name in names:
        try:
            path = find_run(root, name).path
        except UsageError as error:
            raise type(error)(str(error).removeprefix("--run ")) if type(error) is UsageError else error from None
        if path.resolve() in [other.resolve() for other in paths]:
            raise UsageError(f"{name}: is given twice, and a run does not differ from itself; name another run")
        paths.append(path)
    return [find(path) for path in paths]


def compare_runs(founds: list[Found]) -> Comparison:
    """All that needs no computation."""
    names = [found.name for found in founds]
    labels = [f.name if names.count(f.name) == 1 else str(f.path) for f in founds]
    n_keys, differences = _differences(founds)
    of_curves = []
    for label, found in zip(labels, founds, strict=True):
        if found.metrics.n_bad:
            of_curves.append(
                f"{label}: {found.metrics.n_bad} of {found.metrics.n_rows} lines of metrics.jsonl are no rows"
            )
        if not found.metrics.stages:
            of_curves.append(f"{label}: has no metrics, so it has no curves")
    problems = [problem for found in founds for problem in found.problems]
    last, scores, sets = _last_values(founds), scores_of(founds), compared_sets(founds, labels)
    return Comparison(founds, labels, n_keys, differences, last, scores, sets, problems, of_curves, uneven(scores))


# ---------------------------------------------------------------------------------------------------------------- keys


def _differences(founds: list[Found]) -> tuple[int, list[Difference]]:
    """How many keys there are in all, and those that differ, in the order of the experiments."""
    resolved = [found.resolved for found in founds if found.resolved is not None]
    if len(resolved) < len(founds):
        return 0, []
    columns = [{v.name: written(v.value) for v in r.values if not v.section} for r in resolved]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [Difference(key, [column.get(key) for column in columns]) for key in keys]
    return len(keys), [row for row in rows if len(set(row.values)) > 1]


# ------------------------------------------------------------------------------------------------------------- metrics


def shared_metrics(founds: list[Found]) -> list[tuple[str, str]]:
    """(stage, metric) that at least two runs have, in order of appearance; no error bars."""
    all_keys = [
        [(stage, name) for stage, series in found.metrics.stages.items() for name in series] for found in founds
    ]
    counts = {key: sum(key in keys for keys in all_keys) for key in dict.fromkeys(k for keys in all_keys for k in keys)}
    return [key for key, n in counts.items() if n >= 2 and not key[1].endswith("_standard_error")]


def drawn_metrics(founds: list[Found]) -> list[tuple[str, str]]:
    """The shared metrics that have a second value in some run: one value is told by the table."""
    metrics = [found.metrics.stages for found in founds]
    return [
        (stage, name)
        for stage, name in shared_metrics(founds)
        if any(len(stages[stage][name].values) > 1 for stages in metrics if name in stages.get(stage, {}))
    ]


def _last_values(founds: list[Found]) -> list[tuple[str, str, list[float | None]]]:
    rows = []
    for stage, name in shared_metrics(founds):
        series = [found.metrics.stages.get(stage, {}).get(name) for found in founds]
        rows.append((stage, name, [float(s.values[-1]) if s is not None and len(s.values) else None for s in series]))
    return rows


def value_with_error(value: float, error: float | None) -> str:
    """`0.649 ± 0.10`: the value to the second digit of its standard error."""
    if error is None or not 0 < error < math.inf or not abs(value) < 1e6:
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}" if decimals <= 6 else f"{value:.3g} ± {error:.2g}"
