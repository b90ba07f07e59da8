"""`gebm doctor`: is a run's energy fit to be sampled? The checks of `core/sampling/checks`, on its trained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.device import make_generator
from gebm_cli.core.sampling import checks
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.checks import Check
from gebm_cli.core.sampling.diagnostics import Slope
from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.make import Options
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.core.sampling.tuning import pilot_steps, tune
from gebm_cli.errors import GebmError
from gebm_cli.experiment.build import dataset_at_hand, load_gebm
from gebm_cli.experiment.drawing import data_shape
from gebm_cli.experiment.kernel import calibrate
from gebm_cli.experiment.run import Run
from gebm_cli.experiment.schema import Sample

N_CHAINS = 256
N_MALA = (200, 100)
N_PARTS = (
    9 + pilot_steps("mala", None) + sum(N_MALA)
)  # checks, steps of tuning and steps of chains, for the progress bar


@dataclass(frozen=True)
class Exam:
    """What is examined: a potential, the keys it is to be sampled with, and where the random numbers come from."""

    potential: LatentPotential
    keys: Sample
    seed: int
    device: torch.device
    on_part: Callable[[int], None] = lambda done: None

    def generator(self, name: str) -> torch.Generator:
        """Every check has a stream of its own."""
        return make_generator(self.seed, "doctor", name, device=self.device)


def examine(
    run: Run,
    seed: int,
    device: torch.device,
    beta: float | None = None,
    on_part: Callable[[int], None] = lambda done: None,
    allow_plugins: bool = False,
) -> dict[str, Any]:
    """All checks of a run's energy; `ok` where none failed.

    Args:
        beta: None: the run's own `sample.beta`; where that is auto, the calibrated one, and 1 where there is none.
        on_part: told how much more is done, of N_PARTS.

    Raises:
        GebmError: the networks cannot be loaded.
    """
    gebm = load_gebm(run, data_shape(run), device, True, allow_plugins)
    assert gebm.energy is not None
    potential, keys = LatentPotential(gebm.prior, gebm.base, gebm.energy, 1.0), run.experiment.sample
    calibration, slope = check_calibration(potential, held_out_of(run), seed, device)
    if beta is None and keys.beta == "auto":
        beta = slope.value if slope is not None else 1.0
    beta = float(keys.beta) if beta is None else beta
    found = [*examine_potential(Exam(replace(potential, beta=beta), keys, seed, device, on_part)), calibration]
    return {
        "run": run.name,
        "beta": beta,
        "seed": seed,
        "device": str(device),
        "ok": all(check["status"] != "failed" for check in map(as_row, found)),
        "checks": [as_row(check) for check in found],
    }


def as_row(check: Check) -> dict[str, Any]:
    """A check as plain types, with its further figures beside the first."""
    row = asdict(check)
    figures = row.pop("figures")
    return row | figures


def examine_potential(exam: Exam) -> list[Check]:
    """The checks of a potential, in the order in which they build on each other; only the first where hardly a draw is finite."""
    potential, found = exam.potential, []
    own, entry = exam.keys.step_size, CATALOGUE.get(exam.keys.sampler)
    unit = entry.unit if entry is not None and entry.markov else ""
    step = None if own == "auto" else float(own)
    plain: dict[str, Callable[[torch.Generator], Check]] = {
        "finite": lambda g: checks.check_finite(potential, g),
        "deterministic": lambda g: checks.check_deterministic(potential, g),
        "gradient": lambda g: checks.check_gradient(potential, g),
        "flat": lambda g: checks.check_flat(potential, g),
        "prior": lambda g: checks.check_prior(potential.prior, g),
        "beta_zero": lambda g: checks.check_beta_zero(potential, g),
        "stability": lambda g: checks.check_stability(potential, step, unit, g),
        "overlap": lambda g: checks.check_overlap(potential, g),
    }
    for name, check in plain.items():
        found.append(_guarded(name, lambda name=name, check=check: check(exam.generator(name))))  # type: ignore[misc]
        exam.on_part(1)
        if name == "finite" and not found[0].value < 0.5:
            return found
    return [*found, *_with_mala(exam)]


def _with_mala(exam: Exam) -> list[Check]:
    """The checks that look at MALA's acceptance ratio, at the step to which it is tuned."""
    potential, generator = exam.potential, exam.generator("mala")

    def tick() -> None:
        exam.on_part(1)

    def metropolis() -> Check:
        z = checks.draws(potential, N_CHAINS, exam.generator("metropolis"))
        return checks.check_metropolis(tuned(), z, generator, N_MALA, tick)

    made: list[Mala] = []

    def tuned() -> Mala:
        if not made:
            sampler = tune("mala", potential, None, Options(), generator, tick).sampler
            assert isinstance(sampler, Mala)
            made.append(sampler)
        return made[0]

    precision = _guarded(
        "precision", lambda: checks.check_precision(potential, tuned().step_size, exam.generator("precision"))
    )
    exam.on_part(1)
    return [precision, _guarded("metropolis", metropolis)]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check; what the user's networks raise inside it is a finding, not the end of the command."""
    try:
        return check()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return _raised(name, error)


def _raised(name: str, error: Exception) -> Check:
    first = (str(error).strip().splitlines() or [""])[0]
    message = f"{type(error).__name__}: {first}; networks and prior must not raise, forward or backward, at draws of the prior"
    return Check(name, "failed", float("nan"), None, message)


# --------------------------------------------------------------------------------------------------------------- calibration


def held_out_of(run: Run) -> Dataset | str:
    """The run's data set, or why it cannot be read; nothing is downloaded for it."""
    dataset = dataset_at_hand(run.experiment)
    if isinstance(dataset, str) or len(dataset.held_out) >= 20:
        return dataset
    return "fewer than 20 data points are held out"


def check_calibration(
    potential: LatentPotential, dataset: Dataset | str, seed: int, device: torch.device
) -> tuple[Check, Slope | None]:
    """The slope b of logit P(held out | E) = a - b E against base samples, 1 where E is exact, and |b - 1| in standard errors.

    Without held-out data there is nothing to see, and the figure is NaN.
    """
    name, bound = "calibration", checks.LARGEST_Z
    if isinstance(dataset, str):
        return Check(name, "skipped", float("nan"), None, f"not looked at: {dataset}"), None
    try:
        slope = calibrate(potential, dataset, seed, device)
    except GebmError as error:
        reason = str(error).removeprefix("beta: auto: ")
        return Check(name, "warning", float("nan"), bound, f"no slope on held-out data: {reason}"), None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return _raised(name, error), None
    figures = {"slope": slope.value, "standard_error": slope.standard_error}
    told = f"slope on held-out data {slope.value:.3g} +- {slope.standard_error:.2g}"
    if abs(slope.z) <= bound:
        return Check(name, "ok", abs(slope.z), bound, f"{told}: beta = 1 is the model the data ask for", figures), slope
    side = "too flat" if slope.value > 1 else "too steep, or overfitted"
    message = (
        f"{told}, not 1: the energy is {side}, and beta = {slope.value:.3g} fits the data better; --beta auto takes it"
    )
    return Check(name, "warning", abs(slope.z), bound, message, figures), slope
