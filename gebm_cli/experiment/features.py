"""Feature networks that need files: the learned classifier's cache, and Inception's weights."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import torch

from gebm_cli.core.data.dataset import Dataset
from gebm_cli.core.data.streaming import LazyImages
from gebm_cli.core.evaluation.features import (
    CLASSIFIER_RECIPE,
    Classifier,
    Features,
    data_hash,
    pixels,
    state_hash,
    train_classifier,
)
from gebm_cli.core.evaluation.inception import Inception, weights_url
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import cache_folder
from gebm_cli.experiment.files import write_atomically


def build_features(
    name: str,
    dataset: Dataset | None,
    weights: str | None,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """The feature network of that name.

    Args:
        dataset: the labelled reference that `classifier` learns from; not needed otherwise.
        weights: a file for `inception`; torch hub's cache, then a download, are tried without it.
        on_step: progress of the classifier's training.

    Raises:
        UsageError: labels or weights are missing; the message says what to do.
    """
    if name == "pixels":
        return pixels(device)
    if name == "classifier":
        return _classifier(dataset, device, on_step)
    return _inception(weights, device)


def _classifier(dataset: Dataset | None, device: torch.device, on_step: Callable[[int, int], None]) -> Features:
    labels = None if dataset is None else dataset.train_labels
    if dataset is None or not dataset.is_images or labels is None:
        raise UsageError(
            "--features classifier: learns from labelled images, and the reference has none; use --features pixels or "
            "inception, or name a labelled data set as the reference"
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
    return Features("classifier", network.to(device), state_hash(network), device)


def _read_cache(path: Path, network: Classifier) -> bool:
    """Load a cached classifier; one that does not match its own hash is learned again."""
    try:
        cached = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(cached["state"])
        return bool(cached["hash"] == state_hash(network))
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return False


def _inception(weights: str | None, device: torch.device) -> Features:
    url = weights_url()
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    file = Path(weights) if weights else cached
    remedy = f"download {url} on a machine with a network and pass it with --weights, or copy it to {cached}"
    if not file.is_file():
        if weights:
            raise UsageError(f"--weights {weights}: no such file; {remedy}")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=url.rsplit("-", 1)[1][:8], progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UsageError(
                f"--features inception: its weights are not on this machine and cannot be downloaded ({error}); {remedy}"
            ) from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network = Inception(state)
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError):
        raise UsageError(f"{file}: is not pytorch-fid's Inception state dict, or is damaged; {remedy}") from None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Features("inception", network.to(device), digest, device, batch_size=50)
