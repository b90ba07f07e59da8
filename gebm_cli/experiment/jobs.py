"""The work of a sample set as a list of items: blocks of chains, and the watched chains.

A finished item is a file in the hidden folder beside the set, an unfinished one a checkpoint there. So a stopped command goes
on where it was, and processes under torchrun share the items.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gebm_cli.core.sampling.chains import BlockRun, block_keeps
from gebm_cli.errors import DivergedError, GebmError, InterruptedRun, UsageError
from gebm_cli.experiment import watching
from gebm_cli.experiment.build import Gebm
from gebm_cli.experiment.checkpoint import load_checkpoint, write_checkpoint
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.files import partial_folder, read_yaml
from gebm_cli.experiment.kernel import Kernel
from gebm_cli.experiment.run import Run, command_line
from gebm_cli.experiment.sampleset import frame_steps
from gebm_cli.experiment.schema import Sample
from gebm_cli.experiment.tracking import tracked_steps

SAVE_EVERY_S = 30.0


class NothingMoves(GebmError):
    """No proposal was accepted: there is nothing to go on with."""


WATCHED = "watched"


@dataclass(frozen=True)
class Order:
    """What to draw: all that a stopped command needs to go on, and what was typed to begin it."""

    run: Run
    keys: Sample
    seed: int
    out: Path
    as_npz: bool
    device_type: str = "cpu"
    argv: list[str] = field(default_factory=command_line)

    def to_dict(self) -> dict[str, Any]:
        return {
            "run_path": str(self.run.path.resolve()),
            "seed": self.seed,
            "as_npz": self.as_npz,
            "device_type": self.device_type,
            "sample": self.keys.model_dump(mode="json"),
            "argv": self.argv,
        }


def read_order(out: Path, open_run: Callable[[Path], Run]) -> Order:
    """The order of a sample set whose drawing was stopped.

    Raises:
        UsageError: there is nothing to go on with.
    """
    path = partial_folder(out) / "order.yaml"
    if not path.is_file():
        what = "is complete" if (out / "sample.yaml").is_file() else "was not begun, or nothing of it is left"
        raise UsageError(f"--resume {out}: {what}; there is nothing to go on with")
    saved = read_yaml(path)
    return Order(
        open_run(Path(saved["run_path"])),
        Sample(**saved["sample"]),
        saved["seed"],
        out,
        saved["as_npz"],
        saved["device_type"],
        saved["argv"],
    )


def require_same(order: Order) -> None:
    """What a stopped command left is gone on with only by the same order."""
    path = partial_folder(order.out) / "order.yaml"
    had = read_yaml(path) if path.is_file() else None
    if had is not None and had | {"argv": order.argv} != order.to_dict():
        raise UsageError(
            f"{order.out}: a set with other settings was begun here and stopped; go on with `gebm sample --resume {order.out}`, or "
            f"remove {path.parent}"
        )


class Jobs:
    """The items of an order, and how each is run."""

    def __init__(self, order: Order, kernel: Kernel, gebm: Gebm, device: torch.device) -> None:
        self.order, self.kernel, self.gebm, self.device = order, kernel, gebm, device
        keys = order.keys
        self.n_chains = -(-keys.n_samples // len(kernel.plan.draws))
        self.keeps = block_keeps(self.n_chains, keys.block_size)
        self.items = [f"block-{i:05d}" for i in range(len(self.keeps))]
        # The watched chains come last, so that a picture of the whole cost is known by then.
        if keys.diagnose and kernel.entry.markov:
            self.items.append(WATCHED)

    def n_chain_steps(self, world: World) -> int:
        """What `work` will report of, for this process."""
        mine = self.items[world.rank :: world.size]
        sizes = [watching.N_WATCHED if item == WATCHED else self.order.keys.block_size for item in mine]
        return sum(sizes) * self.kernel.plan.n_steps

    def work(self, world: World, stopped: Callable[[], bool], on_steps: Callable[[int], None]) -> None:
        """Run the items that are this process's and not done yet."""
        for item in self.items[world.rank :: world.size]:
            self._run(item, stopped, on_steps)

    def start(self, item: str) -> BlockRun | watching.Watched:
        """An item at its first step."""
        kernel, seed, prior = self.kernel, self.order.seed, self.gebm.prior
        if item == WATCHED:
            size = watching.N_WATCHED
            block = BlockRun(kernel.plan, prior, size, size, seed, (WATCHED,), self.device, watching.N_STARTS)
            return watching.Watched(block, kernel)
        index = self.items.index(item)
        plan = replace(kernel.plan, frames=self.frames_of(index))
        size = self.order.keys.block_size
        return BlockRun(plan, prior, size, self.keeps[index], seed, ("chains", index), self.device)

    def frames_of(self, index: int) -> tuple[int, ...]:
        """The steps at which a block keeps its positions: of the first for the film, of all where scores are tracked."""
        n_steps = self.kernel.plan.n_steps
        frames = set(frame_steps(n_steps)) if index == 0 else set()
        return tuple(sorted(frames | set(tracked_steps(n_steps) if self.order.keys.track else ())))

    def path(self, item: str) -> Path:
        return partial_folder(self.order.out) / f"{item}.pt"

    def read(self, path: Path) -> dict[str, Any]:
        """What an item's file holds. One that is damaged goes, so that only it is drawn again."""
        try:
            return load_checkpoint(path, "sample")
        except GebmError:
            path.unlink(missing_ok=True)
            raise GebmError(
                f"{path}: was damaged and is removed; `gebm sample --resume {self.order.out}` draws it again"
            ) from None

    def _run(self, item: str, stopped: Callable[[], bool], on_steps: Callable[[int], None]) -> None:
        """Run an item to its end and write its file; its checkpoint on the way is written every half minute and when stopped."""
        done, partial = self.path(item), self.path(item).with_suffix(".partial")
        job = self.start(item)
        size, seconds = len(_block(job).start), 0.0
        if done.is_file():
            on_steps(size * self.kernel.plan.n_steps)
            return
        if partial.is_file():
            saved = self.read(partial)
            job.load_state_dict(saved["job"])
            seconds = saved["seconds"]
            on_steps(size * _block(job).step)
        begun = saved_at = time.perf_counter() - seconds

        def save(path: Path) -> None:
            state = {"job": job.state_dict(), "seconds": time.perf_counter() - begun}
            write_checkpoint(path, "sample", _block(job).step, state)

        while not job.done:
            job.advance()
            on_steps(size)
            if stopped():
                save(partial)
                raise InterruptedRun(
                    f"stopped by a signal at step {_block(job).step} of {item}; what was done is kept: "
                    f"`gebm sample --resume {self.order.out}` goes on"
                )
            if time.perf_counter() - saved_at > SAVE_EVERY_S:
                save(partial)
                saved_at = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._require_alive(_block(job), save, partial)
        save(done)
        partial.unlink(missing_ok=True)

    def _require_alive(self, block: BlockRun, save: Callable[[Path], None], partial: Path) -> None:
        """Refuse to go on where chains cannot have moved for a reason that more steps do not mend."""
        beta, has_step = f"beta {float(self.kernel.potential.beta):g}", bool(self.kernel.entry.unit)
        step = f"step size {self.kernel.sampler.step_size:g}"
        often = float(block.tally.sums["nonfinite"]) >= block.keep * block.step / 2
        if bool(block.stuck.all()) and (often or not bool(torch.isfinite(block.state.potential).any())):
            save(partial)
            given = has_step and self.order.keys.step_size != "auto"
            raise DivergedError(
                f"every chain of a block met energies that are not finite; the energy has diverged, or {beta}"
                f"{f' or the {step}' if given else ''} is far too large; the chains' state is kept in {partial}"
            )
        # All chains of the block, not those asked for alone: one chain may well rest for a few steps.
        if self.kernel.entry.exact and block.step > 1 and torch.equal(block.state.position, block.start):
            where = f"at {beta} and {step}; --step-size auto finds one that is, or" if has_step else f"at {beta};"
            raise NothingMoves(
                f"no proposal of {block.step} steps was accepted by any of {len(block.start)} chains {where} take a smaller beta"
            )


def _block(job: BlockRun | watching.Watched) -> BlockRun:
    return job.block if isinstance(job, watching.Watched) else job
