"""Flows named in an experiment: what is built, what is refused, and a run whose energy finds the base it was trained on."""

from __future__ import annotations

import pytest
import torch

from gebm_cli.core.models.flows import DensityRatio, Maf, RealNvp
from gebm_cli.core.models.flows_images import ImageRealNvp
from gebm_cli.errors import UsageError
from gebm_cli.experiment.build import load_gebm
from gebm_cli.experiment.build_models import build_base, build_energy, build_networks
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import open_run

PLANE = """\
name: flows
data: {kind: toy, name: ring, n: 200}
latent_dim: 2
base: {kind: realnvp, n_blocks: 2, width: 8}
energy: {kind: flow, architecture: maf, n_blocks: 3, width: 6}
train_base: {steps: 3, batch_size: 16, ema_halflife_steps: 2}
train_energy: {steps: 5, batch_size: 16, lr: 1e-2}
"""
IMAGES = "name: flows\ndata: {kind: array, path: x.npy}\nlatent_dim: 64\nbase: {kind: realnvp-image, n_blocks: 2, width: 6}\n"
IMAGES += "energy: {kind: conv}\n"


@pytest.fixture
def experiment(tmp_path):
    """Write and load an experiment, with overrides."""

    def load(text, *overrides):
        path = tmp_path / "flows.yaml"
        path.write_text(text)
        return load_experiment(path, list(overrides))

    return load


def test_keys_reach_the_networks(experiment):
    base, _, energy = build_networks(experiment(PLANE), (2,), 0, "train-energy", torch.device("cpu"))
    assert isinstance(base, RealNvp) and len(base.couplings) == 2
    assert base.couplings[0].scale[0].out_features == 8
    assert isinstance(energy.network, DensityRatio) and energy.network.base is base
    assert isinstance(energy.network.flow, Maf) and len(energy.network.flow.blocks) == 3
    assert energy.network.flow.blocks[0].network[0].out_features == 6
    other = experiment(PLANE, "base={kind: maf}", "energy.architecture=realnvp")
    base, _, energy = build_networks(other, (2,), 0, "train-energy", torch.device("cpu"))
    assert isinstance(base, Maf) and isinstance(energy.network.flow, RealNvp)
    images = build_base(experiment(IMAGES), (1, 8, 8), 0)
    assert isinstance(images, ImageRealNvp) and len(images.fine) == len(images.coarse) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda load: build_base(load(PLANE), (3,), 0), "latent_dim: 2 does not fit base.kind: realnvp.*use 3"),
        (lambda load: build_base(load(IMAGES), (3, 8, 8), 0), "latent_dim: 64 .*realnvp-image.*use 192"),
        (lambda load: build_base(load(IMAGES), (1, 1, 64), 0), "even sides"),
        (lambda load: build_energy(load(PLANE), (2,), 0, "train-energy"), "needs a base with a density"),
        (lambda load: build_energy(load(PLANE), (2,), 0, "", n_out=3, base=RealNvp(2)), "one number .* not 3"),
    ],
)
def test_what_the_schema_cannot_know_is_refused_at_building(experiment, build, message):
    with pytest.raises(UsageError, match=message):
        build(experiment)


def test_a_run_is_trained_and_loaded(gebm, tmp_path, generator):
    """Through the commands; the energy that is loaded is log q - log p of the base that is loaded, the averaged one."""
    (tmp_path / "flows.yaml").write_text(PLANE)
    for command in ("train-base", "train-energy"):
        result = gebm(command, "flows.yaml", "--device", "cpu")
        assert result.code == 0, result.err
    run = open_run(tmp_path / "runs" / "flows-001")
    model = load_gebm(run, (2,), torch.device("cpu"), with_energy=True)
    assert model.energy is not None and model.energy.network.base is model.base
    x = torch.randn(8, 2, generator=generator)
    ratio = model.base.log_prob(x) - model.energy.network.flow.log_prob(x)
    torch.testing.assert_close(model.energy(x), ratio)
    assert ratio.abs().max() > 1e-3
    result = gebm("sample", "--run", "flows-001", "--device", "cpu", "sample.n_samples=8", "sample.n_steps=3")
    assert result.code == 0, result.err
