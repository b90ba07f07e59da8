"""One battery for every kind of test: p-values, seeds, splits, constants, copies, level and power."""

from __future__ import annotations

import importlib.util
import math
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from benchmarks.two_sample_problems import blob

from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.two_sample import kinds
from gebm_cli.core.two_sample.aggregation import One
from gebm_cli.core.two_sample.collections import grid
from gebm_cli.core.two_sample.kinds import Asked, Steps, run_test
from gebm_cli.core.two_sample.names import (
    DEFAULT_COUNT,
    KERNELS,
    KINDS,
    LEARNED,
    ONE_KERNEL,
    STOPPABLE,
)
from gebm_cli.core.two_sample.p_values import relabelling_test
from gebm_cli.core.two_sample.relabelled_mmd import RelabelledMmd
from gebm_cli.core.two_sample.relabelling import Permutations
from gebm_cli.core.two_sample.selection import best_kernel

NEEDS_GOODPOINTS = pytest.mark.skipif(importlib.util.find_spec("goodpoints") is None, reason="needs goodpoints")
CHEAP = ["mmd-fuse", "mmd-agg", "mmd", "mmd-opt", pytest.param("ctt", marks=NEEDS_GOODPOINTS)]
COSTLY = ["deep", "c2st", "c2st-sign", "me", "scf"]
EVERY = CHEAP + COSTLY


@pytest.fixture
def few_steps(monkeypatch):
    """For what does not depend on how well is learned."""
    for learner, keys in (("learn_classifier", {"steps": 60}), ("learn_mean_embedding", {"steps": 20}),
                          ("learn_characteristic", {"steps": 20}), ("train_deep_kernel", {"n_steps": 10})):  # fmt: skip
        monkeypatch.setattr(kinds, learner, partial(getattr(kinds, learner), **keys))


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(n, seed, mean=0.0, dim=2):
    generator = seed if isinstance(seed, torch.Generator) else _seeded(seed)
    return mean + torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _streams(seed):
    return lambda purpose: _seeded(zlib.crc32(f"{seed} {purpose}".encode()))


def _run(kind, x, y, seed=0, **asked):
    return run_test(kind, x, y, Asked(**{"count": 39, **asked}), _streams(seed))


def test_battery_is_complete():
    """Every kind that there is goes through this battery."""
    assert {getattr(k, "values", [k])[0] for k in EVERY} == set(KINDS) == set(kinds._TESTS)


# ---------------------------------------------------------------------------------------------------------- what is reported


SIZED = [(kind, n, m) for kind in KINDS for n, m in ((60, 60), (44, 34)) if n != m or kind not in COSTLY]


