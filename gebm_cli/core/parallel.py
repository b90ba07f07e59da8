"""A batch shared by several processes, with the gradient of the whole batch in each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The part of every batch that this process works on: the rows rank, rank + size, ... of the whole.

    All processes draw the same random numbers for the whole batch and keep their rows, and every loss is taken over the outputs
    of all, of which only the own ones carry a gradient. The sum of the gradients over the processes is then exactly the gradient
    of the loss of the whole batch, also for losses that are no means over samples, such as log-mean-exp and MMD.
    """

    rank: int = 0
    size: int = 1

    def of(self, whole: Tensor) -> Tensor:
        """The own rows."""
        return whole[self.rank :: self.size] if self.size > 1 else whole

    def together(self, own: Tensor) -> Tensor:
        """The outputs of all processes, (n, ...) -> (n size, ...); gradients flow into the own ones alone."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own
        return torch.stack(parts, 1).flatten(0, 1)

    def gathered(self, own: Tensor) -> Tensor:
        """What all processes have, (...) -> (size, ...); gradients flow from the losses of all into the own one. For what every
        output depends on, such as moments of the batch; all processes must call it, and its backward pass, in the same order."""
        if self.size == 1:
            return own.unsqueeze(0)
        empty = torch.zeros_like(own)
        return _Sum.apply(torch.stack([own if rank == self.rank else empty for rank in range(self.size)]))

    @torch.no_grad()
    def sum_of_own(self, gradient: Tensor) -> Tensor:
        """The own rows of a gradient in the outputs of all, (n size, ...) -> (n, ...), summed over the processes."""
        if self.size > 1:
            dist.all_reduce(gradient)
        return self.of(gradient)

    @torch.no_grad()
    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what the first one has, in place: for what each computes for itself and decides by, where a last bit
        of difference would let them take other paths."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))


class _Sum(torch.autograd.Function):
    """The sum over all processes, which is its own transpose, so that derivatives of every order are such sums."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Sum.apply(g)
