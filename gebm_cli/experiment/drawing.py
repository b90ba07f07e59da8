"""`gebm sample`: draw from a run's base or GEBM, and write the sample set with its pictures, its verdict and its record.

The chains run as the items of `jobs`; the set is then put together from their files, block after block, by one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from torch import Tensor

from gebm_cli.core.data.dataset import is_images
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.sampling.chains import base_block, block_keeps
from gebm_cli.core.sampling.diagnostics import RatioMeter
from gebm_cli.errors import DivergedError, InterruptedRun, UsageError
from gebm_cli.experiment import sampleset, watching
from gebm_cli.experiment.build import Gebm, build_dataset, dataset_at_hand, load_gebm
from gebm_cli.experiment.curves import save_score_curves
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.files import folder_appears_whole, name_given_back, partial_folder, require_free, write_yaml
from gebm_cli.experiment.jobs import WATCHED, Jobs, NothingMoves, Order, require_same
from gebm_cli.experiment.kernel import Begin, Kernel, prepare, quietly
from gebm_cli.experiment.pictures import save_grid
from gebm_cli.experiment.run import Run, provenance
from gebm_cli.experiment.stopping import stop_signals
from gebm_cli.experiment.tracking import Scorer, cost_of, curve, tracked_steps


def draw(
    order: Order,
    device: torch.device,
    begin: Begin = quietly,
    warn: Callable[[str], None] = lambda message: None,
    allow_plugins: bool = False,
    scorer: Scorer | None = None,
    world: World = World(),  # noqa: B008
) -> dict[str, Any]:
    """Draw a sample set into `order.out`, which appears only when it is complete; returns what sample.yaml says.

    Memory: one block of chains with its draws, one batch of samples, all latents three times, and for an .npz the whole set.

    Args:
        begin: told of each piece of long work ahead, returns what is told of its progress.
        scorer: scores the chains along the way; for `track`.

    Raises:
        InterruptedRun: a signal stopped it; what was done is kept and `gebm sample --resume` goes on.
        DivergedError: every chain of a block met nothing but non-finite energies; its state is kept.
        GebmError: no proposal of a whole block was accepted.
    """
    require_free(order.out)
    if device.type != order.device_type:
        raise UsageError(
            f"{order.out}: was begun on {order.device_type}, and goes on there: --device {order.device_type}"
        )
    run, keys = order.run, order.keys
    with name_given_back(order.out):
        gebm = load_gebm(run, data_shape(run), device, keys.sampler != "none", allow_plugins)
        if keys.sampler == "none":
            return _draw_base(order, gebm, device, begin) if world.first else {}
        tell = warn if world.first else lambda message: None
        kernel = prepare(gebm, keys, order.seed, device, lambda: build_dataset(run.experiment.data), tell, begin)
        jobs = Jobs(order, kernel, gebm, device)
        if scorer is not None and world.first:
            _ = scorer.features  # what scoring lacks is said before the chains run, not after
        if world.first:
            require_same(order)
    ahead = begin("chains", "chain-steps", jobs.n_chain_steps(world))
    if not world.first:
        with stop_signals() as stopped:
            partial_folder(order.out).mkdir(parents=True, exist_ok=True)
            jobs.work(world, stopped, ahead)
        world.wait()
        return {}
    with folder_appears_whole(order.out, keep=_worth_keeping) as folder, _alone(folder):
        try:
            write_yaml(folder / "order.yaml", order.to_dict())
            with stop_signals() as stopped:
                jobs.work(world, stopped, ahead)
            world.wait()
            return _assemble(folder, jobs, scorer, begin, warn)
        except KeyboardInterrupt:
            raise InterruptedRun(f"stopped; the chains are kept: `gebm sample --resume {order.out}` goes on") from None


def _worth_keeping(folder: Path, error: BaseException) -> bool:
    """Chains that were run, or another process's folder (a UsageError says so), outlive any error but one that more of the same
    work cannot mend."""
    if isinstance(error, NothingMoves):
        return False
    return (
        isinstance(error, UsageError | InterruptedRun | DivergedError)
        or any(folder.glob("*.pt"))
        or any(folder.glob("*.partial"))
    )


def data_shape(run: Run) -> tuple[int, ...]:
    """The shape of one point of the run's data, as recorded, so that sampling does not need the data themselves."""
    return tuple(run.record().get("data_shape") or build_dataset(run.experiment.data).shape)


def _alone(folder: Path) -> AcquireReturnProxy:
    """The lock of a set that is being drawn, released when its block ends."""
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{folder}: another process is drawing this sample set") from None


# ------------------------------------------------------------------------------------------------------------- assembly


