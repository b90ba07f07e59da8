"""The figures of docs/gallery.md: what divergences and their witnesses can see, each in a few seconds of one core.

    python tests/benchmarks/gallery.py FIGURE [--seed 0] [--out docs/images/gallery-FIGURE.png]

FIGURE is disjoint, narrow-kernel, smoothie, limits, lipschitz or mode-collapse. The numbers drawn are printed. Where a figure
has no random numbers its points lie at the quantiles of their laws.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from scipy.integrate import quad
from scipy.special import rel_entr
from scipy.stats import norm, wasserstein_distance
from torch import Tensor

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.divergences.kinds import Found, Options, divergences
from gebm_cli.core.divergences.names import Kind
from gebm_cli.core.fields import Field, KernelField
from gebm_cli.core.kernels import EnergyDistance, Gaussian, Kernel
from gebm_cli.experiment.curves import COLOURS
from gebm_cli.experiment.two_sample_panels import INK, A, B, plain

BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, WINE, GREY = COLOURS
FLOAT = torch.float64


def at_quantiles(n: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    """A normal law by n points (n, 1)."""
    return mean + scale * torch.from_numpy(norm.ppf((np.arange(n) + 0.5) / n))[:, None]


def line(low: float, high: float, n: int = 801) -> Tensor:
    return torch.linspace(low, high, n, dtype=FLOAT)[:, None]


def mean_difference(kernel: Kernel, x: Tensor, y: Tensor) -> KernelField:
    """The witness of MMD, mean_i k(x_i, .) - mean_j k(y_j, .)."""
    weights = torch.cat([x.new_full((len(x),), 1 / len(x)), y.new_full((len(y),), -1 / len(y))])
    return KernelField(kernel, torch.cat([x, y]), weights)


def mmd2(kernel: Kernel, x: Tensor, y: Tensor) -> float:
    """The biased one, which is the limit of KALE."""
    return (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()).item()


def reported(x: Tensor, y: Tensor, kinds: Iterable[Kind], seed: int, **options: float) -> dict[Kind, Found]:
    found = divergences(x, y, list(kinds), Options(**options), make_generator(seed, "gallery"))
    return {f.kind: f for f in found}


def table(heading: list[str], rows: Iterable[Iterable[object]]) -> None:
    texts = [heading, *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))


def figure(width: float = 9.0, height: float = 4.2) -> Figure:
    made = Figure(figsize=(width, height), dpi=100, layout="constrained")
    made.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    return made


def tell(axes: Axes, x: float, y: float, text: str, colour: str, **options: object) -> None:
    """A label beside what it names."""
    axes.annotate(text, (x, y), color=colour, **({"va": "center", "fontsize": 10} | options))


def heading(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=11)


# ---------------------------------------------------------------------------------------------------- disjoint supports


def disjoint(seed: int) -> Figure:
    """Two parallel segments, 400 points each, fresh at every distance; Gaussian kernel of bandwidth .5, lam 1."""
    n, width, lam = 400, 0.5, 1.0
    generator = make_generator(seed, "gallery.disjoint")
    deltas, found = [0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0], []
    samples = []
    for delta in deltas:
        x, y = (
            torch.cat([torch.full((n, 1), at, dtype=FLOAT), torch.rand(n, 1, generator=generator, dtype=FLOAT)], 1)
            for at in (delta, 0.0)
        )
        samples.append((x, y))
        found.append(reported(x, y, ["kl", "js", "tv", "w1", "mmd", "kale"], seed, bandwidth=width, regularisation=lam))
    table(
        ["delta", "KL", "JS", "TV", "W1", "MMD^2", "KALE"],
        [
            [
                d,
                *(
                    f"inf (>= {f[k].at_least:.2g})"
                    if f[k].infinite
                    else f"{f[k].value:.3f} +- {f[k].standard_error:.3f}"
                    for k in ("kl", "js", "tv", "w1", "mmd", "kale")
                ),
            ]
            for d, f in zip(deltas, found, strict=True)
        ],
    )
    made = figure()
    supports, strong, weak = made.subplots(1, 3, width_ratios=[0.55, 1, 1])
    x, y = samples[deltas.index(0.5)]
    for sample, colour, name in ((y, B, "Q"), (x, A, "P")):
        supports.plot(*sample[::3].T, ".", color=colour, markersize=3)
        tell(supports, sample[0, 0].item(), 1.07, name, colour, ha="center", fontsize=12)
    supports.annotate("", (0.5, 0.5), (0, 0.5), arrowprops={"arrowstyle": "<->", "color": INK})
    tell(supports, 0.25, 0.56, "δ", INK, ha="center", fontsize=13)
    supports.set(xlim=(-0.25, 0.75), ylim=(-0.05, 1.15), xticks=[0, 0.5], yticks=[0, 1])
    heading(supports, "Two parallel segments")

    for value, name, colour in (
        (1.25, "KL(P ‖ Q) = ∞", WINE),
        (1.0, "TV = 1", PINK),
        (math.log(2), "JS = log 2", GREEN),
    ):
        strong.plot([0, 1], [value, value], color=colour, linewidth=2, linestyle="--" if value > 1 else "-")
        strong.plot([0], [value], "o", color=colour, markerfacecolor="white", markersize=7, zorder=4, clip_on=False)
        tell(strong, 1.0, value + 0.05, name, colour, ha="right")
    strong.plot([0], [0], "o", color=INK, markersize=7, clip_on=False)
    tell(strong, 0.04, 0.03, "all three are 0 at δ = 0", INK)
    for kind, colour in (("tv", PINK), ("js", GREEN)):
        drawn(strong, deltas[1:], [f[kind] for f in found[1:]], colour, "o", "none")
    strong.axhline(1.14, color="0.8", linewidth=0.8)
    strong.set(ylim=(-0.04, 1.4), yticks=[0, 0.5, 1], xlabel="distance δ of the supports")
    heading(strong, "Strong: they do not see the distance")

    for kind, name, colour, marker, place in (
        ("mmd", "MMD²", GREY, "^", (1.03, 1.31)),
        ("w1", "W₁", ORANGE, "o", (1.03, 0.99)),
        ("kale", "KALE", BLUE, "s", (1.03, 1.09)),
    ):
        drawn(weak, deltas, [f[kind] for f in found], colour, marker, "-")
        tell(weak, *place, name, colour)
    weak.set(xlabel="distance δ of the supports", xlim=(-0.05, 1.2), xticks=np.linspace(0, 1, 6))
    heading(weak, "Weak: they fall with the distance")
    for axes in (supports, strong, weak):
        plain(axes)
    return made


def drawn(axes: Axes, at: list[float], found: list[Found], colour: str, marker: str, style: str) -> None:
    values, errors = [f.value for f in found], [f.standard_error for f in found]
    axes.errorbar(
        at, values, errors, color=colour, marker=marker, markersize=5, linestyle=style, linewidth=1.6, capsize=2
    )


# ------------------------------------------------------------------------------------------------------- narrow kernels


def narrow_kernel(seed: int) -> Figure:
    """Particles at -1.5, data at 1.5, standard deviation .3: the witness of MMD for three bandwidths, and how hard it pulls."""
    widths, lam, cloud, grid = (0.1, 0.6, 2.0), 0.1, at_quantiles(200, scale=0.3), line(-3, 3)
    made = figure(9, 4.8)
    left, right = made.subfigures(1, 2, width_ratios=[1.2, 1])
    for axes, width in zip(left.subplots(len(widths), sharex=True), widths, strict=True):
        forces(axes, mean_difference(Gaussian(width), cloud - 1.5, cloud + 1.5), cloud - 1.5, grid)
        tell(axes, 0.98, 0.88, f"bandwidth {width:g}", INK, xycoords="axes fraction", ha="right")
        for at, text, colour in ((-1.5, "particles", A), (1.5, "data", B)):
            axes.plot(
                cloud[::4] + at,
                np.full(50, -0.02),
                "|",
                color=colour,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
            if width == widths[0]:
                tell(axes, at, 1.1, text, colour, xycoords=("data", "axes fraction"), ha="center")
        axes.tick_params(axis="x", pad=6)
    left.suptitle("Witness of MMD, and the force on each particle", x=0.02, ha="left", fontsize=11)
    distances = np.linspace(0.25, 6, 24)
    pulls = {
        "distance": [float(d) for d in distances],
        "energy distance": [pull(EnergyDistance(), cloud - d, cloud) for d in distances],
    }
    for width in widths:
        pulls[f"MMD {width:g}"] = [pull(Gaussian(width), cloud - d, cloud) for d in distances]
        problem = KaleProblem(cloud, Gaussian(width), lam)
        pulls[f"KALE {width:g}"] = [
            -(1 + lam) * problem.solve(cloud - d).field.value_and_grad(cloud - d)[1].mean().item() for d in distances
        ]
    axes = right.subplots()
    for colour, (name, values) in zip(
        (INK, PINK, PINK, GREEN, GREEN, BLUE, BLUE), list(pulls.items())[1:], strict=True
    ):
        shown = np.where(np.array(values) > 1e-8, values, np.nan)  # below, it is rounding
        axes.plot(distances, shown, color=colour, linewidth=2, linestyle="--" if name.startswith("KALE") else "-")
    for text, at, height, colour, side in (
        ("0.1", 1.4, 2e-3, PINK, "right"),
        ("0.6", 3.2, 5e-3, GREEN, "left"),
        ("bandwidth 2", 4.9, 0.035, BLUE, "right"),
        ("energy distance", 6.0, 0.68, INK, "right"),
        ("solid MMD, dashed KALE (λ = 0.1)", 6.0, 7.0, INK, "right"),
    ):
        tell(axes, at, height, text, colour, ha=side)
    axes.set(yscale="log", ylim=(1e-4, 10), xlabel="distance of particles and data")
    heading(axes, "Mean pull towards the data")
    table(list(pulls), list(zip(*pulls.values(), strict=True))[3::4])
    plain(axes)
    return made


def forces(axes: Axes, field: Field, x: Tensor, grid: Tensor) -> None:
    """The witness, blue where the particles have more mass, and at some particles x the force, minus its gradient."""
    values, at = field.value(grid).numpy(), x[len(x) // 10 :: len(x) // 5]
    line = grid[:, 0].numpy()
    for sign, colour in ((1, A), (-1, B)):
        axes.fill_between(line, values, where=sign * values > 0, color=colour, alpha=0.18, linewidth=0)
    axes.plot(line, values, color=INK, linewidth=1.6)
    height, slope = field.value_and_grad(at)
    axes.quiver(at, height, -slope, 0 * slope, color=A, angles="xy", scale_units="xy", scale=0.8, width=0.007, zorder=3)
    limit = 1.4 * np.abs(values).max()
    axes.set(ylim=(-limit, limit), xlim=(line[0], line[-1]), yticks=[0])
    plain(axes)


def pull(kernel: Kernel, x: Tensor, y: Tensor) -> float:
    """The mean force of MMD's witness on x; the forces of particles on each other cancel in it."""
    return -mean_difference(kernel, x, y).value_and_grad(x)[1].mean().item()


