"""Every check passes on a sound energy, and fails or warns on one that is broken in the way it looks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import norm
from torch import nn

from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling import checks
from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.potential import LatentPotential

D = 4


class Applied(nn.Module):
    """A module of one function."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


def network(seed=0, activation=None, scale=1.0):
    """An energy network on D numbers, of curvature about 1 at scale 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = mlp(D, 1, 32, 2)
        layers = [activation() if activation and isinstance(layer, nn.SiLU) else layer for layer in net]
        with torch.no_grad():
            net[-1].weight.mul_(8 * scale)
    return nn.Sequential(*layers)


def potential(energy=None, base=None, beta=1.0, prior=None):
    base, energy = base or nn.Identity(), Energy(energy or network())
    for module in (base, energy):
        module.eval().requires_grad_(False)
    return LatentPotential(prior or NormalPrior(D), base, energy, beta)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def leaky():
    return network(activation=lambda: nn.LeakyReLU(0.2))


def in_float32(x, net):
    return net(x.float())


@pytest.mark.parametrize(
    "energy", [network(), leaky(), Applied(in_float32, leaky())], ids=["smooth", "kinks", "float32"]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_sound_energy_passes_every_check(energy, seed):
    """Smooth, of straight pieces, and one that cannot be computed in float64."""
    p, g = potential(energy), generator(seed)
    z = p.prior.sample(64, g)
    found = [
        checks.check_finite(p, g),
        checks.check_deterministic(p, g),
        checks.check_gradient(p, g),
        checks.check_flat(p, g),
        checks.check_prior(p.prior, g),
        checks.check_beta_zero(p, g),
        checks.check_stability(p, 0.1, "h", g),
        checks.check_precision(p, 0.05, g),
        checks.check_metropolis(Mala(p, 0.05), z, g, (100, 50)),
        checks.check_overlap(p, g),
    ]
    assert {c.name: c.status for c in found} == dict.fromkeys([c.name for c in found], "ok"), found


# ------------------------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize(("threshold", "status"), [(2.8, "warning"), (0.0, "failed")])
def test_energies_that_are_not_finite_are_counted(threshold, status):
    """A NaN on part of the latent space: the share is that of the prior's mass there."""
    p = potential(Applied(lambda x, net: net(x) + torch.where(x[:, :1] > threshold, math.nan, 0.0), network()))
    check = checks.check_finite(p, generator())
    expected = norm.sf(threshold)
    assert check.status == status
    assert abs(check.value - expected) < 4 * math.sqrt(expected / 1000)


def test_a_gradient_that_is_not_finite_is_counted_though_the_energy_is():
    """sqrt at 0 has a finite value and an infinite slope, which times 0 is NaN."""
    p = potential(Applied(lambda x: (x[:, 0] * (x[:, 0] > 0)).sqrt()))
    assert checks.check_finite(p, generator()).status == "failed"


def test_draws_leave_out_what_is_not_finite_and_refuse_what_never_is():
    """The other checks see the rest; with nothing left there is nothing to check."""
    half = potential(Applied(lambda x: torch.where(x[:, 0] > 0, math.inf, x[:, 0])))
    assert (checks.draws(half, 100, generator())[:, 0] <= 0).all()
    with pytest.raises(ValueError, match="finite at 0 of 100"):
        checks.draws(potential(Applied(lambda x: x[:, 0] * math.nan)), 100, generator())


BROKEN_FUNCTIONS = {
    "dropout": (lambda x, net: net(nn.functional.dropout(x, 0.3, training=True)), "when asked again"),
    "batch mean": (lambda x, net: net(x - x.mean(0)), "the other chains in its batch"),
    "batch norm": (lambda x, net: net(nn.functional.batch_norm(x, None, None, training=True)), "cannot be computed"),
}


@pytest.mark.parametrize("name", BROKEN_FUNCTIONS)
def test_an_energy_that_is_no_function_of_its_latent_fails(name):
    """Noise inside, or the batch inside; batch norm in train mode refuses a batch of one."""
    function, told = BROKEN_FUNCTIONS[name]
    check = checks.check_deterministic(potential(base=Applied(function, nn.Identity())), generator())
    assert check.status == "failed" and told in check.message