def _assemble(
    folder: Path, jobs: Jobs, scorer: Scorer | None, begin: Begin, warn: Callable[[str], None]
) -> dict[str, Any]:
    """The sample set from the files of its items; they go when it is written."""
    order, kernel = jobs.order, jobs.kernel
    writer = sampleset.Writer(folder, order.as_npz, order.keys.batch_size, order.keys.n_samples)
    found, started = Found(kernel.plan.n_steps), torch.empty(0)
    for item, keep in zip(jobs.items, jobs.keeps, strict=False):
        saved = jobs.read(jobs.path(item))
        found.add(saved, keep)
        for z in saved["job"]["draws"]:
            z = z.to(jobs.device)
            writer.add(z[:keep], sampleset.decode(jobs.gebm, z)[:keep])
            found.energies.append(kernel.potential.energy_at(z)[:keep].cpu())
            # A long chain's start says nothing of the base: many samples share it.
            if kernel.mode == "refine" and len(started) < len(writer.first):
                begun = sampleset.decode(jobs.gebm, saved["job"]["start"].to(jobs.device))[:keep]
                started = torch.cat([started, begun]) if len(started) else begun
    writer.close()
    described = _heading(order, jobs.device) | kernel.describe() | found.describe(kernel)
    first = jobs.read(jobs.path(jobs.items[0]))["job"]
    film = sampleset.frame_steps(kernel.plan.n_steps)
    kept = [
        (step, z.to(jobs.device)) for step, z in zip(jobs.frames_of(0), first["frames"], strict=True) if step in film
    ]
    beside = started[: len(writer.first)] if kernel.mode == "refine" else None
    save_grid(folder / "grid.png", writer.first, beside)
    sampleset.chain_pictures(folder, jobs.gebm, kernel.potential, jobs.keeps[0], kept)
    sampleset.extremes_picture(folder, writer.first, torch.cat(found.energies)[: len(writer.first)])
    if jobs.items[-1] == WATCHED:
        described |= _watched(folder, jobs)
    if scorer is not None:
        described["track"] = scorer.describe() | {"scores": _track(folder, jobs, scorer, found.seconds, begin)}
    training = dataset_at_hand(order.run.experiment)
    at_hand = None if isinstance(training, str) else training
    sampleset.keep_shown(folder, jobs.gebm, kept, jobs.keeps[0], torch.cat(found.energies), at_hand, order.seed)
    if is_images(writer.first):
        if isinstance(training, str):
            warn(f"nearest.png is left out: {training}")
        elif isinstance(training.train, LazyImages) and len(training.train) > sampleset.MOST_DECODED:
            warn(f"nearest.png is left out: {len(training.train)} training images would have to be decoded for it")
        else:
            described["nearest_training_distance"] = sampleset.nearest_picture(folder, writer.first, training)
    gone = found.diverged()
    if gone is not None:
        described |= {"verdict": gone, "mixed": False}
        warn(gone)
    described |= provenance() | {"argv": order.argv}
    write_yaml(folder / "sample.yaml", described)
    for item in jobs.items:
        jobs.path(item).unlink()
    for name in ("order.yaml", ".lock"):
        (folder / name).unlink(missing_ok=True)
    return described


def _watched(folder: Path, jobs: Jobs) -> dict[str, Any]:
    """trace.png, the bias meter and the verdict, from the watched chains."""
    kernel, saved = jobs.kernel, jobs.read(jobs.path(WATCHED))
    job = jobs.start(WATCHED)
    assert isinstance(job, watching.Watched)
    job.load_state_dict(saved["job"])
    title = f"{kernel.entry.name}, beta {float(kernel.potential.beta):g}"
    if kernel.entry.unit:
        title += f", {kernel.entry.unit} {kernel.tuned.sampler.step_size:.3g}"
    d = job.block.start[0].numel()
    sampleset.trace_picture(folder, job.records, d, kernel.plan.n_steps, kernel.n_warmup, title)
    judged = watching.judge(kernel, watching.traces(job.records), saved["seconds"])
    bias = watching.measure_bias(kernel, job.block, jobs.order.seed)
    return judged if bias is None else judged | {"bias_of_step": bias}


def _track(folder: Path, jobs: Jobs, scorer: Scorer, seconds: float, begin: Begin) -> list[dict[str, Any]]:
    """track.png, and the scores at each tracked step."""
    plan, sampler = jobs.kernel.plan, jobs.kernel.sampler
    on_samples = begin("scores", "samples", sum(jobs.keeps) * len(tracked_steps(plan.n_steps)))

    def frames(i: int) -> Iterator[Tensor]:
        step = tracked_steps(plan.n_steps)[i]
        for index, keep in enumerate(jobs.keeps):
            saved = jobs.read(jobs.path(jobs.items[index]))["job"]["frames"]
            z = saved[jobs.frames_of(index).index(step)].to(jobs.device)
            yield sampleset.decode(jobs.gebm, z)[:keep]
            on_samples(keep)

    def cost(step: int) -> tuple[float, float]:
        gradients = cost_of(step, sampler.gradients_per_step, sampler.values_per_step)
        return gradients, round(seconds * step / plan.n_steps, 3)

    points = curve(scorer, tracked_steps(plan.n_steps), frames, cost)
    save_score_curves(folder / "track.png", {jobs.kernel.entry.name: points})
    return points


