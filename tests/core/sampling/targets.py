"""Closed-form targets to test samplers on, draws at stationarity, the z-test that judges, and one constructor for all."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import oracles
import torch
from torch import Tensor

from gebm_cli.core.sampling.kinetic import Kla
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Ula
from gebm_cli.core.sampling.make import Options, make_sampler
from gebm_cli.core.sampling.state import Sampler, State, per_chain, start
from gebm_cli.core.sampling.tempering import ReplicaExchange

PALINDROMES = ["kla-baoab", "kla-obabo", "kla-gebm"]
KINETIC = [*PALINDROMES, "kla-baobab", "kla-obabao"]  # the last two read differently backwards, and cost two gradients
UNADJUSTED = ["ula", "lm", *KINETIC]
METROPOLIS = ["mala", "hmc", "hmc-jitter", "ghmc", "rw", "ihm"]  # one test a step
EXACT = [*METROPOLIS, "isir", "ex2", "pt"]
SAMPLERS = [*UNADJUSTED, *EXACT]


def build(name: str, potential, step_size: float, friction: float = 2.0) -> Sampler:
    """The sampler of the battery's name: 5 leapfrog steps, 4 proposals, 2 local steps, 3 rungs."""
    kind, _, variant = name.partition("-")
    jitter = 0.2 if variant == "jitter" else 0.0
    options = Options(friction, variant or "baoab", 5, jitter, n_proposals=4, n_local=2, n_rungs=3)
    return make_sampler(kind, potential, step_size, options)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def advance(sampler, state: State, n_steps: int, generator: torch.Generator) -> tuple[State, float]:
    """The state after n steps, and the share of accepted moves."""
    accepted = 0.0
    for _ in range(n_steps):
        state, info = sampler.step(state, generator)
        accepted += info.accepted.double().mean().item() / n_steps
    return state, accepted


def tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of a state by name, those of its ladder included."""
    found = {k: v for k, v in state._asdict().items() if isinstance(v, Tensor)}
    below = {} if state.ladder is None else tensors(state.ladder)
    return found | {f"ladder {k}": v for k, v in below.items()}


def bitwise_equal(a: State, b: State) -> bool:
    """Every tensor of the two states is equal bit for bit."""
    x, y = tensors(a), tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


# Judges ---------------------------------------------------------------------------------------------------------------


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


# Targets --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normal:
    """N(0, I) in float64, for latents of any shape."""

    shape: tuple[int, ...]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, *self.shape, generator=generator, dtype=torch.float64)

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().flatten(1).sum(1) - 0.5 * z[0].numel() * math.log(2 * math.pi)


@dataclass(frozen=True)
class Tilt:
    """U = -log N(z; 0, I) + beta E(z), the form that every sampler takes; a subclass gives E with its gradient."""

    shape: tuple[int, ...] = (3,)
    beta: float | Tensor = 1.0

    @property
    def prior(self) -> Normal:
        return Normal(self.shape)

    def at(self, beta: float | Tensor):
        return replace(self, beta=beta)

    def energy_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def energy_at(self, z: Tensor) -> Tensor:
        return self.energy_and_grad(z)[0]

    def value(self, z: Tensor) -> Tensor:
        return self.value_and_grad(z)[0]

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        energy, gradient = self.energy_and_grad(z)
        share = per_chain(self.beta, z) if isinstance(self.beta, Tensor) else self.beta
        return self.beta * energy - self.prior.log_prob(z), z + share * gradient


@dataclass(frozen=True)
class Gaussian(Tilt):
    """E = (z - m)' A (z - m) / 2: pi is Gaussian, of precision P = I + beta A."""

    a: Tensor = field(default_factory=lambda: torch.ones(1, 1).double())
    m: Tensor = field(default_factory=lambda: torch.zeros(1).double())

    @classmethod
    def of(cls, precision: Tensor, mean: Tensor) -> Gaussian:
        """The target of this precision and mean."""
        a = precision.double() - torch.eye(len(mean)).double()
        return cls((len(mean),), 1.0, a, torch.linalg.pinv(a) @ precision.double() @ mean.double())

    @classmethod
    def random(cls, dim: int, lowest: float, highest: float) -> Gaussian:
        """A rotated Gaussian away from 0, with the eigenvalues of P spread from lowest to highest."""
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(0), dtype=torch.float64))
        spectrum = torch.linspace(lowest, highest, dim, dtype=torch.float64)
        return cls.of((q * spectrum) @ q.T, torch.linspace(-0.4, 0.8, dim, dtype=torch.float64))

    @property
    def precision(self) -> Tensor:
        return torch.eye(len(self.m)).double() + self.beta * self.a

    @property
    def covariance(self) -> Tensor:
        return torch.linalg.inv(self.precision)

    @property
    def mean(self) -> Tensor:
        return torch.linalg.solve(self.precision, self.beta * self.a @ self.m)

    @property
    def mean_potential(self) -> float:
        return len(self.m) / 2 + self.value(self.mean[None]).item()

    @property
    def log_partition(self) -> float:
        """log E_eta exp(-beta E)."""
        at_mode = self.value(self.mean[None]).item() - 0.5 * len(self.m) * math.log(2 * math.pi)
        return -at_mode - torch.logdet(self.precision).item() / 2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mean + self.prior.sample(n, generator) @ torch.linalg.cholesky(self.covariance).T

    def energy_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gradient = (z - self.m) @ self.a
        return ((z - self.m) * gradient).sum(1) / 2, gradient

    def assert_law(self, z: Tensor, what: str) -> None:
        assert_moments(z, self.mean, self.covariance, what)


