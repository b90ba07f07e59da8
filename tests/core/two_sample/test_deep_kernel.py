"""The deep kernel against its formula, and its networks."""

from __future__ import annotations

import math

import pytest
import torch

from gebm_cli.core.two_sample import deep_kernel
from gebm_cli.core.two_sample.deep_kernel import DeepKernel, FeatureNetwork, KernelMean, convolutional, features, mlp

KERNEL = DeepKernel(split=3, epsilon=0.2, feature_scale=1.5, scale=4.0)


def _rows(n, columns, generator):
    return torch.randn(n, columns, generator=generator, dtype=torch.float64)


def _by_hand(kernel, a, b):
    """The formula for one pair of rows, in Python floats."""
    a, b, k = a.tolist(), b.tolist(), kernel.split
    near = math.exp(-sum((s - t) ** 2 for s, t in zip(a[:k], b[:k])) / kernel.feature_scale)
    far = math.exp(-sum((s - t) ** 2 for s, t in zip(a[k:], b[k:])) / kernel.scale)
    return ((1 - kernel.epsilon) * near + kernel.epsilon) * far


def test_kernel_is_its_formula(generator):
    """[(1 - eps) exp(-|phi - phi'|^2 / s0) + eps] exp(-|x - x'|^2 / s), pair by pair."""
    x, y = _rows(5, 5, generator), _rows(7, 5, generator)
    expected = torch.tensor([[_by_hand(KERNEL, a, b) for b in y] for a in x], dtype=torch.float64)
    torch.testing.assert_close(KERNEL(x, y), expected, atol=1e-13, rtol=0)


def test_kernel_without_features_is_gaussian(generator):
    """split = 0 leaves exp(-|x - y|^2 / s)."""
    x, y = _rows(4, 2, generator), _rows(3, 2, generator)
    expected = torch.exp(-torch.cdist(x, y).square() / 2.5)
    torch.testing.assert_close(DeepKernel(0, 0.0, 1.0, 2.5)(x, y), expected, atol=1e-13, rtol=0)


def test_mean_reads_each_members_own_columns(generator):
    """Member r of a mean acts on [phi_r, x], and the weights are normalised."""
    other = DeepKernel(2, 0.5, 0.7, 3.0)
    x, y = _rows(6, 7, generator), _rows(4, 7, generator)
    own, others = [0, 1, 2, 5, 6], [3, 4, 5, 6]
    expected = 0.25 * KERNEL(x[:, own], y[:, own]) + 0.75 * other(x[:, others], y[:, others])
    torch.testing.assert_close(KernelMean((KERNEL, other), (1.0, 3.0))(x, y), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("kernel", [KERNEL, KernelMean((KERNEL, DeepKernel(1, 0.9, 0.1, 1.0)), (1.0, 2.0))])
def test_kernel_is_positive_definite(kernel, generator):
    """Symmetric, 1 on the diagonal, and no negative eigenvalue beyond rounding."""
    x = _rows(40, 6, generator)
    matrix = kernel(x, x)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(40, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-10


def test_network_starts_as_the_gaussian_of_its_width(generator):
    """The columns' part of |phi - phi'|^2 is |x - x'|^2 / width, and the network's has the median that was asked for."""
    rows = 3.0 + 2.0 * torch.randn(200, 4, generator=generator)
    phi = features(FeatureNetwork(mlp(4), rows, width=5.0, share=0.1), rows)
    assert phi.shape == (200, 4 + 12)
    torch.testing.assert_close(torch.pdist(phi[:, :4]).square(), torch.pdist(rows).square() / 5.0, rtol=1e-3, atol=1e-4)
    assert torch.pdist(phi[:, 4:]).square().median().item() == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 32), (3, 70, 96)])
def test_images(shape, generator):
    """Rows of pixels go through the convolutions; one image's features do not depend on the others."""
    rows = torch.rand(20, math.prod(shape), generator=generator) * 2 - 1
    network = FeatureNetwork(convolutional(shape), rows, None, 1.0)
    phi = features(network, rows)
    assert phi.shape == (20, 64)
    torch.testing.assert_close(network(rows[:3]), phi[:3], atol=1e-4, rtol=1e-4)


def test_images_are_seen_wherever_things_are(generator):
    """A pattern well inside the image has the same features when it moves by the stride of all convolutions."""
    images = torch.zeros(30, 1, 32, 32)
    images[:, :, 12:16, 12:16] = torch.rand(30, 1, 4, 4, generator=generator)
    network = FeatureNetwork(convolutional((1, 32, 32)), images.flatten(1), None, 1.0)
    moved = images.roll((4, -4), (2, 3)).flatten(1)
    torch.testing.assert_close(network(moved), network(images.flatten(1)), atol=1e-4, rtol=1e-4)


def test_constant_column_does_not_explode(generator):
    """A column that is constant in training gives moderate features when it moves a little later."""
    rows = torch.randn(100, 3, generator=generator)
    rows[:, 1] = 2.0
    network = FeatureNetwork(mlp(3), rows, 2.0, 0.1)
    moved = rows.clone()
    moved[:, 1] += 0.01
    assert (features(network, moved) - features(network, rows)).abs().max() < 1.0


def test_features_in_batches(monkeypatch, generator):
    """Batches change nothing, and the mode of the network is restored."""
    rows = torch.randn(50, 3, generator=generator)
    network = FeatureNetwork(mlp(3), rows, 2.0, 0.1).train()
    whole = features(network, rows)
    monkeypatch.setattr(deep_kernel, "BATCH", 7)
    torch.testing.assert_close(features(network, rows), whole)
    assert network.training and not whole.requires_grad


def test_width():
    """h is 50 in the plane, 3d above, and capped."""
    assert [mlp(d)[-1].out_features for d in (1, 2, 10, 2048)] == [50, 50, 30, 300]
