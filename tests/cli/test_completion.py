"""Shell completion: what <TAB> offers, through the mechanism that shells use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gebm_cli.cli.completion import no_space_after_open_words
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.experiment.load import load_experiment
from gebm_cli.experiment.run import create_run


@pytest.fixture
def script_for():
    """The script of a shell as typer makes it, by a function that another version of typer may not have."""
    shared = pytest.importorskip("typer._completion_shared")
    return lambda shell: shared.get_completion_script(prog_name="gebm", complete_var="_GEBM_COMPLETE", shell=shell)


@pytest.fixture
def tab(gebm, monkeypatch):
    """What bash is offered at the end of a line."""

    def press(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_GEBM_COMPLETE", "complete_bash")
        result = gebm()
        assert result.err == ""
        return result.out.split()

    return press


def test_commands(tab):
    assert {"train-base", "train-energy", "sample", "show", "new", "runs"} <= set(tab("gebm "))
    assert tab("gebm train-") == ["train-base", "train-energy"]


def test_experiments_are_those_of_the_folder_and_files_here(tab):
    Path("local.yaml").write_text("")
    shipped = sorted(p.stem for p in Path("experiments").glob("*.yaml"))
    for command in ("train-base", "train-energy", "sample", "flow", "validate", "show", "new x --from"):
        assert tab(f"gebm {command} ") == [*shipped, "local.yaml"]
    assert tab("gebm train-base cifar10-") == ["cifar10-small", "cifar10-small-gan"]


def test_a_path_is_left_to_the_shell(tab):
    """No offers, and then bash completes files."""
    assert tab("gebm train-base experiments/") == [] and tab("gebm show ./") == []


def test_runs_are_those_of_the_runs_folder(tab, tmp_path):
    experiment = load_experiment("digits", [], {"seed": ("--seed", "1")})
    here = [create_run(experiment, tmp_path / "runs").name for _ in range(2)]
    (tmp_path / "runs" / "no-run").mkdir()
    create_run(experiment.model_copy(update={"name": "other"}), tmp_path / "elsewhere")
    for command in ("sample", "train-energy", "verdict", "doctor"):
        assert tab(f"gebm {command} --run ") == here
    assert tab("gebm sample --runs-dir elsewhere --run ") == ["other-001"]
    assert tab("gebm show digits-") == here and tab("gebm new x --from digits-") == here


def test_samplers_alone_and_in_lists(tab):
    assert tab("gebm sample --sampler ") == [*CATALOGUE, "none"]
    assert tab("gebm sample --sampler m") == ["mala"]
    assert tab("gebm sample --compare kla,m") == ["kla,mala"]
    assert "kla,kla" not in tab("gebm sample --compare kla,") and "none" not in tab("gebm sample --compare ")


def test_keys_section_by_section(tab):
    assert tab("gebm train-base digits train") == ["train_base.", "train_energy."]
    found = tab("gebm train-base digits train_base.l")
    assert {"train_base.lr=", "train_base.log_every=", "train_base.lr_rule."} <= set(found)
    assert all(word.startswith("train_base.l") for word in found)
    assert tab("gebm train-base digits seed=1 lat") == ["latent_dim="]
    assert tab("gebm train-base digits train_base.lr_rule.pa") == ["train_base.lr_rule.patience="]


def test_keys_are_those_of_the_kinds_that_the_experiment_has(tab):
    assert tab("gebm train-base digits base.") == ["base.kind=", "base.width=", "base.batch_norm="]
    assert "base.n_blocks=" in tab("gebm validate uci-red-wine base.") and "data.drop=" in tab(
        "gebm show uci-red-wine data.d"
    )


def test_every_key_that_is_offered_is_one(tab):
    """Each resolves: an override of it by its own value changes nothing."""
    wanted = load_experiment("digits").model_dump(mode="json")
    for section, keys in wanted.items():
        for word in tab(f"gebm train-base digits {section}.") if isinstance(keys, dict) else []:
            assert word[-1] in ".=" and word[len(section) + 1 : -1] in keys
        if isinstance(keys, dict):
            assert len(tab(f"gebm train-base digits {section}.")) == len(keys)


def test_words_of_a_value_also_as_bash_asks_for_them(tab):
    """`key=word` in one piece (zsh, fish), or in bash's three; at the `=` itself bash's word is `=`."""
    assert tab("gebm show digits sample.friction=l") == ["sample.friction=low"]
    assert tab("gebm show digits sample.friction = l") == ["low"]
    assert tab("gebm show digits sample.friction =") == ["low", "critical", "high"]
    assert tab("gebm show digits seed = 1 train_base.flip =") == ["true", "false"]
    assert tab("gebm show digits train_base.keep_best = ") == ["nll", "kid", "null"]
    assert tab("gebm show digits train_energy.objective.kind = p") == ["pcd"]
    assert "gan" in tab("gebm show digits train_base.objective =") and "sngan" in tab("gebm show digits base.kind =")
    assert tab("gebm show digits train_base.steps = l") == []
    assert tab("gebm show digits sample.friction = low lat") == ["latent_dim="]


def test_with_a_run_the_first_word_may_be_a_key(tab):
    assert tab("gebm sample --run digits-001 sample.be") == ["sample.beta=", "sample.beta_start="]


@pytest.mark.parametrize("line", ["nope.", "seed.x", "train_base.lr.", "a.b.c.d", "sample.beta.x", "..", "data.0"])
def test_what_is_no_key_offers_nothing_and_says_nothing(tab, line):
    assert tab(f"gebm train-base digits {line}") == []
    assert tab(f"gebm train-base nowhere {line}") == []


def test_a_broken_experiment_or_run_is_no_obstacle(tab, tmp_path):
    """Keys of every kind, and the run's name all the same."""
    Path("bad.yaml").write_text("name: [")
    assert "base.width=" in tab("gebm train-base bad.yaml base.w")
    (tmp_path / "runs" / "torn-001").mkdir(parents=True)
    for name in ("record.yaml", "experiment.yaml"):
        (tmp_path / "runs" / "torn-001" / name).write_text("\x00")
    assert tab("gebm sample --run ") == ["torn-001"]


