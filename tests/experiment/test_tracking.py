"""Scores along the chains: at which steps, at what cost, and which scores so many samples allow."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.kid import kid
from gebm_cli.core.evaluation.prdc import prdc
from gebm_cli.experiment.tracking import SHARES, Scorer, cost_of, curve, tracked_steps

DIM = 8
FID = {"fid", "fid_standard_error"}
KID = {"kid", "kid_standard_error"}
PR = {"precision", "precision_standard_error", "recall"}


def points(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)) + shift


def scorer(n_real: int = 60) -> Scorer:
    """A scorer whose features are the points themselves."""
    made = Scorer(None, torch.device("cpu"))
    made.__dict__ |= {"features": lambda batch: batch, "real": points(n_real, 0)}
    return made


@pytest.mark.parametrize(
    ("n_steps", "steps"),
    [
        (1, (0, 1)),
        (2, (0, 1, 2)),
        (4, (0, 1, 2, 3, 4)),
        (10, (0, 1, 2, 4, 7, 10)),
        (20, (0, 1, 2, 4, 8, 14, 20)),
        (1000, (0, 50, 100, 200, 400, 700, 1000)),
    ],
)
def test_chains_are_scored_at_seven_steps_closer_at_the_beginning(n_steps, steps):
    """The start and the end among them; of short chains fewer, none twice."""
    assert tracked_steps(n_steps) == steps and len(steps) <= len(SHARES)


@pytest.mark.parametrize(
    ("argv", "cost"), [((10, 1, 0), 10), ((10, 0, 1), 5), ((4, 2, 9), 26), ((0, 3, 3), 0), ((7, 10, 0), 70)]
)
def test_cost_is_in_gradients_and_a_value_is_half_of_one(argv, cost):
    """steps (gradients + values / 2)."""
    assert cost_of(*argv) == cost


@pytest.mark.parametrize(
    ("n", "n_real", "keys"),
    [
        (1, 60, set()),
        (2, 60, set()),
        (3, 60, KID),
        (5, 60, KID),
        (6, 60, KID | PR),
        (DIM, 60, KID | PR),
        (DIM + 1, 60, KID | PR | FID),
        (60, 2, set()),
        (60, 5, KID),
        (60, DIM, KID | PR),
        (60, DIM + 1, KID | PR | FID),
    ],
)
def test_a_score_that_the_numbers_do_not_allow_is_left_out(n, n_real, keys):
    """FID needs more points than dimensions, KID three, precision and recall six, on both sides."""
    assert set(scorer(n_real).score(iter([points(n, 1)]))) == keys | {"n"}


def test_scores_are_those_of_all_batches_together():
    """The values are those of the evaluation functions, to six digits, with the reference on its side."""
    made, fake = scorer(), points(50, 1, 0.8)
    got = made.score(iter([fake[:20], fake[20:21], fake[21:]]))
    real = made.real
    distance, estimate, shape = frechet_distance(fake, real), kid(fake, real), prdc(real, fake)
    expected = {
        "n": 50,
        "fid": distance.value,
        "fid_standard_error": distance.standard_error,
        "kid": estimate.value,
        "kid_standard_error": estimate.standard_error,
        "precision": shape.precision,
        "precision_standard_error": shape.precision_error,
        "recall": shape.recall,
    }
    assert got == pytest.approx(expected, rel=1e-5) and shape.precision != shape.recall
    assert all(v == float(f"{v:.6g}") for v in got.values())


def test_a_curve_has_cost_and_scores_at_each_step():
    """Frames are asked for by position, one step after the other; the cost stands beside the scores."""
    asked = []

    def frames(i: int):
        asked.append(i)
        return iter([points(20, i, 1.0 - i / 2)])

    got = curve(scorer(), (0, 3, 9), frames, lambda step: (2.0 * step, 0.5 * step))
    assert asked == [0, 1, 2]
    assert [(p["step"], p["gradients"], p["seconds"], p["n"]) for p in got] == [
        (0, 0, 0, 20),
        (3, 6, 1.5, 20),
        (9, 18, 4.5, 20),
    ]
    assert got[0]["fid"] > got[2]["fid"]
