"""A sample set on disk: numbered PNG files or one archive, and the pictures that go with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.data.dataset import Dataset, is_images, to_float, to_uint8
from gebm_cli.core.device import make_generator
from gebm_cli.core.evaluation.neighbours import nearest
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.experiment.build import Gebm
from gebm_cli.experiment.curves import LATENT_NORM, save_traces
from gebm_cli.experiment.pictures import GRID, save_chain, save_chain_grid, save_extremes, save_nearest
from gebm_cli.experiment.tiles import as_picture
from gebm_cli.experiment.watching import recorded_steps, traces

N_POINTS = 2000
N_FRAMES = 25
N_TYPICAL = 200
N_SHOWN = 36  # chains in the film of a report
N_SHOWN_POINTS = 1000
WIDEST_SHOWN = 64  # pixels
N_ENERGIES = 1000  # of data and base, for the histogram of energies
MOST_DECODED = 250_000  # training images that are decoded anew for one picture


def frame_steps(n_steps: int) -> tuple[int, ...]:
    """About 25 steps along a chain, the start and the end among them."""
    return tuple(sorted(set(np.linspace(0, n_steps, min(N_FRAMES, n_steps + 1)).round().astype(int).tolist())))


@torch.no_grad()
def decode(gebm: Gebm, z: Tensor) -> Tensor:
    """B(z) as it is stored, on the CPU: uint8 images, or float points. z is a whole block, a network call of fixed shape."""
    data = gebm.base(z)
    return (to_uint8(data) if data.dim() == 4 else data).cpu()


class Writer:
    """Writes samples a batch at a time: numbered PNG files, or one samples.npz with the latents beside."""

    def __init__(self, folder: Path, as_npz: bool, batch_size: int, n_samples: int) -> None:
        self.folder, self.as_npz, self.batch_size, self.left = folder, as_npz, batch_size, n_samples
        self.pending: list[Tensor] = []
        self.latents: list[Tensor] = []
        self.written = 0
        self.first = torch.empty(0)

    def add(self, z: Tensor, data: Tensor) -> None:
        """More samples with their latents, (n, 0) where they have none; what exceeds the number asked for is left out."""
        z, data = z[: self.left].cpu(), data[: self.left]
        self.left -= len(data)
        self.as_npz = self.as_npz or not is_images(data)
        shown = GRID * GRID if is_images(data) else N_POINTS
        if len(self.first) < shown:
            self.first = torch.cat([self.first, data])[:shown] if len(self.first) else data[:shown]
        self.pending.append(data)
        self.latents.append(z)
        if not self.as_npz and sum(map(len, self.pending)) >= self.batch_size:
            self._flush()

    def _flush(self) -> None:
        images = self.folder / "images"
        images.mkdir(exist_ok=True)
        for pixels in torch.cat(self.pending).permute(0, 2, 3, 1).numpy():
            as_picture(pixels).save(images / f"{self.written:06d}.png")
            self.written += 1
        self.pending = []

    def close(self) -> Tensor:
        """Write what is left; returns all latents."""
        latents = torch.cat(self.latents)
        if not self.as_npz:
            if self.pending:
                self._flush()
            if latents.shape[1]:
                np.save(self.folder / "latents.npy", latents.numpy())
            return latents
        data = torch.cat(self.pending)
        arrays = {"images": data.permute(0, 2, 3, 1).numpy()} if data.dim() == 4 else {"samples": data.numpy()}
        if latents.shape[1]:
            arrays["latents"] = latents.numpy()
        np.savez(self.folder / "samples.npz", **arrays)  # type: ignore[arg-type]
        return latents


# ------------------------------------------------------------------------------------------------------------- pictures


def chain_pictures(
    folder: Path, gebm: Gebm, potential: LatentPotential, keep: int, frames: list[tuple[int, Tensor]]
) -> None:
    """chain.gif and chains.png: the first chains of the first block, of which `keep` were asked for, step by step."""
    shown = [(step, decode(gebm, z)[:keep]) for step, z in frames]
    n = GRID * GRID if is_images(shown[0][1]) else N_POINTS
    save_chain(folder / "chain.gif", [(step, data[:n]) for step, data in shown])
    energies = torch.stack([potential.energy_at(z)[:keep].cpu() for _, z in frames], 1)
    save_chain_grid(folder / "chains.png", shown, energies)


@torch.no_grad()
def keep_shown(
    folder: Path,
    gebm: Gebm,
    frames: list[tuple[int, Tensor]],
    keep: int,
    energies: Tensor,
    data: Dataset | None,
    seed: int,
) -> None:
    """shown.npz: what a report draws of the set. `steps` and `frames` of the first chains, of which `keep` were asked for, with
    images at most 64 pixels wide; energies of the `samples`, of draws of the `base`, and of `train` and `held_out` data; of
    points also some of the training `data`."""
    film = torch.stack([_small(decode(gebm, z)[:keep]) for _, z in frames])
    arrays = {"steps": torch.tensor([step for step, _ in frames]), "samples": energies[: 5 * N_ENERGIES]}
    arrays["frames"] = film.permute(0, 1, 3, 4, 2) if film.dim() == 5 else film
    if data is not None and film.dim() == 3:
        arrays["data"] = data.train[:N_SHOWN_POINTS]
    if gebm.energy is not None:
        device = frames[0][1].device
        prior = gebm.prior.sample(N_ENERGIES, make_generator(seed, "energies of the base", device=device))
        arrays["base"] = torch.cat([gebm.energy(gebm.base(z)) for z in prior.split(250)])
        splits = {} if data is None else {"train": data.train, "held_out": data.held_out}
        for name, points in splits.items():
            some = torch.randperm(len(points), generator=make_generator(seed, "energies of data"))[:N_ENERGIES]
            parts = [
                gebm.energy(to_float(points[rows].to(device))) for rows in some.sort().values.split(250) if len(rows)
            ]
            arrays |= {name: torch.cat(parts)} if parts else {}
    np.savez_compressed(folder / "shown.npz", **{name: array.cpu().numpy() for name, array in arrays.items()})  # type: ignore[arg-type]


def _small(data: Tensor) -> Tensor:
    """The first chains, images averaged down to tiles of a film."""
    if not is_images(data):
        return data[:N_SHOWN_POINTS]
    images = data[:N_SHOWN]
    scale = WIDEST_SHOWN / max(images.shape[-2:])
    if scale >= 1:
        return images
    size = [max(1, round(scale * side)) for side in images.shape[-2:]]
    return torch.nn.functional.interpolate(images.float(), size, mode="area").round().to(torch.uint8)


def trace_picture(
    folder: Path, records: list[dict[str, Tensor]], d: int, n_steps: int, n_warmup: int, title: str
) -> None:
    """trace.png: E and |z| / sqrt(d) of the watched chains, median and quantile bands."""
    watched = traces(records)
    shown = {"E": watched["E"], LATENT_NORM: watched["|z|"] / d**0.5}
    save_traces(folder / "trace.png", recorded_steps(n_steps), shown, title, n_warmup)


def extremes_picture(folder: Path, images: Tensor, energies: Tensor) -> None:
    """extremes.png: the samples of lowest and of highest energy."""
    if is_images(images):
        save_extremes(folder / "extremes.png", images, energies)


def nearest_picture(folder: Path, samples: Tensor, data: Dataset) -> dict[str, float]:
    """nearest.png: samples beside their nearest training image, to rule out copying; returns the medians of the distances."""
    index, distance = nearest(samples, data.train)
    found = {"samples": float(distance.median())}
    if len(data.held_out):
        found["held_out"] = float(nearest(data.held_out[:N_TYPICAL], data.train)[1].median())
    save_nearest(folder / "nearest.png", samples, data.train[index.cpu()], distance, found.get("held_out"))
    return found
