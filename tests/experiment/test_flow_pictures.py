"""The pictures of flows: particles of any dimension, values of any sign, particles that left all bounds."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from gebm_cli.experiment.flow_pictures import _limits, plane_of, save_film, save_flow


def frames(d: int, target: torch.Tensor) -> list:
    generator, onto = torch.Generator().manual_seed(d), plane_of(target)
    return [(step, onto(3 * torch.randn(20, d, generator=generator))) for step in (0, 1, 5, 20, 100)]


@pytest.mark.parametrize("d", [1, 2, 5])
def test_film_and_figure_are_drawn_in_every_dimension(tmp_path, d):
    """A film has a frame a moment, all of one size; the figure is as wide as four panels."""
    target = torch.randn(30, d, generator=torch.Generator().manual_seed(9))
    moments, seen = frames(d, target), plane_of(target)(target)
    save_film(tmp_path / "f.gif", moments, seen, d > 2)
    film = Image.open(tmp_path / "f.gif")
    assert film.n_frames == 5 and film.size == (400, 416)
    curves = {"a": ([(0, 1.0), (100, 0.1)], 0.2), "b": ([(0, -1.0), (100, 0.5)], None)}
    save_flow(tmp_path / "f.png", moments, seen, curves, "a $flow", d > 2)
    assert Image.open(tmp_path / "f.png").width == 1408


def test_many_dimensions_are_seen_along_those_in_which_the_data_vary_most():
    """Data that vary in columns 3 and 1: these are what is drawn, about the data's mean; fewer columns stay as they are."""
    target = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 3.0, 0.1, 9.0]) + 5
    seen = plane_of(target)(target).abs()
    centred = (target - target.mean(0)).double().abs()
    assert (seen - centred[:, [3, 1]]).abs().max() < 0.5
    assert torch.equal(plane_of(target[:, :2])(target[:, :2]), target[:, :2].double())


def test_particles_that_are_not_finite_leave_the_axes_alone():
    """Limits are of the finite points, square, with a margin; of a single point they are not empty."""
    cloud = torch.tensor([[0.0, 0.0], [2.0, 1.0], [math.inf, 0.0], [math.nan, 9.0]])
    (left, right), (low, high) = _limits([cloud])
    assert right - left == pytest.approx(high - low) == pytest.approx(2 * 1.08) and (left + right, low + high) == (2, 1)
    assert _limits([torch.zeros(1, 1)]) == [(-1.0, 1.0)]
