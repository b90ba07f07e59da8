"""Every objective: its numbers by hand, its zero at P = Q, its gradients, and the density ratio that it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gebm_cli.core.kernels import EnergyDistance, Gaussian, GaussianMixture, Polynomial, RationalQuadratic
from gebm_cli.core.objectives.f_divergences import DUALS, FDivergence
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd, ScaledWasserstein
from gebm_cli.core.objectives.margins import Hinge, Wasserstein

# --------------------------------------------------------------------------------------- the same once more, by the textbook

# f' at u = dP/dQ and the conjugate f*(t) (Nowozin et al. 2016, tables 1 and 5, less their activations).
TEXTBOOK = {
    "kl": (lambda u: 1 + np.log(u), lambda t: np.exp(t - 1)),
    "reverse-kl": (lambda u: -1 / u, lambda t: -1 - np.log(-t)),
    "pearson": (lambda u: 2 * (u - 1), lambda t: t**2 / 4 + t),
    "pearson-linear": (np.log, lambda t: t**2 / 4 + t),  # T is v itself, whatever u
    "hellinger": (lambda u: 1 - 1 / np.sqrt(u), lambda t: t / (1 - t)),
    "js": (lambda u: np.log(2 * u / (u + 1)), lambda t: -np.log(2 - np.exp(t))),
    "total-variation": (lambda u: (u - 1) / (u + 1) / 2, lambda t: t),
}


def _f_divergence(name, saturating):
    slope, conjugate = TEXTBOOK[name]

    def value(p, q):
        return slope(np.exp(-p)).mean() - conjugate(slope(np.exp(-q))).mean()

    def base(p, q):
        return -(conjugate(slope(np.exp(-q))) if saturating else slope(np.exp(-q))).mean()

    return value, base


def _mixture(bandwidths, linear):
    return lambda a, b: sum(np.exp(-((a - b) ** 2).sum() / 2 / s**2) for s in bandwidths) + linear * (a * b).sum()


def _rational(alphas, linear):
    return lambda a, b: sum((1 + ((a - b) ** 2).sum() / 2 / r) ** -r for r in alphas) + linear * (a * b).sum()


def _distance(a, b):
    return (np.sqrt((a**2).sum()) + np.sqrt((b**2).sum()) - np.sqrt(((a - b) ** 2).sum())) / 2


BANDWIDTHS, ALPHAS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0), (0.2, 0.5, 1.0, 2.0, 5.0)
KERNELS = {
    "gaussian": (Gaussian(1.3), _mixture((1.3,), 0)),
    "cubic": (Polynomial(), lambda a, b: ((a * b).sum() / len(a) + 1) ** 3),
    "mixture": (GaussianMixture(), _mixture(BANDWIDTHS, 0)),
    "mixture-dot": (GaussianMixture(linear=0.5), _mixture(BANDWIDTHS, 0.5)),
    "rq": (RationalQuadratic(), _rational(ALPHAS, 0)),
    "rq-dot": (RationalQuadratic(linear=1.0), _rational(ALPHAS, 1)),
    "rq-released": (RationalQuadratic((0.1, 1.0, 10.0)), _rational((0.1, 1, 10), 0)),
    "distance": (EnergyDistance(), _distance),
}


def _mmd(k):
    def value(p, q):
        def within(x):
            pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
            return sum(k(x[i], x[j]) for i, j in pairs) / len(pairs)

        return within(p) + within(q) - 2 * np.mean([k(a, b) for a in p for b in q])

    return value, value


def _kale(p, q):
    return 1 - p.mean() - np.exp(-q).mean()


def _log_mean(q):
    return -np.log(np.exp(-q).mean())


def _gap(p, q):
    return q.mean() - p.mean()


CASES = {
    "kale": (Kale(), _kale, lambda p, q: _log_mean(q)),
    "kale-batch": (Kale(batch_log_partition=True), lambda p, q: _log_mean(q) - p.mean(), lambda p, q: _log_mean(q)),
    "hinge": (
        Hinge(),
        lambda p, q: -np.maximum(0, 1 + p).mean() - np.maximum(0, 1 - q).mean(),
        lambda p, q: q.mean(),
    ),
    "wasserstein": (Wasserstein(), _gap, lambda p, q: q.mean()),
    "scaled-wasserstein": (ScaledWasserstein(), _gap, lambda p, q: q.mean()),
    "scaled-mmd": (ScaledMmd(Gaussian(0.8)), *_mmd(_mixture((0.8,), 0))),
    **{name: (FDivergence(name), *_f_divergence(name, True)) for name in DUALS},
    **{f"{name}-ns": (FDivergence(name, non_saturating=True), *_f_divergence(name, False)) for name in DUALS},
    **{f"mmd-{name}": (Mmd(kernel), *_mmd(scalar)) for name, (kernel, scalar) in KERNELS.items()},
}
every_case = pytest.mark.parametrize("case", CASES)


def _outputs(objective, n=7, m=5, seed=0):
    """What a critic may say at data and at base samples: energies, or three features."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3,) if objective.on_features else ()
    p, q = (torch.randn(k, *shape, generator=generator, dtype=torch.float64) for k in (n, m))
    return p, 1.5 * q + 0.3


