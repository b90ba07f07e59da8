"""Losses without a critic: likelihood, contrastive divergence and a fixed kernel, against what they estimate."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from same_bits import equal
from torch.nn.utils.parametrizations import spectral_norm

from gebm_cli.core.data.dataset import Minibatches
from gebm_cli.core.device import make_generator, seeded_construction
from gebm_cli.core.kernels import Gaussian, RationalQuadratic
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.models.flows import RealNvp
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.parallel import Share
from gebm_cli.core.training.direct import ContrastiveDivergence, FixedKernelMmd, MaximumLikelihood, Models
from gebm_cli.core.training.loop import Callbacks, Rates, Schedule, Training
from gebm_cli.core.training.optimise import frozen

PRIOR = NormalPrior(2)


def _normal(n, seed, mean=0.0):
    return mean + torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def _flow(seed=0, std=0.2):
    """A flow away from the identity that it starts as."""
    with seeded_construction(seed):
        flow = RealNvp(2, 3, 8)
        for parameter in flow.parameters():
            parameter.data += std * torch.randn(parameter.shape)
    return flow


class Linear(torch.nn.Module):
    """E(x) = w.x, which tilts N(0, I) to N(-w, I)."""

    def __init__(self, *w):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w))

    def forward(self, x):
        return x @ self.w


def _models(base, energy=None, seed=0):
    return Models(base, energy or Energy(Linear(0.0, 0.0)), PRIOR, Share(), torch.Generator().manual_seed(seed))


def test_likelihood_gradient_is_finite_differences():
    """In float64, along three directions in the parameters of a flow, to 1e-6."""
    flow, data = _flow().double(), _normal(20, 1).double()
    loss = MaximumLikelihood().loss(_models(flow), data)
    assert loss.item() == pytest.approx(-flow.log_prob(data).mean().item(), rel=1e-12)
    loss.backward()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in flow.parameters()]
        values = []
        for h in (1e-5, -1e-5):
            moved = copy.deepcopy(flow)
            for parameter, direction in zip(moved.parameters(), directions, strict=True):
                parameter.data += h * direction
            values.append(MaximumLikelihood().loss(_models(moved), data).item())
        slope = sum((p.grad * d).sum() for p, d in zip(flow.parameters(), directions, strict=True)).item()
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_fixed_kernel_is_mmd2_of_data_and_samples():
    """GMMN's loss is the unbiased MMD^2 of the batch and as many base samples, and has a gradient in the base."""
    flow, data, kernel = _flow(), _normal(30, 1, 0.5), RationalQuadratic(linear=0.5)
    loss = FixedKernelMmd(kernel).loss(_models(flow, seed=7), data)
    fake = flow(_normal(30, 7)).detach()
    assert loss.item() == pytest.approx(mmd2(data.double(), fake.double(), kernel).value, rel=1e-4, abs=1e-6)
    loss.backward()
    assert max(p.grad.abs().max() for p in flow.parameters()) > 0


