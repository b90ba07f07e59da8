"""Mistakes of a first day: each sentence says where it was typed, what was got, and what to type instead."""

from __future__ import annotations

import os
import shlex
import threading
import tracemalloc
from pathlib import Path

import pytest

from gebm_cli.errors import UsageError
from gebm_cli.experiment.load import ConfigError, load_experiment, load_with_origins, placed

IMAGES = "name: x\ndata: {kind: digits}\nbase: {kind: conv}\nenergy: {kind: conv}\n"
POINTS = "name: x\ndata: {kind: toy, name: ring}\nlatent_dim: 2\nbase: {kind: mlp}\nenergy: {kind: mlp}\n"
TABLE = "name: x\ndata: {kind: csv, path: x.csv}\nlatent_dim: 2\nbase: {kind: maf}\nenergy: {kind: mlp}\n"


@pytest.fixture
def problems(tmp_path):
    def problems(text: str, *overrides: str) -> list[str]:
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_experiment(tmp_path / "x.yaml", overrides)
        return [p.replace(f"{tmp_path}/", "") for p in caught.value.problems]

    return problems


# ------------------------------------------------------------------------------------------- what a shell and YAML take


def test_words_that_a_shell_took_apart_are_put_together_in_quotes(problems, tmp_path):
    """One sentence for all words, with the whole override as it must be typed; what is typed so is then understood."""
    typed = "train_base.objective={kind: mmd, features: 0}"
    (only,) = problems(IMAGES, *typed.split())
    assert only.startswith(
        "override 'train_base.objective={kind:': a shell divides words at spaces; put quotes round it: "
    )
    (quoted,) = shlex.split(only.partition("round it: ")[2])
    assert quoted == typed and "at least 1" in problems(IMAGES, quoted)[0]
    found = problems(IMAGES, "seed=x", *"train_base.betas=[0, .9]".split(), "foo", "base.width=0")
    assert len(found) == 4 and "'train_base.betas=[0, .9]'" in found[0] and "override 'foo'" in found[1]
    good = load_experiment(tmp_path / "x.yaml", ["train_base.betas=[0,.9]", "data={kind: folder, path: 'a [b'}"])
    assert good.train_base.betas == (0.0, 0.9) and good.data.path == "a [b"


def test_a_bracket_that_is_never_closed_is_still_one_sentence(problems):
    """Words after it that are overrides are kept as such."""
    found = problems(IMAGES, "train_base.betas=[0", "seed=x")
    assert len(found) == 2 and "not valid YAML" in found[0] and "seed: got 'x'" in found[1], found


@pytest.mark.parametrize("key", ["base", "train_base.objective"])
def test_a_colon_without_a_space_is_the_only_complaint(problems, key):
    """YAML reads {kind:conv} as a key without a value; the section is then taken as it was meant."""
    kind = {"base": "conv", "train_base.objective": "gan"}[key]
    (only,) = problems(IMAGES, f"{key}={{kind:{kind}}}")
    assert only == (
        f"override '{key}={{kind:{kind}}}': {key}: got '{{kind:{kind}}}', expected a space after the colon: '{{kind: {kind}}}'"
    )
    found = problems(IMAGES.replace("{kind: digits}", "{kind:digits, held_out:30}"))
    assert [f[:10] for f in found] == ["x.yaml:2: "] * 2 and "'{held_out: 30}'" in found[1]


@pytest.mark.parametrize("typed", ["|", ">", "#", "|-"])
def test_what_yaml_would_eat_is_shown_as_it_was_typed(problems, typed):
    """A block sign or a comment is a value like any other on a command line; nothing at all stays nothing."""
    (only,) = problems(TABLE, f"data.delimiter={typed}")
    assert f"got '{typed}', expected ',', ';', 'tab' or 'space'" in only
    assert "got nothing" in problems(TABLE, "data.delimiter=")[0]


# ---------------------------------------------------------------------------------------------------- what to type instead


@pytest.mark.parametrize(
    ("text", "override", "ends"),
    [
        (IMAGES, "train_energy.objective=gan", "or 'pcd'; did you mean 'logistic'?"),
        (IMAGES, "train_base.objective=logistic", "or 'pcd'; did you mean 'gan'?"),
        (IMAGES, "train_base.objective=f-gam", "or 'pcd'; did you mean 'f-gan'?"),
        (
            IMAGES,
            "train_base.objective=f-gan",
            "divergence: this key is required and missing; expected 'kl' or 'reverse-kl' or 'pearson' or 'hellinger' or 'js' or "
            "'total-variation', such as 'train_base.objective: {kind: f-gan, divergence: js}'",
        ),
        (IMAGES, "data={kind: folder}", "data.path: this key is required and missing"),
        (POINTS, "data.shift=3", "data.shift: got '3', expected a list, such as [3, 0]"),
        (POINTS, "train_base.betas=3", "train_base.betas: got '3', expected a list, such as [0.5, 0.999]"),
        (TABLE, "data.drop=quality", "data.drop: got 'quality', expected a list, such as [quality]"),
        (POINTS, "train_base.flip=true", "train_base.flip: points have no left and right; only images can be flipped"),
        (
            POINTS,
            "train_energy.flip=true",
            "train_energy.flip: points have no left and right; only images can be flipped",
        ),
        (TABLE, "train_base.flip=true", "train_base.flip: points have no left and right; only images can be flipped"),
    ],
)
def test_the_sentence_names_what_can_be_typed(problems, text, override, ends):
    """With the place, the override itself."""
    (only,) = problems(text, override)
    assert only.startswith(f"override '{override}': ") and only.endswith(ends), only


