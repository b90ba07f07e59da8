"""What `gebm sample` prints and refuses before any chain: lists of values, labels, the table, the list of samplers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gebm_cli.cli.sweep import (
    combinations,
    describe_sampler,
    list_of_samplers,
    refuse_unused,
    sweep_label,
    sweep_table,
)
from gebm_cli.core.sampling.catalogue import CATALOGUE
from gebm_cli.errors import UsageError

NOTHING = dict.fromkeys(
    ("beta", "friction", "sampler", "mode", "n_samples", "n_steps", "step_size", "batch_size", "seed")
)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_list_names_every_sampler_without_torch(form):
    """`gebm sample --list` answers at once: target, cost and source of each, and torch is not imported."""
    argv = ["sample", "--list", *(["--json"] if form == "json" else [])]
    code = f"import sys; from gebm_cli.cli.app import run; assert run({argv}) == 0; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if form == "json":
        import json

        rows = json.loads(done.stdout)["samplers"]
        assert [row["name"] for row in rows] == list(CATALOGUE)
        assert all(row == {k: row[k] for k in ("name", "title", "target", "cost_per_step", "source")} for row in rows)
        assert {row["name"]: row["target"] for row in rows} == {n: e.target for n, e in CATALOGUE.items()}
    else:
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["name", *CATALOGUE]
        for line, entry in zip(lines[1:], CATALOGUE.values()):
            assert all(text in line for text in (entry.title, entry.target, entry.cost, entry.source))


def test_the_list_is_the_same_as_text_and_as_a_result():
    """One table, two forms."""
    rows, text = list_of_samplers()
    assert len(rows["samplers"]) == len(text.splitlines()) - 1 == len(CATALOGUE)


# ---------------------------------------------------------------------------------------------------------------- lists


def test_lists_of_values_make_every_combination_in_the_order_written():
    """The last flag given varies fastest; a flag left out is not in any; blanks are not part of a value."""
    got = combinations(NOTHING | {"beta": "1, 3", "sampler": "kla", "seed": "0,1"})
    assert got == [{"beta": b, "sampler": "kla", "seed": s} for b in ("1", "3") for s in ("0", "1")]
    assert combinations(NOTHING) == [{}]


@pytest.mark.parametrize("name", ["beta", "friction", "sampler", "step_size", "n_steps", "seed"])
def test_a_list_may_be_given_for(name):
    """What differs between sets of a sweep."""
    assert [one[name] for one in combinations({name: "a,b"})] == ["a", "b"]


@pytest.mark.parametrize(
    ("flags", "comparing", "sentence"),
    [
        ({"mode": "refine,sample"}, False, "--mode: got 'refine,sample', expected one value"),
        ({"batch_size": "1,2"}, False, "--batch-size: got '1,2', expected one value"),
        ({"n_samples": "1,"}, False, "--n-samples: got '1,', expected one value"),
        ({"beta": "1,"}, False, "--beta: got '1,', expected different values with commas between them"),
        ({"beta": ""}, False, "--beta: got '', expected different values"),
        ({"step_size": "1,2, 1"}, False, "--step-size: got '1,2, 1', expected different values"),
        ({"sampler": "kla,kla"}, True, "--compare: got 'kla,kla', expected different values"),
    ],
)
def test_a_list_with_an_empty_or_repeated_value_is_refused(flags, comparing, sentence):
    """The message names the option as it was typed."""
    with pytest.raises(UsageError, match="^--") as raised:
        combinations(flags, comparing)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("one", "every", "label"),
    [
        (
            {"beta": "1", "friction": "low"},
            [{"beta": "1", "friction": "low"}, {"beta": "3", "friction": "low"}],
            "beta 1",
        ),
        ({"sampler": "kla", "seed": "0"}, [{"sampler": "kla", "seed": "0"}, {"sampler": "pt", "seed": "0"}], "kla"),
        ({"beta": "1", "seed": "0"}, [{"beta": "1", "seed": "0"}, {"beta": "1", "seed": "1"}], "samples"),
        (
            {"sampler": "kla", "n_steps": "5"},
            [{"sampler": "kla", "n_steps": "5"}, {"sampler": "pt", "n_steps": "9"}],
            "kla, n steps 5",
        ),
    ],
)
def test_a_label_is_what_differs_but_not_the_seed(one, every, label):
    """Over seeds curves are averaged."""
    assert sweep_label(one, every) == label


@pytest.mark.parametrize(
    ("sampler", "given", "refused"),
    [
        ("kla", ["friction", "step_size", "beta", "n_steps"], None),
        ("ghmc", ["friction"], None),
        ("mala", ["friction"], "--friction: has no meaning for the sampler 'mala'; leave it out"),
        ("isir", ["step_size"], "--step-size: has no meaning for the sampler 'isir'"),
        ("none", ["beta"], "--beta: has no meaning for the sampler 'none'"),
        ("none", ["n_steps"], "--n-steps: has no meaning"),
        ("none", ["mode"], "--mode: has no meaning"),
        ("none", ["seed", "n_samples"], None),
    ],
)
def test_an_option_that_a_sampler_does_not_have_is_refused(sampler, given, refused):
    """A comparison may mix samplers that have it with others, but not compare the base with itself."""
    values = dict.fromkeys(given, "1")
    if refused is None:
        refuse_unused(sampler, values, False)
        return
    with pytest.raises(UsageError) as raised:
        refuse_unused(sampler, values, False)
    assert refused in str(raised.value)
    if sampler != "none":
        refuse_unused(sampler, values, True)
    else:
        with pytest.raises(UsageError, match="--compare: the base is on every plot already"):
            refuse_unused(sampler, values, True)


# --------------------------------------------------------------------------------------------------------------- output


def result(name: str, **more) -> dict:
    return {"set": name, "sampler": "kla", "beta": 1.5, "friction": None, "seed": 5, "h": 0.41234567, **more}


def test_the_table_has_the_columns_that_have_a_value():
    """Four digits; no column of nothing; without tracked scores no line for the base."""
    head, *rows = sweep_table([result("kla-001"), result("kla-002", acceptance=1.0)]).splitlines()
    assert head.split() == ["set", "sampler", "beta", "seed", "h", "accepted"]
    assert [row.split() for row in rows] == [
        ["kla-001", "kla", "1.5", "5", "0.4123"],
        ["kla-002", "kla", "1.5", "5", "0.4123", "1"],
    ]


def test_the_table_ends_in_scores_and_begins_with_the_base():
    """The base's scores are the first point's, a set's the last point's, with their standard errors."""
    scores = [{"gradients": 0.0, "kid": 0.5, "kid_standard_error": 0.01}, {"gradients": 8.0, "kid": 0.25}]
    head, base, row, plain = sweep_table([result("a", track={"scores": scores}), result("b")]).splitlines()
    assert head.split()[-2:] == ["gradients", "KID"] and base.split() == ["base", "0", "0.5", "+-", "0.01"]
    assert row.split()[-2:] == ["8", "0.25"] and plain.split()[0] == "b"


def test_what_was_drawn_is_told_in_a_few_lines():
    """The settings in one unit, what happened, the bias and the verdict last."""
    heading = {"sampler": "kla", "n_samples": 40, "run": "digits-001", "n_steps": 9, "seed": 5, "out": "x"}
    found = {"acceptance": 0.9, "correlation_with_start": 0.1, "nonfinite_steps": 3, "stuck_chains": 1}
    told = (
        heading
        | found
        | {
            "beta": 2.5,
            "beta_standard_error": 0.125,
            "h": 0.5,
            "epsilon": 0.125,
            "friction": 2.0,
            "damping": 0.367879,
            "total_time": 2.4345,
            "mean_exp_log_ratio": {"value": 1.01, "standard_error": 0.02},
            "verdict": "mixed: so it is",
            "bias_of_step": {
                "E": {"value": 0.04, "standard_error": 0.01},
                "|z|": {"value": None, "standard_error": None},
            },
        }
    )
    first, *_, last = lines = describe_sampler(told).splitlines()
    assert first.startswith(
        "40 samples of digits-001 by 9 steps of kla (beta 2.5 +- 0.12, calibrated; h 0.5 = epsilon 0.125; "
    )
    assert "friction 2, C 0.368; total time 2.43), seed 5: x" in first and last == "mixed: so it is"
    text = "\n".join(lines)
    assert (
        "3 steps met a non-finite energy (1 chains at the end)" in text and "mean exp(log ratio) 1.01 +- 0.02" in text
    )
    assert "E +0.04 +- 0.01" in text and "|z|" not in text