def test_rounding_that_differs_between_two_calls_is_a_warning():
    """Not reproducible, but a function as far as chains can tell."""
    calls = iter(range(10**6))
    p = potential(Applied(lambda x, net: net(x) * (1 + 1e-7 * (next(calls) % 2)), network()))
    assert checks.check_deterministic(p, generator()).status == "warning"


class Doubling(torch.autograd.Function):
    """The identity, with twice its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 2 * g


WRONG_GRADIENTS = {
    "detached part": lambda x, net: net(x) + net(x.detach().flip(1)),
    "detached": lambda x, net: net(x.detach()),
    "own backward": lambda x, net: net(Doubling.apply(x)),
    "one coordinate": lambda x, net: net(torch.cat([x[:, :1].detach(), x[:, 1:]], 1)),
    "off by a little": lambda x, net: net(x) + 0.01 * net(x.detach()),
}


@pytest.mark.parametrize("name", WRONG_GRADIENTS)
def test_a_wrong_gradient_fails(name):
    """Whatever part of it is missing or too much."""
    check = checks.check_gradient(potential(Applied(WRONG_GRADIENTS[name], network())), generator())
    assert check.status == "failed" and check.value > 0.5


@pytest.mark.parametrize("name", ["detached part", "detached", "own backward", "one coordinate"])
def test_a_wrong_gradient_fails_where_there_is_no_float64_copy(name):
    """By the coarser comparison along a path."""
    wrong = Applied(lambda x, net: WRONG_GRADIENTS[name](x.float(), net), network())
    check = checks.check_gradient(potential(wrong), generator())
    assert check.status == "failed" and "float32" in check.message


@pytest.mark.parametrize(
    "function",
    [in_float32, lambda x, net: net(x.half().to(x.dtype)), lambda x, net: net(x).half().to(x.dtype)],
    ids=["casts", "rounds its input", "rounds its output"],
)
def test_a_network_that_does_not_compute_in_float64_has_no_float64_copy(function):
    """Also one that only pretends to: it does not tell a latent from its neighbour."""
    z = torch.randn(64, D, generator=generator())
    assert checks.float64_copy(potential(Applied(function, network())), z) is None
    copied = checks.float64_copy(potential(network()), z)
    assert copied is not None and copied.energy.network[0].weight.dtype == torch.float64


@pytest.mark.parametrize(("low", "status"), [(-math.inf, "ok"), (-0.5, "warning"), (9.0, "failed")])
def test_flat_regions_are_counted(low, status):
    """A clipped energy: the share of draws below the clip."""
    p = potential(Applied(lambda x: x[:, 0].clamp(min=low)))
    check = checks.check_flat(p, generator())
    assert check.status == status
    assert abs(check.value - norm.cdf(low)) < 0.06


# ---------------------------------------------------------------------------------------------------------------- the prior


@dataclass(frozen=True)
class OwnPrior:
    """z = location + scale N(0, I), whose log_prob says location 0 and scale 1.5."""

    scale: float = 1.5
    location: float = 0.0

    def sample(self, n, generator):
        return self.location + self.scale * torch.randn(n, D, generator=generator)

    def log_prob(self, z):
        return -(z / 1.5).square().sum(1) / 2


@pytest.mark.parametrize(
    ("prior", "status"),
    [(OwnPrior(), "ok"), (OwnPrior(scale=1.2), "failed"), (OwnPrior(location=0.7), "failed")],
    ids=["right", "scale", "location"],
)
def test_a_prior_whose_log_prob_is_not_that_of_its_draws_fails(prior, status):
    """Scale and location, by Stein's identities; and chains that start at its draws do not stay there."""
    for seed in range(3):
        assert checks.check_prior(prior, generator(seed)).status == status
        assert checks.check_beta_zero(potential(prior=prior), generator(seed)).status == status


def test_a_normal_prior_whose_gradient_is_wrong_is_changed_at_beta_zero():
    """The moments of each coordinate show it."""

    class Steep(NormalPrior):
        def log_prob(self, z):
            return 1.3 * super().log_prob(z)

    check = checks.check_beta_zero(potential(prior=Steep(D)), generator())
    assert check.status == "failed" and "mala" in check.message
    assert check.value == max(check.figures.values())


