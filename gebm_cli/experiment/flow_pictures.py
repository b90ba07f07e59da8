"""The pictures of a flow of particles: a film of the particles over the data, and the divergence against the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gebm_cli.experiment.curves import COLOURS
from gebm_cli.experiment.pictures import FRAME_MS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_POINTS = 2000
N_STAGES = 4  # moments of the path that flow.png shows
TARGET, PARTICLES = "0.72", COLOURS[0]

Frame = tuple[int, Tensor]
Curve = list[tuple[int, float]]
"""(step, value) at moments of the path."""

DIRECTIONS = "first principal direction", "second principal direction"


def save_film(path: Path, frames: list[Frame], target: Tensor, directions: bool = False) -> None:
    """An animation of the particles (n, 1 or 2) over the target (m, 1 or 2); `directions` where `plane_of` turned them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits, pictures = _limits([target, *(particles for _, particles in frames)]), []
    for step, particles in frames:
        figure = Figure(figsize=(5, 5.2), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        _cloud(axes, particles, target, limits, f"step {step}", directions)
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, markerscale=2
        )
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy()))
    first, *rest = pictures
    durations = [FRAME_MS] * len(rest) + [10 * FRAME_MS]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def save_flow(
    path: Path,
    frames: list[Frame],
    target: Tensor,
    curves: dict[str, tuple[Curve, float | None]],
    title: str,
    directions: bool = False,
) -> None:
    """The particles at four moments over the target, and under them each curve against the step, with the level of as many
    training points where it is known."""
    from matplotlib.figure import Figure

    chosen = np.unique(np.geomspace(1, len(frames), min(N_STAGES, len(frames))).round().astype(int) - 1).tolist()
    limits = _limits([target, *(frames[k][1] for k in chosen)])
    figure = Figure(figsize=(3.2 * N_STAGES, 6.6), dpi=110, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.15, 1.0])
    halves[0].suptitle(title)
    panels = np.atleast_1d(halves[0].subplots(1, len(chosen)))
    for axes, k in zip(panels, chosen, strict=True):
        _cloud(axes, frames[k][1], target, limits, f"step {frames[k][0]}", directions)
    handles, labels = panels[0].get_legend_handles_labels()
    halves[0].legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, markerscale=2)
    for axes, (name, (curve, level)) in zip(
        np.atleast_1d(halves[1].subplots(1, len(curves))), curves.items(), strict=True
    ):
        _curve(axes, name, curve, level)
    figure.savefig(path)


def plane_of(target: Tensor) -> Callable[[Tensor], Tensor]:
    """Points (n, d) as they are for d <= 2; else along the two directions in which the target varies most, (n, 2)."""
    if target.shape[1] <= 2:
        return lambda points: points.double().cpu()
    centre = target.double().cpu().mean(0)
    directions = torch.linalg.svd(target[:N_POINTS].double().cpu() - centre, full_matrices=False).Vh[:2]
    return lambda points: (points.double().cpu() - centre) @ directions.T


def _limits(clouds: list[Tensor]) -> list[tuple[float, float]]:
    """Of each axis, over the finite points of all clouds, square where there are two."""
    points = torch.cat(clouds)
    points = points[points.isfinite().all(1)]
    low, high = points.amin(0), points.amax(0)
    half = float((high - low).max()) * 0.54 or 1.0
    return [(float(c) - half, float(c) + half) for c in (low + high) / 2]


def _cloud(
    axes: Axes, particles: Tensor, target: Tensor, limits: list[tuple[float, float]], title: str, directions: bool
) -> None:
    axes.set(xlim=limits[0])
    axes.text(0.03, 0.97, title, transform=axes.transAxes, va="top", fontsize="large")
    if particles.shape[1] == 1:
        bins: Any = np.linspace(*limits[0], 60)
        axes.hist(target[:, 0].numpy(), bins, density=True, color=TARGET, label="data")
        axes.hist(particles[:, 0].numpy(), bins, density=True, histtype="step", color=PARTICLES, label="particles")
        return
    for points, colour, size, name in ((target, TARGET, 9, "data"), (particles, PARTICLES, 7, "particles")):
        across, up = points[:: max(1, math.ceil(len(points) / N_POINTS))].T.numpy()
        axes.scatter(across, up, s=size, color=colour, linewidths=0, alpha=0.9, label=name)
    axes.set(ylim=limits[1], aspect="equal")
    if directions:
        axes.set(xlabel=DIRECTIONS[0], ylabel=DIRECTIONS[1])


def _curve(axes: Axes, name: str, curve: Curve, level: float | None) -> None:
    """Values against the step, on a log scale where all are positive."""
    from matplotlib.ticker import LogLocator, NullFormatter

    steps, values = (np.array(column, dtype=float) for column in zip(*curve, strict=True))
    positive = bool((values[np.isfinite(values)] > 0).all())
    axes.plot(steps, values, color=PARTICLES, marker="o" if len(steps) < 60 else "", markersize=3)
    if level is not None:
        axes.axhline(level, color="0.3", linewidth=1, linestyle="--", label="as many training points")
        axes.legend(frameon=False)
        values = np.append(values, level)
    axes.set(xlabel="step", ylabel=name, yscale="log" if positive and values.min() > 0 else "linear")
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axes.yaxis.set_minor_formatter("{x:g}" if values.max() < 50 * values.min() else NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
