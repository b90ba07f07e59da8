"""What the slides and papers of GEBM and of the KALE flow claim of divergences, each as they state it, on small samples."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, jensenshannon
from scipy.stats import entropy, norm

from gebm_cli.core.divergences import critics
from gebm_cli.core.divergences.kernel_kale import KaleProblem
from gebm_cli.core.divergences.kinds import Options, divergences
from gebm_cli.core.kernels import Gaussian, Polynomial

LAMS = (0.001, 0.01, 0.1, 1.0, 10.0)
BITS = torch.float64


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(critics, "STEPS", 60)


def _reported(x, y, kinds, **options):
    found = divergences(x, y, kinds, Options(**options), torch.Generator().manual_seed(1))
    return {f.kind: f for f in found}


def _column(values):
    return torch.as_tensor(values, dtype=BITS)[:, None]


def _at_quantiles(n, mean=0.0, scale=1.0):
    """A normal law without chance, symmetric about its mean to the last bit."""
    half = norm.ppf((np.arange(n // 2) + 0.5) / n)
    return mean + scale * _column(np.concatenate([half, -half]))


def _slab(n, generator, at, width=0.01):
    """Uniform on [at, at + width] x [0, 1]."""
    return torch.rand(n, 2, generator=generator, dtype=BITS) * torch.tensor([width, 1.0], dtype=BITS) + torch.tensor(
        [at, 0.0], dtype=BITS
    )


def _gram(x, y, width):
    """The Gaussian kernel, not by our code."""
    return np.exp(-cdist(x, y, "sqeuclidean") / (2 * width**2))


def _mmd2_v(x, y, width):
    return _gram(x, x, width).mean() + _gram(y, y, width).mean() - 2 * _gram(x, y, width).mean()


def _norm2(found, x, y, width):
    """|h|^2 of KALE's witness h = (mu_P - sum_j a_j k(y_j, .)) / lam, with m a_j = exp(v_j)."""
    weights = np.concatenate([np.full(len(x), 1 / len(x)), -found.log_ratio.exp().numpy() / len(y)])
    pooled = torch.cat([x, y])
    return weights @ _gram(pooled, pooled, width) @ weights / found.regularisation**2


# --- disjoint supports


@pytest.mark.parametrize("distance", [0.03, 0.3, 3.0])
def test_disjoint_densities_are_equally_far_at_every_distance(distance, generator):
    """KL = infinity, JS = log 2 and TV = 1 at every distance of disjoint supports, from the densities on a grid and as reported;
    W1 is the distance."""
    cells = np.arange(0, 3.1, 0.001) + 0.0005
    shape = torch.rand(len(cells), generator=generator, dtype=BITS).numpy()
    p, q = (shape * ((cells > at) & (cells < at + 0.01)) for at in (distance, 0.0))
    assert entropy(p, q) == entropy(q, p) == math.inf
    assert jensenshannon(p, q) ** 2 == pytest.approx(math.log(2), abs=1e-12)
    assert 0.5 * np.abs(p / p.sum() - q / q.sum()).sum() == pytest.approx(1.0, abs=1e-12)
    x, y = _slab(500, generator, distance), _slab(500, generator, 0.0)
    found = _reported(x, y, ["kl", "js", "tv", "w1"])
    assert found["kl"].infinite and found["kl"].value == math.inf
    assert math.log(2) - 0.01 < found["js"].value < math.log(2)
    assert found["tv"].value == 1.0
    assert distance - 0.001 < found["w1"].value < distance + 0.05  # biased upward by the segments' own noise, n^(-1/2)


