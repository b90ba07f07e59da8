"""From a YAML file and overrides to a validated `Experiment`, with every error in one report.

One mechanism: scalars are kept as the text the user wrote, and the schema converts each by its declared type. So `1e-4`
is a float, `no` stays a string where a string is declared, and `010` is ten (PyYAML alone would read a string, False
and 8). Beside the values runs a table of origins (file:line, an override, a flag), so that every error says where.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gebm_cli.errors import UsageError
from gebm_cli.experiment.schema import Experiment

Key = tuple[str | int, ...]
Origins = dict[Key, str]

_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{t}"
    for t in ["null", "bool", "int", "float", "timestamp", "str", "map", "seq", "value", "merge"]
}


class ConfigError(UsageError):
    """One or more problems of a configuration, each a sentence that begins with its place."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


# ------------------------------------------------------------------------------------------- YAML with places, as text


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses aliases, by which a small file can grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported; write the value again", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)


def _compose(text: str, where: str, by_line: bool) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if by_line and error.problem_mark else ""
        problem = error.problem or "cannot be read"
        if "'\\t'" in problem:
            problem = "a tab is used where YAML wants spaces; replace it by spaces"
        raise ConfigError([f"{where}{line}: not valid YAML: {problem}"]) from None
    except yaml.reader.ReaderError as error:
        raise ConfigError([f"{where}: not valid YAML: {error.reason}"]) from None
    except RecursionError:
        raise ConfigError([f"{where}: not valid YAML: nested too deeply"]) from None


def _plain(node: yaml.Node, key: Key, place: str, by_line: bool, origins: Origins, problems: list[str]) -> Any:
    """The node as dicts, lists, text and None, noting where each key stands."""
    here = f"{place}:{node.start_mark.line + 1}" if by_line else place
    origins.setdefault(key, here)
    if node.tag not in _PLAIN_TAGS:
        problems.append(f"{here}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not supported; remove it")
        return None
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            line = f"{place}:{key_node.start_mark.line + 1}" if by_line else place
            if name in result:
                problems.append(f"{line}: {dotted((*key, name))}: this key is given twice; keep one of them")
            origins[(*key, name)] = line
            result[name] = _plain(value_node, (*key, name), place, by_line, origins, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(n, (*key, i), place, by_line, origins, problems) for i, n in enumerate(node.value)]
    style = node.style if isinstance(node, yaml.ScalarNode) else None
    return None if style is None and node.value in ("", "~", "null", "Null", "NULL") else node.value


def dotted(key: Iterable[str | int]) -> str:
    """The key as a user writes it: `train_base.lr`."""
    return ".".join(str(part) for part in key)


# --------------------------------------------------------------------------------------------------------- the loading


def load_experiment(
    path: str | os.PathLike[str], overrides: Iterable[str] = (), flags: Mapping[str, tuple[str, str]] | None = None
) -> Experiment:
    """Read, override and validate an experiment file. Precedence: defaults < file < overrides < flags.

    Args:
        path: the YAML file, or the name of one in `experiments/`.
        overrides: `key.sub=value`, split at the first `=`.
        flags: command-line options that stand for keys, `{"sample.beta": ("--beta", "100")}`.

    Raises:
        ConfigError: with all problems at once, each naming file:line or the override, what it got and what is expected.
    """
    return load_with_origins(path, overrides, flags)[0]


def load_with_origins(
    path: str | os.PathLike[str], overrides: Iterable[str] = (), flags: Mapping[str, tuple[str, str]] | None = None
) -> tuple[Experiment, Origins]:
    """As `load_experiment`, and where each key was written: `file:line`, `override '...'` or the flag; a default has no entry."""
    file = find_experiment(path)
    origins: Origins = {}
    problems: list[str] = []
    tree = _read_tree(file, origins, problems, ())
    return validate_tree(tree, origins, problems, overrides, flags, str(file)), origins


