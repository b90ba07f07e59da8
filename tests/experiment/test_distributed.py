"""Processes that share work: a world of one needs no torchrun and does nothing."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from gebm_cli.experiment.distributed import World, join_world


@pytest.fixture
def untouched(monkeypatch):
    """Any use of torch.distributed fails."""

    def never(*argv, **keys):
        raise AssertionError("a world of one asks nobody")

    for name in ("barrier", "broadcast_object_list", "init_process_group", "get_rank"):
        monkeypatch.setattr(dist, name, never)
    return monkeypatch


@pytest.mark.parametrize("size", [None, "1"])
def test_without_torchrun_there_is_one_process_which_speaks(untouched, size):
    """join_world() is World(0, 1): it waits for nobody and passes on what it was given."""
    untouched.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        untouched.setenv("WORLD_SIZE", size)
    world = join_world()
    assert world == World(0, 1) and world.first
    value = object()
    assert world.wait() is None and world.from_first(value) is value


def test_the_first_of_several_is_rank_zero():
    """Only it writes and speaks."""
    assert World(0, 3).first and not World(1, 3).first and not World(2, 3).first


def test_torchrun_is_joined_once(untouched):
    """With WORLD_SIZE the process meets the others over gloo, so that a CPU suffices; a second call does not join again."""
    joined = []
    untouched.setenv("WORLD_SIZE", "2")
    untouched.setattr(dist, "is_initialized", lambda: bool(joined))
    untouched.setattr(dist, "init_process_group", lambda backend, timeout: joined.append((backend, timeout.days)))
    untouched.setattr(dist, "get_rank", lambda: 1)
    untouched.setattr(dist, "get_world_size", lambda: 2)
    assert join_world() == World(1, 2) == join_world() and joined == [("gloo", 7)]
