"""The one definition of every key of an experiment file: type, default, range, unit and meaning.

The key reference in docs/ and all error messages are generated from these models. Values arrive as the
text the user wrote (see `load`), and pydantic converts each one by the type declared here. Imports no torch.
"""

from __future__ import annotations

import re
from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gebm_cli.core.sampling.catalogue import CATALOGUE, splitting

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
SAMPLE_STEPS = 1000  # of a chain in mode: sample, where n_steps is not given
Sampler = Literal[(*CATALOGUE, "none")]  # type: ignore[valid-type]


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


class ExternalBase(Section):
    """Your own generator, from a Python function; needs `--allow-plugins`. It is not trained: runs begin with train-energy."""

    kind: Literal["external"]
    factory: str = Field(
        description="`package.module:function`, called without arguments; returns the nn.Module that maps latents to data. "
        "If the module has an attribute `prior` with `sample(n, generator)` and `log_prob(z)`, that is the latent's law."
    )
    weights: str | None = Field(None, description="A state dict to load into it; null: as the function returns it.")
    latent_shape: tuple[tuple[Count, ...], ...] | None = Field(
        None,
        description="Shape the module wants its latent in, such as `[100, 1, 1]`, or the shapes of several latents, such as "
        "`[[512], [16, 4, 4]]`, which it is then called with; null: flat. In all `latent_dim` numbers.",
    )

    @field_validator("latent_shape", mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> Any:
        """One shape, or a list of them, as a list of shapes: `[100, 1, 1]` means `[[100, 1, 1]]`."""
        if value is None:
            return None
        shapes = value if isinstance(value, list | tuple) else [[value]]
        if not any(isinstance(shape, list | tuple) for shape in shapes):
            shapes = [shapes]
        well_formed = shapes and all(isinstance(shape, list | tuple) and shape for shape in shapes)
        if not well_formed or any(not re.fullmatch("0*[1-9][0-9]*", str(side)) for shape in shapes for side in shape):
            raise ValueError(
                f"base.latent_shape: got '{_as_list(value)}', expected a shape such as [100, 1, 1], or several such as "
                "[[512], [16, 4, 4]]"
            )
        return shapes


def _as_list(value: Any) -> str:
    """A value as it is written in the file: `[100, 1, 1]`."""
    return f"[{', '.join(map(_as_list, value))}]" if isinstance(value, list | tuple) else str(value)


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


class ExternalEnergy(Section):
    """Your own energy or critic, from a Python function; needs `--allow-plugins`. Not trained, so `base.kind` must not be."""

    kind: Literal["external"]
    factory: str = Field(
        description="`package.module:function`, called without arguments; returns the nn.Module that maps data to (n,)."
    )
    weights: str | None = Field(None, description="A state dict to load into it; null: as the function returns it.")
    output: Literal["energy", "logit"] = Field(
        "energy",
        description="What the module returns: the energy E, or a critic's logit D of being data, and then E = -D.",
    )


Base = Annotated[ConvBase | SnganBase | MlpBase | CircleBase | ExternalBase, Field(discriminator="kind")]
Energy = Annotated[ConvEnergy | SnganEnergy | MlpEnergy | ExternalEnergy, Field(discriminator="kind")]

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
    """`gebm sample`: chains on the latent for pi(z) ~ eta(z) exp(-beta E(B(z))). `gebm sample --list` tells of each sampler."""

    sampler: Sampler = Field("kla", description="The sampler; none draws from the base alone.")
    mode: Literal["refine", "sample"] = Field(
        "refine",
        description="refine: many short chains from base samples, the last state of each is a sample. sample: fewer long chains, "
        "a warm-up discarded, n_draws states of each kept.",
    )
    beta: Literal["auto"] | NonNegative = Field(
        1.0,
        description="Inverse temperature on the energy; 0 is the base, 1 the model. auto: the slope of a logistic fit of held-out "
        "data against base samples on E.",
    )
    beta_start: NonNegative | None = Field(
        None,
        description="Anneal: beta rises from here (geometrically; evenly from 0) over the first half of the steps, or the warm-up.",
    )
    step_size: Literal["auto"] | Positive = Field(
        "auto",
        description="h for kla, ghmc and hmc, epsilon for the others (h^2 = 2 epsilon). auto: tuned to the acceptance of samplers "
        "with a test; else h = min(.5, .5 / sqrt(L)), L the typical curvature of U; published for dot and dgflow.",
    )
    step_size_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="refine only: the step size is multiplied by it every step_size_decay_every steps; friction is held.",
    )
    step_size_decay_every: Count = Field(200, description="Steps between two decays of the step size.")
    friction: Literal["low", "critical", "high"] | NonNegative = Field(
        "critical", description="kla and ghmc, in 1/time: low 0.2, critical 2, high 20, or a number."
    )
    scheme: str = Field(
        "baoab", description="kla: a splitting spelt with the letters B, A and O, or gebm for the paper's aboba."
    )
    n_leapfrog: Count = Field(5, description="hmc: leapfrog steps, so gradients, in one step of the chain.")
    jitter: NonNegative = Field(
        0.2,
        lt=1,
        description="hmc: each trajectory's step size is uniform on h (1 - jitter), h (1 + jitter); 0: fixed.",
    )
    n_proposals: int = Field(10, ge=2, description="isir, ex2: points to choose from, the current one included.")
    n_local: Count = Field(3, description="ex2: MALA steps after each move of i-SIR.")
    n_rungs: Count = Field(4, description="pt: rungs above beta = 0, placed so that all pairs swap equally often.")
    divergence: Literal["kl", "js", "logd"] = Field(
        "kl", description="dgflow: the f-divergence whose flow is followed."
    )
    drs_percentile: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="drs: shift by this percentile of F, which buys acceptance with bias; null: no shift, so exact.",
    )
    n_samples: Count = Field(5000, description="Number of samples.")
    n_steps: Count | None = Field(
        None,
        description="Steps of each chain, after any warm-up. null: the sampler's own, about 100 gradients; sample: 1000.",
    )
    n_warmup: Annotated[int, Field(ge=0)] | None = Field(
        None, description="sample only: steps that are discarded first; null: half of n_steps."
    )
    n_draws: Count = Field(
        20, description="sample only: states kept of each chain, evenly spaced; n_samples / n_draws chains."
    )
    diagnose: bool = Field(
        True, description="Run 128 watched chains beside: R-hat, effective draws, traces, and the verdict on mixing."
    )
    track: bool = Field(
        False, description="Score the chains at seven steps along the way: FID, KID, precision and recall against cost."
    )
    block_size: Count = Field(
        250, description="Chains that share a random stream and a network call. Part of the result, as the seed is."
    )
    batch_size: Count = Field(1000, description="Samples held in memory before they are written. Never changes them.")

    @field_validator("step_size", mode="before")
    @classmethod
    def _null_is_auto(cls, value: Any) -> Any:
        return "auto" if value is None else value

    @field_validator("scheme")
    @classmethod
    def _spells_a_splitting(cls, value: str) -> str:
        try:
            splitting(value)
        except ValueError as error:
            raise ValueError(f"sample.scheme: {error}") from None
        return value.lower()

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Sample:
        if self.beta_start is not None and self.mode == "sample" and self.n_warmup == 0:
            raise ValueError("sample.beta_start: beta rises in the warm-up, and n_warmup is 0; give it some steps")
        if self.mode == "sample":
            entry = CATALOGUE.get(self.sampler)
            if entry is None or not entry.markov:
                raise ValueError(
                    f"sample.sampler: {self.sampler} is no Markov chain for pi, so mode: sample does not fit; use refine"
                )
            if self.step_size_decay < 1:
                raise ValueError(
                    "sample.step_size_decay: a chain that is to converge needs one kernel; use it in mode: refine"
                )
            if (self.n_steps or SAMPLE_STEPS) < self.n_draws:
                raise ValueError(
                    f"sample.n_steps: {self.n_steps or SAMPLE_STEPS} steps cannot hold {self.n_draws} draws; lower n_draws"
                )
        entry = CATALOGUE.get(self.sampler)
        if self.beta_start is not None and (entry is None or not entry.markov or self.sampler == "pt"):
            raise ValueError(f"sample.beta_start: {self.sampler} cannot be annealed; leave it out")
        return self


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
    latent_dim: Width = Field(100, description="Dimension d of the latent z.")
    prior: Literal["normal", "uniform"] = Field(
        "normal",
        description="Law of the latent: N(0, I), or U(-1, 1) in every coordinate as older GANs use it. The chains move on "
        "u ~ N(0, I) in either case; uniform gives the base z = erf(u / sqrt 2).",
    )
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

    @property
    def trains_base(self) -> bool:
        """False where the base is fixed: its runs begin with train-energy."""
        return self.base.kind not in ("circle", "external")

    @property
    def trains_energy(self) -> bool:
        """False where the energy is the user's own: it is sampled as it is."""
        return self.energy.kind != "external"

    @model_validator(mode="after")
    def _networks_fit_the_data(self) -> Experiment:
        """Points in the plane need networks for points, images need networks for images; the user's own fit either."""
        points, for_points = self.data.kind == "toy", ("mlp", "circle")
        for key, kind in (("base", self.base.kind), ("energy", self.energy.kind)):
            if kind != "external" and points != (kind in for_points):
                fit = "mlp or circle" if points and key == "base" else "mlp" if points else "conv or sngan"
                raise ValueError(f"{key}.kind: {kind} does not fit data.kind: {self.data.kind}; use {fit}, or external")
        if self.base.kind == "circle" and self.latent_dim != 2:
            raise ValueError(f"latent_dim: {self.latent_dim} does not fit base.kind: circle; use 2")
        return self

    @model_validator(mode="after")
    def _fixed_networks_are_not_trained(self) -> Experiment:
        """A fixed base has no critic to start from, and a fixed energy cannot be the critic of a base."""
        if not self.trains_base and self.train_energy.start_from_critic:
            raise ValueError(
                f"train_energy.start_from_critic: base.kind: {self.base.kind} is not trained, so it has no critic"
            )
        if self.trains_base and not self.trains_energy:
            raise ValueError(
                f"energy.kind: external is not trained, so base.kind: {self.base.kind} cannot be trained against it; use "
                "base.kind external" + (" or circle" if self.data.kind == "toy" else "")
            )
        return self

    @model_validator(mode="after")
    def _latent_shapes_hold_the_latent(self) -> Experiment:
        """The shapes of an external base's latents have latent_dim numbers between them."""
        shapes = self.base.latent_shape if isinstance(self.base, ExternalBase) else None
        if shapes and sum(map(prod, shapes)) != self.latent_dim:
            written = _as_list(shapes[0] if len(shapes) == 1 else shapes)
            raise ValueError(
                f"base.latent_shape: {written} holds {sum(map(prod, shapes))} numbers, expected latent_dim: "
                f"{self.latent_dim}; change one of them"
            )
        return self