@pytest.mark.parametrize(
    ("kind", "n", "m"),
    [pytest.param(*case, marks=NEEDS_GOODPOINTS if case[0] == "ctt" else ()) for case in SIZED],
)
def test_finding_is_of_the_rows_asked_for(kind, n, m, few_steps):
    """p is a multiple of 1 / (1 + B) above 0 and statistic and null are finite; the rows tested are rows of x and y, each once.

    The rest of each side was learned from, if anything was: the parts are disjoint and cover all. Seeds decide everything.
    """
    x, y = _normal(n, 1), _normal(m, 2, 0.3)
    copies = x.clone(), y.clone()
    found, again, other = (_run(kind, x, y, seed) for seed in (3, 3, 4))
    assert torch.equal(x, copies[0]) and torch.equal(y, copies[1]), "the data were changed"
    outcome = found.outcome
    assert 0 < outcome.p_value <= 1 and len(outcome.null) == 39 and not outcome.stopped_early
    assert (40 * outcome.p_value) == pytest.approx(round(40 * outcome.p_value), abs=1e-9)
    assert math.isfinite(outcome.statistic) and outcome.null.isfinite().all() and 0 < outcome.null.std()
    for size, rows, tested in ((n, found.rows[0], found.x), (m, found.rows[1], found.y)):
        assert (
            len(rows) == len(tested) and len(set(rows.tolist())) == len(rows) and set(rows.tolist()) <= set(range(size))
        )
    if kind in LEARNED:
        assert found.n_train == (n // 2, m // 2)
        assert (len(found.x) + found.n_train[0], len(found.y) + found.n_train[1]) == (n, m)
    else:
        assert found.n_train is None and (len(found.x), len(found.y)) == (n, m)
    assert outcome.statistic == again.outcome.statistic and torch.equal(outcome.null, again.outcome.null)
    assert all(torch.equal(a, b) for a, b in zip(found.rows, again.rows, strict=True)) and found.chosen == again.chosen
    assert not torch.equal(outcome.null, other.outcome.null)
    assert mmd2(found.x, found.y, found.kernel).standard_error > 0


@pytest.mark.parametrize("kind", [k for k in EVERY if k != "deep"])
def test_rows_are_numbered_in_the_order_of_x_and_y(kind, few_steps):
    """`rows` says which row of the input each tested row is: they are those rows about the pooled mean."""
    x, y = _normal(40, 5), _normal(30, 6, 0.5)
    found, centre = _run(kind, x, y), torch.cat([x, y]).mean(0)
    torch.testing.assert_close(found.x, x[found.rows[0]] - centre)
    torch.testing.assert_close(found.y, y[found.rows[1]] - centre)


@pytest.mark.parametrize("kind", [k for k in EVERY if getattr(k, "values", [k])[0] in LEARNED])
def test_what_is_learned_is_learned_from_the_other_rows(monkeypatch, kind, few_steps):
    """The rows that reach the learner and those that are tested are disjoint and cover each side."""
    learners = {
        "mmd-opt": "best_kernel",
        "deep": "train_deep_kernel",
        "c2st": "learn_classifier",
        "c2st-sign": "learn_classifier",
        "me": "learn_mean_embedding",
        "scf": "learn_characteristic",
    }
    seen, original = [], getattr(kinds, learners[kind])

    def spy(x, y, *args, **more):
        seen.append((x.clone(), y.clone()))
        return original(x, y, *args, **more)

    monkeypatch.setattr(kinds, learners[kind], spy)
    x, y = _normal(40, 7), _normal(34, 8)
    found, centre = _run(kind, x, y, split=0.6), torch.cat([x, y]).mean(0)
    ((learned_x, learned_y),) = seen
    for side, rows, learned, size in ((x, found.rows[0], learned_x, 24), (y, found.rows[1], learned_y, 20)):
        assert len(learned) == size and len(rows) == len(side) - size
        expected = torch.ones(len(side), dtype=torch.bool)
        expected[rows] = False
        left = (side[expected] - centre).sort(0).values
        torch.testing.assert_close(learned.double().sort(0).values, left, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", EVERY)
def test_a_clear_difference_is_found(kind, monkeypatch):
    """A shift of five standard deviations gives the smallest p, or one near it where few bins or rows are left; n != m.

    (A classifier that gains for ever is stopped after 300 steps of the 2,000.)
    """
    monkeypatch.setattr(kinds, "learn_classifier", partial(kinds.learn_classifier, steps=300))
    assert _run(kind, _normal(60, 9), _normal(44, 10, 5.0)).outcome.p_value <= 0.05


@pytest.mark.parametrize("kind", CHEAP)
def test_fine_structure_is_found_or_not(kind):
    """On Blob at 200 a side the kinds with fine bandwidths see what the median bandwidth does not."""
    p = [
        _run(kind, blob(200, _seeded(s)), blob(200, _seeded(50 + s), True), count=99).outcome.p_value for s in range(6)
    ]
    found = sum(value <= 0.05 for value in p)
    if kind in ("mmd-fuse", "mmd-agg"):
        assert found >= 2, p
    elif kind == "mmd":
        assert found <= 2, p


@pytest.mark.parametrize("kind", ["mmd-fuse", "mmd-agg"])
def test_the_reported_kernel_is_one_that_tells(kind):
    """Of a plain shift a wide kernel is reported, of the fine structure of Blob one much narrower than the modes' distance."""
    shift = _run(kind, _normal(300, 30), _normal(300, 31, 0.5))
    blobs = _run(kind, blob(400, _seeded(32)), blob(400, _seeded(33), different=True))
    assert shift.same_rows and shift.chosen["bandwidth"] == shift.kernel.bandwidth > 0.6
    assert blobs.chosen["bandwidth"] < 0.6 and blobs.chosen["n_kernels"] in (16, 20)


@pytest.mark.parametrize("kind", [k for k in EVERY if k not in ("deep", "scf", "me")])
def test_constant_data_give_p_one(kind):
    """Where no row differs from another nothing is rejected: p = 1, at n != m too."""
    for n, m in ((120, 120), (40, 34), (10, 13)):
        if kind in COSTLY and n != 40:
            continue
        x, y = (torch.full((size, 2), 0.1, dtype=torch.float64) for size in (n, m))
        assert _run(kind, x, y).outcome.p_value == 1.0, (n, m)


@pytest.mark.parametrize("kind", ["deep", "scf", "me"])
def test_constant_data_give_p_one_or_are_refused(kind):
    """Those that learn scales from distances may refuse rows that are all equal, with words; they never reject."""
    x, y = (torch.full((size, 2), 0.1, dtype=torch.float64) for size in (40, 34))
    try:
        assert _run(kind, x, y).outcome.p_value == 1.0
    except ValueError as error:
        assert "equal" in str(error) or "constant" in str(error), error


@pytest.mark.parametrize("kind", EVERY)
def test_a_sample_and_its_copy_are_not_told_apart(kind):
    """x = y in another order is never rejected by tests of all rows; those that split reject as chance may."""
    runs = 2 if kind in COSTLY else 20
    p = []
    for seed in range(runs):
        x = _normal(60, seed)
        y = x[torch.randperm(60, generator=_seeded(100 + seed))]
        p.append(_run(kind, x, y, seed).outcome.p_value)
    rejected = sum(value <= 0.05 for value in p)
    assert rejected <= (0 if kind not in LEARNED else 1 if kind in COSTLY else 4), p
    if kind in ("mmd", "mmd-fuse", "mmd-agg"):
        assert min(p) > 0.2, p


@pytest.mark.parametrize("kind", [k for k in EVERY if k != "ctt"])
def test_one_row_is_refused_in_words(kind):
    """Too few rows for the kind is a ValueError, not another error."""
    for n, m in ((1, 5), (5, 1), (2, 2) if kind in LEARNED else (1, 1)):
        with pytest.raises(ValueError, match="need"):
            _run(kind, _normal(n, 1), _normal(m, 2))


# --------------------------------------------------------------------------------------------------------------- the options


def test_defaults():
    """B = 999 where no other is asked for; a stop only where asked for, at the level."""
    assert Asked().count == DEFAULT_COUNT == 999 and Asked().alpha == 0.05
    assert Asked(alpha=0.1).stop_at is None and Asked(alpha=0.1, stop_early=True).stop_at == 0.1


@pytest.mark.parametrize("kind", EVERY)
def test_early_stops_keep_the_decision(kind, few_steps):
    """Where p is far from the level the kinds that can stop do, and decide as before."""
    x, y = _normal(60, 11), _normal(60, 12)
    count = 1500 if kind in STOPPABLE else 99
    whole, early = (_run(kind, x, y, count=count, stop_early=stop) for stop in (False, True))
    if kind not in STOPPABLE:
        assert torch.equal(whole.outcome.null, early.outcome.null)
        return
    assert (whole.outcome.p_value <= 0.05) == (early.outcome.p_value <= 0.05)
    assert len(whole.outcome.null) == 1500 and not whole.outcome.stopped_early
    if not 0.02 < whole.outcome.p_value < 0.12:
        assert early.outcome.stopped_early and len(early.outcome.null) < 1000


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", ONE_KERNEL)
@pytest.mark.parametrize(("n", "m"), [(120, 120), (44, 30)])
def test_kernels_by_name(kind, name, n, m):
    """Every kernel by its name is valid and finds a clear difference, at any sizes."""
    assert _run(kind, _normal(n, 13), _normal(m, 14, 3.0), kernel=name).outcome.p_value == 1 / 40
    assert _run(kind, _normal(n, 13), _normal(m, 51), kernel=name).outcome.p_value > 0.05
    assert _run(kind, _normal(n, 13), _normal(m, 14), kernel=name).chosen["kernel"] == name


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("n", "m"), [(60, 60), (5, 5), (4, 9), (90, 60)])
def test_constant_data_give_p_one_for_every_kernel(name, n, m):
    """Where all values tie, the rounding of no kernel decides."""
    x, y = (torch.full((size, 3), 0.1, dtype=torch.float64) for size in (n, m))
    assert _run("mmd", x, y, kernel=name, count=99).outcome.p_value == 1.0


def test_bandwidths_are_those_given():
    """`mmd` tests with the bandwidths that it was given, and says so."""
    x, y = _normal(30, 16), _normal(25, 17)
    found = _run("mmd", x, y, bandwidths=(0.4, 2.0))
    assert found.chosen == {"kernel": "gaussian", "bandwidth": [0.4, 2.0]}
    expected = (mmd2(x, y, Gaussian(0.4)).value + mmd2(x, y, Gaussian(2.0)).value) / 2
    assert found.outcome.statistic == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(900, 1000), (1300, 900)])
