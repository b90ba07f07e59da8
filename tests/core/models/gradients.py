"""Which parameters of a network learn."""

from __future__ import annotations

import torch


def without_gradient(network, x):
    """Names of the parameter tensors in which a random combination of the outputs has no gradient, or a zero one."""
    out = network(x)
    (out * torch.randn_like(out)).sum().backward()
    return [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
