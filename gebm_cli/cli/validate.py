"""`gebm validate`: all errors of an experiment at once, without side effects."""

from __future__ import annotations

import typer

from gebm_cli.cli.options import AllowPlugins, ExperimentArgument, Json, Overrides, print_result, split_arguments
from gebm_cli.errors import UsageError
from gebm_cli.experiment.load import load_with_origins, placed


def register(app: typer.Typer) -> None:
    app.command(
        "validate",
        epilog="""Examples:\n
    gebm validate experiments/digits.yaml\n
    gebm validate experiments/cifar10.yaml train_base.lr=2e-4 data.download=false""",
    )(validate)


def validate(
    experiment: ExperimentArgument = None,
    overrides: Overrides = None,
    allow_plugins: AllowPlugins = False,
    json: Json = False,
) -> None:
    """Check every key of an experiment, read its data, and pass one latent through its networks.

    Trains nothing and makes no run; data that are absent are downloaded where the experiment allows it.
    """
    experiment, keys = split_arguments(experiment, overrides)
    if experiment is None:
        raise UsageError("give the experiment file to validate")
    loaded, origins = load_with_origins(experiment, keys)
    from gebm_cli.experiment.stages import describe

    with placed(origins, loaded):
        result = {"experiment": loaded.name, "valid": True, **describe(loaded, allow_plugins)}
    validation = f", {result['n_validation']} validation" if "n_validation" in result else ""
    memory = "".join(f"; {stage} takes about {mb:.0f} MB beside torch" for stage, mb in result["memory_mb"].items())
    networks = f"base {result['base_parameters']} and energy {result['energy_parameters']} parameters{memory}"
    print_result(
        result,
        json,
        f"{experiment}: valid; {result['n_train']} training{validation} and {result['n_held_out']} held-out points of shape "
        f"{tuple(result['shape'])}, {networks if loaded.is_gebm else f'{loaded.flow.n_particles} particles'}",
    )
