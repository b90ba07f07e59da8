"""Batch norm over a batch that several processes share, on any device, differentiable as often as a penalty needs; its running
statistics where a batch comes in parts; and batch norm in an energy, which is a function of one sample.

`torch.nn.SyncBatchNorm` runs on GPUs alone, and its backward pass cannot be differentiated. Here the moments of the shares are
gathered by `Share.gathered`, whose derivatives of every order are sums over the processes; all else is left to autograd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from gebm_cli.core.parallel import Share

Part = TypeVar("Part")
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """In training mode (x - m) / sqrt(v + eps) * weight + bias, (n, channels, ...) -> the same, with the moments m, v per channel
    of all processes' rows together; the shares are equal in size. In eval mode, in its state and in how its running statistics
    move (v unbiased for those) it is the nn.BatchNorm that it was made from, whose parameters and buffers it takes over."""

    def __init__(self, plain: nn.modules.batchnorm._BatchNorm, share: Share) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, False, plain.track_running_stats)
        self.affine, self.share = plain.affine, share
        self._parameters, self._buffers = plain._parameters, plain._buffers
        self.training = plain.training

    def _check_input_dim(self, input: Tensor) -> None:
        """Any (n, channels, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))  # moments of bfloat16 in float32
        own = torch.stack(torch.var_mean(wide, axes, correction=0))
        v, m = self.share.gathered(own).unbind(1)
        mean = m.mean(0)
        variance = v.mean(0) + (m - mean).square().mean(0)
        self._track(mean, variance, input.numel() // input.shape[1] * self.share.size)
        shape = [-1, *[1] * (input.dim() - 2)]
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        centred = (input - mean.view(shape)) * scale.view(shape)
        return (centred if self.bias is None else centred + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Move the running statistics to those of n numbers per channel, unless they are switched off."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), factor)
        self.running_var.lerp_((variance * (n / max(n - 1, 1))).to(self.running_var), factor)


def share_batch_norm(network: nn.Module, share: Share) -> None:
    """Put a `SharedBatchNorm` in the place of every plain batch norm below a network, where there are several processes."""
    if share.size == 1:
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in PLAIN:
                setattr(parent, name, SharedBatchNorm(child, share))  # type: ignore[arg-type]


def norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def mixes_samples(module: nn.Module) -> bool:
    """Whether an output depends on the other samples of the batch: batch norm in training mode is there."""
    return any(norm.training for norm in norms(module))


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of batch norm to the mean over batches of each batch's moments; all else is as before."""
    before, training = [(norm, norm.momentum) for norm in norms(network)], network.training
    network.eval()  # no power iterations of spectral norm
    for norm, _ in before:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for batch in batches:
        network(batch)
    for norm, momentum in before:
        norm.momentum = momentum
    network.train(training)


def _tracking(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms whose running statistics move."""
    return [m for m in norms(module) if m.training and m.track_running_stats]


@contextmanager
def untracked(module: nn.Module) -> Iterator[None]:
    """Within it batch norm keeps its running statistics; all else stays in training mode."""
    moving = _tracking(module)
    for norm in moving:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in moving:
            norm.track_running_stats = True


def tracked_in_parts(module: nn.Module, parts: Iterable[Part]) -> Iterator[Part]:
    """The parts in turn. Batch norm's running statistics start each of them as they are now, and end as the mean of what the parts
    made of them: being linear in the moments, they then are what one part with the mean moments would have made of them."""
    buffers = [b for norm in _tracking(module) for b in norm.buffers(recurse=False)]
    start, ends = [b.clone() for b in buffers], []
    for part in parts:
        for buffer, before in zip(buffers, start, strict=True):
            buffer.copy_(before)
        yield part
        ends.append([b.clone() for b in buffers])
    for buffer, *after in zip(buffers, *ends, strict=True):
        buffer.copy_(torch.stack(after).double().mean(0))