# --------------------------------------------------------------------------------------------------------- the smoothie


def smoothie(seed: int) -> Figure:
    """P and Q uniform on intervals of length .5, P shifted by delta; the kernel is Gaussian of bandwidth .5."""
    kernel, y, grid = Gaussian(0.5), 0.5 * (line(0, 1, 200) - 0.5), line(-1.2, 3.2)
    shifts, lams = (2.0, 1.0, 0.5), (0.01, 0.1, 1.0)
    made = figure(9, 4.8)
    left, right = made.subfigures(1, 2, width_ratios=[1.55, 1])
    panels = left.subplots(len(lams), len(shifts), sharex=True, sharey="row")
    for row, lam in zip(panels, lams, strict=True):
        for axes, shift in zip(row, shifts, strict=True):
            solution = KaleProblem(y, kernel, lam).solve(y + shift)
            for at, colour in ((shift, A), (0.0, B)):
                axes.axvspan(at - 0.25, at + 0.25, color=colour, alpha=0.25, linewidth=0)
            axes.plot(grid, solution.field.value(grid), color=INK, linewidth=1.8)
            axes.margins(y=0.27)
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.set_title(f"δ = {shift:g}: KALE {solution.value:.3g}", fontsize=10)
            plain(axes)
        row[0].set_ylabel(f"λ = {lam:g}")
    for axes, shift in zip(panels[0], shifts, strict=True):
        for at, text, colour in ((0.0, "Q", B), (shift, "P", A)):
            tell(axes, at, 0.91, text, colour, xycoords=("data", "axes fraction"), ha="center")
    left.suptitle("Witness h of KALE as P approaches Q", x=0.02, ha="left", fontsize=11)
    axes, deltas = right.subplots(), np.concatenate([[0.0], np.geomspace(0.03, 2.2, 30)])
    curves: dict[str, list[float]] = {"delta": deltas.tolist()}
    for colour, lam in zip((WINE, VERMILION, GREEN, BLUE), (0.001, 0.01, 0.1, 1.0), strict=True):
        problem = KaleProblem(y, kernel, lam)
        values = [problem.solve(y + delta).value for delta in deltas]
        curves[f"lam {lam:g}"] = values
        axes.plot(deltas[1:], values[1:], color=colour, linewidth=2)
        tell(axes, 2.25, values[-1], f"λ = {lam:g}", colour)
    tell(axes, 1.4, 2000, "KL(P ‖ Q) = ∞ at every δ > 0", "0.4", ha="center")
    axes.set(yscale="log", ylim=(1e-3, 4e3), xlim=(0, 2.9), xticks=[0, 0.5, 1, 1.5, 2], xlabel="distance δ of P and Q")
    heading(axes, "KALE against the distance")
    plain(axes)
    table(list(curves), list(zip(*curves.values(), strict=True))[::5])
    return made


