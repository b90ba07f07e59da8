"""The command line before any work is done: help, speed of import, and one sentence for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

COMMANDS = (
    "train-base train-energy sample evaluate-fid evaluate-kid two-sample-test divergence flow verdict validate new show runs"
).split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_worked_examples(gebm, command):
    """`--help` exits 0 and ends in examples that begin with the command itself."""
    result = gebm(command, "--help")
    assert result.code == 0 and "Examples" in result.out and f"gebm {command}" in result.out


def test_help_imports_no_torch():
    """`gebm --help` and `gebm sample --help` answer without torch, numpy, matplotlib or scikit-learn."""
    for argv in (["--help"], ["sample", "--help"], ["train-base", "--help"]):
        code = (
            "import sys; from gebm_cli.cli.app import run; "
            f"assert run({argv}) == 0; "
            "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'matplotlib', 'sklearn')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_module_is_the_command():
    """`python -m gebm_cli --version` is `gebm --version`."""
    done = subprocess.run([sys.executable, "-m", "gebm_cli", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("gebm ")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["train-base"], "give an experiment file"),
        (["train-base", "none.yaml"], "none.yaml: no such file"),
        (["train-base", "digts"], "did you mean digits?"),
        (["train-base", "digits", "train_base.lr"], "override 'train_base.lr': an override is written key=value"),
        (["train-base", "digits", "train_base.lerning_rate=3"], "unknown key; did you mean 'lr'?"),
        (["train-base", "digits", "train_base.lr=fast"], "got 'fast', expected a number"),
        (["train-base", "digits", "train_base.batch_size=0"], "got '0', expected a number of at least 1"),
        (["train-base", "digits", "--seed", "x"], "--seed"),
        (["train-base", "digits", "--device", "cuda:99"], "--device: got 'cuda:99', but this machine has"),
        (["train-base", "digits", "--device", "gpu"], "--device: got 'gpu', expected auto, cpu, cuda or cuda:N"),
        (["train-base", "--run", "digits-001"], "--run digits-001: no such run; there are none in runs"),
        (["train-energy", "digits"], "no run of experiment 'digits' in runs has finished train-base"),
        (["sample"], "no run in runs has finished train-energy; run `gebm train-energy EXPERIMENT` first"),
        (
            ["sample", "digits", "--beta", "-1"],
            "--beta: sample.beta: got '-1', expected 'auto' or a number of at least 0",
        ),
        (["sample", "digits", "--friction", "lo"], "--friction: sample.friction: got 'lo', expected 'low'"),
        (["sample", "digits", "--sampler", "nuts"], "--sampler: sample.sampler: got 'nuts', expected 'kla'"),
        (["sample", "digits", "train_base.lr=1"], "here only keys of `sample.` can be overridden"),
        (["evaluate-fid", "nowhere"], "nowhere: no such file, folder, run or data set"),
        (
            ["evaluate-kid", "ring", "grid", "--features", "vgg"],
            "--features: got 'vgg', expected inception, inception-torchvision, classifier",
        ),
        (["evaluate-kid", "digits", "ring"], "one holds points, the other images"),
        (["two-sample-test", "ring", "ring:held-out", "--alpha", "1e-4"], "--alpha 0.0001: cannot be reached with 999"),
        (["two-sample-test", "ring", "grid", "--alpha", "2"], "--alpha: got '2.0'"),
        (["two-sample-test", "ring", "grid", "--features", "inception"], "is for images, and ring:train holds points"),
        (["validate", "digits", "base.kind=sngan"], "base.width: unknown key; it is a key of another kind"),
        (
            ["validate", "digits", "base.kind=mlp"],
            "override 'base.kind=mlp': base.kind: mlp does not fit data.kind: digits",
        ),
        (
            ["validate", "digits", "data.kind=nope"],
            "override 'data.kind=nope': data.kind: got 'nope', expected 'digits'",
        ),
        (["validate", "digits", "=3"], "override '=3': an override is written key=value"),
        (["validate", "sample.beta"], "sample.beta: an override is written key=value, for instance sample.beta=1"),
        (["evaluate-kid", "heldout", "digits"], "train or held-out (of a run's data)"),
        (["validate"], "give the experiment file to validate"),
        (["nonsense"], "No such command"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_exit_2_and_no_trace(gebm, argv, sentence, tmp_path):
    """Nothing is printed on stdout, nothing is written, and no traceback is shown."""
    result = gebm(*argv)
    assert result.code == 2, result
    assert result.out == "" and "Traceback" not in result.err
    assert sentence in " ".join(result.err.replace("│", " ").split()), result.err
    assert sorted(os.listdir(tmp_path)) == ["experiments"]


def _folder_with(tmp_path, name: str, make) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(folder / f"good{i}.png")
    make(folder / name)
    return str(folder)


BAD_IMAGES = {
    "truncated": (
        "cut.png",
        lambda p: p.write_bytes((p.parent / "good0.png").read_bytes()[:50]),
        "not a readable image",
    ),
    "corrupt": ("bad.png", lambda p: p.write_text("no image"), "is not a readable image, perhaps truncated"),
    "mixed size": ("big.png", lambda p: Image.new("RGB", (9, 8)).save(p), "is 9x8 RGB, most images here are 8x8 RGB"),
    "grey": ("grey.png", lambda p: Image.new("L", (8, 8)).save(p), "is 8x8 grey, most images here are 8x8 RGB"),
    "16 bit": ("deep.png", lambda p: Image.new("I;16", (8, 8)).save(p), "has more than 8 bits a channel"),
}

OF_A_SCORE = {  # a score reads images of any sizes, so it is the features that refuse them
    "corrupt": "is not an image, or damaged from its first bytes",
    "mixed size": "(3, 8, 8) of good0.png and (3, 8, 9) of big.png",
    "grey": "(1, 8, 8) of grey.png and (3, 8, 8) of good0.png",
}


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize("command", ["train-base", "two-sample-test"])
def test_a_bad_image_is_named_and_nothing_is_written(gebm, tmp_path, case, command):
    """Training and testing both name the file, exit 2, and leave nothing behind."""
    name, make, sentence = BAD_IMAGES[case]
    folder = _folder_with(tmp_path, name, make)
    argv = {"train-base": ["digits", f"data={{kind: folder, path: {folder}}}"]}.get(command, [folder, folder])
    result = gebm(command, *argv)
    if command == "two-sample-test":
        sentence = OF_A_SCORE.get(case, sentence)
    assert result.code == 2 and name in result.err and sentence in result.err, result.err
    assert not (tmp_path / "runs").exists()


def test_an_empty_folder_says_what_was_looked_for(gebm, tmp_path):
    """The extensions are named."""
    (tmp_path / "empty").mkdir()
    result = gebm("evaluate-fid", "empty", "digits")
    assert result.code == 2 and "empty: no images here" in result.err and ".png" in result.err


def test_inception_without_weights_or_network_says_where_to_put_them(gebm, tmp_path, monkeypatch):
    """Offline, the remedy names the file and --weights; a wrong file is refused."""
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    np.savez("images.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    result = gebm("evaluate-kid", "images.npz", "images.npz", "--features", "inception")
    assert result.code == 2 and "cannot be downloaded (no network)" in result.err and "--weights" in result.err
    (tmp_path / "wrong.pth").write_bytes(b"x")
    result = gebm("evaluate-kid", "images.npz", "images.npz", "--features", "inception", "--weights", "wrong.pth")
    assert result.code == 2 and "wrong.pth: is not pytorch-fid's Inception state dict" in result.err


def test_cifar10_offline_says_where_to_put_it(gebm, tmp_path):
    """With data.download=false nothing is tried, and the remedy is named."""
    result = gebm("validate", "cifar10", "data.download=false")
    assert result.code == 2 and "put the extracted folder cifar-10-batches-py into 'data'" in result.err


def test_validate_trains_and_writes_nothing(gebm, tmp_path):
    """It reads the data, builds the networks and prints their sizes."""
    result = gebm("validate", "digits", "--json")
    assert result.code == 0 and '"n_train": 1437' in result.out and '"valid": true' in result.out
    assert sorted(os.listdir(tmp_path)) == ["experiments"]


def test_a_defect_of_ours_is_called_one(gebm, monkeypatch):
    """An unforeseen exception is a sentence that asks for --debug, exit 1, without a traceback."""
    import gebm_cli.cli.runs as command

    def broken(root):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(command, "read_rows", broken)
    result = gebm("runs")
    assert result.code == 1 and "ZeroDivisionError: oops (this is a defect of gebm" in result.err
    assert "Traceback" not in result.err and "Traceback" in gebm("--debug", "runs").err


def test_an_error_with_a_hostile_name_sends_the_terminal_nothing(gebm):
    result = gebm("report", "a\x1b[31mb")
    assert result.code == 2 and "\x1b" not in result.err and "a?[31mb: no such run" in result.err
