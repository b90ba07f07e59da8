"""Scores and tests as records: which data, which features, how many, and how sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.kid import kid_difference
from gebm_cli.errors import UsageError
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.inputs import Input, split_of
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.score_rows import SIGNIFICANT

OnBatch = Callable[[int], None]


def choose_features(
    x: Input,
    y: Input,
    owner: Run | None,
    name: str | None,
    weights: str | None,
    device: torch.device,
    default: str,
    on_step: Callable[[int, int], None],
    **options: Any,
) -> Features:
    """The features asked for, else the experiment's, else the default; points are always compared as they are.

    `options` are those of `build_features`: resize, layer, precision, compile, allow_plugins, seed.
    """
    if x.is_points:
        if name not in (None, "pixels"):
            raise UsageError(f"--features {name}: is for images, and {x.name} holds points; leave it out")
        name = "pixels"
    labelled = next((i.dataset for i in (y, x) if i.dataset is not None), None)
    if name is None:
        digits = labelled is not None and labelled.name == "digits"
        name = owner.experiment.evaluate.features if owner is not None else "classifier" if digits else default
    if labelled is None and owner is not None and name == "classifier":
        labelled = split_of(owner, "train").dataset
    return build_features(name, labelled, weights, device, on_step, **options)


# ------------------------------------------------------------------------------------------------------------- verdict


def verdict(base: Tensor, gebm: Tensor, references: dict[str, Tensor]) -> dict[str, Any]:
    """FID and KID of base and GEBM samples against each reference, and the relative test of their KIDs.

    All are features (n, d). `p_value` is one-sided, for "the GEBM's KID is lower" (Bounliphone et al. 2016). The FID's
    ratio is left out where a side has no more samples than dimensions.
    """
    for side, features in {"base": base, "gebm": gebm, **references}.items():
        if len(features) < 2:
            raise UsageError(f"verdict: needs at least 2 {side} samples, got {len(features)}")
    result: dict[str, Any] = {}
    for name, reference in references.items():
        difference = kid_difference(reference, gebm, base)
        scores: dict[str, Any] = {"kid_base": difference.y, "kid_gebm": difference.x}
        if min(len(reference), len(base), len(gebm)) > base.shape[1]:
            distances = {"fid_base": frechet_distance(base, reference), "fid_gebm": frechet_distance(gebm, reference)}
            scores = distances | scores
        entry: dict[str, Any] = {"n_real": len(reference)}
        for key, score in scores.items():
            entry |= {key: score.value, f"{key}_standard_error": score.standard_error}
        if "fid_base" in entry:
            entry["fid_ratio"] = entry["fid_gebm"] / entry["fid_base"]
        entry |= {
            "kid_difference": difference.value,
            "kid_difference_standard_error": difference.standard_error,
            "z": difference.z,
            "p_value": difference.p_less,
            "significant": bool(difference.p_less < SIGNIFICANT),
        }
        result[name] = entry
    return result
