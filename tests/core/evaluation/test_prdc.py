"""Precision, recall, density and coverage against a loop over the definitions, sklearn's neighbours, and known cases."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from gebm_cli.core.evaluation import prdc as module
from gebm_cli.core.evaluation.prdc import prdc, radii


def _normal(n, d, generator, dtype=torch.float64):
    return torch.randn(n, d, generator=generator, dtype=dtype)


def _scores(result):
    return result.precision, result.recall, result.density, result.coverage


def _kth_distances(points, k):
    own = []
    for i, point in enumerate(points):
        others = sorted(math.dist(point, other) for j, other in enumerate(points) if j != i)
        own.append(others[k - 1])
    return own


def _by_definition(real, fake, k):
    """Loops over points, no matrices."""
    real, fake = real.double().tolist(), fake.double().tolist()
    real_radii, fake_radii = _kth_distances(real, k), _kth_distances(fake, k)
    held = [sum(math.dist(y, x) <= r for x, r in zip(real, real_radii)) for y in fake]
    recalled = [any(math.dist(x, y) <= r for y, r in zip(fake, fake_radii)) for x in real]
    covered = [any(math.dist(x, y) <= r for y in fake) for x, r in zip(real, real_radii)]
    return (
        float(np.mean([count > 0 for count in held])),
        float(np.mean(recalled)),
        sum(held) / (k * len(fake)),
        float(np.mean(covered)),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scores_are_their_definitions(generator, k, dtype):
    """Overlapping clouds of unequal sizes, in three dimensions, far from the origin."""
    real, fake = _normal(60, 3, generator, dtype) + 1000, 0.8 * _normal(45, 3, generator, dtype) + 1000.7
    expected = _by_definition(real, fake, k)
    assert all(0 < score for score in expected) and len(set(expected)) == 4
    assert _scores(prdc(real, fake, k)) == pytest.approx(expected, rel=1e-12)


def test_radii_are_sklearns_neighbours(generator):
    x = _normal(200, 16, generator)
    expected = NearestNeighbors(n_neighbors=6).fit(x.numpy()).kneighbors(x.numpy())[0][:, 5]
    assert radii(x, 5).numpy() == pytest.approx(expected, rel=1e-12)


def test_scores_by_sklearns_neighbours(generator):
    """Precision and coverage another way: by radius and nearest-neighbour queries."""
    real, fake = _normal(300, 8, generator), 1.3 * _normal(250, 8, generator)
    result = prdc(real, fake, 4)
    kth = NearestNeighbors(n_neighbors=5).fit(real.numpy()).kneighbors(real.numpy())[0][:, 4]
    distance, _ = NearestNeighbors(n_neighbors=1).fit(fake.numpy()).kneighbors(real.numpy())
    assert result.coverage == pytest.approx(np.mean(distance[:, 0] <= kth), abs=1e-12)
    distance, index = NearestNeighbors(n_neighbors=300).fit(real.numpy()).kneighbors(fake.numpy())
    assert result.precision == pytest.approx(np.mean((distance <= kth[index]).any(1)), abs=1e-12)
    assert result.density == pytest.approx((distance <= kth[index]).sum() / (4 * 250), rel=1e-12)


@pytest.mark.parametrize("block_size", [1, 7, 64, 100])
def test_blocks_do_not_change_the_result(generator, block_size):
    """Bit for bit, with duplicates within and between the sets, whose distances are exactly those of the radii."""
    real = _normal(64, 33, generator, torch.float32) + 100
    fake = torch.cat([real[:20], real[:20], _normal(60, 33, generator, torch.float32) + 100])
    assert prdc(real, fake, 3, block_size) == prdc(real, fake, 3)


def test_identical_sets(generator):
    """Everything is held and covered, and each point lies in its own ball and k others on average (closed balls)."""
    x = _normal(80, 5, generator)
    assert _scores(prdc(x, x, 4)) == (1.0, 1.0, pytest.approx(5 / 4), 1.0)


def test_disjoint_sets(generator):
    x = _normal(50, 4, generator)
    result = prdc(x, x + 100)
    assert _scores(result) == (0.0, 0.0, 0.0, 0.0) and result.precision_error == result.density_error == 0.0


def _two_modes(n, generator, second):
    """n points about (0, 0), of which `second` moved to (20, 0)."""
    points = _normal(n, 2, generator)
    points[:second, 0] += 20
    return points


def test_a_dropped_mode_costs_recall_and_coverage(generator):
    result = prdc(_two_modes(400, generator, 200), _two_modes(400, generator, 0))
    assert result.precision > 0.9 and result.density > 0.7
    assert 0.4 < result.recall <= 0.5 and 0.4 < result.coverage <= 0.5


def test_an_invented_mode_costs_precision_and_density(generator):
    result = prdc(_two_modes(400, generator, 0), _two_modes(400, generator, 200))
    assert result.recall > 0.9 and result.coverage > 0.8
    assert 0.4 < result.precision <= 0.5 and 0.3 < result.density < 0.7


def test_duplicates_hold_their_copies():
    """Radius 0 with k copies elsewhere: closed balls hold exact copies and nothing else."""
    real = torch.zeros(4, 2)
    assert radii(real, 3).tolist() == [0.0] * 4
    assert _scores(prdc(real, real, 3)) == (1.0, 1.0, pytest.approx(4 / 3), 1.0)
    fake = torch.cat([torch.zeros(3, 2), torch.full((1, 2), 1e-6)])
    assert prdc(real, fake, 3).precision == 0.75


def test_a_point_on_the_edge_of_a_ball_is_inside():
    """Points 0, 1, 2, 3 on a line with k = 1: every radius is 1; fakes at 4 and 5 are on the edge of 3's and outside."""
    real = torch.arange(4.0)[:, None]
    fake = torch.tensor([[4.0], [5.0]])
    result = prdc(real, fake, 1)
    assert (result.precision, result.density, result.coverage, result.recall) == (0.5, 0.5, 0.25, 0.25)


