"""Feature networks by name, and the files they need: the learned classifier's cache, and published weights."""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

import torch

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.evaluation.backbones import RANDOM_RECIPE, Backbone, Compiled, RandomNetwork, torchvision_names
from gebm_cli.core.evaluation.classifier import CLASSIFIER_RECIPE, Classifier, train_classifier
from gebm_cli.core.evaluation.features import Features, Precision, data_hash, pixels, state_hash
from gebm_cli.core.evaluation.inception import LAYERS, Inception, weights_url
from gebm_cli.core.evaluation.resizing import PRESETS, Preset, resize
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import cache_folder
from gebm_cli.experiment.feature_files import file_hash, own_features, read_state, weights_file
from gebm_cli.experiment.files import write_atomically

NAMES = ("inception", "inception-torchvision", "torchvision:MODEL", "classifier", "pixels", "random")
INCEPTION = "pytorch-fid's Inception state dict"


def build_features(
    name: str,
    dataset: Dataset | None,
    weights: str | None,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    resize: str | None = None,
    layer: int | None = None,
    precision: str = "float32",
    compile: bool = False,
    allow_plugins: bool = False,
    seed: int = 0,
) -> Features:
    """The feature network of that name.

    Args:
        name: inception, inception-torchvision, torchvision:MODEL, classifier, pixels, random, or a user's own
            package.module:function.
        dataset: the labelled reference that `classifier` learns from; not needed otherwise.
        weights: a file for the networks that have published weights, and for a user's own module; torch hub's cache, then
            a download, are tried without it.
        on_step: progress of the classifier's training.
        resize: of `inception` only: pytorch-fid (the default), tf1 or clean.
        layer: of `inception` only: 64, 192, 768 or 2048 (the default).
        precision: float32; bfloat16 and tf32 give other numbers and are recorded.
        compile: pass the network through torch.compile.
        allow_plugins: whether a user's own function may be imported and run.
        seed: of the weights of `random`.

    Raises:
        UsageError: labels or weights are missing, or an option does not suit; the message says what to do.
    """
    require_options(name, resize, layer, precision, compile, weights, device)
    kind = name.split(":")[0]
    if name == "pixels":
        features = pixels(device)
    elif name == "classifier":
        features = _classifier(dataset, device, on_step)
    elif name == "random":
        features = _random(seed, device)
    elif name == "inception":
        features = _inception(weights, device, cast(Preset, resize or "pytorch-fid"), layer or LAYERS[-1])
    elif name == "inception-torchvision" or kind == "torchvision":
        features = _torchvision(name, weights, device)
    else:
        features = own_features(name, weights, device, allow_plugins)
    network = Compiled(features.network, features.batch_size) if compile else features.network
    return replace(features, network=network, precision=cast(Precision, precision))


def require_options(
    name: str,
    resize: str | None,
    layer: int | None,
    precision: str,
    compile: bool,
    weights: str | None,
    device: torch.device,
) -> None:
    """Refuse a name that is none, and options that do not suit it, before any file is opened."""
    plain = [n for n in NAMES if ":" not in n]
    if name not in plain and ":" not in name:
        near = difflib.get_close_matches(name, plain, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"--features {name}: expected one of {', '.join(NAMES)} or package.module:function{hint}")
    if resize is not None and (name != "inception" or resize not in PRESETS):
        raise UsageError(f"--resize {resize}: expected one of {', '.join(PRESETS)}, and --features inception")
    if layer is not None and (name != "inception" or layer not in LAYERS):
        raise UsageError(f"--layer {layer}: expected one of {', '.join(map(str, LAYERS))}, and --features inception")
    if precision not in get_args(Precision) or (name == "pixels" and precision != "float32"):
        choices = get_args(Precision)[:1] if name == "pixels" else get_args(Precision)
        raise UsageError(f"--precision {precision}: expected {' or '.join(choices)} for --features {name}")
    if precision == "tf32" and device.type != "cuda":
        raise UsageError(f"--precision tf32: is arithmetic of CUDA devices, and this is {device.type}; leave it out")
    if compile:
        _require_compiler(name, device)
    if weights is not None and name in ("pixels", "classifier", "random"):
        raise UsageError(f"--weights {weights}: {name} features have no weights file; leave it out")
    if weights is not None and not Path(weights).expanduser().is_file():
        hint = (
            f"; those of inception are at {weights_url()}" if name == "inception" else "; give the path of a state dict"
        )
        raise UsageError(f"--weights {weights}: no such file{hint}")


