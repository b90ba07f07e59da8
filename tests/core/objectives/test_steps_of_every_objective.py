"""The steps for every objective: gradients by hand, the same gradient in parts, noise, precision, and what stays untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.kernels import EnergyDistance, Gaussian, GaussianMixture, RationalQuadratic
from gebm_cli.core.mmd import mmd2_loss
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.models.spectral import normalised
from gebm_cli.core.objectives.f_divergences import DUALS, FDivergence
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd, ScaledWasserstein
from gebm_cli.core.objectives.margins import Hinge, Wasserstein
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.training.optimise import Method, adam, base_step, critic_step, frozen

PRIOR, N = NormalPrior(2), 24
OBJECTIVES = {
    "kale": Kale(),
    "kale-batch": Kale(batch_log_partition=True),
    **{name: FDivergence(name) for name in DUALS},
    "gan": FDivergence("js", non_saturating=True),
    "hinge": Hinge(),
    "wasserstein": Wasserstein(),
    "mmd-gaussian": Mmd(Gaussian(0.5)),
    "mmd-mixture": Mmd(GaussianMixture((0.5, 2.0), linear=0.5)),
    "mmd-rq": Mmd(RationalQuadratic()),
    "mmd-distance": Mmd(EnergyDistance()),
    "scaled-mmd": ScaledMmd(Gaussian(0.5)),
    "scaled-wasserstein": ScaledWasserstein(),
}
KINDS = ["zero-centred", "one-centred", "r1", "r2"]
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _data(n=N):
    return 0.7 * torch.randn(n, 2, generator=_seeded(1)) + torch.tensor([1.0, 0.5])


def _energy(objective, n_out=5, spectral=False):
    with seeded_construction(0, "energy"):
        network = mlp(2, n_out if objective.on_features else 1, 12, 2)
        if spectral:
            normalised(network[0], "parametrised")
            spectral_norm(network[2])
    energy = Energy(network)
    energy.log_partition.data.fill_(0.3)
    return energy


def _base():
    with seeded_construction(0, "base"):
        return mlp(2, 2, 12, 1)


def _flat_gradient(module):
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in module.parameters()])


def _critic_gradient(energy, method, seed=3):
    """The gradient of one step that does not move, the value and the penalty."""
    energy = copy.deepcopy(energy).train()
    optimiser = torch.optim.SGD(energy.parameters(), 0.0)
    returned = critic_step(energy, _base(), PRIOR, _data(), optimiser, method, _seeded(seed))
    return _flat_gradient(energy), *returned


def _base_gradient(energy, method, base=None):
    base, energy = base or _base(), copy.deepcopy(energy).eval()
    data = _data() if method.objective.base_sees_data else None
    with frozen(energy):
        loss = base_step(base, energy, PRIOR, N, torch.optim.SGD(base.parameters(), 0.0), method, _seeded(4), data)
    assert all(p.grad is None for p in energy.parameters())
    return _flat_gradient(base), loss


def _close(a, b, tolerance):
    error = ((a - b).norm() / b.norm()).item()
    return error < tolerance, f"relative error {error:.1e} of a gradient of length {b.norm():.2e}"


# ------------------------------------------------------------------------------------------------------------------ by hand


@every_objective
def test_critic_gradient_by_hand(name):
    """It is that of -value + weight * mean |grad f|^2 over the whole batch, everything written out in one graph."""
    objective = OBJECTIVES[name]
    energy = _energy(objective)
    gradient, value, penalty = _critic_gradient(energy, Method(objective=objective, penalty=Penalty(weight=0.6)))
    generator, other = _seeded(3), copy.deepcopy(energy)
    fake = _base()(PRIOR.sample(N, generator)).detach()
    a = torch.rand(N, 1, generator=generator)

    def says(x):
        return other.network(x) if objective.on_features else other.network(x)[:, 0] + other.log_partition

    on_data, on_base = says(_data()), says(fake)
    expected = objective.value(on_data, on_base)
    if objective.scaled:
        jacobian = torch.vmap(torch.func.jacrev(lambda x: other.network(x)))(_data())
        expected = expected * objective.scale(jacobian.square().flatten(1).sum(1), on_data)
    between = (a * _data() + (1 - a) * fake).requires_grad_()
    at = says(between)
    if objective.on_features:
        at = objective.kernel(at, on_data).mean(1) - objective.kernel(at, on_base).mean(1)
    (slope,) = torch.autograd.grad(at.sum(), between, create_graph=True)
    expected_penalty = slope.square().sum(1).mean()
    (0.6 * expected_penalty - expected).backward()
    ok, text = _close(gradient[1:], _flat_gradient(other)[1:], 1e-4)
    assert ok, text
    assert (value.item(), penalty.item()) == pytest.approx(
        (expected.item(), expected_penalty.item()), rel=1e-4, abs=1e-6
    )


@every_objective
def test_base_gradient_by_hand(name):
    """It is that of the base's loss, times the scale where there is one; the energy is left without gradients."""
    objective = OBJECTIVES[name]
    energy, base = _energy(objective), _base()
    gradient, loss = _base_gradient(energy, Method(objective=objective))
    z = PRIOR.sample(N, _seeded(4))
    c = 0 if objective.on_features else energy.log_partition.detach()
    says = [energy.network(x) + c for x in (_data(), base(z))]
    on_data, on_base = says if objective.on_features else [s[:, 0] for s in says]
    expected = objective.base_loss(on_base, on_data.detach())
    if objective.scaled:
        jacobian = torch.vmap(torch.func.jacrev(lambda x: energy.network(x)))(_data()).detach()
        expected = expected * objective.scale(jacobian.square().flatten(1).sum(1), on_data.detach())
    expected.backward()
    ok, text = _close(gradient, _flat_gradient(base), 1e-4)
    assert ok and loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6), text


