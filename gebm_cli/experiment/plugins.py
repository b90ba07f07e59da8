"""Networks of `kind: external`: a user's own generator and critic, made by functions that the experiment names.

Nothing here runs code that the user has not allowed by `--allow-plugins`. What was made is then passed two latents before
anything is trained or drawn, so that a module that does not fit is one sentence at the start.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.device import make_generator
from gebm_cli.core.models.adapters import ExternalBase, ExternalEnergy, UniformLatent
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.sampling.potential import Prior
from gebm_cli.errors import UsageError
from gebm_cli.experiment import schema
from gebm_cli.experiment.schema import Experiment

N_CHECKED = 2
TOLERANCE = 0.01  # by which images may leave [-1, 1] without a word


@cache
def say_once(text: str) -> None:
    """A line on stderr, the first time in this process."""
    print(f"gebm: {text}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- loading


def load_plugin(factory: str, weights: str | None, where: str, allowed: bool) -> nn.Module:
    """The module that a user's function returns, with its weights: frozen, in eval mode, on the CPU.

    Args:
        factory: `package.module:function`; the current folder is searched first, as `python -m` does.
        weights: a file with a state dict, read as data only.
        where: the section that names it, `base` or `energy`, after the file where that is known.
        allowed: whether the user said `--allow-plugins`; without it nothing is imported.

    Raises:
        UsageError: it is not allowed, not found, not callable, fails, returns no module, or its weights do not fit.
    """
    spelled = re.fullmatch(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)", factory)
    if spelled is None:
        raise UsageError(f"{where}.factory: got '{factory}', expected package.module:function")
    if not allowed:
        raise _not_allowed(factory, where)
    spec = find_module(spelled[1])
    if spec is None:
        raise UsageError(
            f"{where}.factory: no module {spelled[1]} in {os.getcwd()} or among the installed packages; run gebm in the "
            "folder that holds it, or install it"
        )
    say_once(f"running plug-in {factory} from {spec.origin or 'a folder without __init__.py'}")
    network = _made(spelled[1], spelled[2], f"{where}.factory")
    if weights is not None:
        fill_weights(network, os.path.expanduser(weights), factory, f"{where}.weights")
    return network.eval().requires_grad_(False)


def require_allowed(experiment: Experiment, allowed: bool, place: str = "") -> None:
    """Refuse an experiment with plug-ins before anything is written, unless they are allowed.

    Raises:
        UsageError: they are not; the message names the function that would run.
    """
    for key, section in (("base", experiment.base), ("energy", experiment.energy)):
        if isinstance(section, schema.networks.ExternalBase | schema.networks.ExternalEnergy) and not allowed:
            raise _not_allowed(section.factory, f"{place}{key}")


def _not_allowed(factory: str, where: str) -> UsageError:
    return UsageError(
        f"{where}.factory: would run the function {factory}, which is code from outside gebm; add --allow-plugins if you "
        "trust it"
    )


def find_module(module: str) -> ModuleSpec | None:
    """Where a module is, found without running it or the packages it is in; None where there is none."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module without a spec, such as __main__
        return None
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec


def _made(module: str, name: str, where: str) -> nn.Module:
    try:
        names = vars(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where}: importing {module} raised {told(error)}") from error
    function = names.get(name)
    if not callable(function):
        near = difflib.get_close_matches(name, [k for k, v in names.items() if callable(v)], 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"{where}: the module {module} has no function '{name}'{hint}")
    try:
        network = function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where}: {module}:{name} raised {told(error)}") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{where}: {module}:{name} returned {_kind(network)}, expected a torch.nn.Module")
    return network


