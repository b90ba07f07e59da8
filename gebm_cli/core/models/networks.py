"""Bases and energies: plain modules. A base maps latents (n, d) to data in [-1, 1]; an energy maps data (n, ...) to (n,).

Here are those for points and what all have in common; the networks for images are in `convolutional` and `residual`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gebm_cli.core.models.batch_norm import norms
from gebm_cli.core.models.spectral import Spectral, normalised


class Energy(nn.Module):
    """An energy E and its log-partition c: the model weighs a point of the base by exp(-E(x) - c).

    c is a scalar parameter, kept with the network so that no checkpoint can lose it.

    Attributes:
        holds_statistics: batch norm keeps its running statistics, and uses them, in training mode too. An energy is a function of
            one sample; with moments of the batch another one would be trained than is sampled, and data and base samples would
            be normalised apart. Deviation: the released GEBM code does that, and samples with running averages.
    """

    holds_statistics = False

    def __init__(self, network: nn.Module, floor: float | None = None) -> None:
        super().__init__()
        self.network = network
        self.floor = floor
        self.log_partition = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """E(x), (n, ...) -> (n,), not below the floor, where there is one; its gradient is 0 there."""
        energy = self.network(x).flatten()
        return energy if self.floor is None else energy.clamp_min(self.floor)

    def train(self, mode: bool = True) -> Energy:
        super().train(mode)
        if self.holds_statistics:
            for norm in norms(self):
                norm.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """The network's outputs for a kernel, (n, ...) -> (n, k), where it has k of them."""
        return self.network(x).flatten(1)


class Circle(nn.Module):
    """x = z / |z|: uniform on the unit circle for z ~ N(0, I) in the plane."""

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.normalize(z, dim=1)


def mlp(n_in: int, n_out: int, width: int, depth: int, spectral: Spectral = "none") -> nn.Sequential:
    """`depth` hidden layers of `width` units with SiLU, smooth so that second derivatives exist; `spectral` is of every layer."""
    layers: list[nn.Module] = []
    for wide in [width] * depth:
        layers += [normalised(nn.Linear(n_in, wide), spectral), nn.SiLU()]
        n_in = wide
    return nn.Sequential(*layers, normalised(nn.Linear(n_in, n_out), spectral))


def freeze(network: nn.Module, own: bool = True) -> nn.Module:
    """The network ready to be sampled: eval mode, no gradient of any weight, every normalised weight computed once.

    Spectral norm divides the weights at each call, although in eval mode the result never changes; it is taken out and leaves the
    same numbers. `own` networks also take the channels-last layout: on a CPU 5 to 14 % faster, other rounding. A user's own module
    is left as it is but for eval mode: other layouts break modules that call `view`. Changes the module in place and returns it.
    """
    network.eval().requires_grad_(
        False
    )  # before anything is taken out: in training mode spectral norm would change once more
    if not own:
        return network
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    network.to(memory_format=torch.channels_last)
    return network.requires_grad_(False)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in module.parameters())
