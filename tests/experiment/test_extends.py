"""Files that extend others: what is merged, what is replaced, and errors that name the file and line where they were written."""

from __future__ import annotations

import pytest

from gebm_cli.experiment.load import ConfigError, load_experiment, to_yaml

PARENT = """\
name: parent
data: {kind: digits, held_out: 300}
latent_dim: 7
base: {kind: conv, width: 3}
energy: {kind: conv, width: 5}
train_base:
  lr: 1e-3
  steps: 20
  objective: {kind: mmd, kernel: rbf, features: 4}
sample: {beta: 3}
"""


@pytest.fixture
def files(tmp_path):
    """Write files; load the last one, or give its problems without the folder's name."""

    class Files:
        def load(self, *overrides, **texts):
            for name, text in texts.items():
                path = tmp_path / f"{name}.yaml"
                path.write_text(text)
            return load_experiment(path, overrides)

        def problems(self, *overrides, **texts) -> list[str]:
            with pytest.raises(ConfigError) as caught:
                self.load(*overrides, **texts)
            return [p.replace(f"{tmp_path}/", "") for p in caught.value.problems]

    return Files()


def test_sections_are_merged_key_by_key(files):
    """A key that the child gives wins, its neighbours stay, and what neither gives has its default."""
    child = "extends: parent.yaml\nname: child\nbase: {width: 4}\ntrain_base: {steps: 30, betas: [0, .9]}\n"
    got = files.load(parent=PARENT, child=child)
    assert (got.name, got.latent_dim, got.data.held_out, got.sample.beta) == ("child", 7, 300, 3.0)
    assert (got.base.kind, got.base.width, got.energy.width) == ("conv", 4, 5)
    assert (got.train_base.lr, got.train_base.steps, got.train_base.betas) == (1e-3, 30, (0.0, 0.9))
    assert got.train_base.objective.kernel == "rbf" and got.train_base.batch_size == 128


def test_another_kind_takes_the_whole_place_and_the_same_kind_does_not(files):
    """No key of the old kind is left behind, also none below a nested section; naming the same kind again resets nothing."""
    child = "extends: parent.yaml\nname: child\nenergy: {kind: sngan}\ntrain_base: {objective: {kind: hinge}}\n"
    got = files.load(parent=PARENT, child=child)
    assert got.energy.kind == "sngan" and got.train_base.objective.kind == "hinge" and got.train_base.steps == 20
    same = "extends: parent.yaml\nname: child\nenergy: {kind: conv}\ntrain_base: {objective: {kind: mmd, linear: 1}}\n"
    got = files.load(parent=PARENT, child=same)
    objective = got.train_base.objective
    assert got.energy.width == 5 and (objective.kernel, objective.features, objective.linear) == ("rbf", 4, 1.0)


def test_a_section_left_empty_means_its_defaults(files):
    """As in a file that extends nothing."""
    got = files.load(parent=PARENT, child="extends: parent.yaml\nname: child\nsample:\n")
    assert got.sample.beta == 1.0


def test_the_short_form_of_an_objective_is_merged_as_the_long_one(files):
    """A word over a section of that kind keeps its keys, keys over a word belong to it, and another word replaces all."""
    words = "extends: parent.yaml\nname: child\ntrain_base:\n  objective: "
    assert files.load(parent=PARENT, child=words + "mmd\n").train_base.objective.kernel == "rbf"
    assert files.load(parent=PARENT, child=words + "gan\n").train_base.objective.kind == "gan"
    short = PARENT.replace("{kind: mmd, kernel: rbf, features: 4}", "mmd")
    got = files.load(parent=short, child=words + "{features: 9}\n").train_base.objective
    assert (got.kind, got.features, got.kernel) == ("mmd", 9, "rq")


