"""Loading an experiment: types by declaration, every error at once with its place, and a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gebm_cli.errors import UsageError
from gebm_cli.experiment.build_models import build_base, build_energy, build_prior
from gebm_cli.experiment.load import ConfigError, load_experiment, to_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))
WITH_NETWORKS = [file for file in SHIPPED if not file.stem.startswith("flow-")]
PLANE = "name: x\ndata: {kind: toy, name: ring}\nbase: {kind: realnvp}\nenergy: {kind: flow}\n"
MINIMAL = "name: x\ndata: {kind: digits}\nbase: {kind: conv}\nenergy: {kind: conv}\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "x.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems(path, *overrides, flags=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides, flags)
    return [p.replace(f"{path}", "x.yaml") for p in caught.value.problems]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_shipped_experiment_is_valid_and_begins_with_its_command(file):
    """Each shipped file loads, is named after itself, and its first comment is a command that names it."""
    assert load_experiment(file).name == file.stem
    first = file.read_text().splitlines()[0]
    command = "# gebm train-" if file in WITH_NETWORKS else "# gebm flow "
    assert first.startswith(command) and f"experiments/{file.name}" in first
    assert load_experiment(file).is_gebm == (file in WITH_NETWORKS)


def data_shape(experiment) -> tuple[int, ...]:
    """The shape of one point, from the keys alone; of a table, what its flow expects."""
    data = experiment.data
    known = {
        "toy": (2,),
        "digits": (1, 8, 8),
        "cifar10": (3, 32, 32),
        "imagenet32": (3, 32, 32),
        "csv": (experiment.latent_dim,),
    }
    return known.get(data.kind) or (3, data.size, data.size)


@pytest.mark.parametrize("file", WITH_NETWORKS, ids=lambda f: f.stem)
def test_the_networks_of_every_shipped_experiment_fit_its_data(file):
    """Base, critic and energy are built for the shape of the data, and two latents go through them: sizes fit, all is finite."""
    experiment = load_experiment(file)
    shape, features = data_shape(experiment), getattr(experiment.train_base.objective, "features", 1)
    with torch.no_grad():
        base = build_base(experiment, shape, 0)
        points = base(build_prior(experiment, base).sample(2, torch.Generator().manual_seed(0)))
        assert points.shape == (2, *shape) and points.isfinite().all()
        for stage, n_out in (("train-base", features), ("train-energy", 1)):
            if stage == "train-energy" or (experiment.trains_base and n_out > 1):
                energy = build_energy(experiment, shape, 0, stage, n_out=n_out, base=base)
                outputs = energy.features(points)
                assert outputs.shape == (2, n_out) and outputs.isfinite().all()


def test_the_cifar10_experiment_is_the_published_setting():
    """The numbers of the paper's CIFAR-10 configuration."""
    keys = load_experiment(ROOT / "experiments/cifar10.yaml").train_base
    assert (keys.steps, keys.batch_size, keys.critic_steps, keys.lr, keys.betas) == (
        150_000,
        128,
        5,
        1e-4,
        (0.5, 0.999),
    )
    assert (keys.burst_critic_steps, keys.burst_every, keys.penalty_weight) == (100, 500, 1.0)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("train_base: {lr: 1e-4}", lambda e: e.train_base.lr == 1e-4),
        ("train_base: {steps: 010}", lambda e: e.train_base.steps == 10),
        ("train_base: {betas: [0, .9]}", lambda e: e.train_base.betas == (0.0, 0.9)),
        ("base: {kind: conv, batch_norm: yes}", lambda e: e.base.batch_norm is True),
        ("energy: {kind: conv, spectral: none}", lambda e: e.energy.spectral == "none"),
        ("data: {kind: cifar10, root: no}", lambda e: e.data.root == "no"),
        ("data: {kind: cifar10, root: 12:30:00}", lambda e: e.data.root == "12:30:00"),
        ("sample: {friction: 3}", lambda e: e.sample.friction == 3.0),
        ("sample: {friction: low}", lambda e: e.sample.friction == "low"),
        ("sample: {sampler: none}", lambda e: e.sample.sampler == "none"),
        ("seed: null", lambda e: e.seed is None),
        ("seed: ~", lambda e: e.seed is None),
        ("sample:", lambda e: e.sample.beta == 1.0),
    ],
)
def test_values_are_read_by_their_declared_type(write, text, read):
    """What YAML alone would read as a string, False, 8, or a number of seconds has the type the schema declares."""
    keys = dict.fromkeys(["name", "data", "base", "energy"])
    body = "\n".join(line for line in MINIMAL.splitlines() if line.split(":")[0] != text.split(":")[0])
    assert keys and read(load_experiment(write(body + "\n" + text + "\n")))