def test_the_level_of_the_tests_is_familywise():
    """Two-sided, over all tests together."""
    assert checks.z_level(10) == pytest.approx(norm.isf(1e-4 / 20))


# ------------------------------------------------------------------------------------------------------------------ sampling


def quadratic(curvature):
    """U of Hessian 1 + curvature in every direction."""
    return potential(Applied(lambda x: curvature / 2 * x.square().sum(1)))


@pytest.mark.parametrize(
    ("step", "unit", "status"),
    [
        (0.19, "h", "ok"),
        (0.21, "h", "warning"),
        (0.019, "epsilon", "ok"),
        (0.021, "epsilon", "warning"),
        (None, "h", "ok"),
    ],
)
def test_the_stability_bound_is_that_of_a_quadratic(step, unit, status):
    """L = 100: h = 2 / 10, epsilon = 2 / 100."""
    check = checks.check_stability(quadratic(99.0), step, unit, generator())
    assert check.status == status
    assert check.value == pytest.approx(100, rel=1e-3)
    assert (check.figures["bound_h"], check.figures["bound_epsilon"]) == pytest.approx((0.2, 0.02), rel=1e-3)
    if step is not None:
        assert (check.value <= check.bound) == (status == "ok")


def test_an_enormous_beta_is_beyond_any_step_and_any_overlap():
    """Both warn: it is a setting, not a defect."""
    p = potential(beta=1e4)
    assert checks.check_stability(p, 0.5, "h", generator()).status == "warning"
    check = checks.check_overlap(p, generator())
    assert check.status == "warning" and "--sampler pt" in check.message


def test_the_overlap_of_a_linear_energy_is_known():
    """w = exp(-z_1) is lognormal: (E w)^2 / E w^2 = exp(-1)."""
    check = checks.check_overlap(potential(Applied(lambda x: x[:, 0])), generator(), 20_000)
    assert check.value == pytest.approx(math.exp(-1), abs=0.03)
    assert check.figures["spread"] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (lambda x, net: net(x) + 1e6, "warning"),
        (lambda x, net: net(x) + 1e7, "failed"),
        (lambda x, net: (net(x) + 1000).half().float(), "failed"),
        (lambda x, net: (net(x) + 1000).half().to(x.dtype), "failed"),
    ],
    ids=["offset", "large offset", "half precision", "half precision in disguise"],
)
def test_rounding_in_the_acceptance_ratio_is_measured(function, status):
    """float32 numbers near 1e6 are 1/16 apart, near 1e7 1 apart; half-precision ones near 1000 are 1/2 apart."""
    p = potential(Applied(function, network(scale=10)))
    assert checks.check_precision(p, 0.1, generator()).status == status


def test_the_rounding_error_is_that_of_its_spacing():
    """Two values rounded to multiples of s: sd s / sqrt 6, and the gradient's own error does not enter."""
    p = potential(Applied(lambda x, net: net(x) + 1e7, network(scale=30)))
    check = checks.check_precision(p, 0.5, generator(), 5000)
    assert check.value == pytest.approx(1 / math.sqrt(6), rel=0.1)
    assert (
        checks.check_precision(potential(Applied(WRONG_GRADIENTS["detached"], network())), 0.05, generator()).value
        < 1e-4
    )


def test_chains_on_their_way_down_are_told_from_stationary_ones():
    """From draws of pi MALA is stationary at once; far away it is not yet."""
    p, g = quadratic(3.0), generator()
    z = p.prior.sample(256, g) / 2
    assert checks.check_metropolis(Mala(p, 0.01), z, g, (0, 50)).status == "ok"
    check = checks.check_metropolis(Mala(p, 0.01), z + 5, g, (0, 50))
    assert check.status == "warning" and check.figures["balance"] > 0


def test_chains_that_never_meet_a_finite_energy_are_a_warning_not_a_crash():
    """No ratio, no figure."""
    p = potential(Applied(lambda x: x[:, 0] * math.nan))
    check = checks.check_metropolis(Mala(p, 0.01), torch.zeros(8, D), generator(), (2, 2))
    assert check.status == "warning" and math.isnan(check.value)
