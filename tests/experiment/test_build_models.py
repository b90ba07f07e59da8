"""From keys to image networks: every key arrives, and the outputs have the shapes that were asked for."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

from gebm_cli.core.models.networks import count_parameters
from gebm_cli.experiment.build_models import build_base, build_energy
from gebm_cli.experiment.load import load_experiment

RGB32 = (3, 32, 32)


def _experiment(tmp_path, base="{kind: conv, width: 2}", energy="{kind: conv, width: 2}"):
    text = f"name: x\ndata: {{kind: cifar10}}\nlatent_dim: 5\nbase: {base}\nenergy: {energy}\n"
    (tmp_path / "x.yaml").write_text(text)
    return load_experiment(tmp_path / "x.yaml")


@pytest.mark.parametrize("base", ["{kind: conv, width: 2}", "{kind: dcgan, width: 2}", "{kind: resnet, width: 2}"])
def test_bases_of_every_kind_are_built(tmp_path, base):
    """Latents become images, and another width makes a network of another size."""
    network = build_base(_experiment(tmp_path, base), RGB32, 0)
    wider = build_base(_experiment(tmp_path, base.replace("2", "3")), RGB32, 0)
    assert network(torch.randn(2, 5)).shape == (2, *RGB32) and count_parameters(wider) > count_parameters(network)


@pytest.mark.parametrize("kind", ["conv", "sngan", "dcgan", "resnet"])
@pytest.mark.parametrize("spectral", ["none", "norm", "parametrised"])
def test_energies_of_every_kind_are_built(tmp_path, kind, spectral):
    """`energy.width`, `energy.spectral` and the number of outputs arrive in the network."""
    width = "" if kind == "sngan" else ", width: 3"
    experiment = _experiment(tmp_path, energy=f"{{kind: {kind}{width}, spectral: {spectral}}}")
    energy = build_energy(experiment, RGB32, 0, "train-energy")
    layers = [m for m in energy.modules() if parametrize.is_parametrized(m)]
    depths = {len(m.parametrizations.weight) for m in layers}
    assert depths == {"none": set(), "norm": {1}, "parametrised": {2}}[spectral]
    first = next(m for m in energy.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.out_channels == (64 if kind == "sngan" else 3)
    assert energy(torch.randn(2, *RGB32)).shape == (2,)
    if spectral == "norm":
        critic = build_energy(experiment, RGB32, 0, "train-base", n_out=16)
        assert critic.network(torch.randn(2, *RGB32)).shape == (2, 16)


@pytest.mark.parametrize(("kind", "normed"), [("conv", 0), ("sngan", 7), ("dcgan", 0), ("resnet", 11)])
def test_published_critics_are_normalised_by_default(tmp_path, kind, normed):
    """Without `energy.spectral`, sngan and resnet have spectral norm and conv and dcgan have none."""
    energy = build_energy(_experiment(tmp_path, energy=f"{{kind: {kind}}}"), RGB32, 0, "train-energy")
    assert sum(parametrize.is_parametrized(m) for m in energy.modules()) == normed


def test_critics_of_points_have_several_outputs_too(tmp_path):
    """`n_out` reaches the mlp."""
    (tmp_path / "x.yaml").write_text("name: x\ndata: {kind: toy, name: ring}\nbase: {kind: mlp}\nenergy: {kind: mlp}\n")
    energy = build_energy(load_experiment(tmp_path / "x.yaml"), (2,), 0, "train-base", n_out=16)
    assert energy.network(torch.randn(3, 2)).shape == (3, 16)


@pytest.mark.parametrize(("spectral", "depth"), [("none", 0), ("norm", 1), ("parametrised", 2)])
def test_every_layer_of_an_mlp_energy_is_normalised(tmp_path, spectral, depth):
    """At a converged power iteration each weight's largest singular value is 1; the base's layers are left as they are."""
    keys = f"energy: {{kind: mlp, width: 5, depth: 2, spectral: {spectral}}}\n"
    (tmp_path / "x.yaml").write_text(
        "name: x\ndata: {kind: toy, name: ring}\nlatent_dim: 2\nbase: {kind: mlp}\n" + keys
    )
    experiment = load_experiment(tmp_path / "x.yaml")
    energy, base = build_energy(experiment, (2,), 0, "train-energy"), build_base(experiment, (2,), 0)
    layers = [m for m in energy.modules() if isinstance(m, torch.nn.Linear)]
    stacked = [len(m.parametrizations.weight) if parametrize.is_parametrized(m) else 0 for m in layers]
    assert stacked == [depth] * 3 and not any(parametrize.is_parametrized(m) for m in base.modules())
    for _ in range(100):
        energy(torch.zeros(1, 2))
    norms = [torch.linalg.matrix_norm(m.weight, 2).item() for m in layers]
    assert (norms == pytest.approx([1.0] * 3, abs=1e-4)) == (depth > 0)