def test_w1_mmd_and_kale_fall_to_0_as_supports_approach(generator):
    """On parallel segments, the same points on both: W1 = delta, MMD^2 = 2 (1 - exp(-delta^2 / 2 width^2)) mean k(u, u') up to the
    diagonal of the U-statistic, and KALE between 0 and (1 + lam) / (2 lam) of it; all three fall all the way."""
    n, width, lam = 80, 0.5, 0.1
    up = torch.rand(n, 1, generator=generator, dtype=BITS)
    y, found = torch.cat([torch.zeros_like(up), up], 1), []
    deltas = (4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.01, 0.001)
    along = _gram(up, up, width)
    for delta in deltas:
        found.append(
            _reported(
                y + torch.tensor([delta, 0.0], dtype=BITS),
                y,
                ["w1", "mmd", "kale"],
                bandwidth=width,
                regularisation=lam,
            )
        )
        each, biased = found[-1], 2 * -math.expm1(-(delta**2) / (2 * width**2)) * along.mean()
        assert each["w1"].value == pytest.approx(delta, rel=1e-9)
        diagonal = 2 * (1 - along.sum() / n**2) / (n - 1)
        assert each["mmd"].value == pytest.approx(biased - diagonal, abs=1e-12)
        assert 0 < each["kale"].value <= (1 + lam) / (2 * lam) * biased + 1e-12
    for far, near in pairwise(found):
        assert all(near[kind].value < far[kind].value for kind in far)
    assert found[-1]["w1"].value < 2e-3 and found[-1]["kale"].value < 1e-4
    assert found[-2]["kale"].value / found[-1]["kale"].value == pytest.approx(100, rel=0.01)  # as delta^2


# --- a kernel that is too narrow


@pytest.fixture
def far_apart(generator):
    """Two clouds of standard deviation .3, to be put at a distance along the first axis: x moves to negative values."""
    return [0.3 * torch.randn(n, 2, generator=generator, dtype=BITS) for n in (60, 50)]


def _moved(x, distance):
    return x - torch.tensor([distance, 0.0], dtype=BITS)


def _pull(found, x, factor=1.0):
    """The mean force -grad f on the particles x along the first axis, where the target is; those between particles cancel."""
    return -factor * found.field.value_and_grad(x)[1][:, 0].mean().item()


def _pull_by_hand(x, y, width):
    apart, k = (y[None, :, 0] - x[:, None, 0]).numpy(), _gram(x, y, width)
    return (k * apart).mean() / width**2


def test_a_narrow_kernel_measures_no_distance(far_apart):
    """Beyond a few bandwidths MMD^2 is mean k(x, x') + mean k(y, y') at every distance, and so KALE is a constant, although
    large; a wide kernel tells 3 from 6."""
    x, y = far_apart
    for kind in ("mmd", "kale"):
        narrow, wide = ([_reported(_moved(x, d), y, [kind], bandwidth=w)[kind] for d in (3, 6)] for w in (0.1, 2.0))
        assert narrow[0].value == pytest.approx(narrow[1].value, rel=1e-12)
        assert wide[1].value - wide[0].value > 4 * wide[1].standard_error
    n, m = len(x), len(y)
    within = (_gram(x, x, 0.1).sum() - n) / (n * (n - 1)) + (_gram(y, y, 0.1).sum() - m) / (m * (m - 1))
    assert _reported(_moved(x, 3), y, ["mmd"], bandwidth=0.1)["mmd"].value == pytest.approx(within, rel=1e-9)


@pytest.mark.parametrize("distance", [2.0, 3.0, 4.0])
def test_mmd_with_too_narrow_a_kernel_is_an_unhelpful_critic(distance, far_apart):
    """Its witness has no gradient towards the data at particles away from them: what force is left is their own repulsion. The
    same distance is no matter for a wide kernel, nor for the energy distance, which
    pulls by 1 however far."""
    x, y = _moved(far_apart[0], distance), far_apart[1]
    narrow, wide = (_reported(x, y, ["mmd"], bandwidth=w)["mmd"] for w in (0.1, 2.0))
    for found, width in ((narrow, 0.1), (wide, 2.0)):
        assert _pull(found, x) == pytest.approx(_pull_by_hand(x, y, width), rel=1e-6, abs=1e-12)
    assert abs(_pull(narrow, x)) < 1e-4 * _pull(wide, x) and _pull(wide, x) > 0.05
    alone = _reported(x, y + 1e3, ["mmd"], bandwidth=0.1)["mmd"]  # no target in reach
    forces = [found.field.value_and_grad(x)[1] for found in (narrow, alone)]
    assert torch.allclose(*forces, atol=1e-3) and forces[0].norm(dim=1).mean() > 0.1
    energy = _reported(x, y, ["energy-distance"])["energy-distance"]
    towards = (y[None] - x[:, None]).numpy()
    expected = (towards / np.linalg.norm(towards, axis=2, keepdims=True))[..., 0].mean()
    assert _pull(energy, x) == pytest.approx(expected, rel=1e-6) and expected > 0.97