def test_overrides_lie_on_top_of_all_files(files):
    """Also those into a section that only the parent has, and below an objective in the short form."""
    child = "extends: parent.yaml\nname: child\ntrain_base: {objective: mmd}\n"
    got = files.load(
        "train_base.lr=2e-3", "base.width=6", "train_base.objective.kernel=distance", parent=PARENT, child=child
    )
    assert (got.train_base.lr, got.base.width, got.train_base.objective.kernel) == (2e-3, 6, "distance")
    got = files.load("train_base.objective=smmd", "train_base.objective.lam=0", parent=PARENT, child=child)
    assert (got.train_base.objective.kind, got.train_base.objective.lam) == ("smmd", 0.0)
    assert (
        files.load("train_energy.objective=logistic", parent=PARENT, child=child).train_energy.objective.kind
        == "logistic"
    )


def test_a_chain_of_three_is_followed_from_each_files_own_folder(files, tmp_path):
    """The nearest file wins; a path is seen from the file it stands in."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below/middle.yaml").write_text(
        "extends: ../parent.yaml\nname: middle\nlatent_dim: 8\ntrain_base: {lr: 5e-3}\n"
    )
    got = files.load(parent=PARENT, child="extends: below/middle.yaml\nname: child\nlatent_dim: 9\n")
    assert (got.name, got.latent_dim, got.train_base.lr, got.train_base.steps) == ("child", 9, 5e-3, 20)
    assert "extends" not in to_yaml(got), "what a run records stands on its own"


def test_an_error_is_placed_where_its_value_was_written(files):
    """In the parent, in the child, in an override; what was replaced is not complained of."""
    parent = PARENT.replace("1e-3", "fast").replace("held_out: 300", "held_out: 0").replace("width: 5", "width: wide")
    child = "extends: parent.yaml\nname: child\nbase:\n  width: -1\ntrain_base:\n  stesp: 3\nenergy: {width: 2}\n"
    assert set(files.problems("sample.beta=-1", parent=parent, child=child)) == {
        "parent.yaml:2: data.held_out: got '0', expected a number of at least 1",
        "child.yaml:4: base.width: got '-1', expected a number of at least 1",
        "parent.yaml:7: train_base.lr: got 'fast', expected a number",
        "child.yaml:6: train_base.stesp: unknown key; did you mean 'steps'?",
        "override 'sample.beta=-1': sample.beta: got '-1', expected 'auto' or a number of at least 0",
    }
    child = (
        "extends: parent.yaml\nname: child\ntrain_base:\n  lr: 1\n\n  objective:\n    kind: hinge\n    kernel: rbf\n"
    )
    (only,) = files.problems(parent=PARENT, child=child)
    assert only.startswith("child.yaml:8: train_base.objective.kernel: unknown key; it is a key of another kind"), only
    (only,) = files.problems(
        parent=PARENT.replace("rbf", "rfb"), child="extends: parent.yaml\nname: child\nlatent_dim: 3\n"
    )
    assert (
        only.startswith("parent.yaml:9: train_base.objective.kernel: got 'rfb', expected") and "mean 'rbf'" in only
    ), only


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (
            {"child": "name: child\nextends: child.yaml\n"},
            "child.yaml:2: extends: child.yaml extends this file in turn; remove one of the two",
        ),
        (
            {"other": "name: other\nextends: child.yaml\n", "child": "extends: other.yaml\nname: child\n"},
            "other.yaml:2: extends: child.yaml extends this file in turn; remove one of the two",
        ),
        (
            {"child": "name: child\nextends: parent\n"},
            "child.yaml:2: extends: got 'parent', expected an experiment file beside this one",
        ),
        (
            {"parent": PARENT, "child": "seed: 1\nextends: parent.yaml\n"},
            "child.yaml:2: name: a file that extends another needs a name of its own; add `name:`",
        ),
        ({"parent": "- a\n", "child": "extends: parent.yaml\nname: x\n"}, "parent.yaml: expected keys such as `name:`"),
        (
            {"parent": PARENT + "seed: 1\nseed: 2\n", "child": "extends: parent.yaml\nname: x\n"},
            "parent.yaml:12: seed: this key is given twice; keep one of them",
        ),
    ],
    ids=["itself", "a cycle", "missing", "nameless", "no mapping", "twice"],
)
def test_what_cannot_be_extended_is_one_sentence(files, texts, sentence):
    """It names the file and line, and says what to do."""
    (only,) = files.problems(**texts)
    assert only.startswith(sentence), only