# ------------------------------------------------------------------------------------------------------ numbers, gradients


@every_case
def test_value_and_base_loss_are_the_textbooks(case):
    """Both losses of uneven batches equal an independent computation to 1e-10."""
    objective, value, base = CASES[case]
    p, q = _outputs(objective)
    on_data = p if objective.base_sees_data else None
    assert objective.value(p, q).item() == pytest.approx(value(p.numpy(), q.numpy()), rel=1e-10, abs=1e-10)
    assert objective.base_loss(q, on_data).item() == pytest.approx(base(p.numpy(), q.numpy()), rel=1e-10, abs=1e-10)


@every_case
def test_gradients_are_finite_differences(case):
    """The gradients of both losses in all that the critic says agree with finite differences."""
    objective = CASES[case][0]
    p, q = (side.requires_grad_() for side in _outputs(objective, seed=1))
    assert torch.autograd.gradcheck(objective.value, (p, q))
    assert torch.autograd.gradcheck(lambda y: objective.base_loss(y, p.detach()), (q,))


@every_case
def test_large_outputs_give_finite_gradients(case):
    """At |E| = 40 in float32, which is a confident critic, and at repeated features no gradient is nan."""
    objective = CASES[case][0]
    p, q = (side.float().sign().mul(40).requires_grad_() for side in _outputs(objective))
    (objective.value(p, q) + objective.base_loss(q, p)).backward()
    assert p.grad.isfinite().all() and q.grad.isfinite().all(), (p.grad, q.grad)


def test_mmd_of_the_base_needs_data():
    """Without the critic's features at data the base's loss is refused."""
    with pytest.raises(ValueError, match="`on_data` is needed"):
        Mmd(Gaussian(1.0)).base_loss(torch.zeros(3, 1))


def test_non_saturating_gan_is_softplus():
    """The base of the non-saturating GAN minimises mean softplus(E), up to log 2; its slope at a sure critic is 1, not 0."""
    q = torch.tensor([-1.0, 2.0, 30.0], requires_grad=True)
    loss = FDivergence("js", non_saturating=True).base_loss(q)
    assert loss.item() == pytest.approx(np.log1p(np.exp([-1, 2, 30])).mean() - math.log(2), rel=1e-6)
    loss.backward()
    assert q.grad[2].item() == pytest.approx(1 / 3, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------ zero at P = Q


@pytest.mark.parametrize("case", ["kale", "kale-batch", *DUALS])
def test_divergence_bounds_vanish_at_a_flat_energy(case):
    """At E + c = 0 the value is 0, and at P = Q the mean over 300 batches of any other energy is below 0."""
    objective = CASES[case][0]
    assert objective.value(torch.zeros(4).double(), torch.zeros(3).double()).item() == pytest.approx(0, abs=1e-14)
    x = torch.randn(300, 2, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.stack([objective.value(0.8 * p + 0.1, 0.8 * q + 0.1) for p, q in x])
    z = values.mean() / values.std() * math.sqrt(len(values))
    assert z < (4 if case == "total-variation" else -4), f"z = {z:.2f}"


def _z_at_equal_laws(estimate, runs=400):
    """The mean of an estimate over batches of 10 and 8 from one law, in its standard errors."""
    x = 1 + torch.randn(runs, 18, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values = torch.stack([estimate(batch[:10], batch[10:]) for batch in x])
    return (values.mean() / values.std() * math.sqrt(runs)).item()


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][0].on_features])
def test_mmd_is_unbiased_at_equal_laws(case):
    """With every kernel the mean over batches is 0 to within 4 standard errors."""
    z = _z_at_equal_laws(CASES[case][0].value)
    assert abs(z) < 4, f"z = {z:.2f}"


