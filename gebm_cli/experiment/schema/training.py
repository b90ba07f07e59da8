"""How the two stages are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gebm_cli.experiment.schema.common import Count, Momentum, NonNegative, Positive, Section
from gebm_cli.experiment.schema.objectives import DIRECT, BaseObjective, EnergyObjective, Kale


class LrRule(Section):
    """Decay the learning rate when the relative test of KID no longer sees the base getting better (Binkowski et al. 2018)."""

    every: Count = Field(2000, description="Steps between two comparisons.")
    compare_steps: Count = Field(20_000, description="How far back the base it is compared with lies.")
    n: Annotated[int, Field(ge=100)] = Field(
        2048, description="Features a side; no more than there are training points."
    )
    p_value: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="A larger p counts as a failure.")
    patience: Count = Field(3, description="Failures in a row before the rate is multiplied.")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="What it is multiplied by; the Scaled MMD code has 0.8."
    )
    floor: NonNegative = Field(1e-6, description="The rule does not lower the rate below this.")


class Optimiser(Section):
    """Keys that both training stages share."""

    batch_size: Count = Field(128, description="Data points, and base samples, in a step; over all processes.")
    accumulate: Count = Field(
        1,
        description="Parts in which a batch goes through the networks, to save memory; the gradient stays that of the whole batch.",
    )
    lr: Positive = Field(1e-4, description="Adam's learning rate.")
    betas: tuple[Momentum, Momentum] = Field((0.5, 0.999), description="Adam's two averaging coefficients.")
    lr_log_partition: Positive | None = Field(
        None, description="Learning rate of the log-partition c; null: that of the network it belongs to."
    )
    lr_schedule: Literal["constant", "linear", "cosine", "step"] = Field(
        "constant",
        description="linear: constant for the first half of the steps, then falling linearly to 0; cosine: half a period, to 0; "
        "step: times lr_step_factor every lr_step_every steps.",
    )
    lr_step_every: Count | None = Field(None, description="lr_schedule: step; steps between two reductions.")
    lr_step_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.8, description="lr_schedule: step; the factor of each reduction."
    )
    penalty: Literal["zero-centred", "one-centred", "r1", "r2"] = Field(
        "zero-centred",
        description="Gradient penalty, per sample: mean |grad E|^2 at interpolates of data and base samples; one-centred: mean "
        "(|grad E| - 1)^2 there; r1, r2: mean |grad E|^2 at data, at base samples. With a kernel it acts on the witness.",
    )
    penalty_weight: NonNegative = Field(1.0, description="Weight of the gradient penalty; 0: none.")
    penalty_every: Count = Field(
        1, description="Take the penalty only at every n-th critic step, with n times the weight."
    )
    penalty_outputs: NonNegative = Field(0.0, description="Weight of the mean square of the critic's outputs.")
    penalty_weights: NonNegative = Field(0.0, description="Weight of the mean square of the critic's parameters.")
    noise_std: NonNegative = Field(
        0.0,
        description="Instance noise: standard deviation of the Gaussian noise added to data (in [-1, 1]) and base samples "
        "before the energy sees them in training.",
    )
    flip: bool = Field(False, description="Mirror each training image left to right with probability 1/2.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: the networks run under autocast; losses and weights stay float32."
    )
    channels_last: bool = Field(False, description="Keep images and filters in the channels-last layout.")
    compile: bool = Field(
        False,
        description="Run the base, where it draws samples, and the critic or energy through torch.compile, which needs a compiler. "
        "A critic whose gradient is differentiated (penalty_weight, smmd, swgan) runs as it is, and so do densities of flows.",
    )
    log_every: Count = Field(50, description="Steps between two lines of metrics, and between two finiteness checks.")
    checkpoint_every: Count = Field(1000, description="Steps between two checkpoints.")
    score_every: Count = Field(500, description="keep_best: steps between two scores.")

    @model_validator(mode="after")
    def _schedule_acts(self) -> Optimiser:
        steps = getattr(self, "steps", None)
        if self.lr_schedule == "step" and (self.lr_step_every is None or (steps and self.lr_step_every >= steps)):
            section = "train_base" if isinstance(self, TrainBase) else "train_energy"
            raise ValueError(
                f"{section}.lr_step_every: got {self.lr_step_every or 'nothing'}, expected a number below {section}.steps, "
                f"{steps}; otherwise the rate never falls"
            )
        return self

    @model_validator(mode="after")
    def _direct_objectives_take_the_whole_batch(self) -> Optimiser:
        kind = getattr(self, "objective").kind  # noqa: B009
        section = "train_base" if isinstance(self, TrainBase) else "train_energy"
        if kind in DIRECT and (self.accumulate > 1 or self.precision != "float32"):
            key = "accumulate" if self.accumulate > 1 else "precision"
            raise ValueError(f"{section}.{key}: does not go with objective {kind}, which has no critic; leave it out")
        return self

    @model_validator(mode="after")
    def _penalty_comes_again(self) -> Optimiser:
        direct = getattr(self, "objective").kind in DIRECT  # noqa: B009
        if self.penalty_weight and not direct and 1 < self.penalty_every >= (total := self._critic_steps_in_all()):
            section = "train_base" if isinstance(self, TrainBase) else "train_energy"
            raise ValueError(
                f"{section}.penalty_every: got {self.penalty_every}, expected a number below the {total} critic steps of the whole "
                "stage; otherwise the penalty acts at the first one alone, with that many times its weight"
            )
        return self

    def _critic_steps_in_all(self) -> int:
        return getattr(self, "steps")  # noqa: B009

    @field_validator("objective", mode="before", check_fields=False)
    @classmethod
    def _word_is_kind(cls, value: Any) -> Any:
        """`objective: gan` is short for `objective: {kind: gan}`."""
        return {"kind": value} if isinstance(value, str) else value


class TrainBase(Optimiser):
    """`gebm train-base`: the base and its critic. A step is one update of the base."""

    objective: BaseObjective = Field(Kale(kind="kale"), description="The losses of base and critic.")
    steps: Count = Field(150_000, description="Updates of the base.")
    lr_critic: Positive | None = Field(None, description="The critic's own learning rate; lr if null.")
    critic_steps: Count = Field(5, description="Updates of the critic before each update of the base.")
    burst_critic_steps: Count = Field(100, description="Updates of the critic at step 0 and at every burst_every-th.")
    burst_every: Count = Field(500, description="Steps between two bursts of critic updates.")
    ema_halflife_steps: Positive | None = Field(
        None, description="Half-life, in steps, of the averaged base that is kept as the result; null: no averaging."
    )
    lr_rule: LrRule | None = Field(None, description="Decay the rate when KID has stopped improving; null: no.")
    keep_best: Literal["nll", "kid"] | None = Field(
        None,
        description="Keep the networks with the best score as the result: nll on validation data (bases with a density), or "
        "kid of 1,000 samples; null: the last ones.",
    )

    @model_validator(mode="after")
    def _rule_acts(self) -> TrainBase:
        rule = self.lr_rule
        if rule is not None and rule.compare_steps >= self.steps:
            raise ValueError(
                f"train_base.lr_rule.compare_steps: {rule.compare_steps} steps back is before the start of {self.steps} steps, so "
                "the rule would never act; lower it, or leave lr_rule out"
            )
        if rule is not None and rule.compare_steps % rule.every:
            raise ValueError(
                f"train_base.lr_rule.compare_steps: got {rule.compare_steps}, expected a multiple of every, {rule.every}: bases "
                "are kept at comparisons alone"
            )
        if rule is not None and rule.floor >= self.lr:
            raise ValueError(
                f"train_base.lr_rule.floor: got {rule.floor:g}, expected less than lr, {self.lr:g}; otherwise the rule would "
                "never act"
            )
        if self.objective.kind in ("mmd", "smmd", "gmmn") and self.batch_size < 2:
            raise ValueError(
                f"train_base.batch_size: got 1, expected at least 2: {self.objective.kind} compares the points of a batch"
            )
        if self.objective.kind in DIRECT and self.lr_critic is not None:
            raise ValueError(
                f"train_base.lr_critic: does not go with objective {self.objective.kind}, which has no critic; leave it out"
            )
        return self

    def _critic_steps_in_all(self) -> int:
        bursts = -(-self.steps // self.burst_every)
        return bursts * self.burst_critic_steps + (self.steps - bursts) * self.critic_steps


class TrainEnergy(Optimiser):
    """`gebm train-energy`: energy and log-partition on the frozen base. A step is one update of the energy."""

    objective: EnergyObjective = Field(Kale(kind="kale"), description="What the energy maximises.")
    steps: Count = Field(50_000, description="Updates of the energy.")
    n_log_partition: Annotated[int, Field(ge=2)] = Field(
        50_000, description="Base samples used to re-estimate c at the end."
    )
    start_from_critic: bool = Field(False, description="Start from the critic of train-base instead of afresh.")
    keep_best: Literal["nll", "kale"] | None = Field(
        None,
        description="Keep the energy with the best score on validation data as the result: the negative log-likelihood (bases "
        "with a density) or KALE; null: the last one.",
    )

    @model_validator(mode="after")
    def _gives_a_ratio(self) -> TrainEnergy:
        if getattr(self.objective, "divergence", None) == "total-variation":
            raise ValueError(
                "train_energy.objective.divergence: total-variation gives no density ratio, so no energy; use another one"
            )
        return self
