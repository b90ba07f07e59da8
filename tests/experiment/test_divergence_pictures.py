"""Pictures of divergences: the numbers as in the record, one panel for each witness, the samples it weighs most."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from gebm_cli.core.divergences.kinds import Found
from gebm_cli.core.divergences.names import KINDS
from gebm_cli.core.fields import KernelField
from gebm_cli.core.kernels import Gaussian
from gebm_cli.experiment.divergence_pictures import (
    WITNESSES,
    DivergencePicture,
    divergence_figure,
    picture_of,
    save_divergence_picture,
)
from gebm_cli.experiment.divergence_words import NAMES, spelled
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.short_names import shorten_both
from gebm_cli.experiment.two_sample_panels import WitnessImages, WitnessLine, WitnessMap, WitnessValues, levels


@pytest.fixture(autouse=True)
def no_warnings():
    """A warning of the drawing, say of a missing glyph or of a layout that does not fit, fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@dataclass(frozen=True)
class Linear:
    """f(t) = slope * t_1."""

    slope: float

    def value(self, t: Tensor) -> Tensor:
        return self.slope * t[:, 0].double()

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(t), torch.tensor([self.slope] + [0.0] * (t.shape[1] - 1)).expand_as(t)


def _told(kind="mmd", value=0.5, error=0.012, infinite=False, at_least=None):
    told = {"kind": kind, "value": None if infinite else value, "standard_error": error, "infinite": infinite}
    return told | {"direction": "unbiased", "at_least": at_least}


def _found(kind, x, y, field=None):
    at = (x[:, 0].double(), y[:, 0].double())
    return Found(kind, 0.5, 0.01, "an estimator", "unbiased", False, None, {}, at[0], at[1], field)


def _sides(generator, d=2, n=40, m=30, images=False):
    x, y = torch.randn(n, d, generator=generator) + 1, torch.randn(m, d, generator=generator)
    sides = []
    for name, rows in (("A", x), ("B", y)):
        data = torch.arange(len(rows), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4) if images else rows
        sides.append(Side(name, {"features": "pixels"}, Input(name, data), rows))
    every = tuple(torch.arange(k) for k in (n, m))
    return sides[0], sides[1], x, y, dict.fromkeys(KINDS, every)


def _numbers(figure):
    """The texts of the band of numbers, drawn."""
    figure.savefig(io.BytesIO(), dpi=40)
    return figure.subfigs[0].texts


# ------------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (_told(value=0.6931, error=0.0123), "0.693 +- 0.012"),
        (_told(value=123.4, error=5.6), "123.4 +- 5.6"),
        (_told(value=1234.5, error=56), "1234 +- 56"),
        (_told(value=-0.000123, error=0.00045), "-0.00012 +- 0.00045"),
        (_told(value=2e-9, error=3e-9), "2.00e-09 +- 3e-09"),
        (_told(value=0.0361999, error=1.7e-7), "0.0362 +- 2e-07"),
        (_told("js", math.log(2), 3e-18), "0.6931 (its ceiling, log 2)"),
        (_told("js", 0.68, 3e-3), "0.6800 +- 0.0030"),
        (_told("tv", 1.0, 0.0), "1 (its ceiling)"),
        (_told("hellinger", 1.9999, 1e-5), "2 (its ceiling)"),
        (_told("w1", 2.0, 1e-17), "2"),
        (_told(value=5.0, error=None), "5"),
        (_told(value=0.25, error=0.0), "0.25"),
        (_told(infinite=True, at_least=7.123), "infinite (>= 7.12)"),
        (_told(infinite=True), "infinite"),
    ],
)
def test_a_number_is_spelled_to_its_error(told, text):
    assert spelled(told) == text


