"""`gebm verdict`: is the GEBM better than its base?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gebm_cli.cli.evaluate import FeaturesOption, Weights, check_features
from gebm_cli.cli.options import Device, Json, RunName, RunsDir, open_named_run, print_result, record_scores, resolve
from gebm_cli.cli.progress import Counter, Quiet, progress
from gebm_cli.cli.tables import seen
from gebm_cli.experiment.run import newest_run, runs_root


def register(app: typer.Typer) -> None:
    app.command(
        "verdict",
        epilog="""Examples:\n
    gebm verdict      (the newest run with a trained energy)\n
    gebm verdict --run digits-001 --json\n
    gebm verdict --base digits-001/base-001 --gebm digits-001/kla-003""",
    )(verdict)


def verdict(
    base: Annotated[
        str | None, typer.Option(metavar="SAMPLES", help="Base samples. Default: the run's newest.")
    ] = None,
    gebm: Annotated[
        str | None, typer.Option(metavar="SAMPLES", help="GEBM samples. Default: the run's newest.")
    ] = None,
    run: RunName = None,
    features: FeaturesOption = None,
    weights: Weights = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Compare a run's newest base samples and newest GEBM samples: FID, KID, and whether the difference is significant.

    Against training and held-out data; the p-value is that of the relative test on KID (Bounliphone et al. 2016).
    """
    check_features(features)
    chosen = open_named_run(run, runs_dir) or newest_run(runs_root(runs_dir), "train-energy")
    from gebm_cli.experiment import inputs, scoring
    from gebm_cli.experiment.sample_sets import newest_sample_set

    where = resolve(device)
    root = runs_root(runs_dir)
    draws, refined = (
        inputs.read_input(name, root, chosen)
        if name
        else inputs.read_sample_set(newest_sample_set(chosen, base=of_base))
        for name, of_base in ((base, True), (gebm, False))
    )
    splits = {name: inputs.split_of(chosen, name) for name in inputs.SPLITS}
    with progress("classifier features") as learning:
        network = scoring.choose_features(
            refined, splits["train"], chosen, features, weights, where, "inception", lambda i, n: learning(i, n, {})
        )
    sides = [draws, refined, *(s for s in splits.values() if len(s.data) > 1)]
    with progress("verdict", "images") as report:
        counter = Counter(report, sum(len(s.data) for s in sides))
        extracted = [network(side.data, on_batch=counter) for side in sides]
    references = {s.name.rpartition(":")[2]: f for s, f in zip(sides[2:], extracted[2:], strict=True)}
    result: dict[str, Any] = {
        "run": chosen.name,
        "base": draws.name,
        "gebm": refined.name,
        "n_base": len(draws.data),
        "n_gebm": len(refined.data),
        **network.settings(),
        "references": scoring.verdict(extracted[0], extracted[1], references),
    }
    weights = "" if result["weights_hash"] == "none" else f" {result['weights_hash'][:8]}"
    by = seen(result | {"x_resolution": refined.item_shape}) + weights
    print_result(result, json, _table(result, by))
    record_scores([(chosen, {"metric": "verdict", **result}, "verdict")])


def _table(result: dict[str, Any], by: str) -> str:
    lines = [
        f"Verdict on {result['run']}: {result['n_base']} samples of the base ({result['base']}) and {result['n_gebm']} of the "
        f"GEBM ({result['gebm']}), {by}"
    ]
    for name, entry in result["references"].items():
        lines.append(f"  against {entry['n_real']} {name} points")
        for metric in ("fid", "kid"):
            if f"{metric}_base" in entry:
                cells = [
                    f"{side:>5} {entry[f'{metric}_{side}']:9.4g} +- {entry[f'{metric}_{side}_standard_error']:.2g}"
                    for side in ("base", "gebm")
                ]
                # An unbiased estimate near 0 may be negative, and its ratio says nothing.
                clear = entry[f"{metric}_base"] > 2 * entry[f"{metric}_base_standard_error"]
                ratio = f"   ratio {entry[f'{metric}_gebm'] / entry[f'{metric}_base']:.3f}" if clear else ""
                lines.append(f"    {metric.upper()}  {'   '.join(cells)}{ratio}")
        worse = entry["p_value"] > 0.99
        word = "significantly better" if entry["significant"] else "worse" if worse else "not significantly better"
        lines.append(
            f"    the GEBM is {word} than its base: KID difference {entry['kid_difference']:.3g} "
            f"+- {entry['kid_difference_standard_error']:.2g}, p = {entry['p_value']:.2g}"
        )
    return "\n".join(lines)
