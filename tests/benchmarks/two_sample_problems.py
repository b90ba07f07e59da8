"""The reference problems of kernel two-sample tests (Liu et al. 2020, section 7): pairs of samples that differ, or do not."""

from __future__ import annotations

import torch
from torch import Tensor


def blob(n: int, generator: torch.Generator, different: bool = False) -> Tensor:
    """(n, 2): nine modes 1 apart, covariance .03 I; `different` correlates each mode, from -.026/.03 to +.026/.03."""
    mode = torch.randint(0, 9, (n,), generator=generator)
    centre = torch.stack([mode // 3, mode % 3], dim=1).double()
    off = torch.tensor([-0.020, -0.022, -0.024, -0.026, 0.0, 0.020, 0.022, 0.024, 0.026], dtype=torch.float64)
    rho = off[mode] / 0.03 if different else torch.zeros(n, dtype=torch.float64)
    e = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    second = rho * e[:, 0] + (1 - rho.square()).sqrt() * e[:, 1]
    return centre + 0.03**0.5 * torch.stack([e[:, 0], second], dim=1)


def hdgm(n: int, generator: torch.Generator, different: bool = False, d: int = 10) -> Tensor:
    """(n, d): two modes, at 0 and at (.5, ..., .5), unit covariance; `different` correlates coordinates 1 and 2 by +.5 and -.5."""
    mode = torch.randint(0, 2, (n,), generator=generator)
    rho = torch.where(mode == 0, 0.5, -0.5).double() * (1.0 if different else 0.0)
    e = torch.randn(n, d, generator=generator, dtype=torch.float64)
    e[:, 1] = rho * e[:, 0] + (1 - rho.square()).sqrt() * e[:, 1]
    return e + 0.5 * mode[:, None]
