"""Several sample sets side by side: their record, and one plot of quality against cost."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from gebm_cli.experiment.curves import save_score_curves
from gebm_cli.experiment.files import make_numbered, write_yaml
from gebm_cli.experiment.run import Run

METRICS = ("fid", "kid", "precision", "recall")


def keep_comparison(run: Run, results: list[dict[str, Any]], stem: str) -> list[str]:
    """Write `evaluation/STEM-NNN.yaml`, and beside it a plot where scores were tracked; returns the files written."""
    path = make_numbered(run.path / "evaluation", stem, ".yaml")
    series = curves(results)
    write_yaml(path, {"metric": stem, "sets": results, "curves": series})
    files = [str(path)]
    if series:
        save_score_curves(path.with_suffix(".png"), series)
        files.append(str(path.with_suffix(".png")))
    return files


def curves(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A curve for each label, averaged over the sets (the seeds) that share it."""
    groups: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for r in results:
        if "track" in r:
            groups[r["label"]].append(r["track"]["scores"])
    return {name: [_mean(points) for points in zip(*seeds, strict=True)] for name, seeds in groups.items()}


def _mean(points: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The mean over seeds; its standard error is between seeds where there are several, else the score's own."""
    first, n = points[0], len(points)
    found: dict[str, Any] = {"step": first["step"], "gradients": first["gradients"], "n_seeds": n, "n": first["n"]}
    found["seconds"] = sum(p["seconds"] for p in points) / n
    for metric in METRICS:
        values = [p[metric] for p in points if metric in p]
        if len(values) < n:
            continue
        found[metric] = sum(values) / n
        error = first.get(f"{metric}_standard_error")
        if n > 1:
            error = math.sqrt(sum((v - found[metric]) ** 2 for v in values) / (n - 1) / n)
        if error is not None:
            found[f"{metric}_standard_error"] = error
    return found
