"""pytorch-fid's Inception (the 2015-12-05 weights), built without its download, and rearranged for speed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

# The parts after which pytorch-fid's `dims` 64, 192, 768 and 2048 are read.
_PARTS: dict[int, tuple[str | nn.Module, ...]] = {
    64: ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", nn.MaxPool2d(3, 2)),
    192: ("Conv2d_3b_1x1", "Conv2d_4a_3x3", nn.MaxPool2d(3, 2)),
    768: ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    2048: ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}
LAYERS = tuple(_PARTS)
# Images at a time on a CPU, in the first part and in the rest: maps beyond 32 MB are mapped anew at every layer by the C
# library, which took a sixth of the time at 50 images and more on a busy machine.
CPU_CHUNKS = (4, 16)


class Inception(nn.Module):
    """Features (n, 64, 192, 768 or 2048) of images (n, 3, 299, 299) that `resizing.resize` has made.

    The graph is that of pytorch-fid 0.3 (Seitzer 2020; a port of the TensorFlow network of Heusel et al. 2017), up to the
    layer asked for; each feature is the mean of its map. Every batch norm is folded into its convolution.
    """

    class_weights: Tensor | None

    def __init__(self, weights: Mapping[str, Tensor], layer: int = 2048) -> None:
        """Raises RuntimeError when `weights` is not pytorch-fid's state dict."""
        super().__init__()
        net = _network()
        net.load_state_dict(weights)
        _fold_batch_norms(net.eval())
        self.stem = _sequence(net, [dims for dims in LAYERS[:2] if dims <= layer])
        self.rest = _sequence(net, [dims for dims in LAYERS[2:] if dims <= layer])
        self.class_weights = nn.Buffer(weights["fc.weight"].float().clone()) if layer == 2048 else None
        # On a CPU channels-last runs this network nearly twice as fast, with features equal to 1e-6.
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 299, 299) -> (n, layer)."""
        whole = x.device.type != "cpu" or torch.compiler.is_compiling()
        for part, size in zip((self.stem, self.rest), CPU_CHUNKS, strict=True):
            x = part(x) if whole else torch.cat([part(chunk) for chunk in x.split(size)])
        return adaptive_avg_pool2d(x.float(), 1).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        """pool3 features (n, 2048) -> (n, 1008): features @ W' without the bias, from which the Inception Score is made.

        The original code leaves the bias out; torch-fidelity calls these `logits_unbiased`.
        """
        if self.class_weights is None:
            raise ValueError("only the 2048 features of the last layer have logits")
        return features @ self.class_weights.T


def _sequence(net: nn.Module, layers: list[int]) -> nn.Sequential:
    parts = [part for dims in layers for part in _PARTS[dims]]
    return nn.Sequential(*(getattr(net, part) if isinstance(part, str) else part for part in parts))


def weights_url() -> str:
    """Where pytorch-fid publishes the weights."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    return FID_WEIGHTS_URL


def _fold_batch_norms(net: nn.Module) -> None:
    """Put each batch norm into the convolution before it: w' = w g / sqrt(v + eps), b' = b - m g / sqrt(v + eps).

    In double precision, so that the new weights are rounded once.
    """
    for block in net.modules():
        convolution, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv = fuse_conv_bn_eval(convolution.double(), norm.double()).float()
            block.bn = nn.Identity()


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
