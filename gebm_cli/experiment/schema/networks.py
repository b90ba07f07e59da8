"""Kinds of bases and energies."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gebm_cli.experiment.schema.common import Count, Section, Width


class ConvBase(Section):
    """DCGAN generator: linear, then one transposed convolution per doubling, tanh."""

    kind: Literal["conv"]
    width: Width = Field(32, description="Channels at half the resolution; they double at each halving.")
    batch_norm: bool = Field(False, description="Batch norm before each ReLU, as DCGAN has it.")


class SnganBase(Section):
    """The reference's `sngan` generator (ConvNet, batch norm) for 32x32 images; 3,584,003 parameters at latent 100."""

    kind: Literal["sngan"]


class MlpBase(Section):
    """Multi-layer perceptron from latent to data space, for points in the plane."""

    kind: Literal["mlp"]
    width: Width = Field(64, description="Units in each hidden layer.")
    depth: Width = Field(3, description="Number of hidden layers.")


class CircleBase(Section):
    """x = z / |z|: the fixed base with the right support and the wrong mass. It has no parameters to train."""

    kind: Literal["circle"]


class ExternalBase(Section):
    """Your own generator, from a Python function; needs `--allow-plugins`. It is not trained: runs begin with train-energy."""

    kind: Literal["external"]
    factory: str = Field(
        description="`package.module:function`, called without arguments; returns the nn.Module that maps latents to data. "
        "If the module has an attribute `prior` with `sample(n, generator)` and `log_prob(z)`, that is the latent's law."
    )
    weights: str | None = Field(None, description="A state dict to load into it; null: as the function returns it.")
    latent_shape: tuple[tuple[Count, ...], ...] | None = Field(
        None,
        description="Shape the module wants its latent in, such as `[100, 1, 1]`, or the shapes of several latents, such as "
        "`[[512], [16, 4, 4]]`, which it is then called with; null: flat. In all `latent_dim` numbers.",
    )

    @field_validator("latent_shape", mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> Any:
        """One shape, or a list of them, as a list of shapes: `[100, 1, 1]` means `[[100, 1, 1]]`."""
        if value is None:
            return None
        shapes = value if isinstance(value, list | tuple) else [[value]]
        if not any(isinstance(shape, list | tuple) for shape in shapes):
            shapes = [shapes]
        well_formed = shapes and all(isinstance(shape, list | tuple) and shape for shape in shapes)
        if not well_formed or any(not re.fullmatch("0*[1-9][0-9]*", str(side)) for shape in shapes for side in shape):
            raise ValueError(
                f"base.latent_shape: got '{as_list(value)}', expected a shape such as [100, 1, 1], or several such as "
                "[[512], [16, 4, 4]]"
            )
        return shapes


def as_list(value: Any) -> str:
    """A value as it is written in the file: `[100, 1, 1]`."""
    return f"[{', '.join(map(as_list, value))}]" if isinstance(value, list | tuple) else str(value)


class ConvEnergy(Section):
    """DCGAN critic without batch norm: one strided convolution per halving, then linear."""

    kind: Literal["conv"]
    width: Width = Field(32, description="Channels at half the resolution; they double at each halving.")
    spectral_norm: bool = Field(False, description="Divide each convolution by its largest singular value.")


class SnganEnergy(Section):
    """The reference's `sngan` critic (seven spectrally normalised convolutions) for 32x32; 5,860,865 parameters."""

    kind: Literal["sngan"]


class MlpEnergy(Section):
    """Multi-layer perceptron from data space to the real line, for points in the plane."""

    kind: Literal["mlp"]
    width: Width = Field(64, description="Units in each hidden layer.")
    depth: Width = Field(3, description="Number of hidden layers.")


class ExternalEnergy(Section):
    """Your own energy or critic, from a Python function; needs `--allow-plugins`. Not trained, so `base.kind` must not be."""

    kind: Literal["external"]
    factory: str = Field(
        description="`package.module:function`, called without arguments; returns the nn.Module that maps data to (n,)."
    )
    weights: str | None = Field(None, description="A state dict to load into it; null: as the function returns it.")
    output: Literal["energy", "logit"] = Field(
        "energy",
        description="What the module returns: the energy E, or a critic's logit D of being data, and then E = -D.",
    )


Base = Annotated[ConvBase | SnganBase | MlpBase | CircleBase | ExternalBase, Field(discriminator="kind")]
Energy = Annotated[ConvEnergy | SnganEnergy | MlpEnergy | ExternalEnergy, Field(discriminator="kind")]
