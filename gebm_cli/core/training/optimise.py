"""One step of each kind: critic (energy and log-partition) and base. Pure of files, schedules and printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gebm_cli.core.models.batch_norm import mixes_samples, tracked_in_parts, untracked
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.objective import Objective
from gebm_cli.core.objectives.penalties import Penalty, signs, squared_jacobian
from gebm_cli.core.parallel import Share


@dataclass(frozen=True)
class Method:
    """How a step is taken, the same at every step.

    Args:
        noise_std: both data and base samples are seen through Gaussian noise (instance noise, Sonderby et al. 2017): it keeps the
            energy from living on what sets quantised data apart from any continuous base, and not on how their mass differs.
        parts: a batch goes through the networks in so many parts, for less memory: once without gradients, so that the loss of
            the whole batch is known, then part by part with them. The gradient is that of the whole batch for every objective, at
            the cost of one more forward pass; only batch norm normalises each part by itself, and its running statistics take
            the mean of the parts' moments, once.
        bfloat16: the networks run under autocast; losses stay in float32.
    """

    objective: Objective = field(default_factory=Kale)
    penalty: Penalty = field(default_factory=Penalty)
    noise_std: float = 0.0
    share: Share = field(default_factory=Share)
    parts: int = 1
    bfloat16: bool = False

    def critic(self, energy: Energy, x: Tensor) -> Tensor:
        """What the objective reads: E + c, (n,), or features, (n, k)."""
        with self.autocast(x.device):
            outputs = energy.features(x) if self.objective.on_features else energy(x)
        if self.objective.on_features:
            return outputs.float()
        c = energy.log_partition
        return outputs.float() + (c if self.objective.learns_constant else c.detach())

    def both(self, energy: Energy, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The critic at data and at base samples: in one pass, unless batch norm would mix the two."""
        if mixes_samples(energy):
            return self.critic(energy, x), self.critic(energy, y)
        on_data, on_base = self.critic(energy, torch.cat([x, y])).split(len(x))
        return on_data, on_base

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16)

    def samples(self, base: nn.Module, prior: NormalPrior, n: int, generator: torch.Generator) -> Tensor:
        """The own n samples of the base."""
        z = self.share.of(prior.sample(n * self.share.size, generator))
        with self.autocast(z.device):
            return base(z).float()

    def noisy(self, both: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Instance noise on each of the batches."""
        if not self.noise_std:
            return both
        whole = [len(x) * self.share.size for x in both]
        noise = torch.randn(sum(whole), *both[0].shape[1:], generator=generator, device=both[0].device).split(whole)
        return [x + self.noise_std * self.share.of(e) for x, e in zip(both, noise, strict=True)]


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


def critic_step(
    energy: Energy,
    base: nn.Module,
    prior: NormalPrior,
    data: Tensor,
    optimiser: torch.optim.Optimizer,
    method: Method,
    generator: torch.Generator,
    with_penalty: bool = True,
) -> tuple[Tensor, Tensor]:
    """One ascent step of value - weight * penalty on a batch of data (n, ...) and as many base samples.

    Returns:
        the value and the penalty, two detached scalars still on the device: reading them is the caller's choice.
    """
    n, share, penalty = len(data), method.share, method.penalty
    with torch.no_grad():
        fake = method.samples(base, prior, n, generator)
    x, y = method.noisy([data, fake], generator)
    weight = penalty.weight * penalty.every if with_penalty else 0.0
    a = None
    if weight and penalty.interpolates:
        a = share.of(torch.rand(n * share.size, generator=generator, device=data.device))
    state = generator.get_state() if method.objective.scaled else None

    def jacobian(rows: slice) -> Tensor | None:
        if state is None:
            return None
        generator.set_state(state)  # every part takes its rows of the same draw
        return squared_jacobian(
            lambda p: method.critic(energy, p), x[rows], lambda k: share.of(signs(n * share.size, k, generator))[rows]
        )

    def loss(on_data: Tensor, on_base: Tensor, jacobian: Tensor | None) -> tuple[Tensor, Tensor]:
        """The value of the whole batch, and what is minimised less the gradient's penalty."""
        value = method.objective.value(on_data, on_base)
        if jacobian is not None:
            value = value * method.objective.scale(jacobian, on_data)
        if not penalty.outputs:
            return value, -value
        return value, -value + penalty.outputs * 0.5 * (on_data.square().mean() + on_base.square().mean())

    def bound(rows: slice, on_data: Tensor, on_base: Tensor) -> Tensor:
        """What these rows bring to the penalty."""
        if not weight:
            return on_data.new_zeros(())
        at = penalty.points(x[rows], y[rows], None if a is None else a[rows])
        witness: Callable[[Tensor], Tensor] = lambda p: method.objective.witness(  # noqa: E731
            method.critic(energy, p), on_data, on_base
        )
        return penalty.of(witness, at).sum() / (n * share.size)

    optimiser.zero_grad(set_to_none=True)
    terms = _Terms(jacobian, loss, bound, weight)
    if method.parts == 1 and not (share.size > 1 and weight and method.objective.on_features):
        with one_power_iteration(energy):
            on_data, on_base = map(share.together, method.both(energy, x, y))
            own = jacobian(slice(None))
            value, minimised = loss(on_data, on_base, None if own is None else share.together(own))
            penalised = bound(slice(None), on_data, on_base)
            torch.add(minimised, penalised, alpha=weight).backward()
    else:
        value, penalised = _in_parts(method, energy, x, y, terms)
    if penalty.weights:
        _decay(energy, penalty.weights / share.size)
    share.sum_gradients(energy.parameters())
    optimiser.step()
    if method.objective.clip is not None:
        _clamp(energy, method.objective.clip)
    return value.detach(), share.together(penalised.detach().view(1)).sum()


@dataclass(frozen=True)
class _Terms:
    """The terms of a critic step: of rows |J|_F^2, of all outputs the value and the loss, of rows and all outputs the penalty."""

    jacobian: Callable[[slice], Tensor | None]
    loss: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    bound: Callable[[slice, Tensor, Tensor], Tensor]
    weight: float


def _in_parts(method: Method, energy: Energy, x: Tensor, y: Tensor, terms: _Terms) -> tuple[Tensor, Tensor]:
    """Forward and backward part by part; returns the value and the penalty.

    The penalty of a kernel's witness depends on the outputs at all points, those of other parts and processes too: its gradient
    in these outputs is summed over all first, and then enters the backward pass of each part.
    """
    share, step = method.share, -(-len(x) // method.parts)
    rows = [slice(start, start + step) for start in range(0, len(x), step)]

    def outputs(r: slice) -> tuple[Tensor, ...]:
        return method.both(energy, x[r], y[r])

    with torch.no_grad(), one_power_iteration(energy):
        known = [outputs(r) for r in tracked_in_parts(energy, rows)]
    penalised = x.new_zeros(())
    pulls = [torch.zeros_like(torch.cat(side)) for side in zip(*known, strict=True)]
    with _no_power_iteration(energy):
        jacobians = [j.detach() for r in tracked_in_parts(energy, rows) if (j := terms.jacobian(r)) is not None]
        if terms.weight:
            whole = [share.together(torch.cat(side)).requires_grad_() for side in zip(*known, strict=True)]
            for r in tracked_in_parts(energy, rows):
                with one_power_iteration(energy):
                    part = terms.bound(r, *whole)
                    (terms.weight * part).backward()
                penalised = penalised + part.detach()
            if method.objective.on_features:
                pulls = [share.sum_of_own(side.grad) for side in whole if side.grad is not None]
        for i, r in enumerate(rows):
            with one_power_iteration(energy), untracked(energy):  # the pass without gradients has been tracked
                own, jacobian = outputs(r), terms.jacobian(r)
                both = zip(*[*known[:i], own, *known[i + 1 :]], strict=True)
                if jacobian is not None:
                    jacobian = share.together(torch.cat([*jacobians[:i], jacobian, *jacobians[i + 1 :]]))
                on_data, on_base = (share.together(torch.cat(side)) for side in both)
                value, minimised = terms.loss(on_data, on_base, jacobian)
                for side, pull in zip(own, pulls, strict=True):
                    minimised = minimised + (side * pull[r]).sum()
                minimised.backward()
    return value, penalised


@torch.no_grad()
def _clamp(energy: Energy, limit: float) -> None:
    for parameter in energy.parameters():
        parameter.clamp_(-limit, limit)


@torch.no_grad()
def _decay(energy: Energy, weight: float) -> None:
    """Add the gradient of weight * mean of p^2 over all parameters of the network."""
    pairs = [(p.data, p.grad) for p in energy.network.parameters() if p.grad is not None]
    count = sum(p.numel() for p, _ in pairs)
    torch._foreach_add_([g for _, g in pairs], [p for p, _ in pairs], alpha=2 * weight / count)


def base_step(
    base: nn.Module,
    energy: Energy,
    prior: NormalPrior,
    n: int,
    optimiser: torch.optim.Optimizer,
    method: Method,
    generator: torch.Generator,
    data: Tensor | None = None,
) -> Tensor:
    """One descent step of the base's loss over n latents; the energy must be frozen. Returns the loss.

    Args:
        data: the own batch, where the objective's loss needs the critic there; its value carries no gradient.
    """
    objective, share = method.objective, method.share
    on_data = scale = None
    if data is not None:
        (data,) = method.noisy([data], generator)
        on_data = share.together(method.critic(energy, data).detach())
        if objective.scaled:
            jacobian = squared_jacobian(
                lambda p: method.critic(energy, p), data, lambda k: share.of(signs(n * share.size, k, generator))
            ).detach()
            scale = objective.scale(share.together(jacobian), on_data)
    z = share.of(prior.sample(n * share.size, generator)).chunk(method.parts)
    state = generator.get_state() if method.noise_std and method.parts > 1 else None

    def outputs(latents: Tensor) -> Tensor:
        with method.autocast(latents.device):
            fake = base(latents).float()
        return method.critic(energy, method.noisy([fake], generator)[0])

    optimiser.zero_grad(set_to_none=True)
    known: list[Tensor] = []
    if method.parts > 1:
        with torch.no_grad():
            known = [outputs(part) for part in tracked_in_parts(base, z)]
    if state is not None:
        generator.set_state(state)  # the same noise again
    for i, part in enumerate(z):
        with untracked(base) if method.parts > 1 else nullcontext():
            own = outputs(part)
        on_base = share.together(torch.cat([*known[:i], own, *known[i + 1 :]]))
        loss = objective.base_loss(on_base, on_data)
        (loss if scale is None else loss * scale).backward()
    share.sum_gradients(base.parameters())
    optimiser.step()
    return (loss if scale is None else loss * scale).detach()


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


@contextmanager
def _no_power_iteration(module: nn.Module) -> Iterator[None]:
    """Within it spectral norm keeps its vectors; all else stays in training mode."""
    lists = [m for m in module.modules() if isinstance(m, parametrize.ParametrizationList)]
    modes = [p.training for p in lists]
    for p in lists:
        p.eval()
    try:
        yield
    finally:
        for p, mode in zip(lists, modes, strict=True):
            p.train(mode)


def one_power_iteration(module: nn.Module) -> parametrize.cached | nullcontext[None]:  # type: ignore[valid-type]
    """Spectral norm computed once for all the forward passes of a step; nothing where there is no parametrisation."""
    return parametrize.cached() if any(parametrize.is_parametrized(m) for m in module.modules()) else nullcontext()
