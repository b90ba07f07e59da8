"""The learning-rate rule on features whose gain is known: its p-value, its decisions, its memory and its state."""

from __future__ import annotations

import math

import pytest
import torch

from gebm_cli.core.kernels import Polynomial
from gebm_cli.core.mmd import Sums, relative_mmd2, sums_against
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.training.lr_rule import RateRule

DIM, N = 4, 200


def _features(mean, seed, n=N):
    return mean + torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


REFERENCE = _features(0.0, 0)


def _rule(**keys):
    keys = {"compare": 2, "n": N, "generator": torch.Generator().manual_seed(9)} | keys
    return RateRule(features=lambda x: x, reference=REFERENCE, **keys)


def _sums(mean, seed):
    return sums_against(REFERENCE, _features(mean, seed), Polynomial())


def _observe(rule, *means, seed=1):
    for i, mean in enumerate(means):
        rule.observe(_sums(mean, seed + i))
    return rule


def test_nothing_is_tested_until_the_memory_is_full():
    """The first `compare` models only fill the memory."""
    rule = _observe(_rule(compare=3), 1.0, 1.0, 1.0)
    assert len(rule.memory) == 3 and math.isnan(rule.last_p) and (rule.failures, rule.multiplier) == (0, 1.0)


def test_p_is_that_of_the_features_themselves():
    """From the sums kept the p-value is exactly that of the three-sample test on all features, newest against oldest."""
    rule = _observe(_rule(), 0.32, 5.0, 0.3)
    expected = relative_mmd2(REFERENCE, _features(0.3, 3), _features(0.32, 1), Polynomial()).p_less
    assert rule.last_p == pytest.approx(expected, rel=1e-9) and 0.001 < expected < 0.999, expected


def test_a_success_moves_the_memory():
    """After a clear gain the failures are forgotten, the newest joins and the oldest leaves."""
    rule = _observe(_rule(), 1.0, 0.9)
    rule.failures = 2
    oldest, second = rule.memory
    rule.observe(now := _sums(0.2, 7))
    assert rule.last_p < 1e-6 and rule.failures == 0 and rule.multiplier == 1
    assert rule.memory[0] is second and rule.memory[1] is now and oldest is not second


def test_failures_leave_the_memory_and_a_third_decays():
    """Failures 1 and 2 change nothing but their count; the third halves the rate and keeps the newest of the memory."""
    rule = _observe(_rule(compare=4, keep=3), 0.1, 0.2, 0.3, 0.4)
    memory = list(rule.memory)
    for count in (1, 2):
        rule.observe(_sums(1.0, 20 + count))
        assert rule.last_p > 0.9 and rule.failures == count and rule.multiplier == 1
        assert all(a is b for a, b in zip(rule.memory, memory, strict=True))
    rule.observe(_sums(1.0, 30))
    assert (rule.failures, rule.multiplier) == (0, 0.5)
    assert len(rule.memory) == 3 and all(a is b for a, b in zip(rule.memory, memory[-3:], strict=True))
    rule.observe(now := _sums(1.0, 31))
    assert rule.memory[-1] is now and len(rule.memory) == 4 and rule.failures == 0, "the memory fills up first"


def test_a_success_in_between_starts_the_count_again():
    """Two failures, a gain, two failures: no decay."""
    rule = _observe(_rule(), 1.0, 1.0, 2.0, 2.0, 0.3, 2.0, 2.0)
    assert (rule.failures, rule.multiplier) == (2, 1.0)


def test_equal_models_fail_nine_times_in_ten():
    """Two models of one law: p <= .1 in a tenth of 200 comparisons, to within 4 standard errors of a binomial."""
    generator = torch.Generator().manual_seed(5)
    successes = 0
    for _ in range(200):
        x, y, r = (torch.randn(60, DIM, generator=generator) for _ in range(3))
        rule = RateRule(lambda x: x, r, generator, compare=1, n=60)
        for side in (x + 0.7, y + 0.7):
            rule.observe(sums_against(r, side, Polynomial()))
        successes += rule.last_p <= rule.p_value
    assert abs(successes - 20) < 4 * math.sqrt(200 * 0.1 * 0.9), successes


