"""What is said of a log Z that rests on few base samples: where KL is known, where it is and where it is not to be trusted."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gebm_cli.core.mmd import Estimate
from gebm_cli.core.objectives.kale import LogMeanExp, log_mean_exp
from gebm_cli.experiment.doubts import HEAVY, SHARE, doubts, most_certified, told_log_partition
from gebm_cli.experiment.run import open_run
from gebm_cli.experiment.training_scores import kale_of

N = 20_000


def closing(log_z: LogMeanExp, kale: float, **more: float) -> dict[str, float]:
    return {
        "log_partition_estimate": log_z.value,
        "log_partition_standard_error": log_z.standard_error,
        "ess": log_z.effective_sample_size,
        SHARE: log_z.heaviest,
        "n_log_partition": log_z.n,
        "kale_held_out": kale,
        **more,
    }


def shifted(kl: float, repeats: int, n: int = N) -> list[tuple[LogMeanExp, Estimate]]:
    """Log Z and KALE of the exact energy -d x between N(d, 1) and N(0, 1), KL = d^2 / 2, of fresh samples each time."""
    d, draws = math.sqrt(2 * kl), torch.Generator().manual_seed(0)
    normals = torch.randn(repeats, 2, n, generator=draws, dtype=torch.float64)
    log_zs = [log_mean_exp([d * base]) for base, _ in normals]
    return [(z, kale_of(-d * (d + data), z)) for z, (_, data) in zip(log_zs, normals, strict=True)]


def test_where_the_weights_are_tame_nothing_is_said_and_the_errors_hold():
    """KL = .25: over 100 repeats KALE has z-scores of mean 0 and variance 1."""
    found = shifted(0.25, 100)
    assert [doubts(closing(z, kale.value)) for z, kale in found] == [[]] * 100
    scores = torch.tensor([(kale.value - 0.25) / kale.standard_error for _, kale in found])
    mean, variance = scores.mean().item() * 10, (scores.var().item() - 1) / math.sqrt(2 / 99)
    assert abs(mean) < 4 and abs(variance) < 4, f"z of the mean {mean:.2f}, of the variance {variance:.2f}"


def test_where_the_weights_have_collapsed_kale_is_above_kl_and_that_is_said():
    """KL = 12.5: of 20 repeats the mean z-score of KALE is above 2, and each is warned of, in KALE and, where there is one, NLL."""
    found = shifted(12.5, 20)
    scores = [(kale.value - 12.5) / kale.standard_error for _, kale in found]
    assert sum(scores) / 20 > 2, scores
    for z, kale in found:
        (told,) = doubts(closing(z, kale.value))
        assert told.startswith("log Z is probably too small, so that KALE looks too good") and z.heaviest > HEAVY
        assert (
            f"(ESS {z.effective_sample_size:,.0f})" in told and "penalty_weight, noise_std or n_log_partition" in told
        )
        with_nll = closing(z, kale.value, nll_held_out=1.0)
        assert "KALE and NLL look too good" in doubts(with_nll)[0]
        assert "KALE looks too good" in doubts(with_nll, exact_nll=True)[0]


def test_what_no_base_sample_has_met_is_doubted_though_all_weights_are_equal():
    """-E = a on a region of base mass q = 1 / n where all data lie, and 0 elsewhere: KL = log n, KALE at most that whatever a is.

    Where the n base samples miss the region log Z is 0 without error, and KALE is told as a.
    """
    missed = log_mean_exp([torch.zeros(N)])
    for a in (11.0, 20.0):
        true = a - math.log1p(math.expm1(a) / N)
        assert true < math.log(N) < 10 < kale_of(torch.full((9,), -a), missed).value == a
        (told,) = doubts(closing(missed, a))
        assert told.startswith("log Z may be too small") and f"KALE {a:.3g} is above log(n / 3) = 8.8" in told
        assert "squared weights" not in told
    assert doubts(closing(missed, most_certified(N) - 0.01)) == []
    assert doubts(closing(missed, -1.0, kale_train=20.0)) != [], "any split counts"


@pytest.mark.parametrize("n", [100, 50_000])
def test_a_region_as_heavy_as_what_is_certified_is_missed_in_one_set_of_twenty(n):
    q = math.exp(-most_certified(n))
    assert (1 - q) ** n == pytest.approx(0.05, abs=0.003)


def test_an_older_record_is_judged_by_the_least_share_that_its_ess_allows():
    """max w^2 / sum w^2 >= 1 / ESS; what is no number, or absent, says nothing."""
    figures = closing(log_mean_exp([torch.zeros(N)]), 1.0)
    del figures[SHARE]
    assert doubts(figures) == [] and doubts(figures | {"ess": 4.0}) != []
    assert doubts(figures | {"ess": "5", "kale_held_out": None}) == doubts({}) == doubts({"loss": 1.0}) == []
    assert doubts(figures | {"kale_held_out": math.nan}) == []


def test_a_learned_constant_far_from_its_estimate_is_told():
    """By more than a nat and five errors."""
    figures = closing(LogMeanExp(2.0, 0.3, N, 5000.0, 0.01), 1.0)
    assert doubts(figures | {"log_partition_learned": 3.4}) == []
    (told,) = doubts(figures | {"log_partition_learned": 3.6})
    assert told.startswith("the learned c, 3.6, is far from its estimate")


def test_the_effective_sample_size_stands_beside_log_z():
    figures = closing(LogMeanExp(1.23456, 0.0123, 50_000, 20_999.6, 0.01), 1.0)
    assert told_log_partition(figures) == "log-partition 1.235 +- 0.012 (ESS 21,000, 42 % of 50,000)"


TEXT = """\
name: x
data: {kind: toy, name: thin-manifold, n: 200, noise_std: 0}
latent_dim: 2
base: {kind: circle}
energy: {kind: mlp, width: 8, depth: 1}
train_energy: {steps: 4, batch_size: 20, n_log_partition: 500}
"""


def test_train_energy_warns_on_stderr_and_in_json(gebm, tmp_path):
    """Of four base samples the heaviest is a quarter at least; of 500 with a hardly trained energy none is heavy."""
    (tmp_path / "x.yaml").write_text(TEXT)
    good = gebm("train-energy", "x.yaml", "--seed", 0, "--device", "cpu")
    assert good.code == 0 and "(ESS " in good.out and "% of 500)" in good.out and "too small" not in good.err
    bad = gebm("train-energy", "x.yaml", "train_energy.n_log_partition=4", "--seed", 0, "--device", "cpu", "--json")
    result = json.loads(bad.out)
    assert "gebm: warning: log Z is probably too small" in bad.err and result[SHARE] >= 0.25
    assert result["warnings"] == doubts(result) != []
    (entry,) = [
        s for s in open_run(tmp_path / "runs" / result["run"]).record()["stages"] if s["stage"] == "train-energy"
    ]
    assert entry["figures"][SHARE] == pytest.approx(result[SHARE], rel=1e-5)
