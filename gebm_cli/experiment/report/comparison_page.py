"""The page of a comparison: what differs between runs, and whether it matters."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from gebm_cli.errors import GebmError
from gebm_cli.experiment.report.blocks import Block, Cell, Code, Missing, Page, Picture, Row, Section, Table, Text
from gebm_cli.experiment.report.film import picture_of
from gebm_cli.experiment.report.found import Found, typed
from gebm_cli.experiment.report.learning import overlaid_curves
from gebm_cli.experiment.report.words import label_of
from gebm_cli.experiment.run_comparison import Comparison, drawn_metrics, value_with_error
from gebm_cli.experiment.run_sets import SET_COLUMNS, listed
from gebm_cli.experiment.sample_sets import SampleSet
from gebm_cli.experiment.score_rows import SIDES, ScoreRow, network_of

WHAT_IT_SAYS = (
    "The test asks which of these trained runs has samples closer to the training data. Whether the settings of one are better "
    "than those of another takes several seeds of each."
)
OF_POINTS = "KID sees the first three moments of raw coordinates alone."


def comparison_page(comparison: Comparison, tests: dict[str, Any] | None, command: list[str]) -> Page:
    """The page; `tests` are those of `compare_samples`, None where they were left out by the user."""
    labels = comparison.labels
    sections = [
        _tests(comparison, tests),
        _samples(comparison),
        _scores(comparison),
        _differences(comparison),
        _curves(comparison),
        Section("again", "How to reproduce", [Code([shlex.join(command)], "This page"), *_opened(comparison)]),
    ]
    headline = Text(_headline(comparison, tests))
    facts = [(label, _fact(found)) for label, found in zip(labels, comparison.founds, strict=True)]
    title = " against ".join(labels) if len(labels) == 2 else listed(labels)
    return Page(title, "comparison", headline, facts, sections)


def _headline(comparison: Comparison, tests: dict[str, Any] | None) -> str:
    """The first finding with what has to be known of it."""
    if not tests or not tests["tests"]:
        return f"{comparison.told}."
    told = findings(tests)[0] + (f" {OF_POINTS}" if tests["caution"] else "")
    return f"{told} T{comparison.of_sets[1:]}." if comparison.of_sets else told


def findings(tests: dict[str, Any]) -> list[str]:
    """A sentence for each test, those that found a difference first."""
    by_p = sorted(
        tests["tests"], key=lambda t: (not t["significant"], t["p_value"] if math.isfinite(t["p_value"]) else 2)
    )
    return [_finding(test) for test in by_p]


def _finding(test: dict[str, Any]) -> str:
    p = test.get("p_value_holm", test["p_value"])
    told = f"p = {p:.2g}" + (" after Holm's correction" if "p_value_holm" in test else "")
    kids = " and ".join(
        f"{value_with_error(test[f'kid_{x}'], test[f'kid_{x}_standard_error'])} ({test[x]})" for x in "ab"
    )
    if not test["significant"]:
        return f"No difference is seen between the {test['of']} samples of {test['a']} and {test['b']}: KID {kids}, {told}."
    other = test["b"] if test["closer"] == test["a"] else test["a"]
    return f"The {test['of']} samples of {test['closer']} are closer to the training data than {other}'s: KID {kids}, {told}."


def _fact(found: Found) -> str:
    last = found.sessions[-1] if found.sessions else {}
    experiment = f"experiment {found.record.get('experiment', '?')}"
    if not last:
        return f"{experiment}, nothing trained yet"
    return f"{experiment}, {last.get('stage')} {last.get('status')} at step {last.get('step', '?')}, seed {last.get('seed', '?')}"


# ---------------------------------------------------------------------------------------------------------------- parts


def _differences(comparison: Comparison) -> Section:
    blocks: list[Block] = [*(Text(problem, "bad") for problem in comparison.problems), Text(f"{comparison.told}.")]
    if comparison.differences:
        rows: list[list[Cell]] = [[row.key, *row.values] for row in comparison.differences]
        blocks.append(
            Table(["key", *comparison.labels], rows, "Keys whose resolved values differ; — where a run has no such key")
        )
    return Section("differences", "What differs", blocks)


def _curves(comparison: Comparison) -> Section:
    blocks: list[Block] = [Text(note, "quiet") for note in comparison.of_curves]
    pictures = []
    for stage, name in drawn_metrics(comparison.founds):
        runs = {
            label: found.metrics.stages.get(stage, {})
            for label, found in zip(comparison.labels, comparison.founds, strict=True)
        }
        picture = overlaid_curves(runs, name, f"{label_of(name)}, {stage}")
        pictures += [] if picture is None else [picture]
    if pictures:
        blocks.append(Row(pictures))
    else:
        none = "no two of the runs have a metric of the same stage in common"
        blocks.append(Missing("Shared curves", "the shared metrics have one value each" if comparison.last else none))
    if comparison.last:
        table: list[list[Cell]] = [[stage, label_of(name), *values] for stage, name, values in comparison.last]
        blocks.append(Table(["stage", "metric", *comparison.labels], table, "The last value of each", folded=True))
    return Section("curves", "Curves", blocks)


def _scores(comparison: Comparison) -> Section:
    if not comparison.scores:
        why = "none of the runs has a score"
        command = shlex.join(["gebm", "verdict", "--run", comparison.founds[0].address])
        return Section("scores", "Scores", [Missing("Scores", why, command)])
    columns = ["score", "of", "reference", "features", *comparison.labels]
    rows: list[list[Cell]] = [
        [row.one.label, row.of, row.one.reference, row.one.network, *map(_score, row.entries)]
        for row in comparison.scores
    ]
    caption = (
        "The newest of each run ± one standard error (n samples). Only scores of the same features, weights, reference and options "
        "share a row."
    )
    notes: list[Block] = [Text(note, "quiet") for note in comparison.of_scores]
    return Section("scores", "Scores", [Table(columns, rows, caption), *notes])


def _score(entry: ScoreRow | None) -> str | None:
    if entry is None:
        return None
    return f"{value_with_error(entry.value, entry.standard_error)} (n {'?' if entry.n_fake is None else entry.n_fake})"


def _tests(comparison: Comparison, tests: dict[str, Any] | None) -> Section:
    title = "Is the difference real?"
    if tests is None:
        return Section("tests", title, [Missing("The test", "it was left out by --no-test")])
    cautions = [f"{told[0].upper()}{told[1:]}." for told in (tests.get("caution"), comparison.of_sets) if told]
    blocks: list[Block] = [Text(told) for told in [*findings(tests), *cautions]]
    if tests["tests"]:
        columns = ["a", "b", "samples", "KID of a", "KID of b", "KID of b − a", "p"]
        holm = any("p_value_holm" in test for test in tests["tests"])
        rows: list[list[Cell]] = [_row(test, holm) for test in tests["tests"]]
        caption = (
            f"Relative test on KID (Bounliphone et al. 2016) against {tests['n_reference']} of {tests['reference']}, "
            f"features: {network_of(tests['features'], tests['weights_hash'])}, two-sided, at level {tests['alpha']}"
        )
        marked = frozenset(k for k, test in enumerate(tests["tests"]) if test["significant"])
        blocks.append(Table([*columns, *(["p, Holm"] if holm else [])], rows, caption, marked, "significant"))
        blocks.append(Text(WHAT_IT_SAYS, "quiet"))
    blocks += [Text(note, "quiet") for note in tests["notes"]]
    blocks += [Missing("A test", told) for told in tests["left_out"]]
    return Section("tests", title, blocks)


def _row(test: dict[str, Any], holm: bool) -> list[Cell]:
    kids: list[Cell] = [value_with_error(test[f"kid_{x}"], test[f"kid_{x}_standard_error"]) for x in "ab"]
    difference = value_with_error(test["kid_b_minus_a"], test["standard_error"])
    samples = f"{test['of']}, n {test['n_a']} and {test['n_b']}"
    return [
        test["a"],
        test["b"],
        samples,
        *kids,
        difference,
        test["p_value"],
        *([test["p_value_holm"]] if holm else []),
    ]


# ------------------------------------------------------------------------------------------------------------- samples


def _samples(comparison: Comparison) -> Section:
    pictures: list[Picture] = []
    blocks: list[Block] = []
    for label, found in zip(comparison.labels, comparison.founds, strict=True):
        shown = _grid(label, found)
        if isinstance(shown, Picture):
            pictures.append(shown)
        else:
            blocks.append(shown)
    if comparison.sets:
        rows: list[list[Cell]] = [compared.row for compared in comparison.sets]
        blocks.append(Table(SET_COLUMNS, rows, "The sample sets that are compared", sortable=False))
    return Section("samples", "Samples", [*([Row(pictures)] if pictures else []), *blocks])


def _grid(label: str, found: Found) -> Picture | Missing:
    newest = _newest_picture(found)
    if newest is None:
        command = shlex.join(["gebm", "sample", "--run", found.address])
        return Missing(f"Samples of {label}", "no sample set with a picture", command)
    one, file = newest
    n, of = one.described.get("n_samples"), SIDES[one.kind]
    alt = f"A grid of the first {of} samples of {label}, from its set {one.name}" + (f" of {n}" if n else "")
    caption = f"{label}: {of} samples, {one.name}{_halves(one)}"
    try:
        picture = picture_of(file, alt, caption, typed(one.described))
    except GebmError as error:
        return Missing(f"Samples of {label}", str(error))
    assert picture is not None, "_newest_picture has looked"
    return picture


def _newest_picture(found: Found) -> tuple[SampleSet, Path] | None:
    """The newest set, of chains before those of the base before those of a flow, and its grid of images."""
    for kind in ("chains", "base", "flow"):
        for one in reversed(found.sets):
            if one.kind == kind and (one.path / "grid.png").is_file():
                return one, one.path / "grid.png"
    return None


def _halves(one: SampleSet) -> str:
    """What stands on the left of a grid of two halves."""
    if one.kind == "flow":
        return "; left: where the particles started"
    return "; left: the base, from the same latents" if one.described.get("mode") == "refine" else ""


def _opened(comparison: Comparison) -> list[Block]:
    commands = [shlex.join(["gebm", "report", found.address]) for found in comparison.founds]
    there = any((found.path / "report.html").is_file() for found in comparison.founds)
    return [Code(commands, "A page of each run")] if there else []
