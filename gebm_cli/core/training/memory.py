"""How much memory a training stage will take, told before it is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gebm_cli.core.training.loop import Training


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: the networks with their gradients and Adam's two averages, what the backward pass keeps, the data."""

    networks: int
    activations: int
    data: int

    @property
    def total(self) -> int:
        return self.networks + self.activations + self.data


def estimate(training: Training, batch_size: int) -> Memory:
    """Memory of a stage from one step of each kind at `training`'s own, smaller batch; the networks change by that step.

    What autograd keeps for the backward passes (also of the penalty's) grows in proportion to the batch. Not counted: torch
    itself, and what kernels use for an instant.
    """
    n = training.batches.batch_size
    kept = _kept_by_a_step(training)
    if training.train_base and training.direct is None:
        # The next is then a step of the base.
        training.position_in_round = training.schedule.critic_steps_before(training.step)
        kept = max(kept, _kept_by_a_step(training))
    numbers = sum(p.numel() * p.element_size() for p in _parameters(training))
    trained = sum(
        p.numel() * p.element_size() for o in training._optimisers() for g in o.param_groups for p in g["params"]
    )
    averaged = sum(p.numel() * p.element_size() for p in training.base.parameters()) if training.averaged else 0
    data = training.batches.data
    held = data.nbytes if isinstance(data, Tensor) else 0
    return Memory(numbers + 3 * trained + averaged, kept * batch_size // n, held)


def _kept_by_a_step(training: Training) -> int:
    """Bytes of distinct tensors, other than parameters, that autograd keeps during one optimiser call."""
    own = {p.untyped_storage().data_ptr() for p in _parameters(training)}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        training.advance()
    return sum(seen.values())


def _parameters(training: Training) -> list[Tensor]:
    return [*training.energy.parameters(), *training.base.parameters()]
