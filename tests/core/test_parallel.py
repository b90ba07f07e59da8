"""Training by two processes equals training by one: the same losses, the same weights, and checkpoints that either continues."""

from __future__ import annotations

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.utils.parametrizations import spectral_norm

from gebm_cli.core.data.dataset import Minibatches
from gebm_cli.core.device import make_generator, seeded_construction
from gebm_cli.core.kernels import Gaussian, RationalQuadratic
from gebm_cli.core.models.batch_norm import SharedBatchNorm, share_batch_norm
from gebm_cli.core.models.flows import RealNvp
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.f_divergences import FDivergence
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd
from gebm_cli.core.objectives.margins import Wasserstein
from gebm_cli.core.objectives.penalties import Penalty
from gebm_cli.core.parallel import Share
from gebm_cli.core.training.direct import ContrastiveDivergence, FixedKernelMmd, MaximumLikelihood
from gebm_cli.core.training.loop import Callbacks, Rates, Schedule, Training
from gebm_cli.core.training.optimise import Method

BATCH, HALF, STEPS = 16, 3, 6
METHODS = {
    "kale": {"objective": Kale(), "penalty": Penalty()},
    "kale-batch": {"objective": Kale(True), "penalty": Penalty(weights=0.1, outputs=0.1)},
    "gan": {"objective": FDivergence("js", True), "penalty": Penalty("one-centred"), "noise_std": 0.1},
    "mmd": {"objective": Mmd(RationalQuadratic(linear=0.5)), "penalty": Penalty(weight=3.0)},
    "mmd-in-parts": {"objective": Mmd(RationalQuadratic(linear=0.5)), "penalty": Penalty("r2", 3.0, 2), "parts": 2},
    "scaled-mmd": {"objective": ScaledMmd(Gaussian(1.0)), "penalty": Penalty("r1", 0.5)},
    "kale-normed": {"objective": Kale(), "penalty": Penalty()},
    "gan-normed": {"objective": FDivergence("js", True), "penalty": Penalty("r1", 0.5)},
    "wasserstein-normed": {"objective": Wasserstein(), "penalty": Penalty("one-centred")},
    "mmd-normed-in-parts": {"objective": Mmd(RationalQuadratic()), "penalty": Penalty("r2", 0.5), "parts": 2},
}
CRITIC_NORMED = ("wasserstein-normed", "mmd-normed-in-parts")
DIRECT = {
    "ml": (MaximumLikelihood(), True),
    "gmmn": (FixedKernelMmd(Gaussian(1.0)), True),
    "pcd-unmoved": (ContrastiveDivergence(False, True, n_steps=0), False),
    "cd": (ContrastiveDivergence(True, False, n_steps=3, step_size=0.05), True),
    "pcd": (ContrastiveDivergence(False, True, n_steps=3, step_size=0.5), False),
}
NAMES = [*METHODS, *DIRECT]


def make(name: str, share: Share) -> Training:
    """Small networks; the last layer of the critic has no bias, which some values do not see and only rounding would move."""
    direct, train_base = DIRECT.get(name, (None, True))
    keys = METHODS.get(name, {})
    features = keys and keys["objective"].on_features
    with seeded_construction(0, "parallel"):
        base = RealNvp(2, 2, 8) if direct is not None else mlp(2, 2, 8, 1)
        energy = Energy(
            mlp(2, 8, 8, 1).append(torch.nn.SiLU()).append(torch.nn.Linear(8, 4 if features else 1, bias=False))
        )
        if name == "kale":
            spectral_norm(energy.network[0])
        if "normed" in name:
            base = normed_base()
        if name in CRITIC_NORMED:
            energy.network[0] = torch.nn.Linear(2, 8, bias=False)
            energy.network.insert(1, torch.nn.BatchNorm1d(8))
        for network in (base, energy):
            share_batch_norm(network, share)
    data = 1 + 0.5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    method = Method(**{**keys, "share": share})
    schedule = Schedule(STEPS, critic_steps=2, burst_critic_steps=3, burst_every=3, log_every=1, checkpoint_every=HALF)
    batches = Minibatches(data, BATCH, 0, share=(share.rank, share.size))
    generator = make_generator(0, "train")
    return Training(base, energy, NormalPrior(2), batches, schedule, generator, train_base, Rates(1e-3), method, direct)


