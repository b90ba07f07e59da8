"""Layers of critics whose gradient is itself differentiated, as penalties on the gradient do: the same values, less work.

Torch differentiates the backward pass of a rectifier by its input too, where the derivative is zero almost everywhere, and then
carries that zero back through every layer below; and it builds the weight's gradient in a convolution's second derivative from a
convolution whose kernel is as large as the image. Here the zero is never made, and each derivative of a convolution is one of the
three calls its own backward pass consists of (as in NVIDIA's conv2d_gradfix, Karras et al. 2020). Nothing else differs: names of
parameters, values and gradients of every order are torch's, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[int, int]
_by_input_alone = False


class LeakyReLU(nn.LeakyReLU):
    """max(x, 0) + s min(x, 0), with no second derivative by x."""

    def forward(self, x: Tensor) -> Tensor:
        return _Rectify.apply(x, self.negative_slope) if _is_recorded(x) else super().forward(x)


class ReLU(LeakyReLU):
    """max(x, 0), with no second derivative by x."""

    def __init__(self) -> None:
        super().__init__(0.0)


class Conv2d(nn.Conv2d):
    """nn.Conv2d with zero padding and whole strides (no groups, no dilation)."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_recorded(input):
            return super()._conv_forward(input, weight, bias)
        device = input.device.type
        if torch.is_autocast_enabled(device):
            cast = [t if t is None else t.to(torch.get_autocast_dtype(device)) for t in (input, weight, bias)]
            return _Convolve.apply(*cast, self.stride, self.padding)
        return _Convolve.apply(input, weight, bias, self.stride, self.padding)


def gradient_by_input(value: Tensor, x: Tensor) -> Tensor:
    """d value / d x, itself differentiable, and no gradient by any weight on the way.

    Autograd cannot tell a layer written in Python that nobody asks for the gradient by its weights, and it would be built for
    nothing; so the layers here are told.
    """
    global _by_input_alone
    before, _by_input_alone = _by_input_alone, True
    try:
        return torch.autograd.grad(value, x, create_graph=True)[0]
    finally:
        _by_input_alone = before


def _is_recorded(x: Tensor) -> bool:
    """Whether a gradient by the input may be asked, and then differentiated; without one torch's own layer is as good."""
    return torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling()


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return nn.functional.leaky_relu(x, slope)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(g, x.detach(), ctx.slope, False), None


class _Convolve(torch.autograd.Function):
    """y = w * x + b; bilinear in x and w, so that its derivatives are made of the three maps below."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = stride, padding
        return nn.functional.conv2d(x, w, b, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        needs_x, needs_w, needs_b = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            mask = [needs_x, needs_w, needs_b]
            return *_backward(g, x, w, ctx.how, mask), None, None
        return (
            _ByInput.apply(g, w, x.detach(), *ctx.how) if needs_x else None,
            _ByWeight.apply(g, x, w.detach(), *ctx.how) if needs_w and not _by_input_alone else None,
            g.sum((0, 2, 3)) if needs_b and not _by_input_alone else None,
            None,
            None,
        )


class _ByInput(torch.autograd.Function):
    """The transpose of x -> w * x at g; of `x` only the shape is read."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, x: Tensor, stride: Pair, padding: Pair) -> Tensor | None:
        ctx.save_for_backward(g, w)
        ctx.how = stride, padding
        return _backward(g, x, w, ctx.how, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        by_g = _Convolve.apply(gg, w, None, *ctx.how) if ctx.needs_input_grad[0] else None
        by_w = _ByWeight.apply(g, gg, w.detach(), *ctx.how) if ctx.needs_input_grad[1] else None
        return by_g, by_w, None, None, None


class _ByWeight(torch.autograd.Function):
    """The transpose of w -> w * x at g; of `w` only the shape is read."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor | None:
        ctx.save_for_backward(g, x)
        ctx.how = stride, padding
        return _backward(g, x, w, ctx.how, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        by_g = _Convolve.apply(x, gg, None, *ctx.how) if ctx.needs_input_grad[0] else None
        by_x = _ByInput.apply(g, gg, x.detach(), *ctx.how) if ctx.needs_input_grad[1] else None
        return by_g, by_x, None, None, None


def _backward(g: Tensor, x: Tensor, w: Tensor, how: tuple[Pair, Pair], mask: list[bool]) -> tuple[Tensor | None, ...]:
    stride, padding = how
    return torch.ops.aten.convolution_backward(g, x, w, [w.shape[0]], stride, padding, (1, 1), False, (0, 0), 1, mask)
