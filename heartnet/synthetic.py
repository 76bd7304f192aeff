"""Synthetic targets: deterministic functions of a week that an architecture should be able to learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.weeks import Weeks

Target = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], float]

_MICROSECONDS_A_DAY = 86_400 * 1_000_000
DAY_STARTS, NIGHT_STARTS, NIGHT_ENDS = 8, 0, 6
"""Local hours: day is 08:00 to 24:00, night is 00:00 to 06:00; the two hours between belong to neither."""

LEAST_READINGS = 30
"""Heart rates that a day part needs before its spread is worth predicting; with fewer the target is missing."""


def day_std_minus_night_std(readings: npt.NDArray[np.float32], local_time: npt.NDArray[np.int64]) -> float:
    """Return std(heart rate by day) − std(heart rate by night), bpm; NaN without enough readings in either.

    The seeds' first synthetic task, made after a published screening for sleep apnea ("4 Ways to Debug your Deep
    Neural Network", Cardiogram 2018). Standard deviations are of the population (divided by n).

    Args:
        readings: `[time, channel]`, natural units.
        local_time: microseconds of the local wall clock.
    """
    hour = (local_time % _MICROSECONDS_A_DAY) / 3.6e9
    rate = readings[:, 0].astype(np.float64)
    known = ~np.isnan(rate)
    day = rate[known & (hour >= DAY_STARTS)]
    night = rate[known & (hour >= NIGHT_STARTS) & (hour < NIGHT_ENDS)]
    if min(len(day), len(night)) < LEAST_READINGS:
        return float("nan")
    return float(day.std() - night.std())


TARGETS: dict[str, tuple[Target, str]] = {"day_std_minus_night_std": (day_std_minus_night_std, "bpm")}
"""Each target's function and unit."""


def synthetic_targets(weeks: Weeks, names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Return `[week, target]`, NaN where a week has not enough data.

    Raises:
        HeartnetError: a name that is not in `TARGETS`.
    """
    for name in names:
        if name not in TARGETS:
            raise HeartnetError(
                f"task.targets: no synthetic target {name!r}; there are {', '.join(TARGETS)}."
                f"{did_you_mean(name, TARGETS)}"
            )
    rows = np.full((len(weeks), len(names)), np.nan, dtype=np.float32)
    for i in range(len(weeks)):
        span = slice(weeks.offsets[i], weeks.offsets[i + 1])
        rows[i] = [TARGETS[name][0](weeks.readings[span], weeks.local_time[span]) for name in names]
    return rows
