"""Training by several processes as an experiment asks for it: which batch norms are shared, and stopping all at one call."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.models.batch_norm import SharedBatchNorm
from gebm_cli.core.parallel import Share
from gebm_cli.experiment import stages
from gebm_cli.experiment.build_training import build_training
from gebm_cli.experiment.load import load_experiment

IMAGES = """\
name: x
data: {kind: digits}
latent_dim: 2
base: {kind: conv, width: 2, batch_norm: true}
energy: {kind: conv, width: 2}
train_base: {batch_size: 4}
train_energy: {batch_size: 4}
"""


@pytest.fixture
def build(tmp_path):
    def build(stage: str, share: Share, *overrides: str, side: int = 8):
        (tmp_path / "x.yaml").write_text(IMAGES)
        shape = (8, 3 if side > 8 else 1, side, side)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        experiment = load_experiment(tmp_path / "x.yaml", overrides)
        return build_training(experiment, stage, Dataset("x", images, images), 0, torch.device("cpu"), share=share)

    return build


def norms(network: nn.Module) -> list[type]:
    return [type(m) for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("size", [1, 2])
def test_every_batch_norm_of_a_trained_network_is_shared(build, size):
    """Base and plain dcgan critic in `train-base`; in `train-energy` no norm sees moments of a batch, and all stay torch's own."""
    share, kind = Share(0, size), SharedBatchNorm if size > 1 else nn.BatchNorm2d
    training = build("train-base", share)
    assert norms(training.base) == [kind] * 2 and norms(training.energy) == []
    words = ["base={kind: dcgan, width: 2}", "energy={kind: dcgan, width: 2}"]
    training = build("train-base", share, *words, side=32)
    assert norms(training.base) == [kind] * 4 and norms(training.energy) == [kind] * 3
    assert all(m.share is share for m in training.energy.modules() if isinstance(m, SharedBatchNorm))
    training = build("train-energy", share, *words, side=32)
    assert norms(training.base) == [nn.BatchNorm2d] * 4 and norms(training.energy) == [nn.BatchNorm2d] * 3
    assert not any(m.training for m in training.energy.modules() if isinstance(m, nn.BatchNorm2d))


# ------------------------------------------------------------------------------------------------------------- stopping


class Meeting:
    """Two threads in the places of two processes: what each brings, once both are there."""

    def __init__(self):
        self.barrier, self.brought, self.meetings = threading.Barrier(2, timeout=10), {}, 0

    def share(self, rank: int) -> Share:
        meeting = self

        class Fake(Share):
            def together(self, own):
                meeting.brought[rank] = own
                if meeting.barrier.wait() == 0:
                    meeting.meetings += 1
                both = torch.cat([meeting.brought[0], meeting.brought[1]])
                meeting.barrier.wait()
                return both

        return Fake(rank, 2)


def run_both(monkeypatch, signalled: dict[int, int], seconds: tuple[float, float], calls: int = 100):
    """The call at which each of two processes stops (None: at none), and how often they met; `signalled`: rank to call."""
    meeting, stops, clocks = Meeting(), {}, threading.local()
    monkeypatch.setattr(stages, "monotonic", lambda: clocks.now)

    def process(rank: int) -> None:
        clocks.now, call = 100.0 * rank, 0
        asked = stages.stopping_together(
            lambda: call >= signalled.get(rank, calls + 1), meeting.share(rank), torch.device("cpu")
        )
        for call in range(1, calls + 1):
            clocks.now += seconds[rank]
            if asked():
                stops[rank] = call
                return

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not meeting.barrier.broken, "one asked where the other did not"
    return stops.get(0), stops.get(1), meeting.meetings


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_stop_at_the_same_call_soon_after_one_was_told(monkeypatch, rank):
    """Within ten calls, whichever was told; they meet at a tenth of the calls, though their clocks differ."""
    first, second, meetings = run_both(monkeypatch, {rank: 57}, (0.001, 0.003))
    assert first == second and 57 <= first < 67
    assert meetings <= 8


def test_processes_with_slow_steps_ask_at_every_call(monkeypatch):
    """The slower clock decides, so that nobody waits ten long steps for an end that was asked for."""
    assert run_both(monkeypatch, {0: 7}, (0.1, 2.0)) == (7, 7, 7)
    assert run_both(monkeypatch, {1: 40}, (0.25, 0.25))[:2] == (41, 41), "about once in a second"


def test_processes_that_nobody_told_do_not_stop(monkeypatch):
    """A hundred quick calls, eleven meetings at most."""
    first, second, meetings = run_both(monkeypatch, {}, (0.01, 0.01))
    assert first is None and second is None and 5 <= meetings <= 11


def test_one_process_stops_at_the_very_call():
    """Alone there is nobody to ask: the flag itself is read, at every call."""
    stopped = lambda: True  # noqa: E731
    assert stages.stopping_together(stopped, Share(), torch.device("cpu")) is stopped
