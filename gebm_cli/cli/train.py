"""`gebm train-base` and `gebm train-energy`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gebm_cli.cli.options import (
    AllowPlugins,
    Device,
    ExperimentArgument,
    Json,
    Overrides,
    RunName,
    RunsDir,
    closing_with,
    open_named_run,
    print_result,
    refuse_overrides,
    resolve,
    split_arguments,
)
from gebm_cli.cli.progress import Quiet, Report, progress, say
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.doubts import doubts, told_log_partition
from gebm_cli.experiment.load import load_with_origins, placed
from gebm_cli.experiment.run import Run, newest_run, open_run, runs_dir_option, runs_root
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.sentences import Origins

if TYPE_CHECKING:
    from gebm_cli.core.data.dataset import Dataset
    from gebm_cli.experiment.distributed import World

Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the run; drawn and recorded when not given.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too, in tensorboard/ of the run.")
]

FIGURES = ("kale", "kale_train", "kale_held_out", "nll_train", "nll_validation", "nll_held_out")


def register(app: typer.Typer) -> None:
    app.command(
        "train-base",
        epilog="""Examples:\n
    gebm train-base experiments/digits.yaml\n
    gebm train-base experiments/cifar10.yaml train_base.steps=1000 --device cuda --seed 1\n
    gebm train-base --run digits-001      (continue after an interruption, bit for bit)""",
    )(train_base)
    app.command(
        "train-energy",
        epilog="""Examples:\n
    gebm train-energy experiments/digits.yaml      (the newest digits run whose base is trained)\n
    gebm train-energy experiments/digits.yaml train_energy.penalty_weight=0.1\n
    gebm train-energy --run digits-001 --json""",
    )(train_energy)


def train_base(
    experiment: ExperimentArgument = None,
    overrides: Overrides = None,
    seed: Seed = None,
    run: RunName = None,
    device: Device = "auto",
    allow_plugins: AllowPlugins = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Learn the base and its critic, in a new run; with --run, continue an interrupted one."""
    experiment, keys = split_arguments(experiment, overrides)
    chosen = open_named_run(run, runs_dir)
    if chosen is not None:
        if experiment is not None:
            raise UsageError("give either an experiment file (a new run) or --run RUN (continue that one), not both")
        _refuse_seed(seed)
        refuse_overrides(keys)
    loaded, origins = _load(experiment, keys, seed)
    _refuse_fixed("train-base", experiment, loaded, chosen, runs_root(runs_dir))
    from gebm_cli.core.parallel import Share
    from gebm_cli.experiment.distributed import join_world
    from gebm_cli.experiment.stages import start_run, train

    _require_event_files(tensorboard)
    where, dataset = resolve(device, exact=False), None
    world = join_world()
    if loaded is not None:
        share = Share(world.rank, world.size)
        with placed(origins, loaded):
            chosen, dataset = _of_first(world, lambda: start_run(loaded, runs_root(runs_dir), allow_plugins, share))
    if chosen is None:
        raise UsageError("give an experiment file (a new run) or --run RUN (continue that one)")
    work = partial(train, stage="train-base", device=where, dataset=dataset, allow_plugins=allow_plugins, world=world)
    _finish("train-base", chosen, json, tensorboard, lambda run, report: work(run, report=report))