def test_the_form_that_is_named_is_accepted(tmp_path):
    """Examples in messages load."""
    (tmp_path / "x.yaml").write_text(IMAGES)
    load_experiment(tmp_path / "x.yaml", ["train_base.objective={kind: f-gan, divergence: js}", "train_base.flip=true"])
    (tmp_path / "x.yaml").write_text(POINTS)
    assert load_experiment(tmp_path / "x.yaml", ["data.shift=[3, 0]"]).data.shift == (3.0, 0.0)


# ------------------------------------------------------------------------------------------------------------ which file


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder with experiments/celeba.yaml and experiments/digits.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in ("celeba", "digits"):
        (tmp_path / f"experiments/{name}.yaml").write_text(IMAGES.replace("name: x", f"name: {name}"))
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("digts", "digits"), ("experiments/digts.yaml", "experiments/digits.yaml"), ("Celebs", "celeba")]
    + [(f"{folder}nothere{end}", None) for folder in ("", "experiments/", "/tmp/") for end in ("", ".yaml")],
)
def test_only_a_name_that_is_near_is_suggested(shipped, typed, meant):
    """A common folder and ending make no two names alike."""
    with pytest.raises(UsageError) as caught:
        load_experiment(typed)
    assert (f"did you mean {meant}?" in str(caught.value)) if meant else ("did you mean" not in str(caught.value))


@pytest.mark.parametrize("typed", ["", " "])
def test_an_empty_argument_is_called_empty(shipped, typed):
    """Not a folder, which the empty path would be."""
    with pytest.raises(UsageError, match="got an empty argument where an experiment file is expected"):
        load_experiment(typed)


def test_a_file_without_end_is_not_read_to_its_end(shipped):
    """A device is refused unread, a link to one as well; of a file that is too large one megabyte is read."""
    os.symlink("/dev/zero", "zero.yaml")
    for name in ("zero.yaml", "/dev/zero"):
        with pytest.raises(UsageError, match="is a device or a socket, not a file"):
            load_experiment(name)
    with open("large.yaml", "wb") as file:
        file.truncate(50_000_000)
    tracemalloc.start()
    with pytest.raises(UsageError, match="larger than 1 MB"):
        load_experiment("large.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_pipe_is_read_as_a_file(shipped):
    """As `gebm validate <(sed ... digits.yaml)` gives one; the line is told as of a file."""
    for text, check in ((IMAGES, lambda e: e.name == "x"), (IMAGES + "seed: y\n", None)):
        os.mkfifo("pipe")
        writer = threading.Thread(target=Path("pipe").write_text, args=(text,), daemon=True)
        writer.start()
        if check:
            assert check(load_experiment("pipe"))
        else:
            with pytest.raises(ConfigError, match="^pipe:5: seed: got 'y'"):
                load_experiment("pipe")
        writer.join()
        os.unlink("pipe")


def test_a_file_is_extended_by_its_bare_name_too(shipped):
    """`extends: digits` is digits.yaml beside it; one of experiments/ is suggested by its way from the file, others if near."""
    (shipped / "experiments/mine.yaml").write_text("extends: digits\nname: mine\nlatent_dim: 3\n")
    assert load_experiment("mine").latent_dim == 3
    (shipped / "own").mkdir()
    (shipped / "own/mine.yaml").write_text("extends: digits\nname: mine\n")
    with pytest.raises(
        ConfigError, match=r"^own/mine.yaml:1: extends: got 'digits', .*; did you mean ../experiments/digits.yaml\?"
    ):
        load_experiment("own/mine.yaml")
    (shipped / "own/mine.yaml").write_text("extends: ../experiments/digits.yaml\nname: mine\n")
    assert load_experiment("own/mine.yaml").name == "mine"
    for name, hint in (
        ("digts", "did you mean digits.yaml?"),
        ("nothere", "expected an experiment file beside this one"),
    ):
        (shipped / "experiments/mine.yaml").write_text(f"extends: {name}\nname: mine\n")
        with pytest.raises(ConfigError) as caught:
            load_experiment("mine")
        assert str(caught.value).endswith(hint)


# ----------------------------------------------------------------------------------- what is found after the data are read


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("train_base.batch_size: got 9, but there are 4 training points", "override 'train_base.batch_size=9'"),
        ("latent_dim: 3 does not fit base.kind: conv", "x.yaml:2"),
        ("train_energy.batch_size: got 128, but there are 4 training points", None),
        ("base.factory: no module", "x.yaml:4"),
        ("data: the sngan networks are for square RGB images", "override 'energy.kind=sngan'"),
        ("data: conv networks need square images, got (1, 8, 9)", "x.yaml:4"),
        ("data: base.kind realnvp-image needs images", "x.yaml:3"),
        ("data.csv:3:1: column 'a': the value is missing", None),
        ("nothing of the kind", None),
    ],
)
def test_what_the_data_refuse_is_told_with_its_place(tmp_path, monkeypatch, message, place):
    """By the key at the beginning of the sentence; where networks do not fit the images, of the networks' kind."""
    monkeypatch.chdir(tmp_path)
    lines = ["name: x", "latent_dim: 3", "data: {kind: digits}", "base: {kind: conv}", "energy: {kind: conv}", ""]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    loaded, origins = load_with_origins("x.yaml", ["train_base.batch_size=9", "energy.kind=sngan"])
    with pytest.raises(UsageError) as caught, placed(origins, loaded):
        raise UsageError(message)
    assert str(caught.value) == (f"{place}: {message}" if place else message)


def test_what_has_a_place_already_or_is_no_mistake_of_the_user_is_left_alone():
    """A ConfigError and any other error pass as they are."""
    for error in (ConfigError(["x.yaml:3: seed: got 'y'"]), ValueError("seed: 3")):
        with pytest.raises(type(error)) as caught, placed({("seed",): "x.yaml:3"}, None):
            raise error
        assert caught.value is error
