"""What a training stage is scored by: likelihoods and KALE against a computation by hand, and the best networks as the result."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.data.toys import toy_dataset
from gebm_cli.core.device import make_generator
from gebm_cli.core.kernels import Polynomial
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.objectives.kale import log_mean_exp
from gebm_cli.core.training.loop import Callbacks, Training
from gebm_cli.experiment.build import load_gebm, result_state
from gebm_cli.experiment.build_training import build_training
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import open_run
from gebm_cli.experiment.training_scores import (
    KID_SAMPLES,
    LOG_PARTITION_SAMPLES,
    build_rule,
    build_watch,
    closing_figures,
    energies,
    nll,
    validation_of,
)

CPU = torch.device("cpu")
FLOW = """\
name: x
data: {kind: toy, name: ring, n: 200}
latent_dim: 2
base: {kind: realnvp, n_blocks: 2, width: 8}
energy: {kind: mlp, width: 8, depth: 1}
train_base: {objective: ml, steps: 8, batch_size: 20, lr: 0.03, score_every: 1, log_every: 4, checkpoint_every: 4}
train_energy: {steps: 8, batch_size: 20, lr: 0.03, score_every: 1, n_log_partition: 300, log_every: 4, checkpoint_every: 4}
evaluate: {features: pixels}
"""
FLOW_ENERGY = FLOW.replace("{kind: mlp, width: 8, depth: 1}", "{kind: flow, architecture: maf, n_blocks: 2, width: 8}")


class Untouchable:
    """Held-out points of which nothing may be asked."""

    def __getattribute__(self, name):
        raise AssertionError(f"the held-out points were looked at: {name}")


@pytest.fixture(scope="module")
def dataset():
    drawn = toy_dataset("ring", 500, 0.1, 0).train
    return Dataset("ring", drawn[:200], drawn[200:330], validation=drawn[330:400])


@pytest.fixture
def stage(tmp_path, dataset):
    """A stage of an experiment with networks far from their start."""

    def build(name: str = "train-energy", *overrides: str, text: str = FLOW, perturbed: float = 0.3):
        (tmp_path / "x.yaml").write_text(text)
        experiment = load_experiment(tmp_path / "x.yaml", overrides)
        training = build_training(experiment, name, dataset, 0, CPU)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in [*training.base.parameters(), *training.energy.parameters()]:
                parameter += perturbed * torch.randn(parameter.shape, generator=generator)
        return experiment, training

    return build


def log_density_by_hand(flow, x: torch.Tensor) -> torch.Tensor:
    """log N(z; 0, I) - log |det dx/dz| at z, the latent of each x, by automatic differentiation."""
    values = []
    for point in x:
        z = flow.inverse(point[None])[0][0].detach()
        jacobian = torch.autograd.functional.jacobian(lambda z: flow(z[None])[0], z)
        values.append(-0.5 * (z @ z) - math.log(2 * math.pi) - torch.linalg.slogdet(jacobian)[1])
    return torch.stack(values).double().detach()


def test_the_nll_of_a_base_and_of_its_gebm(stage, dataset):
    """mean of -log q, and of -log q + E + log Z; their errors are those of the mean, joined with that of log Z."""
    _, training = stage()
    base, energy, x = training.base, training.energy, dataset.validation
    log_q, root = log_density_by_hand(base, x), math.sqrt(len(x))
    own = nll(base, None, x, CPU)
    assert own.value == pytest.approx(-log_q.mean().item(), abs=1e-4)
    assert own.standard_error == pytest.approx(log_q.std().item() / root, rel=1e-3)
    with torch.no_grad():
        e, at_base = energy(x).double(), energy(base(torch.randn(500, 2))).double()
    log_z = log_mean_exp([-at_base])
    model = nll(base, energy, x, CPU, log_z)
    assert log_z.value == pytest.approx((-at_base).exp().mean().log().item()) and e.std() > 0.05
    assert model.value == pytest.approx((-log_q + e).mean().item() + log_z.value, abs=1e-4)
    error = math.hypot((e - log_q).std().item() / root, log_z.standard_error)
    assert model.standard_error == pytest.approx(error, rel=1e-3) and log_z.standard_error > 1e-3
    with pytest.raises(ValueError, match="`log_z` is needed"):
        nll(base, energy, x, CPU)


def test_a_flow_energys_nll_is_exact(stage, dataset):
    """It is that of the flow, whatever the base and whatever the estimate of log Z, which is 0."""
    _, training = stage(text=FLOW_ENERGY)
    x = dataset.validation
    by_hand = log_density_by_hand(training.energy.network.flow, x)
    exact = nll(training.base, training.energy, x, CPU)
    assert exact.value == pytest.approx(-by_hand.mean().item(), abs=1e-4)
    assert exact.standard_error == pytest.approx(by_hand.std().item() / math.sqrt(len(x)), rel=1e-3)
    assert nll(training.base, training.energy, x, CPU, log_mean_exp([torch.randn(9)])) == exact
    assert closing_figures(training, dataset, 100, 0)["nll_validation"] == exact.value


def test_closing_figures_tell_kale_and_nll_of_every_split(stage, dataset):
    """KALE = -mean E - log Z with one log Z for all; a split of fewer than two points, or none, is left out."""
    _, training = stage()
    n, base, energy = 300, training.base, training.energy
    figures = closing_figures(training, dataset, n, seed=4)
    z = training.prior.sample(n, make_generator(4, "log-partition"))
    with torch.no_grad():
        weights = torch.exp(-energy(base(z)).double())
    log_z = weights.mean().log().item()
    error = (weights.std() / weights.mean() / n**0.5).item()
    assert figures["log_partition_estimate"] == pytest.approx(log_z, abs=1e-5)
    assert figures["log_partition_standard_error"] == pytest.approx(error, rel=0.01)
    assert figures["ess"] == pytest.approx((weights.sum() ** 2 / weights.square().sum()).item(), rel=1e-4)
    heaviest = (weights.max() ** 2 / weights.square().sum()).item()
    assert figures["log_partition_heaviest"] == pytest.approx(heaviest, rel=1e-4)
    assert figures["log_partition_learned"] == energy.log_partition.item() != 0 and figures["n_log_partition"] == n
    for split, x in (("train", dataset.train), ("validation", dataset.validation), ("held_out", dataset.held_out)):
        e = energies(energy, x, CPU)
        kale = -e.mean().item() - log_z
        assert figures[f"kale_{split}"] == pytest.approx(kale, abs=1e-5)
        both = math.hypot(e.std().item() / len(x) ** 0.5, error)
        assert figures[f"kale_{split}_standard_error"] == pytest.approx(both, rel=0.01)
        own = nll(base, None, x, CPU).value
        assert figures[f"nll_{split}"] == pytest.approx(own - kale, abs=1e-4), "KALE is what the energy gains in nats"
    fewer = closing_figures(training, replace(dataset, validation=None, held_out=dataset.held_out[:1]), n, seed=4)
    assert set(figures) - set(fewer) == {k for k in figures if "validation" in k or "held_out" in k}


def test_a_base_without_density_has_no_nll(stage, dataset):
    """Of its energy KALE alone is told."""
    _, training = stage(text=FLOW.replace("realnvp, n_blocks: 2", "mlp").replace("objective: ml, ", ""))
    assert not [k for k in closing_figures(training, dataset, 50, 0) if k.startswith("nll")]


def test_the_closing_figures_of_an_averaged_base_are_those_of_the_average(stage, dataset):
    """Not those of the weights that are being trained."""
    _, training = stage("train-base", "train_base.ema_halflife_steps=20")
    for _ in range(3):
        training.advance()
    figures = closing_figures(training, dataset, 50, 0)
    average = nll(training.averaged.module, None, dataset.train, CPU).value
    assert figures["nll_train"] == average != nll(training.base, None, dataset.train, CPU).value


# --------------------------------------------------------------------------------------------------------- the best networks


def nll_now(training: Training, x: torch.Tensor, seed: int) -> float:
    if training.train_base:
        return nll(training.result_base(), None, x, CPU).value
    return nll(training.base, training.energy, x, CPU, log_z_now(training, seed)).value


def log_z_now(training: Training, seed: int):
    generator = make_generator(seed, "watch")
    with torch.no_grad():
        parts = [
            training.energy(training.base(training.prior.sample(1000, generator)))
            for _ in range(LOG_PARTITION_SAMPLES // 1000)
        ]
    return log_mean_exp([-torch.cat(parts)])


def kale_now(training: Training, x: torch.Tensor, seed: int) -> float:
    return -energies(training.energy, x, CPU).mean().item() - log_z_now(training, seed).value


def kid_now(training: Training, x: torch.Tensor, seed: int) -> float:
    generator, base = make_generator(seed, "watch"), training.result_base()
    with torch.no_grad():
        fake = torch.cat([base(training.prior.sample(KID_SAMPLES // 2, generator)) for _ in range(2)])
    return mmd2(fake, x, Polynomial(3)).value


WATCHED = [
    ("train-base", "nll", ["train_base.lr=0.1"], nll_now),
    ("train-base", "nll", ["train_base.lr=0.1", "train_base.ema_halflife_steps=1"], nll_now),
    ("train-base", "kid", ["train_base.lr=0.1"], kid_now),
    ("train-base", "kid", ["train_base.lr=0.1", "train_base.ema_halflife_steps=1"], kid_now),
    ("train-energy", "nll", ["train_energy.lr=0.5"], nll_now),
    ("train-energy", "kale", ["train_energy.lr=0.2"], kale_now),
]


@pytest.mark.parametrize(
    ("name", "score", "overrides", "again"), WATCHED, ids=[f"{w[0]}-{w[1]}-{len(w[2])}" for w in WATCHED]
)
def test_the_networks_with_the_best_score_are_kept(stage, dataset, name, score, overrides, again):
    """Least NLL or KID, largest KALE; on validation data; the held-out points are not touched. The state kept has that score."""
    dataset = replace(dataset, held_out=Untouchable())
    experiment, training = stage(name, *overrides, f"{name.replace('-', '_')}.keep_best={score}", perturbed=0.05)
    training.watch = build_watch(experiment, training, dataset, seed=3)
    seen, kept = {}, []
    training.run(
        Callbacks(
            log=lambda step, figures: seen.setdefault(step, figures.get(f"watched_{score}")),
            keep_best=lambda step, state: kept.append((step, copy.deepcopy(state))),
        )
    )
    best = (max if score == "kale" else min)(seen, key=seen.get)
    assert list(seen) == list(range(9)) and kept[-1][0] == best == training.watch.best_step
    assert training.watch.best == seen[best] and best < 8, "the last networks are not the best, or this shows nothing"
    _, kept_training = stage(name, *overrides)
    kept_training.watch = training.watch
    kept_training.load_state_dict(kept[-1][1])
    assert again(kept_training, dataset.validation, 3) == pytest.approx(seen[best], abs=1e-5)
    assert again(kept_training, dataset.train, 3) != pytest.approx(seen[best], abs=1e-3)


def test_scoring_leaves_the_training_as_it_was(stage, dataset):
    """Modes, random numbers and weights: with a watch the same bits come out as without."""
    ends = []
    for keep in ("null", "kid", "nll"):
        experiment, training = stage("train-base", f"train_base.keep_best={keep}")
        training.watch = build_watch(experiment, training, dataset, 0)
        training.run(Callbacks())
        assert training.base.training and training.energy.training
        ends.append(training.base.state_dict())
    assert all(torch.equal(ends[0][k], end[k]) for k in ends[0] for end in ends[1:])


def test_without_validation_points_training_points_are_looked_at(dataset):
    """Never held-out ones."""
    assert validation_of(dataset) is dataset.validation
    assert validation_of(replace(dataset, validation=None)) is dataset.train


def test_nothing_is_watched_unless_asked_for(stage, dataset):
    """keep_best: null builds no watch, lr_rule: null no rule, and a rule is of train-base alone."""
    experiment, training = stage("train-base")
    assert (
        build_watch(experiment, training, dataset, 0) is None and build_rule(experiment, training, dataset, 0) is None
    )
    experiment, training = stage("train-energy", "train_base.lr_rule={every: 1, compare_steps: 2}")
    assert build_rule(experiment, training, dataset, 0) is None


def test_the_rule_of_an_experiment_lowers_the_rate_when_nothing_improves(stage, dataset):
    """A base that stands still fails every comparison: after two to look back on, each second one multiplies all rates by 1/4."""
    rule = "{every: 2, compare_steps: 4, n: 100, p_value: 1e-4, patience: 2, factor: 0.25, floor: 0}"
    text = FLOW.replace("objective: ml, steps: 8", "critic_steps: 1, burst_critic_steps: 1, steps: 16")
    experiment, training = stage("train-base", f"train_base.lr_rule={rule}", "train_base.lr=1e-12", text=text)
    training.rule = build_rule(experiment, training, replace(dataset, held_out=Untouchable()), 0)
    rates = []
    for _ in range(12):
        while not training.advance():
            pass
        rates.append({group["lr"] for group in training._groups()})
    assert rates == [{1e-12}] * 7 + [{0.25e-12}] * 4 + [{0.0625e-12}]
    assert training.metrics()["lr"] == 0.0625e-12
    assert (training.rule.n, training.rule.compare, training.rule.reference.shape) == (100, 2, (100, 2))


def test_the_rule_compares_no_more_samples_than_there_are_data(stage, dataset):
    experiment, training = stage("train-base", "train_base.lr_rule={every: 1, compare_steps: 2, n: 5000}")
    rule = build_rule(experiment, training, dataset, 0)
    assert rule.n == len(rule.reference) == len(dataset.train) < 5000


@pytest.mark.parametrize("stage_name", ["train-base", "train-energy"])
def test_what_is_sampled_and_told_is_the_best_and_not_the_last(gebm, tmp_path, stage_name):
    """`best.pt` is the stage's result: for the closing figures, for the next stage, and for sampling."""
    section = stage_name.replace("-", "_")
    (tmp_path / "x.yaml").write_text(FLOW)
    keys = [f"{section}.lr={1 if section == 'train_base' else 0.5}", f"{section}.keep_best=nll"]
    assert gebm("train-base", "x.yaml", *keys, "--seed", 0, "--device", "cpu").code == 0
    got = gebm("train-energy", "x.yaml", *[k for k in keys if "energy" in k], "--device", "cpu")
    assert got.code == 0, got.err
    run = open_run(Path("runs/x-001"))
    (entry,) = [s for s in run.record()["stages"] if s["stage"] == stage_name]
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    watched = {r["step"]: r["watched_nll"] for r in rows if r["stage"] == stage_name and "watched_nll" in r}
    best, figures = min(watched, key=watched.get), entry["figures"]
    assert best < 8 == max(watched) and figures["best_step"] == best
    assert figures["best_nll"] == pytest.approx(watched[best], rel=1e-5)
    if stage_name == "train-base":
        assert figures["nll_train"] == pytest.approx(watched[best], rel=1e-5), "a toy has no validation points"
    state = result_state(run, stage_name)
    assert state["step"] == best
    model = load_gebm(run, (2,), CPU, with_energy=True)
    part, network = ("base", model.base) if stage_name == "train-base" else ("energy", model.energy)
    assert all(torch.equal(state[part][k], v) for k, v in network.state_dict().items())
    folder = run.checkpoints(stage_name)
    last = torch.load(folder / (folder / "latest").read_text().strip(), weights_only=True)["state"]
    assert last["step"] == 8 and not all(torch.equal(last[part][k], v) for k, v in network.state_dict().items())
    (folder / "best.pt").write_bytes(b"cut")
    refused = gebm("sample", "--run", "x-001", "--n-samples", 2)
    assert (
        refused.code == 1
        and "best.pt: is damaged" in refused.err
        and "delete it to use the newest networks" in refused.err
    )