@dataclass(frozen=True)
class Separable(Tilt):
    """E(z) = sum e(z_i): every coordinate has the same law, known by quadrature; `one` gives e and its slope."""

    def one(self, z: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def energy_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        energy, slope = self.one(z)
        return energy.flatten(1).sum(1), slope

    @property
    def law(self) -> tuple[Tensor, Tensor]:
        """A grid without 0, and the probabilities of its points: the rule converges faster than any power here."""
        grid = torch.linspace(-10, 10, 20_000, dtype=torch.float64)
        return grid, (-grid.square() / 2 - self.beta * self.one(grid)[0]).softmax(0)

    def expect(self, f) -> float:
        """E f(z_i)."""
        grid, weight = self.law
        return (weight * f(grid)).sum().item()

    @property
    def mean_potential(self) -> float:
        one = self.expect(lambda z: z.square() / 2 + self.beta * self.one(z)[0])
        return math.prod(self.shape) * (one + math.log(2 * math.pi) / 2)

    @property
    def log_partition(self) -> float:
        """log E_eta exp(-beta E)."""
        grid, _ = self.law
        eta = (-grid.square() / 2).log_softmax(0)
        return math.prod(self.shape) * (eta - self.beta * self.one(grid)[0]).logsumexp(0).item()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        grid, weight = self.law
        u = torch.rand(n, *self.shape, generator=generator, dtype=torch.float64)
        below = weight.cumsum(0) - weight / 2
        kept = weight > 1e-15
        return torch.from_numpy(np.interp(u.numpy(), below[kept].numpy(), grid[kept].numpy()))

    def assert_law(self, z: Tensor, what: str) -> None:
        """Mean, variance and third central moment of each coordinate, and those summed."""
        mean = self.expect(lambda x: x)
        away = z.flatten(1) - mean
        for p in (1, 2, 3):
            truth = self.expect(lambda x, p=p: (x - mean).pow(p))
            assert_mean(away.pow(p), torch.full((away.shape[1],), truth, dtype=torch.float64), f"{what}, moment {p}")
            assert_mean(away.pow(p).sum(1), away.shape[1] * truth, f"{what}, summed moment {p}")


@dataclass(frozen=True)
class Skewed(Separable):
    """e(z) = exp(2z) / 2 - z: a wall on the right and a slope on the left; exp(-e) is bounded."""

    def one(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (2 * z).exp() / 2 - z, (2 * z).exp() - 1


@dataclass(frozen=True)
class Ripple(Separable):
    """U(z) = z^2 / 2 + .8 cos 2z on the line."""

    shape: tuple[int, ...] = (1,)

    def one(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return 0.8 * (2 * z).cos(), -1.6 * (2 * z).sin()

    @property
    def second_moment(self) -> float:
        return self.expect(torch.square)


@dataclass(frozen=True)
class TwoModes(Separable):
    """exp(-E) = .3 N(-c, s^2) + .7 N(c, s^2); times the prior, a mixture at +-1.25 of width .6 with the same weights."""

    shape: tuple[int, ...] = (1,)
    weight: float = 0.7
    centre: float = 1.25 * 1.5625
    width: float = 0.75

    def one(self, z: Tensor) -> tuple[Tensor, Tensor]:
        away = z[..., None] - torch.tensor([-self.centre, self.centre], dtype=z.dtype)
        terms = torch.tensor([1 - self.weight, self.weight], dtype=z.dtype).log() - away.square() / 2 / self.width**2
        return -terms.logsumexp(-1), (terms.softmax(-1) * away).sum(-1) / self.width**2


class Sick:
    """A target that counts the rows asked of it, and whose value or gradient is spoilt for some chains.

    Row i belongs to chain i modulo `n_chains` (a ladder asks for all its rungs at once); `only_call` spoils one call only.
    """

    def __init__(self, target, chains=(), where="value", what=math.nan, only_call=None, n_chains=None) -> None:
        self.target, self.chains, self.where, self.what = target, set(chains), where, what
        self.only_call, self.n_chains, self.count = only_call, n_chains, Counter()

    @property
    def prior(self):
        return self.target.prior

    @property
    def beta(self):
        return self.target.beta

    @property
    def calls(self) -> int:
        return self.count["calls"]

    def at(self, beta):
        other = copy.copy(self)
        other.target = self.target.at(beta)
        return other

    def _spoilt(self, what: str, z: Tensor, *got: Tensor) -> tuple[Tensor, ...]:
        rows = [i for i in range(len(z)) if i % (self.n_chains or len(z)) in self.chains] if self.chains else []
        if rows and self.only_call in (None, self.calls) and (self.where == "value" or len(got) == 2):
            got[0 if self.where == "value" else 1][rows] = self.what
        self.count["calls"] += 1
        self.count[what] += len(z)
        return got

    def value(self, z: Tensor) -> Tensor:
        return self._spoilt("value", z, self.target.value(z))[0]

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, ...]:
        return self._spoilt("gradient", z, *self.target.value_and_grad(z))

    def energy_at(self, z: Tensor) -> Tensor:
        return self._spoilt("value", z, self.target.energy_at(z))[0]

    def energy_and_grad(self, z: Tensor) -> tuple[Tensor, ...]:
        return self._spoilt("gradient", z, *self.target.energy_and_grad(z))


# Stationarity ---------------------------------------------------------------------------------------------------------


def linear_law(sampler, k: float) -> np.ndarray:
    """On N(0, 1/k), an unadjusted sampler's stationary covariance of the position and of what it remembers, (2, 2)."""
    if isinstance(sampler, Kla):
        return oracles.splitting_law(sampler.letters, sampler.step_size, k, sampler.friction)
    eps = sampler.step_size
    if isinstance(sampler, Ula):
        return np.diag([1 / (k * (1 - eps * k / 2)), 0])
    both = math.sqrt(eps / 2)
    return np.array([[1 / k, both], [both, 1]])


def biased_covariance(sampler, target: Gaussian) -> Tensor:
    """The stationary covariance of the position for any sampler: pi's for an exact one."""
    if not isinstance(sampler, Kla | Ula | LeimkuhlerMatthews):
        return target.covariance
    spectrum, q = torch.linalg.eigh(target.precision)
    return q * torch.tensor([linear_law(sampler, k.item())[0, 0] for k in spectrum]) @ q.T


def at_stationarity(sampler, target, n: int, generator: torch.Generator) -> State:
    """n draws from the sampler's stationary law: pi on an exact one, independent on every rung; else that on a Gaussian."""
    state = sampler.init(target.sample(n, generator), generator)
    if isinstance(sampler, ReplicaExchange):
        below = [start(sampler.potential.at(b), target.at(b).sample(n, generator)) for b in sampler.betas[:-1]]
        parts = [torch.cat(p) for p in zip(*[s[:3] for s in below], strict=True)]
        return state._replace(ladder=State(*parts))
    if not isinstance(sampler, Kla | Ula | LeimkuhlerMatthews):
        return state
    spectrum, q = torch.linalg.eigh(target.precision)
    laws = np.stack([linear_law(sampler, k.item()) for k in spectrum])
    values, vectors = np.linalg.eigh(laws)
    roots = torch.from_numpy(vectors * np.sqrt(values.clip(0))[:, None, :])
    x = torch.einsum("kij,nkj->nki", roots, torch.randn(n, len(q), 2, generator=generator, dtype=torch.float64))
    z, other = target.mean + x[..., 0] @ q.T, x[..., 1] @ q.T
    kept = {"velocity": other} if isinstance(sampler, Kla) else {} if isinstance(sampler, Ula) else {"memory": other}
    return start(sampler.potential, z)._replace(**kept)
