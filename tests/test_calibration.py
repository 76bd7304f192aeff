"""Calibration against scikit-learn, naive loops, exact identities, and simulated cohorts whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from heartnet.diagnostics.calibration import (
    bin_means,
    debiased_error,
    decomposition,
    equal_mass_bins,
    offset,
    slope,
)
from heartnet.diagnostics.score_quality import quality


def cohort(
    seed: int, users: int, each: int = 1, temperature: float = 1.0, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulate scores, labels and users: calibrated, but for a factor on the logits and a shift of them."""
    rng = np.random.default_rng(seed)
    logit = -1 + 1.2 * rng.normal(size=users)
    value = (rng.random(users) < 1 / (1 + np.exp(-logit))).astype(float)
    user = np.repeat(np.arange(users), each)
    return 1 / (1 + np.exp(-(temperature * logit + shift)))[user], value[user], user


def once(count: int) -> np.ndarray:
    return np.ones((count, 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 40), st.integers(1, 12))
def test_bins_hold_equally_many_weeks_and_equal_scores_together(seed: int, weeks: int, ties: int, most: int) -> None:
    score = np.random.default_rng(seed).integers(0, ties, weeks) / ties
    bins = equal_mass_bins(score, most)
    assert set(bins) == set(range(bins.max() + 1))
    assert bins.max() < most
    order = np.argsort(score, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    assert (np.diff(bins[order])[np.diff(score[order]) == 0] == 0).all()
    if len(set(score)) == weeks:
        count = np.bincount(bins)
        assert count.max() - count.min() <= 1


def test_bins_and_means_are_those_of_scikit_learn() -> None:
    score, value, _ = cohort(0, 400)
    bins = equal_mass_bins(score, 10)
    share, predicted = calibration_curve(value, score, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(bin_means(value, bins)(once(400))[:, 0], share)
    np.testing.assert_allclose(bin_means(score, bins)(once(400))[:, 0], predicted)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 4))
def test_the_parts_add_up_and_are_those_of_a_loop(seed: int, users: int, each: int) -> None:
    score, value, user = cohort(seed, users, each, temperature=1.7)
    bins = equal_mass_bins(score, 5)
    found = decomposition(score, value, user, bins)
    assert found.brier == pytest.approx(brier_score_loss(value, score))
    total = found.reliability - found.resolution + found.uncertainty + found.within
    assert total == pytest.approx(found.brier)
    reliability = resolution = ece = within = luck = 0.0
    for number in range(bins.max() + 1):
        s, v, u = score[bins == number], value[bins == number], user[bins == number]
        share = len(s) / len(score)
        reliability += share * (s.mean() - v.mean()) ** 2
        resolution += share * (v.mean() - value.mean()) ** 2
        ece += share * abs(s.mean() - v.mean())
        # Stephenson et al.: variance of the scores within the bin, less twice their covariance with the labels.
        within += share * (s.var() - 2 * ((s - s.mean()) * (v - v.mean())).mean())
        people = np.unique(u)
        mean = (s - v).mean()
        away = [(s[u == one] - v[u == one] - mean).sum() for one in people]
        if len(people) > 1:
            luck += share * sum(a**2 for a in away) / len(s) ** 2 * len(people) / (len(people) - 1)
    assert found.reliability == pytest.approx(reliability, abs=1e-12)
    assert found.resolution == pytest.approx(resolution, abs=1e-12)
    assert found.ece == pytest.approx(ece, abs=1e-12)
    assert found.within == pytest.approx(within, abs=1e-12)
    assert found.debiased == pytest.approx(reliability - luck, abs=1e-12)
    assert debiased_error(score, value, user, bins)(once(len(score)))[0] == pytest.approx(found.debiased, abs=1e-12)


