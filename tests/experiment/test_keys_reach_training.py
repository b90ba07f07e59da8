"""From the keys of both training sections to the objects that take a step: each key, at another value than its default, arrives.

The tables are held against the schema, so a new key fails until it is said where it must arrive; what an object then does with
it is tested in tests/core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gebm_cli.core import kernels
from gebm_cli.core.data.dataset import to_float
from gebm_cli.core.objectives import f_divergences, kale, kernel_losses, margins
from gebm_cli.core.parallel import Share
from gebm_cli.core.training import direct
from gebm_cli.core.training.loop import Training
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.build_training import build_training
from gebm_cli.experiment.key_reference import kind_of
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, create_run
from gebm_cli.experiment.schema import Experiment, TrainBase, TrainEnergy
from gebm_cli.experiment.schema.training import LrRule, Optimiser
from gebm_cli.experiment.sentences import models_in
from gebm_cli.experiment.stages import _prepare, train
from gebm_cli.experiment.training_scores import build_rule, build_watch

CPU = torch.device("cpu")
STAGES = {"train-base": TrainBase, "train-energy": TrainEnergy}
POINTS = """\
name: x
seed: 3
data: {kind: toy, name: ring, n: 200}
latent_dim: 2
base: {kind: realnvp, n_blocks: 2, width: 4}
energy: {kind: mlp, width: 4, depth: 1}
train_base: {batch_size: 8, steps: 40}
train_energy: {batch_size: 8, steps: 40, n_log_partition: 300}
evaluate: {features: pixels}
"""
IMAGES = """\
name: x
data: {kind: digits}
latent_dim: 2
base: {kind: conv, width: 2}
energy: {kind: conv, width: 2}
"""


@dataclass(frozen=True)
class Built:
    """A stage as its experiment asks for it."""

    experiment: Experiment
    stage: str
    training: Training
    folder: Path

    @property
    def watch(self):
        return build_watch(self.experiment, self.training, DATA(self.experiment), 0)

    @property
    def rule(self):
        return build_rule(self.experiment, self.training, DATA(self.experiment), 0)

    @property
    def run(self) -> Run:
        """A run of the experiment whose base has been trained for two steps, whatever `steps` says of the rest."""
        return trained_base(self.experiment, self.folder)


_datasets: dict[str, Any] = {}


def DATA(experiment: Experiment):  # noqa: N802
    """The data, read once for each kind."""
    return _datasets.setdefault(experiment.data.kind, build_dataset(experiment.data))


def trained_base(experiment: Experiment, folder: Path) -> Run:
    short = experiment.train_base.model_copy(update={"steps": 2, "critic_steps": 1, "burst_critic_steps": 1})
    run = create_run(experiment.model_copy(update={"train_base": short}), folder, DATA(experiment).shape)
    train(run, "train-base", CPU, DATA(experiment), lambda *told: None)
    return run


@pytest.fixture
def build(tmp_path, monkeypatch) -> Callable[..., Built]:
    """Build a stage; a network that is to be compiled is only marked."""
    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "is_compiled", True))

    def build(stage: str, *overrides: str, text: str = POINTS) -> Built:
        (tmp_path / "x.yaml").write_text(text)
        experiment = load_experiment(tmp_path / "x.yaml", overrides)
        return Built(experiment, stage, build_training(experiment, stage, DATA(experiment), 0, CPU), tmp_path)

    return build


# --------------------------------------------------------------------------------------------- the keys of both sections


@dataclass(frozen=True)
class Arrives:
    """A key's other value as it is written, where it must arrive, and as what; `given` is what it needs beside it."""

    value: str
    where: Callable[[Built], Any]
    expected: Any
    given: tuple[str, ...] = ()
    text: str = POINTS


def groups(built: Built) -> list[dict[str, Any]]:
    return [g for optimiser in built.training._optimisers() for g in optimiser.param_groups]


def rates_of(network: str) -> Callable[[Built], set[float]]:
    """The learning rates of a network's parameters, at the start and after a step, less the log-partition's."""

    def rates(built: Built) -> set[float]:
        own = {id(p) for name, p in getattr(built.training, network).named_parameters() if name != "log_partition"}
        found = {g["lr"] for g in groups(built) if own & {id(p) for p in g["params"]}}
        built.training._step_done()
        return found | {g["lr"] for g in groups(built) if own & {id(p) for p in g["params"]}}

    return rates


