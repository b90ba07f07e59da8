"""The figures of a page: what is drawn is what was measured, and what cannot be drawn is said."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gebm_cli.experiment.report.figures import (
    energy_histogram,
    limits_of,
    null_histogram,
    point_frames,
)
from gebm_cli.experiment.report.learning import _grouped, learning_curves, overlaid_curves
from gebm_cli.experiment.report.panels import running_median
from gebm_cli.experiment.report.series import Series, downsample, medians
from gebm_cli.experiment.report.words import LABELS, label_of, number, numbers, shortened, step_word

STEPS = np.arange(50, 2001, 50)
SVG = "{http://www.w3.org/2000/svg}"


def line(values, steps=None):
    values = np.asarray(values, np.float64)
    steps = np.arange(50, 50 * len(values) + 1, 50) if steps is None else np.asarray(steps)
    return Series(steps.astype(np.int64), values, len(values))


def ramp(first, last, n=40):
    return line(np.linspace(first, last, n))


def texts(picture):
    return ["".join(t.itertext()) for t in ET.fromstring(picture.content).iter(f"{SVG}text")]


def paths(picture, colour):
    """The polylines in a colour: arrays (n, 2) of pixels."""
    found = [
        p.get("d") for p in ET.fromstring(picture.content).iter(f"{SVG}path") if p.get("stroke") == f"var({colour})"
    ]
    return [np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", d), float) for d in found]


def curve(picture, colour="--series-1"):
    return max(paths(picture, colour), key=len)


# ------------------------------------------------------------------------------------------------------ learning curves


def test_points_behind_are_grey_and_share_the_axes():
    frames, behind = np.zeros((2, 5, 2)), np.array([[1.0, 1.0], [-1.0, -1.0]])
    with_data, alone = point_frames(frames, behind)[0], point_frames(np.concatenate([frames, frames + 1], 1))[0]
    pixels = np.asarray(Image.open(io.BytesIO(with_data)).convert("RGBA")).astype(int)
    corner = pixels[: len(pixels) // 4, -len(pixels) // 4 :]
    seen = corner[corner[..., 3] > 60]
    assert len(seen) and (abs(seen[:, :3] - 128) <= 2).all(), "the data in grey, in the upper right"
    middle = pixels[len(pixels) // 2, len(pixels) // 2]
    assert middle[3] > 200 and abs(middle[:3] - middle[0]).max() > 20, "the frame's own points in colour"
    assert limits_of(frames, behind)[0][1] > 1.05 and alone != with_data


def test_metrics_share_panels_by_what_they_are():
    """Objective with its two estimates, log-partition with its estimate, gradients, rate with its rule; errors none."""
    names = (
        "lr odd watched_kid critic_grad_norm kale_held_out kale_held_out_standard_error base_loss kale penalty".split()
    )
    names += "log_partition_estimate kale_train base_grad_norm log_partition rule_p_value rule_multiplier critic_value".split()
    pictures = learning_curves("train-base", {name: ramp(1, 2) for name in names}, "gebm train")
    titles = [next(t for t in texts(p) if t in TITLES) for p in pictures]
    assert titles == TITLES and all(p.reproduce == "gebm train" for p in pictures)
    groups = _grouped({name: ramp(1, 2) for name in names if "error" not in name})
    assert set(groups["kale"]) == {"kale", "kale_train", "kale_held_out"}
    assert set(groups["gradients"]) == {"critic_grad_norm", "base_grad_norm"}
    assert set(groups["lr"]) == {"lr", "rule_p_value", "rule_multiplier"}
    assert {"training data", "held-out data", "minibatches"} <= set(texts(pictures[0]))
    assert {"learned c", "estimated from base samples"} <= set(texts(pictures[3]))


TITLES = [
    *("KALE", "objective of the critic", "loss of the base", "log-partition", "penalty", "gradient norms"),
    *("learning rate", "watched KID of the base", "odd"),
]


@pytest.mark.parametrize("name", ["watched_kale", "watched_kid", "watched_nll"])
def test_a_watched_score_says_of_which_points_it_is(name):
    """Never of the held-out ones; on the page of one run and on that of several."""
    (one,) = learning_curves("s", {name: ramp(2, 1)}, "")
    for picture in (one, overlaid_curves({"a": {name: ramp(2, 1)}, "b": {}}, name, label_of(name))):
        assert "validation points, or" in picture.caption and "training points where there are none" in picture.caption
        assert "held-out" not in " ".join([picture.caption, picture.alt, *texts(picture)])
    assert ("base samples against" in one.caption) == (name == "watched_kid")


def test_titles_and_names_of_lines_fit_the_picture(monkeypatch):
    """The longest there are: with the letters of matplotlib's font, which is a wide one, nothing is cut or covers another."""
    made, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: made.append(self) or savefig(self, *args, **options)
    )
    learning_curves("s", {name: ramp(1e-3, 2e-3) for name in [*LABELS, "many words " * 9]}, "")
    overlaid_curves({"run-name" * k: {"kale": ramp(0, 1)} for k in range(1, 9)}, "kale", "k" * 99)
    sets = ("training data", "held-out data", "base", "GEBM samples")
    energy_histogram({name: np.arange(9.0) for name in sets}, 1, "")
    null_histogram(record(0.3) | {"test": "a test of a long name " * 3}, "")
    for drawn in made:
        FigureCanvasAgg(drawn).draw()
        legends = [*drawn.legends, *(axes.get_legend() for axes in drawn.axes if axes.get_legend())]
        boxes, whole = [words.get_window_extent() for words in (*drawn.texts, *legends)], drawn.bbox
        assert all(
            whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1 for box in boxes
        )
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
        assert not any(box.overlaps(axes.get_window_extent()) for box in boxes for axes in drawn.axes)
    assert len(made) > 10


