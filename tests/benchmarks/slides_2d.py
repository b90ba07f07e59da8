"""The slides' two examples in the plane: a base with the right support and the wrong mass, and one with the wrong support.

    python tests/benchmarks/slides_2d.py [--seed 0] [--out docs/images/slides_2d.png]

Each experiment runs in a temporary folder of runs as its commands would run it. Printed: KALE on held-out data with the base; of
base and GEBM samples against held-out points the unbiased MMD^2 and its permutation test, as `gebm two-sample-test` does, and their
mean distance from the circle; and the relative test of the two.
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
from gebm_cli.core.kernels import Gaussian, median_bandwidth
from gebm_cli.core.mmd import mmd2, relative_mmd2
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


@dataclass(frozen=True)
class Example:
    data: Tensor
    base: Tensor
    gebm: Tensor
    energy: Tensor  # E + c on the grid
    shown: tuple[float, float]  # E + c of nearly all of the data and of the base samples lies between
    kale: float
    kale_error: float


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
    data = dataset.held_out[: len(sets[0])]
    with torch.no_grad():
        on_grid, at_points = (
            energy(x) + figures["log_partition_estimate"] for x in (grid()[1], torch.cat([data, sets[0]]))
        )
    side = round(len(on_grid) ** 0.5)
    low, high = at_points.quantile(torch.tensor([0.01, 0.99])).tolist()
    return Example(
        data,
        *sets,
        on_grid.view(side, side),
        (low, high),
        figures["kale_held_out"],
        figures["kale_held_out_standard_error"],
    )


def report(name: str, found: Example, seed: int) -> None:
    print(f"{name}: KALE of held-out data and base {found.kale:.4f} +- {found.kale_error:.4f}")
    for side, points in (("base", found.base), ("GEBM", found.gebm)):
        kernel = Gaussian(median_bandwidth(torch.cat([points, found.data])))
        estimate = mmd2(points, found.data, kernel)
        test = kernel_test(points, found.data, kernel, N_PERMUTATIONS, make_generator(seed, "permutations"))
        sizes = f"n = {len(points)} and {len(found.data)}"
        print(
            f"  {side}: MMD^2 {estimate.value:.5f} +- {estimate.standard_error:.5f}, p = {test.p_value:.3f} ({sizes})",
            flush=True,
        )
        away = (points.norm(dim=1) - 1).abs()
        print(f"    distance from the circle {away.mean():.4f} +- {away.std() / len(away) ** 0.5:.4f}")
    closer = relative_mmd2(found.data, found.gebm, found.base, Gaussian(median_bandwidth(found.data)))
    print(f"  GEBM - base: {closer.value:.5f} +- {closer.standard_error:.5f}, one-sided p = {closer.p_less:.2g}")


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    examples = {}
    for name in EXPERIMENTS:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as root:
            examples[name] = example(name, options.seed, Path(root))
        report(name, examples[name], options.seed)
        print(f"  {time.perf_counter() - begun:.0f} s")
    if options.out is not None:
        picture(examples, options.out)


if __name__ == "__main__":
    main()
