"""What can be scored or tested: a folder, an array file, a table, a run's sample set, or a data set by name."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl

import torch
from pydantic import ValidationError
from torch import Tensor

from gebm_cli.core.data.dataset import Data, Dataset
from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.data.images import read_array, read_folder
from gebm_cli.core.data.tables import read_table
from gebm_cli.core.data.toys import FIRST
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.places import places, require_finished
from gebm_cli.experiment.run import Run, open_run
from gebm_cli.experiment.sample_sets import describe_sample_set, kind_of, newest_sample_set
from gebm_cli.experiment.schema.data import Cifar10, Digits, Toy, ToyName

TOYS: tuple[ToyName, ...] = get_args(ToyName)
NAMED = ("digits", "cifar10", *TOYS)
TOY_KEYS = ("n", "seed", "noise_std", "shift", "scale")
SPLITS = ("train", "held-out")
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Input:
    """Data with where they came from; `run` when they are a run's samples, `dataset` when they are a data set's split.

    Sample sets with an equal `stream` were drawn with the same random numbers, so they are not independent; toys with equal
    `draws` share some of theirs. `columns` are the names of a table's. `notes` are what whoever reads a score should know of
    the data.
    """

    name: str
    data: Data | ImageSet
    run: Run | None = None
    dataset: Dataset | None = None
    stream: tuple[Any, ...] | None = None
    split: str | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    draws: str | None = None
    columns: tuple[str, ...] = ()

    @property
    def is_points(self) -> bool:
        return not isinstance(self.data, ImageSet) and self.data.dim() == 2

    @property
    def item_shape(self) -> tuple[int, ...]:
        """(channels, height, width) or (d,), the most common of several."""
        if isinstance(self.data, ImageSet):
            return self.data.shapes.most_common(1)[0][0]
        return tuple(self.data.shape[1:])


def read_input(text: str, root: Path, context: Run | None = None) -> Input:
    """Read one side of a score or test.

    In this order: `train` or `held-out` of the context run's data; a path (image folder, sample set, run folder, .npy or
    .npz, .csv or .tsv with an optional `?drop=NAME,...` or `?keep=NAME,...`); RUN or RUN/SET below the runs folder; a data
    set's name with an optional `:train` or `:held-out`, and for toys an optional `?key=value&...` of `TOY_KEYS`.

    Raises:
        UsageError: it is none of these, or cannot be read.
    """
    if text in SPLITS and context is not None:
        return split_of(context, text)
    require_finished(text, root)
    for place in places(text, root):
        if place.is_dir():
            return _read_dir(place, text)
        if place.is_file():
            if place.suffix.lower() in TABLES:
                return _read_points(str(place), text)
            if place.suffix.lower() not in (".npy", ".npz"):
                raise UsageError(
                    f"{text}: expected a folder, a .zip or .tar of images, .npy or .npz, or a table that ends in .csv or .tsv"
                )
            return Input(text, read_array(str(place))[0])
    file, _, query = text.partition("?")
    if query and Path(file).is_file() and Path(file).suffix.lower() in TABLES:
        return _read_points(file, text, query)
    name, _, split = file.partition(":")
    split = split or "train"
    if split in SPLITS and name in NAMED:
        return _named(name, split, query, text)
    near = difflib.get_close_matches(name, NAMED, 1, 0.7)
    raise UsageError(
        f"{text}: no such file, folder, run or data set{f'; did you mean {near[0]}?' if near else ''}; expected a folder of "
        f"images, a .npy, .npz or .csv file, RUN or RUN/SET below {root}, train or held-out (of a run's data), or one of "
        f"{', '.join(NAMED)} with :train or :held-out"
    )


# ------------------------------------------------------------------------------------------------------- data sets by name


def _named(name: str, split: str, query: str, text: str) -> Input:
    """A data set of `NAMED` with the defaults of its kind; of a toy with the keys of the query over them."""
    if name not in TOYS:
        if query:
            raise UsageError(f"{text}: {name} takes no '?{query}'; toys do, such as ring?n=500")
        data = Digits(kind="digits") if name == "digits" else Cifar10(kind="cifar10")
        return _of_dataset(name, build_dataset(data), split)
    toy = _toy(name, query, text)
    found = _of_dataset(name, build_dataset(toy), split)
    shares = name in FIRST and toy.shift == (0.0, 0.0) and toy.scale == 1.0
    draws = f"{split} of a toy at seed {toy.seed}" if shares else None
    return replace(found, name=f"{found.name}?{query}" if query else found.name, draws=draws)


def _toy(name: str, query: str, text: str) -> Toy:
    """The toy of `n=500&shift=3,0`, checked by the schema."""
    given: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in TOY_KEYS:
            near = difflib.get_close_matches(key, TOY_KEYS, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"expected some of {', '.join(TOY_KEYS)}"
            raise UsageError(f"{text}: unknown key '{key}'; {hint}")
        if key in given:
            raise UsageError(f"{text}: the key '{key}' is given twice; keep one of them")
        given[key] = value.split(",") if key == "shift" else value
    if "shift" in given and len(given["shift"]) != 2:
        raise UsageError(f"{text}: shift: got '{','.join(given['shift'])}', expected two numbers such as 3,0")
    try:
        return Toy.model_validate({"kind": "toy", "name": name, **given})
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise UsageError(f"{text}: {first['loc'][0]}: got '{first['input']}', {why}") from None


def split_of(run: Run, split: str) -> Input:
    """A split of the data a run was trained on."""
    dataset = build_dataset(run.experiment.data)
    return _of_dataset(dataset.name, dataset, split)


def _of_dataset(name: str, dataset: Dataset, split: str) -> Input:
    data, labels = dataset.split(split)
    return Input(f"{name}:{split}", data, dataset=dataset, split=split, labels=labels)


# ------------------------------------------------------------------------------------------------------- files and folders


def _read_points(path: str, text: str, query: str = "") -> Input:
    """A table's columns as float32 points (n, d), as they are; `drop=a,b` leaves columns out, `keep=a,b` all others."""
    given = parse_qsl(query, keep_blank_values=True)
    if any(key not in ("drop", "keep") for key, _ in given) or len(given) > 1:
        raise UsageError(
            f"{text}: got '?{query}', expected ?drop=NAME or ?drop=NAME,NAME or ?keep=NAME,NAME with names of columns"
        )
    chosen = {key: [name.strip() for name in names.split(",")] for key, names in given}
    try:
        table = read_table(path, delimiter_of(path), chosen.get("drop", ()), chosen.get("keep", ()))
    except UsageError as error:
        # The sentences are those of an experiment, whose keys there are none of here.
        told = str(error).replace("name the column in data.drop", f"leave the column out by '{path}?drop=NAME'")
        raise UsageError(told.replace("data.drop", f"{path}?drop")) from None
    return Input(text, torch.from_numpy(table.values).float(), columns=table.names)