def rate_of_log_partition(built: Built) -> float:
    c = built.training.energy.log_partition
    (rate,) = [g["lr"] for g in groups(built) if any(p is c for p in g["params"])]
    return rate


def in_channels_last(built: Built) -> bool:
    networks = [built.training.base, built.training.energy]
    weights = [p for network in networks for p in network.parameters() if p.dim() == 4]
    return all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def compiled(built: Built) -> list[bool]:
    return [hasattr(n, "is_compiled") for n in (built.training.base, built.training.energy.network)]


def of(path: str) -> Callable[[Built], Any]:
    """The attribute at a path below the training."""

    def get(built: Built) -> Any:
        at: Any = built.training
        for name in path.split("."):
            at = getattr(at, name)
        return at

    return get


def of_energy_that_is_learned(path: str) -> Callable[[Built], Any]:
    return lambda built: of(path)(replace(built, stage="train-energy"))


BOTH = {
    "steps": Arrives("60", lambda b: (b.training.schedule.steps, b.training.rates.schedule.steps), (60, 60)),
    "batch_size": Arrives("12", lambda b: (b.training.batches.batch_size, len(b.training.batches.next())), (12, 12)),
    "accumulate": Arrives("2", of("method.parts"), 2),
    "lr": Arrives("0.5", lambda b: rates_of("energy")(b) | {g["lr"] for g in groups(b)}, {0.5}),
    "betas": Arrives("[0.1, 0.2]", lambda b: {g["betas"] for g in groups(b)}, {(0.1, 0.2)}),
    "lr_log_partition": Arrives("0.5", rate_of_log_partition, 0.5),
    "lr_schedule": Arrives("cosine", lambda b: b.training.rates.schedule(20), pytest.approx(0.5)),
    "lr_step_every": Arrives(
        "7", lambda b: [b.training.rates.schedule(s) for s in (6, 7)], [1, 0.8], ("lr_schedule=step", "lr_step_every=9")
    ),
    "lr_step_factor": Arrives(
        "0.3", lambda b: b.training.rates.schedule(9), 0.3, ("lr_schedule=step", "lr_step_every=9")
    ),
    "penalty": Arrives("r1", of("method.penalty.kind"), "r1"),
    "penalty_weight": Arrives("7", of("method.penalty.weight"), 7),
    "penalty_every": Arrives("3", of("method.penalty.every"), 3),
    "penalty_outputs": Arrives("0.3", of("method.penalty.outputs"), 0.3),
    "penalty_weights": Arrives("0.4", of("method.penalty.weights"), 0.4),
    "noise_std": Arrives("0.6", of("method.noise_std"), 0.6),
    "flip": Arrives("true", of("batches.flip"), True, text=IMAGES),
    "precision": Arrives("bfloat16", of("method.bfloat16"), True),
    "channels_last": Arrives("true", in_channels_last, True, text=IMAGES),
    "compile": Arrives("true", compiled, [True, True], ("penalty_weight=0",)),
    "log_every": Arrives("7", of("schedule.log_every"), 7),
    "checkpoint_every": Arrives("7", of("schedule.checkpoint_every"), 7),
    "score_every": Arrives("7", lambda b: b.watch.every, 7, ("keep_best=nll",)),
    "keep_best": Arrives("nll", lambda b: b.watch and b.watch.name, "watched_nll"),
}
SECTIONS = {
    "train-base": BOTH
    | {
        "lr": Arrives("0.5", lambda b: rates_of("base")(b) | rates_of("energy")(b), {0.5}),
        "lr_critic": Arrives(
            "0.5",
            lambda b: (rates_of("base")(b), rates_of("energy")(b), rate_of_log_partition(b)),
            ({1e-4}, {0.5}, 0.5),
        ),
        "objective": Arrives("gan", of("method.objective"), f_divergences.FDivergence("js", non_saturating=True)),
        "critic_steps": Arrives("3", lambda b: b.training.schedule.critic_steps_before(1), 3),
        "burst_critic_steps": Arrives("3", lambda b: b.training.schedule.critic_steps_before(0), 3),
        "burst_every": Arrives("3", lambda b: b.training.schedule.critic_steps_before(3), 100),
        "ema_halflife_steps": Arrives(
            "2",
            lambda b: (
                b.training.averaged and (b.training.ema_halflife_steps, b.training.result_base() is b.training.base)
            ),
            (2, False),
        ),
        "lr_rule": Arrives(
            "{compare_steps: 20, every: 10, n: 100}", lambda b: b.rule and type(b.rule).__name__, "RateRule"
        ),
    },
    "train-energy": BOTH
    | {
        "objective": Arrives("logistic", of("method.objective"), f_divergences.FDivergence("js", non_saturating=True)),
        "n_log_partition": Arrives("310", lambda b: short_energy(b)["n_log_partition"], 310),
        "start_from_critic": Arrives("true", lambda b: starts_as_critic(b), True),
    },
}
RULE = {
    "every": Arrives("5", lambda b: (b.rule.every, b.rule.compare), (5, 4)),
    "compare_steps": Arrives("30", lambda b: (b.rule.every, b.rule.compare), (10, 3)),
    "n": Arrives("150", lambda b: (b.rule.n, len(b.rule.reference)), (150, 150)),
    "p_value": Arrives("0.3", lambda b: b.rule.p_value, 0.3),
    "patience": Arrives("7", lambda b: b.rule.patience, 7),
    "factor": Arrives("0.3", lambda b: b.rule.factor, 0.3),
    "floor": Arrives("3e-5", lambda b: b.rule.floor, 3e-5),
}


