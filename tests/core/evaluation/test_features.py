"""Feature networks: the learned classifier, its scale, its determinism and its hash."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch

from gebm_cli.core.data.dataset import to_float
from gebm_cli.core.data.images import digits
from gebm_cli.core.evaluation.features import (
    N_FEATURES,
    Classifier,
    Features,
    data_hash,
    pixels,
    state_hash,
    train_classifier,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return digits(300)


@pytest.fixture(scope="module")
def trained(data):
    """A classifier of all the digits, with the progress it reported."""
    progress = []
    network = train_classifier(
        data.train, data.train_labels, data.held_out, data.held_out_labels, CPU, lambda *p: progress.append(p)
    )
    return network, progress


def _train_on_few():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (8, 1, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(8) % 2
    return train_classifier(images, labels, images[:0], labels[:0], CPU)


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
    assert features.shape == (1497, N_FEATURES) and features.dtype == torch.float32
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


def test_training_is_deterministic():
    """The same few images give the same network, whatever the global stream, and leave that stream alone."""
    torch.manual_seed(1)
    first = state_hash(_train_on_few())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert state_hash(_train_on_few()) == first
    assert torch.equal(torch.get_rng_state(), before), "training drew from the global stream"


def test_state_hash_sees_every_tensor():
    """Changing one number of any parameter or buffer changes the hash; a copy has the same."""
    network = Classifier(1, 3)
    original = state_hash(network)
    assert state_hash(copy.deepcopy(network)) == original
    for name in network.state_dict():
        changed = copy.deepcopy(network)
        changed.state_dict()[name].view(-1)[-1] += 1
        assert state_hash(changed) != original, name


def test_state_hash_is_sha256_of_names_and_bytes():
    """The hash can be recomputed from the definition: names in order, each followed by its bytes."""
    network = torch.nn.Linear(2, 1)
    parts = b"bias" + network.bias.detach().numpy().tobytes() + b"weight" + network.weight.detach().numpy().tobytes()
    assert state_hash(network) == hashlib.sha256(parts).hexdigest()


def test_data_hash_sees_content_type_shape_and_order():
    """Any of the four changes the hash; memory layout does not."""
    a = torch.arange(6, dtype=torch.int32).view(2, 3)
    b = torch.ones(2)
    hashes = [data_hash(a, b), data_hash(b, a), data_hash(a + 1, b), data_hash(a.view(3, 2), b), data_hash(a), b""]
    hashes += [data_hash(a.view(torch.float32), b)]
    assert len(set(hashes)) == len(hashes)
    assert data_hash(a.T.contiguous().T, b) == data_hash(a, b)


def test_pixels_are_the_data_themselves(data):
    """The pixel features of images are their levels / 127.5 - 1, flattened; points are returned as they are."""
    images, points = data.train[:5], torch.randn(4, 2)
    expected = (images.double() / 127.5 - 1).flatten(1)
    torch.testing.assert_close(pixels(CPU)(images).double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(pixels(CPU)(points), points)
