"""Kinds of data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gebm_cli.experiment.schema.common import Count, NonNegative, Section


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


class Folder(Section):
    """Any folder of PNG, JPEG, WebP or BMP images; class sub-folders are optional and become labels."""

    kind: Literal["folder"]
    path: str = Field(description="The folder; searched recursively.")
    size: Count | None = Field(None, description="Resize the short side to this many pixels and crop the centre.")
    channels: Literal["1", "3"] | None = Field(None, description="Convert every image to grey (1) or RGB (3).")
    held_out: NonNegative = Field(0.1, lt=1, description="Fraction kept out of training, chosen by a fixed shuffle.")


class Array(Section):
    """A .npy or .npz file of uint8 images, N x height x width (x channels)."""

    kind: Literal["array"]
    path: str = Field(description="The file; of an .npz the array `images` (or its only one), and `labels` if there.")
    held_out: NonNegative = Field(0.1, lt=1, description="Fraction kept out of training, chosen by a fixed shuffle.")


class Toy(Section):
    """Points in the plane drawn from a known density."""

    kind: Literal["toy"]
    name: Literal["ring", "grid", "two-moons", "thin-manifold"] = Field(
        description="ring: 8 Gaussians; grid: 25 Gaussians; thin-manifold: the unit circle with uneven mass."
    )
    n: Count = Field(10_000, description="Number of training points; as many again, up to 10,000, are held out.")
    noise_std: NonNegative = Field(0.05, description="Standard deviation of the noise around the support.")


Data = Annotated[Digits | Cifar10 | Folder | Array | Toy, Field(discriminator="kind")]
