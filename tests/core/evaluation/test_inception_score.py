"""The Inception Score against loops, torch-fidelity, closed forms, and the coverage of its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gebm_cli.core.evaluation import inception_score as module
from gebm_cli.core.evaluation.inception_score import inception_score


def _logits(n, classes, generator, scale=2.0):
    return scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def _by_loops(rows):
    """exp of the mean KL divergence, from probabilities in plain numbers."""
    p = [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in rows.tolist()]
    q = [sum(column) / len(p) for column in zip(*p)]
    return math.exp(sum(a * math.log(a / b) for row in p for a, b in zip(row, q)) / len(p))


def test_the_score_is_its_definition(generator):
    """All at once, and over splits of the rows in the seed's order."""
    logits = _logits(23, 4, generator)
    result = inception_score(logits, splits=3, seed=5)
    assert result.full == pytest.approx(_by_loops(logits), rel=1e-12)
    rows = logits[np.random.RandomState(5).permutation(23)]
    parts = [_by_loops(part) for part in (rows[:7], rows[7:15], rows[15:])]
    assert (result.value, result.spread_over_splits) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-12)
    assert (result.n, result.splits) == (23, 3)


def _quadratic(logits):
    """tr(S^2) / (2 n^2) with E (sum_y p_y p'_y / q_y)^2 over pairs of distinct rows, by loops."""
    p = logits.softmax(1).numpy()
    n, q = len(p), p.mean(0)
    mean = np.mean([(p[i] * p[j] / q).sum() ** 2 for i in range(n) for j in range(n) if i != j])
    return max(mean - 1, 0) / (2 * n**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_score_is_torch_fidelitys(dtype, generator):
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = _logits(203, 30, generator).to(dtype)
    theirs, ours = metric.isc_features_to_metric(logits), inception_score(logits)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert ours.spread_over_splits == pytest.approx(theirs["inception_score_std"], rel=1e-10)


def test_the_jackknife_is_its_definition(monkeypatch, generator):
    """n I - (n - 1) I without each image, worked out anew without it, in blocks that divide nothing."""
    logits = _logits(17, 5, generator)
    whole = math.log(_by_loops(logits))
    pseudo = [17 * whole - 16 * math.log(_by_loops(torch.cat([logits[:i], logits[i + 1 :]]))) for i in range(17)]
    error = math.sqrt(max(np.var(pseudo, ddof=1) / 17 - _quadratic(logits), _quadratic(logits)))
    for rows in (4096, 5):
        monkeypatch.setattr(module, "ROWS", rows)
        result = inception_score(logits, splits=2, level=0.9)
        assert math.log(result.corrected) == pytest.approx(np.mean(pseudo), rel=1e-11)
        assert result.standard_error == pytest.approx(result.corrected * error, rel=1e-11)
        assert math.log(result.interval.high) == pytest.approx(np.mean(pseudo) + 1.6448536269514722 * error, rel=1e-9)
        low = max(0.0, np.mean(pseudo) - 1.6448536269514722 * error)
        assert math.log(result.interval.low) == pytest.approx(low, rel=1e-9, abs=1e-12)
        assert result.interval.level == 0.9 and result.full == pytest.approx(math.exp(whole), rel=1e-12)


def test_certain_and_uninformative_classifiers():
    """Equally many certain images of 4 classes score 4, images that all look alike score 1, without an error."""
    certain = 1000.0 * torch.eye(4).repeat(10, 1)
    result = inception_score(certain, splits=1)
    assert (result.full, result.value, result.spread_over_splits) == pytest.approx((4.0, 4.0, 0.0), abs=1e-12)
    assert result.interval.low < 4 < result.interval.high, "even counts by luck or by design are no certainty"
    alike = inception_score(torch.zeros(40, 7), splits=4)
    assert (alike.value, alike.full, alike.standard_error) == pytest.approx((1.0, 1.0, 0.0), abs=1e-12)
    assert alike.interval.low == 1.0


def test_classes_that_no_image_favours_do_no_harm():
    """A probability that underflows to 0 everywhere is no nan."""
    logits = torch.zeros(20, 3)
    logits[:, 2] = -1e6
    logits[:10, 0] = 5.0
    result = inception_score(logits, splits=2)
    assert result.full == pytest.approx(inception_score(logits[:, :2], splits=2).full, rel=1e-12)
    assert math.isfinite(result.corrected) and math.isfinite(result.standard_error)


def _law(name, n, generator):
    noise = torch.randn(n, 20, generator=generator)
    if name == "nearly uninformative":
        return 0.1 * noise
    if name == "unequal classes":
        kinds = torch.multinomial(0.6 ** torch.arange(20.0), n, True, generator=generator)
        return 5 * torch.nn.functional.one_hot(kinds, 20) + noise
    if name == "sure and even":
        return 50 * torch.nn.functional.one_hot(torch.randint(20, (n,), generator=generator), 20).double()
    return 6 * noise


@pytest.mark.parametrize("name", ["nearly uninformative", "unequal classes", "sharp", "sure and even"])
def test_the_interval_holds_the_true_score(name, generator):
    """In at least 90 % of 300 repetitions, with the error near the spread; the bias of the full score is removed."""
    truth = inception_score(_law(name, 200_000, generator)).corrected
    runs = [inception_score(_law(name, 300, generator)) for _ in range(300)]
    covered = np.mean([run.interval.contains(truth) for run in runs])
    assert covered >= 0.9, f"coverage {covered:.3f}"
    corrected, full = (np.log([getattr(run, key) for run in runs]) for key in ("corrected", "full"))
    ratio = np.mean([run.standard_error / run.corrected for run in runs]) / corrected.std(ddof=1)
    assert 0.85 < ratio < 1.25, f"error / spread = {ratio:.2f}"
    z = (corrected.mean() - math.log(truth)) / (corrected.std(ddof=1) / math.sqrt(300))
    z_full = (full.mean() - math.log(truth)) / (full.std(ddof=1) / math.sqrt(300))
    assert abs(z) < 4, f"z of the corrected score {z:.1f}, of the full one {z_full:.1f}"
    assert name != "sharp" or z_full < -4, "the full score should be too low, or the correction is not tested"


@pytest.mark.parametrize(
    ("logits", "arguments", "message"),
    [
        (torch.zeros(9, 3), {"splits": 10}, "n >= 10 rows"),
        (torch.zeros(1, 3), {"splits": 1}, "n >= 2 rows"),
        (torch.zeros(9, 3), {"splits": 0}, "rows"),
        (torch.zeros(30), {}, "classes"),
        (torch.full((30, 3), math.nan), {}, "finite"),
        (torch.zeros(30, 3), {"level": 1.0}, "level"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, arguments, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, **arguments)
