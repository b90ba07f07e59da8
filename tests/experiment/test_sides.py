"""What two sets share: the random numbers they were made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.sides import shared_draws


@pytest.mark.parametrize(
    ("x", "y", "noted"),
    [
        (("r1", "base", 0), ("r2", "base", 0), "gebm sample --seed 1"),
        (("r1", "flow", 4), ("r2", "flow", 4), "gebm flow --seed 5"),
        (("r1", "base", 0), ("r2", "base", 1), None),
        (("r1", "base", 0), ("r1", "chains", 0), None),  # streams of their own
        (("r1", "chains", 0), ("r1", "flow", 0), None),
    ],
)
def test_only_sets_of_one_kind_and_seed_share_their_latents(x, y, noted):
    """Two runs at one seed begin at the same latents; a base set and chains of one run do not, and a note would be untrue."""
    sides = [
        SimpleNamespace(name=name, source=Input(name, torch.zeros(4, 2), stream=s)) for name, s in (("a", x), ("b", y))
    ]
    notes = shared_draws(*sides)
    assert len(notes) == (noted is not None) and all(noted in note for note in notes)
