"""Scores along the chains: FID, KID, precision and recall of the same chains at successive steps, against cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.kid import kid
from gebm_cli.core.evaluation.prdc import prdc, radii
from gebm_cli.experiment.inputs import Input, split_of
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.scoring import choose_features

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
K, N_NEIGHBOURS = 5, 5000
VALUE_COST = 0.5  # a forward pass without its backward, in gradients


def tracked_steps(n_steps: int) -> tuple[int, ...]:
    """Seven steps along a chain, closer at the beginning, the start and the end among them."""
    return tuple(sorted({int(np.ceil(share * n_steps)) for share in SHARES}))


class Scorer:
    """Scores samples of a run against its training data; features of the reference are computed once."""

    def __init__(self, run: Run, device: torch.device, features: str | None = None) -> None:
        self.run, self.device, self.name = run, device, features

    @cached_property
    def reference(self) -> Input:
        return split_of(self.run, "train")

    @cached_property
    def features(self) -> Any:
        side = self.reference
        return choose_features(
            side, side, self.run, self.name, None, self.device, "inception", lambda done, total: None
        )

    @cached_property
    def real(self) -> Tensor:
        return self.features(self.reference.data)

    @cached_property
    def radii(self) -> Tensor:
        return radii(self.real[:N_NEIGHBOURS].double(), K)

    def describe(self) -> dict[str, Any]:
        return {
            "reference": self.reference.name,
            "n_real": len(self.reference.data),
            **self.features.settings(),
        }

    def score(self, batches: Iterator[Tensor]) -> dict[str, Any]:
        """FID and KID with standard errors, precision and recall (k = 5) of samples that come in batches.

        Precision and recall compare the first 5,000 of either side at most: their cost is the product of the sizes.

        A score that these numbers of samples do not allow is left out.
        """
        fake = torch.cat([self.features(batch) for batch in batches])
        found: dict[str, Any] = {"n": len(fake)}
        least = min(len(fake), len(self.real))
        if least > fake.shape[1]:
            distance = frechet_distance(fake, self.real)
            found |= {"fid": distance.value, "fid_standard_error": distance.standard_error}
        if least > 2:
            estimate = kid(fake, self.real)
            found |= {"kid": estimate.value, "kid_standard_error": estimate.standard_error}
        if least > 5:
            shape = prdc(self.real[:N_NEIGHBOURS], fake[:N_NEIGHBOURS], K, real_radii=self.radii)
            found |= {
                "precision": shape.precision,
                "precision_standard_error": shape.precision_error,
                "recall": shape.recall,
            }
        return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in found.items()}


def cost_of(step: int, gradients_per_step: int, values_per_step: int) -> float:
    """What `step` steps of a chain cost, in gradients; a value counts as half of one."""
    return step * (gradients_per_step + VALUE_COST * values_per_step)


def curve(
    scorer: Scorer,
    steps: tuple[int, ...],
    frames: Callable[[int], Iterator[Tensor]],
    cost: Callable[[int], tuple[float, float]],
) -> list[dict[str, Any]]:
    """The scores at each step; `frames` gives the samples at the i-th of `steps` in batches, `cost` gradients and seconds."""
    points = []
    for i, step in enumerate(steps):
        gradients, seconds = cost(step)
        points.append({"step": step, "gradients": gradients, "seconds": seconds, **scorer.score(frames(i))})
    return points
