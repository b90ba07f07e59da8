"""`gebm two-sample-test`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gebm_cli.cli.evaluate import (
    FeaturesOption,
    Layer,
    NoCache,
    OnBad,
    Precision,
    Resize,
    ValueRange,
    Weights,
    check_features,
    value_range_of,
)
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
from gebm_cli.cli.progress import Quiet, phases
from gebm_cli.cli.two_sample_text import describe
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import Run, runs_root
from gebm_cli.experiment.schema import TwoSampleTest

if TYPE_CHECKING:
    from gebm_cli.experiment.score_job import Job
    from gebm_cli.experiment.two_sample_job import TwoSampleJob

DIFFERENT = 4  # the exit code of --fail-if-different


def register(app: typer.Typer) -> None:
    app.command(
        "two-sample-test",
        epilog="""Examples:\n
    gebm two-sample-test digits-001/kla-001 held-out --picture test.png\n
    gebm two-sample-test folder-a/ folder-b.zip --test deep --alpha 0.01\n
    gebm two-sample-test mine/ yours/ --reference real/     (which of the two is closer to real/)\n
    gebm two-sample-test monday/ tuesday/ wednesday/ --picture pairs.png\n
    gebm two-sample-test pilot-a.npz pilot-b.npz --power\n
    gebm two-sample-test new/ released/ --stop-early --fail-if-different --json""",
    )(two_sample_test)


def two_sample_test(
    sets: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C]...",
            help="Folders, archives, .npy, .npz, RUN, RUN/SET, run:RUN?n=N, data sets; train or held-out of a run's data.",
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="mmd-fuse (default), mmd-agg, mmd, mmd-opt, deep, c2st, c2st-sign, me, scf, ctt. See docs/two-sample-tests.md.",
        ),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Level of the test. Default 0.05.")] = None,
    permutations: Annotated[int | None, typer.Option(metavar="B", help="Relabellings. Default 999.")] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of mmd and mmd-opt: gaussian (default), laplace, exponential, rational-quadratic, polynomial or energy.",
        ),
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="H[,H]...", help="Of mmd; several are averaged. Default: the median distance.")
    ] = None,
    split: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of each side, that tests that learn learn from. Default 0.5.")
    ] = None,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Every column of the features with mean 0 and variance 1 first.")
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option("--reference", "-r", metavar="R", help="Test which of A and B is closer to R (relative test)."),
    ] = None,
    power: Annotated[
        bool, typer.Option("--power", help="A and B are a pilot: predict power, and the samples needed for 80 %.")
    ] = False,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Stop relabelling when the decision is certain (risk 1e-6).")
    ] = False,
    fail_if_different: Annotated[
        bool, typer.Option("--fail-if-different", help="Exit code 4 when the sets differ at level alpha.")
    ] = False,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw what was found: .png, .jpg, .webp, .pdf or .svg.")
    ] = None,
    record: Annotated[str | None, typer.Option(metavar="FILE", help="Keep the result as YAML.")] = None,
    features: FeaturesOption = None,
    weights: Weights = None,
    resize: Resize = None,
    layer: Layer = None,
    precision: Precision = "float32",
    on_bad: OnBad = "error",
    value_range: ValueRange = None,
    no_cache: NoCache = False,
    allow_plugins: AllowPlugins = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of relabellings, splits, what is learned, and run:. Default 0.")
    ] = 0,
    run: RunName = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Do two sets come from one law? A kernel test by relabelling: p = (1 + count) / (1 + B). Images, points, features, runs."""
    flags = dict(locals())
    check_features(features)
    ranges = value_range_of(value_range)
    chosen = open_named_run(run, runs_dir)
    _keys(TwoSampleTest(), flags)  # a bad flag is told before anything is read
    from gebm_cli.experiment.distributed import World
    from gebm_cli.experiment.score_job import Job
    from gebm_cli.experiment.two_sample import compare_sets

    scores = Job(
        samples=sets,
        reference=None,
        metrics=[],
        root=runs_root(runs_dir),
        run=chosen,
        device=resolve(device),
        world=World(),
        value_range=ranges,
        default_features="pixels",
        **{k: flags[k] for k in ("seed", "features", "weights", "resize", "layer", "precision", "on_bad")},
        allow_plugins=allow_plugins,
        no_cache=no_cache,
    )
    with phases("two-sample-test") as begin:
        outcome = compare_sets(_job(scores, chosen, flags), lambda job, owner: _job(job.scores, owner, flags), begin)
    for warning in outcome.warnings:
        print(f"gebm: note: {warning}", file=sys.stderr)
    print_result(outcome.as_json(), json, describe(outcome))
    record_scores((owner, found, "two-sample-test") for owner, found in outcome.owned)
    if fail_if_different and outcome.differs:
        raise typer.Exit(DIFFERENT)


_OF_KEYS = {
    "test": "test",
    "alpha": "alpha",
    "permutations": "n_permutations",
    "kernel": "kernel",
    "bandwidth": "bandwidth",
    "split": "split",
}


def _keys(default: TwoSampleTest, flags: dict[str, Any]) -> TwoSampleTest:
    """The experiment's keys with the flags on top, checked by the schema."""
    from pydantic import ValidationError

    given = {key: flags[flag] for flag, key in _OF_KEYS.items() if flags[flag] is not None}
    if "bandwidth" in given:
        given["bandwidth"] = _bandwidths(given["bandwidth"])
    if flags["power"] and "test" not in given:
        given["test"] = "mmd-opt"
    try:
        return TwoSampleTest.model_validate(default.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        flag = next(f for f, k in _OF_KEYS.items() if k == key)
        raise UsageError(f"--{flag}: got '{flags[flag]}', {first['msg'][0].lower()}{first['msg'][1:]}") from None


def _bandwidths(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        raise UsageError(f"--bandwidth: got '{text}', expected a positive number, or several such as 0.5,1,2")
    return values


def _job(scores: Job, owner: Run | None, flags: dict[str, Any]) -> TwoSampleJob:
    """The flags over the keys of the owner's experiment."""
    from gebm_cli.core.two_sample.kinds import Asked
    from gebm_cli.experiment.two_sample_job import TwoSampleJob

    keys = _keys(owner.experiment.two_sample_test if owner else TwoSampleTest(), flags)
    width = keys.bandwidth
    asked = Asked(
        alpha=keys.alpha,
        count=keys.n_permutations,
        kernel=keys.kernel,
        bandwidths=() if width is None else width if isinstance(width, tuple) else (width,),
        split=keys.split,
        stop_early=flags["stop_early"],
    )
    switches = ("test", "kernel", "bandwidth", "split", "permutations", "power", "stop_early", "fail_if_different")
    given = frozenset("--" + name.replace("_", "-") for name in switches if flags[name] not in (None, False))
    passed = {key: flags[key] for key in ("reference", "power", "standardise", "picture", "record")}
    return TwoSampleJob(scores=scores, kind=keys.test, asked=asked, given=given, **passed)