def test_all_errors_come_in_one_report_with_file_and_line(write):
    """Unknown, mistyped, out-of-range and contradictory keys, overrides and flags are all named at once."""
    path = write(
        "name: x\ndata: {kind: digits, held_uot: 3}\nbase: {kind: conv}\nenergy: {kind: convv}\n"
        "train_base:\n  lr: fast\n  lerning_rate: 3\n  batch_size: 0\n  betas: [0.5]\nsample:\n  friction: lo\nlr: 3\n"
    )
    found = problems(path, "foo", "train_base.steps=1e4", flags={"sample.beta": ("--beta", "-1")})
    assert set(found) == {
        "override 'foo': an override is written key=value, for instance train_energy.lr=1e-4",
        "x.yaml:2: data.held_uot: unknown key; did you mean 'held_out'?",
        "x.yaml:4: energy.kind: got 'convv', expected 'conv' or 'sngan' or 'dcgan' or 'resnet' or 'mlp' or 'flow' or "
        "'external' or 'none'; did you mean 'conv'?",
        "x.yaml:6: train_base.lr: got 'fast', expected a number",
        "x.yaml:7: train_base.lerning_rate: unknown key; did you mean 'lr'?",
        "x.yaml:8: train_base.batch_size: got '0', expected a number of at least 1",
        "x.yaml:9: train_base.betas.1: got a list of 1, expected one more value",
        "override 'train_base.steps=1e4': train_base.steps: got '1e4', expected a whole number, written in digits",
        "--beta: sample.beta: got '-1', expected 'auto' or a number of at least 0",
        "x.yaml:11: sample.friction: got 'lo', expected 'low', 'critical' or 'high' or a number; did you mean 'low'?",
        "x.yaml:12: lr: unknown key; did you mean 'train_base.lr'?",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "x.yaml:2: not valid YAML"),
        ("name: x\n\tdata: 3\n", "x.yaml:2: not valid YAML: a tab is used where YAML wants spaces"),
        ("- a\n- b\n", "expected keys such as `name:` and `data:`, got a list"),
        ("", "got an empty file"),
        ("just text", "got a single value"),
        (MINIMAL + "seed: 1\nseed: 2\n", "x.yaml:6: seed: this key is given twice"),
        (
            MINIMAL + "seed: !!python/object/apply:os.system ['true']\n",
            "the tag !!python/object/apply:os.system is not",
        ),
        (MINIMAL + "seed: &a 1\nlatent_dim: *a\n", "aliases (*name) are not supported"),
        (MINIMAL + "seed: " + "[" * 3000 + "\n", "not valid YAML"),
        (MINIMAL + "train_base: {lr: .inf}\n", "train_base.lr: got '.inf', expected a number"),
        (MINIMAL + "train_base: {lr: nan}\n", "train_base.lr: got 'nan', expected"),
        (MINIMAL + "sample: 3\n", "x.yaml:5: sample: got '3', expected a section: keys below `sample:`"),
        ("name: x\nbase: {kind: conv}\nenergy: {kind: conv}\n", "data: this key is required and missing"),
        (
            MINIMAL.replace("kind: digits", "held_out: 3"),
            "x.yaml:2: data.kind: this key is required; expected 'digits' or",
        ),
        (
            MINIMAL.replace("digits", "toy, name: ring"),
            "base.kind: conv does not fit data.kind: toy; use mlp, circle, realnvp or maf, or external",
        ),
        (
            MINIMAL.replace("base: {kind: conv}", "base: {kind: maf}"),
            "base.kind: maf does not fit data.kind: digits; use conv, sngan, dcgan, resnet or realnvp-image, or external",
        ),
        (
            MINIMAL.replace("energy: {kind: conv}", "energy: {kind: flow}"),
            "energy.kind: flow does not fit data.kind: digits; use conv, sngan, dcgan or resnet, or external",
        ),
        (
            MINIMAL.replace("base: {kind: conv}", "base: {kind: realnvp-image}"),
            "latent_dim: 100 does not fit base.kind: realnvp-image, which is invertible; use 64",
        ),
        (PLANE + "latent_dim: 3\n", "latent_dim: 3 does not fit base.kind: realnvp, which is invertible; use 2"),
        (PLANE + "latent_dim: 2\nprior: uniform\n", "prior: uniform does not fit base.kind: realnvp"),
        (
            PLANE.replace("realnvp", "mlp") + "latent_dim: 2\n",
            "energy.kind: flow needs a base with a density, which base.kind: mlp has not; use base.kind realnvp or maf",
        ),
        (MINIMAL.replace("name: x", "name: ../../etc"), "x.yaml:1: name: got '../../etc', expected letters, digits"),
    ],
)
def test_one_bad_thing_gives_one_clear_sentence(write, text, expected):
    """Each kind of bad file is one sentence that says where and what."""
    found = problems(write(text))
    assert len(found) == 1 and expected in found[0], found


