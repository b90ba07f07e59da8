"""Fields against autograd through whole kernel matrices, differences, and hand-made sums."""

from __future__ import annotations

import math

import pytest
import torch
from all_kernels import KERNELS
from memory import peak_bytes

from gebm_cli.core import fields
from gebm_cli.core.fields import KernelField, Scaled
from gebm_cli.core.kernels import (
    EnergyDistance,
    Exponential,
    Gaussian,
    GaussianMixture,
    Laplace,
    MeanKernel,
    RationalQuadratic,
)

OF_DISTANCE = [
    Gaussian(0.7),
    Laplace(1.3),
    Exponential(0.8),
    GaussianMixture((0.5, 1.0)),
    RationalQuadratic(),
    EnergyDistance(),
    MeanKernel((Gaussian(0.7), Exponential(2.0), Laplace(1.3))),
]


class Unknown:
    """A kernel of a user's own, of which nothing is known but its values."""

    def __call__(self, x, y):
        return torch.cos(x[:, None, :] - y[None, :, :]).prod(-1)


every = pytest.mark.parametrize("kernel", [*KERNELS, Unknown()], ids=lambda k: str(k)[:60])


def _normal(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _field(kernel, n=7, d=3, seed=0, dtype=torch.float64):
    return KernelField(kernel, _normal(n, d, seed, dtype), _normal(n, 1, seed + 1)[:, 0])


def _oracle(field, t):
    """Value and gradient in float64, from the whole matrix under autograd."""
    t = t.double().requires_grad_()
    value = field.kernel(t, field.points.double()) @ field.weights
    return value.detach(), torch.autograd.grad(value.sum(), t)[0]


@every
def test_value_is_the_weighted_sum(kernel):
    """f(t) = sum_j w_j k(t, z_j), to float64 rounding, by both ways of asking for it."""
    field, t = _field(kernel), _normal(5, 3, 2)
    expected = sum(w * kernel(t, z[None])[:, 0] for w, z in zip(field.weights, field.points))
    for value in (field.value(t), field.value_and_grad(t)[0]):
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@every
def test_gradient_is_that_of_differences(kernel):
    """Central differences of the value, to the 1e-8 that a difference in float64 is good for."""
    field, t, h = _field(kernel), _normal(4, 3, 2), 1e-5
    steps = h * torch.eye(3, dtype=torch.float64)
    differences = torch.stack([(field.value(t + e) - field.value(t - e)) / (2 * h) for e in steps], 1)
    torch.testing.assert_close(field.value_and_grad(t)[1], differences, rtol=1e-7, atol=1e-8)


@every
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_blocks_of_any_size_give_the_same(kernel, size, monkeypatch):
    """Streamed equals direct, with and without a last block that is short."""
    field, t = _field(kernel, n=10), _normal(7, 3, 2)
    monkeypatch.setattr(fields, "CPU_BLOCK", size)
    for found, expected in zip(field.value_and_grad(t), _oracle(field, t)):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every
def test_float32_is_float64_up_to_its_rounding(kernel):
    """Value (float64) and gradient (float32), relative to the sums of absolute terms that they are made of.

    With a cusp the direction between two points at a distance r has an error of about eps |t|^2 / r^2, which only the nearest pair
    feels: 1 / 100 of one weight.
    """
    field, t = _field(kernel, n=300, d=2, dtype=torch.float32), _normal(40, 2, 2, torch.float32)
    (value, gradient), (right, slope) = field.value_and_grad(t), _oracle(field, t)
    assert value.dtype == torch.float64 and gradient.dtype == torch.float32
    size = _oracle(KernelField(field.kernel, field.points, field.weights.abs()), t)[0].abs().max()
    assert (value - right).abs().max() < 1e-6 * size
    cusp = 0.01 * field.weights.abs().max() if "Exp" in str(kernel) or "Energy" in str(kernel) else 0.0
    assert (gradient - slope).abs().max() < 4e-6 * (size + slope.abs().max()) + cusp


@pytest.mark.parametrize("kernel", OF_DISTANCE, ids=str)
def test_a_common_shift_costs_no_digits(kernel):
    """float32 points near 1000 give the field of the same points near 0, to the rounding of the shifted points themselves.

    Weights sum to 0, so that the energy distance does not depend on the origin either, up to a constant.
    """
    field, t, far = _field(kernel, n=50, d=2, dtype=torch.float32), _normal(20, 2, 2, torch.float32), 1024.0
    weights = field.weights - field.weights.mean()
    moved_points, moved_t = field.points + far, t + far
    here = KernelField(field.kernel, (moved_points - far).double(), weights).value_and_grad((moved_t - far).double())
    there = KernelField(field.kernel, moved_points, weights).value_and_grad(moved_t)
    scale = weights.abs().sum()
    apart = here[0] - there[0]
    apart = apart - apart.mean() if "Energy" in str(kernel) else apart
    assert apart.abs().max() < 1e-6 * scale and (here[1] - there[1]).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("kernel", OF_DISTANCE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_pulls_nowhere_where_it_lies(kernel, dtype):
    """At its own points a field has the gradient of the other points, of the norms in the energy distance besides."""
    points, weights = _normal(6, 2, 3, dtype), _normal(6, 1, 4)[:, 0].abs() + 0.5
    gradient = KernelField(kernel, points, weights).value_and_grad(points)[1]
    for i in range(6):
        others = torch.arange(6) != i
        expected = KernelField(kernel, points[others], weights[others]).value_and_grad(points[i : i + 1])[1][0]
        if kernel == EnergyDistance():
            expected = expected + 0.5 * weights[i].to(dtype) * points[i] / points[i].norm()
        torch.testing.assert_close(gradient[i], expected, rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("kernel", [Exponential(0.5), EnergyDistance(), MeanKernel((Exponential(1.0), Gaussian(1.0)))])
def test_cusps_of_repeated_points_are_finite(kernel):
    """Repeated points, the origin among them, have distance 0 or a rounding of it; the gradient stays within that of 1 a weight."""
    points = torch.cat([_normal(20, 5, 5, torch.float32), torch.zeros(1, 5)]).repeat(3, 1) * 10
    gradient = KernelField(kernel, points, torch.full((63,), 1 / 63, dtype=torch.float64)).value_and_grad(points)[1]
    assert gradient.isfinite().all() and gradient.norm(dim=1).max() < 2.0


def test_a_single_gaussian_by_hand():
    """f(t) = 3 exp(-|t - z|^2 / 8) with z = (1, 2), at t = (3, 2): f = 3 e^(-1/2), grad f = -f (2, 0) / 4."""
    field = KernelField(Gaussian(2.0), torch.tensor([[1.0, 2.0]]), torch.tensor([3.0], dtype=torch.float64))
    value, gradient = field.value_and_grad(torch.tensor([[3.0, 2.0]]))
    assert value.item() == pytest.approx(3 * math.exp(-0.5), rel=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([[-1.5 * math.exp(-0.5), 0.0]]))


def test_energy_distance_by_hand():
    """k(t, z) = (|t| + |z| - |t - z|) / 2 at t = (3, 0), z = (0, 4): (3 + 4 - 5) / 2, gradient ((1, 0) - (3, -4) / 5) / 2."""
    z, w = torch.tensor([[0.0, 4.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    value, gradient = KernelField(EnergyDistance(), z, w).value_and_grad(
        torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    )
    assert value.item() == pytest.approx(1.0, rel=1e-14)
    torch.testing.assert_close(gradient, torch.tensor([[0.2, 0.4]], dtype=torch.float64))


def test_scaled_multiplies_value_and_gradient():
    """factor f has the gradient factor grad f."""
    field, t = _field(Gaussian(1.0)), _normal(4, 3, 6)
    scaled = Scaled(field, -2.5)
    torch.testing.assert_close(scaled.value(t), -2.5 * field.value(t))
    for found, expected in zip(scaled.value_and_grad(t), field.value_and_grad(t)):
        torch.testing.assert_close(found, -2.5 * expected)


@every
def test_no_graph_leaks_out(kernel):
    """Inputs that ask for a gradient leave none on the results."""
    field = _field(kernel)
    asked = KernelField(kernel, field.points.requires_grad_(), field.weights.requires_grad_())
    value, gradient = asked.value_and_grad(_normal(3, 3, 7).requires_grad_())
    assert not (value.requires_grad or gradient.requires_grad or asked.value(field.points).requires_grad)


def test_the_fast_kernels_take_no_graph(monkeypatch):
    """All kernels but Laplace, and a user's own, get by without autograd."""
    monkeypatch.setattr(torch.autograd, "grad", None)
    for kernel in KERNELS:
        if "Laplace" not in str(kernel):
            value, gradient = _field(kernel).value_and_grad(_normal(3, 3, 8))
            assert value.isfinite().all() and gradient.isfinite().all()


def test_kernels_of_a_mean_share_their_distances(monkeypatch):
    """One product of rows for all kernels of the squared distance."""
    calls, streamed = [], fields._streamed
    monkeypatch.setattr(fields, "_streamed", lambda *a: calls.append(1) or streamed(*a))
    _field(MeanKernel(tuple(Gaussian(s) for s in (0.5, 1.0, 2.0)))).value_and_grad(_normal(3, 3, 9))
    assert len(calls) == 1


def test_memory_grows_with_the_points_and_not_with_their_square():
    """4,000 and 8,000 points: a few blocks, and some hundred bytes a point, where the matrix would take 128 and 512 MB."""

    def peak(n):
        field = KernelField(Gaussian(1.0), _normal(n, 2, 1), torch.full((n,), 1.0 / n, dtype=torch.float64))
        return peak_bytes(lambda: field.value_and_grad(field.points))

    small, large = peak(4000), peak(8000)
    assert small < 4 * 8 * fields.CPU_BLOCK**2 + 4000 * 300 and large - small < 4000 * 300


@pytest.mark.parametrize(
    "kernel", [Gaussian(1.0), Exponential(1.0), RationalQuadratic(), GaussianMixture((1.0, 3.0))], ids=str
)
@pytest.mark.parametrize(("d", "bound"), [(2, 2e-4), (5, 2e-4)])
@pytest.mark.parametrize("far", [0.0, 10.0, 1e3, 1e4])
def test_tight_clusters_far_apart_keep_their_digits(kernel, d, bound, far):
    """Two clusters of float32 points, `far` lengths of the kernel apart: value and gradient to rounding in up to 3 dimensions, to
    1e-4 in more, which 10 lengths are near enough to lose and 1,000 far enough for float64."""
    points = torch.cat([_normal(100, d, 1, torch.float32), _normal(100, d, 2, torch.float32) + far])
    field = KernelField(kernel, points, torch.full((200,), 1 / 200, dtype=torch.float64))
    (value, gradient), double = field.value_and_grad(points), points.double()
    w = field.weights
    apart = double[:, None] - double[None]
    squared = apart.square().sum(-1)
    phi, slope = kernel.with_slope(squared.clone())
    slope = slope if isinstance(slope, torch.Tensor) else slope * phi
    assert (value / (phi @ w) - 1).abs().max() < bound
    expected = 2 * torch.einsum("ij,ijd,j->id", slope, apart, w)
    assert (gradient - expected).norm(dim=1).max() < 5 * bound * expected.norm(dim=1).max()


@pytest.mark.parametrize("kind", [Gaussian, Laplace, Exponential, lambda s: GaussianMixture((s,))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 5])
def test_tiny_bandwidths_leave_each_point_alone(kind, dtype, d):
    """At its own points a field is their weights, and its gradient 0: no 0 times infinity, and no rounding times 1e40."""
    points = _normal(20, d, 1, dtype)
    for bandwidth in (1e-10, 1e-20, 1e-38, 1e-200):
        kernel = kind(bandwidth)
        value, gradient = KernelField(kernel, points, torch.full((20,), 0.5, dtype=torch.float64)).value_and_grad(
            points
        )
        assert (value == 0.5).all() and (gradient == 0).all(), bandwidth
        assert kernel(points[:1], points[:1]).isfinite().all()