def test_every_metric_is_in_one_panel_and_in_one_alone():
    """Also an estimate without what it estimates, a rule without a rate, names with parts that are no parts."""
    for names in (
        ["log_partition_estimate"],
        ["rule_p_value"],
        ["x_train"],
        ["x_train", "x_held_out"],
        ["a_estimate", "a"],
    ):
        groups = _grouped({name: ramp(0, 1) for name in names})
        assert sorted(name for group in groups.values() for name in group) == sorted(names)
    assert len(_grouped({"x_train": ramp(0, 1), "x_held_out": ramp(0, 1)})) == 1


def test_a_curve_goes_through_its_values():
    """The pixels of the line are an affine function of step and value, to the rounding of coordinates."""
    values = np.random.default_rng(0).normal(size=40)
    (picture,) = learning_curves("s", {"kale": line(values)}, "")
    drawn = curve(picture)
    for pixels, true in zip(drawn.T, (STEPS, values)):
        fit = np.polyfit(true, pixels, 1)
        assert np.abs(np.polyval(fit, true) - pixels).max() < 0.02
    assert np.corrcoef(drawn[:, 1], values)[0, 1] < -0.9999  # up is smaller in SVG


def test_the_words_of_a_picture_are_its_numbers():
    """First, last, and extremes that are neither, each with its step."""
    values = np.r_[9.4, 3.0, 0.31, 0.5, 0.37]
    (picture,) = learning_curves("train-base", {"kale": line(values)}, "")
    assert picture.alt == "train-base: KALE from 9.4 at step 50 to 0.37 at step 250, lowest 0.31 at step 150"
    (picture,) = learning_curves("s", {"lr": line([5e-5] * 3)}, "")
    assert picture.alt == "s: learning rate 5e-5 from step 50 to 150"
    assert ET.fromstring(picture.content).get("aria-label") == picture.alt


