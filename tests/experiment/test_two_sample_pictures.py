"""Pictures of two-sample tests: what is shown is the data's, every format is written, and odd inputs are drawn."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from gebm_cli.core.kernels import Gaussian
from gebm_cli.core.two_sample.sample_size import PowerCurve, threshold
from gebm_cli.core.two_sample.witness import witness, witness_at
from gebm_cli.errors import UsageError
from gebm_cli.experiment import two_sample_pictures as pictures
from gebm_cli.experiment.two_sample_panels import (
    WitnessImages,
    WitnessLine,
    WitnessMap,
    WitnessValues,
    panel_of,
    shorten,
    speak_most,
)
from gebm_cli.experiment.two_sample_summaries import matrix_figure, power_figure, power_words, relative_figure

KERNEL = Gaussian(1.0)


@pytest.fixture(autouse=True)
def no_warnings():
    """A warning of the drawing, say of a missing glyph or of a layout that does not fit, fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def _null(b=99, seed=0):
    return 0.01 * torch.randn(b, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _picture(statistic=0.03, null=None, panel=None, names=("reference", "samples"), p=0.02, alpha=0.05):
    return pictures.TestPicture(names, statistic, _null() if null is None else null, p, alpha, panel)


def _saved(path, picture):
    pictures.save_test_picture(path, picture)
    width, height = Image.open(path).size
    assert 900 <= width <= 1600 and 500 <= height <= 1200
    return width, height


def _drawn(picture):
    """The figure, drawn into nothing."""
    figure = pictures.test_figure(picture)
    figure.savefig(io.BytesIO(), dpi=40)
    return figure


def _labels(axes):
    return axes.get_legend_handles_labels()[1]


def _curve(needed=300.0, low=150.0, high=900.0, sizes=(50, 100, 200, 400)):
    power = torch.linspace(0.1, 0.9, len(sizes), dtype=torch.float64)
    return PowerCurve(
        tuple(sizes), power, (power - 0.2).clamp(0.05), (power + 0.1).clamp(max=1), 0.05, 0.8, needed, low, high
    )


# ------------------------------------------------------------------------------------------------------- the selection


def test_the_outlier_speaks_most(generator):
    """A planted image that only A has comes first among A's, one that only B has first among B's."""
    x, y = torch.randn(60, 2, generator=generator), torch.randn(50, 2, generator=generator)
    x[17:27], y[4:14] = torch.tensor([9.0, 0.0]), torch.tensor([-9.0, 0.0])
    of_a, of_b = speak_most(*witness(KERNEL, x, y), count=10)
    assert set(of_a) == set(range(17, 27)) and set(of_b) == set(range(4, 14))


def test_selection_is_sorted_and_takes_what_there_is():
    """A's highest first, B's lowest first, ties in their order, no more than there are."""
    at_a, at_b = torch.tensor([0.1, 0.5, 0.5, -1.0]), torch.tensor([0.3, -0.2])
    assert speak_most(at_a, at_b, 3) == ([1, 2, 0], [1, 0])
    assert speak_most(torch.tensor([0.1]), torch.tensor([0.2])) == ([0], [0])


def test_panel_follows_the_dimension(generator):
    """A line for d = 1, a map for d = 2, values beyond; the witness of the grid is the witness there."""
    x, y = torch.randn(20, 2, generator=generator), torch.randn(15, 2, generator=generator) + 1
    line = panel_of(KERNEL, x[:, :1], y[:, :1])
    assert isinstance(line, WitnessLine) and line.grid[0] < min(x[:, 0].min(), y[:, 0].min())
    torch.testing.assert_close(line.values, witness_at(KERNEL, x[:, :1], y[:, :1], line.grid[:, None]))
    plane = panel_of(KERNEL, x, y)
    assert isinstance(plane, WitnessMap) and plane.values.shape == (len(plane.up), len(plane.across))
    at = witness_at(KERNEL, x, y, torch.stack([plane.across[7], plane.up[3]])[None])
    assert plane.values[3, 7].item() == pytest.approx(at.item())
    assert isinstance(panel_of(KERNEL, torch.cat([x, x], 1), torch.cat([y, y], 1)), WitnessValues)


def test_shortened_in_the_middle():
    """The ends of a long name stay; a short one is itself; lines are joined and a $ begins no formula."""
    assert shorten("short") == "short"
    assert shorten("abcdefghij" * 5, 11) == "abcde…fghij" and len(shorten("x" * 100, 20)) == 20
    assert shorten("a\nb $x$") == r"a b \$x\$"


# ----------------------------------------------------------------------------------------------------------- the test


def test_histogram_is_the_null():
    """All relabelled values are in the bars, the line stands at the observed one, the tail begins at the threshold."""
    null = _null(499)
    axes = pictures.test_figure(_picture(0.02, null)).axes[0]
    *bars, tail = axes.patches
    assert sum(bar.get_height() for bar in bars) == 499 and len(bars) == 23
    assert bars[0].get_x() == pytest.approx(null.min()) and bars[-1].get_x() + bars[-1].get_width() == pytest.approx(
        null.max()
    )
    assert axes.lines[0].get_xdata()[0] == 0.02
    assert tail.get_x() == pytest.approx(threshold(null, 0.05))
    left, right = axes.get_xlim()
    assert left < null.min() and right > max(null.max(), 0.02)


@pytest.mark.parametrize("statistic", [5.0, -5.0])
def test_far_out_is_an_arrow(statistic):
    """An observed value far outside leaves the null a sixth of the axis at least, and is said in words."""
    null = _null()
    axes = pictures.test_figure(_picture(statistic, null)).axes[0]
    left, right = axes.get_xlim()
    assert right - left < 6 * (null.max() - null.min()) and not left <= statistic <= right
    assert f"observed: {statistic:.3g}, far off this picture" in _labels(axes)


def test_words():
    """p, the decision, and whether a smaller p was possible."""
    assert (
        pictures.verdict(0.001, 0.05, 999)
        == "p = 0.001, the smallest this many relabellings can give: A and B differ (level 0.05)"
    )
    assert pictures.verdict(0.05, 0.05, 999) == "p = 0.05: A and B differ (level 0.05)"
    assert (
        pictures.verdict(0.41, 0.01, 999) == "p = 0.41: no difference shown; what stands out may be chance (level 0.01)"
    )


def _images(n, m, size=(3, 20, 30)):
    g = torch.Generator().manual_seed(1)
    sets = [torch.randint(0, 256, (k, *size), dtype=torch.uint8, generator=g) for k in (n, m)]
    return WitnessImages(
        torch.randn(n, generator=g), torch.randn(m, generator=g), sets[0].__getitem__, sets[1].__getitem__
    )


def test_rows_show_the_images_that_were_chosen():
    """Each image stands in its place, pixel by pixel, its witness under it."""
    panel = _images(12, 5)
    panels = pictures.test_figure(_picture(panel=panel)).axes[1:]
    of_a, of_b = speak_most(panel.at_a, panel.at_b)
    for row, order, read, at in [
        (panels[:8], of_a, panel.image_a, panel.at_a),
        (panels[8:], of_b, panel.image_b, panel.at_b),
    ]:
        for axes, i in zip(row, order):
            np.testing.assert_array_equal(axes.images[0].get_array(), read(i).permute(1, 2, 0).numpy())
            assert float(axes.get_xlabel()) == pytest.approx(at[i].item(), abs=0.01)
        assert all(not axes.images for axes in row[len(order) :])


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.JPEG", "p.webp", "p.pdf", "p.svg"])
def test_formats(name, tmp_path):
    """Every suffix that is offered is written, whole and alone."""
    path = tmp_path / name
    pictures.save_test_picture(path, _picture())
    head = path.read_bytes()[:5]
    expected = {
        "png": b"\x89PNG",
        "jpg": b"\xff\xd8",
        "jpeg": b"\xff\xd8",
        "webp": b"RIFF",
        "pdf": b"%PDF",
        "svg": b"<?xml",
    }
    assert head.startswith(expected[path.suffix[1:].lower()]) and list(tmp_path.iterdir()) == [path]


def test_other_suffixes_are_refused(tmp_path):
    """With the ones there are, before anything is written."""
    with pytest.raises(UsageError, match=r"must end in one of \.png, \.jpg"):
        pictures.save_test_picture(tmp_path / "p.txt", _picture())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("statistic", "null"),
    [
        (0.0, torch.zeros(99)),
        (0.5, torch.full((99,), 0.1)),
        (1e-17, torch.full((99,), 1e-17)),
        (0.1, torch.tensor([0.1, 0.05, 0.0])),
        (3.0, torch.tensor([1.0])),
        (1e9, 1e8 * _null()),
        (1e-9, 1e-8 * _null()),
        (0.02, _null(20_000)),
    ],
)
def test_odd_nulls(statistic, null):
    """Constant, of few values, one, huge, tiny and many: drawn, the observed value always in the picture or said."""
    picture = _picture(statistic, null)
    axes = _drawn(picture).axes[0]
    assert any(label.startswith(f"observed: {statistic:.3g}") for label in _labels(axes))
    assert len(axes.patches) <= 42


