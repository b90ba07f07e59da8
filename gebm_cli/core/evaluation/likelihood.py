"""Negative log-likelihood, in nats, of bases with a density and of their GEBMs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.mmd import Estimate


@torch.no_grad()
def negative_log_likelihood(
    log_density: Callable[[Tensor], Tensor], data: Any, log_z_error: float = 0.0, batch: int = 1000
) -> Estimate:
    """mean -log p(x) over data (n, ...), with its standard error, joined with that of log Z where log Z is an estimate.

    Args:
        log_density: (m, ...) -> (m,); of a GEBM log q(x) - E(x) - log Z, q the base's density.
    """
    values = -torch.cat([log_density(part).double() for part in data.split(batch)])
    return Estimate(values.mean().item(), math.hypot(values.std().item() / math.sqrt(len(values)), log_z_error))
