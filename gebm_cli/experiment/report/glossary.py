"""What the words of a run's page mean, for those who meet them first."""

from __future__ import annotations

from gebm_cli.experiment.report.blocks import Section, Table

WORDS = {
    "base": "The generator, X = B(z): where samples lie.",
    "energy E, log-partition c": "What reweights the base: a point counts exp(-E - c) times. Lower energy, more weight.",
    "KALE": "A lower bound on how far data and base are apart (KL), by which the energy is learned.",
    "GEBM samples": "Chains in the latent that start at the base's draws and follow exp(-beta E(B(z))).",
    "beta": "How strongly the energy counts while sampling: 0 leaves the base, 1 is the model.",
    "R-hat": "How much chains differ: 1 where each has seen the whole law. Nested R-hat: 1 where the starts are forgotten.",
    "effective draws (ESS)": "How many independent draws the chains are worth; bulk for means, tail for extremes.",
    "projection_k": "A fixed random direction of the latent, watched as one number.",
    "KID, FID": "Distances of two sets by a network's features; 0 for the same law. FID depends on n, KID does not.",
    "p": "How probable so large a difference is where there is none. A small p: the difference is real, which is not: large.",
    "standard error": "How far a number would scatter if all were drawn anew; ± is one of it.",
    "relative test": "Which of two sets is closer to a third, by the difference of two KIDs (Bounliphone et al. 2016).",
}


def words(found: object) -> Section:
    """A folded table."""
    table = Table(
        ["word", "meaning"],
        [[word, meaning] for word, meaning in WORDS.items()],
        "Words used above",
        folded=True,
        sortable=False,
    )
    return Section("words", "What the words mean", [table])
