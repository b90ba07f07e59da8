"""The sections of a run's page on its samples: base against GEBM along the chains, energies, mixing, and nearest neighbours."""

from __future__ import annotations

from typing import Any

from gebm_cli.experiment.report.blocks import Block, Cell, Missing, Section, Slider, Table, Text
from gebm_cli.experiment.report.figures import energy_histogram
from gebm_cli.experiment.report.film import frames_of, picture_of, read_shown
from gebm_cli.experiment.report.found import Found, typed
from gebm_cli.experiment.sample_sets import SampleSet

ENERGY_NAMES = {"train": "training data", "held_out": "held-out data", "base": "base", "samples": "GEBM samples"}


def samples(found: Found) -> Section:
    """Base and GEBM side by side from the same latents, the base's own grid, what flows left, and a list of all sets."""
    blocks: list[Block] = []
    chains, base, flow = (found.newest(kind) for kind in ("chains", "base", "flow"))
    if found.is_gebm:
        blocks += (
            [Missing("GEBM samples", _why_not(found), f"gebm sample --run {found.name}")]
            if chains is None
            else _chains(chains)
        )
    if base is not None:
        n = base.described.get("n_samples")
        told = f"{base.name}: {n} draws of the base alone, from latents of their own."
        blocks += _pictures([(base, "grid.png", f"Samples of the base, {base.name}", told)])
    elif found.is_gebm:
        blocks.append(
            Missing("Base samples of their own", "none were drawn", f"gebm sample --run {found.name} --sampler none")
        )
    if flow is not None:
        blocks += _pictures(
            [
                (
                    flow,
                    "flow.png",
                    f"The particles of {flow.name} along their flow",
                    f"{flow.name}: particles along the flow",
                )
            ]
        )
    if found.sets:
        blocks.append(Table(SET_COLUMNS, [_set(s) for s in found.sets], "All sample sets"))
    return Section("samples", "Samples", blocks)


SET_COLUMNS = ["set", "sampler", "samples", "beta", "steps", "seed", "acceptance", "mixed"]


def _set(samples: SampleSet) -> list[Cell]:
    told = samples.described
    mixed = told.get("mixed")
    named = "the base alone" if samples.kind == "base" else told.get("sampler")
    n = told.get("n_samples", told.get("n_particles"))
    steps = told.get("n_steps", told.get("step"))
    verdict = None if mixed is None else "yes" if mixed else "no"
    return [samples.name, named, n, told.get("beta"), steps, told.get("seed"), told.get("acceptance"), verdict]


def _why_not(found: Found) -> str:
    return "none were drawn" if found.done("train-energy") else "the energy is not trained yet"


def _chains(samples: SampleSet) -> list[Block]:
    """The slider; where the set has no frames, its grid."""
    told, shown = samples.described, read_shown(samples.path)
    by = f"{told.get('sampler')}, beta {_short(told.get('beta'))}, {told.get('n_steps')} steps"
    what = f"{samples.name}: {told.get('n_samples')} samples by {by}"
    if shown is None:
        why = f"{samples.name} was drawn before its frames were kept; draw another set"
        pictures = _pictures([(samples, "grid.png", f"Samples of the GEBM, {samples.name}", what)])
        return [*pictures, Missing("The chains, step by step", why, f"gebm sample --run {told.get('run')}")]
    n, last = shown.frames.shape[1], shown.steps[-1]
    things = "images" if shown.is_images else "points"
    slider = Slider(
        frames_of(shown),
        f"{n} {things} of the base, and the same chains after up to {last} steps on the energy",
        f"{what}. The same {n} chains throughout: the base's draws stay on the left, the slider moves the right along the chain.",
        "base, step 0" if told.get("mode") == "refine" else f"the chains' start, step {shown.steps[0]}",
        typed(told),
        pixelated=shown.is_images,
    )
    return [slider]


def _pictures(wanted: list[tuple[SampleSet, str, str, str]]) -> list[Block]:
    """The pictures (set, file, alt, caption) that are there."""
    found = [picture_of(s.path / name, alt, caption, typed(s.described)) for s, name, alt, caption in wanted]
    return [picture for picture in found if picture is not None]


