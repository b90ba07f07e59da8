"""The bias of FID can order two models wrongly, reliably; KID does not (after Binkowski et al. 2018, appendix D.2).

    OMP_NUM_THREADS=1 python tests/benchmarks/fid_bias.py [--repetitions 10] [--out docs/images/fid_bias.png]

The reference is normal in 128 dimensions, 8 of standard deviation 1 and 120 of 0.3, and FID knows its moments exactly, so only the
model's own n is at work. A spreads the 120 a little too wide (0.4): true FID 1.20. B has their mean wrong: true FID 1.35. What A
has too much of is also what makes its bias the larger one. KID compares with 2,000 fresh samples of the reference.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from gebm_cli.core.evaluation.fid_extras import fid_infinity
from gebm_cli.core.evaluation.frechet import frechet_distance
from gebm_cli.core.evaluation.kid import kid
from gebm_cli.core.evaluation.moments import Moments

HIGH, LOW = 8, 120
SIZES = (200, 300, 500, 800, 1500, 3000, 6000)
REFERENCE = torch.cat([torch.ones(HIGH), torch.full((LOW,), 0.3)]).double()
WIDE = torch.cat([torch.ones(HIGH), torch.full((LOW,), 0.4)]).double()
SHIFT = torch.cat([torch.zeros(HIGH), torch.full((LOW,), math.sqrt(1.35 / LOW))]).double()
MODELS = {"A": (WIDE, 0.0), "B": (REFERENCE, SHIFT)}
TRUE = {
    name: ((scale - REFERENCE).square().sum() + torch.as_tensor(mean).square().sum()).item()
    for name, (scale, mean) in MODELS.items()
}
COLOURS = {"A": "#0072b2", "B": "#d55e00"}
KNOWN = Moments(None, torch.zeros_like(REFERENCE), REFERENCE.square().diag())


def draw(n: int, scale: torch.Tensor, mean: torch.Tensor | float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(n, len(scale), generator=generator, dtype=torch.float64) * scale + mean


def scores(n: int, seed: int) -> dict[str, list[float]]:
    """FID, FID_inf (nan where n is too small for it) and KID of both models, on one draw."""
    generator = torch.Generator().manual_seed(seed)
    reference, found = draw(2000, REFERENCE, 0.0, generator).float(), {}
    for name, (scale, mean) in MODELS.items():
        x = draw(n, scale, mean, generator)
        limit = fid_infinity(x, KNOWN, seed).value if n >= 2 * (x.shape[1] + 1) + 15 else math.nan
        found[name] = [frechet_distance(x, KNOWN, with_error=False).value, limit, kid(x.float(), reference).value]
    return found


def picture(table: dict[str, np.ndarray], out: Path) -> None:
    """FID and KID of both models against n, with the spread over repetitions."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, values in table.items():
        colour = COLOURS[name]
        for axis, column in zip(axes, (0, 2), strict=True):
            mean, spread = values[..., column].mean(1), values[..., column].std(1, ddof=1)
            axis.errorbar(
                SIZES, mean, 2 * spread, color=colour, marker="o", markersize=4, capsize=3, label=f"model {name}"
            )
        axes[0].axhline(TRUE[name], color=colour, linestyle="--", linewidth=1, label=f"{name}, true: {TRUE[name]:.2f}")
    axes[0].set(title="FID: A looks worse until n is large", ylabel="FID", yscale="log", yticks=(1, 1.5, 2, 3, 4))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].axhline(0, color="0.7", linewidth=1)
    axes[1].set(title="KID: the right order at every n", ylabel="KID")
    for axis in axes:
        axis.set(xscale="log", xlabel="samples of the model, n", xticks=SIZES, xticklabels=[f"{n:,}" for n in SIZES])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def report(table: dict[str, np.ndarray]) -> None:
    """A row for each n: means with the spread over repetitions, and how often B is put first."""
    a, b = table["A"], table["B"]
    print(f"true FID: A {TRUE['A']:.2f}, B {TRUE['B']:.2f}; (sd over {a.shape[1]} repetitions)\n")
    print("| n | FID of A | FID of B | wrong order | KID of A x1000 | KID of B x1000 | wrong order | FID_inf wrong |")
    print("|---|---|---|---|---|---|---|---|")
    for k, n in enumerate(SIZES):
        cells = []
        for column, factor in ((0, 1), (2, 1000)):
            for v in (a, b):
                cells.append(f"{factor * v[k, :, column].mean():.2f} ({factor * v[k, :, column].std(ddof=1):.2f})")
            cells.append(f"{(a[k, :, column] > b[k, :, column]).mean():.0%}")
        limits = a[k, :, 1] > b[k, :, 1]
        last = "-" if np.isnan(a[k, :, 1]).any() else f"{limits.mean():.0%}"
        print(f"| {n:,} | " + " | ".join([*cells, last]) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("docs/images/fid_bias.png"))
    options = parser.parse_args()
    runs = [[scores(n, 1000 * k + seed) for seed in range(options.repetitions)] for k, n in enumerate(SIZES)]
    columns = {name: np.array([[run[name] for run in row] for row in runs]) for name in MODELS}
    report(columns)
    picture(columns, options.out)
