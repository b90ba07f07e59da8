"""MMD GANs on two points (Mescheder et al. 2018; Arbel et al. 2018, example 1): what a learned kernel does, and what cures it.

With data at 0, base at theta and phi(x) = psi x, MMD^2 = 2 (1 - exp(-psi^2 theta^2 / 2)). Its supremum over psi is 2 for every
theta but 0, where it is 0. Scaled MMD divides by 2 + psi^2; its supremum is theta^2 (1 - sqrt 2 |theta| + ...).
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from benchmarks.dirac_gan import LARGE, METHODS, SMALL, STARTS, critic_value, trajectory

PLAIN, SCALED = METHODS["MMD"], METHODS["scaled MMD"]
CURED = ["MMD, zero-centred penalty", "scaled MMD"]


@pytest.mark.parametrize(("theta", "psi"), [(0.0, 3.0), (1.3, 0.7), (-2.0, 1.1), (0.01, 40.0)])
def test_values_are_the_closed_forms(theta, psi):
    """The package's MMD^2 and scaled MMD^2 of repeated points are the formulas of the head of this file."""
    expected = -2 * math.expm1(-((psi * theta) ** 2) / 2)
    assert critic_value(PLAIN, theta, psi) == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert critic_value(SCALED, theta, psi) == pytest.approx(expected / (2 + psi**2), rel=1e-9, abs=1e-14)


def optimised(method, theta, largest):
    """max over 0 <= psi <= largest: a grid, then golden sections around its best point."""
    grid = [largest * (i / 80) ** 3 for i in range(81)]
    values = [critic_value(method, theta, p) for p in grid]
    best = max(range(81), key=values.__getitem__)
    low, high = grid[max(0, best - 1)], grid[min(80, best + 1)]
    for _ in range(25):
        a, b = high - 0.618 * (high - low), low + 0.618 * (high - low)
        low, high = (a, high) if critic_value(method, theta, a) < critic_value(method, theta, b) else (low, b)
    return max(values[best], critic_value(method, theta, (low + high) / 2))


@pytest.mark.parametrize("largest", [8.0, 128.0, 2048.0])
def test_the_optimised_mmd_jumps_at_the_data(largest):
    """With |psi| <= R it rises from 0 at theta = 0 to 2 within 6 / R: its slope grows like R, and without a bound it jumps."""
    assert optimised(PLAIN, 0.0, largest) == pytest.approx(0, abs=1e-12)
    assert optimised(PLAIN, 6 / largest, largest) == pytest.approx(2, abs=1e-6)
    rise = optimised(PLAIN, 1.1 / largest, largest) - optimised(PLAIN, 0.9 / largest, largest)
    assert rise / (0.2 / largest) == pytest.approx(2 * math.exp(-0.5) * largest, rel=0.02)


def test_the_optimised_scaled_mmd_is_smooth():
    """Its gradient is 0 at the data and Lipschitz there with a constant of 2, and a critic of 16 times the size changes nothing."""
    step = 0.04
    thetas = [step * i for i in range(-12, 13)]
    values = [optimised(SCALED, t, 64.0) for t in thetas]
    slopes = [(b - a) / step for a, b in pairwise(values)]
    bends = [(b - a) / step for a, b in pairwise(slopes)]
    assert max(map(abs, slopes)) < 0.6 and max(map(abs, bends)) < 2.0
    for theta in (0.02, 0.1, 0.5):
        assert optimised(SCALED, theta, 1024.0) == pytest.approx(optimised(SCALED, theta, 64.0), rel=1e-5)
    for theta in (1e-2, 1e-3):
        expansion = theta**2 * (1 - math.sqrt(2) * theta)
        assert optimised(SCALED, theta, 1024.0) == pytest.approx(expansion, rel=3 * theta**2 + 1e-6)


def test_the_flow_of_mmd_moves_on_circles():
    """d(theta^2 + psi^2)/dt = 0: with small steps the base arrives at the data while the critic takes up the radius."""
    path = trajectory(PLAIN, (1.0, 0.5), 300, 0.03)
    radius = path.square().sum(1)
    assert radius.diff().min() > -1e-6, "each simultaneous step increases the radius"
    assert radius[-1].item() == pytest.approx(1.25, rel=0.05)
    assert abs(path[-1, 0]) < 1e-4 and path[-1, 1].item() == pytest.approx(math.sqrt(1.25), rel=0.025)


@pytest.mark.parametrize("start", STARTS)
def test_mmd_with_a_stronger_critic_does_not_converge(start):
    """Five critic steps of rate h = .5: psi passes 1 / sqrt h, above which theta = 0 repels, and the base stops far from it
    where MMD^2 is flat."""
    lr, critic_steps = LARGE
    path = trajectory(PLAIN, start, 100, lr, critic_steps, alternating=True)
    theta, psi = path[-1].tolist()
    assert abs(psi) > 1 / math.sqrt(lr) and abs(theta) > 1, (theta, psi)
    assert critic_value(PLAIN, theta, psi) > 1.99
    assert abs(path[-1, 0] - path[-21, 0]) < 0.02, "it stands still"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("setting", [SMALL, LARGE], ids=["small steps", "strong critic"])
@pytest.mark.parametrize("name", CURED)
def test_the_penalty_and_the_scale_make_it_converge(name, setting, start):
    """From the same starts with the same steps theta goes to 0 and psi stays bounded."""
    lr, critic_steps = setting
    path = trajectory(METHODS[name], start, 160 if setting == SMALL else 25, lr, critic_steps, setting == LARGE)
    assert abs(path[-1, 0]) < 1e-3 and path[:, 1].abs().max() < 4, path[-1].tolist()


def test_the_scaled_base_never_moves_away():
    """A step of rate h <= 1/2 multiplies theta by 1 - 2 h psi^2 exp(-psi^2 theta^2 / 2) / (2 + psi^2), in (0, 1]: whatever psi."""
    for start in (*STARTS, (0.3, 30.0), (2.5, -6.0)):
        theta = trajectory(SCALED, start, 15, 0.5)[:, 0]
        ratio = theta[1:] / theta[:-1]
        assert ((ratio > 0) & (ratio <= 1)).all(), (start, ratio.tolist())
