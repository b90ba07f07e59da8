"""Levels, the order of minibatches, and what a data set says of itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gebm_cli.core.data.dataset import Dataset, Minibatches, is_images, to_float, to_uint8
from gebm_cli.errors import UsageError


def _numbers(n):
    """Points (n, 1) whose value is their index."""
    return torch.arange(n, dtype=torch.float32)[:, None]


def _draw(batches, count):
    return [batches.next().flatten().int().tolist() for _ in range(count)]


def test_levels_survive_the_round_trip():
    """to_uint8(to_float(x)) = x for all 256 levels, and to_float covers [-1, 1] evenly."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = to_float(levels)
    assert torch.equal(to_uint8(floats), levels)
    expected = torch.linspace(-1, 1, 256, dtype=torch.float64)
    assert (floats.flatten().double() - expected).abs().max() < 1e-6


@given(st.floats(-2, 2, width=32))
@settings(max_examples=300, deadline=None)
def test_to_uint8_rounds_to_the_nearest_level(value):
    """The level is within half a step of (clamped value + 1) * 127.5, never truncated and never wrapped around."""
    level = to_uint8(torch.tensor([value])).item()
    exact = (min(max(value, -1.0), 1.0) + 1) * 127.5
    assert abs(level - exact) <= 0.5 + 1e-4, f"{value} became {level}, exactly {exact}"


