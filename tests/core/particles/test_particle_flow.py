"""The flow: what theory says of its path, steps by hand, and resuming bit for bit."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from gebm_cli.core.device import make_generator
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.kernels import EnergyDistance, Gaussian
from gebm_cli.core.particles.descents import Decoded, KaleDescent, MmdDescent
from gebm_cli.core.particles.flow import FlowState, Noise, run
from gebm_cli.errors import DivergedError


def _normal(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _path(descent, state, n_steps, **options):
    """(state, value, mean |grad f|^2) at the start and after each step."""
    found, start = [], descent.at(state.particles, state.start)

    def keep(state, point):
        found.append((state, point.value, point.gradient().double().square().sum(1).mean().item()))

    keep(state, start)
    run(descent, state, n_steps, on_step=keep, **options)
    return found


@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.6])
def test_mmd_flow_descends_as_theory_says(bandwidth, share):
    """F' - F <= -step (1 - 3/2 step L) mean |grad f|^2 at every step of size share / L, L = 1 / bandwidth^2 (Arbel et al. 2019)."""
    size, start = share * bandwidth**2, FlowState(0.8 * _normal(20, 2, 0) + 1.0, share * bandwidth**2)
    path = _path(MmdDescent(_normal(15, 2, 1), Gaussian(bandwidth)), start, 40)
    for (_, before, slope), (_, after, _) in pairwise(path):
        assert after - before <= -size * (1 - 1.5 * share) * slope + 1e-15
    assert path[-1][1] < 0.9 * path[0][1]


def test_the_rate_of_descent_is_the_mean_square_of_the_gradient():
    """(F' - F) / step -> -mean |grad f|^2 with an error of the order of the step, for KALE and for MMD^2 / 2 (not MMD^2)."""
    x, y = _normal(20, 2, 2) + 1.0, _normal(15, 2, 3)
    kale = KaleDescent(KaleProblem(y, Gaussian(1.0), 0.1), {"tolerance": 1e-14})
    for descent in (MmdDescent(y, Gaussian(1.0)), kale):
        errors = []
        for size in (1e-2, 1e-3):
            (_, before, slope), (_, after, _) = _path(descent, FlowState(x, size), 1)
            errors.append(abs((before - after) / size / slope - 1))
        assert errors[0] < 0.1 and errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


@pytest.mark.parametrize("regularisation", [0.01, 0.3, 10.0])
def test_kale_never_rises_along_its_flow(regularisation):
    """KALE is a Lyapunov function: with small steps each value is below the one before by 90 % of step mean |grad f|^2."""
    problem, size = KaleProblem(_normal(15, 2, 4), Gaussian(1.0), regularisation), 1e-3 * min(1.0, regularisation * 10)
    path = _path(KaleDescent(problem, {"tolerance": 1e-13}), FlowState(0.5 * _normal(12, 2, 5) + 1.0, size), 40)
    for (_, before, slope), (_, after, _) in pairwise(path):
        assert after - before < -0.9 * size * slope + 1e-12
    assert path[-1][1] < path[0][1]


def test_backtracking_accepts_steps_up_to_a_third_of_the_smoothness():
    """The constant 1/2 goes with 1 - 3/2 step L: a step of 1 / (3 L) is not halved. Longer ones must lower F by as much."""
    descent = MmdDescent(_normal(15, 2, 6), Gaussian(0.5))
    first = run(descent, FlowState(_normal(20, 2, 7) + 1, 0.25 / 3), 1, "backtracking")
    assert first.step_size == 0.25 / 3
    path = _path(descent, FlowState(_normal(20, 2, 7) + 1, 100.0), 40, control="backtracking")
    for (_, before, slope), (state, after, _) in pairwise(path):
        assert 0.25 / 3 / 2 < state.step_size < 100 and after <= before - 0.5 * state.step_size * slope + 1e-15
    assert path[-1][1] < 0.3 * path[0][1]


def test_a_step_by_hand():
    """One particle at 0, target 1, Gaussian kernel of bandwidth 1: x' = step e^(-1/2), twice."""
    descent = MmdDescent(torch.ones(1, 1, dtype=torch.float64), Gaussian(1.0))
    one = run(descent, FlowState(torch.zeros(1, 1, dtype=torch.float64), 0.5), 1)
    x = 0.5 * math.exp(-0.5)
    assert one.particles.item() == pytest.approx(x, rel=1e-14)
    two = run(descent, one, 1)
    assert two.particles.item() == pytest.approx(x + 0.5 * (1 - x) * math.exp(-((1 - x) ** 2) / 2), rel=1e-14)
    assert (two.step, two.time, two.step_size) == (2, 1.0, 0.5)


