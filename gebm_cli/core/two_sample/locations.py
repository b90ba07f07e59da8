"""Interpretable features for a two-sample test: test locations (ME) and frequencies (SCF), learned on a training split.

Both are trained by gradient ascent on the statistic they will be tested with (Jitkrittum et al. 2016), in time linear in the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.kernels import Gaussian, median_bandwidth
from gebm_cli.core.two_sample.feature_means import separation

STEPS = 200
RATE = 0.05
RIDGE = 1e-4  # in training only: without it, locations that coincide look better than they are
BATCH = 2000  # training rows of each sample in one step
SCALES = (1.0, 0.5, 0.25)  # bandwidths of the starts, in medians
CHUNK = 4096


@dataclass(frozen=True)
class MeanEmbedding:
    """phi_j(x) = exp(-|x - t_j|^2 / (2 bandwidth^2)) at test locations t (J, d) (Chwialkowski et al. 2015, section 3)."""

    locations: Tensor
    bandwidth: float

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (n, d) -> features (n, J) float64."""
        # Distances are a difference of squares: about a common centre they keep their digits.
        centre = self.locations.mean(0)
        kernel = Gaussian(self.bandwidth)
        return torch.cat([kernel(part.double() - centre, self.locations - centre) for part in rows.split(CHUNK)])


@dataclass(frozen=True)
class SmoothCharacteristic:
    """(l(x) sin w_j'(x - c), l(x) cos w_j'(x - c)), l(x) = exp(-|x - c|^2 / (2 bandwidth^2)), at frequencies w (J, d).

    Chwialkowski et al. (2015, section 3). Deviation: c is the mean of the training rows, theirs is the origin, far from which
    every feature would vanish.
    """

    frequencies: Tensor
    centre: Tensor
    bandwidth: float

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (n, d) -> features (n, 2J) float64."""
        return torch.cat(
            [_waves(part.double() - self.centre, self.frequencies, self.bandwidth) for part in rows.split(CHUNK)]
        )


def learn_mean_embedding(
    x: Tensor,
    y: Tensor,
    n_locations: int,
    generator: torch.Generator,
    steps: int = STEPS,
    scales: tuple[float, ...] = SCALES,
) -> MeanEmbedding:
    """ME features of training rows x (n, d), y (m, d): locations and bandwidth by Adam on T (Jitkrittum et al. 2016, section 3).

    A start for each of `scales`: that many medians as bandwidth, random training rows of both samples as locations; the one with
    the largest T on the training rows is kept. Deviation: the paper starts from two fitted normals, and pairs the rows (n = m).

    Raises:
        ValueError: fewer than 2 rows in one sample, or no location.
    """
    rows, centre, unit = _in_medians(x, y, n_locations)
    width = rows.shape[1]
    start = torch.stack([rows[_some_rows(len(x), len(y), n_locations, generator)] for _ in scales])
    locations, log_bandwidth = start.requires_grad_(), _log(scales, rows)

    def features(part: Tensor) -> Tensor:
        flat = locations.reshape(-1, width)
        squares = part.square().sum(1)[:, None] + flat.square().sum(1) - 2.0 * part @ flat.T
        squares = squares.clamp(min=0.0).reshape(len(part), len(scales), n_locations).movedim(1, 0)
        return torch.exp(-0.5 * squares * torch.exp(-2.0 * log_bandwidth)[:, None, None])

    best = _ascend(features, [(locations, RATE / width**0.5), (log_bandwidth, RATE)], rows, len(x), steps, generator)
    return MeanEmbedding(locations[best].detach() * unit + centre, log_bandwidth[best].exp().item() * unit)


def learn_characteristic(
    x: Tensor,
    y: Tensor,
    n_frequencies: int,
    generator: torch.Generator,
    steps: int = STEPS,
    scales: tuple[float, ...] = SCALES,
) -> SmoothCharacteristic:
    """SCF features of training rows x (n, d), y (m, d): frequencies and smoothing by Adam on T (Jitkrittum et al. 2016, section 3).

    A start for each of `scales`: normal frequencies of standard deviation 1 / (that many medians); l starts one median wide.

    Raises:
        ValueError: fewer than 2 rows in one sample, or no frequency.
    """
    rows, centre, unit = _in_medians(x, y, n_frequencies)
    width = rows.shape[1]
    shape = (len(scales), n_frequencies, width)
    steepness = 1.0 / torch.tensor(scales, dtype=rows.dtype, device=rows.device)[:, None, None]
    waves = torch.randn(shape, generator=generator, dtype=rows.dtype).to(rows.device).requires_grad_()
    log_bandwidth = _log((1.0,) * len(scales), rows)

    def features(part: Tensor) -> Tensor:
        each = zip(waves * steepness, log_bandwidth.exp(), strict=True)
        return torch.stack([_waves(part, w, b) for w, b in each])

    best = _ascend(features, [(waves, RATE / width**0.5), (log_bandwidth, RATE)], rows, len(x), steps, generator)
    frequencies = (waves * steepness)[best].detach() / unit
    return SmoothCharacteristic(frequencies, centre, log_bandwidth[best].exp().item() * unit)


def _waves(rows: Tensor, frequencies: Tensor, bandwidth: Tensor | float) -> Tensor:
    """The features of `SmoothCharacteristic` for centred rows (n, d) and frequencies (J, d), (n, 2J)."""
    phase = rows @ frequencies.T
    smooth = torch.exp(-0.5 * rows.square().sum(1, keepdim=True) / bandwidth**2)
    return smooth * torch.cat([phase.sin(), phase.cos()], dim=1)


def _in_medians(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    """The pooled rows centred and in units of their median distance, the centre (d,) and the unit."""
    if min(len(x), len(y)) < 2 or count < 1:
        raise ValueError(f"need 2 training rows of each sample and 1 feature, got {len(x)}, {len(y)} and {count}")
    pooled = torch.cat([x, y]).double()
    centre, unit = pooled.mean(0), median_bandwidth(pooled)
    return (pooled - centre) / unit, centre, unit


def _log(scales: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(scales, dtype=like.dtype, device=like.device).log().requires_grad_()


def _some_rows(n: int, m: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` row numbers, the first half of them of x, the rest of y, repeated only where there are too few rows."""
    order = torch.cat([torch.randperm(n, generator=generator), n + torch.randperm(m, generator=generator)])
    half = (count + 1) // 2
    return torch.cat([order[:n][torch.arange(half) % n], order[n:][torch.arange(count - half) % m]])


def _ascend(
    features: Callable[[Tensor], Tensor],
    parameters: list[tuple[Tensor, float]],
    rows: Tensor,
    n: int,
    steps: int,
    generator: torch.Generator,
) -> int:
    """Adam on the T of every start at once, features (starts, rows, J); returns the start whose T is largest at the end."""
    optimiser = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in parameters])
    for _ in range(steps):
        batch, n_batch = _batch(rows, n, generator)
        loss = -separation(features(batch), n_batch, RIDGE).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return int(separation(features(rows), n, RIDGE).argmax())


def _batch(rows: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """At most BATCH random rows of each sample, those of x first, and how many are of x."""
    m = len(rows) - n
    if max(n, m) <= BATCH:
        return rows, n
    first = torch.randperm(n, generator=generator)[:BATCH]
    second = n + torch.randperm(m, generator=generator)[:BATCH]
    return rows[torch.cat([first, second]).to(rows.device)], len(first)
