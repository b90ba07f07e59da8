"""What can be scored or tested: a folder, an array file, a run's sample set, or a data set by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gebm_cli.core.data.dataset import Data, Dataset
from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.data.images import read_array, read_folder
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.files import read_yaml
from gebm_cli.experiment.run import Run, open_run
from gebm_cli.experiment.schema.data import Cifar10, Digits, Toy

TOYS = ("ring", "grid", "two-moons", "thin-manifold", "conditional-sine", "conditional-branches")
SPLITS = ("train", "held-out")


@dataclass(frozen=True)
class Input:
    """Data with where they came from; `run` when they are a run's samples, `dataset` when they are a data set's split.

    Sample sets with an equal `stream` were drawn with the same random numbers, so they are not independent. `notes` are what
    whoever reads a score should know of the data.
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
    .npz); RUN or RUN/SET below the runs folder; a data set's name with an optional `:train` or `:held-out`.

    Raises:
        UsageError: it is none of these, or cannot be read.
    """
    if text in SPLITS and context is not None:
        return split_of(context, text)
    path = Path(text)
    run, _, sample_set = text.partition("/")
    for place in (path, root / text, root / run / "samples" / (sample_set or "?")):
        if place.is_dir():
            return _read_dir(place, text)
        if place.is_file():
            if place.suffix.lower() not in (".npy", ".npz"):
                raise UsageError(
                    f"{text}: expected a folder, a .zip or .tar of images, .npy or .npz; of a table in text, write "
                    "numpy.save('table.npy', numpy.loadtxt('table.csv', delimiter=','))"
                )
            return Input(text, read_array(str(place))[0])
    name, _, split = text.partition(":")
    split = split or "train"
    if split in SPLITS and name in ("digits", "cifar10", *TOYS):
        return _of_dataset(name, named_dataset(name), split)
    raise UsageError(
        f"{text}: no such file, folder, run or data set; expected a folder of images, a .npy or .npz file, RUN or RUN/SET "
        f"below {root}, train or held-out (of a run's data), or one of digits, cifar10, {', '.join(TOYS)} with :train or :held-out"
    )


def named_dataset(name: str) -> Dataset:
    """A data set by its name, with the defaults of its kind."""
    if name == "digits":
        return build_dataset(Digits(kind="digits"))
    if name == "cifar10":
        return build_dataset(Cifar10(kind="cifar10"))
    return build_dataset(Toy(kind="toy", name=name))


def split_of(run: Run, split: str) -> Input:
    """A split of the data a run was trained on."""
    dataset = build_dataset(run.experiment.data)
    return _of_dataset(dataset.name, dataset, split)


def _of_dataset(name: str, dataset: Dataset, split: str) -> Input:
    data, labels = dataset.split(split)
    return Input(f"{name}:{split}", data, dataset=dataset, split=split, labels=labels)


def _read_dir(path: Path, text: str) -> Input:
    if (path / "record.yaml").is_file():
        return read_sample_set(newest_sample_set(open_run(path)))
    if (path / "sample.yaml").is_file():
        return read_sample_set(path)
    return Input(text, read_folder(str(path))[0])


def describe_sample_set(path: Path) -> dict[str, Any]:
    """How a sample set was drawn, from its sample.yaml."""
    described = read_yaml(path / "sample.yaml")
    if not isinstance(described, dict):
        raise GebmError(f"{path / 'sample.yaml'}: does not describe a sample set; it was changed by hand")
    return described


def read_sample_set(path: Path) -> Input:
    """The samples that `gebm sample` wrote, with their run where it is still there."""
    described = describe_sample_set(path)
    in_a_run = path.parent.name == "samples"
    places = [*([path.parent.parent] if in_a_run else []), Path(str(described.get("run_path", "")))]
    opened = next((open_run(place) for place in places if (place / "record.yaml").is_file()), None)
    archive = path / "samples.npz"
    data = read_array(str(archive))[0] if archive.is_file() else read_folder(str(path))[0]
    stream = (str(described.get("run_path")), described.get("sampler") == "none", described.get("seed"))
    return Input(f"{opened.name}/{path.name}" if opened and in_a_run else str(path), data, opened, stream=stream)


def newest_sample_set(run: Run, base: bool | None = None) -> Path:
    """The newest sample set of a run; with `base`, the newest drawn from the base alone (True) or by a chain (False).

    Raises:
        UsageError: there is none.
    """
    found = []
    for path in (run.path / "samples").glob("[!.]*/sample.yaml"):
        is_base = describe_sample_set(path.parent).get("sampler") == "none"
        if base is None or is_base == base:
            found.append((path.stat().st_mtime, path.parent))
    if not found:
        option = " --sampler none" if base else ""
        raise UsageError(
            f"{run.path}: has no {'base ' if base else ''}samples yet; `gebm sample --run {run.name}{option}` draws some"
        )
    return max(found)[1]
