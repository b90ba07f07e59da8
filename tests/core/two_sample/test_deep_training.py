"""The criterion against plain autograd, and the training of deep kernels."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core.two_sample import deep_training
from gebm_cli.core.two_sample.aggregation import kernel_test
from gebm_cli.core.two_sample.deep_criterion import Pairs, Scales, criterion, gaussian_criterion
from gebm_cli.core.two_sample.deep_training import train_deep_kernel


def _normal(n, generator, shift=0.0, d=3):
    return shift + torch.randn(n, d, generator=generator, dtype=torch.float64)


def _squared(a, b):
    return (a[:, None] - b[None]).square().sum(-1)


def _matrix(phi, z, scales):
    epsilon = torch.sigmoid(scales.mixing)
    near = torch.exp(-_squared(phi, phi) / scales.feature.exp())
    return ((1 - epsilon) * near + epsilon) * torch.exp(-_squared(z, z) / scales.raw.exp())


def _plain(matrix, n):
    """J of a whole kernel matrix: U-statistic over the root of the two samples' variances of projections."""
    m = len(matrix) - n
    xx, yy, xy = matrix[:n, :n], matrix[n:, n:], matrix[:n, n:]
    own_x, own_y = (xx.sum(1) - xx.diagonal()) / (n - 1), (yy.sum(1) - yy.diagonal()) / (m - 1)
    value = own_x.mean() + own_y.mean() - 2 * xy.mean()
    parts = [((own_x - xy.mean(1)), n), ((own_y - xy.mean(0)), m)]
    return value / (sum(2 * (n + m) / k * (h - h.mean()).square().mean() for h, k in parts) + 1e-8).sqrt()


def _problem(n=23, m=17):
    generator = torch.Generator().manual_seed(1)
    x, y = _normal(n, generator), _normal(m, generator, 0.3)
    phi = torch.randn(n + m, 4, generator=generator, dtype=torch.float64).requires_grad_()
    return x, y, phi, Scales.start(1.3, 5.0, 0.2, x)


@pytest.mark.parametrize("block", [1, 5, 64])
@pytest.mark.parametrize("sizes", [(23, 17), (12, 12)])
def test_criterion_and_gradient_are_autograds(sizes, block):
    """J and its gradient in the features and all three scales are those of the whole matrix, whatever the blocks."""
    x, y, phi, scales = _problem(*sizes)
    inputs = [phi, *scales.all()]
    value = criterion(phi, scales, Pairs(x, y, block))
    expected = _plain(_matrix(phi, torch.cat([x, y]), scales), len(x))
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)
    for ours, theirs in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-9)


def test_gradient_is_the_finite_difference():
    """The derivative in each scale is the central difference."""
    x, y, phi, scales = _problem()
    pairs = Pairs(x, y, 8)
    slopes = torch.autograd.grad(criterion(phi, scales, pairs), scales.all())
    for slope, scale in zip(slopes, scales.all()):
        ends = []
        for step in (1e-5, -2e-5):
            scale.data += step
            ends.append(criterion(phi, scales, pairs).item())
        scale.data += 1e-5
        assert slope.item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_gaussian_criterion_is_that_of_the_gaussian():
    """J of exp(-|x - y|^2 / s) from its whole matrix."""
    x, y, _, _ = _problem()
    z = torch.cat([x, y])
    expected = _plain(torch.exp(-_squared(z, z) / 2.0), len(x)).item()
    assert gaussian_criterion(2.0, Pairs(x, y, 6)) == pytest.approx(expected, abs=1e-12)


def test_variance_agrees_with_the_papers_at_equal_sizes():
    """At n = m, J is the paper's 4/n^3 sum_i (sum_j H_ij)^2 - 4/n^4 (sum_ij H_ij)^2 in large samples."""
    generator, n = torch.Generator().manual_seed(2), 1500
    x, y = _normal(n, generator), _normal(n, generator, 0.4)
    xx, yy, xy = (torch.exp(-_squared(a, b) / 4.0) for a, b in ((x, x), (y, y), (x, y)))
    h = xx + yy - xy - xy.T
    variance = 4 / n**3 * h.sum(1).square().sum() - 4 / n**4 * h.sum() ** 2
    value = (h.sum() - h.trace()) / (n * (n - 1))
    assert gaussian_criterion(4.0, Pairs(x, y)) == pytest.approx((value / variance.sqrt()).item(), rel=0.05)


