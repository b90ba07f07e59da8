"""`gebm evaluate-fid` and `gebm evaluate-kid`: one command body, two metrics."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gebm_cli.cli.options import Device, Json, RunName, RunsDir, open_named_run, print_result, record_score, resolve
from gebm_cli.cli.progress import Counter, progress
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import runs_root

Samples = Annotated[
    str | None,
    typer.Argument(
        metavar="[SAMPLES]", help="Folder, .npy, .npz, RUN or RUN/SET. Default: the newest of the newest run."
    ),
]
Reference = Annotated[
    str | None,
    typer.Argument(
        metavar="[REFERENCE]",
        help="train or held-out (of the run's data), digits, cifar10, a folder, ... Default: the run's training data.",
    ),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="inception|classifier|pixels",
        help="Default: the experiment's; without a run, classifier for digits, else inception (tests: pixels).",
    ),
]
Weights = Annotated[str | None, typer.Option("--weights", metavar="FILE", help="pytorch-fid's Inception weights.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Recorded; the score itself draws nothing.")]
FEATURES = ("inception", "classifier", "pixels")


def register(app: typer.Typer) -> None:
    app.command(
        "evaluate-fid",
        epilog="""Examples:\n
    gebm evaluate-fid      (the newest sample set, against its training data)\n
    gebm evaluate-fid digits-001/kla-001 held-out --json\n
    gebm evaluate-fid my-images/ cifar10:train --weights pt_inception-2015-12-05-6726825d.pth""",
    )(evaluate_fid)
    app.command(
        "evaluate-kid",
        epilog="""Examples:\n
    gebm evaluate-kid --run digits-001\n
    gebm evaluate-kid samples.npz reference.npz --features pixels\n
    gebm evaluate-kid digits-001/kla-001 digits:held-out --features classifier --json""",
    )(evaluate_kid)


def evaluate_fid(
    samples: Samples = None,
    reference: Reference = None,
    features: FeaturesOption = None,
    weights: Weights = None,
    seed: Seed = None,
    run: RunName = None,
    device: Device = "auto",
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Frechet distance between the features of samples and reference: lower is closer. Biased in n; compare at equal n."""
    _evaluate("fid", samples, reference, features, weights, seed, run, device, json, runs_dir)


def evaluate_kid(
    samples: Samples = None,
    reference: Reference = None,
    features: FeaturesOption = None,
    weights: Weights = None,
    seed: Seed = None,
    run: RunName = None,
    device: Device = "auto",
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Kernel distance (unbiased MMD^2, cubic kernel) over all pairs: lower is closer, 0 on average when equal."""
    _evaluate("kid", samples, reference, features, weights, seed, run, device, json, runs_dir)


def _evaluate(
    metric: str,
    samples: str | None,
    reference: str | None,
    features: str | None,
    weights: str | None,
    seed: int | None,
    run: str | None,
    device: str,
    as_json: bool,
    runs_dir: str | None,
) -> None:
    check_features(features)
    chosen = open_named_run(run, runs_dir)
    from gebm_cli.experiment import scoring

    where = resolve(device)
    with progress("classifier features") as learning:
        pair = scoring.read_pair(
            samples,
            reference,
            chosen,
            runs_root(runs_dir),
            features,
            weights,
            where,
            on_step=lambda i, n: learning(i, n, {}),
        )
    if metric == "fid":
        scoring.require_enough_for_fid(pair)
    with progress(f"evaluate-{metric}", "images") as report:
        fake, real = pair.extract(Counter(report, len(pair.samples.data) + len(pair.reference.data)))
    score: dict[str, Any] = {"fid": scoring.fid_score, "kid": scoring.kid_score}[metric](pair, fake, real)
    score["seed"] = seed
    print_result(score, as_json, _sentence(score))
    record_score(pair.samples.run, score, metric)


def check_features(name: str | None) -> None:
    """Refuse an unknown feature network before anything is loaded."""
    if name is not None and name not in FEATURES:
        raise UsageError(f"--features: got '{name}', expected {', '.join(FEATURES[:-1])} or {FEATURES[-1]}")


def _sentence(score: dict[str, Any]) -> str:
    return (
        f"{score['metric'].upper()} {score['value']:.5g} +- {score['standard_error']:.2g}  "
        f"({score['n_fake']} of {score['samples']} against {score['n_real']} of {score['reference']}, "
        f"{score['features']} features {score['weights_hash'][:8]})"
    )
