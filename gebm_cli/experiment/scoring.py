"""Scores and tests as records: which data, which features, how many, and how sure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.features import Features
from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.kid import kid_difference
from gebm_cli.core.kernels import Gaussian, median_bandwidth
from gebm_cli.core.two_sample.permutation import permutation_test
from gebm_cli.errors import UsageError
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.inputs import Input, newest_sample_set, read_input, read_sample_set, split_of
from gebm_cli.experiment.run import Run, newest_run

OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Pair:
    """Two sides to compare, and the feature network that compares them."""

    samples: Input
    reference: Input
    features: Features

    def extract(self, on_batch: OnBatch) -> tuple[Tensor, Tensor]:
        """Features of both sides, float32, on the device."""
        return self.features(self.samples.data, on_batch=on_batch), self.features(
            self.reference.data, on_batch=on_batch
        )

    def describe(self) -> dict[str, Any]:
        """What a record of any comparison of the two says."""
        return {
            "samples": self.samples.name,
            "reference": self.reference.name,
            "n_real": len(self.reference.data),
            "n_fake": len(self.samples.data),
            "resolution": list(self.samples.item_shape),
            **self.features.settings(),
        }


def read_pair(
    samples: str | None,
    reference: str | None,
    run: Run | None,
    root: Path,
    features: str | None,
    weights: str | None,
    device: torch.device,
    default_features: str = "inception",
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Pair:
    """Read both sides; for a run's samples, reference and features default to those of its experiment."""
    if samples is None:
        fake = read_sample_set(newest_sample_set(run or newest_run(root, "train-base")))
    else:
        fake = read_input(samples, root, run)
    owner = run or fake.run
    if reference is not None:
        real = read_input(reference, root, owner)
    elif owner is not None:
        real = split_of(owner, "train")
    else:
        raise UsageError(
            f"{fake.name}: belongs to no run, so a reference is needed: a folder, an .npz, a run or a data set"
        )
    require_same_shape(fake, real)
    return Pair(fake, real, choose_features(fake, real, owner, features, weights, device, default_features, on_step))


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


def require_same_shape(x: Input, y: Input) -> None:
    if x.item_shape != y.item_shape or x.is_points != y.is_points:
        raise UsageError(
            f"{x.name} and {y.name}: cannot be compared, their items are {x.item_shape} and "
            f"{y.item_shape} (channels, height, width); bring both to one size and colour first"
        )


# --------------------------------------------------------------------------------------------------------------- test


def require_testable(pair: Pair, alpha: float, n_permutations: int) -> None:
    """Refuse, before any feature is computed, a level below 1 / (1 + B), dependent sets, and sets too small to test."""
    if alpha < 1 / (n_permutations + 1):
        least = math.ceil(1 / alpha) - 1
        raise UsageError(
            f"--alpha {alpha:g}: cannot be reached with {n_permutations} permutations; use at least {least}"
        )
    if pair.samples.stream is not None and pair.samples.stream == pair.reference.stream:
        raise UsageError(
            f"{pair.samples.name} and {pair.reference.name}: were drawn with the same random numbers, and the test needs "
            f"independent sets; draw one of them again with another seed, `gebm sample --seed {pair.samples.stream[2] + 1}`"
        )
    for side in (pair.samples, pair.reference):
        if len(side.data) < 2:
            raise UsageError(f"{side.name}: a test needs at least 2 samples a side, got {len(side.data)}")


def mmd_test(
    pair: Pair, x: Tensor, y: Tensor, alpha: float, n_permutations: int, bandwidth: float | None, seed: int
) -> dict[str, Any]:
    """The permutation test on the Gaussian MMD, as a record, of a pair that `require_testable` has passed."""
    width = bandwidth or median_bandwidth(torch.cat([x, y]))
    test = permutation_test(x, y, Gaussian(width), n_permutations, make_generator(seed, "permutations"))
    return {
        "test": "mmd",
        "statistic": test.statistic,
        "p_value": test.p_value,
        "alpha": alpha,
        "reject": test.p_value <= alpha,
        "n_x": len(x),
        "n_y": len(y),
        "x": pair.samples.name,
        "y": pair.reference.name,
        "kernel": "gaussian",
        "bandwidth": width,
        "n_permutations": n_permutations,
        "seed": seed,
        **pair.features.settings(),
    }


# ------------------------------------------------------------------------------------------------------------- verdict

SIGNIFICANT = 0.01


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
