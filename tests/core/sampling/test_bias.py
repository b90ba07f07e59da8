"""The bias meter against closed forms: coupled noise is what it claims to be, and differences and their errors are right."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from known import gaussian, seeded, z_score

from gebm_cli.core.sampling import bias
from gebm_cli.core.sampling.bias import CoupledNoise, bias_meter
from gebm_cli.core.sampling.kinetic import Kla, refresh
from gebm_cli.core.sampling.langevin import LeimkuhlerMatthews, Ula

K, EPS, H = 2.0, 0.4, 0.6
ROOT = math.sqrt(K)


class Free:
    """No force, so that a step is its noise alone."""

    def value_and_grad(self, z):
        return torch.zeros(len(z), dtype=torch.float64), torch.zeros_like(z)


def recorded(c, n=2, shape=(50_000, 1)):
    """A CoupledNoise that has recorded n noises and now replays them; and the noises."""
    noise = CoupledNoise(seeded(0), c)
    fine = [noise.normal(torch.zeros(shape, dtype=torch.float64)) for _ in range(n)]
    noise.replaying = True
    return noise, fine


def squares(z):
    return {"z": z.flatten(), "square": z.square().flatten()}


def measured(sampler, n_chains, n_steps, seed=0, variance=None):
    """The meter on chains that start at N(0, variance), by default the law of step h; and the positions it observed."""
    generator, seen = seeded(seed), []
    spread = stationary_variance(sampler) if variance is None else variance
    z = math.sqrt(spread) * torch.randn(n_chains, 1, generator=generator, dtype=torch.float64)
    state = sampler.init(z, generator)
    found = bias_meter(sampler, state, n_steps, lambda x: (seen.append(x), squares(x))[1], generator)
    return found, seen


def stationary_variance(sampler):
    """Of the position, on a Gaussian of precision K: ULA's, obabo's, and 1 / K for those that are exact."""
    step = sampler.step_size
    if isinstance(sampler, Ula):
        return 1 / (K * (1 - step * K / 2))
    if isinstance(sampler, Kla) and sampler.scheme == "obabo":
        return 1 / (K * (1 - step * step * K / 4))
    return 1 / K


# -------------------------------------------------------------------------------------------------------- coupled noise


@pytest.mark.parametrize("c", [0.0, 0.3, 0.95, 1.0])
def test_the_combination_is_standard_normal(c):
    """Mean 0, variance 1 and fourth moment 3, whatever the damping; replayed pairs are independent of each other."""
    noise, _ = recorded(c, n=4)
    first, second = (noise.normal(torch.empty(0)).flatten() for _ in range(2))
    for x in (first, second):
        for power, moment in ((1, 0.0), (2, 1.0), (4, 3.0)):
            assert abs(z_score(x**power, moment)) < 4
    assert abs(z_score(first * second)) < 4


@pytest.mark.parametrize("c", [0.3, 0.95, 1.0 - 1e-6])
def test_two_fine_refreshments_are_one_coarse_one(c):
    """v = c v + s x_1, v = c v + s x_2 ends where one move with c^2 and the replayed noise does, number for number."""
    noise, (x1, x2) = recorded(c, shape=(100, 3))
    v, s = torch.randn(100, 3, generator=seeded(1), dtype=torch.float64), math.sqrt(1 - c * c)
    fine = c * (c * v + s * x1) + s * x2
    assert (refresh(v, c * c, noise) - fine).abs().max() < 1e-9
    assert noise.recorded == []


FREE = Free()
MOVES = [Kla(FREE, 0.5, 2.0, scheme) for scheme in ("baoab", "obabo", "aboba", "oba", "abobao")]
coupled_samplers = pytest.mark.parametrize("sampler", MOVES, ids=lambda s: s.scheme)


@coupled_samplers
def test_without_force_velocities_of_fine_and_coarse_are_the_same(sampler, monkeypatch):
    """Through the meter itself: after 7 steps of 0.5 and 14 of 0.25 both chains have one velocity, so c fits the scheme."""
    ends = {}
    step = Kla.step

    def watched(self, state, generator):
        state, info = step(self, state, generator)
        ends[self.step_size] = state.velocity
        return state, info

    monkeypatch.setattr(Kla, "step", watched)
    z = torch.zeros(30, 2, dtype=torch.float64)
    bias_meter(sampler, sampler.init(z, seeded(0)), 7, lambda x: {"z": x[:, 0]}, seeded(1))
    assert sorted(ends) == [0.25, 0.5]
    assert (ends[0.25] - ends[0.5]).abs().max() < 1e-9


def test_without_force_positions_of_ula_are_the_same():
    """sqrt(eps) x_1 + sqrt(eps) x_2 = sqrt(2 eps) (x_1 + x_2) / sqrt(2); LM's differ by half of its first and last noise only."""
    z = torch.zeros(30, 2, dtype=torch.float64)
    seen = []
    for sampler in (Ula(FREE, 0.5), LeimkuhlerMatthews(FREE, 0.5)):
        state = sampler.init(z, seeded(0))
        bias_meter(sampler, state, 9, lambda x: (seen.append(x), {"z": x[:, 0]})[1], seeded(1))
    assert (seen[0] - seen[1]).abs().max() < 1e-9 and seen[0].abs().max() > 1
    assert (seen[2] - seen[3]).square().mean() < 0.5 < seen[2].square().mean()


