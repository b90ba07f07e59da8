"""What can be scored or tested: toys with parameters and tables, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from gebm_cli.core.data.toys import draw_toy, toy_dataset
from gebm_cli.core.device import make_generator
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import build_dataset
from gebm_cli.experiment.inputs import TOYS, delimiter_of, read_input
from gebm_cli.experiment.schema.data import EXACT, Toy

ROOT = Path("runs")


def read(text: str):  # type: ignore[no-untyped-def]
    return read_input(str(text), ROOT)


# ---------------------------------------------------------------------------------------------------------------- toys


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_by_its_name_is_that_of_an_experiment(name) -> None:
    """`NAME` is the data set of `data: {kind: toy, name: NAME}`, noise and all."""
    dataset = build_dataset(Toy(kind="toy", name=name))
    assert torch.equal(read(name).data, dataset.train) and torch.equal(read(f"{name}:held-out").data, dataset.held_out)
    expected = toy_dataset(name, 10_000, 0.0 if name in EXACT else 0.05, 0)
    assert torch.equal(dataset.train, expected.train)


def test_parameters_of_a_toy_reach_its_law() -> None:
    """n, seed, shift, scale and noise_std of the query are those of the data set, and its name says them."""
    side = read("ring:held-out?n=300&seed=4&shift=3,-1e-1&scale=0.5&noise_std=0.01")
    assert torch.equal(side.data, toy_dataset("ring", 300, 0.01, 4, (3.0, -0.1), 0.5).held_out)
    assert side.name == "ring:held-out?n=300&seed=4&shift=3,-1e-1&scale=0.5&noise_std=0.01" and side.split == "held-out"
    assert torch.equal(read("gaussian?noise_std=0.05").data, toy_dataset("gaussian", 10_000, 0.05, 0).train)
    assert torch.equal(read("ring?seed=7").data, draw_toy("ring", 10_000, 0.05, make_generator(7, "toy", "train"))[0])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gaussian?nn=5", ("gaussian?nn=5: unknown key 'nn'", "did you mean 'n'?")),
        ("gaussian?colour=5", ("unknown key 'colour'; expected some of n, seed, noise_std, shift, scale",)),
        ("gaussian?n=0", ("n: got '0'", "greater than or equal to 1")),
        ("gaussian?n=many", ("n: got 'many'", "valid integer")),
        ("gaussian?n=5&n=6", ("the key 'n' is given twice",)),
        ("gaussian?seed=-1", ("seed: got '-1'",)),
        ("gaussian?shift=3", ("shift: got '3', expected two numbers such as 3,0",)),
        ("gaussian?shift=3,nan", ("shift: got 'nan'", "finite")),
        ("gaussian?shift=3,x", ("shift: got 'x'", "valid number")),
        ("gaussian?scale=0", ("scale: got '0'", "greater than 0")),
        ("gaussian?noise_std=-1", ("noise_std: got '-1'",)),
        ("gaussian?shift", ("shift: got '', expected two numbers",)),
        ("gausian?n=5", ("gausian?n=5: no such file, folder, run or data set; did you mean gaussian?",)),
        ("digits?n=5", ("digits takes no '?n=5'; toys do",)),
        ("ring:valid", ("ring:valid: no such file",)),
    ],
)
def test_bad_parameters_are_refused_with_the_text_they_stand_in(text, parts) -> None:
    with pytest.raises(UsageError) as error:
        read(text)
    for part in (text, *parts):
        assert part in str(error.value)


def test_defaults_of_noise() -> None:
    """0 for the toys that are laws by themselves, 0.05 for the others, what is asked for where it is."""
    assert {name: Toy(kind="toy", name=name).noise_std for name in TOYS} == {
        n: 0.0 if n in EXACT else 0.05 for n in TOYS
    }
    assert Toy(kind="toy", name="heart", noise_std=0.2).noise_std == 0.2
    again = Toy.model_validate(Toy(kind="toy", name="gaussian").model_dump())
    assert again.noise_std == 0.0 and again == Toy(kind="toy", name="gaussian")
    with pytest.raises(ValidationError):
        Toy(kind="toy", name="gaussian", shift=(1.0, float("inf")))


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", ","), (";", ";"), ("\t", "tab"), (" ", "space"), (", ", ","), ("   ", "space")]
)
def test_a_table_is_read_whatever_parts_its_cells(tmp_path, delimiter, name) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(delimiter.join(row) for row in (["a", "b", "c"], ["1", "2.5", "-3e-1"], ["4", "5", "6"])))
    assert delimiter_of(str(path)) == name
    side = read(path)
    assert side.data.dtype == torch.float32 and side.is_points and side.name == str(path)
    torch.testing.assert_close(side.data, torch.tensor([[1, 2.5, -0.3], [4, 5, 6]]))


def test_quoted_names_do_not_mislead(tmp_path) -> None:
    """As in the wine data: names with spaces and commas in quotes, parted by semicolons; and one column of two words."""
    wine = tmp_path / "wine.csv"
    wine.write_text('"fixed acidity";"pH, as measured";"quality"\n7.4;3.5;5\n7.8;3.2;5\n')
    assert delimiter_of(str(wine)) == ";"
    assert read(f"{wine}?drop=quality,fixed acidity").data.tolist() == [[3.5], pytest.approx([3.2])]
    one = tmp_path / "one.tsv"
    one.write_text("body mass\n1\n2\n")
    assert read(one).data.tolist() == [[1.0], [2.0]]


def test_a_table_is_not_whitened_and_keeps_constant_columns(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1000,7\n3000,7\n")
    assert read(path).data.tolist() == [[1000.0, 7.0], [3000.0, 7.0]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a,b\n1,2\n3,nan\n", (":3:2: column 'b': the value is missing ('nan')", "?drop=NAME'")),
        ("a,b\n1,2\n3,inf\n", (":3:2: column 'b': 'inf' is not a number",)),
        ("a,b\n1,2\n3,x\n", (":3:2: column 'b': 'x' is not a number", "leave the column out by")),
        ("a,b\n1,2\n3\n", (":3: has 1 cells, the header has 2",)),
        ("1,2\n3,4\n", ("holds numbers where column names are expected",)),
        ("a,b\n", ("has column names and no row of numbers",)),
        ("", ("is empty",)),
        ("a;b\n1,5;2\n3,5;4\n", (":2:1: column 'a': '1,5' is not a number",)),
    ],
)
def test_bad_tables_are_refused_by_line_and_column(tmp_path, content, parts) -> None:
    """In the words of the command line: no key of an experiment is named."""
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        read(path)
    for part in (str(path), *parts):
        assert part in str(error.value), error.value
    assert "data." not in str(error.value)


def test_columns_are_dropped_or_kept_by_name(tmp_path) -> None:
    """In the order of the file, with their names; what is not kept may hold text."""
    path = tmp_path / "t.csv"
    path.write_text("a,label,b c,d\n1,x,2,3\n4,y,5,6\n")
    side = read(f"{path}?keep=d,b c")
    assert side.data.tolist() == [[2, 3], [5, 6]] and side.columns == ("b c", "d") and side.name == f"{path}?keep=d,b c"
    assert read(f"{path}?drop=label").columns == ("a", "b c", "d") and read("ring?n=5").columns == ()
    with pytest.raises(UsageError, match=r"t\.csv\?keep: 'bc' is no column of .*did you mean 'b c'"):
        read(f"{path}?keep=bc")
    with pytest.raises(UsageError, match=r"\?keep: '' is no column"):
        read(f"{path}?keep=")
    with pytest.raises(UsageError, match=r"expected \?drop=NAME"):
        read(f"{path}?keep=a&drop=d")


def test_a_table_takes_no_other_parameter(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"got '\?n=5', expected \?drop=NAME"):
        read(f"{path}?n=5")
    with pytest.raises(UsageError, match=r"^[^ ]*t\.csv\?drop: 'c' is no column of .*t.csv"):
        read(f"{path}?drop=c")
    (tmp_path / "t.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"or a table that ends in \.csv or \.tsv"):
        read(tmp_path / "t.bin")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="not a readable text file in UTF-8"):
        read(tmp_path / "b.csv")