def test_other_shells_are_told_what_a_word_means(gebm, monkeypatch):
    """zsh gets the description beside each word; fish as well."""
    monkeypatch.setenv("_GEBM_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "gebm train-base digits train_base.lr")
    assert "learning rate" in gebm().out
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "gebm sample --sampler mala")
    assert "Metropolis-adjusted Langevin" in gebm().out
    monkeypatch.setenv("_GEBM_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert "mala\tMetropolis-adjusted Langevin" in gebm().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_in_bash_itself(gebm, tmp_path, script_for):
    """The script that --show-completion prints, sourced in bash, fills COMPREPLY; torch is not imported on the way."""
    code = "import sys; from gebm_cli.cli.app import run; c = run([]); sys.exit(9 if 'torch' in sys.modules else c)"
    command = tmp_path / "gebm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" || echo failed\n')
    command.chmod(0o755)
    script = script_for("bash")
    words = "COMP_WORDS=(gebm validate digits sample.friction = l); COMP_CWORD=5; _gebm_completion ./gebm"
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{words}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'], capture_output=True, text=True
    )
    assert done.stdout.split() == ["low"], done.stderr


@pytest.mark.parametrize(("shell", "line"), [("bash", "compopt -o nospace"), ("zsh", "compstate[insert]=1")])
def test_no_space_is_put_behind_a_word_that_goes_on(shell, line, script_for):
    """The lines are added to typer's scripts, once, as long as these are those that we know; users of others see a space."""
    no_space_after_open_words()
    count = script_for(shell).count(line)
    if count == 0:
        pytest.skip("this version of typer has another script")
    assert count == 1
