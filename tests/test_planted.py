"""What is planted in a simulated cohort, and what a week's habits are, against slow loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from heartnet.datamodule import SimulatedData
from heartnet.errors import HeartnetError
from heartnet.features import HABITS, habits
from heartnet.simulate import simulate
from heartnet.simulate.planted import EXERCISE, PLANTED, TRAVEL, WATCH, WORKOUTS
from heartnet.simulate.watches import FIRST_GENERATION
from heartnet.tasks import Conditions
from heartnet.weeks import WEAR_GAP_SECONDS, Weeks


@pytest.fixture(scope="module")
def cohorts() -> dict[str, Weeks]:
    clean = simulate(200, 2, seed=4, effect_scale=2.0)
    return {"": clean} | {name: simulate(200, 2, seed=4, effect_scale=2.0, planted=[name]) for name in PLANTED}


def touched(weeks: Weeks) -> pl.Series:
    return weeks.table["true_touched"]


@pytest.mark.parametrize("name", PLANTED)
def test_weeks_that_it_does_not_touch_stay_as_they_are(cohorts: dict[str, Weeks], name: str) -> None:
    clean, planted = cohorts[""], cohorts[name]
    assert planted.provenance["planted"] == [name]
    assert clean.provenance["planted"] == []
    assert "true_touched" not in clean.table.columns
    kept = ["user_id", "age", "sex", "bmi", "sleep_apnea", "diabetes", "hypertension", "true_resting_rate"]
    assert clean.table.select(kept).equals(planted.table.select(kept))
    same = np.array([np.array_equal(clean.week(i), planted.week(i), equal_nan=True) for i in range(400)])
    marked = touched(planted).to_numpy()
    assert same[~marked].all()
    assert not same[marked].any()
    assert 0.1 < marked.mean() < 0.4


def test_whom_each_touches(cohorts: dict[str, Weeks]) -> None:
    table = cohorts[WATCH].table
    assert touched(cohorts[WATCH]).equals((table["device"] == FIRST_GENERATION.name).alias("true_touched"))
    table = cohorts[EXERCISE].table
    assert (table["true_workouts"] == WORKOUTS).to_numpy()[touched(cohorts[EXERCISE]).to_numpy()].all()
    table = cohorts[TRAVEL].table
    assert touched(cohorts[TRAVEL]).to_list() == (table["true_travel_hours"] != 0).to_list()


def test_what_is_planted_shows_in_habits(cohorts: dict[str, Weeks]) -> None:
    for name, habit, factor in ((EXERCISE, "workout_hours", 3), (TRAVEL, "clock_range_hours", 3)):
        each = habits(cohorts[name], np.arange(400))[:, HABITS.index(habit)]
        marked = touched(cohorts[name]).to_numpy()
        assert each[marked].mean() > factor * each[~marked].mean(), name


def test_the_rate_of_a_touched_week_tells_nothing_of_the_resting_rate(cohorts: dict[str, Weeks]) -> None:
    clean, planted = cohorts[""], cohorts[WATCH]
    marked = touched(planted).to_numpy()
    resting = planted.table["true_resting_rate"].to_numpy()

    def told(weeks: Weeks) -> float:
        mean = [float(np.nanmean(weeks.week(int(i))[:, 0])) for i in np.flatnonzero(marked)]
        return float(np.corrcoef(mean, resting[marked])[0, 1])

    assert told(clean) > 0.7
    assert abs(told(planted)) < 0.3


def test_unknown_things_are_not_planted() -> None:
    with pytest.raises(HeartnetError, match=r"'travels', which cannot be planted.*Did you mean 'travel'"):
        simulate(1, 1, 0, planted=["travels"])
    with pytest.raises(HeartnetError, match="a list of names"):
        SimulatedData(Conditions(), users=20, weeks_per_user=1, planted="travel")


def test_a_data_module_plants() -> None:
    data = SimulatedData(Conditions(), users=30, weeks_per_user=1, planted=["heavy_exercise", "travel"])
    assert data.weeks.provenance["planted"] == ["heavy_exercise", "travel"]


def test_habits_against_a_slow_loop(cohorts: dict[str, Weeks]) -> None:
    weeks = cohorts[TRAVEL]
    rows = np.array([0, 3, 17, int(np.flatnonzero(touched(weeks).to_numpy())[0])])
    for row, found in zip(rows, habits(weeks, rows), strict=True):
        span = range(int(weeks.offsets[row]), int(weeks.offsets[row + 1]))
        dt = [float(weeks.readings[i, 2]) for i in span][1:]
        clock = [int(weeks.local_time[i]) for i in span]
        dense = [each for each in dt if each <= 10]
        at, settings = 0.0, [0.0]
        for (one, other), pause in zip(pairwise(clock), dt, strict=True):
            moved = (other - one) / 1e6 - pause
            if abs(moved) >= 900:
                at += moved / 3600
                settings.append(at)
        exercise = sum(
            pause
            for i, pause in zip(list(span)[1:], dt, strict=True)
            if weeks.annotations["in_workout"][i] == 1 and pause <= WEAR_GAP_SECONDS
        )
        nights: dict[int, list[float]] = {}
        for i, moment in zip(span, clock, strict=True):
            if weeks.annotations["asleep"][i] == 1:
                hours = moment / 3.6e9 - 12
                nights.setdefault(math.floor(hours / 24), []).append(hours % 24)
        middles = [(min(each) + max(each)) / 2 for each in nights.values()]
        expected = [
            sorted(dt)[len(dt) // 2] if len(dt) % 2 else sum(sorted(dt)[len(dt) // 2 - 1 : len(dt) // 2 + 1]) / 2,
            len(dense) / len(dt),
            sum(dense) / 3600,
            exercise / 3600,
            len(settings) - 1,
            max(settings) - min(settings),
            float(np.std(middles)) if len(middles) >= 3 else math.nan,
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_habits_that_are_not_known(cohorts: dict[str, Weeks]) -> None:
    weeks = cohorts[""]
    found = habits(replace(weeks, annotations={}), np.array([0, 1]))
    unknown = np.isin(HABITS, ["workout_hours", "bedtime_spread_hours"])
    assert np.isnan(found[:, unknown]).all()
    assert not np.isnan(found[:, ~unknown]).any()
    one = Weeks(weeks.readings[:1], weeks.local_time[:1], np.array([0, 1]), weeks.table[:1], weeks.conditions)
    assert np.isnan(habits(one, np.array([0]))).all()
