"""A user's own networks: nothing runs unasked, and what does not fit is one sentence."""

from __future__ import annotations

import itertools
import os
import pickle
import sys

import pytest
import torch
from torch import nn

from gebm_cli.core.models.adapters import ExternalBase, ExternalEnergy, UniformLatent
from gebm_cli.core.models.networks import Energy
from gebm_cli.core.models.prior import NormalPrior
from gebm_cli.errors import UsageError
from gebm_cli.experiment import plugins
from gebm_cli.experiment.build import build_base, build_prior
from gebm_cli.experiment.load import ConfigError, load_experiment, to_yaml
from gebm_cli.experiment.plugins import check_plugins, load_plugin, own_prior

NAMES = (f"plugin_under_test_{i}" for i in itertools.count())
PRIOR = NormalPrior(4)
SHAPE = (1, 2, 2)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module of a name never used before into the current folder; returns that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugins.say_once.cache_clear()

    def write(body: str) -> str:
        name = next(NAMES)
        (tmp_path / f"{name}.py").write_text(f"from torch import nn\n{body}\n")
        return name

    return write


def refused(*arguments, **keys) -> str:
    with pytest.raises(UsageError) as caught:
        load_plugin(*arguments, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LINEAR = "def make():\n    return nn.Linear(2, 3)"

# ------------------------------------------------------------------------------------------------------------- loading


def test_nothing_runs_unless_allowed(write, tmp_path):
    """Without --allow-plugins the module is not even imported, and the sentence names function, key and remedy."""
    name = write(f"open({str(tmp_path / 'ran')!r}, 'w')\n{LINEAR}")
    message = refused(f"{name}:make", None, "runs/x-001/experiment.yaml: base", False)
    assert message.startswith(f"runs/x-001/experiment.yaml: base.factory: would run the function {name}:make")
    assert "--allow-plugins" in message
    assert not (tmp_path / "ran").exists() and name not in sys.modules
    load_plugin(f"{name}:make", None, "base", True)
    assert (tmp_path / "ran").exists()


def test_what_will_run_is_told_once_before_it_runs(write, tmp_path, capsys):
    """Function and file, on stderr, also when the import then fails; a second load is silent."""
    name = write(LINEAR)
    for _ in range(2):
        load_plugin(f"{name}:make", None, "base", True)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"gebm: running plug-in {name}:make from {tmp_path / (name + '.py')}\n")
    name = write("raise ValueError('no')")
    refused(f"{name}:make", None, "base", True)
    assert f"running plug-in {name}:make" in capsys.readouterr().err


def test_a_module_of_a_package_is_found_without_running_the_package(write, tmp_path, capsys):
    """package.module in the current folder; the announcement comes before the package's own first line."""
    package = tmp_path / (name := next(NAMES))
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nprint('package runs', file=sys.stderr)")
    (package / "models.py").write_text(f"from torch import nn\n{LINEAR}")
    assert isinstance(load_plugin(f"{name}.models:make", None, "base", True), nn.Linear)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(f"from {package / 'models.py'}") and second == "package runs"
    assert f"no module {name}.none" in refused(f"{name}.none:make", None, "base", True)


