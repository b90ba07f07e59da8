"""One step of each kind (core/training/optimise.py) against gradients written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils import parametrize

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.models.convolutional import conv_energy
from gebm_cli.core.models.networks import Circle, Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.training.optimise import Method, adam, base_step, critic_step, frozen, one_power_iteration

PRIOR = NormalPrior(2)
PLAIN = Method(penalty=Penalty(weight=0.0))


@pytest.fixture
def energy():
    with seeded_construction(0, "energy"):
        return Energy(mlp(2, 1, 16, 2))


@pytest.fixture
def base():
    with seeded_construction(0, "base"):
        return mlp(2, 2, 16, 1)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _data(n=64, seed=1):
    return 0.3 * torch.randn(n, 2, generator=_seeded(seed)) + torch.tensor([1.0, 0.5])


def test_critic_step_is_ascent_on_its_objective(energy, base):
    """With plain gradient descent of rate .1 the step is +.1 times the gradient of F - weight * penalty, in E and c."""
    data, other = _data(), copy.deepcopy(energy)
    optimiser = torch.optim.SGD(energy.parameters(), 0.1)
    value, penalty = critic_step(energy, base, PRIOR, data, optimiser, Method(penalty=Penalty(weight=2.0)), _seeded(3))
    generator = _seeded(3)
    with torch.no_grad():
        fake = base(PRIOR.sample(64, generator))
    c, a = other.log_partition, torch.rand(64, 1, generator=generator)
    expected = Kale().value(other(data) + c, other(fake) + c)
    between = (a * data + (1 - a) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(other(between).sum(), between, create_graph=True)
    expected_penalty = slope.square().sum(1).mean()
    (expected - 2.0 * expected_penalty).backward()
    assert (value.item(), penalty.item()) == pytest.approx((expected.item(), expected_penalty.item()), rel=1e-5)
    for (name, new), old in zip(energy.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1 * old.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_critic_step_leaves_the_base_alone(energy, base):
    """The base gets neither a gradient nor a change, and what is returned carries no graph."""
    before = [p.clone() for p in base.parameters()]
    value, penalty = critic_step(energy, base, PRIOR, _data(), adam(energy, 1e-2, (0.5, 0.9)), Method(), _seeded())
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(base.parameters(), before, strict=True))
    assert not value.requires_grad and not penalty.requires_grad


def test_critic_step_without_penalty(energy, base):
    """At weight 0 the penalty is neither computed nor drawn for."""
    generator, expected = _seeded(4), _seeded(4)
    _, penalty = critic_step(energy, base, PRIOR, _data(), adam(energy, 1e-2, (0.5, 0.9)), PLAIN, generator)
    PRIOR.sample(64, expected)
    assert penalty.item() == 0 and torch.equal(generator.get_state(), expected.get_state())


def test_critic_steps_raise_kale(energy):
    """On a cluster against the circle, F of fresh points rises from about 0 to above .5 in 150 steps."""
    optimiser, generator = adam(energy, 1e-2, (0.5, 0.9)), _seeded(5)
    method = Method(penalty=Penalty(weight=0.1))
    values = [
        critic_step(energy, Circle(), PRIOR, _data(seed=10 + i), optimiser, method, generator)[0].item()
        for i in range(150)
    ]
    first, last = sum(values[:10]) / 10, sum(values[-10:]) / 10
    assert abs(first) < 0.3 and last > 0.5, f"from {first:.3f} to {last:.3f}"


def test_base_step_is_descent_on_its_loss(energy, base):
    """With plain gradient descent of rate .1 the step is -.1 times the gradient of -log mean exp(-E(B(z)))."""
    other = copy.deepcopy(base)
    loss = base_step(base, energy, PRIOR, 64, torch.optim.SGD(base.parameters(), 0.1), PLAIN, _seeded(6))
    expected = -torch.exp(-energy(other(PRIOR.sample(64, _seeded(6))))).mean().log()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6) and not loss.requires_grad
    for new, old in zip(base.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6)


def test_base_step_of_a_frozen_energy_leaves_no_gradients(energy, base):
    """Inside `frozen` the energy's gradients stay None and its parameters stay as they are; the base moves."""
    before, base_before = copy.deepcopy(energy), copy.deepcopy(base)
    with frozen(energy):
        base_step(base, energy, PRIOR, 32, adam(base, 1e-2, (0.5, 0.9)), PLAIN, _seeded())
    assert all(p.grad is None for p in energy.parameters())
    assert all(torch.equal(p, q) for p, q in zip(energy.parameters(), before.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(base.parameters(), base_before.parameters(), strict=True))


def test_base_steps_lower_the_energy(base):
    """Against a fixed well at (2, 0), 100 base steps bring the samples from the origin to the well."""

    class Well(torch.nn.Module):
        def forward(self, x):
            return (x - torch.tensor([2.0, 0.0])).square().sum(1)

    optimiser, generator, well = adam(base, 2e-2, (0.5, 0.9)), _seeded(7), Energy(Well())
    for _ in range(100):
        base_step(base, well, PRIOR, 64, optimiser, PLAIN, generator)
    with torch.no_grad():
        centre = base(PRIOR.sample(1000, generator)).mean(0)
    assert (centre - torch.tensor([2.0, 0.0])).norm() < 0.2, centre.tolist()


def test_frozen_restores_what_was_trainable(energy, base):
    """After `frozen`, also after an error, exactly the parameters that asked for gradients ask again."""
    energy.log_partition.requires_grad_(False)
    before = [p.requires_grad for m in (energy, base) for p in m.parameters()]
    with pytest.raises(ZeroDivisionError), frozen(energy, base):
        assert not any(p.requires_grad for m in (energy, base) for p in m.parameters())
        raise ZeroDivisionError
    assert [p.requires_grad for m in (energy, base) for p in m.parameters()] == before
    assert before.count(False) == 1


def test_adam_gives_the_log_partition_its_own_rate(energy):
    """Every parameter is in exactly one group, log_partition alone in the second with its own rate."""
    optimiser = adam(energy, 1e-3, (0.5, 0.99), 1e-2)
    network, own = optimiser.param_groups
    assert (network["lr"], own["lr"], network["betas"], own["betas"]) == (1e-3, 1e-2, (0.5, 0.99), (0.5, 0.99))
    assert len(own["params"]) == 1 and own["params"][0] is energy.log_partition
    assert [id(p) for p in network["params"]] == [id(p) for p in energy.network.parameters()]


def test_adam_defaults_the_log_partition_to_the_same_rate(energy, base):
    """Without a rate of its own c takes the network's; a base has one group."""
    assert [g["lr"] for g in adam(energy, 3e-4, (0.5, 0.99)).param_groups] == [3e-4, 3e-4]
    assert len(adam(base, 3e-4, (0.5, 0.99)).param_groups) == 1


def test_adam_moves_each_group_by_its_rate(energy, base):
    """Adam's first step has length lr in each coordinate: c moves by its own rate, weights by theirs."""
    before = copy.deepcopy(energy)
    critic_step(energy, base, PRIOR, _data(), adam(energy, 1e-3, (0.5, 0.9), 5e-2), PLAIN, _seeded())
    step = (energy.log_partition - before.log_partition).abs().item()
    weights = max((p - q).abs().max().item() for p, q in zip(energy.network.parameters(), before.network.parameters()))
    assert (step, weights) == pytest.approx((5e-2, 1e-3), rel=1e-2)


def test_one_power_iteration_a_step():
    """Within it, forward passes share one power iteration; without it each has its own."""
    with seeded_construction(0):
        network = conv_energy((1, 8, 8), 4, "norm")
    layer = network[0].parametrizations.weight[0]
    x, states = torch.randn(2, 1, 8, 8, generator=_seeded()), []
    with one_power_iteration(network):
        for _ in range(2):
            network(x)
            states.append(layer._u.clone())
    network(x)
    assert torch.equal(*states) and not torch.equal(states[0], layer._u)
    assert not isinstance(one_power_iteration(torch.nn.Linear(1, 1)), type(parametrize.cached()))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_critic_step_makes_one_power_iteration(weight, parts):
    """With or without the penalty's own forward pass, in one part or two, a step advances each spectral norm by one iteration."""
    with seeded_construction(0):
        energy = Energy(conv_energy((1, 8, 8), 4, "norm"))
    base = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Unflatten(1, (1, 8, 8)))
    once = copy.deepcopy(energy)
    data = torch.rand(4, 1, 8, 8, generator=_seeded())
    once(data)
    method = Method(penalty=Penalty(weight=weight), parts=parts)
    critic_step(energy, base, PRIOR, data, adam(energy, 1e-3, (0.5, 0.9)), method, _seeded())
    layers = [m.network[0].parametrizations.weight[0] for m in (energy, once)]
    assert torch.equal(layers[0]._u, layers[1]._u)


def test_a_critic_with_batch_norm_sees_data_and_base_samples_apart():
    """Its outputs at data are those of data alone: the statistics of base samples do not enter them."""
    critic = Energy(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))).train()
    x, y = _data(), _data(seed=2) + 5.0
    on_data, on_base = Method().both(critic, x, y)
    torch.testing.assert_close(on_data, critic(x) + critic.log_partition)
    torch.testing.assert_close(on_base, critic(y) + critic.log_partition)
