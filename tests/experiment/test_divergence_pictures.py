"""Pictures of divergences: the numbers as in the record, one panel for each witness, the samples it weighs most."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
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
    NAMES,
    DivergencePicture,
    divergence_figure,
    picture_of,
    save_divergence_picture,
    spelled,
)
from gebm_cli.experiment.extraction import Side
from gebm_cli.experiment.inputs import Input
from gebm_cli.experiment.two_sample_panels import WitnessImages, WitnessLine, WitnessMap, WitnessValues


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


def _texts(figure):
    """All text of all axes, of the figures within too."""
    figure.savefig(io.BytesIO(), dpi=40)
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# ------------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (_told(value=0.6931, error=0.0123), "0.693 +- 0.012"),
        (_told(value=123.4, error=5.6), "123.4 +- 5.6"),
        (_told(value=1234.5, error=56), "1234 +- 56"),
        (_told(value=-0.000123, error=0.00045), "-0.00012 +- 0.00045"),
        (_told(value=2e-9, error=3e-9), "2.00e-09 +- 3e-09"),
        (_told(value=5.0, error=None), "5"),
        (_told(value=0.25, error=0.0), "0.25"),
        (_told(infinite=True, at_least=7.123), "infinite (>= 7.12)"),
        (_told(infinite=True), "infinite"),
    ],
)
def test_a_number_is_spelled_to_its_error(told, text):
    assert spelled(told) == text


def test_every_divergence_has_a_line_inside_its_cell(generator):
    """Names, numbers and directions of all kinds, the infinite ones in words, none below the cell."""
    told = [_told(kind, infinite=kind == "kl", at_least=3.21 if kind == "kl" else None) for kind in KINDS]
    figure = divergence_figure(DivergencePicture(("a", "b"), told))
    texts = _texts(figure)
    assert set(NAMES) == set(KINDS)
    assert texts[0::3] == [NAMES[kind] for kind in KINDS] and "infinite (≥ 3.21)" in texts and "0.500 ± 0.012" in texts
    assert min(text.get_position()[1] for text in figure.axes[0].texts) > 0


# ------------------------------------------------------------------------------------------------------------- the panels


def test_witnesses_are_mmd_kale_and_one_critic(generator):
    """f-divergences share one critic, so one panel; transport has none."""
    a, b, x, y, rows = _sides(generator)
    found = [_found(kind, x, y, Linear(i + 1.0)) for i, kind in enumerate(("w1", "kl", "js", "kale", "mmd"))]
    picture = picture_of(a, b, found, rows, [])
    assert [title.split(":")[0] for title, _ in picture.panels] == ["MMD", "KALE", "critic"] and picture.images is None
    slopes = [(p.values[0, -1] / p.across[-1]).item() for _, p in picture.panels]
    limits = [float(torch.cat([x, y])[:, 0].abs().max()) * k for k in (5, 4, 2)]
    for (_, panel), slope, limit, k in zip(picture.panels, slopes, limits, (5, 4, 2)):
        assert isinstance(panel, WitnessMap) and slope == pytest.approx(
            min(k, limit / panel.across[-1].item()), rel=1e-6
        )


def test_a_function_is_cut_off_where_no_sample_is(generator):
    """Beyond its range at the samples a witness keeps that colour, and is its own within."""
    a, b, x, y, rows = _sides(generator, d=1)
    ((_, panel),) = picture_of(a, b, [_found("kl", x, y, Linear(2.0))], rows, []).panels
    most = 2 * torch.cat([x, y]).abs().max().double()
    assert isinstance(panel, WitnessLine) and panel.values.abs().max() <= most
    torch.testing.assert_close(panel.values, (2 * panel.grid.double()).clamp(-most, most))
    assert (2 * panel.grid.double()).abs().max() > most, "the grid goes beyond the samples"


def test_the_rows_drawn_are_those_that_were_used(generator):
    a, b, x, y, rows = _sides(generator)
    rows["kale"] = (torch.tensor([3, 1]), torch.tensor([0, 4, 5]))
    ((_, panel),) = picture_of(a, b, [_found("kale", x, y, Linear(1.0))], rows, []).panels
    assert torch.equal(panel.x, x[[3, 1]].double()) and torch.equal(panel.y, y[[0, 4, 5]].double())


def test_many_columns_have_values_instead(generator):
    """Log ratios as they are, the mean kernel's in spreads about its middle."""
    a, b, x, y, rows = _sides(generator, d=5)
    picture = picture_of(a, b, [_found("kale", x, y, Linear(1.0)), _found("mmd", x, y)], rows, [])
    mmd, kale = (panel for _, panel in picture.panels)
    assert isinstance(mmd, WitnessValues) and torch.equal(kale.at_a, x[:, 0].double())
    assert torch.cat([mmd.at_a, mmd.at_b]).std() == pytest.approx(1.0) and mmd.at_a.mean() == pytest.approx(
        -mmd.at_b.mean()
    )


