"""What the README promises of the digits, measured: slow, `make test-slow`."""

from __future__ import annotations

import json

import pytest

from gebm_cli.cli.app import run as command


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_energy_brings_the_digits_closer(tmp_path, monkeypatch, capsys, seed):
    """FID(GEBM) / FID(base) at most .75 against the training digits, and the KID difference significant at .01, n = 5,000."""
    monkeypatch.setenv("GEBM_RUNS_DIR", str(tmp_path))
    for argv in (["train-base", "digits", "--seed", str(seed)], ["train-energy", "digits"]):
        assert command(argv) == 0
    for argv in (["sample", "digits", "--sampler", "none"], ["sample", "digits"]):
        assert command(argv) == 0
    capsys.readouterr()
    assert command(["verdict", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    train = verdict["references"]["train"]
    assert verdict["n_base"] == verdict["n_gebm"] == 5000
    assert train["fid_ratio"] <= 0.75, train
    assert train["p_value"] < 0.01 and train["kid_difference"] < 0, train
