"""The names of the tests and of their kernels. Imports no torch, so that a configuration can be checked without it."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["mmd-fuse", "mmd-agg", "mmd", "mmd-opt", "deep", "c2st", "c2st-sign", "me", "scf", "ctt"]
KernelName = Literal["gaussian", "laplace", "exponential", "rational-quadratic", "polynomial", "energy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KERNELS: tuple[KernelName, ...] = get_args(KernelName)
LEARNED: tuple[Kind, ...] = ("mmd-opt", "deep", "c2st", "c2st-sign", "me", "scf")
ONE_KERNEL: tuple[Kind, ...] = ("mmd", "mmd-opt")  # those that take a kernel by name
NO_BANDWIDTH: tuple[KernelName, ...] = ("polynomial", "energy")
STOPPABLE: tuple[Kind, ...] = tuple(k for k in KINDS if k not in ("mmd-agg", "ctt"))
FEATURE_MEANS: tuple[Kind, ...] = ("c2st", "c2st-sign", "me", "scf")  # a difference of mean features, permuted
DEFAULT_COUNT = 999
