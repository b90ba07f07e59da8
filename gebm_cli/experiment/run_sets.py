"""Which sample sets of several runs are compared, and how they were drawn. Imports no torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from gebm_cli.experiment.report.found import Found
from gebm_cli.experiment.sample_sets import SampleSet
from gebm_cli.experiment.score_rows import SIDES, is_number

# What makes another law of samples, and its key in sample.yaml.
SETTINGS = {"sampler": "sampler", "mode": "mode", "beta": "beta", "steps": "n_steps"}
SET_COLUMNS = ["set", "of", "sampler", "beta", "steps", "n", "seed"]


@dataclass(frozen=True)
class ComparedSet:
    """A sample set that is compared with one of another run; `label` names its run."""

    label: str
    one: SampleSet

    @property
    def row(self) -> list[Any]:
        """What `SET_COLUMNS` name; None where the set does not say."""
        told = self.one.described | ({"sampler": "the base alone"} if self.one.kind == "base" else {})
        values = [told.get(key) for key in ("sampler", "beta", "n_steps", "n_samples", "seed")]
        plain = [value if value is None or is_number(value) else str(value) for value in values]
        return [f"{self.label}/{self.one.name}", SIDES[self.one.kind], *plain]


def pairs_to_test(founds: list[Found], labels: list[str]) -> tuple[dict[tuple[int, int], str], list[str]]:
    """(i, j) -> `chains` or `base`, which sets of two runs are tested against each other, and why some are not."""
    pairs: dict[tuple[int, int], str] = {}
    left_out = []
    for i, j in combinations(range(len(founds)), 2):
        kind = next((k for k in ("chains", "base") if any(founds[x].newest(k) for x in (i, j))), None)
        lacking = next((x for x in (i, j) if kind is None or founds[x].newest(kind) is None), None)
        if kind is not None and lacking is None:
            pairs[i, j] = kind
            continue
        why = f"{labels[i]} and {labels[j]}: "
        if kind is None:
            why += "neither has samples; `gebm sample` draws some"
        else:
            assert lacking is not None
            option = "" if kind == "chains" else " --sampler none"
            command = shlex.join(["gebm", "sample", "--run", founds[lacking].address]) + option
            why += f"{labels[lacking]} has no {SIDES[kind]} samples; `{command}` draws some"
            why += " (samples of a base are not tested against those of a GEBM)" if kind == "chains" else ""
        left_out.append(why)
    return pairs, left_out


def compared_sets(founds: list[Found], labels: list[str]) -> list[ComparedSet]:
    """The sets of all pairs, those of chains first, in the order of the runs."""
    pairs, _ = pairs_to_test(founds, labels)
    keys = sorted({(kind != "chains", i, kind) for pair, kind in pairs.items() for i in pair})
    found = [(labels[i], founds[i].newest(kind)) for _, i, kind in keys]
    return [ComparedSet(label, one) for label, one in found if one is not None]


def drawn_otherwise(sets: list[ComparedSet]) -> list[str]:
    """A clause for each setting that differs between sets of one kind: `beta 1 (a) and 2 (b)`."""
    told = []
    for kind in dict.fromkeys(compared.one.kind for compared in sets):
        alike = [compared for compared in sets if compared.one.kind == kind]
        for name, key in SETTINGS.items():
            values = {compared.label: _plainly(compared.one.described.get(key)) for compared in alike}
            if len(set(values.values())) > 1:
                told.append(f"{name} " + listed([f"{value} ({label})" for label, value in values.items()]))
    return told


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plainly(value: Any) -> str:
    return "unknown" if value is None else f"{value:g}" if is_number(value) else str(value)
