"""KALE against closed forms: the bound, its optimum in c, the gradient theorem, the penalty, the log-partition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gebm_cli.core.objectives.kale import Kale, base_loss, log_mean_exp
from gebm_cli.core.objectives.penalties import Penalty


def _normal(*shape, seed=0, mean=0.0):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def kale(on_data, on_base, c):
    """F at energies and a constant."""
    return Kale().value(on_data + c, on_base + c)


def gradient_penalty(energy, x, y, a):
    """The zero-centred penalty at interpolates, averaged."""
    penalty = Penalty("zero-centred")
    return penalty.of(energy, penalty.points(x, y, a)).mean()


def _quadrature(n=80):
    """Nodes and weights of Gauss and Hermite for z ~ N(0, 1): exact for smooth integrands to rounding."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


# ------------------------------------------------------------------------------------------------------------------ bound


def test_kale_by_hand():
    """F = 1 - mean(E_P + c) - mean exp(-E_Q - c), on numbers."""
    result = kale(torch.tensor([1.0, 3.0]), torch.tensor([0.0, math.log(2), math.log(4)]), torch.tensor(math.log(7)))
    expected = 1 - (2 + math.log(7)) - (1 + 1 / 2 + 1 / 4) / 3 / 7
    assert result.shape == () and result.item() == pytest.approx(expected, rel=1e-6)


def _kale_of_gaussians(slope, c, shift=1.0, n=200_000):
    """F and its standard error for P = N(shift, 1), Q = N(0, 1) and E(x) = -slope x."""
    x, z = _normal(n, seed=1, mean=shift), _normal(n, seed=2)
    value = kale(-slope * x, -slope * z, _scalar(c)).item()
    error = math.sqrt(((slope * x).var() + (slope * z - c).exp().var()).item() / n)
    return value, error


def test_kale_is_kl_at_the_log_density_ratio():
    """At E + c = -log dP/dQ of N(1, 1) and N(0, 1), F = KL = 1/2 to within 4 standard errors."""
    value, error = _kale_of_gaussians(1.0, 0.5)
    assert abs(value - 0.5) < 4 * error, f"{value:.4f}, standard error {error:.4f}"


@pytest.mark.parametrize(("slope", "c"), [(0.5, 0.1), (0.8, 0.5), (1.0, 0.3), (1.3, 0.9), (-0.5, 0.0), (0.0, 0.0)])
def test_kale_is_below_kl_elsewhere(slope, c):
    """Any other E and c of the family gives its closed form, which lies below KL = 1/2."""
    value, error = _kale_of_gaussians(slope, c)
    expected = slope - c - math.exp(slope**2 / 2 - c) + 1
    assert expected < 0.5 and abs(value - expected) < 4 * error + 1e-12, f"{value:.4f} against {expected:.4f}"
    assert value < 0.5 + 4 * error


def test_best_constant_gives_donsker_varadhan():
    """At c = log mean exp(-E_Q), F = -mean E_P - log mean exp(-E_Q) to 1e-12, and both neighbours are lower."""
    on_data, on_base = _normal(50, seed=3), 2 * _normal(70, seed=4)
    best = torch.logsumexp(-on_base, 0) - math.log(70)
    value = kale(on_data, on_base, best).item()
    bound = -on_data.mean().item() - math.log(np.exp(-on_base.numpy()).mean())
    assert value == pytest.approx(bound, abs=1e-12)
    others = [kale(on_data, on_base, best + step).item() for step in (-1, -0.1, -1e-3, 1e-3, 0.1, 1)]
    assert max(others) < value, f"{max(others)} against {value}"


def test_best_constant_is_stationary():
    """The gradient of F in c vanishes there, and is -1 + mean exp(-E_Q - c) elsewhere."""
    on_data, on_base = _normal(50, seed=3), _normal(70, seed=4)
    for offset in (0.0, 0.7):
        c = (torch.logsumexp(-on_base, 0) - math.log(70) + offset).requires_grad_()
        kale(on_data, on_base, c).backward()
        assert c.grad.item() == pytest.approx(math.exp(-offset) - 1, abs=1e-12)


# ------------------------------------------------------------------------------------------------------ base and theorem


def test_base_loss_is_minus_log_mean_exp():
    """Its value is -log mean exp(-E), also where exp(-E) overflows."""
    energy = _normal(30, seed=5)
    expected = -math.log(np.exp(-energy.numpy()).mean())
    assert base_loss(energy).item() == pytest.approx(expected, abs=1e-12)
    assert base_loss(energy - 5000).item() == pytest.approx(expected - 5000, abs=1e-9)