def delimiter_of(path: str) -> str:
    """What stands between the column names of a table, as the key `data.delimiter` spells it.

    That of comma, semicolon and tab which gives the most names; a space only where none of them parts the names, and the row
    below has as many words.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, row = [*islice((line for line in file if line.strip()), 2), "", ""][:2]
        counts = {d: len(next(csv.reader([header], delimiter=d), [])) for d in (",", ";", "\t")}
    except (OSError, UnicodeDecodeError, csv.Error):
        return ","  # `read_table` says what is wrong
    best = max(counts, key=lambda d: counts[d])
    if counts[best] < 2 and len(header.split()) == len(row.split()) > 1:
        return "space"
    return {"\t": "tab"}.get(best, best)


def _read_dir(path: Path, text: str) -> Input:
    if (path / "record.yaml").is_file():
        return read_sample_set(newest_sample_set(open_run(path)))
    if (path / "sample.yaml").is_file():
        return read_sample_set(path)
    return Input(text, read_folder(str(path))[0])


def read_sample_set(path: Path) -> Input:
    """The samples that `gebm sample` wrote, with their run where it is still there."""
    described = describe_sample_set(path)
    in_a_run = path.parent.name == "samples"
    places = [*([path.parent.parent] if in_a_run else []), Path(str(described.get("run_path", "")))]
    opened = next((open_run(place) for place in places if (place / "record.yaml").is_file()), None)
    archive = path / "samples.npz"
    data = read_array(str(archive))[0] if archive.is_file() else read_folder(str(path))[0]
    # Base draws, chains and flows have streams of their own at one seed.
    stream = (str(described.get("run_path")), kind_of(described), described.get("seed"))
    return Input(f"{opened.name}/{path.name}" if opened and in_a_run else str(path), data, opened, stream=stream)