def test_every_divergence_has_its_place_in_the_band(generator):
    """Names, numbers and directions of all kinds, the infinite ones in words; none lies on another or outside."""
    told = [_told(kind, infinite=kind == "kl", at_least=3.21 if kind == "kl" else None) for kind in KINDS]
    told[0]["direction"] = "between 0.1234 and 13.25: the dual has not converged"
    a, b, x, y, rows = _sides(generator)
    found = [_found(kind, x, y, Linear(1.0)) for kind in ("mmd", "kale", "tv")]
    for picture in (DivergencePicture(("a", "b"), told), replace(picture_of(a, b, found, rows, []), told=told)):
        figure = divergence_figure(picture)
        placed = _numbers(figure)
        texts = [text.get_text() for text in placed]
        assert set(NAMES) == set(KINDS) and texts[0::3] == [NAMES[kind] for kind in KINDS]
        assert "infinite (≥ 3.21)" in texts and "0.500 ± 0.012" in texts
        boxes = [text.get_window_extent() for text in placed if text.get_text()]
        band = figure.subfigs[0].bbox
        for i, box in enumerate(boxes):
            assert band.x0 <= box.x0 and box.x1 <= band.x1 and band.y0 <= box.y0 and box.y1 <= band.y1
            assert not any(box.overlaps(other) for other in boxes[:i])


def test_a_and_b_are_named_once_for_the_figure(generator):
    """One legend, in the band of numbers, by the names that tell the two apart; no panel has its own."""
    a, b, x, y, rows = _sides(generator)
    picture = picture_of(a, b, [_found("mmd", x, y, Linear(1.0)), _found("tv", x, y, Linear(1.0))], rows, [_told()])
    names = "long/" * 30 + "one?n=5", "long/" * 30 + "other?n=5"
    figure = divergence_figure(replace(picture, names=names))
    (legend,) = figure.subfigs[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[0].startswith("A (P): long/") and labels[0].endswith("one?n=5") and labels[1].endswith("other?n=5")
    assert all(axes.get_legend() is None for axes in figure.axes)
    figure.savefig(io.BytesIO(), dpi=40)
    box = legend.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("names", "longest", "cut"),
    [
        (("gaussian:train", "gaussian:train?shift=3,0&n=2000"), 28, ("gaussian:train", "gauss…?shift=3,0&n=2000")),
        (("runs/digits-001/samples/kla-001", "runs/digits-001/samples/kla-002"), 20, ("runs/digits…kla-001", "…")),
        (("a" * 50, "b" * 50), 20, ("aaaaaaaaaa…aaaaaaaaa", "bbbbbbbbbb…bbbbbbbbb")),
        (("ring", "grid"), 4, ("ring", "grid")),
        (("$x$", "$y$"), 9, (r"\$x\$", r"\$y\$")),
    ],
)
def test_cut_names_keep_what_differs(names, longest, cut):
    """What the two do not share stays whole where it fits."""
    found = shorten_both(*names, longest)
    assert all(len(name.replace("\\", "")) <= longest for name in found)
    for name, expected in zip(found, cut):
        head, _, tail = expected.partition("…")
        assert name.startswith(head[:4]) and name.endswith(tail[-9:]), found
    assert found[0] != found[1]


# ------------------------------------------------------------------------------------------------------------- the panels


def test_witnesses_are_mmd_kale_one_critic_and_the_potential(generator):
    """f-divergences share one critic, so one panel; four at most, MMD's, KALE's and the critic's first."""
    a, b, x, y, rows = _sides(generator)
    kinds = ("w1", "kl", "js", "kale", "mmd", "energy-distance")
    picture = picture_of(a, b, [_found(kind, x, y, Linear(i + 1.0)) for i, kind in enumerate(kinds)], rows, [])
    assert [title for title, _ in picture.panels] == [
        "Witness of MMD",
        "Witness of KALE (log dP/dQ)",
        "Critic (log dP/dQ)",
        "Kantorovich potential of W1",
    ]
    assert picture.images == []
    for (_, panel), slope in zip(picture.panels[:3], (5, 4, 2)):
        assert isinstance(panel, WitnessMap) and panel.limit == pytest.approx(
            slope * torch.cat([x, y])[:, 0].abs().max()
        )
        torch.testing.assert_close(panel.values[0], slope * panel.across.double())
    few = picture_of(a, b, [_found(kind, x, y, Linear(1.0)) for kind in ("energy-distance", "mmd")], rows, [])
    assert len(few.panels) == 2 and len(WITNESSES) == 7


