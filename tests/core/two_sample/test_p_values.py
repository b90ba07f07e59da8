"""The p-value of a test by relabelling: its rule, ties, exactness on tiny samples, level, and early stops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gebm_cli.core.two_sample.p_values import (
    RISK,
    Relabelled,
    count_reaching,
    is_certain,
    relabelling_test,
    smallest_p,
)
from gebm_cli.core.two_sample.relabelling import Permutations, SignFlips


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass
class Sum:
    """The sum of fixed scores over the rows called x."""

    scores: torch.Tensor
    rounding: float = 0.0
    max_columns: int = 1000

    def __call__(self, labels):
        return self.scores.double() @ labels.double()


@dataclass
class Exchangeable:
    """In the place of relabelings and of a statistic: one observed value and independent others, drawn as they are asked for."""

    observed: float
    law: str = "uniform"
    rounding: float = 0.0
    max_columns: int = 1_000_000
    rows: int = 1
    n_distinct: float = math.inf
    sizes: list[int] = field(default_factory=list)

    def draw(self, count, generator):
        self.sizes.append(count)
        draws = (torch.rand if self.law == "uniform" else torch.randn)(count, generator=generator, dtype=torch.float64)
        return torch.cat([torch.tensor([self.observed], dtype=torch.float64), draws])[None]

    def __call__(self, labels):
        return labels[0]


def _test_stream(observed, count, generator, stop_at=None, law="uniform"):
    stream = Exchangeable(observed, law)
    return relabelling_test(stream, stream, count, generator, stop_at)


@pytest.mark.parametrize("max_columns", [1, 7, 1000])
def test_p_value_is_one_plus_count_over_one_plus_b(max_columns):
    """By brute force over the same labels, whatever the batches; null and statistic are those of the labels."""
    scores = torch.randn(13, generator=_seeded(1), dtype=torch.float64)
    found = relabelling_test(Sum(scores, max_columns=max_columns), Permutations(6, 7), 200, _seeded(2))
    labels = Permutations(6, 7).draw(200, _seeded(2)).double().numpy()
    null = [sum(scores[i].item() for i in range(13) if column[i]) for column in labels.T[1:]]
    observed = sum(scores[:6].tolist())
    assert found.statistic == pytest.approx(observed, abs=1e-12) and not found.stopped_early
    np.testing.assert_allclose(found.null.numpy(), null, atol=1e-12)
    assert found.p_value == (1 + sum(value >= observed - 1e-9 for value in null)) / 201


def test_ties_count_as_integers_show():
    """Of integer scores many sums tie: every tie counts."""
    scores = torch.tensor([2, 1, 1, 0, 0, 1, 2])
    found = relabelling_test(Sum(scores), Permutations(3, 4), 400, _seeded(3))
    sums = (scores @ Permutations(3, 4).draw(400, _seeded(3)).long())[1:]
    ties = int((sums == 4).sum())
    assert ties > 50 and found.p_value == (1 + int((sums > 4).sum()) + ties) / 401


def test_equal_up_to_rounding_is_equal():
    """Values below the observed one by less than the rounding, or by 1e-10 of their size, count; by more they do not."""
    null = torch.tensor([1.0 - 3e-7, 1.0 - 1e-6, 1.0 - 2e-6, 1.0, 2.0, 0.0], dtype=torch.float64)
    assert count_reaching(null, 1.0, 0.0) == 2
    assert count_reaching(null, 1.0, 1e-6 + 1e-9) == 4
    large = 1e12 + torch.tensor([-90.0, -1000.0, 0.0, 5.0], dtype=torch.float64)
    assert count_reaching(large, 1e12, 0.0) == 3
    assert count_reaching(torch.tensor([-1e6, 9e-5, -9e-5, -2e-4], dtype=torch.float64), 0.0, 0.0) == 2
    assert count_reaching(torch.zeros(0), 0.0, 0.0) == 0


@pytest.mark.parametrize("max_columns", [3, 1000])
def test_a_constant_statistic_gives_p_one(max_columns):
    """Where all values tie, p = 1."""
    found = relabelling_test(Sum(torch.full((9,), 0.1), max_columns=max_columns), Permutations(4, 5), 99, _seeded())
    assert found.p_value == 1.0


def test_rounding_of_the_statistic_is_used():
    """Values that the statistic calls equal are: noise below its rounding leaves p = 1, above it does not."""
    noise = 1e-5 * torch.rand(10, generator=_seeded(4), dtype=torch.float64)
    scores = noise.sort(descending=True).values
    equal, other = (
        relabelling_test(Sum(scores, rounding=r), Permutations(5, 5), 99, _seeded()).p_value for r in (1e-4, 0)
    )
    assert equal == 1.0 and other < 0.1, (equal, other)


def test_p_value_of_tiny_samples_is_the_exact_one():
    """At n = m = 3 the p-value is, to 4 binomial standard errors, the exact share of the 20 splits."""
    scores, b = torch.randn(6, generator=_seeded(11), dtype=torch.float64), 4000
    sums = np.array([scores[list(c)].sum() for c in combinations(range(6), 3)])
    exact = np.mean(sums >= sums[0] - 1e-12)
    p = relabelling_test(Sum(scores), Permutations(3, 3), b, _seeded(6)).p_value
    assert 0.1 < exact < 0.9 and abs(p - exact) < 4 * math.sqrt(exact * (1 - exact) / b) + 1 / b, (p, exact)


def test_smallest_p_value():
    """A clear difference gives p = 1 / (1 + B), never 0; with few splits not even that: at n = m = 3 about 1 in 20."""
    apart = torch.cat([torch.ones(20), torch.zeros(20)])
    assert relabelling_test(Sum(apart), Permutations(20, 20), 19, _seeded(7)).p_value == 1 / 20
    assert smallest_p(Permutations(20, 20), 19) == 1 / 20
    assert smallest_p(Permutations(3, 3), 999) == 1 / 10 and smallest_p(SignFlips(5), 999) == 1 / 16
    assert smallest_p(Permutations(3, 2), 999) == 1 / 10 and smallest_p(Permutations(3, 3), 4) == 1 / 5


def test_level_is_kept_and_would_not_be_without_the_one():
    """Over 2,000 null data sets p <= .05 at most as often as it should, B = 20; count / B <= .05 happens nearly twice as often."""
    generator, runs, right, wrong = _seeded(8), 2000, 0, 0
    for _ in range(runs):
        scores = torch.randn(10, generator=generator, dtype=torch.float64)
        found = relabelling_test(Sum(scores), Permutations(5, 5), 20, generator)
        right += found.p_value <= 0.05
        wrong += int((found.null > found.statistic + 1e-9).sum()) / 20 <= 0.05
    error = math.sqrt(0.05 * 0.95 / runs)
    assert 0.05 - 4 * error < right / runs < 0.05 + 3 * error, f"{right} of {runs}"
    assert wrong / runs > 0.05 + 4 * error, f"the rule without the observed one rejects {wrong} of {runs}"


def test_p_values_are_uniform_on_their_grid():
    """Over 4,000 exchangeable sets each of the values 1/10 ... 10/10 of B = 9 has its share, to 4 standard errors."""
    generator = _seeded(9)
    observed = torch.randn(4000, generator=generator, dtype=torch.float64).tolist()
    p = [_test_stream(value, 9, generator, law="normal").p_value for value in observed]
    counts = np.bincount(np.rint(10 * np.array(p)).astype(int), minlength=11)
    assert counts[0] == 0 and np.abs(counts[1:] - 400).max() < 4 * math.sqrt(4000 * 0.1 * 0.9), counts


def test_standard_error_of_p():
    """That of a share of B relabelings; over 300 runs it is the spread of p to 15 %."""
    found = Relabelled(0.0, torch.zeros(99), 0.2)
    assert found.p_error == pytest.approx(math.sqrt(0.2 * 0.8 / 100))
    runs = [_test_stream(0.8, 99, _seeded(s)) for s in range(300)]
    ratio = np.mean([run.p_error for run in runs]) / np.std([run.p_value for run in runs])
    assert abs(ratio - 1) < 0.15, f"ratio {ratio:.3f}"


@pytest.mark.parametrize("count", [0, -3])
def test_no_relabeling_is_refused(count):
    """A p-value needs at least one relabeling; the message gives the number."""
    with pytest.raises(ValueError, match=f"got {count}"):
        relabelling_test(Sum(torch.zeros(4)), Permutations(2, 2), count, _seeded())


# ------------------------------------------------------------------------------------------------------------- early stops


@pytest.mark.parametrize("risk", [RISK, 0.3])
def test_certainty_is_its_formula(risk):
    """alpha is excluded where (n + 1) C(n, s) alpha^s (1 - alpha)^(n - s) <= risk, term by term."""
    certain = 0
    cases = [(k, r, a) for k in (1, 20, 64, 300) for r in range(0, k + 1, 3) for a in (0.01, 0.05, 0.3)]
    for n, s, alpha in cases:
        mass = (n + 1) * math.comb(n, s) * alpha**s * (1 - alpha) ** (n - s)
        assert is_certain(s, n, alpha, risk) == (mass <= risk), (n, s, alpha)
        certain += mass <= risk
    assert certain > 50


def test_certainty_takes_a_risk_of_a_millionth():
    """None of 250 relabelings reaching the observed one is not yet certain at .05, none of 450 is; a p at the level never."""
    assert RISK == 1e-6 and not is_certain(0, 250, 0.05) and is_certain(0, 450, 0.05)
    assert not any(is_certain(round(0.05 * n), n, 0.05) for n in (20, 64, 1000, 100_000))


def test_the_true_p_leaves_the_confidence_sequence_as_rarely_as_promised():
    """Looking after each of 150 relabelings, 20,000 streams exclude their own p at some time with probability <= risk = .3."""
    p, risk, n, streams = 0.3, 0.3, 150, 20_000
    table = np.array([[is_certain(s, k, p, risk) for s in range(n + 1)] for k in range(1, n + 1)])
    counts = np.cumsum(np.random.default_rng(0).random((streams, n)) < p, 1)
    wrong = table[np.arange(n), counts].any(1).mean()
    assert wrong <= risk + 3 * math.sqrt(risk * (1 - risk) / streams), f"{wrong:.4f}"
    assert wrong > 0.02, f"{wrong:.4f}: no use of the risk at all"


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_an_early_stop_decides_as_all_relabelings_would(alpha):
    """In 300 streams with p from 0 to 1, and many near the level, the decision is that of all 4,000 relabelings."""
    levels = [0.0, 0.2, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 2.0, 4.0, 10.0, 1 / alpha]
    stopped = 0
    for seed in range(300):
        observed = 1 - alpha * levels[seed % len(levels)]
        early = _test_stream(observed, 4000, _seeded(seed), alpha)
        full = _test_stream(observed, 4000, _seeded(seed))
        assert torch.equal(early.null, full.null[: len(early.null)]) and early.stopped_early == (len(early.null) < 4000)
        assert (early.p_value <= alpha) == (full.p_value <= alpha), (observed, early.p_value, full.p_value)
        assert early.p_value == (1 + (early.null >= observed).sum().item()) / (1 + len(early.null))
        stopped += early.stopped_early
    assert stopped > 60, f"{stopped} of 300 stopped"


def test_an_early_stop_saves_most_relabelings():
    """Far from the level a few hundred of 100,000 do; at the level all are made, and without `stop_at` always."""
    for observed, most in ((0.5, 64), (0.8, 192), (1.1, 448)):
        found = _test_stream(observed, 100_000, _seeded(1), 0.05)
        assert found.stopped_early and len(found.null) <= most, f"{len(found.null)} at {observed}"
    assert len(_test_stream(0.95, 20_000, _seeded(1), 0.05).null) == 20_000
    assert len(_test_stream(0.5, 20_000, _seeded(1)).null) == 20_000


def test_looks_of_an_early_stop_double():
    """Batches of 64, 128, 256, ... and the last one what is left; all at once where nothing is to be decided."""
    at_the_level, whole = Exchangeable(0.95), Exchangeable(0.95)
    relabelling_test(at_the_level, at_the_level, 1000, _seeded(), 0.05)
    assert at_the_level.sizes == [64, 128, 256, 512, 40]
    relabelling_test(whole, whole, 1000, _seeded())
    assert whole.sizes == [1000]


def test_a_test_that_ends_with_its_last_relabeling_has_not_stopped_early():
    """If certainty comes only with the last batch, all relabelings were made, and the p-value is the full one."""
    found = _test_stream(0.0, 64, _seeded(), 0.05)
    assert not found.stopped_early and found.p_value == 1.0 and len(found.null) == 64


def test_level_with_early_stops():
    """Over 3,000 exchangeable sets, stopped early, p <= .05 as often as it should be to 3 standard errors."""
    generator, runs = _seeded(10), 3000
    observed = torch.randn(runs, generator=generator, dtype=torch.float64).tolist()
    found = [_test_stream(value, 499, generator, 0.05, "normal") for value in observed]
    rate, error = np.mean([f.p_value <= 0.05 for f in found]), math.sqrt(0.05 * 0.95 / runs)
    assert abs(rate - 0.05) < 3 * error, f"{rate:.4f}"
    assert np.mean([f.stopped_early for f in found]) > 0.5
    low, high = binom.interval(0.999, runs, 0.5)
    assert low <= sum(f.p_value <= 0.5 for f in found) <= high
