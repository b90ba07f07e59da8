"""The sections of a run's page on what was run: its stages, its experiment, its learning curves, and how to do it again."""

from __future__ import annotations

import shlex
from typing import Any

from gebm_cli.experiment.doubts import doubts
from gebm_cli.experiment.durations import clock, seconds_of
from gebm_cli.experiment.report.blocks import Block, Cell, Code, Missing, Row, Section, Table, Text
from gebm_cli.experiment.report.found import STAGES, Found, typed
from gebm_cli.experiment.report.learning import learning_curves
from gebm_cli.experiment.report.next_steps import ENDED_EARLY, absent, how_it_ended
from gebm_cli.experiment.report.words import label_of
from gebm_cli.experiment.showing import Value
from gebm_cli.experiment.writing import written

ERROR = "_standard_error"
GOOD_SIGNS = {
    "train-base": "Adversarial losses need not fall: look at scores and samples. A gradient norm or a penalty that grows without "
    "end does not converge.",
    "train-energy": "KALE rises while the energy learns. Where training data rise and held-out data fall, it learns by heart, and "
    "fewer steps are better.",
}


def what_was_run(found: Found) -> Section:
    """The sessions in order, with machine, time and how they ended; what failed says so first."""
    blocks: list[Block] = [Text(problem, "bad") for problem in found.problems]
    blocks += [Text(how_it_ended(found, s), "bad") for s in found.sessions if s.get("status") in ENDED_EARLY]
    if found.sessions:
        blocks.append(Table(SESSION_COLUMNS, [_session(s) for s in found.sessions], "Stages, in the order they ran"))
    else:
        blocks.append(Missing("No stage has run", "the run was made, and nothing was trained in it yet"))
    return Section("run", "What was run", blocks)


SESSION_COLUMNS = [
    "stage",
    "status",
    "steps",
    "started (UTC)",
    "took",
    "device",
    "exit code",
    "host",
    "commit",
    "torch",
]


def _session(session: dict[str, Any]) -> list[Cell]:
    versions = session.get("versions") or {}
    return [
        str(session.get("stage", "?")),
        str(session.get("status", "?")),
        session.get("step"),
        str(session.get("start", ""))[:19].replace("T", " "),
        duration(session),
        session.get("device"),
        session.get("exit_code"),
        session.get("host"),
        commit(session),
        versions.get("torch"),
    ]


def commit(session: dict[str, Any]) -> str | None:
    """The first ten letters of the commit, with `+` where the checkout was changed; None where none is known."""
    git = session.get("git")
    if not isinstance(git, dict):
        return None
    return str(git.get("commit", ""))[:10] + ("+ (changed)" if git.get("dirty") else "")


def duration(session: dict[str, Any]) -> str | None:
    """How long a session took, as h:mm:ss; None where it has not ended."""
    seconds = seconds_of(session)
    return None if seconds is None else clock(seconds)


def experiment(found: Found) -> Section:
    """Every key with its value; those that differ from their default first, the whole list folded."""
    if found.resolved is None:
        return Section(
            "experiment", "Experiment", [Missing("The experiment", "experiment.yaml cannot be read; see above")]
        )
    values = [v for v in found.resolved.values if not v.section]
    changed = [v for v in values if v.changed]
    blocks: list[Block] = [
        Table(
            ["key", "value", "default", "typed as"], [_key(v) for v in changed], "Keys that differ from their default"
        ),
        Table(
            ["key", "value", "default", "typed as"],
            [_key(v) for v in values],
            f"All {len(values)} keys",
            marked=frozenset(i for i, v in enumerate(values) if v.changed),
            mark_word="changed",
            folded=True,
        ),
        Code([shlex.join(["gebm", "show", found.address])], "The same in a terminal"),
    ]
    return Section("experiment", "Experiment", blocks)


def _key(value: Value) -> list[Cell]:
    default = "(required)" if value.required else written(value.default)
    return [value.name, written(value.value), default, value.place if value.origin in ("override", "flag") else None]


def learning(found: Found) -> list[Section]:
    """For each stage a small figure for each metric; a stage that has not run says how to run it."""
    wanted = [s for s in STAGES if found.is_gebm and _trains(found, s)]
    return [_curves(found, stage) for stage in dict.fromkeys([*wanted, *found.metrics.stages])]


def _curves(found: Found, stage: str) -> Section:
    series, last = found.metrics.stages.get(stage), found.last(stage)
    blocks: list[Block] = []
    if series:
        blocks.append(Row(learning_curves(stage, series, found.command(stage))))
    elif last is None:
        blocks.append(absent(found, f"Curves of {stage}", "it has not run yet", stage))
    else:
        done = last.get("status") == "completed"
        why = (
            "metrics.jsonl has no line of it, and was emptied or removed"
            if done
            else "it ended before its first log line"
        )
        blocks.append(Missing(f"Curves of {stage}", why))
    if found.metrics.n_bad:
        blocks.append(Text(f"{found.metrics.n_bad} lines of metrics.jsonl cannot be read and are left out.", "bad"))
    exact_nll = found.run is not None and found.run.experiment.energy.kind == "flow"
    blocks += _closing(last or {}, exact_nll)
    return Section(f"curves-{stage}", f"Learning curves: {stage}", blocks, GOOD_SIGNS.get(stage, "") if series else "")


def _closing(session: dict[str, Any], exact_nll: bool) -> list[Block]:
    """The figures a stage ended with, each with its standard error, and before them why they may be too good."""
    figures = session.get("figures")
    if not isinstance(figures, dict):
        return []
    rows: list[list[Cell]] = []
    for name, value in figures.items():
        if not (name.endswith(ERROR) and name.removesuffix(ERROR) in figures):
            rows.append([label_of(name), name, value, figures.get(name + ERROR)])
    caption = "Figures at the end of the stage, over all data"
    told: list[Block] = [Text(f"{doubt}.", "bad") for doubt in doubts(figures, exact_nll)]
    return [*told, Table(["figure", "key", "value", "standard error"], rows, caption, folded=True)]


def _trains(found: Found, stage: str) -> bool:
    if found.run is None:
        return found.last(stage) is not None
    of = found.run.experiment
    return of.trains_base if stage == "train-base" else of.trains_energy


def again(found: Found) -> Section:
    """Every command of the run in order, from an empty folder to this page."""
    dated = [(str(s.get("start", "")), found.repeatable(s)) for s in found.sessions]
    drawn = [s.described for s in found.sets if s.kind != "flow"]  # a flow is a session
    dated += [(str(told.get("written", "")), typed(told)) for told in drawn]
    once = {
        typed(s.record): str(s.record.get("written", "")) for s in found.scores
    }  # one command may take several scores
    dated += [(moment, line) for line, moment in once.items()]
    lines = [line for _, line in sorted(dated, key=lambda d: d[0] or "~") if line]
    page = shlex.join(["gebm", "report", found.address])
    blocks: list[Block] = [Code([*lines, page], "All commands, in order; the last makes this page")]
    if found.run is not None and found.run.experiment.seed is not None:
        told = f"The seed is {found.run.experiment.seed}: on the same kind of device the same commands give the same numbers."
        blocks.append(Text(told))
    return Section("again", "How to reproduce", blocks, "Each figure above names the command that made what it draws.")