def test_the_network_is_frozen_and_in_eval_mode(write):
    """Also what the function left in training mode."""
    name = write("def make():\n    return nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()")
    network = load_plugin(f"{name}:make", None, "base", True)
    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    "factory", ["", "make", "a.b", "a:", ":b", "a:b:c", "a/b.py:c", "a:b()", "a..b:c", "1a:b", "a :b"]
)
def test_bad_spelling(factory):
    """Said before permission is asked for."""
    assert refused(factory, None, "energy", False) == (
        f"energy.factory: got '{factory}', expected package.module:function"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def makes(): pass", "has no function 'make'; did you mean 'makes'?"),
        ("make = 3", "has no function 'make'"),
        ("def make():\n    raise ValueError('bad\\nthing')", "make raised ValueError: bad"),
        ("def make(width):\n    pass", "make raised TypeError: make() missing 1 required positional argument"),
        ("def make():\n    raise SystemExit(3)", "make raised SystemExit: 3"),
        ("import not_there_at_all", "raised ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("def make(:", "raised SyntaxError: "),
        ("def make():\n    pass", "make returned None, expected a torch.nn.Module"),
        ("def make():\n    return nn.Linear", "make returned an object of type type, expected a torch.nn.Module"),
    ],
)
def test_a_function_that_fails_is_one_sentence(write, body, expected):
    """Absent, not a function, raising, wanting arguments, leaving, importing what is not there, returning no module."""
    name = write(body)
    message = refused(f"{name}:make", None, "base", True)
    assert message.startswith("base.factory: ") and expected in message and name in message


@pytest.mark.parametrize("module", ["not_there_at_all", "torch.not_there", "json.decoder.deeper", "__main__.x"])
def test_a_module_that_is_not_there(write, tmp_path, module):
    """The sentence names the folder that was searched."""
    message = refused(f"{module}:make", None, "base", True)
    assert f"no module {module} in {tmp_path}" in message


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_are_loaded(write, tmp_path):
    """Every tensor of the state dict, from a relative path; the older file format too."""
    name, other = write(LINEAR), nn.Linear(2, 3)
    for is_zip in (True, False):
        torch.save(other.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
        network = load_plugin(f"{name}:make", "w.pt", "base", True)
        assert torch.equal(network.weight, other.weight) and not network.weight.requires_grad


def _cut(path):
    path.write_bytes(path.read_bytes()[:700])


def _flip(path):
    content = bytearray(path.read_bytes())
    at = content.find(torch.full((24,), 0.25).numpy().tobytes()) + 5
    content[at] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {"state": {}, "param_groups": []}},
    ],
    ids=["DataParallel", "a checkpoint", "both"],
)
def test_weights_are_found_within_what_training_loops_save(write, tmp_path, wrap):
    """The prefix of DataParallel is taken away, and the one state dict of a checkpoint is found; the numbers arrive."""
    name, other = write(LINEAR), nn.Linear(2, 3)
    torch.save(wrap(other.state_dict()), tmp_path / "w.pt")
    module = load_plugin(f"{name}:make", "w.pt", "base", True)
    assert torch.equal(module.weight, other.weight) and torch.equal(module.bias, other.bias)


def test_of_two_state_dicts_that_fit_none_is_chosen(write, tmp_path):
    """A generator and its average fit equally: the user chooses."""
    name, other = write(LINEAR), nn.Linear(2, 3)
    torch.save({"g": other.state_dict(), "g_ema": other.state_dict()}, tmp_path / "w.pt")
    assert "holds several things (g, g_ema)" in refused(f"{name}:make", "w.pt", "base", True)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: None, "w.pt: no such file"),
        (lambda p: p.mkdir(), "w.pt is a folder"),
        (lambda p: p.write_bytes(b""), "w.pt is damaged or not a state dict"),
        (lambda p: p.write_bytes(b"garbage here"), "w.pt is damaged or not a state dict"),
        (lambda p: (torch.save({"weight": torch.zeros(999)}, p), _cut(p)), "w.pt is damaged or not a state dict"),
        (lambda p: (torch.save({"weight": torch.full((24,), 0.25)}, p), _flip(p)), "w.pt is damaged"),
        (lambda p: torch.save(nn.Linear(2, 3), p), "needs code to load (torch.nn.modules.linear.Linear)"),
        (lambda p: torch.save(torch.zeros(3), p), "holds an object of type Tensor, expected a state dict"),
        (lambda p: torch.save({"g": {"weight": torch.zeros(1)}, "step": 3}, p), "holds several things (g)"),
        (lambda p: torch.save(nn.Linear(2, 4).state_dict(), p), "does not fit the module that"),
        (
            lambda p: torch.save({"module.weight": torch.zeros(3, 2)}, p),
            'Missing key(s) in state_dict: "weight", "bias"',
        ),
        (lambda p: torch.save({"weight": 3, "bias": torch.zeros(3)}, p), "does not fit the module that"),
    ],
)
def test_weights_that_cannot_be_used(write, tmp_path, make, expected):
    """Absent, a folder, empty, garbage, cut short, one byte changed, code, no dict, nested, another network's."""
    name = write(LINEAR)
    make(tmp_path / "w.pt")
    message = refused(f"{name}:make", "w.pt", "base", True)
    assert message.startswith("base.weights: ") and expected in message


