"""Holm's adjusted p-values against the step-down procedure itself, and the family-wise error they keep."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gebm_cli.core.two_sample.multiple import holm

P = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.5, 1.0]))


def _rejected(p, alpha):
    """The step-down procedure: from the smallest, stop at the first p_(i) > alpha / (k - i + 1)."""
    rejected = set()
    for step, key in enumerate(sorted(p, key=p.get)):
        if p[key] * (len(p) - step) > alpha:
            break
        rejected.add(key)
    return rejected


def test_known_values():
    """An example by hand: 4 x .01, 3 x .015 raised to it, 2 x .03 raised, and 1 x .04 raised; the keys keep their order."""
    assert holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.015}) == pytest.approx(
        {"d": 0.06, "a": 0.04, "c": 0.06, "b": 0.045}
    )
    assert list(holm({"d": 0.04, "a": 0.01})) == ["d", "a"]
    assert holm({"one": 0.3}) == {"one": 0.3} and holm({}) == {}
    assert holm({1: 0.5, 2: 0.9}) == {1: 1.0, 2: 1.0}


@given(st.lists(P, min_size=1, max_size=12), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_rejects_what_the_procedure_rejects(values, alpha):
    """Adjusted <= alpha is what the step-down procedure rejects, at any level; never below p, never above 1, ties equal."""
    p = dict(enumerate(values))
    adjusted = holm(p)
    assert {key for key, value in adjusted.items() if value <= alpha} == _rejected(p, alpha)
    assert all(p[key] <= adjusted[key] <= 1 for key in p)
    order = sorted(p, key=p.get)
    for a, b in pairwise(order):
        assert adjusted[a] <= adjusted[b] and (p[a] != p[b] or adjusted[a] == adjusted[b])


def test_order_does_not_matter():
    """The same p-values in another order are adjusted the same."""
    p = dict(enumerate([0.2, 0.01, 0.01, 0.04, 0.9]))
    assert holm(dict(reversed(p.items()))) == holm(p)


def test_family_wise_error():
    """With 4 true and 2 false hypotheses and dependent tests, a true one is rejected in at most 5 % of 4,000 families."""
    rng = np.random.default_rng(0)
    from scipy.stats import norm

    wrong = found = plain = 0
    for _ in range(4000):
        z = 0.5**0.5 * rng.standard_normal() + 0.5**0.5 * rng.standard_normal(6)
        p = dict(enumerate(norm.sf(z + np.array([0, 0, 0, 0, 3.0, 3.0])).tolist()))
        adjusted = holm(p)
        wrong += any(adjusted[k] <= 0.05 for k in range(4))
        plain += any(p[k] <= 0.05 for k in range(4))
        found += adjusted[4] <= 0.05
    assert wrong <= 4000 * 0.05 + 3 * (4000 * 0.05 * 0.95) ** 0.5, f"{wrong} of 4000"
    assert plain > 4000 * 0.08 and found > 4000 * 0.6, f"unadjusted {plain}, power {found}"


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p):
    """The key and the number are named."""
    with pytest.raises(ValueError, match="between 0 and 1, got .* for 'bad'"):
        holm({"good": 0.5, "bad": p})
