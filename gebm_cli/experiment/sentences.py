"""What is wrong with an experiment, in sentences: pydantic's errors, each with its place, what was given and what is expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from gebm_cli.experiment.schema import Experiment

Key = tuple[str | int, ...]
Origins = dict[Key, str]


def dotted(key: Iterable[str | int]) -> str:
    """The key as a user writes it: `train_base.lr`."""
    return ".".join(str(part) for part in key)


def sentence(error: Any, tree: Any, origins: Origins, place: str) -> str:
    """One pydantic error as `where: key: got, expected, what to do`."""
    key = _written_key(error["loc"], tree)
    name, kind, context = dotted(key), error["type"], error.get("ctx", {})
    if kind == "value_error":  # our own validators begin with the key
        key = tuple(error["msg"].removeprefix("Value error, ").split(":")[0].split("."))
    if kind == "union_tag_invalid":
        key = (*key, "kind")
    where = place_of(key, origins, place)
    if kind == "extra_forbidden":
        return f"{where}: {name}: unknown key; {suggest(key, tree)}"
    if kind == "missing" and isinstance(key[-1], str):
        return f"{where}: {name}: this key is required and missing{_form(key, tree)}"
    if kind == "union_tag_not_found":
        return f"{where}: {name}.kind: this key is required; expected {_tags(key)}"
    if kind == "union_tag_invalid":
        return (
            f"{where}: {name}.kind: got '{context['tag']}', expected {context['expected_tags'].replace(', ', ' or ')}"
            + near(
                _EQUIVALENT.get(dotted((*key, context["tag"])), str(context["tag"])), _quoted(context["expected_tags"])
            )
        )
    if kind == "value_error":
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    got = "nothing" if error["input"] is None else f"'{error['input']}'"
    if isinstance(error["input"], dict | list):
        got = "a section" if isinstance(error["input"], dict) else f"a list of {len(error['input'])}"
    return f"{where}: {name}: got {got}, expected {_expected(kind, context, key, tree)}{_meant(error)}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


def _form(key: Key, tree: Any) -> str:
    """The words that a missing key accepts, and how its section is written with one of them."""
    field = fields_at(key[:-1], tree).get(str(key[-1]))
    words = [w for w in getattr(field and field.annotation, "__args__", ()) if isinstance(w, str)]
    at = tree
    for part in key[:-1]:
        at = _child(at, part)
    if not words or not isinstance(at, dict) or "kind" not in at:
        return ""
    section = f"{dotted(key[:-1])}: {{kind: {at['kind']}, {key[-1]}: {_USUAL.get(str(key[-1]), words[0])}}}"
    return f"; expected {' or '.join(map(repr, words))}, such as '{section}'"


def _meant(error: Any) -> str:
    """The nearest of the words a key accepts, where one is near."""
    words = _quoted(error.get("ctx", {}).get("expected", ""))
    return near(str(error["input"]), words) if error["type"] == "literal_error" else ""


def near(got: str, words: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no word is near."""
    found = difflib.get_close_matches(got.lower(), words, 1, 0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def nearest_name(got: str, names: list[str]) -> list[str]:
    """The name of a file, if any, that is nearest: folder and `.yaml`, which most share, make no two of them alike."""
    stems = {name: PurePath(name).stem.lower() for name in names}
    found = difflib.get_close_matches(PurePath(got).stem.lower(), stems.values(), 1, 0.6)
    like = [name for name in names if stems[name] in found]
    return sorted(like, key=lambda name: ("/" in name) != ("/" in got))[:1]


def place_of(key: Key, origins: Origins, place: str) -> str:
    """Where a key was written: itself, else something below it (an override of a section that is not there), else above."""
    above = [origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins]
    below = [origins[k] for k in origins if k[: len(key)] == key]
    return ([origins[key]] if key in origins else below or above or [place])[0]


def merged(found: list[str]) -> list[str]:
    """One sentence a value: the members of a plain union (a word or a number) each complain on their own."""
    expected: dict[str, list[str]] = {}
    for sentence in found:
        head, comma, tail = sentence.partition(", expected ")
        expected.setdefault(head + comma, []).append(tail)
    split = {head: [tail.partition("; did you mean")[::2] for tail in tails] for head, tails in expected.items()}
    return [
        head + " or ".join(dict.fromkeys(t for t, _ in tails)) + "".join(f"; did you mean{h}" for _, h in tails if h)
        for head, tails in split.items()
    ]


def _written_key(loc: tuple[str | int, ...], tree: Any) -> Key:
    """The location without the names pydantic adds for the members of a union."""
    key: list[str | int] = []
    at = tree
    for i, part in enumerate(loc):
        if isinstance(at, dict) and part not in at:
            last = i == len(loc) - 1
            if not last or at.get("kind") == part:
                continue
        elif isinstance(at, str) or at is None:
            continue
        key.append(part)
        at = _child(at, part)
    return tuple(key)


def _child(at: Any, part: str | int) -> Any:
    if isinstance(at, dict):
        return at.get(part)
    return at[part] if isinstance(at, list) and isinstance(part, int) and part < len(at) else None


# The same objective by the name it has in the other stage.
_EQUIVALENT = {"train_energy.objective.kind.gan": "logistic", "train_base.objective.kind.logistic": "gan"}
_USUAL = {"divergence": "js"}  # of several words, the one to begin with

_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number, written in digits",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "missing": "one more value",
    "string_too_long": "at most {max_length} characters",
    "too_short": "a list of {min_length} values",
    "too_long": "a list of {max_length} values",
}