def test_mmd_gradient_of_the_base_by_finite_differences():
    """Along the gradient of the base's bias, MMD^2 of fresh features falls at the rate that the gradient says."""
    objective = OBJECTIVES["mmd-rq"]
    energy, base, data = _energy(objective), _base(), _data()
    gradient = _base_gradient(energy, Method(objective=objective), base)[0][-2:]

    def loss(shift):
        x, y = (energy.features(s).double() for s in (data, base(PRIOR.sample(N, _seeded(4))) + shift))
        return mmd2_loss(x, y, objective.kernel).item()

    for i, h in enumerate(torch.eye(2) * 1e-2):
        assert gradient[i].item() == pytest.approx((loss(h) - loss(-h)) / 2e-2, rel=1e-2, abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------- in parts


@pytest.mark.parametrize(
    ("kind", "spectral"), [*((kind, False) for kind in [None, *KINDS]), (None, True), ("zero-centred", True)]
)
@every_objective
def test_parts_give_the_same_critic_gradient(name, kind, spectral):
    """In 1 part and in 4 (and in 5, unevenly) the critic's gradient, value and penalty agree to rounding, also where the
    penalty is that of a witness, the value is scaled, or the weights have spectral norms."""
    objective = OBJECTIVES[name]
    energy = _energy(objective, spectral=spectral)
    penalty = Penalty(weight=0.0) if kind is None else Penalty(kind, weight=5.0, outputs=0.1, weights=0.2)
    method = {"objective": objective, "penalty": penalty}
    whole, *figures = _critic_gradient(energy, Method(**method))
    for parts in (4, 5):
        divided, *others = _critic_gradient(energy, Method(**method, parts=parts))
        ok, text = _close(divided, whole, 1e-4)
        assert ok, text
        assert [v.item() for v in others] == pytest.approx([v.item() for v in figures], rel=1e-4, abs=1e-6)


def test_parts_share_hutchinsons_direction():
    """With 20 features, so that |J|^2 is estimated, 4 parts give the gradient and the random state of one."""
    objective, states = ScaledMmd(Gaussian(0.5)), []
    energy, gradients = _energy(objective, 20), []
    for parts in (1, 4):
        generator = _seeded(6)
        other = copy.deepcopy(energy)
        optimiser = torch.optim.SGD(other.parameters(), 0.0)
        critic_step(other, _base(), PRIOR, _data(), optimiser, Method(objective=objective, parts=parts), generator)
        gradients.append(_flat_gradient(other))
        states.append(generator.get_state())
    ok, text = _close(*gradients, 1e-4)
    assert ok and torch.equal(*states), text


@every_objective
def test_parts_give_the_same_base_gradient(name):
    """In 1 part and in 4 the base's gradient and loss agree to rounding."""
    objective = OBJECTIVES[name]
    energy = _energy(objective)
    whole, loss = _base_gradient(energy, Method(objective=objective))
    divided, other = _base_gradient(energy, Method(objective=objective, parts=4))
    ok, text = _close(divided, whole, 1e-4)
    assert ok and other.item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-6), text