def test_fixed_kernel_takes_images_as_vectors():
    """(n, 1, 2, 1) is compared as (n, 2)."""
    base = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Unflatten(1, (1, 2, 1)))
    data = _normal(10, 1)
    as_images = FixedKernelMmd(Gaussian(1.0)).loss(_models(base), data.view(10, 1, 2, 1))
    as_points = FixedKernelMmd(Gaussian(1.0)).loss(_models(torch.nn.Identity()), data)
    assert as_images.item() == pytest.approx(as_points.item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- contrastive divergence


def _energy_gradient(data, w, direct, models=None):
    energy = Energy(Linear(*w))
    models = models or _models(RealNvp(2, 2, 4), energy)
    models.energy = energy
    direct.loss(models, data).backward()
    return energy.network.w.grad


@pytest.mark.parametrize("persistent", [False, True])
def test_divergence_of_the_energy_has_no_gradient_at_the_truth(persistent):
    """Data from N(-w, I), which is the model: over 200 batches the mean gradient is 0 to within 4 standard errors.

    Persistent chains start at the model here, so that they follow it from the first step on.
    """
    w, direct = (0.8, -0.5), ContrastiveDivergence(False, persistent, n_steps=3, step_size=0.3)
    flow = RealNvp(2, 2, 4)  # the identity
    models = _models(flow)
    if persistent:
        models.chains = _normal(40, 5) - torch.tensor(w)
    gradients = torch.stack(
        [_energy_gradient(_normal(40, 100 + i) - torch.tensor(w), w, direct, models) for i in range(200)]
    )
    z = gradients.mean(0) / gradients.std(0) * math.sqrt(200 / (4 if persistent else 1))
    assert z.abs().max() < 4 and gradients.std() > 0.01, z


@pytest.mark.parametrize("persistent", [False, True])
def test_divergence_of_the_energy_descends_to_the_truth(persistent):
    """Data from N(0, I), model N(-w, I): the gradient is along w, so that a descent step makes w smaller."""
    w, direct = (0.8, -0.5), ContrastiveDivergence(False, persistent, n_steps=5, step_size=0.3)
    gradient = _energy_gradient(_normal(2000, 3), w, direct)
    cosine = torch.nn.functional.cosine_similarity(gradient, torch.tensor(w), dim=0)
    assert cosine > 0.9, gradient


def test_chains_of_the_energy_follow_the_model():
    """After many steps from the prior the negatives of E = w.x have mean -w: the chains move on the latent of the tilted base."""
    w = (0.8, -0.5)
    models = _models(RealNvp(2, 2, 4), Energy(Linear(*w)))
    ContrastiveDivergence(False, True, n_steps=40, step_size=0.3).loss(models, _normal(1000, 3))
    z = (models.chains.mean(0) + torch.tensor(w)) / models.chains.std(0) * math.sqrt(1000)
    assert z.abs().max() < 4, z


def _base_gradient(flow, data, n_steps, seed):
    flow.zero_grad()
    ContrastiveDivergence(True, False, n_steps=n_steps, step_size=0.05).loss(_models(flow, seed=seed), data).backward()
    return torch.cat([p.grad.flatten() for p in flow.parameters()])


def test_divergence_of_a_base_has_no_gradient_at_the_truth():
    """Data drawn from the flow itself: in each of three random directions the mean gradient is 0 in standard errors."""
    flow = _flow()
    with torch.no_grad():
        batches = [flow(_normal(40, 200 + i)) for i in range(100)]
    gradients = torch.stack([_base_gradient(flow, x, 2, i) for i, x in enumerate(batches)])
    directions = torch.randn(gradients.shape[1], 3, generator=torch.Generator().manual_seed(0))
    along = gradients @ directions
    z = along.mean(0) / along.std(0) * 10
    assert z.abs().max() < 4 and (along.std(0) > 0).all(), z


def test_divergence_of_a_base_agrees_in_sign_with_the_likelihood():
    """Away from the truth its gradient points where that of the negative log-likelihood does."""
    flow, data = _flow(), _normal(500, 1, 1.5)
    contrastive = _base_gradient(flow, data, 20, 0)
    flow.zero_grad()
    MaximumLikelihood().loss(_models(flow), data).backward()
    exact = torch.cat([p.grad.flatten() for p in flow.parameters()])
    cosine = torch.nn.functional.cosine_similarity(contrastive, exact, dim=0)
    assert cosine > 0.5, cosine


def test_negatives_carry_no_gradient_and_leave_none():
    """The chains train nothing: the frozen network's gradients stay None, and the trained one's requires_grad comes back."""
    flow, energy = _flow(), Energy(mlp(2, 1, 4, 1))
    models = _models(flow, energy)
    with frozen(flow):
        ContrastiveDivergence(False, True, n_steps=2).loss(models, _normal(8, 1)).backward()
    assert all(p.grad is None for p in flow.parameters()) and not models.chains.requires_grad
    assert all(p.requires_grad and p.grad is not None for p in energy.network.parameters())


# ------------------------------------------------------------------------------------------------------------ in the loop


def _training(direct, train_base=False, network=None, steps=6):
    base = _flow()
    with seeded_construction(1):
        energy = Energy(network or mlp(2, 1, 8, 1))
    batches = Minibatches(_normal(200, 1, 1.0), 20, 0)
    schedule = Schedule(steps, log_every=2, checkpoint_every=3)
    generator = make_generator(0, "train")
    return Training(base, energy, PRIOR, batches, schedule, generator, train_base, Rates(1e-2), direct=direct)


DIRECT = {
    "ml": (MaximumLikelihood(), True),
    "gmmn": (FixedKernelMmd(Gaussian(1.0)), True),
    "cd-energy": (ContrastiveDivergence(False, False, n_steps=2), False),
    "pcd-energy": (ContrastiveDivergence(False, True, n_steps=2), False),
    "cd-base": (ContrastiveDivergence(True, False, n_steps=2), True),
    "pcd-base": (ContrastiveDivergence(True, True, n_steps=2), True),
}


@pytest.mark.parametrize("name", DIRECT)
def test_direct_training_resumes_bit_for_bit(name, tmp_path):
    """Through a file, after 3 of 6 steps, chains included; only the trained network has moved."""
    whole, states = _training(*DIRECT[name]), {}
    before = copy.deepcopy(whole.state_dict())
    whole.run(Callbacks(save=lambda step, state: states.update({step: copy.deepcopy(state)})))
    torch.save(states[3], tmp_path / "state.pt")
    second = _training(*DIRECT[name])
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert equal(second.models.chains, states[3]["chains"]) or not name.startswith("pcd")
    assert (states[3]["chains"] is not None) == name.startswith("pcd")
    second.run(Callbacks())
    a, b = whole.state_dict(), second.state_dict()
    a.pop("random_state"), b.pop("random_state")
    assert equal(a, b)
    trained, other = ("base", "energy") if DIRECT[name][1] else ("energy", "base")
    assert equal(a[other], before[other]) and not equal(a[trained], before[trained])


def test_persistent_chains_go_on_where_they_stopped():
    """The chains after two steps started from those after one: with a tiny step size they have hardly moved."""
    training = _training(ContrastiveDivergence(False, True, n_steps=1, step_size=1e-8))
    training.advance()
    first = training.models.chains
    training.advance()
    assert 0 < (training.models.chains - first).abs().max() < 1e-2


def test_likelihood_training_raises_the_likelihood():
    """60 steps on data around (1, 1) lower the loss by more than half a nat."""
    training, losses = _training(MaximumLikelihood(), True, steps=60), []
    training.run(Callbacks(log=lambda step, metrics: losses.append(metrics["loss"])))
    assert losses[0] - losses[-1] > 0.3, (losses[0], losses[-1])


def test_spectral_norms_train_under_contrastive_divergence():
    """The chains' forward passes, in eval mode and without gradients, do not leave their normalised weights to the loss."""
    network = torch.nn.Sequential(spectral_norm(torch.nn.Linear(2, 8)), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    training = _training(ContrastiveDivergence(False, True, n_steps=2), network=network)
    layer = network[0].parametrizations.weight
    layer[0]._u.copy_(torch.eye(8)[0])  # torch's own start may have converged, and an iteration would not move it
    before, vector = layer.original.detach().clone(), layer[0]._u.clone()
    training.advance()
    assert not torch.equal(layer.original, before), "the weight got no gradient"
    assert not torch.equal(layer[0]._u, vector), "no power iteration"
