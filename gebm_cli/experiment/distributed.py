"""Processes that share the work of one command under `torchrun`; one process otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")
PATIENCE = timedelta(days=7)  # a process may wait for the slowest as long as its blocks take


@dataclass(frozen=True)
class World:
    """Which process this is, and of how many. The first (rank 0) writes results and speaks."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def from_first(self, value: Value) -> Value:
        """What rank 0 passed."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]


def join_world() -> World:
    """The processes that torchrun started; a world of one without it. They meet over gloo, and with GPUs over nccl too."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        both = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())
