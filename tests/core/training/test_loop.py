"""The training loop: exact resumption from any point, whole bursts, and a stop at the first loss that is not finite."""

from __future__ import annotations

import copy

import pytest
import torch
from same_bits import equal

from gebm_cli.core.data.dataset import Minibatches
from gebm_cli.core.data.toys import toy_dataset
from gebm_cli.core.device import make_generator, seeded_construction
from gebm_cli.core.mmd import Estimate
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.training import loop
from gebm_cli.core.training.loop import Callbacks, Rates, Schedule, Training, Watch
from gebm_cli.core.training.lr_rule import RateRule
from gebm_cli.core.training.optimise import Method
from gebm_cli.core.training.schedules import RateSchedule
from gebm_cli.errors import DivergedError, InterruptedRun, UsageError

DATA = toy_dataset("ring", 500, 0.05, 0).train


def make(train_base: bool = True, seed: int = 0, steps: int = 12, lr: float = 1e-2, **keys) -> Training:
    with seeded_construction(seed, "test"):
        base, energy = mlp(2, 2, 16, 1), Energy(mlp(2, 1, 16, 1))
    keys = {"method": Method(penalty=Penalty(weight=0.1))} | keys
    rates = Rates(lr, (0.5, 0.999), schedule=RateSchedule("linear", steps))
    schedule = Schedule(steps, critic_steps=3, burst_critic_steps=5, burst_every=4, log_every=2, checkpoint_every=4)
    batches = Minibatches(DATA, 64, seed)
    generator = make_generator(seed, "train")
    return Training(base, energy, NormalPrior(2), batches, schedule, generator, train_base, rates, **keys)


@pytest.mark.parametrize("train_base", [True, False])
@pytest.mark.parametrize("calls", [1, 3, 7, 12])
def test_stopping_after_any_optimiser_call_and_resuming_changes_no_bit(train_base, calls):
    """Cut after `calls` optimiser calls (7: in the middle of a critic round), resume in new objects: the same end."""
    whole = make(train_base, ema_halflife_steps=3.0)
    whole.run(Callbacks())
    saved = {}
    count = iter(range(1, 1000))
    first = make(train_base, ema_halflife_steps=3.0)
    with pytest.raises(InterruptedRun, match="the state is saved"):
        first.run(
            Callbacks(
                save=lambda s, state: saved.update(copy.deepcopy(state)), should_stop=lambda: next(count) == calls
            )
        )
    if train_base and calls == 7:
        assert saved["position_in_round"] == 1 and saved["step"] == 1
    second = make(train_base, seed=0, ema_halflife_steps=3.0)
    for parameter in second.base.parameters():
        parameter.data.zero_()
    second.load_state_dict(saved)
    second.run(Callbacks())
    a, b = whole.state_dict(), second.state_dict()
    a.pop("random_state"), b.pop("random_state")
    assert equal(a, b)


def test_a_checkpoint_survives_the_restricted_loader(tmp_path):
    """The state holds tensors and plain types only, so that it loads without running code."""
    training = make(ema_halflife_steps=2.0)
    training.run(Callbacks())
    torch.save(training.state_dict(), tmp_path / "x.pt")
    assert equal(torch.load(tmp_path / "x.pt", weights_only=True), training.state_dict())


def test_bursts_are_whole():
    """5 critic steps before base updates 0, 4, 8 and 3 before every other: 12 updates cost 3 * 5 + 9 * 3."""
    training = make()
    training.run(Callbacks())
    assert (training.step, training.critic_steps_done) == (12, 3 * 5 + 9 * 3)
    published = Schedule(150_000, critic_steps=5, burst_critic_steps=100, burst_every=500)
    assert [published.critic_steps_before(k) for k in (0, 1, 499, 500, 501, 1000)] == [100, 5, 5, 100, 5, 100]


def test_the_energy_stage_leaves_the_base_alone():
    """Energy and log-partition move, the base does not."""
    training = make(train_base=False)
    before = copy.deepcopy(training.base.state_dict()), copy.deepcopy(training.energy.state_dict())
    training.run(Callbacks())
    assert equal(before[0], training.base.state_dict())
    assert not torch.equal(before[1]["log_partition"], training.energy.log_partition)
    assert training.critic_steps_done == training.step == 12