@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0])
def test_kale_is_not_the_remedy_for_a_narrow_kernel(lam, far_apart):
    """Its witness is made of the same kernel, with m a_j <= 1 on a target out of reach: its pull is at most (1 + lam) / lam times
    that of MMD, and dies with the distance as fast. The remedy is the wide kernel, for KALE as for MMD."""
    for width in (0.1, 0.2, 0.3):
        for distance in (2.0, 3.0, 4.0):
            x, y = _moved(far_apart[0], distance), far_apart[1]
            found = KaleProblem(y, Gaussian(width), lam).solve(x)
            assert found.log_ratio.max() < 0
            assert _pull(found, x, 1 + lam) < (1 + lam) / lam * _pull_by_hand(x, y, width) + 1e-10
        assert abs(_pull(found, x, 1 + lam)) < 1e-4
        assert _pull(KaleProblem(y, Gaussian(2.0), lam).solve(x), x, 1 + lam) > 0.1


# --- the KALE smoothie


def test_the_smoothie_falls_with_the_distance_and_is_sharper_for_less_regularisation():
    """KALE with the witness's norm penalised: for every lam it is finite and falls as the supports approach, to 0; less lam
    makes it larger, and its witness steeper, at every distance."""
    y, grid = _at_quantiles(60, scale=0.3), torch.linspace(-3, 6, 901, dtype=BITS)[:, None]
    table = []
    for lam in LAMS:
        problem = KaleProblem(y, Gaussian(0.5), lam)
        solved = [problem.solve(y + distance) for distance in (4.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.0)]
        values = [found.value for found in solved]
        assert all(0 <= near < far < math.inf for far, near in pairwise(values)) and values[-1] <= 1e-12
        slopes = [found.field.value_and_grad(grid)[1].abs().max().item() for found in solved[:-1]]
        table.append([*(v / (1 + lam) for v in values[:-1]), *slopes])
    for less, more in pairwise(table):
        assert all(a > b for a, b in zip(less, more))


def test_kale_has_two_ceilings(generator):
    """KALE <= (1 + lam) KL and KALE <= (1 + lam) MMD^2 / (2 lam), the biased one: each is near where its limit is."""
    counts = [(8, 5, 3, 2, 2), (2, 3, 5, 6, 4)]
    x, y = (_column(np.repeat(np.arange(5), c)) for c in counts)
    kl, half = entropy(*counts), _mmd2_v(x, y, 1.0) / 2
    for lam in (1e-5, *LAMS, 1e4):
        value = KaleProblem(y, Gaussian(1.0), lam).solve(x, tolerance=1e-12).value
        ceilings = (1 + lam) * kl, (1 + lam) / lam * half
        assert value < min(ceilings)
        if lam in (1e-5, 1e4):
            assert value > 0.999 * min(ceilings)


def test_kale_is_bounded_by_w1_for_any_pair(generator):
    """KALE / (1 + lam) <= L W1 for an L-Lipschitz witness, with L <= |h| / width of a Gaussian kernel, hence KALE metrises no
    more than W1 does; pairs in the plane that overlap, touch, are far apart, thin, or points."""

    def normal(n, mean, scale):
        return mean + torch.tensor(scale, dtype=BITS) * torch.randn(n, 2, generator=generator, dtype=BITS)

    used = []
    for _ in range(12):
        mean, scale = (
            3 * torch.rand(1, generator=generator).item() ** 2,
            0.1 + torch.rand(1, generator=generator).item(),
        )
        for x in (normal(20, mean, scale), normal(20, mean, [0.001, 1.0]), normal(1, mean, scale)):
            y = normal(25, 0.0, 0.7)
            w1 = _reported(x, y, ["w1"])["w1"].value
            for lam in (0.01, 1.0):
                found = KaleProblem(y, Gaussian(0.6), lam).solve(x)
                lipschitz = math.sqrt(_norm2(found, x, y, 0.6)) / 0.6
                steepest = found.field.value_and_grad(torch.cat([x, y]))[1].norm(dim=1).max().item()
                assert steepest <= lipschitz
                used.append(found.value / (1 + lam) / (lipschitz * w1))
    assert max(used) < 1 and max(used) > 0.2