def test_noise_moves_where_the_gradient_is_taken_and_not_the_particles():
    """x' = x - step grad f(x + beta_n u) with u from the stream of (seed, n), beta_n = std / sqrt(n + 1)."""
    descent, x = MmdDescent(_normal(4, 2, 8), Gaussian(1.0)), _normal(10, 2, 9)
    state = run(descent, FlowState(x, 0.3, step=3), 1, noise=Noise(0.8, "sqrt"), seed=5)
    u = torch.randn(10, 2, generator=make_generator(5, "flow", 3), dtype=torch.float64)
    torch.testing.assert_close(state.particles, x - 0.3 * descent.at(x).gradient(x + 0.4 * u), rtol=1e-14, atol=0)


def test_schedules_of_noise():
    """constant, linear to 0 at `steps` and 0 after, and std / sqrt(n + 1)."""
    assert [Noise(2.0)(n) for n in (0, 9)] == [2.0, 2.0]
    assert [Noise(2.0, "linear", 4)(n) for n in (0, 1, 4, 9)] == [2.0, 1.5, 0.0, 0.0]
    assert [Noise(2.0, "sqrt")(n) for n in (0, 3, 15)] == [2.0, 1.0, 0.5]


def test_noise_escapes_where_the_plain_flow_is_stuck():
    """Particles five bandwidths from a Gaussian target: after 400 steps the plain flow has stopped, at 6 times what noise reaches.

    The kind of example of Arbel et al. (2019): particles that the target does not feel stay where they are. Same steps, three
    seeds, each below a third.
    """
    descent = MmdDescent(_normal(30, 2, 10), Gaussian(1.0))
    start = FlowState(0.3 * _normal(30, 2, 11) + 5.0 / math.sqrt(2), 3.0)
    path = _path(descent, start, 600)
    stuck = path[600][1]
    assert stuck == pytest.approx(path[400][1], rel=0.01) and stuck > 0.03 * path[0][1]
    for seed in range(3):
        noisy = run(descent, start, 600, noise=Noise(7.0, "linear", 540), seed=seed)
        assert descent.at(noisy.particles).value < stuck / 3


def _rings(n_each):
    angle = torch.arange(n_each, dtype=torch.float64) * (2 * math.pi / n_each)
    ring = 0.3 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([ring + torch.tensor([0.0, centre]) for centre in (0.0, -0.75, -1.5)])


def _wasserstein(x, y):
    """W1 of two samples of one size, by assignment."""
    cost = cdist(x, y)
    return cost[linear_sum_assignment(cost)].mean()


def _first_below(bound, descent, size, n_steps, control="fixed"):
    """The first step, of every tenth, at which W1 to the three rings is below `bound`; infinite where there is none."""
    target, blob = _rings(20), torch.tensor([0.0, -0.3], dtype=torch.float64) + 0.01 * _normal(60, 2, 1)
    state = FlowState(blob, size)
    while state.step < n_steps:
        state = run(descent, state, 10, control)
        if _wasserstein(state.particles, target) < bound:
            return state.step
    return math.inf


def test_kale_reaches_the_three_rings_in_fewer_steps_than_the_mmd():
    """W1 of 0.06 within 600 steps of KALE at 0.03, and not within 800 of MMD: by backtracking both, or at MMD's best fixed step.

    The example of Glaser et al. (2021) with 60 particles. Over five seeds 465 to 640 steps, and 955 to 1565 (backtracking). Only
    the last stretch, particles left between the rings, differs so: to W1 = 0.1 MMD needs 170 to 285 steps, KALE 280 to 335.
    """
    target, kernel = _rings(20), Gaussian(0.1)
    kale = KaleDescent(KaleProblem(target, kernel, 0.03))
    assert _first_below(0.06, kale, 0.01, 600, "backtracking") < 600
    for size, control in ((0.1, "backtracking"), (0.2, "fixed"), (0.3, "fixed")):
        assert _first_below(0.06, MmdDescent(target, kernel), size, 800, control) == math.inf


def test_with_the_step_sizes_of_the_released_code_kale_is_far_ahead():
    """regularisation 0.001 and step 1e-4 against MMD with step 1e-3: W1 of 0.45 in 100 steps, the MMD flow not in 600."""
    target, kernel = _rings(20), Gaussian(0.1)
    assert _first_below(0.45, KaleDescent(KaleProblem(target, kernel, 0.001)), 1e-4, 100) < 100
    assert _first_below(0.45, MmdDescent(target, kernel), 1e-3, 600) == math.inf