# ------------------------------------------------------------------------------------------------------------ the bias


def relaxed_square(sampler, n_steps):
    """E z^2 of ULA's fine chain after 2 n steps from the law of step h: a geometric approach to the variance of h / 2."""
    fine = replace(sampler, step_size=sampler.step_size / 2)
    start, end = stationary_variance(sampler), stationary_variance(fine)
    return end + (start - end) * (1 - fine.step_size * K) ** (2 * 2 * n_steps)


@pytest.mark.parametrize("n_steps", [1, 2, 40])
def test_ula_on_a_gaussian_has_its_known_bias(n_steps):
    """1 / (K (1 - eps K / 2)) minus the fine chain's E z^2, relaxed or still on its way; the mean of z shows none."""
    sampler = Ula(gaussian([K]), EPS)
    found, (coarse, fine) = measured(sampler, 40_000, n_steps)
    truth = stationary_variance(sampler) - relaxed_square(sampler, n_steps)
    scale = fine.square().std().item()
    assert abs(found["square"].value * scale - truth) < 4 * found["square"].standard_error * scale
    assert abs(found["z"].value) < 4 * found["z"].standard_error
    assert truth > 20 * found["square"].standard_error * scale, "the bias is seen clearly"
    assert abs(z_score(coarse.square().flatten(), stationary_variance(sampler))) < 4
    assert abs(z_score(fine.square().flatten(), relaxed_square(sampler, n_steps))) < 4


@pytest.mark.parametrize(("scheme", "biased"), [("baoab", False), ("gebm", False), ("obabo", True)])
def test_of_the_splittings_only_obabo_is_biased_on_a_gaussian(scheme, biased):
    """Its variance is 1 / (K (1 - h^2 K / 4)); the difference of those at h and h / 2 is found, and for the others none."""
    sampler = Kla(gaussian([K]), H, 2.0, scheme)
    found, (_, fine) = measured(sampler, 20_000, 40)
    square, half = found["square"], stationary_variance(replace(sampler, step_size=H / 2))
    truth = (stationary_variance(sampler) - half) / fine.square().std().item()
    assert abs(square.value - truth) < 4 * square.standard_error
    assert (truth > 10 * square.standard_error) == biased


def test_leimkuhler_matthews_is_exact_on_a_gaussian():
    """Where ULA at the same step is far off, no difference is found."""
    found, _ = measured(LeimkuhlerMatthews(gaussian([K]), EPS), 20_000, 40)
    assert abs(found["square"].value) < 4 * found["square"].standard_error
    assert found["square"].standard_error < 0.02


# ------------------------------------------------------------------------------------------------------ standard errors


@pytest.mark.parametrize(
    "sampler", [Ula(gaussian([K]), EPS), Kla(gaussian([K]), H, 2.0, "baoab")], ids=["ula", "baoab"]
)
def test_standard_errors_are_calibrated(sampler):
    """Over 150 seeds of 400 chains the z-scores against the truth have mean 0 and sd 1, within 4 standard errors of an sd."""
    truth = stationary_variance(sampler) - relaxed_square(sampler, 12) if isinstance(sampler, Ula) else 0.0
    scores = []
    for seed in range(150):
        found, (_, fine) = measured(sampler, 400, 12, seed=seed)
        gap = found["square"].value - truth / fine.square().std().item()
        scores.append([found["z"].value / found["z"].standard_error, gap / found["square"].standard_error])
    for column in torch.tensor(scores).unbind(1):
        assert abs(z_score(column)) < 4
        assert abs(column.std().item() - 1) < 4 / math.sqrt(2 * len(column))


