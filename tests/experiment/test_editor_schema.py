"""The schema for editors, by an independent validator: what `gebm` accepts is valid under it, and what is misspelt is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from pydantic import BaseModel

from gebm_cli.experiment.editor_schema import SHORT_FORMS, editor_schema
from gebm_cli.experiment.load import ConfigError, load_experiment, to_yaml
from gebm_cli.experiment.schema import Experiment, TrainBase, TrainEnergy
from gebm_cli.experiment.sentences import models_in

SHIPPED = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))
SCHEMA = Draft7Validator(editor_schema())


class Yaml12(yaml.SafeLoader):
    """Numbers as YAML 1.2 and the language server have them: 1e-4 is one."""


Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def complaints(text: str) -> list[str]:
    """What an editor would mark, each with the key it stands at."""
    return sorted(".".join(map(str, error.absolute_path)) for error in SCHEMA.iter_errors(yaml.load(text, Yaml12)))


def test_it_is_a_schema_of_the_draft_that_it_names():
    Draft7Validator.check_schema(editor_schema())
    assert editor_schema()["$schema"] == Draft7Validator.META_SCHEMA["$schema"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_experiment_is_valid_as_written_and_with_every_key(file):
    assert complaints(file.read_text()) == []
    assert complaints(to_yaml(load_experiment(file))) == []


PLANE = """\
name: x
data: {kind: toy, name: ring}
latent_dim: 2
base: {kind: mlp}
energy: {kind: mlp}
"""
IMAGES = PLANE.replace("{kind: toy, name: ring}", "{kind: cifar10, size: 16}").replace("mlp", "conv")
EXTERNAL = PLANE.replace("base: {kind: mlp}", "base: {kind: external, factory: m:f, latent_shape: [2]}")


@pytest.mark.parametrize(
    "text",
    [
        PLANE,
        PLANE + "train_base: {objective: gan}\n",
        PLANE + "train_energy: {objective: {kind: f-gan, divergence: js}}\n",
        PLANE + "train_base: {objective: {kind: mmd, kernel: rq, alphas: [0.1, 1, 10]}}\n",
        PLANE + "train_base:\nsample:\nevaluate: {features: pixels}\n",
        PLANE + "sample: {step_size: null, beta: auto}\n",
        PLANE + "flow: {bandwidth: median}\n",
        PLANE + "flow: {bandwidth: [0.1, 1], source: {kind: normal, mean: [0, 1]}}\n",
        PLANE
        + "train_base: {lr: 1e-4, betas: [0, .9], lr_rule: {compare_steps: 100, every: 10}}\nevaluate: {features: pixels}\n",
        PLANE.replace("name: x", "name: 2024"),
        "name: x\ndata: {kind: toy, name: ring}\nflow: {divergence: kale}\n",
        IMAGES,
        IMAGES.replace("16", "'16'"),
        EXTERNAL,
        EXTERNAL.replace("[2]", "[[1], [1]]"),
        EXTERNAL.replace("[2]", "2"),
    ],
)
def test_every_form_that_is_accepted_is_valid(tmp_path, text):
    """Short forms, empty sections, numbers as text and text as numbers; `load` accepts each, so the example is a true one."""
    (tmp_path / "x.yaml").write_text(text)
    load_experiment(tmp_path / "x.yaml")
    assert complaints(text) == []


@pytest.mark.parametrize(
    "own",
    [
        "data: {n: 50}\nbase: {width: 8}\n",
        "train_base: {objective: {features: 3}}\n",
        "train_base: {objective: {kind: wasserstein, clip: 0.1}}\n",
        "train_base: {objective: smmd}\n",
    ],
)
def test_a_file_that_extends_another_may_leave_out_what_that_one_has(tmp_path, own):
    """The kind of a section as well; standing alone it would lack its data."""
    (tmp_path / "parent.yaml").write_text(PLANE + "train_base: {objective: mmd}\n")
    (tmp_path / "x.yaml").write_text(f"extends: parent.yaml\nname: x\n{own}")
    load_experiment(tmp_path / "x.yaml")
    assert complaints((tmp_path / "x.yaml").read_text()) == []
    assert complaints(f"name: x\n{own}") != []
    assert complaints(f"extends: parent.yaml\n{own}") == [""], "the name is a file's own"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (PLANE + "train_base: {stesp: 3}\n", "train_base"),
        (PLANE + "train_base: {steps: 0}\n", "train_base.steps"),
        (PLANE + "train_base: {steps: many}\n", "train_base.steps"),
        (PLANE + "train_base: {betas: [0.5]}\n", "train_base.betas"),
        (PLANE + "train_base: {betas: [0.5, 1]}\n", "train_base.betas.1"),
        (PLANE + "train_base: {objective: gam}\n", "train_base.objective"),
        (PLANE + "train_energy: {objective: hinge}\n", "train_energy.objective"),
        (PLANE + "train_base: {objective: {kind: gan, clip: 1}}\n", "train_base.objective"),
        (PLANE + "sample: {sampler: klaa}\n", "sample.sampler"),
        (PLANE.replace("base: {kind: mlp}", "base: {kind: mlp, blocks: 2}"), "base"),
        (PLANE.replace("base: {kind: mlp}", "base: {kind: nlp}"), "base.kind"),
        (PLANE.replace("base: {kind: mlp}", "base: {width: 3}"), "base"),
        (PLANE.replace("energy: {kind: mlp}", "energy: {kind: mlp, width: 0}"), "energy.width"),
        (PLANE + "smaple: {beta: 1}\n", ""),
        (PLANE.replace("data: {kind: toy, name: ring}\n", ""), ""),
        (PLANE.replace("name: x\n", ""), ""),
        (IMAGES.replace("16", "17"), "data.size"),
    ],
)
def test_a_mistake_is_marked_where_it_stands(tmp_path, text, at):
    """Each of them is refused by `load` as well."""
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_experiment(tmp_path / "x.yaml")
    assert complaints(text) == [at]


def test_every_form_that_a_validator_adds_is_known():
    """A validator that acts before the types are looked at accepts more than the types say."""
    found, seen = set(), []
    todo: list[type[BaseModel]] = [Experiment]
    while todo:
        model = todo.pop()
        if model not in seen:
            seen.append(model)
            todo += [m for field in model.model_fields.values() for m in models_in(field.annotation)]
            decorators = model.__pydantic_decorators__.field_validators.values()
            found |= {(model.__name__, field) for d in decorators if d.info.mode == "before" for field in d.info.fields}
    objectives = {(model.__name__, "objective") for model in (TrainBase, TrainEnergy)}  # as a word: tested above
    assert found == set(SHORT_FORMS) | objectives


def test_the_command_prints_it_alone(gebm):
    """As a file for editors, and with --json on one line; with an experiment beside it, it is refused."""
    printed, line = gebm("show", "--schema"), gebm("show", "--schema", "--json")
    assert printed.code == line.code == 0 and len(line.out.splitlines()) == 1
    assert json.loads(printed.out) == json.loads(line.out) == editor_schema()
    refused = gebm("show", "digits", "--schema")
    assert refused.code == 2 and "--schema: is that of all experiment files; give it alone" in refused.err
