"""`gebm divergence`."""

from __future__ import annotations

import difflib
import math
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
from gebm_cli.core.divergences.names import KINDS, Kind
from gebm_cli.core.two_sample.names import KERNELS
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import runs_root
from gebm_cli.experiment.writable import require_writable

if TYPE_CHECKING:
    from gebm_cli.core.divergences.kinds import Options

MOST_PROJECTIONS, MOST_FEATURES = 100_000, 20_000


def register(app: typer.Typer) -> None:
    app.command(
        "divergence",
        epilog="""Examples:\n
    gebm divergence gaussian 'gaussian?shift=3,0&n=2000' --picture apart.png\n
    gebm divergence segment 'segment?shift=0.5,0' --kinds w1,mmd,kale,kl,js,tv\n
    gebm divergence monday.csv tuesday.csv --standardise --record changed.yaml\n
    gebm divergence 'red.csv?keep=alcohol,pH' 'white.csv?keep=alcohol,pH' --kinds w1,mmd\n
    gebm divergence digits-001/kla-001 held-out --run digits-001 --features pixels --json""",
    )(divergence)


def divergence(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A folder or archive of images, .npy, .npz, .csv, RUN, RUN/SET, run:RUN?n=N, a data set such as "
            "'ring?n=500&seed=1'; train or held-out of a run's data. Of a table 'a.csv?drop=NAME,NAME' leaves columns out, "
            "'a.csv?keep=NAME,NAME' all others; two tables are matched by the names of their columns.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="In the same forms.")],
    kinds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help=f"Of {', '.join(KINDS)}. Default: all but sinkhorn, the slowest."),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of mmd and kale: gaussian (default), laplace, exponential, rational-quadratic, polynomial or energy.",
        ),
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="H", help="Of that kernel. Default: the median distance.")
    ] = None,
    regularisation: Annotated[
        str | None,
        typer.Option(metavar="LAMBDA", help="Of kale: near KL at 0, half of MMD^2 at infinity. Default 0.1."),
    ] = None,
    random_features: Annotated[
        str | None, typer.Option(metavar="D", help="Solve kale in D random features, for many samples.")
    ] = None,
    projections: Annotated[str | None, typer.Option(metavar="L", help="Directions of sliced-w1. Default 200.")] = None,
    sinkhorn_regularisation: Annotated[
        str | None, typer.Option(metavar="R", help="Of sinkhorn, as a share of the median distance. Default 0.05.")
    ] = None,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Every column of the features with mean 0 and variance 1 first.")
    ] = False,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the witness functions: .png, .jpg, .webp, .pdf or .svg.")
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
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the critic, the directions, and run:. Default 0.")] = 0,
    run: RunName = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """How far is A from B? Distances and divergences side by side: each with its estimator, its error, and which way it errs."""
    flags = dict(locals())
    check_features(features)
    ranges = value_range_of(value_range)
    wanted, numbers = _kinds(kinds), _numbers(flags)
    require_writable(picture, record)  # before torch is loaded, which takes seconds
    chosen = open_named_run(run, runs_dir)
    from gebm_cli.cli.divergence_text import describe
    from gebm_cli.experiment.distributed import World
    from gebm_cli.experiment.divergences import DivergenceJob, compare
    from gebm_cli.experiment.score_job import Job

    scores = Job(
        samples=[a, b],
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
    given = frozenset("--" + name.replace("_", "-") for name in ("kernel", *_NUMBERS) if flags[name] is not None)
    job = DivergenceJob(scores, wanted, _options(kernel, numbers), standardise, picture, record, given)
    with phases("divergence") as begin:
        outcome = compare(job, begin)
    for warning in outcome.warnings:
        print(f"gebm: note: {warning}", file=sys.stderr)
    print_result(outcome.as_json(), json, describe(outcome))
    record_scores([(outcome.owner, outcome.record, "divergence")])


# --------------------------------------------------------------------------------------------------------------- flags


def _kinds(text: str | None) -> tuple[Kind, ...] | None:
    """The divergences asked for, in the order of the list."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    known: dict[str, Kind] = {kind: kind for kind in KINDS}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), KINDS, 1, 0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"--kinds: got '{name}', expected some of {', '.join(KINDS)}{hint}")
        if names.count(name) > 1:
            raise UsageError(f"--kinds: names '{name}' twice; keep one of them")
    if not names:
        raise UsageError(f"--kinds: got '{text}', expected some of {', '.join(KINDS)}")
    return tuple(known[name] for name in names)


_NUMBERS: dict[str, tuple[type[int] | type[float], float, str]] = {  # the type, the most, in words
    "bandwidth": (float, math.inf, "a positive number such as 0.5"),
    "regularisation": (float, math.inf, "a positive number such as 0.1"),
    "random_features": (int, MOST_FEATURES, f"a whole number from 1 to {MOST_FEATURES}, such as 1000"),
    "projections": (int, MOST_PROJECTIONS, f"a whole number from 1 to {MOST_PROJECTIONS}, such as 200"),
    "sinkhorn_regularisation": (float, math.inf, "a positive number such as 0.05"),
}


def _numbers(flags: dict[str, Any]) -> dict[str, float]:
    """The numbers of the flags that were typed, all of them positive."""
    found: dict[str, float] = {}
    for name, (kind, most, expected) in _NUMBERS.items():
        text = flags[name]
        if text is None:
            continue
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value <= most or math.isinf(value):
            raise UsageError(f"--{name.replace('_', '-')}: got '{text}', expected {expected}")
        found[name] = value
    return found


def _options(kernel: str | None, numbers: dict[str, float]) -> Options:
    """The options of the divergences, with their own defaults where nothing was typed."""
    from gebm_cli.core.divergences.kinds import Options

    if kernel is not None and kernel not in KERNELS:
        raise UsageError(f"--kernel: got '{kernel}', expected {', '.join(KERNELS[:-1])} or {KERNELS[-1]}")
    names = {"projections": "n_projections", "random_features": "features"}
    given: dict[str, Any] = {names.get(name, name): value for name, value in numbers.items()}
    return Options(**given | ({"kernel": kernel} if kernel is not None else {}))