def test_values_and_errors_are_in_units_of_the_standard_deviation_of_f():
    """Mean gap and its standard error, over the sd of f in the fine chains, written out; scaling f changes neither."""
    sampler = Ula(gaussian([K]), EPS)
    found, (coarse, fine) = measured(sampler, 1000, 5)
    gap = (coarse.square() - fine.square()).flatten()
    scale = fine.square().std().item()
    assert found["square"].value == pytest.approx(gap.mean().item() / scale)
    assert found["square"].standard_error == pytest.approx(gap.std().item() / math.sqrt(1000) / scale)
    generator = seeded(0)
    z = math.sqrt(stationary_variance(sampler)) * torch.randn(1000, 1, generator=generator, dtype=torch.float64)
    state = sampler.init(z, generator)
    scaled = bias_meter(sampler, state, 5, lambda x: {"f": 100 * x.square().flatten() + 7}, generator)["f"]
    assert scaled.value == pytest.approx(found["square"].value)
    assert scaled.standard_error == pytest.approx(found["square"].standard_error)


@pytest.mark.parametrize(
    ("sampler", "gain"),
    [
        (Ula(gaussian([K]), EPS), 2.0),
        (LeimkuhlerMatthews(gaussian([K]), EPS), 1.5),
        (Kla(gaussian([K]), H, 2.0, "baoab"), 3.0),
        (Kla(gaussian([K]), H, 0.2, "obabo"), 3.0),
        (Kla(gaussian([K]), H, 20.0, "gebm"), 1.5),
    ],
    ids=["ula", "lm", "baoab", "obabo", "gebm"],
)
def test_coupled_noise_gives_smaller_errors_than_independent_noise(sampler, gain, monkeypatch):
    """By the factor `gain` for the mean of z and for E z^2 at least somewhat, at equal values within errors."""
    coupled, _ = measured(sampler, 4000, 25)

    class Independent(CoupledNoise):
        def normal(self, like):
            if self.replaying:
                self.recorded.clear()
            return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    monkeypatch.setattr(bias, "CoupledNoise", Independent)
    independent, _ = measured(sampler, 4000, 25)
    assert gain * coupled["z"].standard_error < independent["z"].standard_error
    assert coupled["square"].standard_error < independent["square"].standard_error
    gap = coupled["square"].value - independent["square"].value
    assert abs(gap) < 4 * math.hypot(coupled["square"].standard_error, independent["square"].standard_error)


# ------------------------------------------------------------------------------------------------------------ its edges


def test_chains_that_are_not_finite_are_left_out():
    """An observable that is NaN or infinite for some chains is judged on the others; with none left the answer is NaN."""
    sampler, generator = Ula(gaussian([K]), EPS), seeded(0)
    state = sampler.init(torch.randn(500, 1, generator=generator, dtype=torch.float64), generator)
    broken = torch.zeros(500, dtype=torch.float64)
    broken[:3] = torch.tensor([math.nan, math.inf, -math.inf])

    def observe(z):
        return {"all": z[:, 0], "some": z[:, 0] + broken, "none": z[:, 0] * math.nan, "constant": z[:, 0] * 0}

    found = bias_meter(sampler, state, 5, observe, generator)
    assert found["some"].value == pytest.approx(found["all"].value, abs=0.02)
    assert found["some"].standard_error == pytest.approx(found["all"].standard_error, rel=0.05)
    assert all(math.isnan(v) for name in ("none", "constant") for v in vars(found[name]).values())


def test_the_state_given_is_left_as_it_is_and_the_seed_decides():
    """Nothing of the state changes, and the same generator state gives the same differences."""
    sampler = Kla(gaussian([K]), H, 2.0)
    state = sampler.init(torch.randn(50, 1, generator=seeded(0), dtype=torch.float64), seeded(1))
    copy = [x.clone() for x in state if x is not None]
    first, second, other = (bias_meter(sampler, state, 3, squares, seeded(s)) for s in (2, 2, 3))
    assert first == second != other
    assert all(torch.equal(a, b) for a, b in zip(copy, [x for x in state if x is not None], strict=True))
