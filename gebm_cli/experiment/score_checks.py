"""What a score refuses before the long work begins."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from gebm_cli.core.data.containers import printable
from gebm_cli.core.data.image_sets import ImageSet
from gebm_cli.core.evaluation.features import Features
from gebm_cli.errors import UsageError
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.extraction import extract, first_of, without_features
from gebm_cli.experiment.feature_files import require_own
from gebm_cli.experiment.features import require_options
from gebm_cli.experiment.files import require_free
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.known import Known
from gebm_cli.experiment.metrics import require_size
from gebm_cli.experiment.score_job import Job

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ONE_SIZE = ("pixels", "classifier")


def require_flags(job: Job) -> None:
    """Refuse flags that cannot be, and files to write that are there already, before anything is read."""
    unusual = job.resize is not None or job.layer is not None or job.precision != "float32" or job.compile
    name = job.features or ("inception" if unusual else None)  # without a name these are for inception, if for any
    if name is not None:
        if ":" in name and not name.startswith("torchvision:"):
            require_own(name, job.allow_plugins)
        require_options(name, job.resize, job.layer, job.precision, job.compile, job.weights, job.device)
    elif job.weights is not None and not Path(job.weights).expanduser().is_file():
        raise UsageError(f"--weights {job.weights}: no such file")
    kinds = {"--picture": (job.picture, PICTURES), "--save-statistics": (job.save_statistics, (".npz",))}
    kinds["--save-features"] = (job.save_features, (".npz",))
    for flag, (name, suffixes) in kinds.items():
        if name is None:
            continue
        if not name.lower().endswith(suffixes):
            raise UsageError(f"{flag} {name}: expected a name that ends in {' or '.join(suffixes)}")
        require_free(Path(name))
        if not Path(name).absolute().parent.is_dir():
            raise UsageError(f"{flag} {name}: its folder does not exist; make it, or name a file in another one")
    saves = [name for name in (job.save_statistics, job.save_features) if name is not None]
    if saves and (len(job.samples) > 1 or len(set(saves)) < len(saves)):
        raise UsageError(f"{saves[0]}: holds one sample set; give one set, and a file for each --save option")


def require_alike(job: Job, sides: list[Input | Known]) -> None:
    """Refuse points beside images, and what needs images, features or classes of sides that have none."""
    inputs = [side for side in sides if isinstance(side, Input)]
    for side in inputs[1:]:
        if side.is_points != inputs[0].is_points:
            points, images = (side, inputs[0]) if side.is_points else (inputs[0], side)
            raise UsageError(
                f"{points.name} and {images.name}: one holds points, the other images; compare like with like"
            )
    undrawn = [side for side in sides if isinstance(side, Known) or side.is_points]
    if job.picture and undrawn:
        raise UsageError(f"--picture: {undrawn[0].name} has no images to draw, only numbers; leave it out")
    asked = {"--picture": job.picture, "--save-features": job.save_features, "--per-class": job.per_class}
    needs = [m for m in job.metrics if m != "fid"] + [flag for flag, given in asked.items() if given]
    of_samples = [flag for flag, given in {"--infinity": job.infinity, "--bootstrap": job.bootstrap}.items() if given]
    for i, known in enumerate(sides):
        wanted = needs + (of_samples if i == 0 else [])
        if isinstance(known, Known) and known.features is None and wanted and not job.saves_only:
            raise without_features(known.name, wanted[0])
    if job.per_class:
        _require_classes(sides)
    if job.features in ONE_SIZE:
        require_one_size(job.features, inputs)


def _require_classes(sides: list[Input | Known]) -> None:
    """The same classes on all sides: by their names where they have any, else by their numbers."""
    for side in sides:
        if side.labels is None:
            raise UsageError(
                f"--per-class: {side.name} has no labels; give a folder with one sub-folder a class, or a data set with labels"
            )
    for a, b in pairwise(sides):
        assert a.labels is not None and b.labels is not None
        both_named = a.classes is not None and b.classes is not None
        mine, other = (
            [s.classes[c] if both_named and s.classes else c for c in sorted(set(s.labels.tolist()))]  # type: ignore[union-attr]
            for s in (a, b)
        )
        if mine != other:
            raise UsageError(
                f"--per-class: {a.name} has the classes {mine}, {b.name} has {other}; they must be the same"
            )


def require_one_size(features: str, inputs: list[Input]) -> None:
    """Refuse images of several sizes or colours, or points of several lengths, where the features need one."""
    met: dict[tuple[int, ...], Input] = {}
    for side in inputs:
        shapes = side.data.shapes if isinstance(side.data, ImageSet) else [side.item_shape]
        for shape in sorted(shapes):
            met.setdefault(shape, side)
    if len(met) > 1:
        (one, a), (two, b) = list(met.items())[:2]
        if a.is_points:
            raise UsageError(
                f"{a.name} and {b.name}: have points of {one[0]} and {two[0]} numbers; give both the same columns"
            )
        raise UsageError(
            f"{a.name}{'' if a is b else f' and {b.name}'}: {features} features need images of one size and colour, got "
            f"{_of_shape(one, a)} and {_of_shape(two, b)} (channels, height, width); bring both to one size and colour first, or "
            "use --features inception"
        )


def _of_shape(shape: tuple[int, ...], side: Input) -> str:
    """The shape, with an image that has it where images have names."""
    return f"{shape} of {printable(side.data.example(shape))}" if isinstance(side.data, ImageSet) else f"{shape}"


def require_comparable(job: Job, features: Features | None, sides: list[Input | Known]) -> None:
    """Refuse what the network cannot do: several sizes where it takes one, or class probabilities where it has none."""
    if "is" in job.metrics and (features is None or features.head is None):
        name = "features from a file" if features is None else f"{features.name} features"
        raise UsageError(f"--metrics is: needs class probabilities, and {name} have none; use inception or classifier")
    if features is not None and not features.any_size:
        require_one_size(features.name, [side for side in sides if isinstance(side, Input)])


def require_enough(job: Job, features: Features | None, sides: list[Input | Known]) -> None:
    """Refuse sides too small for what is asked, and features of different dimensions."""
    counts = {side.name: len(side.data) if isinstance(side, Input) else side.n for side in sides}
    dimensions = {side.name: side.dimension for side in sides if isinstance(side, Known)}
    one = next((side for side in sides if isinstance(side, Input) and len(side.data)), None)
    if one is not None and features is not None:
        dimensions = {one.name: extract(features, first_of(one), World()).dimension, **dimensions}
    if len(set(dimensions.values())) > 1:
        (a, d), (b, e) = next(pair for pair in pairwise(dimensions.items()) if pair[0][1] != pair[1][1])
        raise UsageError(f"{a} and {b}: have features of {d} and {e} dimensions; use one network for both")
    for name, n in counts.items():
        require_size(name, n, next(iter(dimensions.values())), job.metrics, job.asked)