@pytest.mark.parametrize(
    ("kernel", "constant"), [("rq-dot", 5.0), ("mixture-dot", 6.0), ("distance", 0.0), ("rq", 5.0)]
)
def test_a_diagonal_taken_for_a_constant_is_seen(kernel, constant):
    """The released shortcut, sum of k less n times a constant, fails the test above by far wherever the diagonal varies."""
    k = KERNELS[kernel][0]

    def released(x, y):
        within = [(k(s, s).sum() - len(s) * constant) / (len(s) * (len(s) - 1)) for s in (x, y)]
        return sum(within) - 2 * k(x, y).mean()

    z = _z_at_equal_laws(released)
    assert abs(z) < 4 if kernel == "rq" else z > 8, f"z = {z:.2f}"


@pytest.mark.parametrize("case", ["wasserstein", "scaled-wasserstein"])
def test_mean_gaps_vanish_at_equal_laws(case):
    """For any energy the mean over batches of one law is 0 to within 4 standard errors."""
    z = _z_at_equal_laws(lambda x, y: CASES[case][0].value(x.square().sum(1), y.square().sum(1)))
    assert abs(z) < 4, f"z = {z:.2f}"


# -------------------------------------------------------------------------------------------- the optimum on two Gaussians

SHIFT = 0.5
GRID = torch.linspace(-12, 12, 1201, dtype=torch.float64)
MASS = torch.exp(-GRID.square() / 2) / torch.exp(-GRID.square() / 2).sum()


def _expected_value(objective, energy):
    """The value for P = N(SHIFT, 1), Q = N(0, 1), by the trapezoid rule: exact to rounding for smooth integrands.

    A mean over samples becomes one over grid points z, data at z + SHIFT and base samples at z, each pair with its mass.
    """
    if objective == Kale(batch_log_partition=True):  # no mean of pairs; a mass is a shift of the energy
        return objective.value((MASS * len(GRID) * energy(GRID + SHIFT)), energy(GRID) - torch.log(MASS * len(GRID)))
    pairs = torch.vmap(lambda p, q: objective.value(p[None], q[None]))(energy(GRID + SHIFT), energy(GRID))
    return (MASS * pairs).sum()


def _maximise(objective):
    """The best a + b x + c x^2 and its value."""
    at, powers = torch.zeros(3, dtype=torch.float64), torch.arange(3, dtype=torch.float64)

    def value(coefficients):
        return _expected_value(objective, lambda x: (x[:, None] ** powers * coefficients).sum(1))

    for _ in range(
        20
    ):  # Newton's method, always uphill; half the step while the value falls; flat directions are left alone
        slope = torch.autograd.functional.jacobian(value, at)
        curvatures, axes = torch.linalg.eigh(torch.autograd.functional.hessian(value, at))
        curved = curvatures.abs() > 1e-10
        step = axes @ torch.where(curved, axes.T @ slope / curvatures.abs().where(curved, 1.0), 0.0)
        while step.abs().max() > 1e-12 and not value(at + step) >= value(at):
            step = step / 2
        at = at + step
    return at, value(at).item()


def _twice_jensen_shannon():
    x = np.linspace(-12, 13, 4001)
    p, q = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (SHIFT, 0))
    return ((p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))).sum() * (x[1] - x[0])).item()


DIVERGENCES = {
    "kale": SHIFT**2 / 2,
    "kale-batch": SHIFT**2 / 2,
    "kl": SHIFT**2 / 2,
    "reverse-kl": SHIFT**2 / 2,
    "pearson": math.expm1(SHIFT**2),
    "hellinger": -2 * math.expm1(-(SHIFT**2) / 8),
    "js": _twice_jensen_shannon(),
}


