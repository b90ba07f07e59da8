"""Commands that a message names can be copied: they act on the run that the message is about."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
import yaml

from gebm_cli.core.training.loop import Training

EXPERIMENT = """\
name: plane
seed: 3
data: {kind: toy, name: ring, n: 100}
latent_dim: 2
base: {kind: mlp, width: 8, depth: 1}
energy: {kind: mlp, width: 8, depth: 1}
train_base: {steps: 3, batch_size: 12, critic_steps: 1, burst_critic_steps: 1, checkpoint_every: 1}
train_energy: {steps: 3, batch_size: 12, n_log_partition: 100, checkpoint_every: 1}
"""


def copied(text: str) -> list[str]:
    """The words of the last command in a message."""
    (*_, command) = re.findall(r"(?:`|next: )gebm ([^`\n]+)", text)
    return shlex.split(command)


@pytest.fixture
def here(gebm, tmp_path):
    (tmp_path / "plane.yaml").write_text(EXPERIMENT)
    return gebm


def test_the_copied_commands_go_on_with_the_run_in_its_own_folder(here, tmp_path, monkeypatch):
    """After train-base, after a stop, and after train-energy, though a run of the same name lies in ./runs."""
    assert here("train-base", "plane.yaml", "--runs-dir", "my runs").code == 0
    shutil.copytree("my runs", "runs")
    runs = {"runs": [], "my runs": ["train-energy", "train-energy"]}
    first = here("train-energy", "plane.yaml", "--runs-dir", "my runs", "--run", "plane-001")
    assert copied(first.out) == ["sample", "--run", "plane-001", "--runs-dir", "my runs"], first
    shutil.rmtree("my runs/plane-001")
    shutil.copytree("runs/plane-001", "my runs/plane-001")
    assert copied(here("train-base", "--run", "my runs/plane-001").err)[:2] == ["train-base", "EXPERIMENT"]

    real = Training.run

    def stopping(self, callbacks):
        """Stop after the first step."""
        object.__setattr__(callbacks, "should_stop", lambda: self.step >= 1)
        real(self, callbacks)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", stopping)
        stopped = here("train-energy", "--run", "plane-001", "--runs-dir", "my runs")
    assert stopped.code == 130
    command = copied(stopped.err)
    assert command == ["train-energy", "--run", "plane-001", "--runs-dir", "my runs"]
    assert here(*command).code == 0
    for folder, stages in runs.items():
        record = yaml.safe_load((tmp_path / folder / "plane-001/record.yaml").read_text())
        assert [s["stage"] for s in record["stages"]] == ["train-base", *stages]


def test_where_runs_usually_lie_the_command_is_short(here, monkeypatch, tmp_path):
    """In ./runs, and in the folder of the variable."""
    assert copied(here("train-base", "plane.yaml").out) == ["train-energy", "--run", "plane-001"]
    monkeypatch.setenv("GEBM_RUNS_DIR", str(tmp_path / "elsewhere"))
    assert copied(here("train-base", "plane.yaml").out) == ["train-energy", "--run", "plane-001"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train-energy", "plane.yaml"], ["train-base", "experiments/plane.yaml"]),
        (["sample"], ["train-energy", "EXPERIMENT"]),
        (["train-base", "circle.yaml"], ["train-energy", "circle.yaml"]),
    ],
)
def test_a_refusal_names_the_runs_folder_too(here, tmp_path, argv, words):
    """Whatever comes first there."""
    circle = EXPERIMENT.replace("{kind: mlp, width: 8, depth: 1}", "{kind: circle}", 1)
    (tmp_path / "circle.yaml").write_text(circle)
    result = here(*argv, "--runs-dir", "a b")
    assert result.code == 2 and copied(result.err) == [*words, "--runs-dir", "a b"], result
    assert copied(here(*argv).err) == words


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train_base.flip=true", "train_base.flip: points have no left and right"),
        ("train_base.batch_size=101", "train_base.batch_size: got 101, but there are 100 training points"),
        ("train_energy.batch_size=101", "train_energy.batch_size: got 101, but there are 100 training points"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place_before_there_is_a_run(here, tmp_path, override, sentence):
    """By validate and by train-base alike."""
    for command in ("validate", "train-base"):
        result = here(command, "plane.yaml", override)
        assert result.code == 2 and result.err.startswith(f"gebm: override '{override}': {sentence}"), result
    assert not (tmp_path / "runs").exists()


def test_an_energy_that_cannot_be_filled_leaves_the_run_of_its_base_as_it_was(here, tmp_path):
    """Neither the experiment nor the record is changed, and no second run is made; the right one is then trained there."""
    assert here("train-base", "plane.yaml").code == 0
    run = tmp_path / "runs/plane-001"
    before = {path: path.read_bytes() for path in run.rglob("*.yaml")}
    result = here("train-energy", "plane.yaml", "train_energy.batch_size=101")
    assert result.code == 2 and result.err.startswith(
        "gebm: override 'train_energy.batch_size=101': train_energy.batch"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.yaml")} == before
    assert here("train-energy", "plane.yaml").code == 0 and [p.name for p in (tmp_path / "runs").iterdir()] == [
        run.name
    ]


def test_a_column_that_correlation_took_is_told_where_the_networks_do_not_fit(gebm, tmp_path):
    """b = 2a leaves two of three columns: the error about latent_dim says which went and why; else it does not."""
    rows = [f"{k % 7},{2 * (k % 7)},{k * k % 11}" for k in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *rows]))
    table = EXPERIMENT.replace("{kind: toy, name: ring, n: 100}", "{kind: csv, path: t.csv}").replace(
        "kind: mlp", "kind: maf", 1
    )
    (tmp_path / "t.yaml").write_text(
        table.replace("width: 8, depth: 1", "width: 8", 1).replace("latent_dim: 2", "latent_dim: 3")
    )
    got = gebm("validate", "t.yaml")
    assert got.code == 2 and got.err.startswith("gebm: t.yaml:4: latent_dim: 3 does not fit") and "use 2" in got.err
    assert got.err.endswith(
        "; column a was left out, with a |correlation| above data.max_correlation, 0.98, with a later one\n"
    )
    got = gebm("validate", "t.yaml", "latent_dim=5", "data.drop=[a]")
    assert got.code == 2 and "use 2" in got.err and "left out" not in got.err
    assert gebm("validate", "t.yaml", "latent_dim=2").code == 0