def _resumable():
    def mlp(z):
        return torch.stack([z[:, 0].tanh(), z.sum(1)], 1)

    y = _normal(9, 2, 12)
    kale = KaleDescent(KaleProblem(y, Gaussian(1.0), 0.05))
    mmd = MmdDescent(y, Gaussian(1.0))
    return [
        pytest.param(mmd, {}, id="mmd"),
        pytest.param(mmd, {"noise": Noise(0.3, "sqrt"), "seed": 3}, id="mmd with noise"),
        pytest.param(mmd, {"control": "backtracking"}, id="mmd backtracking"),
        pytest.param(kale, {}, id="kale"),
        pytest.param(kale, {"noise": Noise(0.3, "linear", 8), "seed": 3}, id="kale with noise"),
        pytest.param(kale, {"control": "backtracking"}, id="kale backtracking"),
        pytest.param(Decoded(kale, mlp, 4), {"control": "backtracking"}, id="decoded kale backtracking"),
    ]


@pytest.mark.parametrize(("descent", "options"), _resumable())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_going_on_from_a_checkpoint_is_going_on(descent, options, dtype):
    """4 steps, a state through torch.save read as data only, and 4 more are 8 steps, bit for bit, every field."""
    start = FlowState(_normal(11, 2, 13, dtype) + 1, 0.05)
    whole = run(descent, start, 8, **options)
    half, file = run(descent, start, 4, **options), io.BytesIO()
    torch.save(half.pack(), file)
    file.seek(0)
    resumed = run(descent, FlowState.unpack(torch.load(file, weights_only=True)), 4, **options)
    assert torch.equal(resumed.particles, whole.particles) and resumed.particles.dtype == dtype
    assert (resumed.step, resumed.time, resumed.step_size) == (8, whole.time, whole.step_size)
    assert (resumed.start is None) == (whole.start is None)
    assert whole.start is None or torch.equal(resumed.start, whole.start)


def test_each_step_is_told_with_the_divergence_there():
    """`on_step` sees the states after each step and their values."""
    descent, seen = MmdDescent(_normal(6, 2, 14), Gaussian(1.0)), []
    state = FlowState(_normal(5, 2, 15), 0.1)
    last = run(descent, state, 3, on_step=lambda s, point: seen.append((s.step, s.particles, point.value)))
    assert [s[0] for s in seen] == [1, 2, 3] and torch.equal(seen[-1][1], last.particles)
    assert [s[2] for s in seen] == [descent.at(s[1]).value for s in seen]


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-3), (torch.float64, 1e-8)])
def test_a_flow_at_rest_keeps_its_step_size(dtype, apart):
    """Next to the target F is rounding; steps within it are accepted, and not halved for ever."""
    y = _normal(30, 2, 16, dtype)
    start = FlowState(y + apart * _normal(30, 2, 17, dtype), 0.3)
    state = run(MmdDescent(y, Gaussian(1.0)), start, 60, "backtracking")
    assert state.step_size > 0.1 and (state.particles - y).abs().max() < 40 * apart


def test_a_solver_that_fails_on_the_way_is_no_reason_to_rise():
    """KALE at regularisation 1e-8, whose dual long steps leave unsolved: such trials are refused, and each value is the lowest."""
    descent = KaleDescent(KaleProblem(_normal(60, 2, 21), Gaussian(1.0), 1e-8))
    path = _path(descent, FlowState(0.1 * _normal(60, 2, 22), 0.1), 12, control="backtracking")
    for (_, before, _), (_, after, _) in pairwise(path):
        assert after <= before * (1 + 1e-9)
    assert path[-1][1] < 0.1 * path[0][1]


@pytest.mark.parametrize("control", ["fixed", "backtracking"])
def test_a_flow_whose_solver_fails_says_between_what_it_is_and_the_remedy(control):
    """One iteration at regularisation 1e-3: refused in words. With 1,000 it goes."""
    problem, state = KaleProblem(_normal(30, 2, 21), Gaussian(1.0), 1e-3), FlowState(_normal(20, 2, 22) + 2, 1e-4)
    with pytest.raises(DivergedError, match=r"step 1 .* between \S+ and \S+, .* larger regularisation"):
        run(KaleDescent(problem, {"max_iterations": 1}), state, 2, control)
    assert run(KaleDescent(problem, {"max_iterations": 1000}), state, 2, control).step == 2


