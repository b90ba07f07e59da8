"""`gebm flow`: particles that descend a divergence to the data, kept as a sample set of a run.

While it runs, the set is a hidden folder with `order.yaml` and the newest state; a stopped flow goes on from there, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.data.dataset import is_images
from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.divergences.transport import sliced_wasserstein1
from gebm_cli.core.kernels import Kernel
from gebm_cli.core.particles.descents import Decoded, Descent, KaleDescent, MmdDescent, Point
from gebm_cli.core.particles.flow import FlowState, Noise
from gebm_cli.core.particles.flow import run as run_flow
from gebm_cli.core.two_sample.collections import described, kernel_of
from gebm_cli.errors import InterruptedRun, UsageError
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.checkpoint import load_checkpoint, write_checkpoint
from gebm_cli.experiment.files import (
    folder_appears_whole,
    make_numbered,
    name_given_back,
    partial_folder,
    read_yaml,
    write_yaml,
)
from gebm_cli.experiment.flow_pictures import Curve, Frame, save_film, save_flow
from gebm_cli.experiment.flow_scene import Scene, build_scene
from gebm_cli.experiment.pictures import save_chain, save_grid
from gebm_cli.experiment.plugins import require_allowed
from gebm_cli.experiment.run import Run, newest_run, open_run, provenance
from gebm_cli.experiment.sampleset import Writer
from gebm_cli.experiment.schema import Experiment, Flow
from gebm_cli.experiment.stages import start_run
from gebm_cli.experiment.stopping import stop_signals

STAGE, STATE = "flow", "state.pt"
WHAT = {"mmd": "MMD² / 2", "kale": "KALE"}
N_PICTURED = 100  # images of a frame
SAVE_EVERY_S = 30.0

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class FlowJob:
    """Which particles flow, in which run, and where the set goes: all that a stopped flow needs to go on."""

    run: Run
    keys: Flow
    seed: int
    out: Path

    def to_dict(self) -> dict[str, Any]:
        return {
            "run_path": str(self.run.path.resolve()),
            "seed": self.seed,
            "flow": self.keys.model_dump(mode="json"),
        }


def begin_flow(experiment: Experiment, chosen: Run | None, root: Path, allow_plugins: bool = False) -> FlowJob:
    """A new flow: in the chosen run, in latent space in the newest run of the experiment with a base, else in a new run.

    Raises:
        UsageError: keys that do not fit the data, or no trained base for particles in latent space.
    """
    keys = experiment.flow
    if keys.space == "latent":
        chosen = chosen or newest_run(root, "train-base", experiment.name)
        require_allowed(chosen.experiment, allow_plugins, f"{chosen.path / 'experiment.yaml'}: ")
        if not chosen.has("train-base"):
            raise UsageError(
                f"flow.space: latent: {chosen.path} has no trained base; run `gebm train-base --run {chosen.name}`, or use a run "
                "that has one"
            )
    if chosen is None:
        chosen = start_run(experiment, root, allow_plugins)[0]
    seed = chosen.seed if experiment.seed is None else experiment.seed
    return FlowJob(chosen, keys, seed, make_numbered(chosen.path / "samples", f"{keys.divergence}-flow"))


def read_flow(out: Path) -> FlowJob:
    """The flow that was stopped on its way to this set.

    Raises:
        UsageError: there is nothing to go on with.
    """
    path = partial_folder(out) / "order.yaml"
    saved = read_yaml(path) if path.is_file() else {}
    if "flow" not in saved:
        what = (
            "is complete" if (out / "sample.yaml").is_file() else "is no flow that was begun, or nothing of it is left"
        )
        raise UsageError(f"--resume {out}: {what}; there is nothing to go on with")
    return FlowJob(open_run(Path(saved["run_path"])), Flow(**saved["flow"]), saved["seed"], out)


# ------------------------------------------------------------------------------------------------------------ the flow


@dataclass
class Travelled:
    """What is kept of the way: frames (step, particles), and the divergence, its solver's gap and the step size at each."""

    frames: list[Frame] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)

    def add(self, state: FlowState, point: Point) -> None:
        solution = getattr(point, "solution", getattr(getattr(point, "inner", None), "solution", None))
        gap = {} if solution is None else {"duality_gap": float(solution.duality_gap)}
        figures = {"value": point.value, "step_size": state.step_size, "time": state.time, **gap}
        self.frames.append((state.step, state.particles.cpu()))
        self.values.append(figures)


