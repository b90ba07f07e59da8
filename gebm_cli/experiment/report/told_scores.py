"""The sections of a run's page on its scores: the verdict, all scores in one table, and the tests with their null histograms."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any

from gebm_cli.experiment.files import when
from gebm_cli.experiment.report.blocks import Block, Cell, Missing, Row, Section, Table, Text
from gebm_cli.experiment.report.figures import null_histogram
from gebm_cli.experiment.report.film import picture_of
from gebm_cli.experiment.report.found import Found, Score, typed
from gebm_cli.experiment.report.next_steps import ENDED_EARLY, absent
from gebm_cli.experiment.score_rows import SIGNIFICANT, ScoreRow, home_of, score_rows

COLUMNS = ["score", "samples", "reference", "value", "standard error", "p", "n", "n reference", "features"]
SPLITS = {"train": "training", "held-out": "held-out"}
MOST_TESTS = 6


def headline(found: Found) -> Text:
    """The one sentence to take away: what went wrong, else the newest verdict, else how far the run has come."""
    last = found.sessions[-1] if found.sessions else {}
    if last.get("status") in ENDED_EARLY:
        return Text(f"The last stage, {last.get('stage')}, ended early: {last['status']}.", "bad")
    verdict = next((s for s in reversed(found.scores) if s.metric == "verdict"), None)
    said = [] if verdict is None else judged(found, verdict.record)
    if verdict is None or not said or last.get("status") == "running":
        return Text(progress_of(found))
    others = [f"Against {s.against}: {s.word}, p = {s.p}." for s in said[1:]]
    return Text(" ".join([said[0].text.text, *others, *_unjudged(found, verdict)]), said[0].text.tone)


def _unjudged(found: Found, verdict: Score) -> list[str]:
    """The sets of chains that are newer than a verdict."""
    moment = when(verdict.path, verdict.record)
    newer = [s.name for s in found.sets if s.kind == "chains" and when(s.path / "sample.yaml", s.described) > moment]
    return [f"Newer, and not judged: {', '.join(newer)}."] if newer else []


def progress_of(found: Found) -> str:
    """How far a run has come that has no verdict."""
    last = found.sessions[-1] if found.sessions else None
    if last is None:
        return "Nothing has run in this run yet."
    if last.get("status") == "running":
        return f"{last.get('stage')} is running; this page is made anew when it ends."
    if not found.is_gebm:
        return "Particles alone: there are no networks in this run."
    if not found.done("train-base"):
        return "The base is not trained yet."
    if not found.done("train-energy"):
        return "The base is trained, the energy is not yet."
    if found.newest("chains") is None:
        return "Base and energy are trained; no samples were drawn yet."
    return "Samples were drawn; whether they are better than the base's, `gebm verdict` tells."


@dataclass(frozen=True)
class Judged:
    """What a verdict says against one reference."""

    text: Text
    word: str
    against: str
    p: str


def judged(found: Found, record: dict[str, Any]) -> list[Judged]:
    """What a verdict says, for each reference."""
    references = record.get("references")
    if not isinstance(references, dict):
        return []
    sides = [str(record.get(side)).replace(f"{found.name}/", "") for side in ("gebm", "base")]
    return [_sentence(record, sides, name, entry) for name, entry in references.items() if isinstance(entry, dict)]


def _sentence(record: dict[str, Any], sides: list[str], name: str, entry: dict[str, Any]) -> Judged:
    p = entry.get("p_value")
    p = math.nan if p is None else float(p)
    better, worse = bool(entry.get("significant")), p > 1 - SIGNIFICANT
    word = "significantly better" if better else "worse" if worse else "not significantly better"
    kids = [
        f"{_short(entry.get(f'kid_{side}'))} ± {_short(entry.get(f'kid_{side}_standard_error'), 2)}"
        for side in ("base", "gebm")
    ]
    against = f"{entry.get('n_real')} {SPLITS.get(name, name)} points"
    told = (
        f"The GEBM ({sides[0]}) is {word} than its base ({sides[1]}): KID {kids[0]} → {kids[1]} against {against} "
        f"(p = {_short(p, 2)}, n = {record.get('n_base')} and {record.get('n_gebm')}, {record.get('features')} features)."
    )
    return Judged(Text(told, "good" if better else "bad" if worse else "plain"), word, against, _short(p, 2))


def _short(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if isinstance(value, int | float) else "?"


def scores(found: Found) -> Section:
    """The newest verdict in words, then every score with its n, features and standard error."""
    blocks: list[Block] = []
    verdict = next((s for s in reversed(found.scores) if s.metric == "verdict"), None)
    if verdict is not None:
        blocks += [judgement.text for judgement in judged(found, verdict.record)]
    elif found.is_gebm:
        if found.newest("base") and found.newest("chains"):
            why = "it compares base samples with GEBM samples, and was not asked for"
            blocks.append(absent(found, "A verdict on base and GEBM", why, "verdict"))
        else:
            blocks.append(Missing("A verdict on base and GEBM", "it needs samples of both"))
    home = home_of(found.path, found.record, found.run.experiment if found.run is not None else None)
    rows = [_shortened(found, _row(row)) for score in found.scores for row in score_rows(score.record, home)]
    if rows:
        told = "Lower is better for FID and KID, higher for IS, precision, recall, density and coverage."
        blocks += [Table(COLUMNS, rows, "All scores, oldest first"), Text(told, "quiet")]
    else:
        blocks.append(Missing("Scores", "none were taken"))
    warnings = dict.fromkeys(str(w) for s in found.scores for w in s.record.get("warnings") or [])
    blocks += [Text(f"Note: {warning}", "quiet") for warning in warnings]
    return Section("scores", "Scores", blocks)


def _shortened(found: Found, row: list[Cell]) -> list[Cell]:
    """Sets of this run by their own name."""
    return [cell.replace(f"{found.name}/", "") if isinstance(cell, str) else cell for cell in row]


def _row(row: ScoreRow) -> list[Cell]:
    where: list[Cell] = [row.label, row.samples, row.reference, row.value, row.standard_error, row.p_value]
    return [*where, row.n_fake, row.n_real, row.network]


def tests(found: Found) -> Section:
    """The null histogram of each two-sample test with its observed statistic, and the test in a sentence."""
    records = [s.record for s in found.scores if s.metric == "two-sample-test"]
    if not records:
        newest = found.newest("chains") or found.newest("base")
        why = "none was run on samples of this run"
        words = ["gebm", "two-sample-test", f"{found.address}/{newest.name}", "held-out"] if newest else []
        command = shlex.join(words) if words else None
        return Section("tests", "Two-sample tests", [Missing("Two-sample tests", why, command)])
    shown = records[-MOST_TESTS:][::-1]
    blocks: list[Block] = [Text(_tested(found, record)) for record in shown]
    drawn = [record for record in shown if isinstance(record.get("null_histogram"), dict)]
    if drawn:
        blocks.append(Row([null_histogram(record, typed(record)) for record in drawn]))
    elif any(record.get("test") not in ("relative", "power") for record in shown):
        blocks.append(Missing("Null histograms", "the tests were run before these were kept; run them again"))
    if len(records) > MOST_TESTS:
        blocks.append(Text(f"The newest {MOST_TESTS} of {len(records)} tests.", "quiet"))
    told = (
        "Better than the base is not yet the same as data: these ask whether two sets differ at all, which with many samples "
        "nearly every model does. A histogram has the statistic under random relabellings, as it would be without a difference."
    )
    return Section("tests", "Two-sample tests", blocks, told)


def _tested(found: Found, record: dict[str, Any]) -> str:
    x, y, kind = str(record.get("x")), str(record.get("y")), record.get("test")
    x, y = (name.replace(f"{found.name}/", "") for name in (x, y))
    if kind == "relative":
        closer = record.get("closer")
        told = f"{closer} is closer" if closer else "neither is shown to be closer"
        return f"Which of {x} and {y} is closer to {record.get('reference')}: {told} (p = {_short(record.get('p_value'), 2)})."
    if kind == "power":
        return f"Power predicted from {x} and {y}."
    word = "differ" if record.get("reject") else "are not shown to differ"
    effect = record.get("effect") or {}
    sizes = record.get("n_tested") or ["?", "?"]
    return (
        f"{x} and {y} {word} at level {_short(record.get('alpha'))}: p = {_short(record.get('p_value'), 2)} ({kind}, "
        f"{sizes[0]} and {sizes[1]} samples, {record.get('features')} features, MMD {_short(effect.get('mmd'))})."
    )


def divergences(found: Found) -> list[Section]:
    """The newest estimates of `gebm divergence`; no section where it was not asked for."""
    records = [s.record for s in found.scores if isinstance(s.record.get("divergences"), list)]
    if not records:
        return []
    record = records[-1]
    rows = [_divergence(d) for d in record["divergences"]]
    x, y = (str(record.get(k)).replace(f"{found.name}/", "") for k in ("x", "y"))
    told = f"A: {record.get('n_x')} of {x}; B: {record.get('n_y')} of {y}; {record.get('features')} features"
    columns = ["divergence", "value", "standard error", "direction", "estimator"]
    return [Section("divergences", "Divergences", [Table(columns, rows, told)])]


def _divergence(told: dict[str, Any]) -> list[Cell]:
    value: Cell = f"at least {_short(told.get('at_least'))}" if told.get("infinite") else told.get("value")
    return [told.get("kind"), value, told.get("standard_error"), told.get("direction"), told.get("estimator")]


def comparisons(found: Found) -> list[Section]:
    """The newest sweep or comparison of samplers; no section where there was none."""
    records = [s for s in found.scores if isinstance(s.record.get("sets"), list)]
    if not records:
        return []
    score = records[-1]
    rows = [_compared(one) for one in score.record["sets"] if isinstance(one, dict)]
    columns = [
        "set",
        "sampler or setting",
        "beta",
        "steps",
        "acceptance",
        "R-hat",
        "ESS bulk",
        "ESS per gradient",
        "mixed",
    ]
    blocks: list[Block] = [Table(columns, rows, f"{score.path.name}, {len(rows)} sets")]
    picture = picture_of(
        score.path.with_suffix(".png"),
        "Scores of the compared sets against cost",
        "Quality against cost",
        typed(score.record),
    )
    blocks += [picture] if picture is not None else []
    return [Section("comparison", "Samplers compared", blocks)]


def _compared(one: dict[str, Any]) -> list[Cell]:
    mixed = one.get("mixed")
    keys = ("beta", "n_steps", "acceptance", "rhat", "ess_bulk", "ess_per_gradient")
    verdict = one.get("error") or (None if mixed is None else "yes" if mixed else "no")
    return [one.get("set"), one.get("label"), *(one.get(key) for key in keys), verdict]
