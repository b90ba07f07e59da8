"""The mean difference of features against a loop over relabelings, Hotelling's T^2 and the chi^2 threshold it replaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2

from gebm_cli.core.two_sample.feature_means import MeanDifference, separation, whitened
from gebm_cli.core.two_sample.p_values import relabelling_test
from gebm_cli.core.two_sample.relabelling import Permutations


def _normal(rows, width, generator):
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


def _loop(features, labels):
    """T of each column of 0/1 labels, from numpy's mean, covariance and solve."""
    covariance = np.cov(features.T, bias=True).reshape(features.shape[1], -1)
    means = [features[column == 1].mean(0) - features[column == 0].mean(0) for column in labels.T]
    return np.array([d @ np.linalg.solve(covariance, d) for d in means])


def _hotelling(x, y):
    """Hotelling's two-sample T^2 from numpy's within-sample covariances."""
    n, m = len(x), len(y)
    within = ((n - 1) * np.cov(x.T) + (m - 1) * np.cov(y.T)) / (n + m - 2)
    d = x.mean(0) - y.mean(0)
    return n * m / (n + m) * d @ np.linalg.solve(np.atleast_2d(within), np.atleast_1d(d))


@pytest.mark.parametrize("sizes", [(20, 20), (31, 12), (5, 40)])
@pytest.mark.parametrize("width", [1, 3])
def test_all_relabelings_are_a_loop(sizes, width, generator):
    """T of 50 relabelings in one product is numpy's, one at a time, to 1e-10 of its size (the ridge is 1e-8 of it)."""
    features = _normal(sum(sizes), width, generator) @ torch.diag(torch.tensor([1e-3, 1.0, 1e3])[:width].double()) + 5.0
    labels = Permutations(*sizes).draw(50, generator)
    expected = _loop(features.numpy(), labels.numpy())
    ours = MeanDifference(features, sizes[0])(labels).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-7)
    no_ridge = (whitened(features, 0.0).T @ labels.double()) * (1 / sizes[0] + 1 / sizes[1])
    np.testing.assert_allclose(no_ridge.square().sum(0).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sizes", [(25, 25), (30, 12)])
def test_t_is_hotellings_t2(sizes, generator):
    """T^2 = (N - 2) q / (1 - q), q = T n m / N^2, for the observed and for each relabelled split."""
    n, total = sizes[0], sum(sizes)
    features = _normal(total, 4, generator)
    labels = Permutations(*sizes).draw(30, generator)
    q = MeanDifference(features, n)(labels).numpy() * n * sizes[1] / total**2
    columns, rows = labels.numpy().T, features.numpy()
    expected = [_hotelling(rows[c == 1], rows[c == 0]) for c in columns]
    np.testing.assert_allclose((total - 2) * q / (1 - q), expected, rtol=1e-6)


def test_one_sided_is_the_signed_root(generator):
    """With one feature, d / s squared is T, its sign is that of mean over x - mean over y."""
    features = _normal(30, 1, generator)
    labels = Permutations(18, 12).draw(40, generator)
    signed, both = (MeanDifference(features, 18, one)(labels) for one in (True, False))
    torch.testing.assert_close(signed.square(), both)
    difference = [(features[c == 1].mean() - features[c == 0].mean()).item() for c in labels.T]
    assert np.array_equal(np.sign(signed.numpy()), np.sign(difference))


def test_units_and_offsets_do_not_matter(generator):
    """Features in other units, about another origin, give the same T."""
    features, labels = _normal(40, 3, generator), Permutations(25, 15).draw(20, generator)
    other = features * torch.tensor([1e-9, 1.0, 1e9]) + torch.tensor([1e-6, 3.0, -1e10])
    torch.testing.assert_close(
        MeanDifference(other, 25)(labels), MeanDifference(features, 25)(labels), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("one_sided", [False, True])
def test_constant_features_give_p_one(one_sided, generator):
    """Where no feature varies, every relabelling ties and p = 1."""
    features = torch.full((20, 1), 0.1)
    assert relabelling_test(MeanDifference(features, 8, one_sided), Permutations(8, 12), 99, generator).p_value == 1.0


def test_constant_and_equal_columns_change_nothing(generator):
    """A constant column adds nothing to T, and a column given twice counts once."""
    features, labels = _normal(30, 2, generator), Permutations(14, 16).draw(20, generator)
    more = torch.cat([features, torch.full((30, 1), 0.1), features[:, :1]], 1)
    torch.testing.assert_close(
        MeanDifference(more, 14)(labels), MeanDifference(features, 14)(labels), rtol=1e-6, atol=0
    )


def test_ties_of_a_binary_feature_count(generator):
    """With a 0/1 feature p is (1 + #{ones in x >= observed}) / (1 + B), counted in integers."""
    feature = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0])[:, None]
    labels = Permutations(6, 5).draw(500, torch.Generator().manual_seed(4))
    ones = (labels.T @ feature)[:, 0]
    expected = (1 + int((ones[1:] >= ones[0]).sum())) / 501
    statistic = MeanDifference(feature, 6, one_sided=True)
    test = relabelling_test(statistic, Permutations(6, 5), 500, torch.Generator().manual_seed(4))
    assert test.p_value == expected


def test_separation_is_the_observed_value(generator):
    """What is maximised in training is the T that is tested, for one set of features and for a stack of them."""
    features = _normal(24, 6, generator)
    stack = torch.stack([features[:, :3], features[:, 3:]])
    observed = [MeanDifference(part, 10)(Permutations(10, 14).draw(0, generator)).item() for part in stack]
    assert separation(stack, 10).tolist() == pytest.approx(observed, rel=1e-12)


def test_level_against_chi2():
    """At n = 14, m = 10 and J = 5 on skewed features, permutations keep level .05 in 400 tests; lambda_n > chi^2_J does not."""
    generator = torch.Generator().manual_seed(7)
    permuted = asymptotic = 0
    for _ in range(400):
        features = _normal(24, 5, generator).exp()
        p = relabelling_test(MeanDifference(features, 14), Permutations(14, 10), 99, generator).p_value
        permuted += p <= 0.05
        asymptotic += _hotelling(features[:14].numpy(), features[14:].numpy()) > chi2.ppf(0.95, 5)
    low, high = binom.interval(0.99, 400, 0.05)
    assert low <= permuted <= high, f"{permuted} of 400 rejected, expected {low:.0f} to {high:.0f}"
    assert asymptotic > high, f"chi^2 rejected {asymptotic} of 400, expected more than {high:.0f}"


@pytest.mark.parametrize(
    ("features", "n", "one_sided", "match"),
    [
        (torch.zeros(5, 1), 5, False, "both samples"),
        (torch.zeros(5, 1), 0, False, "both samples"),
        (torch.zeros(5, 2), 2, True, "takes 1 feature"),
        (torch.tensor([[0.0], [float("nan")]]), 1, False, "not finite"),
    ],
)
def test_what_it_refuses(features, n, one_sided, match):
    """An empty side, two features in a one-sided test and features that are not finite."""
    with pytest.raises(ValueError, match=match):
        MeanDifference(features, n, one_sided)
