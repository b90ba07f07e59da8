"""Convolutional networks: sizes, shapes, gradients, ranges, and what they refuse."""

from __future__ import annotations

import re
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from gradients import without_gradient
from torch.nn.utils import parametrize

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models.convolutional import (
    conv_base,
    conv_energy,
    dcgan_base,
    dcgan_energy,
    sngan_base,
    sngan_energy,
)
from gebm_cli.core.models.networks import Energy, count_parameters
from gebm_cli.errors import UsageError

RGB32 = (3, 32, 32)
RGB64 = (3, 64, 64)
SIDES = [4, 6, 8, 28, 32, 64]
BOTH_SIDES = pytest.mark.parametrize("shape", [RGB32, RGB64])
EVERY_SPECTRAL = pytest.mark.parametrize("spectral", ["none", "norm", "parametrised"])


@pytest.fixture(autouse=True)
def seeded():
    with seeded_construction(0):
        yield


def test_sngan_base_has_the_references_size():
    """The generator at latent 100 has 3,584,003 parameters."""
    assert count_parameters(sngan_base(100, RGB32)) == 3_584_003


def test_sngan_energy_has_the_references_size():
    """The critic has 5,860,865 parameters, each normed weight counted once, seven of its layers normed."""
    network = sngan_energy(RGB32)
    assert count_parameters(network) == 5_860_865
    assert sum(parametrize.is_parametrized(m) for m in network.modules()) == 7
    assert not parametrize.is_parametrized(network[-1]), "the last, linear layer has no spectral norm"


@pytest.mark.parametrize(
    ("build", "slope"),
    [(sngan_energy, 0.1), (lambda s: conv_energy(s, 4, "norm"), 0.2), (lambda s: dcgan_energy(s, 4), 0.2)],
)
def test_leaky_slopes(build, slope):
    """Every convolution is followed by a leaky ReLU, of slope .1 in the sngan critic and .2 in the others."""
    network = [m for m in build(RGB32) if not isinstance(m, torch.nn.BatchNorm2d)]
    after = [b for a, b in pairwise(network[:-2]) if isinstance(a, torch.nn.Conv2d)]
    assert [m.negative_slope for m in after] == [slope] * len(after) and len(after) >= 4


@BOTH_SIDES
def test_sngan_base_draws_images(shape):
    """Latents (n, 100) become images in [-1, 1] that vary, and every parameter gets a gradient."""
    network = sngan_base(100, shape)
    z = torch.randn(2, 100)
    x = network(z)
    assert x.shape == (2, *shape) and x.abs().max() <= 1 and (x[0] - x[1]).abs().max() > 0.1
    assert without_gradient(network, z) == []


def test_sngan_base_is_xavier_initialised():
    """Each weight is uniform with xavier's variance 2 / (fan_in + fan_out), to 4 standard errors."""
    for name, w in sngan_base(100, RGB32).named_parameters():
        if w.dim() < 2:
            continue
        field = w[0, 0].numel() if w.dim() == 4 else 1
        true = 2 / ((w.shape[0] + w.shape[1]) * field)
        z = (w.double().square().mean().item() / true - 1) / (0.8 / w.numel()) ** 0.5  # kurtosis of a uniform: 1.8
        assert abs(z) < 4, f"{name}: variance {w.var().item():.2e}, expected {true:.2e}, z = {z:.1f}"


@pytest.mark.parametrize(
    ("shape", "spectral", "n_out"),
    [(RGB32, "norm", 1), (RGB32, "none", 16), (RGB32, "parametrised", 1), (RGB64, "norm", 1)],
)
def test_sngan_energy_scores_images(shape, spectral, n_out):
    """Images become n_out numbers each, and every parameter gets a gradient."""
    network = sngan_energy(shape, spectral, n_out)
    x = torch.rand(2, *shape) * 2 - 1
    assert network(x).shape == (2, n_out)
    assert without_gradient(network, x) == []