def normed_base() -> torch.nn.Sequential:
    """As dcgan is made, for images of 1x2 pixels; no bias before a batch norm, which would not see it."""
    first, second = torch.nn.ConvTranspose2d(2, 6, 1, bias=False), torch.nn.ConvTranspose2d(6, 4, (1, 2), bias=False)
    layers = [torch.nn.Unflatten(1, (2, 1, 1)), first, torch.nn.BatchNorm2d(6), torch.nn.ReLU()]
    layers += [second, torch.nn.BatchNorm2d(4), torch.nn.SiLU(), torch.nn.Conv2d(4, 1, 1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers)


def trained(name: str, share: Share, start: dict | None = None) -> dict:
    """The losses of each step, the state half-way and the one at the end."""
    training, losses, states = make(name, share), {}, {}
    if start is not None:
        training.load_state_dict(copy.deepcopy(start))
    training.run(
        Callbacks(
            log=lambda step, metrics: losses.update({step: metrics}),
            save=lambda step, state: states.update({step: copy.deepcopy(state)}),
        )
    )
    return {"losses": losses, "states": states}


def second_derivatives(share: Share) -> list[torch.Tensor]:
    """Of a batch norm in float64: values, input gradients of sum f(y), and gradients of their squares by input and weights."""
    draw = torch.Generator().manual_seed(0)
    whole = 3 + 2 * torch.randn(6, 3, 2, 2, generator=draw, dtype=torch.float64)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(3, generator=draw))
    share_batch_norm(network, share)
    x = share.of(whole).clone().requires_grad_()
    y = network(x)
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (first * x.detach()).square().sum().backward()
    gradients = [p.grad for p in network.parameters()]
    share.sum_gradients(network.parameters())
    rows = [share.together(t.detach()) for t in (y, first, x.grad)]
    return [*rows, *gradients, *network[0].buffers()]


def _process(rank: int, port: int, folder: str) -> None:
    """What each of two processes does: every training from its start, and from the state that one process left half-way."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    share, halves = Share(rank, 2), torch.load(f"{folder}/halves.pt", weights_only=True)
    results = {name: (trained(name, share), trained(name, share, halves[name])) for name in NAMES}
    whole = torch.arange(10.0).view(5, 2).repeat_interleave(2, 0)
    together = share.together(share.of(whole))
    derivatives = second_derivatives(share)
    agreed = torch.tensor([0.5, 1.0 + rank])
    share.agree([agreed])
    found = {"trained": results, "together": together, "whole": whole, "derivatives": derivatives, "agreed": agreed}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone():
    return {name: trained(name, Share()) for name in NAMES}


@pytest.fixture(scope="module")
def two(alone, tmp_path_factory):
    """What both processes of one spawn found."""
    folder = tmp_path_factory.mktemp("two")
    torch.save({name: result["states"][HALF] for name, result in alone.items()}, folder / "halves.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def _distance(state, other):
    """The largest relative difference of a network's parameters, as one vector each."""
    vectors = [
        [torch.cat([v.flatten().double() for v in s[network].values()]) for s in (state, other)]
        for network in ("base", "energy")
    ]
    return max(((a - b).norm() / b.norm()).item() for a, b in vectors)


def _same_curve(losses, others, steps):
    for step in steps:
        assert losses[step] == pytest.approx(others[step], rel=1e-4, abs=2e-6), step


