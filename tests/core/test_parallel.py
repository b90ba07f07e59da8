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
from gebm_cli.core.models.flows import RealNvp
from gebm_cli.core.models.networks import Energy, mlp
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.core.objectives.f_divergences import FDivergence
from gebm_cli.core.objectives.kale import Kale
from gebm_cli.core.objectives.kernel_losses import Mmd, ScaledMmd
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
}
DIRECT = {
    "ml": (MaximumLikelihood(), True),
    "gmmn": (FixedKernelMmd(Gaussian(1.0)), True),
    "pcd-unmoved": (ContrastiveDivergence(False, True, n_steps=0), False),
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
    data = 1 + 0.5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    method = Method(**{**keys, "share": share})
    schedule = Schedule(STEPS, critic_steps=2, burst_critic_steps=3, burst_every=3, log_every=1, checkpoint_every=HALF)
    batches = Minibatches(data, BATCH, 0, share=(share.rank, share.size))
    generator = make_generator(0, "train")
    return Training(base, energy, NormalPrior(2), batches, schedule, generator, train_base, Rates(1e-3), method, direct)


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


def _process(rank: int, port: int, folder: str) -> None:
    """What each of two processes does: every training from its start, and from the state that one process left half-way."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    share, halves = Share(rank, 2), torch.load(f"{folder}/halves.pt", weights_only=True)
    results = {name: (trained(name, share), trained(name, share, halves[name])) for name in NAMES}
    whole = torch.arange(10.0).view(5, 2).repeat_interleave(2, 0)
    together = share.together(share.of(whole))
    torch.save({"trained": results, "together": together, "whole": whole}, f"{folder}/rank{rank}.pt")
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
    """The persistent chains in a checkpoint are those of the whole batch, in one process's order."""
    chains = [p["trained"]["pcd-unmoved"][0]["states"][HALF]["chains"] for p in two]
    assert chains[0].shape == (BATCH, 2) and torch.equal(*chains)
    assert torch.equal(chains[0], alone["pcd-unmoved"]["states"][HALF]["chains"])


def test_together_undoes_of(two):
    """The rows that the processes share out come back in their order."""
    assert all(torch.equal(p["together"], p["whole"]) for p in two)


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
