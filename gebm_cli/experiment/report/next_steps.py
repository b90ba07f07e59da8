"""What a run asks for next, so that a page names one command that works, and no part one that cannot yet."""

from __future__ import annotations

import shlex
from typing import Any

from gebm_cli.experiment.report.blocks import Block, Code, Missing, Section, Text
from gebm_cli.experiment.report.found import STAGES, Found
from gebm_cli.experiment.run import Run

ORDER = (*STAGES, "sample", "verdict")
ENDED_EARLY = ("failed", "diverged", "interrupted", "crashed")
SMALLER = 0.1  # of the learning rate, after a stage diverged


def command(found: Found, name: str, *more: str) -> str:
    """`gebm NAME --run RUN ...`, quoted for a shell."""
    return shlex.join(["gebm", name, "--run", found.address, *more])


def pending(found: Found) -> str | None:
    """The first of the steps to a verdict that is not done."""
    if not found.is_gebm:
        return None
    done = {stage: found.done(stage) for stage in STAGES}
    done |= {"sample": all(found.newest(kind) for kind in ("base", "chains"))}
    done |= {"verdict": any(score.metric == "verdict" for score in found.scores)}
    return next((step for step in ORDER if not done[step]), None)


def absent(found: Found, what: str, why: str, name: str, *more: str) -> Missing:
    """What is missing for want of a command NAME; the command stands there only if what it needs is done."""
    needed = [step for step in ORDER[: ORDER.index(name)] if step in STAGES] if name in ORDER else list(STAGES)
    undone = next((stage for stage in needed if found.is_gebm and not found.done(stage)), None)
    if undone is not None:
        return Missing(what, f"it comes after {undone}, which is not done")
    return Missing(what, why, command(found, name, *more))


def next_step(found: Found) -> list[Section]:
    """What to do next, with its command; nothing where all is done or a stage is running."""
    last = found.sessions[-1] if found.sessions else {}
    step = pending(found)
    if last.get("status") == "running":
        return []
    if last.get("status") in ENDED_EARLY:
        return [Section("next", "Next step", _going_on(found, last))]
    if step is None:
        return []
    told, commands = _told(found, step)
    return [Section("next", "Next step", [Text(told), Code(commands)])]


def _told(found: Found, step: str) -> tuple[str, list[str]]:
    if step == "sample":
        kinds = {"base": ("--sampler", "none"), "chains": ()}
        commands = [command(found, "sample", *flags) for kind, flags in kinds.items() if found.newest(kind) is None]
        return "Draw samples of the base and of the GEBM, from latents of their own.", commands
    told = {
        "train-base": "Train the base.",
        "train-energy": "Train the energy on the base.",
        "verdict": "Ask whether the GEBM is better than its base.",
    }
    return told[step], [command(found, step)]


def _going_on(found: Found, session: dict[str, Any]) -> list[Block]:
    """Why the last stage ended early, and how to go on."""
    stage = str(session.get("stage"))
    blocks: list[Block] = [Text(how_it_ended(found, session), "bad")]
    if session["status"] == "diverged" and found.run is not None and stage in STAGES:
        told = "Going on would diverge again. Start anew with a smaller learning rate, for instance:"
        return [*blocks, Text(told), Code([_gentler(found.run, stage, session)])]
    told = "It goes on from its last checkpoint" if session.get("step") else "It begins anew"
    return [*blocks, Text(f"{told}:"), Code([command(found, stage)])]


def how_it_ended(found: Found, session: dict[str, Any]) -> str:
    """A sentence on a stage that ended early."""
    stage, status, failure = session.get("stage"), session["status"], session.get("failure")
    if failure:
        return str(failure).removeprefix(f"{found.name}: ")  # it names stage and step itself
    if status == "crashed":
        return f"{stage} crashed: its process ended without a word (killed, out of memory, or the machine stopped)."
    return f"{stage} {'was ' if status == 'interrupted' else ''}{status}."


def _gentler(run: Run, stage: str, session: dict[str, Any]) -> str:
    """What was typed, with a tenth of the learning rate, or the usual one where that is smaller."""
    key = stage.replace("-", "_")
    section = getattr(run.experiment, key)
    lr = min(SMALLER * section.lr, type(section).model_fields["lr"].default)
    words = [*map(str, session.get("argv") or ["gebm", stage, run.experiment.name])]
    if "--run" in words:
        words = ["gebm", stage, run.experiment.name]
    kept = [word for word in words if not word.startswith(f"{key}.lr=")]
    return shlex.join([*kept, f"{key}.lr={lr:g}"])
