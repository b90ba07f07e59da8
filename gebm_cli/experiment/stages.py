"""The two training stages of a run: open or continue it, train, and record what came of it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.data.dataset import Dataset, to_float
from gebm_cli.core.device import make_generator
from gebm_cli.core.models.networks import Energy, count_parameters
from gebm_cli.core.objectives.kale import log_mean_exp
from gebm_cli.core.training.loop import Callbacks, Training
from gebm_cli.errors import DivergedError, InterruptedRun, UsageError
from gebm_cli.experiment.build import (
    build_dataset,
    build_networks,
    build_training,
    does_not_fit,
    load_base,
    load_weights,
    place_in,
    read_state,
)
from gebm_cli.experiment.checkpoint import latest_checkpoint, save_checkpoint, write_checkpoint
from gebm_cli.experiment.continuing import OF_THE_BASE
from gebm_cli.experiment.plugins import require_allowed
from gebm_cli.experiment.run import Run, all_runs, create_run
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.stopping import stop_signals

Report = Callable[[int, int, dict[str, float]], None]


def start_run(experiment: Experiment, root: Path, allow_plugins: bool = False) -> tuple[Run, Dataset]:
    """A new run, made only after its data were read and its networks built: what cannot work leaves no folder behind."""
    seed = experiment.seed if experiment.seed is not None else secrets.randbits(31)
    experiment = experiment.model_copy(update={"seed": seed})
    dataset = check(experiment, allow_plugins)
    return create_run(experiment, root, dataset.shape), dataset


def fixed_base_run(experiment: Experiment, root: Path, allow_plugins: bool = False) -> tuple[Run, Dataset | None]:
    """The run of an experiment whose base is not trained: the newest one below `root` with its networks, or a new one.

    Returns:
        the run, and its data where they were read to make it. With an external energy as well it can be sampled at once.
    """
    require_allowed(experiment, allow_plugins)
    for run in reversed(all_runs(root)):
        same = all(getattr(run.experiment, part) == getattr(experiment, part) for part in OF_THE_BASE)
        if same and experiment.seed in (None, run.experiment.seed):
            return run, None
    return start_run(experiment, root, allow_plugins)


def check(experiment: Experiment, allow_plugins: bool = False) -> Dataset:
    """Read the data and pass one latent through freshly built networks; raises what is wrong, writes nothing."""
    return _checked(experiment, allow_plugins)[0]


def _checked(experiment: Experiment, allow_plugins: bool) -> tuple[Dataset, nn.Module, Energy]:
    dataset = build_dataset(experiment.data)
    stage = "train-base" if experiment.trains_base else "train-energy"
    base, prior, energy = build_networks(experiment, dataset.shape, 0, stage, torch.device("cpu"), allow_plugins)
    with torch.no_grad():
        energy.eval()(base.eval()(prior.sample(1, make_generator(0, "check"))))
    return dataset, base, energy


def train(
    run: Run,
    stage: str,
    device: torch.device,
    dataset: Dataset | None,
    report: Report,
    allow_plugins: bool = False,
) -> dict[str, Any]:
    """Train a stage of a run from its newest checkpoint, or from the start.

    SIGINT and SIGTERM save the exact state and raise InterruptedRun; a non-finite loss raises DivergedError, keeps the
    last good checkpoint and writes the state seen as `diverged.pt` beside it.

    Returns:
        `step` and the closing figures of the stage.
    """
    if run.has(stage):
        raise UsageError(f"{run.path}: {stage} is complete here; `gebm {stage} EXPERIMENT` trains another in a new run")
    with run.session(stage, str(device)) as entry:
        dataset = dataset or build_dataset(run.experiment.data)
        training = _prepare(run, stage, dataset, device, allow_plugins)
        folder = run.checkpoints(stage)
        total = training.schedule.steps
        write_metrics = run.metrics_writer(stage, training.step)

        def log(step: int, figures: dict[str, float]) -> None:
            write_metrics(step, figures)
            report(step, total, figures)

        def save(step: int, state: dict[str, Any]) -> None:
            save_checkpoint(folder, stage, step, state)
            entry["step"] = step

        report(training.step, total, {})
        with stop_signals() as stopped:
            callbacks = Callbacks(
                log, save, lambda step, state: write_checkpoint(folder / "diverged.pt", stage, step, state), stopped
            )
            folder.mkdir(parents=True, exist_ok=True)
            _run(training, callbacks, run, stage)
        figures = training.metrics() if training.critic_steps_done else {}
        if stage == "train-energy":
            figures |= closing_figures(training, dataset, run.experiment.train_energy.n_log_partition, run.seed)
        entry["figures"] = {name: float(f"{value:.6g}") for name, value in figures.items()}
        return {"step": training.step, **figures}


def _prepare(run: Run, stage: str, dataset: Dataset, device: torch.device, allow_plugins: bool) -> Training:
    training = build_training(run.experiment, stage, dataset, run.seed, device, allow_plugins, place_in(run))
    if latest_checkpoint(run.checkpoints(stage)) is not None:
        _resume(training, run, stage)
    elif stage == "train-energy":
        load_base(training.base, run)
        if run.experiment.train_energy.start_from_critic:
            load_weights(training.energy, read_state(run, "train-base")["energy"], run, "critic")
    return training


def _resume(training: Training, run: Run, stage: str) -> None:
    state = read_state(run, stage)
    try:
        training.load_state_dict(state)
    except UsageError as error:
        raise UsageError(f"{run.path}: {stage} {error}") from None
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise does_not_fit(run, stage, error) from None


def _run(training: Training, callbacks: Callbacks, run: Run, stage: str) -> None:
    again = f"`gebm {stage} --run {run.name}`"
    try:
        training.run(callbacks)
    except InterruptedRun as error:
        raise InterruptedRun(f"{run.name}: {stage} {error}; continue with {again}") from None
    except DivergedError as error:
        last = latest_checkpoint(run.checkpoints(stage))
        kept = f"the last good checkpoint, {last.name}, is kept" if last else "no checkpoint was written before it"
        raise DivergedError(
            f"{run.name}: {stage} {error}; {kept}. A smaller lr or a larger penalty_weight usually helps; start again with "
            f"`gebm {stage} EXPERIMENT {stage.replace('-', '_')}.lr=...`"
        ) from None


def closing_figures(training: Training, dataset: Dataset, n: int, seed: int) -> dict[str, float]:
    """Log-partition by log-mean-exp over n base samples, and KALE on training and held-out data with it.

    KALE here is the Donsker-Varadhan form -mean E - log Z, a lower bound on KL(data || base); its standard error joins
    those of the mean energy and of log Z. ESS is that of the importance weights exp(-E) among the n base samples.
    """
    energy, base = training.energy.eval(), training.base.eval()
    device = training.generator.device
    generator = make_generator(seed, "log-partition", device=device)

    @torch.no_grad()
    def energies(data: Tensor) -> Tensor:
        return torch.cat([energy(to_float(batch.to(device))).double() for batch in data.split(1000)])

    @torch.no_grad()
    def base_samples() -> Iterator[Tensor]:
        for start in range(0, n, 1000):
            yield -energy(base(training.prior.sample(min(1000, n - start), generator)))

    log_z = log_mean_exp(base_samples())
    figures = {
        "log_partition_learned": training.energy.log_partition.item(),
        "log_partition_estimate": log_z.value,
        "log_partition_standard_error": log_z.standard_error,
        "ess": log_z.effective_sample_size,
        "n_log_partition": n,
    }
    for split, data in (("train", dataset.train), ("held_out", dataset.held_out)):
        if len(data) > 1:
            e = energies(data)
            figures[f"kale_{split}"] = -e.mean().item() - log_z.value
            figures[f"kale_{split}_standard_error"] = math.hypot(e.std().item() / len(e) ** 0.5, log_z.standard_error)
    return figures


def describe(experiment: Experiment, allow_plugins: bool = False) -> dict[str, Any]:
    """Sizes of the data and the networks, after the same check as a run's start; writes nothing."""
    dataset, base, energy = _checked(experiment, allow_plugins)
    return {
        "n_train": len(dataset.train),
        "n_held_out": len(dataset.held_out),
        "shape": list(dataset.shape),
        "base_parameters": count_parameters(base),
        "energy_parameters": count_parameters(energy),
    }