@pytest.mark.parametrize("n", [4, 1500])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_few_and_many_rows(n, dim, generator):
    """Four rows, or more than are drawn, unequal sides, float32."""
    x, y = torch.randn(n, dim, generator=generator), torch.randn(n + 1, dim, generator=generator)
    figure = _drawn(_picture(panel=panel_of(KERNEL, x, y)))
    assert all(
        len(c.get_offsets()) <= 1000 for c in figure.axes[1].collections if c.get_label().startswith(("A:", "B:"))
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_constant_data(dim):
    """One value throughout has no range; it is drawn."""
    x = torch.full((4, dim), 0.3)
    _drawn(_picture(panel=panel_of(KERNEL, x, x)))


@pytest.mark.parametrize(("n", "m", "size"), [(1, 1, (1, 8, 8)), (1, 9, (3, 300, 120)), (40, 8, (3, 2, 50))])
def test_few_images_and_odd_sizes(n, m, size):
    """One image a side, grey and colour, large and flat."""
    _drawn(_picture(panel=_images(n, m, size)))


def test_names_of_any_kind(tmp_path):
    """Long, with a $, an underscore first, several lines: as wide as any other, and no formula."""
    names = ("_a/very/long/path/to/a/folder/of/pictures/train", "$x_1\n100 % of \\alpha$")
    assert _saved(tmp_path / "p.png", _picture(names=names)) == _saved(tmp_path / "q.png", _picture())


# ----------------------------------------------------------------------------------------------------------- summaries


def test_power_figure(tmp_path):
    """The curve and its band are the prediction; the needed size is marked; sizes in any order are drawn in order."""
    curve = _curve()
    axes = power_figure(curve, (60, 80), 0.05).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([curve.sizes, curve.power.numpy()], 1))
    assert "300 a side" in _labels(axes) and axes.get_xscale() == "linear"
    assert power_figure(_curve(sizes=(400, 100, 200, 5000)), (60, 80), 0.05).axes[0].get_xscale() == "log"
    for k, one in enumerate(
        [curve, _curve(math.inf, 200.0, math.inf), _curve(1e7), _curve(sizes=(70,)), _curve(sizes=(3, 10**6))]
    ):
        pictures.save_power_picture(tmp_path / f"{k}.png", one, (60, 80), 0.05)
        assert Image.open(tmp_path / f"{k}.png").size == (960, 648)


