"""What `gebm flow` moves and to where: the particles at their start, the data as rows, and what lies between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Data, Dataset, to_float, to_uint8
from gebm_cli.core.data.toys import draw_toy
from gebm_cli.core.device import make_generator
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.features import build_features
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.schema import Flow
from gebm_cli.experiment.schema.flow import NormalSource

MOST_KALE = 2000  # data points of an exact KALE where n_data is not given: one dual then takes a second or less


@dataclass(frozen=True)
class Scene:
    """A flow before its first step.

    Attributes:
        target, held_out: rows (m, d) of the training data that the flow descends to, and of data it never sees.
        start: the particles (n, d), or in latent space (n, latent).
        decode: latents to rows (n, d), differentiable; None where the particles are rows.
        stored: particles as they are kept, uint8 images (n, c, h, w) or points (n, d), on the CPU.
    """

    target: Tensor
    held_out: Tensor
    start: Tensor
    decode: Callable[[Tensor], Tensor] | None
    stored: Callable[[Tensor], Tensor]

    def rows(self, particles: Tensor) -> Tensor:
        """What is compared with the data, (n, d)."""
        if self.decode is None:
            return particles
        with torch.no_grad():
            return self.decode(particles)


def require_scene(keys: Flow, dataset: Dataset) -> None:
    """Refuse keys that do not fit the data, before a run is made."""
    n, d = len(dataset.train), torch.Size(dataset.shape).numel()
    if keys.n_data is not None and keys.n_data > n:
        raise UsageError(f"flow.n_data: {keys.n_data} points, but {dataset.name} has {n} for training; lower it")
    if keys.space == "latent":
        return
    source = keys.source
    if isinstance(source, NormalSource):
        if isinstance(source.mean, tuple) and len(source.mean) != d:
            raise UsageError(
                f"flow.source.mean: {len(source.mean)} numbers, but a point of {dataset.name} has {d}; give {d}, or one number"
            )
    elif d != 2:
        raise UsageError(
            f"flow.source.kind: toy has points of the plane, but a point of {dataset.name} has {d} numbers; use kind: normal"
        )


def build_scene(
    run: Run, keys: Flow, seed: int, dataset: Dataset, device: torch.device, allow_plugins: bool = False
) -> Scene:
    """The particles and the data of a flow, on the device."""
    require_scene(keys, dataset)
    generator = make_generator(seed, "flow", "start")
    exact_kale = keys.divergence == "kale" and keys.n_features is None
    n_data = keys.n_data or (min(MOST_KALE, len(dataset.train)) if exact_kale else len(dataset.train))
    chosen = torch.randperm(len(dataset.train), generator=make_generator(seed, "flow", "data"))[:n_data]
    held_out = dataset.held_out if len(dataset.held_out) else dataset.train
    if keys.space == "data":
        start = _start(keys, torch.Size(dataset.shape).numel(), generator).to(device)
        shape = dataset.shape if dataset.is_images else None
        return Scene(
            _rows(dataset.train[chosen], device),
            _rows(held_out[:], device),
            start,
            None,
            lambda x: _as_stored(x, shape),
        )
    gebm = load_gebm(run, dataset.shape, device, False, allow_plugins)
    network, whole = _identity, lambda data: _rows(data, device)
    if keys.features == "classifier":
        features = build_features("classifier", dataset, None, device)
        network, whole = features.network, features
    target, others = (whole(data).clone() for data in (dataset.train[chosen], held_out[:]))
    start = gebm.prior.sample(keys.n_particles, generator).to(device)

    def decode(z: Tensor) -> Tensor:
        return network(gebm.base(z)).flatten(1)

    @torch.no_grad()
    def stored(z: Tensor) -> Tensor:
        data = torch.cat([gebm.base(part) for part in z.split(250)])
        return (to_uint8(data) if data.dim() == 4 else data).cpu()

    return Scene(target, others, start, decode, stored)


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
