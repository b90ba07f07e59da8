"""`gebm flow`: particles that descend a divergence to the data, kept as a sample set of a run.

While it runs, the set is a hidden folder with `order.yaml` and the newest state; a stopped flow goes on from there, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.kernels import Kernel
from gebm_cli.core.particles.descents import Decoded, Descent, KaleDescent, MmdDescent, Point
from gebm_cli.core.particles.flow import FlowState, Noise
from gebm_cli.core.particles.flow import run as run_flow
from gebm_cli.core.two_sample.collections import described, kernel_of
from gebm_cli.errors import DivergedError, InterruptedRun, UsageError
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.continuing import OF_THE_BASE, differences
from gebm_cli.experiment.files import (
    folder_appears_whole,
    make_numbered,
    name_given_back,
    partial_folder,
    read_yaml,
    write_yaml,
)
from gebm_cli.experiment.flow_path import STAGE, STATE, FlowPath, load_state, moments_of, save_state, shown
from gebm_cli.experiment.flow_scene import Scene, build_scene, require_scene
from gebm_cli.experiment.plugins import require_allowed
from gebm_cli.experiment.run import Run, newest_run, open_run, provenance
from gebm_cli.experiment.sampleset import Writer
from gebm_cli.experiment.schema import Experiment, Flow
from gebm_cli.experiment.stages import start_run
from gebm_cli.experiment.stopping import stop_signals

ORDER = "order.yaml"
WHAT = {"mmd": "MMD² / 2", "kale": "KALE"}
MAY_CHANGE = ("n_steps", "step_size", "step_control")  # when a stopped flow goes on
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
        return {"run_path": str(self.run.path.resolve()), "seed": self.seed, "flow": self.keys.model_dump(mode="json")}

    @property
    def resume(self) -> str:
        return f"gebm flow --resume {self.out}"


def begin_flow(experiment: Experiment, chosen: Run | None, root: Path, allow_plugins: bool = False) -> FlowJob:
    """A new flow: in the chosen run, in latent space in the newest run of the experiment with a base, else in a new run.

    Raises:
        UsageError: keys that do not fit the data, no trained base for particles in latent space, or a run of other data.
    """
    keys = experiment.flow
    if keys.space == "latent":
        chosen = chosen or newest_run(root, "train-base", experiment.name)
        require_allowed(chosen.experiment, allow_plugins, f"{chosen.path / 'experiment.yaml'}: ")
        if not chosen.has("train-base"):
            raise UsageError(
                f"flow.space: latent: {chosen.path} has no trained base; run `gebm train-base {chosen.option}`, or use a run "
                "that has one"
            )
    if chosen is None:
        chosen = start_run(experiment, root, allow_plugins)[0]
    else:
        _require_same(chosen, experiment)
        require_scene(keys, build_dataset(chosen.experiment.data))
    seed = chosen.seed if experiment.seed is None else experiment.seed
    job = FlowJob(chosen, keys, seed, Path())
    _require_new(job)
    return replace(job, out=make_numbered(chosen.path / "samples", f"{keys.divergence}-flow"))


def _require_same(run: Run, experiment: Experiment) -> None:
    """An experiment file beside an existing run may differ from it in the flow alone."""
    parts = ("data", *OF_THE_BASE[2:]) if experiment.flow.space == "latent" else ("data",)
    found = [line for p in parts for line in differences(p, getattr(run.experiment, p), getattr(experiment, p))]
    if found:
        raise UsageError(
            f"{run.path}: has other settings than the experiment; give `{run.option}` without a file, or keys of `flow.` "
            "only:\n" + "\n".join(found)
        )


def _require_new(job: FlowJob) -> None:
    """The same keys and seed give the same particles."""
    for file in sorted((job.run.path / "samples").glob("[!.]*/sample.yaml")):
        had = read_yaml(file)
        if isinstance(had, dict) and had.get("flow") == job.to_dict()["flow"] and had.get("seed") == job.seed:
            raise UsageError(
                f"{file.parent}: is this very flow, with seed {job.seed}; give another --seed, or change a key of `flow.`"
            )


def read_flow(out: Path, overrides: Mapping[str, str]) -> FlowJob:
    """The flow that was stopped on its way to this set, with other steps where `overrides` ask for them.

    Raises:
        UsageError: there is nothing to go on with, or another key is asked for.
    """
    path = partial_folder(out) / ORDER
    if not path.is_file():
        what = (
            "is complete" if (out / "sample.yaml").is_file() else "is no flow that was begun, or nothing is left of it"
        )
        raise UsageError(f"--resume {out}: {what}; there is nothing to go on with")
    for key in overrides:
        if key not in MAY_CHANGE:
            names = ", ".join(f"flow.{name}" for name in MAY_CHANGE)
            raise UsageError(f"override 'flow.{key}': a flow that goes on may only change {names}")
    saved = read_yaml(path)
    in_a_run = (out.absolute().parent.parent / "record.yaml").is_file()
    try:
        run = open_run(out.parent.parent if in_a_run else Path(saved["run_path"]))
        job = FlowJob(run, Flow.model_validate({**saved["flow"], **overrides}), saved["seed"], out)
    except ValidationError as error:
        first = error.errors()[0]
        where = "flow." + ".".join(map(str, first["loc"])) if first["loc"] else "flow"
        raise UsageError(f"--resume {out}: {where}: got '{first['input']}': {first['msg']}") from None
    except (KeyError, TypeError):
        raise UsageError(f"{path}: does not describe a flow; remove {path.parent} and start the flow again") from None
    begun = load_state(path.parent, torch.device("cpu")) if "n_steps" in overrides else None
    if begun is not None and begun[0].step > job.keys.n_steps:
        raise UsageError(
            f"override 'flow.n_steps': {job.keys.n_steps} steps, but {begun[0].step} are done; give at least as many"
        )
    return job


# ------------------------------------------------------------------------------------------------------------ the flow


def go_on(job: FlowJob, device: torch.device, report: Report, allow_plugins: bool = False) -> dict[str, Any]:
    """Run a flow to its end from where it is, and write its set, which appears only when it is complete.

    Memory: the particles and the data as rows in their float type, some copies of both in blocks, one moment of the path; for an
    exact KALE three float64 matrices of data by data.

    Raises:
        InterruptedRun: a signal stopped it; what was done is kept and `gebm flow --resume` goes on.
        DivergedError: particles that are no longer finite; the last good state is kept, to go on from with smaller steps.
    """
    with name_given_back(job.out), job.run.session(STAGE, str(device)) as entry:
        try:
            with folder_appears_whole(job.out, keep=lambda folder, error: (folder / STATE).is_file()) as folder:
                write_yaml(folder / ORDER, job.to_dict())
                dataset = build_dataset(job.run.experiment.data)
                scene = build_scene(job.run, job.keys, job.seed, dataset, device, allow_plugins)
                kernel = kernel_of(job.keys.kernel, _bandwidths(job.keys), scene.target)
                state, path = _move(job, scene, _descent(job, scene, kernel), folder, report)
                entry["step"] = state.step
                told = _written(job, scene, kernel, state, path)
                entry["figures"] = dict(told["value"])
        except KeyboardInterrupt:
            raise InterruptedRun(f"stopped; what was done is kept: `{job.resume}` goes on") from None
        # Only now: had they gone before the folder took its name, a crash between would leave what cannot be gone on with.
        FlowPath(job.out).clear()
        for leftover in (ORDER, STATE):
            (job.out / leftover).unlink(missing_ok=True)
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
        descent = KaleDescent(KaleProblem(scene.target, kernel, keys.regularisation, keys.n_features, features))
    return descent if scene.decode is None else Decoded(descent, scene.decode)


def _move(job: FlowJob, scene: Scene, descent: Descent, folder: Path, report: Report) -> tuple[FlowState, FlowPath]:
    """The end of the flow and its path, from the saved state where there is one."""
    keys, moments = job.keys, moments_of(job.keys.n_steps, job.keys.n_frames)
    state, path = load_state(folder, scene.start.device) or (FlowState(scene.start, keys.step_size), FlowPath(folder))
    if keys.step_control == "fixed":
        state = replace(state, step_size=keys.step_size)
    write = job.run.metrics_writer(f"{STAGE}/{job.out.name}", state.step)
    saved = time.monotonic()

    def keep(state: FlowState, point: Point) -> None:
        path.add(state, point, keys.divergence == "kale")
        save_state(state, path)
        write(state.step, path.figures[-1])
        report(state.step, keys.n_steps, {keys.divergence: point.value, "step_size": state.step_size})

    with stop_signals() as stopped:

        def on_step(state: FlowState, point: Point) -> None:
            nonlocal saved
            if state.step in moments:
                keep(state, point)
            else:
                report(state.step, keys.n_steps, {})
            if stopped() or time.monotonic() - saved > SAVE_EVERY_S:
                save_state(state, path)
                saved = time.monotonic()
            if stopped() and state.step < keys.n_steps:
                raise InterruptedRun(f"stopped after {state.step} steps; `{job.resume}` goes on")

        if not path.steps:
            keep(state, descent.at(state.particles))
        noise = Noise(keys.noise_std, keys.noise_schedule, keys.n_steps) if keys.noise_std else None
        try:
            left = keys.n_steps - state.step
            state = run_flow(descent, state, left, keys.step_control, noise, job.seed, on_step)
        except DivergedError as error:
            again = f": `{job.resume} flow.step_size=...`" if "step size" in str(error) else ""
            raise DivergedError(f"{job.out}: {error}{again}") from None
    if path.steps[-1] != state.step:  # an end that was no moment of the flow as it was begun
        keep(state, descent.at(state.particles, state.start))
    return state, path


# ------------------------------------------------------------------------------------------------------------- the set


def _written(job: FlowJob, scene: Scene, kernel: Kernel, state: FlowState, path: FlowPath) -> dict[str, Any]:
    """Write particles, pictures and sample.yaml; returns what it says."""
    keys, stored = job.keys, scene.stored(state.particles)
    if scene.is_images or scene.decode is not None:
        writer = Writer(path.folder, False, 1000, len(stored))
        writer.add(state.particles[:, :0] if scene.decode is None else state.particles, stored)
        writer.close()
    else:
        np.savez(path.folder / "samples.npz", samples=stored.numpy())
    what, values = WHAT[keys.divergence], [f["value"] for f in path.figures]
    title = f"{job.run.name}: flow of {keys.n_particles} particles along {what}"
    apart, files = shown(scene, path, path.folder, job.seed, what, title)
    told = {
        "sampler": f"{keys.divergence}-flow",
        "run_path": str(job.run.path.resolve()),
        "seed": job.seed,
        "step": state.step,
        "time": state.time,
        "step_size": state.step_size,
        "what": what,
        "value": {"start": values[0], "end": values[-1]},
        "sliced_w1": apart,
        "n_particles": keys.n_particles,
        "n_data": len(scene.target),
        **described(kernel),
        **_certificate(path),
        "warnings": _warnings(job, path, values),
        "flow": keys.model_dump(mode="json"),
        **provenance(),
        "files": files,
    }
    write_yaml(path.folder / "sample.yaml", told)
    return told


def _certificate(path: FlowPath) -> dict[str, float]:
    gaps = [f["duality_gap"] for f in path.figures if "duality_gap" in f]
    return {"duality_gap": max(gaps)} if gaps else {}


def _warnings(job: FlowJob, path: FlowPath, values: list[float]) -> list[str]:
    """What whoever reads the result should know."""
    found, gaps = [], [f.get("duality_gap", 0.0) for f in path.figures]
    if not values[-1] < values[0]:
        found.append(
            "the divergence did not fall: the step size is too large, or the particles are at rest; use step_control: backtracking"
        )
    if any(not gap <= 1e-3 * max(abs(value), 1e-3) for gap, value in zip(gaps, values, strict=True)):
        found.append(
            "the dual of KALE was not solved everywhere on the path (see duality_gap); use a larger regularisation"
        )
    if path.figures[-1]["step_size"] == 0 or math.isclose(path.figures[-1]["time"], path.figures[-2]["time"]):
        found.append("no step lowers the divergence any more: the flow is at rest")
    if getattr(job.run.experiment.data, "whiten", "none") != "none" and job.keys.space == "data":
        found.append(
            "the particles are in the whitened coordinates of the table (data.whiten); none keeps those of the file"
        )
    return found
