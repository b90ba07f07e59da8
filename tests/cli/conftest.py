"""Run the command line in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from gebm_cli.cli.app import run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@dataclass
class Result:
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def gebm(capsys, tmp_path, monkeypatch):
    """Call `gebm` with arguments in an empty folder that holds a copy of experiments/."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments", dirs_exist_ok=True)

    def call(*argv: str) -> Result:
        capsys.readouterr()
        code = run([str(a) for a in argv])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