def test_weights_never_run_code(write, tmp_path):
    """A pickle that would run a command is refused, and does not run it."""

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    name = write(LINEAR)
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        save(Bomb(), tmp_path / "w.pt")
        assert "base.weights: w.pt " in refused(f"{name}:make", "w.pt", "base", True)
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------------ the check


class Call(nn.Module):
    """A module that is a function; its one weight is there so that it has one."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, *inputs):
        return self.function(*inputs)


def images(z):
    return z.tanh().reshape(-1, *SHAPE)


def total(x):
    return x.flatten(1).sum(1)


def check(base=images, energy=total, shape=SHAPE, uniform=False):
    base = ExternalBase(Call(base), "my.gan:generator", None)
    energy = Energy(ExternalEnergy(Call(energy), "my.gan:critic", False)) if energy else None
    check_plugins(UniformLatent(base) if uniform else base, energy, PRIOR, shape)


@pytest.fixture
def silent(capsys):
    """Afterwards nothing was said."""
    plugins.say_once.cache_clear()
    yield
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(
    "energy", [total, None, lambda x: total(x)[:, None], lambda x: total(x.mul_(2)), lambda x: total(x).clamp(max=50)]
)
def test_good_plugins_pass_in_silence(silent, energy, uniform):
    """(n,) and (n, 1) energies, also one that works in place; with uniform latents; with no energy at all."""
    check(energy=energy, uniform=uniform)


def test_networks_of_ours_are_not_looked_at():
    """Without a plug-in nothing is called."""

    def forbidden(*_):
        raise AssertionError

    check_plugins(Call(forbidden), Energy(Call(forbidden)), PRIOR, SHAPE)


def test_points_may_lie_outside_the_unit_square(silent):
    """The range is that of images."""
    check(base=lambda z: 5 * z[:, :2], shape=(2,))


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (lambda z: z, "returned shape (2, 4), expected (2, 1, 2, 2) (the data's shape)"),
        (lambda z: (images(z), 3), "returned an object of type tuple, expected a tensor of shape (2, 1, 2, 2)"),
        (lambda z: None, "returned None, expected a tensor"),
        (lambda z: images(z).double(), "returned float64 numbers, expected float32"),
        (lambda z: images(z) / 0, "returned numbers that are not finite"),
        (lambda z: images(z).detach(), "no gradient with respect to its input"),
        (torch.no_grad()(images), "no gradient with respect to its input"),
        (torch.inference_mode()(images), "no gradient with respect to its input"),
        (lambda z: images(z).round(), "does not change with the latent"),
        (lambda z: images(z) + torch.rand(SHAPE), "returned other numbers when called again"),
        (lambda z: images(z.abs() * 0).sqrt() + images(z), "has a gradient that is not finite"),
        (lambda z: z[7], "raised IndexError: index 7 is out of bounds"),
    ],
)
def test_a_base_that_does_not_fit(base, expected):
    """One sentence that names key, factory, what it was called with, got and expected."""
    with pytest.raises(UsageError) as caught:
        check(base=base)
    message = str(caught.value)
    assert message.startswith("base.factory: my.gan:generator, called with a latent of shape (2, 4), ")
    assert expected in message and "\n" not in message


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        (lambda x: x.sum(), "returned shape (), expected (2,) (one number for each)"),
        (lambda x: x.flatten(1)[:, :3], "returned shape (2, 3), expected (2, 1)"),
        (lambda x: total(x)[None], "returned shape (1, 2), expected (2, 1)"),
        (lambda x: [total(x)], "returned an object of type list"),
        (lambda x: total(x).log() * float("nan"), "not finite"),
        (lambda x: total(x.detach()), "no gradient with respect to its input"),
        (lambda x: total(x) + torch.rand(2), "returned other numbers when called again"),
    ],
)
def test_an_energy_that_does_not_fit(energy, expected):
    """One sentence that names the energy, not the base."""
    with pytest.raises(UsageError) as caught:
        check(energy=energy)
    message = str(caught.value)
    assert message.startswith("energy.factory: my.gan:critic, called with data of shape (2, 1, 2, 2), ")
    assert expected in message


def test_images_outside_the_range_and_a_flat_energy_are_warned_about(capsys):
    """A generator in [0, 255] and a critic saturated at the samples go on, with a line on stderr."""
    plugins.say_once.cache_clear()
    check(base=lambda z: 127.5 * (images(z) + 1))
    assert "warning: base.factory: my.gan:generator returned numbers from" in (err := capsys.readouterr().err)
    assert "should be in [-1, 1]" in err
    check(energy=lambda x: total(x).clamp(max=-50))
    assert "warning: energy.factory: my.gan:critic" in (err := capsys.readouterr().err) and "gradient of zero" in err


def test_a_trained_energy_on_an_external_base_is_checked_too():
    """The base is, with an energy of ours beside it."""
    base = ExternalBase(Call(lambda z: z), "my.gan:generator", None)
    with pytest.raises(UsageError, match="my.gan:generator"):
        check_plugins(base, Energy(nn.Sequential(nn.Flatten(), nn.Linear(4, 1))), PRIOR, SHAPE)


# ------------------------------------------------------------------------------------------------------------ the prior


class Shifted:
    """z ~ N(1, I)."""

    def sample(self, n, generator):
        return 1 + torch.randn(n, 4, generator=generator)

    def log_prob(self, z):
        return -0.5 * (z - 1).square().sum(1)


def with_prior(prior) -> ExternalBase:
    module = Call(images)
    module.prior = prior
    return ExternalBase(module, "my.gan:generator", None)


def test_a_prior_of_the_base_is_used():
    """Where the module has none, or None, there is none."""
    assert own_prior(ExternalBase(Call(images), "m:f", None), 4) is None
    assert own_prior(with_prior(None), 4) is None
    assert own_prior(Call(images), 4) is None
    prior = Shifted()
    assert own_prior(with_prior(prior), 4) is prior


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sample": None}, "sample(n, generator) raised TypeError"),
        ({"sample": lambda n, g: torch.zeros(n, 5)}, "sample(2, generator) returned shape (2, 5), expected (2, 4)"),
        ({"log_prob": lambda z: z}, "log_prob(z) returned shape (2, 4), expected (2,)"),
        ({"log_prob": lambda z: torch.zeros(len(z))}, "log_prob(z) returned what has no gradient"),
    ],
)
def test_a_prior_that_does_not_fit(change, expected):
    """One sentence; a torch distribution, whose sample takes a shape, is refused as well."""
    prior = Shifted()
    vars(prior).update(change)
    with pytest.raises(UsageError) as caught:
        own_prior(with_prior(prior), 4)
    assert expected in str(caught.value)
    with pytest.raises(UsageError, match="attribute prior of my.gan:generator: sample"):
        own_prior(with_prior(torch.distributions.Normal(0, 1)), 4)


# ---------------------------------------------------------------------------------------------------------- experiments

EXTERNAL = """name: x
data: {kind: digits}
latent_dim: 12
prior: normal
base:
  kind: external
  factory: a.b:c
  latent_shape: [3, 2, 2]