def short_energy(built: Built) -> dict[str, Any]:
    """The closing figures of an energy of one step."""
    run = built.run
    keys = run.experiment.train_energy.model_copy(update={"steps": 1})
    run = Run(run.path, run.experiment.model_copy(update={"train_energy": keys}))
    return train(run, "train-energy", CPU, DATA(run.experiment), lambda *told: None)


def starts_as_critic(built: Built) -> bool:
    run = built.run
    begun = _prepare(run, "train-energy", DATA(run.experiment), CPU, False, Share()).energy.state_dict()
    critic = torch.load(run.checkpoints("train-base") / "step_00000002.pt", weights_only=True)["state"]["energy"]
    return begun.keys() == critic.keys() and all(torch.equal(begun[k], critic[k]) for k in critic)


def check(build, stage: str, key: str, arrives: Arrives) -> None:
    """Where the key is left out something else is found; where it is given, what is expected."""
    section = stage.replace("-", "_")
    given = [f"{section}.{g}" for g in arrives.given]
    assert arrives.where(build(stage, *given, text=arrives.text)) != arrives.expected, "would pass without the key"
    found = arrives.where(build(stage, *given, f"{section}.{key}={arrives.value}", text=arrives.text))
    assert found == arrives.expected


KEYS = [(stage, key) for stage, table in SECTIONS.items() for key in table]


@pytest.mark.parametrize(("stage", "key"), KEYS, ids=[f"{stage} {key}" for stage, key in KEYS])
def test_every_key_of_a_stage_arrives(build, stage, key):
    check(build, stage, key, SECTIONS[stage][key])


@pytest.mark.parametrize("key", RULE)
def test_every_key_of_the_rule_arrives(build, key):
    rule = replace(RULE[key], given=("lr_rule={every: 10, compare_steps: 20, n: 100}",))
    check(build, "train-base", f"lr_rule.{key}", rule)


def test_no_key_is_left_out_of_the_tables():
    """A key of the schema that no table has arrives nowhere as far as these tests know."""
    assert {s: set(SECTIONS[s]) for s in STAGES} == {s: set(model.model_fields) for s, model in STAGES.items()}
    assert set(BOTH) - {"steps", "keep_best", "objective"} == set(Optimiser.model_fields)
    assert set(RULE) == set(LrRule.model_fields)
    written = {(stage, o.__name__): set(o.model_fields) for stage in STAGES for o in objectives_of(stage)}
    tables = {s: {} for s in written}
    for (stage, name), keys in written.items():
        tables[stage, name] = {key for n, key in OBJECTIVES if n == name} | {"kind"}
        assert keys == tables[stage, name], (stage, name)
    assert {kind_of(o) for stage in STAGES for o in objectives_of(stage)} == set(KINDS)


# ------------------------------------------------------------------------------------------------- the keys of objectives


def objectives_of(stage: str) -> list[type]:
    return models_in(STAGES[stage].model_fields["objective"].annotation)


def contrastive(persistent: bool) -> Callable[[str], Any]:
    return lambda stage: direct.ContrastiveDivergence(stage == "train-base", persistent, 10, 0.01)


