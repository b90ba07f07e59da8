"""The latent potential U(z) = -log eta(z) + beta E(B(z)) and the prior it stands on."""

from __future__ import annotations

import math

import pytest
import torch
from targets import assert_moments, seeded
from torch import nn

from gebm_cli.core.models.networks import mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.potential import LatentPotential


class Flat(nn.Module):
    """Drops the last dimension of an energy."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).flatten()


class Forbidden(nn.Module):
    """A network that must not be called."""

    def forward(self, x):
        raise AssertionError("called")


def networks(dtype=torch.float32):
    torch.manual_seed(0)
    return mlp(3, 5, 16, 1).to(dtype).eval(), Flat(mlp(5, 1, 16, 1)).to(dtype).eval()


def test_value_is_minus_log_prior_plus_beta_times_energy():
    """U = -log eta + beta E(B(z)) in float64: beta tempers the energy and not the prior."""
    base, energy = networks()
    z = NormalPrior(3).sample(50, seeded(0))
    log_eta = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1).double()
    for beta in (0.0, 1.0, 2.5, -1.0):
        value, gradient = LatentPotential(NormalPrior(3), base, energy, beta).value_and_grad(z)
        assert value.dtype == torch.float64 and value.shape == (50,)
        assert gradient.dtype == z.dtype and gradient.shape == z.shape
        expected = -log_eta + beta * energy(base(z)).detach().double()
        assert (value - expected).abs().max() < 2e-6, f"beta {beta}: off by {(value - expected).abs().max():.2e}"


def test_gradient_is_that_of_the_value():
    """The gradient agrees with central differences of the value, in float64."""
    base, energy = networks(torch.float64)
    potential = LatentPotential(NormalPrior(3), base, energy, beta=3.0)
    z = torch.randn(20, 3, generator=seeded(1), dtype=torch.float64)
    _, gradient = potential.value_and_grad(z)
    for i, direction in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        up, down = potential.value_and_grad(z + direction)[0], potential.value_and_grad(z - direction)[0]
        error = ((up - down) / 2e-5 - gradient[:, i]).abs().max()
        assert error < 1e-8, f"coordinate {i}: off by {error:.2e}"


def test_the_parts_add_up():
    """`value` is the value of `value_and_grad` bit for bit, and U = -log eta + beta E in value and gradient, by its parts."""
    base, energy = networks(torch.float64)
    potential = LatentPotential(NormalPrior(3), base, energy, beta=2.5)
    z = torch.randn(20, 3, generator=seeded(6), dtype=torch.float64)
    value, gradient = potential.value_and_grad(z)
    part, slope = potential.energy_and_grad(z)
    assert torch.equal(potential.value(z), value) and torch.equal(potential.energy_at(z), part)
    assert torch.equal(part, energy(base(z)).detach())
    assert (value + NormalPrior(3).log_prob(z) - 2.5 * part).abs().max() < 1e-12
    assert (gradient - z - 2.5 * slope).abs().max() < 1e-12
    assert not any(x.requires_grad for x in (value, gradient, part, slope, z))


def test_at_another_beta():
    """`at` gives the same parts at that beta, one number or one for each chain; the potential itself keeps its own."""
    base, energy = networks()
    potential = LatentPotential(NormalPrior(3), base, energy, beta=1.0)
    z = NormalPrior(3).sample(6, seeded(7))
    betas = torch.tensor([0.5, 0.5, 2.0, 2.0, 4.0, 4.0], dtype=torch.float64)
    value, gradient = potential.at(betas).value_and_grad(z)
    assert gradient.dtype == z.dtype and torch.equal(potential.at(betas).value(z), value)
    for beta in (0.5, 2.0, 4.0):
        alone, slope = potential.at(beta).value_and_grad(z)
        here = betas == beta
        assert torch.equal(alone[here], value[here]) and (slope - gradient)[here].abs().max() < 1e-6
    assert potential.beta == 1.0 and potential.at(0.5).energy_at(z).equal(potential.energy_at(z))


def test_gradient_of_the_bare_prior_is_the_position():
    """With beta = 0 the gradient is z, exactly, and neither network is called."""
    z = NormalPrior(4).sample(10, seeded(2))
    value, gradient = LatentPotential(NormalPrior(4), Forbidden(), Forbidden(), beta=0.0).value_and_grad(z)
    assert torch.equal(gradient, z)
    assert torch.equal(LatentPotential(NormalPrior(4), Forbidden(), Forbidden(), beta=0.0).value(z), value)
    assert (value - (z.double().square().sum(1) / 2 + 2 * math.log(2 * math.pi))).abs().max() < 2e-6


def test_with_a_temperature_the_networks_are_called():
    """Any beta other than 0 does call them."""
    z = torch.zeros(2, 4)
    with pytest.raises(AssertionError, match="called"):
        LatentPotential(NormalPrior(4), Forbidden(), Forbidden(), beta=1e-9).value_and_grad(z)
    with pytest.raises(AssertionError, match="called"):
        LatentPotential(NormalPrior(4), Forbidden(), Forbidden(), beta=torch.zeros(2)).value(z)


def test_it_differentiates_under_no_grad_and_leaves_no_graph():
    """Under torch.no_grad the gradient is the same; nothing returned carries a graph; z and the networks are untouched."""
    base, energy = networks()
    potential = LatentPotential(NormalPrior(3), base, energy, beta=1.0)
    z = NormalPrior(3).sample(10, seeded(3))
    value, gradient = potential.value_and_grad(z)
    with torch.no_grad():
        again = potential.value_and_grad(z)
    assert torch.equal(value, again[0]) and torch.equal(gradient, again[1])
    assert not (value.requires_grad or gradient.requires_grad or z.requires_grad)
    assert all(p.grad is None for p in (*base.parameters(), *energy.parameters()))


def test_chains_do_not_touch_each_other():
    """A NaN latent spoils its own value and gradient only."""
    base, energy = networks()
    potential = LatentPotential(NormalPrior(3), base, energy, beta=1.0)
    z = NormalPrior(3).sample(10, seeded(4))
    value, gradient = potential.value_and_grad(z)
    z[6] = math.nan
    sick_value, sick_gradient = potential.value_and_grad(z)
    others = torch.arange(10) != 6
    assert sick_value[6].isnan() and sick_gradient[6].isnan().all()
    assert torch.equal(sick_value[others], value[others]) and torch.equal(sick_gradient[others], gradient[others])


def test_prior_draws_are_standard_normal():
    """NormalPrior samples float32 N(0, I) draws, the same ones for the same generator state."""
    z = NormalPrior(3).sample(100_000, seeded(5))
    assert z.dtype == torch.float32 and z.shape == (100_000, 3)
    assert torch.equal(z, NormalPrior(3).sample(100_000, seeded(5)))
    assert_moments(z, torch.zeros(3).double(), torch.eye(3).double(), "prior")
