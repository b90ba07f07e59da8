"""The watched chains: when they are looked at, what of, and what is made of it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from same_bits import equal
from torch import nn

from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.chains import BlockRun
from gebm_cli.core.sampling.diagnostics import diagnose
from gebm_cli.core.sampling.potential import LatentPotential
from gebm_cli.experiment.build import Gebm
from gebm_cli.experiment.kernel import prepare
from gebm_cli.experiment.schema import Sample
from gebm_cli.experiment.watching import (
    N_PROJECTIONS,
    N_RECORDS,
    N_STARTS,
    N_WATCHED,
    Monitor,
    Watched,
    judge,
    measure_bias,
    recorded_steps,
    traces,
)

CPU = torch.device("cpu")


class Doubled(nn.Module):
    """A base that maps z (n, 2) to images (n, 1, 2, 2)."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z, 2 * z], 1).view(-1, 1, 2, 2)


class Energy(nn.Module):
    """E(x) = |x|^2 / 2 + the sum of x."""

    def __init__(self) -> None:
        super().__init__()
        self.log_partition = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).square().sum(1) / 2 + x.flatten(1).sum(1)


def kernel(**keys):
    gebm = Gebm(Doubled(), NormalPrior(2), Energy())

    def unread():
        raise AssertionError

    return prepare(gebm, Sample(**keys), 0, CPU, unread)


def watched_block(found, seed: int = 0) -> Watched:
    block = BlockRun(found.plan, NormalPrior(2), N_WATCHED, N_WATCHED, seed, ("watched",), CPU, N_STARTS)
    return Watched(block, found)


# ------------------------------------------------------------------------------------------------------- when and what


@pytest.mark.parametrize("n_steps", [1, 2, 3, 199, 200, 201, 399, 400, 401, 1000, 1001, 1500, 12345])
def test_chains_are_looked_at_at_the_start_the_end_and_evenly_between(n_steps):
    """Every step up to 200; beyond, equal strides that end at the last step, between 100 and 200 records and the start."""
    steps = recorded_steps(n_steps)
    assert steps[0] == 0 and steps[-1] == n_steps
    if n_steps <= N_RECORDS:
        assert steps == list(range(n_steps + 1))
        return
    strides = {b - a for a, b in itertools.pairwise(steps[1:])}
    assert len(strides) == 1 and 0 < steps[1] <= strides.pop()
    assert N_RECORDS / 2 < len(steps) <= N_RECORDS + 1


def test_the_monitor_tells_what_it_says():
    """E(B(z)), log eta(z), |z| and projections of B(z) on unit vectors, against direct computation."""
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    monitor = Monitor(LatentPotential(NormalPrior(2), Doubled(), Energy(), 7.0))
    told = monitor(z)
    assert list(told) == ["E", "log_prior", "|z|", *(f"projection_{i}" for i in range(1, N_PROJECTIONS + 1))]
    assert all(v.shape == (5,) and v.dtype == torch.float64 and not v.requires_grad for v in told.values())
    x = Doubled()(z).flatten(1).double()
    assert torch.allclose(told["E"], (x.square().sum(1) / 2 + x.sum(1)), atol=1e-5), "beta does not enter"
    assert torch.allclose(told["log_prior"], -z.double().square().sum(1) / 2 - math.log(2 * math.pi), atol=1e-5)
    assert torch.allclose(told["|z|"], z.double().square().sum(1).sqrt())
    projected = torch.stack([told[f"projection_{i}"] for i in range(1, N_PROJECTIONS + 1)], 1)
    directions = torch.linalg.lstsq(x, projected).solution  # x has rank 2: compare on its span
    assert torch.allclose(x @ directions, projected, atol=1e-6)
    assert torch.allclose(monitor.directions.norm(dim=0), torch.ones(N_PROJECTIONS).double())
    assert torch.linalg.matrix_rank(monitor.directions) == N_PROJECTIONS


def test_projections_are_the_same_for_every_run_with_such_data():
    """Two monitors, two potentials, two calls: one set of directions."""
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    a, b = (Monitor(LatentPotential(NormalPrior(2), Doubled(), Energy(), beta)) for beta in (0.0, 3.0))
    first, again, part = a(z), a(z), b(z[:3])
    assert equal(first, again) and all(torch.allclose(v[:3], part[k]) for k, v in first.items())


def test_a_watched_block_is_recorded_and_can_be_stopped_anywhere():
    """A record at each of its steps; saved after 7 of 12 steps and gone on with, it ends with the same records, bit for bit."""
    found = kernel(sampler="mala", n_steps=12, step_size=0.1)
    whole, cut, resumed = (watched_block(found) for _ in range(3))
    while not whole.done:
        whole.advance()
    for _ in range(7):
        cut.advance()
    resumed.load_state_dict(cut.state_dict())
    while not resumed.done:
        resumed.advance()
    assert len(whole.records) == 13 and equal(whole.records, resumed.records)
    assert equal(whole.state_dict(), resumed.state_dict())
    shown = traces(whole.records)
    assert shown["E"].shape == (N_WATCHED, 13)
    starts = shown["|z|"][:, 0].view(N_STARTS, -1)
    assert (starts == starts[:, :1]).all() and len(starts[:, 0].unique()) == N_STARTS


