"""Sample sets side by side: curves averaged over seeds, their record and plot."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from gebm_cli.experiment.comparing import curves, keep_comparison


def point(step: int, **scores: float) -> dict:
    """A tracked point as tracking writes it."""
    return {"step": step, "gradients": 2.0 * step, "seconds": 0.1 * step, "n": 40, **scores}


def drawn(label: str, *points: dict) -> dict:
    return {"set": "x-001", "label": label, "track": {"scores": list(points)}}


def test_curves_are_averaged_over_the_sets_that_share_a_label():
    """Three seeds: the mean, and the standard error between seeds in place of each score's own."""
    kids = np.array([[1.0, 0.5], [1.3, 0.2], [0.9, 0.8]])
    own = {"kid_standard_error": 0.7}
    results = [drawn("kla", point(0, kid=a, **own), point(4, kid=b, **own)) for a, b in kids]
    got = curves([*results[:1], drawn("mala", point(0, kid=9.0, **own), point(4, kid=8.0, **own)), *results[1:]])
    assert list(got) == ["kla", "mala"]
    mean, error = kids.mean(0), kids.std(0, ddof=1) / math.sqrt(3)
    assert [p["kid"] for p in got["kla"]] == pytest.approx(mean)
    assert [p["kid_standard_error"] for p in got["kla"]] == pytest.approx(error)
    assert [(p["step"], p["gradients"], p["n_seeds"], p["n"]) for p in got["kla"]] == [(0, 0.0, 3, 40), (4, 8.0, 3, 40)]
    assert [p["kid"] for p in got["mala"]] == [9.0, 8.0]
    assert [p["kid_standard_error"] for p in got["mala"]] == [0.7, 0.7], "of one seed the score's own error is kept"


def test_a_metric_that_one_seed_lacks_is_left_out():
    """No mean over some of the seeds; a score without an error of its own has none when there is one seed."""
    got = curves([drawn("a", point(0, kid=1.0, fid=3.0)), drawn("a", point(0, kid=2.0))])["a"][0]
    assert got["kid"] == 1.5 and "fid" not in got and "fid_standard_error" not in got
    alone = curves([drawn("a", point(0, recall=0.5))])["a"][0]
    assert alone["recall"] == 0.5 and "recall_standard_error" not in alone


def test_seconds_are_averaged_too():
    """Cost in seconds differs between seeds, cost in gradients does not."""
    slow, fast = point(4, kid=1.0) | {"seconds": 3.0}, point(4, kid=1.0) | {"seconds": 1.0}
    assert curves([drawn("a", slow), drawn("a", fast)])["a"][0]["seconds"] == 2.0


@pytest.mark.parametrize("tracked", [True, False])
def test_a_comparison_is_kept_with_a_plot_where_scores_were_tracked(tmp_path, tracked):
    """Numbered, so that nothing is overwritten; without tracked scores there is no plot and no curve."""
    run = SimpleNamespace(path=tmp_path)
    results = [drawn("kla", point(0, kid=1.0), point(4, kid=0.5))] if tracked else [{"set": "kla-001", "label": "kla"}]
    for number in (1, 2):
        files = keep_comparison(run, results, "compare")
        path = tmp_path / f"evaluation/compare-00{number}.yaml"
        assert files == [str(path), *([str(path.with_suffix(".png"))] if tracked else [])]
        kept = yaml.safe_load(path.read_text())
        assert kept["metric"] == "compare" and kept["sets"] == results and list(kept["curves"]) == ["kla"] * tracked
        if tracked:
            assert Image.open(files[1]).width > 400
