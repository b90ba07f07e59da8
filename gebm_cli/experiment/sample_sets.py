"""The sample sets of a run, by what their sample.yaml says of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.files import read_yaml, when
from gebm_cli.experiment.run import Run


@dataclass(frozen=True)
class SampleSet:
    """A folder of samples: drawn from the base alone, by chains on the energy, or left by a flow of particles."""

    path: Path
    described: dict[str, Any]
    kind: Literal["base", "chains", "flow"]

    @property
    def name(self) -> str:
        return self.path.name


def describe_sample_set(path: Path) -> dict[str, Any]:
    """How a sample set was drawn, from its sample.yaml."""
    described = read_yaml(path / "sample.yaml")
    if not isinstance(described, dict):
        raise GebmError(f"{path / 'sample.yaml'}: does not describe a sample set; it was changed by hand")
    return described


def kind_of(described: dict[str, Any]) -> Literal["base", "chains", "flow"]:
    """Which of the three a description is of."""
    return "base" if described.get("sampler") == "none" else "flow" if "flow" in described else "chains"


def sample_sets(run_path: Path, tell: Callable[[str], None] | None = None) -> list[SampleSet]:
    """Every finished sample set in the run's folder, oldest first.

    Args:
        tell: told of a set that cannot be read, which is then passed over.

    Raises:
        GebmError: a set cannot be read, and there is nobody to tell.
    """
    found = []
    for file in (run_path / "samples").glob("[!.]*/sample.yaml"):
        try:
            described = describe_sample_set(file.parent)
        except GebmError as error:
            if tell is None:
                raise
            tell(str(error))
            continue
        found.append((when(file, described), SampleSet(file.parent, described, kind_of(described))))
    return [one for _, one in sorted(found, key=lambda f: (f[0], f[1].name))]


def newest_sample_set(run: Run, base: bool | None = None) -> Path:
    """The newest sample set of a run; with `base`, the newest drawn from the base alone (True) or by a chain (False), no flow's.

    Raises:
        UsageError: there is none.
    """
    wanted = ("base", "chains", "flow") if base is None else ("base",) if base else ("chains",)
    found = [s.path for s in sample_sets(run.path) if s.kind in wanted]
    if not found:
        option = " --sampler none" if base else ""
        raise UsageError(
            f"{run.path}: has no {'base ' if base else ''}samples yet; `gebm sample {run.option}{option}` draws some"
        )
    return found[-1]
