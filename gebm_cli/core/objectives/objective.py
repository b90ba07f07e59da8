"""What a base and its critic are trained by: two losses as pure functions of what the critic says.

Sign convention of all of them: the critic is an energy, low where data are. `on_data` and `on_base` are E + c at data points
and at base samples, (n,) and (m,), or, for objectives with a kernel, the critic's features there, (n, k) and (m, k).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Objective(ABC):
    """A critic's value, which the critic maximises, and the loss of the base."""

    on_features: bool = False  # the critic's outputs are features for a kernel, not energies
    learns_constant: bool = True  # the value depends on c; where it does not, c stays where it is
    base_sees_data: bool = False  # the base's loss needs the critic at data points too
    clip: float | None = None  # every weight of the critic is clamped to [-clip, clip] after each of its steps
    scaled: bool = False  # both losses are multiplied by `scale`

    @abstractmethod
    def value(self, on_data: Tensor, on_base: Tensor) -> Tensor:
        """What the critic maximises, a scalar; 0 in expectation at P = Q for the objectives that estimate a divergence."""

    @abstractmethod
    def base_loss(self, on_base: Tensor, on_data: Tensor | None = None) -> Tensor:
        """What the base minimises, a scalar; `on_data` is given where `base_sees_data`."""

    def witness(self, at: Tensor, on_data: Tensor, on_base: Tensor) -> Tensor:
        """The function whose gradient a penalty bounds, (p,), at points where the critic says `at`: the energy itself, or the
        witness of a kernel."""
        return at

    def scale(self, jacobian: Tensor, on_data: Tensor) -> Tensor:
        """A factor of both losses, from |J|_F^2 of the critic at each data point, (n,); where `scaled`."""
        raise NotImplementedError
