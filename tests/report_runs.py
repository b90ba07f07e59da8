"""Run folders written by hand, as commands leave them: for the tests of pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, create_run

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def new_run(root: Path, name: str = "digits") -> Run:
    """A run of a shipped experiment in which nothing has run."""
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml", ["seed=7"])
    return create_run(experiment, root, (1, 8, 8))


def add_session(run: Run, stage: str, status: str = "completed", **more) -> None:
    """A session of a stage in the record."""
    record = run.record()
    session = {
        "stage": stage,
        "status": status,
        "argv": ["gebm", stage, "experiments/digits.yaml"],
        "start": "2026-01-02T03:04:05+00:00",
        "end": "2026-01-02T03:06:10+00:00",
        "device": "cpu",
        "host": "laptop",
        "versions": {"gebm-cli": "0.1.0", "torch": "2.15.0"},
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "step": 100,
        "exit_code": 0,
    }
    record["stages"].append(session | more)
    (run.path / "record.yaml").write_text(yaml.safe_dump(record))


def add_metrics(run: Run, stage: str, n: int = 40) -> None:
    """Log lines of a stage."""
    rows = [
        {"stage": stage, "step": 50 * (i + 1), "time_s": i, "kale": 5 / (i + 1), "penalty": 0.1, "lr": 1e-4}
        for i in range(n)
    ]
    with open(run.path / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def add_chains(run: Run, name: str = "kla-001", images: bool = True, **more) -> Path:
    """A sample set drawn by chains, with its frames, energies and two pictures."""
    folder = run.path / "samples" / name
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    shape = (5, 36, 8, 8, 1) if images else (5, 200, 2)
    frames = (
        numbers.integers(0, 255, shape).astype(np.uint8) if images else numbers.normal(size=shape).astype(np.float32)
    )
    energies = {k: numbers.normal(i, 1, 500) for i, k in enumerate(("train", "held_out", "samples", "base"))}
    np.savez_compressed(folder / "shown.npz", steps=np.arange(5) * 25, frames=frames, **energies)
    Image.new("L", (89, 89), 40).save(folder / "grid.png")
    Image.new("RGB", (600, 300), "white").save(folder / "trace.png")
    described = {
        "run": run.name,
        "sampler": "kla",
        "n_samples": 500,
        "seed": 0,
        "mode": "refine",
        "beta": 1.5,
        "n_steps": 100,
        "verdict": "refined, not mixed: R-hat 2",
        "mixed": False,
        "rhat": 2.0,
        "n_watched": 128,
        "watched": {"E": {"rhat": 2.0, "nested_rhat": 1.01, "ess_bulk": 100.0, "ess_tail": 90.0}},
        "nearest_training_distance": {"samples": 0.16, "held_out": 0.13},
        "written": "2026-01-02T03:07:00+00:00",
        "argv": ["gebm", "sample", "--run", run.name],
    }
    (folder / "sample.yaml").write_text(yaml.safe_dump(described | more))
    return folder


def verdict(significant: bool = True, p: float = 0.001) -> dict:
    """The record of a verdict."""
    entry = {"n_real": 1437, "p_value": p, "significant": significant, "kid_difference": -0.02}
    for side, value in (("base", 0.03), ("gebm", 0.01)):
        entry |= {f"kid_{side}": value, f"kid_{side}_standard_error": 0.004, f"fid_{side}": 40 * value}
    sides = {"base": "digits-001/base-001", "gebm": "digits-001/kla-001", "n_base": 500, "n_gebm": 500}
    return {"metric": "verdict", **sides, "features": "classifier", "references": {"train": entry}}


def two_sample_record(**more) -> dict:
    """The record of a two-sample test."""
    histogram = {"low": 0.0, "high": 1.0, "counts": [50, 30, 15, 4], "n": 99}
    told = {
        "test": "mmd-fuse",
        "statistic": 2.0,
        "p_value": 0.01,
        "alpha": 0.05,
        "reject": True,
        "n_tested": [500, 360],
    }
    sides = {"x": "digits-001/kla-001", "y": "held-out", "features": "pixels", "effect": {"mmd": 0.03}}
    return told | sides | {"n_permutations": 99, "null_histogram": histogram} | more
