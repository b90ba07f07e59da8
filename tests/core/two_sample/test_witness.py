"""The witness against a double loop, its sign on planted differences, and its blocks."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core import mmd
from gebm_cli.core.kernels import Gaussian, Polynomial
from gebm_cli.core.mmd import mmd2
from gebm_cli.core.two_sample.witness import witness, witness_at

KERNELS = [Gaussian(0.8), Polynomial(3)]


def _sets(generator, n=13, m=9, dim=3):
    x, y = (torch.randn(k, dim, generator=generator, dtype=torch.float64) for k in (n, m))
    return x, y + 0.3


@pytest.mark.parametrize("kernel", KERNELS)
def test_is_the_double_loop(kernel, generator, monkeypatch):
    """Each value is the mean over the others of its own side minus the mean over the other side, whatever the block."""
    x, y = _sets(generator)
    monkeypatch.setattr(mmd, "BLOCK", 4)
    at_x, at_y = witness(kernel, x, y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    for i in range(len(x)):
        own = torch.cat([xx[i, :i], xx[i, i + 1 :]]).mean()
        assert at_x[i].item() == pytest.approx((own - xy[i].mean()).item(), abs=1e-12)
    for j in range(len(y)):
        own = torch.cat([yy[j, :j], yy[j, j + 1 :]]).mean()
        assert at_y[j].item() == pytest.approx((xy[:, j].mean() - own).item(), abs=1e-12)
    assert at_x.dtype == at_y.dtype == torch.float64


@pytest.mark.parametrize("kernel", KERNELS)
def test_means_differ_by_mmd2(kernel, generator):
    """mean f(x) - mean f(y) is the unbiased MMD^2; swapped sides change the sign."""
    x, y = _sets(generator)
    at_x, at_y = witness(kernel, x, y)
    assert (at_x.mean() - at_y.mean()).item() == pytest.approx(mmd2(x, y, kernel).value, abs=1e-12)
    swapped_y, swapped_x = witness(kernel, y, x)
    torch.testing.assert_close((-swapped_x, -swapped_y), (at_x, at_y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_elsewhere_is_the_plain_difference_of_means(kernel, generator, monkeypatch):
    """On a grid f is the difference of the two row means, block by block."""
    x, y = _sets(generator)
    t = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    expected = kernel(t, x).mean(1) - kernel(t, y).mean(1)
    monkeypatch.setattr(mmd, "BLOCK", 4)
    torch.testing.assert_close(witness_at(kernel, x, y, t), expected)


def test_planted_difference_has_the_right_sign(generator):
    """A cluster that only x has is high, one that only y has is low, common ground between: on the rows and on the grid."""
    common = torch.randn(80, 2, generator=generator)
    only_x, only_y = (0.2 * torch.randn(20, 2, generator=generator) + torch.tensor([at, 0.0]) for at in (-6.0, 6.0))
    x, y = torch.cat([common[:40], only_x]), torch.cat([common[40:], only_y])
    at_x, at_y = witness(Gaussian(0.7), x, y)
    assert at_x[40:].min() > at_x[:40].max() and at_y[40:].max() < at_y[:40].min()
    left, middle, right = witness_at(Gaussian(0.7), x, y, torch.tensor([[-6.0, 0.0], [0.0, 0.0], [6.0, 0.0]]))
    assert left > 0.2 and right < -0.2 and abs(middle) < 0.1


def test_no_row_votes_for_itself(generator):
    """At one law the mean witness of either side is 0 within errors, though each row is its own nearest neighbour."""
    x, y = (torch.randn(400, 2, generator=generator) for _ in range(2))
    at_x, at_y = witness(Gaussian(0.05), x, y)  # so narrow that with itself in it, each f would be about 1 / 400
    assert abs(at_x.mean()) < 4e-4 and abs(at_y.mean()) < 4e-4


def test_too_few_rows_are_refused():
    """One row has no others of its side; a grid needs one row a side."""
    one, two = torch.zeros(1, 2), torch.zeros(2, 2)
    with pytest.raises(ValueError, match="at least 2 rows each, got 1 and 2"):
        witness(Gaussian(1.0), one, two)
    with pytest.raises(ValueError, match="at least 1 row each, got 0 and 2"):
        witness_at(Gaussian(1.0), torch.zeros(0, 2), two, one)
    assert witness_at(Gaussian(1.0), one, two, one).tolist() == [0.0]
