"""The one definition of every key of an experiment file: type, default, range, unit and meaning.

The key reference in docs/ and all error messages are generated from these models. Values arrive as the
text the user wrote (see `load`), and pydantic converts each one by the type declared here. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Sampler = Literal["kla", "ula", "mala", "hmc", "none"]


class Section(BaseModel):
    """A block of keys: frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


# ---------------------------------------------------------------------------------------------------------------- data


class Digits(Section):
    """The 1,797 handwritten 8x8 digits that scikit-learn carries; nothing is downloaded."""

    kind: Literal["digits"]
    held_out: Count = Field(
        360, lt=1796, description="Number of digits kept out of training, chosen by a fixed shuffle."
    )


class Cifar10(Section):
    """CIFAR-10: 50,000 training and 10,000 held-out images of 32x32 pixels, through torchvision."""

    kind: Literal["cifar10"]
    root: str = Field("data", description="Folder that holds, or will hold, `cifar-10-batches-py`.")
    download: bool = Field(True, description="Download the archive when it is absent.")


class Folder(Section):
    """Any folder of PNG, JPEG, WebP or BMP images; class sub-folders are optional and become labels."""

    kind: Literal["folder"]
    path: str = Field(description="The folder; searched recursively.")
    size: Count | None = Field(None, description="Resize the short side to this many pixels and crop the centre.")
    channels: Literal["1", "3"] | None = Field(None, description="Convert every image to grey (1) or RGB (3).")
    held_out: NonNegative = Field(0.1, lt=1, description="Fraction kept out of training, chosen by a fixed shuffle.")


class Array(Section):
    """A .npy or .npz file of uint8 images, N x height x width (x channels)."""

    kind: Literal["array"]
    path: str = Field(description="The file; of an .npz the array `images` (or its only one), and `labels` if there.")
    held_out: NonNegative = Field(0.1, lt=1, description="Fraction kept out of training, chosen by a fixed shuffle.")


class Toy(Section):
    """Points in the plane drawn from a known density."""

    kind: Literal["toy"]
    name: Literal["ring", "grid", "two-moons", "thin-manifold"] = Field(
        description="ring: 8 Gaussians; grid: 25 Gaussians; thin-manifold: the unit circle with uneven mass."
    )
    n: Count = Field(10_000, description="Number of training points; as many again, up to 10,000, are held out.")
    noise_std: NonNegative = Field(0.05, description="Standard deviation of the noise around the support.")


Data = Annotated[Digits | Cifar10 | Folder | Array | Toy, Field(discriminator="kind")]

# ------------------------------------------------------------------------------------------------------------ networks


class ConvBase(Section):
    """DCGAN generator without batch norm: linear, then one transposed convolution per doubling, tanh."""

    kind: Literal["conv"]
    width: Width = Field(32, description="Channels at half the resolution; they double at each halving.")


class SnganBase(Section):
    """The reference's `sngan` generator (ConvNet, batch norm) for 32x32 images; 3,584,003 parameters at latent 100."""

    kind: Literal["sngan"]


class MlpBase(Section):
    """Multi-layer perceptron from latent to data space, for points in the plane."""

    kind: Literal["mlp"]
    width: Width = Field(64, description="Units in each hidden layer.")
    depth: Width = Field(3, description="Number of hidden layers.")


class CircleBase(Section):
    """x = z / |z|: the fixed base with the right support and the wrong mass. It has no parameters to train."""

    kind: Literal["circle"]


class ConvEnergy(Section):
    """DCGAN critic without batch norm: one strided convolution per halving, then linear."""

    kind: Literal["conv"]
    width: Width = Field(32, description="Channels at half the resolution; they double at each halving.")
    spectral_norm: bool = Field(False, description="Divide each convolution by its largest singular value.")


class SnganEnergy(Section):
    """The reference's `sngan` critic (seven spectrally normalised convolutions) for 32x32; 5,860,865 parameters."""

    kind: Literal["sngan"]


class MlpEnergy(Section):
    """Multi-layer perceptron from data space to the real line, for points in the plane."""

    kind: Literal["mlp"]
    width: Width = Field(64, description="Units in each hidden layer.")
    depth: Width = Field(3, description="Number of hidden layers.")