def test_power_words():
    """What is not known is said, and how wide the band is."""
    assert "about 300 samples a side (10-90 %: from 150 to 900)" in power_words(_curve(), (60, 60))
    assert "wide: the pilot had only 60 samples a side" in power_words(_curve(), (60, 60))
    assert "wide" not in power_words(_curve(low=290.0, high=310.0), (6000, 7000))
    assert "from 150 upwards without a known limit" in power_words(_curve(high=math.inf), (60, 80))
    assert power_words(_curve(math.inf, math.inf, math.inf), (60, 80)).startswith(
        "The pilot of 60 and 80 samples shows no difference"
    )


@pytest.mark.parametrize("k", [2, 3, 6])
def test_matrix(k, tmp_path):
    """Each pair once, with its value, error and p; framed where Holm's p is at most alpha."""
    values = torch.arange(k * k, dtype=torch.float64).reshape(k, k) / 100 - 0.01
    mmd, p = torch.tril(values, -1) + torch.tril(values, -1).T, torch.full((k, k), 0.2, dtype=torch.float64)
    p[1, 0] = p[0, 1] = 0.05
    names = [f"set number {i} with a name of some length" for i in range(k)]
    axes = matrix_figure(names, mmd, mmd * 0 + 0.0123, p, 0.05).axes[0]
    assert len(axes.texts) == k * (k - 1) // 2
    texts = {text.get_position(): text for text in axes.texts}
    assert texts[(0, 0)].get_text() == f"{mmd[1, 0].item():.3g}\n± 0.012\np = 0.05"
    assert [patch.get_xy() for patch in axes.patches] == [(-0.46, -0.46)]
    if k > 2:
        assert texts[(1, 1)].get_text().startswith(f"{mmd[2, 1].item():.3g}\n")
    pictures.save_matrix_picture(tmp_path / "m.png", names, mmd, mmd * 0 + 0.01, p, 0.05)
    width, height = Image.open(tmp_path / "m.png").size
    assert width <= 1400 and height <= 1200


