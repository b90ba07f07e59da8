"""The sections of a run's page that ask whether its chains can be trusted: have they mixed, and do they copy?"""

from __future__ import annotations

from typing import Any

from gebm_cli.experiment.report.blocks import Block, Cell, Missing, Section, Table, Text
from gebm_cli.experiment.report.found import Found
from gebm_cli.experiment.report.next_steps import absent
from gebm_cli.experiment.report.told_samples import pictures
from gebm_cli.experiment.sample_sets import SampleSet

DIAGNOSTICS = {
    "acceptance": "acceptance",
    "mean_energy": "mean energy of the samples",
    "correlation_with_start": "correlation of end and start of a chain",
    "rhat": "R-hat (1: mixed)",
    "nested_rhat": "nested R-hat (1: starts forgotten)",
    "ess_bulk": "effective draws, bulk",
    "ess_tail": "effective draws, tail",
    "ess_per_gradient": "effective draws per gradient",
    "ess_per_second": "effective draws per second",
    "stuck_chains": "stuck chains",
    "nonfinite_steps": "steps to energies that are not finite",
}
CHAIN_PICTURES = {
    "trace.png": (
        "E and the length of the latent along the watched chains, quantile bands",
        "Watched chains: a band that still falls at its end says that more steps would change the samples.",
    ),
    "chains.png": (
        "Single chains as rows, their steps as columns, the energy under each",
        "Single chains, step by step; under each image its energy.",
    ),
    "track.png": (
        "Scores along the chains against cost",
        "Scores of the same chains along the way, against their cost.",
    ),
}
PATHS = ("The paths of single chains in the plane", "The paths of single chains, from circle to square.")
COPY = 0.5  # of the distance of held-out images to their nearest training image


def mixing(found: Found) -> Section:
    """The verdict on the chains, what it rests on, and their traces."""
    chains = found.newest("chains")
    if chains is None:
        return Section("chains", "Chains", [absent(found, "Chain diagnostics", "no chains were run", "sample")])
    told = chains.described
    rows: list[list[Cell]] = [[said, told[key]] for key, said in DIAGNOSTICS.items() if told.get(key) is not None]
    watched = f"{chains.name}, {told.get('n_watched', 0)} watched chains"
    blocks: list[Block] = [_verdict(chains), Table(["diagnostic", "value"], rows, watched, sortable=False)]
    wanted = CHAIN_PICTURES if of_images(found) else CHAIN_PICTURES | {"chains.png": PATHS}
    return Section("chains", "Chains", [*blocks, *_watched(told), *pictures(chains, wanted)])


def of_images(found: Found) -> bool:
    """False where the record tells of points."""
    shape = found.record.get("data_shape")
    return not isinstance(shape, list) or len(shape) == 3


def _verdict(chains: SampleSet) -> Block:
    verdict = chains.described.get("verdict")
    if not verdict:
        return Missing("A verdict on mixing", f"no chains were watched while {chains.name} was drawn")
    tone = "good" if chains.described.get("mixed") else "bad" if str(verdict).startswith("diverged") else "plain"
    return Text(f"{chains.name}: {verdict}.", tone)


def _watched(told: dict[str, Any]) -> list[Block]:
    """R-hat and effective draws of every watched number, and what the step's length changes."""
    watched, bias = told.get("watched") or {}, told.get("bias_of_step") or {}
    if not isinstance(watched, dict) or not watched:
        return []
    rows: list[list[Cell]] = []
    for name, found in watched.items():
        of_step = bias.get(name) or {}
        figures = [found.get(k) for k in ("rhat", "nested_rhat", "ess_bulk", "ess_tail")]
        rows.append([name, *figures, of_step.get("value"), of_step.get("standard_error")])
    columns = ["of", "R-hat", "nested R-hat", "ESS bulk", "ESS tail", "bias of the step", "its standard error"]
    return [Table(columns, rows, "By watched number", folded=True)]


def neighbours(found: Found) -> list[Section]:
    """Is it copying? The samples nearest to a training image, and those of lowest and highest energy; of images alone."""
    chains = found.newest("chains")
    if not of_images(found):
        return []
    key, title = "neighbours", "Nearest neighbours"
    if chains is None:
        return [Section(key, title, [absent(found, title, "no samples were drawn", "sample")])]
    wanted = {
        "nearest.png": (
            "Samples beside the training images nearest to them",
            "The samples nearest to a training image, each beside it; the number is their distance.",
        ),
        "extremes.png": ("The samples of lowest and of highest energy", "Samples of lowest and of highest energy."),
    }
    shown = pictures(chains, wanted)
    none = Missing(title, "the training images were not at hand when the samples were drawn")
    return [Section(key, title, [*_copies(chains.described), *(shown or [none])])]


def _copies(told: dict[str, Any]) -> list[Block]:
    distance = told.get("nearest_training_distance") or {}
    if not {"samples", "held_out"} <= distance.keys():
        return []
    ours, theirs = distance["samples"], distance["held_out"]
    copied = ours < COPY * theirs
    far = f"A sample is typically {ours:.3g} from its nearest training image, a held-out image {theirs:.3g} (medians)."
    close = "not much" if ours < theirs else "not"
    said = (
        "So much closer than new images are: look for copies."
        if copied
        else f"Samples are {close} closer than new images."
    )
    return [Text(f"{far} {said}", "bad" if copied else "plain")]
