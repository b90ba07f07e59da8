"""From an `Experiment` to its networks: base, prior and energy."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models import convolutional, flows, flows_images, networks, residual
from gebm_cli.core.models.adapters import ExternalBase, ExternalEnergy, UniformLatent
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.potential import Prior
from gebm_cli.errors import UsageError
from gebm_cli.experiment import schema
from gebm_cli.experiment.plugins import check_plugins, load_plugin, own_prior
from gebm_cli.experiment.schema import Experiment


def build_base(
    experiment: Experiment, shape: tuple[int, ...], seed: int, allow_plugins: bool = False, place: str = ""
) -> nn.Module:
    """The base network, initialised from the seed; a user's own where `allow_plugins`.

    Args:
        place: the file that an error about a plug-in names before the key, followed by ": "; may be empty.
    """
    base, latent = experiment.base, experiment.latent_dim
    if isinstance(base, schema.networks.Absent):
        raise _no_networks(place)
    with seeded_construction(seed, "base"):
        if isinstance(base, schema.networks.ConvBase):
            network: nn.Module = convolutional.conv_base(latent, shape, base.width, base.batch_norm)
        elif isinstance(base, schema.networks.SnganBase):
            network = convolutional.sngan_base(latent, shape)
        elif isinstance(base, schema.networks.DcganBase):
            network = convolutional.dcgan_base(latent, shape, base.width)
        elif isinstance(base, schema.networks.ResnetBase):
            network = residual.resnet_base(latent, shape, base.width)
        elif isinstance(base, schema.networks.MlpBase):
            network = networks.mlp(latent, shape[0], base.width, base.depth)
        elif isinstance(base, schema.networks.RealNvpBase | schema.networks.MafBase):
            _require_latent_of_the_data(experiment, shape)
            network = _flow(base.kind, latent, base.n_blocks, base.width)
        elif isinstance(base, schema.networks.ImageRealNvpBase):
            _require_latent_of_the_data(experiment, shape)
            network = flows_images.ImageRealNvp(shape, base.width, base.n_blocks)
        elif isinstance(base, schema.networks.ExternalBase):
            module = load_plugin(base.factory, base.weights, f"{place}base", allow_plugins)
            network = ExternalBase(module, base.factory, base.latent_shape)
        else:
            network = networks.Circle()
    return UniformLatent(network) if experiment.prior == "uniform" else network


def _flow(kind: str, dim: int, n_blocks: int, width: int) -> flows.Flow:
    """A flow of points with `dim` numbers."""
    return flows.Maf(dim, n_blocks, width) if kind == "maf" else flows.RealNvp(dim, n_blocks, width)


def _require_latent_of_the_data(experiment: Experiment, shape: tuple[int, ...]) -> None:
    """A flow is invertible, so its latent has as many numbers as a point of the data."""
    if experiment.latent_dim != prod(shape):
        raise UsageError(
            f"latent_dim: {experiment.latent_dim} does not fit base.kind: {experiment.base.kind}, which is invertible; use "
            f"{prod(shape)}, the number of numbers in a point of the data, whose shape is {shape}"
        )


def build_prior(experiment: Experiment, base: nn.Module) -> Prior:
    """The law of the variable the chains move on: N(0, I), also for uniform latents, or what an external base brings.

    Raises:
        UsageError: the base's own prior does not do what it must, or `prior: uniform` was asked for beside it.
    """
    own = own_prior(base.base if isinstance(base, UniformLatent) else base, experiment.latent_dim)
    if own is not None and experiment.prior == "uniform":
        raise UsageError("prior: uniform contradicts base.factory, whose module has a prior of its own; leave it out")
    return NormalPrior(experiment.latent_dim) if own is None else own


def build_energy(
    experiment: Experiment,
    shape: tuple[int, ...],
    seed: int,
    stage: str,
    allow_plugins: bool = False,
    place: str = "",
    n_out: int = 1,
    base: nn.Module | None = None,
) -> Energy:
    """The energy (in `train-base`, the critic), initialised from the seed and the stage; a user's own where allowed.

    Args:
        place: as in `build_base`.
        n_out: numbers for each point; more than one where a kernel stands on the critic. A user's own has always one.
        base: the base whose density enters an energy of kind flow, which holds the very object; others do without.

    Raises:
        UsageError: an energy of kind flow whose base has no density, or of which more than one number is asked.
    """
    keys = experiment.energy
    if isinstance(keys, schema.networks.Absent):
        raise _no_networks(place)
    with seeded_construction(seed, "energy", stage):
        return Energy(_energy_network(keys, shape, allow_plugins, place, n_out, base), keys.floor)


def _no_networks(place: str) -> UsageError:
    return UsageError(
        f"{place}base.kind: none; the experiment has particles only (`gebm flow`), and this needs its networks"
    )


def _energy_network(
    energy: schema.networks.Critic,
    shape: tuple[int, ...],
    allow_plugins: bool,
    place: str,
    n_out: int,
    base: nn.Module | None,
) -> nn.Module:
    if isinstance(energy, schema.networks.ConvEnergy):
        return convolutional.conv_energy(shape, energy.width, energy.spectral, n_out)
    if isinstance(energy, schema.networks.SnganEnergy):
        return convolutional.sngan_energy(shape, energy.spectral, n_out)
    if isinstance(energy, schema.networks.DcganEnergy):
        return convolutional.dcgan_energy(shape, energy.width, energy.spectral, n_out)
    if isinstance(energy, schema.networks.ResnetEnergy):
        return residual.resnet_energy(shape, energy.width, energy.spectral, n_out)
    if isinstance(energy, schema.networks.ExternalEnergy):
        module = load_plugin(energy.factory, energy.weights, f"{place}energy", allow_plugins)
        return ExternalEnergy(module, energy.factory, energy.output == "logit")
    if isinstance(energy, schema.networks.FlowEnergy):
        if n_out != 1:
            raise UsageError(f"energy.kind: flow is one number for each point, not {n_out}; use mlp")
        own = _flow(energy.architecture, prod(shape), energy.n_blocks, energy.width)
        return flows.DensityRatio(own, base)
    return networks.mlp(shape[0], n_out, energy.width, energy.depth, energy.spectral)


def build_networks(
    experiment: Experiment,
    shape: tuple[int, ...],
    seed: int,
    stage: str,
    device: torch.device,
    allow_plugins: bool = False,
    place: str = "",
    n_out: int = 1,
) -> tuple[nn.Module, Prior, Energy]:
    """Base, prior and energy on a device, initialised from the seed; plug-ins have been checked."""
    base = build_base(experiment, shape, seed, allow_plugins, place).to(device)
    prior = build_prior(experiment, base)
    energy = build_energy(experiment, shape, seed, stage, allow_plugins, place, n_out, base).to(device)
    check_plugins(base, energy, prior, shape)
    return base, prior, energy
