"""Streamed moments against numpy.cov, whatever the batches, types and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gebm_cli.core.evaluation import moments as module
from gebm_cli.core.evaluation.moments import Moments, MomentSums, moments


def _features(n, d, generator, mean=3.0):
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + mean


def _streamed(parts) -> Moments:
    sums = MomentSums()
    for part in parts:
        sums.add(part)
    return sums.moments()


def _same(result: Moments, x, tolerance=1e-13):
    x = x.double().numpy()
    expected, scale = np.cov(x, rowvar=False), np.abs(np.cov(x, rowvar=False)).max()
    np.testing.assert_allclose(result.mean, x.mean(0), rtol=0, atol=tolerance * np.abs(x).max())
    np.testing.assert_allclose(result.covariance, expected, rtol=0, atol=tolerance * scale)
    assert (result.n, result.mean.dtype, result.covariance.dtype) == (len(x), torch.float64, torch.float64)


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_any_batches_give_numpys_covariance(size, generator):
    """Batches of 1, 7, 50 or all rows: numpy.cov to 1e-13 of its largest entry, exactly symmetric."""
    x = _features(211, 19, generator)
    result = _streamed(x.split(size))
    _same(result, x)
    assert torch.equal(result.covariance, result.covariance.T)


def test_panels_and_blocks_cover_everything(generator, monkeypatch):
    """Columns cut in panels and rows in blocks that do not divide them give the same matrix."""
    monkeypatch.setattr(module, "PANEL", 5)
    monkeypatch.setattr(module, "BLOCK", 13)
    x = _features(60, 17, generator)
    _same(moments(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_and_single_precision_are_summed_in_double(dtype, generator):
    """Features of fewer bits are summed as the numbers they are: float32 sums would be off by 1e-6."""
    x = _features(3000, 8, generator, mean=20.0).to(dtype)
    _same(_streamed(x.split(500)), x)


def test_a_large_mean_costs_no_digits(generator):
    """A mean of 1e6 leaves the covariance at 1e-9 of the truth; sums of squares would keep four digits."""
    x = _features(400, 6, generator, mean=1e6)
    _same(_streamed(x.split(64)), x, tolerance=1e-9)


def test_merging_is_adding(generator):
    """The sums of three processes, one of which saw nothing, are the sums of one; what is merged is left alone."""
    x = _features(90, 5, generator)
    parts = [MomentSums() for _ in range(3)]
    parts[0].add(x[:20])
    parts[2].add(x[20:])
    total = MomentSums()
    for part in parts:
        total.merge(part)
    _same(total.moments(), x)
    total.add(x)
    _same(parts[0].moments(), x[:20])


def test_constant_features_have_no_variance_at_all():
    """A constant that binary fractions cannot hold, in batches, has covariance 0 exactly and itself as the mean."""
    x = torch.full((1001, 3), 0.1, dtype=torch.float64)
    result = _streamed(x.split(17))
    assert torch.equal(result.covariance, torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(result.mean, x[0])


def test_cholesky_refuses_what_is_singular_to_rounding(generator):
    """A factor of a regular covariance; none for a repeated feature, a dead one, or an indefinite matrix."""
    x = _features(300, 6, generator)
    regular = moments(x)
    torch.testing.assert_close(regular.cholesky @ regular.cholesky.T, regular.covariance, rtol=1e-12, atol=1e-12)
    repeated, dead = torch.cat([x, x[:, :2] + x[:, 2:4]], 1), torch.cat([x, torch.ones(300, 1)], 1)
    indefinite = Moments(None, torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
    assert [m.cholesky for m in (moments(repeated), moments(dead), indefinite)] == [None] * 3


def test_cholesky_is_not_fooled_by_rounding(generator):
    """Of 30 singular covariances LAPACK finishes some, with a last pivot of rounding alone; none passes for regular."""
    finished = 0
    for _ in range(30):
        x = _features(100, 8, generator)
        known = moments(torch.cat([x, x @ torch.randn(8, 1, generator=generator, dtype=torch.float64)], 1))
        finished += torch.linalg.cholesky_ex(known.covariance)[1].item() == 0
        assert known.cholesky is None
    assert finished > 0, "the test has lost its case"


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_cholesky_does_not_depend_on_units(scale, generator):
    """A feature in other units is no reason to call a covariance singular."""
    x = _features(100, 4, generator) * torch.tensor([1.0, 1.0, 1.0, scale], dtype=torch.float64)
    assert moments(x).cholesky is not None


@pytest.mark.parametrize(
    ("features", "word"),
    [
        (torch.zeros(1, 3), "at least 2 rows of features, got 1"),
        (torch.zeros(0, 3), "at least 2 rows of features, got 0"),
        (torch.zeros(4), r"must be \(n, d\)"),
        (torch.tensor([[1.0, torch.nan], [2.0, 1.0]]), "not finite"),
        (torch.tensor([[1.0, torch.inf], [2.0, 1.0]]), "not finite"),
    ],
)
def test_what_has_no_covariance_is_refused(features, word):
    """One row, none, a vector, nan and infinity are errors that say so."""
    with pytest.raises(ValueError, match=word):
        moments(features)


def test_batches_of_other_widths_are_refused():
    """A batch with another number of columns names both numbers."""
    sums = MomentSums()
    sums.add(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="4 columns, those before had 3"):
        sums.add(torch.zeros(2, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_features_on_a_gpu_are_summed_there_in_double(generator):
    """The sums of a GPU's features are those of the CPU, and end on the CPU."""
    x = _features(500, 8, generator).float()
    result = _streamed(x.cuda().split(64))
    _same(result, x)
    assert (result.mean.device.type, result.covariance.device.type) == ("cpu", "cpu")
