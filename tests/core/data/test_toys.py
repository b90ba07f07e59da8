"""Toy laws against their distribution functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare, kstest

from gebm_cli.core.data.toys import draw_toy, on_circle, toy_dataset
from gebm_cli.core.device import make_generator

FIRST = ["ring", "grid", "two-moons", "thin-manifold", "conditional-sine", "conditional-branches"]
EXACT = ["gaussian", "segment", "three-rings", "heart", "spiral"]
TOYS = FIRST + EXACT
N = 20_000
RING = [[-0.9530169367790222, -0.0371660515666008], [-0.9907609820365906, -0.012394862249493599]]
RING_SUM = 54.37357467250581


def _centres(name):
    if name == "ring":
        angle = np.arange(8) * 2 * math.pi / 8
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.array([[i, j] for i in (-1, -0.5, 0, 0.5, 1) for j in (-1, -0.5, 0, 0.5, 1)])


def _angle(points):
    return np.arctan2(points[:, 1].double().numpy(), points[:, 0].double().numpy())


@pytest.mark.parametrize(("name", "components"), [("ring", 8), ("grid", 25), ("two-moons", 2)])
def test_components_are_equally_likely(name, components, generator):
    """Labels are 0 .. k - 1 in equal shares, by chi-squared at 1e-4."""
    _, labels = draw_toy(name, N, 0.0, generator)
    counts = np.bincount(labels.numpy(), minlength=components)
    p = chisquare(counts).pvalue
    assert len(counts) == components and p > 1e-4, f"p = {p:.1e}, counts {counts}"


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_points_without_noise_are_the_centres_of_their_labels(name, generator):
    """At noise 0 each point is its label's centre."""
    points, labels = draw_toy(name, 2000, 0.0, generator)
    assert np.abs(points.numpy() - _centres(name)[labels.numpy()]).max() < 1e-6


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_noise_is_isotropic_with_its_standard_deviation(name, generator):
    """Residuals have mean 0, variance noise_std^2 by its chi-squared law, in each coordinate, and no correlation."""
    points, labels = draw_toy(name, N, 0.05, generator)
    residuals = (points.double().numpy() - _centres(name)[labels.numpy()]) / 0.05
    low, high = chi2.interval(1 - 1e-4, N)
    for column in residuals.T:
        assert low < (column**2).sum() < high, f"variance {(column**2).mean():.4f}"
        assert abs(column.mean()) * math.sqrt(N) < 4
    assert abs((residuals[:, 0] * residuals[:, 1]).mean()) * math.sqrt(N) < 4
    assert kstest(residuals[:, 0], "norm").pvalue > 1e-4


def test_moons_are_two_interleaved_half_circles(generator):
    """At noise 0 a point lies on its own half circle of radius 1, with a uniform angle, by Kolmogorov and Smirnov."""
    points, labels = draw_toy("two-moons", N, 0.0, generator)
    points = points + torch.tensor([0.5, 0.25])
    upper = points[labels == 0]
    lower = torch.tensor([1.0, 0.5]) - points[labels == 1]
    for half in (upper, lower):
        assert (half.norm(dim=1) - 1).abs().max() < 1e-5 and half[:, 1].min() > -1e-5
        p = kstest(_angle(half) / math.pi, "uniform").pvalue
        assert p > 1e-4, f"p = {p:.1e}"


def test_moons_are_centred(generator):
    """The mean is the origin to 4 standard errors."""
    points, _ = draw_toy("two-moons", N, 0.0, generator)
    z = points.double().mean(0) / points.double().std(0) * math.sqrt(N)
    assert z.abs().max() < 4, z.tolist()


def test_thin_manifold_has_its_density(generator):
    """Angles follow (1 + .9 cos) / (2 pi) by Kolmogorov and Smirnov, on the circle, and not the uniform law."""
    points, labels = draw_toy("thin-manifold", 10 * N, 0.0, generator)  # enough to tell .9 from .85
    angle = _angle(points)
    p = kstest(angle, lambda a: (a + math.pi + 0.9 * np.sin(a)) / (2 * math.pi)).pvalue
    assert p > 1e-4, f"p = {p:.1e}"
    assert kstest((angle + math.pi) / (2 * math.pi), "uniform").pvalue < 1e-12
    assert (points.norm(dim=1) - 1).abs().max() < 1e-6
    assert ((angle > 0) == labels.bool().numpy()).all()


# ------------------------------------------------------------------------------------------------------------ conditional


def _moments(name, x, noise_std):
    """E[y | x], Var[y | x] and E[(y - E[y | x])^4 | x] in closed form."""
    if name == "conditional-sine":
        scale = noise_std * (2 + x)
        return np.sin(np.pi * x), scale**2, 3 * scale**4
    m, p = x**2 + 0.25, 0.5 + x / 4
    offsets = np.stack([2 * m * (1 - p), -2 * m * p])  # of the two branches from their mean
    weights = np.stack([p, 1 - p])
    fourth = (weights * (offsets**4 + 6 * offsets**2 * noise_std**2 + 3 * noise_std**4)).sum(0)
    return m * (2 * p - 1), m**2 * (1 - x**2 / 4) + noise_std**2, fourth