def test_sngan_has_one_stage_more_at_64():
    """The channels double once more: 1024 at a side of 4, in the base and in the energy."""
    base = [m.in_channels for m in sngan_base(2, RGB64) if isinstance(m, torch.nn.ConvTranspose2d)]
    energy = [(m.out_channels, m.stride[0]) for m in sngan_energy(RGB64, "none") if isinstance(m, torch.nn.Conv2d)]
    assert base == [1024, 512, 256, 128, 64]
    assert energy == [(64, 1), *[(64 * 2**i, stride) for i in range(1, 5) for stride in (2, 1)]]


@pytest.mark.parametrize(("shape", "sizes"), [(RGB32, (3_573_824, 2_759_424)), (RGB64, (3_576_704, 2_765_568))])
def test_dcgan_has_the_published_size(shape, sizes):
    """The reference's at 32 pixels, and at 64 pixels that of the usual DCGAN, at latent 100."""
    assert (count_parameters(dcgan_base(100, shape)), count_parameters(dcgan_energy(shape))) == sizes


@BOTH_SIDES
def test_dcgan_base_draws_images(shape):
    """Latents become images in [-1, 1] that vary, and every parameter gets a gradient."""
    network = dcgan_base(5, shape, 4)
    z = torch.randn(2, 5)
    x = network(z)
    assert x.shape == (2, *shape) and x.abs().max() <= 1 and (x[0] - x[1]).abs().max() > 1e-3
    assert isinstance(network[-1], torch.nn.Tanh) and without_gradient(network, z) == []


@BOTH_SIDES
@EVERY_SPECTRAL
@pytest.mark.parametrize("n_out", [1, 16])
def test_dcgan_energy_scores_images(shape, spectral, n_out):
    """Images become n_out numbers each, and every parameter gets a gradient."""
    network = dcgan_energy(shape, 4, spectral, n_out)
    x = torch.rand(8, *shape) * 2 - 1
    assert network(x).shape == (8, n_out) and without_gradient(network, x) == []


@BOTH_SIDES
def test_dcgan_energy_has_no_sigmoid(shape):
    """With the last weights negated E becomes -E, which no sigmoid would allow."""
    network, x = dcgan_energy(shape, 4), torch.rand(3, *shape) * 2 - 1
    before = network(x)
    network[-2].weight.data.neg_()
    assert before.abs().max() > 1e-4
    torch.testing.assert_close(network(x), -before)


@EVERY_SPECTRAL
def test_dcgan_energy_has_batch_norm_or_spectral_norm(spectral):
    """Plain: three batch norms and no biases. Normalised: no batch norm, which would undo it, and every layer has a bias."""
    network = dcgan_energy(RGB32, 4, spectral)
    layers = [m for m in network if isinstance(m, torch.nn.Conv2d)]
    plain = spectral == "none"
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network) == 3 * plain
    assert [(m.bias is None, parametrize.is_parametrized(m)) for m in layers] == [(plain, not plain)] * 5


