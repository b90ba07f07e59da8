"""From a YAML file and overrides to a validated `Experiment`, with every error in one report.

One mechanism: scalars are kept as the text the user wrote, and the schema converts each by its declared type. So `1e-4`
is a float, `no` stays a string where a string is declared, and `010` is ten (PyYAML alone would read a string, False
and 8). Beside the values runs a table of origins (file:line, an override, a flag), so that every error says where.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gebm_cli.errors import UsageError
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.sentences import Key, Origins, dotted, merged, nearest_name, place_of, sentence

LARGEST = 1_000_000  # bytes of an experiment file
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{t}"
    for t in ["null", "bool", "int", "float", "timestamp", "str", "map", "seq", "value", "merge"]
}


class ConfigError(UsageError):
    """One or more problems of a configuration, each a sentence that begins with its place."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@contextmanager
def placed(origins: Origins, experiment: Experiment | None) -> Iterator[None]:
    """A UsageError within that begins with a key of the experiment, as one found when the data are read, gets the key's place."""
    try:
        yield
    except ConfigError:
        raise
    except UsageError as error:
        key = _key_blamed(str(error), experiment)
        where = place_of(key, origins, "") if key else ""
        raise (UsageError(f"{where}: {error}") if where else error) from None


def _key_blamed(message: str, experiment: Experiment | None) -> Key:
    """The key at the beginning of a message; where networks do not fit the data, the kind of network, not the data."""
    networks = re.match(r"data: (?:the |base\.kind )?([a-z-]+) (?:networks|needs)", message)
    for section in ("base", "energy") if networks and experiment else ():
        if networks and getattr(experiment, section).kind == networks[1]:
            return (section, "kind")
    key = re.match(r"([a-z_]+(?:\.[a-z_0-9]+)*): ", message)
    return tuple(key[1].split(".")) if key and key[1].split(".")[0] in Experiment.model_fields else ()


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
            if node.flow_style and ":" in name and value_node.value == "":  # {kind:conv}: one long key without value
                short, _, value = name.partition(":")
                problems.append(
                    f"{line}: {dotted(key)}: got '{{{name}}}', expected a space after the colon: '{{{short}: {value}}}'"
                )
                result[short], origins[(*key, short)] = value, line
                continue
            if name in result:
                problems.append(f"{line}: {dotted((*key, name))}: this key is given twice; keep one of them")
            origins[(*key, name)] = line
            result[name] = _plain(value_node, (*key, name), place, by_line, origins, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(n, (*key, i), place, by_line, origins, problems) for i, n in enumerate(node.value)]
    style = node.style if isinstance(node, yaml.ScalarNode) else None
    return None if style is None and node.value in ("", "~", "null", "Null", "NULL") else node.value


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
        where, above = own[("extends",)], _extended(file, str(parent))
        if above.resolve() in (file.resolve(), *(c.resolve() for c in children)):
            raise ConfigError([f"{where}: extends: {parent} extends this file in turn; remove one of the two"])
        if not above.is_file():
            hint = _beside(file, str(parent))
            raise ConfigError([f"{where}: extends: got '{parent}', expected an experiment file beside this one{hint}"])
        if "name" not in tree:
            problems.append(f"{where}: name: a file that extends another needs a name of its own; add `name:`")
        tree = _laid_over(tree, _read_tree(above, origins, problems, (*children, file)), (), origins)
    origins.update(own)
    return tree


def _extended(file: Path, parent: str) -> Path:
    """The file that is meant: beside the one that extends it, `.yaml` understood."""
    above = file.parent / parent
    return file.parent / f"{parent}.yaml" if parent and not above.is_file() else above


def _beside(file: Path, parent: str) -> str:
    """What may have been meant: one of experiments/ as seen from the file, else the nearest name beside it."""
    shipped = Path("experiments") / f"{Path(parent).stem}.yaml"
    names = [path.name for path in file.parent.glob("*.yaml") if path.name != file.name]
    near = [os.path.relpath(shipped, file.parent)] if shipped.is_file() else nearest_name(parent, names)
    return f"; did you mean {near[0]}?" if near else ""


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
    for item in _whole(overrides, problems):
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
        found = [sentence(e, tree, origins, place) for e in error.errors(include_url=False)]
        raise ConfigError(problems + merged(found)) from None
    if problems:
        raise ConfigError(problems)
    return experiment


def _whole(overrides: Iterable[str], problems: list[str]) -> list[str]:
    """The overrides, less those that a shell took apart at the spaces within braces or brackets."""
    whole, rest = [], list(overrides)
    while rest:
        n = next((k for k in range(1, len(rest) + 1) if _open_brackets(" ".join(rest[:k])) <= 0), 1)
        words, rest = rest[:n], rest[n:]
        if n == 1:
            whole.append(words[0])
        else:
            problems.append(
                f"override '{words[0]}': a shell divides words at spaces; put quotes round it: {shlex.quote(' '.join(words))}"
            )
    return whole


def _open_brackets(text: str) -> int:
    """How many more braces and brackets are opened than closed; 0 where YAML can read the value."""
    value = text.partition("=")[2]
    try:
        yaml.compose(value, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        return sum(value.count(c) for c in "{[") - sum(value.count(c) for c in "]}")
    return 0


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
    block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    if block or (node is None and text.strip()):  # `|` and `#` begin a block and a comment: nothing would be left
        node = yaml.ScalarNode("tag:yaml.org,2002:str", text, style="'")
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
        if file.exists() and not (file.is_file() or file.is_fifo()):
            raise UsageError(f"{file}: is a device or a socket, not a file; an experiment file is a page of YAML")
        with open(file, "rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{file}: larger than 1 MB; an experiment file is a page of YAML")
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a text file in UTF-8, so not an experiment file") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None


def find_experiment(path: str | os.PathLike[str]) -> Path:
    """The file itself, or `experiments/NAME.yaml` for a bare name; a file wins over a name.

    Raises:
        UsageError: there is neither; the message names the nearest one there is.
    """
    if not str(path).strip():
        raise UsageError("got an empty argument where an experiment file is expected; give its path or its name")
    file = Path(path)
    named = Path("experiments") / f"{path}.yaml"
    if file.is_file() or not named.is_file():
        if not file.exists():
            known = sorted(str(p) for p in Path("experiments").glob("*.yaml"))
            near = nearest_name(str(path), [*known, *(Path(k).stem for k in known)])
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


def _kind_of(node: yaml.Node | None) -> str:
    return {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(node), "an empty file")


def to_yaml(experiment: Experiment) -> str:
    """The resolved experiment, every key written out; reads back to an equal `Experiment`."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
