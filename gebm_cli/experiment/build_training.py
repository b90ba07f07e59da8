"""From an `Experiment` to a training stage: objective, penalty, rates, and the scores that it watches."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from gebm_cli.core import kernels
from gebm_cli.core.data.dataset import Dataset, Minibatches, to_float
from gebm_cli.core.device import make_generator
from gebm_cli.core.kernels import Kernel, median_bandwidth
from gebm_cli.core.models.batch_norm import share_batch_norm
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.f_divergences import FDivergence
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd, ScaledWasserstein
from gebm_cli.core.objectives.margins import Hinge, Wasserstein
from gebm_cli.core.objectives.objective import Objective
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.parallel import Share
from gebm_cli.core.training.direct import ContrastiveDivergence, Direct, FixedKernelMmd, MaximumLikelihood
from gebm_cli.core.training.loop import Rates, Schedule, Training
from gebm_cli.core.training.optimise import Method
from gebm_cli.core.training.schedules import RateSchedule
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build_models import build_networks
from gebm_cli.experiment.schema import Experiment, TrainBase, objectives
from gebm_cli.experiment.schema.training import DIRECT, Optimiser


def build_training(
    experiment: Experiment,
    stage: str,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    allow_plugins: bool = False,
    place: str = "",
    share: Share | None = None,
) -> Training:
    """A training stage at step 0; in `train-energy` the base's weights are still to be loaded.

    The training data move to the device as they are (uint8 for images) and stay there.
    """
    of_base, share = stage == "train-base", share or Share()
    keys: Optimiser = experiment.train_base if of_base else experiment.train_energy
    require_enough(keys, stage, len(dataset.train), share)
    outputs = getattr(experiment.train_base.objective, "features", 1) if of_base else 1
    base, prior, energy = build_networks(
        experiment, dataset.shape, seed, stage, device, allow_plugins, place, n_out=outputs
    )
    trained: list[nn.Module] = [base, energy] if of_base else []  # an energy on a frozen base holds its statistics
    for network in trained:
        share_batch_norm(network, share)
    direct = build_direct(keys, of_base, dataset)
    objective = build_objective(keys) if direct is None else Kale()
    _adapt(base, energy, keys, differentiated=direct is None and bool(keys.penalty_weight or objective.scaled))
    order = (share.rank, share.size)
    return Training(
        base=base,
        energy=energy,
        prior=cast(NormalPrior, prior),  # training asks no more of it than any Prior has
        batches=Minibatches(dataset.train.to(device), keys.batch_size, seed, flip=keys.flip, share=order),
        schedule=build_schedule(keys),
        generator=make_generator(seed, stage, device=device),
        train_base=of_base,
        rates=Rates(keys.lr, keys.betas, getattr(keys, "lr_critic", None), keys.lr_log_partition, build_rates(keys)),
        method=Method(
            objective=objective,
            penalty=Penalty(
                keys.penalty, keys.penalty_weight, keys.penalty_every, keys.penalty_outputs, keys.penalty_weights
            ),
            noise_std=keys.noise_std,
            share=share,
            parts=keys.accumulate,
            bfloat16=keys.precision == "bfloat16",
        ),
        direct=direct,
        ema_halflife_steps=keys.ema_halflife_steps if isinstance(keys, TrainBase) else None,
    )


def require_enough(keys: Optimiser, stage: str, n: int, share: Share) -> None:
    """Refuse batches and critic rounds that the data cannot fill, and batches that the processes cannot divide."""
    section = stage.replace("-", "_")
    if keys.batch_size > n:
        raise UsageError(
            f"{section}.batch_size: got {keys.batch_size}, but there are {n} training points; use at most {n}"
        )
    if isinstance(keys, TrainBase) and keys.critic_steps > n and keys.objective.kind not in DIRECT:
        raise UsageError(
            f"{section}.critic_steps: {keys.critic_steps} updates of the critic for one of the base, with {n} training points, "
            f"would learn the points by heart; use at most {n}"
        )
    if keys.batch_size % (share.size * keys.accumulate):
        raise UsageError(
            f"{section}.batch_size: {keys.batch_size} cannot be divided evenly among {share.size} process(es) with "
            f"{keys.accumulate} part(s) each ({section}.accumulate); use a multiple of {share.size * keys.accumulate}"
        )


def build_schedule(keys: Optimiser) -> Schedule:
    if not isinstance(keys, TrainBase):
        return Schedule(keys.steps, log_every=keys.log_every, checkpoint_every=keys.checkpoint_every)  # type: ignore[attr-defined]
    return Schedule(
        keys.steps,
        keys.critic_steps,
        keys.burst_critic_steps,
        keys.burst_every,
        keys.log_every,
        keys.checkpoint_every,
    )


def build_rates(keys: Optimiser) -> RateSchedule:
    return RateSchedule(keys.lr_schedule, keys.steps, keys.lr_step_every or 1, keys.lr_step_factor)  # type: ignore[attr-defined]


def build_kernel(keys: objectives.Mmd | objectives.Gmmn, linear: float = 0.0) -> Kernel:
    """A kernel by its name, with the exponents or bandwidths of its class where none are given."""
    if keys.kernel == "distance":
        return kernels.EnergyDistance()
    if keys.kernel == "rbf":
        return kernels.GaussianMixture(keys.bandwidths or kernels.GaussianMixture.bandwidths, linear)
    return kernels.RationalQuadratic(keys.alphas or kernels.RationalQuadratic.alphas, linear)


def build_objective(keys: Optimiser) -> Objective:
    """The critic's and the base's losses; of objectives that have a critic."""
    chosen = keys.objective  # type: ignore[attr-defined]
    if isinstance(chosen, objectives.Kale):
        return Kale(chosen.log_partition == "batch")
    if isinstance(chosen, objectives.Gan | objectives.Logistic):
        return FDivergence("js", non_saturating=True)
    if isinstance(chosen, objectives.FGan):
        if chosen.divergence == "pearson" and isinstance(keys, TrainBase):  # a critic need be no log ratio
            return FDivergence("pearson-linear", non_saturating=True)
        return FDivergence(chosen.divergence, chosen.non_saturating)
    if isinstance(chosen, objectives.Hinge):
        return Hinge()
    if isinstance(chosen, objectives.Wasserstein):
        return Wasserstein(chosen.clip)
    if isinstance(chosen, objectives.Mmd):
        return Mmd(build_kernel(chosen, chosen.linear))
    if isinstance(chosen, objectives.Smmd):
        return ScaledMmd(kernels.Gaussian(chosen.bandwidth), chosen.lam, chosen.grad_coeff)
    return ScaledWasserstein(chosen.grad_coeff)


def build_direct(keys: Optimiser, of_base: bool, dataset: Dataset) -> Direct | None:
    """The loss of an objective without a critic, or None."""
    chosen = keys.objective  # type: ignore[attr-defined]
    if isinstance(chosen, objectives.MaximumLikelihood):
        return MaximumLikelihood()
    if isinstance(chosen, objectives.ContrastiveDivergence | objectives.PersistentContrastiveDivergence):
        return ContrastiveDivergence(of_base, chosen.kind == "pcd", chosen.n_steps, chosen.step_size)
    if isinstance(chosen, objectives.Gmmn):
        return FixedKernelMmd(_fixed_kernel(chosen, dataset))
    return None


def _fixed_kernel(keys: objectives.Gmmn, dataset: Dataset) -> Kernel:
    if keys.kernel != "median":
        return build_kernel(keys)
    median = median_bandwidth(to_float(dataset.train[:2000]).flatten(1))
    return kernels.GaussianMixture(tuple(median * factor for factor in (0.25, 0.5, 1.0, 2.0, 4.0)))


def _adapt(base: nn.Module, energy: Energy, keys: Optimiser, differentiated: bool) -> None:
    """Memory layout and compilation: what changes how the networks run, and not what they compute.

    Args:
        differentiated: the gradient of the energy is differentiated in its turn, which torch.compile cannot do.
    """
    if keys.channels_last:
        base.to(memory_format=torch.channels_last)
        energy.to(memory_format=torch.channels_last)
    if keys.compile:
        base.compile()
        if not differentiated:
            energy.network.compile()  # within, so that features for a kernel are compiled as well as energies