@pytest.mark.parametrize("kind", ["w1", "sinkhorn", "sliced-w1"])
def test_a_potential_is_drawn_about_the_middle_of_its_means(generator, kind):
    """It is known up to a constant: drawn so that its means over A and B are opposite, as a map or as values."""
    a, b, x, y, rows = _sides(generator)
    at = (x[:, 0].double() + 100, y[:, 0].double() + 100)
    found = replace(_found(kind, x, y, Linear(1.0)), witness_x=at[0], witness_y=at[1])
    middle = (at[0].mean() + at[1].mean()) / 2
    ((_, panel),) = picture_of(a, b, [found], rows, []).panels
    torch.testing.assert_close(panel.values[0], panel.across.double() - middle)
    ((_, panel),) = picture_of(a, b, [replace(found, field=None)], rows, []).panels
    assert panel.at_a.mean().item() == pytest.approx(-panel.at_b.mean().item(), abs=1e-9)
    torch.testing.assert_close(panel.at_a, at[0] - middle)


def test_a_line_is_the_function_itself(generator):
    """It is not cut off at what the function is at the samples, and the axis holds it all."""
    a, b, x, y, rows = _sides(generator, d=1)
    picture = picture_of(a, b, [_found("kl", x, y, Linear(2.0))], rows, [])
    ((_, panel),) = picture.panels
    assert isinstance(panel, WitnessLine)
    torch.testing.assert_close(panel.values, 2 * panel.grid.double())
    assert panel.values.abs().max() > 2 * torch.cat([x, y]).abs().max(), "the grid goes beyond the samples"
    _, right = divergence_figure(picture).axes
    assert right.get_ylim()[1] > panel.values.abs().max() and right.get_ylabel() == "log dP/dQ"


def test_few_values_are_bars_about_them(generator):
    """A bar of either sample at each, as high as its share, centred; the axis bears the column's name and holds all bars."""
    x = torch.tensor([3.0] * 6 + [4.0] * 2 + [6.0] * 2)[:, None]
    y = torch.tensor([4.0] * 9 + [6.0] * 3)[:, None]
    sides = [Side(n, {}, Input(n, rows, columns=("grade",)), rows) for n, rows in (("A", x), ("B", y))]
    rows = dict.fromkeys(KINDS, (torch.arange(10), torch.arange(12)))
    axes = divergence_figure(picture_of(*sides, [_found("mmd", x, y, Linear(1.0))], rows, [])).axes[0]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx([3, 4, 6] * 2)
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.6, 0.2, 0.2, 0, 0.75, 0.25])
    assert axes.get_xlabel() == "grade" and axes.get_ylabel() == "share of samples"
    assert axes.get_xlim() == pytest.approx((2.5, 6.5))
    assert levels(torch.randn(90, 1, generator=generator), y) is None and levels(x[:1], x[:1]) is None


def test_axes_are_named_after_the_columns_of_tables(generator):
    """Where both have the same; a map has two."""
    a, b, x, y, rows = _sides(generator)
    named = [replace(side, source=replace(side.source, columns=("$p", "q"))) for side in (a, b)]
    found = [_found("mmd", x, y, Linear(1.0))]
    axes = divergence_figure(picture_of(*named, found, rows, [])).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (r"\$p", "q")
    axes = divergence_figure(picture_of(named[0], b, found, rows, [])).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("", "")


def test_the_rows_drawn_are_those_that_were_used(generator):
    a, b, x, y, rows = _sides(generator)
    rows["kale"] = (torch.tensor([3, 1]), torch.tensor([0, 4, 5]))
    ((_, panel),) = picture_of(a, b, [_found("kale", x, y, Linear(1.0))], rows, []).panels
    assert torch.equal(panel.x, x[[3, 1]].double()) and torch.equal(panel.y, y[[0, 4, 5]].double())


