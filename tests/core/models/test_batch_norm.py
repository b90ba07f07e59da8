"""Running statistics of batch norm where a batch goes through in parts: one step's update, by the mean of the parts' moments;
and in an energy, which keeps those it was begun with.

That several processes share the moments of a batch is seen in `tests/core/test_parallel.py`.
"""

from __future__ import annotations

import copy

import pytest
import torch

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.models.batch_norm import measure_statistics
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import ScaledMmd
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.training.optimise import Method, adam, base_step, critic_step

PRIOR, N = NormalPrior(2), 24
METHODS = {
    "kale": (Kale(), Penalty(weight=0.0), "xy"),
    "kale-r1": (Kale(), Penalty("r1"), "xyx"),
    "kale-r2": (Kale(), Penalty("r2"), "xyy"),
    "scaled-mmd": (ScaledMmd(Gaussian(1.0)), Penalty(weight=0.0), "xyx"),
    "scaled-mmd-r2": (ScaledMmd(Gaussian(1.0)), Penalty("r2"), "xyxy"),
}


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _data():
    return torch.tensor([1.0, 3.0]) * torch.randn(N, 2, generator=_seeded(1)) + torch.tensor([1.0, 0.5])


def _normed(n_out, momentum=0.2):
    """A batch norm of the inputs themselves, and an mlp on it."""
    with seeded_construction(0, "normed"):
        return mlp(2, n_out, 8, 1).insert(0, torch.nn.BatchNorm1d(2, momentum=momentum))


def _updated(seen, parts, momentum):
    """Mean and variance after each of `seen` moved them by the mean of its parts' moments; what is cumulative weighs by count."""
    mean, variance = torch.zeros(2), torch.ones(2)
    for count, x in enumerate(seen, 1):
        m = 1 / count if momentum is None else momentum
        mean = (1 - m) * mean + m * torch.stack([p.mean(0) for p in x.chunk(parts)]).mean(0)
        variance = (1 - m) * variance + m * torch.stack([p.var(0) for p in x.chunk(parts)]).mean(0)
    return mean, variance


@pytest.mark.parametrize("momentum", [0.2, None])
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_a_critic_step_in_parts_moves_running_statistics_once(name, parts, momentum):
    """By data, base samples, and where the penalty's or the scale's gradient is taken, in the order of a step in one part."""
    objective, penalty, order = METHODS[name]
    energy = Energy(_normed(3 if objective.on_features else 1, momentum))
    base, data = torch.nn.Linear(2, 2), _data()
    y = base(PRIOR.sample(N, _seeded())).detach()
    method = Method(objective, penalty, parts=parts)
    critic_step(energy, base, PRIOR, data, adam(energy, 1e-3, (0.5, 0.9)), method, _seeded())
    norm = energy.network[0]
    mean, variance = _updated([{"x": data, "y": y}[side] for side in order], parts, momentum)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.num_batches_tracked == len(order) and norm.track_running_stats


@pytest.mark.parametrize("parts", [1, 3])
def test_a_base_step_in_parts_moves_running_statistics_once(parts):
    """By the latents of the step; the frozen critic keeps its own."""
    base, energy = _normed(2), Energy(_normed(1)).eval()
    before = energy.network[0].running_var.clone()
    base_step(base, energy, PRIOR, N, adam(base, 1e-3, (0.5, 0.9)), Method(parts=parts), _seeded())
    mean, variance = _updated([PRIOR.sample(N, _seeded())], parts, 0.2)
    torch.testing.assert_close(base[0].running_mean, mean)
    torch.testing.assert_close(base[0].running_var, variance)
    assert base[0].num_batches_tracked == 1 and torch.equal(energy.network[0].running_var, before)


def test_measured_statistics_are_the_mean_moments_of_the_batches():
    """Whatever they were before; momentum and mode are left as they were."""
    network = _normed(1).eval()
    norm = network[0]
    norm.running_mean.fill_(7.0)
    batches = _data().split(8)
    measure_statistics(network, batches)
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert norm.momentum == 0.2 and not norm.training


@pytest.mark.parametrize("holds", [True, False])
def test_an_energy_that_holds_its_statistics_is_trained_as_it_is_used(holds):
    """The value of a critic step, in training mode, is KALE of the energy in eval mode, with held statistics alone; these stay."""
    energy, base = Energy(_normed(1)), mlp(2, 2, 4, 1)
    measure_statistics(energy, [_data()])
    energy.holds_statistics = holds
    energy.train()
    before = energy.network[0].running_mean.clone()
    with torch.no_grad():
        fake = base(PRIOR.sample(N, _seeded(2)))
        used = copy.deepcopy(energy).eval()
        expected = Kale().value(used(_data()), used(fake))
    method = Method(objective=Kale(), penalty=Penalty("r1"))
    value, _ = critic_step(energy, base, PRIOR, _data(), adam(energy, 1e-3, (0.5, 0.9)), method, _seeded(2))
    assert torch.allclose(value, expected) == holds
    assert torch.equal(energy.network[0].running_mean, before) == holds
