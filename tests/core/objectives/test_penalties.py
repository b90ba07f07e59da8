"""Penalties, scales and clipping: per sample, by hand, and as the steps apply them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from gebm_cli.core.device import seeded_construction
from gebm_cli.core.kernels import Gaussian, RationalQuadratic
from gebm_cli.core.mmd import mmd2_loss
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd, ScaledWasserstein
from gebm_cli.core.objectives.margins import Wasserstein
from gebm_cli.core.objectives.penalties import Penalty, signs, squared_gradient_norm, squared_jacobian
from gebm_cli.core.training.optimise import Method, base_step, critic_step

PRIOR = NormalPrior(2)
NONE = Penalty(weight=0.0)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _images():
    """Data, base points and weights of 5 images (2, 3, 4), on scales that differ by axis and by sample."""
    scale = torch.logspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 4)
    x, y = (torch.randn(5, 2, 3, 4, generator=_seeded(s), dtype=torch.float64) * scale + s for s in (0, 1))
    return x, y, torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)


def _cubic(x):
    """An energy whose gradient is 3 x^2 / 10."""
    return (x**3).sum((1, 2, 3)) / 10


def _norms_by_hand(at):
    return np.array([math.sqrt(sum((0.3 * v**2) ** 2 for v in image.flatten().tolist())) for image in at])


@pytest.mark.parametrize(
    ("kind", "where"), [("zero-centred", "between"), ("one-centred", "between"), ("r1", "data"), ("r2", "base")]
)
def test_each_kind_per_sample_and_at_its_points(kind, where):
    """Each image has its own |grad E| over all its numbers, at interpolates, data or base samples."""
    (x, y, a), penalty = _images(), Penalty(kind)
    between = [w * p + (1 - w) * q for p, q, w in zip(x, y, a, strict=True)]
    norms = _norms_by_hand({"between": between, "data": x, "base": y}[where])
    expected = (norms - 1) ** 2 if kind == "one-centred" else norms**2
    result = penalty.of(_cubic, penalty.points(x, y, a if penalty.interpolates else None))
    assert result.shape == (5,) and result.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert penalty.interpolates == (where == "between")


@pytest.mark.parametrize("kind", ["zero-centred", "one-centred"])
def test_gradient_of_a_penalty_is_finite_differences(kind):
    """In the parameters of the critic, for images whose gradient norms differ by orders of magnitude."""
    x = _images()[0]
    w = torch.rand(2, 3, 4, generator=_seeded(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: Penalty(kind).of(lambda p: _cubic(w * p), x).mean(), (w,), rtol=1e-4)


def test_one_centred_penalty_of_a_flat_critic():
    """Where the gradient is 0 the penalty is 1 and its own gradient is finite."""
    w = torch.zeros((), requires_grad=True)
    penalty = Penalty("one-centred").of(lambda p: w * p.sum(1), torch.ones(3, 2)).mean()
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-6) and w.grad.isfinite()


def test_no_gradient_flows_into_the_points():
    """Neither data nor base samples get a gradient from a penalty."""
    x = torch.ones(3, 2, requires_grad=True)
    w = torch.ones((), requires_grad=True)
    squared_gradient_norm(lambda p: w * p.square().sum(1), x).sum().backward()
    assert x.grad is None and w.grad is not None


# --------------------------------------------------------------------------------------------------------- as steps do it


def _linear(n_out=1, seed=0, width=2):
    with seeded_construction(seed):
        return Energy(torch.nn.Linear(width, n_out))


def _step(energy, penalty, objective=None, data=None, with_penalty=True):
    """The gradient of one critic step without moving, and what it returns."""
    data = torch.randn(16, 2, generator=_seeded(1)) if data is None else data
    optimiser = torch.optim.SGD(energy.parameters(), 0.0)
    method = Method(objective=objective or Kale(), penalty=penalty)
    returned = critic_step(
        energy, torch.nn.Identity(), PRIOR, data, optimiser, method, _seeded(2), with_penalty=with_penalty
    )
    return {k: p.grad.clone() for k, p in energy.named_parameters() if p.grad is not None}, returned


def test_weight_and_lazy_interval_multiply():
    """With every = 4 a taken penalty counts four times, and a step without it has the objective's gradient alone."""
    energy, weight = _linear(), "network.weight"
    plain, lazy, none = (_step(energy, p)[0][weight] for p in (Penalty(weight=0.5), Penalty(weight=0.5, every=4), NONE))
    skipped = _step(energy, Penalty(weight=0.5, every=4), with_penalty=False)[0][weight]
    slope = 2 * energy.network.weight.detach()  # of |w|^2
    torch.testing.assert_close(plain - none, 0.5 * slope, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lazy - none, 2.0 * slope, rtol=1e-4, atol=1e-6)
    assert torch.equal(skipped, none)