def _list_of(key: Key, tree: Any) -> str:
    """A list that the key accepts: the one in its description, else its default."""
    field = fields_at(key[:-1], tree).get(str(key[-1]))
    example = re.search(r"`(\[.*?\])`", (field.description if field else None) or "")
    default = field.default if field and isinstance(field.default, tuple) and field.default else ("a", "b")
    return example[1] if example else f"[{', '.join(map(str, default))}]"


def _expected(kind: str, context: dict[str, Any], key: Key, tree: Any) -> str:
    if kind == "string_pattern_mismatch":
        return "letters, digits, '-', '_' and '.', beginning with a letter or digit"
    if kind in ("tuple_type", "list_type"):
        return f"a list, such as {_list_of(key, tree)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a section: keys below `{key[-1] if key else 'name'}:`"
    limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
    return _EXPECTED.get(kind, kind.replace("_", " ")).format(**limits)


def fields_at(key: Key, tree: Any = None) -> dict[str, Any]:
    """The fields a user may write at this place of the schema: of a union, those of the kind the tree names, or all."""
    models: list[type[BaseModel]] = [Experiment]
    for part in key:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        tree = _child(tree, part)
        kind = _child(tree, "kind")
        models = [m for f in fields for m in models_in(f.annotation)]
        models = [m for m in models if kind and _kind(m) == kind] or models
    return {name: field for m in models for name, field in m.model_fields.items()}


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else field.annotation.__args__[0]  # type: ignore[union-attr]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The section models within a field's type: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in models_in(part)]


def _tags(key: Key) -> str:
    field = fields_at(key[:-1])[str(key[-1])]
    return " or ".join(repr(_kind(m)) for m in models_in(field.annotation))


def suggest(key: Key, tree: Any = None) -> str:
    """What the user may have meant by an unknown key, judged by the names and the descriptions of those that exist."""
    wanted = str(key[-1])
    here = fields_at(key[:-1], tree)
    if wanted in fields_at(key[:-1]):
        return f"it is a key of another kind; to change the kind, give the section anew: '{dotted(key[:-1])}={{kind: ...}}'"
    near = _nearest(wanted, here)
    if near:
        return f"did you mean '{near}'?"
    for section in Experiment.model_fields:
        near = _nearest(wanted, fields_at((section,)), exact=True)
        if near:
            return f"did you mean '{section}.{near}'?"
    return f"expected one of {', '.join(here)}"


def _nearest(wanted: str, fields: Mapping[str, Any], exact: bool = False) -> str | None:
    """The field whose name is nearest, else the one whose description has two words in a row that are."""
    near = difflib.get_close_matches(wanted.lower(), fields, 1, 1.0 if exact else 0.6)
    if near or exact:
        return near[0] if near else None
    phrases: dict[str, str] = {}
    for name, field in fields.items():
        for pair in pairwise(re.findall(r"[a-z]+", (field.description or "").lower())):
            phrases.setdefault("_".join(pair), name)
    near = difflib.get_close_matches(wanted.lower(), phrases, 1, 0.65)
    return phrases[near[0]] if near else None
