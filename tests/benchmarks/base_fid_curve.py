"""Is the digits' base trained to the end? Its FID against the training digits along train-base, for several lengths.

    python tests/benchmarks/base_fid_curve.py [--seeds 0 1 2] [--steps 4000 8000] [--out docs/images/base_fid.png]

Every curve is a whole training of its length (the learning rate falls to 0 at its end), through the loop of `gebm train-base`,
with 5,000 samples scored at every tenth of the way by the features of `gebm evaluate-fid`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch

from gebm_cli.core.data.dataset import to_uint8
from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.training.loop import Callbacks
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.build_training import build_training
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.load import load_experiment

FILE = Path(__file__).parents[2] / "experiments/digits.yaml"
CPU = torch.device("cpu")
Curve = list[tuple[int, float, float]]


def curve(steps: int, seed: int) -> Curve:
    """(step, FID, standard error) along one training."""
    experiment = load_experiment(FILE, [f"train_base.steps={steps}", f"train_base.checkpoint_every={steps // 10}"])
    dataset = build_dataset(experiment.data)
    features = build_features("classifier", dataset, None, CPU)
    reference = features(dataset.train)
    training = build_training(experiment, "train-base", dataset, seed, CPU)
    points: Curve = []

    @torch.no_grad()
    def score(step: int, state: dict[str, object]) -> None:
        z = training.prior.sample(5000, make_generator(seed, "curve"))
        images = torch.cat([to_uint8(training.base(block)) for block in z.split(250)])
        distance = frechet_distance(features(images), reference)
        points.append((step, distance.value, distance.standard_error))
        print(
            f"steps {steps} seed {seed} step {step}: FID {distance.value:.4f} +- {distance.standard_error:.4f}",
            flush=True,
        )

    training.run(Callbacks(save=score))
    return points


def draw(curves: dict[tuple[int, int], Curve], path: Path) -> None:
    """FID against the fraction of the way, one line a training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    lengths = sorted({steps for steps, _ in curves})
    for (steps, seed), points in curves.items():
        colour = f"C{lengths.index(steps)}"
        label = f"{steps:,} steps" if seed == min(s for _, s in curves) else None
        axes.errorbar(*zip(*points, strict=True), color=colour, alpha=0.8, linewidth=1, capsize=2, label=label)
    axes.set(xlabel="updates of the base", ylabel="FID (classifier features)", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[4000, 8000])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    curves = {(steps, seed): curve(steps, seed) for steps in options.steps for seed in options.seeds}
    if options.out is not None:
        draw(curves, options.out)


if __name__ == "__main__":
    main()
