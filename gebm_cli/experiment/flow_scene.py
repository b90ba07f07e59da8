"""What `gebm flow` moves and to where: the particles at their start, the data as rows, and what lies between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Data, Dataset, to_float, to_uint8
from gebm_cli.core.data.toys import draw_toy
from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import MAX_BYTES
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import Gebm, load_gebm
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.sampleset import decode
from gebm_cli.experiment.schema import Flow
from gebm_cli.experiment.schema.flow import NormalSource

MOST_KALE = 2000  # data points of an exact KALE where n_data is not given: one dual then takes a second or less
MOST_NUMBERS = 10**8  # in the rows of data where n_data is not given: 400 MB
MOST_HELD_OUT = 5000
N_DECODED = 1000


@dataclass(frozen=True)
class Scene:
    """A flow before its first step.

    Attributes:
        target, held_out: rows (m, d) of the training data that the flow descends to, and of data it never sees, if there are any.
        start: the particles (n, d), or in latent space (n, latent).
        decode: latents to rows (n, d), differentiable; None where the particles are rows.
        stored: particles as they are kept, uint8 images (n, c, h, w) or points (n, d), on the CPU.
        is_images: which of the two.
    """

    target: Tensor
    held_out: Tensor | None
    start: Tensor
    decode: Callable[[Tensor], Tensor] | None
    stored: Callable[[Tensor], Tensor]
    is_images: bool

    def rows(self, particles: Tensor) -> Tensor:
        """What is compared with the data, (n, d)."""
        if self.decode is None:
            return particles
        with torch.no_grad():
            return torch.cat([self.decode(part) for part in particles.split(N_DECODED)])


def require_scene(keys: Flow, dataset: Dataset) -> None:
    """Refuse keys that do not fit the data, before a run is made."""
    n, d, source = len(dataset.train), torch.Size(dataset.shape).numel(), keys.source
    if keys.n_data is not None and keys.n_data > n:
        raise UsageError(f"flow.n_data: {keys.n_data} points, but {dataset.name} has {n} for training; lower it")
    exact, m = keys.divergence == "kale" and keys.n_features is None, n_data_of(keys, dataset)
    if exact and 8 * m**2 > MAX_BYTES:
        raise UsageError(
            f"flow.n_data: KALE of {m} data points needs a matrix of {8e-9 * m**2:.1f} GB; lower it, or set n_features"
        )
    if keys.space == "latent":
        return
    if isinstance(source, NormalSource):
        if isinstance(source.mean, tuple) and len(source.mean) != d:
            raise UsageError(
                f"flow.source.mean: {len(source.mean)} numbers, but a point of {dataset.name} has {d}; give {d}, or one number"
            )
    elif d != 2:
        raise UsageError(
            f"flow.source.kind: toy has points of the plane, but a point of {dataset.name} has {d} numbers; use kind: normal"
        )


def n_data_of(keys: Flow, dataset: Dataset) -> int:
    """How many training points are the target."""
    n, d = len(dataset.train), torch.Size(dataset.shape).numel()
    if keys.n_data is not None:
        return keys.n_data
    exact = keys.divergence == "kale" and keys.n_features is None
    return min(n, max(1, MOST_NUMBERS // d), MOST_KALE if exact else n)


def build_scene(
    run: Run, keys: Flow, seed: int, dataset: Dataset, device: torch.device, allow_plugins: bool = False
) -> Scene:
    """The particles and the data of a flow, on the device.

    Raises:
        UsageError: keys that do not fit the data.
    """
    require_scene(keys, dataset)
    order = torch.randperm(len(dataset.train), generator=make_generator(seed, "flow", "data"))
    some = dataset.train[order[: n_data_of(keys, dataset)]]
    others = dataset.held_out[:MOST_HELD_OUT] if len(dataset.held_out) else None
    generator = make_generator(seed, "flow", "start")
    if keys.space == "data":
        start = _start(keys, torch.Size(dataset.shape).numel(), generator).to(device)
        shape = dataset.shape if dataset.is_images else None
        held_out = None if others is None else _rows(others, device)
        return Scene(
            _rows(some, device), held_out, start, None, lambda x: _as_stored(x, shape), is_images=dataset.is_images
        )
    gebm = load_gebm(run, dataset.shape, device, False, allow_plugins)
    network, whole = _identity, lambda data: _rows(data, device)
    if keys.features == "classifier":
        features = build_features("classifier", dataset, None, device)
        network, whole = features.network, lambda data: features(data).clone()  # no inference tensors
    start = gebm.prior.sample(keys.n_particles, generator).to(device)
    held_out = None if others is None else whole(others)
    return Scene(
        whole(some), held_out, start, lambda z: network(gebm.base(z)).flatten(1), _decoder(gebm), dataset.is_images
    )


def _decoder(gebm: Gebm) -> Callable[[Tensor], Tensor]:
    """Latents to what is stored."""
    return lambda z: torch.cat([decode(gebm, part) for part in z.split(N_DECODED)])


def _identity(x: Tensor) -> Tensor:
    return x


def _rows(data: Data | Tensor, device: torch.device) -> Tensor:
    """Images as rows of pixels in [-1, 1], points as they are."""
    return to_float(torch.as_tensor(data)).flatten(1).to(device)


def _as_stored(rows: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    return rows.cpu() if shape is None else to_uint8(rows.view(-1, *shape)).cpu()


def _start(keys: Flow, d: int, generator: torch.Generator) -> Tensor:
    source = keys.source
    if isinstance(source, NormalSource):
        return torch.tensor(source.mean) + source.std * torch.randn(keys.n_particles, d, generator=generator)
    return draw_toy(source.name, keys.n_particles, source.noise_std, generator, source.shift, source.scale)[0]