def go_on(job: FlowJob, device: torch.device, report: Report, allow_plugins: bool = False) -> dict[str, Any]:
    """Run a flow to its end from where it is, and write its set, which appears only when it is complete.

    Memory: the particles and the data as rows, blocks of the kernel, `n_frames` times the particles; for an exact KALE three
    matrices of data by data.

    Raises:
        InterruptedRun: a signal stopped it; what was done is kept and `gebm flow --resume` goes on.
        DivergedError: particles that are no longer finite; the last good state is kept.
    """
    with job.run.session(STAGE, str(device)) as entry, name_given_back(job.out):
        with folder_appears_whole(job.out, keep=lambda folder, error: (folder / STATE).is_file()) as folder:
            write_yaml(folder / "order.yaml", job.to_dict())
            dataset = build_dataset(job.run.experiment.data)
            scene = build_scene(job.run, job.keys, job.seed, dataset, device, allow_plugins)
            kernel = kernel_of(job.keys.kernel, _bandwidths(job.keys), scene.target)
            state, path = _move(job, scene, _descent(job, scene, kernel), folder, report)
            entry["step"] = state.step
            told = _written(job, scene, kernel, state, path, folder, dataset.is_images)
            entry["figures"] = {k: told["value"][k] for k in ("start", "end")}
            for leftover in ("order.yaml", STATE):
                (folder / leftover).unlink(missing_ok=True)
    return {"out": str(job.out), "run": job.run.name, **told}


def _bandwidths(keys: Flow) -> tuple[float, ...]:
    width = keys.bandwidth
    return () if width is None else width if isinstance(width, tuple) else (width,)


def _descent(job: FlowJob, scene: Scene, kernel: Kernel) -> Descent:
    keys = job.keys
    descent: Descent
    if keys.divergence == "mmd":
        descent = MmdDescent(scene.target, kernel)
    else:
        features = make_generator(job.seed, "flow", "features")
        try:
            problem = KaleProblem(scene.target, kernel, keys.regularisation, keys.n_features, features)
        except ValueError as error:
            raise UsageError(f"flow.n_data: {error}; set flow.n_features or a smaller flow.n_data") from None
        descent = KaleDescent(problem)
    return descent if scene.decode is None else Decoded(descent, scene.decode)


def frame_steps(keys: Flow) -> set[int]:
    """Steps at which the path is kept: denser at the start, where particles move most, and both ends."""
    return set(np.round(np.linspace(0, 1, keys.n_frames) ** 2 * keys.n_steps).astype(int).tolist())


def _move(job: FlowJob, scene: Scene, descent: Descent, folder: Path, report: Report) -> tuple[FlowState, Travelled]:
    """The end of the flow and its path, from the saved state where there is one."""
    keys, moments = job.keys, frame_steps(job.keys)
    state, path = _saved(folder, scene.start.device) or (FlowState(scene.start, keys.step_size), Travelled())
    write = job.run.metrics_writer(STAGE, state.step)
    saved = time.monotonic()

    def keep(state: FlowState, point: Point) -> None:
        path.add(state, point)
        write(state.step, path.values[-1])
        report(state.step, keys.n_steps, {keys.divergence: point.value, "step_size": state.step_size})

    with stop_signals() as stopped:

        def on_step(state: FlowState, point: Point) -> None:
            nonlocal saved
            if state.step in moments:
                keep(state, point)
            else:
                report(state.step, keys.n_steps, {})
            if stopped() or time.monotonic() - saved > SAVE_EVERY_S:
                _save(folder, state, path)
                saved = time.monotonic()
            if stopped() and state.step < keys.n_steps:
                raise InterruptedRun(f"stopped after {state.step} steps; `gebm flow --resume {job.out}` goes on")

        if not path.frames:
            keep(state, descent.at(state.particles))
            _save(folder, state, path)
        noise = Noise(keys.noise_std, keys.noise_schedule, keys.n_steps) if keys.noise_std else None
        left = keys.n_steps - state.step
        return run_flow(descent, state, left, keys.step_control, noise, job.seed, on_step), path