def test_what_is_not_finite_is_marked_and_said():
    """Marks as many as the values, a gap in the line, and a sentence; infinity and numbers beyond all axes alike."""
    values = np.linspace(1, 2, 40)
    values[[10, 11, 20]] = np.nan, np.inf, 1e200
    (picture,) = learning_curves("s", {"kale": line(values)}, "")
    assert "is not finite or beyond 1e100 at some steps from 550 to 1050 (marks at the top edge)" in picture.caption
    marks = [u for u in ET.fromstring(picture.content).iter(f"{SVG}use") if u.get("fill") == "var(--series-1)"]
    assert len(marks) == 3 and len({u.get("y") for u in marks}) == 1
    assert len(curve(picture)) == 37
    (picture,) = learning_curves("s", {"kale": line([np.nan] * 3)}, "")
    assert picture.alt == "s: KALE is nowhere finite"


@pytest.mark.parametrize(
    "values",
    [
        [1e-300],
        [0.0],
        [-3.0] * 5,
        [1e99, -1e99, 1],
        [5e-324, 0],
        [1, 1 + 1e-15],
        [np.inf],
        [1e-12, 1e12],
        [7e5, 7e5 + 1e-4],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["kale", "lr", "critic_grad_norm", "watched_nll", "some $odd <name>"])
def test_no_numbers_are_too_odd_to_be_drawn(name, values):
    """One value, equal ones, huge, tiny, far apart: a picture in well-formed SVG with different words on its ticks."""
    (picture,) = learning_curves("s", {name: line(values), f"{name}_standard_error": line([0.1] * len(values))}, "")
    assert picture.alt and ET.fromstring(picture.content) is not None


def test_gradient_norms_over_orders_are_on_a_logarithmic_axis():
    """Even in the logarithm there; a lone spike leaves the bulk to be seen; within a factor of 100 the axis is linear."""
    values = np.logspace(-2, 2, 40)
    (picture,) = learning_curves("s", {"critic_grad_norm": line(values)}, "")
    steps = np.diff(curve(picture)[:, 1])
    assert "Logarithmic axis" in picture.caption and np.ptp(steps) < 0.05
    (picture,) = learning_curves("s", {"critic_grad_norm": ramp(1, 50)}, "")
    assert picture.caption == ""
    (picture,) = learning_curves("s", {"base_loss": line(np.r_[np.sin(np.arange(99)), 1e8])}, "")
    bulk = curve(picture)[:-1, 1]
    assert "Logarithmic axis beyond" in picture.caption and np.ptp(bulk) > 10


def test_error_bars_are_at_the_steps_where_errors_are_known():
    """Bars are as long as twice the standard error on the scale of the line, and not there where it is not finite."""
    values, errors = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0.1, 0.2, np.nan, 0.4])
    steps = np.array([500, 1000, 1500, 2000])
    series = {"kale_held_out": line(values, steps), "kale_held_out_standard_error": line(errors[1:], steps[1:])}
    (picture,) = learning_curves("s", series, "")
    drawn = curve(picture)
    bars = [p for p in paths(picture, "--series-1") if len(p) == 2 and p[0, 0] == p[1, 0]]
    scale = abs(np.ptp(drawn[:, 1])) / np.ptp(values)
    assert [round(abs(np.ptp(b[:, 1])) / scale, 2) for b in bars] == [
        0.4,
        0.8,
    ] and "Bars: one standard error" in picture.caption
    assert [b[0, 0] for b in bars] == pytest.approx([drawn[1, 0], drawn[3, 0]], abs=0.02)


def test_many_values_are_drawn_as_their_running_median_over_faint_ones():
    """The median passes by lone spikes, of thinned series too, and the faint line reaches every extreme."""
    rng = np.random.default_rng(0)
    values = rng.normal(1, 0.01, 50_000)
    values[rng.choice(50_000, 4000, replace=False)] = 100.0
    steps = np.arange(50_000)
    thinned = Series(*downsample(steps, values, 600), 50_000, medians(steps, values, 600))
    few = Series(steps[:1000], values[:1000], 1000)
    for series in (thinned, few):
        (picture,) = learning_curves("s", {"kale": series}, "")
        faint, median = sorted(paths(picture, "--series-1"), key=lambda p: -np.ptp(p[:, 1]))[:2]
        assert np.ptp(faint[:, 1]) > 120 and np.ptp(median[:, 1]) < 1 and "running medians" in picture.caption


