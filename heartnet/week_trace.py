"""A week reduced to what a screen can show: heart rate by column, steps, wear, sleep and workouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float64, Int64

from heartnet.weeks import UNKNOWN, WEAR_GAP_SECONDS, Weeks

COLUMNS = 640
"""Columns of a picture; a calendar week has about 16 minutes in each."""

Bands = Float64[np.ndarray, "band 2"]
"""Begin and end of stretches of time, in seconds from the start of the axis."""

_ALWAYS = ("asleep", "in_workout")  # that there was none of it says something
_DAY = 86_400.0
_WEEK = 7 * _DAY
_STEP_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 86_400, 604_800)


@dataclass(frozen=True)
class WeekTrace:
    """One week along local time; times are in seconds from `start`.

    Attributes:
        start: where the axis begins: Monday 00:00 of a calendar week, the first reading of any other.
        length: of the axis, in seconds.
        calendar: whether it spans a week from Monday 00:00.
        time: of each reading that lies on the axis; a clock set back may put one before it.
        inside: which readings those are.
        centre: the middle of each column that holds heart rates.
        low, middle, high: lowest, median and highest heart rate of each, bpm.
        breaks: columns that come after a pause in which the watch was not worn.
        steps: steps in each stretch of `steps_width` seconds; empty if none were counted.
        lanes: when something was so: `worn`, sleep and workouts, and other annotations if they are ever true; None
            where nothing is known of it.
    """

    start: datetime
    length: float
    calendar: bool
    time: Float64[np.ndarray, " reading"]
    inside: Bool[np.ndarray, " week_reading"]
    centre: Float64[np.ndarray, " column"]
    low: Float64[np.ndarray, " column"]
    middle: Float64[np.ndarray, " column"]
    high: Float64[np.ndarray, " column"]
    breaks: Int64[np.ndarray, " break"]
    steps: Float64[np.ndarray, " stretch"]
    steps_width: float
    lanes: Mapping[str, npt.NDArray[np.float64] | None]


def week_trace(weeks: Weeks, row: int) -> WeekTrace:
    """Return what to draw of a week."""
    span = slice(int(weeks.offsets[row]), int(weeks.offsets[row + 1]))
    readings = weeks.week(row)
    local = np.asarray(weeks.local_time[span])
    start = weeks.table["start"][row]
    calendar = bool(start == start.replace(hour=0, minute=0, second=0, microsecond=0) and start.weekday() == 0)
    first = local.min() if len(local) and not calendar else _microseconds(start)
    time = (local - first) / 1e6
    # What begins on a Monday by chance and ends within minutes is no calendar week.
    calendar = calendar and (len(time) == 0 or time.max() > _DAY)
    length = _WEEK if calendar else max(float(time.max()), 1.0) if len(time) else 1.0
    inside = (time >= 0) & (time <= length)
    columns = _columns(time[inside], readings[inside, 0].astype(np.float64), length)
    width = 1800.0 if calendar else float(next(each for each in _STEP_WIDTHS if each * 340 >= length))
    return WeekTrace(
        start=datetime(1970, 1, 1) + timedelta(microseconds=int(first)),
        length=length,
        calendar=calendar,
        time=time[inside],
        inside=inside,
        **columns,
        steps=_steps(time[inside], readings[inside, 1], length, width),
        steps_width=width,
        lanes=_lanes(weeks, span, time, readings[:, 2].astype(np.float64), length),
    )


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def _columns(
    time: npt.NDArray[np.float64], rate: npt.NDArray[np.float64], length: float
) -> dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]:
    """Return lowest, median and highest rate of each column that holds any, and which come after a pause."""
    known = ~np.isnan(rate)
    time, rate = time[known], rate[known]
    column = np.minimum(time * (COLUMNS / length), COLUMNS - 1).astype(np.int64)
    order = np.lexsort((rate, column))
    rate, column = rate[order], column[order]
    first = np.flatnonzero(np.diff(column, prepend=-1))
    count = np.diff(first, append=len(column))
    at = column[first]
    apart = max(WEAR_GAP_SECONDS * COLUMNS / length, 1.0)
    return {
        "centre": (at + 0.5) * (length / COLUMNS),
        "low": rate[first],
        "middle": (rate[first + (count - 1) // 2] + rate[first + count // 2]) / 2,
        "high": rate[first + count - 1],
        "breaks": np.flatnonzero(np.diff(at) > apart) + 1,
    }


def _steps(
    time: npt.NDArray[np.float64], steps: npt.NDArray[np.float32], length: float, width: float
) -> npt.NDArray[np.float64]:
    known = ~np.isnan(steps)
    if not steps[known].any():
        return np.zeros(0)
    # A count belongs to the time before its reading, so one on the edge belongs to the stretch that ends there.
    stretch = np.maximum(np.ceil(time[known] / width) - 1, 0).astype(np.int64)
    return np.bincount(stretch, steps[known], minlength=int(np.ceil(length / width))).astype(np.float64)


def _lanes(
    weeks: Weeks, span: slice, time: npt.NDArray[np.float64], dt: npt.NDArray[np.float64], length: float
) -> dict[str, npt.NDArray[np.float64] | None]:
    worn = np.nan_to_num(dt, nan=np.inf) <= WEAR_GAP_SECONDS
    begin = time - np.where(worn, np.nan_to_num(dt), 0.0)
    lanes: dict[str, npt.NDArray[np.float64] | None] = {"worn": _bands(begin[worn], time[worn], length)}
    for name, annotation in weeks.annotations.items():
        here = np.asarray(annotation[span])
        true = here == 1
        # From the reading before, if that is part of it too, so that what lasts is one band.
        joined = true & np.append(False, true[:-1]) & worn
        if name not in _ALWAYS and not true.any():
            continue
        known = not (here == UNKNOWN).all()
        lanes[name] = _bands(np.where(joined, begin, time)[true], time[true], length) if known else None
    return lanes


def _bands(begin: npt.NDArray[np.float64], end: npt.NDArray[np.float64], length: float) -> npt.NDArray[np.float64]:
    """Return stretches within the axis, those in one that touch or lie less than a column apart."""
    keep = (end >= 0) & (begin <= length)
    begin, end = np.clip(begin[keep], 0, length), np.clip(end[keep], 0, length)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    first = np.flatnonzero(np.append(True, begin[1:] > end[:-1] + length / COLUMNS)[: len(begin)])
    last = np.append(first[1:], len(begin))[: len(first)] - 1
    return np.stack([begin[first], end[last]], axis=1)
