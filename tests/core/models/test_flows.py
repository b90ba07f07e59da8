"""Flows: one battery for all of them, away from the identity they start as, and the energy that is made of two."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gebm_cli.core.models.adapters import UniformLatent
from gebm_cli.core.models.flows import DensityRatio, Flow, Maf, RealNvp
from gebm_cli.core.models.flows_images import ImageRealNvp
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.errors import UsageError

POINTS = {
    "realnvp": lambda: RealNvp(4, 5, 12, 1),
    "realnvp-odd": lambda: RealNvp(5, 4, 12, 0),
    "realnvp-one": lambda: RealNvp(3, 1, 12, 2),
    "maf": lambda: Maf(4, 3, 12),
    "maf-narrow": lambda: Maf(5, 2, 3),
}
IMAGES = {
    "image": lambda: ImageRealNvp((1, 4, 6), 8, 3),
    "image-rgb": lambda: ImageRealNvp((3, 2, 2), 8, 2),
    "image-smallest": lambda: ImageRealNvp((1, 2, 2), 8, 2),
}
PLANE = {"realnvp": lambda: RealNvp(2, 3, 12, 1), "maf": lambda: Maf(2, 3, 12)}
N = 6


def perturbed(flow: Flow, seed: int = 0, std: float = 0.3) -> Flow:
    """The flow in float64, noise on every parameter: at the start it is the identity, on which any formula is right."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return flow.double()


def latents(n: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[*POINTS.items(), *IMAGES.items()], ids=lambda item: item[0])
def flow(request) -> Flow:
    return perturbed(request.param[1](), std=0.1 if request.param[0] in IMAGES else 0.3)


# ------------------------------------------------------------------------------------------------------------- the battery


def test_inverse_and_forward_undo_each_other(flow, generator):
    """From the latent and back, and from data that no latent was drawn for and back; the map is not the identity."""
    z = latents(N, flow.dim, generator)
    x = flow(z)
    assert (x.flatten(1) - z).abs().amax() > 0.1
    assert (flow.inverse(x)[0] - z).abs().max() < 1e-8
    other = x + 0.05 * latents(N, flow.dim, generator).reshape(x.shape).clamp(-1, 1)
    if isinstance(flow, ImageRealNvp):
        other = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
    assert (flow(flow.inverse(other)[0]) - other).abs().max() < 1e-8


def test_log_det_is_the_jacobians(flow, generator):
    """slogdet of autograd's Jacobian of the inverse, and of that of forward with the other sign."""
    z = latents(N, flow.dim, generator)
    x = flow(z).detach()
    log_det = flow.inverse(x)[1]
    assert log_det.std() > 0.01
    for i in range(N):
        back = torch.autograd.functional.jacobian(lambda v: flow.inverse(v[None])[0][0], x[i])
        there = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0].flatten(), z[i])
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(back.flatten(1))[1].item(), abs=1e-8)
        assert log_det[i].item() == pytest.approx(-torch.linalg.slogdet(there)[1].item(), abs=1e-8)


def test_density_of_samples_is_that_of_the_change_of_variables(flow, generator):
    """mean log p(B(z)) = mean [log N(z; 0, I) - log |det dB/dz|], both terms from autograd and torch.distributions."""
    z = latents(20, flow.dim, generator)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(z).sum(1)
    jacobians = [torch.autograd.functional.jacobian(lambda v: flow(v[None])[0].flatten(), point) for point in z]
    expected = normal - torch.linalg.slogdet(torch.stack(jacobians))[1]
    assert flow.log_prob(flow(z)).mean().item() == pytest.approx(expected.mean().item(), abs=1e-8)


def test_gradients_reach_every_parameter_from_both_directions(flow, generator):
    """From log_prob; from a fixed combination of samples; and every row of the last layers has its share."""
    z = latents(32, flow.dim, generator)
    x = flow(z).detach()
    for output in (flow.log_prob(x), flow(z) * torch.randn(x.shape, generator=generator, dtype=torch.float64)):
        flow.zero_grad(set_to_none=True)
        output.sum().backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("make", (POINTS | IMAGES).values(), ids=POINTS | IMAGES)