def test_far_rows_give_finite_gradients():
    """Exponents far below the smallest float neither slow the arithmetic nor break the gradient."""
    x, y, phi, scales = _problem()
    value = criterion(phi.float() * 1e3, scales, Pairs(x.float(), y.float()))
    assert value.isfinite() and torch.autograd.grad(value, phi)[0].isfinite().all()


@pytest.mark.parametrize("image_shape", [None, (1, 4, 4)])
@pytest.mark.parametrize("full", [4000, 20])
def test_training_is_deterministic_and_sizes_are_free(monkeypatch, image_shape, full):
    """The generator alone decides the kernel, with all rows or random subsets of them, n != m; torch's stream is left alone."""
    monkeypatch.setattr(deep_training, "FULL", full)
    monkeypatch.setattr(deep_training, "PART", 12)
    results, stream = [], torch.get_rng_state()
    for _ in range(2):
        generator, steps = torch.Generator().manual_seed(3), []
        x, y = _normal(40, generator, d=16), _normal(30, generator, 1.0, d=16) * 1.5
        kernel = train_deep_kernel(
            x,
            y,
            generator,
            image_shape=image_shape,
            n_steps=12,
            n_members=2,
            on_step=lambda i, n, to=steps: to.append((i, n)),
        )
        rows = kernel.rows(x)
        results.append(kernel.kernel(rows, rows))
    assert torch.equal(*results) and results[0].dtype == torch.float64 and results[0].shape == (40, 40)
    assert steps == [(i, 24) for i in range(1, 25)]
    assert torch.equal(torch.get_rng_state(), stream)


def test_finds_the_columns_that_matter():
    """With one column of ten that differs, in spread alone, the learned kernel beats the best Gaussian on rows set aside."""
    generator = torch.Generator().manual_seed(4)
    x, y = _normal(300, generator, d=10), _normal(300, generator, d=10)
    y[:, 3] *= 0.4
    trained = train_deep_kernel(x, y, generator, n_steps=30, n_members=1)
    assert len(trained.networks) == 1 and trained.criterion > 1.5 * trained.gaussian_criterion
    weights = trained.networks[0].log_weights
    assert weights.argmax() == 3, weights


def test_only_held_out_rows_keep_the_level():
    """At P = Q, the rows that the kernel was trained on reject far more often than fresh ones."""
    on_training, on_fresh = 0, 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x, y, u, v = (_normal(60, generator, d=6) for _ in range(4))
        trained = train_deep_kernel(x, y, generator, n_steps=30, n_members=1)
        for fresh, (a, b) in enumerate(((x, y), (u, v))):
            p = kernel_test(trained.rows(a), trained.rows(b), trained.kernel, 99, generator).p_value
            on_fresh += fresh * (p <= 0.05)
            on_training += (1 - fresh) * (p <= 0.05)
    assert on_training >= 4 and on_fresh <= 3, f"{on_training} and {on_fresh} of 8"


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(7, 2), torch.zeros(9, 2), {}, "n, m >= 8"),
        (torch.zeros(9, 2), torch.zeros(9, 3), {}, "n, m >= 8"),
        (torch.zeros(9, 2), torch.zeros(9, 2), {"image_shape": (1, 2, 2)}, "no images"),
        (torch.zeros(9, 2), torch.zeros(9, 2), {"n_steps": 0}, "at least 1 step"),
        (torch.zeros(9, 2), torch.zeros(9, 2), {}, "rows are equal"),
        (torch.full((9, 2), float("nan")), torch.randn(9, 2), {}, "not finite"),
    ],
)
def test_refuses(x, y, options, message, generator):
    with pytest.raises(ValueError, match=message):
        train_deep_kernel(x, y, generator, **options)
