"""Points in the plane from known laws: mixtures, curves, shapes, a thin support with uneven mass, and y given x."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.device import make_generator


def draw_toy(
    name: str,
    n: int,
    noise_std: float,
    generator: torch.Generator,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """n points (n, 2) of the toy and the label of the component each came from (n,).

    Points are scale * s + noise_std * noise + shift with s on the toy's support, so `noise_std` is a distance whatever the scale.
    The conditional toys have a condition x ~ U(-1, 1), without noise, in column 0, and y given x in column 1.
    """
    noise = noise_std / scale
    if name in _CONDITIONALS:
        x = 2 * torch.rand(n, generator=generator) - 1
        y, labels = _CONDITIONALS[name](x, noise, generator)
        points = torch.stack([x, y], 1)
    else:
        points, labels = _SUPPORTS[name](n, generator)
        points = points + noise * torch.randn(n, 2, generator=generator)
    moved = shift != (0.0, 0.0) or scale != 1.0
    return points * scale + torch.tensor(shift) if moved else points, labels


def toy_dataset(
    name: str, n: int, noise_std: float, seed: int, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0
) -> Dataset:
    """`n` training points and min(n, 10,000) held-out points, by two independent streams of `seed`.

    The first six toys, where they are not moved, share those streams; every other law has its own, so that a sample and one of a
    moved law are independent at one seed too.
    """
    shares = name in FIRST and shift == (0.0, 0.0) and scale == 1.0
    own = () if shares else (f"{name} {n} {float(noise_std)} {float(shift[0])} {float(shift[1])} {float(scale)}",)
    parts = [
        draw_toy(name, size, noise_std, make_generator(seed, "toy", *own, part), shift, scale)
        for part, size in (("train", n), ("held-out", min(n, 10_000)))
    ]
    (train, labels), (held_out, held_out_labels) = parts
    return Dataset(name, train, held_out, labels, held_out_labels)


def on_circle(angle: Tensor) -> Tensor:
    """Points of the unit circle at these angles, (n,) -> (n, 2)."""
    return torch.stack([angle.cos(), angle.sin()], 1)


def _ring(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """8 centres on the unit circle, equally likely."""
    labels = torch.randint(8, (n,), generator=generator)
    return on_circle(labels * (2 * math.pi / 8)), labels


def _grid(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """25 centres on {-1, -1/2, 0, 1/2, 1}^2, equally likely."""
    labels = torch.randint(25, (n,), generator=generator)
    return torch.stack([labels // 5, labels % 5], 1) / 2.0 - 1.0, labels


def _two_moons(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles, centred at the origin."""
    labels = torch.randint(2, (n,), generator=generator)
    half = on_circle(math.pi * torch.rand(n, generator=generator))
    lower = torch.stack([1.0 - half[:, 0], 0.5 - half[:, 1]], 1)
    return torch.where(labels[:, None] == 1, lower, half) - torch.tensor([0.5, 0.25]), labels


def _thin_manifold(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The unit circle with density (1 + .9 cos(angle)) / (2 pi), by inverting the distribution function numerically.

    A base that is uniform on the circle (kind `circle`) has the right support and the wrong mass (Gretton's slides).
    """
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)
    distribution = (grid + math.pi + 0.9 * grid.sin()) / (2 * math.pi)
    angle = _inverted(grid, distribution, torch.rand(n, generator=generator, dtype=torch.float64))
    return on_circle(angle.float()), (angle > 0).long()


def _inverted(grid: Tensor, distribution: Tensor, u: Tensor) -> Tensor:
    """Where a distribution function, given on a grid (g,) and linear between, is u (n,)."""
    right = torch.searchsorted(distribution, u).clamp(1, len(grid) - 1)
    low, high = distribution[right - 1], distribution[right]
    return grid[right - 1] + (grid[right] - grid[right - 1]) * (u - low) / (high - low)


def _gaussian(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """N(0, I): moved, two disjoint Gaussians; scaled, the pair of a mode collapse. The label is 0."""
    return torch.randn(n, 2, generator=generator), torch.zeros(n, dtype=torch.long)


def _segment(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(0, u) with u ~ U(0, 1): with a shift (c, 0), the parallel lines of Arjovsky et al. (2017, example 1). The label is 0."""
    u = torch.rand(n, generator=generator)
    return torch.stack([torch.zeros(n), u], 1), torch.zeros(n, dtype=torch.long)


def _three_rings(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform on three circles of radius .3 one under the other, equally likely (Glaser et al. 2021, section 5)."""
    labels = torch.randint(3, (n,), generator=generator)
    ring = 0.3 * on_circle(2 * math.pi * torch.rand(n, generator=generator))
    return ring + torch.stack([torch.zeros(n), -0.75 * labels], 1), labels


def _heart(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform on the solid heart x^2 + (y - |x|^(2/3))^2 <= 1, moved to have mean 0. The label is 0.

    It is the unit disc sheared by |x|^(2/3), which keeps areas; E |x|^(2/3) over the disc is (2 / pi) B(5/6, 3/2).
    """
    radius = torch.rand(n, generator=generator).sqrt()
    disc = radius[:, None] * on_circle(2 * math.pi * torch.rand(n, generator=generator))
    centre = 2 / math.pi * math.gamma(5 / 6) * math.gamma(3 / 2) / math.gamma(7 / 3)
    x, y = disc[:, 0], disc[:, 1]
    return torch.stack([x, y + x.abs() ** (2 / 3) - centre], 1), torch.zeros(n, dtype=torch.long)


def _spiral(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform in arc length on the two turns of r = angle / (4 pi), from the origin to (1, 0). The label is 0."""
    grid = torch.linspace(0, 4 * math.pi, 4001, dtype=torch.float64)
    length = grid * (1 + grid.square()).sqrt() + grid.asinh()
    angle = _inverted(grid, length / length[-1], torch.rand(n, generator=generator, dtype=torch.float64))
    return (angle[:, None] / (4 * math.pi) * on_circle(angle)).float(), torch.zeros(n, dtype=torch.long)


def _conditional_sine(x: Tensor, noise_std: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """y | x ~ N(sin(pi x), (noise_std (2 + x))^2): one mode, whose noise triples from left to right. The label is 0."""
    noise = noise_std * (2 + x) * torch.randn(len(x), generator=generator)
    return (math.pi * x).sin() + noise, torch.zeros(len(x), dtype=torch.long)


def _conditional_branches(x: Tensor, noise_std: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """y | x = s m + noise_std n with m = x^2 + 1/4, n ~ N(0, 1), s = +-1, P(s = 1) = 1/2 + x/4. The label is 1 where s = 1.

    So E[y | x] = m x / 2 and Var[y | x] = m^2 (1 - x^2 / 4) + noise_std^2.
    """
    upper = torch.rand(len(x), generator=generator) < 0.5 + x / 4
    sign = torch.where(upper, 1.0, -1.0)
    return sign * (x.square() + 0.25) + noise_std * torch.randn(len(x), generator=generator), upper.long()


_CONDITIONALS = {"conditional-sine": _conditional_sine, "conditional-branches": _conditional_branches}
_SUPPORTS = {
    "ring": _ring,
    "grid": _grid,
    "two-moons": _two_moons,
    "thin-manifold": _thin_manifold,
    "gaussian": _gaussian,
    "segment": _segment,
    "three-rings": _three_rings,
    "heart": _heart,
    "spiral": _spiral,
}
FIRST = ("ring", "grid", "two-moons", "thin-manifold", *_CONDITIONALS)  # whose streams are older than the rule
