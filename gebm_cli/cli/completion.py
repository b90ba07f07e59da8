"""What the shell offers after <TAB>: experiments, runs, samplers and override keys. Quick, and never an error."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer

from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.errors import GebmError
from gebm_cli.experiment.key_reference import kind_of
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import run_folders, runs_root
from gebm_cli.experiment.sentences import fields_at, models_in

Offers = list[tuple[str, str]]
Completer = Callable[[typer.Context, str], Offers]


def _quietly(offer: Callable[[typer.Context, str], Iterator[tuple[str, str]]]) -> Completer:
    """What cannot be read offers nothing: a shell has no place for an error."""

    @functools.wraps(offer)
    def complete(ctx: typer.Context, incomplete: str) -> Offers:
        try:
            return [(word, help) for word, help in offer(ctx, incomplete) if word.startswith(incomplete)]
        except (GebmError, OSError, ValueError):
            return []

    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    del complete.__wrapped__
    return complete


@_quietly
def complete_experiments(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Names in experiments/ and files here; where none fits, keys, since with --run an override may stand in their place."""
    fitting = [offer for offer in _experiments() if offer[0].startswith(incomplete)]
    yield from fitting or _keys(None, incomplete)


@_quietly
def complete_runs(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    yield from _runs(ctx)


@_quietly
def complete_sources(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Experiments and runs."""
    yield from _experiments()
    yield from _runs(ctx)


@_quietly
def complete_samplers(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """The last of a list `kla,mala`; none stands alone."""
    before, comma, _ = incomplete.rpartition(",")
    given = before.split(",")
    for entry in CATALOGUE.values():
        if entry.name not in given:
            yield before + comma + entry.name, f"{entry.title}: {entry.target}"
    if not comma:
        yield "none", "draws of the base"


@_quietly
def complete_compared(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """As samplers, without none: the base is on every plot already."""
    yield from ((word, help) for word, help in complete_samplers(ctx, incomplete) if word != "none")


@_quietly
def complete_keys(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Keys of the experiment before them, or of every kind; `train_base.` first, then `train_base.lr=`, then words for its value.

    bash takes `key=word` apart, and asks for the word alone, behind the words `key` and `=` or (at the `=`) behind `key`.
    """
    experiment = ctx.params.get("experiment")
    before = [word for word in (experiment, *(ctx.params.get("overrides") or ())) if word]
    key = before[-2] if before[-1:] == ["="] and len(before) > 1 else before[-1] if before else ""
    if "=" in incomplete:
        key = incomplete.partition("=")[0]
        yield from ((f"{key}={word}", "") for word in _words(key) or ())
    elif _words(key) is not None:
        yield from ((word, "") for word in _words(key) or ())
    else:
        yield from _keys(experiment, incomplete)


# ------------------------------------------------------------------------------------------------------- what there is


def _experiments() -> Iterator[tuple[str, str]]:
    for file in sorted(Path("experiments").glob("*.yaml"), key=lambda file: file.stem):
        yield file.stem, str(file)
    for file in sorted(Path().glob("*.yaml")):
        yield file.name, "experiment file"


def _runs(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    for folder in run_folders(runs_root(ctx.params.get("runs_dir"))):
        yield folder.name, str(folder)


def _keys(experiment: str | None, incomplete: str) -> Iterator[tuple[str, str]]:
    *sections, _ = incomplete.split(".")
    fields = fields_at(tuple(sections), _tree(experiment) if sections else None)
    for name, field in fields.items():
        models = models_in(field.annotation)
        end = "." if models and any(m.model_fields for m in models) else "="
        help = field.description or next(((m.__doc__ or "") for m in models), "")
        yield ".".join([*sections, name]) + end, _short(help)


def _words(key: str) -> list[str] | None:
    """The words a key accepts, as far as it accepts words; None where it is no key, or a section without a short form."""
    *sections, name = key.split(".")
    field = fields_at(tuple(sections)).get(name)
    if field is None:
        return None
    if name == "kind":
        field = fields_at(tuple(sections[:-1]))[sections[-1]]
    models = models_in(field.annotation)
    if models and name not in ("kind", "objective"):
        return None
    return [kind_of(model) for model in models] or list(_literals(field.annotation))


def _literals(annotation: Any) -> Iterator[str]:
    if annotation in (bool, type(None)):
        yield from ("true", "false") if annotation is bool else ("null",)
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) in (Union, UnionType):
        yield from (word for part in get_args(annotation) for word in _literals(part))


def _tree(experiment: str | None) -> dict[str, Any] | None:
    """The resolved experiment, by which the kinds of sections are known; None where it cannot be read."""
    try:
        return None if experiment is None else load_experiment(experiment).model_dump()
    except (GebmError, OSError):
        return None


def _short(text: str) -> str:
    """The first sentence, without what shells or typer's markup would act on."""
    sentence = text.split(". ")[0].translate({ord("`"): None, ord("["): "(", ord("]"): ")"})
    return textwrap.shorten(sentence.rstrip("."), 72, placeholder="...")


# Lines of typer's scripts, and what stands in their place.
SCRIPTS = {
    "bash": [("    return 0\n", "    [[ ${COMPREPLY-} == *[=.] ]] && compopt -o nospace\n    return 0\n")],
    "zsh": [
        ("  eval $(env ", "  local offers code\n  offers=$(env "),
        (
            "complete_zsh %(prog_name)s)\n}",
            "complete_zsh %(prog_name)s)\n  eval $offers\n  code=$?\n"
            '  [[ $compstate[nmatches] == 1 && $offers == *[.=]\\"* ]] && compstate[insert]=1\n  return $code\n}',
        ),
    ],
}


def no_space_after_open_words() -> None:
    """No space behind `train_base.` and `train_base.lr=`, which go on, in bash and zsh (fish knows by itself).

    A script of typer's that is not as we know it stays as it is: then only the space comes back.
    """
    try:
        from typer import _completion_shared

        scripts = _completion_shared._completion_scripts
    except (ImportError, AttributeError):
        return
    for shell, changes in SCRIPTS.items():
        script = scripts.get(shell, "")
        if all(script.count(old) == 1 and new not in script for old, new in changes):
            for old, new in changes:
                script = script.replace(old, new)
            scripts[shell] = script
