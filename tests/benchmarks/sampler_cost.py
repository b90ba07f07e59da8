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

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch

from gebm_cli.core.models.networks import Energy, freeze, sngan_base, sngan_energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.make import Options, make_sampler
from gebm_cli.core.sampling.potential import LatentPotential

N_CHAINS, DIM, SHAPE = 100, 100, (3, 32, 32)
SAMPLERS = ("kla", "ghmc", "ula", "lm", "mala")


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


def memory(name: str) -> None:
    """Peak resident memory of a process that makes three steps of one case, in MB."""
    import resource

    step = cases()[name] if name != "none" else cases
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(sys.argv[2])
    else:
        timing(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
        peak = {}
        for case in ("none", "bare", *SAMPLERS):
            run = subprocess.run([sys.executable, __file__, "memory", case], capture_output=True, text=True, check=True)
            peak[case] = float(run.stdout)
        floor = peak.pop("none")
        for case, value in peak.items():
            print(
                f"{case:20} peak {value:.0f} MB, above the networks {value - floor:.0f} MB, / bare {value / peak['bare']:.3f}"
            )