def test_density_of_the_same_law_is_one_and_its_errors_are_right(generator):
    """Over 200 new fake sets against one real set the spread is the standard error, within 4 of the spread's own errors;
    over real sets as well, the mean density is 1."""
    real = _normal(150, 3, generator)
    runs = [prdc(real, _normal(120, 3, generator)) for _ in range(200)]
    for name in ("precision", "density"):
        spread = np.std([getattr(run, name) for run in runs], ddof=1)
        stated = math.sqrt(np.mean([getattr(run, f"{name}_error") ** 2 for run in runs]))
        assert abs(spread / stated - 1) < 4 / math.sqrt(2 * len(runs)), f"{name}: {spread:.4f} against {stated:.4f}"
    density = np.array([prdc(_normal(100, 3, generator), _normal(100, 3, generator)).density for _ in range(200)])
    z = (density.mean() - 1) / (density.std(ddof=1) / math.sqrt(len(density)))
    assert abs(z) < 4, f"mean density {density.mean():.3f}, z {z:.1f}"


@pytest.mark.parametrize(
    ("real", "fake", "k", "message"),
    [
        ((5, 2), (9, 2), 5, "more than `k`"),
        ((9, 2), (5, 2), 5, "more than `k`"),
        ((9, 2), (9, 2), 0, "more than `k`"),
        ((9, 2), (9, 3), 2, r"\(n, d\) and \(m, d\)"),
        ((9,), (9,), 2, r"\(n, d\) and \(m, d\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(real, fake, k, message):
    with pytest.raises(ValueError, match=message):
        prdc(torch.randn(real), torch.randn(fake), k)


def test_features_that_are_not_finite_are_refused():
    for bad in (math.nan, math.inf):
        x = torch.randn(9, 2)
        broken = x.clone()
        broken[3, 1] = bad
        for pair in ((x, broken), (broken, x)):
            with pytest.raises(ValueError, match="finite"):
                prdc(*pair, 2)


def test_inputs_are_left_as_they_were(generator):
    real, fake = _normal(20, 3, generator), _normal(20, 3, generator)
    copies = real.clone(), fake.clone()
    result = prdc(real, fake)
    assert torch.equal(real, copies[0]) and torch.equal(fake, copies[1])
    assert all(isinstance(value, float) for value in dataclasses.asdict(result).values())


def _by_exact_matrix(real, fake, k):
    """The scores from whole matrices of distances by differences in float64."""

    def distances(x, y):
        return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")

    own = [distances(z, z).fill_diagonal_(math.inf).kthvalue(k, 1).values for z in (real, fake)]
    cross = distances(real, fake)
    held = (cross <= own[0][:, None]).sum(0)
    return (
        (held > 0).double().mean().item(),
        (cross <= own[1]).any(1).double().mean().item(),
        held.double().mean().item() / k,
        (cross <= own[0][:, None]).any(1).double().mean().item(),
    ), own[0]


def _lattice(generator):
    return tuple(torch.randint(0, 4, (n, 3), generator=generator).float() for n in (150, 130))


def _with_copies(generator):
    real = torch.randn(150, 200, generator=generator).relu() + 30
    return real, torch.cat([real[:40], real[:40], torch.randn(50, 200, generator=generator).relu() + 30])


def _tight_beside_an_outlier(generator):
    sets = [torch.cat([1e-12 * torch.randn(80, 4, generator=generator), torch.full((3, 4), v)]) for v in (1.0, 3.0)]
    return tuple(sets)


def _distances_below_float32(generator):
    """A cluster 1e-24 wide about the centre between two far points: its squares vanish in a float32 product, and their bound."""
    far = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], dtype=torch.float64)
    return tuple(torch.cat([1e-24 * _normal(60, 3, generator), far]) for _ in range(2))


@pytest.mark.parametrize("make", [_lattice, _with_copies, _tight_beside_an_outlier, _distances_below_float32])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e15])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_scores_are_exact_where_products_round(generator, make, scale, precision):
    """Ties, copies, clusters far narrower than their distance, extreme scales: the scores of exact distances to the bit."""
    real, fake = (scale * z.double() for z in make(generator))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for k in (1, 4):
            expected, own = _by_exact_matrix(real, fake, k)
            assert torch.equal(radii(real, k, 64), own)
            assert _scores(prdc(real, fake, k, 50)) == pytest.approx(expected, rel=1e-15)
            assert prdc(real, fake, k, real_radii=own) == prdc(real, fake, k)
    finally:
        torch.set_float32_matmul_precision(before)