def train_energy(
    experiment: ExperimentArgument = None,
    overrides: Overrides = None,
    seed: Seed = None,
    run: RunName = None,
    device: Device = "auto",
    allow_plugins: AllowPlugins = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Freeze the base of a run and learn its energy and log-partition; continues where an interruption stopped it."""
    experiment, keys = split_arguments(experiment, overrides)
    root = runs_root(runs_dir)
    chosen = open_named_run(run, runs_dir)
    if experiment is None:
        _refuse_seed(seed)
        refuse_overrides(keys)
    for key in keys:
        if key.startswith("train_base."):
            raise UsageError(f"override '{key}': the base is trained already; give it to `gebm train-base`")
    loaded, origins = _load(experiment, keys, seed)
    _refuse_fixed("train-energy", experiment, loaded, chosen, root)
    from gebm_cli.core.parallel import Share
    from gebm_cli.experiment.distributed import join_world
    from gebm_cli.experiment.plugins import require_allowed
    from gebm_cli.experiment.stages import fixed_base_run, start_energy, train

    _require_event_files(tensorboard)
    where, dataset = resolve(device, exact=False), None
    world = join_world()
    share = Share(world.rank, world.size)
    if chosen is None and loaded is not None and not loaded.trains_base:
        with placed(origins, loaded):
            chosen, dataset = _of_first(world, lambda: fixed_base_run(loaded, root, allow_plugins, share))
    if chosen is None:
        chosen = newest_run(root, "train-base", loaded.name if loaded else None)
    if not chosen.has("train-base"):
        raise UsageError(
            f"{chosen.path}: its base is not trained to the end; `gebm train-base {chosen.option}` does that"
        )
    require_allowed(chosen.experiment, allow_plugins, f"{chosen.path / 'experiment.yaml'}: ")
    if loaded is not None:
        of_base, data = chosen, dataset
        with placed(origins, loaded):
            chosen, dataset = _of_first(world, lambda: start_energy(of_base, loaded, root, share, data))
        if world.first and chosen.name != of_base.name:
            say(f"train-energy: another energy, so a new run with the base of {of_base.name}")
    work = partial(train, stage="train-energy", device=where, dataset=dataset, allow_plugins=allow_plugins, world=world)
    _finish("train-energy", chosen, json, tensorboard, lambda run, report: work(run, report=report))


def _of_first(world: World, make: Callable[[], tuple[Run, Dataset | None]]) -> tuple[Run, Dataset | None]:
    """The run that the first process makes or chooses, in every process; where it refuses, all end with its exit code."""
    made: tuple[Run, Dataset | None] | None = None
    refusal: GebmError | None = None
    if world.first:
        try:
            made = make()
        except GebmError as error:
            refusal = error
    path, code = world.from_first((made[0].path if made else Path(), refusal.exit_code if refusal else 0))
    if refusal is not None:
        raise refusal
    if code:
        raise SystemExit(code)
    return made if made is not None else (open_run(path), None)


def _finish(
    stage: str, run: Run, as_json: bool, tensorboard: bool, work: Callable[[Run, Report], dict[str, Any]]
) -> None:
    """Train with progress, then print what came of it; under torchrun the first process speaks and writes."""
    if os.environ.get("RANK", "0") != "0":
        work(run, lambda step, total, figures: None)
        return
    say(f"{stage}: run {run.path}, seed {run.seed}")
    with closing_with(run), ExitStack() as open_reports:
        reports: list[Report] = [open_reports.enter_context(progress(f"{stage} {run.name}", panel=True))]
        if tensorboard:
            from gebm_cli.experiment.event_files import event_files

            reports.append(open_reports.enter_context(event_files(run.path, stage)))

        def report(done: int, total: int, figures: dict[str, float]) -> None:
            for tell in reports:
                tell(done, total, figures)

        result = work(run, report)
    result = {"run": run.name, "stage": stage, "step": result.pop("step"), "status": "completed", **result}
    figures = [f"{name} {result[name]:.4g}" for name in FIGURES if name in result]
    if "log_partition_estimate" in result:
        figures.append(told_log_partition(result))
        result["warnings"] = doubts(result, exact_nll=run.experiment.energy.kind == "flow")
        for warning in result["warnings"]:
            print(f"gebm: warning: {warning}", file=sys.stderr)
    following = "train-energy" if stage == "train-base" else "sample"
    print_result(
        result,
        as_json,
        f"{run.name}: {stage} completed after {result['step']} steps{': ' if figures else ''}{', '.join(figures)}\n"
        f"next: gebm {following} {run.option}{' --allow-plugins' if run.experiment.base.kind == 'external' else ''}",
    )


def _require_event_files(wanted: bool) -> None:
    if wanted:
        from gebm_cli.experiment.event_files import require_tensorboard

        require_tensorboard()


def _refuse_fixed(stage: str, file: str | None, loaded: Experiment | None, run: Run | None, root: Path) -> None:
    """A base or an energy that is given and not learned has nothing to train; say what comes instead."""
    experiment = loaded or (run.experiment if run else None)
    if experiment is None:
        return
    named = file if file is not None else f"--run {run.name}" if run else ""
    command = run.option if run else f"{shlex.quote(named)}{runs_dir_option(root)}"
    if not experiment.is_gebm:
        raise UsageError(f"{named}: has no networks to train, only particles; run `gebm flow {command}`")
    following = "train-energy" if experiment.trains_energy else "sample"
    plugins = " --allow-plugins" if "external" in (experiment.base.kind, experiment.energy.kind) else ""
    section = experiment.base if stage == "train-base" else experiment.energy
    if not (experiment.trains_base if stage == "train-base" else experiment.trains_energy):
        key = stage.removeprefix("train-")
        raise UsageError(
            f"{named}: {key}.kind {section.kind} has nothing to train; run `gebm {following} {command}{plugins}`"
        )


def _load(file: str | None, keys: list[str], seed: int | None) -> tuple[Experiment | None, Origins]:
    flags = {} if seed is None else {"seed": ("--seed", str(seed))}
    return (None, {}) if file is None else load_with_origins(file, keys, flags)


def _refuse_seed(seed: int | None) -> None:
    if seed is not None:
        raise UsageError("--seed: a run keeps its seed; give --seed together with an experiment file")
