"""The frames of a sample set as pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from report_runs import add_chains, new_run

from gebm_cli.errors import GebmError
from gebm_cli.experiment.report.film import frames_of, picture_of, read_shown
from gebm_cli.experiment.tiles import tiled


def test_frames_of_images_are_their_tiles_without_loss(tmp_path):
    folder = add_chains(new_run(tmp_path))
    shown = read_shown(folder)
    frames = frames_of(shown)
    assert [label for label, _ in frames] == ["step 0", "step 25", "step 50", "step 75", "step 100"]
    picture = np.asarray(Image.open(io.BytesIO(frames[3][1])).convert("L"))
    assert picture.shape == (6 * 9 - 1, 6 * 9 - 1)
    with np.load(folder / "shown.npz") as arrays:
        assert (picture[9:17, 18:26] == arrays["frames"][3, 8, :, :, 0]).all()  # the second row, the third column


def test_frames_of_points_are_drawn_on_common_axes(tmp_path):
    shown = read_shown(add_chains(new_run(tmp_path), images=False))
    sizes = {Image.open(io.BytesIO(content)).size for _, content in frames_of(shown)}
    assert len(frames_of(shown)) == 5 and len(sizes) == 1


def test_tiles_of_few_images_have_no_empty_columns():
    assert tiled(np.zeros((2, 4, 4, 3), np.uint8), 6).shape == (4, 9, 3)


def test_a_damaged_archive_is_named(tmp_path):
    folder = add_chains(new_run(tmp_path))
    content = (folder / "shown.npz").read_bytes()
    for damaged in (content[: len(content) // 2], content[:300] + b"x" * 2000 + content[2300:], b""):
        (folder / "shown.npz").write_bytes(damaged)
        with pytest.raises(GebmError, match=r"shown\.npz"):
            read_shown(folder)
    (folder / "shown.npz").unlink()
    assert read_shown(folder) is None


def test_a_large_picture_is_made_smaller_and_a_small_one_kept(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 2000, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    Image.new("RGB", (600, 300)).save(tmp_path / "small.png")
    large, small = picture_of(tmp_path / "large.png", "noise"), picture_of(tmp_path / "small.png", "black")
    assert large.media == "image/webp" and Image.open(io.BytesIO(large.content)).size == (1400, 630)
    assert small.content == (tmp_path / "small.png").read_bytes() and small.media == "image/png"
    assert picture_of(tmp_path / "none.png", "none") is None
