"""`gebm show`: a resolved experiment, and where each value comes from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from json import dumps
from typing import Annotated, Any

import typer

from gebm_cli.cli.completion import complete_sources
from gebm_cli.cli.options import Json, Overrides, RunsDir, print_result, refuse_overrides
from gebm_cli.errors import UsageError
from gebm_cli.experiment.editor_schema import editor_schema
from gebm_cli.experiment.run import Run, runs_root
from gebm_cli.experiment.showing import Resolved, Value, find_source, resolve
from gebm_cli.experiment.writing import printable, written


def register(app: typer.Typer) -> None:
    app.command(
        "show",
        epilog="""Examples:\n
    gebm show digits\n
    gebm show cifar10 train_base.lr=2e-4 --changed         (only what differs from the defaults)\n
    gebm show digits-001                                   (a run: what was trained, and what was typed)\n
    gebm show digits --json\n
    gebm show --schema > experiments/schema.json           (for editors: completion and checks while one types)""",
    )(show)


def show(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT|RUN",
            help="An experiment file, the name of one in experiments/, or a run.",
            autocompletion=complete_sources,
        ),
    ] = None,
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only keys that differ from their defaults.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON schema of all experiment files, for editors, and nothing else.")
    ] = False,
    json: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Show every key of an experiment or a run, its value, and where that was written; changed keys are marked *.

    What is printed is an experiment file itself, with the origins as comments.
    """
    if schema:
        if experiment is not None or changed:
            raise UsageError("--schema: is that of all experiment files; give it alone")
        whole = editor_schema()
        print_result(whole, json, dumps(whole, indent=1))
        return
    if experiment is None:
        raise UsageError("give an experiment file or a run to show, for instance `gebm show digits`")
    source = find_source(experiment, runs_root(runs_dir))
    if isinstance(source, Run):
        refuse_overrides(overrides or [])
    resolved = resolve(source, overrides)
    values = [v for v in resolved.values if v.changed or not changed]
    print_result(_result(resolved, values), json, "" if json else "\n".join(_text(resolved, values)))


def _result(resolved: Resolved, values: list[Value]) -> dict[str, Any]:
    fields = ("value", "default", "required", "changed", "origin", "place")
    return {
        "experiment": resolved.experiment.name,
        "file": str(resolved.file),
        "run": resolved.run.name if resolved.run else None,
        "commands": resolved.commands,
        "n_keys": len(resolved.values),
        "n_changed": sum(v.changed for v in resolved.values),
        "keys": [{"key": v.name} | {field: getattr(v, field) for field in fields} for v in values],
    }


def _text(resolved: Resolved, values: list[Value]) -> Iterator[str]:
    """The experiment as YAML, each value with its origin as a comment."""
    n_changed = sum(v.changed for v in resolved.values)
    counted = f"{n_changed} of {len(resolved.values)} keys, marked *, differ from their default or have none"
    yield f"# {printable(str(resolved.file))}: {counted}"
    for command in resolved.commands:
        yield f"# {printable(command)}"
    rows = [(line, value) for line, value in _lines(values)]
    width = min(max((len(line) for line, value in rows if value), default=0), 44)
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line, value in rows:
        row = line if value is None else f"{line:{width}}  # {_origin(value, resolved)}"
        yield typer.style(row, bold=True) if bold and value is not None and value.changed else row


def _lines(values: list[Value]) -> Iterator[tuple[str, Value | None]]:
    """Lines of YAML: the sections above a key, where they were not opened yet, then the key."""
    above: tuple[str, ...] = ()
    for value in values:
        key = value.key
        opened = next(
            (i for i, (a, b) in enumerate(zip(above, key, strict=False)) if a != b), min(len(above), len(key))
        )
        for depth in range(opened, len(key) - 1):
            yield f"{'  ' * depth}{key[depth]}:", None
        alone = value.section and not any(v.key[:-1] == key for v in values)
        text = " {}" if alone else "" if value.section else f" {written(value.value)}"
        yield f"{'  ' * (len(key) - 1)}{key[-1]}:{text}", value
        above = key if value.section else key[:-1]


def _origin(value: Value, resolved: Resolved) -> str:
    """`* experiments/digits.yaml:19 (default 1e-4)`"""
    place = printable(value.place)
    if value.origin == "run":
        place = place.removeprefix(f"{resolved.run.path}/") if resolved.run and value.changed else ""
    if value.origin == "extends":
        place = f"extends {place}"
    if not value.changed:
        return f"  {place} (the default)" if place else "  default"
    return f"* {place} ({'required' if value.required else f'default {printable(written(value.default))}'})"