# ---------------------------------------------------------------------------------------------------------------- judge


def fake_traces(n: int, from_record: int, sticky: bool) -> dict[str, torch.Tensor]:
    """Independent draws from a record on, and stuck starts before it; `sticky` exchanges the two."""
    g = torch.Generator().manual_seed(2)
    free = torch.randn(N_WATCHED, n, generator=g, dtype=torch.float64)
    stuck = 5 * torch.arange(N_STARTS).repeat_interleave(N_WATCHED // N_STARTS).double()[:, None] + 0.1 * free
    late = torch.arange(n) >= from_record
    return {"E": torch.where(late ^ sticky, free, stuck), "|z|": torch.where(late ^ sticky, free.flip(1), stuck)}


WINDOWS = [
    ({"mode": "refine", "n_steps": 40}, 41, 21),
    ({"mode": "sample", "n_steps": 30, "n_draws": 1, "n_warmup": 10}, 41, 11),
    ({"mode": "sample", "n_steps": 40, "n_draws": 1, "n_warmup": 0}, 41, 1),
]


@pytest.mark.parametrize(("keys", "n", "first"), WINDOWS)
@pytest.mark.parametrize("sampler", ["ula", "rw"])
def test_the_verdict_looks_at_the_second_half_or_after_the_warm_up(keys, n, first, sampler):
    """Records in the window decide, those before it have no say; figures are those of the window, rates those of its cost."""
    found = kernel(sampler=sampler, step_size=0.1, **keys)
    good, bad = fake_traces(n, first, False), fake_traces(n, first, True)
    told = judge(found, good, seconds=8.0)
    assert told["mixed"] and "mixed: R-hat" in told["verdict"]
    if first > 1:
        assert not judge(found, bad, 8.0)["mixed"]
    spoilt = {k: v.clone() for k, v in good.items()}
    spoilt["E"][:, first] += 50 * torch.arange(N_WATCHED).double()
    assert judge(found, spoilt, 8.0)["watched"]["E"] != told["watched"]["E"], "the first record of the window counts"
    mixing = diagnose({k: v[:, first:] for k, v in good.items()}, N_STARTS)
    assert told["rhat"] == pytest.approx(mixing.worst_rhat, rel=1e-4)
    assert told["nested_rhat"] == pytest.approx(mixing.worst_nested_rhat, rel=1e-4)
    assert told["ess_bulk"] == pytest.approx(mixing.least_ess_bulk, rel=1e-4)
    assert told["ess_tail"] == pytest.approx(mixing.least_ess_tail, rel=1e-4)
    share = (n - first) / (n - 1)
    per = "gradient" if sampler == "ula" else "value"
    assert told[f"ess_per_{per}"] == pytest.approx(told["ess_bulk"] / (share * 40 * N_WATCHED), rel=1e-3)
    assert told["ess_per_second"] == pytest.approx(told["ess_bulk"] / (share * 8.0), rel=1e-3)
    assert list(told["watched"]) == ["E", "|z|"] and told["n_watched"] == N_WATCHED


@pytest.mark.parametrize(("n_steps", "judged"), [(1, False), (7, True), (6, False), (8, True)])
def test_fewer_than_four_records_are_not_judged(n_steps, judged):
    """The second half of 6 steps is 3 records: a sentence instead of figures."""
    found = kernel(sampler="ula", n_steps=n_steps, step_size=0.1)
    told = judge(found, fake_traces(n_steps + 1, 0, False), 1.0)
    assert ("rhat" in told) is judged
    if not judged:
        assert told == {
            "verdict": f"not judged: {n_steps} steps are too few to judge mixing; treat as refinement",
            "mixed": False,
        }


def test_a_figure_that_is_not_a_number_is_told_as_none():
    """Below ten draws a chain effective draws are unknown; sample.yaml then has null, not NaN."""
    told = judge(kernel(sampler="ula", n_steps=8, step_size=0.1), fake_traces(9, 0, False), 1.0)
    assert told["ess_bulk"] is None and told["ess_per_gradient"] is None and "unknown" in told["verdict"]
    assert told["mixed"] is False


# ----------------------------------------------------------------------------------------------------------------- bias


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.markov])
def test_the_bias_meter_is_for_samplers_without_a_test(name):
    """E, log prior and |z| with standard errors for kla, ula, lm and ddls; None for those that are exact."""
    found = kernel(sampler=name, n_steps=2, **({"step_size": 0.1} if CATALOGUE[name].unit else {}))
    told = measure_bias(found, watched_block(found).block, 0)
    assert (told is None) == CATALOGUE[name].exact
    if told is not None:
        assert list(told) == ["E", "log_prior", "|z|"]
        assert all(row["standard_error"] > 0 for row in told.values())


def test_the_bias_meter_sees_a_large_step():
    """On a Gaussian of precision 6 ULA at eps .28 has variance 1 / (6 (1 - .84)): |z| is too large, by many standard errors."""
    found = kernel(sampler="ula", n_steps=30, step_size=0.28)
    watched = watched_block(found)
    while not watched.done:
        watched.advance()
    told = measure_bias(found, watched.block, 0)["|z|"]
    assert told["value"] > 4 * told["standard_error"]