def _read_tree(file: Path, origins: Origins, problems: list[str], children: tuple[Path, ...]) -> dict[str, Any]:
    """The tree of text of a file, laid over that of the file it `extends`; a path there is seen from the file's own folder."""
    node = _compose(_read(file), str(file), by_line=True)
    if node is None or not isinstance(node, yaml.MappingNode):
        raise ConfigError([f"{file}: expected keys such as `name:` and `data:`, got {_kind_of(node)}"])
    own: Origins = {}
    tree = _plain(node, (), str(file), True, own, problems)
    _spell_out(tree)
    parent = tree.pop("extends", None)
    if parent is not None:
        where, above = own[("extends",)], file.parent / str(parent)
        if above.resolve() in (file.resolve(), *(c.resolve() for c in children)):
            raise ConfigError([f"{where}: extends: {parent} extends this file in turn; remove one of the two"])
        if not above.is_file():
            raise ConfigError([f"{where}: extends: got '{parent}', expected an experiment file beside this one"])
        if "name" not in tree:
            problems.append(f"{where}: name: a file that extends another needs a name of its own; add `name:`")
        tree = _laid_over(tree, _read_tree(above, origins, problems, (*children, file)), (), origins)
    origins.update(own)
    return tree


def _laid_over(tree: Any, below: Any, key: Key, origins: Origins) -> Any:
    """Sections are merged key by key, but one of another kind takes the whole place of the one below it."""
    both = isinstance(tree, dict) and isinstance(below, dict)
    if not both or tree.get("kind", below.get("kind")) != below.get("kind"):
        for old in [k for k in origins if k[: len(key)] == key]:
            del origins[old]
        return tree
    merged = {k: _laid_over(v, below[k], (*key, k), origins) if k in below else v for k, v in tree.items()}
    return below | merged


def validate_tree(
    tree: dict[str, Any],
    origins: Origins,
    problems: list[str],
    overrides: Iterable[str],
    flags: Mapping[str, tuple[str, str]] | None,
    place: str,
) -> Experiment:
    """Apply overrides and flags to a tree of text, then validate it; raise every problem at once."""
    for item in overrides:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            problems.append(f"override '{item}': an override is written key=value, for instance train_energy.lr=1e-4")
        else:
            _assign(tree, name.strip(), value, f"override '{item}'", origins, problems)
    for name, (flag, value) in (flags or {}).items():
        _assign(tree, name, value, flag, origins, problems)
    _spell_out(tree)
    try:
        experiment = Experiment.model_validate(tree)
    except ValidationError as error:
        found = [_sentence(e, tree, origins, place) for e in error.errors(include_url=False)]
        raise ConfigError(problems + _merged(found)) from None
    if problems:
        raise ConfigError(problems)
    return experiment


def _spell_out(tree: dict[str, Any]) -> None:
    """`objective: mmd` as {kind: mmd}, so that keys can be laid over it and errors below it have a place."""
    for section in tree.values():
        if isinstance(section, dict) and isinstance(section.get("objective"), str):
            section["objective"] = {"kind": section["objective"]}


def _assign(tree: dict[str, Any], name: str, text: str, where: str, origins: Origins, problems: list[str]) -> None:
    try:
        node = _compose(text, where, by_line=False)
    except ConfigError as error:
        problems.extend(error.problems)
        return
    key = tuple(name.split("."))
    at = tree
    for part in key[:-1]:
        if at.get(part) is None:
            at[part] = {}
        if part == "objective" and isinstance(at[part], str):
            at[part] = {"kind": at[part]}
        at = at[part]
        if not isinstance(at, dict):
            problems.append(f"{where}: {part} is a value, not a section; it has no key '{key[-1]}'")
            return
    for old in [k for k in origins if k[: len(key)] == key]:
        del origins[old]
    at[key[-1]] = None if node is None else _plain(node, key, where, False, origins, problems)
    origins[key] = where


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > 1_000_000:
            raise UsageError(f"{file}: larger than 1 MB; an experiment file is a page of YAML")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a text file in UTF-8, so not an experiment file") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None


