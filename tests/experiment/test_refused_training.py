"""Trainings that cannot work are refused before they begin, each in one sentence that says what to do instead."""

from __future__ import annotations

import pytest

from gebm_cli.core.parallel import Share
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build_training import require_enough
from gebm_cli.experiment.load import ConfigError, load_experiment

PLANE = "name: x\ndata: {kind: toy, name: ring, n: 64}\nlatent_dim: 2\n"
POINTS = PLANE + "base: {kind: mlp}\nenergy: {kind: mlp}\n"
CIRCLE = PLANE + "base: {kind: circle}\nenergy: {kind: mlp}\n"
FLOW = PLANE + "base: {kind: realnvp}\nenergy: {kind: mlp}\n"
FLOWS = PLANE + "base: {kind: realnvp}\nenergy: {kind: flow}\n"
RULE = "train_base.lr_rule={every: 10, compare_steps: 100}"
PIXELS = "evaluate.features=pixels"


@pytest.fixture
def load(tmp_path):
    def load(text: str, *overrides: str):
        (tmp_path / "x.yaml").write_text(text)
        return load_experiment(tmp_path / "x.yaml", overrides)

    return load


# What is asked for, the sentence, and the nearest thing that is right.
REFUSED = [
    *(
        (
            POINTS,
            [f"train_base.objective={kind}"],
            f"train_base.objective: {kind} needs a base with a density, which base.kind: mlp has not; use base.kind realnvp, "
            "maf, realnvp-image, or another one",
            ["base.kind=realnvp"],
        )
        for kind in ("ml", "cd", "pcd")
    ),
    (
        POINTS,
        ["train_base.keep_best=nll"],
        "train_base.keep_best: nll needs a base with a density, which base.kind: mlp has not; use base.kind realnvp, maf, "
        "realnvp-image, or another one",
        ["base.kind=maf"],
    ),
    (
        POINTS,
        ["train_energy.keep_best=nll"],
        "train_energy.keep_best: nll needs a base with a density, not base.kind: mlp; use kale",
        ["train_energy.keep_best=kale"],
    ),
    (
        CIRCLE,
        ["train_energy.objective=cd"],
        "train_energy.objective: cd, whose chains begin at the latents of data, needs a base with a density, not base.kind: "
        "circle; use pcd, which begins them from the prior",
        ["train_energy.objective=pcd"],
    ),
    *(
        (
            FLOWS,
            [f"train_base.objective={kind}"],
            f"train_base.objective: {kind} has a kernel on the critic's features, and energy.kind: flow is a scalar; use "
            "energy.kind mlp, or objective kale",
            ["energy={kind: mlp}"],
        )
        for kind in ("mmd", "smmd")
    ),
    *(
        (
            FLOW,
            [f"train_base.objective={kind}", "train_energy.start_from_critic=true"],
            f"train_energy.start_from_critic: the objective {kind} of train_base leaves no critic that is an energy; leave it out",
            ["train_base.objective=hinge"],
        )
        for kind in ("mmd", "smmd", "gmmn", "ml", "cd", "pcd")
    ),
    (
        POINTS,
        ["train_base.objective={kind: f-gan, divergence: pearson}", "train_energy.start_from_critic=true"],
        "train_energy.start_from_critic: the objective pearson of train_base leaves no critic that is an energy; leave it out",
        ["train_base.objective.divergence=kl"],
    ),
    (
        CIRCLE,
        ["train_energy.start_from_critic=true"],
        "train_energy.start_from_critic: base.kind: circle is not trained, so it has no critic",
        ["train_energy.start_from_critic=false"],
    ),
    (
        POINTS,
        ["train_base.objective=wasserstein", "train_base.penalty_weight=0"],
        "train_base.objective: wasserstein needs a critic of bounded slope; set train_base.penalty: one-centred with a "
        "penalty_weight, train_base.objective.clip, or energy.spectral: norm",
        ["train_base.objective.clip=0.1"],
    ),
    (
        POINTS,
        ["train_energy.objective={kind: f-gan, divergence: total-variation}"],
        "train_energy.objective.divergence: total-variation gives no density ratio, so no energy; use another one",
        ["train_energy.objective.divergence=hellinger"],
    ),
    (
        POINTS,
        ["train_base.objective={kind: mmd, kernel: distance, linear: 1}"],
        "train_base.objective.linear: goes with kernel rq or rbf, not with distance; leave it out",
        ["train_base.objective.kernel=rq"],
    ),
    *(
        (
            POINTS,
            [f"train_base.objective={{kind: {kind}, kernel: {kernel}, {key}: [1, 2]}}"],
            f"train_base.objective.{key}: goes with kernel {right}, not with {kernel}; leave it out",
            [f"train_base.objective.kernel={right}"],
        )
        for kind, kernel, key, right in (
            ("mmd", "rbf", "alphas", "rq"),
            ("mmd", "rq", "bandwidths", "rbf"),
            ("mmd", "distance", "alphas", "rq"),
            ("gmmn", "median", "bandwidths", "rbf"),
            ("gmmn", "median", "alphas", "rq"),
        )
    ),
    *(
        (
            POINTS,
            ["train_base.steps=7", "train_base.critic_steps=2", *bursts, f"train_base.penalty_every={steps}"],
            f"train_base.penalty_every: got {steps}, expected a number below the {steps} critic steps of the whole stage; "
            "otherwise the penalty acts at the first one alone, with that many times its weight",
            right,
        )
        for bursts, steps, right in (
            # Bursts at steps 0, 3 and 6, or at step 0 alone: 3 * 10 + 4 * 2, and 10 + 6 * 2.
            (["train_base.burst_critic_steps=10", "train_base.burst_every=3"], 38, ["train_base.penalty_every=37"]),
            (["train_base.burst_critic_steps=10"], 22, ["train_base.penalty_every=21"]),
            (["train_base.burst_critic_steps=10"], 22, ["train_base.penalty_weight=0"]),
        )
    ),
    (
        POINTS,
        ["train_energy.steps=7", "train_energy.penalty_every=7"],
        "train_energy.penalty_every: got 7, expected a number below the 7 critic steps of the whole stage; otherwise the penalty "
        "acts at the first one alone, with that many times its weight",
        ["train_energy.steps=8"],
    ),
    (
        FLOW,
        ["train_base.objective=ml", "train_base.lr_critic=0.1"],
        "train_base.lr_critic: does not go with objective ml, which has no critic; leave it out",
        ["train_base.objective=kale"],
    ),
    *(
        (
            POINTS,
            [f"train_base.objective={kind}", "train_base.batch_size=1"],
            f"train_base.batch_size: got 1, expected at least 2: {kind} compares the points of a batch",
            ["train_base.objective=gan"],
        )
        for kind in ("mmd", "smmd", "gmmn")
    ),
    (
        FLOW,
        ["train_base.objective=ml", "train_base.accumulate=2"],
        "train_base.accumulate: does not go with objective ml, which has no critic; leave it out",
        ["train_base.objective=kale"],
    ),
    (
        FLOW,
        ["train_energy.objective=pcd", "train_energy.precision=bfloat16"],
        "train_energy.precision: does not go with objective pcd, which has no critic; leave it out",
        ["train_energy.objective=logistic"],
    ),
    (
        FLOW,
        ["train_energy.objective=cd", "train_energy.noise_std=0.1"],
        "train_energy.noise_std: would be seen by data and not by the chains of cd; set it to 0",
        ["train_energy.noise_std=0"],
    ),
    *(
        (
            POINTS,
            [f"{section}.steps=100", f"{section}.lr_schedule=step", *every],
            f"{section}.lr_step_every: got {got}, expected a number below {section}.steps, 100; otherwise the rate never falls",
            [f"{section}.lr_step_every=99"],
        )
        for section in ("train_base", "train_energy")
        for every, got in (([], "nothing"), ([f"{section}.lr_step_every=100"], "100"))
    ),
    (
        POINTS,
        [PIXELS, RULE, "train_base.steps=100"],
        "train_base.lr_rule.compare_steps: 100 steps back is before the start of 100 steps, so the rule would never act; lower "
        "it, or leave lr_rule out",
        ["train_base.steps=101"],
    ),
    (
        POINTS,
        [PIXELS, RULE, "train_base.lr_rule.every=101"],
        "train_base.lr_rule.compare_steps: got 100, expected a multiple of every, 101: bases are kept at comparisons alone",
        ["train_base.lr_rule.every=50"],
    ),
    (
        POINTS,
        [PIXELS, RULE, "train_base.steps=200", "train_base.lr=0.01", "train_base.lr_rule.floor=0.01"],
        "train_base.lr_rule.floor: got 0.01, expected less than lr, 0.01; otherwise the rule would never act",
        ["train_base.lr_rule.floor=0.009"],
    ),
    (
        POINTS,
        [RULE],
        "evaluate.features: inception sees images, and train_base.lr_rule scores data.kind: toy by it; use pixels",
        [PIXELS],
    ),
    (
        POINTS,
        ["evaluate.features=classifier", "train_base.keep_best=kid"],
        "evaluate.features: classifier sees images, and train_base.keep_best scores data.kind: toy by it; use pixels",
        [PIXELS],
    ),
]


