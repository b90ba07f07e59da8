"""The learned classifier: its accuracy, its scale, its determinism, and its classes from its features."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core.data.dataset import to_float
from gebm_cli.core.data.images import digits
from gebm_cli.core.evaluation import classifier
from gebm_cli.core.evaluation.classifier import N_FEATURES, train_classifier
from gebm_cli.core.evaluation.features import Features, state_hash
from gebm_cli.experiment import features as by_name

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return digits(360)


@pytest.fixture(scope="module")
def trained(data):
    """A classifier of all the digits, with the progress it reported; kept in the session's cache, where other tests find it."""
    progress = []
    network = train_classifier(
        data.train, data.train_labels, data.held_out, data.held_out_labels, CPU, lambda *p: progress.append(p)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_name, "train_classifier", lambda *args: network)
        by_name.build_features("classifier", data, None, CPU)
    return network, progress


class Enough(Exception):
    """Sixty steps are."""


def _train_on_few(monkeypatch):
    """The network after 60 steps on a few images."""
    generator, made = torch.Generator().manual_seed(0), []
    images, labels = torch.randint(256, (8, 1, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(8) % 2

    def stop(done, total):
        if done == 60:
            raise Enough

    def build(*args, make=classifier.Classifier):
        made.append(make(*args))
        return made[0]

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(classifier, "Classifier", build)
        train_classifier(images, labels, images[:0], labels[:0], CPU, stop)
    return made[0]


def test_classifier_recognises_held_out_digits(trained, data):
    """Held-out accuracy is above 97 %, and the stored figure is the one recomputed from the logits."""
    network, _ = trained
    with torch.no_grad():
        guesses = network.logits(network.body(to_float(data.held_out))).argmax(1)
    accuracy = (guesses == data.held_out_labels).double().mean().item()
    assert accuracy > 0.97 and network.held_out_accuracy.item() == pytest.approx(accuracy), accuracy


def test_features_are_standardised(trained, data):
    """On its training images each of the 64 features has mean 0 and variance 1 to float32 rounding."""
    features = Features("classifier", trained[0], "", CPU)(data.train)
    assert features.shape == (1437, N_FEATURES) and features.dtype == torch.float32
    assert features.double().mean(0).abs().max().item() < 1e-5
    assert (features.double().var(0) - 1).abs().max().item() < 1e-4


def test_trained_network_is_frozen(trained):
    """After training no parameter asks for a gradient and the network is in evaluation mode."""
    assert not trained[0].training and not any(p.requires_grad for p in trained[0].parameters())


def test_training_reports_every_step(trained):
    """Progress counts 1 to 800 of 800."""
    assert trained[1] == [(i, 800) for i in range(1, 801)]


@pytest.mark.parametrize("batch_size", [1, 7, 250, 5000])
def test_batch_size_does_not_change_features(trained, data, batch_size):
    """Features agree to 1e-5 whatever the batch size, and progress adds up to the images."""
    images, seen = data.held_out[:60], []
    result = Features("classifier", trained[0], "", CPU, batch_size)(images, seen.append)
    error = (result - Features("classifier", trained[0], "", CPU, 60)(images)).abs().max().item()
    assert error < 1e-5 and sum(seen) == 60, f"error {error:.1e}, {seen}"


def test_training_is_deterministic(monkeypatch):
    """The same few images give the same network, whatever the global stream, and leave that stream alone."""
    torch.manual_seed(1)
    first = state_hash(_train_on_few(monkeypatch))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert state_hash(_train_on_few(monkeypatch)) == first
    assert torch.equal(torch.get_rng_state(), before), "training drew from the global stream"


def test_classes_follow_from_the_features(trained, data):
    """Logits from the standardised features are those of the whole network, to rounding."""
    network, images = trained[0], to_float(data.held_out[:50])
    with torch.no_grad():
        torch.testing.assert_close(
            network.classes(network(images)), network.logits(network.body(images)), atol=1e-4, rtol=0
        )