def test_the_line_over_thinned_rows_is_as_quiet_as_their_medians():
    """Of uniform values: medians of buckets of 83 vary by some .06, those of the thinned values alone by several times that."""
    steps, values = np.arange(50_000), np.random.default_rng(0).uniform(size=50_000)
    series = Series(*downsample(steps, values, 600), 50_000, medians(steps, values, 600))
    (picture,) = learning_curves("s", {"kale": series}, "")
    faint, median = sorted(paths(picture, "--series-1"), key=lambda p: -np.ptp(p[:, 1]))[:2]
    assert np.ptp(median[:, 1]) < 0.12 * np.ptp(faint[:, 1])


def test_the_running_median_is_that_of_a_window():
    """Against numpy's median of each window, away from the ends."""
    values = np.random.default_rng(1).normal(size=400)
    found = running_median(values)
    assert found.shape == values.shape
    assert found[5:-5] == pytest.approx([np.median(values[k - 5 : k + 6]) for k in range(5, 395)])


def test_the_cuts_of_the_rule_are_marked_where_its_multiplier_falls():
    """Two falls, the first of them from the 1 it starts with: two dashed lines in either panel, their steps in the caption."""
    multiplier = line([0.5, 0.5, 0.25, 0.25], [500, 1000, 1500, 2000])
    series = {"lr": ramp(0.1, 0.05), "rule_multiplier": multiplier, "rule_p_value": line([0.9, 0.02], [500, 2000])}
    (picture,) = learning_curves("s", series, "")
    assert (
        "Cut by the rule at steps 500, 1500 (dashed)" in picture.caption
        and "the last 0.02 at step 2000" in picture.caption
    )
    dashed = [p for p in ET.fromstring(picture.content).iter(f"{SVG}path") if p.get("stroke-dasharray")]
    assert len(dashed) == 4 and "p-value of the rule" in texts(picture)
    (picture,) = learning_curves("s", series | {"rule_multiplier": line([1.0] * 3)}, "")
    assert "Never cut by the rule" in picture.caption


@pytest.mark.parametrize(("name", "best"), [("watched_kale", "3 at step 100"), ("watched_kid", "1 at step 150")])
def test_the_best_score_is_ringed(name, best):
    """The largest KALE, the smallest KID."""
    (picture,) = learning_curves("s", {name: line([2.0, 3.0, 1.0, np.nan])}, "")
    assert f"Best, ringed: {best}" in picture.caption and 'stroke="var(--ink)"' in picture.content


# ------------------------------------------------------------------------------------------------------------- overlays


def test_a_metric_of_several_runs_is_drawn_where_it_is_known():
    """A line for each run that has it, its name as it is; runs without it are named; none at all is no picture."""
    hostile = "</svg><script>$x_"
    runs = {
        hostile: {"kale": ramp(0, 1)},
        "b": {"kale": ramp(1, 0)},
        "c": {"lr": ramp(0, 1)},
        "d": {"kale": line([np.nan])},
    }
    picture = overlaid_curves(runs, "kale", "KALE")
    assert {hostile, "b", "KALE"} <= set(texts(picture)) and "c" not in texts(picture)
    assert "Not known of c, d" in picture.caption and "b from 1 at step 50 to 0 at step 2000" in picture.alt
    assert len(curve(picture, "--series-1")) == len(curve(picture, "--series-2")) == 40
    assert overlaid_curves(runs, "penalty", "penalty") is None and overlaid_curves({}, "kale", "KALE") is None


@pytest.mark.parametrize("name", ["caf\udce9", "run\x1b[31m", "標本"])
def test_a_run_of_any_name_has_its_curve(name):
    """A folder's name that is no text, one with control characters, one in letters that matplotlib's font lacks."""
    picture = overlaid_curves({name: {"kale": ramp(0, 1)}}, "kale", name)
    assert picture.content.encode() and all(text.isprintable() for text in texts(picture))


# ----------------------------------------------------------------------------------------------------------- histograms