def test_base_loss_gradient_is_the_weighted_mean():
    """Its gradient in theta is mean w(z) dE(B(z))/dtheta with w = exp(-E) / mean exp(-E), by hand and of length 2."""
    z, theta = _normal(40, 2, seed=6), torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def energy(x):
        return (x**4).sum(1) / 4 + x[:, 0] * x[:, 1]

    x = z * theta + theta**2
    base_loss(energy(x)).backward()
    with torch.no_grad():
        weight = (-energy(x)).exp() / (-energy(x)).exp().mean()
        d_energy = x**3 + x.flip(1)
        expected = (weight[:, None] * d_energy * (z + 2 * theta)).mean(0)
    torch.testing.assert_close(theta.grad, expected, rtol=1e-12, atol=1e-12)


def test_base_loss_has_the_gradient_of_kale():
    """At the best c, held fixed, F has the same gradient in the base as base_loss: the envelope theorem."""
    z, on_data = _normal(60, seed=7), _normal(50, seed=8)
    gradients = []
    for objective in ("base_loss", "kale"):
        theta = _scalar(0.4).requires_grad_()
        energy = (z + theta) ** 2 / 2 + (z + theta).sin()
        best = (torch.logsumexp(-energy, 0) - math.log(60)).detach()
        loss = base_loss(energy) if objective == "base_loss" else kale(on_data, energy, best)
        loss.backward()
        gradients.append(theta.grad.item())
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-12) and abs(gradients[0]) > 0.05, gradients


@pytest.mark.parametrize(("a", "theta"), [(0.7, 0.4), (3.0, -1.2)])
def test_gradient_theorem_in_closed_form(a, theta):
    """B(z) = theta + z, E = a x^2 / 2: loss log(1 + a) / 2 + a theta^2 / (2 (1 + a)), gradient a theta / (1 + a).

    The expectation over z is a quadrature, whose weights enter as energies; the gradient is also that of finite
    differences of sup_c F.
    """
    nodes, weights = _quadrature()
    shift = -torch.log(weights * len(nodes))

    def loss(value):
        return base_loss(a * (value + nodes) ** 2 / 2 + shift)

    parameter = _scalar(theta).requires_grad_()
    loss(parameter).backward()
    assert loss(parameter).item() == pytest.approx(math.log1p(a) / 2 + a * theta**2 / (2 * (1 + a)), abs=1e-10)
    assert parameter.grad.item() == pytest.approx(a * theta / (1 + a), abs=1e-10)

    def best_kale(value):
        energy = a * (value + nodes) ** 2 / 2 + shift
        return kale(torch.zeros(1).double(), energy, torch.logsumexp(-energy, 0) - math.log(len(nodes))).item()

    difference = (best_kale(theta + 1e-4) - best_kale(theta - 1e-4)) / 2e-4
    assert parameter.grad.item() == pytest.approx(difference, abs=1e-7)


def test_gradient_theorem_on_samples():
    """On 200,000 sampled latents the gradient is a theta / (1 + a) to within 4 standard errors of a weighted mean."""
    a, value, n = 0.7, 0.4, 200_000
    z, theta = _normal(n, seed=9), _scalar(0.4).requires_grad_()
    base_loss(a * (theta + z) ** 2 / 2).backward()
    x = value + z
    weight = (-a * x**2 / 2).exp()
    weight = weight / weight.mean()
    expected = a * value / (1 + a)
    error = (weight * (a * x - expected)).std().item() / math.sqrt(n)
    z_score = (theta.grad.item() - expected) / error
    assert abs(z_score) < 4, f"{theta.grad.item():.5f} against {expected:.5f}, z = {z_score:.2f}"


# ---------------------------------------------------------------------------------------------------------------- penalty


def _batch():
    """Data, base points and weights of 5 images (2, 3, 4), on scales that differ by axis and by sample."""
    scale = torch.logspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 4)
    x, y = _normal(5, 2, 3, 4, seed=10) * scale, _normal(5, 2, 3, 4, seed=11) * scale + 1
    return x, y, torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)


def test_penalty_of_a_linear_energy():
    """For E = w.x it is |w|^2 whatever the points, with no division by pixels or axes."""
    x, y, a = _batch()
    w = _normal(2, 3, 4, seed=12)
    result = gradient_penalty(lambda v: (v * w).sum((1, 2, 3)), x, y, a)
    assert result.item() == pytest.approx(w.square().sum().item(), rel=1e-12)


def test_penalty_of_a_quadratic_energy():
    """For E = x'Ax / 2 it is mean |A x^|^2, x^ = a x + (1 - a) y with one a per sample, x at a = 1."""
    x, y, a = _batch()
    matrix = _normal(24, 24, seed=13)
    matrix = matrix + matrix.T
    result = gradient_penalty(lambda v: torch.einsum("ni,ij,nj->n", v.flatten(1), matrix, v.flatten(1)) / 2, x, y, a)
    expected = np.mean(
        [((matrix @ (w * p + (1 - w) * q).flatten()) ** 2).sum().item() for p, q, w in zip(x, y, a, strict=True)]
    )
    assert result.item() == pytest.approx(expected, rel=1e-12)


