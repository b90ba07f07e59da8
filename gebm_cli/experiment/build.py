"""The one place where an `Experiment` turns into core objects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gebm_cli.core.data import archives, images
from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.data.tables import csv_dataset
from gebm_cli.core.data.toys import toy_dataset
from gebm_cli.core.models.networks import Energy, freeze
from gebm_cli.core.sampling.potential import Prior
from gebm_cli.errors import GebmError
from gebm_cli.experiment import schema
from gebm_cli.experiment.build_models import build_base, build_energy, build_prior
from gebm_cli.experiment.checkpoint import BEST, latest_checkpoint, load_checkpoint
from gebm_cli.experiment.plugins import check_plugins
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.schema import Experiment


def build_dataset(data: schema.data.Data) -> Dataset:
    """The data set of an experiment, in memory on the CPU, or of a large one what decodes it; an error names the remedy."""
    if isinstance(data, schema.data.Digits):
        return images.digits(data.held_out)
    if isinstance(data, schema.data.Cifar10):
        return images.cifar10(os.path.expanduser(data.root), data.download, int(data.size))
    if isinstance(data, schema.data.Folder):
        channels = int(data.channels) if data.channels else None
        return images.folder(os.path.expanduser(data.path), data.size, channels, data.held_out, data.workers)
    if isinstance(data, schema.data.Array):
        return images.array(os.path.expanduser(data.path), data.held_out)
    if isinstance(data, schema.data.Celeba):
        return archives.celeba(os.path.expanduser(data.root), data.size, data.download, data.workers)
    if isinstance(data, schema.data.Lsun):
        return archives.lsun(os.path.expanduser(data.root), data.category, data.size, data.workers)
    if isinstance(data, schema.data.Imagenet32):
        return archives.imagenet32(os.path.expanduser(data.root))
    if isinstance(data, schema.data.Csv):
        return csv_dataset(
            os.path.expanduser(data.path),
            data.delimiter,
            data.drop,
            data.dequantise,
            data.max_correlation,
            data.test,
            data.validation,
            data.split_seed,
            data.whiten,
        )
    return toy_dataset(data.name, data.n, data.noise_std, data.seed, data.shift, data.scale)


def dataset_at_hand(experiment: Experiment) -> Dataset | str:
    """The data set of an experiment where it can be read without a download, else a sentence that says why not."""
    data = experiment.data
    if isinstance(data, schema.data.Cifar10 | schema.data.Celeba):
        data = data.model_copy(update={"download": False})
    try:
        return build_dataset(data)
    except (GebmError, OSError) as error:
        return f"the data set cannot be read ({error})"


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
        energy = build_energy(experiment, shape, run.seed, "train-energy", allow_plugins, place, base=base)
        if experiment.trains_energy:
            state = result_state(run, "train-energy")
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
    state = result_state(run, "train-base")
    weights = state["base"]
    if state["averaged"] is not None:
        weights = {k.removeprefix("module."): v for k, v in state["averaged"].items() if k.startswith("module.")}
    load_weights(base, weights, run, "base")


def read_state(run: Run, stage: str) -> dict[str, Any]:
    """The newest checkpoint of a stage."""
    path = latest_checkpoint(run.checkpoints(stage))
    if path is None:
        raise GebmError(f"{run.checkpoints(stage)}: holds no checkpoint; run `gebm {stage} {run.option}`")
    return load_checkpoint(path, stage)


def result_state(run: Run, stage: str) -> dict[str, Any]:
    """What a finished stage is used as: its best checkpoint where a score was watched, else its newest."""
    keys = run.experiment.train_base if stage == "train-base" else run.experiment.train_energy
    best = run.checkpoints(stage) / BEST
    return load_checkpoint(best, stage) if keys.keep_best and best.is_file() else read_state(run, stage)


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
