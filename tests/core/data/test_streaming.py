"""Images decoded when read against the same images in memory: equal bits, in any order, with any number of workers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gebm_cli.core.data.dataset import Minibatches, is_images, to_float
from gebm_cli.core.data.streaming import Ahead, LazyImages
from gebm_cli.core.evaluation.features import pixels
from gebm_cli.core.evaluation.neighbours import nearest
from gebm_cli.errors import UsageError

MEMORY = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (23, 3, 5, 4), dtype=np.uint8))


def _lazy(workers=2, read=None):
    return LazyImages(read or (lambda i: MEMORY[i].permute(1, 2, 0).numpy()), len(MEMORY), (3, 5, 4), workers)


def test_it_looks_like_the_tensor_it_stands_for():
    """Length, shape, type and kind are those of the tensor, without an image having been read."""
    lazy = _lazy(read=lambda i: pytest.fail("read"))
    assert (len(lazy), lazy.shape, lazy.dtype, lazy.dim()) == (len(MEMORY), MEMORY.shape, MEMORY.dtype, MEMORY.dim())
    assert is_images(lazy) and lazy.to("cpu") is lazy


@pytest.mark.parametrize("workers", [0, 1, 3, 50])
@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(3, 11), slice(-4, None), slice(20, 90), slice(5, 5), slice(None, None, -2), slice(1, 20, 3)],
    ids=str,
)
def test_slices_are_those_of_the_tensor(rows, workers):
    """A slice decodes what the tensor's slice holds, also an empty or a reversed one."""
    expected = torch.from_numpy(MEMORY.numpy()[rows].copy())
    found = _lazy(workers)[rows]
    assert torch.equal(found, expected) and found.dtype == torch.uint8 and found.shape[1:] == MEMORY.shape[1:]


@given(st.lists(st.integers(-23, 22), max_size=60), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_rows_by_number_are_those_of_the_tensor(numbers, workers):
    """Any rows in any order, repeated or negative, come as from the tensor."""
    rows = torch.tensor(numbers, dtype=torch.long)
    assert torch.equal(_lazy(workers)[rows], MEMORY[rows])


def test_one_row_is_one_image():
    """A number gives an image without the first dimension."""
    assert torch.equal(_lazy()[4], MEMORY[4]) and torch.equal(_lazy()[-1], MEMORY[-1])


@pytest.mark.parametrize(
    ("rows", "error"), [([23], IndexError), ([-24], IndexError), ([1.0], TypeError), ([[1]], TypeError)]
)
def test_rows_that_are_not_there_are_refused(rows, error):
    """A number out of range, or something other than int64 numbers (m,), is no row."""
    with pytest.raises(error):
        _lazy()[torch.tensor(rows)]


@pytest.mark.parametrize("n", [1, 5, 23, 100])
def test_split_gives_all_in_order(n):
    """The parts of a split are those of the tensor's split."""
    found, expected = list(_lazy().split(n)), MEMORY.split(n)
    assert len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_select_composes():
    """A selection of a selection reads the rows of the original."""
    lazy = _lazy().select(torch.tensor([7, 3, -1, 5])).select(torch.tensor([2, 0]))
    assert torch.equal(lazy[:], MEMORY[[22, 7]]) and len(lazy) == 2


def test_rows_arrive_on_the_device_asked_for():
    """`.to` moves no image, and those that are read afterwards are there."""
    lazy = _lazy()
    moved = lazy.to("meta")
    assert (
        moved[:3].device.type == "meta" and lazy[:3].device.type == "cpu" and moved.to("cpu")[:3].device.type == "cpu"
    )


# ------------------------------------------------------------------------------------------------------------ minibatches


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("options", [{}, {"flip": True}, {"share": (1, 3)}, {"flip": True, "share": (2, 3)}], ids=str)
def test_streamed_batches_are_those_from_memory(workers, options):
    """Over four epochs every batch has the same bits as from memory."""
    memory, streamed = Minibatches(MEMORY, 6, 3, **options), Minibatches(_lazy(workers), 6, 3, **options)
    for position in range(13):
        a, b = memory.next(), streamed.next()
        assert torch.equal(a, b) and a.dtype == torch.float32, f"position {position}"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_streamed_batches_after_a_jump(positions):
    """Set to any later or earlier position, the streamed walk gives the batches of memory from there on."""
    memory, streamed = Minibatches(MEMORY, 4, 1), Minibatches(_lazy(), 4, 1)
    for position in positions:
        memory.drawn = streamed.drawn = position
        for _ in range(3):
            assert torch.equal(memory.next(), streamed.next()), f"after {position}"
        assert streamed.drawn == position + 3


def test_the_next_batches_are_decoded_ahead():
    """While a batch is in use, the next two are decoded, each image once, and no further."""
    seen, lock = [], threading.Lock()

    def read(i):
        with lock:
            seen.append(i)
        return MEMORY[i].permute(1, 2, 0).numpy()

    batches = Minibatches(_lazy(read=read), 4, 0)
    rows = [batches._rows(p).tolist() for p in range(9)]
    for position in range(3):
        batches.next()
        expected, until = sum(rows[: position + 3], []), time.monotonic() + 5
        while len(seen) < len(expected) and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(0.01)
        assert sorted(seen) == sorted(expected), f"position {position}: {len(seen)} of {len(expected)}"


def test_workers_decode_at_the_same_time():
    """Two workers meet inside `read`, which one alone never could."""
    barrier = threading.Barrier(2, timeout=10)

    def read(i):
        barrier.wait()
        return MEMORY[i].permute(1, 2, 0).numpy()

    assert torch.equal(_lazy(2, read)[:2], MEMORY[:2])


def test_a_bad_image_ends_the_walk_with_its_own_error():
    """What `read` raises in a thread reaches the caller, when the batch that needs it is asked for."""

    def read(i):
        if i == 9:
            raise UsageError("9.png: is bad")
        return MEMORY[i].permute(1, 2, 0).numpy()

    ahead = Ahead(_lazy(read=read), lambda p: torch.arange(4 * p, 4 * p + 4))
    assert torch.equal(ahead.batch(0), MEMORY[:4]) and torch.equal(ahead.batch(1), MEMORY[4:8])
    with pytest.raises(UsageError, match="9.png"):
        ahead.batch(2)


# ---------------------------------------------------------------------------------------------------------------- readers


def test_features_and_neighbours_read_them():
    """Features and nearest training images are those of the tensor."""
    features = pixels(torch.device("cpu"))
    assert torch.equal(features(_lazy()), to_float(MEMORY).flatten(1))
    samples = MEMORY[[4, 19]]
    index, distance = nearest(samples, _lazy(), block=7)
    assert index.tolist() == [4, 19] and distance.abs().max() == 0


def test_the_classifier_refuses_them():
    """A classifier is learned from memory only; the error says what to use."""
    from gebm_cli.core.data.dataset import Dataset
    from gebm_cli.experiment.features import build_features

    dataset = Dataset("faces", _lazy(), MEMORY[:4], torch.zeros(23, dtype=torch.long))
    with pytest.raises(UsageError, match="use --features pixels or inception"):
        build_features("classifier", dataset, None, torch.device("cpu"))
