"""A generator and a critic of the user's own, through the command line. (Not test_plugins.py: pytest wants names apart.)"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from gebm_cli.experiment import plugins
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.run import open_run

NAMES = (f"my_gan_{i}" for i in itertools.count())
MODELS = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.ConvTranspose2d(8, 4, 4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh())
    def forward(self, z):
        return self.body(z)

class Hierarchical(Generator):
    def forward(self, z1, z2):
        return self.body(torch.cat([z1[:, :, None, None], z2], 1))

def generator(): return Generator()
def hierarchical(): return Hierarchical()
def critic(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

class Broken(Generator):
    def __init__(self, change):
        super().__init__()
        self.change = change
    def forward(self, z):
        return self.change(self.body(z))

def wrong_shape(): return Broken(lambda x: x[:, :, 1:])
def detached(): return Broken(lambda x: x.detach())
def raising(): raise RuntimeError("no such luck")
def none(): return None
def in_forward(): return Broken(lambda x: x.undefined)
def flat_critic(): return nn.Flatten()
"""


@pytest.fixture
def here(gebm, tmp_path, monkeypatch):
    """A package with models, its weights, and own.yaml (its generator, our energy) and both.yaml (its critic as well)."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugins.say_once.cache_clear()
    package = tmp_path / (name := next(NAMES))
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(MODELS)
    own = {
        "name": "own",
        "data": {"kind": "digits"},
        "latent_dim": 8,
        "base": {"kind": "external", "factory": f"{name}.models:generator", "latent_shape": [8, 1, 1]},
        "energy": {"kind": "conv", "width": 4},
        "train_energy": {"steps": 6, "n_log_partition": 300},
        "sample": {"n_samples": 12, "n_steps": 3, "block_size": 12},
    }
    both = own | {
        "name": "both",
        "energy": {"kind": "external", "factory": f"{name}.models:critic", "output": "logit"},
    }
    for experiment in (own, both):
        (tmp_path / f"{experiment['name']}.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    return f"{name}.models"


def weights(seed: int) -> None:
    """Write g.pt, weights for the generator."""
    torch.manual_seed(seed)
    shapes = {"body.0.weight": (8, 4, 4, 4), "body.0.bias": (4,), "body.2.weight": (4, 1, 4, 4), "body.2.bias": (1,)}
    torch.save({name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}, "g.pt")


def ok(result):
    assert result.code == 0, result.err
    return result


def test_an_energy_is_trained_on_the_users_generator(gebm, here):
    """train-energy makes the run, tells what it runs, leaves the generator as it was; sampling needs the flag too."""
    weights(1)
    ok(gebm("validate", "own.yaml", "base.weights=g.pt", "--allow-plugins"))
    done = ok(gebm("train-energy", "own.yaml", "base.weights=g.pt", "--seed", "3", "--allow-plugins", "--json"))
    assert json.loads(done.out)["step"] == 6
    run = open_run(Path("runs/own-001"))
    assert run.has("train-base") and run.has("train-energy")
    loaded = load_gebm(run, (1, 8, 8), torch.device("cpu"), True, allow_plugins=True)
    assert not any(p.requires_grad for p in loaded.base.parameters())
    assert torch.equal(loaded.base.module.body[0].weight, torch.load("g.pt")["body.0.weight"])
    refused = gebm("sample", "--run", "own-001", "sample.n_samples=12")
    assert (
        refused.code == 2 and f"own-001/experiment.yaml: base.factory: would run the function {here}:gen" in refused.err
    )
    sampled = gebm("sample", "--run", "own-001", "--allow-plugins", "--format", "npz", "--out", "s")
    assert ok(sampled) and np.load("s/samples.npz")["images"].shape == (12, 8, 8, 1)


def test_nothing_is_run_or_written_without_the_flag(gebm, here):
    """validate, train-energy and train-energy --run end with code 2 and a sentence; no run, no further session."""
    for command in ("validate", "train-energy"):
        refused = gebm(command, "own.yaml")
        assert refused.code == 2 and f"would run the function {here}:generator" in refused.err
        assert "--allow-plugins" in refused.err and "running plug-in" not in refused.err
    assert here not in sys.modules and not Path("runs").exists()
    assert (
        f"gebm: running plug-in {here}:generator from " in ok(gebm("train-energy", "own.yaml", "--allow-plugins")).err
    )
    before = Path("runs/own-001/record.yaml").read_text()
    assert gebm("train-energy", "own.yaml").code == 2
    assert gebm("train-energy", "--run", "own-001").code == 2
    assert [p.name for p in Path("runs").iterdir()] == ["own-001"]
    assert Path("runs/own-001/record.yaml").read_text() == before


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (
            "{}:wrong_shape",
            "called with a latent of shape (2, 8, 1, 1), returned shape (2, 1, 7, 8), expected (2, 1, 8, 8)",
        ),
        ("{}:detached", "has no gradient with respect to its input"),
        ("{}:raising", "raised RuntimeError: no such luck"),
        ("{}:none", "returned None, expected a torch.nn.Module"),
        ("{}:in_forward", "raised AttributeError: 'Tensor' object has no attribute 'undefined'"),
        ("{}:generatr", "has no function 'generatr'; did you mean 'generator'?"),
        ("{}.none:generator", "no module"),
        ("{}", "expected package.module:function"),
    ],
)
def test_a_bad_generator_is_a_sentence_and_no_run(gebm, here, factory, expected):
    """Every way to be wrong ends before a run is made, and is told with the override that it was typed in."""
    typed = f"base.factory={factory.format(here)}"
    result = gebm("train-energy", "own.yaml", typed, "--allow-plugins")
    assert result.code == 2, result.err
    last = result.err.splitlines()[-1]
    assert last.startswith(f"gebm: override '{typed}': base.factory: ") and expected in last
    assert "Traceback" not in result.err and not Path("runs").exists()


def test_a_bad_critic_is_a_sentence(gebm, here):
    """Not one number a point."""
    result = gebm("validate", "both.yaml", f"energy.factory={here}:flat_critic", "--allow-plugins")
    assert result.code == 2 and "returned shape (2, 64), expected (2, 1) (one number for each)" in result.err


def test_what_is_given_is_not_trained(gebm, here):
    """train-base refuses an external base, train-energy an external energy; each says what to run instead."""
    result = gebm("train-base", "own.yaml", "--allow-plugins")
    assert result.code == 2
    assert "base.kind external has nothing to train; run `gebm train-energy own.yaml --allow-plugins`" in result.err
    for command in ("train-base", "train-energy"):
        result = gebm(command, "both.yaml", "--allow-plugins")
        assert result.code == 2 and "nothing to train; run `gebm sample both.yaml --allow-plugins`" in result.err
    assert not Path("runs").exists()


def test_both_external_needs_no_training(gebm, here):
    """`gebm sample both.yaml --allow-plugins` draws from exp(D(B(z))) at once, and the next call finds the same run."""
    refused = gebm("sample", "both.yaml")
    assert refused.code == 2 and "--allow-plugins" in refused.err and not Path("runs").exists()
    for out in ("a", "b"):
        ok(gebm("sample", "both.yaml", "--allow-plugins", "--format", "npz", "--out", out))
    assert [p.name for p in Path("runs").iterdir()] == ["both-001"]
    assert np.array_equal(np.load("a/samples.npz")["latents"], np.load("b/samples.npz")["latents"])
    loaded = load_gebm(open_run(Path("runs/both-001")), (1, 8, 8), torch.device("cpu"), True, allow_plugins=True)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(loaded.energy(x), -loaded.energy.network.module(x).flatten())


def test_a_hierarchical_latent_and_a_uniform_prior(gebm, here):
    """latent_shape with two shapes calls base(z1, z2); with prior: uniform it is called with erf(u / sqrt 2)."""
    keys = [f"base.factory={here}:hierarchical", "base.latent_shape=[[2],[6,1,1]]", "prior=uniform"]
    ok(gebm("train-energy", "own.yaml", *keys, "--allow-plugins"))
    loaded = load_gebm(open_run(Path("runs/own-001")), (1, 8, 8), torch.device("cpu"), True, allow_plugins=True)
    u = torch.randn(5, 8)
    z = torch.erf(u / 2**0.5)
    torch.testing.assert_close(loaded.base(u), loaded.base.base.module.body(z[:, :, None, None]))


def test_other_weights_than_the_energy_was_trained_on_are_refused(gebm, here):
    """The file was changed: an energy belongs to its base. Asked to train with another file, a new run is made."""
    weights(1)
    ok(gebm("train-energy", "own.yaml", "base.weights=g.pt", "--allow-plugins"))
    shutil.copy("g.pt", "old.pt")
    weights(2)
    with pytest.raises(Exception, match=r"trained on other weights .* \(for instance module.body.0.weight\)"):
        load_gebm(open_run(Path("runs/own-001")), (1, 8, 8), torch.device("cpu"), True, allow_plugins=True)
    load_gebm(open_run(Path("runs/own-001")), (1, 8, 8), torch.device("cpu"), False, allow_plugins=True)
    done = ok(gebm("train-energy", "own.yaml", "base.weights=old.pt", "--allow-plugins", "--json"))
    assert json.loads(done.out)["run"] == "own-002"


def test_a_uniform_prior_goes_with_a_base_that_is_trained(gebm):
    """train-base with averaging, then train-energy, then loading; and the base keeps its prior."""
    small = ["prior=uniform", "latent_dim=4", "base.width=2", "energy.width=2", "train_energy.n_log_partition=100"]
    steps = ["train_base.steps=3", "train_base.burst_critic_steps=2", "train_base.ema_halflife_steps=1"]
    ok(gebm("train-base", "digits", *small, *steps, "train_energy.steps=3"))
    ok(gebm("train-energy", "digits", *small, "train_energy.steps=3"))
    run = open_run(Path("runs/digits-001"))
    averaged = torch.load(next(run.checkpoints("train-base").glob("step_*.pt")))["state"]["averaged"]
    base = load_gebm(run, (1, 8, 8), torch.device("cpu"), True).base
    assert torch.equal(base.base[0].weight, averaged["module.base.0.weight"])
    changed = gebm("train-energy", "digits", *small[1:], "train_energy.steps=3")
    assert changed.code == 2 and "prior: the run has uniform, asked for normal" in changed.err


def test_a_run_from_before_there_was_a_prior_still_loads(gebm):
    """Its experiment.yaml has no such key, its weights no prefix."""
    small = ["latent_dim=4", "base.width=2", "energy.width=2", "train_base.steps=2", "train_base.burst_critic_steps=2"]
    ok(gebm("train-base", "digits", *small))
    path = Path("runs/digits-001/experiment.yaml")
    path.write_text(path.read_text().replace("prior: normal\n", ""))
    run = open_run(Path("runs/digits-001"))
    assert "prior" not in path.read_text()
    weight = load_gebm(run, (1, 8, 8), torch.device("cpu"), False).base[0].weight
    state = torch.load(next(run.checkpoints("train-base").glob("step_*.pt")))["state"]
    assert torch.equal(weight, {**state["base"]}["0.weight"]) or state["averaged"] is not None
