"""The page of one run, `report.html` in its folder: made anew after every stage, and by `gebm report`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from gebm_cli.experiment.durations import clock, seconds_of
from gebm_cli.experiment.report.blocks import Missing, Page, Section, Text
from gebm_cli.experiment.report.found import Found, find
from gebm_cli.experiment.report.glossary import words
from gebm_cli.experiment.report.next_steps import next_step
from gebm_cli.experiment.report.page_file import write_page
from gebm_cli.experiment.report.render import render
from gebm_cli.experiment.report.told_chains import mixing, neighbours
from gebm_cli.experiment.report.told_runs import again, commit, experiment, learning, what_was_run
from gebm_cli.experiment.report.told_samples import energies, samples
from gebm_cli.experiment.report.told_scores import comparisons, divergences, headline, scores, tests

NAME = "report.html"
# In the order of what a reader asks: is it better, how do the samples look, can they be trusted, how was it made.
PARTS: dict[str, Callable[[Found], Section | list[Section]]] = {
    "Next step": next_step,
    "Samples": samples,
    "Scores": scores,
    "Two-sample tests": tests,
    "Divergences": divergences,
    "Energies": energies,
    "Chains": mixing,
    "Samplers compared": comparisons,
    "Nearest neighbours": neighbours,
    "Learning curves": learning,
    "What was run": what_was_run,
    "Experiment": experiment,
    "How to reproduce": again,
    "What the words mean": words,
}
OF_NETWORKS = {"Energies", "Chains", "Nearest neighbours"}


def write_report(path: Path, target: Path | None = None) -> Path:
    """Write the page of a run folder, as its `report.html` or as `target`, atomically; returns where.

    Raises:
        GebmError: it cannot be written.
    """
    target = target or path / NAME
    write_page(target, render(page_of(find(path))))
    return target


def page_of(found: Found) -> Page:
    """The whole page; a part that cannot be made says so in its place."""
    parts = [name for name in PARTS if found.is_gebm or name not in OF_NETWORKS]
    sections = [section for name in parts for section in _made(name, found)]
    return Page(found.name, "run", _headline(found), _facts(found), sections)


def _headline(found: Found) -> Text:
    try:
        return headline(found)
    except Exception as error:  # as in `_made`
        return Text(f"What this run has come to cannot be read: {error}", "bad")


def _made(name: str, found: Found) -> list[Section]:
    """A page always comes: what a damaged file does to one part must not cost the others."""
    try:
        made = PARTS[name](found)
        return made if isinstance(made, list) else [made]
    except Exception as error:
        why = str(error) or type(error).__name__
        return [
            Section(
                name.lower().replace(" ", "-"),
                name,
                [Missing(name, f"what is in the run folder cannot be read: {why}")],
            )
        ]


def _facts(found: Found) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    with suppress(Exception):  # as in `_made`; what is told before the damage stays
        for name, told in _told(found):
            facts += [(name, told)] if told else []
    return facts


def _told(found: Found) -> Iterator[tuple[str, str]]:
    last = found.sessions[-1] if found.sessions else {}
    of = found.run.experiment if found.run is not None else None
    yield "experiment", str(found.record.get("experiment", ""))
    if of is not None:
        yield "data", of.data.kind
        if of.is_gebm:
            yield "base", of.base.kind
            yield "objective", of.train_base.objective.kind if of.trains_base else ""
        yield "seed", str(of.seed)
    yield "made", str(found.record.get("created", ""))[:16].replace("T", " ")
    took = [seconds for s in found.sessions if (seconds := seconds_of(s)) is not None]
    yield "time of all stages", clock(math.fsum(took)) if took else ""
    yield "machine", ", ".join(str(last[k]) for k in ("host", "device") if last.get(k))
    yield "commit", commit(last) or ""
    yield "gebm", str((last.get("versions") or {}).get("gebm-cli", ""))
