"""Bases with a density: invertible maps x = B(z) of a normal latent, whose log-density is exact, and energies made of them."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.errors import UsageError

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class Flow(nn.Module):
    """An invertible base: z ~ N(0, I) in `dim` dimensions is mapped to data with as many numbers.

    log p(x) = log N(z; 0, I) + log |det dz/dx|,  z = B^-1(x). All of it is computed in the float type of what comes in, which
    must be the parameters' own. Every flow here is the identity (an image flow: one fixed function of each number) when it is
    built, because the last layer of each network starts at zero; so training starts from N(0, I), in any depth.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, z: Tensor) -> Tensor:
        """x = B(z), the sampling direction: latents (n, dim) -> data (n, ...)."""
        raise NotImplementedError

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = B^-1(x), (n, ...) -> (n, dim), and log |det dz/dx|, (n,)."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (n, ...) -> (n,), differentiable in x and in the parameters."""
        z, log_det = self.inverse(x)
        return NormalPrior(self.dim).log_prob(z) + log_det


# --------------------------------------------------------------------------------------------------- affine couplings


class RealNvp(Flow):
    """Affine couplings between the even and the odd coordinates, which take turns (Dinh et al. 2017, eqs. 4, 5).

    Towards the latent each of the `n_blocks` couplings leaves one half x_a alone and moves the other,

        x_b <- x_b * exp(s(x_a)) + t(x_a),    log |det| = sum_j s_j(x_a),

    s with tanh, t with ReLU. The even coordinates are left alone first, so at least two couplings move everything.
    With `depth` linear layers between two hidden ones: 1 is the d-100-100-d of the GEBM paper's UCI experiments.

    Deviation: the released code feeds all d coordinates, half of them zeroed, and masks half of the outputs; here the networks
    have only the coordinates that matter. It leaves s unbounded, see `_Coupling`.

    Raises:
        UsageError: dim is 1, which leaves no two halves.
    """

    def __init__(self, dim: int, n_blocks: int = 5, width: int = 100, depth: int = 1) -> None:
        super().__init__(dim)
        _require_two(dim)
        halves = (dim - dim // 2, dim // 2)
        self.couplings = nn.ModuleList(
            _Coupling(halves[i % 2], halves[1 - i % 2], width, depth) for i in range(n_blocks)
        )

    def forward(self, z: Tensor) -> Tensor:
        turn = len(self.couplings) % 2
        given, moved = z[:, turn::2], z[:, 1 - turn :: 2]
        for coupling in reversed(self.couplings):
            given, moved = moved, given
            log_scale, shift = coupling(given)
            moved = (moved - shift) * torch.exp(-log_scale)
        return _interleave(given, moved)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given, moved = x[:, ::2], x[:, 1::2]
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            log_scale, shift = coupling(given)
            moved = moved * torch.exp(log_scale) + shift
            log_det = log_det + log_scale.sum(1)
            given, moved = moved, given
        even, odd = (moved, given) if len(self.couplings) % 2 else (given, moved)
        return _interleave(even, odd), log_det


class _Coupling(nn.Module):
    """s and t of one coupling: the half that is given -> (log-scale, shift) of the half that is moved.

    s = a tanh(network), a learned for each coordinate from 1 (after Dinh et al. 2017). The network alone is bounded only by the
    sum of its last weights, of which a hundred make exp overflow at the first outlier that turns all units one way, and every
    step after it; thus the scale stays within exp(+-|a|) wherever a chain may go, and training can still widen it.
    """

    def __init__(self, n_given: int, n_moved: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = _network(n_given, n_moved, width, depth, nn.Tanh)
        self.shift = _network(n_given, n_moved, width, depth, nn.ReLU)
        self.bound = nn.Parameter(torch.ones(n_moved))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        return self.bound * torch.tanh(self.scale(given)), self.shift(given)


def _network(n_in: int, n_out: int, width: int, depth: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(n_in, width), activation()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, zero_start(nn.Linear(width, n_out)))


def zero_start(layer: Layer) -> Layer:
    """The layer with all its numbers at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """(n, k) and (n, k or k - 1) -> (n, d): the coordinates in their own order again."""
    padded = nn.functional.pad(odd, (0, even.shape[1] - odd.shape[1]))
    return torch.stack([even, padded], 2).flatten(1)[:, : even.shape[1] + odd.shape[1]]


def _require_two(dim: int) -> None:
    if dim < 2:
        raise UsageError(f"data: a flow needs points of at least 2 numbers, got {dim}; use kind mlp")


# ------------------------------------------------------------------------------------------------- autoregressive flows


class Maf(Flow):
    """Masked autoregressive flow (Papamakarios, Pavlakou and Murray 2017, eqs. 4 and 5), the order reversed between blocks.

    Towards the latent u_i = (x_i - mu_i) exp(-alpha_i), mu_i and alpha_i functions of x_1 ... x_{i-1}; log |det| = -sum_i alpha_i.
    The density takes one pass of each of the `n_blocks` networks, a sample takes `dim` passes of each.

    Raises:
        UsageError: dim is 1.
    """

    def __init__(self, dim: int, n_blocks: int, width: int) -> None:
        super().__init__(dim)
        _require_two(dim)
        self.blocks = nn.ModuleList(_Made(dim, width) for _ in range(n_blocks))

    def forward(self, z: Tensor) -> Tensor:
        z = z.flip(1) if len(self.blocks) % 2 else z
        for block in reversed(self.blocks):
            u, z = z.flip(1), z.new_zeros(len(z), 0)
            for i in range(self.dim):  # columns are appended, not written in place: autograd needs the ones before
                mean, log_scale = block(nn.functional.pad(z, (0, self.dim - i)))
                z = torch.cat([z, u[:, i : i + 1] * torch.exp(log_scale[:, i : i + 1]) + mean[:, i : i + 1]], 1)
        return z

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            mean, log_scale = block(x)
            x = ((x - mean) * torch.exp(-log_scale)).flip(1)
            log_det = log_det - log_scale.sum(1)
        return x.flip(1) if len(self.blocks) % 2 else x, log_det


class _Made(nn.Module):
    """x (n, d) -> mu, alpha (n, d), the i-th of each from x_1 ... x_{i-1} alone (MADE: Germain et al. 2015, eqs. 12, 13).

    A unit sees those before it whose degree, the number of coordinates it may know, is at most its own. Two hidden layers with
    tanh; alpha = a tanh(network) for the reason that `_Coupling` gives.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        seen = torch.arange(1, dim + 1)  # input i may be seen by units of degree i and more
        hidden = 1 + torch.arange(width) * (dim - 1) // width
        output = zero_start(_MaskedLinear(hidden, (seen - 1).repeat(2)))  # output i sees degrees up to i - 1
        layers = (_MaskedLinear(seen, hidden), nn.Tanh(), _MaskedLinear(hidden, hidden), nn.Tanh(), output)
        self.network = nn.Sequential(*layers)
        self.bound = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.network(x).chunk(2, 1)
        return mean, self.bound * torch.tanh(raw)


class _MaskedLinear(nn.Linear):
    """A linear layer whose unit j sees the inputs of degree at most its own."""

    mask: Tensor

    def __init__(self, degrees_in: Tensor, degrees_out: Tensor) -> None:
        super().__init__(len(degrees_in), len(degrees_out))
        # A buffer of the weights' own type: an average over training steps (EMA) leaves it as it is, whereas it rounds integers.
        self.register_buffer("mask", (degrees_out[:, None] >= degrees_in).to(self.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


# -------------------------------------------------------------------------------------------------- an energy of two flows


class DensityRatio(nn.Module):
    """E(x) = log q(x) - log p(x), q the density of the base and p that of an own flow, so that q exp(-E) = p.

    The log-partition is 0 whatever the parameters: KALE then fits p with q only as a proposal, and -log p is the exact negative
    log-likelihood of the tilted base (the released code's CombinedDiscriminator, for density estimation in Arbel et al. 2021).

    The base is the live object, not a copy, and no submodule: parameters() and state_dict() are those of the own flow alone, and
    whoever trains, loads or moves the base changes E with it. `copy.deepcopy` of the energy alone keeps that same base; copied
    after the base and together with it, the copy has the copied base. In E the base's parameters are constants in the float type
    and on the device of x: gradients reach x and the own flow, never the base's parameters, since KALE's gradient in the base
    holds E fixed (Arbel et al. 2021, section 3).

    Raises:
        UsageError: the base has no density, or is one of other data.
    """

    def __init__(self, flow: Flow, base: nn.Module | None) -> None:
        super().__init__()
        if not isinstance(base, Flow):
            raise UsageError("energy.kind: flow needs a base with a density; use base.kind realnvp or maf")
        if base.dim != flow.dim:
            raise UsageError(f"energy.kind: flow of {flow.dim} numbers does not fit a base of {base.dim}")
        self.flow = flow
        self._base = _Live(base)

    @property
    def base(self) -> Flow:
        """The base whose density is q."""
        return self._base.flow

    def forward(self, x: Tensor) -> Tensor:
        """E(x), (n, d) -> (n,)."""
        held = _LogProb(self.base)
        numbers = [*held.named_parameters(), *held.named_buffers()]
        constants = {name: number.detach().to(x) for name, number in numbers}
        return torch.func.functional_call(held, constants, (x,)) - self.flow.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (n, d) -> (n,): the normalised log-density of the base tilted by this energy."""
        return self.flow.log_prob(x)


class _LogProb(nn.Module):
    """A flow's log-density as a module's forward, which is what `functional_call` calls."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)


class _Live:
    """A flow that the module holding this neither registers nor copies."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def __deepcopy__(self, memo: dict[int, Any]) -> _Live:
        return _Live(memo.get(id(self.flow), self.flow))
