"""Synthetic targets against plain loops with the standard library's clock and statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.errors import HeartnetError
from heartnet.synthetic import LEAST_READINGS, day_std_minus_night_std, synthetic_targets
from heartnet.tasks import Synthetic
from heartnet.weeks import Weeks

MINUTE = 60_000_000


def by_loop(readings: np.ndarray, local_time: np.ndarray) -> float:
    day, night = [], []
    for rate, time in zip(readings[:, 0].tolist(), local_time.tolist(), strict=True):
        clock = (datetime(1970, 1, 1) + timedelta(microseconds=time)).time()
        if math.isnan(rate):
            continue
        if clock.hour >= 8:
            day.append(rate)
        elif clock.hour < 6:
            night.append(rate)
    if len(day) < 30 or len(night) < 30:
        return math.nan
    return statistics.pstdev(day) - statistics.pstdev(night)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(20, 400),
    first=st.integers(-(10**16), 10**16),
    missing=st.floats(0, 0.6),
)
def test_against_a_loop(seed: int, count: int, first: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    readings = rng.normal(70, 15, (count, 3)).astype(np.float32)
    readings[rng.random(count) < missing, 0] = np.nan
    time = first + np.cumsum(rng.integers(1, 20 * MINUTE, count))
    found, expected = day_std_minus_night_std(readings, time), by_loop(readings, time)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


def test_the_hours_between_belong_to_neither_and_edges_to_the_day_and_the_night() -> None:
    def at(*hours: float) -> np.ndarray:
        return np.array([int(hour * 60 * MINUTE) for hour in hours for _ in range(LEAST_READINGS)])

    rates = np.tile([60.0, 80.0], 2 * LEAST_READINGS)[: 4 * LEAST_READINGS]
    readings = np.stack([rates, rates, rates], axis=1).astype(np.float32)
    readings[:LEAST_READINGS, 0] = np.tile([50, 90], LEAST_READINGS // 2)  # a spread of 20, against 10
    for hours, expected in (((8, 0, 6, 7.99), 10), ((23.99, 5.99, 6, 7), 10), ((6, 8, 0, 7), 0)):
        assert day_std_minus_night_std(readings, at(*hours)) == pytest.approx(expected)


@pytest.mark.parametrize(("day", "night"), [(29, 100), (100, 29), (0, 100)])
def test_too_few_readings_make_it_missing(day: int, night: int) -> None:
    time = np.array([12 * 60 * MINUTE] * day + [3 * 60 * MINUTE] * night)
    assert math.isnan(day_std_minus_night_std(np.ones((len(time), 3), np.float32), time))


def test_all_weeks(make_weeks: Callable[..., Weeks]) -> None:
    weeks = make_weeks(users=4, weeks_each=2, shortest=80, longest=200)
    values = Synthetic().values(weeks)
    assert values.shape == (8, 1)
    assert values.dtype == np.float32
    for i in range(len(weeks)):
        expected = by_loop(weeks.week(i), weeks.local_time[weeks.offsets[i] : weeks.offsets[i + 1]])
        assert values[i, 0] == pytest.approx(expected, rel=1e-5, abs=1e-5, nan_ok=True)
    assert np.isfinite(values).any()


def test_unknown_names_are_said(make_weeks: Callable[..., Weeks]) -> None:
    with pytest.raises(HeartnetError, match=r"no synthetic target 'day_minus_night'.*Did you mean 'day_std"):
        synthetic_targets(make_weeks(users=3), ("day_minus_night",))
    with pytest.raises(HeartnetError, match=r"task\.targets=\[\]"):
        Synthetic([])