@pytest.mark.parametrize("d", [2, 5])
def test_float32_does_not_climb_where_falls_are_below_rounding(d):
    """From 1e-4 beside the target MMD^2 / 2, judged in float64, falls to a tenth in 1,000 steps, and no step size runs off."""
    y, sizes = _normal(60, d, 23, torch.float32), []
    start = FlowState(y + 1e-4 * _normal(60, d, 24, torch.float32), 0.1)
    keep = lambda state, point: sizes.append(state.step_size)  # noqa: E731
    end = run(MmdDescent(y, Gaussian(1.0)), start, 1000, "backtracking", on_step=keep)
    exact = MmdDescent(y.double(), Gaussian(1.0))
    assert exact.at(end.particles.double()).value < 0.1 * exact.at(start.particles.double()).value
    assert 0.1 <= min(sizes) and max(sizes) < 200


@dataclass
class _Line:
    """F given by hand on a line of slope 1, with a rounding of 1: what backtracking makes of values alone."""

    value_at: Callable[[float], float]
    converged_at: Callable[[float], bool] = lambda x: True

    def at(self, x, start=None):
        one, at = torch.ones_like(x), x.item()
        value, converged = self.value_at(at), self.converged_at(at)
        return SimpleNamespace(
            value=value, gap=0.0, converged=converged, rounding=1.0, start=None, gradient=lambda t=None: one
        )


def test_steps_that_each_rise_within_rounding_do_not_climb_together():
    """F rises by 1 as x falls by 1, which rounding of 1 lets pass once: after that only what stays within 1 of the lowest."""
    descent, values = _Line(lambda x: -x), []
    keep = lambda state, point: values.append(point.value)  # noqa: E731
    start = FlowState(torch.zeros(1, 1, dtype=torch.float64), 0.5)
    half = run(descent, start, 10, "backtracking", on_step=keep)
    run(descent, FlowState.unpack(half.pack()), 10, "backtracking", on_step=keep)
    assert len(values) == 20 and 0 < max(values) <= 1


def test_a_trial_that_the_solver_did_not_find_is_refused_however_low():
    """Beyond -0.3 the solver fails: the step of 1 is halved twice."""
    descent = _Line(lambda x: 10 * x, lambda x: x > -0.3)
    state = run(descent, FlowState(torch.zeros(1, 1, dtype=torch.float64), 1.0), 1, "backtracking")
    assert state.step_size == 0.25 and state.lowest == -2.5


def test_a_kink_ends_backtracking_with_a_step_size_of_zero():
    """The energy distance has a kink where a particle meets its target: once no step lowers it, the particles stay for good."""
    y = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    descent = MmdDescent(y, EnergyDistance())
    state = run(descent, FlowState(torch.tensor([[0.3], [0.9]], dtype=torch.float64), 0.1), 400, "backtracking")
    again = run(descent, state, 5, "backtracking")
    assert descent.at(state.particles).value < 1e-6
    assert again.step == 405 and (state.step_size > 0 or torch.equal(again.particles, state.particles))


def test_diverging_particles_are_told_with_the_step_and_a_remedy():
    """The step, how many particles, and a smaller step size."""
    descent = MmdDescent(_normal(5, 2, 17, torch.float32), Gaussian(1.0))
    with pytest.raises(DivergedError, match=r"step 1 of the flow: \d of 4 .* smaller than 1e\+39"):
        run(descent, FlowState(_normal(4, 2, 18, torch.float32), 1e39), 5)
    bad = _normal(4, 2, 18)
    bad[2, 1] = math.nan
    with pytest.raises(DivergedError, match="step 1 "):
        run(MmdDescent(_normal(5, 2, 17), Gaussian(1.0)), FlowState(bad, 0.1), 5, "backtracking")


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan])
def test_step_sizes_that_are_none_are_refused(size):
    """Zero, negative, not a number."""
    with pytest.raises(ValueError, match="step_size"):
        run(MmdDescent(_normal(3, 2, 19), Gaussian(1.0)), FlowState(_normal(3, 2, 20), size), 1)


def test_noise_with_backtracking_is_refused():
    """A step along a gradient taken elsewhere need not lower the divergence here; no noise at all is no contradiction."""
    descent, state = MmdDescent(_normal(3, 2, 19), Gaussian(1.0)), FlowState(_normal(3, 2, 20), 0.1)
    with pytest.raises(ValueError, match="backtracking"):
        run(descent, state, 1, "backtracking", Noise(0.1))
    run(descent, state, 1, "backtracking", Noise(0.0))
    for wrong in ((-1.0, "constant", 0), (1.0, "linear", 0), (math.nan, "sqrt", 0)):
        with pytest.raises(ValueError, match="std >= 0"):
            Noise(*wrong)
