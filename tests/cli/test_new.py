"""`gebm new`: the file it writes is its source but for the name, with every key described."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gebm_cli.experiment.key_reference import type_of
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import create_run
from gebm_cli.experiment.schema import Experiment, TrainBase
from gebm_cli.experiment.writing import launch_command, written

FOLDER = Path(__file__).parents[2] / "experiments"
SHIPPED = sorted(p.stem for p in FOLDER.glob("*.yaml"))


def begun(gebm, name: str, source: str) -> Path:
    result = gebm("new", name, "--from", source)
    assert result.code == 0 and result.err == "", result.err
    assert result.out.startswith(f"experiments/{name}.yaml: written")
    return Path("experiments") / f"{name}.yaml"


def uncommented(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("source", SHIPPED)
def test_the_new_file_equals_its_source_but_for_the_name(gebm, source):
    """By our loader, and by a plain reader of YAML as well."""
    file = begun(gebm, "mine", source)
    wanted = load_experiment(source).model_copy(update={"name": "mine"})
    assert load_experiment("mine") == wanted
    assert Experiment.model_validate(yaml.safe_load(file.read_text())) == wanted
    assert all(line == line.rstrip() and len(line) <= 132 for line in file.read_text().splitlines())


@pytest.mark.parametrize("source", ["cifar10", "flow-three-rings", "uci-red-wine"])
def test_every_key_stands_below_its_meaning_range_and_default(gebm, source):
    """All keys of the resolved experiment are there, each right below a comment that ends in its default."""
    lines = begun(gebm, "mine", source).read_text().splitlines()
    resolved = load_experiment("mine").model_dump(exclude={"base", "energy"} if source == "flow-three-rings" else set())
    assert yaml.safe_load("\n".join(lines)).keys() == resolved.keys()
    for i, line in enumerate(lines):
        if re.match(r" *\w+: \S", line):
            indent = line[: len(line) - len(line.lstrip())]
            above = [lines[j] for j in range(i) if all(lines[k].startswith(f"{indent}#") for k in range(j, i))]
            comment = " ".join(part.lstrip(" #") for part in above)
            assert re.search(r"(default|\() ?.*(required|default .+)\)", comment), (line, comment)


def test_a_key_has_the_words_of_the_schema(gebm):
    """Its description, its type and range as in the key reference, and its default beside the source's value."""
    text = begun(gebm, "mine", "digits").read_text()
    flat = " ".join(line.lstrip("# ") for line in text.splitlines())
    lr, rule = TrainBase.model_fields["lr"], TrainBase.model_fields["lr_rule"]
    assert f"{lr.description} ({type_of(lr)}; default 0.0001) lr: 0.0005" in flat
    assert f"{rule.description} (section or null; default null) every: Steps between two comparisons." in flat
    assert "  mode: refine" in uncommented(text)
    assert "digits, cifar10, celeba, lsun, imagenet32, folder, array, csv, toy (required)" in flat
    assert "conv, sngan, dcgan, resnet, mlp, flow, external (required)" in flat


@pytest.mark.parametrize("source", SHIPPED)
def test_the_first_comment_is_the_launch_command(gebm, source):
    """The same first command as in the shipped file, which people wrote."""
    first = begun(gebm, "mine", source).read_text().splitlines()[0]
    theirs = (FOLDER / f"{source}.yaml").read_text().splitlines()[0]
    wanted = theirs.split(" && ")[0].replace(f"experiments/{source}.yaml", "experiments/mine.yaml")
    assert first.split(" && ")[0] == wanted
    assert first.count("gebm ") == (1 if " flow " in first else 2 if "train-base" not in first else 3)


def test_the_launch_command_of_networks_of_ones_own():
    """A generator of the user's is not trained, a critic neither, and the flag is not forgotten."""
    own = ["base={kind: external, factory: a.b:c}"]
    base = load_experiment(FOLDER / "digits.yaml", own)
    assert (
        launch_command(base, Path("e.yaml"))
        == "gebm train-energy e.yaml --allow-plugins && gebm sample --allow-plugins"
    )
    both = load_experiment(FOLDER / "digits.yaml", [*own, "energy={kind: external, factory: a.b:d}"])
    assert launch_command(both, Path("my e.yaml")) == "gebm sample 'my e.yaml' --allow-plugins"


