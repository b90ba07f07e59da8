"""The slides' two examples in the plane: a base with the right support and the wrong mass, and one with the wrong support.

    python tests/benchmarks/slides_2d.py [--seeds 0 1 2 3 4] [--out docs/images/slides_2d.png]

Each experiment runs in a temporary folder of runs as its commands would run it. Printed, before (base samples) and after (GEBM
samples), always against the same held-out points and with one Gaussian kernel, whose bandwidth is the median distance of these
points: KALE in the kernel's RKHS, the unbiased MMD^2, its permutation test, and the mean distance from the circle; beside them the
same of other held-out points, KALE by the trained energy, and the relative test; at the end means and standard errors over seeds.
The picture is of the first seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import KaleProblem, KaleSolution
from gebm_cli.core.kernels import Gaussian, median_bandwidth
from gebm_cli.core.mmd import Estimate, mmd2, relative_mmd2
from gebm_cli.core.two_sample.aggregation import kernel_test
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.drawing import draw
from gebm_cli.experiment.jobs import Order
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.stages import start_run, train

EXPERIMENTS = {
    "thin-manifold": "right support, wrong mass",
    "thin-manifold-wrong-support": "wrong support",
}
FOLDER = Path(__file__).parents[2] / "experiments"
CPU = torch.device("cpu")
LIMIT = 1.8
N_PERMUTATIONS = 999
REGULARISATIONS = (1e-3, 0.1)  # of KALE: near KL, and smooth


@dataclass(frozen=True)
class Example:
    data: Tensor
    others: Tensor  # more of the data, for what is left when nothing differs
    base: Tensor
    gebm: Tensor
    energy: Tensor  # E + c on the grid
    shown: tuple[float, float]  # E + c of nearly all of the data and of the base samples lies between
    kale: float  # by the trained energy, of all held-out points
    kale_error: float


@dataclass(frozen=True)
class Side:
    """Samples against the held-out points."""

    mmd2: Estimate
    p: float
    kales: list[KaleSolution]  # for each of REGULARISATIONS
    away: float


def grid(n: int = 120) -> tuple[Tensor, Tensor]:
    """The coordinates of the energy's map, and its points (n * n, 2)."""
    line = torch.linspace(-LIMIT, LIMIT, n)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return line, torch.stack([x.flatten(), y.flatten()], 1)


def example(name: str, seed: int, root: Path) -> Example:
    """Both stages, base samples and GEBM samples, through the functions behind the commands."""
    experiment = load_experiment(FOLDER / f"{name}.yaml", [f"seed={seed}", "sample.diagnose=false"])
    run, dataset = start_run(experiment, root)
    for stage in (["train-base"] if experiment.trains_base else []) + ["train-energy"]:
        figures = train(run, stage, CPU, dataset, lambda step, total, found: None)
    sets = []
    for sampler in ("none", experiment.sample.sampler):
        out = run.path / "samples" / sampler
        keys = experiment.sample.model_copy(update={"sampler": sampler})
        draw(Order(run, keys, seed, out, as_npz=True), CPU)
        with np.load(out / "samples.npz") as archive:
            sets.append(torch.from_numpy(archive["samples"]))
    energy = load_gebm(run, dataset.shape, CPU, with_energy=True).energy
    assert energy is not None
    data, others = dataset.held_out.split(len(sets[0]))[:2]
    with torch.no_grad():
        on_grid, at_points = (
            energy(x) + figures["log_partition_estimate"] for x in (grid()[1], torch.cat([data, sets[0]]))
        )
    side = round(len(on_grid) ** 0.5)
    low, high = at_points.quantile(torch.tensor([0.01, 0.99])).tolist()
    return Example(
        data,
        others,
        *sets,
        on_grid.view(side, side),
        (low, high),
        figures["kale_held_out"],
        figures["kale_held_out_standard_error"],
    )


def side(points: Tensor, data: Tensor, kernel: Gaussian, seed: int) -> Side:
    test = kernel_test(points, data, kernel, N_PERMUTATIONS, make_generator(seed, "permutations"))
    solved = [KaleProblem(points, kernel, lam).solve(data, tolerance=1e-6) for lam in REGULARISATIONS]
    if not all(found.converged for found in solved):
        raise RuntimeError(f"KALE was found to {max(found.duality_gap for found in solved):.1e} alone")
    return Side(mmd2(points, data, kernel), test.p_value, solved, (points.norm(dim=1) - 1).abs().mean().item())


