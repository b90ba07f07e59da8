"""Feature networks by name: which options suit which, and the files they are read from."""

from __future__ import annotations

import hashlib
import shutil
import zipfile

import pytest
import torch
from core.evaluation.inception_weights import smooth_and_noise, without_first_weights, write_inception_weights

from gebm_cli.core.data.images import digits
from gebm_cli.core.evaluation.classifier import Classifier
from gebm_cli.core.evaluation.inception import weights_url
from gebm_cli.core.evaluation.resizing import PRESETS
from gebm_cli.errors import UsageError
from gebm_cli.experiment.features import build_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_inception_weights(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """An empty hub cache, and no network; Inception networks are made without first weights."""
    without_first_weights(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def _build(name, weights=None, **options):
    return build_features(name, None, None if weights is None else str(weights), CPU, **options)


# ----------------------------------------------------------------------------------------------------------- inception


def test_inception_defaults_are_those_of_pytorch_fid(file):
    """pool3 features, pytorch-fid's resizing, float32, and the hash of the file; any size is taken."""
    features = _build("inception", file)
    expected = {"features": "inception", "resize": "pytorch-fid", "layer": 2048}
    assert features.settings() == expected | {"weights_hash": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert features.any_size and features.precision == "float32" and features.batch_size == 50


def test_inception_has_logits_from_its_last_layer_only(file):
    """1008 logits from the features already extracted, and none from an earlier layer."""
    features = _build("inception", file)
    assert features.logits(torch.rand(3, 2048)).shape == (3, 1008)
    assert _build("inception", file, layer=64).logits(torch.rand(3, 64)) is None


def test_layer_and_resize_are_passed_on(file, layer=64):
    """The presets give the features that their names say, at the layer asked for; no two are alike."""
    from gebm_cli.core.evaluation.inception import Inception
    from gebm_cli.core.evaluation.resizing import resize

    images, found = smooth_and_noise(2, 3, (20, 30)), []
    network = Inception(torch.load(file), layer)
    for preset in PRESETS:
        features = _build("inception", file, resize=preset, layer=layer)
        assert features.settings()["resize"] == preset and features.settings()["layer"] == layer
        found.append(features(images))
        with torch.no_grad():
            assert torch.equal(found[-1], network(resize(images, preset)))
    assert not torch.allclose(found[0], found[1], rtol=1e-3) and not torch.allclose(found[1], found[2], rtol=1e-3)


def test_weights_in_torch_hubs_cache_are_found(file, tmp_path):
    """Without --weights the file that pytorch-fid itself would use is read."""
    cached = tmp_path / "hub" / "hub" / "checkpoints" / weights_url().rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    shutil.copy(file, cached)
    assert _build("inception", layer=64).weights_hash == hashlib.sha256(file.read_bytes()).hexdigest()


def test_missing_weights_say_how_to_get_them(tmp_path):
    """Both with and without --weights the message gives the address and the two places."""
    for weights, said in (
        (None, r"cannot be downloaded \(no network\)"),
        ("none.pth", "--weights none.pth: no such file"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            _build("inception", weights)
        assert weights_url() in str(error.value) and "--weights" in str(error.value) and "hub" in str(error.value)


def _truncated(file, path):
    path.write_bytes(file.read_bytes()[:100_000])


def _flipped(file, path):
    """One byte of the largest tensor changed, which torch itself does not notice."""
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_truncated, "is damaged"),
        (_flipped, "checksum"),
        (lambda file, path: path.write_bytes(b""), "is damaged"),
        (lambda file, path: torch.save([1, 2], path), "it holds a list"),
        (lambda file, path: torch.save({}, path), "it is empty"),
        (lambda file, path: torch.save({"state": torch.load(file)}, path), "Missing key"),
        (lambda file, path: torch.save(torch.nn.Linear(2, 2), path), "is damaged"),
        (lambda file, path: torch.save({"conv1.weight": torch.zeros(2)}, path), "Missing key"),
    ],
    ids=["truncated", "flipped", "empty", "list", "no-names", "nested", "module", "another"],
)
def test_files_that_are_no_weights_are_refused(file, tmp_path, write, said):
    """One sentence: the file, what was expected, what was found, and where the right one is."""
    write(file, tmp_path / "wrong.pth")
    with pytest.raises(UsageError, match=said) as error:
        _build("inception", tmp_path / "wrong.pth")
    message = str(error.value)
    assert "wrong.pth: is not pytorch-fid's Inception state dict" in message and weights_url() in message
    assert "\n" not in message and len(message) < 900


# --------------------------------------------------------------------------------------------------------- torchvision


def test_torchvision_model_from_a_file(tmp_path):
    """Features, logits, settings and hash of a ResNet-18; its images may have any size."""
    from torchvision.models import resnet18

    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    features = _build("torchvision:resnet18", tmp_path / "resnet.pth")
    digest = hashlib.sha256((tmp_path / "resnet.pth").read_bytes()).hexdigest()
    expected = {"features": "torchvision:resnet18", "weights_hash": digest, "resize": "torchvision", "layer": None}
    assert features.settings() == expected and features.any_size
    extracted = features(smooth_and_noise(2))
    assert extracted.shape == (2, 512) and features.logits(extracted).shape == (2, 1000)


def test_inception_of_torchvision_from_a_file(tmp_path):
    """It keeps its own name, and gives 2048 features."""
    from torchvision.models import inception_v3

    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "weights.pth")
    features = _build("inception-torchvision", tmp_path / "weights.pth")
    assert features.name == "inception-torchvision" and features(smooth_and_noise(1)).shape == (1, 2048)


def test_torchvision_weights_of_another_model_are_refused(file):
    """The message names the model that was expected, and its address."""
    with pytest.raises(UsageError, match="is not the state dict of torchvision's resnet18.*resnet18-f37072fd.pth"):
        _build("torchvision:resnet18", file)


def test_torchvision_weights_that_are_missing_say_where_to_put_them():
    """The address is torchvision's own."""
    with pytest.raises(UsageError, match=r"--features torchvision:resnet50: .*https://.*resnet50-.*\.pth.*--weights"):
        _build("torchvision:resnet50")


@pytest.mark.parametrize(
    ("name", "said"),
    [("resnet5", "did you mean resnet50"), ("squeezenet1_0", "expected a classifier"), ("", "e.g. alexnet")],
)
def test_unknown_torchvision_model_is_refused(name, said):
    """With the nearest names."""
    with pytest.raises(UsageError, match=said):
        _build(f"torchvision:{name}")


# ------------------------------------------------------------------------------------- random, classifier, a user's own


def test_random_features_say_their_seed():
    """The seed is part of the hash; the same seed gives the same hash and features."""
    first, again, other = (_build("random", seed=seed) for seed in (0, 0, 1))
    assert first.weights_hash == again.weights_hash != other.weights_hash
    images = smooth_and_noise(3, 0, (9, 17))
    assert torch.equal(first(images), again(images)) and first(images).shape == (3, 256)
    assert not torch.allclose(first(images), other(images)) and first.any_size


def test_classifier_gives_classes(monkeypatch):
    """Logits from the features, and the accuracy that was measured; training itself is tested with the classifier."""
    monkeypatch.setattr("gebm_cli.experiment.features.train_classifier", lambda *_: network)
    network = Classifier(1, 10)
    network.mean.fill_(0.5)
    network.held_out_accuracy.fill_(0.75)
    data = digits(7)  # a split of its own, so that no other test's cache is read or spoiled
    features = build_features("classifier", data, None, CPU)
    extracted = features(data.held_out[:5])
    torch.testing.assert_close(features.logits(extracted), network.classes(extracted))
    assert features.settings()["classifier_accuracy"] == 0.75 and not features.any_size


OWN = """
import torch
from torch import nn

class Means(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), {scale}))
    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1] == 3 and not self.training
        return images.float().mean((2, 3)) * self.scale

def module():
    return Means()

def function():
    return lambda images: images.double().mean((2, 3))

def other():
    return function()

def nothing():
    return 3

def fails():
    raise RuntimeError("no luck")

constant = 1
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write the user's module under a name of its own, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name, scale=2.0):
        (tmp_path / f"{name}.py").write_text(OWN.format(scale=scale))
        return name

    return write


@pytest.mark.parametrize(("function", "factor"), [("module", 2.0), ("function", 1.0)])
def test_own_features_of_mixed_images(own, function, factor):
    """A module or a function maps uint8 RGB images to features, whatever their sizes; grey is repeated."""
    name = own("own_features")
    features = _build(f"{name}:{function}", allow_plugins=True)
    images = smooth_and_noise(3, 0, (4, 6), channels=1)
    expected = images.double().mean((2, 3)).expand(-1, 3) * factor
    assert features.name == f"{name}:{function}" and features.any_size and features.settings()["resize"] == "none"
    torch.testing.assert_close(features(images).double(), expected, atol=1e-4, rtol=0)


def test_own_hash_is_of_the_weights_or_of_the_source(own):
    """A module is known by its state, wherever it was written; a function by its file and its name."""
    hashes = {
        (name, function): _build(f"{own(name, scale)}:{function}", allow_plugins=True).weights_hash
        for name, scale in (("own_a", 2.0), ("own_b", 2.0), ("own_c", 3.0))
        for function in ("module", "function", "other")
    }
    assert hashes["own_a", "module"] == hashes["own_b", "module"] != hashes["own_c", "module"]
    sources = [value for (_, function), value in hashes.items() if function != "module"]
    assert len(set(sources)) == 6
    content = b"own_c:function" + OWN.format(scale=3.0).encode()
    assert hashes["own_c", "function"] == hashlib.sha256(content).hexdigest()


def test_own_features_need_permission(own):
    """Nothing is imported without --allow-plugins."""
    with pytest.raises(UsageError, match=r"--features own_x:module: would run .* add --allow-plugins"):
        _build("own_x:module")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_bad:nothing", "returned an object of type int, expected a torch.nn.Module or a function"),
        ("own_bad:fails", "raised RuntimeError: no luck"),
        ("own_bad:absent", "the module own_bad has no function 'absent'"),
        ("own_bad:constant", "the module own_bad has no function 'constant'"),
        ("own_missing:f", "no module own_missing in the current folder"),
        ("own bad:f", "expected torchvision:MODEL or package.module:function"),
    ],
)
def test_own_features_that_cannot_be_made_are_refused(own, name, said):
    """One sentence, with the name that was given."""
    own("own_bad")
    with pytest.raises(UsageError, match=said) as error:
        _build(name, allow_plugins=True)
    assert f"--features {name}: " in str(error.value)


def test_own_module_reads_weights(own, tmp_path):
    """--weights is its state dict; for a function there is nothing to load."""
    name = own("own_weights")
    torch.save({"scale": torch.full((3,), 5.0)}, tmp_path / "w.pth")
    features = _build(f"{name}:module", "w.pth", allow_plugins=True)
    images = smooth_and_noise(2, 0, (4, 4))
    torch.testing.assert_close(features(images), images.float().mean((2, 3)) * 5)
    with pytest.raises(UsageError, match="--weights w.pth: .*no torch.nn.Module"):
        _build(f"{name}:function", "w.pth", allow_plugins=True)
    with pytest.raises(UsageError, match="--weights: .*does not fit"):
        torch.save({"scale": torch.zeros(2)}, tmp_path / "w.pth")
        _build(f"{name}:module", "w.pth", allow_plugins=True)


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("inceptoin", {}, "--features inceptoin: expected one of inception, .* did you mean inception"),
        ("pixels", {"resize": "tf1"}, "--resize tf1: .* and --features inception"),
        ("inception", {"resize": "bicubic"}, "--resize bicubic: expected one of pytorch-fid, tf1, clean"),
        ("random", {"layer": 64}, "--layer 64: .* and --features inception"),
        ("inception", {"layer": 100}, "--layer 100: expected one of 64, 192, 768, 2048"),
        ("inception", {"layer": 0}, "--layer 0: expected one of"),
        ("inception", {"precision": "float16"}, "--precision float16: expected float32 or bfloat16 or tf32"),
        ("pixels", {"precision": "bfloat16"}, "--precision bfloat16: expected float32 for --features pixels"),
        ("inception", {"precision": "tf32"}, "--precision tf32: is arithmetic of CUDA devices, and this is cpu"),
        ("classifier", {"compile": True}, "--compile: is for inception and torchvision features"),
    ],
)
def test_options_that_do_not_suit_are_refused(name, options, said):
    """Before any file is looked for, in one sentence."""
    with pytest.raises(UsageError, match=said):
        _build(name, **options)


def test_compile_needs_a_compiler(monkeypatch, file):
    """Without one on PATH the message names what is looked for."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"--compile: needs a C\+\+ compiler"):
        _build("inception", file, compile=True)


def test_precision_is_recorded(file):
    """bfloat16 is used and said."""
    features = _build("inception", file, layer=64, precision="bfloat16")
    exact = _build("inception", file, layer=64)(smooth_and_noise(2))
    error = ((features(smooth_and_noise(2)) - exact).norm() / exact.norm()).item()
    assert features.settings()["precision"] == "bfloat16" and 1e-5 < error < 3e-2, error


@pytest.mark.slow
def test_compiled_features_are_equal(file):
    """torch.compile, where a compiler is, gives the same features to a relative 5e-6, and the same settings.

    Its mean over a map of 73 x 73 is one running sum in float32, which is off by 1e-6 by itself.
    """
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    plain, compiled = _build("inception", file, layer=64), _build("inception", file, layer=64, compile=True)
    images = smooth_and_noise(60, 0, (40, 30))
    expected = plain(images)
    error = ((compiled(images) - expected).norm() / expected.norm()).item()
    assert error < 5e-6 and compiled.settings() == plain.settings(), error
