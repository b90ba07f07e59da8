"""The kernel two-sample test with a permutation threshold (Gretton et al. 2012)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import BLOCK


@dataclass(frozen=True)
class PermutationTest:
    """Unbiased MMD^2, its permutation p-value (1 + count) / (1 + B), and the B permuted statistics."""

    statistic: float
    p_value: float
    null: Tensor


def permutation_test(
    x: Tensor, y: Tensor, kernel: Kernel, n_permutations: int, generator: torch.Generator
) -> PermutationTest:
    """Test whether x (n, d) and y (m, d) have one law; any sizes. The kernel may depend on the pooled sample only.

    All permutations are one product of the kernel matrix with an assignment matrix, streamed by blocks of rows: memory is
    O((n + m) (block + B)). With s the 0/1 assignment to x, K without its diagonal, r = K 1 and T = 1'r:
    sum_xx = s'Ks, sum_xy = r's - s'Ks, sum_yy = T - 2 r's + s'Ks. The observed statistic goes through the same product,
    and ties count with a relative tolerance, so that constant data give p = 1.

    Raises:
        ValueError: fewer than 2 rows on a side, or no permutation.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2 or n_permutations < 1:
        raise ValueError(f"need at least 2 rows a side and 1 permutation, got {n}, {m} and {n_permutations}")
    pooled = torch.cat([x, y]).double()
    assignment = _assignments(n, m, n_permutations, generator).to(pooled.device)
    inner, along = torch.zeros(2, n_permutations + 1, dtype=torch.float64, device=pooled.device)
    total = pooled.new_zeros(())
    for start in range(0, n + m, BLOCK):
        block = kernel(pooled[start : start + BLOCK], pooled)
        block.diagonal(start).zero_()
        chosen = assignment[start : start + BLOCK]
        rows = block.sum(1)
        inner += (chosen * (block @ assignment)).sum(0)
        along += rows @ chosen
        total += rows.sum()
    values = inner / (n * (n - 1)) + (total - 2 * along + inner) / (m * (m - 1)) - 2 * (along - inner) / (n * m)
    observed, null = values[0], values[1:]
    # The statistics are differences of means of the kernel, so their rounding is that of its mean.
    tolerance = 1e-10 * null.abs().max() + 1e-12 * total.abs() / ((n + m) * (n + m - 1))
    count = int((null >= observed - tolerance).sum())
    return PermutationTest(observed.item(), (1 + count) / (1 + n_permutations), null.cpu())


def _assignments(n: int, m: int, n_permutations: int, generator: torch.Generator) -> Tensor:
    """0/1 columns with n ones, (n + m, 1 + B) float64: the observed assignment, then B uniform ones."""
    result = torch.zeros(n + m, n_permutations + 1, dtype=torch.float64)
    result[:n, 0] = 1.0
    for b in range(1, n_permutations + 1):
        result[torch.randperm(n + m, generator=generator)[:n], b] = 1.0
    return result
