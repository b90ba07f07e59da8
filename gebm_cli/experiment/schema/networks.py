"""Kinds of bases and energies."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gebm_cli.experiment.schema.common import Count, Section, Width

Blocks = Annotated[int, Field(ge=1, le=1_000)]
Spectral = Literal["none", "norm", "parametrised"]
SPECTRAL = "Spectral norm: `norm` divides {} by its largest singular value; `parametrised` also multiplies it by a learned scalar."


MOST_PARAMETERS = 10**9


def refuse_too_large(kind: str, width: int, depth: int) -> None:
    """Before any memory is taken: width^2 numbers in each hidden layer."""
    if width**2 * depth > MOST_PARAMETERS:
        raise ValueError(
            f"{kind}.width: {depth} layers of {width} units have {width**2 * depth:.1e} parameters; use at most "
            f"{MOST_PARAMETERS:.0e}"
        )


class ConvBase(Section):
    """DCGAN generator: linear, then one transposed convolution per doubling, tanh."""

    kind: Literal["conv"]
    width: Width = Field(32, description="Channels at half the resolution; they double at each halving.")
    batch_norm: bool = Field(False, description="Batch norm before each ReLU, as DCGAN has it.")


class SnganBase(Section):
    """The reference's `sngan` generator (ConvNet, batch norm); at 32x32 and latent 100 it has 3,584,003 parameters."""

    kind: Literal["sngan"]


class DcganBase(Section):
    """The usual DCGAN generator at 64x64; at 32x32 the reference's `dcgan`, 3,573,824 parameters at latent 100."""

    kind: Literal["dcgan"]
    width: Width = Field(64, description="Channels at a side of 32; they double at each halving.")


class ResnetBase(Section):
    """Residual generator: at 32x32 the reference's `resnet-sn`, 1,097,603 parameters at latent 100; else Miyato et al. 2018."""

    kind: Literal["resnet"]
    width: Width = Field(
        128, description="Channels at 32x32; at 64x64 and 128x128 they are width / 2 times 16, 8, 4, 2, 1."
    )


class MlpBase(Section):
    """Multi-layer perceptron from latent to data space, for points in the plane."""

    kind: Literal["mlp"]
    width: Width = Field(64, description="Units in each hidden layer.")
    depth: Width = Field(3, description="Number of hidden layers.")

    @model_validator(mode="after")
    def _not_too_large(self) -> MlpBase:
        refuse_too_large("base", self.width, self.depth)
        return self


class CircleBase(Section):
    """x = z / |z|: the fixed base with the right support and the wrong mass. It has no parameters to train."""

    kind: Literal["circle"]


class RealNvpBase(Section):
    """Real NVP: affine couplings of the even and the odd coordinates. A flow, so it has a density; `latent_dim` is the data's."""

    kind: Literal["realnvp"]
    n_blocks: Blocks = Field(5, description="Number of couplings; two or more move every coordinate.")
    width: Width = Field(100, description="Units in each of the two hidden layers of a coupling's networks.")


class MafBase(Section):
    """Masked autoregressive flow. It has a density; `latent_dim` is the data's, and a sample takes as many passes."""

    kind: Literal["maf"]
    n_blocks: Blocks = Field(5, description="Number of autoregressive networks; the order is reversed after each.")
    width: Width = Field(100, description="Units in each of the two hidden layers of a network.")


class ImageRealNvpBase(Section):
    """Real NVP for small images with even sides. It has a density; `latent_dim` is the number of numbers in an image."""

    kind: Literal["realnvp-image"]
    width: Width = Field(32, description="Channels in each coupling's convolutions.")
    n_blocks: Blocks = Field(
        4, description="Number of couplings by checkerboards, and again of couplings between channels."
    )


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


class EnergySection(Section):
    """Keys of every energy."""

    floor: float | None = Field(
        None,
        description="E is replaced by max(E, floor); the released GEBM code has -10. null: by nothing. Features for a "
        "kernel have none.",
    )


class ConvEnergy(EnergySection):
    """DCGAN critic without batch norm: one strided convolution per halving, then linear."""

    kind: Literal["conv"]
    width: Width = Field(32, description="Channels at half the resolution; they double at each halving.")
    spectral: Spectral = Field("none", description=SPECTRAL.format("each convolution"))


class SnganEnergy(EnergySection):
    """The reference's `sngan` critic, seven spectrally normalised convolutions; at 32x32 it has 5,860,865 parameters."""

    kind: Literal["sngan"]
    spectral: Spectral = Field("norm", description=SPECTRAL.format("each convolution"))


class DcganEnergy(EnergySection):
    """DCGAN critic without the sigmoid; at 32x32 the reference's `dcgan-ns`, 2,759,424 parameters."""

    kind: Literal["dcgan"]
    width: Width = Field(64, description="Channels at half the resolution; they double at each halving.")
    spectral: Spectral = Field(
        "none", description=SPECTRAL.format("each convolution") + " Either replaces batch norm, which would undo it."
    )


class ResnetEnergy(EnergySection):
    """Residual critic: at 32x32 the reference's `resnet-sn`, 1,053,825 parameters; else Miyato et al. 2018."""

    kind: Literal["resnet"]
    width: Width = Field(
        128, description="Channels at 32x32; at 64x64 and 128x128 they are width / 2 times 1, 2, 4, 8, 16."
    )
    spectral: Spectral = Field("norm", description=SPECTRAL.format("each layer"))


class MlpEnergy(EnergySection):
    """Multi-layer perceptron from data space to the real line, for points in the plane."""

    kind: Literal["mlp"]
    width: Width = Field(64, description="Units in each hidden layer.")
    depth: Width = Field(3, description="Number of hidden layers.")
    spectral: Spectral = Field("none", description=SPECTRAL.format("each layer"))

    @model_validator(mode="after")
    def _not_too_large(self) -> MlpEnergy:
        refuse_too_large("energy", self.width, self.depth)
        return self


class FlowEnergy(EnergySection):
    """E = log q - log p, q the density of the base (`realnvp` or `maf`), p that of a flow of its own: the model's density."""

    kind: Literal["flow"]
    architecture: Literal["realnvp", "maf"] = Field("realnvp", description="Kind of the energy's own flow.")
    n_blocks: Blocks = Field(5, description="As for a base of that kind.")
    width: Width = Field(100, description="As for a base of that kind.")


class ExternalEnergy(EnergySection):
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


class Absent(Section):
    """There is none: an experiment of particles alone, for `gebm flow`. Stands where the section is left out beside `flow`."""

    kind: Literal["none"]


Base = Annotated[
    ConvBase
    | SnganBase
    | DcganBase
    | ResnetBase
    | MlpBase
    | CircleBase
    | RealNvpBase
    | MafBase
    | ImageRealNvpBase
    | ExternalBase
    | Absent,
    Field(discriminator="kind"),
]
Critic = ConvEnergy | SnganEnergy | DcganEnergy | ResnetEnergy | MlpEnergy | FlowEnergy | ExternalEnergy
Energy = Annotated[Critic | Absent, Field(discriminator="kind")]
