"""`gebm evaluate-fid` and `gebm evaluate-kid`: one command body, two metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

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
from gebm_cli.cli.progress import Quiet, phases
from gebm_cli.cli.score_text import describe
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import runs_root

Samples = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SAMPLES [REFERENCE]",
        help="Folders, archives, .npy, .npz, RUN, RUN/SET, run:RUN?n=N, data sets. Default: the newest set of the newest run. "
        "Of two without --reference, the second is the reference.",
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        "-r",
        metavar="REFERENCE",
        help="In the same forms, or train or held-out of the run's data. Default: the run's training data.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="Of fid, kid, is, prdc, fd-mmd, energy-distance, from one extraction: fid,kid,is."
    ),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="NETWORK",
        help="inception, inception-torchvision, torchvision:MODEL, classifier, pixels, random, or package.module:function. "
        "Default: the experiment's; without a run, classifier for digits, else inception (tests: pixels).",
    ),
]
Weights = Annotated[str | None, typer.Option("--weights", metavar="FILE", help="The network's weights: a state dict.")]
Resize = Annotated[
    str | None,
    typer.Option(metavar="CONVENTION", help="Of inception: pytorch-fid (default), tf1 (torch-fidelity) or clean."),
]
Layer = Annotated[
    int | None, typer.Option(metavar="D", help="Of inception: 64, 192, 768 or 2048 features. Default 2048.")
]
Precision = Annotated[str, typer.Option(metavar="TYPE", help="float32, tf32 or bfloat16; told in the record.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network: pays above some thousand images.")]
Infinity = Annotated[
    bool, typer.Option("--infinity", help="FID at infinitely many samples, by 15 sizes (Chong & Forsyth 2020).")
]
Bootstrap = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="A 95 % interval for FID less its bias in n: 200.",
    ),
]
Subsets = Annotated[str | None, typer.Option(metavar="NxSIZE", help="KID's old convention beside: 100x1000.")]
Neighbours = Annotated[int, typer.Option(metavar="K", min=1, help="k of prdc.")]
PerClass = Annotated[
    bool, typer.Option("--per-class", help="FID or KID of each class too, where both sides have labels.")
]
OnBad = Annotated[Literal["error", "skip"], typer.Option(help="What to do with images that cannot be read.")]
ValueRange = Annotated[
    str | None, typer.Option(metavar="LOW,HIGH", help="What float images need: 0,1 or -1,1 or 0,255.")
]
Picture = Annotated[
    str | None, typer.Option(metavar="FILE", help="Draw the most and the least typical images (KID's witness).")
]
SaveStatistics = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Keep mean and covariance of SAMPLES as pytorch-fid does; no reference needed."),
]
SaveFeatures = Annotated[
    str | None, typer.Option(metavar="FILE", help="Keep the features of SAMPLES; no reference needed.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute the features of the reference anew.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Of --infinity, --bootstrap, --subsets and run:. Default 0.")
]
NAMES = ("inception", "inception-torchvision", "classifier", "pixels", "random")
FID = (
    "Frechet distance between the features of samples and reference: lower is closer. Biased in n; compare at equal n."
)
KID = "Kernel distance (unbiased MMD^2, cubic kernel) over all pairs: lower is closer, 0 on average when equal."
METRICS = ("fid", "kid", "is", "prdc", "fd-mmd", "energy-distance")


def register(app: typer.Typer) -> None:
    app.command(
        "evaluate-fid",
        epilog="""Examples:\n
    gebm evaluate-fid      (the newest sample set, against its training data)\n
    gebm evaluate-fid digits-001/kla-001 held-out --json\n
    gebm evaluate-fid a/ b.zip run:digits-001?n=5000 --reference cifar10:train --metrics fid,kid,is,prdc\n
    gebm evaluate-fid my-images/ --save-statistics mine.npz""",
    )(_command("fid", FID))
    app.command(
        "evaluate-kid",
        epilog="""Examples:\n
    gebm evaluate-kid --run digits-001\n
    gebm evaluate-kid samples.npz reference.npz --features pixels\n
    gebm evaluate-kid my-images/ real-images/ --subsets 100x1000 --picture typical.png""",
    )(_command("kid", KID))


def _command(metric: str, what: str) -> Callable[..., None]:
    """The command of one metric: both take the same options."""

    def command(
        samples: Samples = None,
        reference: Reference = None,
        metrics: Metrics = None,
        features: FeaturesOption = None,
        weights: Weights = None,
        resize: Resize = None,
        layer: Layer = None,
        precision: Precision = "float32",
        compile: Compile = False,
        infinity: Infinity = False,
        bootstrap: Bootstrap = 0,
        subsets: Subsets = None,
        neighbours: Neighbours = 5,
        per_class: PerClass = False,
        on_bad: OnBad = "error",
        value_range: ValueRange = None,
        picture: Picture = None,
        save_statistics: SaveStatistics = None,
        save_features: SaveFeatures = None,
        no_cache: NoCache = False,
        allow_plugins: AllowPlugins = False,
        seed: Seed = None,
        run: RunName = None,
        device: Device = "auto",
        quiet: Quiet = False,
        json: Json = False,
        runs_dir: RunsDir = None,
    ) -> None:
        _evaluate(metric, dict(locals()))

    command.__doc__ = what
    return command


def _evaluate(metric: str, given: dict[str, Any]) -> None:
    metrics = _metrics(given["metrics"], metric, given)
    check_features(given["features"])
    names = _sides(given)
    subsets, value_range = _subsets(given["subsets"]), value_range_of(given["value_range"])
    chosen = open_named_run(given["run"], given["runs_dir"])
    from gebm_cli.experiment.comparison import compare
    from gebm_cli.experiment.distributed import join_world
    from gebm_cli.experiment.score_job import Job

    job = Job(
        samples=names[0],
        reference=names[1],
        metrics=metrics,
        root=runs_root(given["runs_dir"]),
        run=chosen,
        device=resolve(given["device"]),
        world=join_world(),
        seed=given["seed"] or 0,
        subsets=subsets,
        value_range=value_range,
        **{k: given[k] for k in _PASSED},
    )
    with phases(f"evaluate-{metric}") as begin:
        outcome = compare(job, begin)
    if not job.world.first:
        return
    for warning in outcome.warnings:
        print(f"gebm: note: {warning}", file=sys.stderr)
    print_result(outcome.as_json(), given["json"], describe(outcome))
    record_scores((owner, record, record["metric"]) for owner, record in outcome.owned)


_PASSED = (
    *(
        "features",
        "weights",
        "resize",
        "layer",
        "precision",
        "compile",
        "infinity",
        "bootstrap",
        "neighbours",
        "per_class",
    ),
    *("on_bad", "picture", "save_statistics", "save_features", "allow_plugins", "no_cache"),
)


# --------------------------------------------------------------------------------------------------------------- flags


def check_features(name: str | None) -> None:
    """Refuse an unknown feature network before anything is loaded."""
    if name is not None and name not in NAMES and ":" not in name:
        expected = f"{', '.join(NAMES)}, torchvision:MODEL or package.module:function"
        raise UsageError(f"--features: got '{name}', expected {expected}")


def _sides(given: dict[str, Any]) -> tuple[list[str], str | None]:
    """The sample sets and the reference: without --reference, the second of two."""
    names, reference = list(given["samples"] or []), given["reference"]
    saves = given["save_statistics"] or given["save_features"]
    if saves and reference is None and len(names) != 1:
        raise UsageError(f"--save-statistics and --save-features: keep one side; give one, got {len(names) or 'none'}")
    if reference is not None or len(names) < 2:
        return names, reference
    if len(names) > 2:
        raise UsageError(f"got {len(names)} sample sets; say which they are compared with: --reference {names[-1]}")
    return names[:1], names[1]


def _metrics(text: str | None, default: str, given: dict[str, Any]) -> list[str]:
    names = [default] if text is None else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UsageError(f"--metrics: got '{unknown[0] if unknown else text}', expected some of {', '.join(METRICS)}")
    for flag, wanted in {"infinity": "fid", "bootstrap": "fid", "subsets": "kid"}.items():
        if given[flag] and wanted not in names:
            raise UsageError(
                f"--{flag}: is for {wanted}, which is not asked for; add it: --metrics {','.join([*names, wanted])}"
            )
    if 0 < given["bootstrap"] < 39:
        raise UsageError(
            f"--bootstrap: got {given['bootstrap']}, expected at least 39 for a 95 % interval; 200 is usual"
        )
    return list(dict.fromkeys(names))


def _subsets(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, cross, size = text.partition("x")
    if not (cross and number.isdigit() and size.isdigit() and int(number) >= 1 and int(size) >= 2):
        raise UsageError(f"--subsets: got '{text}', expected NUMBERxSIZE such as 100x1000")
    return int(number), int(size)


def value_range_of(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    known = {"0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0), "0,255": (0.0, 255.0)}
    if text.replace(" ", "") not in known:
        raise UsageError(f"--value-range: got '{text}', expected 0,1 or -1,1 or 0,255")
    return known[text.replace(" ", "")]
