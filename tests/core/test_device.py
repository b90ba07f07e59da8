"""Devices by name and streams by label."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from gebm_cli.core.device import (
    derive_seed,
    exact_float32,
    make_generator,
    random_state,
    resolve_device,
    seeded_construction,
    set_random_state,
)
from gebm_cli.errors import UsageError

PINNED = 7512776189838495905  # derive_seed(0, "sample", 3)


def _without_cuda(monkeypatch, count: int = 0) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "mps", "meta"])
def test_unknown_device_is_refused(name):
    """A name that is neither auto, cpu nor cuda is a usage error that quotes it."""
    with pytest.raises(UsageError, match=f"got '{name}'"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("count", "name", "have"),
    [(0, "cuda", "no CUDA device"), (0, "cuda:0", "no CUDA device"), (1, "cuda:1", "1 CUDA"), (2, "cuda:2", "2 CUDA")],
)
def test_absent_cuda_device_is_refused(monkeypatch, count, name, have):
    """A CUDA device beyond those of the machine is a usage error that says what the machine has."""
    _without_cuda(monkeypatch, count)
    with pytest.raises(UsageError, match=have):
        resolve_device(name)


@pytest.mark.parametrize(
    ("count", "name", "expected"),
    [(0, "auto", "cpu"), (1, "auto", "cuda"), (1, "cpu", "cpu"), (2, "cuda:1", "cuda:1"), (1, "cuda", "cuda")],
)
def test_device_that_exists_is_resolved(monkeypatch, count, name, expected):
    """`auto` is CUDA exactly where there is one; other names are taken as they are."""
    _without_cuda(monkeypatch, count)
    assert resolve_device(name) == torch.device(expected)


@pytest.fixture
def tf32_on():
    """TF32 and cudnn's search switched on, and put back to what they were."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = True, True, True
    yield
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_exact_float32_turns_tf32_off(tf32_on):
    """After exact_float32 no matrix product or convolution may use TF32, and cudnn does not search for algorithms."""
    exact_float32()
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    assert flags == (False, False, False)


def test_derived_seed_is_pinned():
    """A derived seed is part of every record's meaning, so its value must never change."""
    assert derive_seed(0, "sample", 3) == PINNED, f"derive_seed(0, 'sample', 3) = {derive_seed(0, 'sample', 3)}"


def test_derived_seeds_differ_by_seed_label_and_number():
    """No two of 1,200 purposes share a seed, a number is not its own text, and labels do not run together."""
    purposes = [(s, label, i) for s in range(20) for label in ("sample", "train", "order") for i in range(20)]
    seeds = {derive_seed(*p) for p in purposes}
    seeds |= {derive_seed(0, "a", "1"), derive_seed(0, "a", 1), derive_seed(0, "a1"), derive_seed(0, "a", "b", "c")}
    seeds |= {derive_seed(0, "ab", "c"), derive_seed(0, "a", "bc"), derive_seed(0)}
    assert len(seeds) == 1200 + 7, f"{1207 - len(seeds)} collisions"


def test_derived_seed_fits_a_generator():
    """Derived seeds are non-negative and below 2^63, which torch's generators take."""
    seeds = [derive_seed(i) for i in range(1000)]
    assert 0 <= min(seeds) and max(seeds) < 2**63, (min(seeds), max(seeds))
    assert max(seeds) > 2**62, f"the top bit of 1,000 seeds is never set, largest {max(seeds)}"


def test_streams_of_different_labels_are_uncorrelated():
    """The normal draws of two labels of one seed have correlation 0 to within 4 standard errors."""
    a, b = (torch.randn(100_000, generator=make_generator(0, label)).double() for label in ("one", "two"))
    z = (a * b).mean().item() * len(a) ** 0.5
    assert abs(z) < 4, f"z = {z:.2f}"


def test_generator_repeats_itself():
    """The same seed and labels give the same draws."""
    a, b = (torch.randn(5, generator=make_generator(7, "x", 1)) for _ in range(2))
    assert torch.equal(a, b)


def test_construction_is_seeded_and_restores_the_global_stream():
    """Inside, module weights depend on seed and label alone; afterwards the global stream goes on as if nothing was."""
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    with seeded_construction(0, "net"):
        first = torch.nn.Linear(3, 2).weight
    assert torch.equal(torch.randn(3), expected)
    with seeded_construction(0, "net"):
        again = torch.nn.Linear(3, 2).weight
    with seeded_construction(0, "other"):
        other = torch.nn.Linear(3, 2).weight
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_construction_restores_the_stream_after_an_error():
    """A constructor that fails leaves the global stream as it was."""
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded_construction(0):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def _draws() -> list[float]:
    """An odd number of normal draws from python and numpy, which leaves a cached one in each."""
    return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.randn(()).item()]


def test_random_state_round_trip():
    """Restoring the state repeats the draws of python, numpy and torch, their cached normals included."""
    _draws()
    state = random_state()
    expected = [_draws() for _ in range(3)]
    for _ in range(7):
        _draws()
    set_random_state(state)
    assert [_draws() for _ in range(3)] == expected


def test_random_state_survives_a_weights_only_file(tmp_path):
    """The state is plain enough to be loaded without unpickling code, and still restores the draws."""
    state = random_state()
    expected = _draws()
    torch.save(state, tmp_path / "state.pt")
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert _draws() == expected