def test_the_blocks_move_every_coordinate(make, generator):
    """Two blocks or more leave no coordinate of the latent as it is in the new flow; one coupling leaves the even ones."""
    new, flow = make().double(), perturbed(make(), std=0.1)
    x = new(latents(N, flow.dim, generator))
    moved = (flow.inverse(x)[0] - new.inverse(x)[0]).abs().amax(0) > 1e-6
    alternate = isinstance(flow, RealNvp) and len(flow.couplings) == 1
    assert moved.tolist() == [not alternate or i % 2 == 1 for i in range(flow.dim)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_float_type_is_kept(flow, dtype, generator):
    flow = flow.to(dtype)
    z = latents(N, flow.dim, generator).to(dtype)
    x = flow(z)
    back, log_det = flow.inverse(x)
    assert x.dtype == back.dtype == log_det.dtype == flow.log_prob(x).dtype == dtype
    assert log_det.shape == flow.log_prob(x).shape == (N,)
    assert back.shape == z.shape


def test_float64_is_accurate(flow, generator):
    """The log-density in float32 lies within rounding of that in float64, and that is no float32 number."""
    x = flow(latents(N, flow.dim, generator)).detach()
    exact = flow.log_prob(x)
    assert not torch.equal(exact, exact.float().double())
    rough = flow.float().log_prob(x.float())
    torch.testing.assert_close(rough.double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", PLANE.values(), ids=PLANE)
def test_density_in_the_plane_integrates_to_one(make, generator):
    """Trapezoid rule on a grid that holds all the mass: 1 to 1e-4, for a density that is not the normal one."""
    flow = perturbed(make(), std=0.2)
    reach = 1.5 * flow(latents(20_000, 2, generator)).abs().max().item()
    side = torch.linspace(-reach, reach, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        log_prob = flow.log_prob(grid)
    assert (log_prob - NormalPrior(2).log_prob(grid))[grid.norm(dim=1) < 2].std() > 0.1
    mass = log_prob.exp().sum().item() * (side[1] - side[0]).item() ** 2
    assert mass == pytest.approx(1, abs=1e-4)


def test_image_density_integrates_to_one(generator):
    """Importance sampling from the uniform law of the support, |x| < 1 / .9: the mass is 1 within 4 standard errors of <.01."""
    flow, n, side = perturbed(IMAGES["image-smallest"](), std=0.2), 100_000, 2 / 0.9
    x = side * (torch.rand(n, 1, 2, 2, generator=generator, dtype=torch.float64) - 0.5)
    with torch.no_grad():
        weights = flow.log_prob(x).exp() * side**4
    error = weights.std().item() / math.sqrt(n)
    assert error < 0.01
    assert abs(weights.mean().item() - 1) < 4 * error


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_images_stay_in_the_support_and_are_finite(make, generator):
    """Samples of far latents saturate; their density stays finite. The data's edges -1 and 1 have a latent."""
    flow = perturbed(make(), std=0.1).float()
    x = flow(30 * torch.randn(50, flow.dim, generator=generator))
    assert x.abs().max() <= 1 / 0.9 + 1e-6
    assert x.abs().max() > 1
    assert flow.log_prob(x).isfinite().all()
    edge = x[:1].sign()
    torch.testing.assert_close(flow(flow.inverse(edge)[0]), edge, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", POINTS.values(), ids=POINTS)
def test_a_new_flow_of_points_is_the_identity(make, generator):
    flow = make()
    z = torch.randn(N, flow.dim, generator=generator)
    torch.testing.assert_close(flow(z), z)
    torch.testing.assert_close(flow.log_prob(z), NormalPrior(flow.dim).log_prob(z))


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_a_new_flow_of_images_is_one_function_of_each_pixel(make, generator):
    """x = tanh(y / 2) / .9 with y the latents, four numbers of a 2x2 square in a row of channels; also in the far tails."""
    flow = make().double()
    z = latents(N, flow.dim, generator) * 3
    z[0] = z[0].sign() * 10
    x = flow(z)
    y = nn.functional.pixel_unshuffle(2 * torch.atanh(0.9 * x), 2).flatten(1)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(flow.inverse(x)[0], z)


@pytest.mark.parametrize("make", (POINTS | IMAGES).values(), ids=POINTS | IMAGES)
def test_large_weights_do_not_overflow(make, generator):
    """The log-scales are bounded: last weights a thousand times too large leave a finite density with a finite gradient."""
    flow = perturbed(make())
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, nn.Sequential):
                module[-1].weight.mul_(1000)
    x = (2 * torch.rand(flow(latents(N, flow.dim, generator)).shape, generator=generator).double() - 1).requires_grad_()
    value = flow.log_prob(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("dim", [2, 4, 5])
@pytest.mark.parametrize("width", [2, 12])
def test_maf_is_autoregressive(dim, width, generator):
    """One block: the Jacobian of u in x is lower triangular, each u_i moves with each x_j before it if wide enough."""
    flow = perturbed(Maf(dim, 1, width))
    x = latents(1, dim, generator)[0]
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.inverse(v[None])[0][0], x)
    assert torch.equal(jacobian.triu(1), torch.zeros_like(jacobian))
    if width >= dim - 1:
        assert (jacobian.abs() > 1e-12).sum() == dim * (dim + 1) / 2


def test_training_fits_a_correlated_normal(generator):
    """Maximum likelihood reaches the entropy of N(0, [[1, .9], [.9, 1]]), -E log p = 2.007 nats."""
    torch.manual_seed(0)
    flow = RealNvp(2, 2, 16, 0)
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(300):
        loss = -flow.log_prob(torch.randn(256, 2, generator=generator) @ factor.T).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        x = torch.randn(20_000, 2, generator=generator) @ factor.T
        assert -flow.log_prob(x).mean().item() == pytest.approx(
            1 + math.log(2 * math.pi) + math.log(0.19) / 2, abs=0.03
        )


# ----------------------------------------------------------------------------------------------------------- the energy


@pytest.fixture(params=["realnvp", "maf"])
def ratio(request) -> DensityRatio:
    """A perturbed energy on a perturbed base of the other architecture, so that q and p differ."""
    own, base = (RealNvp(3, 3, 8), Maf(3, 2, 8)) if request.param == "realnvp" else (Maf(3, 2, 8), RealNvp(3, 3, 8))
    return DensityRatio(perturbed(own, 1, 0.1), perturbed(base, 2, 0.1))


def test_the_tilted_base_is_the_own_flow(ratio, generator):
    """q exp(-E) = p at points of both; E is not constant."""
    x = torch.cat([ratio.base(latents(N, 3, generator)), ratio.flow(latents(N, 3, generator))])
    energy = ratio(x)
    assert energy.shape == (2 * N,) and energy.std() > 0.1
    torch.testing.assert_close(ratio.base.log_prob(x) - energy, ratio.flow.log_prob(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ratio.log_prob(x), ratio.flow.log_prob(x), rtol=0, atol=0)


def test_the_partition_function_is_one(ratio, generator):
    """mean exp(-E) over base samples is 1 within 4 standard errors of less than .02."""
    with torch.no_grad():
        weights = torch.exp(-ratio(ratio.base(latents(20_000, 3, generator))))
    error = weights.std().item() / math.sqrt(20_000)
    assert weights.std() > 0.1 and error < 0.02
    assert abs(weights.mean().item() - 1) < 4 * error


def test_the_base_gets_no_gradient_through_its_density(ratio, generator):
    """Its parameters keep none from E(x), and from E(B(z)) only what comes through x: that of a frozen copy's energy."""
    z = latents(N, 3, generator)
    ratio(ratio.base(z).detach()).sum().backward()
    assert all(p.grad is None for p in ratio.base.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in ratio.flow.parameters())
    ratio(ratio.base(z)).sum().backward()
    apart = DensityRatio(ratio.flow, copy.deepcopy(ratio.base))
    expected = torch.autograd.grad(apart(ratio.base(z)).sum(), list(ratio.base.parameters()))
    for parameter, gradient in zip(ratio.base.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(p.requires_grad for p in ratio.base.parameters())


def test_gradient_in_x_by_finite_differences(ratio, generator):
    x = ratio.base(latents(N, 3, generator)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(ratio(x).sum(), x)
    assert gradient.abs().mean() > 0.05
    step = 1e-6
    for i in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[i]
        slope = (ratio(x + shift) - ratio(x - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, i], slope, rtol=1e-6, atol=1e-6)


def test_second_derivatives_for_a_gradient_penalty(ratio, generator):
    """The gradient of |dE/dx|^2 in the own parameters exists, and the base has none."""
    x = ratio.base(latents(N, 3, generator)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(ratio(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in ratio.flow.parameters())
    assert all(p.grad is None for p in ratio.base.parameters())


def test_the_base_is_no_part_of_the_module(ratio):
    """Neither in the state dict nor among the parameters nor the modules."""
    assert set(ratio.state_dict()) == {f"flow.{name}" for name in ratio.flow.state_dict()}
    assert {id(p) for p in ratio.parameters()} == {id(p) for p in ratio.flow.parameters()}
    assert ratio.base not in list(ratio.modules())


def test_the_base_is_live(ratio, generator):
    """What is loaded into the base later changes E, also that of a copy; a copy beside a copied base follows that one."""
    x = latents(N, 3, generator)
    alone = copy.deepcopy(ratio)
    base, together = copy.deepcopy((ratio.base, ratio))
    before = ratio(x)
    torch.testing.assert_close(together(x), before)
    perturbed(ratio.base, 5)
    assert (ratio(x) - before).abs().max() > 0.01
    torch.testing.assert_close(alone(x), ratio(x))
    torch.testing.assert_close(together(x), before)
    assert alone.base is ratio.base and together.base is base
    assert alone.flow is not ratio.flow


def test_the_energy_alone_can_change_its_float_type(ratio, generator):
    """x decides: a float32 base enters a float64 energy without a change of its own."""
    x = latents(N, 3, generator)
    expected = ratio(x)
    ratio.base.float()
    value = ratio(x)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    assert all(p.dtype == torch.float32 for p in ratio.base.parameters())


def test_it_is_an_energy_with_a_log_partition(ratio, generator):
    """`Energy` adds c and keeps the base out."""
    energy = Energy(ratio).double()
    x = latents(N, 3, generator)
    torch.testing.assert_close(energy(x), ratio(x))
    assert len(energy.state_dict()) == len(ratio.state_dict()) + 1


# ----------------------------------------------------------------------------------------------------------- the errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RealNvp(1), "data: a flow needs points of at least 2 numbers, got 1"),
        (lambda: Maf(1, 2, 8), "data: a flow needs points of at least 2 numbers, got 1"),
        (lambda: ImageRealNvp((1, 28, 27), 8, 2), r"even sides, got \(1, 28, 27\)"),
        (lambda: ImageRealNvp((1, 7, 8), 8, 2), r"even sides, got \(1, 7, 8\)"),
        (lambda: ImageRealNvp((4,), 8, 2), r"even sides, got \(4,\)"),
        (lambda: DensityRatio(RealNvp(2), mlp(2, 2, 8, 1)), "needs a base with a density"),
        (lambda: DensityRatio(RealNvp(2), UniformLatent(RealNvp(2))), "needs a base with a density"),
        (lambda: DensityRatio(RealNvp(2), None), "needs a base with a density"),
        (lambda: DensityRatio(RealNvp(2), RealNvp(3)), "flow of 2 numbers does not fit a base of 3"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_flow_is_abstract():
    for call in (nn.Module.__call__, Flow.inverse):
        with pytest.raises(NotImplementedError):
            call(Flow(2), torch.zeros(1, 2))
