"""Run folders written by hand: an experiment, sessions, metrics and scores, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, create_run


def made_run(
    root: Path,
    *overrides: str,
    name: str = "digits",
    sessions: list[dict[str, Any]] | None = None,
    kale: list[float] | None = None,
    scores: list[dict[str, Any]] | None = None,
    seed: int = 0,
) -> Run:
    """A run of `experiments/digits.yaml` (copied by the fixture `gebm`); `kale` is the curve of train-energy, a value a step."""
    experiment = load_experiment(f"experiments/{name}.yaml", overrides, {"seed": ("--seed", str(seed))})
    run = create_run(experiment, root)
    record = yaml.safe_load((run.path / "record.yaml").read_text())
    stages = [session(**s) for s in sessions] if sessions is not None else [session()]
    (run.path / "record.yaml").write_text(yaml.safe_dump(record | {"stages": stages, "scores": scores or []}))
    write_metrics(run.path, "train-energy", {"kale": [1.0, 2.0, 3.0] if kale is None else kale})
    for k, one in enumerate(scores or []):
        (run.path / "evaluation").mkdir(exist_ok=True)
        (run.path / "evaluation" / f"score-{k + 1:03d}.yaml").write_text(yaml.safe_dump(one))
    return run


def session(stage: str = "train-energy", status: str = "completed", step: int = 3, **more: Any) -> dict[str, Any]:
    """An entry of `record.yaml`."""
    times = {"start": "2026-01-01T10:00:00+00:00", "end": "2026-01-01T10:02:30+00:00"}
    return {
        "stage": stage,
        "status": status,
        "step": step,
        "argv": ["gebm", stage, "digits"],
        "seed": 0,
        **times,
        **more,
    }


def write_metrics(path: Path, stage: str, columns: dict[str, list[float]]) -> None:
    """Append a row a step."""
    with open(path / "metrics.jsonl", "a") as file:
        for step, values in enumerate(zip(*columns.values(), strict=True), 1):
            row = {"stage": stage, "step": step, "time_s": 0.1 * step, **dict(zip(columns, values, strict=True))}
            file.write(json.dumps(row) + "\n")


def score(metric: str = "fid", value: float = 1.0, **more: Any) -> dict[str, Any]:
    """A record of `evaluation/`."""
    usual = {"features": "inception", "weights_hash": "a" * 64, "resize": "none", "layer": None}
    sides = {
        "samples": "digits-001/kla-001",
        "reference": "digits:train",
        "split": "train",
        "n_fake": 1000,
        "n_real": 1437,
    }
    return {"metric": metric, "value": value, "standard_error": 0.1, **usual, **sides, **more}


def described_set(run_path: Path, name: str, **told: Any) -> Path:
    """What a sample set says of itself, without its samples."""
    folder = run_path / "samples" / name
    folder.mkdir(parents=True)
    (folder / "sample.yaml").write_text(yaml.safe_dump({"sampler": "kla", "n_samples": 5} | told))
    return folder


def verdict_record(name: str = "digits-001", **more: Any) -> dict[str, Any]:
    """A verdict of `NAME/base-001` and `NAME/kla-001` against training and held-out data."""
    values = {"fid_base": 2.0, "fid_gebm": 1.0, "kid_base": 0.2, "kid_gebm": 0.1}
    errors = {f"{key}_standard_error": 0.01 for key in values}
    references = {split: {"n_real": n, **values, **errors} for split, n in (("train", 9), ("held-out", 3))}
    sides = {"base": f"{name}/base-001", "gebm": f"{name}/kla-001", "n_base": 5, "n_gebm": 6}
    usual = {"features": "inception", "weights_hash": "a" * 64, "resize": "none"}
    return {"metric": "verdict", **sides, **usual, "references": references, **more}
