"""The one definition of every key of an experiment file: type, default, range, unit and meaning.

The key reference in docs/ and all error messages are generated from these models. Values arrive as the
text the user wrote (see `load`), and pydantic converts each one by the type declared here. Imports no torch.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gebm_cli.experiment.schema.common import Section, Seed, Width
from gebm_cli.experiment.schema.data import Data
from gebm_cli.experiment.schema.flow import Flow
from gebm_cli.experiment.schema.networks import Absent, Base, Energy, ExternalBase, as_list
from gebm_cli.experiment.schema.sampling import Evaluate, Sample, TwoSampleTest
from gebm_cli.experiment.schema.training import TrainBase, TrainEnergy

__all__ = ["Evaluate", "Experiment", "Flow", "Sample", "Section", "TrainBase", "TrainEnergy", "TwoSampleTest"]

FLOWS = ("realnvp", "maf", "realnvp-image")
FOR_POINTS = {"base": ("mlp", "circle", "realnvp", "maf"), "energy": ("mlp", "flow")}
FOR_IMAGES = {
    "base": ("conv", "sngan", "dcgan", "resnet", "realnvp-image"),
    "energy": ("conv", "sngan", "dcgan", "resnet"),
}
# How many numbers a point has, of the data whose shape is known beforehand.
NUMBERS = {"toy": 2, "digits": 64, "imagenet32": 3072}


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
    base: Base = Field(default_factory=lambda: Absent(kind="none"))
    energy: Energy = Field(default_factory=lambda: Absent(kind="none"))
    train_base: TrainBase = Field(default_factory=lambda: TrainBase())
    train_energy: TrainEnergy = Field(default_factory=lambda: TrainEnergy())
    sample: Sample = Field(default_factory=lambda: Sample())
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    two_sample_test: TwoSampleTest = Field(default_factory=lambda: TwoSampleTest())
    flow: Flow = Field(default_factory=lambda: Flow())

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: Any) -> Any:
        """A section left empty in the file (`sample:` with nothing below) means its defaults."""
        optional = ("train_base", "train_energy", "sample", "evaluate", "two_sample_test", "flow")
        if isinstance(value, dict):
            return {k: ({} if v is None and k in optional else v) for k, v in value.items()}
        return value

    @property
    def trains_base(self) -> bool:
        """False where the base is fixed: its runs begin with train-energy."""
        return self.base.kind not in ("circle", "external", "none")

    @property
    def trains_energy(self) -> bool:
        """False where the energy is the user's own: it is sampled as it is."""
        return self.energy.kind not in ("external", "none")

    @property
    def is_gebm(self) -> bool:
        """False where there are no networks, only particles (`gebm flow`)."""
        return self.base.kind != "none"

    @model_validator(mode="after")
    def _networks_are_there(self) -> Experiment:
        """Both networks, or in an experiment with a section `flow` neither."""
        absent = [key for key, kind in (("base", self.base.kind), ("energy", self.energy.kind)) if kind == "none"]
        if len(absent) == 1 or (absent and "flow" not in self.model_fields_set):
            raise ValueError(f"{absent[0]}: this key is required and missing")
        if absent and self.flow.space == "latent":
            raise ValueError("flow.space: latent needs a base; give `base` and `energy`, or use space: data")
        return self

    @model_validator(mode="after")
    def _networks_fit_the_data(self) -> Experiment:
        """Points in the plane need networks for points, images need networks for images; the user's own fit either."""
        if not self.is_gebm:
            return self
        fit = FOR_POINTS if self.data.kind in ("toy", "csv") else FOR_IMAGES
        for key, kind in (("base", self.base.kind), ("energy", self.energy.kind)):
            if kind not in (*fit[key], "external"):
                use = f"{', '.join(fit[key][:-1])} or {fit[key][-1]}"
                raise ValueError(f"{key}.kind: {kind} does not fit data.kind: {self.data.kind}; use {use}, or external")
        if self.base.kind == "circle" and self.latent_dim != 2:
            raise ValueError(f"latent_dim: {self.latent_dim} does not fit base.kind: circle; use 2")
        return self

    @model_validator(mode="after")
    def _only_images_are_flipped(self) -> Experiment:
        for key in ("train_base", "train_energy"):
            if getattr(self, key).flip and self.data.kind in ("toy", "csv"):
                raise ValueError(f"{key}.flip: points have no left and right; only images can be flipped")
        return self

    @model_validator(mode="after")
    def _flows_are_invertible(self) -> Experiment:
        """A flow's latent is as large as the data and normal; the energy of two flows needs one as base."""
        if self.base.kind in FLOWS:
            numbers = NUMBERS.get(self.data.kind)
            if numbers is not None and self.latent_dim != numbers:
                raise ValueError(
                    f"latent_dim: {self.latent_dim} does not fit base.kind: {self.base.kind}, which is invertible; use "
                    f"{numbers}, the number of numbers in a point of data.kind: {self.data.kind}"
                )
            if self.prior == "uniform":
                raise ValueError(
                    f"prior: uniform does not fit base.kind: {self.base.kind}, whose density is that of a normal latent; "
                    "leave prior out"
                )
        if self.energy.kind == "flow" and self.base.kind not in ("realnvp", "maf"):
            raise ValueError(
                f"energy.kind: flow needs a base with a density, which base.kind: {self.base.kind} has not; use base.kind "
                "realnvp or maf, or another energy"
            )
        return self

    @model_validator(mode="after")
    def _objectives_fit_the_networks(self) -> Experiment:
        """Likelihoods need a density, kernels need features, and only a scalar critic can become an energy."""
        of_base, of_energy = self.train_base.objective.kind, self.train_energy.objective.kind
        density = self.base.kind in FLOWS
        if self.trains_base and not density and (of_base in ("ml", "cd", "pcd") or self.train_base.keep_best == "nll"):
            key = "objective" if of_base in ("ml", "cd", "pcd") else "keep_best"
            raise ValueError(
                f"train_base.{key}: {of_base if key == 'objective' else 'nll'} needs a base with a density, which base.kind: "
                f"{self.base.kind} has not; use base.kind {', '.join(FLOWS)}, or another one"
            )
        if not density and (of_energy == "cd" or self.train_energy.keep_best == "nll"):
            key, what, other = "keep_best", "nll", "kale"
            if of_energy == "cd":
                key, what = "objective", "cd, whose chains begin at the latents of data,"
                other = "pcd, which begins them from the prior"
            raise ValueError(
                f"train_energy.{key}: {what} needs a base with a density, not base.kind: {self.base.kind}; use {other}"
            )
        if self.trains_base and of_base in ("mmd", "smmd") and self.energy.kind == "flow":
            raise ValueError(
                f"train_base.objective: {of_base} has a kernel on the critic's features, and energy.kind: flow is a scalar; use "
                "energy.kind mlp, or objective kale"
            )
        free = self.train_base.penalty_weight == 0 and getattr(self.train_base.objective, "clip", 0) is None
        if self.trains_base and free and getattr(self.energy, "spectral", "none") == "none":
            raise ValueError(
                "train_base.objective: wasserstein needs a critic of bounded slope; set train_base.penalty: one-centred with a "
                "penalty_weight, train_base.objective.clip, or energy.spectral: norm"
            )
        scored = "lr_rule" if self.train_base.lr_rule else "keep_best" if self.train_base.keep_best == "kid" else None
        if self.trains_base and scored and self.data.kind in ("toy", "csv") and self.evaluate.features != "pixels":
            raise ValueError(
                f"evaluate.features: {self.evaluate.features} sees images, and train_base.{scored} scores data.kind: "
                f"{self.data.kind} by it; use pixels"
            )
        for key, section in (("train_base", self.train_base), ("train_energy", self.train_energy)):
            if section.noise_std and section.objective.kind in ("cd", "pcd"):
                raise ValueError(
                    f"{key}.noise_std: would be seen by data and not by the chains of {section.objective.kind}; set it to 0"
                )
        learned_by = getattr(self.train_base.objective, "divergence", of_base)
        no_energy = ("mmd", "smmd", "gmmn", "ml", "cd", "pcd", "pearson")
        if self.train_energy.start_from_critic and learned_by in no_energy:
            raise ValueError(
                f"train_energy.start_from_critic: the objective {learned_by} of train_base leaves no critic that is an energy; "
                "leave it out"
            )
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
            written = as_list(shapes[0] if len(shapes) == 1 else shapes)
            raise ValueError(
                f"base.latent_shape: {written} holds {sum(map(prod, shapes))} numbers, expected latent_dim: "
                f"{self.latent_dim}; change one of them"
            )
        return self
