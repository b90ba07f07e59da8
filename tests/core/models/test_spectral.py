"""Spectral normalisation: the norms it holds, what is learned, and that it can be cached, stored and taken out."""

from __future__ import annotations

import copy
import io
from typing import get_args

import pytest
import torch
from torch.nn.utils import parametrize

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models.convolutional import conv_energy, dcgan_energy, sngan_energy
from gebm_cli.core.models.networks import freeze
from gebm_cli.core.models.residual import resnet_energy
from gebm_cli.core.models.spectral import Spectral, normalised
from gebm_cli.experiment import schema

BOTH = pytest.mark.parametrize("how", ["norm", "parametrised"])
RGB32 = (3, 32, 32)
ENERGIES = {
    "conv": lambda how: conv_energy((3, 8, 8), 4, how),
    "sngan": lambda how: sngan_energy(RGB32, how),
    "dcgan": lambda how: dcgan_energy(RGB32, 2, how),
    "resnet": lambda how: resnet_energy(RGB32, 6, how),
}


@pytest.fixture(autouse=True)
def seeded():
    with seeded_construction(0):
        yield


def _layers(network):
    """The layers with a weight matrix, in order."""
    return [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]


def _normalised_layers(network):
    return [m for m in _layers(network) if parametrize.is_parametrized(m)]


def _operator_norm(weight):
    return torch.linalg.matrix_norm(weight.flatten(1), 2).item()


def _rescale(network):
    """Give every learned scale another value, of either sign."""
    scales = [p for name, p in network.named_parameters() if name.endswith(".scale")]
    for i, scale in enumerate(scales):
        scale.data.fill_((-1) ** i * (0.5 + 0.3 * i))
    return scales


@pytest.mark.parametrize("kind", ENERGIES)
@BOTH
def test_every_normalised_weight_has_the_norm_asked_for(kind, how):
    """As a matrix (out, rest) its largest singular value is 1, or |s|, to 1 %, whatever the raw weight."""
    network = ENERGIES[kind](how)
    scales = _rescale(network)
    layers = _normalised_layers(network)
    assert len(layers) >= 2 and len(scales) == (len(layers) if how == "parametrised" else 0)
    for layer in layers:
        raw = layer.parametrizations.weight.original
        raw.data.mul_(100)
        for _ in range(100):
            layer.weight  # noqa: B018  (each look is a power iteration)
        expected = abs(layer.parametrizations.weight[1].scale.item()) if how == "parametrised" else 1.0
        assert _operator_norm(layer.weight) == pytest.approx(expected, rel=1e-2)
        assert raw.norm() > 2 * layer.weight.norm()


@pytest.mark.parametrize("kind", ENERGIES)
def test_which_layers_are_normalised(kind):
    """All of dcgan and resnet, and all but the last, linear layer of conv and sngan."""
    network = ENERGIES[kind]("norm")
    layers = _layers(network)
    plain = [m for m in layers if not parametrize.is_parametrized(m)]
    assert plain == ([layers[-1]] if kind in ("conv", "sngan") else [])
    assert _normalised_layers(ENERGIES[kind]("none")) == []


def test_the_gradient_reaches_the_scale():
    """d loss / ds = <d loss / dW, Wbar / |Wbar|> for W = s Wbar / |Wbar|."""
    layer = normalised(torch.nn.Linear(5, 4), "parametrised").eval()
    x, direction = torch.randn(7, 5), torch.randn(7, 4)
    with parametrize.cached():
        weight = layer.weight
        weight.retain_grad()
        (layer(x) * direction).sum().backward()
    scale = layer.parametrizations.weight[1].scale
    assert scale.item() == 1 and scale.grad.abs() > 1e-3
    torch.testing.assert_close(scale.grad, (weight.grad * weight).sum())


def test_a_scale_of_one_is_plain_spectral_norm():
    """Built from the same seed both give the same bits, in training mode too; another s scales the layer's weight."""
    outputs = []
    for how in ("norm", "parametrised"):
        with seeded_construction(1):
            network = conv_energy((1, 8, 8), 4, how)
        x = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
        outputs.append([network(x) for _ in range(3)] + [network.eval()(x)])
    assert network[0].training is False and all(map(torch.equal, *outputs))
    plain = network[0].weight.clone()
    network[0].parametrizations.weight[1].scale.data.fill_(-2.5)
    torch.testing.assert_close(network[0].weight, -2.5 * plain)


@BOTH
def test_cached_shares_one_weight_and_one_power_iteration(how):
    """Within `cached` the weight is computed once, so that several passes of one step see the same network."""
    layer = normalised(torch.nn.Conv2d(2, 5, 3), how)
    before = layer.parametrizations.weight[0]._u.clone()
    with parametrize.cached():
        first = layer.weight
        once = layer.parametrizations.weight[0]._u.clone()
        assert layer.weight is first and torch.equal(layer.parametrizations.weight[0]._u, once)
    assert not torch.equal(before, once) and layer.weight is not first


@pytest.mark.parametrize("kind", ENERGIES)
@BOTH
def test_freezing_leaves_the_numbers(kind, how):
    """`freeze` takes every normalisation out, learned scales included, and the outputs of eval mode stay to float accuracy."""
    network = ENERGIES[kind](how)
    _rescale(network)
    x = torch.randn(2, 3, *((8, 8) if kind == "conv" else (32, 32)))
    expected = network.eval()(x).detach()
    frozen = freeze(network.train())
    assert _normalised_layers(frozen) == [] and not any(n.endswith("scale") for n, _ in frozen.named_parameters())
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@BOTH
def test_state_is_data_and_complete(how):
    """A stored state, loaded with `weights_only` into a network of another seed, gives the same bits, in training mode too."""
    network, other = (ENERGIES["resnet"](how) for _ in range(2))
    _rescale(network)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    x = torch.randn(2, *RGB32)
    assert not torch.equal(copy.deepcopy(network)(x), copy.deepcopy(other)(x))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(network(x), other(x)) and torch.equal(network(x), other(x))


def test_none_leaves_the_layer_alone():
    """The layer itself comes back, unparametrised."""
    layer = torch.nn.Linear(2, 2)
    assert normalised(layer, "none") is layer and not parametrize.is_parametrized(layer)


def test_the_schema_has_the_same_names():
    """The schema, which imports no torch, repeats the names of the normalisations."""
    assert get_args(schema.networks.Spectral) == get_args(Spectral)
