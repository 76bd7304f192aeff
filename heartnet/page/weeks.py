"""Weeks as pictures: heart rate, steps, wear and annotations along local time, as paths of an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.weeks import UNKNOWN, WEAR_GAP_SECONDS, Weeks

WIDTH = 960
"""Columns of a picture, each a unit wide; a calendar week has 10.5 minutes in each."""

RATE_HEIGHT, STEPS_HEIGHT, LANE_HEIGHT = 120.0, 36.0, 9.0

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
TICKS = [
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    21_600,
    43_200,
    *(86_400 * 2**k for k in range(15)),
]
"""Seconds that may lie between two marks of an axis of time."""

_NAMES = {"in_workout": "workout", "in_af": "atrial fib."}


@dataclass(frozen=True)
class Lane:
    """A row of bands: when something was so. `note` is said instead where nothing is known."""

    name: str
    path: str
    note: str


@dataclass(frozen=True)
class Scale:
    """What the heights mean, the same for all weeks of a page: bpm from `low` to `high`, steps from 0 to `steps`.

    `steps` is 0 if there are none to draw.
    """

    low: int
    high: int
    steps: int

    def rate(self, bpm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return heights from the top; rates beyond the scale lie on its edge."""
        share = (np.clip(bpm, self.low, self.high) - self.low) / (self.high - self.low)
        height: npt.NDArray[np.float64] = RATE_HEIGHT * (1 - share)
        return height


@dataclass(frozen=True)
class WeekPicture:
    """The paths of one week, `WIDTH` wide.

    Attributes:
        span: from the lowest to the highest heart rate in each column.
        line: the median heart rate of each column; broken where the watch was not worn.
        steps: bars, of half an hour in calendar weeks.
        lanes: worn, and what is known besides.
        ticks: positions of the lines across and their labels, which belong to the middle of a day in calendar weeks.
        calendar: whether it spans Monday to Sunday.
        outside: readings that a clock set back has put before the week; they are not drawn.
    """

    span: str
    line: str
    steps: str
    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[float, float, str], ...]
    calendar: bool
    outside: int


