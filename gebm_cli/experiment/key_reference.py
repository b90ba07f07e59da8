"""Generates docs/experiment-files.md, the reference of every key, from the schema. Imports no torch.

python -m gebm_cli.experiment.key_reference > docs/experiment-files.md
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gebm_cli.experiment.schema import Experiment, TrainBase
from gebm_cli.experiment.sentences import models_in

INTRODUCTION = """\
# Experiment files

<!-- Generated from gebm_cli/experiment/schema/. Do not edit; run
     python -m gebm_cli.experiment.key_reference > docs/experiment-files.md -->

An experiment file is one page of YAML that says everything a run needs: the data, the two networks, how they are
trained, how samples are drawn and how they are scored. [experiments/digits.yaml](../experiments/digits.yaml) is one.
Only `name`, `data`, `base` and `energy` must be given; with a section `flow`, for particles alone, base and energy may be left
out. Every other key has a default.

```yaml
name: digits
data:
  kind: digits
latent_dim: 16
base:
  kind: conv
energy:
  kind: conv
train_base:
  steps: 4000
  lr: 5e-4
```

## How a value is found

**Where an experiment is looked for.** A command takes the path of a file, or a bare name: `digits` stands for
`experiments/digits.yaml` below the current folder. A file of that very name wins.

**Precedence.** Defaults < file < overrides < flags. An override stands after the file on the command line:

```
gebm train-base experiments/digits.yaml train_base.lr=1e-4 seed=3
```

**Overrides** are written `key=value`, with dots between a section and its key. They are split at the first `=`, so a
value may hold another one. The value is read as YAML: `train_base.betas=[0.0, 0.9]` is a list, and
`train_base.ema_halflife_steps=null` is null.

**Conversion.** A value is kept as the text you wrote and converted by the type declared below. So `1e-4` is a number,
`010` is ten, and `no` is false where true or false is asked for and the word "no" where text is asked for. A whole
number is written in digits: `10000`, not `1e4`. Infinity and NaN are refused.

**Extending.** `extends: cifar10.yaml` at the top of a file lays its keys over those of that file, which is looked for beside
it. Sections are merged key by key; a section of another `kind` takes the whole place of the one below. Such a file needs a
`name` of its own.

**Empty sections.** `sample:` with nothing below it means its defaults. Unquoted `null`, `~` or nothing is null.

**In an editor.** `gebm show --schema > experiments/schema.json` writes a JSON schema of what may be written. With
`# yaml-language-server: $schema=schema.json` as a line of the file, an editor with the YAML language server completes keys,
shows their meaning and marks mistakes while you type. What hangs on several keys, `gebm validate` alone can say.

## What is refused

- An unknown key. The message names the nearest key there is.
- A key given twice, a required key left out, a value of the wrong type or out of its range.
- YAML aliases (`*name`), and every tag that is not one of YAML's own plain types.
- A file larger than 1 MB or not in UTF-8.

All problems of a file are reported at once, each with its place (file and line, or the override), what was found and
what was expected. The exit code is then 2 and no run is made. An experiment file is data. Nothing in it runs code, unless a
network of `kind: external` names a function of yours and you add `--allow-plugins` to the command.

`gebm validate experiments/digits.yaml` makes the same checks, reads the data and passes one latent through freshly
built networks. It trains nothing. (With `data.kind: cifar10` and `data.download: true` it downloads the data when they
are absent, as training would.)