def find_experiment(path: str | os.PathLike[str]) -> Path:
    """The file itself, or `experiments/NAME.yaml` for a bare name; a file wins over a name.

    Raises:
        UsageError: there is neither; the message names the nearest one there is.
    """
    file = Path(path)
    named = Path("experiments") / f"{path}.yaml"
    if file.is_file() or not named.is_file():
        if not file.exists():
            known = sorted(str(p) for p in Path("experiments").glob("*.yaml"))
            near = difflib.get_close_matches(str(path), known + [Path(k).stem for k in known], 1, 0.5)
            if str(path).split(".")[0] in Experiment.model_fields:
                raise UsageError(f"{path}: an override is written key=value, for instance {path}=1")
            hint = f"did you mean {near[0]}?" if near else "give the path of an experiment file" + _listed(known)
            raise UsageError(f"{path}: no such file; {hint}")
        if file.is_dir():
            raise UsageError(f"{path}: is a folder; give an experiment file (.yaml), or a run with --run")
        return file
    return named


def _listed(known: list[str]) -> str:
    return f", for instance {', '.join(known)}" if known else ""


# ----------------------------------------------------------------------------------------------- errors, in sentences


def _sentence(error: Any, tree: Any, origins: Origins, place: str) -> str:
    """One pydantic error as `where: key: got, expected, what to do`."""
    key = _written_key(error["loc"], tree)
    name, kind, context = dotted(key), error["type"], error.get("ctx", {})
    if kind == "value_error":  # our own validators begin with the key
        key = tuple(error["msg"].removeprefix("Value error, ").split(":")[0].split("."))
    if kind == "union_tag_invalid":
        key = (*key, "kind")
    where = _place_of(key, origins, place)
    if kind == "extra_forbidden":
        return f"{where}: {name}: unknown key; {suggest(key, tree)}"
    if kind == "missing" and isinstance(key[-1], str):
        return f"{where}: {name}: this key is required and missing"
    if kind == "union_tag_not_found":
        return f"{where}: {name}.kind: this key is required; expected {_tags(key)}"
    if kind == "union_tag_invalid":
        return (
            f"{where}: {name}.kind: got '{context['tag']}', expected {context['expected_tags'].replace(', ', ' or ')}"
            + _near(str(context["tag"]), re.findall(r"'([^']+)'", context["expected_tags"]))
        )
    if kind == "value_error":
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    got = "nothing" if error["input"] is None else f"'{error['input']}'"
    if isinstance(error["input"], dict | list):
        got = "a section" if isinstance(error["input"], dict) else f"a list of {len(error['input'])}"
    return f"{where}: {name}: got {got}, expected {_expected(kind, context, key)}{_meant(error)}"


def _meant(error: Any) -> str:
    """The nearest of the words a key accepts, where one is near."""
    words = re.findall(r"'([^']+)'", error.get("ctx", {}).get("expected", ""))
    return _near(str(error["input"]), words) if error["type"] == "literal_error" else ""


def _near(got: str, words: list[str]) -> str:
    near = difflib.get_close_matches(got.lower(), words, 1, 0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _place_of(key: Key, origins: Origins, place: str) -> str:
    """Where a key was written: itself, else something below it (an override of a section that is not there), else above."""
    above = [origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins]
    below = [origins[k] for k in origins if k[: len(key)] == key]
    return ([origins[key]] if key in origins else below or above or [place])[0]


def _merged(found: list[str]) -> list[str]:
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


def _expected(kind: str, context: dict[str, Any], key: Key) -> str:
    if kind == "string_pattern_mismatch":
        return "letters, digits, '-', '_' and '.', beginning with a letter or digit"
    if kind in ("tuple_type", "list_type"):
        return "a list, such as [0.5, 0.999]"
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


def _kind_of(node: yaml.Node | None) -> str:
    return {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(node), "an empty file")


def to_yaml(experiment: Experiment) -> str:
    """The resolved experiment, every key written out; reads back to an equal `Experiment`."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