def told(error: BaseException) -> str:
    """Type and first line of an exception."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _kind(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def fill_weights(network: nn.Module, path: str, factory: str, where: str) -> None:
    """Load a state dict, read as data only, every name and shape of it; also the one within a checkpoint or of DataParallel.

    Raises:
        UsageError: the file is absent, damaged, not a state dict, or another network's.
    """
    remedy = "write it by torch.save(module.state_dict(), PATH)"
    state = _read_weights(path, where, remedy)
    if not isinstance(state, dict):
        raise UsageError(f"{where}: {path} holds {_kind(state)}, expected a state dict; {remedy}")
    state = _unwrapped(state, set(network.state_dict()))
    nested = [str(key) for key, value in state.items() if isinstance(value, dict)]
    if nested and not set(state) & set(network.state_dict()):
        raise UsageError(
            f"{where}: {path} holds several things ({', '.join(nested)}), expected a state dict; save the one for {factory} "
            "by itself"
        )
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        detail = " ".join(lines[1:] or lines)
        detail = detail if len(detail) <= 300 else detail[:300] + "..."
        raise UsageError(f"{where}: {path} does not fit the module that {factory} returned: {detail}") from None


def _unwrapped(state: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The state dict of these names in what was saved: the one entry of a checkpoint, or less the `module.` of DataParallel."""
    dicts = [state, *(value for value in state.values() if isinstance(value, dict))]
    plain = [one if set(one) == names else {str(k).removeprefix("module."): v for k, v in one.items()} for one in dicts]
    fitting = [one for one in plain if set(one) == names]
    return fitting[0] if len(fitting) == 1 else state


