"""Random features against their kernels, in standard errors, and KALE with them against the exact one."""

from __future__ import annotations

import math

import pytest
import torch

from gebm_cli.core.divergences import random_features as module
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.divergences.random_features import FeatureField, random_features
from gebm_cli.core.kernels import EnergyDistance, Exponential, Gaussian, Laplace

KERNELS = [Gaussian(1.3), Exponential(2.0), Laplace(3.0)]


def _normal(n, generator, mean=0.0, scale=1.0, dim=2):
    return mean + scale * torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _products(kernel, x, y, count, draws):
    """phi(x_i).phi(y_i) of independent draws of features, (draws, n)."""
    generator = torch.Generator().manual_seed(3)
    drawn = (random_features(kernel, x.shape[1], count, generator) for _ in range(draws))
    return torch.stack([(phi(x) * phi(y)).sum(1) for phi in drawn])


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_features_are_unbiased(kernel, dim, generator):
    """The mean of phi(x).phi(y) over 1,500 draws is k(x, y) within 4 standard errors, for a D that cuts a block of d in two."""
    x, y = _normal(6, generator, dim=dim), _normal(6, generator, 0.5, dim=dim)
    found, draws = _products(kernel, x, y, 4 * dim + 2, 1500), 1500
    z = (found.mean(0) - kernel(x, y).diagonal()) / (found.std(0) / math.sqrt(draws))
    assert z.abs().max() < 4


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_point_with_itself_is_exact(kernel, generator):
    """k(x, x) = 1 by any draw, also where frequencies have the long tail of Cauchy's law."""
    phi = random_features(kernel, 2, 64, generator)
    assert phi(_normal(9, generator, scale=100.0)).square().sum(1).numpy() == pytest.approx(1.0, abs=1e-12)
    assert phi.count == 64 and phi(torch.zeros(3, 2)).shape == (3, 64)


@pytest.mark.parametrize(("kernel", "low", "high"), [(Gaussian(3.0), 0.0, 0.5), (Laplace(8.0), 0.85, 1.15)])
def test_orthogonal_frequencies_have_less_variance(kernel, low, high, generator):
    """Against ((1 + k(2 delta)) / 2 - k(delta)^2) / (D / 2) of independent frequencies: Gaussian far below, Laplace equal to it."""
    delta = _normal(1, generator, dim=8)
    x, y = delta, torch.zeros(1, 8, dtype=torch.float64)
    variance = _products(kernel, x, y, 16, 1500).var().item()
    k, twice = kernel(x, y).item(), kernel(2 * x, y).item()
    assert low < variance / (((1 + twice) / 2 - k * k) / 8) < high


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_is_that_of_autograd(kernel, generator):
    """The analytic gradient, in blocks that divide nothing, and in the type of t."""
    phi = random_features(kernel, 3, 20, generator)
    field = FeatureField(phi, torch.randn(20, generator=generator, dtype=torch.float64))
    t = _normal(11, generator, dim=3).requires_grad_()
    value = phi(t) @ field.weights
    expected = torch.autograd.grad(value.sum(), t)[0]
    found, gradient = field.value_and_grad(t.detach())
    assert found.numpy() == pytest.approx(value.detach().numpy(), abs=1e-13)
    assert gradient.numpy() == pytest.approx(expected.numpy(), rel=1e-10, abs=1e-12)
    assert field.value_and_grad(t.detach().float())[1].dtype == torch.float32


def test_blocks_change_nothing(monkeypatch, generator):
    """Rows in blocks of 3 give the sums and values of one block; no rows give none."""
    phi = random_features(Gaussian(1.0), 2, 10, generator)
    x, weights = _normal(11, generator), torch.rand(11, generator=generator, dtype=torch.float64)
    whole = phi.weighted_sum(x, weights)
    assert whole.numpy() == pytest.approx((phi(x).T @ weights).numpy(), abs=1e-13)
    before = FeatureField(phi, whole).value_and_grad(x)
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 30)
    assert phi.weighted_sum(x, weights).numpy() == pytest.approx(whole.numpy(), abs=1e-13)
    for one, other in zip(before, FeatureField(phi, whole).value_and_grad(x)):
        assert other.numpy() == pytest.approx(one.numpy(), abs=1e-13)
    assert FeatureField(phi, whole).value(x).numpy() == pytest.approx(before[0].numpy(), abs=1e-13)
    assert len(FeatureField(phi, whole).value(x[:0])) == 0


