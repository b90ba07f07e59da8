"""Networks: sizes, shapes, gradients, ranges, and what they refuse."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch.nn.utils import parametrize

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models.networks import (
    Circle,
    Energy,
    conv_base,
    conv_energy,
    count_parameters,
    freeze,
    mlp,
    sngan_base,
    sngan_energy,
)
from gebm_cli.errors import UsageError

RGB32 = (3, 32, 32)
SIDES = [4, 6, 8, 28, 32, 64]


@pytest.fixture(autouse=True)
def seeded():
    with seeded_construction(0):
        yield


def _without_gradient(network, x):
    """Names of the parameter tensors in which a random combination of the outputs has no gradient, or a zero one."""
    out = network(x)
    (out * torch.randn_like(out)).sum().backward()
    return [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_sngan_base_has_the_references_size():
    """The generator at latent 100 has 3,584,003 parameters."""
    assert count_parameters(sngan_base(100, RGB32)) == 3_584_003


def test_sngan_energy_has_the_references_size():
    """The critic has 5,860,865 parameters, each normed weight counted once, seven of its layers normed."""
    network = sngan_energy(RGB32)
    assert count_parameters(network) == 5_860_865
    assert sum(parametrize.is_parametrized(m) for m in network.modules()) == 7
    assert not parametrize.is_parametrized(network[-1]), "the last, linear layer has no spectral norm"


@pytest.mark.parametrize(("build", "slope"), [(sngan_energy, 0.1), (lambda s: conv_energy(s, 4, True), 0.2)])
def test_leaky_slopes(build, slope):
    """Every convolution is followed by a leaky ReLU, of slope .1 in the sngan critic and .2 in the conv energy."""
    network = list(build(RGB32))
    after = [b for a, b in pairwise(network) if isinstance(a, torch.nn.Conv2d)]
    assert [m.negative_slope for m in after] == [slope] * len(after) and len(after) >= 4


def test_sngan_base_draws_images():
    """Latents (n, 100) become (n, 3, 32, 32) in [-1, 1] that vary, and every parameter gets a gradient."""
    network = sngan_base(100, RGB32)
    z = torch.randn(4, 100)
    x = network(z)
    assert x.shape == (4, *RGB32) and x.abs().max() <= 1 and (x[0] - x[1]).abs().max() > 0.1
    assert _without_gradient(network, z) == []


def test_sngan_base_is_xavier_initialised():
    """Each weight is uniform with xavier's variance 2 / (fan_in + fan_out), to 4 standard errors."""
    for name, w in sngan_base(100, RGB32).named_parameters():
        if w.dim() < 2:
            continue
        field = w[0, 0].numel() if w.dim() == 4 else 1
        true = 2 / ((w.shape[0] + w.shape[1]) * field)
        z = (w.double().square().mean().item() / true - 1) / (0.8 / w.numel()) ** 0.5  # kurtosis of a uniform: 1.8
        assert abs(z) < 4, f"{name}: variance {w.var().item():.2e}, expected {true:.2e}, z = {z:.1f}"


def test_sngan_energy_scores_images():
    """Images become one energy each, and every parameter gets a gradient."""
    network = Energy(sngan_energy(RGB32))
    x = torch.rand(2, *RGB32) * 2 - 1
    assert network(x).shape == (2,)
    assert _without_gradient(network.network, x) == []


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64), (3, 28, 28), (2,)])
def test_sngan_refuses_other_shapes(shape):
    """The sngan networks are for (3, 32, 32) and say what to use instead."""
    for build in (lambda: sngan_base(100, shape), lambda: sngan_energy(shape)):
        with pytest.raises(UsageError, match="kind conv"):
            build()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_conv_base_draws_images(side, channels):
    """Latents become (n, channels, side, side) strictly inside [-1, 1], and every parameter gets a gradient."""
    network = conv_base(5, (channels, side, side), 16)
    z = torch.randn(6, 5)
    x = network(z)
    assert x.shape == (6, channels, side, side) and 0 < x.abs().max() <= 1
    assert isinstance(network[-1], torch.nn.Tanh)
    assert _without_gradient(network, z) == []


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("normed", [False, True])
def test_conv_energy_scores_images(side, normed):
    """Images become one energy each, every parameter gets a gradient, and spectral norm is where it was asked for."""
    network = conv_energy((3, side, side), 16, normed)
    x = torch.rand(6, 3, side, side) * 2 - 1
    assert Energy(network)(x).shape == (6,)
    assert _without_gradient(network, x) == []
    convolutions = [m for m in network if isinstance(m, torch.nn.Conv2d)]
    assert [parametrize.is_parametrized(m) for m in convolutions] == [normed] * len(convolutions)