CONDITIONAL = ["conditional-sine", "conditional-branches"]


@pytest.mark.parametrize("name", CONDITIONAL)
def test_condition_is_uniform(name, generator):
    """x is U(-1, 1) by Kolmogorov and Smirnov, whatever the noise."""
    points, _ = draw_toy(name, N, 0.3, generator)
    p = kstest(points[:, 0].numpy(), "uniform", (-1, 2)).pvalue
    assert p > 1e-4 and points[:, 0].abs().max() <= 1, f"p = {p:.1e}"


@pytest.mark.parametrize("noise_std", [0.02, 0.2])
@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_moments(name, noise_std, generator):
    """In each of ten bins of x the mean and the variance of y given x have |z| below 4.5 against their formulas."""
    points, _ = draw_toy(name, 10 * N, noise_std, generator)
    x, y = points.double().numpy().T
    mean, variance, fourth = _moments(name, x, noise_std)
    for k in range(10):
        inside = (x >= -1 + k / 5) & (x < -0.8 + k / 5)
        residual, v = (y - mean)[inside], variance[inside]
        z = residual.sum() / np.sqrt(v.sum())
        z_square = (residual**2 - v).sum() / np.sqrt((fourth[inside] - v**2).sum())
        assert abs(z) < 4.5 and abs(z_square) < 4.5, f"bin {k}: z {z:.1f} of the mean, {z_square:.1f} of the variance"


def test_branches_are_labelled_and_weighted(generator):
    """At noise 0 the label says the branch, y = +-(x^2 + 1/4), and P(upper | x) = 1/2 + x/4 in ten bins, |z| below 4.5."""
    points, labels = draw_toy("conditional-branches", 10 * N, 0.0, generator)
    x, y = points.double().numpy().T
    upper = labels.numpy()
    assert np.abs(y - (2 * upper - 1) * (x**2 + 0.25)).max() < 1e-6
    p = 0.5 + x / 4
    for k in range(10):
        inside = (x >= -1 + k / 5) & (x < -0.8 + k / 5)
        z = (upper - p)[inside].sum() / np.sqrt((p * (1 - p))[inside].sum())
        assert abs(z) < 4.5, f"bin {k}: z = {z:.1f}"


# ----------------------------------------------------------------------------------------------------- shapes, without noise


def _rms(values):
    return float(np.sqrt((np.asarray(values) ** 2).mean()))


def test_gaussian_is_standard_normal(generator):
    """Each coordinate is N(0, 1) by Kolmogorov and Smirnov, and they are not correlated."""
    points, labels = draw_toy("gaussian", N, 0.0, generator)
    columns = points.double().numpy().T
    assert all(kstest(c, "norm").pvalue > 1e-4 for c in columns) and labels.eq(0).all()
    assert abs((columns[0] * columns[1]).mean()) * math.sqrt(N) < 4


def test_segment_is_uniform_and_vertical(generator):
    """(0, u) with u ~ U(0, 1) by Kolmogorov and Smirnov."""
    points, _ = draw_toy("segment", N, 0.0, generator)
    assert points[:, 0].eq(0).all() and kstest(points[:, 1].numpy(), "uniform").pvalue > 1e-4


def test_three_rings_are_where_the_paper_has_them(generator):
    """Radius .3 around (0, 0), (0, -.75), (0, -1.5) by the label, equally likely, with uniform angles."""
    points, labels = draw_toy("three-rings", N, 0.0, generator)
    centres = torch.tensor([[0.0, 0], [0, -0.75], [0, -1.5]])
    around = points - centres[labels]
    assert (around.norm(dim=1) - 0.3).abs().max() < 1e-6
    assert kstest((_angle(around) + math.pi) / (2 * math.pi), "uniform").pvalue > 1e-4
    assert chisquare(np.bincount(labels, minlength=3)).pvalue > 1e-4


def test_heart_is_uniform_on_its_solid(generator):
    """Mean 0 and, against a fine lattice of the solid's own inequality, the same shares in 36 cells by chi-squared."""
    points, _ = draw_toy("heart", N, 0.0, generator)
    z = points.double().mean(0) / points.double().std(0) * math.sqrt(N)
    assert z.abs().max() < 4, z.tolist()
    across, up = np.meshgrid(np.linspace(-1, 1, 2001)[:-1] + 5e-4, np.linspace(-1.1, 2, 3101)[:-1] + 5e-4)
    inside = across**2 + (up - np.abs(across) ** (2 / 3)) ** 2 <= 1
    lattice = np.stack([across[inside], up[inside]], 1)
    lattice[:, 1] -= lattice[:, 1].mean()
    cells = [np.linspace(-1.001, 1.001, 7), np.linspace(-1.6, 1.2, 7)]
    expected = np.histogram2d(*lattice.T, bins=cells)[0].ravel()
    counts = np.histogram2d(*points.double().numpy().T, bins=cells)[0].ravel()
    assert counts.sum() == N and counts[expected == 0].sum() == 0
    kept = expected > 0.001 * expected.sum()
    expected = expected[kept] / expected[kept].sum() * counts[kept].sum()
    assert chisquare(counts[kept], expected).pvalue > 1e-4


