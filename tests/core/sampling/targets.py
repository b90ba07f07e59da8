"""Closed-form targets to test samplers on, the z-test that judges them, and one constructor for all samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.sampling.samplers import Hmc, Kla, Mala, State, Ula, make_sampler

SAMPLERS = ["ula", "mala", "hmc", "kla-baoab", "kla-gebm"]
METROPOLIS = ["mala", "hmc"]
KINETIC = ["kla-baoab", "kla-gebm"]


def build(name: str, potential, step_size: float, friction: str | float = "critical") -> Ula | Mala | Hmc | Kla:
    """The sampler of the battery's name; HMC with 5 leapfrog steps."""
    kind, _, scheme = name.partition("-")
    return make_sampler(kind, potential, step_size, friction, scheme or "baoab", n_leapfrog=5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def advance(sampler, state: State, n_steps: int, generator: torch.Generator) -> tuple[State, float]:
    """The state after n steps, and the share of accepted moves."""
    accepted = 0.0
    for _ in range(n_steps):
        state, info = sampler.step(state, generator)
        accepted += info.accepted.double().mean().item() / n_steps
    return state, accepted


def bitwise_equal(a: State, b: State) -> bool:
    """Every tensor of the two states is equal bit for bit."""
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_mean(values: Tensor, truth: Tensor | float, what: str) -> None:
    """Independent rows have this mean: |z| < 4 in every column, z with the rows' standard error. A NaN fails."""
    values = values.double().reshape(len(values), -1)
    truth = torch.as_tensor(truth, dtype=torch.float64).flatten()
    mean = values.mean(0)
    z = (mean - truth) / (values.std(0) / math.sqrt(len(values)))
    worst = int(z.abs().nan_to_num(math.inf).argmax())
    message = f"{what}: z {z[worst]:.2f}, the worst of {len(z)}; mean {mean[worst]:.5f}, expected {truth[worst]:.5f}"
    assert (z.abs() < 4).all(), message


def assert_moments(z: Tensor, mean: Tensor, covariance: Tensor, what: str) -> None:
    """The rows of z have this mean and this covariance, entry by entry, and this total variance."""
    centred = z.double() - mean
    assert_mean(centred, torch.zeros_like(mean), f"{what}, mean")
    assert_mean(centred[:, :, None] * centred[:, None, :], covariance, f"{what}, covariance")
    assert_mean(centred.square().sum(1), covariance.trace().item(), f"{what}, trace of the covariance")


@dataclass(frozen=True)
class Gaussian:
    """U(z) = (z - m)' K (z - m) / 2, the law N(m, K^-1)."""

    precision: Tensor
    mean: Tensor

    @classmethod
    def random(cls, dim: int, lowest: float, highest: float, seed: int = 0) -> Gaussian:
        """A rotated Gaussian away from 0, with the eigenvalues of K spread from lowest to highest."""
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(seed), dtype=torch.float64))
        spectrum = torch.linspace(lowest, highest, dim, dtype=torch.float64)
        return cls((q * spectrum) @ q.T, torch.linspace(-1.0, 2.0, dim, dtype=torch.float64))

    @property
    def covariance(self) -> Tensor:
        return torch.linalg.inv(self.precision)

    @property
    def mean_potential(self) -> float:
        return len(self.mean) / 2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        root = torch.linalg.cholesky(self.covariance)
        return self.mean + torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64) @ root.T

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gradient = (z - self.mean) @ self.precision
        return ((z - self.mean) * gradient).sum(1).double() / 2, gradient


@dataclass(frozen=True)
class LogGamma:
    """z = log of Gamma(2) draws, independent: U(z) = sum e^z - 2 z. Skewed to the left, and a wall on the right."""

    dim: int

    @property
    def cumulants(self) -> tuple[float, float, float]:
        """Mean, variance and third central moment of a coordinate: polygamma 0, 1 and 2 at 2."""
        two = torch.tensor(2.0, dtype=torch.float64)
        return tuple(torch.special.polygamma(k, two).item() for k in range(3))

    @property
    def mean_potential(self) -> float:
        return self.dim * (2.0 - 2.0 * self.cumulants[0])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(n, self.dim, 2, generator=generator, dtype=torch.float64)
        return (-torch.log1p(-uniform)).sum(2).log()

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z.exp() - 2 * z).flatten(1).sum(1).double(), z.exp() - 2


@dataclass(frozen=True)
class TwoModes:
    """(1 - w) N(-c, s^2) + w N(c, s^2) on the line."""

    weight: float = 0.7
    centre: float = 1.25
    width: float = 0.6

    @property
    def right(self) -> float:
        """P(z > 0)."""
        inside = 0.5 * (1 + math.erf(self.centre / self.width / math.sqrt(2)))
        return self.weight * inside + (1 - self.weight) * (1 - inside)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        away = z - torch.tensor([-self.centre, self.centre], dtype=z.dtype)
        log_w = torch.tensor([1 - self.weight, self.weight], dtype=z.dtype).log()
        terms = log_w - away.square() / (2 * self.width**2)
        gradient = (terms.softmax(1) * away).sum(1, keepdim=True) / self.width**2
        return -terms.logsumexp(1).double(), gradient


@dataclass(frozen=True)
class Ripple:
    """U(z) = z^2 / 2 + .8 cos 2z on the line."""

    @property
    def second_moment(self) -> float:
        """E z^2 by the trapezoidal rule, which converges faster than any power here."""
        z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
        weight = (-self.value_and_grad(z[:, None])[0]).exp()
        return (weight * z.square()).sum().item() / weight.sum().item()

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z.square() / 2 + 0.8 * (2 * z).cos()).sum(1).double(), z - 1.6 * (2 * z).sin()


class Sick:
    """A target whose value or gradient is spoilt for some chains, at every call or at one call only."""

    def __init__(self, target, chains: list[int], where: str, what: float, only_call: int | None = None) -> None:
        self.target, self.chains, self.where, self.what, self.only_call = target, chains, where, what, only_call
        self.calls = 0

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.target.value_and_grad(z)
        if self.only_call in (None, self.calls):
            (value if self.where == "value" else gradient)[self.chains] = self.what
        self.calls += 1
        return value, gradient
