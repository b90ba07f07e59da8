"""Divergences of particles against whole matrices, hand-made cases and differences."""

from __future__ import annotations

import math

import pytest
import torch
from all_kernels import KERNELS

from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.kernels import (
    Gaussian,
)
from gebm_cli.core.particles.descents import Decoded, KaleDescent, MmdDescent


def _normal(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _decode(z):
    """A generator (n, 2) -> (n, 3), neither linear nor of constant Jacobian."""
    return torch.stack([z[:, 0] * z[:, 1], torch.sin(z[:, 0]), z[:, 1].exp()], 1)


def _descents():
    y = _normal(8, 3, 1)
    yield from (pytest.param(MmdDescent(y, k), 3, id=f"mmd {type(k).__name__}") for k in KERNELS)
    for lam in (0.01, 1.0, 100.0):
        yield pytest.param(KaleDescent(KaleProblem(y, Gaussian(1.0), lam), {"tolerance": 1e-13}), 3, id=f"kale {lam}")
    yield pytest.param(Decoded(MmdDescent(y, Gaussian(1.0)), _decode, 3), 2, id="decoded mmd")
    kale = KaleDescent(KaleProblem(y, Gaussian(1.0), 0.1), {"tolerance": 1e-13})
    yield pytest.param(Decoded(kale, _decode, 2), 2, id="decoded kale")


every = pytest.mark.parametrize(("descent", "d"), list(_descents()))


@every
def test_gradient_is_n_times_that_of_the_value(descent, d):
    """grad f(x_i) = n dF/dx_i, by central differences of F in every coordinate of every particle."""
    x, h = _normal(5, d, 0), 1e-4
    gradient = descent.at(x).gradient()
    for i in range(5):
        for j in range(d):
            step = torch.zeros_like(x)
            step[i, j] = h
            slope = (descent.at(x + step).value - descent.at(x - step).value) / (2 * h)
            assert gradient[i, j].item() == pytest.approx(5 * slope, rel=1e-6, abs=1e-6)


@every
def test_gradient_elsewhere_is_that_of_the_field(descent, d):
    """With noise the gradient of the same f is taken at other points: central differences of `field.value`."""
    point, t, h = descent.at(_normal(5, d, 0)), _normal(4, d, 2), 1e-5
    steps = h * torch.eye(d, dtype=torch.float64)
    expected = torch.stack([(point.field.value(t + e) - point.field.value(t - e)) / (2 * h) for e in steps], 1)
    torch.testing.assert_close(point.gradient(t), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(point.field.value_and_grad(t)[1], expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(point.gradient(point.particles), point.gradient(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_mmd_is_that_of_the_whole_matrices(kernel):
    """F = (mean k(x, x) + mean k(y, y)) / 2 - mean k(x, y), diagonals included, with n != m.

    The Exponential's own matrix takes the root of rounding for its diagonal, the field takes 0.
    """
    x, y = _normal(9, 3, 3), _normal(6, 3, 4)
    expected = 0.5 * (kernel(x, x).mean() + kernel(y, y).mean()) - kernel(x, y).mean()
    assert MmdDescent(y, kernel).at(x).value == pytest.approx(
        expected.item(), rel=1e-8 if "Exponential" in str(kernel) else 1e-12
    )


def test_two_particles_and_one_target_by_hand():
    """Particles 0 and 1 on a line, target 2, Gaussian kernel of bandwidth 1.

    F = ((2 + 2 e^(-1/2)) / 4 + 1) / 2 - (e^-2 + e^(-1/2)) / 2. The particle at 0 is pulled by -2 e^-2 and pushed by e^(-1/2) / 2.
    """
    x, y = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    point, e = MmdDescent(y, Gaussian(1.0)).at(x), math.exp
    assert point.value == pytest.approx((0.5 + 0.5 * e(-0.5) + 1) / 2 - (e(-2) + e(-0.5)) / 2, rel=1e-14)
    expected = [[0.5 * e(-0.5) - 2 * e(-2)], [-0.5 * e(-0.5) - e(-0.5)]]
    torch.testing.assert_close(point.gradient(), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize("n", [1, 10])
def test_particles_at_the_target_stay_there(n):
    """F = 0 within its rounding and no gradient, in float32 too, for MMD and KALE, one particle included."""
    for dtype, rounding in ((torch.float64, 1e-7), (torch.float32, 1e-6)):
        y = _normal(n, 2, 5, dtype)
        for descent in (MmdDescent(y, Gaussian(1.0)), KaleDescent(KaleProblem(y, Gaussian(1.0), 0.1))):
            point = descent.at(y.flip(0))
            assert abs(point.value) <= point.rounding and point.rounding < 1e-5
            assert point.gradient().abs().max() < rounding * 10 and point.gradient().dtype == dtype


def test_kale_becomes_the_mmd():
    """At a large regularisation F is MMD^2 / 2 and f its witness, up to O(1 / lam)."""
    x, y, kernel = _normal(6, 2, 6), 1 + _normal(7, 2, 7), Gaussian(1.0)
    kale, mmd = KaleDescent(KaleProblem(y, kernel, 1e7)).at(x), MmdDescent(y, kernel).at(x)
    assert kale.value == pytest.approx(mmd.value, rel=1e-5)
    torch.testing.assert_close(kale.gradient(), mmd.gradient(), rtol=1e-5, atol=1e-6)


def test_the_value_costs_no_pass_of_its_own(monkeypatch):
    """Gradient, value and rounding at the particles are two fields, x and y, once; with noise the value adds them."""
    from gebm_cli.core import fields

    calls, radial = [], fields._radial
    monkeypatch.setattr(fields, "_radial", lambda *a: calls.append(1) or radial(*a))
    x, descent = _normal(5, 2, 8), MmdDescent(_normal(4, 2, 9), Gaussian(1.0))
    calls.clear()
    point = descent.at(x)
    assert not calls
    point.gradient(), point.value, point.rounding, point.gradient()
    assert len(calls) == 2
    other = descent.at(x)
    other.gradient(x + 0.1)
    assert len(calls) == 3
    assert other.value == point.value and len(calls) == 5


def test_kale_starts_from_where_it_was():
    """Started from its own solution a solve ends at once with the same value, within the gaps of both."""
    descent, x = KaleDescent(KaleProblem(_normal(30, 2, 10), Gaussian(0.5), 0.01)), 0.5 + _normal(20, 2, 11)
    cold = descent.at(x)
    warm = descent.at(x, cold.start)
    assert warm.solution.iterations < cold.solution.iterations
    assert abs(warm.value - cold.value) <= warm.rounding + cold.rounding


def test_decoding_in_batches_changes_nothing():
    """One latent at a time gives what all at once do."""
    z, inner = _normal(7, 2, 12), MmdDescent(_normal(5, 3, 13), Gaussian(1.0))
    whole, single = (Decoded(inner, _decode, size).at(z) for size in (100, 1))
    torch.testing.assert_close(single.gradient(), whole.gradient(), rtol=1e-13, atol=1e-14)
    assert single.value == pytest.approx(whole.value, rel=1e-13)


def test_the_gap_of_a_divergence_is_that_of_its_solver():
    """None for MMD; for KALE at most the tolerance, and at most the value where the solver was stopped early; decoded the same."""
    x, y = _normal(20, 3, 14) + 1, _normal(15, 3, 15)
    problem = KaleProblem(y, Gaussian(1.0), 1e-3)
    solved, stopped = KaleDescent(problem), KaleDescent(problem, {"max_iterations": 0})
    for descent in (MmdDescent(y, Gaussian(1.0)), Decoded(MmdDescent(y, Gaussian(1.0)), _decode)):
        point = descent.at(x)
        assert point.gap == 0 and point.converged
    assert 0 <= solved.at(x).gap <= 1e-8 and solved.at(x).converged
    for point in (stopped.at(x), Decoded(stopped, lambda z: z).at(x)):
        assert 0.1 * point.value < point.gap <= point.value and not point.converged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kale_asks_for_each_kernel_value_once(dtype, monkeypatch):
    """Value and gradient at x: k(y, x), then k(x, x), then k(x, y) with slopes, none twice; with noise no k(x, x) at all."""
    from gebm_cli.core import fields

    x, descent = _normal(5, 2, 8, dtype), KaleDescent(KaleProblem(_normal(4, 2, 9), Gaussian(1.0), 0.1))
    calls, sums = [], fields._sums
    monkeypatch.setattr(fields, "_sums", lambda k, t, z, w, s: calls.append((len(t), len(z), s)) or sums(k, t, z, w, s))
    point = descent.at(x)
    gradient = point.gradient()
    assert point.value > 0 and calls == [(4, 5, False), (5, 5, True), (5, 4, True)]
    torch.testing.assert_close(gradient, point.field.value_and_grad(x)[1], rtol=1e-6, atol=1e-12)
    calls.clear()
    descent.at(x).gradient(x + 0.1)
    assert calls == [(4, 5, False), (5, 9, True)]
