"""How the two stages are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gebm_cli.experiment.schema.common import Count, Momentum, NonNegative, Positive, Section


class Optimiser(Section):
    """Keys that both training stages share."""

    batch_size: Count = Field(128, description="Data points, and base samples, in a step.")
    lr: Positive = Field(1e-4, description="Adam's learning rate.")
    betas: tuple[Momentum, Momentum] = Field((0.5, 0.999), description="Adam's two averaging coefficients.")
    lr_log_partition: Positive | None = Field(None, description="Learning rate of the log-partition c; lr if null.")
    lr_schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: constant for the first half of the steps, then falling linearly to 0."
    )
    penalty_weight: NonNegative = Field(
        1.0, description="Weight of the zero-centred gradient penalty, mean |grad E|^2 at interpolates."
    )
    noise_std: NonNegative = Field(
        0.0,
        description="Instance noise: standard deviation of the Gaussian noise added to data (in [-1, 1]) and base samples "
        "before the energy sees them in training.",
    )
    log_every: Count = Field(50, description="Steps between two lines of metrics, and between two finiteness checks.")
    checkpoint_every: Count = Field(1000, description="Steps between two checkpoints.")


class TrainBase(Optimiser):
    """`gebm train-base`: the base and its critic, by KALE. A step is one update of the base."""

    steps: Count = Field(150_000, description="Updates of the base.")
    critic_steps: Count = Field(5, description="Updates of the critic before each update of the base.")
    burst_critic_steps: Count = Field(100, description="Updates of the critic at step 0 and at every burst_every-th.")
    burst_every: Count = Field(500, description="Steps between two bursts of critic updates.")
    ema_halflife_steps: Positive | None = Field(
        None, description="Half-life, in steps, of the averaged base that is kept as the result; null: no averaging."
    )


class TrainEnergy(Optimiser):
    """`gebm train-energy`: energy and log-partition on the frozen base. A step is one update of the energy."""

    steps: Count = Field(50_000, description="Updates of the energy.")
    n_log_partition: Count = Field(50_000, description="Base samples used to re-estimate c at the end.")
    start_from_critic: bool = Field(False, description="Start from the critic of train-base instead of afresh.")
