"""The sections of a run's page on its samples: base against GEBM along the chains, and the energies of both and of data."""

from __future__ import annotations

import shlex
from typing import Any

from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.experiment.files import partial_folder, unfinished
from gebm_cli.experiment.report.blocks import Block, Cell, Code, Missing, Section, Slider, Table, Text
from gebm_cli.experiment.report.figures import energy_histogram
from gebm_cli.experiment.report.film import Shown, frames_of, picture_of
from gebm_cli.experiment.report.found import Found, typed
from gebm_cli.experiment.report.next_steps import absent
from gebm_cli.experiment.sample_sets import SampleSet

ENERGY_NAMES = {"train": "training data", "held_out": "held-out data", "base": "base", "samples": "GEBM samples"}
SET_COLUMNS = ["set", "sampler", "samples", "beta", "steps", "seed", "acceptance", "mixed"]


def samples(found: Found) -> Section:
    """Base and GEBM side by side from the same latents, the base's own grid, what flows left, and a list of all sets."""
    blocks: list[Block] = []
    chains, base, flow = (found.newest(kind) for kind in ("chains", "base", "flow"))
    if found.is_gebm:
        none = absent(found, "GEBM samples", "none were drawn", "sample")
        blocks += [none] if chains is None else _chains(found, chains)
    if base is not None:
        told = f"{base.name}: {base.described.get('n_samples')} draws of the base alone, from latents of their own."
        blocks += pictures(base, {"grid.png": (f"Samples of the base, {base.name}", told)})
    elif found.is_gebm:
        blocks.append(absent(found, "Base samples of their own", "none were drawn", "sample", "--sampler", "none"))
    if flow is not None:
        told = f"{flow.name}: the particles along their flow"
        blocks += pictures(flow, {"flow.png": (told, told)})
    blocks += _stopped(found)
    if found.sets:
        blocks.append(Table(SET_COLUMNS, [_set(s) for s in found.sets], "All sample sets"))
    return Section("samples", "Samples", blocks)


def _set(samples: SampleSet) -> list[Cell]:
    told = samples.described
    mixed = told.get("mixed")
    named = "the base alone" if samples.kind == "base" else told.get("sampler")
    n = told.get("n_samples", told.get("n_particles"))
    steps = told.get("n_steps", told.get("step"))
    verdict = None if mixed is None else "yes" if mixed else "no"
    return [samples.name, named, n, told.get("beta"), steps, told.get("seed"), told.get("acceptance"), verdict]


def _stopped(found: Found) -> list[Block]:
    """Sets that were begun and not finished, with the command that goes on."""
    begun = [p for p in unfinished(found.path / "samples") if (partial_folder(p) / "order.yaml").is_file()]
    if not begun:
        return []
    lines = [shlex.join(["gebm", "sample", "--resume", str(path)]) for path in begun]
    return [Text(f"Begun and not finished: {', '.join(path.name for path in begun)}."), Code(lines)]


def _chains(found: Found, samples: SampleSet) -> list[Block]:
    """The slider; where the set has no frames, its grid."""
    told, shown = samples.described, found.shown(samples)
    what = f"{samples.name}: {told.get('n_samples')} samples by {drawn_by(told)}"
    if shown is None:
        grid = pictures(samples, {"grid.png": (f"Samples of the GEBM, {samples.name}", what)})
        return [*grid, absent(found, "The chains, step by step", _no_frames(samples), "sample")]
    return [_slider(samples, shown, what)]


def drawn_by(told: dict[str, Any]) -> str:
    """Sampler, beta and steps of a set."""
    return f"{told.get('sampler')}, beta {_short(told.get('beta'))}, {told.get('n_steps')} steps"


def _no_frames(samples: SampleSet) -> str:
    return f"{samples.name} has no shown.npz: it was drawn by an older version, or the file was removed"


def _slider(samples: SampleSet, shown: Shown, what: str) -> Slider:
    told, n, last = samples.described, shown.frames.shape[1], shown.steps[-1]
    refined = told.get("mode") == "refine"
    start = "the base's draws" if refined else "where they started"
    things = "images" if shown.is_images else "points"
    columns = shown.frames.shape[-1]
    plane = f" Drawn are the first two of {columns} columns." if not shown.is_images and columns > 2 else ""
    plane += " In grey, training data." if shown.data is not None else ""
    return Slider(
        frames_of(shown),
        f"{n} {things} along the chains: on the left {start}, on the right after up to {last} steps",
        f"{what}. The same {n} chains throughout: {start} stay on the left, the slider moves the right along the chain.{plane}",
        f"{'base' if refined else 'start'}, step {shown.steps[0]}",
        typed(told),
        pixelated=shown.is_images,
    )


def pictures(samples: SampleSet, wanted: dict[str, tuple[str, str]]) -> list[Block]:
    """The pictures of a set that are there, by file name, each with its alt text and caption."""
    how = typed(samples.described)
    found = [picture_of(samples.path / name, alt, caption, how) for name, (alt, caption) in wanted.items()]
    return [picture for picture in found if picture is not None]


# ------------------------------------------------------------------------------------------------------------ energies


def energies(found: Found) -> Section:
    """The energy of data, base and GEBM samples, as histograms."""
    key, title, what = "energies", "Energies", "Energies of data, base and samples"
    chains = found.newest("chains")
    if chains is None:
        return Section(key, title, [absent(found, what, "they are kept with GEBM samples", "sample")])
    shown = found.shown(chains)
    if shown is None:
        return Section(key, title, [absent(found, what, _no_frames(chains), "sample")])
    named = {ENERGY_NAMES[name]: values for name, values in shown.energies.items()}
    told = chains.described
    beta = told.get("beta") if _aims_at_pi(told) else None
    blocks: list[Block] = [energy_histogram(named, beta, typed(told))]
    if "train" not in shown.energies:
        blocks.append(Missing("Energies of data", "the data set was not at hand when the samples were drawn"))
    introduction = (
        "E is the learned energy: the lower, the more weight the model gives a point against its base. Chains move the samples "
        "from the base's histogram towards that of the data; further left than the data they overdo it, and a smaller beta helps."
    )
    return Section(key, title, blocks, introduction)


def _aims_at_pi(told: dict[str, Any]) -> bool:
    """Whether the sampler has the tilted law as its target; descents and stopped flows have none."""
    entry = CATALOGUE.get(str(told.get("sampler")))
    return entry is not None and entry.target.startswith("pi")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "?"
