"""KID (Binkowski et al. 2018): the unbiased MMD^2 of features with the cubic kernel k(x, y) = (x.y / d + 1)^3.

Over all pairs with its standard error (`kid`), or as the field prints it, over random subsets (`kid_subsets`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.evaluation.feature_mmd import Progress, feature_mmd
from gebm_cli.core.kernels import Polynomial
from gebm_cli.core.mmd import (
    Difference,
    Estimate,
    mmd2,
    relative_mmd2,
    sums_between,
    sums_within,
)

CUBIC = Polynomial(3)


def kid(x: Tensor, y: Tensor, on_block: Progress = lambda done, total: None) -> Estimate:
    """KID of features x (n, d) and y (m, d), n and m at least 2, over all pairs, with its standard error.

    Unbiased for any n and m, so it can be negative near zero. Cost: (n^2 / 2 + m^2 / 2 + n m) d multiplications in the
    features' own type, sums in float64, memory for a few blocks beside the features. The error is `feature_mmd`'s, right near
    zero too; below 4 rows a side, where the whole variance cannot be estimated, it is the first-order one of `mmd2`.
    """
    if 2 <= min(len(x), len(y)) < 4:
        return mmd2(x, y, CUBIC)
    return feature_mmd(x, y, CUBIC, on_block)


def kid_difference(reference: Tensor, x: Tensor, y: Tensor) -> Difference:
    """KID(reference, x) - KID(reference, y) with the standard error of the difference; negative when x is closer."""
    return relative_mmd2(reference, x, y, CUBIC)


@dataclass(frozen=True)
class SubsetKid:
    """Mean and standard deviation (divided by n_subsets) of KID over random subsets of `size` rows a side.

    `spread` is what tools print after the +-. It says how much the KID of one subset varies: it shrinks with `size` and not
    with the number of images or of subsets, and is no error of `mean`, which it exceeds 2 to 4 times. Nor is
    spread / sqrt(n_subsets) one: subsets overlap, and all share the luck of the images drawn. For an error use `kid`.
    """

    mean: float
    spread: float
    n_subsets: int
    size: int


def kid_subsets(x: Tensor, y: Tensor, n_subsets: int = 100, size: int = 1000, seed: int = 2020) -> SubsetKid:
    """KID by the field's convention: the mean over random subsets of features x (n, d) and y (m, d), `size` of each.

    The subsets are torch-fidelity's for its inputs 1 = x, 2 = y: from one numpy.random.RandomState(seed), in turn for each
    subset, choice(n, size, replace=False) for x and then choice(m, size, replace=False) for y. The value is theirs in float64
    to rounding; in float32 theirs carries the rounding of 32-bit sums (about 1e-5 relative), this one does not.

    Raises:
        ValueError: fewer than `size` rows in one set, a size below 2 or fewer than one subset.
    """
    if size < 2 or n_subsets < 1:
        raise ValueError(f"KID needs subsets of at least 2 rows and at least one of them, got {n_subsets} of {size}")
    if min(len(x), len(y)) < size:
        raise ValueError(f"subsets of {size} cannot be drawn from {len(x)} and {len(y)} rows; choose a smaller `size`")
    state = np.random.RandomState(seed)
    pairs = (
        (state.choice(len(x), size, replace=False), state.choice(len(y), size, replace=False)) for _ in range(n_subsets)
    )
    values = kid_on_subsets(x, y, pairs)
    return SubsetKid(values.mean().item(), values.std(correction=0).item(), n_subsets, size)


@torch.no_grad()
def kid_on_subsets(x: Tensor, y: Tensor, subsets: Iterable[tuple[np.ndarray, np.ndarray]]) -> Tensor:
    """KID (n_subsets,) float64 of x[i] and y[j] for each pair (i, j) of index arrays."""
    return torch.stack([_value(x[torch.as_tensor(i)], y[torch.as_tensor(j)]) for i, j in subsets]).cpu()


def _value(x: Tensor, y: Tensor) -> Tensor:
    n, m = len(x), len(y)
    within = sums_within(CUBIC, x).rows.sum() / (n * (n - 1)) + sums_within(CUBIC, y).rows.sum() / (m * (m - 1))
    return within - 2.0 * sums_between(CUBIC, x, y).rows.sum() / (n * m)