def test_spiral_is_uniform_in_arc_length(generator):
    """On r = angle / (4 pi), with the share of its length up to each point, integrated numerically, uniform."""
    points, _ = draw_toy("spiral", N, 0.0, generator)
    angle = 4 * math.pi * points.double().norm(dim=1).numpy()
    on_curve = (angle / (4 * math.pi))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert np.abs(on_curve - points.double().numpy()).max() < 2e-6
    grid = np.linspace(0, 4 * math.pi, 20_001)
    speed = np.hypot(1, grid)
    length = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2)])
    assert kstest(np.interp(angle, grid, length / length[-1]), "uniform").pvalue > 1e-4


# ------------------------------------------------------------------------------------------------------------ moved ones


@pytest.mark.parametrize("name", TOYS)
def test_scale_multiplies_the_support_and_shift_moves_it(name):
    """Without noise the points of one generator are scale * s + shift; the labels are the same."""
    (plain, labels), (moved, same) = (
        draw_toy(name, 500, 0.0, torch.Generator().manual_seed(3), *more) for more in ((), ((3.0, -1.0), 0.5))
    )
    torch.testing.assert_close(moved, 0.5 * plain + torch.tensor([3.0, -1.0]))
    assert torch.equal(labels, same)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_noise_is_a_distance_whatever_the_scale(scale, generator):
    """Residuals of a scaled ring have variance noise_std^2, by its chi-squared law."""
    points, labels = draw_toy("ring", N, 0.05, generator, (1.0, 2.0), scale)
    residuals = (points.double().numpy() - np.array([1.0, 2.0]) - scale * _centres("ring")[labels.numpy()]) / 0.05
    low, high = chi2.interval(1 - 1e-4, 2 * N)
    assert low < (residuals**2).sum() < high, f"{_rms(residuals):.4f}"


@pytest.mark.parametrize("name", FIRST)
def test_the_first_toys_keep_their_streams(name):
    """What experiments were made with: one generator for each half, the labels of its seed unchanged, bit for bit."""
    dataset = toy_dataset(name, 50, 0.05, 0)
    for part, points in (("train", dataset.train), ("held-out", dataset.held_out)):
        assert torch.equal(points, draw_toy(name, 50, 0.05, make_generator(0, "toy", part))[0])


def test_bits_of_a_ring_are_those_of_the_first_release():
    """Numbers that were drawn before toys had parameters."""
    points = toy_dataset("ring", 10_000, 0.05, 0).train
    assert points[:2].tolist() == RING and points.double().sum().item() == RING_SUM


def test_a_law_and_the_moved_law_are_independent_at_one_seed():
    """Neither a translate nor a dilate of the sample that it is compared with: the correlation of each column is chance."""
    plain = toy_dataset("gaussian", 4000, 0.0, 0).train.double()
    for more in (((3.0, 0.0), 1.0), ((0.0, 0.0), 2.0)):
        moved = toy_dataset("gaussian", 4000, 0.0, 0, *more).train.double()
        for j in range(2):
            r = torch.corrcoef(torch.stack([plain[:, j], moved[:, j]]))[0, 1].item()
            assert abs(r) * math.sqrt(4000) < 4, f"correlation {r:.3f}"


# ------------------------------------------------------------------------------------------------------------------- all


def test_on_circle_is_cosine_and_sine():
    """on_circle(angle) = (cos, sin)."""
    angle = torch.tensor([0.0, math.pi / 2, math.pi])
    expected = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    torch.testing.assert_close(on_circle(angle), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TOYS)
def test_draws_repeat_and_have_the_right_types(name):
    """One generator state gives one draw, float32 points (n, 2) and int64 labels (n,)."""
    (a, la), (b, _) = (draw_toy(name, 100, 0.1, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (100, 2) and a.dtype == torch.float32
    assert la.shape == (100,) and la.dtype == torch.int64


@pytest.mark.parametrize("name", TOYS)
def test_dataset_has_independent_halves(name):
    """Training and held-out points come from different streams of the seed, and another seed gives other points."""
    first, again, other = toy_dataset(name, 500, 0.1, 0), toy_dataset(name, 500, 0.1, 0), toy_dataset(name, 500, 0.1, 1)
    assert torch.equal(first.train, again.train) and torch.equal(first.held_out, again.held_out)
    assert len(np.intersect1d(first.train.numpy(), first.held_out.numpy())) == 0
    assert len(np.intersect1d(first.train.numpy(), other.train.numpy())) == 0
    assert len(first.train_labels) == len(first.held_out_labels) == 500 and first.name == name


@pytest.mark.parametrize(("n", "held_out"), [(30, 30), (10_000, 10_000), (10_001, 10_000)])
def test_dataset_sizes(n, held_out):
    """There are n training and min(n, 10,000) held-out points."""
    dataset = toy_dataset("ring", n, 0.1, 0)
    assert (len(dataset.train), len(dataset.held_out)) == (n, held_out)
