"""Statistics and features in files: mean and covariance as pytorch-fid writes them, or the features of every image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gebm_cli.core.data.images import DAMAGED
from gebm_cli.core.evaluation.moments import Moments
from gebm_cli.errors import UsageError
from gebm_cli.experiment.files import require_free, written_atomically

STATISTICS, FEATURES = {"mu", "sigma"}, {"features"}


@dataclass(frozen=True)
class Known:
    """One side of a score that needs no network: its features (n, d), or their moments alone.

    `settings` says what made them; empty where the file does not say, as files of other tools do not.
    """

    name: str
    features: Tensor | None = None
    moments: Moments | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        return "features" if self.features is not None else "statistics"

    @property
    def n(self) -> int | None:
        """How many images; None where the file does not say."""
        return len(self.features) if self.features is not None else self.moments.n  # type: ignore[union-attr]

    @property
    def dimension(self) -> int:
        known = self.features if self.features is not None else self.moments.mean.view(1, -1)  # type: ignore[union-attr]
        return int(known.shape[1])


def is_known(path: Path) -> bool:
    """Whether the file's arrays are statistics or features, by their names; damaged files are not."""
    if path.suffix.lower() != ".npz":
        return False
    try:
        with np.load(path, allow_pickle=False) as file:
            return set(file.files) >= STATISTICS or set(file.files) >= FEATURES
    except DAMAGED:
        return False


def read_known(path: Path) -> Known:
    """Statistics (`mu` (d,), `sigma` (d, d); `n` and `settings` where we wrote them) or `features` (n, d) of a .npz file.

    Raises:
        UsageError: damaged, of other shapes, not finite, or a covariance that is not symmetric.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        settings = json.loads(str(arrays["settings"])) if "settings" in arrays else {}
        n = int(arrays["n"]) if "n" in arrays else None
        if not isinstance(settings, dict):
            raise ValueError("settings")
    except (*DAMAGED, TypeError) as error:
        raise UsageError(f"{path}: is not a readable .npz file, or holds objects ({type(error).__name__})") from None
    if set(arrays) >= FEATURES:
        return _features(path, arrays, settings)
    mu, sigma = arrays["mu"], arrays["sigma"]
    if (
        mu.ndim != 1
        or sigma.shape != (len(mu), len(mu))
        or not all(np.issubdtype(a.dtype, np.floating) for a in (mu, sigma))
    ):
        raise UsageError(
            f"{path}: `mu` and `sigma` are {mu.dtype} {mu.shape} and {sigma.dtype} {sigma.shape}; expected floats (d,) and (d, d)"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(f"{path}: `mu` or `sigma` holds NaN or infinite numbers; make the file again")
    if not np.allclose(sigma, sigma.T, rtol=1e-6, atol=1e-6 * float(np.abs(sigma).max(initial=0.0))):
        raise UsageError(f"{path}: `sigma` is not symmetric, so it is no covariance; make the file again")
    eigenvalues = np.linalg.eigvalsh((sigma + sigma.T) / 2)
    if eigenvalues[0] < -1e-6 * max(eigenvalues[-1], 0.0) - 1e-12:
        raise UsageError(
            f"{path}: `sigma` has negative eigenvalues (the smallest {eigenvalues[0]:.3g}), so it is no "
            "covariance; make the file again"
        )
    mean, covariance = (torch.from_numpy(a.astype(np.float64)) for a in (mu, (sigma + sigma.T) / 2))
    return Known(str(path), None, Moments(n, mean, covariance), settings)


def _features(path: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Known:
    features = arrays["features"]
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating) or not features.size:
        raise UsageError(f"{path}: `features` is {features.dtype} of shape {features.shape}; expected floats (n, d)")
    with np.errstate(over="ignore"):
        values = features.astype(np.float32)
    if not np.isfinite(values).all():
        raise UsageError(f"{path}: `features` holds NaN, infinite or too large numbers; extract them again")
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != (len(features),) or not np.issubdtype(labels.dtype, np.integer)):
        raise UsageError(
            f"{path}: `labels` is {labels.dtype} of shape {labels.shape}; expected {len(features)} whole numbers"
        )
    numbers = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    classes = tuple(str(name) for name in arrays["classes"]) if labels is not None and "classes" in arrays else None
    return Known(str(path), torch.from_numpy(values), None, settings, numbers, classes)


def write_statistics(path: Path, moments: Moments, settings: dict[str, Any]) -> None:
    """`mu` and `sigma` as pytorch-fid reads them, with `n` and the settings that made them beside."""
    n = {} if moments.n is None else {"n": np.asarray(moments.n)}
    _write(path, mu=moments.mean.numpy(), sigma=moments.covariance.numpy(), settings=_text(settings), **n)


def write_features(
    path: Path,
    features: Tensor,
    labels: Tensor | None,
    classes: tuple[str, ...] | None,
    settings: dict[str, Any],
) -> None:
    """`features` (n, d) float32 with the settings that made them; `labels` and names of `classes` where they are known."""
    known = {} if labels is None else {"labels": labels.cpu().numpy()}
    known |= {} if classes is None else {"classes": np.asarray(classes)}
    _write(path, features=features.cpu().numpy(), settings=_text(settings), **known)


def _text(settings: dict[str, Any]) -> np.ndarray:
    return np.asarray(json.dumps(settings, sort_keys=True))


def _write(path: Path, **arrays: np.ndarray) -> None:
    require_free(path)
    with written_atomically(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
