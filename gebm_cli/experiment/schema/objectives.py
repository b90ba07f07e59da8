"""What bases and energies are trained by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gebm_cli.experiment.schema.common import Count, NonNegative, Positive, Section, Width


class Kale(Section):
    """KALE, a lower bound on KL(data || base) that stays finite when supports are disjoint (Arbel, Zhou and Gretton 2021)."""

    kind: Literal["kale"]
    log_partition: Literal["learned", "batch", "initialised"] = Field(
        "learned",
        description="The log-partition c: learned from 0; batch: the best c of each batch, which is the Donsker-Varadhan bound; "
        "initialised: learned from the log-mean-exp of -E over n_log_partition base samples.",
    )


class Gan(Section):
    """The non-saturating GAN: logistic regression for the critic, -log D for the base (Goodfellow et al. 2014)."""

    kind: Literal["gan"]


class Logistic(Section):
    """Logistic regression of data against base samples: E + c is the calibrated negative logit, -log of the density ratio."""

    kind: Literal["logistic"]


class FGan(Section):
    """An f-divergence by its Fenchel dual, written so that E + c = -log of the density ratio (Nowozin et al. 2016); the critic of a
    base by pearson is T itself."""

    kind: Literal["f-gan"]
    divergence: Literal["kl", "reverse-kl", "pearson", "hellinger", "js", "total-variation"] = Field(
        description="Which; total-variation gives the sign of the log ratio only, so it trains bases and no energies."
    )
    non_saturating: bool = Field(False, description="The base minimises -E[T] instead of -E[f*(T)].")


class Hinge(Section):
    """The hinge loss (Lim and Ye 2017; Miyato et al. 2018), for critics with spectral norm."""

    kind: Literal["hinge"]


class Wasserstein(Section):
    """The Wasserstein distance by a critic of bounded slope: set a one-centred penalty (Gulrajani et al. 2017), or clip."""

    kind: Literal["wasserstein"]
    clip: Positive | None = Field(None, description="Clamp every weight of the critic to [-clip, clip]; null: no.")


KernelName = Literal["rq", "rbf", "distance"]
Several = Annotated[tuple[Positive, ...], Field(min_length=1)] | None
Alphas = Annotated[
    Several,
    Field(
        description="rq: its exponents; null: [0.2, 0.5, 1, 2, 5], as in the paper. The released code has [0.1, 1, 10]."
    ),
]
Bandwidths = Annotated[Several, Field(description="rbf: its bandwidths; null: [2, 5, 10, 20, 40, 80].")]


def refuse_mixture_of_another(kernel: str, alphas: object, bandwidths: object) -> None:
    """The exponents are those of rq, the bandwidths those of rbf."""
    for key, value, name in (("alphas", alphas, "rq"), ("bandwidths", bandwidths, "rbf")):
        if value is not None and kernel != name:
            raise ValueError(f"train_base.objective.{key}: goes with kernel {name}, not with {kernel}; leave it out")


class Mmd(Section):
    """MMD-GAN: MMD^2 of learned features (Li et al. 2017; Binkowski et al. 2018)."""

    kind: Literal["mmd"]
    kernel: KernelName = Field("rq", description="rq: rational quadratic mixture; rbf: Gaussians; distance: energy.")
    alphas: Alphas = None
    bandwidths: Bandwidths = None
    linear: NonNegative = Field(
        0.0, description="Weight of an added linear term x.y; 1 with rq is the paper's rq*. Of rq and rbf only."
    )
    features: Width = Field(16, description="Outputs of the critic.")

    @model_validator(mode="after")
    def _linear_has_a_place(self) -> Mmd:
        if self.linear and self.kernel == "distance":
            raise ValueError("train_base.objective.linear: goes with kernel rq or rbf, not with distance; leave it out")
        refuse_mixture_of_another(self.kernel, self.alphas, self.bandwidths)
        return self


class Smmd(Section):
    """Scaled MMD, a Gaussian kernel on the critic's features (Arbel et al. 2018); SN-SMMD with energy.spectral: parametrised."""

    kind: Literal["smmd"]
    bandwidth: Positive = Field(1.0, description="Of the Gaussian kernel, s.")
    lam: NonNegative = Field(1.0, description="lambda, in sigma^-2 = lambda + 1 + grad_coeff E|J|^2.")
    grad_coeff: Positive | None = Field(
        None, description="null: 1 / s^2, as in the paper; the released code has lam 0 and grad_coeff 10."
    )
    features: Width = Field(1, description="Outputs of the critic.")


class Swgan(Section):
    """Scaled Wasserstein (Arbel et al. 2018)."""

    kind: Literal["swgan"]
    grad_coeff: Positive = Field(10.0, description="sigma^-2 = 1 + grad_coeff (E|grad E|^2 + E[E^2]).")


class Gmmn(Section):
    """MMD^2 of data and base samples themselves with a fixed kernel; no critic (Li et al. 2015)."""

    kind: Literal["gmmn"]
    kernel: Literal["median", "rq", "rbf", "distance"] = Field(
        "median", description="median: Gaussians at 1/4, 1/2, 1, 2 and 4 times the median distance of data."
    )
    alphas: Alphas = None
    bandwidths: Bandwidths = None

    @model_validator(mode="after")
    def _mixture_has_its_kernel(self) -> Gmmn:
        refuse_mixture_of_another(self.kernel, self.alphas, self.bandwidths)
        return self


class MaximumLikelihood(Section):
    """Maximum likelihood, for bases with a density."""

    kind: Literal["ml"]


class ContrastiveDivergence(Section):
    """Contrastive divergence: chains of MALA begun at the data (Hinton 2002)."""

    kind: Literal["cd"]
    n_steps: Count = Field(10, description="Steps of each chain between two updates.")
    step_size: Positive = Field(0.01, description="MALA's epsilon.")


class PersistentContrastiveDivergence(Section):
    """Contrastive divergence with chains that go on from update to update (Tieleman 2008); they are part of a checkpoint."""

    kind: Literal["pcd"]
    n_steps: Count = Field(10, description="Steps of each chain between two updates.")
    step_size: Positive = Field(0.01, description="MALA's epsilon.")


BaseObjective = Annotated[
    Kale
    | Gan
    | FGan
    | Hinge
    | Wasserstein
    | Mmd
    | Smmd
    | Swgan
    | Gmmn
    | MaximumLikelihood
    | ContrastiveDivergence
    | PersistentContrastiveDivergence,
    Field(discriminator="kind"),
]
EnergyObjective = Annotated[
    Kale | Logistic | FGan | ContrastiveDivergence | PersistentContrastiveDivergence, Field(discriminator="kind")
]

DIRECT = ("ml", "cd", "pcd", "gmmn")  # without a critic