class Found:
    """What the blocks of a set told, block after block."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps
        self.sums: dict[str, Tensor] = {}
        self.ratios = RatioMeter()
        self.chains = self.stuck = 0
        self.seconds = 0.0
        self.energies: list[Tensor] = []
        self.ends: list[tuple[Tensor, Tensor]] = []
        self.finished = 0.0

    def add(self, saved: dict[str, Any], keep: int) -> None:
        job = saved["job"]
        for name, value in job["tally"].items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.ratios = self.ratios.merge(RatioMeter(job["ratios"]))
        self.chains += keep
        self.stuck += int(job["stuck"][:keep].sum())
        self.seconds += saved["seconds"]
        self.ends.append((job["start"][:keep], job["draws"][-1][:keep]))
        memory = job["state"].get("memory")
        if memory is not None and memory.dtype == torch.bool and memory.dim() == 1:
            self.finished += float(memory[:keep].sum())

    def diverged(self) -> str | None:
        """A verdict that comes before any on mixing: chains that left for infinity are no samples, however plausible they look."""
        start, end = (torch.cat(z).double().square().mean().sqrt().item() for z in zip(*self.ends, strict=True))
        if 2 * self.stuck <= self.chains and end <= 5 * start:
            return None
        return (
            f"diverged: {self.stuck} of {self.chains} chains ended at energies that are not finite, and latents became "
            f"{end / start:.3g} times as long; do not use these samples; take --step-size auto or a smaller beta"
        )

    def describe(self, kernel: Kernel) -> dict[str, Any]:
        steps = self.chains * self.n_steps
        energies = torch.cat(self.energies)
        described: dict[str, Any] = {
            "acceptance": round(float(self.sums["accepted"]) / steps, 4),
            "nonfinite_steps": int(self.sums["nonfinite"]),
            "stuck_chains": self.stuck,
            "mean_energy": round(energies[torch.isfinite(energies)].mean().item(), 5),
            "correlation_with_start": round(_correlation(*map(torch.cat, zip(*self.ends, strict=True))), 4),
            "seconds": round(self.seconds, 2),
        }
        if "swaps" in self.sums:
            described["swap_rates"] = [round(float(s) / steps, 4) for s in self.sums["swaps"]]
            described["arrivals_per_chain"] = round(float(self.sums["arrivals"]) / self.chains, 3)
        if kernel.entry.name == "drs":
            described["accepted_chains"] = round(self.finished / self.chains, 4)
        ratios = self.ratios.finish()
        if ratios.n:
            described["mean_exp_log_ratio"] = {"value": ratios.mean_exp, "standard_error": ratios.mean_exp_error}
            described["balance"] = {"value": ratios.balance, "standard_error": ratios.balance_error}
        return described


def _correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation over all coordinates: near 1 after a short refinement, near 0 when chains forgot their start."""
    if x.numel() < 2:
        return 1.0
    return float(torch.corrcoef(torch.stack([x.flatten().double(), y.flatten().double()]))[0, 1])


def _heading(order: Order, device: torch.device) -> dict[str, Any]:
    return {
        "run": order.run.name,
        "run_path": str(order.run.path.resolve()),
        "sampler": order.keys.sampler,
        "n_samples": order.keys.n_samples,
        "seed": order.seed,
        "block_size": order.keys.block_size,
        "device": str(device),
    }


# ----------------------------------------------------------------------------------------------------------------- base


def _draw_base(order: Order, gebm: Gebm, device: torch.device, begin: Begin) -> dict[str, Any]:
    keys = order.keys
    keeps = block_keeps(keys.n_samples, keys.block_size)
    on_steps = begin("base", "samples", len(keeps) * keys.block_size)
    with folder_appears_whole(order.out) as folder:
        writer = sampleset.Writer(folder, order.as_npz, keys.batch_size, keys.n_samples)
        for z, keep in _base_draws(order, gebm, keeps, device):
            writer.add(z[:keep], sampleset.decode(gebm, z)[:keep])
            on_steps(len(z))
        writer.close()
        save_grid(folder / "grid.png", writer.first)
        described = _heading(order, device) | provenance()
        write_yaml(folder / "sample.yaml", described)
    return described


def _base_draws(order: Order, gebm: Gebm, keeps: list[int], device: torch.device) -> Iterator[tuple[Tensor, int]]:
    for block, keep in enumerate(keeps):
        yield base_block(gebm.prior, order.keys.block_size, order.seed, block, device), keep
