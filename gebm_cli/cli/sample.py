"""`gebm sample`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gebm_cli.cli.completion import Completer, complete_compared, complete_samplers
from gebm_cli.cli.options import (
    AllowPlugins,
    Device,
    ExperimentArgument,
    Json,
    Overrides,
    RunName,
    RunsDir,
    open_named_run,
    print_result,
    refresh_report,
    resolve,
    split_arguments,
)
from gebm_cli.cli.progress import Quiet, phases
from gebm_cli.cli.sweep import (
    Flags,
    combinations,
    describe_sampler,
    list_of_samplers,
    option,
    refuse_unused,
    sweep_label,
    sweep_table,
)
from gebm_cli.errors import GebmError, InterruptedRun, UsageError
from gebm_cli.experiment.files import make_numbered
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, newest_run, open_run, runs_root
from gebm_cli.experiment.schema import Experiment

if TYPE_CHECKING:
    from gebm_cli.experiment.jobs import Order
    from gebm_cli.experiment.tracking import Scorer


class Format(StrEnum):
    """How samples are stored."""

    png = "png"
    npz = "npz"


def register(app: typer.Typer) -> None:
    app.command(
        "sample",
        epilog="""Examples:\n
    gebm sample --beta 100 --friction low                  (the newest run with a trained energy)\n
    gebm sample experiments/digits.yaml --sampler mala --step-size auto --n-steps 500\n
    gebm sample --mode sample --beta auto                  (run to convergence, beta calibrated on held-out data)\n
    gebm sample --beta 1,3,10,30,100 --friction low,high   (one set each, and a table)\n
    gebm sample --compare kla,mala,hmc,ihm,dot,dgflow,ex2  (quality against cost, one plot)\n
    gebm sample --sampler none --n-samples 5000            (the base alone)\n
    gebm sample --resume runs/digits-001/samples/kla-001   (go on after an interruption)\n
    gebm sample --list                                     (every sampler: target, cost, source)""",
    )(sample)


def _text(metavar: str, help: str, complete: Completer | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help, autocompletion=complete)


def sample(
    experiment: ExperimentArgument = None,
    overrides: Overrides = None,
    beta: Annotated[
        str | None, _text("FLOAT|auto", "Inverse temperature on the energy: 1 is the model; auto calibrates it.")
    ] = None,
    friction: Annotated[
        str | None, _text("low|critical|high|FLOAT", "kla, ghmc: 0.2, 2, 20, or a number, in 1/time.")
    ] = None,
    sampler: Annotated[
        str | None, _text("NAME", "A sampler of --list; none draws from the base.", complete_samplers)
    ] = None,
    mode: Annotated[
        str | None, _text("refine|sample", "Short chains from base samples, or long ones to convergence.")
    ] = None,
    n_samples: Annotated[str | None, _text("INT", "Number of samples.")] = None,
    n_steps: Annotated[str | None, _text("INT", "Steps of each chain. Default: the sampler's own.")] = None,
    step_size: Annotated[
        str | None, _text("FLOAT|auto", "h for kla, ghmc and hmc, epsilon for the others (h^2 = 2 epsilon).")
    ] = None,
    batch_size: Annotated[str | None, _text("INT", "Samples in memory at a time; never changes them.")] = None,
    compare: Annotated[
        str | None,
        _text("NAME,NAME...", "Draw with each of these samplers, and plot quality against cost.", complete_compared),
    ] = None,
    track: Annotated[bool, typer.Option("--track", help="Score the chains along the way: track.png.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: samples/ of the run.")] = None,
    format: Annotated[
        Format | None, typer.Option("--format", help="PNG files (the default), or one samples.npz.")
    ] = None,
    seed: Annotated[str | None, _text("INT", "Seed of the chains. Default: the run's seed.")] = None,
    run: RunName = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="SET", help="Go on with a set whose drawing was stopped.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List all samplers and exit.")] = False,
    device: Device = "auto",
    allow_plugins: AllowPlugins = False,
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Draw from pi(z) ~ eta(z) exp(-beta E(B(z))) and push the draws through the base.

    Writes the samples, pictures of them and of their chains, and sample.yaml, which ends in a verdict on mixing. Lists of values
    (`--beta 1,3,10`) draw one set each and print a table.
    """
    if list_:
        rows, text = list_of_samplers()
        print_result(rows, json, text)
        return
    if compare is not None and sampler is not None:
        raise UsageError("--compare: names the samplers already; leave --sampler out")
    flags: Flags = {
        "beta": beta,
        "friction": friction,
        "sampler": compare if compare is not None else sampler,
        "mode": mode,
        "n_samples": n_samples,
        "n_steps": n_steps,
        "step_size": step_size,
        "batch_size": batch_size,
        "track": "true" if track or compare is not None else None,
        "seed": seed,
    }
    experiment, keys = split_arguments(experiment, overrides)
    if resume is not None:
        rest = {"--run": run, "--out": out, "--format": format, str(experiment): experiment}
        _refuse_beside_resume(flags, [*keys, *(name for name, given in rest.items() if given)], compare is not None)
        _resume(resume, device, allow_plugins, json)
        return
    for key in keys:
        if not key.startswith("sample."):
            raise UsageError(
                f"override '{key}': here only keys of `sample.` can be overridden; the rest is trained already"
            )
    settings, chosen = _choose(experiment, keys, flags, compare is not None, run, runs_dir, allow_plugins)
    _draw_all(settings, chosen, out, format is Format.npz, device, allow_plugins, compare is not None, json)