def test_returned_penalty_is_the_mean_without_its_weight():
    """What is logged is mean |grad E|^2 = |w|^2, whatever the weight and interval."""
    energy = _linear()
    returned = _step(energy, Penalty("r2", weight=3.0, every=5))[1][1]
    assert returned.item() == pytest.approx(energy.network.weight.square().sum().item(), rel=1e-5)


def test_outputs_penalty():
    """Its gradient is that of weight times the mean of (E + c)^2 over data and base samples."""
    energy, data = _linear(), torch.randn(16, 2, generator=_seeded(1))
    with_it, without = (_step(energy, Penalty(weight=0.0, outputs=w))[0] for w in (0.7, 0.0))
    both = torch.cat([data, PRIOR.sample(16, _seeded(2))])
    outputs = energy(both).detach()
    expected = 0.7 * 2 * (outputs[:, None] * both).mean(0, keepdim=True)
    torch.testing.assert_close(with_it["network.weight"] - without["network.weight"], expected, rtol=1e-4, atol=1e-6)
    assert (with_it["log_partition"] - without["log_partition"]).item() == pytest.approx(
        1.4 * outputs.mean().item(), rel=1e-4
    )


def test_weights_penalty():
    """Its gradient is that of weight times the mean square of all 3 numbers of the network, c not among them."""
    energy = _linear()
    with_it, without = (_step(energy, Penalty(weight=0.0, weights=0.9))[0], _step(energy, NONE)[0])
    for name in ("network.weight", "network.bias"):
        expected = 0.9 * 2 * energy.get_parameter(name).detach() / 3
        torch.testing.assert_close(with_it[name] - without[name], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(with_it["log_partition"], without["log_partition"])


def test_penalty_of_a_kernel_acts_on_the_witness():
    """For linear features the penalty of MMD is the mean square of W' grad f, f the witness, by hand at data (r1)."""
    energy, kernel = _linear(3), RationalQuadratic((1.0,), linear=0.4)
    data = torch.randn(16, 2, generator=_seeded(1))
    returned = _step(energy, Penalty("r1"), Mmd(kernel), data)[1][1]
    with torch.no_grad():
        w = energy.network.weight.double().numpy()
        x, y = (energy.features(s).double().numpy() for s in (data, PRIOR.sample(16, _seeded(2))))

    def slope(v, others):  # of mean_j k(v, o_j) in v: -(v - o) (1 + r^2 / 2)^-2 + .4 o
        return np.mean([-(v - o) * (1 + ((v - o) ** 2).sum() / 2) ** -2 + 0.4 * o for o in others], 0)

    expected = np.mean([((w.T @ (slope(v, x) - slope(v, y))) ** 2).sum() for v in x])
    assert returned.item() == pytest.approx(expected, rel=1e-4)


def test_clip_clamps_every_weight():
    """After a step of WGAN with clipping each weight lies within the bound, and some at it; without it they do not."""
    for clip in (0.1, None):
        energy = _linear()
        optimiser = torch.optim.SGD(energy.parameters(), 1.0)
        method = Method(objective=Wasserstein(clip), penalty=NONE)
        critic_step(energy, torch.nn.Identity(), PRIOR, 3 + torch.zeros(16, 2), optimiser, method, _seeded())
        largest = max(p.abs().max().item() for p in energy.parameters())
        assert (largest == pytest.approx(0.1)) if clip else (largest > 0.5), largest


# ------------------------------------------------------------------------------------------------------------------ scales


@pytest.mark.parametrize("n_out", [1, 3, 16])
@pytest.mark.parametrize(("lam", "coefficient"), [(1.0, None), (0.0, 10.0), (0.3, None)])
def test_scaled_mmd_of_a_linear_critic(n_out, lam, coefficient):
    """With phi = W x + b, |J|_F^2 = |W|_F^2: both losses are MMD^2 / (1 + lambda + g |W|^2), g = 1 / s^2 by default."""
    energy, s = _linear(n_out), 1.7
    objective = ScaledMmd(Gaussian(s), lam, coefficient)
    data = torch.randn(16, 2, generator=_seeded(1))
    g = 1 / s**2 if coefficient is None else coefficient
    scale = 1 / (1 + lam + g * energy.network.weight.square().sum().item())
    x, y = energy.features(data).detach(), energy.features(PRIOR.sample(16, _seeded(2))).detach()
    expected = scale * mmd2_loss(x.double(), y.double(), Gaussian(s)).item()
    value = _step(energy, NONE, objective, data)[1][0]
    base = torch.nn.Linear(2, 2)
    torch.nn.init.eye_(base.weight)
    torch.nn.init.zeros_(base.bias)
    optimiser = torch.optim.SGD(base.parameters(), 0.0)
    method = Method(objective=objective, penalty=NONE)
    loss = base_step(base, energy, PRIOR, 16, optimiser, method, _seeded(2), data)
    assert (value.item(), loss.item()) == pytest.approx((expected, expected), rel=1e-4, abs=1e-7)


def test_the_scales_gradient_is_taken():
    """The critic's gradient is that of scale times MMD^2, the scale with it, by finite differences in the weights."""
    energy, objective = _linear(2), ScaledMmd(Gaussian(1.0))
    gradient = _step(energy, NONE, objective)[0]["network.weight"]
    direction = torch.tensor([[1.0, -0.5], [0.3, 2.0]])
    values = []
    for h in (1e-2, -1e-2):
        moved = copy.deepcopy(energy)
        moved.network.weight.data += h * direction
        values.append(_step(moved, NONE, objective)[1][0].item())
    assert -(gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-4)


def test_scaled_wasserstein_of_a_linear_critic():
    """Both losses carry (1 + g (|w|^2 + mean_P (E + c)^2))^-1/2."""
    energy, data = _linear(), torch.randn(16, 2, generator=_seeded(1))
    fake = PRIOR.sample(16, _seeded(2))
    with torch.no_grad():
        p, q = energy(data).double(), energy(fake).double()
        scale = (1 + 10 * (energy.network.weight.square().sum() + p.square().mean())) ** -0.5
    value = _step(energy, NONE, ScaledWasserstein(), data)[1][0]
    assert value.item() == pytest.approx((scale * (q.mean() - p.mean())).item(), rel=1e-4)
    assert ScaledWasserstein().base_sees_data, "without data the base's loss cannot be scaled"
    base = torch.nn.Linear(2, 2)
    optimiser, method = torch.optim.SGD(base.parameters(), 0.0), Method(objective=ScaledWasserstein(), penalty=NONE)
    loss = base_step(base, energy, PRIOR, 16, optimiser, method, _seeded(2), data)
    expected = scale * energy(base(fake)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def _never(k):
    raise AssertionError("nothing is drawn here")


def _wide(n_out):
    with seeded_construction(5):
        return mlp(2, n_out, 8, 1).double()


@pytest.mark.parametrize("n_out", [1, 7, 16])
def test_jacobian_of_few_outputs_is_exact(n_out):
    """Up to 16 outputs |J|_F^2 is torch.func's, point by point, and nothing is drawn."""
    network, x = _wide(n_out), torch.randn(5, 2, generator=_seeded(), dtype=torch.float64)
    expected = torch.vmap(torch.func.jacrev(network))(x).square().sum((1, 2))
    torch.testing.assert_close(squared_jacobian(network, x, _never), expected, rtol=1e-10, atol=1e-12)


def test_jacobian_of_many_outputs_is_unbiased():
    """With 17 outputs the mean of 1,000 estimates is |J|_F^2 to within 4 standard errors, and they vary."""
    network, x, generator = _wide(17), torch.randn(3, 2, generator=_seeded(), dtype=torch.float64), _seeded(1)
    expected = torch.vmap(torch.func.jacrev(network))(x).square().sum((1, 2))
    estimates = _estimates(network, x, lambda k: signs(3, k, generator), 1000)
    z = (estimates.mean(0) - expected) / estimates.std(0) * math.sqrt(1000)
    assert z.abs().max() < 4 and (estimates.std(0) > 0.1 * expected).all(), z


def test_jacobian_of_many_outputs_averages_its_error_over_the_batch():
    """Each point has signs of its own: the variance of the batch's mean is that of one point over n, by an F-ratio of 300 draws.

    One direction for the whole batch would leave it n times as large, as all points are the same point here.
    """
    network, generator = _wide(32), _seeded(1)
    x = torch.randn(1, 2, generator=_seeded(), dtype=torch.float64).expand(64, 2)
    estimates = _estimates(network, x, lambda k: signs(64, k, generator), 300)
    ratio = 64 * estimates.mean(1).var() / estimates[:, 0].var()
    assert 1 / 1.5 < ratio < 1.5, ratio  # F(299, 299) is outside in 5 of 10,000 draws


def _estimates(network, x, directions, n):
    return torch.stack([squared_jacobian(network, x, directions).detach() for _ in range(n)])
