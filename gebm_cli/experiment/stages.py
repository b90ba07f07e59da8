"""The two training stages of a run: open or continue it, train, and record what came of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.data.dataset import Dataset, to_float
from gebm_cli.core.device import make_generator, peak_memory_mb
from gebm_cli.core.models.batch_norm import measure_statistics, norms
from gebm_cli.core.models.networks import Energy, count_parameters
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.parallel import Share
from gebm_cli.core.training.loop import Callbacks, Training
from gebm_cli.core.training.memory import estimate
from gebm_cli.errors import DivergedError, InterruptedRun, UsageError
from gebm_cli.experiment.build import (
    build_dataset,
    does_not_fit,
    load_base,
    load_weights,
    place_in,
    read_state,
    result_state,
)
from gebm_cli.experiment.build_models import build_networks
from gebm_cli.experiment.build_training import build_training, require_enough
from gebm_cli.experiment.checkpoint import (
    BEST,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from gebm_cli.experiment.continuing import OF_THE_BASE, changed_since, energy_run
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.flow_scene import require_scene
from gebm_cli.experiment.plugins import require_allowed
from gebm_cli.experiment.run import Run, all_runs, create_run, runs_dir_option
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.stopping import stop_signals
from gebm_cli.experiment.training_scores import (
    Monitor,
    build_rule,
    build_watch,
    closing_figures,
    log_partition,
    some,
)

Report = Callable[[int, int, dict[str, float]], None]
MEASURED, PART = 1000, 100  # data points whose moments batch norm of an energy keeps, and how many of them at a time
MOST_CALLS_BETWEEN = 10  # of two questions among processes whether to stop


def start_run(
    experiment: Experiment, root: Path, allow_plugins: bool = False, share: Share | None = None
) -> tuple[Run, Dataset]:
    """A new run, made only after its data were read and its networks built: what cannot work leaves no folder behind."""
    seed = experiment.seed if experiment.seed is not None else secrets.randbits(31)
    experiment = experiment.model_copy(update={"seed": seed})
    dataset = check(experiment, allow_plugins, share)
    return create_run(experiment, root, dataset.shape), dataset


def fixed_base_run(
    experiment: Experiment, root: Path, allow_plugins: bool = False, share: Share | None = None
) -> tuple[Run, Dataset | None]:
    """The run of an experiment whose base is not trained: the newest one below `root` with its networks, or a new one.

    Returns:
        the run, and its data where they were read to make it. With an external energy as well it can be sampled at once.
    """
    require_allowed(experiment, allow_plugins)
    for run in reversed(all_runs(root)):
        same = all(getattr(run.experiment, part) == getattr(experiment, part) for part in OF_THE_BASE)
        if same and experiment.seed in (None, run.experiment.seed):
            return run, None
    return start_run(experiment, root, allow_plugins, share)


def check(experiment: Experiment, allow_plugins: bool = False, share: Share | None = None) -> Dataset:
    """Read the data and pass one latent through freshly built networks; raises what is wrong, writes nothing."""
    if experiment.is_gebm:
        return _checked(experiment, allow_plugins, share)[0]
    dataset = build_dataset(experiment.data)
    require_scene(experiment.flow, dataset)
    return dataset


def start_energy(
    base_run: Run, experiment: Experiment, root: Path, share: Share, dataset: Dataset | None = None
) -> tuple[Run, Dataset]:
    """The run of an energy on a base (`energy_run`), and its data, if need be read here; keys they cannot fill are refused before
    anything is written."""
    read = [] if dataset is None else [dataset]

    def check() -> None:
        read.extend([] if read else [build_dataset(experiment.data)])
        require_enough(experiment.train_energy, "train-energy", len(read[0].train), share)

    return energy_run(base_run, experiment, root, check), read[0]


def _checked(
    experiment: Experiment, allow_plugins: bool, share: Share | None = None
) -> tuple[Dataset, nn.Module, Energy]:
    share = share or Share()
    dataset = build_dataset(experiment.data)
    stage = "train-base" if experiment.trains_base else "train-energy"
    keys = experiment.train_base
    if experiment.trains_base and (keys.lr_rule is not None or keys.keep_best == "kid"):
        build_features(experiment.evaluate.features, dataset, None, torch.device("cpu"))  # before a folder is made
    if experiment.trains_base:
        require_enough(experiment.train_base, "train-base", len(dataset.train), share)
    if experiment.trains_energy:
        require_enough(experiment.train_energy, "train-energy", len(dataset.train), share)
    with telling_what_was_left_out(dataset):
        base, prior, energy = build_networks(experiment, dataset.shape, 0, stage, torch.device("cpu"), allow_plugins)
    with torch.no_grad():
        energy.eval()(base.eval()(prior.sample(1, make_generator(0, "check"))))
    return dataset, base, energy


@contextmanager
def telling_what_was_left_out(dataset: Dataset) -> Iterator[None]:
    """Networks may not fit a table because columns of it were left out: say so."""
    try:
        yield
    except UsageError as error:
        told = dataset.note and "latent_dim" in str(error)
        raise (UsageError(f"{error}; {dataset.note}") if told else error) from None


def train(
    run: Run,
    stage: str,
    device: torch.device,
    dataset: Dataset | None,
    report: Report,
    allow_plugins: bool = False,
    world: World | None = None,
) -> dict[str, Any]:
    """Train a stage of a run from its newest checkpoint, or from the start; all processes together, of which the first writes.

    SIGINT and SIGTERM save the exact state and raise InterruptedRun; a non-finite loss raises DivergedError, keeps the
    last good checkpoint and writes the state seen as `diverged.pt` beside it.

    Returns:
        `step` and the closing figures of the stage.
    """
    if run.has(stage):
        command = f"gebm {stage} EXPERIMENT{runs_dir_option(run.path.parent)}"
        raise UsageError(f"{run.path}: {stage} is complete here; `{command}` trains another in a new run")
    world = world or World()
    session: AbstractContextManager[dict[str, Any]] = (
        run.session(stage, str(device)) if world.first else nullcontext({})
    )
    with session as entry:
        world.wait()
        dataset = dataset or build_dataset(run.experiment.data)
        training = _prepare(run, stage, dataset, device, allow_plugins, Share(world.rank, world.size))
        total = training.schedule.steps
        report(training.step, total, {})
        with stop_signals() as stopped:
            monitor = _monitor(run, training, dataset) if world.first else dict
            callbacks = _callbacks(run, stage, training, entry, report, world, stopped, monitor)
            _run(training, callbacks, run, stage)
        if not world.first:
            return {"step": training.step}
        figures = training.metrics() if training._last else {}
        _load_best(training, run, stage)
        figures |= closing_figures(training, dataset, run.experiment.train_energy.n_log_partition, run.seed)
        if training.watch is not None and training.watch.best is not None:
            name = training.watch.name.replace("watched", "best")
            figures |= {name: training.watch.best, "best_step": training.watch.best_step}
        figures["peak_memory_mb"] = peak_memory_mb(device)
        entry["figures"] = {name: float(f"{value:.6g}") for name, value in figures.items()}
        return {"step": training.step, **figures}


def _callbacks(
    run: Run,
    stage: str,
    training: Training,
    entry: dict[str, Any],
    report: Report,
    world: World,
    stopped: Callable[[], bool],
    monitor: Callable[[], dict[str, float]],
) -> Callbacks:
    """What the loop tells the outside: nothing is written but by the first process, and all stop together."""
    should_stop = stopping_together(stopped, training.method.share, training.generator.device)
    if not world.first:
        return Callbacks(should_stop=should_stop)
    folder, total = run.checkpoints(stage), training.schedule.steps
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics = run.metrics_writer(stage, training.step)

    def log(step: int, figures: dict[str, float]) -> None:
        write_metrics(step, figures)
        report(step, total, figures)

    experiment = run.experiment.model_dump(mode="json")

    def save(step: int, state: dict[str, Any]) -> None:
        save_checkpoint(folder, stage, step, state | {"experiment": experiment})
        entry["step"] = step

    def keep(name: str) -> Callable[[int, dict[str, Any]], None]:
        return lambda step, state: write_checkpoint(folder / name, stage, step, state | {"experiment": experiment})

    return Callbacks(log, monitor, save, keep(BEST), keep("diverged.pt"), should_stop)


def stopping_together(stopped: Callable[[], bool], share: Share, device: torch.device) -> Callable[[], bool]:
    """Whether any process was asked to stop; each answers the same at the same call.

    To ask the others waits for the device, so several processes ask at every call only where a call takes a second, else at every
    tenth at most: the next time is after as many calls as take a second by all clocks, on which they agree.
    """
    if share.size == 1:
        return stopped
    calls, last, every = 0, monotonic(), 1

    def should_stop() -> bool:
        nonlocal calls, last, every
        calls += 1
        if calls < every:
            return False
        now = monotonic()
        own = torch.tensor([[float(stopped()), (now - last) / calls]], device=device)
        any_stopped, seconds = share.together(own).amax(0).tolist()
        calls, last, every = 0, now, int(min(max(1.0 / max(seconds, 1e-9), 1.0), MOST_CALLS_BETWEEN))
        return bool(any_stopped)

    return should_stop


def _monitor(run: Run, training: Training, dataset: Dataset) -> Callable[[], dict[str, float]]:
    """KALE and log Z on the way, at every checkpoint; nothing where the critic is no energy."""
    if training.direct is not None or (training.train_base and not isinstance(training.method.objective, Kale)):
        return dict
    return Monitor(training, dataset, run.seed)


def _load_best(training: Training, run: Run, stage: str) -> None:
    """Put the networks with the best score in place of the last ones, where a score was watched."""
    best = run.checkpoints(stage) / BEST
    if training.watch is None or not best.is_file():
        return
    state = load_checkpoint(best, stage)
    training.base.load_state_dict(state["base"])
    training.energy.load_state_dict(state["energy"])
    if training.averaged is not None:
        training.averaged.load_state_dict(state["averaged"])


def _prepare(
    run: Run, stage: str, dataset: Dataset, device: torch.device, allow_plugins: bool, share: Share
) -> Training:
    experiment, seed = run.experiment, run.seed
    training = build_training(experiment, stage, dataset, seed, device, allow_plugins, place_in(run), share)
    training.rule = build_rule(experiment, training, dataset, seed)
    training.watch = build_watch(experiment, training, dataset, seed)
    if latest_checkpoint(run.checkpoints(stage)) is not None:
        _resume(training, run, stage)
        return training
    if stage == "train-energy":
        load_base(training.base, run)
        if experiment.train_energy.start_from_critic:
            load_weights(training.energy, result_state(run, "train-base")["energy"], run, "critic")
        elif norms(training.energy):
            measure_statistics(training.energy, _both_sides(training, dataset, seed))
            share.agree(b for norm in norms(training.energy) for b in norm.buffers())
    keys = experiment.train_base if training.train_base else experiment.train_energy
    if getattr(keys.objective, "log_partition", None) == "initialised":
        n = experiment.train_energy.n_log_partition
        training.base.eval(), training.energy.eval()
        start = log_partition(training, n, make_generator(seed, "initial log-partition", device=device))
        training.base.train(training.train_base), training.energy.train()
        training.energy.log_partition.data.fill_(start.value)
        share.agree([training.energy.log_partition.data])
    return training


def _both_sides(training: Training, dataset: Dataset, seed: int) -> Iterator[Tensor]:
    """Batches, half data and half base samples, each with its noise: of 1,000 data points, or all there are."""
    generator = make_generator(seed, "batch norm", device=training.generator.device)
    data = some(dataset.train, MEASURED, seed).to(generator.device)
    for part in data.chunk(-(-len(data) // PART)):  # whatever the batch is: the moments are those of the parts
        both = torch.cat([to_float(part), training.base(training.prior.sample(len(part), generator))])
        noise = torch.randn(both.shape, generator=generator, device=both.device)
        yield both + training.method.noise_std * noise


def _resume(training: Training, run: Run, stage: str) -> None:
    state = read_state(run, stage)
    changed = changed_since(run, stage, state.get("experiment", {}))
    if changed:
        raise UsageError(
            f"{run.path / 'experiment.yaml'}: was changed since its checkpoint was written; undo the change, or train in a new run "
            f"with `gebm {stage} EXPERIMENT{runs_dir_option(run.path.parent)}`:\n" + "\n".join(changed)
        )
    if state.get("step", 0) > training.schedule.steps:
        key = f"{stage.replace('-', '_')}.steps"
        raise UsageError(
            f"{run.path / 'experiment.yaml'}: {key}: {training.schedule.steps} steps, but {state['step']} are done; raise it"
        )
    try:
        training.load_state_dict(state)
    except UsageError as error:
        raise UsageError(f"{run.path}: {stage} {error}") from None
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise does_not_fit(run, stage, error) from None


def _run(training: Training, callbacks: Callbacks, run: Run, stage: str) -> None:
    again = f"`gebm {stage} {run.option}`"
    try:
        training.run(callbacks)
    except InterruptedRun as error:
        raise InterruptedRun(f"{run.name}: {stage} {error}; continue with {again}") from None
    except DivergedError as error:
        last = latest_checkpoint(run.checkpoints(stage))
        kept = f"the last good checkpoint, {last.name}, is kept" if last else "no checkpoint was written before it"
        raise DivergedError(
            f"{run.name}: {stage} {error}; {kept}. A smaller lr or a larger penalty_weight usually helps; start again with "
            f"`gebm {stage} EXPERIMENT {stage.replace('-', '_')}.lr=...{runs_dir_option(run.path.parent)}`"
        ) from None


def trains(experiment: Experiment, stage: str) -> bool:
    return experiment.trains_base if stage == "train-base" else experiment.trains_energy


def _memory(experiment: Experiment, stage: str, dataset: Dataset, allow_plugins: bool) -> float:
    """About how many MB a stage takes, from one step at a batch of four."""
    key = stage.replace("-", "_")
    keys = getattr(experiment, key)
    small = keys.model_copy(update={"batch_size": min(4, len(dataset.train)), "accumulate": 1, "compile": False})
    training = build_training(
        experiment.model_copy(update={key: small}), stage, dataset, 0, torch.device("cpu"), allow_plugins
    )
    return round(estimate(training, keys.batch_size // keys.accumulate).total / 1e6, 1)


def describe(experiment: Experiment, allow_plugins: bool = False) -> dict[str, Any]:
    """Sizes of the data and the networks and the memory of each stage, after the same check as a run's start; writes nothing."""
    if not experiment.is_gebm:
        dataset, networks = check(experiment), {"base_parameters": 0, "energy_parameters": 0}
    else:
        dataset, base, energy = _checked(experiment, allow_plugins)
        networks = {"base_parameters": count_parameters(base), "energy_parameters": count_parameters(energy)}
    validation = {} if dataset.validation is None else {"n_validation": len(dataset.validation)}
    return {
        "n_train": len(dataset.train),
        **validation,
        "n_held_out": len(dataset.held_out),
        "shape": list(dataset.shape),
        **networks,
        "memory_mb": {
            s: _memory(experiment, s, dataset, allow_plugins)
            for s in ("train-base", "train-energy")
            if trains(experiment, s)
        },
    }
