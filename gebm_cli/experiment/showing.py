"""A resolved experiment, key by key: its value, its default, and where the value was written. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

import gebm_cli
from gebm_cli.errors import UsageError
from gebm_cli.experiment.load import ConfigError, find_experiment, load_with_origins
from gebm_cli.experiment.run import Run, all_runs, open_run
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.sentences import Origins, dotted

Origin = Literal["default", "file", "extends", "run", "override", "flag"]


@dataclass(frozen=True)
class Value:
    """One key of a resolved experiment.

    `changed`: the value is not the default, or there is no default (`required`). `place` is the file and line, the override or
    the flag; empty for a default. A section that is null by default has an entry of its own, with the section as value.
    """

    key: tuple[str, ...]
    value: Any
    default: Any
    required: bool
    changed: bool
    origin: Origin
    place: str
    section: bool = False

    @property
    def name(self) -> str:
        return dotted(self.key)


@dataclass(frozen=True)
class Resolved:
    """An experiment, the file it was read from, the run it belongs to if any, the commands typed there, and every key."""

    experiment: Experiment
    file: Path
    run: Run | None
    commands: list[str]
    values: list[Value]


def resolve(source: Path | Run, overrides: list[str] | None = None) -> Resolved:
    """Read a file or a run, with the origin of each value.

    A run's experiment.yaml has every key written out. What was typed when it was trained is found in its record: an override
    there that the run's values agree with is told as their origin.

    Raises:
        ConfigError: the file is not a valid experiment.
    """
    if isinstance(source, Run):
        file = source.path / "experiment.yaml"
        commands = _commands(source)
        experiment, origins = load_with_origins(file, *_typed(file, commands))
    else:
        file, commands = source, []
        experiment, origins = load_with_origins(file, overrides or [])
    own: Origin = "run" if isinstance(source, Run) else "file"
    values = list(_values(experiment, None, (), _teller(origins, file, own)))
    run = source if isinstance(source, Run) else None
    return Resolved(experiment, file, run, [shlex.join(words) for words in commands], values)


def find_source(name: str, root: Path) -> Path | Run:
    """The experiment file or the run of that name: a path first, then `experiments/NAME.yaml`, then a run below `root`.

    Where there is no folder `experiments` here, the experiments of a clone of gebm are known by their names, too.

    Raises:
        UsageError: there is none; the message names the nearest experiment, or the newest runs.
    """
    path, named = Path(name), Path("experiments") / f"{name}.yaml"
    if path.is_file() or (named.is_file() and not _is_run(path)):
        return find_experiment(name)
    for folder in (path, root / name):
        if _is_run(folder):
            return open_run(folder)
    shipped = Path(gebm_cli.__file__).parents[1] / named
    if shipped.is_file():
        return shipped
    if path.is_dir():
        raise UsageError(f"{name}: is a folder and no run; give an experiment file (.yaml) or a run")
    try:
        return find_experiment(name)
    except UsageError as error:
        known = [run.name for run in all_runs(root)][-3:]
        runs = f"the newest runs are {', '.join(known)}" if known else f"there are no runs in {root}"
        raise UsageError(f"{error}; {runs}") from None


def _is_run(folder: Path) -> bool:
    return (folder / "record.yaml").is_file()


# ------------------------------------------------------------------------------------------------------------- origins


def _teller(origins: Origins, file: Path, own: Origin) -> Callable[[tuple[str, ...]], tuple[Origin, str]]:
    """A function that says where a key was written, as a word and a place."""

    def tell(key: tuple[str, ...]) -> tuple[Origin, str]:
        place = origins.get(key)
        if place is None and key[-1] == "kind":  # `objective: gan` is short for {kind: gan}
            place = origins.get(key[:-1])
        if place is None:
            return "default", ""
        if place.startswith("override '"):
            return "override", place
        if place.rpartition(":")[0] == str(file):
            return own, place
        return ("extends" if place.rpartition(":")[2].isdigit() else "flag"), place

    return tell


def _commands(run: Run) -> list[list[str]]:
    """The command lines of the run's sessions, in order, each once."""
    lines = [tuple(map(str, session.get("argv") or ())) for session in run.record()["stages"]]
    return [list(line) for line in dict.fromkeys(lines) if line]


def _typed(file: Path, commands: list[list[str]]) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The overrides and the seed of those command lines that the run's experiment agrees with."""
    overrides: list[str] = []
    flags: dict[str, tuple[str, str]] = {}
    experiment = load_with_origins(file)[0]
    for word, following in ((w, line[i + 1 : i + 2]) for line in commands for i, w in enumerate(line)):
        name, _, value = word.partition("=")
        if name == "--seed":
            seed = ("--seed", value or "".join(following))
            if _agrees(file, experiment, [], {"seed": seed}):
                flags = {"seed": seed}
        elif (
            value
            and name.split(".")[0] in Experiment.model_fields
            and _agrees(file, experiment, [*overrides, word], {})
        ):
            overrides.append(word)
    return overrides, flags


def _agrees(file: Path, experiment: Experiment, overrides: list[str], flags: dict[str, tuple[str, str]]) -> bool:
    try:
        return load_with_origins(file, overrides, flags)[0] == experiment
    except ConfigError:
        return False


# -------------------------------------------------------------------------------------------------------------- values


def _values(
    section: BaseModel,
    usual: BaseModel | None,
    key: tuple[str, ...],
    tell: Callable[[tuple[str, ...]], tuple[Origin, str]],
) -> Iterator[Value]:
    """Every key of a section and of those within it, but of absent networks; `usual` is the section where nothing is given."""
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*key, name)
        above = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            if is_absent(value):
                continue
            if above is None and not field.is_required():
                yield Value(here, value.model_dump(mode="json"), None, False, True, *tell(here), section=True)
            yield from _values(value, above, here, tell)
            continue
        required, default = default_in(section, usual, name)
        yield Value(here, plain(value), plain(default), required, required or value != default, *tell(here))


def is_absent(value: Any) -> bool:
    """True of a network that is left out (an experiment of particles alone)."""
    return getattr(value, "kind", None) == "none"


def default_in(section: BaseModel, usual: BaseModel | None, name: str) -> tuple[bool, Any]:
    """Whether a key must be given, else what it is when left out of this section (a few defaults depend on other keys)."""
    field = type(section).model_fields[name]
    if name == "kind":
        return (True, None) if usual is None or is_absent(usual) else (False, getattr(usual, "kind"))  # noqa: B009
    if field.is_required():
        return True, None
    try:
        rest = {k: v for k, v in section.model_dump().items() if k != name}
        return False, getattr(type(section).model_validate(rest), name)
    except ValidationError:
        return False, field.get_default(call_default_factory=True)


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON and YAML have them."""
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
