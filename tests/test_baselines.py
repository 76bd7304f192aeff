"""The simple models against scikit-learn used by hand, and their features against plain loops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from callbacks.baseline import Baseline
from heartnet.baselines import FEATURES, baseline_scores
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.features import HOURLY_SUMMARY, STATISTICS, week_statistics
from heartnet.tasks import Conditions, Synthetic
from heartnet.weeks import Weeks

MakeWeeks = Callable[..., Weeks]


def percentile(values: list[float], share: float) -> float:
    """Interpolate linearly between the ordered values."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    ordered = sorted(values)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def test_statistics_against_loops(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=4, missing=0.2)
    rows = np.array([7, 2, 9])
    found = week_statistics(weeks, rows)
    assert found.shape == (3, len(STATISTICS))
    for row, values in zip(rows, found, strict=True):
        rates = [float(rate) for rate in weeks.week(row)[:, 0] if not math.isnan(rate)]
        changes = [abs(b - a) for a, b in pairwise(rates)]
        logs = [math.log(1 + float(dt)) for dt in weeks.week(row)[:, 2] if not math.isnan(dt)]
        expected = {
            "mean": statistics.fmean(rates),
            "standard_deviation": statistics.pstdev(rates),
            "percentile_5": percentile(rates, 0.05),
            "percentile_25": percentile(rates, 0.25),
            "median": statistics.median(rates),
            "percentile_75": percentile(rates, 0.75),
            "percentile_95": percentile(rates, 0.95),
            "mean_absolute_difference": statistics.fmean(changes),
            "median_absolute_difference": statistics.median(changes),
            "root_mean_square_difference": math.sqrt(statistics.fmean([c * c for c in changes])),
            "mean_log_dt": statistics.fmean(logs),
        }
        assert dict(zip(STATISTICS, values, strict=True)) == pytest.approx(expected, rel=1e-9)


def test_statistics_of_a_week_with_one_heart_rate_are_missing(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=1, weeks_each=1)
    readings = weeks.readings.copy()
    readings[1:, 0] = np.nan
    assert np.isnan(week_statistics(replace(weeks, readings=readings), np.array([0]))).all()
    assert week_statistics(weeks, np.array([], dtype=np.int64)).shape == (0, len(STATISTICS))


def by_hand(seen: np.ndarray, asked: np.ndarray, values: np.ndarray, kind: str) -> np.ndarray:
    """Standardise, put missing features at their mean, fit on what is known."""
    known = ~np.isnan(values)
    somewhere = ~np.isnan(seen).all(axis=0)
    seen, asked = seen[:, somewhere], asked[:, somewhere]
    mean = np.nanmean(seen[known], axis=0)
    filled = np.where(np.isnan(seen[known]), mean, seen[known])
    std = filled.std(axis=0)
    train = (filled - mean) / std
    test = (np.where(np.isnan(asked), mean, asked) - mean) / std
    if kind == "conditions":
        return LogisticRegression(max_iter=2000).fit(train, values[known]).predict_proba(test)[:, 1]
    return Ridge().fit(train, values[known]).predict(test)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("task", [Conditions, Synthetic])