def _read_weights(path: str, where: str, remedy: str) -> Any:
    try:
        verify_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{where}: {path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{where}: {path} is a folder, expected a file with a state dict") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise UsageError(f"{where}: {path} is damaged or not a state dict; {remedy}") from None
        raise UsageError(
            f"{where}: {path} needs code to load ({code[1]}), which gebm does not run; a state dict holds tensors only: "
            f"{remedy}"
        ) from None
    except Exception as error:  # what torch raises for a damaged file depends on the byte that is
        raise UsageError(f"{where}: {path} is damaged or not a state dict ({type(error).__name__}); {remedy}") from None


def verify_checksums(path: str | os.PathLike[str]) -> None:
    """Compare the checksums of a file that torch wrote, which torch itself does not: a flipped bit would change every result.

    Raises:
        BadZipFile: one is wrong.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")


# ------------------------------------------------------------------------------------------------------------ the prior


def own_prior(base: nn.Module, latent_dim: int) -> Prior | None:
    """The law of the latent that an external base brings in its attribute `prior`; None where it brings none.

    Raises:
        UsageError: it has no sample(n, generator) -> (n, latent_dim) and log_prob(z) -> (n,), differentiable in z.
    """
    if not isinstance(base, ExternalBase) or getattr(base.module, "prior", None) is None:
        return None
    prior: Any = base.module.prior
    what = f"base.factory: the attribute prior of {base.factory}"
    generator = make_generator(0, "check", device=_device_of(base))
    z = _called(lambda: prior.sample(N_CHECKED, generator), f"{what}: sample(n, generator)")
    _require(z, (N_CHECKED, latent_dim), f"{what}: sample({N_CHECKED}, generator)")
    z = z.detach().requires_grad_()
    log_prob = _called(lambda: prior.log_prob(z), f"{what}: log_prob(z)")
    _require(log_prob, (N_CHECKED,), f"{what}: log_prob(z)")
    _gradient(log_prob, z, f"{what}: log_prob(z)")
    return prior


# ------------------------------------------------------------------------------------------------------------ the check


def check_plugins(base: nn.Module, energy: Energy | None, prior: Prior, data_shape: tuple[int, ...]) -> None:
    """Pass two latents through base and energy on their device; nothing is done where neither is external.

    Images that leave [-1, 1], and an energy with no slope, are told on stderr.

    Raises:
        UsageError: an output of the wrong kind or shape, not finite, different when asked again, or without a gradient.
    """
    outer = base.base if isinstance(base, UniformLatent) else base
    network = energy.network if energy is not None and isinstance(energy.network, ExternalEnergy) else None
    if not isinstance(outer, ExternalBase) and network is None:
        return
    generator = make_generator(0, "check", device=_device_of(base) if energy is None else _device_of(energy))
    with torch.enable_grad():
        z = _called(lambda: prior.sample(N_CHECKED, generator), "base.factory: prior.sample(n, generator)")
        z = z.detach().requires_grad_()
        data = _checked_base(base, outer, z, data_shape) if isinstance(outer, ExternalBase) else base(z)
        if network is not None:
            _check_energy(network, data)


def _device_of(module: nn.Module) -> torch.device:
    """Where a module's numbers are; the CPU where it has none."""
    return next((t.device for t in chain(module.parameters(), module.buffers())), torch.device("cpu"))


def _checked_base(base: nn.Module, outer: ExternalBase, z: Tensor, data_shape: tuple[int, ...]) -> Tensor:
    what = f"base.factory: {outer.factory}, called with {_inputs(outer, z)},"
    data = _called(lambda: base(z), what)
    _require(data, (len(z), *data_shape), what, "the data's shape")
    _same(data, _called(lambda: base(z), what), what)
    if not _gradient(data, z, what):
        raise UsageError(f"{what} returned what does not change with the latent: its gradient is zero everywhere")
    low, high = data.min().item(), data.max().item()
    if len(data_shape) == 3 and (low < -1 - TOLERANCE or high > 1 + TOLERANCE):
        say_once(
            f"warning: base.factory: {outer.factory} returned numbers from {low:.3g} to {high:.3g}; the output should be in "
            "[-1, 1], as the data are (a module that ends in a sigmoid needs 2x - 1)"
        )
    return data


def _check_energy(network: ExternalEnergy, data: Tensor) -> None:
    data = data.detach().requires_grad_()
    what = f"energy.factory: {network.factory}, called with data of shape {tuple(data.shape)},"
    # A clone, because a module may work in place, which a leaf that asks for a gradient forbids.
    energy = _called(lambda: network.module(data.clone()), what)
    flat = (len(data), *[1] * (energy.dim() - 1)) if isinstance(energy, Tensor) and energy.dim() > 1 else (len(data),)
    _require(energy, flat, what, "one number for each")
    _same(energy, _called(lambda: network.module(data.clone()), what), what)
    if not _gradient(energy, data, what):
        say_once(f"warning: {what} has a gradient of zero there; chains will not see it where it is flat")


def _inputs(base: ExternalBase, z: Tensor) -> str:
    shapes = [(len(z), *shape) for shape in base.shapes] if base.shapes is not None else [tuple(z.shape)]
    return ("a latent of shape " if len(shapes) == 1 else "latents of shapes ") + " and ".join(map(str, shapes))


def _called(function: Callable[[], Any], what: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise UsageError(f"{what} raised {told(error)}") from error


def _require(value: Any, shape: tuple[int, ...], what: str, meaning: str = "") -> None:
    """Refuse what is not a finite float32 tensor of that shape."""
    expected = f"expected {shape}" + (f" ({meaning})" if meaning else "")
    if not isinstance(value, Tensor):
        raise UsageError(
            f"{what} returned {_kind(value)}, {expected.replace('expected', 'expected a tensor of shape')}"
        )
    if tuple(value.shape) != shape:
        raise UsageError(f"{what} returned shape {tuple(value.shape)}, {expected}")
    if value.dtype != torch.float32:
        raise UsageError(f"{what} returned {str(value.dtype).removeprefix('torch.')} numbers, expected float32")
    if not value.isfinite().all():
        raise UsageError(f"{what} returned numbers that are not finite, expected finite ones")


def _same(first: Tensor, second: Tensor, what: str) -> None:
    """Chains need a function: a module that draws its own noise gives another energy at every look."""
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise UsageError(
            f"{what} returned other numbers when called again, expected the same; fix its noise, or make it part of the "
            "latent"
        )


def _gradient(value: Tensor, x: Tensor, what: str) -> bool:
    """Whether a fixed random combination of the outputs has a gradient in x other than zero.

    Raises:
        UsageError: there is no path from x to the outputs, or the gradient is not finite.
    """
    weight = torch.randn(value.shape, generator=make_generator(0, "weight"), device="cpu").to(value.device)
    gradient = None
    if value.requires_grad:
        (gradient,) = _called(
            lambda: torch.autograd.grad((value * weight).sum(), x, allow_unused=True), f"{what} backward"
        )
    if gradient is None:
        raise UsageError(
            f"{what} returned what has no gradient with respect to its input, expected one; look for detach() or no_grad() "
            "in it"
        )
    if not gradient.isfinite().all():
        raise UsageError(f"{what} has a gradient that is not finite, expected a finite one")
    return bool(gradient.any())
