"""What feature networks are read from: published weights, here or downloaded, and a user's own function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import torch
from torch import nn

from gebm_cli.core.evaluation.backbones import OwnNetwork
from gebm_cli.core.evaluation.features import Features, rgb, state_hash
from gebm_cli.errors import UsageError
from gebm_cli.experiment.plugins import fill_weights, find_module, say_once, told, verify_checksums

Network = TypeVar("Network", bound=nn.Module)


def weights_file(name: str, weights: str | None, url: str) -> tuple[Path, str]:
    """The file of a network's weights: the one named, which `require_options` has seen, else torch hub's, else downloaded to there;
    and how to get it.

    Raises:
        UsageError: it is not there and cannot be downloaded.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    remedy = f"download {url} on a machine with a network and pass it with --weights, or copy it to {cached}"
    file = Path(weights).expanduser() if weights else cached
    if weights or file.is_file():
        return file, remedy
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        prefix = re.search(r"-([0-9a-f]{8,})\.", cached.name)  # publishers put the start of the sha256 into the name
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix[1] if prefix else None, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise UsageError(
            f"--features {name}: its weights are not on this machine and cannot be downloaded ({error}); {remedy}"
        ) from None
    return file, remedy


def read_state(file: Path, load: Callable[[dict[str, Any]], Network], expected: str, remedy: str) -> Network:
    """What `load` makes of the state dict in a file, read as data only.

    Raises:
        UsageError: the file is damaged, no state dict, or another network's; it says what was expected, and what differs.
    """
    try:
        verify_checksums(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state:
            raise TypeError(f"it holds a {type(state).__name__}" if state else "it is empty")
        return load(state)
    except (
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        detail = f" ({_difference(error)})"
    except pickle.UnpicklingError:
        detail = ""
    raise UsageError(f"{file}: is not {expected}, or is damaged{detail}; {remedy}")


def _difference(error: Exception) -> str:
    """The first difference that torch found, in at most 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines[1:] or lines or [type(error).__name__])[0]
    return text if len(text) <= 160 else text[:160] + "..."


def file_hash(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------------------- a user's own


def require_own(name: str, allowed: bool) -> tuple[str, str]:
    """The module and the function of `package.module:function`; UsageError where it is not spelled so or not allowed."""
    spelled = re.fullmatch(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)", name)
    if spelled is None:
        raise UsageError(f"--features {name}: expected torchvision:MODEL or package.module:function")
    if not allowed:
        raise UsageError(
            f"--features {name}: would run the function {name}, which is code from outside gebm; add --allow-plugins if you "
            "trust it"
        )
    return spelled[1], spelled[2]


def own_features(name: str, weights: str | None, device: torch.device, allowed: bool) -> Features:
    """Features by what a user's function returns: a module or callable from uint8 images (n, 3, h, w) to (n, d).

    Raises:
        UsageError: it is not allowed, not found, fails, or returns nothing that can be called.
    """
    factory, made = _made(name, *require_own(name, allowed))
    if isinstance(made, nn.Module):
        made = made.to("cpu").eval().requires_grad_(False)
        if weights is not None:
            fill_weights(made, str(Path(weights).expanduser()), name, "--weights")
        made = made.to(device)
    elif weights is not None:
        raise UsageError(f"--weights {weights}: {name} returned no torch.nn.Module to load them into; leave it out")
    return Features(
        name, OwnNetwork(made, name), _own_hash(name, factory, made), device, batch_size=50, any_size=True, prepare=rgb
    )


def _made(name: str, module: str, function: str) -> tuple[Any, Any]:
    """The user's function, and what it returns."""
    spec = find_module(module)
    if spec is None:
        raise UsageError(f"--features {name}: no module {module} in the current folder or among the installed packages")
    say_once(f"running plug-in {name} from {spec.origin or 'a folder without __init__.py'}")
    try:
        factory = getattr(importlib.import_module(module), function, None)
        if not callable(factory):
            raise UsageError(f"--features {name}: the module {module} has no function '{function}'")
        made = factory()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"--features {name}: raised {told(error)}") from error
    if not callable(made):
        raise UsageError(
            f"--features {name}: returned an object of type {type(made).__name__}, expected a torch.nn.Module or a function "
            "of uint8 images (n, 3, h, w)"
        )
    return factory, made


def _own_hash(name: str, factory: Any, made: Any) -> str:
    """sha256 of a module's state; where it has none, of the name and the source file of the function."""
    if isinstance(made, nn.Module) and made.state_dict():
        return state_hash(made)
    digest = hashlib.sha256(name.encode())
    source = inspect.getsourcefile(inspect.unwrap(factory))
    digest.update(Path(source).read_bytes() if source else b"")
    return digest.hexdigest()