def test_shift_of_the_data_changes_nothing(n, m):
    """Data far from the origin are centred before they lose digits, below and above the size at which float32 is used."""
    x, y = _normal(n, 18), _normal(m, 19, 0.08)
    near, far = (_run("mmd", x + shift, y + shift, count=19).outcome for shift in (0.0, 1e6))
    assert far.statistic == pytest.approx(near.statistic, abs=1e-3 * near.null.std().item())
    assert far.p_value == near.p_value


def test_small_samples_are_tested_in_float64():
    """float32 rows become float64 up to 2,000 pooled rows, float64 ones float32 above."""
    few, many = (_run("mmd", _normal(n, 20).float(), _normal(900, 21), count=2) for n in (1100, 1101))
    assert few.x.dtype == few.y.dtype == torch.float64 and many.x.dtype == many.y.dtype == torch.float32


@pytest.mark.parametrize("kind", [k for k in EVERY if k != "deep"])
def test_progress_ends_at_its_total(kind, few_steps):
    """What is reported of each phase never exceeds its total, and relabelings end at it."""
    phases = []

    def begin(what, unit, total):
        phases.append([what, total, 0])

        def tell(done, phase=phases[-1]):
            phase[2] += done

        return tell

    _run(kind, _normal(60, 22), _normal(60, 23), begin=begin)
    assert all(done <= total for _, total, done in phases), phases
    relabelled = [(done, total) for what, total, done in phases if what.startswith("relabel")]
    assert all(done == total for done, total in relabelled), phases
    assert len(relabelled) == (1 if kind.startswith("mmd") else 0)