def test_log_and_checkpoint_come_when_asked():
    """Every 2nd step is logged, every 4th saved, the last one both."""
    logged, saved = [], []
    training = make(steps=11)
    training.run(Callbacks(log=lambda s, m: logged.append((s, m)), save=lambda s, state: saved.append(s)))
    assert [s for s, _ in logged] == [2, 4, 6, 8, 10, 11] and saved == [4, 8, 11]
    norms = {"critic_grad_norm", "base_grad_norm"}
    assert {"kale", "penalty", "base_loss", "log_partition", "lr"} | norms == set(logged[0][1])
    gradients = torch.cat([p.grad.flatten().double() for p in training.base.parameters()])
    assert logged[-1][1]["base_grad_norm"] == pytest.approx(gradients.square().sum().sqrt().item(), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_next_checkpoint():
    """With an absurd rate the loop raises, keeps the diverged state aside, and saves nothing after it."""
    saved, aside = [], []
    training = make(lr=1e30)
    with pytest.raises(DivergedError, match=r"diverged at step \d+: .* = (nan|inf|-inf)"):
        training.run(Callbacks(save=lambda s, state: saved.append(s), keep_diverged=lambda s, state: aside.append(s)))
    assert aside and not saved


class Steep(torch.nn.Module):
    """An energy whose loss is finite while its gradient is not."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return (self.weight - 1.0).sign() * 0 + torch.sqrt((self.weight - 1.0).abs()) + 0 * x[:, :1]


def test_a_weight_that_is_not_finite_is_seen_though_the_losses_are():
    """The checkpoint of a step whose update broke a weight is never written as a good one."""
    training, saved = make(train_base=False, steps=1, method=Method(penalty=Penalty(weight=0.0))), []
    training.energy = Energy(Steep())
    training.__post_init__()
    with pytest.raises(DivergedError, match="a weight or its optimiser's average is not finite"):
        training.run(Callbacks(save=lambda s, state: saved.append(s)))
    assert not saved


def test_batch_norm_and_spectral_norm_resume_bit_for_bit():
    """Running means, power iterations and their averages are part of the state."""

    def build() -> Training:
        training = make(ema_halflife_steps=2.0, steps=4)
        with seeded_construction(1, "norms"):
            base = torch.nn.Sequential(
                torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
            )
            layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(2, 8))
            energy = Energy(torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Linear(8, 1)))
        training.base, training.energy = base, energy
        training.__post_init__()
        return training

    whole, first, saved = build(), build(), {}
    whole.run(Callbacks())
    count = iter(range(1, 1000))
    with pytest.raises(InterruptedRun):
        first.run(
            Callbacks(save=lambda s, state: saved.update(copy.deepcopy(state)), should_stop=lambda: next(count) == 8)
        )
    second = build()
    second.load_state_dict(saved)
    second.run(Callbacks())
    a, b = whole.state_dict(), second.state_dict()
    a.pop("random_state"), b.pop("random_state")
    assert any("running_mean" in name for name in a["base"]) and equal(a, b)


def test_another_kind_of_device_is_refused():
    """The random numbers of a GPU cannot be continued on a CPU; the message names the device to use."""
    training = make()
    with pytest.raises(UsageError, match="was trained on cuda; continue with --device cuda"):
        make().load_state_dict(training.state_dict() | {"device": "cuda"})


def test_the_average_is_the_exponential_one():
    """After k updates the averaged weight is the recursion a <- d a + (1 - d) w from the first update's w, d = 2^(-1/halflife)."""
    training = make(steps=6, ema_halflife_steps=2.0)
    decay, expected = 0.5**0.5, None
    while training.step < 6:
        if training.advance():
            w = training.base[0].weight.detach().double().clone()
            expected = w if expected is None else decay * expected + (1 - decay) * w
    assert torch.allclose(training.averaged.module[0].weight.double(), expected, atol=1e-6)


def test_kale_rises_and_the_base_approaches_the_data():
    """On the ring, 400 rounds bring the base's mean squared radius from near 0 to within .15 of the data's."""
    training = make(steps=400, lr=5e-3)
    z = NormalPrior(2).sample(2000, torch.Generator().manual_seed(1))
    radius = DATA.square().sum(1).mean().item()
    start = training.base(z).square().sum(1).mean().item()
    training.run(Callbacks())
    end = training.base(z).square().sum(1).mean().item()
    assert abs(start - radius) > 0.5 and abs(end - radius) < 0.15, (start, end, radius)


# -------------------------------------------------------------------------------------------------- rates, penalty, watch


def test_learning_rates_follow_the_schedule():
    """After each step every group has its first rate times the schedule's factor there; the last is 0."""
    training = make(steps=8)
    rates = [training.critic_optimiser.param_groups[1]["lr"]]
    while training.step < 8:
        if training.advance():
            rates.append(training.critic_optimiser.param_groups[1]["lr"])
    assert rates == pytest.approx([0.01 * min(1, 2 * (1 - k / 8)) for k in range(9)])


def test_lazy_penalty_is_taken_at_every_kth_critic_step(monkeypatch):
    """With every = 3 critic steps 0, 3, 6, ... take it, whatever round they belong to, and between them the last one is logged."""
    training, taken = make(method=Method(penalty=Penalty(weight=0.1, every=3)), steps=4), []
    step = loop.critic_step

    def watched(*args):
        taken.append(args[-1])
        return step(*args)

    monkeypatch.setattr(loop, "critic_step", watched)
    training.run(Callbacks())
    assert taken == [i % 3 == 0 for i in range(len(taken))] and len(taken) > 10
    assert training.metrics()["penalty"] > 0


SCORES = {0: 5.0, 4: 3.0, 8: 4.0, 11: 3.5}


def watched(scores=SCORES, steps=11):
    """A training with scores that depend on the step alone."""
    return make(steps=steps, watch=Watch("score", 4, lambda training: Estimate(scores[training.step], 0.5)))


def test_watch_scores_at_the_start_at_intervals_and_at_the_end():
    """Scores at 0, 4, 8 and the last step are logged; states are kept at 0 and 4, where they were the best so far."""
    logged, kept = {}, []
    training = watched()
    training.run(
        Callbacks(
            log=lambda s, m: logged.update({s: m["score"]} if "score" in m else {}),
            keep_best=lambda s, state: kept.append((s, state["step"])),
        )
    )
    assert logged == SCORES and kept == [(0, 0), (4, 4)]
    assert (training.watch.best, training.watch.best_step) == (3.0, 4)


def test_resume_keeps_the_best_score():
    """Resumed from step 8 the best is still that of step 4, step 0 is not scored again, and no worse state is kept."""
    states, kept = {}, []
    watched().run(Callbacks(save=lambda s, state: states.update({s: copy.deepcopy(state)})))
    second = watched({11: 3.5})
    second.load_state_dict(states[8])
    assert (second.watch.best, second.watch.best_step) == (3.0, 4)
    second.run(Callbacks(keep_best=lambda s, state: kept.append(s)))
    assert kept == [] and second.watch.best_step == 4
    third = watched({11: 2.5})
    third.load_state_dict(states[8])
    third.run(Callbacks(keep_best=lambda s, state: kept.append(s)))
    assert kept == [11] and (third.watch.best, third.watch.best_step) == (2.5, 11)


def test_a_first_score_that_is_no_number_is_beaten_by_any():
    """A nan at the start does not stand as the best for ever, and a later nan does not replace a number."""
    training = watched({0: float("nan"), 4: 3.0, 8: float("nan"), 11: 9.0})
    training.run(Callbacks())
    assert (training.watch.best, training.watch.best_step) == (3.0, 4)


class Stuck(RateRule):
    """A rule that halves the rate at each observation, without any features."""

    def update(self, base, prior, step):
        self.multiplier *= 0.5
        self.seen = [*getattr(self, "seen", []), (step, base)]


def test_rule_is_asked_at_its_steps_and_its_rate_is_used():
    """Every 3rd step the averaged base is handed over, and all groups get the schedule's rate times the multiplier; resumed too."""
    rule = Stuck(lambda x: x, DATA, torch.Generator(), every=3)
    training, states = make(steps=8, ema_halflife_steps=2.0, rule=rule), {}
    training.run(Callbacks(save=lambda s, state: states.update({s: copy.deepcopy(state)})))
    assert [s for s, _ in rule.seen] == [3, 6] and all(base is training.averaged.module for _, base in rule.seen)
    at_4 = states[4]["base_optimiser"]["param_groups"][0]["lr"]
    assert at_4 == pytest.approx(0.01 * 0.5) and states[4]["rule"]["multiplier"] == 0.5
    other = make(steps=8, ema_halflife_steps=2.0, rule=Stuck(lambda x: x, DATA, torch.Generator(), every=3))
    other.load_state_dict(states[4])
    other.run(Callbacks())
    assert equal(other.state_dict()["base"], training.state_dict()["base"]) and other.rule.multiplier == 0.25