A run keeps its resolved experiment, with every key written out, in `experiment.yaml`. That file can be given to any
command again.
"""

# What the schema's three unions are for; the other sections say it in their docstrings.
UNIONS = {
    "data": "What is learned. Images become numbers in [-1, 1].",
    "base": "The base B: a network from the latent to the data. Points need `mlp`, `circle`, `realnvp` or `maf`, images `conv`, "
    "`sngan`, `dcgan`, `resnet` or `realnvp-image`. The three flows have a density and need as many latents as a point of the data "
    "has numbers. `conv` needs square images with a side of 2, 3, 5 or 7 times a power of two (at least 2); "
    "`sngan` and `dcgan` need 32x32 or 64x64 RGB, `resnet` these or 128x128; `circle` needs `latent_dim: 2`. `external`, a "
    "generator of your own, fits any data.",
    "train_base.objective": "What base and critic are trained by. `objective: gan` is short for `objective: {kind: gan}`. For "
    "every kind but hinge, wasserstein, swgan and those with a kernel, E + c of the critic estimates -log of the density ratio.",
    "train_energy.objective": "What the energy is trained by; at the optimum of each E + c = -log of the density ratio. Short "
    "form as above.",
    "flow.source": "Where the particles start.",
    "energy": "The energy E: a network from the data to one number. In `train-base` the same kind of network is the "
    "critic. Points need `mlp` or, on a base `realnvp` or `maf`, `flow`; images need `conv`, `sngan`, `dcgan` or "
    "`resnet`, with the same sizes as for the base. `external`, an energy or critic of your own, fits any data.",
}

_WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", type(None): "`null`"}
_LIMITS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "max_length": "at most {} characters"}


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION, "## Top level\n", _table(Experiment)]
    for name, field in Experiment.model_fields.items():
        models = models_in(field.annotation)
        if models:
            parts += [f"## `{name}`\n", *_section(name, models)]
    return "\n".join(parts)


def _section(name: str, models: list[type[BaseModel]]) -> list[str]:
    """A section's paragraphs: one table, or for a union one per kind; then the sections within it."""
    if len(models) == 1:
        (model,) = models
        within = {key: models_in(field.annotation) for key, field in model.model_fields.items()}
        inner = [part for key, found in within.items() if found for part in _within(f"{name}.{key}", found)]
        return [f"{_doc(model)}\n", _table(model), *inner]
    return [f"{UNIONS[name]}\n", *_kinds(name, models)]


def _within(name: str, models: list[type[BaseModel]]) -> list[str]:
    """A section inside a section; kinds that train_base has described are only named again."""
    if len(models) == 1:
        return [f"### `{name}`\n", f"{_doc(models[0])}\n", _table(models[0])]
    known = [m for m in models_in(TrainBase.model_fields["objective"].annotation) if not name.startswith("train_base")]
    again = ", ".join(f"`{kind_of(m)}`" for m in models if m in known)
    seen = f" {again} as in `train_base.objective`." if again else ""
    return [f"### `{name}`\n", f"{UNIONS[name]}{seen}\n", *_kinds(name, [m for m in models if m not in known])]


def _kinds(name: str, models: list[type[BaseModel]]) -> list[str]:
    return [part for m in models for part in (f"### `{name}.kind: {kind_of(m)}`\n", f"{_doc(m)}\n", _table(m)) if part]


def kind_of(model: type[BaseModel]) -> str:
    """The word that tells a member of a union from the others."""
    return str(get_args(model.model_fields["kind"].annotation)[0])


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | type and range | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        cells = [f"`{name}`", type_of(field), default_of(field), meaning_of(name, field)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _doc(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "")


def meaning_of(name: str, field: FieldInfo) -> str:
    """The description of a key; of a section, a link to it."""
    if field.description:
        return field.description
    if models_in(field.annotation):
        return f"See [`{name}`](#{name})."
    return "The kind of this section." if name == "kind" else ""


def type_of(field: FieldInfo) -> str:
    """The type of a key in words, with its range."""
    models = models_in(field.annotation)
    if len(models) > 1:
        return "section, by its `kind`"
    if models:
        return "section or `null`" if type(None) in get_args(field.annotation) else "section"
    return _with_limits(_spell(field.annotation), field.metadata)


def _spell(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *metadata = arguments
        return _with_limits(_spell(inner), _flat(metadata))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is ...:
        return f"list, each a {_spell(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}, each a {_spell(arguments[0])}"
    return _WORDS[annotation]


def _flat(metadata: Iterable[Any]) -> list[Any]:
    """The metadata of an alias such as `Count`, which pydantic keeps inside a `FieldInfo`."""
    return [item for m in metadata for item in (m.metadata if isinstance(m, FieldInfo) else [m])]


def _with_limits(word: str, metadata: Iterable[Any]) -> str:
    found = {name: getattr(m, name) for m in metadata for name in (*_LIMITS, "pattern") if hasattr(m, name)}
    limits = [text.format(_number(found[name])) for name, text in _LIMITS.items() if found.get(name) is not None]
    if found.get("pattern"):
        limits.append(f"of the form `{found['pattern']}`")
    return " ".join([word, ", ".join(limits)]).strip()


def _number(value: float) -> str:
    if isinstance(value, int) and value > 2**31 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return str(value) if isinstance(value, int) else f"{value:g}"


def default_of(field: FieldInfo) -> str:
    """The default as one would write it in the file."""
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return f"`{field.default.kind}`" if hasattr(field.default, "kind") else "its defaults"
    return "its defaults" if field.default_factory is not None else f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    return _number(value) if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