def test_to_float_leaves_its_input():
    """Images are copied before they are scaled, and points are passed on untouched."""
    images, points = torch.full((1, 1, 2, 2), 7, dtype=torch.uint8), torch.randn(3, 2)
    to_float(images)
    assert (images == 7).all() and to_float(points) is points


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_no_repeats(n, batch_size, seed):
    """Within each of three epochs no point comes twice, all batches are full, and only the remainder is left out."""
    batches = Minibatches(_numbers(n), batch_size, seed)
    size = min(batch_size, n)
    for epoch in range(3):
        drawn = sum(_draw(batches, n // size), [])
        assert len(drawn) == len(set(drawn)) == n // size * size, f"epoch {epoch}: {drawn}"
        assert set(drawn) <= set(range(n))


def test_epochs_have_their_own_orders():
    """Epochs differ in order, and those left out of one epoch come in others."""
    batches = Minibatches(_numbers(10), 4, 0)
    epochs = [sum(_draw(batches, 2), []) for _ in range(20)]
    assert len({tuple(e) for e in epochs}) == 20
    assert set(sum(epochs, [])) == set(range(10))


@given(st.integers(0, 25))
@settings(max_examples=26, deadline=None)
def test_resuming_needs_the_count_alone(drawn):
    """A fresh walk set to `drawn` gives the batches that follow, across the ends of epochs."""
    first, resumed = Minibatches(_numbers(17), 4, 5), Minibatches(_numbers(17), 4, 5)
    _draw(first, drawn)
    assert first.drawn == drawn
    resumed.drawn = drawn
    assert _draw(resumed, 9) == _draw(first, 9)


def test_seeds_give_different_orders():
    """Two seeds walk differently; one seed walks the same, whatever the global stream."""
    first = _draw(Minibatches(_numbers(50), 10, 0), 5)
    torch.manual_seed(99)
    assert _draw(Minibatches(_numbers(50), 10, 0), 5) == first
    assert _draw(Minibatches(_numbers(50), 10, 1), 5) != first


def test_order_is_uniform():
    """Over 2,000 epochs of 5 points each point is first equally often, by chi-squared at 1e-4."""
    from scipy.stats import chisquare

    batches = Minibatches(_numbers(5), 5, 0)
    first = [batch[0] for batch in _draw(batches, 2000)]
    p = chisquare([first.count(i) for i in range(5)]).pvalue
    assert p > 1e-4, f"p = {p:.1e}"


def test_image_batches_are_floats():
    """Batches of uint8 images come in [-1, 1]."""
    batch = Minibatches(torch.full((4, 1, 2, 2), 255, dtype=torch.uint8), 2, 0).next()
    assert batch.shape == (2, 1, 2, 2) and batch.dtype == torch.float32 and (batch == 1).all()


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_shares_partition_the_batch(n, batch_size, size, seed):
    """The shares of all processes, interleaved, are the batch of one process, over three epochs; none is empty."""
    if min(n, batch_size) < size:
        with pytest.raises(UsageError, match="cannot be shared"):
            Minibatches(_numbers(n), batch_size, seed, share=(0, size))
        return
    whole = Minibatches(_numbers(n), batch_size, seed)
    shares = [Minibatches(_numbers(n), batch_size, seed, share=(rank, size)) for rank in range(size)]
    for _ in range(3 * (n // whole.batch_size)):
        batch, parts = whole.next(), [share.next() for share in shares]
        assert all(torch.equal(part, batch[rank::size]) and len(part) for rank, part in enumerate(parts))
        assert sum(map(len, parts)) == len(batch) == whole.batch_size == shares[0].batch_size


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 0)])
def test_a_share_is_one_of_the_processes(share):
    """A rank outside its world is a mistake of the caller."""
    with pytest.raises(ValueError, match="rank < size"):
        Minibatches(_numbers(10), 4, 0, share=share)


def _images(n):
    """Images (n, 1, 2, 3) that show their number and which side is left."""
    data = torch.zeros(n, 1, 2, 3, dtype=torch.uint8)
    data[:, 0, 0, 0], data[:, 0, :, 2] = 255, torch.arange(n, dtype=torch.uint8)[:, None]
    return data


def test_flips_mirror_left_and_right_half_of_the_time():
    """Each image comes as it is or mirrored, in the plain order, mirrored half of the time, independently, |z| below 4."""
    data = _images(40)
    plain, flipped = Minibatches(data, 8, 0), Minibatches(data, 8, 0, flip=True)
    mirrored = []
    for _ in range(500):
        a, b = plain.next(), flipped.next()
        same, other = ((b == c).flatten(1).all(1) for c in (a, a.flip(3)))
        assert (same ^ other).all()
        mirrored.append(other)
    table = torch.stack(mirrored).double() - 0.5
    products = [table, table[:, 1:] * table[:, :-1] * 2, table[1:] * table[:-1] * 2]  # each has mean 0, deviation 1/2
    z = [(2 * p.sum() / p.numel() ** 0.5).item() for p in products]
    assert max(map(abs, z)) < 4, z


@given(st.integers(0, 12), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_flips_resume_and_are_shared(drawn, rank):
    """Flips depend on seed and position alone: a fresh walk set to `drawn`, and any share of it, has the same."""
    first = Minibatches(_images(17), 6, 5, flip=True)
    for _ in range(drawn):
        first.next()
    resumed, share = (Minibatches(_images(17), 6, 5, flip=True, share=s) for s in ((0, 1), (rank, 3)))
    resumed.drawn = share.drawn = drawn
    for _ in range(4):
        batch = first.next()
        assert torch.equal(resumed.next(), batch) and torch.equal(share.next(), batch[rank::3])
    alone = [Minibatches(_images(1), 1, seed, flip=True) for seed in (0, 1)]  # one image, so only flips can differ
    seeds = [torch.cat([walk.next() for _ in range(40)]) for walk in alone]
    assert not torch.equal(*seeds)


def test_points_are_not_flipped():
    """Points have no left and right."""
    with pytest.raises(UsageError, match="only images"):
        Minibatches(_numbers(5), 2, 0, flip=True)


@pytest.mark.parametrize(("data", "images"), [(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), True), (_numbers(3), False)])
def test_dataset_knows_its_kind(data, images):
    """Shape, kind and splits are those of the tensors it holds."""
    held_out, labels = data[:1], torch.zeros(len(data), dtype=torch.long)
    dataset = Dataset("x", data, held_out, labels)
    assert dataset.is_images == is_images(data) == images and dataset.shape == tuple(data.shape[1:])
    assert dataset.split("train") == (data, labels) and dataset.split("held-out") == (held_out, None)
