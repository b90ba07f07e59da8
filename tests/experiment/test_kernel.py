"""From keys to a kernel: steps kept or tuned, beta calibrated, schedules laid out, warnings given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.effective import effective
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.errors import GebmError
from gebm_cli.experiment.build import Gebm
from gebm_cli.experiment.kernel import N_CALIBRATION, calibrate, prepare, schedule
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.schema import Sample

CPU = torch.device("cpu")
DIGITS = Path(__file__).parents[2] / "experiments/digits.yaml"


class Quadratic(nn.Module):
    """E(x) = (k - 1) |x|^2 / 2, so that U has curvature k at beta = 1."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k
        self.log_partition = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.k - 1) * x.square().sum(1) / 2


class Linear(nn.Module):
    """E(x) = -slope x."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.log_partition = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.slope * x[:, 0]


def unread() -> Dataset:
    raise AssertionError("the data are read for beta: auto only")


def kernel(k: float = 4.0, warn=lambda message: None, dataset=unread, energy=None, dim: int = 3, **keys):
    gebm = Gebm(nn.Identity(), NormalPrior(dim), energy or Quadratic(k))
    return prepare(gebm, Sample(**keys), 7, CPU, dataset, warn)


# ------------------------------------------------------------------------------------------------------------- prepare


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.unit])
def test_a_step_size_that_is_given_is_kept(name):
    """Nothing is tuned then, for any sampler that has a step."""
    found = kernel(sampler=name, step_size=0.0625)
    assert found.tuned.sampler.step_size == found.sampler.step_size == 0.0625 and found.tuned.acceptance is None
    assert found.describe()["step_size"] == 0.0625


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.acceptance])
def test_a_metropolis_sampler_is_tuned_to_its_acceptance(name):
    """The acceptance of the pilot chains is near the target, and told; the step is no round number of ours."""
    found = kernel(sampler=name)
    assert found.describe()["tuned_acceptance"] == pytest.approx(CATALOGUE[name].acceptance, abs=0.12)
    assert found.describe()["step_size"] == pytest.approx(found.tuned.sampler.step_size, rel=1e-5)


def test_the_same_seed_gives_the_same_kernel():
    """Tuning has a random stream of its own."""
    assert kernel(sampler="mala").describe() == kernel(sampler="mala").describe()


@pytest.mark.parametrize(
    ("keys", "n_steps", "n_warmup", "draws"),
    [
        ({}, CATALOGUE["kla"].n_steps, 0, (CATALOGUE["kla"].n_steps,)),
        ({"sampler": "ihm"}, CATALOGUE["ihm"].n_steps, 0, (CATALOGUE["ihm"].n_steps,)),
        ({"n_steps": 7}, 7, 0, (7,)),
        ({"mode": "sample", "n_draws": 2}, 1000, 500, (1000, 1500)),
        ({"mode": "sample", "n_steps": 9, "n_draws": 3}, 9, 4, (7, 10, 13)),
        ({"mode": "sample", "n_steps": 8, "n_draws": 2, "n_warmup": 0}, 8, 0, (4, 8)),
        ({"mode": "sample", "n_steps": 8, "n_draws": 2, "n_warmup": 3}, 8, 3, (7, 11)),
    ],
)
def test_how_long_chains_run(keys, n_steps, n_warmup, draws):
    """Defaults by sampler and mode; the warm-up comes on top, and draws are evenly spaced after it."""
    found = kernel(**({"step_size": 0.1} if keys.get("sampler") != "ihm" else {}), **keys)
    assert (found.n_steps, found.n_warmup, tuple(found.plan.draws)) == (n_steps, n_warmup, draws)
    assert found.plan.n_steps == n_warmup + n_steps


def test_what_is_told_has_no_key_that_does_not_apply():
    """Friction for kla and ghmc, a ladder for pt, no step for ihm; plain types, six digits, nothing null."""
    told = {name: kernel(sampler=name).describe() for name in CATALOGUE}
    assert {name for name in told if "friction" in told[name]} == {"kla", "ghmc"}
    assert {name for name in told if "ladder" in told[name]} == {"pt"}
    assert {name for name in told if "total_time" in told[name]} == {n for n, e in CATALOGUE.items() if e.unit}
    assert told["pt"]["ladder"][0] == 0 and told["pt"]["ladder"][-1] == 1 and len(told["pt"]["ladder"]) == 5
    assert all(value is not None for row in told.values() for value in row.values())
    assert all(type(v) in (int, float, str, list) for row in told.values() for v in row.values())
    assert told["kla"]["damping"] == pytest.approx(math.exp(-2 * told["kla"]["h"]), rel=1e-5)
    assert kernel(sampler="kla", friction="low").describe()["friction"] == 0.2


@pytest.mark.parametrize(
    ("keys", "k", "outcome"),
    [
        ({"sampler": "ula", "step_size": 0.9}, 4.0, "will diverge there"),
        ({"sampler": "kla", "step_size": 1.1}, 4.0, "will diverge there"),
        ({"sampler": "mala", "step_size": 0.9}, 4.0, "will reject nearly everything"),
        ({"sampler": "ula", "step_size": 0.4}, 4.0, None),
        ({"sampler": "kla", "step_size": 0.9}, 4.0, None),
        ({"sampler": "ula"}, 400.0, None),
        ({"sampler": "dot", "step_size": 9.0}, 4.0, None),
        ({"sampler": "ihm"}, 4.0, None),
    ],
)
def test_a_step_beyond_the_stability_bound_is_warned_of(keys, k, outcome):
    """U has curvature 4: the bound is 2 / 4 for epsilon and 2 / sqrt(4) for h; a step that is tuned is never warned of."""
    warnings: list[str] = []
    found = kernel(k, warnings.append, **keys)
    if outcome is None:
        assert warnings == []
        return
    bound = 1.0 if keys["sampler"] == "kla" else 0.5
    assert found.tuned.stability_bound == pytest.approx(bound, rel=1e-3)
    assert (
        len(warnings) == 1
        and f"step size {keys['step_size']:g} is beyond the stability bound {bound:.3g} " in warnings[0]
    )
    assert "curvature of U 4)" in warnings[0] and outcome in warnings[0] and "--step-size auto" in warnings[0]


# ----------------------------------------------------------------------------------------------------------- calibration


def shifted(m: float, n_held_out: int) -> Dataset:
    """Data N(m, 1)."""
    points = m + torch.randn(n_held_out, 1, generator=torch.Generator().manual_seed(3))
    return Dataset("shifted", torch.zeros(1, 1), points)


def potential_of(energy: nn.Module, beta: float = 1.0) -> LatentPotential:
    return LatentPotential(NormalPrior(1), nn.Identity(), energy, beta)


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_beta_auto_finds_the_slope_of_a_known_pair(scale):
    """Base N(0, 1) and data N(m, 1) differ by exp(m x - m^2 / 2): for E = -scale m x the slope is 1 / scale, within 4 errors."""
    m = 0.7
    slope = calibrate(potential_of(Linear(scale * m), beta=9.0), shifted(m, 6000), 1, CPU)
    assert abs(slope.value - 1 / scale) < 4 * slope.standard_error
    assert slope.standard_error < 0.06 / scale and slope.n_real == slope.n_fake == N_CALIBRATION
    found = kernel(
        sampler="ula", beta="auto", step_size=0.1, energy=Linear(scale * m), dim=1, dataset=lambda: shifted(m, 900)
    )
    assert found.potential.beta == found.slope.value == pytest.approx(1 / scale, abs=0.3 / scale)
    assert found.describe()["beta_standard_error"] == pytest.approx(found.slope.standard_error, rel=1e-5)


@pytest.mark.parametrize(
    ("energy", "n", "sentence"),
    [
        (Linear(0.7), 19, "needs at least 20 held-out data points, got 19"),
        (Linear(-0.7), 400, "the energy does not favour data over base samples, so no positive beta helps"),
        (Linear(0.0), 400, "the energy is the same everywhere"),
        (Linear(math.nan), 400, "800 of 800 energies are not finite"),
    ],
)
def test_a_useless_energy_cannot_be_calibrated(energy, n, sentence):
    """One sentence that says why, and that beta can be given as a number."""
    with pytest.raises(GebmError, match=sentence) as raised:
        calibrate(potential_of(energy), shifted(0.7, n), 1, CPU)
    assert str(raised.value).startswith("beta: auto: ") and "give beta as a number" in str(raised.value)


# -------------------------------------------------------------------------------------------------------------- schedule


def stages_of(n_steps: int, n_warmup: int = 0, **keys):
    """(first step, beta, step size) of each stage of a kla chain at beta 8."""
    wanted = Sample(step_size=0.1, beta=8.0, **keys)
    found = kernel(sampler="kla", step_size=0.1, beta=8.0)
    stages = schedule(found.tuned.sampler, found.potential, wanted, n_steps, n_warmup)
    for stage in stages:
        assert stage.potential is None or stage.sampler.potential is stage.potential
    return [(s.first, s.sampler.potential.beta, s.sampler.step_size) for s in stages], stages


def test_nothing_asked_is_one_stage():
    """The tuned sampler from the first step on."""
    rows, stages = stages_of(100)
    assert rows == [(0, 8.0, 0.1)] and stages[0].potential is None


def test_beta_rises_geometrically_over_the_first_half():
    """From 0.5 to 8 in eight equal factors of sqrt(2) over 40 of 80 steps; the rest runs at beta."""
    rows, stages = stages_of(80, beta_start=0.5)
    assert [first for first, _, _ in rows] == list(range(0, 41, 5))
    assert [beta for _, beta, _ in rows] == pytest.approx([0.5 * 2 ** (i / 2) for i in range(9)])
    assert rows[-1][1] == 8.0 and {step for _, _, step in rows} == {0.1}
    assert all(stage.potential is not None for stage in stages), "a chain is valued anew where beta changes"


def test_beta_rises_evenly_from_zero_over_the_warm_up():
    """Zero has no logarithm; with a warm-up its end is the end of annealing."""
    rows, _ = stages_of(80, n_warmup=16, beta_start=0.0)
    assert [(first, beta) for first, beta, _ in rows] == [(2 * i, float(i)) for i in range(9)]


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7])
def test_annealing_of_very_short_chains_ends_at_beta(n_steps):
    """No more stages than steps to fill, and the last step runs at beta."""
    rows, _ = stages_of(n_steps, beta_start=0.5)
    assert rows[-1][:2] == (n_steps // 2, 8.0) and [r[0] for r in rows] == sorted(r[0] for r in rows)


def test_the_step_decays_by_a_factor_and_friction_is_held():
    """0.1, 0.05, 0.025 from steps 0, 30, 60; the damping exp(-friction h) grows as h falls."""
    rows, stages = stages_of(80, step_size_decay=0.5, step_size_decay_every=30)
    assert rows == [(0, 8.0, 0.1), (30, 8.0, 0.05), (60, 8.0, 0.025)]
    assert {s.sampler.friction for s in stages} == {2.0}
    damping = [effective(s.sampler, "h")["damping"] for s in stages]
    assert damping == pytest.approx([math.exp(-0.2), math.exp(-0.1), math.exp(-0.05)])


def test_beta_rises_and_the_step_decays_together():
    """The stages of both: beta changes at its own steps, the factor of the step at its own."""
    rows, stages = stages_of(40, beta_start=0.5, step_size_decay=0.1, step_size_decay_every=15)
    betas = {first: 0.5 * 2 ** (i / 2) for i, first in enumerate(i * 20 // 8 for i in range(9))}
    assert [first for first, _, _ in rows] == sorted({*betas, 15, 30})
    for first, beta, step in rows:
        assert beta == pytest.approx(betas[max(f for f in betas if f <= first)])
        assert step == pytest.approx(0.1 * 0.1 ** (first // 15))
    assert [s.first for s in stages if s.potential is None] == [30], "where beta stays, nothing is valued anew"
    assert rows[-1][1] == 8.0


def test_a_plan_follows_its_schedule():
    """prepare() hands the stages on: the plan's last kernel is the chain's, and the time counts every stage."""
    found = kernel(step_size=0.2, n_steps=30, step_size_decay=0.5, step_size_decay_every=10, beta_start=0.1)
    assert found.sampler.step_size == 0.05 and found.describe()["step_size"] == 0.2
    assert float(found.sampler.potential.beta) == 1.0
    times = [effective(s.sampler, "h")["step_time"] for s in (found.plan.stage(k) for k in range(30))]
    assert found.describe()["total_time"] == pytest.approx(sum(times), rel=1e-5)


def test_the_experiments_sample_section_is_what_prepare_reads():
    """The keys of a real experiment file make a kernel."""
    keys = load_experiment(DIGITS, []).sample
    found = prepare(Gebm(nn.Identity(), NormalPrior(2), Quadratic(2.0)), keys, 0, CPU, unread)
    assert found.entry.name == keys.sampler and float(found.potential.beta) == keys.beta