def test_a_large_gain_is_certain_however_small_the_variances():
    """Features of KID's scale: a gain of tens of standard errors, whose variance is far below the released floor of 1e-5, has p
    near 0, where the floor would say .26 or more."""
    generator = torch.Generator().manual_seed(6)
    reference, old, new = (0.1 + 0.05 * (m + torch.randn(500, 64, generator=generator)) for m in (0.0, 0.5, 0.0))
    rule = RateRule(lambda x: x, reference, torch.Generator(), compare=1)
    for x in (old, new):
        rule.observe(sums_against(reference, x, Polynomial()))
    result = relative_mmd2(reference, new, old, Polynomial())
    floored = torch.special.ndtr(torch.tensor(result.value / math.sqrt(1e-5))).item()
    assert result.z < -20 and result.standard_error**2 < 1e-7 and floored > 0.2, (result, floored)
    assert rule.last_p < 1e-30 and rule.failures == 0


def test_no_variance_is_undecided():
    """Constant features give no p-value: neither a success nor a failure, and the memory stays."""
    rule = RateRule(lambda x: x, torch.ones(5, 2), torch.Generator(), compare=1)
    for _ in range(4):
        rule.observe(sums_against(torch.ones(5, 2), torch.ones(5, 2), Polynomial()))
    assert math.isnan(rule.last_p) and (rule.failures, rule.multiplier, len(rule.memory)) == (0, 1.0, 1)


def test_rate_has_a_floor():
    """The decayed rate stops at the floor, but a rate below the floor from the start is only kept."""
    rule = _rule(floor=1e-6)
    rule.multiplier = 0.5**3
    assert rule.rate(1e-4) == pytest.approx(1.25e-5) and rule.rate(4e-6) == 1e-6 and rule.rate(1e-8) == 1e-8


@pytest.mark.parametrize("n", [N, 700])
def test_update_draws_n_samples_from_its_own_stream(n):
    """`update` compares the features of n base samples, drawn from the rule's generator, and leaves the base's mode alone."""
    rule, base = _rule(n=n), torch.nn.Sequential(torch.nn.Linear(DIM, DIM)).train()
    seen, modes = [], []
    base.register_forward_hook(lambda *_: modes.append(base.training))
    rule.features = lambda x: seen.append(x) or x
    rule.update(base, NormalPrior(DIM), 0)
    generator = torch.Generator().manual_seed(9)
    z = torch.cat([NormalPrior(DIM).sample(min(500, n - i), generator) for i in range(0, n, 500)])
    assert len(modes) == len(seen) == -(-n // 500) and not any(modes)
    assert torch.allclose(torch.cat(seen), base(z), atol=1e-6)
    assert base.training and len(rule.memory) == 1 and isinstance(rule.memory[0], Sums)
    assert rule.memory[0].value == pytest.approx(sums_against(REFERENCE, base(z).detach(), Polynomial()).value)


def test_state_survives_the_restricted_loader(tmp_path):
    """Saved and loaded in another rule, the same models give the same decisions from there on."""
    rule = _observe(_rule(), 0.5, 0.5, 0.52, 0.6)
    torch.randn(3, generator=rule.generator)
    torch.save(rule.state_dict(), tmp_path / "rule.pt")
    other = _rule(generator=torch.Generator().manual_seed(1))
    other.load_state_dict(torch.load(tmp_path / "rule.pt", weights_only=True))
    assert torch.equal(other.generator.get_state(), rule.generator.get_state())
    assert (other.failures, other.multiplier, other.last_p) == (rule.failures, rule.multiplier, rule.last_p)
    assert rule.failures == 2
    for r in (rule, other):
        _observe(r, 0.55, 0.1, seed=40)
    assert other.last_p == rule.last_p and other.multiplier == rule.multiplier == 0.5