# --- mode collapse: one mean, two spreads


def test_a_linear_critic_does_not_see_mode_collapse():
    """Equal means and different variances: under k(x, y) = x.y + 1 MMD is 0, KALE is 0 with it, and the witness is flat; under
    (x.y + 1)^2 and a Gaussian kernel neither is. KALE is 0 if and only if MMD with its kernel is."""
    collapsed, full = _at_quantiles(60, scale=0.3), _at_quantiles(80)
    for kernel, seen in ((Polynomial(1), False), (Polynomial(2), True), (Gaussian(0.5), True)):
        mmd2 = (
            kernel(full, full).mean() + kernel(collapsed, collapsed).mean() - 2 * kernel(full, collapsed).mean()
        ).item()
        found = KaleProblem(full, kernel, 0.1).solve(collapsed)
        steepest = found.field.value_and_grad(full)[1].abs().max().item()
        if seen:
            assert mmd2 > 0.1 and found.lower > 0.1 and steepest > 0.1
        else:
            assert abs(mmd2) < 1e-12 and found.value < 1e-12 and steepest < 1e-9
    shifted = KaleProblem(full, Polynomial(1), 0.1).solve(collapsed + 0.5)
    assert shifted.lower > 0.05  # a mean it does see


@pytest.mark.parametrize("kind", ["mmd", "kale"])
def test_the_witness_of_mode_collapse_is_a_bump(kind):
    """Above 0 about the mode and below 0 on both flanks: no monotone function tells the two apart."""
    collapsed, full = _at_quantiles(60, scale=0.3), _at_quantiles(80)
    field = _reported(collapsed, full, [kind], bandwidth=0.5)[kind].field
    at, slope = field.value_and_grad(_column([-1.5, -0.5, 0.0, 0.5, 1.5]))
    assert at[2] > 0.3 and at[0] < -0.05 and at[4] < -0.05
    assert slope[1] > 0.1 and slope[3] < -0.1
    assert slope[2].abs() < 1e-9


def test_kl_is_not_symmetric_in_mode_collapse(generator):
    """N(0, s^2) and N(0, 1): KL(collapsed || full) = s^2 / 2 - 1 / 2 - log s, KL(full || collapsed) = 1 / (2 s^2) - 1 / 2 + log s;
    the first grows as log(1 / s), the second as 1 / s^2. The reported bounds know which is which; W1, MMD
    and TV do not."""
    s = 0.3
    forward, backward = (s * s - 1) / 2 - math.log(s), (1 / s**2 - 1) / 2 + math.log(s)
    collapsed, full = (scale * torch.randn(1000, 1, generator=generator, dtype=BITS) for scale in (s, 1.0))
    kinds = ["kl", "tv", "w1", "mmd"]
    there, back = (_reported(*pair, kinds, bandwidth=0.5) for pair in ((collapsed, full), (full, collapsed)))
    assert abs(there["kl"].value - forward) < 4 * there["kl"].standard_error
    assert back["kl"].value - 4 * back["kl"].standard_error > 1.5 * forward
    assert back["kl"].value < backward + 4 * back["kl"].standard_error
    assert not there["kl"].infinite and not back["kl"].infinite
    edge = math.sqrt(-2 * math.log(s) / (1 / s**2 - 1))  # where the densities cross
    truth = {"tv": 2 * (norm.cdf(edge / s) - norm.cdf(edge)), "w1": (1 - s) * math.sqrt(2 / math.pi)}
    width = [1 / math.sqrt(1 + v / 0.25) for v in (2 * s * s, 2, 1 + s * s)]
    truth["mmd"] = width[0] + width[1] - 2 * width[2]
    for kind, value in truth.items():
        for found in (there, back):
            assert abs(found[kind].value - value) < 4 * found[kind].standard_error
    for kind in ("w1", "mmd"):
        assert there[kind].value == pytest.approx(back[kind].value, rel=1e-9)