def median_mixture(stage: str) -> Any:
    """Gaussians at multiples of the median distance of the data, by `torch.pdist`."""
    distances = torch.pdist(DATA_OF_POINTS().train.double())
    median = distances.sort().values[(len(distances) - 1) // 2].item()
    return [pytest.approx(f * median, rel=1e-6) for f in (0.25, 0.5, 1, 2, 4)]


def DATA_OF_POINTS():  # noqa: N802
    return _datasets["toy"]


# What each kind is built as, with the defaults that the reference of keys promises.
KINDS: dict[str, Any] = {
    "kale": kale.Kale(),
    "gan": f_divergences.FDivergence("js", non_saturating=True),
    "logistic": f_divergences.FDivergence("js", non_saturating=True),
    "f-gan": f_divergences.FDivergence("hellinger", non_saturating=False),
    "hinge": margins.Hinge(),
    "wasserstein": margins.Wasserstein(None),
    "mmd": kernel_losses.Mmd(kernels.RationalQuadratic((0.2, 0.5, 1.0, 2.0, 5.0), 0.0)),
    "smmd": kernel_losses.ScaledMmd(kernels.Gaussian(1.0), 1.0, None),
    "swgan": kernel_losses.ScaledWasserstein(10.0),
    "gmmn": None,  # its bandwidths are those of the data
    "ml": direct.MaximumLikelihood(),
    "cd": contrastive(False),
    "pcd": contrastive(True),
}


def trained_by(built: Built) -> Any:
    """What the stage's steps are taken by: the objective without a critic where there is one."""
    return built.training.method.objective if built.training.direct is None else built.training.direct


def in_objective(*names: str) -> Callable[[Built], Any]:
    def get(built: Built) -> Any:
        at = trained_by(built)
        for name in names:
            at = getattr(at, name)
        return at

    return get


def n_features(built: Built) -> int:
    return built.training.energy.features(torch.zeros(1, 2)).shape[1]


def rational(*alphas: float) -> kernels.RationalQuadratic:
    return kernels.RationalQuadratic(alphas)


# kernel, and its exponents or bandwidths, of both objectives that choose one
KERNELS = {
    "kernel": Arrives("distance", in_objective("kernel"), kernels.EnergyDistance()),
    "alphas": Arrives("[0.1, 1, 10]", in_objective("kernel"), rational(0.1, 1.0, 10.0), ("objective.kernel=rq",)),
    "bandwidths": Arrives("[0.5]", in_objective("kernel"), kernels.GaussianMixture((0.5,)), ("objective.kernel=rbf",)),
}
SCORES = {
    "n_steps": Arrives("3", in_objective("n_steps"), 3),
    "step_size": Arrives("0.3", in_objective("step_size"), 0.3),
}
OBJECTIVES: dict[tuple[str, str], Arrives] = {
    ("Kale", "log_partition"): Arrives("batch", in_objective("batch_log_partition"), True),
    ("FGan", "divergence"): Arrives(
        "pearson",
        lambda b: (
            (b.training.method.objective.name, b.stage)
            in (("pearson-linear", "train-base"), ("pearson", "train-energy"))
        ),
        True,
    ),
    ("FGan", "non_saturating"): Arrives("true", in_objective(), f_divergences.FDivergence("hellinger", True)),
    ("Wasserstein", "clip"): Arrives("0.3", in_objective("clip"), 0.3),
    **{("Mmd", key): arrives for key, arrives in KERNELS.items()},
    ("Mmd", "linear"): Arrives("0.3", in_objective("kernel", "linear"), 0.3),
    ("Mmd", "features"): Arrives("5", n_features, 5),
    ("Smmd", "bandwidth"): Arrives("0.3", in_objective("kernel"), kernels.Gaussian(0.3)),
    ("Smmd", "lam"): Arrives("0.3", in_objective("lam"), 0.3),
    ("Smmd", "grad_coeff"): Arrives("0.3", in_objective("grad_coeff"), 0.3),
    ("Smmd", "features"): Arrives("5", n_features, 5),
    ("Swgan", "grad_coeff"): Arrives("0.3", in_objective("grad_coeff"), 0.3),
    **{("Gmmn", key): arrives for key, arrives in KERNELS.items()},
    **{(n, k): a for n in ("ContrastiveDivergence", "PersistentContrastiveDivergence") for k, a in SCORES.items()},
}


def chosen(kind: str) -> str:
    return f"objective={{kind: {kind}, divergence: hellinger}}" if kind == "f-gan" else f"objective={kind}"


OF_OBJECTIVES = [
    (stage, kind_of(o), o.__name__, key)
    for stage in STAGES
    for o in objectives_of(stage)
    for n, key in OBJECTIVES
    if n == o.__name__
]


@pytest.mark.parametrize(
    ("stage", "kind", "name", "key"),
    OF_OBJECTIVES,
    ids=[f"{stage} {kind} {key}" for stage, kind, _, key in OF_OBJECTIVES],
)
def test_every_key_of_an_objective_arrives(build, stage, kind, name, key):
    arrives = OBJECTIVES[name, key]
    check(build, stage, f"objective.{key}", replace(arrives, given=(chosen(kind), *arrives.given)))


OF_KINDS = [(stage, kind_of(o)) for stage in STAGES for o in objectives_of(stage)]


@pytest.mark.parametrize(("stage", "kind"), OF_KINDS, ids=[" ".join(k) for k in OF_KINDS])
def test_every_kind_of_objective_is_built_with_its_defaults(build, stage, kind):
    """The class and all its numbers; without a critic, as the direct loss."""
    built = build(stage, f"{stage.replace('-', '_')}.{chosen(kind)}")
    found, expected = trained_by(built), KINDS[kind]
    assert (built.training.direct is not None) == (kind in ("gmmn", "ml", "cd", "pcd"))
    assert built.training.train_base == (stage == "train-base")
    if kind == "gmmn":
        assert list(found.kernel.bandwidths) == median_mixture(stage)
    else:
        assert found == (expected(stage) if callable(expected) else expected)
    if kind in ("mmd", "smmd"):
        assert n_features(built) == {"mmd": 16, "smmd": 1}[kind]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("rbf", kernels.GaussianMixture((2.0, 5.0, 10.0, 20.0, 40.0, 80.0), 0.3)),
        ("rq", kernels.RationalQuadratic((0.2, 0.5, 1.0, 2.0, 5.0), 0.3)),
    ],
)
def test_kernels_without_a_list_have_the_papers(build, kernel, expected):
    """The key reference says which; the linear term goes with either."""
    built = build("train-base", f"train_base.objective={{kind: mmd, kernel: {kernel}, linear: 0.3}}")
    assert trained_by(built).kernel == expected


