"""What each sampler is, in words and numbers that need no torch: for `gebm sample --list`, the schema and the documentation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A sampler's name, what it targets, what it costs, where it comes from, and which keys of `sample` it reads.

    `exact`: pi is its stationary law. `markov`: it is a Markov chain for pi at all, exact or biased, so that beta = 0 leaves the
    prior alone and diagnostics of mixing mean something. `unit` is what `step_size` means; `published` its value where it is
    not tuned; `acceptance` what it is tuned to. `n_steps` is the default length: about 100 gradients, more for the random walk.
    """

    name: str
    title: str
    target: str
    cost: str
    source: str
    n_steps: int
    keys: tuple[str, ...] = ()
    exact: bool = False
    markov: bool = True
    unit: str = ""
    acceptance: float | None = None
    published: float | None = None


PI, NEAR = "pi", "pi + O(step^2)"
ENTRIES = (
    Entry("kla", "kinetic Langevin, any splitting", f"{NEAR} (baoab)", "1 gradient", "Leimkuhler and Matthews 2013",
          100, ("friction", "scheme"), unit="h"),
    Entry("ghmc", "generalised HMC, Metropolised OBABO", PI, "1 gradient", "Horowitz 1991",
          100, ("friction",), exact=True, unit="h", acceptance=0.9),
    Entry("ula", "unadjusted Langevin", "pi + O(step)", "1 gradient", "Roberts and Tweedie 1996", 100, unit="epsilon"),
    Entry("lm", "Leimkuhler-Matthews Langevin", NEAR, "1 gradient", "Leimkuhler and Matthews 2013", 100, unit="epsilon"),
    Entry("mala", "Metropolis-adjusted Langevin", PI, "1 gradient", "Roberts and Tweedie 1996",
          100, exact=True, unit="epsilon", acceptance=0.574),
    Entry("hmc", "Hamiltonian Monte Carlo", PI, "n_leapfrog gradients", "Duane et al. 1987; Neal 2011",
          20, ("n_leapfrog", "jitter"), exact=True, unit="h", acceptance=0.7),
    Entry("rw", "random-walk Metropolis", PI, "1 value", "Metropolis et al. 1953",
          500, exact=True, unit="epsilon", acceptance=0.234),
    Entry("ihm", "independence sampler (MH-GAN)", PI, "1 value", "Tierney 1994; Turner et al. 2019", 200, exact=True),
    Entry("isir", "iterated importance resampling", PI, "n_proposals - 1 values", "Andrieu et al. 2010",
          25, ("n_proposals",), exact=True),
    Entry("ex2", "i-SIR moves between MALA steps", PI, "n_proposals - 1 values, n_local + 1 gradients",
          "Samsonov et al. 2022", 20, ("n_proposals", "n_local"), exact=True, unit="epsilon", acceptance=0.574),
    Entry("pt", "replica exchange, beta = 0 drawn afresh", PI, "n_rungs + 1 gradients", "Geyer 1991; Syed et al. 2022",
          25, ("n_rungs",), exact=True, unit="epsilon", acceptance=0.574),
    Entry("ddls", "ULA on the critic's logit", "pi + O(step)", "1 gradient", "Che et al. 2020", 100, unit="epsilon"),
    Entry("dot", "discriminator optimal transport", "none (descent towards low energy)", "1 gradient", "Tanaka 2019",
          100, markov=False, unit="epsilon", published=0.01),
    Entry("dgflow", "discriminator gradient flow", "none (stopped early; no prior term)", "1 gradient",
          "Ansari, Ang and Soh 2021", 25, ("divergence",), markov=False, unit="epsilon", published=0.1),
    Entry("drs", "discriminator rejection sampling", "pi, if the bound holds and all chains accept", "1 value",
          "Azadi et al. 2019", 200, ("drs_percentile",), markov=False),
    Entry("resample", "importance resampling from the base", "pi as n_steps grows, O(1/n)", "1 value", "Rubin 1987",
          200, markov=False),
)  # fmt: skip
CATALOGUE = {entry.name: entry for entry in ENTRIES}
MCMC = tuple(entry.name for entry in ENTRIES if entry.markov)

SCHEMES = {"gebm": "aboba"}  # names for a splitting, beside the splittings themselves


def splitting(scheme: str) -> str:
    """The letters of a scheme of kla, in lower case.

    Raises:
        ValueError: a letter is not B, A or O, or one of the three is missing.
    """
    letters = SCHEMES.get(scheme.lower(), scheme.lower())
    if set(letters) != set("bao"):
        raise ValueError(
            f"got '{scheme}', expected gebm, or a splitting spelt with the letters B (kick), A (drift) and O (friction and noise), "
            "each at least once, such as baoab or obabo"
        )
    return letters