Setting = tuple[dict[str, str], Experiment, int | None]


def _choose(
    experiment: str | None,
    keys: list[str],
    flags: Flags,
    comparing: bool,
    run: str | None,
    runs_dir: str | None,
    allow_plugins: bool,
) -> tuple[list[Setting], Run]:
    """Every combination of the flags' values, validated, and the run they are drawn from."""
    from gebm_cli.experiment.plugins import require_allowed

    sets = combinations(flags, comparing)
    first = sets[0].get("sampler") or next((k.partition("=")[2] for k in keys if k.startswith("sample.sampler=")), None)
    loaded = (
        [load_experiment(experiment, keys, _as_flags(one, comparing)) for one in sets]
        if experiment is not None
        else None
    )
    of_base = (loaded[0].sample.sampler if loaded else first) == "none"
    root = runs_root(runs_dir)
    chosen = open_named_run(run, runs_dir)
    if chosen is None and loaded and not loaded[0].trains_base and (of_base or not loaded[0].trains_energy):
        from gebm_cli.experiment.stages import fixed_base_run

        world = _world()
        made = fixed_base_run(loaded[0], root, allow_plugins)[0] if world.first else None
        path = world.from_first(None if made is None else made.path)
        chosen = made or open_run(path)
    if chosen is None:
        chosen = newest_run(root, "train-base" if of_base else "train-energy", loaded[0].name if loaded else None)
    file = chosen.path / "experiment.yaml"
    require_allowed(chosen.experiment, allow_plugins, f"{file}: ")
    loaded = loaded or [load_experiment(file, keys, _as_flags(one, comparing)) for one in sets]
    for one, settings in zip(sets, loaded, strict=True):
        refuse_unused(settings.sample.sampler, one, comparing)
        stage = "train-base" if settings.sample.sampler == "none" else "train-energy"
        if not chosen.has(stage):
            raise UsageError(f"{chosen.path}: has not finished {stage}; run `gebm {stage} {chosen.option}` first")
    return [(one, s, _seed(one)) for one, s in zip(sets, loaded, strict=True)], chosen


def _as_flags(one: dict[str, str], comparing: bool) -> dict[str, tuple[str, str]]:
    return {f"sample.{k}": (option(k, comparing), v) for k, v in one.items() if k != "seed"}


