"""KID (Binkowski et al. 2018): the unbiased MMD^2 of features with the cubic kernel, over all pairs."""

from __future__ import annotations

from torch import Tensor

from gebm_cli.core.kernels import Polynomial
from gebm_cli.core.mmd import Difference, Estimate, mmd2, relative_mmd2


def kid(x: Tensor, y: Tensor) -> Estimate:
    """KID of features x (n, d) and y (m, d), k = (x.y / d + 1)^3, with its standard error. Can be negative near zero."""
    return mmd2(x, y, Polynomial(3))


def kid_difference(reference: Tensor, x: Tensor, y: Tensor) -> Difference:
    """KID(reference, x) - KID(reference, y) with the standard error of the difference; negative when x is closer."""
    return relative_mmd2(reference, x, y, Polynomial(3))