# ----------------------------------------------------------------------------------------------------- rates, compilation


def test_the_schedule_acts_on_the_rates_of_base_critic_and_constant_alike(build):
    """Halfway along a cosine each is half of its own."""
    keys = ("lr=0.1", "lr_critic=0.4", "lr_log_partition=0.02", "lr_schedule=cosine", "steps=4")
    training = build("train-base", *(f"train_base.{k}" for k in keys)).training
    for _ in range(2):
        training._step_done()
    assert [g["lr"] for g in training.critic_optimiser.param_groups] == pytest.approx([0.2, 0.01])
    assert [g["lr"] for g in training.base_optimiser.param_groups] == pytest.approx([0.05])


COMPILED = [
    ("train-base", "kale", 1, False),
    ("train-base", "kale", 0, True),
    ("train-base", "mmd", 1, False),
    ("train-base", "mmd", 0, True),
    ("train-base", "smmd", 0, False),
    ("train-base", "swgan", 0, False),
    ("train-energy", "kale", 1, False),
    ("train-energy", "kale", 0, True),
    ("train-energy", "pcd", 1, True),
]


@pytest.mark.parametrize(
    ("stage", "objective", "weight", "critic"), COMPILED, ids=[f"{s} {o} {w}" for s, o, w, _ in COMPILED]
)
def test_what_is_compiled_is_called_and_not_differentiated_twice(build, monkeypatch, stage, objective, weight, critic):
    """A stand-in for torch.compile counts the calls and, as that does, refuses a second derivative."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient

    calls = {}

    def stand_in(self):
        calls[self] = 0

        def call(*args, **kwargs):
            calls[self] += 1
            return Once.apply(self._call_impl(*args, **kwargs))

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", stand_in)
    section = stage.replace("-", "_")
    keys = ("compile=true", f"objective={objective}", f"penalty_weight={weight}", "burst_critic_steps=1")
    training = build(stage, *(f"{section}.{k}" for k in keys if k[0] != "b" or stage == "train-base")).training
    for _ in range(2):
        training.advance()
    assert set(calls) == {training.base, *([training.energy.network] if critic else [])}
    assert all(calls.values()), "a compiled network that nobody calls is none"


# ------------------------------------------------------------------------------------------------------ where a stage begins


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["learned", "batch", "initialised"])
def test_the_log_partition_begins_where_it_is_asked_to(build, tmp_path, stage, how):
    """initialised: at the log-mean-exp of -E, here over other draws of the base, within the error of both; else at 0."""
    keys = [f"{s}.objective={{kind: kale, log_partition: {how}}}" for s in ("train_base", "train_energy")]
    experiment = build(stage, *keys, "train_energy.n_log_partition=5000").experiment
    if stage == "train-base":
        run = create_run(experiment, tmp_path, (2,))
    else:
        run = trained_base(experiment, tmp_path)
    training = _prepare(run, stage, DATA(experiment), CPU, False, Share())
    assert training.energy.training and training.base.training == (stage == "train-base")
    base, energy = training.base.eval(), training.energy.eval()
    with torch.no_grad():
        z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(9))
        weights = (-energy(base(z)).double()).exp()
    error = weights.std().item() / weights.mean().item() * math.sqrt(1 / 5_000 + 1 / 20_000)
    estimate, c = weights.mean().log().item(), energy.log_partition.item()
    assert abs(estimate) > 10 * error, "an energy that tells 0 from the estimate"
    assert abs(c - estimate) < 4 * error if how == "initialised" else c == 0.0


def test_an_energy_is_trained_on_the_base_that_was_learned(build, tmp_path):
    """Not on the one of step 0."""
    built = build("train-energy")
    run = built.run
    learned = torch.load(run.checkpoints("train-base") / "step_00000002.pt", weights_only=True)["state"]["base"]
    begun = _prepare(run, "train-energy", DATA(run.experiment), CPU, False, Share()).base.state_dict()
    fresh = built.training.base.state_dict()
    assert all(torch.equal(begun[k], learned[k]) for k in learned)
    assert not all(torch.equal(fresh[k], learned[k]) for k in learned)


def _normed_energy(tmp_path, *overrides: str) -> Training:
    """The first moment of an energy with batch norm: of a plain dcgan on 64 noisy images whose pixels are alike."""
    grey = np.random.default_rng(0).integers(0, 256, (64, 1, 1, 1)) + np.random.default_rng(1).integers(
        0, 20, (64, 32, 32, 3)
    )
    images = grey.clip(0, 255).astype(np.uint8)
    tmp_path.mkdir(exist_ok=True)
    np.save(tmp_path / "images.npy", images)
    text = f"""\
