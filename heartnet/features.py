"""Hand-made features of a week, for the simple models that one trusts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from heartnet.hourly import HOURLY, hourly_features
from heartnet.weeks import UNKNOWN, WEAR_GAP_SECONDS, Weeks

STATISTICS: tuple[str, ...] = (
    "mean",
    "standard_deviation",
    "percentile_5",
    "percentile_25",
    "median",
    "percentile_75",
    "percentile_95",
    "mean_absolute_difference",
    "median_absolute_difference",
    "root_mean_square_difference",
    "mean_log_dt",
)
"""Statistics of a week's heart rate (bpm), of the difference of its successive readings (bpm), of log(1 + dt / s)."""


def week_statistics(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `[row, statistic]`, in the order of `STATISTICS`; NaN where a week has too few readings for one."""
    return np.array([_statistics(weeks.week(row).astype(np.float64)) for row in rows]).reshape(-1, len(STATISTICS))


HOURLY_SUMMARY: tuple[str, ...] = tuple(f"{summary}_of_{name}" for summary in ("mean", "spread") for name in HOURLY)
"""Mean and standard deviation, over the hours of a week, of each hourly feature; units as in `HOURLY_UNITS`."""


def hourly_summary(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `[row, summary]`, in the order of `HOURLY_SUMMARY`; NaN where no hour of a week has the feature.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: mean and standard deviations of the hourly
    vectors, into a logistic regression, as "a really simple baseline".
    """
    found = np.empty((len(rows), len(HOURLY_SUMMARY)))
    for i, row in enumerate(rows):
        hours = hourly_features(weeks, np.array([row]))[0].astype(np.float64)
        count = (~np.isnan(hours)).sum(axis=0)
        mean = np.where(count > 0, np.nansum(hours, axis=0) / np.maximum(count, 1), np.nan)
        spread = np.sqrt(np.nansum((hours - mean) ** 2, axis=0) / np.maximum(count, 1))
        found[i] = [*mean, *np.where(count > 0, spread, np.nan)]
    return found


HABITS_UNITS: dict[str, str] = {
    "seconds_between": "s",
    "workout_cadence_share": "share",
    "workout_cadence_hours": "h",
    "workout_hours": "h",
    "clock_changes": "count",
    "clock_range_hours": "h",
    "bedtime_spread_hours": "h",
}

HABITS: tuple[str, ...] = tuple(HABITS_UNITS)
"""How a week was measured, exercised, travelled and slept, in this order; units in `HABITS_UNITS`.

`seconds_between`: median pause between readings. `workout_cadence_share`, `workout_cadence_hours`: of readings that
follow the one before within `WORKOUT_CADENCE` seconds, as watches measure in workouts, their share and their time.
`workout_hours`: time of readings that the data says are of workouts. `clock_changes`: how often the local clock was set
by a quarter of an hour or more: journeys, summer time. `clock_range_hours`: how far apart its settings lie.
`bedtime_spread_hours`: standard deviation, over nights, of the local time half way through sleep.
"""

WORKOUT_CADENCE = 10.0
"""Seconds between readings up to which a watch measures as in a workout; Apple's do every 5 s."""

_CLOCK_SET = 900.0  # seconds: zones and summer time are a quarter of an hour apart or more
_NIGHTS = 3  # fewer have no spread


def habits(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `[row, habit]`, in the order of `HABITS`; NaN where the data does not tell."""
    return np.array([_habits(weeks, int(row)) for row in rows]).reshape(-1, len(HABITS))


def _habits(weeks: Weeks, row: int) -> list[float]:
    span = slice(int(weeks.offsets[row]), int(weeks.offsets[row + 1]))
    local = np.asarray(weeks.local_time[span], dtype=np.int64)
    dt = weeks.readings[span, 2].astype(np.float64)
    pauses = dt[~np.isnan(dt)]
    if not len(pauses):
        return [float("nan")] * len(HABITS)
    dense = pauses <= WORKOUT_CADENCE
    set_by = np.where(np.isnan(dt[1:]), 0.0, np.diff(local) / 1e6 - dt[1:])
    set_by = np.where(np.abs(set_by) >= _CLOCK_SET, set_by, 0.0)
    settings = np.concatenate([[0.0], np.cumsum(set_by)]) / 3600
    marks = {name: np.asarray(values[span]) for name, values in weeks.annotations.items()}
    return [
        float(np.median(pauses)),
        float(dense.mean()),
        float(pauses[dense].sum()) / 3600,
        _hours_of(marks.get("in_workout"), dt),
        float(np.count_nonzero(set_by)),
        float(np.ptp(settings)),
        _bedtime_spread(marks.get("asleep"), local),
    ]


def _hours_of(mark: npt.NDArray[np.uint8] | None, dt: npt.NDArray[np.float64]) -> float:
    if mark is None or (mark == UNKNOWN).all():
        return float("nan")
    return float(dt[(mark == 1) & (dt <= WEAR_GAP_SECONDS)].sum()) / 3600


def _bedtime_spread(asleep: npt.NDArray[np.uint8] | None, local: npt.NDArray[np.int64]) -> float:
    if asleep is None:
        return float("nan")
    noon_on = local[asleep == 1] / 3.6e9 - 12
    nights, night = np.unique(noon_on // 24, return_inverse=True)
    if len(nights) < _NIGHTS:
        return float("nan")
    middle = [(noon_on[night == k].min() + noon_on[night == k].max()) / 2 - 24 * each for k, each in enumerate(nights)]
    return float(np.std(middle))


def _statistics(week: npt.NDArray[np.float64]) -> list[float]:
    rate = week[:, 0][~np.isnan(week[:, 0])]
    if len(rate) < 2:
        return [float("nan")] * len(STATISTICS)
    change = np.abs(np.diff(rate))
    dt = week[:, 2][~np.isnan(week[:, 2])]
    return [
        rate.mean(),
        rate.std(),
        *np.percentile(rate, [5, 25, 50, 75, 95]),
        change.mean(),
        float(np.median(change)),
        np.sqrt((change**2).mean()),
        np.log1p(dt).mean(),
    ]