def test_everything_inside_a_ball_needs_no_exact_distance(generator, monkeypatch):
    """Fakes in the middle of all balls are decided by the bound, not one by one."""
    real, fake = torch.randn(300, 500, generator=generator), 0.01 * torch.randn(200, 500, generator=generator)
    asked = []
    exact = module._Bounds.exact
    monkeypatch.setattr(module._Bounds, "exact", lambda self, i, j: (asked.append(len(i)), exact(self, i, j))[1])
    assert prdc(real, fake).density == 300 / 5
    assert sum(asked) < 0.1 * 300 * 200, f"{asked}"


def test_radii_of_broken_features_are_refused():
    x = torch.randn(9, 2)
    x[0, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        radii(x, 2)


def test_scores_are_the_prdc_packages(generator):
    """Naeem's package, whose balls are open, agrees where no distance equals a radius."""
    package = pytest.importorskip("prdc")
    real, fake = _normal(120, 6, generator), 1.2 * _normal(90, 6, generator)
    theirs = package.compute_prdc(real.numpy(), fake.numpy(), nearest_k=4)
    # The ball of a fake or real point holds its k-th neighbour on its edge, but only neighbours of its own set.
    expected = tuple(float(theirs[name]) for name in ("precision", "recall", "density", "coverage"))
    assert _scores(prdc(real, fake, 4)) == pytest.approx(expected, rel=1e-12)