def test_dcgan_is_initialised_as_in_the_paper():
    """Every weight of a convolution is N(0, .02^2) to 4 standard errors."""
    for network in (dcgan_base(20, RGB64, 16), dcgan_energy(RGB64, 16), dcgan_energy(RGB32, 16, "parametrised")):
        layers = [m for m in network if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
        assert len(layers) == 5
        for m in layers:
            w = m.parametrizations.weight.original if parametrize.is_parametrized(m) else m.weight
            z = (w.double().square().mean().item() / 0.02**2 - 1) / (2 / w.numel()) ** 0.5
            assert abs(z) < 4, f"{m}: z = {z:.1f}"


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 32), (3, 128, 128), (3, 28, 28), (2,)])
def test_sngan_and_dcgan_refuse_other_shapes(shape):
    """They are for RGB images of side 32 or 64, and name the key, the shape, the sides and what to do."""
    builds = {"sngan": (lambda: sngan_base(100, shape), lambda: sngan_energy(shape))}
    builds["dcgan"] = (lambda: dcgan_base(100, shape), lambda: dcgan_energy(shape))
    for kind in builds:
        for build in builds[kind]:
            with pytest.raises(
                UsageError, match=rf"^data: the {kind} networks .* 32 or 64, got \(.*kind conv"
            ) as caught:
                build()
            assert str(shape) in str(caught.value) and ("data.size" in str(caught.value)) == (shape[0] == 3)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_conv_base_draws_images(side, channels):
    """Latents become (n, channels, side, side) strictly inside [-1, 1], and every parameter gets a gradient."""
    network = conv_base(5, (channels, side, side), 16)
    z = torch.randn(6, 5)
    x = network(z)
    assert x.shape == (6, channels, side, side) and 0 < x.abs().max() <= 1
    assert isinstance(network[-1], torch.nn.Tanh)
    assert without_gradient(network, z) == []


@pytest.mark.parametrize("side", SIDES)
@EVERY_SPECTRAL
def test_conv_energy_scores_images(side, spectral):
    """Images become one energy each, every parameter gets a gradient, and spectral norm is where it was asked for."""
    network = conv_energy((3, side, side), 16, spectral)
    x = torch.rand(6, 3, side, side) * 2 - 1
    assert Energy(network)(x).shape == (6,)
    assert without_gradient(network, x) == []
    convolutions = [m for m in network if isinstance(m, torch.nn.Conv2d)]
    assert [parametrize.is_parametrized(m) for m in convolutions] == [spectral != "none"] * len(convolutions)
    assert conv_energy((3, side, side), 2, spectral, 16)(x).shape == (6, 16)


@pytest.mark.parametrize(("side", "smallest", "halvings"), [(8, 2, 2), (28, 7, 2), (32, 2, 4), (64, 2, 5), (20, 5, 2)])
def test_conv_networks_halve_down_to_at_most_seven(side, smallest, halvings):
    """The side is halved while it stays even and at least 2; width is the channels at half the side, then doubles."""
    wide = 4 * 2 ** (halvings - 1)
    energy, base = conv_energy((1, side, side), 4), conv_base(3, (1, side, side), 4)
    assert energy[-1].in_features == base[0].out_features == wide * smallest**2
    layers = [m for m in energy if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in layers] == [4 * 2**i for i in range(halvings)]
    layers = [m for m in base if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [m.in_channels for m in layers] == [4 * 2**i for i in reversed(range(halvings))]


@pytest.mark.parametrize("shape", [(1, 9, 9), (1, 11, 11), (1, 22, 22), (1, 1, 1), (1, 2, 2), (3, 7, 7), (1, 36, 36)])
def test_conv_networks_refuse_other_sides(shape):
    """A side that cannot be halved down to 2..7 is a usage error that names it and the next below and above that can."""
    for build in (lambda: conv_base(5, shape, 4), lambda: conv_energy(shape, 4, "norm")):
        with pytest.raises(UsageError, match=rf"{shape[1]} does not allow; set data.size to \d+") as caught:
            build()
        proposals = [int(word) for word in re.findall(r"\d+", str(caught.value).partition("set data.size to ")[2])]
        assert any(p > shape[1] for p in proposals) and len(proposals) == (1 if shape[1] <= 3 else 2)
        for side in range(min([*proposals, shape[1]]), max(proposals) + 1):
            with nullcontext() if side in proposals else pytest.raises(UsageError):
                conv_energy((1, side, side), 4)


@pytest.mark.parametrize("shape", [(1, 8, 16), (2,), (1, 1, 8, 8)])
def test_conv_networks_refuse_what_is_no_square_image(shape):
    """Oblong images and points are a usage error that names the shape."""
    for build in (lambda: conv_base(5, shape, 4), lambda: conv_energy(shape, 4)):
        with pytest.raises(UsageError, match="square images"):
            build()