@pytest.mark.parametrize(("text", "overrides", "sentence", "right"), REFUSED, ids=[" ".join(r[1]) for r in REFUSED])
def test_a_training_that_cannot_work_is_refused(load, text, overrides, sentence, right):
    """One sentence, after the place; and the nearest training that can work is accepted."""
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    (only,) = caught.value.problems
    assert only.endswith(f": {sentence}"), only
    load(text, *overrides, *right)


@pytest.mark.parametrize(
    ("stage", "keys", "n", "size", "sentence"),
    [
        ("train-base", "batch_size: 65", 64, 1, "batch_size: got 65, but there are 64 training points; use at most 64"),
        (
            "train-energy",
            "batch_size: 65",
            64,
            1,
            "batch_size: got 65, but there are 64 training points; use at most 64",
        ),
        (
            "train-base",
            "batch_size: 4, critic_steps: 65",
            64,
            1,
            "critic_steps: 65 updates of the critic for one of the base, with 64 training points, would learn the points by heart; "
            "use at most 64",
        ),
        (
            "train-base",
            "batch_size: 9",
            64,
            2,
            "batch_size: 9 cannot be divided evenly among 2 process(es) with 1 part(s) each (train_base.accumulate); use a "
            "multiple of 2",
        ),
        (
            "train-energy",
            "batch_size: 12, accumulate: 4",
            64,
            2,
            "batch_size: 12 cannot be divided evenly among 2 process(es) with 4 part(s) each (train_energy.accumulate); use a "
            "multiple of 8",
        ),
    ],
)
def test_what_the_data_and_the_processes_cannot_fill_is_refused(load, stage, keys, n, size, sentence):
    """Of the stage's own section; one more point, or one process and one part, is enough."""
    section = stage.replace("-", "_")
    experiment = load(POINTS, PIXELS, f"{section}={{{keys}}}")
    chosen = getattr(experiment, section)
    with pytest.raises(UsageError) as caught:
        require_enough(chosen, stage, n, Share(0, size))
    assert str(caught.value) == f"{section}.{sentence}"
    require_enough(chosen.model_copy(update={"accumulate": 1}), stage, n + 1, Share())


def test_critic_steps_are_nothing_to_an_objective_without_a_critic(load):
    require_enough(
        load(POINTS, "train_base={objective: gmmn, batch_size: 4, critic_steps: 65}").train_base,
        "train-base",
        64,
        Share(),
    )


@pytest.mark.parametrize("kind", ["smmd", "swgan"])
def test_scaled_objectives_may_accumulate(load, kind):
    """The scale is that of the whole batch, however many parts it goes through the networks in (tests/core hold the gradient)."""
    assert load(POINTS, f"train_base.objective={kind}", "train_base.accumulate=2").train_base.accumulate == 2


def test_one_critic_step_in_all_has_its_penalty(load):
    """The shortest of stages is not refused with the penalty at every step, which is the default."""
    assert load(POINTS, "train_energy.steps=1").train_energy.penalty_every == 1