@pytest.mark.parametrize("case", DIVERGENCES)
def test_the_optimum_is_the_density_ratio(case):
    """The best quadratic E + c is -log dP/dQ = SHIFT^2 / 2 - SHIFT x, and the value there is the divergence."""
    (constant, slope, curvature), value = _maximise(CASES[case][0])
    if case == "kale-batch":
        constant = torch.tensor(SHIFT**2 / 2)  # any constant cancels
    expected = (SHIFT**2 / 2, -SHIFT, 0)
    assert (constant.item(), slope.item(), curvature.item()) == pytest.approx(expected, abs=2e-5)
    assert value == pytest.approx(DIVERGENCES[case], abs=1e-8)


def test_linear_pearson_is_the_same_divergence():
    """At T = 2 (dP/dQ - 1) the value is Pearson's, and every other T has less, by a quarter of its mean squared difference."""
    objective = FDivergence("pearson-linear")

    def best(x):
        return -2 * torch.expm1(SHIFT * x - SHIFT**2 / 2)

    value = _expected_value(objective, best)
    assert value.item() == pytest.approx(math.expm1(SHIFT**2), abs=1e-8)
    for other in (torch.sin, torch.ones_like, torch.tanh):
        less = _expected_value(objective, lambda x, f=other: best(x) + 0.3 * f(x))
        assert (value - less).item() == pytest.approx((MASS * (0.3 * other(GRID)) ** 2).sum().item() / 4, abs=1e-8)


def test_total_variation_is_a_bound():
    """The value of steeper and steeper energies of the right sign rises to the total variation and never passes it; that of
    the wrong sign is below 0."""
    true = math.erf(SHIFT / 2 / math.sqrt(2))  # 2 Phi(SHIFT / 2) - 1
    steep = [
        _expected_value(FDivergence("total-variation"), lambda x, s=s: s * (SHIFT**2 / 2 - SHIFT * x)).item()
        for s in (-1, 1, 4, 16, 64)
    ]
    assert steep[0] < 0 < steep[1] and steep == sorted(steep), steep
    assert steep[-1] < true + 1e-9 and steep[-1] == pytest.approx(true, abs=1e-3), (steep, true)


@pytest.mark.parametrize("case", ["js", "hellinger", "kl", "pearson", "reverse-kl", "js-ns", "kl-ns"])
def test_base_losses_fall_towards_the_data(case):
    """With the energy at its optimum, the loss of a base N(theta, 1) falls as theta goes from 0 to SHIFT's side."""
    objective, theta = CASES[case][0], torch.zeros((), dtype=torch.float64, requires_grad=True)
    energy = SHIFT**2 / 2 - SHIFT * (GRID + theta)
    loss = (MASS * torch.vmap(lambda q: objective.base_loss(q[None]))(energy)).sum()
    loss.backward()
    assert theta.grad < -0.01, theta.grad


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.9), (1.5, 0.0), (0.8, -0.6)])
def test_kales_base_gradient_is_the_theorems(a, b):
    """Base N(theta, 1), E = a x^2 / 2 + b x: -log E_Q[exp(-E)] in closed form has the gradient (a theta + b) / (1 + a), which is
    that of the base's loss and of finite differences of sup_c F."""

    def closed(t):
        return (math.log1p(a) + t**2 - (t - b) ** 2 / (1 + a)) / 2

    def losses(t):
        x = t + GRID
        energy = a * x**2 / 2 + b * x - torch.log(MASS * len(GRID))
        best = (torch.logsumexp(-energy, 0) - math.log(len(GRID))).detach()
        return Kale().base_loss(energy), Kale().value(best[None], energy + best)

    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    loss, value = losses(theta)
    assert (loss.item(), value.item()) == pytest.approx([closed(0.4)] * 2, abs=1e-10)
    gradient, same = torch.autograd.grad(loss, theta, retain_graph=True)[0], torch.autograd.grad(value, theta)[0]
    difference = (closed(0.4 + 1e-5) - closed(0.4 - 1e-5)) / 2e-5
    assert gradient.item() == pytest.approx((a * 0.4 + b) / (1 + a), abs=1e-10)
    assert difference == pytest.approx(gradient.item(), abs=1e-8) and same.item() == pytest.approx(
        gradient.item(), abs=1e-10
    )