@pytest.mark.parametrize("name", ["no", "null", "1e-4", "007", "on", "1.5", "a.b-c_d", "0x10"])
def test_names_that_yaml_takes_for_something_else(gebm, name):
    """They stay text, for any reader."""
    file = begun(gebm, name, "digits")
    assert (f'name: "{name}"' in uncommented(file.read_text())) == (name != "a.b-c_d")
    assert load_experiment(str(file)).name == name and yaml.safe_load(file.read_text())["name"] == name


def test_hard_text_in_values(gebm):
    """Colons, hashes, quotes, tabs and words that look like numbers come back."""
    hard = {
        "kind": "csv",
        "path": 'C:\\data #1: "it\'s" a, [b] {c}.csv',
        "drop": [
            "null",
            "1e-4",
            "no",
            "a: b",
            "#x",
            "x, y",
            "",
            " lead",
            "line\nbreak",
            "tab\t",
            "ü",
            "'",
            "- x",
            "*a",
        ],
    }
    source = {
        "name": "hard",
        "data": hard,
        "base": {"kind": "mlp"},
        "energy": {"kind": "mlp"},
        "evaluate": {"features": "pixels"},
    }
    Path("hard.yaml").write_text(yaml.safe_dump(source))
    begun(gebm, "mine", "hard.yaml")
    assert load_experiment("mine").data.model_dump(include=hard.keys()) == hard | {"drop": tuple(hard["drop"])}


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_one_line_that_reads_back(text):
    line = written(text)
    assert len(line.splitlines()) == 1 and not any(unicodedata.category(c) == "Cc" for c in line)
    assert yaml.safe_load(f"k: {line}") == {"k": text}
    assert yaml.safe_load(f"k: [{line}, x]") == {"k": [text, "x"]}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_reads_back_exactly(number):
    assert float(written(number)) == number


def test_nothing_is_overwritten(gebm):
    """A second `new` of that name is refused, and the file stays as it was."""
    file = begun(gebm, "mine", "cifar10")
    before = file.read_bytes()
    result = gebm("new", "mine", "--from", "digits")
    assert result.code == 2 and result.out == "" and "experiments/mine.yaml: exists already" in result.err
    assert file.read_bytes() == before


def test_from_a_run_with_its_seed(gebm, tmp_path):
    """By its name; the launch command is that of the new file."""
    run = create_run(load_experiment("digits", ["train_base.lr=3e-4"], {"seed": ("--seed", "5")}), tmp_path / "runs")
    begun(gebm, "again", run.name)
    assert load_experiment("again") == run.experiment.model_copy(update={"name": "again"})


def test_in_an_empty_folder_the_shipped_experiments_are_known(gebm, tmp_path, monkeypatch):
    """As far as gebm runs from a clone; the folder experiments/ is made."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    begun(gebm, "mine", "sngan")
    assert load_experiment("mine").base.width == 256


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        (["x"], 2, "--from: say which experiment or run to start from"),
        ([], 2, "give the new experiment a NAME"),
        (["x", "--from", "cifr10"], 2, "cifr10: no such file; did you mean cifar10?"),
        (
            ["../x", "--from", "digits"],
            2,
            "NAME: got '../x', expected a name, not a path, such as x; the file is experi",
        ),
        (
            ["a b/My file.yaml", "--from", "digits"],
            2,
            "got 'a b/My file.yaml', expected a name, not a path, such as My-file",
        ),
        (["mine.yaml", "--from", "digits"], 2, "got 'mine.yaml', expected a name, not a path, such as mine;"),
        (["a: b", "--from", "digits"], 2, "name: got 'a: b', expected letters"),
        (["x" * 65, "--from", "digits"], 2, "expected at most 64 characters"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(gebm, tmp_path, argv, code, sentence):
    before = sorted(tmp_path.rglob("*"))
    result = gebm("new", *argv)
    assert result.code in (code,) and result.out == "" and sentence in result.err, result.err
    assert sorted(tmp_path.rglob("*")) == before or not argv


def test_a_folder_that_cannot_be_made_is_told(gebm, tmp_path, monkeypatch):
    """`experiments` is a file here."""
    (tmp_path / "odd").mkdir()
    monkeypatch.chdir(tmp_path / "odd")
    Path("experiments").write_text("")
    result = gebm("new", "mine", "--from", "../experiments/digits.yaml")
    assert result.code == 1 and "experiments/mine.yaml: cannot be written" in result.err
