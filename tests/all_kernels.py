"""The kernels that every battery over kernels runs through: plain ones, with a linear term, and means of them."""

from __future__ import annotations

from gebm_cli.core.kernels import (
    EnergyDistance,
    Exponential,
    Gaussian,
    GaussianMixture,
    Laplace,
    MeanKernel,
    Polynomial,
    RationalQuadratic,
)

KERNELS = [
    Gaussian(0.7),
    Laplace(1.3),
    Exponential(0.8),
    Polynomial(),
    Polynomial(1),
    Polynomial(2),
    GaussianMixture(),
    GaussianMixture((0.5, 1.0), linear=0.3),
    RationalQuadratic(),
    RationalQuadratic((0.1, 1.0, 10.0), linear=1.0, bandwidth=1.7),
    EnergyDistance(),
    MeanKernel((Gaussian(0.7), Gaussian(2.0))),
    MeanKernel((Gaussian(0.7), Exponential(2.0), EnergyDistance(), RationalQuadratic(linear=0.4))),
    MeanKernel((Gaussian(0.7), Laplace(1.3), Polynomial(2), MeanKernel((EnergyDistance(), Laplace(0.5))))),
]