def test_steps_begin_with_the_first_and_count_increments():
    """(done, total) becomes increments; a count that goes back begins a new phase."""
    begun, told = [], []

    def begin(what, unit, total):
        begun.append((what, unit, total))
        return told.append

    steps = Steps(begin, "learning", "steps")
    for done in (1, 4, 9, 2, 3):
        steps(done, 10)
    assert begun == [("learning", "steps", 10)] * 2 and told == [1, 3, 5, 2, 1]


# ---------------------------------------------------------------------------------------------------------------------- level


def _rejections(kind, n, m, runs, count, seed, alpha=0.05, **asked):
    generator, rejected = _seeded(seed), 0
    for run in range(runs):
        x, y = _normal(n, generator), _normal(m, generator)
        rejected += _run(kind, x, y, run, count=count, **asked).outcome.p_value <= alpha + 1e-12
    return rejected


@pytest.mark.parametrize(
    ("kind", "n", "m"),
    [
        pytest.param(*getattr(kind, "values", (kind,)), n, m, marks=getattr(kind, "marks", ()))
        for kind in CHEAP
        for n, m in ((20, 14), (60, 60))
        if kind != "mmd-opt" or n != m  # at equal sizes test_testing_on_the_training_split counts its rejections
    ],
)
def test_level(kind, n, m):
    """At P = Q, 200 tests of level .1 with B = 39 reject at most .1 + 3 standard errors of them."""
    rejected, most = _rejections(kind, n, m, 200, 39, 24, alpha=0.1), 200 * 0.1 + 3 * math.sqrt(200 * 0.1 * 0.9)
    assert rejected <= most, f"{rejected} of 200, at most {most:.0f} expected"


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHEAP)
@pytest.mark.parametrize(("n", "m"), [(20, 14), (60, 60), (70, 40)])
def test_level_by_many_repetitions(kind, n, m):
    """Of 2,000 tests at P = Q between .05 - 3 and .05 + 2 standard errors are rejected, B = 99; aggregated ones may be rarer."""
    rejected, error = _rejections(kind, n, m, 2000, 99, 26), math.sqrt(2000 * 0.05 * 0.95)
    low = 0 if kind in ("mmd-agg", "ctt") else 100 - 3 * error
    assert low <= rejected <= 100 + 2 * error, f"{rejected} of 2,000"