def test_a_binary_file_and_a_missing_file_are_refused(write, tmp_path):
    """Bytes that are not UTF-8, a folder, and a name that is nearly right."""
    with pytest.raises(UsageError, match="not a text file in UTF-8"):
        load_experiment(write(b"\xff\xfe\x00binary"))
    with pytest.raises(UsageError, match="is a folder"):
        load_experiment(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        load_experiment(tmp_path / "none.yaml")


def test_a_bare_name_finds_a_shipped_experiment_and_a_near_one_is_suggested(monkeypatch):
    """`digits` means experiments/digits.yaml; `digts` gets a suggestion."""
    monkeypatch.chdir(ROOT)
    assert load_experiment("digits").name == "digits"
    with pytest.raises(UsageError, match="did you mean digits"):
        load_experiment("digts")


def test_precedence_is_defaults_file_overrides_flags(write):
    """Each later source wins, an override splits at its first `=`, and a section can be overridden whole."""
    path = write(MINIMAL + "sample: {beta: 2}\n")
    assert load_experiment(path).sample.beta == 2
    assert load_experiment(path, ["sample.beta=3"]).sample.beta == 3
    assert load_experiment(path, ["sample.beta=3"], {"sample.beta": ("--beta", "4")}).sample.beta == 4
    assert load_experiment(path, ["data={kind: folder, path: a=b}"]).data.path == "a=b"


def test_an_override_into_a_value_is_refused(write):
    """`name.x=3` has no section to go into."""
    assert problems(write(MINIMAL), "name.x=3") == [
        "override 'name.x=3': name is a value, not a section; it has no key 'x'"
    ]


def test_the_resolved_experiment_reads_back_equal(write, tmp_path):
    """What a run records is itself an experiment file, with every key in it."""
    experiment = load_experiment(write(MINIMAL), ["seed=3", "sample.friction=0.5", "train_base.lr=1e-4"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(experiment))
    assert load_experiment(resolved) == experiment
    assert set(yaml.safe_load(resolved.read_text())) == set(type(experiment).model_fields)


@given(st.text(max_size=60))
def test_no_text_is_ever_more_than_a_configuration_error(text):
    """Whatever stands in an override, loading ends in a result or a UsageError, never in another exception."""
    try:
        load_experiment(ROOT / "experiments/digits.yaml", [text, f"seed={text}"])
    except UsageError as error:
        assert str(error)
