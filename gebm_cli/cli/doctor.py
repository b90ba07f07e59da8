"""`gebm doctor`: is this energy fit to be sampled?"""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from gebm_cli.cli.options import (
    AllowPlugins,
    Device,
    Json,
    RunName,
    RunsDir,
    open_named_run,
    print_result,
    record_scores,
    resolve,
)
from gebm_cli.cli.progress import Counter, Quiet, progress
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import Run, newest_run, runs_root


def register(app: typer.Typer) -> None:
    app.command(
        "doctor",
        epilog="""Examples:\n
    gebm doctor                        (the newest run with a trained energy)\n
    gebm doctor digits-001 --beta 10\n
    gebm doctor --run my-gan-001 --allow-plugins --json\n
Exit code 0 when nothing failed (warnings are settings to think about), 1 when something failed.""",
    )(doctor)


def doctor(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run, by name or path; the same as --run.")
    ] = None,
    run: RunName = None,
    beta: Annotated[
        float | None, typer.Option(metavar="FLOAT", help="Inverse temperature. Default: the run's sample.beta.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="INT", min=0, help="Seed of the checks. Default: the run's seed.")
    ] = None,
    device: Device = "auto",
    allow_plugins: AllowPlugins = False,
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Check that an energy is fit to be sampled, before hours are spent on it.

    Looks at the trained networks: finite values, determinism, gradients, the prior, stability, rounding, mixing and calibration.
    """
    if beta is not None and not 0 <= beta < math.inf:
        raise UsageError(f"--beta: got '{beta}', expected a number of at least 0")
    chosen = _choose(name, run, runs_dir)
    from gebm_cli.experiment.doctor import N_PARTS, examine
    from gebm_cli.experiment.plugins import require_allowed

    require_allowed(chosen.experiment, allow_plugins, f"{chosen.path / 'experiment.yaml'}: ")
    where = resolve(device)
    with progress(f"doctor {chosen.name}", "parts") as report:
        counter = Counter(report, N_PARTS)
        result = examine(chosen, chosen.seed if seed is None else seed, where, beta, counter, allow_plugins)
    print_result(result, json, _table(result))
    record_scores([(chosen, {"metric": "doctor", **result}, "doctor")])
    if not result["ok"]:
        raise typer.Exit(1)


def _choose(name: str | None, run: str | None, runs_dir: str | None) -> Run:
    if name is not None and run is not None and name != run:
        raise UsageError(f"--run {run}: the run is named already, {name}; give one of them")
    chosen = open_named_run(run if name is None else name, runs_dir) or newest_run(runs_root(runs_dir), "train-energy")
    if not chosen.has("train-energy"):
        raise UsageError(f"{chosen.path}: has not finished train-energy; run `gebm train-energy {chosen.option}` first")
    return chosen


def _table(result: dict[str, Any]) -> str:
    """A line for each check, and what they come to."""
    lines = [f"Doctor on {result['run']} at beta {result['beta']:g}, seed {result['seed']}:"]
    for check in result["checks"]:
        status = check["status"].upper() if check["status"] in ("warning", "failed") else check["status"]
        bound = "" if check["bound"] is None else f"({'>=' if check['at_least'] else '<='} {check['bound']:.3g})"
        lines.append(f"  {check['name']:<13} {status:<7} {check['value']:>8.3g} {bound:<10} {check['message']}")
    failed, warned = (sum(c["status"] == status for c in result["checks"]) for status in ("failed", "warning"))
    if failed:
        lines.append(f"not fit to be sampled: {failed} of {len(result['checks'])} checks failed")
    else:
        lines.append("fit to be sampled" + (f", with {warned} warning{'s' * (warned > 1)}" if warned else ""))
    return "\n".join(lines)
