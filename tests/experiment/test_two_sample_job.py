"""When the flags of a two-sample test can be judged: before the sets are read only where none can bring an experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gebm_cli.core.two_sample.kinds import Asked
from gebm_cli.experiment.distributed import World
from gebm_cli.experiment.score_job import Job
from gebm_cli.experiment.two_sample_job import TwoSampleJob, is_settled


@pytest.mark.parametrize("other", ["images", "table.npy", "digits-001/kla-001", "run:digits-001", "digits"])
def test_flags_wait_for_a_set_that_may_be_of_a_run(tmp_path, other):
    """Folders and files belong to no run; whatever may be one's samples could bring another test than the default."""
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "table.npy", np.zeros((4, 2)))
    here = str(tmp_path / other) if Path(tmp_path / other).exists() else other
    scores = Job([str(tmp_path / "images"), here], None, [], tmp_path, None, torch.device("cpu"), World())
    assert is_settled(TwoSampleJob(scores, "mmd-fuse", Asked())) == (other in ("images", "table.npy"))
