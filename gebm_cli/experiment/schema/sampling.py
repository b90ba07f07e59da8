"""How samples are drawn, scored and tested."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gebm_cli.core.sampling.catalogue import CATALOGUE, splitting
from gebm_cli.core.two_sample.names import DEFAULT_COUNT, KINDS, KernelName
from gebm_cli.experiment.schema.common import Count, NonNegative, Positive, Section

SAMPLE_STEPS = 1000  # of a chain in mode: sample, where n_steps is not given
Sampler = Literal[(*CATALOGUE, "none")]  # type: ignore[valid-type]


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

    test: Literal[KINDS] = Field(  # type: ignore[valid-type]
        "mmd-fuse",
        description="mmd-fuse, mmd-agg: many kernels, no split. mmd: one kernel. mmd-opt, deep: a kernel learned on a split. "
        "c2st, c2st-sign: a classifier. me, scf: learned locations or frequencies. ctt: for very many samples.",
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(0.05, description="Level of the test.")
    n_permutations: Count = Field(DEFAULT_COUNT, description="Relabellings B; p = (1 + count) / (1 + B).")
    kernel: KernelName = Field("gaussian", description="The kernel of mmd and mmd-opt.")
    bandwidth: Positive | tuple[Positive, ...] | None = Field(
        None,
        description="mmd: the kernel's bandwidth, or several, whose kernels are averaged; null: the median distance.",
    )
    split: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of each side that a test that learns learns from; it tests on the rest."
    )