def test_images_are_those_that_kale_weighs_most(generator):
    """KALE's before MMD's; the picture number i is read by the row that it stands for, also of a shuffle."""
    a, b, x, y, rows = _sides(generator, d=5, images=True)
    rows["kale"] = (torch.arange(40).flip(0), torch.arange(30))
    picture = picture_of(a, b, [_found("mmd", x, y), _found("kale", x.flip(0), y)], rows, [_told()])
    assert isinstance(picture.images, WitnessImages) and [t.split(":")[0] for t, _ in picture.panels] == ["KALE"]
    first = int(picture.images.at_a.argmax())
    assert picture.images.image_a(first).unique().tolist() == [int(x[:, 0].argmax())]
    assert picture.images.image_b(int(y[:, 0].argmin())).unique().tolist() == [int(y[:, 0].argmin())]
    figure = divergence_figure(picture)
    shown = [
        axes.images[0].get_array()[0, 0, 0] for sub in figure.subfigs[1].subfigs for axes in sub.axes if axes.images
    ]
    expected = x[:, 0].argsort(descending=True)[:8].tolist() + y[:, 0].argsort()[:8].tolist()
    assert [int(s) for s in shown] == expected


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".pdf", ".svg"])
def test_every_format_is_written(tmp_path: Path, generator, suffix):
    a, b, x, y, rows = _sides(generator)
    field = KernelField(Gaussian(1.0), x.double(), torch.ones(len(x), dtype=torch.float64) / len(x))
    picture = picture_of(a, b, [_found("mmd", x, y, field)], rows, [_told()])
    save_divergence_picture(tmp_path / f"p{suffix}", picture)
    assert (tmp_path / f"p{suffix}").stat().st_size > 1000
    if suffix in (".png", ".jpg", ".webp"):
        assert Image.open(tmp_path / f"p{suffix}").size[0] > 1000


@pytest.mark.parametrize(("panels", "shape"), [(0, (1, 1)), (1, (1, 2)), (2, (1, 3)), (3, (2, 2))])
def test_cells_fill_rows(generator, panels, shape):
    """A cell of numbers and the panels, in as few rows as they fit."""
    a, b, x, y, rows = _sides(generator)
    found = [_found(kind, x, y, Linear(1.0)) for kind in ("mmd", "kale", "tv")[:panels]]
    figure = divergence_figure(picture_of(a, b, found, rows, [_told()]))
    specs = [axes.get_subplotspec() for axes in figure.axes if axes.get_subplotspec() is not None]
    assert specs[0].get_gridspec().get_geometry() == shape


def test_constant_samples_are_drawn(generator):
    """A range of nothing, a witness of zeros, one sample a side."""
    x = torch.zeros(1, 2)
    sides = [Side(name, {}, Input(name, x), x) for name in ("A", "B")]
    rows = dict.fromkeys(KINDS, (torch.arange(1), torch.arange(1)))
    _texts(divergence_figure(picture_of(*sides, [_found("kale", x, x, Linear(0.0))], rows, [_told(error=None)])))
