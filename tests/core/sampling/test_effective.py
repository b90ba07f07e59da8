"""The common unit of settings: how far a step spreads on a flat potential, and the time of a whole plan."""

from __future__ import annotations

import math

import pytest
import torch

from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.core.sampling.chains import Plan, Stage
from gebm_cli.core.sampling.effective import effective, total_time
from gebm_cli.core.sampling.make import Options, make_sampler


class Flat:
    """U = 0 on the line."""

    beta = 1.0

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(z), dtype=torch.float64)

    def value_and_grad(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.value(z), torch.zeros_like(z)


def build(name: str, step: float, **options):
    return make_sampler(name, Flat(), step, Options(**options))


FREE = {
    "kla, low friction": ("kla", 0.5, {"friction": 0.4}),
    "kla, critical": ("kla", 0.3, {"friction": 2.0}),
    "kla, high friction": ("kla", 0.3, {"friction": 20.0}),
    "kla, the paper's scheme": ("kla", 0.4, {"friction": 1.0, "scheme": "gebm"}),
    "kla, obabo": ("kla", 0.4, {"friction": 1.0, "scheme": "obabo"}),
    "kla, several O between A": ("kla", 0.4, {"friction": 1.0, "scheme": "baoaob"}),
    "ghmc": ("ghmc", 0.4, {"friction": 1.0}),
    "hmc": ("hmc", 0.3, {"n_leapfrog": 4, "jitter": 0.0}),
    "hmc, jittered": ("hmc", 0.3, {"n_leapfrog": 4, "jitter": 0.9}),
    "ula": ("ula", 0.2, {}),
    "lm": ("lm", 0.2, {}),
    "mala": ("mala", 0.2, {}),
    "rw": ("rw", 0.2, {}),
}


@pytest.mark.parametrize("case", FREE)
def test_free_chains_spread_by_twice_step_time_a_step(case):
    """With U = 0 the variance grows at long times by 2 step_time a step, |z| < 4; after 80 steps no velocity is remembered."""
    name, step, options = FREE[case]
    sampler, half = build(name, step, **options), 80
    generator = torch.Generator().manual_seed(1)
    state = sampler.init(torch.zeros(20_000, 1, dtype=torch.float64), generator)
    squares = []
    for k in range(2 * half):
        state, info = sampler.step(state, generator)
        assert info.accepted.all(), "on flat ground nothing is rejected"
        if k + 1 in (half, 2 * half):
            squares.append(state.position[:, 0].square())
    growth = (squares[1] - squares[0]) / (2 * half)
    told = effective(sampler, CATALOGUE[name].unit)
    z = (growth.mean().item() - told["step_time"]) / (growth.std().item() / math.sqrt(len(growth)))
    assert abs(z) < 4, f"z {z:.2f}: measured {growth.mean():.5f}, told {told['step_time']:.5f}"
    # The test has power: 15 % more or less would be seen.
    assert 0.15 * told["step_time"] > 4 * growth.std().item() / math.sqrt(len(growth))


@pytest.mark.parametrize(
    ("name", "step", "options", "expected"),
    [
        ("kla", 0.5, {"friction": 2.0}, (0.5, 0.125, math.exp(-1), 0.125 * (1 + math.exp(-1)) / (1 - math.exp(-1)))),
        ("kla", 0.5, {"friction": 0.0}, (0.5, 0.125, 1.0, math.inf)),
        ("ghmc", 0.5, {"friction": 200.0}, (0.5, 0.125, math.exp(-100), 0.125)),
        ("hmc", 0.2, {"n_leapfrog": 5, "jitter": 0.0}, (0.2, 0.02, 0.0, 0.5)),
        ("mala", 0.08, {}, (0.4, 0.08, 0.0, 0.08)),
        ("ex2", 0.08, {"n_local": 3}, (0.4, 0.08, 0.0, 0.24)),
        ("pt", 0.08, {"betas": (0.5, 1.0)}, (0.4, 0.08, 0.0, 0.08)),
        ("dgflow", 0.02, {}, (0.2, 0.02, 0.0, 0.02)),
    ],
)
def test_settings_in_one_unit(name, step, options, expected):
    """h, epsilon = h^2 / 2, C and the time of a step, by hand."""
    got = effective(build(name, step, **options), CATALOGUE[name].unit)
    assert list(got) == ["h", "epsilon", "damping", "step_time"]
    assert tuple(got.values()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if not entry.unit])
def test_a_sampler_without_step_size_has_none_of_it(name):
    """No h, no time."""
    sampler = build(name, 0.0, log_bound=1.0)
    assert effective(sampler, "") == {} and total_time(Plan([Stage(0, sampler)], 7, ()), "") == 0


def test_total_time_adds_up_the_stages():
    """10 steps in stages from 0, 3 and 7: 3 + 4 + 3 steps of their own lengths; a stage beyond the end counts nothing."""
    steps = {0: 0.1, 3: 0.2, 7: 0.4}
    stages = [Stage(first, build("ula", step)) for first, step in steps.items()]
    assert total_time(Plan(stages, 10, ()), "epsilon") == pytest.approx(3 * 0.1 + 4 * 0.2 + 3 * 0.4)
    assert total_time(Plan(stages, 5, ()), "epsilon") == pytest.approx(3 * 0.1 + 2 * 0.2)
    assert total_time(Plan(stages[:1], 10, ()), "epsilon") == pytest.approx(1.0)
