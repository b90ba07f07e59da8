"""Feature extraction: batches, sizes, settings, arithmetic; the hashes; pixels, random, torchvision's and own networks."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from core.evaluation.inception_weights import smooth_and_noise
from torch import nn

from gebm_cli.core.evaluation.backbones import Backbone, Compiled, OwnNetwork, RandomNetwork, torchvision_names
from gebm_cli.core.evaluation.classifier import Classifier
from gebm_cli.core.evaluation.features import Features, by_shape, data_hash, pixels, rgb, state_hash
from gebm_cli.core.evaluation.resizing import resize
from gebm_cli.errors import UsageError

CPU = torch.device("cpu")


class Several:
    """Images in a list, handed out in batches that are never full, as a reader of files may."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def batches(self, n, rows=None):
        n = max(1, n - 1)
        for start in range(0, len(self.images), n):
            yield self.images[start : start + n]


@pytest.fixture
def mixed():
    """Twelve images of four shapes, two of them grey, in no order."""
    shapes = [(3, 8, 8), (1, 8, 8), (3, 8, 12), (3, 20, 9), (1, 5, 5), (3, 8, 8)]
    return [smooth_and_noise(1, i, shape[1:], shape[0])[0] for i, shape in enumerate(shapes * 2)]


def _resized(batch_size=50):
    """Features that resize: the mean of every channel's 13 x 13 blocks of the resized image."""
    network = nn.Sequential(nn.AvgPool2d(13), nn.Flatten())
    return Features("blocks", network, "", CPU, batch_size, any_size=True, prepare=lambda x: resize(x, "tf1"))


# ---------------------------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
def test_mixed_sizes_do_not_depend_on_grouping_or_batch_size(mixed, batch_size):
    """Each image has, in its own place, the features that it has alone; progress adds up to the images."""
    seen = []
    result = _resized(batch_size)(Several(mixed), seen.append)
    expected = torch.cat([_resized()(image[None]) for image in mixed])
    assert result.shape == (12, 3 * 23 * 23) and result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert sum(seen) == 12


def test_images_of_one_size_are_one_call_of_the_network(mixed):
    """After resizing, a batch of mixed sizes passes the network at once, and each size is resized at once."""
    prepared, passed = [], []
    network = nn.Flatten()
    network.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))

    def prepare(images):
        prepared.append(tuple(images.shape))
        return images.float().mean((2, 3)).expand(-1, 3)

    Features("means", network, "", CPU, 13, any_size=True, prepare=prepare)(Several(mixed))
    assert passed == [12]
    assert sorted(prepared) == sorted([(4, 3, 8, 8), (2, 1, 8, 8), (2, 3, 8, 12), (2, 3, 20, 9), (2, 1, 5, 5)])