@pytest.mark.slow
@pytest.mark.parametrize("kind", COSTLY)
@pytest.mark.parametrize(("n", "m"), [(40, 40), (50, 34)])
def test_level_of_costly_kinds_by_many_repetitions(kind, n, m):
    """Of 300 tests at P = Q at most .05 + 3 standard errors are rejected."""
    rejected, error = _rejections(kind, n, m, 300, 39, 27), math.sqrt(300 * 0.05 * 0.95)
    assert rejected <= 15 + 3 * error, f"{rejected} of 300"


@pytest.mark.slow
def test_level_with_early_stops_by_many_repetitions():
    """Of 2,000 stopped tests with B = 999 between .05 - 3 and .05 + 3 standard errors are rejected."""
    rejected, error = _rejections("mmd", 60, 60, 2000, 999, 28, stop_early=True), math.sqrt(2000 * 0.05 * 0.95)
    assert abs(rejected - 100) <= 3 * error, f"{rejected} of 2,000"


def test_testing_on_the_training_split_would_reject_too_often():
    """The mistake that `run_test` rules out: the kernel of the best J tested on the rows that it was chosen on, at P = Q.

    Of 120 runs; with the split as many runs reject at most .05 + 3 standard errors of them.
    """
    generator, wrong, runs = _seeded(29), 0, 120
    for run in range(runs):
        x, y = _normal(30, generator), _normal(30, generator)
        kernel = best_kernel(x, y, grid("gaussian", torch.cat([x, y])))
        statistic = One(RelabelledMmd([kernel], x, y))
        wrong += relabelling_test(statistic, Permutations(30, 30), 39, _seeded(run)).p_value <= 0.05
    right = _rejections("mmd-opt", 60, 60, runs, 39, 29)
    assert right <= 0.05 * runs + 3 * math.sqrt(runs * 0.05 * 0.95) < wrong, f"{right} with the split, {wrong} without"


def test_rows_in_order_do_not_break_the_pairing():
    """Sorted samples of one law, whose i-th rows are near each other, are not paired as they stand: no p near 1 or 0 by order."""
    p = []
    for seed in range(40):
        x, y = (_normal(60, 2 * seed + side, dim=1).sort(0).values for side in (0, 1))
        p.append(_run("mmd", x, y, seed).outcome.p_value)
    rate = np.mean(np.array(p) <= 0.5)
    assert abs(rate - 0.5) < 4 * math.sqrt(0.25 / 40), p
