"""From an `Experiment` to its networks: base, prior and energy."""

from __future__ import annotations

import torch
from torch import nn

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models import networks
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
    with seeded_construction(seed, "base"):
        if isinstance(base, schema.networks.ConvBase):
            network: nn.Module = networks.conv_base(latent, shape, base.width, base.batch_norm)
        elif isinstance(base, schema.networks.SnganBase):
            network = networks.sngan_base(latent, shape)
        elif isinstance(base, schema.networks.MlpBase):
            network = networks.mlp(latent, shape[0], base.width, base.depth)
        elif isinstance(base, schema.networks.ExternalBase):
            module = load_plugin(base.factory, base.weights, f"{place}base", allow_plugins)
            network = ExternalBase(module, base.factory, base.latent_shape)
        else:
            network = networks.Circle()
    return UniformLatent(network) if experiment.prior == "uniform" else network


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
) -> Energy:
    """The energy (in `train-base`, the critic), initialised from the seed and the stage; a user's own where allowed."""
    energy = experiment.energy
    with seeded_construction(seed, "energy", stage):
        if isinstance(energy, schema.networks.ConvEnergy):
            return Energy(networks.conv_energy(shape, energy.width, energy.spectral_norm))
        if isinstance(energy, schema.networks.SnganEnergy):
            return Energy(networks.sngan_energy(shape))
        if isinstance(energy, schema.networks.ExternalEnergy):
            module = load_plugin(energy.factory, energy.weights, f"{place}energy", allow_plugins)
            return Energy(ExternalEnergy(module, energy.factory, energy.output == "logit"))
        return Energy(networks.mlp(shape[0], 1, energy.width, energy.depth))


def build_networks(
    experiment: Experiment,
    shape: tuple[int, ...],
    seed: int,
    stage: str,
    device: torch.device,
    allow_plugins: bool = False,
    place: str = "",
) -> tuple[nn.Module, Prior, Energy]:
    """Base, prior and energy on a device, initialised from the seed; plug-ins have been checked."""
    base = build_base(experiment, shape, seed, allow_plugins, place).to(device)
    prior = build_prior(experiment, base)
    energy = build_energy(experiment, shape, seed, stage, allow_plugins, place).to(device)
    check_plugins(base, energy, prior, shape)
    return base, prior, energy
