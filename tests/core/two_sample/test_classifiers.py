"""C2ST: a classifier learned on one half is exact and powerful on the other, and useless as a test on its own half."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gebm_cli.core.two_sample import classifiers
from gebm_cli.core.two_sample.classifiers import accuracy_of, learn_classifier
from gebm_cli.core.two_sample.feature_means import MeanDifference
from gebm_cli.core.two_sample.p_values import relabelling_test
from gebm_cli.core.two_sample.relabelling import Permutations

FEATURES = ["sign", "logit"]


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(n, generator, mean=0.0, dim=2):
    return mean + torch.randn(n, dim, generator=generator)


def _p(learned, x, y, generator):
    statistic = MeanDifference(learned(torch.cat([x, y])), len(x), one_sided=True)
    return relabelling_test(statistic, Permutations(len(x), len(y)), 99, generator).p_value


def test_sign_is_of_the_logit(generator):
    """`sign` is 1 where the logit is positive, and the logit is positive where a row is more like x."""
    x, y = _normal(60, generator, 2.0), _normal(40, generator, -2.0)
    logit, sign = (learn_classifier(x, y, _seeded(1), feature, steps=40) for feature in ("logit", "sign"))
    assert (
        torch.equal(sign(x), (logit(x) > 0).double()) and logit(x).shape == (60, 1) and logit(x).dtype == torch.float64
    )
    assert logit(_normal(50, generator, 2.0)).mean() > 0 > logit(_normal(50, generator, -2.0)).mean()


def test_one_seed_one_classifier():
    """The same generator gives the same network, another one another, and torch's global stream is left alone."""
    x, y = _normal(20, _seeded(1)), _normal(13, _seeded(2), 0.5)
    state = torch.get_rng_state()
    first, second, other = (learn_classifier(x, y, _seeded(seed), steps=15)(x) for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_are_standardised():
    """Columns in other units about another origin give the same scores; a constant column stays out."""
    x, y = _normal(30, _seeded(1)).double(), _normal(30, _seeded(2), 0.5).double()
    scale, origin = torch.tensor([1e4, 1e-4]), torch.tensor([-5e4, 3.0])
    scores = learn_classifier(x, y, _seeded(3), steps=15)(x)
    torch.testing.assert_close(
        learn_classifier(x * scale + origin, y * scale + origin, _seeded(3), steps=15)(x * scale + origin),
        scores, rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    padded = [torch.cat([rows, torch.full((30, 1), 0.1).double()], 1) for rows in (x, y)]
    assert learn_classifier(*padded, _seeded(3), steps=15)(padded[0]).isfinite().all()


def test_sizes_weigh_alike(generator):
    """With 10 times as many rows of y, equal laws leave the mean logit near 0, not near log(1 / 10)."""
    learned = learn_classifier(_normal(60, generator), _normal(600, generator), generator, steps=30)
    assert abs(learned.logits(_normal(500, generator)).mean()) < 0.5


def test_accuracy_is_the_mean_of_both_sides(generator):
    """Accuracy and its error are those of the two shares, by numpy, for n != m."""
    learned = learn_classifier(_normal(50, generator, 0.7), _normal(80, generator), generator, steps=60)
    x, y = _normal(40, generator, 0.7), _normal(90, generator)
    a, b = np.mean(learned.logits(x).numpy() > 0), np.mean(learned.logits(y).numpy() <= 0)
    accuracy = accuracy_of(learned.logits(x), learned.logits(y))
    assert accuracy.value == pytest.approx((a + b) / 2)
    assert accuracy.standard_error == pytest.approx(0.5 * np.sqrt(a * (1 - a) / 40 + b * (1 - b) / 90))
    assert accuracy.value > 0.55


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("image_shape", [None, (1, 4, 4)])
def test_constant_data_give_p_one(feature, image_shape):
    """Where all rows are equal all scores tie: p = 1 and accuracy 1/2."""
    x, y = torch.full((12, 16), 0.1), torch.full((9, 16), 0.1)
    learned = learn_classifier(x, y, _seeded(1), feature, image_shape, steps=10)
    assert _p(learned, x, y, _seeded(2)) == 1.0
    assert accuracy_of(learned.logits(x), learned.logits(y)).value == 0.5


@pytest.mark.parametrize("feature", FEATURES)
def test_level_on_held_out_rows(feature):
    """At P = Q, 120 tests of level .05, trained and tested on halves with n != m, reject as the binomial allows."""
    generator = _seeded(5)

    def draw():
        return (_normal(20, generator), _normal(14, generator))

    p = [_p(learn_classifier(*draw(), generator, feature, steps=5), *draw(), generator) for _ in range(120)]
    low, high = binom.interval(0.995, 120, 0.05)
    rejected = sum(value <= 0.05 for value in p)
    # The share of signs is discrete, so that test may reject less often.
    assert (low if feature == "logit" else 0) <= rejected <= high, (
        f"{rejected} of 120, expected {low:.0f} to {high:.0f}"
    )


def test_the_training_half_is_no_test():
    """The same test on the rows it was trained on rejects at P = Q more often than not: the split is what keeps the level."""
    generator, rejected = _seeded(6), 0
    for _ in range(12):
        x, y = _normal(30, generator, dim=10), _normal(30, generator, dim=10)
        rejected += _p(learn_classifier(x, y, generator, steps=60), x, y, generator) <= 0.05
    assert rejected > 6, f"{rejected} of 12"


@pytest.mark.parametrize("feature", FEATURES)
def test_power(feature):
    """A shift of one standard deviation in both coordinates is found in nearly all of 10 tests, n != m."""
    generator = _seeded(7)

    def draw():
        return (_normal(60, generator), _normal(45, generator, 1.0))

    p = [_p(learn_classifier(*draw(), generator, feature, steps=60), *draw(), generator) for _ in range(10)]
    assert sum(value <= 0.05 for value in p) >= 9, p


def test_images_are_seen_as_images():
    """The convolutional network finds a bright spot whatever its place, which leaves the mean image alone."""
    generator = _seeded(8)

    def draw(n, spread):
        images = 0.1 * torch.randn(n, 1, 8, 8, generator=generator)
        centre = torch.randint(1, 6, (n, 2), generator=generator)
        for image, (i, j) in zip(images, centre.tolist(), strict=True):
            image[0, i : i + 2, j : j + (1 if spread else 2)] += 2.0 if spread else 1.0
        return images.reshape(n, 64)

    learned = learn_classifier(draw(80, True), draw(60, False), generator, "sign", (1, 8, 8), steps=40)
    assert accuracy_of(learned.logits(draw(40, True)), learned.logits(draw(50, False))).value > 0.8


def test_training_stops_early(monkeypatch, generator):
    """Without anything to learn it stops long before the last step, and keeps the best weights it had."""
    monkeypatch.setattr(classifiers, "PATIENCE", 3)
    learned = learn_classifier(_normal(60, generator), _normal(60, generator), generator, steps=1000)
    assert learned.steps < 500


@pytest.mark.parametrize(
    ("n", "m", "shape", "match"),
    [(1, 5, None, "got 1 and 5"), (5, 1, None, "got 5 and 1"), (5, 5, (1, 2, 2), "no images")],
)
def test_what_it_refuses(n, m, shape, match, generator):
    """Fewer than two rows a side, and rows that are no images of the shape given."""
    with pytest.raises(ValueError, match=match):
        learn_classifier(torch.zeros(n, 2), torch.zeros(m, 2), generator, image_shape=shape)