# ------------------------------------------------------------------------------------------------------------ energies


def energies(found: Found) -> Section:
    """The energy of data, base and GEBM samples, as histograms."""
    title = "Energies"
    chains = found.newest("chains")
    shown = None if chains is None else read_shown(chains.path)
    if chains is None or shown is None:
        why = (
            "they are kept with GEBM samples, of which there are none"
            if chains is None
            else "the newest set was drawn before they were kept"
        )
        return Section(
            "energies", title, [Missing("Energies of data, base and samples", why, f"gebm sample --run {found.name}")]
        )
    named = {ENERGY_NAMES[name]: values for name, values in shown.energies.items()}
    blocks: list[Block] = [energy_histogram(named, chains.described.get("beta"), typed(chains.described))]
    if "train" not in shown.energies:
        blocks.append(Missing("Energies of data", "the data set was not at hand when the samples were drawn"))
    told = (
        "Low energy is what the energy holds for real. Samples better than the base's lie where data lie; further left than data "
        "is too far, and a smaller beta helps."
    )
    return Section("energies", title, blocks, told)


# --------------------------------------------------------------------------------------------------------------- mixing

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


def mixing(found: Found) -> Section:
    """The verdict on the chains, what it rests on, and their traces."""
    chains = found.newest("chains")
    if chains is None:
        return Section(
            "chains", "Chains", [Missing("Chain diagnostics", _why_not(found), f"gebm sample --run {found.name}")]
        )
    told = chains.described
    verdict = told.get("verdict")
    blocks: list[Block] = []
    if verdict:
        tone = "good" if told.get("mixed") else "bad" if str(verdict).startswith("diverged") else "plain"
        blocks.append(Text(f"{chains.name}: {verdict}", tone))
    else:
        blocks.append(Missing("A verdict on mixing", f"no chains were watched while {chains.name} was drawn"))
    rows: list[list[Cell]] = [[said, told[key]] for key, said in DIAGNOSTICS.items() if told.get(key) is not None]
    blocks.append(
        Table(
            ["diagnostic", "value"], rows, f"{chains.name}, {told.get('n_watched', 0)} watched chains", sortable=False
        )
    )
    blocks += _watched(told)
    blocks += _pictures(
        [
            (
                chains,
                "trace.png",
                "E and the length of the latent along the watched chains, quantile bands",
                "Traces of the watched chains",
            ),
            (
                chains,
                "chains.png",
                "Single chains as rows, their steps as columns, the energy under each",
                "Single chains, step by step",
            ),
            (chains, "track.png", "Scores along the chains against cost", "Scores along the chains"),
        ]
    )
    return Section("chains", "Chains", blocks)


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


# ------------------------------------------------------------------------------------------------------------ neighbours


def neighbours(found: Found) -> Section:
    """Is it copying? The samples nearest to a training image; and the samples of lowest and highest energy."""
    chains = found.newest("chains")
    if chains is None:
        return Section(
            "neighbours",
            "Nearest neighbours",
            [Missing("Nearest neighbours", _why_not(found), f"gebm sample --run {found.name}")],
        )
    blocks: list[Block] = []
    distance = chains.described.get("nearest_training_distance") or {}
    if {"samples", "held_out"} <= distance.keys():
        ours, theirs = distance["samples"], distance["held_out"]
        told = f"Median distance of a sample to its nearest training image: {_short(ours)}; of a held-out image: {_short(theirs)}. "
        copies = ours < 0.5 * theirs
        told += (
            "Far smaller than that of held-out images: look for copies."
            if copies
            else "Not smaller by half: no sign of copying."
        )
        blocks.append(Text(told, "bad" if copies else "plain"))
    pictures = _pictures(
        [
            (
                chains,
                "nearest.png",
                "Samples beside the training images nearest to them",
                "Samples beside their nearest training image",
            ),
            (
                chains,
                "extremes.png",
                "The samples of lowest and of highest energy",
                "Samples of lowest and of highest energy",
            ),
        ]
    )
    if not pictures:
        pictures = [Missing("Nearest neighbours", "they are drawn of images whose training set is at hand")]
    return Section("neighbours", "Nearest neighbours", [*blocks, *pictures])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "?"