def test_matrix_of_zeros_and_unknowns(tmp_path):
    """Values all 0 or negative, errors and p that are not known."""
    unknown = torch.full((3, 3), math.nan)
    for value in (0.0, -0.001):
        pictures.save_matrix_picture(tmp_path / "m.png", list("abc"), torch.full((3, 3), value), unknown, unknown, 0.05)
    assert (
        matrix_figure(list("abc"), torch.zeros(3, 3), unknown, unknown, 0.05).axes[0].texts[0].get_text()
        == "0\np unknown"
    )


RELATIVE = {
    "x": "mine",
    "y": "yours",
    "reference": "real",
    "mmd2_x": 0.02,
    "mmd2_x_standard_error": 0.004,
    "mmd2_y": 0.05,
    "mmd2_y_standard_error": 0.006,
    "statistic": -0.03,
    "standard_error": 0.005,
    "p_value": 1e-4,
    "alpha": 0.05,
    "closer": "mine",
}


def test_relative_figure_shows_both_distances_and_their_difference(tmp_path):
    figure = relative_figure(RELATIVE)
    sets, difference = figure.axes
    ends = [segment.get_segments()[0][:, 0] for container in sets.containers for segment in container[2]]
    np.testing.assert_allclose(
        ends, [[0.02 - 1.959964 * 0.004, 0.02 + 1.959964 * 0.004], [0.05 - 0.01175978, 0.05 + 0.01175978]], rtol=1e-5
    )
    np.testing.assert_allclose(
        difference.containers[0][2][0].get_segments()[0][:, 0], [-0.03979982, -0.02020018], rtol=1e-6
    )
    assert "mine is closer" in figure.get_suptitle()
    pictures.save_relative_picture(tmp_path / "relative.png", RELATIVE | {"closer": None, "p_value": math.nan})
    assert Image.open(tmp_path / "relative.png").width > 500


def test_relative_words_name_nobody_where_nothing_is_shown():
    assert "Neither is shown" in relative_figure(RELATIVE | {"closer": None, "p_value": 0.3}).get_suptitle()
