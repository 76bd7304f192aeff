"""Synthetic targets: deterministic functions of a week that an architecture should be able to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.weeks import UNKNOWN, WEAR_GAP_SECONDS, Weeks

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MICROSECONDS_AN_HOUR = 3_600_000_000
_SECONDS_A_DAY = 86_400.0

DAY_STARTS, NIGHT_STARTS, NIGHT_ENDS = 8, 0, 6
"""Local hours: day is 08:00 to 24:00, night is 00:00 to 06:00; the two hours between belong to neither."""

LEAST_READINGS = 30
"""What a mean or a spread is taken of must be at least so many; of fewer the target is missing."""

STILL_SECONDS = 720.0
"""At rest is who has taken no step for twelve minutes (T. Mishra et al. 2020, Nature Biomedical Engineering 4:1208)."""

RECOVERY_SECONDS, END_SECONDS, AFTER_SECONDS = 60.0, 15.0, 10.0
"""Recovery is taken after a minute: from the mean of a workout's last 15 s to the mean within 10 s of the minute."""

EXERCISE_RISE, EXERCISE_SECONDS, DENSE_SECONDS = 25.0, 300.0, 30.0
"""Where no annotation says, a workout is five minutes or more at 25 bpm or more above the week's median, measured at
least every 30 s."""


@dataclass(frozen=True)
class Week:
    """What a target is a function of; all arrays `[reading]`.

    Attributes:
        heart_rate: bpm; NaN is missing.
        steps: count since the reading before; NaN is missing.
        seconds: true ones, since the week's first reading; no clock change touches them.
        hour: of the local clock, from 0 up to but not including 24.
        asleep, in_workout: 1, 0 or `heartnet.weeks.UNKNOWN`.
    """

    heart_rate: Floats
    steps: Floats
    seconds: Floats
    hour: Floats
    asleep: npt.NDArray[np.uint8]
    in_workout: npt.NDArray[np.uint8]


def week_of(
    readings: npt.NDArray[np.float32],
    local_time: npt.NDArray[np.int64],
    annotations: Mapping[str, npt.NDArray[np.uint8]] | None = None,
) -> Week:
    """Return a week as the targets see it.

    Args:
        readings: `[reading, channel]`, natural units, channels as in `heartnet.weeks.CHANNELS`.
        local_time: microseconds of the local wall clock.
        annotations: those of the same readings; without `asleep` or `in_workout`, that is unknown.
    """
    values = readings.astype(np.float64)
    pause = np.nan_to_num(values[:, 2], nan=_SECONDS_A_DAY)  # a pause of unknown length is no short one
    pause[:1] = 0.0
    unknown = np.full(len(values), UNKNOWN, np.uint8)
    known = annotations or {}
    return Week(
        heart_rate=values[:, 0],
        steps=values[:, 1],
        seconds=np.cumsum(pause),
        hour=local_time % (24 * _MICROSECONDS_AN_HOUR) / _MICROSECONDS_AN_HOUR,
        asleep=known.get("asleep", unknown),
        in_workout=known.get("in_workout", unknown),
    )


def day_std_minus_night_std(week: Week) -> float:
    """Return std(heart rate by day) − std(heart rate by night), bpm; NaN without enough readings in either.

    The post's first synthetic task, made after a published screening for sleep apnea ("4 Ways to Debug your Deep
    Neural Network", Cardiogram 2018). Standard deviations are of the population (divided by n).
    """
    day, night = _day_and_night(week)
    return float(day.std() - night.std()) if _enough(day, night) else float("nan")


def night_minus_day_mean(week: Week) -> float:
    """Return mean(heart rate by night) − mean(heart rate by day), bpm; NaN without enough readings in either.

    Negative where the rate dips at night, as it should: I. Ben-Dov et al. 2007, Arch Intern Med 167:2116, "Blunted
    heart rate dip during sleep and all-cause mortality".
    """
    day, night = _day_and_night(week)
    return float(night.mean() - day.mean()) if _enough(day, night) else float("nan")


