"""pytorch-fid's Inception (the 2015-12-05 weights), built without its download."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

_BLOCKS: tuple[str | nn.Module, ...] = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", nn.MaxPool2d(3, 2)),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", nn.MaxPool2d(3, 2)),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


class Inception(nn.Module):
    """pool3 features (n, 2048) of images in [-1, 1]: bilinear resize to 299 (half-pixel, not antialiased), grey made RGB.

    The graph is that of pytorch-fid 0.3 (Seitzer 2020; a port of the TensorFlow network of Heusel et al. 2017).
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Raises RuntimeError when `weights` is not pytorch-fid's state dict."""
        super().__init__()
        net = _network()
        net.load_state_dict(weights)
        self.blocks = nn.Sequential(*(getattr(net, name) if isinstance(name, str) else name for name in _BLOCKS))
        # On a CPU channels-last runs this network nearly twice as fast, with features equal to 1e-6.
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1 or 3, h, w) -> (n, 2048)."""
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = self.blocks(x.contiguous(memory_format=torch.channels_last))
        return adaptive_avg_pool2d(x, 1).flatten(1)


def weights_url() -> str:
    """Where pytorch-fid publishes the weights."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    return FID_WEIGHTS_URL


def _network() -> nn.Module:
    """The 1008-class graph with pytorch-fid's four kinds of patched blocks, randomly initialised.

    pytorch-fid's own constructor downloads the weights; its blocks are the part that a library should supply.
    """
    from pytorch_fid import inception as patched
    from torchvision.models import inception_v3

    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    net.Mixed_5b = patched.FIDInceptionA(192, pool_features=32)
    net.Mixed_5c = patched.FIDInceptionA(256, pool_features=64)
    net.Mixed_5d = patched.FIDInceptionA(288, pool_features=64)
    net.Mixed_6b = patched.FIDInceptionC(768, channels_7x7=128)
    net.Mixed_6c = patched.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6d = patched.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6e = patched.FIDInceptionC(768, channels_7x7=192)
    net.Mixed_7b = patched.FIDInceptionE_1(1280)
    net.Mixed_7c = patched.FIDInceptionE_2(2048)
    return net