energy:
  kind: conv
"""


@pytest.fixture
def problems(tmp_path):
    def problems(text: str) -> list[str]:
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_experiment(tmp_path / "x.yaml")
        return [p.replace(str(tmp_path / "x.yaml"), "x.yaml") for p in caught.value.problems]

    return problems


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[3, 2, 2]", "[3, 2]", "x.yaml:8: base.latent_shape: [3, 2] holds 6 numbers, expected latent_dim: 12; change"),
        (
            "[3, 2, 2]",
            "[[4], [2, 5]]",
            "x.yaml:8: base.latent_shape: [[4], [2, 5]] holds 14 numbers, expected latent_dim",
        ),
        ("[3, 2, 2]", "[3, x]", "x.yaml:8: base.latent_shape: got '[3, x]', expected a shape such as [100, 1, 1], or"),
        ("[3, 2, 2]", "[3, [2]]", "x.yaml:8: base.latent_shape: got '[3, [2]]', expected a shape"),
        ("[3, 2, 2]", "[12, 0]", "x.yaml:8: base.latent_shape: got '[12, 0]', expected a shape"),
        ("[3, 2, 2]", "[]", "x.yaml:8: base.latent_shape: got '[]', expected a shape"),
        ("[3, 2, 2]", "{a: 3}", "x.yaml:8: base.latent_shape: got"),
        ("  factory: a.b:c\n", "", "x.yaml:5: base.factory: this key is required and missing"),
        ("prior: normal", "prior: gauss", "x.yaml:4: prior: got 'gauss', expected 'normal' or 'uniform'"),
        (
            "  kind: external\n  factory: a.b:c\n  latent_shape: [3, 2, 2]\nenergy:\n  kind: conv",
            "  kind: conv\nenergy:\n  kind: external\n  factory: a.b:c",
            "x.yaml:8: energy.kind: external is not trained, so base.kind: conv cannot be trained against it; use base.kind",
        ),
        (
            "  kind: conv\n",
            "  kind: conv\ntrain_energy:\n  start_from_critic: true\n",
            "x.yaml:12: train_energy.start_from_critic: base.kind: external is not trained, so it has no critic",
        ),
    ],
)
def test_an_experiment_that_contradicts_itself(problems, old, new, expected):
    """One problem, with its line."""
    found = problems(EXTERNAL.replace(old, new))
    assert len(found) == 1 and found[0].startswith(expected), found


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("12", ((12,),)),
        ("[12]", ((12,),)),
        ("[3, 2, 2]", ((3, 2, 2),)),
        ("[[4], [4, 2]]", ((4,), (4, 2))),
        ("null", None),
    ],
)
def test_latent_shapes_read_back(tmp_path, written, read):
    """One shape or several, and the resolved experiment gives the same."""
    (tmp_path / "x.yaml").write_text(EXTERNAL.replace("[3, 2, 2]", written))
    experiment = load_experiment(tmp_path / "x.yaml")
    assert experiment.base.latent_shape == read
    (tmp_path / "y.yaml").write_text(to_yaml(experiment))
    assert load_experiment(tmp_path / "y.yaml") == experiment
    assert not experiment.trains_base and experiment.trains_energy


def test_a_prior_of_the_base_contradicts_a_uniform_one(tmp_path):
    """And without that key it is what the chains move on."""
    (tmp_path / "x.yaml").write_text(EXTERNAL.replace("latent_dim: 12", "latent_dim: 4").replace("[3, 2, 2]", "null"))
    base = with_prior(Shifted())
    assert build_prior(load_experiment(tmp_path / "x.yaml"), base) is base.module.prior
    with pytest.raises(UsageError, match="prior: uniform contradicts base.factory"):
        build_prior(load_experiment(tmp_path / "x.yaml", ["prior=uniform"]), UniformLatent(base))


def test_the_prior_changes_a_base_only_when_it_is_uniform(tmp_path):
    """A normal one leaves the state dict's names as they were before there was the key, so older runs load."""
    text = EXTERNAL.split("base:")[0].replace("prior: normal\n", "") + "base: {kind: conv}\nenergy: {kind: conv}\n"
    (tmp_path / "x.yaml").write_text(text)
    plain = build_base(load_experiment(tmp_path / "x.yaml"), (1, 8, 8), 0)
    uniform = build_base(load_experiment(tmp_path / "x.yaml", ["prior=uniform"]), (1, 8, 8), 0)
    assert isinstance(plain, nn.Sequential) and next(iter(plain.state_dict())) == "0.weight"
    assert torch.equal(uniform.state_dict()["base.0.weight"], plain.state_dict()["0.weight"])