def test_what_is_agreed_on_is_the_first_processs(two):
    for process in two:
        assert process["agreed"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_take_the_steps_of_one(alone, two, name):
    """After 6 steps at the same global batch losses and parameters agree to float32's rounding, and so do the two processes."""
    for process in two:
        result = process["trained"][name][0]
        _same_curve(result["losses"], alone[name]["losses"], range(1, STEPS + 1))
        distance = _distance(result["states"][STEPS], alone[name]["states"][STEPS])
        assert distance < 1e-5, f"relative distance {distance:.1e}"
    first, second = (p["trained"][name][0]["states"][STEPS] for p in two)
    assert all(torch.equal(first[n][k], second[n][k]) for n in ("base", "energy") for k in first[n])
    moved = _distance(alone[name]["states"][STEPS], alone[name]["states"][HALF])
    assert moved > 1e-4, "nothing moved"


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_continue_what_one_began(alone, two, name):
    """From one process's checkpoint two follow the same curve to the same end."""
    result = two[0]["trained"][name][1]
    _same_curve(result["losses"], alone[name]["losses"], range(HALF + 1, STEPS + 1))
    distance = _distance(result["states"][STEPS], alone[name]["states"][STEPS])
    assert distance < 1e-5, f"relative distance {distance:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_one_process_continues_what_two_began(alone, two, name):
    """From the checkpoint of either of two processes one follows the same curve to the same end."""
    for process in two:
        half = process["trained"][name][0]["states"][HALF]
        result = trained(name, Share(), half)
        _same_curve(result["losses"], alone[name]["losses"], range(HALF + 1, STEPS + 1))
        assert _distance(result["states"][STEPS], alone[name]["states"][STEPS]) < 1e-5


def test_chains_of_all_processes_are_in_the_state(alone, two):
    """The persistent chains in a checkpoint are those of the whole batch, in one process's order, moved by the same noise."""
    ends = {}
    for name, close in (("pcd-unmoved", 0.0), ("pcd", 1e-5)):
        chains = [p["trained"][name][0]["states"][HALF]["chains"] for p in two]
        assert chains[0].shape == (BATCH, 2) and torch.equal(*chains)
        ends[name] = alone[name]["states"][HALF]["chains"]
        assert torch.allclose(chains[0], ends[name], atol=close, rtol=0)
    assert ((ends["pcd"] - ends["pcd-unmoved"]).norm(dim=1) > 0.01).double().mean() > 0.5, "the chains stood still"


@pytest.mark.parametrize("name", [n for n in NAMES if "normed" in n])
def test_a_checkpoint_names_shared_batch_norm_as_plain_batch_norm(alone, two, name):
    """Names, shapes and types of the states are one process's, and the running statistics have moved from their start."""
    for network in ("base", "energy"):
        states = [r["states"][STEPS][network] for r in (alone[name], two[0]["trained"][name][0])]
        kinds = [{k: (v.shape, v.dtype) for k, v in state.items()} for state in states]
        assert kinds[0] == kinds[1]
        moved = [v for k, v in states[1].items() if k.endswith("running_var")]
        assert len(moved) == (2 if network == "base" else int(name in CRITIC_NORMED))
        assert all((v - 1).abs().min() > 1e-4 for v in moved)


def test_together_undoes_of(two):
    """The rows that the processes share out come back in their order."""
    assert all(torch.equal(p["together"], p["whole"]) for p in two)


def test_a_shared_batch_norm_has_the_derivatives_of_the_whole_batch(two):
    """Against torch's own on all rows in float64: values, first and second derivatives, and the running statistics."""
    expected = second_derivatives(Share())
    for process in two:
        for a, b in zip(process["derivatives"], expected, strict=True):
            assert b.double().abs().max() > 1e-3
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_one_process_keeps_its_batch_norm():
    """Nothing is swapped in where there is nobody to share with; else the parameters are the very same."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    plain, weight = network[1], network[1].weight
    share_batch_norm(network, Share())
    assert network[1] is plain
    share_batch_norm(network, Share(0, 2))
    assert type(network[1]) is SharedBatchNorm and network[1].weight is weight
    x = torch.randn(4, 3)
    assert torch.equal(network[1].eval()(x), plain.eval()(x)), "the running statistics normalise in eval mode"


def test_one_process_shares_nothing():
    """With one process both are the identity, without any group."""
    x = torch.randn(5, 2)
    assert Share().of(x) is x and Share().together(x) is x and Share().sum_of_own(x) is x
    Share().sum_gradients([torch.nn.Parameter(x)])


def test_shares_partition_the_batch():
    """The rows of all ranks are those of the whole, each once."""
    x = torch.arange(12)
    parts = [Share(r, 3).of(x).tolist() for r in range(3)]
    assert parts == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
