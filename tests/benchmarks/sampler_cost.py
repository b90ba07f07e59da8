"""What a step of each one-gradient sampler costs, against one bare value and gradient of U: time and peak memory.

    OMP_NUM_THREADS=2 python tests/benchmarks/sampler_cost.py [SECONDS]

On the SNGAN networks of the paper at 100 chains. The samplers and the bare gradient take turns, so that whatever else the
machine does falls on all alike. A second bare gradient is that of the networks as they are trained, frozen but with spectral
norm in place: what the released code does after its weights are frozen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch

from gebm_cli.core.models.convolutional import sngan_base, sngan_energy
from gebm_cli.core.models.networks import Energy, freeze
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.make import Options, make_sampler
from gebm_cli.core.sampling.potential import LatentPotential

N_CHAINS, DIM, SHAPE = 100, 100, (3, 32, 32)
SAMPLERS = ("kla", "ghmc", "ula", "lm", "mala")
# Large blocks go back to the system when freed, so that resident memory is what is in use and not what once was.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def potential(frozen: bool) -> LatentPotential:
    torch.manual_seed(0)
    base, energy = sngan_base(DIM, SHAPE), Energy(sngan_energy(SHAPE))
    for network in (base, energy):
        if frozen:
            freeze(network)
        else:
            network.eval().requires_grad_(False)
    return LatentPotential(NormalPrior(DIM), base, energy, 1.0)


def bare_step(u: LatentPotential):
    z = NormalPrior(DIM).sample(N_CHAINS, torch.Generator().manual_seed(0))
    return lambda: u.value_and_grad(z)


def sampler_step(u: LatentPotential, name: str):
    generator = torch.Generator().manual_seed(0)
    sampler = make_sampler(name, u, 0.01, Options())
    box = [sampler.init(NormalPrior(DIM).sample(N_CHAINS, generator), generator)]

    def step() -> None:
        box[0] = sampler.step(box[0], generator)[0]

    return step


def cases() -> dict:
    ours = potential(frozen=True)
    named = {"bare": bare_step(ours), "bare, not prepared": bare_step(potential(frozen=False))}
    return named | {name: sampler_step(ours, name) for name in SAMPLERS}


def timing(seconds: float) -> None:
    steps = cases()
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
    bare = np.array(times["bare"])
    print(f"{torch.get_num_threads()} threads, {len(bare)} rounds")
    for name, taken in times.items():
        ratios = np.sort(np.array(taken) / bare)
        middle = np.median(ratios)
        # An order-statistic interval for the median (binomial, 95 %).
        k = int(max(0, len(ratios) / 2 - 0.98 * np.sqrt(len(ratios))))
        print(f"{name:20} {np.median(taken):.3f} s  ratio {middle:.3f} [{ratios[k]:.3f}, {ratios[-1 - k]:.3f}]")


def resident(field: str) -> float:
    """A figure of this process's memory in MB; VmHWM is the peak since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def memory(name: str) -> None:
    """Peak memory of three steps of one case, in MB above what the process holds before them (Linux)."""
    step = cases()[name]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        step()
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(sys.argv[2])
    else:
        timing(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
        peak = {}
        for case in ("bare", *SAMPLERS):
            words = [sys.executable, __file__, "memory", case]
            run = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | RETURNED)
            peak[case] = float(run.stdout)
        for case, value in peak.items():
            print(f"{case:20} peak of a step {value:.0f} MB, / bare {value / peak['bare']:.3f}")
