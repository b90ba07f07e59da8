"""Tables: the UCI protocol against its definitions and the published dimensions, and every bad table by its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from gebm_cli.core.data.tables import csv_dataset, dequantised, read_table, uncorrelated
from gebm_cli.errors import UsageError

UCI = Path(__file__).parents[4] / "shared/data/uci"
uci = pytest.mark.skipif(not UCI.is_dir(), reason="the shared UCI tables are not on this machine")
PARKINSONS = ("subject#", "age", "sex")


def _write(tmp_path, values=None, names="abc", text=None):
    """A file of this text, or of these numbers (60 correlated rows unless given), and its path."""
    path = tmp_path / "table.csv"
    if text is None:
        rows = _numbers() if values is None else values
        text = "\n".join([",".join(names), *(",".join(repr(float(v)) for v in row) for row in rows)])
    path.write_text(text)
    return str(path)


def _numbers(n=60, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, 3)) @ np.array([[2.0, 0.5, 0], [0, 1, 0.3], [0, 0, 0.1]])
    return x + np.array([5.0, -3.0, 100.0])


def _all(data):
    return torch.cat([data.train, data.validation, data.held_out]).double()


# ------------------------------------------------------------------------------------------------------------ the real ones


@uci
@pytest.mark.parametrize("split_seed", [0, 1])
def test_parkinsons_keeps_15_columns(split_seed):
    """5,875 rows; of columns 3 onward 15 remain at .98, as published, in every split; a tenth is held out."""
    data = csv_dataset(str(UCI / "parkinsons_updrs.csv"), drop=PARKINSONS, split_seed=split_seed)
    assert data.shape == (15,) and (len(data.train), len(data.validation), len(data.held_out)) == (4699, 588, 588)


@uci
@pytest.mark.parametrize(("name", "n"), [("red", 1599), ("white", 4898)])
def test_wine_has_11_columns(name, n):
    """Without the quality 11 columns remain; sizes are n, a tenth, and the rest; the test set has variance near 1."""
    data = csv_dataset(str(UCI / f"winequality-{name}.csv"), drop=["quality"], dequantise=True)
    tenth = round(0.1 * n)
    assert data.shape == (11,) and (len(data.held_out), len(data.validation)) == (tenth, tenth)
    assert len(data.train) == n - 2 * tenth and data.name == f"winequality-{name}"
    assert 0.5 < data.held_out.var(0).mean() < 2


@uci
def test_dequantised_wine_has_no_repeated_value():
    """Every value of a dequantised column is its own, within one gap of a multiple of it; without noise most repeat."""
    path = str(UCI / "winequality-red.csv")
    raw, plain = (
        csv_dataset(path, drop=["quality"], dequantise=d, whiten="none").train[:, 10].numpy() for d in (True, False)
    )
    assert len(np.unique(raw)) > 0.99 * len(raw) and len(np.unique(plain)) < 0.1 * len(plain)
    assert 0.05 < np.abs(raw - plain).max() <= 0.1 + 1e-5  # alcohol is measured to .1


# ------------------------------------------------------------------------------------------------------------- the protocol


def test_whitening_is_fitted_on_the_training_rows(tmp_path):
    """The training rows have mean 0 and covariance I exactly; all rows together have not. With `all` it is the reverse."""
    for whiten, exact in (("train", lambda d: d.train.double()), ("all", _all)):
        data = csv_dataset(_write(tmp_path), whiten=whiten, max_correlation=None)
        both = {"train": data.train.double(), "all": _all(data)}
        errors = {
            k: (torch.cov(v.T) - torch.eye(3)).abs().max().item() + v.mean(0).abs().max().item()
            for k, v in both.items()
        }
        chosen = errors.pop(whiten)
        assert chosen < 1e-5 and min(errors.values()) > 1e-2, (whiten, chosen, errors)
        assert exact(data).shape[1] == 3


def test_whitening_is_by_principal_components(tmp_path):
    """Whitened coordinates are the projections on the covariance's eigenvectors, largest first, over the root eigenvalue."""
    path = _write(tmp_path)
    plain = csv_dataset(path, whiten="none", max_correlation=None)
    data = csv_dataset(path, max_correlation=None)
    x = plain.train.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(x.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(3)])
    expected = (plain.held_out.double().numpy() - x.mean(0)) @ vectors / np.sqrt(values)
    assert np.abs(data.held_out.numpy() - expected).max() < 1e-3


def test_whitening_survives_scales_far_apart(tmp_path):
    """Columns of standard deviation 1e-6 and 1e3, whose variances float64 cannot hold together, are whitened exactly."""
    path = _write(tmp_path, _numbers() * [1e3, 1.0, 1e-5])
    train = csv_dataset(path, max_correlation=None).train.double()
    assert (torch.cov(train.T) - torch.eye(3)).abs().max() < 1e-5


