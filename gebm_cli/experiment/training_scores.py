"""What a training stage is scored by: at its end, on its way to keep the best networks, and for the learning-rate rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.data.dataset import Dataset, to_float, to_uint8
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.kid import kid
from gebm_cli.core.evaluation.likelihood import negative_log_likelihood
from gebm_cli.core.mmd import Estimate
from gebm_cli.core.models.flows import DensityRatio
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.objectives.kale import LogMeanExp, log_mean_exp
from gebm_cli.core.training.loop import Training, Watch
from gebm_cli.core.training.lr_rule import RateRule
from gebm_cli.experiment.doubts import SHARE
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.schema import Experiment, TrainBase, TrainEnergy

Points = Tensor | LazyImages
KID_SAMPLES = 1000
MONITORED = 1000
LOG_PARTITION_SAMPLES = 10_000  # while training; the closing figures take n_log_partition


def validation_of(dataset: Dataset) -> Points:
    """What a choice may look at: the validation points, or the training points where there are none. Never the held-out ones."""
    return dataset.validation if dataset.validation is not None else dataset.train


def build_watch(experiment: Experiment, training: Training, dataset: Dataset, seed: int) -> Watch | None:
    """The score by which the best networks are kept, or None."""
    keys: TrainBase | TrainEnergy = experiment.train_base if training.train_base else experiment.train_energy
    if keys.keep_best is None:
        return None
    if keys.keep_best == "kid":
        score = _kid_score(experiment, training, dataset, seed)
    else:
        data, density = validation_of(dataset), keys.keep_best == "nll"

        def score(training: Training) -> Estimate:
            return _likelihood_score(training, data, density, seed)

    return Watch(f"watched_{keys.keep_best}", keys.score_every, score, larger_is_better=keys.keep_best == "kale")


def _likelihood_score(training: Training, data: Points, density: bool, seed: int) -> Estimate:
    """NLL of the base or of the GEBM, or KALE, on `data`; the same latents estimate log Z every time."""
    base = training.result_base().eval()
    try:
        if training.train_base:
            return nll(base, None, data, training.generator.device)
        training.energy.eval()
        if density and isinstance(training.energy.network, DensityRatio):  # log Z is known
            return nll(base, training.energy, data, training.generator.device)
        log_z = log_partition(training, LOG_PARTITION_SAMPLES, make_seed(seed, training))
        if density:
            return nll(base, training.energy, data, training.generator.device, log_z)
        return kale_of(energies(training.energy, data, training.generator.device, affordable(training)), log_z)
    finally:
        training.base.train(training.train_base)
        training.energy.train()


def make_seed(seed: int, training: Training) -> torch.Generator:
    return make_generator(seed, "watch", device=training.generator.device)


def _kid_score(
    experiment: Experiment, training: Training, dataset: Dataset, seed: int
) -> Callable[[Training], Estimate]:
    device = training.generator.device
    features = build_features(experiment.evaluate.features, dataset, None, device)
    reference = features(some(validation_of(dataset), KID_SAMPLES, seed))

    def score(training: Training) -> Estimate:
        generator = make_seed(seed, training)
        base = training.result_base()
        fake = samples(base, training, KID_SAMPLES, generator, dataset.is_images)
        base.train(training.train_base and base is training.base)
        return kid(features(fake), reference)

    return score


def build_rule(experiment: Experiment, training: Training, dataset: Dataset, seed: int) -> RateRule | None:
    """The learning-rate rule on KID features of training points, or None."""
    keys = experiment.train_base.lr_rule
    if keys is None or not training.train_base:
        return None
    device = training.generator.device
    features = build_features(experiment.evaluate.features, dataset, None, device)
    n = min(keys.n, len(dataset.train))
    return RateRule(
        lambda x: features(to_uint8(x) if dataset.is_images else x),
        features(some(dataset.train, n, seed)),
        make_generator(seed, "lr-rule", device=device),
        keys.every,
        keys.compare_steps // keys.every,
        n,
        keys.p_value,
        keys.patience,
        keys.factor,
        keys.floor,
    )


def some(data: Points, n: int, seed: int) -> Tensor:
    """At most n points, chosen by the seed."""
    order = torch.randperm(len(data), generator=make_generator(seed, "reference"))[:n].sort().values
    return data[order]


@torch.no_grad()
def samples(base: nn.Module, training: Training, n: int, generator: torch.Generator, images: bool) -> Tensor:
    base.eval()
    parts = [base(training.prior.sample(min(500, n - i), generator)) for i in range(0, n, 500)]
    return torch.cat([to_uint8(p) if images else p for p in parts])


def affordable(training: Training) -> int:
    """Points in one forward pass: no more than a training step takes with gradients, so memory that sufficed suffices."""
    return max(1, min(1000, training.batches.batch_size // training.method.parts))


@torch.no_grad()
def energies(energy: Energy, data: Points, device: torch.device, size: int = 1000) -> Tensor:
    """E at all points, (n,) float64, `size` of them at a time."""
    return torch.cat([energy(to_float(batch.to(device))).double() for batch in data.split(size)])


def log_partition(training: Training, n: int, generator: torch.Generator) -> LogMeanExp:
    """Log-mean-exp of -E over n base samples."""
    size = affordable(training)

    @torch.no_grad()
    def values() -> Iterator[Tensor]:
        for start in range(0, n, 1000):  # the latents do not depend on what is affordable
            for z in training.prior.sample(min(1000, n - start), generator).split(size):
                yield -training.energy(training.base(z))

    return log_mean_exp(values())


def has_density(base: nn.Module) -> bool:
    """True for flows."""
    return hasattr(base, "log_prob") and hasattr(base, "inverse")


def nll(
    base: Any, energy: Energy | None, data: Points, device: torch.device, log_z: LogMeanExp | None = None
) -> Estimate:
    """NLL in nats of the base, or of the GEBM: log q(x) - E(x) - log Z.

    With an energy of kind flow the GEBM's density is that of the flow, and log Z = 0 needs no estimate.
    """

    def log_density(x: Tensor) -> Tensor:
        x = to_float(x.to(device))
        if energy is None:
            return base.log_prob(x)
        if isinstance(energy.network, DensityRatio):
            return energy.network.log_prob(x)
        if log_z is None:
            raise ValueError("`log_z` is needed: the energy is not normalised")
        return base.log_prob(x) - energy(x) - log_z.value

    exact = energy is None or isinstance(energy.network, DensityRatio) or log_z is None
    return negative_log_likelihood(log_density, data, 0.0 if exact else log_z.standard_error)  # type: ignore[union-attr]


def kale_of(e: Tensor, log_z: LogMeanExp) -> Estimate:
    """KALE in its Donsker-Varadhan form, -mean E - log Z, of energies (n,) at data; its error is that of both terms."""
    error = e.std().item() / len(e) ** 0.5 if len(e) > 1 else math.nan
    return Estimate(-e.mean().item() - log_z.value, math.hypot(error, log_z.standard_error))


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_standard_error": estimate.standard_error}


class Monitor:
    """KALE on some training and held-out points and log Z of the networks as they are, told on the way and never acted on.

    Every call takes the same points and latents, from streams of its own, so that the curve has no noise between its points and
    training is not changed.
    """

    def __init__(self, training: Training, dataset: Dataset, seed: int) -> None:
        self.training, self.seed = training, seed
        self.splits = {
            f"kale_{name}": some(points, MONITORED, seed)
            for name, points in (("train", dataset.train), ("held_out", dataset.held_out))
            if len(points) > 1
        }

    def __call__(self) -> dict[str, float]:
        """`kale_train`, `kale_held_out` and `log_partition_estimate`, each with its standard error."""
        training = self.training
        device = training.generator.device
        training.base.eval(), training.energy.eval()
        try:
            log_z = log_partition(training, MONITORED, make_generator(self.seed, "monitor", device=device))
            found = _named("log_partition_estimate", Estimate(log_z.value, log_z.standard_error))
            for name, points in self.splits.items():
                found |= _named(name, kale_of(energies(training.energy, points, device, affordable(training)), log_z))
            return found
        finally:
            training.base.train(training.train_base)
            training.energy.train()


def closing_figures(training: Training, dataset: Dataset, n: int, seed: int) -> dict[str, float]:
    """Figures of the networks that a stage ended with.

    Of an energy: the log-partition by log-mean-exp over n base samples, the effective sample size of the weights exp(-E) among
    them, the share of the heaviest in the sum of their squares (`doubts` judges by it), and KALE on training, validation and
    held-out data in its Donsker-Varadhan form, -mean E - log Z, a lower bound on KL(data || base) as far as log Z is right; its
    standard error joins those of the mean energy and of log Z. Of bases with a density: the NLL in nats.
    """
    base = training.result_base().eval()
    device = training.generator.device
    splits = {"train": dataset.train, "validation": dataset.validation, "held_out": dataset.held_out}
    figures: dict[str, float] = {}
    log_z, energy = None, None
    if not training.train_base:
        energy = training.energy.eval()
        log_z = log_partition(training, n, make_generator(seed, "log-partition", device=device))
        figures = {
            "log_partition_learned": energy.log_partition.item(),
            "log_partition_estimate": log_z.value,
            "log_partition_standard_error": log_z.standard_error,
            "ess": log_z.effective_sample_size,
            SHARE: log_z.heaviest,
            "n_log_partition": n,
        }
    for split, data in splits.items():
        if data is None or len(data) < 2:
            continue
        if energy is not None and log_z is not None:
            e = energies(training.energy, data, training.generator.device, affordable(training))
            figures |= _named(f"kale_{split}", kale_of(e, log_z))
        if has_density(base):
            figures |= _named(f"nll_{split}", nll(base, energy, data, device, log_z))
    return figures
