"""Intervals from resampling people: against scikit-learn and SciPy, plain loops, and the truth of simulated cohorts."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from heartnet.resampling import Interval, auroc, by_label, explained, interval, intervals, mean


def ones(count: int) -> np.ndarray:
    return np.ones((count, 1))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_weighted_auroc_against_scikit_learn(rows: list[tuple[int, int, int]]) -> None:
    value, score, weight = np.array(rows, dtype=float).T
    found = auroc(score, value)(weight[:, None])[0]
    drawn = weight > 0
    if len(np.unique(value[drawn])) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(value[drawn], score[drawn], sample_weight=weight[drawn]))


def test_weighted_scores_of_synthetic_targets_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    value, score = 500 + rng.normal(size=50), 500 + rng.normal(size=50)
    weights = rng.integers(0, 4, (50, 3)).astype(float)
    for i in range(3):
        expected = r2_score(value, score, sample_weight=weights[:, i])
        assert explained(score, value)(weights)[i] == pytest.approx(expected)
        assert mean(value - score)(weights)[i] == pytest.approx(np.average(value - score, weights=weights[:, i]))
    assert np.isnan(explained(score, np.full(50, 3.0))(weights)).all()


def cohort(seed: int, users: int, weeks: int, share: float = 0.3, shift: float = 1.2) -> tuple[Any, ...]:
    """Return whose week each is, a condition of people, and two scores, normal between people and within."""
    rng = np.random.default_rng(seed)
    has = rng.random(users) < share
    user = np.repeat(np.arange(users), weeks)
    own = rng.normal(size=(2, users)) + shift * has
    return user, has[user].astype(float), *(own[:, user] + rng.normal(0, 0.5, (2, users * weeks)))


SIZE = math.sqrt(1.25)  # of a score within a class
TRUTH = float(scipy.stats.norm.cdf(1.2 / SIZE / math.sqrt(2)))


def test_draws_are_of_people_within_strata_and_the_same_for_all_scores() -> None:
    user, value, one, other = cohort(1, 12, 3)
    seen: list[np.ndarray] = []

    def look(weights: np.ndarray) -> np.ndarray:
        seen.append(weights)
        first, second = auroc(one, value)(weights), auroc(other, value)(weights)
        return np.stack([first, second, first - second])

    found = intervals(look, user, by_label(user, value), draws=50)
    drawn = np.concatenate([each for each in seen if each.shape[1] > 12], axis=1)
    assert drawn.shape == (36, 50)
    for person in range(12):
        assert (np.ptp(drawn[user == person], axis=0) == 0).all()  # all weeks of a person are drawn together
    having = np.array([drawn[(user == person)][0] for person in range(12) if value[user == person][0]])
    assert (having.sum(axis=0) == len(having)).all()
    # A naive loop: repeat each week as often as its user was drawn.
    for i in range(5):
        rows = np.repeat(np.arange(36), drawn[:, i].astype(int))
        expected = [roc_auc_score(value[rows], score[rows]) for score in (one, other)]
        np.testing.assert_allclose(look(drawn[:, i : i + 1])[:2, 0], expected)
    assert found[2].value == pytest.approx(found[0].value - found[1].value)
    assert interval(auroc(one, value), user, by_label(user, value), draws=50) == found[0]


def test_interval_against_scipy() -> None:
    rng = np.random.default_rng(0)
    each = rng.exponential(size=40)
    found = interval(mean(each), np.arange(40), draws=20_000)
    expected = scipy.stats.bootstrap((each,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert found.value == pytest.approx(each.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.02)
    assert found.high - found.value > 1.2 * (found.value - found.low)  # as skewed as it is


def test_groups_left_out_correct_as_single_users_do(monkeypatch: pytest.MonkeyPatch) -> None:
    each = np.random.default_rng(2).exponential(size=600)
    users = np.arange(600)
    grouped = interval(mean(each), users, draws=5000)
    monkeypatch.setattr("heartnet.resampling._GROUPS", 600)
    single = interval(mean(each), users, draws=5000)
    assert (grouped.low, grouped.high) == pytest.approx((single.low, single.high), abs=0.01)


@pytest.mark.parametrize("weeks", [1, 4])
def test_intervals_hold_the_truth(weeks: int) -> None:
    inside = np.zeros(3)
    cohorts = 250
    for seed in range(cohorts):
        user, value, one, other = cohort(seed, 60, weeks)

        def scores(weights: np.ndarray, one: Any = one, other: Any = other, value: Any = value) -> np.ndarray:
            first, second = auroc(one, value)(weights), auroc(other, value)(weights)
            return np.stack([first, second, first - second])

        strata = by_label(user, value)
        first, _, gap = intervals(scores, user, strata, draws=600, seed=seed)
        week = interval(auroc(one, value), np.arange(len(user)), value, draws=600, seed=seed)
        inside += [held(first, TRUTH), held(gap, 0.0), held(week, TRUTH)]
    share = inside / cohorts
    assert (share[:2] >= 0.90).all(), share
    assert (share[:2] <= 0.98).all(), share
    assert weeks == 1 or share[2] < 0.80, "weeks as if each were another person"


def held(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


def test_what_has_no_interval() -> None:
    one = interval(mean(np.array([1.0, 3.0])), np.array(["a", "a"]))
    assert one.value == 2
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    same_class = interval(auroc(np.arange(4.0), np.ones(4)), np.arange(4))
    assert all(map(math.isnan, (same_class.value, same_class.low, same_class.high)))
    perfect = interval(auroc(np.arange(20.0), (np.arange(20) > 9).astype(float)), np.arange(20))
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)


def test_ten_thousand_weeks_take_about_a_second() -> None:
    user, value, one, _ = cohort(0, 2500, 4)
    begin = time.process_time()
    found = interval(auroc(one, value), user, by_label(user, value))
    assert time.process_time() - begin < 2  # 0.4 s on an idle core
    assert held(found, TRUTH)
    assert found.high - found.low < 0.05
