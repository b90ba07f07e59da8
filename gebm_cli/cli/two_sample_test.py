"""`gebm two-sample-test`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gebm_cli.cli.evaluate import FeaturesOption, Weights, check_features
from gebm_cli.cli.options import Device, Json, RunName, RunsDir, open_named_run, print_result, record_score, resolve
from gebm_cli.cli.progress import Counter, progress
from gebm_cli.experiment.run import runs_root
from gebm_cli.experiment.schema import TwoSampleTest


def register(app: typer.Typer) -> None:
    app.command(
        "two-sample-test",
        epilog="""Examples:\n
    gebm two-sample-test digits-001/kla-001 digits:held-out\n
    gebm two-sample-test folder-a/ folder-b/ --features pixels --alpha 0.01\n
    gebm two-sample-test a.npz b.npz --permutations 1999 --json""",
    )(two_sample_test)


def two_sample_test(
    a: Annotated[str, typer.Argument(metavar="A", help="Folder, .npy, .npz, RUN, RUN/SET or data set.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other side, in the same forms.")],
    alpha: Annotated[float | None, typer.Option(help="Level of the test. Default 0.05.")] = None,
    permutations: Annotated[int | None, typer.Option(help="Permutations B. Default 999.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Gaussian bandwidth. Default: the median distance.")] = None,
    features: FeaturesOption = None,
    weights: Weights = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the permutations.")] = 0,
    run: RunName = None,
    device: Device = "auto",
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Do A and B have one law? Unbiased MMD^2 with a Gaussian kernel, and a permutation p-value (1 + count) / (1 + B)."""
    check_features(features)
    chosen = open_named_run(run, runs_dir)
    settings(TwoSampleTest(), alpha, permutations, bandwidth)  # a bad flag is told before anything is read
    from gebm_cli.experiment import scoring

    where = resolve(device)
    with progress("classifier features") as learning:
        pair = scoring.read_pair(
            a,
            b,
            chosen,
            runs_root(runs_dir),
            features,
            weights,
            where,
            default_features="pixels",
            on_step=lambda i, n: learning(i, n, {}),
        )
    owner = chosen or pair.samples.run
    keys = settings(owner.experiment.two_sample_test if owner else TwoSampleTest(), alpha, permutations, bandwidth)
    scoring.require_testable(pair, keys.alpha, keys.n_permutations)
    with progress("two-sample-test", "images") as report:
        x, y = pair.extract(Counter(report, len(pair.samples.data) + len(pair.reference.data)))
    result = scoring.mmd_test(pair, x, y, keys.alpha, keys.n_permutations, keys.bandwidth, seed)
    if pair.features.name == "classifier" and any(
        side.name.endswith(":train") for side in (pair.samples, pair.reference)
    ):
        print(
            "gebm: note: the classifier features were learned on one of the two sides, which can make them differ by itself; "
            "compare with held-out data, or use --features pixels",
            file=sys.stderr,
        )
    print_result(result, json, _sentence(result))
    record_score(pair.samples.run, result, "two-sample-test")


def settings(
    default: TwoSampleTest, alpha: float | None, permutations: int | None, bandwidth: float | None
) -> TwoSampleTest:
    """The experiment's keys with the flags on top, checked by the schema."""
    from pydantic import ValidationError

    from gebm_cli.errors import UsageError

    flags = {"alpha": ("--alpha", alpha), "n_permutations": ("--permutations", permutations)}
    flags |= {"bandwidth": ("--bandwidth", bandwidth)}
    given = {name: value for name, (_, value) in flags.items() if value is not None}
    try:
        return TwoSampleTest.model_validate(default.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{flags[str(first['loc'][0])][0]}: got '{first['input']}', {first['msg'].lower()}") from None


def _sentence(result: dict[str, Any]) -> str:
    word = "differ" if result["reject"] else "are not shown to differ"
    return (
        f"{result['x']} and {result['y']} {word} at level {result['alpha']:g}: p = {result['p_value']:.4g}, "
        f"MMD^2 = {result['statistic']:.4g}  ({result['n_x']} and {result['n_y']} samples, {result['features']} features, "
        f"Gaussian kernel of bandwidth {result['bandwidth']:.4g}, {result['n_permutations']} permutations)"
    )