def test_energies_are_described_and_what_is_not_drawn_is_counted():
    """Medians against numpy's; two without a finite energy, one far out; the axis stays with the bulk."""
    rng = np.random.default_rng(0)
    base = rng.normal(4, 2, 1000)
    picture = energy_histogram(
        {"training data": rng.normal(-3, 1, 500), "base": np.r_[base, np.nan, np.inf, 1e9]}, 2.0, "go"
    )
    assert (
        "2 of 1003 of base have no finite energy." in picture.caption
        and "1 of 1001 of base are beyond" in picture.caption
    )
    assert "training data (n = 500)" in picture.caption and "beta = 2" in picture.caption and picture.reproduce == "go"
    assert f"base: median {number(np.median(base))}," in picture.alt
    ticks = [float(t.replace("−", "-")) for t in texts(picture) if re.fullmatch("−?[\\d.]+(e\\d+)?", t)]
    assert max(ticks) < 50
    assert "beta" not in energy_histogram({"base": base}, None, "").caption


def test_of_the_law_of_the_samples_the_caption_says_what_it_is_told():
    """What a sampler draws from is not known here; the axis is about weights relative to the base."""
    energies = {"base": np.r_[0.0, 1.0, np.nan]}
    caption = energy_histogram(energies, 0.5, "", "They are from the flow.").caption
    assert caption == (
        "Energies of base (n = 2). The samples were drawn at beta = 0.5. They are from the flow. "
        "1 of 3 of base have no finite energy."
    )
    words = texts(energy_histogram(energies, 0.5, ""))
    assert "energy E: the lower, the more weight against the base" in words and "density" not in caption


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 9, [np.nan], [1e99, -1e99], [0.0, 5e-324]], ids=str)
def test_any_energies_are_drawn(values):
    """None, one, equal ones, none finite."""
    assert ET.fromstring(energy_histogram({"base": np.array(values)}, 1.0, "").content) is not None


def test_heights_of_an_energy_histogram_are_shares():
    """Two sets of one law and of different sizes are equally high."""
    rng = np.random.default_rng(0)
    picture = energy_histogram({"a": rng.normal(size=50_000), "b": rng.normal(size=5000)}, None, "")
    heights = [np.ptp(curve(picture, f"--series-{k}")[:, 1]) for k in (1, 2)]
    assert heights[0] == pytest.approx(heights[1], rel=0.1)


def record(statistic, low=-1.0, high=1.0, counts=(1, 5, 9, 5, 1), **more):
    null = {"low": low, "high": high, "counts": list(counts), "n": sum(counts)}
    return {"test": "mmd", "statistic": statistic, "p_value": 0.04, "null_histogram": null, **more}


@pytest.mark.parametrize(
    ("statistic", "words"),
    [
        (0.3, "0.3, is within the range of the relabelled ones; p = 0.04"),
        (2.0, "2, is above the range of the relabelled ones; p = 0.04"),
        (-1.5, "-1.5, is below the range of the relabelled ones; p = 0.04"),
        (900.0, "900, is above the range of the relabelled ones, off the axis (arrow); p = 0.04"),
        (None, "the observed statistic is not known; p = 0.04"),
        (float("nan"), "the observed statistic is not known; p = 0.04"),
    ],
)
def test_the_observed_statistic_is_marked_and_placed_in_words(statistic, words):
    """Within the null, beyond it, far beyond it where an arrow stands for it, and not known."""
    picture = null_histogram(record(statistic, x="a <b>", y="c"), "gebm test")
    assert words in picture.alt and "21 relabelled statistics from -1 to 1" in picture.alt
    assert picture.caption.startswith("a <b> against c: ") and "statistic (21 relabellings)" in texts(picture)
    marks = paths(picture, "--series-2")
    assert bool(marks) == ("known" not in words)