def _seed(one: dict[str, str]) -> int | None:
    text = one.get("seed")
    if text is not None and not (text.isdigit() and int(text) < 2**63):
        raise UsageError(f"--seed: got '{text}', expected a whole number of at least 0")
    return None if text is None else int(text)


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw_all(
    settings: list[Setting],
    run: Run,
    out: Path | None,
    as_npz: bool,
    device: str,
    allow_plugins: bool,
    comparing: bool,
    json: bool,
) -> None:
    """One set for each setting; several of them end in a table, and compared samplers in a plot."""
    from gebm_cli.experiment.files import require_free
    from gebm_cli.experiment.jobs import Order
    from gebm_cli.experiment.tracking import Scorer

    several, where = len(settings) > 1, resolve(device)
    scorer = Scorer(run, where)  # one for all sets: the reference's features are computed once
    if out is not None and not several:
        require_free(out)
    results: list[dict[str, Any]] = []
    for one, loaded, seed in settings:
        keys = loaded.sample
        if out is not None and not several:
            target = out
        else:
            stem = "base" if keys.sampler == "none" else keys.sampler
            parent = out if out is not None else run.path / "samples"
            target = _world().from_first(make_numbered(parent, stem) if _world().first else Path())
        order = Order(run, keys, run.seed if seed is None else seed, target, as_npz, where.type)
        if not several:
            _finish(order, scorer, allow_plugins, json)
            return
        label = sweep_label(one, [other for other, _, _ in settings])
        results.append(
            {"set": target.name, "label": label, "sampler": keys.sampler, **_attempt(order, scorer, allow_plugins)}
        )
    if _world().first:
        _finish_sweep(run, results, comparing, json)


def _attempt(order: Order, scorer: Scorer, allow_plugins: bool) -> dict[str, Any]:
    """One set of several: a failure of its own is told and noted, and the others go on."""
    try:
        return _drawn(order, scorer, allow_plugins)
    except (UsageError, InterruptedRun):
        raise
    except GebmError as error:
        if _world().size > 1:
            raise  # the other processes wait for this set, and must not wait for ever
        print(f"gebm: {order.out.name}: {error}", file=sys.stderr)
        return {"set": "failed", "error": str(error)}


def _finish_sweep(run: Run, results: list[dict[str, Any]], comparing: bool, json: bool) -> None:
    from gebm_cli.experiment.comparing import keep_comparison

    table: dict[str, Any] = {"run": run.name, "sets": results}
    files = keep_comparison(run, results, "compare" if comparing else "sweep")
    print_result(table | {"files": files}, json, f"{sweep_table(results)}\n{', '.join(files)}")
    refresh_report(run)
    failed = [r["label"] for r in results if "error" in r]
    if failed:
        raise GebmError(
            f"{len(failed)} of {len(results)} sets failed ({'; '.join(failed)}); the messages above say why"
        )


def _finish(order: Order, scorer: Scorer, allow_plugins: bool, json: bool) -> None:
    result = _drawn(order, scorer, allow_plugins)
    if _world().first:
        print_result(result, json, describe_sampler(result))
        refresh_report(order.run)


def _drawn(order: Order, scorer: Scorer, allow_plugins: bool) -> dict[str, Any]:
    """Draw one set, with progress; returns what --json prints."""
    from gebm_cli.experiment.drawing import draw

    tracker = scorer if order.keys.track and order.keys.sampler != "none" else None
    with phases(order.out.name, panel=True) as begin:
        described = draw(order, scorer.device, begin, _warn, allow_plugins, tracker, _world())
        begin.conclude(described.get("verdict", "").partition(":")[0])
    hidden = ("run_path", "host", "versions", "git", "device", "argv", "written")
    return {"out": str(order.out), "beta": None, "friction": None} | {
        k: v for k, v in described.items() if k not in hidden
    }


def _world() -> Any:
    from gebm_cli.experiment.distributed import join_world

    return join_world()


def _warn(message: str) -> None:
    print(f"gebm: warning: {message}", file=sys.stderr)


def _resume(out: Path, device: str, allow_plugins: bool, json: bool) -> None:
    from gebm_cli.experiment.jobs import read_order
    from gebm_cli.experiment.tracking import Scorer

    order = read_order(out, open_run)
    _finish(order, Scorer(order.run, resolve(device)), allow_plugins, json)


def _refuse_beside_resume(flags: Flags, rest: list[str], comparing: bool) -> None:
    given = [option(k, comparing) for k, v in flags.items() if v is not None and not (comparing and k == "track")]
    given += rest
    if given:
        raise UsageError(f"--resume: goes on with the settings that were begun; leave {', '.join(given)} out")
