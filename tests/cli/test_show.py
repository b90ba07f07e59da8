"""`gebm show`: what it prints is the experiment, and each value's origin is where it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from gebm_cli.experiment.load import load_experiment, load_with_origins
from gebm_cli.experiment.run import create_run
from gebm_cli.experiment.schema import Experiment
from gebm_cli.experiment.showing import resolve

SHIPPED = sorted(p.stem for p in (Path(__file__).parents[2] / "experiments").glob("*.yaml"))

WITH_RULE = "train_base.lr_rule={every: 100}"


def shown(gebm, *argv: str) -> dict[str, dict]:
    result = gebm("show", *argv, "--json")
    assert result.code == 0, result.err
    return {row["key"]: row for row in json.loads(result.out)["keys"]}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_printed_is_the_experiment_and_every_origin_is_the_line_that_holds_the_key(gebm, name):
    result = gebm("show", name)
    assert result.code == 0 and result.err == ""
    Path("printed.yaml").write_text(result.out)
    assert load_experiment("printed.yaml") == load_experiment(name)
    for key, row in shown(gebm, name).items():
        if row["origin"] == "default":
            assert row["place"] == "" and not row["changed"] and row["value"] == row["default"]
            continue
        file, _, line = row["place"].rpartition(":")
        assert row["origin"] == ("file" if file == f"experiments/{name}.yaml" else "extends")
        text = Path(file).read_text().splitlines()[int(line) - 1]
        part = key.split(".")[-1]
        assert re.search(rf"\b{part}:", text) or (part == "kind" and "objective:" in text), (key, text)
        assert text.lstrip()[0] != "#"


def test_the_changed_keys_are_those_of_the_file_that_are_not_the_default(gebm):
    """Against a list by hand: digits.yaml gives 30 values, 9 of them the defaults."""
    changed = {key for key, row in shown(gebm, "digits").items() if row["changed"]}
    stage = ["steps", "lr", "lr_schedule", "noise_std", "checkpoint_every"]
    assert changed == {
        *(
            "name",
            "data.kind",
            "latent_dim",
            "base.kind",
            "base.width",
            "energy.kind",
            "sample.beta",
            "evaluate.features",
        ),
        *(f"train_base.{key}" for key in [*stage, "critic_steps", "burst_critic_steps"]),
        *(f"train_energy.{key}" for key in [*stage, "penalty_weight"]),
    }
    assert set(shown(gebm, "digits", "--changed")) == changed


def test_changed_rows_alone_are_marked(gebm):
    """The star stands where the JSON says changed; with --changed every row has it."""
    lines = gebm("show", "digits").out.splitlines()[1:]
    stars = [line.split(":")[0].strip() for line in lines if "# * " in line]
    assert stars == [key.split(".")[-1] for key, row in shown(gebm, "digits").items() if row["changed"]]
    rows = [line for line in gebm("show", "digits", "--changed").out.splitlines()[1:] if "#" in line]
    assert len(rows) == len(stars) and all("# * " in row for row in rows)


def test_an_override_and_what_it_replaces(gebm):
    """The override is the origin of the keys it gives; keys below a section it replaces are defaults again."""
    toy = ["data={kind: toy, name: heart, n: 50}", "base={kind: mlp}", "energy={kind: mlp}"]
    rows = shown(gebm, "digits", "train_base.lr=2e-4", *toy)
    lr = rows["train_base.lr"]
    assert (lr["value"], lr["default"], lr["origin"], lr["place"]) == (
        2e-4,
        1e-4,
        "override",
        "override 'train_base.lr=2e-4'",
    )
    assert rows["data.n"]["origin"] == "override" and rows["base.kind"]["place"] == "override 'base={kind: mlp}'"
    assert rows["base.width"]["origin"] == "default" and "data.held_out" not in rows


def test_a_default_that_depends_on_another_key_is_a_default(gebm):
    """A heart has no noise unless it is asked for: 0 is its default, and 0.05 a change."""
    heart = ["data={kind: toy, name: heart}", "base={kind: mlp}", "energy={kind: mlp}"]
    row = shown(gebm, "digits", *heart)["data.noise_std"]
    assert (row["value"], row["default"], row["changed"], row["origin"]) == (0, 0, False, "default")
    row = shown(gebm, "digits", *heart, "data.noise_std=0.05")["data.noise_std"]
    assert (row["value"], row["default"], row["changed"]) == (0.05, 0, True)


def test_a_section_that_is_null_by_default_is_a_change_of_its_own(gebm):
    """And what is printed of it alone still loads as a section."""
    rows = shown(gebm, "cifar10", WITH_RULE)
    assert rows["train_base.lr_rule"]["changed"] and rows["train_base.lr_rule"]["value"]["every"] == 100
    assert rows["train_base.lr_rule.every"]["changed"] and not rows["train_base.lr_rule.patience"]["changed"]
    Path("rule.yaml").write_text(gebm("show", "cifar10", "train_base.lr_rule={}", "--changed").out)
    assert load_experiment("rule.yaml") == load_experiment("cifar10", ["train_base.lr_rule={}"])


def test_the_short_form_of_an_objective_has_the_line_of_the_objective():
    """`train_energy.objective=f-gan` is the origin of objective.kind; other keys have their own, or are defaults."""
    folder = Path(__file__).parents[2] / "experiments"
    values = {
        v.name: v
        for v in resolve(
            folder / "uci-red-wine.yaml", ["train_energy.objective=f-gan", "train_energy.objective.divergence=kl"]
        ).values
    }
    kind = values["train_energy.objective.kind"]
    assert (kind.value, kind.default, kind.origin, kind.place) == (
        "f-gan",
        "kale",
        "override",
        "override 'train_energy.objective=f-gan'",
    )
    assert values["train_energy.objective.divergence"].place == "override 'train_energy.objective.divergence=kl'"
    assert values["train_energy.objective.non_saturating"].origin == "default"


def test_a_flag_is_told_by_its_name(tmp_path):
    """The table of origins has the flag itself."""
    file = Path(__file__).parents[2] / "experiments" / "digits.yaml"
    experiment, origins = load_with_origins(file, ["sample.beta=3"], {"sample.beta": ("--beta", "7")})
    assert experiment.sample.beta == 7 and origins[("sample", "beta")] == "--beta"


@pytest.fixture
def run(gebm, tmp_path):
    """A run as `gebm train-base digits seed=... ` leaves it, two sessions in its record; nothing is trained."""
    experiment = load_experiment(
        "digits", ["train_base.lr=3e-4", "train_base.betas=[0.0, 0.9]"], {"seed": ("--seed", "5")}
    )
    run = create_run(experiment, tmp_path / "runs")
    sessions = [
        [
            "gebm",
            "train-base",
            "digits",
            "train_base.lr=3e-4",
            "train_base.betas=[0.0, 0.9]",
            "--seed",
            "5",
            "sample.beta=4",
        ],
        ["gebm", "train-energy", "--run", run.name],
        ["gebm", "train-energy", "--run", run.name],
    ]
    record = run.record()
    record["stages"] = [{"stage": argv[1], "status": "completed", "argv": argv} for argv in sessions]
    (run.path / "record.yaml").write_text(yaml.safe_dump(record))
    return run


def test_a_run_tells_what_was_typed_where_its_values_agree(gebm, run):
    """sample.beta=4 was typed, but the run has 1.5: its own line is the origin."""
    rows = shown(gebm, run.name)
    assert rows["train_base.lr"]["place"] == "override 'train_base.lr=3e-4'"
    assert rows["train_base.betas"]["origin"] == "override"
    assert (rows["seed"]["value"], rows["seed"]["origin"], rows["seed"]["place"]) == (5, "flag", "--seed")
    beta = rows["sample.beta"]
    line = int(beta["place"].rpartition(":")[2])
    assert beta["origin"] == "run" and beta["value"] == 1.5
    assert (run.path / "experiment.yaml").read_text().splitlines()[line - 1].strip() == "beta: 1.5"


def test_a_run_is_printed_with_its_commands_and_loads_as_it(gebm, run):
    """By name and by path; each command once; overrides of a run are refused."""
    for name in (run.name, f"runs/{run.name}"):
        result = gebm("show", name)
        assert result.out.count("# gebm train-energy") == 1 and "'train_base.betas=[0.0, 0.9]' --seed 5" in result.out
        Path("printed.yaml").write_text(result.out)
        assert load_experiment("printed.yaml") == run.experiment
    refused = gebm("show", run.name, "sample.beta=2")
    assert refused.code == 2 and "a run keeps the experiment it was trained with" in refused.err


def test_an_experiment_wins_over_a_run_of_its_name_and_a_path_says_which(gebm, tmp_path):
    """experiments/digits.yaml before runs/digits."""
    run = create_run(load_experiment("digits", [], {"seed": ("--seed", "1")}), tmp_path / "runs")
    run.path.rename(tmp_path / "runs" / "digits")
    assert json.loads(gebm("show", "digits", "--json").out)["run"] is None
    assert json.loads(gebm("show", "runs/digits", "--json").out)["run"] == "digits"


def test_text_that_a_terminal_would_act_on_is_not_printed_as_it_is(gebm):
    """An override with an escape character and a line break stays a comment on one line."""
    override = 'data={kind: folder, path: "a\\e[31m #b: c"\n}'
    result = gebm("show", "digits", override, "--changed")
    assert result.code == 0 and "\x1b" not in result.out
    assert yaml.safe_load(result.out)["data"]["path"] == "a\x1b[31m #b: c"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "give an experiment file or a run to show"),
        (["digts"], "digts: no such file; did you mean digits?; there are no runs in runs"),
        (["experiments"], "experiments: is a folder and no run"),
        (
            ["digits", "train_base.lr=fast"],
            "override 'train_base.lr=fast': train_base.lr: got 'fast', expected a number",
        ),
    ],
)
def test_a_mistake_is_one_sentence(gebm, argv, sentence):
    result = gebm("show", *argv)
    assert result.code == 2 and result.out == "" and sentence in result.err


def test_every_key_of_the_schema_has_a_row(gebm):
    """As many leaves as the resolved experiment written out has."""

    def leaves(tree) -> int:
        return sum(leaves(v) if isinstance(v, dict) else 1 for v in tree.values())

    assert len(shown(gebm, "digits")) == leaves(load_experiment("digits").model_dump())
    assert {key.split(".")[0] for key in shown(gebm, "digits")} == set(Experiment.model_fields)


def test_show_imports_no_torch_and_ends_in_examples(gebm):
    import subprocess
    import sys

    assert "gebm show digits" in gebm("show", "--help").out
    code = "import sys; from gebm_cli.cli.app import run; run(['show', 'digits']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
