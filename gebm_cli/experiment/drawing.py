"""`gebm sample`: draw from a run's base or GEBM, and write the sample set with its pictures and its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gebm_cli.core.data.dataset import to_uint8
from gebm_cli.core.sampling.chains import Block, run_blocks
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.samplers import Kla, make_sampler
from gebm_cli.errors import GebmError
from gebm_cli.experiment.build import Gebm, build_dataset, load_gebm
from gebm_cli.experiment.files import folder_appears_whole, write_yaml
from gebm_cli.experiment.pictures import GRID, save_chain, save_grid, save_trace
from gebm_cli.experiment.run import Run, provenance
from gebm_cli.experiment.schema import Sample

N_WATCHED = GRID * GRID
N_POINTS = 2000
N_FRAMES = 25


def draw(
    run: Run, keys: Sample, seed: int, out: Path, as_npz: bool, device: torch.device, on_chains: Callable[[int], None]
) -> dict[str, Any]:
    """Draw a sample set into `out`, which appears only when it is complete; returns what sample.yaml says.

    Memory is one batch of samples (`batch_size`), one block of chains, all latents three times, and for an .npz the whole set once.
    """
    with folder_appears_whole(out) as folder:
        shape = data_shape(run)
        gebm = load_gebm(run, shape, device, with_energy=keys.sampler != "none")
        sampler = None
        if gebm.energy is not None:
            potential = LatentPotential(gebm.prior, gebm.base, gebm.energy, keys.beta)
            sampler = make_sampler(keys.sampler, potential, keys.step_size, keys.friction, keys.scheme, keys.n_leapfrog)
        shown = min(N_WATCHED if len(shape) == 3 else N_POINTS, keys.n_samples)
        film = _Film(gebm, keys.n_steps if sampler else 0, shown)
        writer = _Writer(folder, as_npz, keys.batch_size, shown)
        blocks: list[Block] = []
        for block in run_blocks(
            sampler, gebm.prior, keys.n_samples, keys.n_steps, keys.block_size, seed, device, on_chains, film.watch
        ):
            writer.add(block.end[: block.keep], film.decode(block.end)[: block.keep])
            if len(film.started) < shown:
                film.started = torch.cat([film.started, film.decode(block.start)[: block.keep]])[:shown]
            blocks.append(replace(block, start=block.start.cpu(), end=block.end.cpu()))
        writer.close()
        described = _describe(run, keys, seed, sampler, blocks, device)
        _pictures(folder, film, blocks, described, writer.first)
        write_yaml(folder / "sample.yaml", described)
    return described


def data_shape(run: Run) -> tuple[int, ...]:
    """The shape of one point of the run's data, as recorded, so that sampling does not need the data themselves."""
    return tuple(run.record().get("data_shape") or build_dataset(run.experiment.data).shape)


class _Film:
    """Decodes latents, and keeps the first chains at about 25 steps along the way for the animation."""

    def __init__(self, gebm: Gebm, n_steps: int, n_chains: int) -> None:
        self.gebm, self.n_chains = gebm, n_chains
        self.steps = set(np.linspace(0, n_steps, min(N_FRAMES, n_steps + 1)).round().astype(int).tolist())
        self.frames: list[tuple[int, Tensor]] = []
        self.started = torch.empty(0)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        data = self.gebm.base(z)
        return (to_uint8(data) if data.dim() == 4 else data).cpu()

    def watch(self, block: int, step: int, z: Tensor) -> None:
        if block == 0 and step in self.steps:
            self.frames.append((step, self.decode(z)[: self.n_chains]))


class _Writer:
    """Writes samples a batch at a time: numbered PNG files, or one samples.npz with the latents beside."""

    def __init__(self, folder: Path, as_npz: bool, batch_size: int, shown: int) -> None:
        self.folder, self.as_npz, self.batch_size, self.shown = folder, as_npz, batch_size, shown
        self.pending: list[Tensor] = []
        self.latents: list[Tensor] = []
        self.written = 0
        self.first = torch.empty(0)

    def add(self, z: Tensor, data: Tensor) -> None:
        self.as_npz = self.as_npz or data.dim() == 2
        if len(self.first) < self.shown:
            self.first = (
                torch.cat([self.first.to(data.dtype), data])[: self.shown] if len(self.first) else data[: self.shown]
            )
        self.pending.append(data)
        self.latents.append(z.cpu())
        if not self.as_npz and sum(map(len, self.pending)) >= self.batch_size:
            self._flush()

    def _flush(self) -> None:
        images = self.folder / "images"
        images.mkdir(exist_ok=True)
        for pixels in torch.cat(self.pending).permute(0, 2, 3, 1).numpy():
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            picture.save(images / f"{self.written:06d}.png")
            self.written += 1
        self.pending = []

    def close(self) -> None:
        if not self.as_npz:
            if self.pending:
                self._flush()
            np.save(self.folder / "latents.npy", torch.cat(self.latents).numpy())
            return
        data = torch.cat(self.pending)
        arrays = {"images": data.permute(0, 2, 3, 1).numpy()} if data.dim() == 4 else {"samples": data.numpy()}
        np.savez(self.folder / "samples.npz", latents=torch.cat(self.latents).numpy(), **arrays)  # type: ignore[arg-type]


def _describe(
    run: Run, keys: Sample, seed: int, sampler: Any, blocks: list[Block], device: torch.device
) -> dict[str, Any]:
    """How the samples were drawn: the keys as used, and what the chains did."""
    described: dict[str, Any] = {"run": run.name, "run_path": str(run.path.resolve()), "sampler": keys.sampler}
    described |= {
        "n_samples": keys.n_samples,
        "seed": seed,
        "block_size": keys.block_size,
        "device": str(device),
    }
    if sampler is not None:
        steps = sum(b.chain_steps for b in blocks)
        start, end = (torch.cat([z[: b.keep] for b in blocks for z in [getattr(b, side)]]) for side in ("start", "end"))
        nonfinite = sum(b.nonfinite for b in blocks)
        if nonfinite == steps:
            raise GebmError(
                "every step of every chain met an energy that is not finite; the energy has diverged, or beta or the step "
                f"size ({sampler.step_size:g}) is far too large"
            )
        described |= {
            "beta": keys.beta,
            "step_size": sampler.step_size,
            "n_steps": keys.n_steps,
            "gradients_per_step": sampler.gradients_per_step,
            "acceptance": round(sum(b.accepted for b in blocks) / steps, 4),
            "nonfinite_steps": nonfinite,
            "correlation_with_start": round(_correlation(start, end), 4),
        }
        if isinstance(sampler, Kla):
            described |= {"scheme": sampler.scheme, "friction": sampler.friction, "damping": round(sampler.damping, 6)}
    return described | provenance()


def _correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation over all coordinates: near 1 after a short refinement, near 0 when chains forgot their start."""
    if x.numel() < 2:
        return 1.0
    return float(torch.corrcoef(torch.stack([x.flatten().double(), y.flatten().double()]))[0, 1])


def _pictures(folder: Path, film: _Film, blocks: list[Block], described: dict[str, Any], first: Tensor) -> None:
    chained = described["sampler"] != "none"
    started = film.started.to(first.dtype) if chained else None
    save_grid(folder / "grid.png", first, started)
    if chained:
        save_chain(folder / "chain.gif", film.frames)
        mean = torch.stack([b.potential_trace for b in blocks]).mean(0)
        save_trace(
            folder / "trace.png",
            mean,
            f"{described['sampler']}, beta {described['beta']:g}, step size {described['step_size']:g}",
        )
