"""Device and randomness, resolved once at the edge: everything below follows its inputs and takes a `torch.Generator`."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gebm_cli.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """The device a user names: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Under torchrun `auto` and `cuda` mean the CUDA device of this process's local rank.

    Raises:
        UsageError: an unknown name, or CUDA asked for where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: got '{name}', expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: got '{name}', expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            have = "no CUDA device" if count == 0 else f"{count} CUDA device(s), numbered from 0"
            raise UsageError(f"--device: got '{name}', but this machine has {have}; use --device auto or cpu")
    return device


def exact_float32() -> None:
    """Turn TF32 off, so that a score does not depend on the kind of GPU that computed it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held so far: of the device, or on a CPU the resident set (10^6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def derive_seed(seed: int, *labels: str | int) -> int:
    """A seed for one purpose, e.g. `derive_seed(seed, "sample", block)`: streams of different labels are independent."""
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def make_generator(seed: int, *labels: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded for one purpose by `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *labels))


@contextmanager
def seeded_construction(seed: int, *labels: str | int) -> Iterator[None]:
    """Within it, torch's global stream (which `nn.Module` constructors draw from) is seeded; afterwards it is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *labels))
        yield


def random_state() -> dict[str, Any]:
    """The global random states of python, numpy, torch and CUDA, as plain types and tensors."""
    version, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()[1]),
        "python_gauss": random.getstate()[2],
        "numpy": [str(version), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned; CUDA states only where their number matches the machine's."""
    random.setstate((3, tuple(state["python"]), state["python_gauss"]))
    version, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