name: x
seed: 3
data: {{kind: array, path: {tmp_path / "images.npy"}}}
latent_dim: 2
base: {{kind: conv, width: 2}}
energy: {{kind: dcgan, width: 4}}
train_base: {{steps: 1, batch_size: 4, critic_steps: 1, burst_critic_steps: 1}}
train_energy: {{noise_std: 0.5, batch_size: 32}}
evaluate: {{features: pixels}}
"""
    (tmp_path / "x.yaml").write_text(text)
    experiment = load_experiment(tmp_path / "x.yaml", [f"train_energy.{key}" for key in overrides])
    return _prepare(trained_base(experiment, tmp_path), "train-energy", DATA(experiment), CPU, False, Share())


def test_an_energy_with_batch_norm_begins_with_the_moments_of_both_sides(tmp_path):
    """Those of data and base samples together, half each, before its first layer; and it holds them."""
    training, images = _normed_energy(tmp_path), np.load(tmp_path / "images.npy")
    first, norm = training.energy.network[0], training.energy.network[3]
    assert training.energy.training and not norm.training
    with torch.no_grad():
        generator = torch.Generator().manual_seed(9)
        fake = training.base(training.prior.sample(2000, generator))
        real = to_float(torch.from_numpy(images).permute(0, 3, 1, 2))[torch.arange(2000) % 64]
        both = torch.cat([real, fake])
        hidden = training.energy.network[2](
            training.energy.network[1](first(both + 0.5 * torch.randn(both.shape, generator=generator)))
        )
    spread = hidden.mean((2, 3)).std(0) / 8  # of the mean over the few samples that were seen
    assert ((norm.running_mean - hidden.mean((0, 2, 3))).abs() < 4 * spread).all()
    torch.testing.assert_close(norm.running_var, hidden.var((0, 2, 3)), rtol=0.2, atol=0)


@pytest.mark.parametrize("keys", [("accumulate=8",), ("batch_size=8",)])
def test_the_moments_that_are_held_do_not_hang_on_how_a_batch_is_cut(tmp_path, keys):
    """Rows of an image are alike, so the mean variance of small parts would be smaller than that of all."""
    whole, cut = (_normed_energy(tmp_path / str(i), *k).energy.state_dict() for i, k in enumerate([(), keys]))
    held = [name for name in whole if "running" in name]
    assert len(held) == 6 and all(torch.equal(whole[name], cut[name]) for name in held)
