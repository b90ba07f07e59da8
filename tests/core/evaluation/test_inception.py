"""Our Inception against pytorch-fid's and torch-fidelity's own classes, on one random set of weights."""

from __future__ import annotations

import pytest
import torch
from core.evaluation.inception_weights import random_inception, smooth_and_noise, without_first_weights
from pytorch_fid import inception as pytorch_fid

from gebm_cli.core.evaluation.inception import LAYERS, Inception, weights_url
from gebm_cli.core.evaluation.resizing import resize


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with pytest.MonkeyPatch.context() as patch:
        without_first_weights(patch)
        yield


@pytest.fixture(scope="module")
def weights():
    return random_inception()


@pytest.fixture(scope="module")
def ours(weights):
    return Inception(weights)


@pytest.fixture(scope="module")
def images():
    """One smooth image and one of noise."""
    return smooth_and_noise(2, 1)


@pytest.fixture(scope="module")
def theirs(weights, images):
    """pytorch-fid's features at its four blocks, its download replaced; averaged as its get_activations does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: weights)
        network = pytorch_fid.InceptionV3([0, 1, 2, 3]).eval()
    with torch.no_grad():
        maps = network(images.float() / 255)
    return {x.shape[1]: torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1) for x in maps}


def _relative(result, expected):
    return ((result - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layer", LAYERS)
def test_features_are_those_of_pytorch_fid(weights, images, theirs, layer):
    """At every one of its `dims`, features agree to a relative 1e-6, and tell the two images apart."""
    with torch.no_grad():
        result = Inception(weights, layer)(resize(images, "pytorch-fid"))
    assert result.shape == (2, layer) and result.dtype == torch.float32
    error, signal = _relative(result, theirs[layer]), _relative(theirs[layer][:1], theirs[layer][1:])
    assert error < 1e-6 and signal > 1e-3, f"relative error {error:.1e}, images differ by {signal:.1e}"


def test_random_weights_are_those_of_a_working_network(theirs):
    """No layer's features vanish or explode, and hardly any is dead: the agreement above means something."""
    for layer, features in theirs.items():
        assert 0.1 < features.pow(2).mean().sqrt() < 10 and (features == 0).float().mean() < 0.01, layer


@pytest.mark.parametrize("layer", LAYERS)
def test_network_stops_at_the_layer(weights, layer):
    """Nothing that comes after the layer is kept, let alone computed: parameters end where the layer does."""
    last = {64: "Conv2d_2b_3x3", 192: "Conv2d_4a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}[layer]
    names = list(dict.fromkeys(name.split(".")[0] for name in weights))
    kept = names[: names.index(last) + 1]
    expected = sum(v.numel() for k, v in weights.items() if k.split(".")[0] in kept and k.endswith("conv.weight"))
    convolutions = [m for m in Inception(weights, layer).modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.weight.numel() for m in convolutions) == expected


def test_batch_norms_are_folded(ours):
    """None is left, and every convolution has a bias of its own."""
    modules = list(ours.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in modules)
    assert all(m.bias is not None for m in modules if isinstance(m, torch.nn.Conv2d))


def test_features_and_logits_are_those_of_torch_fidelity(weights, ours, images, tmp_path):
    """Its compat network reads the same file; with resize tf1 the features and the logits without bias agree to 1e-6."""
    tool = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(weights, tmp_path / "weights.pth")
    names = [*map(str, LAYERS), "logits_unbiased"]
    network = tool.FeatureExtractorInceptionV3(
        "inception-v3-compat", names, feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    with torch.no_grad():
        expected = dict(zip(names, network(images), strict=True))
        features = ours(resize(images, "tf1"))
        logits = ours.logits(features)
    assert logits.shape == (2, 1008)
    assert _relative(features, expected["2048"]) < 1e-6
    assert _relative(logits, expected["logits_unbiased"]) < 1e-6


def test_logits_are_the_last_layer_without_its_bias(weights, ours, generator):
    """features @ W' in float64, to 1e-6; the bias, which is about 1.5 here, is left out."""
    features = torch.rand(3, 2048, generator=generator)
    expected = features.double() @ weights["fc.weight"].double().T
    assert _relative(ours.logits(features).double(), expected) < 1e-6
    assert weights["fc.bias"].abs().mean() > 1


def test_earlier_layers_have_no_logits(weights):
    """Asking for them raises ValueError."""
    with pytest.raises(ValueError, match="2048"):
        Inception(weights, 192).logits(torch.zeros(1, 192))


def test_chunks_do_not_change_features(ours):
    """Nineteen images, which fill no chunk evenly, have the features they have alone, in their order."""
    x = resize(smooth_and_noise(19, 2), "pytorch-fid")
    with torch.no_grad():
        together = ours(x)
        assert together.shape == (19, 2048)
        for i in (0, 3, 4, 16, 18):
            assert _relative(together[i], ours(x[i : i + 1])[0]) < 1e-6, i


def test_network_is_frozen(ours):
    """It is in evaluation mode and no parameter asks for a gradient."""
    assert not any(m.training for m in ours.modules()) and not any(p.requires_grad for p in ours.parameters())


def test_weights_are_not_changed(weights, ours):
    """Folding works on a copy: the state dict that was read still equals a fresh one."""
    fresh = random_inception()
    assert all(torch.equal(weights[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("break_it", ["missing", "extra", "shape", "empty"])
def test_wrong_weights_are_refused(weights, break_it):
    """A state dict that is not exactly pytorch-fid's raises RuntimeError instead of leaving random weights."""
    broken = dict(weights)
    name = "Mixed_7c.branch1x1.conv.weight"
    if break_it == "missing":
        del broken[name]
    elif break_it == "extra":
        broken["AuxLogits.fc.weight"] = torch.zeros(1)
    elif break_it == "shape":
        broken[name] = broken[name][:-1]
    else:
        broken = {}
    with pytest.raises(RuntimeError, match="state_dict"):
        Inception(broken)


def test_weights_of_an_older_torch_are_read(weights, ours, images):
    """Files from before torch counted batches in batch norm (0.4.1) have no such entries, and load all the same."""
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(weights)
    with torch.no_grad():
        x = resize(images, "pytorch-fid")
        assert torch.equal(Inception(old, 192)(x), Inception(weights, 192)(x))


def test_weights_url_is_pytorch_fids():
    """The address names the 2015-12-05 weights by their hash."""
    assert weights_url() == pytorch_fid.FID_WEIGHTS_URL and "2015-12-05-6726825d" in weights_url()
