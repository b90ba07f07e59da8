"""`gebm flow`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

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
    resolve,
    split_arguments,
)
from gebm_cli.cli.progress import Quiet, progress, say
from gebm_cli.errors import UsageError
from gebm_cli.experiment.load import load_with_origins, placed
from gebm_cli.experiment.run import runs_root


def register(app: typer.Typer) -> None:
    app.command(
        "flow",
        epilog="""Examples:\n
    gebm flow experiments/flow-three-rings.yaml\n
    gebm flow experiments/flow-three-rings.yaml flow.divergence=mmd flow.step_size=0.01\n
    gebm flow --run digits-001 flow.space=latent     (particles are latents of a trained base)\n
    gebm flow --resume runs/flow-three-rings-001/samples/kale-flow-001 flow.step_size=1e-5""",
    )(flow)


def flow(
    experiment: ExperimentArgument = None,
    overrides: Overrides = None,
    seed: Annotated[
        str | None, typer.Option(metavar="INT", help="Seed of the particles; drawn when not given, of a run its own.")
    ] = None,
    run: RunName = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="SET", help="Go on with a flow that was stopped, bit for bit.")
    ] = None,
    device: Device = "auto",
    allow_plugins: AllowPlugins = False,
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Move particles to the data by the gradient flow of MMD or of KALE: x' = x - step_size grad f(x).

    Writes the particles, a film of them and the divergence against the step, as a sample set of a run: a new one, or with
    flow.space=latent the run of the trained base.
    """
    experiment, keys = split_arguments(experiment, overrides)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("flow: runs in one process, since every particle meets every other; start it without torchrun")
    if resume is not None:
        given = [*([experiment] if experiment else []), *_given({"--seed": seed, "--run": run})]
        if given:
            raise UsageError(f"--resume: goes on with what was begun; leave {', '.join(given)} out")
    chosen = open_named_run(run, runs_dir)
    if resume is None and experiment is None and chosen is None:
        raise UsageError(
            "give an experiment file (a new run), --run RUN (particles in that run), or --resume SET (go on)"
        )
    flags = {} if seed is None else {"seed": ("--seed", seed)}
    file = experiment if experiment is not None else chosen.path / "experiment.yaml" if chosen else None
    loaded, origins = (None, {}) if file is None else load_with_origins(file, keys, flags)
    if chosen is not None or resume is not None:
        _refuse_other_keys(keys)
    if loaded is not None and "flow" not in loaded.model_fields_set:
        print(f"flow: {file} has no section `flow`, so all its keys have their defaults", file=sys.stderr)
    from gebm_cli.experiment.flow import begin_flow, go_on, read_flow

    if loaded is None:
        assert resume is not None
        job = read_flow(resume, {key.partition("=")[0].removeprefix("flow."): key.partition("=")[2] for key in keys})
    else:
        with placed(origins, loaded):
            job = begin_flow(loaded, chosen, runs_root(runs_dir), allow_plugins)
    say(f"flow: run {job.run.path}, seed {job.seed}")
    with progress(f"flow {job.out.name}", panel=True) as report, closing_with(job.run):
        result = go_on(job, resolve(device), report, allow_plugins)
    for warning in result["warnings"]:
        print(f"gebm: note: {warning}", file=sys.stderr)
    print_result(result, json, _describe(result))


def _given(options: dict[str, Any]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def _refuse_other_keys(keys: list[str]) -> None:
    for key in keys:
        if not key.startswith("flow."):
            raise UsageError(
                f"override '{key}': only keys of `flow.` can be overridden here; the rest is the run's own"
            )


def _describe(result: dict[str, Any]) -> str:
    """What came of it, in words."""
    value, apart = result["value"], result["sliced_w1"]
    lines = [
        f"{result['out']}: {result['n_particles']} particles, {result['step']} steps of the {result['sampler']}",
        f"  {result['what']}: {value['start']:.4g} -> {value['end']:.4g}",
    ]
    if apart is not None:
        best = min(point[1] for point in apart["curve"])
        least = f", at best {best:.4g}" if best < 0.9 * apart["end"] else ""
        lines.append(
            f"  sliced W1 to held-out data: {apart['start']:.4g} -> {apart['end']:.4g}{least} "
            f"({apart['n_points_of_data']} training points: {apart['data']:.4g})"
        )
    if "duality_gap" in result:
        lines.append(f"  largest duality gap of the path: {result['duality_gap']:.1e}")
    return "\n".join(
        [*lines, f"  {', '.join(result['files'])}", f"next: gebm two-sample-test {result['out']} held-out"]
    )
