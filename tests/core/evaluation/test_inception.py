"""Our Inception against pytorch-fid's own class, on one random set of weights."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_fid import inception as pytorch_fid

from gebm_cli.core.evaluation.inception import Inception, _network, weights_url


@pytest.fixture(scope="module")
def weights():
    """A random state dict that keeps signals alive through the whole depth, with non-trivial batch norms."""
    generator = torch.Generator().manual_seed(0)
    state = _network().state_dict()
    for name, value in state.items():
        if value.dim() == 4:
            value.normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
        elif name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1, generator=generator)
    return state


@pytest.fixture(scope="module")
def ours(weights):
    return Inception(weights)


@pytest.fixture(scope="module")
def theirs(weights):
    """pytorch-fid's network, its download replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: weights)
        return pytorch_fid.InceptionV3().eval()


def _images(channels, generator):
    return 2 * torch.rand(2, channels, 32, 32, generator=generator) - 1


def test_features_are_those_of_pytorch_fid(ours, theirs, generator):
    """On the same weights and images in [-1, 1] the 2,048 features agree to 1e-4, and tell the two images apart."""
    x = _images(3, generator)
    with torch.no_grad():
        result, (expected,) = ours(x), theirs((x + 1) / 2)
    expected = expected.flatten(1)
    assert result.shape == (2, 2048)
    error = ((result - expected).norm() / expected.norm()).item()
    signal = ((expected[0] - expected[1]).norm() / expected.norm()).item()
    assert error < 1e-4 and signal > 100 * error, f"relative error {error:.1e}, images differ by {signal:.1e}"


def test_grey_is_its_rgb_copy(ours, generator):
    """A grey image has the features of the same image repeated in three channels."""
    x = _images(1, generator)[:1]
    with torch.no_grad():
        assert torch.equal(ours(x), ours(x.repeat(1, 3, 1, 1)))


def test_network_is_frozen(ours):
    """Batch norms use their stored statistics and no parameter asks for a gradient."""
    assert not any(m.training for m in ours.modules()) and not any(p.requires_grad for p in ours.parameters())


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


def test_weights_url_is_pytorch_fids():
    """The address names the 2015-12-05 weights by their hash."""
    assert weights_url() == pytorch_fid.FID_WEIGHTS_URL and "2015-12-05-6726825d" in weights_url()