def report(name: str, found: Example, seed: int) -> dict[str, float]:
    """Prints a row of each side, and returns the figures that are averaged over seeds."""
    kernel = Gaussian(median_bandwidth(found.data))
    sides = {"base": found.base, "GEBM": found.gebm, "data": found.others}
    figures: dict[str, float] = {"KALE by the energy": found.kale}
    for of, points in sides.items():
        at = side(points, found.data, kernel, seed)
        kales = " | ".join(f"{kale.value:.4f} ± {kale.standard_error:.4f}" for kale in at.kales)
        error = at.mmd2.standard_error
        print(f"| {name} | {seed} | {of} | {kales} | {at.mmd2.value:.4f} ± {error:.4f} | {at.p:.3f} | {at.away:.3f} |")
        figures |= {f"KALE_{kale.regularisation} {of}": kale.value for kale in at.kales}
        figures |= {f"MMD^2 {of}": at.mmd2.value, f"p {of}": at.p, f"away {of}": at.away}
    closer = relative_mmd2(found.data, found.gebm, found.base, kernel)
    print(
        f"  KALE by the energy {found.kale:.4f} ± {found.kale_error:.4f}; MMD^2 GEBM - base {closer.value:.4f} ± "
        f"{closer.standard_error:.4f}, one-sided p = {closer.p_less:.1g}; bandwidth {kernel.bandwidth:.3f}",
        flush=True,
    )
    return figures


def averages(name: str, rows: list[dict[str, float]]) -> None:
    print(f"{name}, mean ± standard error over {len(rows)} seeds:")
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        print(
            f"  {key}: {values.mean():.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}, {values.round(4).tolist()}"
        )
    for what in (*(f"KALE_{lam}" for lam in REGULARISATIONS), "MMD^2"):
        change = np.array([row[f"{what} GEBM"] - row[f"{what} base"] for row in rows])
        print(f"  {what} GEBM - base: {change.mean():.4f} ± {change.std(ddof=1) / len(change) ** 0.5:.4f}")


def picture(examples: dict[str, Example], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.6), dpi=100, layout="constrained")
    rows = figure.subplots(len(examples), 4)
    line, _ = grid()
    for (name, found), axes in zip(examples.items(), rows, strict=True):
        levels = torch.linspace(*found.shown, 13)
        shades = axes[2].contourf(line, line, found.energy, levels=levels, cmap="viridis", extend="both")
        figure.colorbar(shades, ax=axes[2], label="E + c, nats", shrink=0.85, format="%.1f")
        panels = [("data", found.data), ("base samples", found.base), None, ("GEBM samples", found.gebm)]
        for panel, at in zip(panels, axes, strict=True):
            title, points = panel or ("energy, and base samples (white)", found.base)
            colour = "white" if panel is None else "tab:blue"
            at.scatter(*points[:1000].T, s=5, alpha=0.25 if panel else 0.5, color=colour, linewidths=0)
            at.set(
                xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal", xlabel="$x_1$", ylabel="$x_2$", title=title
            )
        axes[0].set_ylabel(f"{EXPERIMENTS[name]}\n$x_2$")
    figure.suptitle(
        "Above: the base has the data's support, and the energy moves its mass to the right of the circle, as in the data.\n"
        "Below: the base's curve is not the circle. The energy moves mass along it, from its ends and its tip to where it "
        "is nearer the circle; it cannot bend it.",
        fontsize=10,
    )
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    kales = " | ".join(f"KALE_{lam}" for lam in REGULARISATIONS)
    print(f"| example | seed | samples | {kales} | MMD^2 | p | from the circle |\n" + "| --- " * 8 + "|")
    first: dict[str, Example] = {}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in EXPERIMENTS}
    begun = time.perf_counter()
    for seed in options.seeds:
        for name in EXPERIMENTS:
            with tempfile.TemporaryDirectory() as root:
                found = example(name, seed, Path(root))
            rows[name].append(report(name, found, seed))
            first.setdefault(name, found)
    for name in EXPERIMENTS if len(options.seeds) > 1 else ():
        averages(name, rows[name])
    print(f"{time.perf_counter() - begun:.0f} s")
    if options.out is not None:
        picture(first, options.out)


if __name__ == "__main__":
    main()