Base = Annotated[ConvBase | SnganBase | MlpBase | CircleBase, Field(discriminator="kind")]
Energy = Annotated[ConvEnergy | SnganEnergy | MlpEnergy, Field(discriminator="kind")]

# ------------------------------------------------------------------------------------------------------------ training


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


# ---------------------------------------------------------------------------------------------- sampling and evaluation


class Sample(Section):
    """`gebm sample`: Markov chains on the latent, pi(z) ~ eta(z) exp(-beta E(B(z)))."""

    sampler: Sampler = Field(
        "kla", description="kla: kinetic Langevin; ula, mala: Langevin; hmc; none: the base alone."
    )
    scheme: Literal["baoab", "gebm"] = Field("baoab", description="Splitting used by kla; gebm is the paper's ABOBA.")
    beta: NonNegative = Field(1.0, description="Inverse temperature on the energy; 0 is the base, 1 the model.")
    friction: Literal["low", "critical", "high"] | NonNegative = Field(
        "critical", description="kla only, in 1/time: low 0.2, critical 2, high 20, or a number."
    )
    step_size: Positive | None = Field(
        None, description="h for kla and hmc (null: 0.2), epsilon for ula and mala (null: 0.02 = h^2/2)."
    )
    n_leapfrog: Count = Field(10, description="hmc only: leapfrog steps, so gradients, in one step of the chain.")
    n_steps: Count = Field(100, description="Steps of each chain.")
    n_samples: Count = Field(5000, description="Number of chains; the last state of each is a sample.")
    block_size: Count = Field(
        250, description="Chains that share a random stream and a network call. Part of the result, as the seed is."
    )
    batch_size: Count = Field(1000, description="Samples held in memory before they are written. Never changes them.")


class Evaluate(Section):
    """`gebm evaluate-fid`, `evaluate-kid` and `verdict`."""

    features: Literal["inception", "classifier", "pixels"] = Field(
        "inception", description="inception: pytorch-fid's network; classifier: learned on the labelled reference."
    )


class TwoSampleTest(Section):
    """`gebm two-sample-test`."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(0.05, description="Level of the test.")
    n_permutations: Count = Field(999, description="Permutations B; p = (1 + count) / (1 + B).")
    bandwidth: Positive | None = Field(None, description="Gaussian kernel's bandwidth; null: the median heuristic.")


class Experiment(Section):
    """Everything that defines a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)] = Field(
        description="Name of the experiment; its runs are folders NAME-001, NAME-002, ..."
    )
    seed: Seed | None = Field(None, description="Seed of everything random; drawn and recorded when null.")
    data: Data
    latent_dim: Width = Field(100, description="Dimension d of the latent z ~ N(0, I).")
    base: Base
    energy: Energy
    train_base: TrainBase = Field(default_factory=lambda: TrainBase())
    train_energy: TrainEnergy = Field(default_factory=lambda: TrainEnergy())
    sample: Sample = Field(default_factory=lambda: Sample())
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    two_sample_test: TwoSampleTest = Field(default_factory=lambda: TwoSampleTest())

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: Any) -> Any:
        """A section left empty in the file (`sample:` with nothing below) means its defaults."""
        optional = ("train_base", "train_energy", "sample", "evaluate", "two_sample_test")
        if isinstance(value, dict):
            return {k: ({} if v is None and k in optional else v) for k, v in value.items()}
        return value

    @model_validator(mode="after")
    def _networks_fit_the_data(self) -> Experiment:
        """Points in the plane need networks for points, images need networks for images."""
        points, for_points = self.data.kind == "toy", ("mlp", "circle")
        for key, kind in (("base", self.base.kind), ("energy", self.energy.kind)):
            if points != (kind in for_points):
                fit = "mlp or circle" if points and key == "base" else "mlp" if points else "conv or sngan"
                raise ValueError(f"{key}.kind: {kind} does not fit data.kind: {self.data.kind}; use {fit}")
        if self.base.kind == "circle" and self.train_energy.start_from_critic:
            raise ValueError("train_energy.start_from_critic: base.kind: circle is not trained, so it has no critic")
        if self.base.kind == "circle" and self.latent_dim != 2:
            raise ValueError(f"latent_dim: {self.latent_dim} does not fit base.kind: circle; use 2")
        return self