def test_with_equal_scores_in_a_bin_it_is_the_estimator_of_kumar_liang_and_ma() -> None:
    rng = np.random.default_rng(0)
    score = rng.choice([0.2, 0.5, 0.9], 90)
    value = (rng.random(90) < score).astype(float)
    bins = np.searchsorted([0.2, 0.5, 0.9], score)
    expected = 0.0
    for number in range(3):
        v = value[bins == number]
        expected += (
            len(v) / 90 * ((v.mean() - score[bins == number][0]) ** 2 - v.mean() * (1 - v.mean()) / (len(v) - 1))
        )
    assert decomposition(score, value, np.arange(90), bins).debiased == pytest.approx(expected)


def test_a_draw_is_the_same_as_repeating_people() -> None:
    """Of people drawn twice each week counts twice, as of two people."""
    score, value, user = cohort(1, 20, 3)
    bins = equal_mass_bins(score, 4)
    often = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20))
    weights = often[user].astype(float)
    rows = np.concatenate([np.flatnonzero(user == one) for one, count in enumerate(often) for _ in range(count)])
    clone = np.repeat(np.arange(20), 3)
    shuffled = np.random.default_rng(1).permutation(60)
    expected = decomposition(score[rows], value[rows], clone, bins[rows]).debiased
    assert debiased_error(score, value, user, bins)(weights[:, None])[0] == pytest.approx(expected)
    mixed = debiased_error(score[shuffled], value[shuffled], user[shuffled], bins[shuffled])
    assert mixed(weights[shuffled][:, None])[0] == pytest.approx(expected)


@pytest.mark.parametrize("each", [1, 3])
def test_calibrated_scores_have_an_error_of_luck_alone(each: int) -> None:
    found = []
    for seed in range(200):
        score, value, user = cohort(seed, 80, each)
        found.append(decomposition(score, value, user, equal_mass_bins(score)))
    debiased = np.array([each.debiased for each in found])
    assert abs(debiased.mean()) < 3 * debiased.std() / math.sqrt(200)
    assert np.mean([each.reliability for each in found]) > 0.01, "what is not debiased is far from 0"
    ece, luck = (np.mean([getattr(each, name) for each in found]) for name in ("ece", "ece_of_luck"))
    assert luck == pytest.approx(ece, rel=0.2)
    assert ece > 0.08


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_slope_is_that_of_a_logistic_regression(temperature: float) -> None:
    score, value, _ = cohort(2, 300, temperature=temperature, shift=0.7)
    logit = np.log(score / (1 - score))
    weights = np.random.default_rng(0).integers(0, 3, (300, 3)).astype(float)
    found = slope(logit, value)(weights)
    for draw in range(3):
        model = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(
            logit[:, None] * temperature, value, sample_weight=weights[:, draw]
        )
        assert found[draw] == pytest.approx(model.coef_[0, 0] * temperature, rel=1e-4)


def test_without_a_solution_there_is_no_slope() -> None:
    value = np.array([0.0, 0.0, 1.0, 1.0])
    apart = np.array([-2.0, -1.0, 1.0, 2.0])
    assert math.isnan(slope(apart, value)(once(4))[0])
    assert math.isnan(slope(np.ones(4), value)(once(4))[0])
    assert math.isnan(slope(apart, np.zeros(4))(once(4))[0])
    mixed = slope(np.array([-2.0, 1.0, -1.0, 2.0]), value)(once(4))[0]
    assert mixed > 0


def test_offset() -> None:
    score, value, _ = cohort(3, 50)
    assert offset(score, value)(once(50))[0] == pytest.approx(score.mean() - value.mean())


@pytest.mark.parametrize(("users", "each"), [(60, 1), (100, 3)])
def test_intervals_hold_the_truth(users: int, each: int) -> None:
    """Of 40 cohorts twice overconfident: slope 0.5, and the calibration error that a large cohort has."""
    large = cohort(99, 200_000, temperature=2)
    error = math.sqrt(decomposition(*large, equal_mass_bins(large[0])).debiased)
    held = np.zeros(3)
    brier = brier_score_loss(large[1], large[0])
    for seed in range(40):
        it = quality("it", *cohort(seed, users, each, temperature=2), draws=200).calibration
        assert it is not None
        held += [
            each.low <= true <= each.high for each, true in ((it.slope, 0.5), (it.error, error), (it.brier, brier))
        ]
    assert (held >= 34).all()