@pytest.mark.parametrize("lam", [1e-5, 1e-2, 10.0])
@pytest.mark.parametrize("count", [10, 80])
@pytest.mark.parametrize("patience", [0, 1000])
def test_kale_with_features_is_kale_of_their_kernel(count, lam, patience):
    """The problem in R^D, for D below and above m, has value, gap, error and witness of the exact problem with k = phi.phi."""
    generator = torch.Generator().manual_seed(1)
    x, y = _normal(30, generator, 0.7), _normal(25, generator)
    phi = random_features(Gaussian(1.0), 2, count, torch.Generator().manual_seed(2))
    exact = KaleProblem(y, lambda a, b: phi(a) @ phi(b).T, lam).solve(x, tolerance=1e-11)
    problem = KaleProblem(y, Gaussian(1.0), lam, features=count, generator=torch.Generator().manual_seed(2))
    problem._gram.patience = patience
    found = problem.solve(x, tolerance=1e-11)
    assert found.duality_gap <= 1e-11
    assert found.value == pytest.approx(exact.value, rel=1e-10, abs=1e-10)
    assert found.standard_error == pytest.approx(exact.standard_error, rel=1e-3)
    t = torch.cat([x, y])
    h, gradient = found.field.value_and_grad(t)
    assert h[30:].numpy() == pytest.approx(found.log_ratio.numpy(), abs=2e-3)
    expected = exact.field.value_and_grad(t)
    size = expected[0].abs().max().item()
    assert h.numpy() == pytest.approx(expected[0].numpy(), abs=1e-3 * size)
    assert gradient.numpy() == pytest.approx(expected[1].numpy(), abs=1e-3 * expected[1].abs().max().item())


def test_coordinate_descent_works_on_features_too(generator):
    """The second solver sees the same Gram matrix."""
    x, y = _normal(20, generator, 0.7), _normal(15, generator)
    problem = KaleProblem(y, Gaussian(1.0), 0.1, features=30, generator=generator)
    newton, sweeps = (problem.solve(x, solver=s, tolerance=1e-11) for s in ("newton", "coordinate-descent"))
    assert sweeps.value == pytest.approx(newton.value, abs=2e-11)
    assert sweeps.duality_gap <= 1e-11


def test_more_features_come_nearer_to_the_exact_value(generator):
    """The root mean square error over 12 draws falls like 1 / sqrt(D), within a factor of 2, and the exact value is its limit."""
    x, y = _normal(60, generator, 0.7), _normal(50, generator)
    exact = KaleProblem(y, Gaussian(1.0), 0.1).solve(x).value
    sizes = (64, 1024)
    errors = torch.tensor(
        [
            [
                KaleProblem(y, Gaussian(1.0), 0.1, features=d, generator=generator).solve(x).value - exact
                for _ in range(12)
            ]
            for d in sizes
        ]
    )
    few, many = errors.square().mean(1).sqrt().tolist()
    assert 2 < few / many < 8
    assert abs(errors[1].mean()) < 4 * errors[1].std() / math.sqrt(12)
    assert many < 0.05 * exact


def test_what_has_no_features_is_refused(generator):
    """An odd or empty number of features, and a kernel whose spectral measure is not simply drawn from."""
    for count in (0, 7, -2):
        with pytest.raises(ValueError, match=f"even and at least 2, got {count}"):
            random_features(Gaussian(1.0), 2, count, generator)
    with pytest.raises(ValueError, match="got EnergyDistance"):
        random_features(EnergyDistance(), 2, 4, generator)
