"""`gebm new`: starts an experiment file."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from gebm_cli.cli.completion import complete_sources
from gebm_cli.cli.options import Json, RunsDir, print_result
from gebm_cli.errors import UsageError
from gebm_cli.experiment.run import runs_root
from gebm_cli.experiment.showing import find_source
from gebm_cli.experiment.writing import start_experiment


def register(app: typer.Typer) -> None:
    app.command(
        "new",
        epilog="""Examples:\n
    gebm new mine --from cifar10                           (writes experiments/mine.yaml)\n
    gebm new again --from digits-001                       (the experiment of a run, its seed too)\n
    gebm new copy --from elsewhere/other.yaml""",
    )(new)


def new(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the new experiment; the file is experiments/NAME.yaml."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="EXPERIMENT|RUN",
            help="Where its values come from: an experiment file, the name of one, or a run.",
            autocompletion=complete_sources,
        ),
    ] = None,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Start an experiment file from another experiment: every key, with its meaning, its range and its default as a comment.

    Nothing is overwritten.
    """
    if name is None:
        raise UsageError("give the new experiment a NAME, for instance `gebm new mine --from digits`")
    if source is None:
        raise UsageError(
            f"--from: say which experiment or run to start from, for instance `gebm new {name} --from digits`"
        )
    found = find_source(source, runs_root(runs_dir))
    path = start_experiment(name, found, source)
    print_result(
        {"experiment": name, "out": str(path), "from": source},
        json,
        f"{path}: written, with the values of {source}\nnext: edit it, then gebm validate {shlex.quote(str(path))}",
    )