def resting_rate(week: Week) -> float:
    """Return the median over time of the heart rate by day without a step in the twelve minutes before, bpm.

    After T. Mishra et al. 2020, Nature Biomedical Engineering 4:1208, who take steps of zero for twelve minutes, by
    day and by night; here by day only, so that it is not the rate asleep. Each rate counts for the time since the one
    before (up to `WEAR_GAP_SECONDS`), lest the hundreds of a workout without steps outweigh the day. NaN without any
    step count (nobody knows who was at rest), or without enough readings.
    """
    if np.isnan(week.steps).all():
        return float("nan")
    walked = np.maximum.accumulate(np.where(week.steps > 0, week.seconds, -np.inf))
    still = week.seconds - walked > STILL_SECONDS
    known = ~np.isnan(week.heart_rate)
    pause = np.minimum(np.diff(week.seconds[known], prepend=0.0), WEAR_GAP_SECONDS)
    chosen = (still & (week.hour >= DAY_STARTS))[known]
    rate, weight = week.heart_rate[known][chosen], pause[chosen]
    if not _enough(rate):
        return float("nan")
    order = np.argsort(rate, kind="stable")
    below = np.cumsum(weight[order])
    return float(rate[order][np.searchsorted(below, below[-1] / 2)])


def heart_rate_recovery(week: Week) -> float:
    """Return by how much the heart rate falls in the first minute after a workout, bpm, averaged over workouts.

    From the mean of the workout's last 15 s to the mean of 50 to 70 s after its end. C. Cole et al. 1999, N Engl J Med
    341:1351, "Heart-rate recovery immediately after exercise as a predictor of mortality": 12 bpm or less is abnormal;
    they start from the peak of a graded test, which is its end.

    A workout ends where the annotations say; where they do not know, it is found: a stretch of exercise (see
    `EXERCISE_RISE`) ends where the rate falls most in a minute. NaN without a
    workout that was measured at its end and a minute later.
    """
    known = ~np.isnan(week.heart_rate)
    time, rate = week.seconds[known], week.heart_rate[known]
    if (week.in_workout == UNKNOWN).all():
        ends = _found_ends(time, rate)
    else:
        inside = week.in_workout == 1
        ends = week.seconds[inside & ~np.append(inside[1:], False)]
    fall = _fall(time, rate, ends)
    return float(np.nanmean(fall)) if not np.isnan(fall).all() else float("nan")


def total_steps(week: Week) -> float:
    """Return the steps counted in the week; NaN without any count. A week worn in part has counted in part."""
    return float("nan") if np.isnan(week.steps).all() else float(np.nansum(week.steps))


def hours_asleep(week: Week) -> float:
    """Return the hours of the week asleep, h, as far as they were measured.

    Of each pause between two readings, half counts as what each of them is; pauses longer than `WEAR_GAP_SECONDS`
    count as nothing. NaN where sleep is not known, or where no reading is asleep: nobody is awake for a week, so then
    the nights were not measured.
    """
    if not (week.asleep == 1).any():
        return float("nan")
    pause = np.diff(week.seconds)
    pause[pause > WEAR_GAP_SECONDS] = 0.0
    asleep = (week.asleep == 1).astype(np.float64)
    return float((pause * (asleep[1:] + asleep[:-1])).sum() / 2 / 3600)


def mean_difference(week: Week, within: float) -> float:
    """Return the mean |difference of successive heart rates| that are at most `within` seconds apart, bpm.

    What DeepHeart was pretrained on, with windows of 5 s, 30 s, 5 min and 30 min (Ballinger et al., "DeepHeart",
    AAAI 2018): the spread from beat to beat, as far as a watch shows it. Readings without a heart rate are passed
    over. NaN with fewer than `LEAST_READINGS` such pairs.
    """
    known = ~np.isnan(week.heart_rate)
    difference = np.abs(np.diff(week.heart_rate[known]))[np.diff(week.seconds[known]) <= within]
    return float(difference.mean()) if _enough(difference) else float("nan")


class Target(NamedTuple):
    """A function of a week and the unit of what it returns."""

    function: Callable[[Week], float]
    unit: str