def test_the_mark_is_at_the_statistic_on_the_scale_of_the_bins():
    """At 0 it is in the middle of bins from -1 to 1."""
    picture = null_histogram(record(0.0), "")
    bars = re.findall(r'd="M ([\d.]+) [^"]*"[^>]* fill="var\(--series-8\)"', picture.content)
    (mark,) = paths(picture, "--series-2")
    edges = np.array(
        re.findall(r"[ML] ([\d.]+)", re.search(r'd="([^"]*)"[^>]* fill="var\(--series-8\)"', picture.content)[1]), float
    )
    assert bars and mark[0, 0] == pytest.approx((edges.min() + edges.max()) / 2, abs=0.1)


def test_a_null_of_one_value_is_drawn_and_one_without_bins_refused():
    """All relabelled statistics equal; no bins, or ends that are not finite."""
    assert "5 relabelled" in null_histogram(record(3.0, 2.0, 2.0, [5]), "").alt
    for bad in (record(1.0, float("nan")), record(1.0, counts=[])):
        with pytest.raises(ValueError, match="null_histogram"):
            null_histogram(bad, "")


# --------------------------------------------------------------------------------------------------------------- points


def test_frames_of_points_are_on_common_axes():
    """A point that moves from the left edge to the right is seen to; the others stay where they are."""
    frames = np.zeros((3, 4, 2))
    frames[:, 1:] = [[-1, -1], [1, 1], [-1, 1]]
    frames[:, 0, 0] = -0.8, 0.0, 0.8
    pictures = [Image.open(io.BytesIO(data)) for data in point_frames(frames)]
    assert [(p.format, p.size, p.mode) for p in pictures] == [("WEBP", (360, 360), "RGBA")] * 3
    alphas = [np.asarray(p)[:, :, 3].astype(float) for p in pictures]
    (left, right), _ = limits_of(frames)
    for alpha, x in zip(alphas, (-0.8, 0.0, 0.8)):
        middle = alpha[160:200].sum(0)
        centre = (middle * (np.arange(360) + 0.5)).sum() / middle.sum()
        assert centre == pytest.approx(360 * (x - left) / (right - left), abs=0.3)
    assert np.array_equal(alphas[0][:60], alphas[2][:60]) and alphas[0][:60].sum() > 0


def test_points_that_are_not_finite_are_left_out_and_far_ones_lie_on_the_edge():
    """The axes are those of the bulk; no finite point at all is an empty picture."""
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(2, 900, 2))
    frames[1, 0], frames[1, 1] = (1e12, 0), (np.nan, 0)
    assert all(abs(bound) < 6 for side in limits_of(frames) for bound in side)
    edge = [np.asarray(Image.open(io.BytesIO(data)))[:, 354:359, 3].sum() for data in point_frames(frames)]
    assert edge[1] > edge[0]
    (empty,) = point_frames(np.full((1, 3, 2), np.inf))
    assert np.asarray(Image.open(io.BytesIO(empty)))[:, :, 3].max() == 0


# ---------------------------------------------------------------------------------------------------------------- words


def test_numbers_are_short_and_told_apart():
    """Three digits unless more are needed; exponents without zeros; steps in thousands and millions."""
    told = [number(x) for x in (0.3704, 1990.4, 1234567, 1e-5, 1.5e100, -2.0)]
    assert told == ["0.37", "1990", "1.23e6", "1e-5", "1.5e100", "-2"]
    assert numbers([0.07001, 0.07002]) == ["0.07001", "0.07002"] and numbers([1.0, 1.0]) == ["1", "1"]
    assert [step_word(s) for s in (0, 500, 4000, 20_000, 1_500_000)] == ["0", "500", "4000", "20k", "1.5M"]


def test_long_texts_keep_both_ends():
    """As many letters as there is room for, and all of a text that fits."""
    assert (
        shortened("a" * 40) == "a" * 40 and shortened("abcdefghijkl", 8) == "abc…ijkl" and shortened("a\nb\0") == "a b?"
    )


def test_nothing_of_a_page_imports_torch():
    """In a fresh interpreter, with all modules of figures loaded."""
    import subprocess
    import sys

    code = "import sys, gebm_cli.experiment.report.figures; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