# ----------------------------------------------------------------------------------------------------------- both limits


def limits(seed: int) -> Figure:
    """On five atoms that P and Q share, and on samples of two Gaussians, which share none; bandwidth 1."""
    made = figure()
    discrete, sampled = made.subplots(1, 2, width_ratios=[1, 1.1])
    counts = np.array([[8, 5, 3, 2, 2], [2, 3, 5, 6, 4]])
    x, y = (torch.from_numpy(np.repeat(np.arange(5.0), c))[:, None] for c in counts)
    kernel, lams = Gaussian(1.0), np.logspace(-5, 4, 37)
    kl, half = float(rel_entr(*counts / 20).sum()), mmd2(kernel, x, y) / 2
    values = np.array([KaleProblem(y, kernel, lam).solve(x, tolerance=1e-12).value for lam in lams])
    discrete.plot(lams, np.minimum((1 + lams) * kl, 9), color=WINE, linewidth=1, linestyle=":")
    discrete.plot(lams, np.minimum((1 + lams) / lams * half, 9), color=GREEN, linewidth=1, linestyle=":")
    tell(discrete, 0.1, 0.54, "(1 + λ) KL", WINE, ha="right")
    tell(discrete, 0.5, 0.54, "(1 + 1/λ) MMD²/2", GREEN)
    discrete.set(ylim=(0, 0.58), ylabel="KALE")
    heading(discrete, "Five atoms that P and Q share")
    discrete.plot(lams, values, color=BLUE, linewidth=2.2)
    print(f"five atoms: KL {kl:.5f}, MMD^2 / 2 {half:.5f}")
    table(["lam", "KALE"], list(zip(lams.tolist(), values.tolist(), strict=True))[::4])

    mean, scale, lams = 0.5, 0.8, np.logspace(-5, 3, 17)
    closed = -math.log(scale) + (scale**2 + mean**2 - 1) / 2
    far = gaussian_mmd2(mean, scale, 1.0) / 2
    rows = [lams.tolist()]
    for n, repeats, colour, place in (
        (50, 60, SKY, (6e-4, 0.37)),
        (200, 30, BLUE, (3e-5, 0.25)),
        (800, 8, INK, (2e-5, 0.14)),
    ):
        generator = make_generator(seed, f"gallery.limits.{n}")
        found = np.array([sampled_kale(n, mean, scale, lams, generator) for _ in range(repeats)])
        middle, error = found.mean(0), found.std(0, ddof=1) / math.sqrt(repeats)
        sampled.fill_between(lams, middle - error, middle + error, color=colour, alpha=0.3, linewidth=0)
        sampled.plot(lams, middle, color=colour, linewidth=2)
        tell(sampled, *place, f"n = {n}", colour)
        rows += [middle.tolist(), error.tolist()]
    print(
        f"N({mean}, {scale}^2) and N(0, 1): KL {closed:.5f}, MMD^2 / 2 {far:.5f}; means over 60, 30 and 8 pairs of samples"
    )
    table(["lam", "n = 50", "+-", "n = 200", "+-", "n = 800", "+-"], list(zip(*rows, strict=True))[::2])
    sampled.set(ylim=(0, 0.58))
    heading(sampled, "Samples of two Gaussians, which share no atom")
    for axes, top, bottom in ((discrete, kl, half), (sampled, closed, far)):
        for value, colour in ((top, WINE), (bottom, GREEN)):
            axes.axhline(value, color=colour, linewidth=1.4, linestyle="--", zorder=0)
        axes.set(xscale="log", xlabel="regularisation λ")
        axes.set_xticks([1e-4, 1e-2, 1, 1e2])
        axes.set_xticks([], minor=True)
        plain(axes)
    tell(discrete, 1e4, kl + 0.018, "KL(P ‖ Q)", WINE, ha="right")
    tell(discrete, 1.5e-5, half - 0.02, "MMD²/2", GREEN)
    tell(sampled, 9e2, closed + 0.018, "KL(P ‖ Q)", WINE, ha="right")
    tell(sampled, 1.5e-5, far + 0.018, "MMD²/2", GREEN)
    return made


