"""How particles flow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gebm_cli.core.two_sample.names import NO_BANDWIDTH, KernelName
from gebm_cli.experiment.schema.common import Count, NonNegative, Positive, Section
from gebm_cli.experiment.schema.data import ToyLaw


class NormalSource(Section):
    """Particles start as draws of N(mean, std^2 I), of any dimension."""

    kind: Literal["normal"]
    mean: Annotated[float, Field(allow_inf_nan=False)] | tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (
        Field(0.0, description="The mean, one number for every coordinate or a list.")
    )
    std: Positive = Field(1.0, description="The standard deviation of every coordinate.")


class ToySource(ToyLaw):
    """Particles start as draws of a toy's law, with the flow's seed."""


Source = Annotated[NormalSource | ToySource, Field(discriminator="kind")]


class Flow(Section):
    """`gebm flow`: particles that descend a divergence to the data, x' = x - step_size grad f(x + noise)."""

    divergence: Literal["mmd", "kale"] = Field(
        "mmd",
        description="mmd: MMD^2 / 2, f its witness (Arbel et al. 2019). kale: KALE in the kernel's RKHS, f = (1 + lambda) h* "
        "(Glaser et al. 2021).",
    )
    regularisation: Positive = Field(
        0.001, description="kale: lambda, the weight of |h|^2 / 2; towards 0 KALE is KL, towards infinity MMD^2 / 2."
    )
    n_features: Count | None = Field(
        None,
        description="kale: random Fourier features in place of the exact kernel (gaussian only), for many data; null: exact.",
    )
    kernel: KernelName = Field("gaussian", description="The kernel.")
    bandwidth: Positive | tuple[Positive, ...] | None = Field(
        None,
        description="The kernel's bandwidth, or several, whose kernels are averaged; null: the median distance of the data.",
    )
    space: Literal["data", "latent"] = Field(
        "data",
        description="data: the particles are points. latent: they are latents z of a trained base, whose B(z) is compared with the "
        "data; they start at the prior.",
    )
    features: Literal["pixels", "classifier"] = Field(
        "pixels", description="latent: what of B(z) is compared with the data; classifier is learned on their labels."
    )
    source: Source = Field(
        default_factory=lambda: NormalSource(kind="normal"), description="data: where the particles start."
    )
    n_particles: Count = Field(500, description="Number of particles.")
    n_data: Count | None = Field(
        None, description="Number of data points that are the target, by a fixed shuffle; null: all, 2,000 for kale."
    )
    n_steps: Count = Field(1000, description="Number of steps.")
    step_size: Positive = Field(0.1, description="The step size; with backtracking, the first one that is tried.")
    step_control: Literal["fixed", "backtracking"] = Field(
        "backtracking",
        description="backtracking: a step that does not lower the divergence enough is halved; a fixed step is the paper's.",
    )
    noise_std: NonNegative = Field(
        0.0,
        description="Noise injection: the gradient is read at x + noise_std u, u ~ N(0, I); needs step_control: fixed.",
    )
    noise_schedule: Literal["constant", "linear", "sqrt"] = Field(
        "constant", description="noise_std at step n: as it is, falling evenly to 0, or divided by sqrt(n + 1)."
    )
    n_frames: int = Field(
        25, ge=2, le=500, description="Moments of the path that are kept, drawn and compared, the ends among them."
    )

    @field_validator("bandwidth", mode="before")
    @classmethod
    def _median_is_null(cls, value: Any) -> Any:
        return None if value == "median" else value

    @model_validator(mode="after")
    def _keys_fit_each_other(self) -> Flow:
        if self.noise_std > 0 and self.step_control == "backtracking":
            raise ValueError(
                "flow.step_control: backtracking compares values that noise would blur; use step_control: fixed with noise_std"
            )
        if self.bandwidth is not None and self.kernel in NO_BANDWIDTH:
            raise ValueError(f"flow.bandwidth: the {self.kernel} kernel has none; leave it out")
        if self.n_features is not None and (self.divergence != "kale" or self.kernel != "gaussian"):
            raise ValueError("flow.n_features: is for divergence: kale with the gaussian kernel; leave it out")
        if self.n_features is not None and (self.n_features % 2 or isinstance(self.bandwidth, tuple)):
            raise ValueError("flow.n_features: needs an even number of features, and a single bandwidth")
        if self.space == "latent" and self.source != NormalSource(kind="normal"):
            raise ValueError("flow.source: in space: latent the particles start at draws of the prior; leave it out")
        if self.space == "data" and self.features != "pixels":
            raise ValueError(
                "flow.features: in space: data the particles are what is compared; use pixels, or space: latent"
            )
        return self
