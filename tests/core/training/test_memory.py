"""The memory a stage is said to take, against bytes counted by hand for networks of one hidden layer."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core.data.dataset import Minibatches
from gebm_cli.core.data.toys import toy_dataset
from gebm_cli.core.device import make_generator
from gebm_cli.core.models.flows import RealNvp
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.training.direct import MaximumLikelihood
from gebm_cli.core.training.loop import Rates, Schedule, Training
from gebm_cli.core.training.memory import estimate
from gebm_cli.core.training.optimise import Method

DATA = toy_dataset("ring", 100, 0.05, 0).train
FLOAT, ADAM_AND_GRADIENT = 4, 3


def make(wide_base=8, wide_energy=8, n=4, train_base=True, base=None, penalty=0.0, **keys) -> Training:
    """2 -> wide -> 2 and 2 -> wide -> 1; a burst of critic steps at the start, as experiments have it."""
    base = base or mlp(2, 2, wide_base, 1)
    schedule = Schedule(10, critic_steps=5, burst_critic_steps=100, burst_every=500)
    return Training(
        base,
        Energy(mlp(2, 1, wide_energy, 1)),
        NormalPrior(2),
        Minibatches(DATA, n, 0),
        schedule,
        make_generator(0, "train"),
        train_base,
        Rates(1e-3),
        method=Method(penalty=Penalty(weight=penalty)),
        **keys,
    )


def of_base(wide: int) -> int:
    return (2 * wide + wide) + (2 * wide + 2)


def of_energy(wide: int) -> int:
    return (2 * wide + wide) + (wide + 1) + 1  # and the log-partition


@pytest.mark.parametrize("averaged", [None, 3.0])
def test_networks_gradients_averages_and_data_are_counted(averaged):
    """Every trained number four times (itself, its gradient, Adam's two averages), a frozen one once, an averaged one once more."""
    both = estimate(make(5, 7, ema_halflife_steps=averaged), 4)
    more = of_base(5) if averaged else 0
    assert both.networks == FLOAT * ((1 + ADAM_AND_GRADIENT) * (of_base(5) + of_energy(7)) + more)
    assert both.data == 100 * 2 * FLOAT and both.total == both.networks + both.activations + both.data
    energy = estimate(make(5, 7, train_base=False), 4)
    assert energy.networks == FLOAT * (of_base(5) + (1 + ADAM_AND_GRADIENT) * of_energy(7))


@pytest.mark.parametrize("train_base", [True, False])
def test_a_critic_step_keeps_what_its_backward_pass_needs(train_base):
    """Of data and base samples together: the points, what enters SiLU and what leaves it; and exp(-E - c) at base samples."""
    wide, n = 8, 4
    points, hidden, exponentials = 2 * n * 2, 2 * (2 * n * wide), n
    assert estimate(make(2, wide, n, train_base), n).activations == FLOAT * (points + hidden + exponentials)


def test_a_step_of_the_base_counts_where_it_needs_more():
    """Also behind a burst of critic steps: latents, the base's hidden layer twice, the critic's once, and log-mean-exp's two."""
    wide, n = 64, 4
    latents, hidden, critic, log_mean_exp = n * 2, 2 * n * wide, n * 2, n + 1
    assert estimate(make(wide, 2, n), n).activations == FLOAT * (latents + hidden + critic + log_mean_exp)


def test_a_penalty_is_counted():
    """Its second backward pass keeps graphs of its own."""
    assert estimate(make(2, 8, penalty=1.0), 4).activations > 1.4 * estimate(make(2, 8), 4).activations


def test_an_objective_without_a_critic_is_estimated_from_its_own_step():
    """Maximum likelihood of a flow: the energy's networks keep nothing for a backward pass."""
    training = make(base=RealNvp(2, 2, 8), direct=MaximumLikelihood())
    assert estimate(training, 4).activations > FLOAT * 4 * 8 * 4 and training.step == 1


@pytest.mark.parametrize("keys", [{}, {"wide_base": 64}, {"train_base": False, "penalty": 1.0}], ids=str)
def test_a_large_batch_is_foretold_from_a_small_one(keys):
    """Activations are in proportion to the batch, networks and data are not; a batch of the size itself agrees."""
    torch.manual_seed(0)
    foretold, taken = estimate(make(n=4, **keys), 64), estimate(make(n=64, **keys), 64)
    assert foretold.activations == 16 * estimate(make(n=4, **keys), 4).activations
    assert foretold.activations == pytest.approx(taken.activations, rel=0.01)
    assert (foretold.networks, foretold.data) == (taken.networks, taken.data)
