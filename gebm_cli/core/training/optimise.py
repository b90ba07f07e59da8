"""One step of each kind: critic (energy and log-partition) and base. Pure of files, schedules and printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import base_loss, gradient_penalty, kale


def adam(
    module: nn.Module, lr: float, betas: tuple[float, float], lr_log_partition: float | None = None
) -> torch.optim.Adam:
    """Adam on a module's parameters; an energy's log-partition gets its own group and rate."""
    named = dict(module.named_parameters())
    log_partition = named.pop("log_partition", None)
    groups: list[dict[str, object]] = [{"params": list(named.values()), "lr": lr}]
    if log_partition is not None:
        groups.append({"params": [log_partition], "lr": lr if lr_log_partition is None else lr_log_partition})
    return torch.optim.Adam(groups, betas=betas)


def linear_decay(steps: int) -> Callable[[int], float]:
    """Factor on the learning rate: 1 for the first half of `steps`, then falling linearly to 0."""
    return lambda step: min(1.0, 2.0 * (1.0 - step / steps))


def energy_step(
    energy: Energy,
    base: nn.Module,
    prior: NormalPrior,
    data: Tensor,
    optimiser: torch.optim.Optimizer,
    penalty_weight: float,
    generator: torch.Generator,
    noise_std: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One ascent step of F(E, c) - weight * penalty on a batch of data (n, ...) and as many base samples.

    With `noise_std` both are seen through Gaussian noise (instance noise, Sonderby et al. 2017): it keeps the energy from
    living on what sets quantised data apart from any continuous base, and not on how their mass differs.

    Returns:
        F and the penalty, two detached scalars still on the device: reading them is the caller's choice.
    """
    n = len(data)
    with torch.no_grad():
        both = torch.cat([data, base(prior.sample(n, generator))])
    both = _noisy(both, noise_std, generator)
    weight = torch.rand(n, generator=generator, device=data.device) if penalty_weight else None
    with one_power_iteration(energy):
        on_data, on_base = energy(both).split(n)
        value = kale(on_data, on_base, energy.log_partition)
        penalty = value.new_zeros(()) if weight is None else gradient_penalty(energy, both[:n], both[n:], weight)
        optimiser.zero_grad(set_to_none=True)
        torch.add(-value, penalty, alpha=penalty_weight).backward()
    optimiser.step()
    return value.detach(), penalty.detach()


def base_step(
    base: nn.Module,
    energy: Energy,
    prior: NormalPrior,
    n: int,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    noise_std: float = 0.0,
) -> Tensor:
    """One descent step of the base on -log mean exp(-E(B(z))) over n latents; the energy must be frozen. Returns the loss."""
    loss = base_loss(energy(_noisy(base(prior.sample(n, generator)), noise_std, generator)))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def _noisy(x: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
    if not noise_std:
        return x
    return x + noise_std * torch.randn(x.shape, generator=generator, device=x.device)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within it no parameter of the modules asks for a gradient, which saves a third of the backward pass."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def one_power_iteration(module: nn.Module) -> parametrize.cached | nullcontext[None]:  # type: ignore[valid-type]
    """Spectral norm computed once for all the forward passes of a step; nothing where there is no parametrisation."""
    return parametrize.cached() if any(parametrize.is_parametrized(m) for m in module.modules()) else nullcontext()
