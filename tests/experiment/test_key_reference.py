"""The key reference in docs/ is the schema's: complete, described and up to date."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from gebm_cli.experiment.key_reference import UNIONS, meaning_of, reference, type_of
from gebm_cli.experiment.schema import Experiment, Sample, TrainBase
from gebm_cli.experiment.schema.data import Folder
from gebm_cli.experiment.sentences import models_in

PAGE = Path(__file__).parents[2] / "docs" / "experiment-files.md"


def every_model() -> list[type[BaseModel]]:
    return [Experiment, *(m for field in Experiment.model_fields.values() for m in models_in(field.annotation))]


KEYS = [(model, name) for model in every_model() for name in model.model_fields]
IDS = [f"{model.__name__}.{name}" for model, name in KEYS]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run `python -m gebm_cli.experiment.key_reference > docs/experiment-files.md`"
    )


@pytest.mark.parametrize(("model", "name"), KEYS, ids=IDS)
def test_every_key_has_a_row_with_its_meaning(model: type[BaseModel], name: str) -> None:
    meaning = meaning_of(name, model.model_fields[name])
    assert meaning
    rows = [line.replace("\\|", "|") for line in reference().splitlines() if line.startswith(f"| `{name}` |")]
    assert any(row.endswith(f"| {meaning} |") for row in rows)


@pytest.mark.parametrize(("model", "name"), KEYS, ids=IDS)
def test_every_key_is_described_in_the_schema(model: type[BaseModel], name: str) -> None:
    field = model.model_fields[name]
    if models_in(field.annotation):
        assert name in UNIONS or models_in(field.annotation)[0].__doc__
    elif name != "kind":
        assert field.description


@pytest.mark.parametrize("model", every_model()[1:], ids=lambda model: model.__name__)
def test_every_section_begins_with_its_docstring(model: type[BaseModel]) -> None:
    assert model.__doc__
    assert model.__doc__ in reference()


def test_every_row_has_four_cells() -> None:
    rows = [line.replace("\\|", "") for line in reference().splitlines() if line.startswith("|")]
    assert rows and all(row.count("|") == 5 for row in rows)


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        (Sample, "n_steps", "whole number >= 1 or `null`"),
        (Sample, "step_size", "`auto` or number > 0"),
        (Sample, "friction", "`low`, `critical`, `high` or number >= 0"),
        (TrainBase, "betas", "list of 2, each a number >= 0, < 1"),
        (Folder, "held_out", "number >= 0, < 1"),
        (Experiment, "seed", "whole number >= 0, < 2^63 or `null`"),
        (Experiment, "train_base", "section"),
    ],
)
def test_ranges_are_those_of_the_schema(model: type[BaseModel], name: str, expected: str) -> None:
    assert type_of(model.model_fields[name]) == expected