def test_parts_leave_modes_as_they_were():
    """After a step in parts every module is in training mode again, and batch norm has not left it in between.

    Of four parts: two passes of data and of base samples, which batch norm sees apart, and one of interpolates, is 20 calls.
    """
    seen = []

    class Watching(torch.nn.BatchNorm1d):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)

    network = torch.nn.Sequential(spectral_norm(torch.nn.Linear(2, 4)), Watching(4), torch.nn.Linear(4, 1))
    energy = Energy(network).train()
    critic_step(energy, _base(), PRIOR, _data(), adam(energy, 1e-3, (0.5, 0.9)), Method(parts=4), _seeded())
    assert all(m.training for m in energy.modules()) and all(seen) and len(seen) == 20


# ------------------------------------------------------------------------------------------------------- noise, precision, c


class Seen(torch.nn.Module):
    """An energy that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight, self.points = torch.nn.Parameter(torch.ones(2)), []

    def forward(self, x):
        self.points.append(x.detach().clone())
        return x @ self.weight


def test_noise_of_parts_is_the_same_in_both_passes():
    """In 4 parts each part of the base's samples is seen twice through the very same noise, and each through its own."""
    energy = Energy(Seen())
    _base_step = base_step(
        _base(), energy, PRIOR, N, torch.optim.SGD([torch.zeros(1)], 0.0), Method(noise_std=0.5, parts=4), _seeded(4)
    )
    points = energy.network.points
    assert len(points) == 8 and _base_step.isfinite()
    assert all(torch.equal(p, q) for p, q in zip(points[:4], points[4:], strict=True))
    clean = _base()(PRIOR.sample(N, _seeded(4))).detach().chunk(4)
    noise = [p - x for p, x in zip(points, clean)]
    assert not torch.allclose(noise[0], noise[1]) and 0.3 < torch.cat(noise).std() < 0.7


@pytest.mark.parametrize("parts", [1, 4])
def test_noise_of_a_critic_step_covers_data_and_samples(parts):
    """Data and base samples are seen through noise of the given spread, independent of each other, the same in all passes."""
    energy, generator = Energy(Seen()), _seeded(4)
    method = Method(noise_std=0.5, parts=parts, penalty=Penalty(weight=0.0))
    critic_step(energy, _base(), PRIOR, _data(400), torch.optim.SGD(energy.parameters(), 0.0), method, generator)
    points = energy.network.points
    assert all(torch.equal(p, q) for p, q in zip(points[:parts], points[parts:]))
    first = [p.chunk(2) for p in points[:parts]]
    x, y = (torch.cat(side) for side in zip(*first, strict=True))
    noise = torch.stack([x - _data(400), y - _base()(PRIOR.sample(400, _seeded(4))).detach()])
    correlation = torch.corrcoef(noise.flatten(1))[0, 1]
    assert ((noise.std((1, 2)) - 0.5).abs() < 0.05).all() and abs(correlation) < 4 / 800**0.5, correlation


@every_objective
def test_bfloat16_is_near_float32(name):
    """Under autocast the losses stay float32, within 10 % of the size of the terms, and so do the gradients."""
    objective = OBJECTIVES[name]
    energy = _energy(objective)
    penalty = Penalty(weight=0.5)
    exact = _critic_gradient(energy, Method(objective=objective, penalty=penalty))
    rough = _critic_gradient(energy, Method(objective=objective, penalty=penalty, bfloat16=True))
    assert rough[1].dtype == rough[0].dtype == torch.float32
    assert rough[1].item() == pytest.approx(exact[1].item(), rel=0.1, abs=0.03)
    assert not torch.equal(rough[0], exact[0]) and _close(rough[0], exact[0], 0.2)[0], _close(rough[0], exact[0], 0.2)[
        1
    ]
    (one, loss), (two, other) = (_base_gradient(energy, Method(objective=objective, bfloat16=b)) for b in (False, True))
    assert other.item() == pytest.approx(loss.item(), rel=0.1, abs=0.03) and _close(two, one, 0.2)[0], _close(
        two, one, 0.2
    )


@pytest.mark.parametrize("name", ["kale-batch", "wasserstein", "mmd-rq"])
def test_a_constant_that_cancels_is_left_alone(name):
    """Where the value does not depend on c, rounding does not make Adam move it."""
    objective = OBJECTIVES[name]
    energy, generator = _energy(objective), _seeded()
    optimiser = adam(energy, 1e-2, (0.5, 0.9))
    for _ in range(3):
        critic_step(energy, _base(), PRIOR, _data(23), optimiser, Method(objective=objective), generator)
    assert energy.log_partition.item() == pytest.approx(0.3, abs=1e-7)
    assert not torch.equal(energy.network[0].weight, _energy(objective).network[0].weight)
