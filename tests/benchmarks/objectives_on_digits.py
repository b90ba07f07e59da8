"""Every objective with a critic on the digits: scores of the base it trains, and of the GEBM for each of the energy's.

    python tests/benchmarks/objectives_on_digits.py [--steps 2000] [--seed 0] [--bases kale ...] [--energies kale ...]

All share the networks, noise and batch of experiments/digits.yaml and differ where papers do (penalty, critic steps). Samples:
5,000 against the 1,437 training digits, classifier features. The energies' base is the one that experiments/digits.yaml trains.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gebm_cli.core.data.dataset import to_uint8
from gebm_cli.core.device import make_generator
from gebm_cli.errors import DivergedError
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.continuing import energy_run
from gebm_cli.experiment.drawing import draw
from gebm_cli.experiment.jobs import Order
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.stages import start_run, train
from gebm_cli.experiment.tracking import Scorer

CPU = torch.device("cpu")
BASES: dict[str, list[str]] = {
    "kale": [],
    "kale, batch c": ["objective={kind: kale, log_partition: batch}"],
    "kale, initialised c": ["objective={kind: kale, log_partition: initialised}"],
    "gan": ["objective=gan"],
    "f-gan kl": ["objective={kind: f-gan, divergence: kl}"],
    "f-gan reverse-kl": ["objective={kind: f-gan, divergence: reverse-kl}"],
    "f-gan pearson": ["objective={kind: f-gan, divergence: pearson}"],
    "f-gan hellinger": ["objective={kind: f-gan, divergence: hellinger}"],
    "f-gan js": ["objective={kind: f-gan, divergence: js}"],
    "f-gan total-variation": ["objective={kind: f-gan, divergence: total-variation}"],
    "hinge": ["objective=hinge"],
    "wasserstein, penalty": ["objective=wasserstein", "penalty=one-centred", "penalty_weight=10", "critic_steps=5"],
    "wasserstein, clip": ["objective={kind: wasserstein, clip: 0.03}", "penalty_weight=0", "critic_steps=5"],
    "mmd rq*": ["objective={kind: mmd, linear: 1}", "penalty=one-centred", "critic_steps=5"],
    "mmd rbf": ["objective={kind: mmd, kernel: rbf}", "penalty=one-centred", "critic_steps=5"],
    "mmd distance": ["objective={kind: mmd, kernel: distance}", "penalty=one-centred", "critic_steps=5"],
    "smmd": ["objective=smmd", "penalty_weight=0", "critic_steps=5"],
    "swgan": ["objective=swgan", "penalty_weight=0", "critic_steps=5"],
    "gmmn": ["objective=gmmn"],
}
ENERGIES: dict[str, list[str]] = {
    "kale": [],
    "kale, batch c": ["objective={kind: kale, log_partition: batch}"],
    "kale, initialised c": ["objective={kind: kale, log_partition: initialised}"],
    "logistic": ["objective=logistic"],
    "f-gan reverse-kl": ["objective={kind: f-gan, divergence: reverse-kl}"],
    "f-gan pearson": ["objective={kind: f-gan, divergence: pearson}", "lr=1e-4", "penalty_weight=1"],
    "f-gan hellinger": ["objective={kind: f-gan, divergence: hellinger}"],
    "pcd": ["objective={kind: pcd, n_steps: 5, step_size: 0.1}", "noise_std=0"],
}


def quiet(step: int, total: int, figures: dict[str, float]) -> None:
    """No progress."""


def score(run: Run, images: torch.Tensor) -> dict[str, Any]:
    return Scorer(run, CPU).score(iter(images.split(500)))


def row(name: str, found: dict[str, Any], more: str = "") -> str:
    fid = f"{found['fid']:.2f} ± {found['fid_standard_error']:.2f}"
    kid = f"{found['kid']:.4f} ± {found['kid_standard_error']:.4f}"
    return f"| {name} | {fid} | {kid} | {found['precision']:.3f} | {found['recall']:.3f} |{more}"


def of_base(name: str, keys: list[str], steps: int, seed: int, root: Path) -> str:
    spectral = ["energy.spectral=parametrised"] if name in ("smmd", "swgan") else []
    overrides = [f"train_base.{key}" for key in keys]
    experiment = load_experiment(
        "experiments/digits.yaml", [*overrides, *spectral, f"train_base.steps={steps}", f"seed={seed}"]
    )
    run, dataset = start_run(experiment, root)
    try:
        train(run, "train-base", CPU, dataset, quiet)
    except DivergedError as error:
        return f"| {name} | diverged: {error} | | | |"
    gebm = load_gebm(run, dataset.shape, CPU, with_energy=False)
    with torch.no_grad():
        z = gebm.prior.sample(5000, make_generator(seed, "benchmark"))
        images = torch.cat([to_uint8(gebm.base(part)) for part in z.split(500)])
    return row(name, score(run, images))


def of_energy(name: str, keys: list[str], base: Run, seed: int, root: Path) -> str:
    spectral = (
        ["energy.spectral=norm"] if name == "pcd" else []
    )  # chains that stand still would let E grow without bound
    overrides = [f"train_energy.{key}" for key in keys] + spectral
    experiment = load_experiment(
        "experiments/digits.yaml", [*overrides, f"seed={seed}", "sample.beta=1", "sample.diagnose=false"]
    )
    run = energy_run(base, experiment, root)
    figures = train(run, "train-energy", CPU, None, quiet)
    out = root / "sets" / run.name
    draw(Order(run, run.experiment.sample, seed, out, True), CPU)
    images = torch.from_numpy(np.load(out / "samples.npz")["images"]).permute(0, 3, 1, 2)
    kale = f" {figures['kale_held_out']:.3f} ± {figures['kale_held_out_standard_error']:.3f} | {figures['ess'] / 500:.1f} % |"
    return row(name, score(run, images), kale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bases", nargs="*", default=list(BASES), choices=list(BASES))
    parser.add_argument("--energies", nargs="*", default=list(ENERGIES), choices=list(ENERGIES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print("| base's objective | FID | KID | precision | recall |\n| --- | --- | --- | --- | --- |", flush=True)
        for name in asked.bases:
            print(of_base(name, BASES[name], asked.steps, asked.seed, root), flush=True)
        if asked.energies:
            base, dataset = start_run(load_experiment("experiments/digits.yaml", [f"seed={asked.seed}"]), root / "base")
            train(base, "train-base", CPU, dataset, quiet)
            print(
                "| energy's objective | FID | KID | precision | recall | KALE, held out | ESS of the weights |\n|"
                + " --- |" * 7,
                flush=True,
            )
        for name in asked.energies:
            print(of_energy(name, ENERGIES[name], base, asked.seed, root), flush=True)


if __name__ == "__main__":
    main()
