"""The door to all divergences: closed forms of kernels, identities between kinds, supports that approach, and odd samples."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from gebm_cli.core.divergences import critics, kinds
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.divergences.kinds import Options, divergences
from gebm_cli.core.divergences.names import F_DIVERGENCES, FEWEST_ROWS, KINDS, TOLD, most_rows
from gebm_cli.core.divergences.transport import MOST_SINKHORN, MOST_TRANSPORTED
from gebm_cli.core.kernels import EnergyDistance, Gaussian, median_bandwidth
from gebm_cli.core.mmd import mmd2

WITH_A_MEAN_DIFFERENCE = ("w1", "sliced-w1", "sinkhorn", "mmd", "energy-distance")
OF_ONE_ROW = [k for k in KINDS if FEWEST_ROWS[k] == 1]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(critics, "STEPS", 60)


def _normal(n, generator, d=2, mean=0.0, scale=1.0):
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def _of(kind, x, y, seed=0, **options):
    (found,) = divergences(x, y, [kind], Options(**options), torch.Generator().manual_seed(seed))
    assert found.kind == kind
    return found


def _segment(n, generator, at=0.0):
    return torch.stack([torch.full((n,), at), torch.rand(n, generator=generator)], 1).double()


def _gaussian_mmd2(mean, scale, width, d):
    """MMD^2 of N(mean (1, ..., 1), scale^2 I) and N(0, I) under exp(-|x - y|^2 / (2 width^2))."""

    def mean_kernel(shift, variance):
        total = width**2 + variance
        return (width**2 / total) ** (d / 2) * math.exp(-d * shift**2 / (2 * total))

    return mean_kernel(0, 2 * scale**2) + mean_kernel(0, 2) - 2 * mean_kernel(mean, 1 + scale**2)


@pytest.mark.parametrize("mean, scale, width", [(0.5, 1.0, 1.0), (0.0, 1.5, 0.7), (1.0, 0.5, 2.0), (0.0, 1.0, 1.0)])
def test_mmd_of_gaussians_is_its_closed_form(mean, scale, width, generator):
    x, y = _normal(900, generator, 2, mean, scale), _normal(700, generator)
    found, truth = _of("mmd", x, y, bandwidth=width), _gaussian_mmd2(mean, scale, width, 2)
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found.standard_error < max(0.2 * truth, 0.002)
    assert found.settings == {"kernel": "gaussian", "bandwidth": width}


@pytest.mark.parametrize("kind", ["mmd", "energy-distance"])
@pytest.mark.parametrize("mean, low, high", [(0.7, 0.7, 1.4), (0.0, 0.5, 1.1)])
def test_the_error_of_a_u_statistic_is_its_spread(kind, mean, low, high):
    """Variance against mean squared error over 300 repetitions, whose own error is about a tenth: right away from P = Q, where the
    floor of the variance makes it up to sqrt(2) too large, and never too small."""
    generator = torch.Generator().manual_seed(2)
    found = [_of(kind, _normal(30, generator, 2, mean), _normal(40, generator), bandwidth=1.0) for _ in range(300)]
    ratio = np.var([f.value for f in found]) / np.mean([f.standard_error**2 for f in found])
    assert low < ratio < high


@pytest.mark.parametrize("sizes", [(40, 30), (3, 2)])
def test_the_energy_distance_is_mmd_with_the_distance_induced_kernel(sizes, generator):
    """To 1e-10: as 2 MMD^2, its error twice that of it, and as 2 E|X - Y| - E|X - X'| - E|Y - Y'| over distinct pairs."""
    (n, m), far = sizes, torch.tensor([50.0, -20.0])
    x, y = _normal(n, generator) + far, _normal(m, generator, 2, 0.5, 1.5) + far
    found = _of("energy-distance", x, y)
    within = cdist(x, x).sum() / (n * (n - 1)) + cdist(y, y).sum() / (m * (m - 1))
    assert found.value == pytest.approx(2 * cdist(x, y).mean() - within, abs=1e-10)
    assert found.value == pytest.approx(2 * mmd2(x, y, EnergyDistance()).value, abs=1e-10)
    of_mmd = _of("mmd", x, y, kernel="energy")
    assert found.value == pytest.approx(2 * of_mmd.value, abs=1e-10)
    assert found.standard_error == pytest.approx(2 * of_mmd.standard_error, rel=1e-8)


def test_all_kinds_are_found_in_the_order_asked_for(generator):
    x, y = _normal(60, generator, 2, 0.5), _normal(50, generator)
    for asked in (KINDS, KINDS[::-1]):
        found = divergences(x, y, asked, Options(), torch.Generator().manual_seed(1))
        assert [f.kind for f in found] == list(asked)
        for f in found:
            assert math.isfinite(f.value) and f.standard_error > 0 and not f.infinite and f.at_least is None
            assert f.estimator == TOLD[f.kind].estimator and f.direction == TOLD[f.kind].direction
            assert f.witness_x.shape == (60,) and f.witness_y.shape == (50,) and f.witness_x.dtype == torch.float64
            assert f.witness_x.mean() > f.witness_y.mean()
            if f.kind in WITH_A_MEAN_DIFFERENCE:
                assert (f.witness_x.mean() - f.witness_y.mean()).item() == pytest.approx(f.value, rel=1e-9)


@pytest.mark.parametrize("kind", ["w1", "kale", *F_DIVERGENCES])
def test_a_field_is_the_witness_everywhere(kind, generator):
    x, y = _normal(60, generator, 2, 0.5), _normal(50, generator)
    found = _of(kind, x, y)
    assert torch.allclose(found.field.value(x), found.witness_x, atol=1e-9)
    assert torch.allclose(found.field.value(y), found.witness_y, atol=1e-9)


@pytest.mark.parametrize("kind, factor", [("mmd", 1.0), ("energy-distance", 2.0)])
def test_the_field_of_a_mean_difference_is_its_mean_kernels(kind, factor, generator):
    x, y, t = _normal(30, generator, 2, 0.5), _normal(20, generator), _normal(9, generator)
    kernel = Gaussian(median_bandwidth(torch.cat([x, y]))) if kind == "mmd" else EnergyDistance()
    expected = factor * (kernel(t, x).mean(1) - kernel(t, y).mean(1))
    assert torch.allclose(_of(kind, x, y).field.value(t), expected, atol=1e-12)


def test_what_a_kind_finds_does_not_depend_on_the_others(generator):
    x, y = _normal(40, generator, 2, 0.5), _normal(30, generator)
    together = divergences(x, y, KINDS, Options(), torch.Generator().manual_seed(4))
    for kind, found in zip(KINDS, together):
        alone = _of(kind, x, y, seed=4)
        assert (alone.value, alone.standard_error) == (found.value, found.standard_error)
    assert _of("sliced-w1", x, y, seed=5).value != _of("sliced-w1", x, y, seed=4).value


def test_kale_is_that_of_its_problem(generator):
    x, y = _normal(40, generator, 2, 0.5), _normal(30, generator)
    width = median_bandwidth(torch.cat([x, y]))
    found, solution = _of("kale", x, y, regularisation=0.3), KaleProblem(y, Gaussian(width), 0.3).solve(x)
    assert (found.value, found.standard_error) == (solution.value, solution.standard_error)
    assert found.settings["regularisation"] == 0.3 and found.settings["bandwidth"] == width
    assert found.settings["duality_gap"] < 1e-8 and "features" not in found.settings


def test_kale_takes_random_features_where_its_matrix_does_not_fit(monkeypatch, generator):
    x, y = _normal(300, generator, 2, 0.5), _normal(200, generator)
    exact = _of("kale", x, y)
    assert _of("kale", x, y, features=500).settings["features"] == 500
    monkeypatch.setattr(kinds, "MAX_BYTES", 8 * 200**2 - 1)
    found = _of("kale", x, y)
    assert found.settings["features"] == kinds.FEATURES
    assert 0 < abs(found.value - exact.value) < 0.1 * exact.value


def test_as_supports_approach_only_the_weak_divergences_fall():
    """Parallel segments: KL and chi^2 infinite, JS log 2, TV 1 at every distance; W1 is the distance, and MMD, KALE, Sinkhorn and
    the energy distance fall."""
    generator = torch.Generator().manual_seed(0)
    y, base = _segment(400, generator), _segment(400, generator)
    found = []
    for distance in (1.0, 0.5, 0.2):
        x = base + torch.tensor([distance, 0.0])
        listed = divergences(x, y, KINDS, Options(bandwidth=0.5), torch.Generator().manual_seed(1))
        found.append({f.kind: f for f in listed})
    for far, near in itertools.pairwise(found):
        for kind in ("w1", "sliced-w1", "sinkhorn", "mmd", "energy-distance", "kale"):
            assert near[kind].value < 0.8 * far[kind].value, kind
    for each, distance in zip(found, (1.0, 0.5, 0.2)):
        assert each["kl"].infinite and each["kl"].value == math.inf and each["kl"].at_least > 3
        assert each["chi2"].infinite and "0 of 800 held-out rows misjudged" in each["chi2"].direction
        assert each["tv"].value == 1.0 and math.log(2) - 0.005 < each["js"].value < math.log(2)
        assert distance <= each["w1"].value < distance + 0.05


def test_equal_samples_are_at_no_distance(generator):
    x = _normal(40, generator)
    for kind in ("w1", "sliced-w1", "sinkhorn", "kale"):
        found = _of(kind, x, x.clone())
        assert found.value == pytest.approx(0, abs=1e-6) and found.value > -1e-6
    for kind in ("mmd", "energy-distance"):  # unbiased, and so below 0 for a sample against itself
        assert _of(kind, x, x.clone()).value < 0


@pytest.mark.parametrize("kind", KINDS)
def test_constant_samples(kind):
    """Equal ones are at distance 0 without an error; different ones are not."""
    x, y = torch.zeros(60, 2), torch.tensor([[3.0, 4.0]]).repeat(70, 1)
    same = _of(kind, x, x[:50])
    assert same.value == pytest.approx(0, abs=1e-9) and same.standard_error == pytest.approx(0, abs=1e-7)
    found = _of(kind, x, y)
    expected = {"w1": 5.0, "sinkhorn": 5.0, "energy-distance": 10.0, "tv": 1.0}
    assert found.infinite == (kind in ("kl", "chi2"))
    assert found.value > 0.1 and found.value == pytest.approx(expected.get(kind, found.value), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 30), (30, 1)])
def test_one_row_is_enough_for_some_kinds_and_refused_by_the_others(kind, sizes, generator):
    x, y = _normal(sizes[0], generator, 2, 2.0), _normal(sizes[1], generator)
    if kind in OF_ONE_ROW:
        found = _of(kind, x, y)
        assert found.value > 0 and math.isnan(found.standard_error)
    else:
        with pytest.raises(ValueError, match=f"{kind} needs {FEWEST_ROWS[kind]} rows of each sample, got"):
            _of(kind, x, y)


def test_few_rows_have_an_error_of_the_first_order(generator):
    """Two or three, of which the whole variance cannot be estimated."""
    x, y = _normal(3, generator, 2, 2.0), _normal(2, generator)
    found, plain = _of("mmd", x, y, bandwidth=1.0), mmd2(x, y, Gaussian(1.0))
    assert (found.value, found.standard_error) == (plain.value, plain.standard_error)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_rows_that_are_not_finite_are_refused(bad, side, generator):
    samples = [_normal(20, generator), _normal(20, generator)]
    samples[side][3, 1] = bad
    with pytest.raises(ValueError, match=f"`{'xy'[side]}` has rows that are not finite"):
        _of("w1", *samples)


def test_samples_of_other_shapes_and_unknown_kinds_are_refused(generator):
    with pytest.raises(ValueError, match="must be"):
        _of("w1", _normal(20, generator, 3), _normal(20, generator, 2))
    with pytest.raises(ValueError, match="unknown divergence 'w2', expected one of w1, sliced-w1"):
        _of("w2", _normal(20, generator), _normal(20, generator))


@pytest.mark.parametrize(
    "name", ["bandwidth", "regularisation", "features", "n_projections", "sinkhorn_regularisation"]
)
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_options_that_are_not_positive_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be positive and finite"):
        Options(**{name: value})


def test_float32_samples_are_taken_in_float64(generator):
    """Far from the origin, where float32 would have lost the digits in products."""
    x, y = (_normal(50, generator, 2, mean).float() for mean in (3.0, 3.5))
    for kind in ("mmd", "energy-distance", "w1", "kale"):
        assert _of(kind, x, y).value == _of(kind, x.double(), y.double()).value


def test_every_phase_is_told_to_its_end(generator):
    phases = {}

    def begin(what, unit, total):
        phases[what] = [0, total]

        def tell(done):
            phases[what][0] += done

        return tell

    x, y = _normal(40, generator), _normal(30, generator)
    divergences(x, y, KINDS, Options(), generator, begin)
    learning = phases.pop("learning the critic")
    assert 0 < learning[0] <= learning[1]
    assert set(phases) == {"projecting", "entropic transport", "kernel sums", "KALE"}
    assert all(done == total for done, total in phases.values())


def test_limits_are_those_that_are_enforced():
    assert most_rows("w1", 2) == MOST_TRANSPORTED and most_rows("w1", 1) is None
    assert most_rows("sinkhorn", 1) == MOST_SINKHORN and most_rows("mmd", 2) is None
    assert set(TOLD) == set(KINDS) == set(FEWEST_ROWS)


def test_the_names_import_no_torch():
    code = "import sys, gebm_cli.core.divergences.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kale_that_has_not_converged_says_between_what_it_is():
    """200 rows at a regularisation of 1e-8: no error, the two bounds in words, and nothing in the settings that is not finite."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator) + 1
    found = _of("kale", x, y, regularisation=1e-8, bandwidth=1.0)
    assert found.direction == f"between 0 and {found.value:.4g}: the dual has not converged"
    assert math.isfinite(found.value) and math.isnan(found.standard_error) and not found.infinite
    assert all(math.isfinite(v) for v in found.settings.values() if isinstance(v, int | float))