def test_networks_that_take_any_size_see_each_size_by_itself(mixed):
    """Where nothing is resized the groups pass one after the other, and the order is kept."""
    network = RandomNetwork(0)
    features = Features("random", network, "", CPU, any_size=True, prepare=network.prepare)
    expected = torch.cat([features(image[None]) for image in mixed])
    torch.testing.assert_close(features(Several(mixed)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("other", [(3, 8, 9), (1, 8, 8)])
@pytest.mark.parametrize("batch_size", [2, 50])
def test_images_that_must_agree_and_do_not_are_refused(other, batch_size):
    """Pixels of two sizes, or of colour and grey, raise ValueError with both, in one batch or in two."""
    images = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 3 + [torch.zeros(*other, dtype=torch.uint8)]
    spelled = "x".join(map(str, other))
    with pytest.raises(ValueError, match=f"pixels features: images of 3x8x8 and of {spelled}"):
        Features("pixels", nn.Flatten(), "none", CPU, batch_size)(Several(images))


def test_images_that_agree_need_no_resizing(mixed):
    """Pixels of images of one size are those of the tensor of all."""
    same = [image for image in mixed if image.shape == (3, 8, 8)]
    assert torch.equal(pixels(CPU)(Several(same)), pixels(CPU)(torch.stack(same)))


def test_by_shape_keeps_rows(mixed):
    """Every row is in one group, with its own image."""
    rows = []
    for numbers, images in by_shape(mixed):
        rows += numbers
        assert all(torch.equal(mixed[row], image) for row, image in zip(numbers, images))
    assert sorted(rows) == list(range(12))


def test_pixels_are_the_data_themselves():
    """The pixel features of images are their levels / 127.5 - 1, flattened; points are returned as they are."""
    images, points = smooth_and_noise(5, 0, (8, 8)), torch.randn(4, 2)
    expected = (images.double() / 127.5 - 1).flatten(1)
    torch.testing.assert_close(pixels(CPU)(images).double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(pixels(CPU)(points), points)


def test_head_gives_logits_of_extracted_features():
    """`logits` applies the head to features; without a head there are none."""
    head = nn.Linear(12, 5)
    features = Features("pixels", nn.Flatten(), "", CPU, head=head)
    extracted = features(smooth_and_noise(3, 0, (2, 2)))
    assert torch.equal(features.logits(extracted), head(extracted)) and not features.logits(extracted).requires_grad
    assert pixels(CPU).logits(extracted) is None


# ------------------------------------------------------------------------------------------------ settings, arithmetic


def test_settings_name_all_that_must_match():
    """Precision is said only where it is not float32, and accuracy only where it is known."""
    settings = Features("inception", nn.Flatten(), "abc", CPU, resize="tf1", layer=768).settings()
    assert settings == {"features": "inception", "weights_hash": "abc", "resize": "tf1", "layer": 768}
    settings = Features("x", nn.Flatten(), "abc", CPU, precision="bfloat16").settings()
    assert settings == {
        "features": "x",
        "weights_hash": "abc",
        "resize": "none",
        "layer": None,
        "precision": "bfloat16",
    }
    network = Classifier(1, 3)
    network.held_out_accuracy.fill_(0.98768)
    assert Features("classifier", network, "abc", CPU).settings()["classifier_accuracy"] == 0.9877
    assert "classifier_accuracy" not in settings


class Spy(nn.Module):
    """Notes the arithmetic that is in force while features are extracted."""

    def forward(self, x):
        cudnn = torch.backends.cudnn
        self.seen = (
            torch.backends.cuda.matmul.allow_tf32,
            cudnn.allow_tf32,
            cudnn.deterministic,
            cudnn.benchmark,
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
        )
        return x.flatten(1)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("float32", (False, False, True, False, False, True)),
        ("tf32", (True, True, True, False, False, True)),
        ("bfloat16", (False, False, True, False, True, True)),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_arithmetic_is_that_asked_for_and_restored(precision, expected, before):
    """TF32, determinism and autocast are set for the extraction alone, whatever they were before."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    saved = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    spy = Spy()
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.deterministic = before
        Features("spy", spy, "", CPU, precision=precision)(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic) == (before,) * 3
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = saved
    assert spy.seen == expected


def test_bfloat16_is_near_float32_and_returned_in_float32():
    """Rounding to 8 bits moves the features by about 1 %, no more; images are prepared in float32."""
    images, network = smooth_and_noise(4, 0, (16, 16)), RandomNetwork(0)
    exact, rounded = (
        Features("random", network, "", CPU, precision=p, prepare=network.prepare)(images)
        for p in ("float32", "bfloat16")
    )
    error = ((rounded - exact).norm() / exact.norm()).item()
    assert rounded.dtype == torch.float32 and 1e-4 < error < 2e-2, error


# ------------------------------------------------------------------------------------------------------- other networks


def test_random_network_is_its_seed():
    """The same seed gives the same weights whatever the global stream; another seed gives others."""
    hashes = {seed: state_hash(RandomNetwork(seed)) for seed in (0, 1)}
    torch.manual_seed(5)
    assert state_hash(RandomNetwork(0)) == hashes[0] != hashes[1]


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (128, 128)])
def test_random_features_are_finite_for_any_size(size):
    """256 features, none dead over a few images, of unit order."""
    network = RandomNetwork(0)
    features = network(network.prepare(smooth_and_noise(4, 0, size)))
    assert features.shape == (4, 256) and 0.005 < features.pow(2).mean().sqrt() < 2


def test_random_features_see_grey_as_rgb():
    """A grey image has the features of its colour copy."""
    grey, network = smooth_and_noise(2, 0, (9, 9), channels=1), RandomNetwork(0)
    assert torch.equal(network(network.prepare(grey)), network(network.prepare(rgb(grey))))


@pytest.fixture(scope="module")
def resnet():
    """torchvision's ResNet-18 with seeded weights, and ours with the same."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(weights=None).eval()
    return theirs, Backbone("resnet18").load(theirs.state_dict())


def test_backbone_features_are_the_inputs_of_the_last_layer(resnet):
    """512 features; torchvision's own last layer on them gives torchvision's own output."""
    from torchvision.models import ResNet18_Weights

    theirs, ours = resnet
    images = smooth_and_noise(2, 0, (40, 60))
    with torch.no_grad():
        expected = theirs(ResNet18_Weights.DEFAULT.transforms()(images))
        features = ours(ours.prepare(images))
    assert features.shape == (2, 512)
    torch.testing.assert_close(ours.logits(features), expected, atol=1e-4, rtol=1e-5)
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


def test_backbone_sees_grey_as_rgb(resnet):
    """ImageNet's mean and deviation are then taken off each of the three channels."""
    grey = smooth_and_noise(1, 0, (40, 60), channels=1)
    assert torch.equal(resnet[1].prepare(grey), resnet[1].prepare(grey.repeat(1, 3, 1, 1)))


def test_published_inception_of_torchvision_is_built_as_its_weights_need():
    """With the side branch that the file holds, and with the input transform that torchvision turns on for it."""
    body = Backbone("inception_v3").body
    assert body.transform_input and body.AuxLogits is not None


def test_all_torchvision_names_end_in_a_linear_layer():
    """Built without memory for the weights, each of the classifiers on offer has a linear layer last."""
    from torchvision.models import get_model

    names = torchvision_names()
    assert {"resnet50", "inception_v3", "vit_b_16", "convnext_base"} <= set(names) and "squeezenet1_0" not in names
    for name in ("alexnet", "densenet121", "efficientnet_b0", "mobilenet_v3_small", "swin_t", "maxvit_t", "vit_b_16"):
        with torch.device("meta"):
            leaves = [m for m in get_model(name, weights=None).modules() if not list(m.children())]
        assert [m for m in leaves if any(True for _ in m.parameters())][-1].__class__.__name__ == "Linear", name


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda x: [1.0], "returned an object of type list"),
        (lambda x: x.float(), r"float32 numbers of shape \(2, 3, 4, 4\), expected a float tensor \(2, d\)"),
        (lambda x: x.flatten(1), r"uint8 numbers of shape \(2, 48\)"),
        (lambda x: x.flatten(1).float()[:1], r"shape \(1, 48\)"),
        (lambda x: x.flatten(1).float()[:, :0], r"shape \(2, 0\)"),
        (lambda x: x.flatten(1).float() / 0, "not finite"),
        (lambda x: (x.flatten(1).float() + 1) / 0, "not finite"),
        (lambda x: x.no_such_thing, "raised AttributeError"),
    ],
)
def test_own_network_that_returns_no_features_is_refused(returned, said):
    """The message names the function and what it was called with."""
    with pytest.raises(UsageError, match=said) as error:
        OwnNetwork(returned, "mine:net")(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert "--features mine:net, called with uint8 images (2, 3, 4, 4)," in str(error.value)


def test_own_network_must_keep_its_dimension():
    """A second batch with another number of features is refused."""
    network = OwnNetwork(lambda x: x.flatten(1).double(), "mine:net")
    assert network(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)).shape == (2, 48)
    with pytest.raises(
        UsageError, match=r"shape \(2, 75\), expected a float tensor \(2, 48\), the same for every batch"
    ):
        network(torch.zeros(2, 3, 5, 5, dtype=torch.uint8))


def test_compiled_network_sees_full_batches_only(monkeypatch):
    """Short batches are filled up, and the filling is cut off again; the network is compiled once, with frozen weights."""
    calls, sizes = [], []

    def compile(network, **options):
        calls.append(options)
        return lambda x: (sizes.append(len(x)), network(x))[1]

    monkeypatch.setattr(torch, "compile", compile)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    x = torch.rand(7, 3, 2, 2)
    result = torch.cat([Compiled(network, 5)(part) for part in x.split(5)])
    torch.testing.assert_close(result, network(x))
    assert sizes == [5, 5] and calls == [{"options": {"freezing": True}}] * 2


def test_network_that_cannot_be_compiled_is_one_sentence(monkeypatch):
    """A failure of the compiler names its first line and the way out."""

    def fails(x):
        raise RuntimeError("no compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda network, **options: fails)
    with pytest.raises(UsageError, match=r"--compile: .*\(RuntimeError: no compiler\); leave --compile out"):
        Compiled(nn.Flatten(), 2)(torch.zeros(1, 2))


# -------------------------------------------------------------------------------------------------------------- hashes


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
