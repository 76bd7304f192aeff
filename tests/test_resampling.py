"""Intervals from resampling people: against scikit-learn and SciPy, plain loops, and the truth of simulated cohorts."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from heartnet import resampling
from heartnet.diagnostics.reliance import relations
from heartnet.resampling import (
    Interval,
    auroc,
    by_label,
    explained,
    interval,
    intervals,
    mean,
    merged_intervals,
    sum_intervals,
)

Floats = npt.NDArray[np.float64]


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


def many(people: int, weeks: int, seed: int = 0) -> tuple[Floats, Floats, Floats, Floats]:
    """Return two scores that go with one another, labels of people and whose week it is, ties among them."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(people), weeks)
    known = rng.normal(size=people)
    score = known[users] + rng.normal(size=people)[users] + rng.normal(size=len(users))
    value = (rng.random(people) < 1 / (1 + np.exp(-known)))[users].astype(float)
    return np.round(score, 3), np.round(known[users], 3), value, users


@pytest.mark.parametrize("labels", [True, False])
def test_merged_weeks_have_the_intervals_of_all_weeks(labels: bool) -> None:
    score, other, value, users = many(1300, 4)
    arrays = (score, other, value) if labels else (score, other, score + value)
    strata = by_label(users, value) if labels else None
    slow = intervals(relations(*arrays), users, strata, draws=1000, seed=1)
    fast = merged_intervals(relations, arrays, users, strata, draws=1000, seed=2)
    for one, merged in zip(slow, fast, strict=True):
        width = one.high - one.low
        assert merged.value == one.value
        assert (merged.low, merged.high) == pytest.approx((one.low, one.high), abs=0.15 * width)  # the luck of draws


def test_merged_weeks_of_very_many_people_are_drawn_in_groups() -> None:
    """Against the standard error of a normal score's rank correlation with itself and noise, one week a person."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=60_000)
    other = 0.5 * one + np.sqrt(0.75) * rng.normal(size=60_000)
    users = np.arange(60_000)
    found = merged_intervals(lambda a, b: lambda w: relations(a, b, b)(w)[:1], (one, other), users, draws=400)
    parts = [scipy.stats.spearmanr(one[i::200], other[i::200])[0] for i in range(200)]
    expected = 2 * 1.96 * np.std(parts) / np.sqrt(200)
    assert found[0].value == pytest.approx(scipy.stats.spearmanr(one, other)[0], abs=1e-9)
    assert found[0].high - found[0].low == pytest.approx(expected, rel=0.15)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_merging_keeps_order_and_puts_alike_weeks_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=3000), rng.integers(0, 5, 3000).astype(float), rng.integers(0, 700, 3000).astype(float)]
    place, values = resampling._merged(arrays)
    assert len(values[0]) <= resampling._CELLS_KEPT
    assert len(set(zip(*(each.tolist() for each in values), strict=True))) == len(values[0])
    for array, merged in zip(arrays, values, strict=True):
        order = np.argsort(array, kind="stable")
        assert (np.diff(merged[place][order]) >= 0).all()
        assert len(np.unique(merged[place][array == array[0]])) == 1


def test_sums_have_the_intervals_of_weeks() -> None:
    score, _, value, users = many(60, 3)
    strata = by_label(users, value)
    slow = interval(mean(score), users, strata, draws=300)
    each = np.stack([score, np.ones(len(score))])
    [fast] = sum_intervals(lambda sums: (sums[0] / sums[1])[None], each, users, strata, draws=300)
    np.testing.assert_allclose([fast.value, fast.low, fast.high], [slow.value, slow.low, slow.high], rtol=1e-12)


@pytest.mark.parametrize(("count", "share"), [(100, 0.3), (90_000, 0.01)])
def test_units_are_users_or_equal_groups_of_one_stratum(count: int, share: float) -> None:
    rng = np.random.default_rng(0)
    strata = rng.random(count) < share
    users = np.arange(count)
    unit, of_units = resampling._units(users, strata, 0)
    assert (of_units[unit] == strata).all()
    sizes = np.bincount(unit)
    assert sizes.min() >= 1
    if count == 100:
        assert (sizes == 1).all()
    else:
        assert len(sizes) <= 10_001
        assert (np.sort(sizes)[2:] == sizes.max()).all()  # but the last of each stratum
