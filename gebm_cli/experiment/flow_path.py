"""The path of a flow: moments of it on the disk, and what they show, one moment in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.transport import sliced_wasserstein1
from gebm_cli.core.particles.descents import Point
from gebm_cli.core.particles.flow import FlowState
from gebm_cli.errors import GebmError
from gebm_cli.experiment.checkpoint import load_checkpoint, write_checkpoint
from gebm_cli.experiment.files import write_atomically
from gebm_cli.experiment.flow_pictures import Curve, Frame, plane_of, save_film, save_flow
from gebm_cli.experiment.flow_scene import Scene
from gebm_cli.experiment.pictures import save_chain, save_grid

STAGE, STATE = "flow", "state.pt"
N_PICTURED = 100  # images of a moment
MOST_HELD_OUT = 5000
N_REFERENCES = 8  # sets of training points that the particles are compared with

Report = Callable[[int, int, dict[str, float]], None]


@dataclass
class FlowPath:
    """Steps at which the particles were kept, each a file in `folder`, and the figures of each."""

    folder: Path
    steps: list[int] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)

    def add(self, state: FlowState, point: Point, is_kale: bool) -> None:
        """Keep this moment."""
        buffer = io.BytesIO()
        np.save(buffer, state.particles.cpu().numpy())
        write_atomically(self._file(state.step), buffer.getvalue())
        gap = {"duality_gap": point.gap} if is_kale else {}
        self.steps.append(state.step)
        self.figures.append({"value": point.value, "step_size": state.step_size, "time": state.time, **gap})

    def particles(self) -> Iterator[tuple[int, Tensor]]:
        """(step, particles) of each moment, on the CPU."""
        for step in self.steps:
            yield step, torch.from_numpy(np.load(self._file(step)))

    def clear(self) -> None:
        """Delete the moments' files."""
        for file in self.folder.glob("moment_*.npy"):
            file.unlink()

    def _file(self, step: int) -> Path:
        return self.folder / f"moment_{step:08d}.npy"


def moments_of(n_steps: int, count: int) -> set[int]:
    """Steps at which the path is kept: denser at the start, where particles move most, and both ends."""
    return set(np.round(np.linspace(0, 1, count) ** 2 * n_steps).astype(int).tolist())


def save_state(state: FlowState, path: FlowPath) -> None:
    """The newest state, from which a stopped flow goes on."""
    saved = {"state": state.pack(), "steps": path.steps, "figures": path.figures}
    write_checkpoint(path.folder / STATE, STAGE, state.step, saved)


def load_state(folder: Path, device: torch.device) -> tuple[FlowState, FlowPath] | None:
    """What `save_state` wrote, None where nothing was.

    Raises:
        GebmError: it is damaged.
    """
    if not (folder / STATE).is_file():
        return None
    try:
        saved = load_checkpoint(folder / STATE, STAGE)
    except GebmError as error:
        what = str(error).partition(";")[0]
        raise GebmError(f"{what}; remove the folder and start the flow again") from None
    packed = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in saved["state"].items()}
    return FlowState.unpack(packed), FlowPath(folder, saved["steps"], saved["figures"])


# ------------------------------------------------------------------------------------------------------- what it shows


def shown(
    scene: Scene, path: FlowPath, folder: Path, seed: int, what: str, title: str
) -> tuple[dict[str, Any] | None, list[str]]:
    """Draw the path into `folder`; returns the distance to held-out data along it, and the names of the pictures.

    The distance is the sliced W1, another divergence and other data than those that are descended, in the same directions at every
    moment. Its bias depends on how many points there are, so it stands beside that of as many training points.
    """
    far = _Far(scene, seed)
    onto, device = plane_of(scene.target), scene.target.device
    flat: list[Frame] = []
    curve: Curve = []
    for step, particles in path.particles():
        rows = scene.rows(particles.to(device))
        flat.append((step, onto(rows)))
        if far.held_out is not None:
            curve.append((step, far.of(rows)))
    value: Curve = [(step, f["value"]) for step, f in zip(path.steps, path.figures, strict=True)]
    curves: dict[str, tuple[Curve, float | None]] = {f"{what}, which is descended": (value, None)}
    apart: dict[str, Any] | None = None
    if curve:
        apart = {
            "start": curve[0][1],
            "end": curve[-1][1],
            **far.of_training_points(),
            "curve": [list(p) for p in curve],
        }
        curves["sliced W1 to held-out data"] = curve, apart["data"]
    target = onto(scene.target)
    directions = scene.target.shape[1] > 2
    save_flow(folder / "flow.png", flat, target, curves, title, directions)
    if not scene.is_images:
        save_film(folder / "flow.gif", flat, target, directions)
        return apart, ["flow.png", "flow.gif"]
    images = [(step, scene.stored(particles[:N_PICTURED].to(device))) for step, particles in path.particles()]
    save_chain(folder / "flow.gif", images)
    save_grid(folder / "grid.png", images[-1][1], images[0][1])
    return apart, ["flow.png", "flow.gif", "grid.png"]


class _Far:
    """Sliced W1 to held-out data, in fixed directions."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.held_out, self._scene, self._seed = scene.held_out, scene, seed
        if self.held_out is not None:
            self.held_out = self.held_out[:MOST_HELD_OUT]

    def of(self, rows: Tensor) -> float:
        assert self.held_out is not None
        return sliced_wasserstein1(rows, self.held_out, make_generator(self._seed, "flow", "directions")).value

    def of_training_points(self) -> dict[str, float | int]:
        """The mean over sets of as many training points as there are particles, or of all where they are fewer."""
        n = min(len(self._scene.start), len(self._scene.target))
        sets = [part for part in self._scene.target.split(n) if len(part) == n][:N_REFERENCES]
        return {"data": sum(self.of(part) for part in sets) / len(sets), "n_points_of_data": n}