@pytest.mark.parametrize("whiten", ["none", "train"])
def test_splits_are_disjoint_and_complete(tmp_path, whiten):
    """Training, validation and test rows together are every row once; without whitening they are the file's numbers."""
    rows = _numbers(100)
    data = csv_dataset(_write(tmp_path, rows), test=0.2, validation=0.15, whiten=whiten, max_correlation=None)
    assert (len(data.train), len(data.validation), len(data.held_out)) == (65, 15, 20)
    assert data.train.dtype == torch.float32 and data.split("held-out")[0] is data.held_out
    found = _all(data).numpy()
    if whiten == "none":
        assert np.array_equal(found[found[:, 0].argsort()], rows[rows[:, 0].argsort()].astype(np.float32))
    assert len(np.unique(found, axis=0)) == 100


def test_split_seeds_give_other_splits(tmp_path):
    """One seed repeats, bit for bit and whatever the global streams; another shuffles and dequantises anew."""
    path = _write(tmp_path, np.round(_numbers(200), 1))
    options = {"dequantise": True, "whiten": "none", "max_correlation": None}
    first = csv_dataset(path, **options)
    torch.manual_seed(7)
    np.random.seed(7)
    again, other = csv_dataset(path, **options), csv_dataset(path, split_seed=1, **options)
    assert torch.equal(_all(first), _all(again))
    assert len(np.intersect1d(_all(first)[:, 0], _all(other)[:, 0])) == 0
    plain = [csv_dataset(path, split_seed=s, whiten="none", max_correlation=None).held_out for s in (0, 1)]
    assert not torch.equal(*plain)


def test_validation_has_at_most_1000_rows(tmp_path):
    """min(a tenth, 1,000) rows are for validation, and none where none are asked for."""
    path = _write(tmp_path, np.random.default_rng(0).standard_normal((12_000, 1)), names="a")
    assert len(csv_dataset(path).validation) == 1000 and len(csv_dataset(path).held_out) == 1200
    assert csv_dataset(path, validation=0.0).validation is None


def test_dequantisation_noise_is_uniform_over_two_gaps():
    """Noise over the median gap between distinct values is U(-1, 1), by Kolmogorov and Smirnov, in each column its own."""
    random = np.random.default_rng(3)
    x = np.stack([random.integers(0, 10, 20_000) * 0.25, random.choice([0.0, 1, 2, 3, 50], 20_000)], 1)
    noise = (dequantised(x, random) - x) / [0.25, 1.0]
    for column in noise.T:
        p = kstest(column, "uniform", (-1, 2)).pvalue
        assert p > 1e-4, f"p = {p:.1e}"
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(20_000)


def test_of_a_correlated_pair_the_earlier_goes():
    """Chains a-b-c of correlation lose all but what no later column correlates with; at the limit a pair stays."""
    random = np.random.default_rng(0)
    a, b, c = random.standard_normal((3, 500))
    x = np.stack([a, b, -a + 0.01 * c, c, 2 * b], 1)
    assert uncorrelated(x, 0.98) == [2, 3, 4] and uncorrelated(x, 1.0) == [0, 1, 2, 3, 4]
    assert uncorrelated(x[:, :1], 0.98) == [0]


# --------------------------------------------------------------------------------------------------------------- good files


def test_dialects(tmp_path):
    """Semicolons, tabs, spaces, quotes, a byte order mark, CRLF and empty lines are read; dropped columns may hold text."""
    expected = [[1.0, 2.5], [-3.0, 4e-5]]
    for delimiter, text in {
        ",": '\ufeffa,"b, c",who\r\n1,2.5,Ann\r\n\r\n-3,"4e-5",Bob\r\n',
        ";": "a;b, c;who\n1;2.5;Ann\n-3;4e-5;?\n",
        "tab": "a\tb, c\twho\n1\t2.5\tAnn\n-3\t4e-5\t\n",
        "space": "a 'b  who\n1 2.5  Ann\n-3  4e-5 Bob\n",
    }.items():
        table = read_table(_write(tmp_path, text=text), delimiter, ["who"])
        assert table.values.tolist() == expected and table.places == (1, 2) and table.names[0] == "a", delimiter


# ---------------------------------------------------------------------------------------------------------------- bad files

