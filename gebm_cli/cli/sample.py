"""`gebm sample`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gebm_cli.cli.options import (
    Device,
    ExperimentArgument,
    Json,
    Overrides,
    RunName,
    RunsDir,
    open_named_run,
    print_result,
    resolve,
    split_arguments,
)
from gebm_cli.cli.progress import Counter, progress
from gebm_cli.errors import UsageError
from gebm_cli.experiment.files import make_numbered
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import newest_run, runs_root


class Format(StrEnum):
    """How samples are stored."""

    png = "png"
    npz = "npz"


def register(app: typer.Typer) -> None:
    app.command(
        "sample",
        epilog="""Examples:\n
    gebm sample --beta 100 --friction low      (the newest run with a trained energy)\n
    gebm sample experiments/digits.yaml --sampler mala --step-size 0.05 --n-steps 500\n
    gebm sample --run digits-001 --sampler none --n-samples 5000      (the base alone)\n
    gebm sample --run digits-001 sample.scheme=gebm --format npz --json""",
    )(sample)


def sample(
    experiment: ExperimentArgument = None,
    overrides: Overrides = None,
    beta: Annotated[
        str | None, typer.Option(metavar="FLOAT", help="Inverse temperature on the energy: 1 is the model.")
    ] = None,
    friction: Annotated[
        str | None, typer.Option(metavar="low|critical|high|FLOAT", help="kla: 0.2, 2, 20, or a number, in 1/time.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(metavar="kla|ula|mala|hmc|none", help="The Markov chain; none draws from the base.")
    ] = None,
    n_samples: Annotated[str | None, typer.Option(metavar="INT", help="Number of chains, one sample each.")] = None,
    n_steps: Annotated[str | None, typer.Option(metavar="INT", help="Steps of each chain.")] = None,
    step_size: Annotated[
        str | None, typer.Option(metavar="FLOAT", help="h for kla and hmc, epsilon for ula and mala.")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="INT", help="Samples in memory at a time; never changes them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: samples/ of the run.")] = None,
    format: Annotated[Format, typer.Option("--format", help="PNG files, or one samples.npz.")] = Format.png,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the chains. Default: the run's seed.")] = None,
    run: RunName = None,
    device: Device = "auto",
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Draw from pi(z) ~ eta(z) exp(-beta E(B(z))) and push the draws through the base.

    Writes the samples, grid.png (base on the left, samples on the right), chain.gif, trace.png and sample.yaml.
    """
    experiment, keys = split_arguments(experiment, overrides)
    flags = {
        f"sample.{name}": (f"--{name.replace('_', '-')}", value)
        for name, value in {
            "beta": beta,
            "friction": friction,
            "sampler": sampler,
            "n_samples": n_samples,
            "n_steps": n_steps,
            "step_size": step_size,
            "batch_size": batch_size,
        }.items()
        if value is not None
    }
    for key in keys:
        if not key.startswith("sample."):
            raise UsageError(
                f"override '{key}': here only keys of `sample.` can be overridden; the rest is trained already"
            )
    loaded = None if experiment is None else load_experiment(experiment, keys, flags)
    named = sampler or next((k.partition("=")[2] for k in reversed(keys) if k.startswith("sample.sampler=")), None)
    of_base = (loaded.sample.sampler if loaded else named) == "none"
    root = runs_root(runs_dir)
    chosen = open_named_run(run, runs_dir) or newest_run(
        root, "train-base" if of_base else "train-energy", loaded.name if loaded else None
    )
    settings = (loaded or load_experiment(chosen.path / "experiment.yaml", keys, flags)).sample
    _refuse_unused(
        settings.sampler, {"--beta": beta, "--friction": friction, "--n-steps": n_steps, "--step-size": step_size}
    )
    from gebm_cli.experiment.drawing import draw

    stage = "train-base" if settings.sampler == "none" else "train-energy"
    if not chosen.has(stage):
        raise UsageError(f"{chosen.path}: has not finished {stage}; run `gebm {stage} --run {chosen.name}` first")
    where = resolve(device)
    target = out or make_numbered(chosen.path / "samples", "base" if settings.sampler == "none" else settings.sampler)
    steps = 1 if settings.sampler == "none" else settings.n_steps
    total = -(-settings.n_samples // settings.block_size) * settings.block_size * steps
    with progress(f"sample {chosen.name}", "chain-steps") as report:
        described = draw(
            chosen,
            settings,
            chosen.seed if seed is None else seed,
            target,
            format is Format.npz,
            where,
            Counter(report, total),
        )
    result = {"out": str(target), "beta": None, "friction": None} | {
        k: v for k, v in described.items() if k not in ("run_path", "host", "versions", "git", "device")
    }
    print_result(result, json, _sentence(result))


def _refuse_unused(sampler: str, given: dict[str, str | None]) -> None:
    """An option that the sampler does not have is a misunderstanding, better told than ignored."""
    unused = set(given) if sampler == "none" else set() if sampler == "kla" else {"--friction"}
    for option in sorted(unused):
        if given[option] is not None:
            raise UsageError(f"{option}: has no meaning for the sampler '{sampler}'; leave it out")


def _sentence(result: dict[str, object]) -> str:
    if result["sampler"] == "none":
        return f"{result['n_samples']} samples of the base of {result['run']}, seed {result['seed']}: {result['out']}"
    how = f"beta {result['beta']:g}, step size {result['step_size']:g}"
    if result["friction"] is not None:
        how += f", friction {result['friction']:g} (C {result['damping']:.3g} a step)"
    return (
        f"{result['n_samples']} samples of {result['run']} by {result['n_steps']} steps of {result['sampler']} ({how}), "
        f"seed {result['seed']}: {result['out']}\n"
        f"acceptance {result['acceptance']}, correlation with the start {result['correlation_with_start']}"
    )