def test_many_columns_have_values_instead(generator):
    """As they are, so that the gap between the dashed means of MMD's is MMD^2."""
    a, b, x, y, rows = _sides(generator, d=5)
    picture = picture_of(a, b, [_found("kale", x, y, Linear(1.0)), _found("mmd", x, y)], rows, [])
    for _, panel in picture.panels:
        assert isinstance(panel, WitnessValues)
        assert torch.equal(panel.at_a, x[:, 0].double()) and torch.equal(panel.at_b, y[:, 0].double())
    axes = divergence_figure(picture).axes[0]
    means = [line.get_xdata()[0] for line in axes.lines[:2]]
    assert means == pytest.approx([x[:, 0].mean().item(), y[:, 0].mean().item()]) and "MMD²" in axes.get_xlabel()


def _shown(band):
    """The number in each picture of a band of images."""
    return [int(axes.images[0].get_array()[0, 0, 0]) for sub in band.subfigs for axes in sub.axes if axes.images]


def test_images_are_those_that_each_witness_weighs_most(generator):
    """The picture number i is read by the row that it stands for, also of a shuffle; headings name side and witness."""
    a, b, x, y, rows = _sides(generator, d=5, images=True)
    rows["kale"] = (torch.arange(40).flip(0), torch.arange(30))
    found = [_found("mmd", -x, y), _found("kale", x.flip(0), y)]
    figure = divergence_figure(picture_of(a, b, found, rows, [_told()]))
    of_mmd, of_kale = figure.subfigs[2:]
    of_b = y[:, 0].argsort()[:8].tolist()
    assert _shown(of_kale) == x[:, 0].argsort(descending=True)[:8].tolist() + of_b
    assert _shown(of_mmd) == x[:, 0].argsort()[:8].tolist() + of_b
    headings = [sub.get_suptitle() for band in (of_mmd, of_kale) for sub in band.subfigs]
    assert headings[0] == "most like A – Witness of MMD" and headings[3] == "most like B – Witness of KALE (log dP/dQ)"


def test_unasked_images_are_those_of_kale_alone(generator):
    """Where the kinds are the default ones, KALE before MMD."""
    a, b, x, y, rows = _sides(generator, d=5, images=True)
    picture = picture_of(a, b, [_found("mmd", x, y), _found("kale", x, y)], rows, [_told()], asked=False)
    assert [title for title, _ in picture.panels] == [title for title, _ in picture.images] == [WITNESSES["kale"].title]
    assert isinstance(picture.images[0][1], WitnessImages)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".pdf", ".svg"])
def test_every_format_is_written(tmp_path: Path, generator, suffix):
    a, b, x, y, rows = _sides(generator)
    field = KernelField(Gaussian(1.0), x.double(), torch.ones(len(x), dtype=torch.float64) / len(x))
    picture = picture_of(a, b, [_found("mmd", x, y, field)], rows, [_told()])
    save_divergence_picture(tmp_path / f"p{suffix}", picture)
    assert (tmp_path / f"p{suffix}").stat().st_size > 1000
    if suffix in (".png", ".jpg", ".webp"):
        assert Image.open(tmp_path / f"p{suffix}").size[0] > 700


@pytest.mark.parametrize(("panels", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2))])
def test_cells_fill_rows(generator, panels, shape):
    """The panels in as few rows as they fit, under one band of numbers that takes less than a quarter."""
    a, b, x, y, rows = _sides(generator)
    found = [_found(kind, x, y, Linear(1.0)) for kind in ("mmd", "kale", "tv", "w1")[:panels]]
    figure = divergence_figure(picture_of(a, b, found, rows, [_told()]))
    specs = [axes.get_subplotspec() for axes in figure.axes if axes.get_subplotspec() is not None]
    assert specs[0].get_gridspec().get_geometry() == shape
    assert figure.subfigs[0].bbox.height < 0.25 * figure.bbox.height


def test_constant_samples_are_drawn(generator):
    """A range of nothing, a witness of zeros, one sample a side, and no witness at all."""
    x = torch.zeros(1, 2)
    sides = [Side(name, {}, Input(name, x), x) for name in ("A", "B")]
    rows = dict.fromkeys(KINDS, (torch.arange(1), torch.arange(1)))
    for found in ([_found("kale", x, x, Linear(0.0))], [_found("w1", x, x)], []):
        assert len(_numbers(divergence_figure(picture_of(*sides, found, rows, [_told(error=None)])))) == 3