@dataclass(frozen=True)
class _Axis:
    """Local time from `start` to `end`, in microseconds."""

    start: int
    end: int
    calendar: bool

    def place(self, time: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return (time - self.start).astype(np.float64) * (WIDTH / (self.end - self.start))


def in_calendar_weeks(weeks: Weeks) -> bool:
    """Return whether all weeks begin on a Monday at 00:00, as those of `--by week` do."""
    start = pl.col("start")
    return bool(weeks.table.select(((start.dt.weekday() == 1) & (start.dt.truncate("1d") == start)).all()).item())


def common_scale(weeks: Weeks, rows: Sequence[int]) -> Scale:
    """Return a scale that holds nearly all of some weeks."""
    calendar = in_calendar_weeks(weeks)
    rates = np.concatenate([weeks.week(row)[:, 0] for row in rows])
    rates = rates[~np.isnan(rates)]
    low, high = np.quantile(rates, [0.001, 0.999]) if len(rates) else (50, 110)
    steps = [_binned_steps(weeks, row, _axis(weeks, row, calendar))[0] for row in rows]
    return Scale(
        low=min(int(low // 10 * 10), 50),
        high=max(int(-(-high // 10) * 10), 110),
        steps=_round_up(np.concatenate(steps)),
    )


def week_picture(weeks: Weeks, row: int, scale: Scale) -> WeekPicture:
    """Return the picture of one week; on an axis of its own if it is no calendar week."""
    axis = _axis(weeks, row, in_calendar_weeks(weeks))
    local, readings = _of(weeks, row)
    inside = (local >= axis.start) & (local <= axis.end)
    span, line = _rates(local[inside], readings[inside, 0].astype(np.float64), axis, scale)
    counts, width = _binned_steps(weeks, row, axis)
    return WeekPicture(
        span=span,
        line=line,
        steps=_bars(counts, width * WIDTH / (axis.end - axis.start), scale.steps),
        lanes=_lanes(weeks, row, axis),
        ticks=_ticks(axis),
        calendar=axis.calendar,
        outside=int((~inside).sum()),
    )


def _axis(weeks: Weeks, row: int, calendar: bool) -> _Axis:
    if calendar:
        start = int((weeks.table["start"][row] - datetime(1970, 1, 1)) / timedelta(microseconds=1))
        return _Axis(start, start + 7 * _DAY, calendar=True)
    local, _ = _of(weeks, row)
    return _Axis(int(local.min()), max(int(local.max()), int(local.min()) + _SECOND), calendar=False)


def _of(weeks: Weeks, row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    return np.asarray(weeks.local_time[weeks.offsets[row] : weeks.offsets[row + 1]]), weeks.week(row)


def _rates(local: npt.NDArray[np.int64], rate: npt.NDArray[np.float64], axis: _Axis, scale: Scale) -> tuple[str, str]:
    """Return span and line; of the readings of a column only the lowest, the median and the highest are drawn."""
    known = ~np.isnan(rate)
    rate, column = rate[known], np.minimum(axis.place(local[known]).astype(np.int64), WIDTH - 1)
    order = np.lexsort((rate, column))
    rate, column = rate[order], column[order]
    first = np.flatnonzero(np.diff(column, prepend=-1))
    count = np.diff(first, append=len(column))
    at = column[first]
    lowest, middle, highest = (scale.rate(rate[first + skip]) for skip in (0 * count, count // 2, count - 1))
    span = "".join(f"M{x} {y:.0f}V{top:.0f}" for x, y, top in zip(at, lowest, highest, strict=True) if y - top >= 1)
    apart = WEAR_GAP_SECONDS * _SECOND * WIDTH / (axis.end - axis.start)
    new = np.append(True, np.diff(at) > max(apart, 1))[: len(at)]
    alone = new & np.append(new[1:], True)
    line = "".join(
        f"{'M' if begins else 'L'}{x} {y:.0f}{'h.1' if single else ''}"
        for x, y, begins, single in zip(at, middle, new, alone, strict=True)
    )
    return span, line


def _binned_steps(weeks: Weeks, row: int, axis: _Axis) -> tuple[npt.NDArray[np.float64], int]:
    """Return the steps of each stretch of time, and its length in microseconds."""
    local, readings = _of(weeks, row)
    length = axis.end - axis.start
    width = 1800 * _SECOND if axis.calendar else next(t for t in TICKS if t * _SECOND * 340 >= length) * _SECOND
    steps = readings[:, 1]
    inside = (local >= axis.start) & (local <= axis.end) & ~np.isnan(steps)
    # A count belongs to the time before its reading, so one on the edge belongs to the stretch that ends there.
    stretch = np.maximum(local[inside] - axis.start - 1, 0) // width
    return np.bincount(stretch, steps[inside], minlength=-(-length // width)).astype(np.float64), width


def _bars(counts: npt.NDArray[np.float64], width: float, most: int) -> str:
    heights = STEPS_HEIGHT * np.minimum(counts / max(most, 1), 1)
    return "".join(
        f"M{i * width:.1f} {STEPS_HEIGHT:g}v{-height:.1f}h{width * 0.86:.1f}v{height:.1f}z"
        for i, height in enumerate(heights)
        if height >= 0.05
    )


def _lanes(weeks: Weeks, row: int, axis: _Axis) -> tuple[Lane, ...]:
    local, readings = _of(weeks, row)
    before = np.nan_to_num(readings[:, 2].astype(np.float64), nan=np.inf)
    worn = before <= WEAR_GAP_SECONDS
    begin = local - np.where(worn, before * _SECOND, 0).astype(np.int64)
    lanes = [Lane("worn", _bands(begin[worn], local[worn], axis), "")]
    for name, annotation in weeks.annotations.items():
        here = np.asarray(annotation[weeks.offsets[row] : weeks.offsets[row + 1]])
        true = here == 1
        # From the reading before, if that is part of it too, so that what lasts is one band.
        joined = true & np.roll(true, 1) & worn
        path = _bands(np.where(joined, begin, local)[true], local[true], axis)
        note = "not recorded" if (here == UNKNOWN).all() else ""
        lanes.append(Lane(_NAMES.get(name, name.replace("_", " ")), path, note))
    return tuple(lanes)


def _bands(begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], axis: _Axis) -> str:
    """Return rectangles over the stretches of time, those that touch in one; each at least half a unit wide."""
    left, right = (np.clip(axis.place(edge), 0, WIDTH) for edge in (begin, end))
    keep = (end >= axis.start) & (begin <= axis.end)
    left, right = left[keep], right[keep]
    order = np.argsort(left, kind="stable")
    left, right = left[order], np.maximum.accumulate(right[order])
    first = np.flatnonzero(np.append(True, left[1:] > right[:-1] + 0.25)[: len(left)])
    last = np.append(first[1:], len(left))[: len(first)] - 1
    return "".join(
        f"M{x:.1f} 0h{max(to - x, 0.5):.1f}v{LANE_HEIGHT:g}h{-max(to - x, 0.5):.1f}z"
        for x, to in zip(left[first], right[last], strict=True)
    )


def _ticks(axis: _Axis) -> tuple[tuple[float, float, str], ...]:
    """Return where a line goes, where its label goes, and the label."""
    if axis.calendar:
        day = WIDTH / 7
        labels = [_moment(axis.start + i * _DAY).strftime("%a %d %b") for i in range(7)]
        return tuple((i * day, (i + 0.5) * day, label) for i, label in enumerate(labels))
    step = next(t for t in TICKS if t * _SECOND * 9 >= axis.end - axis.start) * _SECOND
    form = "%H:%M:%S" if step < 60 * _SECOND else "%H:%M" if step < _DAY else "%d %b %Y"
    times = np.arange(-(-axis.start // step) * step, axis.end + 1, step)
    places = axis.place(times)
    return tuple(
        (float(x), float(min(max(x, 24), WIDTH - 24)), _moment(int(time)).strftime(form))
        for x, time in zip(places, times, strict=True)
    )


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=microseconds)


def _round_up(values: npt.NDArray[np.float64]) -> int:
    """Return the next 1, 2 or 5 with zeros above nearly all values that are not 0; 0 if all are."""
    values = values[values > 0]
    if len(values) == 0:
        return 0
    most = max(float(np.quantile(values, 0.98)), 1.0)
    power = 10.0 ** np.floor(np.log10(most))
    return int(next(each * power for each in (1, 2, 5, 10) if each * power >= most))
