"""MMD GANs on two points: the data are at 0, the base at theta, and the critic's feature is phi(x) = psi x.

    python tests/benchmarks/dirac_gan.py [--out docs/images/dirac_gan.png]

After Mescheder et al. (2018) and the vector fields of Arbel et al. (2018, figure 1), by the package's own objectives and steps of
plain gradient descent. Prints where trajectories end; above, what the critic maximises over (theta, psi) with these
trajectories; below, the same with the best psi in [-R, R], which is what a base sees of a critic trained to the end.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd
from gebm_cli.core.objectives.penalties import Penalty, squared_jacobian
from gebm_cli.core.training.optimise import Method, base_step, critic_step

KERNEL = Gaussian(1.0)
METHODS = {
    "MMD": Method(Mmd(KERNEL), Penalty(weight=0.0)),
    "MMD, zero-centred penalty": Method(Mmd(KERNEL), Penalty("zero-centred", 1.0)),
    "scaled MMD": Method(ScaledMmd(KERNEL), Penalty(weight=0.0)),
}
STARTS = [(1.0, 0.5), (-1.5, 1.0), (2.0, 2.0)]
SMALL, LARGE = (0.1, 1), (0.5, 5)  # learning rate of both, critic steps for each base step
N = 2  # points on a side: the unbiased estimate takes off the diagonal, and of repeated points any number gives the exact MMD


class Point(nn.Module):
    """B(z) = theta."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(len(z), 1)


class Line(nn.Module):
    """phi(x) = psi x."""

    def __init__(self, psi: float | Tensor) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.as_tensor(psi))

    def forward(self, x: Tensor) -> Tensor:
        return self.psi * x


def trajectory(
    method: Method, start: tuple[float, float], steps: int, lr: float, critic_steps: int = 1, alternating: bool = False
) -> Tensor:
    """(theta, psi) after 0, 1, ... steps of gradient descent, (steps + 1, 2); the base's step is taken against the critic from
    before the critic's steps, or, alternating, against the one from after them."""
    base, energy = Point(start[0]), Energy(Line(start[1]))
    prior, data, generator = NormalPrior(1), torch.zeros(N, 1), torch.Generator().manual_seed(0)
    of_base, of_critic = (torch.optim.SGD(m.parameters(), lr) for m in (base, energy.network))
    points = [start]
    for _ in range(steps):
        seen = energy if alternating else copy.deepcopy(energy)
        for _ in range(critic_steps):
            critic_step(energy, base, prior, data, of_critic, method, generator)
        base_step(base, seen, prior, N, of_base, method, generator, data)
        points.append((base.theta.item(), energy.network.psi.item()))
    return torch.tensor(points)


def critic_value(method: Method, theta: float, psi: float) -> float:
    """What the critic maximises at (theta, psi), in float64: the scaled value less the penalty, its mean over interpolates."""
    line = Line(torch.tensor(psi, dtype=torch.float64))
    x = torch.zeros(N, 1, dtype=torch.float64)
    y = torch.full_like(x, theta)
    objective, penalty = method.objective, method.penalty
    value = objective.value(line(x), line(y))
    if objective.scaled:
        value = value * objective.scale(squared_jacobian(line, x, lambda k: x.new_ones(N, k)), line(x))
    if penalty.weight:
        a = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
        at = penalty.points(x[:1].expand(200, 1), y[:1].expand(200, 1), a)
        value = value - penalty.weight * penalty.of(lambda p: objective.witness(line(p), line(x), line(y)), at).mean()
    return value.item()


def best_values(method: Method, thetas: Tensor, largest: float, n: int = 60) -> Tensor:
    """The largest value over n psi in [0, largest], denser near 0, for each theta; values are even in psi."""
    psis = largest * torch.linspace(0, 1, n, dtype=torch.float64).square()
    return torch.tensor([max(critic_value(method, t, p) for p in psis.tolist()) for t in thetas.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    ends: dict[tuple[str, tuple[float, int]], list[Tensor]] = {}
    print("| method | rate, critic steps | start (theta, psi) | end | steps |\n| --- | --- | --- | --- | --- |")
    for name, method in METHODS.items():
        for setting in (SMALL, LARGE):
            for start in STARTS:
                path = trajectory(method, start, 400 if setting == SMALL else 100, *setting, setting == LARGE)
                ends.setdefault((name, setting), []).append(path)
                theta, psi = path[-1].tolist()
                row = f"| {name} | {setting[0]}, {setting[1]} | {start} | ({theta:.2g}, {psi:.3g}) | {len(path) - 1} |"
                print(row, flush=True)
    if out is not None:
        draw(ends, out)


def draw(paths: dict[tuple[str, tuple[float, int]], list[Tensor]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.4), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(METHODS))
    theta, psi = torch.linspace(-2.5, 2.5, 51), torch.linspace(-1, 5.2, 56)
    fine = torch.linspace(-1.5, 1.5, 61)
    for (name, method), top, bottom in zip(METHODS.items(), *axes, strict=True):
        surface = torch.tensor([[critic_value(method, t, p) for t in theta.tolist()] for p in psi.tolist()])
        # With the penalty it falls far below 0; what matters is where the critic gains.
        levels = torch.linspace(max(-0.5, surface.min().item()), surface.max().item(), 17)
        shades = top.contourf(theta, psi, surface.clamp(min=levels[0].item()), levels=levels, cmap="Blues")
        figure.colorbar(shades, ax=top, label="value for the critic", format="%.2g")
        for setting, style, colour in ((SMALL, "-", "tab:orange"), (LARGE, "--", "tab:red")):
            for path in paths[name, setting]:
                top.plot(*path.T, style, color=colour, linewidth=1.3)
                top.plot(*path[0], "o", color="black", markersize=4)
                top.plot(*path[-1], "X", color=colour, markersize=8, markeredgecolor="black", clip_on=False)
        top.axvline(0, color="grey", linewidth=0.6)
        top.set(xlabel="base theta", ylabel="critic psi", title=name, xlim=(-2.5, 2.5), ylim=(-1, 5.2))
        for largest, colour in ((2.0, "lightsteelblue"), (8.0, "cornflowerblue"), (32.0, "navy")):
            bottom.plot(fine, best_values(method, fine, largest), color=colour, label=f"R = {largest:g}")
        bottom.set(xlabel="base theta", ylabel="value at the best psi in [-R, R]", ylim=(0, None))
        bottom.legend(frameon=False, loc="lower right")
        bottom.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "Dots: starts, crosses: ends. Orange: rate .1, one critic step (400 steps); red: rate .5, five critic steps (100).\n"
        "Below: as R grows, MMD^2 at the best critic becomes a jump at theta = 0; the other two stay smooth.",
        fontsize=10,
    )
    figure.savefig(out)


if __name__ == "__main__":
    main()