TARGETS: dict[str, Target] = {
    "day_std_minus_night_std": Target(day_std_minus_night_std, "bpm"),
    "night_minus_day_mean": Target(night_minus_day_mean, "bpm"),
    "resting_rate": Target(resting_rate, "bpm"),
    "heart_rate_recovery": Target(heart_rate_recovery, "bpm"),
    "total_steps": Target(total_steps, "steps"),
    "hours_asleep": Target(hours_asleep, "h"),
    "mean_difference_5_s": Target(partial(mean_difference, within=5.0), "bpm"),
    "mean_difference_30_s": Target(partial(mean_difference, within=30.0), "bpm"),
    "mean_difference_5_min": Target(partial(mean_difference, within=300.0), "bpm"),
    "mean_difference_30_min": Target(partial(mean_difference, within=1800.0), "bpm"),
}
"""Each target's function and unit."""


def check_targets(names: tuple[str, ...]) -> None:
    """Refuse names that are not in `TARGETS`, or stand twice.

    Raises:
        HeartnetError: naming the first such name, and the nearest that there is.
    """
    for name in names:
        if names.count(name) > 1:
            raise HeartnetError(f"task.targets: {name} stands there twice")
        if name not in TARGETS:
            raise HeartnetError(
                f"task.targets: no synthetic target {name!r}; there are {', '.join(TARGETS)}."
                f"{did_you_mean(name, TARGETS)}"
            )


def synthetic_targets(weeks: Weeks, names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Return `[week, target]`, NaN where a week has not enough data.

    Raises:
        HeartnetError: a name that is not in `TARGETS`.
    """
    check_targets(names)
    rows = np.full((len(weeks), len(names)), np.nan, dtype=np.float32)
    for i in range(len(weeks)):
        span = slice(weeks.offsets[i], weeks.offsets[i + 1])
        annotations = {name: values[span] for name, values in weeks.annotations.items()}
        week = week_of(weeks.readings[span], weeks.local_time[span], annotations)
        rows[i] = [TARGETS[name].function(week) for name in names]
    return rows


def _day_and_night(week: Week) -> tuple[Floats, Floats]:
    known = ~np.isnan(week.heart_rate)
    day = week.heart_rate[known & (week.hour >= DAY_STARTS)]
    night = week.heart_rate[known & (week.hour >= NIGHT_STARTS) & (week.hour < NIGHT_ENDS)]
    return day, night


def _enough(*values: Floats) -> bool:
    return min(map(len, values)) >= LEAST_READINGS


def _found_ends(time: Floats, rate: Floats) -> Floats:
    """Return when workouts end, from known heart rates alone."""
    if len(rate) < LEAST_READINGS:
        return np.empty(0)
    before = _mean_between(time, rate, time - RECOVERY_SECONDS, time)
    hard = before >= np.median(rate) + EXERCISE_RISE
    dense = np.diff(time, prepend=-np.inf) <= DENSE_SECONDS
    begins = np.flatnonzero(hard & ~(dense & np.append(False, hard[:-1])))
    ends = np.flatnonzero(hard & ~np.append(dense[1:] & hard[1:], False))
    falls = _fall(time, rate, time)
    found = []
    for first, last in zip(begins, ends, strict=True):
        fall = falls[first : last + 1]
        if time[last] - time[first] >= EXERCISE_SECONDS and not np.isnan(fall).all():
            found.append(time[first + int(np.nanargmax(fall))])
    return np.array(found)


def _fall(time: Floats, rate: Floats, ends: Floats) -> Floats:
    """Return by how much the rate falls in the minute after each of `ends`; NaN where it was not measured."""
    later = ends + RECOVERY_SECONDS
    last = _mean_between(time, rate, ends - END_SECONDS, ends)
    return last - _mean_between(time, rate, later - AFTER_SECONDS, later + AFTER_SECONDS)


def _mean_between(time: Floats, rate: Floats, after: Floats, until: Floats) -> Floats:
    """Return the mean rate of the readings in each (after, until]; NaN where there are none."""
    sums = np.concatenate([[0.0], np.cumsum(rate)])
    first, last = np.searchsorted(time, after, side="right"), np.searchsorted(time, until, side="right")
    count = last - first
    mean: Floats = np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)
    return mean
