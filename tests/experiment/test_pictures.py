"""Pictures of a sample set: the pixels are where they should be, the curves are the data, and odd inputs are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gebm_cli.experiment import pictures
from gebm_cli.experiment.curves import (
    LATENT_NORM,
    paths_figure,
    save_score_curves,
    save_traces,
    score_figure,
    traces_figure,
)
from gebm_cli.experiment.pictures import numbers, save_chain, save_chain_grid, save_extremes, save_grid, save_nearest

WIDEST = 1600


@pytest.fixture(scope="module")
def digits():
    return torch.tensor(load_digits().images * 255 / 16).round().to(torch.uint8)[:, None]


def _colour(n, size=32, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _read(path):
    """The picture as (h, w, 3); it is neither tiny nor wider than a screen."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert 60 <= pixels.shape[0] and 300 <= pixels.shape[1] <= WIDEST
    return pixels


def _find(pixels, image):
    """Where (top, left) the enlarged image stands in the picture, found by its size and all of its pixels; all places."""
    factor = max(1, round(80 / image.shape[1]))
    wanted = image.numpy().transpose(1, 2, 0).repeat(factor, 0).repeat(factor, 1)
    wanted = np.broadcast_to(wanted, (*wanted.shape[:2], 3))
    h, w = wanted.shape[:2]
    ys, xs = (axis.ravel() for axis in np.indices((pixels.shape[0] - h + 1, pixels.shape[1] - w + 1)))
    for dy, dx in np.ndindex(h, w):
        agree = (pixels[ys + dy, xs + dx] == wanted[dy, dx]).all(1)
        ys, xs = ys[agree], xs[agree]
    return [(int(y), int(x)) for y, x in zip(ys, xs)]


def _place(pixels, image):
    places = _find(pixels, image)
    assert len(places) == 1
    return places[0]


@pytest.fixture
def sheets(monkeypatch):
    """What `sheet` was asked to draw: (rows, title, columns) of each call."""
    calls, real = [], pictures.sheet

    def remembered(rows, title="", columns=None):
        calls.append((rows, title, columns))
        return real(rows, title, columns)

    monkeypatch.setattr(pictures, "sheet", remembered)
    return calls


def _captions(call):
    return [[text for _, text in cells] for _, cells in call[0]]


# ----------------------------------------------------------------------------------------------------------- chains


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_chains_are_rows_and_steps_are_columns(tmp_path, digits, kind):
    frames = [(5 * k, (digits if kind == "grey" else _colour(48))[12 * k : 12 * k + 12]) for k in range(4)]
    save_chain_grid(tmp_path / "chains.png", frames, torch.randn(12, 4), n_chains=3)
    pixels = _read(tmp_path / "chains.png")
    places = np.array([[_place(pixels, frames[k][1][chain]) for k in range(4)] for chain in range(3)])
    assert (np.diff(places[:, :, 1], axis=1) > 0).all() and (np.diff(places[:, :, 0], axis=0) > 0).all()
    assert (places[:, :, 0] == places[:, :1, 0]).all() and (places[:, :, 1] == places[:1, :, 1]).all()
    assert not _find(pixels, frames[0][1][3])