def _require_compiler(name: str, device: torch.device) -> None:
    if not name.startswith(("inception", "torchvision:")):
        raise UsageError(f"--compile: is for inception and torchvision features, got --features {name}")
    if device.type == "cpu" and not any(shutil.which(c) for c in (os.environ.get("CXX") or "g++", "clang++")):
        raise UsageError("--compile: needs a C++ compiler, and g++ and clang++ are not on PATH; leave --compile out")


# ---------------------------------------------------------------------------------------------------------- classifier


def _classifier(dataset: Dataset | None, device: torch.device, on_step: Callable[[int, int], None]) -> Features:
    labels = None if dataset is None else dataset.train_labels
    if dataset is None or not dataset.is_images or labels is None:
        raise UsageError(
            "--features classifier: learns from labelled images, and no set given has labels; use --features pixels or "
            "inception, or name a labelled data set"
        )
    if isinstance(dataset.train, LazyImages) or isinstance(dataset.held_out, LazyImages):
        raise UsageError(
            f"--features classifier: learns from images in memory, and {dataset.name} is decoded from the disk as it is read; "
            "use --features pixels or inception"
        )
    held_out_labels = dataset.held_out_labels if dataset.held_out_labels is not None else labels[:0]
    key = data_hash(dataset.train, labels, dataset.held_out)
    path = cache_folder() / "classifiers" / f"{hashlib.sha256((key + CLASSIFIER_RECIPE).encode()).hexdigest()[:32]}.pt"
    network = Classifier(dataset.shape[0], int(labels.max()) + 1)
    if not _read_cache(path, network):
        # On the CPU, whatever the device: there the same data give the same network, and so the same hash of its weights.
        network = train_classifier(
            dataset.train, labels, dataset.held_out, held_out_labels, torch.device("cpu"), on_step
        )
        buffer = io.BytesIO()
        torch.save({"state": network.state_dict(), "hash": state_hash(network)}, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    network.eval().requires_grad_(False)
    return Features("classifier", network.to(device), state_hash(network), device, head=network.classes)


def _read_cache(path: Path, network: Classifier) -> bool:
    """Load a cached classifier; one that does not match its own hash is learned again."""
    try:
        cached = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(cached["state"])
        return bool(cached["hash"] == state_hash(network))
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return False


# ------------------------------------------------------------------------------------------------------- fixed networks


def _random(seed: int, device: torch.device) -> Features:
    network = RandomNetwork(seed)
    digest = hashlib.sha256(f"{RANDOM_RECIPE}, seed {seed}, {state_hash(network)}".encode()).hexdigest()
    return Features(
        "random", network.to(device), digest, device, batch_size=50, any_size=True, prepare=RandomNetwork.prepare
    )


def _inception(weights: str | None, device: torch.device, preset: Preset, layer: int) -> Features:
    file, remedy = weights_file("inception", weights, weights_url())
    network = read_state(file, lambda state: Inception(state, layer), INCEPTION, remedy)
    return Features(
        "inception",
        network.to(device),
        file_hash(file),
        device,
        batch_size=50,
        resize=preset,
        layer=layer,
        any_size=True,
        prepare=partial(resize, preset=preset),
        head=network.logits if layer == LAYERS[-1] else None,
    )


def _torchvision(name: str, weights: str | None, device: torch.device) -> Features:
    model = "inception_v3" if name == "inception-torchvision" else name.split(":", 1)[1]
    known = torchvision_names()
    if model not in known:
        near = difflib.get_close_matches(model, known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f", e.g. {known[0]}"
        raise UsageError(f"--features {name}: expected a classifier of torchvision{hint}")
    backbone = Backbone(model)
    file, remedy = weights_file(name, weights, backbone.url)
    network = read_state(file, backbone.load, f"the state dict of torchvision's {model}", remedy).to(device)
    return Features(
        name,
        network,
        file_hash(file),
        device,
        batch_size=50,
        resize="torchvision",
        any_size=True,
        prepare=network.prepare,
        head=network.logits,
    )
