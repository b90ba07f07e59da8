"""Which run an energy is trained in: the run of its base, or a fork of it that shares the base."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gebm_cli.errors import UsageError
from gebm_cli.experiment.files import write_atomically, write_yaml
from gebm_cli.experiment.load import to_yaml
from gebm_cli.experiment.run import Run, create_run
from gebm_cli.experiment.schema import Experiment

OF_THE_BASE = ("name", "data", "latent_dim", "prior", "base", "energy")
# Between two checkpoints of a stage: where its data lie, its length (but see below), its logs, and how fast it runs.
MAY_CHANGE = {f"data.{key}" for key in ("path", "root", "download", "workers")} | {
    f"{section}.{key}"
    for section in ("train_base", "train_energy")
    for key in ("steps", "log_every", "checkpoint_every", "accumulate", "precision", "channels_last", "compile")
}


def energy_run(base_run: Run, wanted: Experiment, root: Path, check: Callable[[], object] = lambda: None) -> Run:
    """The run in which to train the energy that `wanted` describes on the base of `base_run`.

    It is `base_run` itself while no energy was begun there, or while the same one is unfinished; otherwise a new run
    that copies the base's checkpoints, so that several energies can be learned on one base and nothing is overwritten.
    `check` may refuse it before anything is written.

    Raises:
        UsageError: `wanted` describes another base or other data than the run has, or starts from a critic of another network than
            its energy; every differing key is listed.
    """
    have = base_run.experiment
    own_network = not wanted.train_energy.start_from_critic  # a fresh energy need not be the critic's network
    parts = [part for part in OF_THE_BASE if not (own_network and part == "energy")]
    different = [key for part in parts for key in differences(part, getattr(have, part), getattr(wanted, part))]
    asked = wanted.energy.model_dump(mode="json")
    if not own_network and (critic := base_run.record().get("critic", asked)) != asked:
        different.append(f"energy: the critic was {_short(critic)}, asked for {_short(asked)}")
    if different:
        raise UsageError(
            f"{base_run.path}: was trained with other settings than the experiment now has; undo the change, or train a "
            "new base with `gebm train-base`:\n" + "\n".join(different)
        )
    check()
    # The base is trained: how is the run's own affair, whatever the file says by now.
    seed = have.seed if wanted.seed is None else wanted.seed
    wanted = wanted.model_copy(update={"seed": seed, "train_base": have.train_base})
    begun = base_run.last_session("train-energy")
    same = wanted.train_energy == have.train_energy
    if (wanted.seed, wanted.energy) == (have.seed, have.energy) and (
        begun is None or (same and begun["status"] in ("interrupted", "crashed", "failed"))
    ):
        if wanted == have:
            return base_run
        with base_run.lock():
            write_atomically(base_run.path / "experiment.yaml", to_yaml(wanted).encode())
        return Run(base_run.path, wanted)
    return _fork(base_run, wanted, root)


def _fork(base_run: Run, experiment: Experiment, root: Path) -> Run:
    run = create_run(experiment, root, tuple(base_run.record().get("data_shape", ())))
    if base_run.checkpoints("train-base").is_dir():  # a base without parameters has none
        shutil.copytree(base_run.checkpoints("train-base"), run.checkpoints("train-base"))
    record: dict[str, Any] = run.record()
    record["base_from"] = base_run.name
    record["critic"] = base_run.record().get("critic", base_run.experiment.energy.model_dump(mode="json"))
    record["stages"] = [s for s in base_run.record()["stages"] if s["stage"] == "train-base"]
    write_yaml(run.path / "record.yaml", record)
    return run


def differences(name: str, have: Any, wanted: Any) -> list[str]:
    """`key: has X, asked for Y` for every key below `name` in which two settings differ."""
    if hasattr(have, "model_dump") and type(have) is type(wanted):
        fields = type(have).model_fields
        return [d for f in fields for d in differences(f"{name}.{f}", getattr(have, f), getattr(wanted, f))]
    return [] if have == wanted else [f"{name}: the run has {_short(have)}, asked for {_short(wanted)}"]


def changed_since(run: Run, stage: str, written: dict[str, Any]) -> list[str]:
    """What differs between the experiment a checkpoint was written under and the run's now, but for what may."""
    written, now = _with_defaults(written), run.experiment.model_dump(mode="json")
    lines = []
    scored = (
        ("evaluate",)
        if stage == "train-base" and (run.experiment.train_base.lr_rule or run.experiment.train_base.keep_best)
        else ()
    )
    for part in ("seed", *OF_THE_BASE, stage.replace("-", "_"), *scored):
        have, wanted = _flat(written.get(part), part), _flat(now[part], part)
        keys = [k for k in have | wanted if part in written and k not in MAY_CHANGE]
        lines += [
            f"{k}: the checkpoint has {_short(have.get(k))}, now it is {_short(wanted.get(k))}"
            for k in keys
            if have.get(k) != wanted.get(k)
        ]
        lines += _rate_that_would_jump(part, have, wanted)
    return lines


def _rate_that_would_jump(part: str, have: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Another number of steps, where the schedule of the learning rate is stretched over them."""
    steps, kind = f"{part}.steps", wanted.get(f"{part}.lr_schedule")
    if kind not in ("linear", "cosine") or have.get(steps, wanted[steps]) == wanted[steps]:
        return []
    return [
        f"{steps}: the checkpoint has {have[steps]}, now it is {wanted[steps]}; lr_schedule: {kind} is stretched over all steps, "
        "so the learning rate would jump (with constant and step it would not)"
    ]


def _with_defaults(written: dict[str, Any]) -> dict[str, Any]:
    """What was written with the keys that have come since, which then had the effect of their defaults."""
    try:
        return Experiment.model_validate(written).model_dump(mode="json")
    except ValidationError:
        return written


def _flat(value: Any, key: str) -> dict[str, Any]:
    """Nested sections as one table of dotted keys."""
    if not isinstance(value, dict):
        return {key: value}
    return {name: v for k, inner in value.items() for name, v in _flat(inner, f"{key}.{k}").items()}


def _short(value: Any) -> str:
    """A value as it is written in the file: null, quotes where they are needed."""
    if hasattr(value, "kind"):
        return f"kind {value.kind}"
    value = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()
