"""The hourly view of a week: for each of its 168 hours by the local clock, a few numbers in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from heartnet.weeks import UNKNOWN, Weeks

PERCENTILES = (10, 25, 50, 75, 90)

HOURLY_UNITS: dict[str, str] = {
    "steps": "count",
    **{f"percentile_{share}": "bpm" for share in PERCENTILES},
    "mean": "bpm",
    "standard_deviation": "bpm",
    "readings": "count",
    "asleep": "share",
    "in_workout": "share",
}

HOURLY: tuple[str, ...] = tuple(HOURLY_UNITS)
"""The features of an hour, in their order; units in `HOURLY_UNITS`.

`steps`: all steps of the hour. `percentile_…`, `mean`, `standard_deviation` (divided by n): of the heart rates
measured in the hour, each counted once, percentiles interpolated between them. `readings`: how many heart rates that
were. `asleep`, `in_workout`: share of the hour's readings of which the data says so, among those of which it knows.
"""

HOURS = 168
"""Hours of a week, from Monday 00:00."""

_HOUR = 3_600_000_000
_MONDAY = 4 * 24 * _HOUR  # 1970-01-05 was the first Monday
_READINGS_AT_ONCE = 1 << 20


def hourly_features(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return `[row, hour, feature]`: hours as in `HOURS`, features as in `HOURLY`, NaN where nothing was measured.

    An hour is that of the week by the local clock, whatever the week is: what a clock set back shows twice falls into
    one hour, an hour that a clock set forward skips is empty, and a run of readings that lasts longer than a week
    (`heartnet prepare --by N`) folds its Mondays together.

    `readings` is never missing: 0 in an hour without any. `steps` is missing in hours without readings, and in
    weeks without any step count; in other hours no count is 0 steps, for devices write nothing where nobody walks.
    `asleep` and `in_workout` are missing where the data does not know, or has no such annotation.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: "total step count, heart rate percentiles over
    the hour, indicator variables", the data grouped into intervals of an hour.
    """
    found = np.empty((len(rows), HOURS, len(HOURLY)), np.float32)
    for part in _parts(np.diff(weeks.offsets)[rows]):
        found[part] = _features(weeks, rows[part])
    return found


def _parts(lengths: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Yield stretches of weeks that hold about as many readings as are worked on at once."""
    at = np.cumsum(lengths) // _READINGS_AT_ONCE
    edges = np.flatnonzero(np.diff(at, prepend=-1))
    yield from map(slice, edges, [*edges[1:], len(lengths)])


def _features(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    lengths = np.diff(weeks.offsets)[rows]
    before = np.cumsum(lengths) - lengths
    index = np.repeat(weeks.offsets[rows] - before, lengths) + np.arange(lengths.sum())
    week = np.repeat(np.arange(len(rows)), lengths)
    cell = week * HOURS + (weeks.local_time[index] - _MONDAY) // _HOUR % HOURS
    cells = len(rows) * HOURS
    readings = weeks.readings[index]
    found = np.full((cells, len(HOURLY)), np.nan, np.float32)
    found[:, 0] = _steps(readings[:, 1], week, cell, cells)
    _fill_heart_rates(found[:, 1:9], readings[:, 0], cell)
    for name, annotation in weeks.annotations.items():
        if name in HOURLY:
            found[:, HOURLY.index(name)] = _share(annotation[index], cell, cells)
    return found.reshape(len(rows), HOURS, len(HOURLY))


def _steps(
    steps: npt.NDArray[np.float32], week: npt.NDArray[np.int64], cell: npt.NDArray[np.int64], cells: int
) -> npt.NDArray[np.float64]:
    total = np.bincount(cell, np.nan_to_num(steps), cells)
    with_steps = np.bincount(week, ~np.isnan(steps), cells // HOURS) > 0
    measured = (np.bincount(cell, minlength=cells) > 0) & np.repeat(with_steps, HOURS)
    return np.where(measured, total, np.nan)


def _fill_heart_rates(
    found: npt.NDArray[np.float32], heart_rate: npt.NDArray[np.float32], cell: npt.NDArray[np.int64]
) -> None:
    """Write percentiles, mean, spread and count of each cell's heart rates into `found`, `[cell, 8]`."""
    known = ~np.isnan(heart_rate)
    rate, cell = heart_rate[known].astype(np.float64), cell[known]
    order = np.lexsort((rate, cell))
    rate, cell = rate[order], cell[order]
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    count = np.diff(first, append=len(cell))
    filled = cell[first]
    for column, share in enumerate(PERCENTILES):
        place = (count - 1) * (share / 100)
        low = place.astype(np.int64)
        below, above = rate[first + low], rate[first + np.minimum(low + 1, count - 1)]
        found[filled, column] = below + (above - below) * (place - low)
    mean = np.add.reduceat(rate, first) / count
    spread = np.sqrt(np.add.reduceat((rate - np.repeat(mean, count)) ** 2, first) / count)
    found[filled, 5], found[filled, 6] = mean, spread
    found[:, 7] = 0
    found[filled, 7] = count


def _share(annotation: npt.NDArray[np.uint8], cell: npt.NDArray[np.int64], cells: int) -> npt.NDArray[np.float64]:
    known = annotation != UNKNOWN
    count = np.bincount(cell[known], minlength=cells)
    total = np.bincount(cell[known], annotation[known], cells)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
