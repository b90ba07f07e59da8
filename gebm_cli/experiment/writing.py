"""A new experiment file: every key with what the schema says of it, and the values of another experiment in place. No torch."""

from __future__ import annotations

import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.key_reference import UNIONS, kind_of, meaning_of, type_of
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.sentences import models_in
from gebm_cli.experiment.showing import default_in, is_absent, plain

WIDTH = 110


def start_experiment(name: str, source: Path | Run, source_name: str, folder: Path = Path("experiments")) -> Path:
    """Write `folder/NAME.yaml`, which loads as the source does but for its name; returns its path.

    Raises:
        UsageError: there is such a file, or the name or the source is none (ConfigError).
        GebmError: it cannot be written.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"NAME: got '{name}', expected a name, not a path, such as {_stem(name)}; the file is {folder}/NAME.yaml"
        )
    file = source.path / "experiment.yaml" if isinstance(source, Run) else source
    experiment = load_experiment(file, flags={"name": ("NAME", written(name))})
    path = folder / f"{name}.yaml"
    text = experiment_text(experiment, path, f"`gebm new {name} --from {shlex.quote(source_name)}`")
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
        _write_new(path, text)
    except OSError as error:
        taken = isinstance(error, FileExistsError) and folder.is_dir()
        if taken:
            raise UsageError(f"{path}: exists already, and nothing is overwritten; choose another NAME") from None
        raise GebmError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _stem(name: str) -> str:
    """A name as near to a path as may be."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).stem).strip("-._") or "mine"


def _write_new(path: Path, text: str) -> None:
    """Exclusively, so that nothing is overwritten; half a file is removed again."""
    with open(path, "x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def experiment_text(experiment: Experiment, path: Path, begun_by: str) -> str:
    """The file: its launch command, then every key below a comment with its meaning, its range and its default."""
    head = [
        *_comment(launch_command(experiment, path), ""),
        "#",
        *_comment(
            f"Begun by {begun_by}. Every key is written out, below its meaning (type and range; default). A key that has its "
            "default may be removed. `gebm validate` checks the file, `gebm show --changed` tells what differs from the defaults.",
            "",
        ),
    ]
    lines = [*head, "", *_section(experiment, None, "")]
    return "\n".join([line for line, above in zip(lines, ["", *lines], strict=False) if line or above])


def launch_command(experiment: Experiment, path: Path) -> str:
    """The commands that run an experiment from its file to its samples."""
    file = shlex.quote(str(path))
    plugins = " --allow-plugins" if "external" in (experiment.base.kind, experiment.energy.kind) else ""
    if not experiment.is_gebm:
        return f"gebm flow {file}"
    stages = [("train-base", experiment.trains_base), ("train-energy", experiment.trains_energy)]
    trained = [f"gebm {stage} {file}{plugins}" for stage, is_trained in stages if is_trained]
    return " && ".join([*trained, f"gebm sample{plugins}" if trained else f"gebm sample {file}{plugins}"])


# ------------------------------------------------------------------------------------------------------------- the keys


def _section(section: BaseModel, usual: BaseModel | None, indent: str, name: str = "") -> Iterator[str]:
    """The lines of a section's keys, each below its comment."""
    for key, field in type(section).model_fields.items():
        value, full = getattr(section, key), f"{name}.{key}".lstrip(".")
        if is_absent(value):
            continue
        if isinstance(value, BaseModel):
            above = None if field.is_required() else field.get_default(call_default_factory=True)
            yield from [""] * (not indent)
            yield from _comment(_of_section(full, field, value), indent)
            yield f"{indent}{key}:"
            yield from _section(value, above, indent + "  ", full)
            yield from [""] * (not indent)
            continue
        required, default = default_in(section, usual, key)
        last = "required" if required else f"default {written(plain(default))}"
        yield from _comment(_of_key(key, field, name, last), indent)
        yield from _keys_if_given(field, indent)
        yield f"{indent}{key}: {written(plain(value))}"


def _of_section(name: str, field: FieldInfo, value: BaseModel) -> str:
    own = inspect.cleandoc(type(value).__doc__ or "")
    if len(models_in(field.annotation)) < 2:
        return own
    return f"{UNIONS[name]} {kind_of(type(value))}: {own}"


def _of_key(key: str, field: FieldInfo, section: str, last: str) -> str:
    if key != "kind":
        return f"{meaning_of(key, field)} ({type_of(field).replace('`', '')}; {last})"
    return f"{', '.join(_kinds(section))} ({last}). Each kind has keys of its own: see docs/experiment-files.md."


def _kinds(section: str) -> list[str]:
    """The kinds that a section may have."""
    models: list[type[BaseModel]] = [Experiment]
    for part in section.split("."):
        models = [m for model in models for m in models_in(model.model_fields[part].annotation)]
    return [kind for kind in map(kind_of, models) if kind != "none"]


def _keys_if_given(field: FieldInfo, indent: str) -> Iterator[str]:
    """Of a section that is null: the keys it may have, as comments."""
    for model in models_in(field.annotation):
        for key, inner in model.model_fields.items():
            last = f"default {written(plain(inner.get_default(call_default_factory=True)))}"
            yield from _comment(f"  {key}: {_of_key(key, inner, '', last)}", indent)


def _comment(text: str, indent: str) -> list[str]:
    lead = " " * (len(text) - len(text.lstrip()))
    lines = textwrap.wrap(printable(text.strip()), WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {lead}{'' if i == 0 else '  ' * bool(lead)}{line}" for i, line in enumerate(lines)]


# ------------------------------------------------------------------------------------------------------------ the values


def written(value: Any) -> str:
    """A value as YAML on one line that reads back to the same, by `load` and by any other reader of YAML."""
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, int):
        return str(value)
    text = _dumped(value, None)
    return _dumped(value, '"') if text.startswith("'") or _is_number(value) else text


def _dumped(text: str, style: str | None) -> str:
    """In a list, whose rules for what needs quotes are the strictest."""
    lines = yaml.safe_dump([text], default_flow_style=True, default_style=style, allow_unicode=True, width=10**9)
    return str(lines).removesuffix("\n")[1:-1]


def _is_number(text: str) -> bool:
    """True also of `1e-4`, which is text to YAML 1.1 and a number to YAML 1.2."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def printable(text: str) -> str:
    """On one line, and nothing that a terminal acts on."""
    return visible(" ".join(text.split()))


def visible(line: str) -> str:
    """A line with nothing in it that a terminal acts on: names may be anybody's."""
    return "".join(c if c.isprintable() else "?" for c in line)
