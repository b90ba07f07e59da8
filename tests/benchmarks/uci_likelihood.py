"""Test NLL of real NVP models trained by likelihood, contrastive divergence and KALE on the UCI tables, over five splits.

    python tests/benchmarks/uci_likelihood.py FOLDER [--data red-wine ...] [--methods ml ...] [--splits 0 1 2 3 4] [--whiten train]

FOLDER holds winequality-red.csv, winequality-white.csv and parkinsons_updrs.csv, comma-separated. Prints one line of JSON for each
training and a table of mean +- standard error over splits at the end. Every choice is made on validation rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from gebm_cli.experiment.continuing import energy_run
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.stages import start_run, train

FILES = {
    "red-wine": "winequality-red.csv",
    "white-wine": "winequality-white.csv",
    "parkinsons": "parkinsons_updrs.csv",
}
FLOW = ["energy={kind: flow}"]
KALE = [
    *FLOW,
    "train_base.batch_size=256",  # the reference draws 20 base samples for a point: the mean of exp(-E) is noisy
    "train_base.critic_steps=5",
    "train_base.burst_critic_steps=20",
    "train_base.steps=300",
    "train_base.lr=3e-4",
    "train_base.lr_schedule=constant",
    "train_base.penalty_weight=0",
    "train_base.keep_best=null",
    "train_energy.start_from_critic=true",
    "train_energy.batch_size=1000",
    "train_energy.steps=3000",
    "train_energy.lr=1e-3",
    "train_energy.lr_schedule=cosine",
    "train_energy.penalty_weight=0",
]
METHODS = {
    "ml": [],
    "cd": ["train_base.objective={kind: cd, n_steps: 3, step_size: 0.05}", "train_base.steps=1000"],
    "kale": [*KALE, "train_base.objective=kale", "train_energy.objective=kale", "train_energy.lr_log_partition=1e-2"],
    "kale-donsker": [*KALE, "train_base.objective={kind: kale, log_partition: batch}"],
}


def overrides(data: str, split: int, folder: str, whiten: str) -> list[str]:
    path = f"data.path={Path(folder) / FILES[data]}"
    return [path, f"data.split_seed={split}", f"data.whiten={whiten}", f"name={data}"]


def fit(data: str, keys: list[str], root: Path, energy: bool) -> list[dict[str, Any]]:
    """Figures of the base, and with `energy` of the GEBM on it."""
    experiment = load_experiment(f"experiments/uci-{data}.yaml", [*keys, "seed=0"])
    device = torch.device("cpu")
    run, dataset = start_run(experiment, root)
    quiet = lambda step, total, figures: None  # noqa: E731
    figures = [train(run, "train-base", device, dataset, quiet)]
    if energy:
        figures.append(train(energy_run(run, experiment, root), "train-energy", device, dataset, quiet))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--data", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--splits", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--whiten", default="train", choices=["train", "all"])
    parser.add_argument("--set", nargs="*", default=[], help="further overrides")
    asked = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    for data in asked.data:
        for split in asked.splits:
            for method in asked.methods:
                keys = [*overrides(data, split, asked.folder, asked.whiten), *METHODS[method], *asked.set]
                with tempfile.TemporaryDirectory() as root:
                    figures = fit(data, keys, Path(root), method != "cd")
                rows = {method: figures[0] if method in ("ml", "cd") else figures[-1]}
                if method == "ml":
                    rows["kale on ml"] = figures[-1]
                for name, result in rows.items():
                    found.setdefault((data, name), []).append(result["nll_held_out"])
                    line = {"data": data, "split": split, "method": name, "whiten": asked.whiten}
                    print(json.dumps(line | {k: round(v, 4) for k, v in result.items()}), flush=True)
    for (data, name), values in found.items():
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        print(
            f"| {data} | {name} | {statistics.mean(values):.3f} +- {error:.3f} | n = {len(values)} |", file=sys.stderr
        )


if __name__ == "__main__":
    main()
