"""What energies have in common, networks for points, and freezing."""

from __future__ import annotations

import copy

import pytest
import torch
from gradients import without_gradient
from torch.nn.utils import parametrize

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models.convolutional import conv_energy
from gebm_cli.core.models.networks import Circle, Energy, freeze, mlp


@pytest.fixture(autouse=True)
def seeded():
    with seeded_construction(0):
        yield


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
    assert without_gradient(network, torch.randn(5, 2)) == []


def test_mlp_has_second_derivatives():
    """The Hessian in the input is not zero, as a piecewise linear network's would be."""
    network = mlp(2, 1, 8, 2)
    hessian = torch.autograd.functional.hessian(lambda v: network(v).sum(), torch.randn(2))
    assert hessian.abs().max() > 1e-4, hessian


def test_freezing_leaves_the_numbers_of_eval_mode():
    """Spectral norm is taken out as eval mode has it, also from a network in training mode, whose next call would change it."""
    torch.manual_seed(0)
    energy, x = Energy(conv_energy((1, 8, 8), 4, spectral="norm")), torch.randn(3, 1, 8, 8)
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
