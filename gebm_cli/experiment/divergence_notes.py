"""What a user should know of two sets and of the options before divergences are believed."""

from __future__ import annotations

import torch
from torch import Tensor

from gebm_cli.core.divergences.kinds import Options
from gebm_cli.core.divergences.names import OF_A_KERNEL, Kind
from gebm_cli.core.two_sample.collections import described, kernel_of
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.sides import shared_draws
from gebm_cli.experiment.two_sample_warnings import duplicates, stored, uneven

MOST_PAIRED = 2000  # rows whose kernel matrix is looked at
ALONE = 0.1  # sum of the kernel over all other rows, below which a row is by itself

_WHY = "; the standard errors take all for independent draws, and may be too small"


def of_sides(a: Side, b: Side) -> list[str]:
    """Of the sets alone."""
    told = [*a.notes, *b.notes, *duplicates(a, b, _WHY), *shared_draws(a, b)]
    for side in (a, b):
        if side.is_constant:
            told.append(f"{side.name}: all its samples are equal, so its law is taken for a point mass")
    return [*told, *stored(a, b), *uneven(a, b)]


def of_rows(a: Side, b: Side, rows: dict[Kind, tuple[Tensor, Tensor]]) -> list[str]:
    """The kinds that could not use all rows."""
    told = []
    for j, side in enumerate((a, b)):
        n = len(side.require_features("a divergence"))
        fewer: dict[int, list[str]] = {}
        for kind, at in rows.items():
            if len(at[j]) < n:
                fewer.setdefault(len(at[j]), []).append(kind)
        told += [
            f"{side.name}: {' and '.join(kinds)} used {used:,} of its {n:,} samples, the first of a shuffle by --seed"
            for used, kinds in fewer.items()
        ]
    return list(dict.fromkeys(told))


def of_bandwidth(a: Side, b: Side, kinds: list[Kind], options: Options) -> list[str]:
    """A bandwidth at which the kernel between different rows is next to nothing: each row then sees itself alone."""
    of_a_kernel = [kind for kind in kinds if kind in OF_A_KERNEL]
    if options.bandwidth is None or not of_a_kernel:
        return []
    pooled = torch.cat([side.require_features("a divergence") for side in (a, b)])
    rows = pooled[:: -(-len(pooled) // MOST_PAIRED)].double()
    matrix = kernel_of(options.kernel, (options.bandwidth,), rows)(rows, rows)
    others = matrix.sum(1) - matrix.diagonal()
    if others.median().item() * len(pooled) / len(rows) >= ALONE:
        return []
    usual = described(kernel_of(options.kernel, (), pooled))["bandwidth"]
    return [
        f"--bandwidth {options.bandwidth:g}: is so small that the kernel hardly connects any two rows, and "
        f"{' and '.join(of_a_kernel)} cannot tell how far apart they are; the median distance is {usual:.3g}"
    ]
