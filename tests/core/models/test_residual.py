"""Residual networks: sizes, shapes, their blocks written out, gradients, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from gradients import without_gradient
from torch.nn.functional import avg_pool2d, conv2d, interpolate, relu

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models.networks import count_parameters
from gebm_cli.core.models.residual import resnet_base, resnet_energy
from gebm_cli.errors import UsageError

RGB32 = (3, 32, 32)
EVERY_SIDE = pytest.mark.parametrize("side", [32, 64, 128])


@pytest.fixture(autouse=True)
def seeded():
    with seeded_construction(0):
        yield


def _convolutions(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.mark.parametrize("spectral", ["none", "norm"])
def test_sizes_are_the_references(spectral):
    """At 32 pixels: 1,097,603 parameters of the base at latent 100, and 1,053,825 of the energy."""
    assert count_parameters(resnet_base(100, RGB32)) == 1_097_603
    assert count_parameters(resnet_energy(RGB32, spectral=spectral)) == 1_053_825


@EVERY_SIDE
def test_base_draws_images(side):
    """Latents become (n, 3, side, side) in [-1, 1] that vary, and every parameter gets a gradient."""
    network = resnet_base(5, (3, side, side), 4)
    z = torch.randn(2, 5)
    x = network(z)
    assert x.shape == (2, 3, side, side) and x.abs().max() <= 1 and (x[0] - x[1]).abs().max() > 0.05
    assert isinstance(network[-1], torch.nn.Tanh) and without_gradient(network, z) == []


@EVERY_SIDE
@pytest.mark.parametrize("spectral", ["none", "norm", "parametrised"])
@pytest.mark.parametrize("n_out", [1, 16])
def test_energy_scores_images(side, spectral, n_out):
    """Images become n_out numbers each, and every parameter gets a gradient."""
    network = resnet_energy((3, side, side), 8, spectral, n_out)
    x = torch.rand(2, 3, side, side) * 2 - 1
    assert network(x).shape == (2, n_out)
    assert without_gradient(network, x) == []


@pytest.mark.parametrize(("side", "widths"), [(32, [6] * 4), (64, [3, 6, 12, 24, 48]), (128, [3, 6, 12, 24, 48, 48])])
def test_widths_and_halvings(side, widths):
    """Channels after each block are width at 32 pixels, else width / 2 * (1, 2, 4, 8, 16), the last twice at 128."""
    energy, base = resnet_energy((3, side, side), 6, "none"), resnet_base(2, (3, side, side), 6)
    x, sizes = torch.zeros(1, 3, side, side), []
    for block in energy[: len(widths)]:
        x = block(x)
        sizes.append((x.shape[1], side // x.shape[2]))
    halvings = [2, 4, 4, 4] if side == 32 else [2, 4, 8, 16, 32, 32][: len(widths)]
    assert sizes == list(zip(widths, halvings, strict=True))
    x = base[1](base[0](torch.zeros(1, 2)))
    starts = [(x.shape[1], x.shape[2])]
    for block in base[2:-4]:
        x = block(x)
        starts.append((x.shape[1], x.shape[2]))
    assert starts == [(wide, 4 * 2**i) for i, wide in enumerate(reversed(widths))] and x.shape[2] == side


def test_an_odd_width_keeps_a_channel_everywhere():
    """width / 2 is rounded up: a width of 1 gives 1, 1, 2, 4, 8 channels."""
    network = resnet_energy((3, 64, 64), 1, "none")
    assert [block.residual[-2].out_channels for block in network[:5]] == [1, 1, 2, 4, 8]


def _conv(layer, x):
    return conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)


def test_energy_at_32_written_out():
    """The reference's blocks: 1x1 convolution in the shortcut of halving blocks, none in plain ones, then the mean."""
    network = resnet_energy(RGB32, 3, "none")
    convs, x = _convolutions(network), torch.randn(2, *RGB32)
    a, b, shortcut, c, d, shortcut2, e, f, g, h = convs
    y = avg_pool2d(_conv(b, relu(_conv(a, x))), 2) + _conv(shortcut, avg_pool2d(x, 2))
    y = avg_pool2d(_conv(d, relu(_conv(c, relu(y)))), 2) + avg_pool2d(_conv(shortcut2, y), 2)
    y = _conv(f, relu(_conv(e, relu(y)))) + y
    y = _conv(h, relu(_conv(g, relu(y)))) + y
    torch.testing.assert_close(network(x), network[-1](relu(y).mean((2, 3))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [64, 128])
def test_larger_energies_sum_over_the_image(side):
    """What the last layer sees is the sum over pixels of the ReLU of the last block."""
    network = resnet_energy((3, side, side), 2, "none")
    blocks = [m for m in network if hasattr(m, "shortcut")]
    x = torch.randn(2, 3, side, side)
    y = torch.nn.Sequential(*blocks)(x)
    assert y.shape[2] == side // 32 and y.max() > 0
    torch.testing.assert_close(network(x), network[-1](relu(y).sum((2, 3))), rtol=1e-4, atol=1e-5)


@EVERY_SIDE
def test_base_block_written_out(side):
    """BN ReLU up conv BN ReLU conv, plus the repeated input, at 64 and 128 pixels through a 1x1 convolution."""
    block = resnet_base(2, (3, side, side), 4)[-5]
    bn1, bn2 = (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d))
    first, second, *shortcut = _convolutions(block)
    x = torch.randn(2, bn1.num_features, 3, 3)
    up = lambda t: interpolate(t, scale_factor=2)  # noqa: E731
    y = _conv(second, relu(bn2(_conv(first, up(relu(bn1(x)))))))
    assert len(shortcut) == (side > 32)
    torch.testing.assert_close(block(x), y + (_conv(shortcut[0], up(x)) if shortcut else up(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "gains"), [(32, (1, math.sqrt(2))), (64, (math.sqrt(2), 1))])
def test_convolutions_are_xavier_initialised(side, gains):
    """Variance gain^2 * 2 / (fan_in + fan_out) to 4 standard errors: the reference's gains at 32 pixels, else Miyato's."""
    networks = [resnet_base(2, (3, side, side), 32)[2:-4], resnet_energy((3, side, side), 32, "none")]
    for layer in [m for network in networks for m in _convolutions(network)]:
        w = layer.weight.double()
        gain = gains[w.shape[2] == 1]
        true = gain**2 * 2 / ((w.shape[0] + w.shape[1]) * w[0, 0].numel())
        z = (w.square().mean().item() / true - 1) / (0.8 / w.numel()) ** 0.5  # kurtosis of a uniform: 1.8
        assert abs(z) < 4, f"{layer}: z = {z:.1f}"


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 64), (3, 256, 256), (3, 28, 28), (2,)])
def test_other_shapes_are_refused(shape):
    """A usage error names the key, the shape, the sides there are and what to do."""
    for build in (lambda: resnet_base(5, shape), lambda: resnet_energy(shape)):
        with pytest.raises(
            UsageError, match=r"^data: the resnet networks .* 32, 64 or 128, got \(.*kind conv"
        ) as caught:
            build()
        assert str(shape) in str(caught.value) and ("data.size" in str(caught.value)) == (shape[0] == 3)