def _save(folder: Path, state: FlowState, path: Travelled) -> None:
    steps, particles = zip(*path.frames, strict=True)
    saved = {"state": state.pack(), "steps": list(steps), "particles": torch.stack(particles), "values": path.values}
    write_checkpoint(folder / STATE, STAGE, state.step, saved)


def _saved(folder: Path, device: torch.device) -> tuple[FlowState, Travelled] | None:
    if not (folder / STATE).is_file():
        return None
    saved = load_checkpoint(folder / STATE, STAGE)
    packed = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in saved["state"].items()}
    return FlowState.unpack(packed), Travelled(
        list(zip(saved["steps"], saved["particles"], strict=True)), saved["values"]
    )


# ------------------------------------------------------------------------------------------------------------- the set


def _written(
    job: FlowJob, scene: Scene, kernel: Kernel, state: FlowState, path: Travelled, folder: Path, images: bool
) -> dict[str, Any]:
    """Write particles, pictures and sample.yaml; returns what it says."""
    keys, stored = job.keys, scene.stored(state.particles)
    if images or scene.decode is not None:
        writer = Writer(folder, False, 1000, len(stored))
        writer.add(state.particles, stored)
        writer.close()
    else:
        np.savez(folder / "samples.npz", samples=stored.numpy())
    values = [v["value"] for v in path.values]
    apart = _apart(job, scene, path)
    told = {
        "sampler": f"{keys.divergence}-flow",
        "run_path": str(job.run.path.resolve()),
        "seed": job.seed,
        "step": state.step,
        "time": state.time,
        "step_size": state.step_size,
        "what": WHAT[keys.divergence],
        "value": {"start": values[0], "end": values[-1]},
        "sliced_w1": apart,
        "n_particles": keys.n_particles,
        "n_data": len(scene.target),
        **described(kernel),
        **_certificate(path),
        "flow": keys.model_dump(mode="json"),
        **provenance(),
    }
    told["files"] = _pictures(job, scene, path, folder, apart["curve"], is_images(stored))
    write_yaml(folder / "sample.yaml", told)
    return told


def _certificate(path: Travelled) -> dict[str, float]:
    gaps = [v["duality_gap"] for v in path.values if "duality_gap" in v]
    return {"duality_gap": max(gaps)} if gaps else {}


def _apart(job: FlowJob, scene: Scene, path: Travelled) -> dict[str, Any]:
    """Sliced W1 of the particles to held-out data along the path: another divergence, and other data, than those descended."""

    def to_held_out(rows: Tensor) -> tuple[float, float]:
        found = sliced_wasserstein1(rows, scene.held_out, make_generator(job.seed, "flow", "directions"))
        return found.value, found.standard_error

    device = scene.target.device
    curve = [(step, *to_held_out(scene.rows(particles.to(device)))) for step, particles in path.frames]
    return {
        "start": curve[0][1],
        "end": curve[-1][1],
        "standard_error": curve[-1][2],
        "data": to_held_out(scene.target)[0],
        "curve": [list(point) for point in curve],
    }


def _pictures(job: FlowJob, scene: Scene, path: Travelled, folder: Path, apart: list[Any], images: bool) -> list[str]:
    """flow.gif and flow.png, and of images a grid beside where the same particles started."""
    name = WHAT[job.keys.divergence]
    nan = float("nan")
    value: Curve = [(step, v["value"], nan) for (step, _), v in zip(path.frames, path.values, strict=True)]
    curves = {f"{name}, which is descended": value, "sliced W1 to held-out data": [tuple(p) for p in apart]}
    device = scene.target.device
    rows = [(step, scene.rows(p.to(device)).cpu()) for step, p in path.frames]
    title = f"{job.run.name}: flow of {job.keys.n_particles} particles along {name}"
    save_flow(folder / "flow.png", rows, scene.target.cpu(), curves, title)
    if not images:
        save_film(folder / "flow.gif", rows, scene.target.cpu())
        return ["flow.png", "flow.gif"]
    shown = [(step, scene.stored(p.to(device)[:N_PICTURED])) for step, p in path.frames]
    save_chain(folder / "flow.gif", shown)
    save_grid(folder / "grid.png", shown[-1][1], shown[0][1])
    return ["flow.png", "flow.gif", "grid.png"]
