"""Layers whose gradient is differentiated: the same numbers as torch's own, to every order, and none of its wasted work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gebm_cli.core.device import make_generator
from gebm_cli.core.models.second_order import Conv2d, LeakyReLU, ReLU, gradient_by_input
from gebm_cli.core.models.spectral import normalised

CONVOLUTIONS = [(3, 1, 1), (4, 2, 1), (1, 1, 0), (5, 3, 2), (4, 1, 0)]


class Calls(TorchDispatchMode):
    """Counts calls of operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def count(self, word: str) -> int:
        return sum(word in name for name in self.names)


def network(ours: bool, kernel: int = 3, stride: int = 1, padding: int = 1, bias: bool = True) -> nn.Sequential:
    """Two convolutions, two rectifiers and a smooth end, so that second derivatives by the input are not all zero."""
    conv, leaky, relu = (Conv2d, LeakyReLU, ReLU) if ours else (nn.Conv2d, nn.LeakyReLU, nn.ReLU)
    torch.manual_seed(3)
    first, second = conv(2, 4, kernel, stride, padding, bias=bias), conv(4, 3, 3, 1, 1, bias=bias)
    return nn.Sequential(first, leaky(0.2), second, relu(), nn.Flatten(), nn.LazyLinear(1), nn.Softplus()).double()


def pair(*how: int, bias: bool = True) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    x = torch.randn(5, 2, 9, 9, generator=make_generator(0, "images"), dtype=torch.float64)
    ours, theirs = network(True, *how, bias=bias), network(False, *how, bias=bias)
    ours(x), theirs(x)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, x


def penalty_gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    """By weights and by the input, of |grad f|^2 + f."""
    at = x.clone().requires_grad_()
    value = net(at).sum()
    gradient = gradient_by_input(value, at)
    return list(torch.autograd.grad(gradient.square().sum() + value, [at, *net.parameters()]))


@pytest.mark.parametrize("how", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_penalties_have_torchs_gradients(how: tuple[int, int, int], bias: bool) -> None:
    ours, theirs, x = pair(*how, bias=bias)
    for mine, other in zip(penalty_gradients(ours, x), penalty_gradients(theirs, x), strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_convolution_against_finite_differences_twice(how: tuple[int, int, int]) -> None:
    kernel, stride, padding = how
    layer = Conv2d(2, 3, kernel, stride, padding).double()
    g = make_generator(0, "convolution")
    x = torch.randn(2, 2, 7, 7, generator=g, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return layer._conv_forward(x, w, b)

    arguments = (x, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


def test_third_derivatives_are_torchs() -> None:
    """Hessian-vector products of a penalty, differentiated once more."""
    ours, theirs, x = pair()
    v = torch.randn(x.shape, generator=make_generator(1, "direction"), dtype=torch.float64)

    def third(net: nn.Module) -> list[Tensor]:
        at = x.clone().requires_grad_()
        gradient = torch.autograd.grad(net(at).sum(), at, create_graph=True)[0]
        product = torch.autograd.grad((gradient * v).sum(), at, create_graph=True)[0]
        return list(torch.autograd.grad((product * v).sum(), [at, *net.parameters()], allow_unused=True))

    compared = [(a, b) for a, b in zip(third(ours), third(theirs), strict=True) if b is not None and b.abs().max() > 0]
    assert len(compared) >= 4
    for mine, other in compared:
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_gradient_by_weights_may_be_recorded_too() -> None:
    """Outside of gradient_by_input nothing is left out."""
    ours, theirs, x = pair()

    def twice(net: nn.Module) -> Tensor:
        at = x.clone().requires_grad_()
        weights = torch.autograd.grad(net(at).square().sum(), list(net.parameters()), create_graph=True)
        return torch.autograd.grad(sum(w.square().sum() for w in weights), at)[0]

    torch.testing.assert_close(twice(ours), twice(theirs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_rectifiers_are_torchs(slope: float) -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0], requires_grad=True)
    ours, theirs = (ReLU(), nn.ReLU()) if slope == 0 else (LeakyReLU(slope), nn.LeakyReLU(slope))
    assert torch.equal(ours(x), theirs(x))
    by_ours, by_theirs = (torch.autograd.grad(layer(x).sum(), x)[0] for layer in (ours, theirs))
    assert torch.equal(by_ours, by_theirs)


def test_a_penalty_costs_what_it_must() -> None:
    """With rectifiers and a linear end it has no derivative by the activations. Of L convolutions: L forward, L by the input, L by
    the weight, and L - 1 that carry the derivative of the gradient up. Torch's own make more, for a zero."""
    counted = []
    for ours in (True, False):
        net = network(ours)[:5].float()
        at = torch.randn(4, 2, 9, 9, requires_grad=True)
        with Calls() as calls:
            value = gradient_by_input(net(at).sum(), at).square().sum()
            value.backward(inputs=[p for p in net.parameters() if p.ndim == 4])
        counted.append(calls.count("convolution"))
    assert counted[0] == 4 * 2 - 1 < counted[1]


def test_without_gradients_torchs_layer_runs() -> None:
    layer, x = Conv2d(2, 3, 3, 1, 1), torch.randn(2, 2, 5, 5)
    assert "Convolve" not in type(layer(x).grad_fn).__name__  # of the weight alone
    assert "Convolve" in type(layer(x.requires_grad_()).grad_fn).__name__
    with torch.no_grad():
        assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, 1, 1))


def test_under_autocast() -> None:
    ours, theirs, x = pair()
    ours.float(), theirs.float()

    def gradients(net: nn.Module) -> list[Tensor]:
        at = x.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = net(at)
        assert value.dtype == torch.bfloat16 or value.dtype == torch.float32
        gradient_by_input(value.float().sum(), at).square().sum().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    for mine, other in zip(gradients(ours), gradients(theirs), strict=True):
        assert mine.dtype == other.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=0.1, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize("how", ["norm", "parametrised"])
def test_names_and_spectral_norm_stay(how: str) -> None:
    ours, theirs = normalised(Conv2d(2, 4, 3), how), normalised(nn.Conv2d(2, 4, 3), how)  # type: ignore[type-var]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours, nn.Conv2d)
