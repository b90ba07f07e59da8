"""Shared set-up: one thread (tests are small), an own cache, and the command line run in this process."""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ["GEBM_REPORT"] = "off"  # a page takes a second; the tests of pages turn it on

import pytest
import torch
import typer.main

from gebm_cli.cli.app import run

torch.set_num_threads(1)
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Learned feature networks are cached for this test session only."""
    os.environ["GEBM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def one_parser():
    """The parser is made from the signatures of all commands once, not at each of a thousand calls: it takes 27 ms, and is pure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


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
