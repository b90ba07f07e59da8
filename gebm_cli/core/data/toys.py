"""Points in the plane from known laws: ring, grid of Gaussians, two moons, a thin support with uneven mass, and y given x."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.device import make_generator


def draw_toy(name: str, n: int, noise_std: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n points (n, 2) of the toy and the label of the component each came from (n,).

    The conditional toys have a condition x ~ U(-1, 1), without noise, in column 0, and y given x in column 1.
    """
    if name in _CONDITIONALS:
        x = 2 * torch.rand(n, generator=generator) - 1
        y, labels = _CONDITIONALS[name](x, noise_std, generator)
        return torch.stack([x, y], 1), labels
    points, labels = _SUPPORTS[name](n, generator)
    return points + noise_std * torch.randn(n, 2, generator=generator), labels


def toy_dataset(name: str, n: int, noise_std: float, seed: int) -> Dataset:
    """`n` training points and min(n, 10,000) held-out points, by two independent streams of `seed`."""
    train, labels = draw_toy(name, n, noise_std, make_generator(seed, "toy", "train"))
    held_out, held_out_labels = draw_toy(name, min(n, 10_000), noise_std, make_generator(seed, "toy", "held-out"))
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
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    right = torch.searchsorted(distribution, u).clamp(1, len(grid) - 1)
    low, high = distribution[right - 1], distribution[right]
    angle = grid[right - 1] + (grid[right] - grid[right - 1]) * (u - low) / (high - low)
    return on_circle(angle.float()), (angle > 0).long()


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


_SUPPORTS = {"ring": _ring, "grid": _grid, "two-moons": _two_moons, "thin-manifold": _thin_manifold}
_CONDITIONALS = {"conditional-sine": _conditional_sine, "conditional-branches": _conditional_branches}
