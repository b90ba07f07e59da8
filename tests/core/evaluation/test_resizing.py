"""Every resize preset against the tool it is named after, and against a plain evaluation of its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core.evaluation.inception_weights import smooth_and_noise
from PIL import Image
from torch.nn.functional import interpolate

from gebm_cli.core.evaluation.resizing import PRESETS, resize

SIZES = [(32, 32), (299, 299), (28, 45), (1, 1), (2, 3), (300, 301), (375, 500), (640, 113)]


@pytest.fixture(params=SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def images(request):
    """Two random images and two smooth ones of a size."""
    return smooth_and_noise(4, 0, request.param)


def _bilinear(image, half_pixel):
    """(c, h, w) float64 -> (c, 299, 299) by the definition of bilinear interpolation, one axis after the other."""
    for axis in (1, 2):
        size = image.shape[axis]
        position = (np.arange(299) + 0.5 * half_pixel) * size / 299 - 0.5 * half_pixel
        position = position.clip(0, size - 1)
        low = np.floor(position).astype(int)
        shape = [1, 1, 1]
        shape[axis] = 299
        fraction = (position - low).reshape(shape)
        image = image.take(low, axis) * (1 - fraction) + image.take((low + 1).clip(max=size - 1), axis) * fraction
    return image


@pytest.mark.parametrize("preset", ["pytorch-fid", "tf1"])
def test_bilinear_presets_follow_their_formula(images, preset):
    """Both bilinear presets are the definition in float64, with their own origin and scaling, to 1/20 of a level."""
    half_pixel = preset == "pytorch-fid"
    expected = np.stack([_bilinear(image.double().numpy(), half_pixel) for image in images])
    levels = resize(images, preset).double().numpy()
    levels = (levels + 1) * 127.5 if half_pixel else levels * 128 + 128
    assert abs(levels - expected).max() < 0.05  # positions are float32: near 600 they are off by up to 1e-4 of a pixel


def test_clean_is_pillows_bicubic_in_floats(images):
    """Each channel as Pillow resizes it in mode F, clipped to the levels, to 1e-6 of the range."""
    expected = [
        [
            np.asarray(Image.fromarray(c.numpy().astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC))
            for c in i
        ]
        for i in images
    ]
    levels = resize(images, "clean").double().numpy() * 128 + 128
    assert abs(levels - np.array(expected).clip(0, 255)).max() < 1e-6 * 255


def test_pytorch_fid_is_bit_equal_to_its_two_lines(images):
    """What pytorch-fid does to the tensor that torchvision's ToTensor makes."""
    expected = 2 * interpolate(images.float() / 255, size=(299, 299), mode="bilinear", align_corners=False) - 1
    assert torch.equal(resize(images, "pytorch-fid"), expected)


def test_tf1_is_torch_fidelitys(images):
    """Bit-equal to torch-fidelity's own function, which is bit-equal to TensorFlow 1."""
    tool = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = tool.interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(resize(images, "tf1"), (x - 128) / 128)


def test_clean_is_clean_fids(images):
    """Equal to clean-fid's own resizer and scaling, to 1e-6 of the range."""
    resizer = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    expected = np.stack([resizer(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1) for image in images])
    error = abs(resize(images, "clean").double().numpy() - (expected.astype(float) - 128) / 128).max()
    assert error < 1e-6


@pytest.mark.parametrize("preset", PRESETS)
def test_grey_is_its_rgb_copy(preset):
    """A grey image is resized to the same bits as the image with its channel three times; the channels stay in order."""
    grey = smooth_and_noise(2, 0, (20, 33), channels=1)
    assert torch.equal(resize(grey, preset), resize(grey.repeat(1, 3, 1, 1), preset))
    colour = smooth_and_noise(2, 1, (20, 33))
    for channel in range(3):
        alone = resize(colour[:, channel : channel + 1], preset)[:, 0]
        torch.testing.assert_close(resize(colour, preset)[:, channel], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_result_is_ready_for_the_network(preset):
    """float32 (n, 3, 299, 299), channels last, in about [-1, 1]; the images themselves stay as they were."""
    images = smooth_and_noise(2, 0, (40, 30))
    before = images.clone()
    x = resize(images, preset)
    assert x.shape == (2, 3, 299, 299) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.abs().max() < 1 + 1e-6 and x.std() > 0.1
    assert torch.equal(images, before)


def test_presets_differ():
    """No two presets give the same picture of noise: they differ by a tenth of the range somewhere."""
    noise = smooth_and_noise(2, 0)[1:]
    pictures = [resize(noise, preset) for preset in PRESETS]
    for i in range(3):
        assert (pictures[i] - pictures[i - 1]).abs().max() > 0.2


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
)
def test_what_is_no_batch_of_images_is_refused(images):
    """Floats, four channels, and a single image raise ValueError."""
    with pytest.raises(ValueError, match="expected uint8 images"):
        resize(images, "clean")


def test_unknown_preset_is_refused():
    """The message names the presets."""
    with pytest.raises(ValueError, match="pytorch-fid, tf1, clean"):
        resize(smooth_and_noise(1), "bicubic")