def test_penalty_of_points():
    """The penalty also takes points (n, d): for E = |x|^2 / 2 it is mean |x^|^2."""
    x, y, a = _normal(6, 2, seed=14), _normal(6, 2, seed=15), torch.linspace(0, 1, 6, dtype=torch.float64)
    expected = (a[:, None] * x + (1 - a)[:, None] * y).square().sum(1).mean().item()
    assert gradient_penalty(lambda v: v.square().sum(1) / 2, x, y, a).item() == pytest.approx(expected, rel=1e-12)


def test_penalty_has_a_gradient_in_the_parameters():
    """Its gradient in w of E = |w * x|^2 / 2 is mean 4 w^3 x^^2, and none flows into data or base points."""
    x, y, a = _batch()
    x.requires_grad_()
    w = _normal(2, 3, 4, seed=16).requires_grad_()
    gradient_penalty(lambda v: (w * v).square().sum((1, 2, 3)) / 2, x.detach(), y, a).backward()
    between = a.view(-1, 1, 1, 1) * x.detach() + (1 - a).view(-1, 1, 1, 1) * y
    expected = (4 * w.detach() ** 3 * between.square()).mean(0)
    torch.testing.assert_close(w.grad, expected, rtol=1e-12, atol=1e-12)
    assert not y.requires_grad and x.grad is None


# ---------------------------------------------------------------------------------------------------------- log-partition


def test_log_mean_exp_of_a_constant_is_the_constant():
    """A constant energy of 20 has log-partition exactly -20, without error and with full sample size."""
    result = log_mean_exp([torch.full((64,), -20.0)] * 4)
    assert (result.value, result.n) == (pytest.approx(-20, abs=1e-13), 256)
    assert result.standard_error < 1e-7 and result.effective_sample_size == pytest.approx(256, rel=1e-12), result


@pytest.mark.parametrize("sizes", [[1000], [1] * 1000, [300, 1, 699]])
def test_log_mean_exp_streams(sizes):
    """In one batch, one by one or unevenly, the result is numpy's to 1e-12."""
    v = _normal(1000, seed=17)
    w = np.exp(v.numpy())
    result = log_mean_exp(v.split(sizes))
    ess = w.sum() ** 2 / (w**2).sum()
    assert result.value == pytest.approx(math.log(w.mean()), abs=1e-12)
    assert result.effective_sample_size == pytest.approx(ess, rel=1e-12)
    assert result.standard_error == pytest.approx(math.sqrt((1000 / ess - 1) / 1000), rel=1e-10)
    assert result.n == 1000
    assert result.heaviest == pytest.approx((w**2).max() / (w**2).sum(), rel=1e-12) and result.heaviest > 1 / ess


@pytest.mark.parametrize("offset", [1e5, -1e5])
def test_log_mean_exp_of_huge_values(offset):
    """Values far beyond exp's range shift the result and nothing else."""
    v = _normal(500, seed=18)
    plain, far = log_mean_exp(v.split(50)), log_mean_exp((v + offset).split(50))
    assert far.value == pytest.approx(plain.value + offset, abs=1e-9)
    assert far.effective_sample_size == pytest.approx(plain.effective_sample_size, rel=1e-6)
    assert far.heaviest == pytest.approx(plain.heaviest, rel=1e-6)


def test_log_mean_exp_of_float32_accumulates_in_float64():
    """200,000 float32 values lose nothing to 32-bit sums."""
    v = _normal(200_000, seed=19).float()
    assert log_mean_exp(v.split(512)).value == pytest.approx(math.log(np.exp(v.double().numpy()).mean()), abs=1e-12)


def test_effective_sample_size_of_one_dominant_value():
    """One value above all others has effective sample size 1 and standard error near 1."""
    v = torch.zeros(100)
    v[3] = 200
    result = log_mean_exp([v])
    assert result.effective_sample_size == pytest.approx(1, abs=1e-10)
    assert result.standard_error == pytest.approx(math.sqrt(0.99), abs=1e-10)
    assert result.heaviest == pytest.approx(1, abs=1e-10)


def test_log_mean_exp_error_is_the_spread():
    """For v ~ N(0, .6^2) the value is .18 less the bias SE^2 / 2, and the error is the spread over 1,000 data sets."""
    runs = [log_mean_exp([0.6 * v]) for v in _normal(1000, 1000, seed=20)]
    values = np.array([r.value for r in runs])
    squares = np.array([r.standard_error**2 for r in runs])
    true = (math.exp(0.36) - 1) / 1000
    z_mean = (values.mean() - (0.18 - true / 2)) / (values.std(ddof=1) / math.sqrt(1000))
    z_error = (values.var(ddof=1) / squares.mean() - 1) / math.sqrt(2 / 999)
    assert abs(z_mean) < 4 and abs(z_error) < 4, f"z of the mean {z_mean:.2f}, z of the variance {z_error:.2f}"
