"""Shared set-up: one thread (tests are small), an own cache, and no run folder outside the temporary one."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Learned feature networks are cached for this test session only."""
    os.environ["GEBM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