def test_scores_against_scikit_learn_by_hand(make_weeks: MakeWeeks, features: str, task: Any) -> None:
    size = {"shortest": 150, "longest": 200} if task is Synthetic else {}
    data = WeeksDataModule(make_weeks(users=20, missing=0.2, **size), task())
    train, test = data.rows["train"], data.rows["test"]
    scores = baseline_scores(data, features, test)
    assert scores is not None
    assert scores.dtype == np.float32
    seen, asked = FEATURES[features](data, train), FEATURES[features](data, test)
    for i in range(len(data.targets)):
        expected = by_hand(seen, asked, data.values[train, i].astype(np.float64), data.task.kind)
        np.testing.assert_allclose(scores[:, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", [Conditions, Synthetic])
def test_boosting_against_scikit_learn_by_hand(make_weeks: MakeWeeks, task: Any) -> None:
    size = {"shortest": 150, "longest": 200} if task is Synthetic else {}
    made = task(["day_std_minus_night_std"]) if task is Synthetic else task()
    data = WeeksDataModule(make_weeks(users=60, missing=0.2, **size), made)
    train, test = data.rows["train"], data.rows["test"]
    scores = baseline_scores(data, "boosting", test)
    assert scores is not None
    seen, asked = (
        np.concatenate([FEATURES["metadata"](data, rows), FEATURES["hourly"](data, rows)], axis=1)
        for rows in (train, test)
    )
    options: dict[str, Any] = {
        "learning_rate": 0.05, "max_iter": 200, "max_leaf_nodes": 8, "l2_regularization": 1.0, "early_stopping": False,
    }  # fmt: skip
    useful = ~np.isnan(seen).all(axis=0)
    for i in range(len(data.targets)):
        values = data.values[train, i]
        known = ~np.isnan(values)
        if data.task.kind == "conditions":
            fitted = HistGradientBoostingClassifier(**options).fit(seen[known][:, useful], values[known])
            expected = fitted.predict_proba(asked[:, useful])[:, 1]
        else:
            fitted = HistGradientBoostingRegressor(**options).fit(seen[known][:, useful], values[known])
            expected = fitted.predict(asked[:, useful])
        np.testing.assert_allclose(scores[:, i], expected, rtol=1e-4, atol=1e-5)
        assert len(np.unique(scores[:, i])) > 5
    again = baseline_scores(data, "boosting", test)
    np.testing.assert_array_equal(again, scores)


def test_boosting_does_without_metadata_and_learns_what_is_not_linear(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=100, missing=0.0)
    nobody = [pl.lit(None, pl.Float64).alias(name) for name in ("age", "bmi")]
    table = weeks.table.with_columns(*nobody, pl.lit(None, pl.String).alias("sex"))
    data = WeeksDataModule(replace(weeks, table=table), Conditions())
    rate = FEATURES["hourly"](data, np.arange(len(weeks)))[:, HOURLY_SUMMARY.index("mean_of_mean")]
    data.values[:, 0] = np.abs(rate - np.median(rate)) > np.median(np.abs(rate - np.median(rate)))
    test = data.rows["test"]
    found = {name: baseline_scores(data, name, test) for name in ("hourly", "boosting")}
    auroc = {name: roc_auc_score(data.values[test, 0], scores[:, 0]) for name, scores in found.items()}
    assert auroc["boosting"] > 0.9
    assert auroc["hourly"] < 0.75


def test_the_metadata_are_age_sex_and_bmi(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks()
    data = WeeksDataModule(weeks, Conditions())
    rows = np.array([0, 5, 9])
    number = {"female": 0.0, "male": 1.0, None: np.nan}
    expected = [
        [np.nan if row["age"] is None else row["age"], number[row["sex"]], row["bmi"]]
        for row in weeks.table[rows].iter_rows(named=True)
    ]
    np.testing.assert_allclose(FEATURES["metadata"](data, rows), expected)


def test_nothing_of_the_test_split_is_seen(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=20, missing=0.0)
    data = WeeksDataModule(weeks, Conditions())
    before = baseline_scores(data, "statistics", data.rows["val"])
    data.values[data.rows["test"]] = 1 - data.values[data.rows["test"]]
    np.testing.assert_array_equal(baseline_scores(data, "statistics", data.rows["val"]), before)


def test_one_class_gets_its_base_rate_and_no_features_no_scores(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=10, missing=0.0)
    nobody = [pl.lit(None, pl.Float64).alias("age"), pl.lit(None, pl.String).alias("sex")]
    table = weeks.table.with_columns(pl.lit(1, pl.Int8).alias("diabetes"), *nobody)
    data = WeeksDataModule(replace(weeks, table=table), Conditions())
    scores = baseline_scores(data, "metadata", data.rows["test"])
    assert scores is not None
    assert (scores[:, data.targets.index("diabetes")] == 1).all()
    assert len(np.unique(scores[:, data.targets.index("sleep_apnea")])) > 1  # of the body mass index alone
    without = table.with_columns(pl.lit(None, pl.Float64).alias("bmi"))
    data = WeeksDataModule(replace(weeks, table=without), Conditions())
    assert baseline_scores(data, "metadata", data.rows["test"]) is None


def test_unknown_features_are_said() -> None:
    with pytest.raises(HeartnetError, match=r"no features 'metadat'; there are metadata, statistics.*'metadata'"):
        Baseline(features=["metadat"])
