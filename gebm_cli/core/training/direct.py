"""Objectives without a critic: maximum likelihood, contrastive divergence, and a fixed kernel on the data (GMMN)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.kernels import Kernel
from gebm_cli.core.mmd import mmd2_loss
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.parallel import Share
from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.training.optimise import frozen, one_power_iteration


@dataclass
class Models:
    """What a loss may use: the network it trains and those it does not. `chains` persist from step to step, (n, ...), or None."""

    base: nn.Module
    energy: Energy
    prior: NormalPrior
    share: Share
    generator: torch.Generator
    chains: Tensor | None = None

    def latents(self, n: int) -> Tensor:
        return self.share.of(self.prior.sample(n * self.share.size, self.generator))


class Direct(ABC):
    """A loss of one network on a batch of data, (n, ...) -> (); its gradients add up over the processes to the whole batch's."""

    needs_density: bool = False  # of the base: log_prob and inverse

    @abstractmethod
    def loss(self, models: Models, data: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class MaximumLikelihood(Direct):
    """-mean log q(x), in nats, for a base with a density."""

    needs_density = True

    def loss(self, models: Models, data: Tensor) -> Tensor:
        density: Any = models.base
        return -models.share.together(density.log_prob(data)).mean()


@dataclass(frozen=True)
class FixedKernelMmd(Direct):
    """Unbiased MMD^2 of data and base samples themselves, for a fixed kernel (generative moment matching: Li et al. 2015)."""

    kernel: Kernel

    def loss(self, models: Models, data: Tensor) -> Tensor:
        fake = models.base(models.latents(len(data)))
        x, y = (models.share.together(side.flatten(1)) for side in (data, fake))
        return mmd2_loss(x, y, self.kernel)


@dataclass(frozen=True)
class ContrastiveDivergence(Direct):
    """mean E(data) - mean E(negatives), negatives after `n_steps` of MALA on the model from the data (Hinton 2002), or, with
    `persistent`, from where they stopped at the last step (Tieleman 2008). Its gradient is that of -log likelihood when
    the negatives follow the model.

    With `of_base` the model is the base's own density, E = -log q, and the chains move in data space. Otherwise it is
    q(x) exp(-E(x)) on the frozen base, and they move on the latent, begun at the data's latents (which needs the inverse of a
    flow) or, persistent, at draws from the prior (which any base has).
    """

    of_base: bool
    persistent: bool
    n_steps: int = 10
    step_size: float = 0.01

    def loss(self, models: Models, data: Tensor) -> Tensor:
        start = self._start(models, data)
        with frozen(models.base, models.energy), one_power_iteration(models.energy):
            end = self._chains(models, start)
        if self.persistent:
            models.chains = end
        if self.of_base:
            density: Any = models.base
            on_data, on_model = (-density.log_prob(torch.cat([data, end]))).split(len(data))
        else:
            with torch.no_grad():
                fake = models.base(end)
            on_data, on_model = models.energy(torch.cat([data, fake])).split(len(data))
        return models.share.together(on_data).mean() - models.share.together(on_model).mean()

    def _start(self, models: Models, data: Tensor) -> Tensor:
        if self.persistent and models.chains is not None and len(models.chains) == len(data):
            return models.chains
        if self.of_base:
            return data
        if self.persistent:
            return models.latents(len(data))
        density: Any = models.base
        with torch.no_grad():
            return density.inverse(data)[0]

    def _chains(self, models: Models, z: Tensor) -> Tensor:
        """The states after `n_steps`; the noise is that of the whole batch's chains, from a stream that all processes share."""
        noise = torch.Generator(models.generator.device)
        seed = torch.randint(2**62, (1,), generator=models.generator, device=models.generator.device)
        noise.manual_seed(int(seed))
        potential: Any = DataPotential(models.base) if self.of_base else None
        if potential is None:
            potential = LatentPotential(models.prior, models.base, models.energy, 1.0)
        rows = OwnRows(potential, models.share)
        sampler = Mala(rows, self.step_size)
        training = models.energy.training
        models.energy.eval()  # no power iterations of spectral norm
        state = sampler.init(rows.whole(z), noise)
        for _ in range(self.n_steps):
            state, _ = sampler.step(state, noise)
        models.energy.train(training)
        return models.share.of(state.position)


@dataclass(frozen=True)
class OwnRows:
    """A potential for the chains of the whole batch that asks the networks about the own ones alone: the others see U = 0, so that
    a sampler draws noise for all of them, and what becomes of them here is nobody's concern."""

    potential: Any
    share: Share

    def whole(self, own: Tensor) -> Tensor:
        """(n, ...) -> (n size, ...), zero in the rows of others."""
        if self.share.size == 1:
            return own
        padded = own.new_zeros(len(own) * self.share.size, *own.shape[1:])
        self.share.of(padded).copy_(own)
        return padded

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.potential.value_and_grad(self.share.of(z))
        return self.whole(value), self.whole(gradient)

    def value(self, z: Tensor) -> Tensor:
        return self.whole(self.potential.value(self.share.of(z)))


@dataclass(frozen=True)
class DataPotential:
    """U(x) = -log q(x) of a base with a density, in data space."""

    base: Any

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = -self.base.log_prob(z).double()
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        return -self.base.log_prob(z).double()
