"""Tests of the tests: samplers broken in known ways fail the battery where the right ones pass, at the same settings."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import targets
import test_battery_exact as exactly
import test_battery_laws as laws
from targets import Skewed

from gebm_cli.core.sampling import tempering
from gebm_cli.core.sampling.hamiltonian import Hmc
from gebm_cli.core.sampling.langevin import Mala
from gebm_cli.core.sampling.state import metropolis, normal, squared_norm, start
from gebm_cli.core.sampling.tempering import ReplicaExchange


@dataclass(frozen=True)
class TimesQuarterEps(Mala):
    """The reference code's MALA: the correction is multiplied by eps / 4 where it must be divided by 4 eps."""

    def step(self, state, generator):
        eps, z = self.step_size, state.position
        new = start(self.potential, z - eps * state.gradient + (2 * eps) ** 0.5 * normal(z, generator))
        moved = new.position - z
        there, back = squared_norm(moved + eps * state.gradient), squared_norm(eps * new.gradient - moved)
        return metropolis(new, state, state.potential - new.potential - (back - there) * eps / 4, generator)


class Spy:
    """A potential that remembers its last answer."""

    def __init__(self, potential):
        self.potential, self.last = potential, None

    def value_and_grad(self, z):
        self.last = self.potential.value_and_grad(z)
        return self.last


@dataclass(frozen=True)
class StaleGradient(Hmc):
    """The reference code's HMC: after a rejection the gradient is that of the point refused."""

    def step(self, state, generator):
        spy = Spy(self.potential)
        after, info = Hmc(spy, self.step_size, self.n_leapfrog, self.jitter).step(state, generator)
        return after._replace(gradient=spy.last[1]), info


@dataclass(frozen=True)
class FlippedSwap(ReplicaExchange):
    """Replica exchange whose swap has the wrong sign, as was once shipped elsewhere."""

    def step(self, state, generator):
        right = tempering.swap_log_ratio
        tempering.swap_log_ratio = lambda *arguments: -right(*arguments)
        try:
            return super().step(state, generator)
        finally:
            tempering.swap_log_ratio = right


def like(broken):
    """`build` with the broken class in the place of its right one."""

    def build(name, potential, step_size=None, friction=2.0):
        step = exactly.STEP.get(name, 0.6) if step_size is None else step_size
        right = targets.build(name, potential, step, friction)
        fields = {k: v for k, v in vars(right).items() if k in broken.__dataclass_fields__}
        return broken(**fields)

    return build


MUTANTS = {"mala": TimesQuarterEps, "hmc": StaleGradient, "pt": FlippedSwap}
STARTS = laws.test_started_at_the_target_it_stays_there
CASES = [
    *[(name, STARTS, {"target": t}) for name in MUTANTS for t in (laws.GAUSSIAN, Skewed())],
    *[(name, exactly.test_equal_to_the_oracle, {"beta": 1.0}) for name in MUTANTS],
    ("mala", laws.test_mean_exp_log_ratio_is_one, {"target": laws.GAUSSIAN}),
    ("mala", laws.test_reversible, {"target": laws.GAUSSIAN}),
    ("mala", laws.test_beta_zero_leaves_the_prior_invariant, {}),
    ("hmc", exactly.test_potential_and_gradient_belong_to_the_position, {}),
]


@pytest.mark.parametrize(("name", "check", "arguments"), CASES, ids=lambda x: getattr(x, "__name__", None))
def test_a_broken_sampler_fails_where_the_right_one_passes(name, check, arguments):
    """The battery's own test function raises AssertionError for the broken class, and not for the right one."""
    check(name, **arguments)
    with pytest.raises(AssertionError, match="z |oracle|off by"):
        check(name, **arguments, build=like(MUTANTS[name]))


@pytest.mark.parametrize("target", [laws.GAUSSIAN, Skewed()], ids=["gaussian", "skewed"])
def test_a_flipped_swap_does_not_keep_the_rungs(target):
    """Exact draws on all rungs do not survive swaps of the wrong sign."""
    with pytest.raises(AssertionError, match="z "):
        laws.test_exact_draws_on_all_rungs_stay_exact_after_swaps(target, make=FlippedSwap)
