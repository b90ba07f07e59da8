"""What may have been changed in a run's experiment between two checkpoints of a stage."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core.parallel import Share
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.continuing import changed_since
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import Run, create_run
from gebm_cli.experiment.stages import _prepare, train

CPU = torch.device("cpu")
POINTS = """\
name: x
seed: 1
data: {kind: toy, name: ring, n: 40}
latent_dim: 2
base: {kind: mlp, width: 4, depth: 1}
energy: {kind: mlp, width: 4, depth: 1}
"""


@pytest.fixture
def load(tmp_path):
    def load(*overrides: str):
        (tmp_path / "x.yaml").write_text(POINTS)
        return load_experiment(tmp_path / "x.yaml", overrides)

    return load


@pytest.mark.parametrize("stage", ["train-base", "train-energy"])
@pytest.mark.parametrize("kind", ["constant", "step", "linear", "cosine"])
def test_a_stage_is_made_longer_only_where_its_rate_stays(load, tmp_path, stage, kind):
    """Under the schedules that are stretched over all steps the factor of the step it has come to would be another one."""
    section = stage.replace("-", "_")
    keys = (f"{section}.lr_schedule={kind}", f"{section}.lr_step_every=10")
    written = load(*keys, f"{section}.steps=100").model_dump(mode="json")
    changed = changed_since(Run(tmp_path, load(*keys, f"{section}.steps=120")), stage, written)
    assert changed == (
        []
        if kind in ("constant", "step")
        else [
            f"{section}.steps: the checkpoint has 100, now it is 120; lr_schedule: {kind} is stretched over all steps, so the "
            "learning rate would jump (with constant and step it would not)"
        ]
    )
    assert changed_since(Run(tmp_path, load(*keys, f"{section}.steps=100")), stage, written) == []


def test_steps_of_the_other_stage_do_not_matter(load, tmp_path):
    keys = ("train_base.lr_schedule=linear", "train_energy.lr_schedule=linear")
    written = load(*keys, "train_energy.steps=100").model_dump(mode="json")
    assert changed_since(Run(tmp_path, load(*keys, "train_energy.steps=120")), "train-base", written) == []


def test_a_key_that_came_later_has_its_default_in_an_older_checkpoint(load, tmp_path):
    """A checkpoint of a version without `spectral` of an mlp goes on; one that would have been another network does not."""
    written = load().model_dump(mode="json")
    del written["energy"]["spectral"], written["train_base"]["lr_critic"]
    assert changed_since(Run(tmp_path, load()), "train-base", written) == []
    changed = changed_since(Run(tmp_path, load("energy.spectral=norm")), "train-base", written)
    assert changed == ["energy.spectral: the checkpoint has none, now it is norm"]


def test_a_run_whose_rate_would_jump_is_not_gone_on_with(load, tmp_path):
    """From its own checkpoint, in a sentence that says why and what to do."""
    keys = ("train_base.lr_schedule=linear", "train_base.batch_size=8", "train_base.burst_critic_steps=1")
    experiment = load(*keys, "train_base.steps=2")
    run, dataset = create_run(experiment, tmp_path, (2,)), build_dataset(experiment.data)
    train(run, "train-base", CPU, dataset, lambda *told: None)
    longer = Run(run.path, load(*keys, "train_base.steps=3"))
    with pytest.raises(UsageError) as caught:
        _prepare(longer, "train-base", dataset, CPU, False, Share())
    assert "undo the change, or train in a new run with `gebm train-base EXPERIMENT" in str(caught.value)
    assert "train_base.steps: the checkpoint has 2, now it is 3; lr_schedule: linear" in str(caught.value)
