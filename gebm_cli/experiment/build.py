"""The one place where an `Experiment` turns into core objects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gebm_cli.core.data import images
from gebm_cli.core.data.dataset import Dataset, Minibatches
from gebm_cli.core.data.toys import toy_dataset
from gebm_cli.core.device import make_generator, seeded_construction
from gebm_cli.core.models import networks
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.training.loop import Schedule, Training
from gebm_cli.errors import GebmError
from gebm_cli.experiment import schema
from gebm_cli.experiment.checkpoint import latest_checkpoint, load_checkpoint
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.schema import Experiment

TOY_SEED = 0  # a data set is the same in every run, whatever the run's seed


def build_dataset(data: schema.Digits | schema.Cifar10 | schema.Folder | schema.Array | schema.Toy) -> Dataset:
    """The data set of an experiment, in memory on the CPU; an error names the file or the remedy."""
    if isinstance(data, schema.Digits):
        return images.digits(data.held_out)
    if isinstance(data, schema.Cifar10):
        return images.cifar10(os.path.expanduser(data.root), data.download)
    if isinstance(data, schema.Folder):
        channels = int(data.channels) if data.channels else None
        return images.folder(os.path.expanduser(data.path), data.size, channels, data.held_out)
    if isinstance(data, schema.Array):
        return images.array(os.path.expanduser(data.path), data.held_out)
    return toy_dataset(data.name, data.n, data.noise_std, TOY_SEED)


def build_base(experiment: Experiment, shape: tuple[int, ...], seed: int) -> nn.Module:
    """The base network, initialised from the seed."""
    base, latent = experiment.base, experiment.latent_dim
    with seeded_construction(seed, "base"):
        if isinstance(base, schema.ConvBase):
            return networks.conv_base(latent, shape, base.width)
        if isinstance(base, schema.SnganBase):
            return networks.sngan_base(latent, shape)
        if isinstance(base, schema.MlpBase):
            return networks.mlp(latent, shape[0], base.width, base.depth)
        return networks.Circle()


def build_energy(experiment: Experiment, shape: tuple[int, ...], seed: int, stage: str) -> Energy:
    """The energy (in `train-base`, the critic), initialised from the seed and the stage."""
    energy = experiment.energy
    with seeded_construction(seed, "energy", stage):
        if isinstance(energy, schema.ConvEnergy):
            return Energy(networks.conv_energy(shape, energy.width, energy.spectral_norm))
        if isinstance(energy, schema.SnganEnergy):
            return Energy(networks.sngan_energy(shape))
        return Energy(networks.mlp(shape[0], 1, energy.width, energy.depth))


def build_training(experiment: Experiment, stage: str, dataset: Dataset, seed: int, device: torch.device) -> Training:
    """A training stage at step 0; in `train-energy` the base's weights are still to be loaded.

    The training data move to the device as they are (uint8 for images) and stay there.
    """
    of_base = stage == "train-base"
    keys: schema.TrainBase | schema.TrainEnergy = experiment.train_base if of_base else experiment.train_energy
    critic = {}
    if isinstance(keys, schema.TrainBase):
        critic = {
            "critic_steps": keys.critic_steps,
            "burst_critic_steps": keys.burst_critic_steps,
            "burst_every": keys.burst_every,
        }
    return Training(
        base=build_base(experiment, dataset.shape, seed).to(device),
        energy=build_energy(experiment, dataset.shape, seed, stage).to(device),
        prior=NormalPrior(experiment.latent_dim),
        batches=Minibatches(dataset.train.to(device), keys.batch_size, seed),
        schedule=Schedule(keys.steps, log_every=keys.log_every, checkpoint_every=keys.checkpoint_every, **critic),
        generator=make_generator(seed, stage, device=device),
        train_base=of_base,
        lr=keys.lr,
        betas=keys.betas,
        penalty_weight=keys.penalty_weight,
        noise_std=keys.noise_std,
        lr_log_partition=keys.lr_log_partition,
        linear_schedule=keys.lr_schedule == "linear",
        ema_halflife_steps=keys.ema_halflife_steps if isinstance(keys, schema.TrainBase) else None,
    )


# ------------------------------------------------------------------------------------------------ what a run has learned


@dataclass(frozen=True)
class Gebm:
    """A trained base, its prior and, once trained, its energy: frozen, in eval mode, on a device."""

    base: nn.Module
    prior: NormalPrior
    energy: Energy | None


def load_gebm(run: Run, shape: tuple[int, ...], device: torch.device, with_energy: bool) -> Gebm:
    """The networks of a run, for sampling.

    Raises:
        GebmError: a checkpoint is missing, damaged, or of other networks than the experiment's.
    """
    base = build_base(run.experiment, shape, run.seed)
    load_base(base, run)
    energy = None
    if with_energy:
        energy = build_energy(run.experiment, shape, run.seed, "train-energy")
        load_weights(energy, read_state(run, "train-energy")["energy"], run, "energy")
    for network in (base, energy):
        if network is not None:
            network.to(device).eval().requires_grad_(False)
    return Gebm(base, NormalPrior(run.experiment.latent_dim), energy)


def load_base(base: nn.Module, run: Run) -> None:
    """Load the base that `train-base` ended with: the averaged one where averaging is on."""
    if run.experiment.base.kind == "circle":
        return
    state = read_state(run, "train-base")
    weights = state["base"]
    if state["averaged"] is not None:
        weights = {k.removeprefix("module."): v for k, v in state["averaged"].items() if k.startswith("module.")}
    load_weights(base, weights, run, "base")


def read_state(run: Run, stage: str) -> dict[str, Any]:
    """The newest checkpoint of a stage."""
    path = latest_checkpoint(run.checkpoints(stage))
    if path is None:
        raise GebmError(f"{run.checkpoints(stage)}: holds no checkpoint; run `gebm {stage} --run {run.name}`")
    return load_checkpoint(path, stage)


def load_weights(network: nn.Module, weights: dict[str, Any], run: Run, what: str) -> None:
    """Load a network of a run; raises GebmError when the weights are another network's."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise does_not_fit(run, what, error) from None


def does_not_fit(run: Run, what: str, error: Exception) -> GebmError:
    """The sentence for a checkpoint of other networks than the experiment's."""
    return GebmError(
        f"{run.path}: the checkpoint's {what} does not fit the networks of experiment.yaml, which must not change "
        f"after training ({str(error).splitlines()[-1].strip()})"
    )


def cache_folder() -> Path:
    """Where learned feature networks are kept: GEBM_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gebm"
    return Path(os.environ.get("GEBM_CACHE") or default)
