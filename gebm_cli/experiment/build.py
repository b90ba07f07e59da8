"""The one place where an `Experiment` turns into core objects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from gebm_cli.core.data import images
from gebm_cli.core.data.dataset import Dataset, Minibatches
from gebm_cli.core.data.toys import toy_dataset
from gebm_cli.core.device import make_generator, seeded_construction
from gebm_cli.core.models import networks
from gebm_cli.core.models.adapters import ExternalBase, ExternalEnergy, UniformLatent
from gebm_cli.core.models.networks import Energy, freeze
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.potential import Prior
from gebm_cli.core.training.loop import Schedule, Training
from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment import schema
from gebm_cli.experiment.checkpoint import latest_checkpoint, load_checkpoint
from gebm_cli.experiment.plugins import check_plugins, load_plugin, own_prior
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


def dataset_at_hand(experiment: Experiment) -> Dataset | str:
    """The data set of an experiment where it can be read without a download, else a sentence that says why not."""
    data = experiment.data
    if isinstance(data, schema.Cifar10):
        data = data.model_copy(update={"download": False})
    try:
        return build_dataset(data)
    except (GebmError, OSError) as error:
        return f"the data set cannot be read ({error})"


def build_base(
    experiment: Experiment, shape: tuple[int, ...], seed: int, allow_plugins: bool = False, place: str = ""
) -> nn.Module:
    """The base network, initialised from the seed; a user's own where `allow_plugins`.

    Args:
        place: the file that an error about a plug-in names before the key, followed by ": "; may be empty.
    """
    base, latent = experiment.base, experiment.latent_dim
    with seeded_construction(seed, "base"):
        if isinstance(base, schema.ConvBase):
            network: nn.Module = networks.conv_base(latent, shape, base.width)
        elif isinstance(base, schema.SnganBase):
            network = networks.sngan_base(latent, shape)
        elif isinstance(base, schema.MlpBase):
            network = networks.mlp(latent, shape[0], base.width, base.depth)
        elif isinstance(base, schema.ExternalBase):
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
        if isinstance(energy, schema.ConvEnergy):
            return Energy(networks.conv_energy(shape, energy.width, energy.spectral_norm))
        if isinstance(energy, schema.SnganEnergy):
            return Energy(networks.sngan_energy(shape))
        if isinstance(energy, schema.ExternalEnergy):
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


def build_training(
    experiment: Experiment,
    stage: str,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    allow_plugins: bool = False,
    place: str = "",
) -> Training:
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
    base, prior, energy = build_networks(experiment, dataset.shape, seed, stage, device, allow_plugins, place)
    return Training(
        base=base,
        energy=energy,
        prior=cast(NormalPrior, prior),  # training asks no more of it than any Prior has
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
    prior: Prior
    energy: Energy | None


def load_gebm(
    run: Run, shape: tuple[int, ...], device: torch.device, with_energy: bool, allow_plugins: bool = False
) -> Gebm:
    """The networks of a run, for sampling; plug-ins have been checked.

    Raises:
        GebmError: a checkpoint is missing, damaged, or of other networks than the experiment's.
        UsageError: the run has plug-ins that are not allowed, or cannot be used.
    """
    experiment, place = run.experiment, place_in(run)
    base = build_base(experiment, shape, run.seed, allow_plugins, place)
    load_base(base, run)
    energy = None
    if with_energy:
        energy = build_energy(experiment, shape, run.seed, "train-energy", allow_plugins, place)
        if experiment.trains_energy:
            state = read_state(run, "train-energy")
            load_weights(energy, state["energy"], run, "energy")
            if experiment.base.kind == "external":
                _require_same_base(base, state["base"], run)
    freeze(base.to(device), own=experiment.base.kind != "external")
    if energy is not None:
        freeze(energy.to(device), own=experiment.energy.kind != "external")
    prior = build_prior(experiment, base)
    check_plugins(base, energy, prior, shape)
    return Gebm(base, prior, energy)


def place_in(run: Run) -> str:
    """What an error about a key of a run's experiment begins with."""
    return f"{run.path / 'experiment.yaml'}: "


def _require_same_base(base: nn.Module, trained_on: dict[str, Any], run: Run) -> None:
    """Refuse an external base that gives other weights than it gave when the energy was trained on it."""
    now = base.state_dict()
    tensors = {name: value for name, value in trained_on.items() if isinstance(value, torch.Tensor)}
    changed = [k for k, v in tensors.items() if not isinstance(now.get(k), torch.Tensor) or not torch.equal(now[k], v)]
    if changed or len(tensors) != sum(isinstance(v, torch.Tensor) for v in now.values()):
        raise GebmError(
            f"{run.path}: the energy was trained on other weights than base.factory and base.weights give now (for "
            f"instance {(changed or ['new ones'])[0]}); put those back, or train an energy on the new ones in a new run"
        )


def load_base(base: nn.Module, run: Run) -> None:
    """Load the base that `train-base` ended with: the averaged one where averaging is on. A fixed base is left as it is."""
    if not run.experiment.trains_base:
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
