"""The nearest training image against brute force in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gebm_cli.core.evaluation.neighbours import nearest


def _images(n, shape, seed):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _brute_force(samples, training):
    """All sums of squared differences in int64, (n, m), and the distances they give."""
    x, y = (t.flatten(1).numpy().astype(np.int64) for t in (samples, training))
    squares = ((x[:, None] - y[None]) ** 2).sum(2)
    return squares, np.sqrt(squares.min(1) / x.shape[1]) / 255


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4)])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_nearest_is_brute_force(shape, block):
    samples, training = _images(23, shape, 0), _images(40, shape, 1)
    squares, distances = _brute_force(samples, training)
    index, distance = nearest(samples, training, block)
    assert index.tolist() == squares.argmin(1).tolist()
    np.testing.assert_allclose(distance.numpy(), distances, rtol=1e-14)


def test_copies_are_at_distance_zero_and_one_level_is_not():
    training = _images(50, (3, 32, 32), 2)
    samples = training[[31, 4]].clone()
    samples[1, 0, 0, 0] ^= 1
    index, distance = nearest(samples, training, 16)
    assert index.tolist() == [31, 4]
    assert distance[0] == 0.0
    np.testing.assert_allclose(distance[1], np.sqrt(1 / 3072) / 255, rtol=1e-14)


def test_black_is_one_away_from_white():
    black, white = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)
    assert nearest(black, white)[1].tolist() == [1.0, 1.0]


def test_result_does_not_depend_on_the_block():
    samples, training = _images(30, (1, 6, 6), 3), _images(64, (1, 6, 6), 4)
    answers = [nearest(samples, training, block) for block in (3, 10, 64)]
    for index, distance in answers[1:]:
        assert torch.equal(index, answers[0][0]) and torch.equal(distance, answers[0][1])


@pytest.mark.parametrize(
    ("samples", "training"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 2, 2, dtype=torch.uint8)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, 1, 4, 4, dtype=torch.uint8)),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)),
    ],
)
def test_what_cannot_be_compared_is_refused(samples, training):
    with pytest.raises(ValueError, match="cannot compare"):
        nearest(samples, training)


def test_no_samples_have_no_neighbours():
    index, distance = nearest(_images(0, (1, 4, 4), 0), _images(3, (1, 4, 4), 0))
    assert index.shape == distance.shape == (0,)