GOOD = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30))
BAD = {
    "text": (GOOD + "1,high\n", r"table.csv:32:2: column 'b': 'high' is not a number below 1e38"),
    "empty cell": (GOOD + ",1\n", r"table.csv:32:1: column 'a': the value is missing"),
    "question mark": ("a,b\n1,?\n" + GOOD[4:], r"table.csv:2:2: column 'b': the value is missing"),
    "nan": (GOOD + "1,nan\n", r"table.csv:32:2: .*missing"),
    "infinite": (GOOD + "1,1e999\n", r"table.csv:32:2: .*'1e999' is not a number below 1e38"),
    "underscore": (GOOD + "1,1_000\n", r"table.csv:32:2: .*'1_000' is not a number below 1e38"),
    "decimal comma": (GOOD + "1,2,5\n", r"table.csv:32: has 3 cells, the header has 2"),
    "short row": (GOOD + "1\n", r"table.csv:32: has 1 cells, the header has 2"),
    "constant": ("a,b\n" + "".join(f"7,{i}\n" for i in range(30)), r"table.csv:1:1: column 'a' is 7 in every row"),
    "same names": ("a,b,a\n1,2,3\n", r"table.csv:1:3: the column name 'a' is that of column 1 too"),
    "no names": ("1,2\n3,4\n", r"table.csv:1: holds numbers where column names are expected"),
    "no rows": ("a,b\n", r"table.csv: has column names and no row"),
    "empty": ("", r"table.csv: is empty"),
    "other delimiter": ("a;b\n1;2\n", r"table.csv:1: one column, 'a;b'; set data.delimiter to ';'"),
    "few rows": ("a,b\n1,2\n3,5\n", r"2 rows leave 2 for training .* need at least 3"),
    "dependent": (
        "a,b,c\n" + "".join(f"{i},{i * i},{2 * i + i * i}\n" for i in range(30)),
        r"the columns a, b, c depend",
    ),
    "null byte": ("a,b\n1,2\x00\n", r"table.csv"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables_are_named_by_place(tmp_path, kind):
    """Whatever is wrong is one usage error with the file, and line and column where one is at fault."""
    text, expected = BAD[kind]
    with pytest.raises(UsageError, match=expected):
        csv_dataset(_write(tmp_path, text=text), max_correlation=None)


def test_lines_are_counted_in_the_file(tmp_path):
    """Empty lines and quoted line breaks count, so the place is the editor's."""
    with pytest.raises(UsageError, match=r"table.csv:7:1: "):
        read_table(_write(tmp_path, text='a,b\n1,2\n\n\n3,"\n4"\nx,5\n'))


def test_many_bad_cells_are_cut_short(tmp_path):
    """Ten are listed, and how many more there are."""
    path = _write(tmp_path, text="a,b\n" + "x,1\n" * 25)
    with pytest.raises(UsageError) as caught:
        read_table(path)
    assert str(caught.value).count("\n") == 10 and "... and 15 more" in str(caught.value)


def test_unknown_column_names_the_nearest(tmp_path):
    """A name in `drop` that is no column is met with the nearest, or with all."""
    path = _write(tmp_path, text="quality,alcohol\n1,2\n")
    with pytest.raises(UsageError, match="data.drop: 'qualty' is no column of .*did you mean 'quality'"):
        read_table(path, drop=["qualty"])
    with pytest.raises(UsageError, match="its columns are quality, alcohol"):
        read_table(path, drop=["zzz"])
    with pytest.raises(UsageError, match="leaves no column"):
        read_table(path, drop=["quality", "alcohol"])


def test_files_that_are_no_tables(tmp_path):
    """A missing file, a folder and bytes that are no UTF-8 are refused by name."""
    (tmp_path / "x.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    for name, expected in (("absent.csv", "no such file"), ("", "is a folder"), ("x.csv", "not a readable text file")):
        with pytest.raises(UsageError, match=expected):
            read_table(str(tmp_path / name))


def test_numbers_too_large_for_float32_are_refused(tmp_path):
    """A number at float32's end is refused by its place; those below it stay finite."""
    with pytest.raises(UsageError, match=r"table.csv:32:1: .*'-2e38' is not a number below 1e38"):
        read_table(_write(tmp_path, text=GOOD + "-2e38,1\n"))
    data = csv_dataset(_write(tmp_path, _numbers() * [1e35, 1, 1]), whiten="none", dequantise=True)
    assert data.train.isfinite().all() and data.train.max() > 1e35


def test_scales_too_far_apart_are_refused(tmp_path):
    """Where float64 cannot hold all columns at once the error names the extremes, instead of whitening wrongly."""
    path = _write(tmp_path, _numbers() * [1e14, 1, 1])
    with pytest.raises(UsageError, match=r"too far apart .*\(c\) to .*\(a\)"):
        csv_dataset(path, max_correlation=None)