@pytest.mark.parametrize(("side", "smallest", "halvings"), [(8, 2, 2), (28, 7, 2), (32, 2, 4), (64, 2, 5), (20, 5, 2)])
def test_conv_networks_halve_down_to_at_most_seven(side, smallest, halvings):
    """The side is halved while it stays even and at least 2; width is the channels at half the side, then doubles."""
    wide = 4 * 2 ** (halvings - 1)
    energy, base = conv_energy((1, side, side), 4, False), conv_base(3, (1, side, side), 4)
    assert energy[-1].in_features == base[0].out_features == wide * smallest**2
    layers = [m for m in energy if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in layers] == [4 * 2**i for i in range(halvings)]
    layers = [m for m in base if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [m.in_channels for m in layers] == [4 * 2**i for i in reversed(range(halvings))]


@pytest.mark.parametrize("shape", [(1, 9, 9), (1, 11, 11), (1, 22, 22), (1, 1, 1), (1, 2, 2), (3, 7, 7), (1, 36, 36)])
def test_conv_networks_refuse_other_sides(shape):
    """A side that cannot be halved down to 2..7 is a usage error that names it and a side which can."""
    for build in (lambda: conv_base(5, shape, 4), lambda: conv_energy(shape, 4, True)):
        with pytest.raises(UsageError, match=rf"{shape[1]} does not allow; set data.size to \d+") as caught:
            build()
        proposal = int(str(caught.value).split()[-1])
        conv_energy((1, proposal, proposal), 4, False)


@pytest.mark.parametrize("shape", [(1, 8, 16), (2,), (1, 1, 8, 8)])
def test_conv_networks_refuse_what_is_no_square_image(shape):
    """Oblong images and points are a usage error that names the shape."""
    for build in (lambda: conv_base(5, shape, 4), lambda: conv_energy(shape, 4, False)):
        with pytest.raises(UsageError, match="square images"):
            build()


def test_spectral_norm_holds_every_layer_at_one():
    """After 300 forward passes each normed weight, as a matrix (out, rest), has largest singular value 1 to 1e-3."""
    network = conv_energy((1, 8, 8), 4, True)
    x = torch.randn(2, 1, 8, 8)
    for _ in range(300):
        network(x)
    network.eval()
    for module in network:
        if isinstance(module, torch.nn.Conv2d):
            norm = torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
            raw = torch.linalg.matrix_norm(module.parametrizations.weight.original.flatten(1), 2).item()
            assert abs(norm - 1) < 1e-3 and abs(raw - 1) > 1e-2, f"{norm} of a raw {raw}"


def test_energy_is_flat_and_keeps_its_log_partition():
    """An energy returns (n,), and its log-partition is a scalar parameter in its state, 0 at first."""
    energy = Energy(mlp(2, 1, 8, 1))
    assert energy(torch.randn(5, 2)).shape == (5,)
    assert energy.log_partition.shape == () and energy.log_partition.item() == 0
    assert "log_partition" in energy.state_dict() and energy.log_partition.requires_grad


def test_log_partition_does_not_enter_the_energy():
    """E(x) is the network's output alone; c is added by the objective."""
    energy, x = Energy(mlp(2, 1, 8, 1)), torch.randn(5, 2)
    before = energy(x)
    energy.log_partition.data.fill_(3.0)
    assert torch.equal(energy(x), before)


def test_circle_lies_on_the_circle_uniformly():
    """Points have norm 1, keep the latent's direction, and their mean and second harmonic vanish to 4 errors."""
    z = torch.randn(20_000, 2)
    x = Circle()(z)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(20_000), atol=1e-6, rtol=0)
    torch.testing.assert_close(x * z.norm(dim=1, keepdim=True), z, atol=1e-5, rtol=1e-5)
    first, second = x.double().mean(0), (x[:, 0] ** 2 - x[:, 1] ** 2).double().mean()
    for moment in (*first.tolist(), second.item()):
        assert abs(moment) < 4 * (0.5 / 20_000) ** 0.5, moment


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_mlp_has_depth_hidden_layers(depth):
    """`depth` hidden layers of `width` units: (n_in, width, ..., width, n_out), all with gradients."""
    network = mlp(2, 3, 8, depth)
    sizes = [m.in_features for m in network if isinstance(m, torch.nn.Linear)] + [network[-1].out_features]
    assert sizes == [2] + [8] * depth + [3]
    assert _without_gradient(network, torch.randn(5, 2)) == []


def test_mlp_has_second_derivatives():
    """The Hessian in the input is not zero, as a piecewise linear network's would be."""
    network = mlp(2, 1, 8, 2)
    hessian = torch.autograd.functional.hessian(lambda v: network(v).sum(), torch.randn(2))
    assert hessian.abs().max() > 1e-4, hessian


def test_freezing_leaves_the_numbers_of_eval_mode():
    """Spectral norm is taken out as eval mode has it, also from a network in training mode, whose next call would change it."""
    torch.manual_seed(0)
    energy, x = Energy(conv_energy((1, 8, 8), 4, with_spectral_norm=True)), torch.randn(3, 1, 8, 8)
    energy.eval()
    expected = energy(x)
    energy.train()
    frozen = freeze(energy)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert not any(parametrize.is_parametrized(m) for m in frozen.modules())
    assert torch.allclose(frozen(x), expected, rtol=1e-5, atol=1e-7)


def test_a_users_module_is_frozen_as_it_is():
    """Copies of a normalised block share a class, so nothing is taken out of them; they work on."""
    block = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 4))
    module = torch.nn.Sequential(block, copy.deepcopy(block))
    x = torch.randn(2, 4)
    expected = module.eval()(x)
    assert torch.equal(freeze(module.train(), own=False)(x), expected) and not module.training
