"""Uniform latents have the right law, and a user's networks are called with what they want."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from gebm_cli.core.models.adapters import ExternalBase, ExternalEnergy, UniformLatent
from gebm_cli.core.models.convolutional import conv_base
from gebm_cli.core.models.networks import Circle, Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.potential import LatentPotential


def test_pushed_normal_draws_are_uniform_by_kolmogorov_and_smirnov(generator):
    """Each coordinate of z is U(-1, 1), and the coordinates are uncorrelated; the normal law itself is rejected."""
    u = NormalPrior(3).sample(20_000, generator)
    z = UniformLatent(nn.Identity())(u).numpy()
    assert np.abs(z).max() <= 1
    for i in range(3):
        assert stats.kstest(z[:, i], stats.uniform(-1, 2).cdf).pvalue > 0.01
        assert stats.kstest(u[:, i].numpy(), stats.uniform(-1, 2).cdf).pvalue < 1e-6
    assert np.abs(np.corrcoef(z.T) - np.eye(3)).max() < 4 / math.sqrt(20_000)


def test_uniform_density_times_jacobian_is_the_normal_density():
    """d log(1/2) + log |det dz/du| = log N(u; 0, I), the Jacobian by autograd and the normal density by scipy."""
    wrapper = UniformLatent(nn.Identity())
    for u in torch.tensor([[0.0, 0.0, 0.0], [0.3, -1.2, 2.0], [-3.0, 0.1, 1.5]], dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda v: wrapper(v[None])[0], u)
        log_density = 3 * math.log(0.5) + torch.linalg.slogdet(jacobian)[1].item()
        assert log_density == pytest.approx(stats.norm.logpdf(u.numpy()).sum(), abs=1e-12)


def test_the_potential_has_the_gradient_of_the_formula():
    """With E = 3 x and x = z: U = |u|^2 / 2 + 3 erf(u / sqrt 2) + const, so dU/du = u + 6 phi(u)."""

    class Tilt(nn.Module):
        def forward(self, x):
            return 3 * x[:, 0]

    u = torch.tensor([[-2.0], [-0.5], [0.0], [1.0]])
    _, gradient = LatentPotential(NormalPrior(1), UniformLatent(nn.Identity()), Tilt(), 1.0).value_and_grad(u)
    expected = u.numpy() + 6 * stats.norm.pdf(u.numpy())
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("base", "dim"),
    [
        (conv_base(5, (1, 8, 8), 4), 5),
        (mlp(2, 2, 8, 2), 2),
        (Circle(), 2),
        (ExternalBase(nn.ConvTranspose2d(4, 1, 8), "m:f", ((4, 1, 1),)), 4),
    ],
    ids=["conv", "mlp", "circle", "external"],
)
def test_uniform_latents_compose_with_every_kind_of_base(base, dim, generator):
    """The wrapped base sees 2 Phi(u) - 1, and its weights come back from its own state dict only."""
    u = torch.randn(6, dim, generator=generator)
    wrapped = UniformLatent(base)
    z = torch.from_numpy(2 * stats.norm.cdf(u.double().numpy()) - 1).float()
    torch.testing.assert_close(wrapped(u), base(z), atol=1e-5, rtol=1e-5)
    wrapped.load_state_dict(wrapped.state_dict())
    if base.state_dict():
        with pytest.raises(RuntimeError, match="Missing key"):
            wrapped.load_state_dict(base.state_dict())


class Recorder(nn.Module):
    """Keeps the arguments it was called with."""

    def forward(self, *latents):
        self.seen = latents
        return latents[0]


def test_a_flat_latent_is_reshaped(generator):
    """(n, 12) becomes (n, 3, 2, 2), row by row."""
    z = torch.randn(5, 12, generator=generator)
    recorder = Recorder()
    ExternalBase(recorder, "m:f", ((3, 2, 2),))(z)
    assert len(recorder.seen) == 1
    assert torch.equal(recorder.seen[0], z.reshape(5, 3, 2, 2))


def test_several_latents_are_split_in_order(generator):
    """(n, 2 + 4) becomes (n, 2) and (n, 1, 2, 2)."""
    z = torch.randn(5, 6, generator=generator)
    recorder = Recorder()
    ExternalBase(recorder, "m:f", ((2,), (1, 2, 2)))(z)
    first, second = recorder.seen
    assert torch.equal(first, z[:, :2]) and torch.equal(second, z[:, 2:].reshape(5, 1, 2, 2))


def test_without_a_shape_the_latent_stays_flat(generator):
    """The very tensor is passed on."""
    z = torch.randn(5, 6, generator=generator)
    recorder = Recorder()
    ExternalBase(recorder, "m:f", None)(z)
    assert recorder.seen[0] is z


@pytest.mark.parametrize("view", [lambda d: d, lambda d: d[:, None], lambda d: d[:, None, None, None]])
def test_a_logit_becomes_an_energy_of_the_other_sign(view, generator):
    """E = -D as (n,), whatever axes of size one the critic leaves; an energy is left as it is."""

    class Critic(nn.Module):
        def forward(self, x):
            return view(x.sum(1))

    x = torch.randn(4, 3, generator=generator)
    assert torch.equal(Energy(ExternalEnergy(Critic(), "m:f", True))(x), -x.sum(1))
    assert torch.equal(Energy(ExternalEnergy(Critic(), "m:f", False))(x), x.sum(1))