def sampled_kale(n: int, mean: float, scale: float, lams: np.ndarray, generator: torch.Generator) -> list[float]:
    x, y = (torch.randn(n, 1, generator=generator, dtype=FLOAT) for _ in range(2))
    values, start = [], None
    for lam in lams[::-1]:
        solution = KaleProblem(y, Gaussian(1.0), float(lam)).solve(mean + scale * x, start=start)
        values.append(solution.value)
        start = solution.log_ratio
    return values[::-1]


def gaussian_mmd2(mean: float, scale: float, width: float) -> float:
    """MMD^2 of N(mean, scale^2) and N(0, 1) in closed form."""

    def inner(shift: float, variance: float) -> float:
        return math.sqrt(width**2 / (width**2 + variance)) * math.exp(-(shift**2) / (2 * (width**2 + variance)))

    return inner(0, 2 * scale**2) + inner(0, 2) - 2 * inner(mean, 1 + scale**2)


# ----------------------------------------------------------------------------------------------- the Lipschitz witness


def lipschitz(seed: int) -> Figure:
    """Random pairs on a line: Gaussians, mixtures, intervals and points, 60 points each, kernel bandwidths .3 to 2."""
    generator = make_generator(seed, "gallery.lipschitz")

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=generator).item()

    laws: list[Callable[[], Tensor]] = [
        lambda: uniform(0.05, 1.5) * torch.randn(60, 1, generator=generator, dtype=FLOAT),
        lambda: uniform(0.1, 2) * torch.rand(60, 1, generator=generator, dtype=FLOAT),
        lambda: (
            uniform(0.5, 3) * torch.randint(3, (60, 1), generator=generator).to(FLOAT)
            + 0.1 * torch.randn(60, 1, generator=generator, dtype=FLOAT)
        ),
        lambda: torch.zeros(1, 1, dtype=FLOAT),
    ]
    found: dict[float, list[tuple[float, float]]] = {0.01: [], 0.1: [], 1.0: []}
    for k in range(160):
        x, y = (laws[i]() + 10 ** uniform(-2.5, 0.6) * (side == 0) for side, i in enumerate((k % 4, k // 4 % 4)))
        grid = line(min(x.min(), y.min()).item(), max(x.max(), y.max()).item(), 1001)
        distance, width = wasserstein_distance(x[:, 0], y[:, 0]), uniform(0.3, 2)
        for lam, pairs in found.items():
            solution = KaleProblem(y, Gaussian(width), lam).solve(x)
            steepest = solution.field.value_and_grad(grid)[1].abs().max().item()
            pairs.append((steepest * distance, solution.value / (1 + lam)))
    made = figure(6.6, 5)
    axes = made.subplots()
    ends = np.array([1e-5, 1e3])
    axes.fill_between(ends, ends, [1e3, 1e3], color="0.93", linewidth=0)
    axes.plot(ends, ends, color=INK, linewidth=1.4)
    rows = []
    for (lam, pairs), colour, marker in zip(found.items(), (VERMILION, GREEN, BLUE), "o^s", strict=True):
        right, left = np.array(pairs).T
        axes.plot(right, left, marker, color=colour, markersize=4.5, alpha=0.75, markeredgewidth=0)
        share = left / right
        rows.append(
            [
                lam,
                len(left),
                int((left < ends[0]).sum()),
                *(float(v) for v in (share.min(), np.median(share), share.max())),
            ]
        )
    table(["lam", "pairs", "off the plot", "least KALE / ((1 + lam) L W1)", "median", "largest"], rows)
    for k, (lam, colour, shape) in enumerate(zip(found, (VERMILION, GREEN, BLUE), "●▲■", strict=True)):
        tell(
            axes,
            0.97,
            0.22 - 0.065 * k,
            f"{shape} λ = {lam:g}",
            colour,
            xycoords="axes fraction",
            ha="right",
            fontsize=11,
        )
    tell(axes, 0.04, 0.93, "no pair can lie here", "0.4", xycoords="axes fraction")
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="L W₁(P, Q), L = max |h′|", ylabel="KALE / (1 + λ)"
    )
    heading(axes, "Random pairs on a line")
    plain(axes)
    return made


# ---------------------------------------------------------------------------------------------------------- mode collapse


def mode_collapse(seed: int) -> Figure:
    """N(0, s^2) and N(0, 1): densities and witnesses at s = .3, and the divergences against s in both directions."""
    s, n, width, lam = 0.3, 1000, 0.5, 0.1
    generator, grid = make_generator(seed, "gallery.mode-collapse"), line(-3, 3)
    made = figure(9, 6)
    above, below = made.subfigures(2, 1, height_ratios=[1, 1.25])
    collapsed, full = (scale * torch.randn(n, 1, generator=generator, dtype=FLOAT) for scale in (s, 1.0))
    found = reported(collapsed, full, ["mmd", "kale", "kl"], seed, bandwidth=width, regularisation=lam)
    densities, of_mmd, of_kale = above.subplots(1, 3)
    along = grid[:, 0].numpy()
    for scale, colour, name, place in ((s, A, "P, collapsed", (0.45, 1.0)), (1.0, B, "Q, full", (1.15, 0.3))):
        density = norm.pdf(along, scale=scale)
        densities.fill_between(along, density, color=colour, alpha=0.25, linewidth=0)
        densities.plot(along, density, color=colour, linewidth=1.6)
        tell(densities, *place, name, colour)
    heading(densities, "Densities")
    witness, field = found["mmd"].field, found["kl"].field
    of_mmd.plot(along, witness.value(grid), color=GREY, linewidth=2)
    heading(of_mmd, "Witness of MMD")
    truth = -math.log(s) + along**2 / 2 * (1 - 1 / s**2)
    of_kale.plot(along, truth, color=INK, linewidth=1.2, linestyle=":")
    of_kale.plot(along, field.value(grid), color=WINE, linewidth=2)
    of_kale.plot(along, found["kale"].field.value(grid), color=BLUE, linewidth=2)
    of_kale.set_ylim(-8, 3)
    tell(of_kale, 3, -1.1, "KALE", BLUE, ha="right")
    tell(of_kale, 3, -5.5, "critic", WINE, ha="right")
    tell(of_kale, 1.45, -7.5, "exact", INK)
    heading(of_kale, "Witness for log dP/dQ")
    for axes in (densities, of_mmd, of_kale):
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        plain(axes)
    directions(below, seed, n, width, lam)
    return made


def directions(figure: SubFigure, seed: int, n: int, width: float, lam: float) -> None:
    """Left what is not symmetric, right what is; lines are exact, points estimates."""
    unequal, equal = figure.subplots(1, 2)
    scales = np.linspace(0.1, 1, 37)
    forward, backward = (scales**2 - 1) / 2 - np.log(scales), (scales**-2.0 - 1) / 2 + np.log(scales)
    points = at_quantiles(400)
    there = [KaleProblem(points, Gaussian(width), lam).solve(k * points).value for k in scales]
    back = [KaleProblem(k * points, Gaussian(width), lam).solve(points).value for k in scales]
    for values, colour, style in ((forward, WINE, "-"), (backward, WINE, "--"), (there, BLUE, "-"), (back, BLUE, "--")):
        unequal.plot(scales, values, color=colour, linewidth=2, linestyle=style)
    equal.plot(scales, (1 - scales) * math.sqrt(2 / math.pi), color=ORANGE, linewidth=2)
    equal.plot(scales, [gaussian_mmd2(0, k, width) for k in scales], color=GREY, linewidth=2)
    equal.plot(scales, [total_variation(k) for k in scales], color=PINK, linewidth=2)
    equal.plot(scales, [jensen_shannon(k) for k in scales], color=GREEN, linewidth=2)
    rows = []
    for s in (0.2, 0.35, 0.5, 0.7):
        generator = make_generator(seed, f"gallery.mode-collapse.{s}")
        pair = [k * torch.randn(n, 1, generator=generator, dtype=FLOAT) for k in (s, 1.0)]
        for sides, fill, name in ((pair, True, "P || Q"), (pair[::-1], False, "Q || P")):
            each = reported(*sides, ["kl", "js", "tv", "w1", "mmd", "kale"], seed, bandwidth=width, regularisation=lam)
            for kind, colour in (
                ("kl", WINE),
                ("kale", BLUE),
                ("w1", ORANGE),
                ("mmd", GREY),
                ("tv", PINK),
                ("js", GREEN),
            ):
                f, axes = each[kind], unequal if kind in ("kl", "kale") else equal
                if fill or axes is unequal:
                    options = {"markerfacecolor": colour if fill else "white", "markersize": 5.5, "capsize": 2}
                    axes.errorbar([s], [f.value], [f.standard_error], color=colour, marker="o", zorder=3, **options)
            exact = (s * s - 1) / 2 - math.log(s) if fill else (s**-2.0 - 1) / 2 + math.log(s)
            rows.append([s, name, exact, *(f"{f.value:.3f} +- {f.standard_error:.3f}" for f in each.values())])
    table(["s", "", "exact KL", "KL", "JS", "TV", "W1", "MMD^2", "KALE"], rows)
    for axes, text, height, colour in (
        (unequal, "KL(Q ‖ P)", 47, WINE),
        (unequal, "KL(P ‖ Q)", 1.9, WINE),
        (unequal, "KALE", 0.82, BLUE),
        (equal, "W₁", 0.72, ORANGE),
        (equal, "TV", 0.80, PINK),
        (equal, "MMD²", 0.385, GREY),
        (equal, "JS", 0.445, GREEN),
    ):
        tell(axes, 0.08, height, text, colour, ha="right")
    tell(unequal, 0.0, 0.011, "lines exact, points\nestimates, n = 1,000", "0.4")
    unequal.set(yscale="log", ylim=(5e-3, 80))
    equal.set(ylim=(0, 0.9))
    heading(unequal, "Not symmetric: from P to Q solid, back dashed")
    heading(equal, "Symmetric")
    for axes in (unequal, equal):
        axes.set(xlim=(-0.15, 1.03), xticks=np.linspace(0.2, 1, 5), xlabel="standard deviation s of P")
        plain(axes)


def total_variation(s: float) -> float:
    if s == 1:
        return 0.0
    edge = math.sqrt(-2 * math.log(s) / (s**-2 - 1))  # where the densities cross
    return 2 * (norm.cdf(edge / s) - norm.cdf(edge))


def jensen_shannon(s: float) -> float:
    def density(t: float) -> float:
        p, q = norm.pdf(t, scale=s), norm.pdf(t)
        return 0.5 * float(rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2))

    return 2 * quad(density, 0, 10, points=[s, 3 * s])[0]


FIGURES: dict[str, Callable[[int], Figure]] = {
    "disjoint": disjoint,
    "narrow-kernel": narrow_kernel,
    "smoothie": smoothie,
    "limits": limits,
    "lipschitz": lipschitz,
    "mode-collapse": mode_collapse,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    made = FIGURES[asked.figure](asked.seed)
    made.savefig(asked.out or Path(f"docs/images/gallery-{asked.figure}.png"), pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
