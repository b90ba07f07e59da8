"""Kinds of data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gebm_cli.experiment.schema.common import Count, NonNegative, Positive, Section, Seed

Workers = Annotated[int, Field(ge=0, le=256)]


class Digits(Section):
    """The 1,797 handwritten 8x8 digits that scikit-learn carries; nothing is downloaded."""

    kind: Literal["digits"]
    held_out: Count = Field(
        360, lt=1796, description="Number of digits kept out of training, chosen by a fixed shuffle."
    )


class Cifar10(Section):
    """CIFAR-10: 50,000 training and 10,000 held-out images of 32x32 pixels, through torchvision."""

    kind: Literal["cifar10"]
    root: str = Field("data", description="Folder that holds, or will hold, `cifar-10-batches-py`.")
    download: bool = Field(True, description="Download the archive when it is absent.")
    size: Literal["32", "16", "8"] = Field(
        "32", description="Pixels a side; 16 and 8 by antialiased bicubic reduction, for machines without a GPU."
    )


class Folder(Section):
    """Any folder of PNG, JPEG, WebP or BMP images; class sub-folders are optional and become labels."""

    kind: Literal["folder"]
    path: str = Field(description="The folder; searched recursively.")
    size: Count | None = Field(None, description="Resize the short side to this many pixels and crop the centre.")
    channels: Literal["1", "3"] | None = Field(None, description="Convert every image to grey (1) or RGB (3).")
    held_out: NonNegative = Field(0.1, lt=1, description="Fraction kept out of training, chosen by a fixed shuffle.")
    workers: Workers = Field(
        4, description="Threads that decode a folder of more than 2 GB of pixels, which is not kept in memory."
    )


class Array(Section):
    """A .npy or .npz file of uint8 images, N x height x width (x channels)."""

    kind: Literal["array"]
    path: str = Field(description="The file; of an .npz the array `images` (or its only one), and `labels` if there.")
    held_out: NonNegative = Field(0.1, lt=1, description="Fraction kept out of training, chosen by a fixed shuffle.")


ToyName = Literal[
    "ring",
    "grid",
    "two-moons",
    "thin-manifold",
    "gaussian",
    "segment",
    "three-rings",
    "heart",
    "spiral",
    "conditional-sine",
    "conditional-branches",
]
EXACT = ("gaussian", "segment", "three-rings", "heart", "spiral")  # toys without noise, unless it is asked for


class ToyLaw(Section):
    """A known law of points in the plane."""

    kind: Literal["toy"]
    name: ToyName = Field(
        description="ring: 8 Gaussians; grid: 25 Gaussians; thin-manifold: the unit circle with uneven mass; gaussian: N(0, I); "
        "segment: (0, u) with u uniform in [0, 1]; three-rings: circles of radius 0.3, one under the other; heart: a solid heart; "
        "spiral: a curve of two turns; conditional-*: a condition x uniform in [-1, 1], and y given x, near sin(pi x) or near "
        "either of +-(x^2 + 1/4)."
    )
    noise_std: NonNegative = Field(
        0.05,
        description="Standard deviation of the noise around the support, a distance whatever the scale. "
        f"Default 0 for {', '.join(EXACT[:-1])} and {EXACT[-1]}.",
    )
    shift: tuple[float, float] = Field(
        (0.0, 0.0), description="Added to every point; `[3, 0]` moves them to the right."
    )
    scale: Positive = Field(1.0, description="Multiplies the support, before noise and shift.")

    @model_validator(mode="before")
    @classmethod
    def _no_noise_unless_asked(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("name") in EXACT:
            return {"noise_std": 0.0} | given
        return given


class Toy(ToyLaw):
    """Points in the plane drawn from a known density."""

    n: Count = Field(10_000, description="Number of training points; as many again, up to 10,000, are held out.")
    seed: Seed = Field(0, description="Seed of the points, which are the same in every run whatever the run's seed.")


class Celeba(Section):
    """CelebA: 162,770 training, 19,867 validation and 19,962 held-out aligned faces, through torchvision; decoded when read."""

    kind: Literal["celeba"]
    root: str = Field("data", description="Folder that holds, or will hold, `celeba/img_align_celeba` and its lists.")
    size: Count = Field(64, description="Resize the short side of 178x218 to this many pixels and crop the centre.")
    download: bool = Field(True, description="Download the archive when it is absent.")
    workers: Workers = Field(4, description="Threads that decode images.")


class Lsun(Section):
    """A category of LSUN from its LMDB databases (needs the package `lmdb`); the 300 validation images are held out."""

    kind: Literal["lsun"]
    root: str = Field("data", description="Folder that holds `CATEGORY_train_lmdb` and `CATEGORY_val_lmdb`.")
    category: Literal[
        "bedroom",
        "bridge",
        "church_outdoor",
        "classroom",
        "conference_room",
        "dining_room",
        "kitchen",
        "living_room",
        "restaurant",
        "tower",
    ] = Field("bedroom", description="What the images show.")
    size: Count = Field(64, description="Resize the short side to this many pixels and crop the centre.")
    workers: Workers = Field(4, description="Threads that decode images.")


class Imagenet32(Section):
    """ImageNet at 32x32 from the official npz archives: 1,281,167 training images, and the 50,000 for validation held out."""

    kind: Literal["imagenet32"]
    root: str = Field(
        "data",
        description="Folder that holds the archives, unpacked; on first use 4.1 GB of .npy files are written there.",
    )


class Csv(Section):
    """A table of numbers with one line of column names, by the protocol of the UCI density benchmarks."""

    kind: Literal["csv"]
    path: str = Field(description="The file.")
    delimiter: Literal[",", ";", "tab", "space"] = Field(",", description="What stands between two cells.")
    drop: tuple[str, ...] = Field((), description="Names of columns to leave out, such as `[quality]`.")
    dequantise: bool = Field(
        False,
        description="Add uniform noise to each column, up to the median gap between its distinct values either way.",
    )
    max_correlation: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.98, description="Of two columns with a larger |correlation| the earlier is dropped; null keeps both."
    )
    test: NonNegative = Field(0.1, lt=1, description="Fraction of the rows held out for testing.")
    validation: NonNegative = Field(
        0.1, lt=1, description="Fraction of the rows kept for validation, 1,000 rows at most."
    )
    split_seed: Seed = Field(0, description="Seed of the shuffle and of the noise; several give a standard error.")
    whiten: Literal["train", "all", "none"] = Field(
        "train",
        description="PCA whitening fitted on the training rows, or on all, the test rows among them (as in released code). "
        "Densities are those of the whitened coordinates.",
    )


Data = Annotated[
    Digits | Cifar10 | Celeba | Lsun | Imagenet32 | Folder | Array | Csv | Toy, Field(discriminator="kind")
]