def test_about_ten_steps_with_the_first_and_the_last(tmp_path, digits, sheets):
    frames = [(20 * k, digits[:9]) for k in range(26)]
    energies = torch.arange(9 * 26).reshape(9, 26).float()
    save_chain_grid(tmp_path / "chains.png", frames, energies)
    (call,) = sheets
    steps = [int(text.removeprefix("step ")) for text in call[2]]
    assert len(steps) == 10 and steps[0] == 0 and steps[-1] == 500 and steps == sorted(set(steps))
    assert [[float(text) for text in row] for row in _captions(call)] == energies[:8][
        :, [s // 20 for s in steps]
    ].tolist()
    _read(tmp_path / "chains.png")


def test_one_chain_with_one_frame_and_no_energy(tmp_path, digits, sheets):
    save_chain_grid(tmp_path / "chains.png", [(0, digits[:1])], torch.full((1, 1), torch.nan))
    assert _captions(sheets[0]) == [["nan"]]
    _place(_read(tmp_path / "chains.png"), digits[0])


def test_a_caption_is_written_under_its_tile(tmp_path, digits):
    save_chain_grid(tmp_path / "chains.png", [(0, digits[:1])], torch.tensor([[-12.5]]))
    pixels = _read(tmp_path / "chains.png")
    top, left = _place(pixels, digits[0])
    below = pixels[top + 82 : top + 100, left : left + 80]
    assert (below < 128).any() and (below[:, :5] == 255).all() and (below[:, -5:] == 255).all()


def test_points_in_the_plane_are_drawn_as_paths(tmp_path):
    frames = [(10 * k, torch.randn(50, 2)) for k in range(7)]
    axes = paths_figure(frames, n_chains=8).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), frames[-1][1].numpy())
    paths = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 7]
    assert len(paths) == 8
    for chain, path in enumerate(paths):
        np.testing.assert_array_equal(path, np.stack([points[chain].numpy() for _, points in frames]))
    marks = [(line.get_marker(), *line.get_xydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert marks[0] == ("o", *frames[0][1][0].tolist()) and marks[1] == ("s", *frames[-1][1][0].tolist())
    save_chain_grid(tmp_path / "paths.png", frames, torch.zeros(50, 7))
    _read(tmp_path / "paths.png")


def test_one_point_in_one_frame(tmp_path):
    save_chain_grid(tmp_path / "paths.png", [(0, torch.tensor([[1.0, torch.nan]]))], torch.zeros(1, 1))
    _read(tmp_path / "paths.png")


# ----------------------------------------------------------------------------------------------------------- traces


def test_bands_are_the_quantiles_over_the_chains():
    trace, steps = torch.randn(200, 11), list(range(0, 110, 10))
    axes = traces_figure(steps, {"E": trace}, "kla").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(trace.double().numpy(), axis=0))
    for band, shares in zip(axes.collections, [(0.05, 0.95), (0.25, 0.75)], strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        low, high = np.quantile(trace.double().numpy(), shares, axis=0)
        assert heights.min() == low.min() and heights.max() == high.max()
    assert axes.get_ylabel() == "E"


def test_warm_up_is_shaded_and_named_and_one_is_marked_for_the_norm_alone():
    traces = {"E": torch.randn(5, 4), LATENT_NORM: torch.rand(5, 4)}
    figure = traces_figure([0, 10, 20, 30], traces, "kla", n_warmup=20)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "warm-up (20 steps)" in texts and "1: draws of the prior N(0, I)" in texts
    assert len(texts) == len(set(texts))
    for axes in figure.axes:
        assert axes.patches[0].get_x() == 0 and axes.patches[0].get_width() == 20
    energy, norm = figure.axes
    assert len(energy.lines) == 1 and len(norm.lines) == 2 and list(norm.lines[1].get_ydata()) == [1.0, 1.0]
    assert not traces_figure([0, 1], {"E": torch.randn(5, 2)}, "kla").axes[0].patches


@pytest.mark.parametrize(
    ("steps", "trace"),
    [
        ([0], torch.randn(1, 1)),
        ([0], torch.randn(9, 1)),
        ([0, 5, 10], torch.randn(1, 3)),
        ([0, 5, 10], torch.full((4, 3), 1523.44)),
        ([0, 5, 10], torch.full((4, 3), torch.nan)),
        ([0, 5, 10], torch.full((4, 3), torch.inf)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_traces_are_drawn(tmp_path, steps, trace):
    save_traces(tmp_path / "traces.png", steps, {"E": trace, LATENT_NORM: trace}, "kla", n_warmup=3)
    _read(tmp_path / "traces.png")


def test_chains_that_are_not_finite_are_left_out_and_counted():
    trace = torch.tensor([[1.0, 2.0], [1.0, torch.nan], [1.0, torch.inf], [1.0, 4.0]])
    axes = traces_figure([0, 1], {"E": trace}, "kla").axes[0]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 3.0]
    assert axes.get_title(loc="right") == "not finite in 2 of 4 chains"


# ------------------------------------------------------------------------------------------------ neighbours, extremes


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_each_sample_stands_beside_its_neighbour_closest_first(tmp_path, digits, sheets, kind):
    images = digits[:8] if kind == "grey" else _colour(8)
    distances = torch.tensor([0.3, 0.1, torch.nan, 0.2])
    save_nearest(tmp_path / "nearest.png", images[:4], images[4:], distances, typical=0.25)
    pixels = _read(tmp_path / "nearest.png")
    lefts = []
    for i in (1, 3, 0, 2):
        (top, left), (other_top, right) = _place(pixels, images[i]), _place(pixels, images[4 + i])
        assert top == other_top and 0 < right - left <= 90
        lefts.append(left)
    assert lefts == sorted(lefts)
    assert _captions(sheets[0]) == [["0.100", "0.200", "0.300", "nan"]]
    assert "typically 0.25" in sheets[0][1]


def test_of_many_samples_the_closest_are_shown_and_the_title_says_so(tmp_path, digits, sheets):
    save_nearest(tmp_path / "nearest.png", digits[:100], digits[100:200], torch.linspace(1, 0, 100), typical=None)
    assert sum(map(len, _captions(sheets[0]))) == 24
    assert "24 of 100" in sheets[0][1] and "Held-out" not in sheets[0][1]
    assert _find(_read(tmp_path / "nearest.png"), digits[99])


@pytest.mark.parametrize("size", [8, 32, 256])
def test_pictures_of_one_image_and_of_any_size_fit(tmp_path, size):
    images = _colour(20, size)
    save_nearest(tmp_path / "pairs.png", images, images, torch.zeros(20), typical=0.1)
    save_nearest(tmp_path / "pair.png", images[:1], images[:1], torch.zeros(1), typical=0.1)
    save_extremes(tmp_path / "extremes.png", images, torch.randn(20) * 1e6)
    save_extremes(tmp_path / "extreme.png", images[:1], torch.tensor([torch.nan]))
    save_chain_grid(tmp_path / "chains.png", [(10**k, images) for k in range(10)], torch.randn(20, 10) * 1e9)
    for name in ("pairs", "pair", "extremes", "extreme", "chains"):
        _read(tmp_path / f"{name}.png")


def test_extremes_are_the_lowest_and_the_highest(tmp_path, digits, sheets):
    energies = torch.randperm(40, generator=torch.Generator().manual_seed(0)).float()
    save_extremes(tmp_path / "extremes.png", digits[:40], energies)
    pixels, order = _read(tmp_path / "extremes.png"), energies.argsort().tolist()
    lowest, highest = ([_place(pixels, digits[i]) for i in some] for some in (order[:8], order[::-1][:8]))
    assert lowest == sorted(lowest) and highest == sorted(highest)
    assert len({top for top, _ in lowest}) == len({top for top, _ in highest}) == 1 and lowest[0][0] < highest[0][0]
    assert [heading for heading, _ in sheets[0][0]] == ["lowest energy (most real to the energy)", "highest energy"]
    assert [[float(t) for t in row] for row in _captions(sheets[0])] == [list(range(8)), list(range(39, 31, -1))]


def test_an_energy_that_is_not_a_number_counts_as_highest(tmp_path, digits, sheets):
    save_extremes(tmp_path / "extremes.png", digits[:4], torch.tensor([2.0, torch.nan, -torch.inf, 1.0]))
    assert _captions(sheets[0]) == [["-inf", "1.00"], ["nan", "2.00"]]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([-310.24, -290.71], ["-310.2", "-290.7"]),
        ([1523.401, 1523.449], ["1523.4010", "1523.4490"]),
        ([0.0, -0.0], ["0.00", "0.00"]),
        ([7.0, torch.nan, torch.inf], ["7.00", "nan", "inf"]),
        ([1e-7, 2e-7], ["1e-07", "2e-07"]),
        ([1e12, -1e12], ["1e+12", "-1e+12"]),
        ([torch.nan], ["nan"]),
    ],
)
def test_numbers_have_the_decimals_that_tell_them_apart(values, texts):
    assert numbers(torch.tensor([values], dtype=torch.float64)) == [texts]


# ----------------------------------------------------------------------------------------------------- quality and cost


def _point(gradients, seconds, **scores):
    return {"gradients": gradients, "seconds": seconds, **scores}


def _lines(axes):
    """Label -> (x, y) of the lines of a panel with error bars."""
    return {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}


def test_score_curves_are_the_points_in_order_of_cost():
    kla = [_point(100, 4.0, fid=3.0, fid_standard_error=0.5), _point(10, 1.0, fid=7.0, fid_standard_error=0.25)]
    figure = score_figure({"none": [_point(0, 0.1, fid=9.0)], "kla": kla, "ula": [_point(50, 2.0, fid=5.0)]})
    by_gradients, by_seconds = figure.axes
    assert _lines(by_gradients) == {"kla": [[10, 7.0], [100, 3.0]], "ula": [[50, 5.0]]}
    assert _lines(by_seconds) == {"kla": [[1.0, 7.0], [4.0, 3.0]], "ula": [[2.0, 5.0]]}
    bars = by_gradients.containers[0].lines[2][0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [[6.75, 7.25], [2.5, 3.5]]
    (base,) = (line for line in by_gradients.lines if line.get_label() == "base")
    assert base.get_linestyle() == "--" and list(base.get_ydata()) == [9.0, 9.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "kla", "ula"]
    assert by_gradients.get_xscale() == "log"


def test_a_line_that_starts_at_the_base_has_room_for_zero():
    line = [_point(g, g * 0.01, kid=1.0 / (1 + g)) for g in (0, 20, 200, 2000)]
    axes = score_figure({"kla": line}).axes[0]
    assert axes.get_xscale() == "symlog" and axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
    assert axes.get_xticklabels()[0].get_text() == "0"
    assert _lines(axes)["kla"][0] == [0, 1.0]


def test_missing_scores_leave_out_their_panels_and_their_points():
    kla = [_point(10, 1.0, fid=4.0, precision=None, recall=0.5), _point(20, 2.0, fid=float("nan"), recall=0.6)]
    figure = score_figure({"kla": kla, "ula": [{"gradients": 30, "recall": 0.7}]})
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["FID (lower is better)", "recall (higher is better)"]
    assert _lines(figure.axes[0]) == {"kla": [[10, 4.0]]}
    assert set(_lines(figure.axes[2])) == {"kla", "ula"} and set(_lines(figure.axes[3])) == {"kla"}
    assert len(score_figure({"kla": [{"seconds": 1.0, "kid": 0.1}]}).axes) == 1


def test_sixteen_samplers_can_be_told_apart(tmp_path):
    scores = {"fid": 4.0, "kid": 0.1, "precision": 0.5, "recall": 0.4}
    series = {"base": [_point(0, 0.0, **scores)]}
    series |= {f"sampler-{k}": [_point(g, g * 0.1, **scores) for g in (10, 1000)] for k in range(16)}
    figure = score_figure(series)
    assert len(figure.axes) == 8
    looks = [(c.lines[0].get_color(), c.lines[0].get_linestyle()) for c in figure.axes[0].containers]
    assert len(set(looks)) == 16 and len({c.lines[0].get_marker() for c in figure.axes[0].containers}) == 16
    save_score_curves(tmp_path / "scores.png", series)
    _read(tmp_path / "scores.png")


@pytest.mark.parametrize(
    "series", [{}, {"kla": []}, {"kla": [{"gradients": 3}]}, {"base": [_point(0, 0.0, fid=3.0)]}, {"a": [{"fid": 1.0}]}]
)
def test_nothing_or_the_base_alone_is_still_a_picture(tmp_path, series):
    save_score_curves(tmp_path / "scores.png", series)
    _read(tmp_path / "scores.png")


# -------------------------------------------------------------------------------------------------------- grid and film


def test_the_grid_shows_where_chains_started_on_the_left(tmp_path, digits):
    save_grid(tmp_path / "grid.png", digits[:100], digits[100:200])
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    native = pixels[::4, ::4]
    assert np.array_equal(native[:8, :8], digits[100, 0].numpy()) and np.array_equal(
        native[-8:, -8:], digits[99, 0].numpy()
    )


@pytest.mark.parametrize("kind", ["grey", "colour", "points"])
def test_the_film_has_a_frame_for_each_step(tmp_path, digits, kind):
    data = {"grey": digits, "colour": _colour(80), "points": torch.randn(80, 2)}[kind]
    save_chain(tmp_path / "chain.gif", [(k, data[20 * k : 20 * k + 20]) for k in range(3)])
    assert Image.open(tmp_path / "chain.gif").n_frames == 3


def test_points_that_diverged_do_not_stop_the_pictures(tmp_path):
    points = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [torch.inf, 1.0]])
    save_chain(tmp_path / "chain.gif", [(0, torch.zeros(3, 2)), (1, points)])
    save_grid(tmp_path / "grid.png", points, points * torch.nan)
    _read(tmp_path / "grid.png")
