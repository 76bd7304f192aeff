"""What is known of a week beside what a network does in it: readings, cadence, local time, sleep, workouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

DENSE_SECONDS = 15.0
"""A reading at most this long after the one before is dense: in workout mode a watch measures every 5 s."""

SPARSE_SECONDS = 60.0, 1800.0
"""A reading this long after the one before is sparse: at rest a watch measures every 5 min; longer is not worn."""

_DAY = 86_400 * 1_000_000
_MOST_TRACES = 8


@dataclass(frozen=True)
class KnownWeek:
    """What is known of one week, reading by reading; NaN is unknown.

    Attributes:
        traces: what was measured, by name, the first one drawn as a line: `heart_rate` in bpm and `steps`, or the
            channels of a foreign network as it sees them.
        dt: seconds since the reading before; None if nobody knows.
        local_time: microseconds of the local wall clock; None if nobody knows.
        marks: what is known of each moment, 1, 0 or NaN: `asleep`, `in_workout` …
        name: which week, for titles.
        along: what stands one after the other.
    """

    traces: Mapping[str, Float64[np.ndarray, " reading"]]
    dt: Float64[np.ndarray, " reading"] | None = None
    local_time: Int64[np.ndarray, " reading"] | None = None
    marks: Mapping[str, Float64[np.ndarray, " reading"]] = field(default_factory=dict)
    name: str = ""
    along: str = "readings"

    def __len__(self) -> int:
        return len(next(iter(self.traces.values())))

    @property
    def heart_rate(self) -> Float64[np.ndarray, " reading"] | None:
        """Return heart rate at each reading, the last known where there is none."""
        return carried(self.traces["heart_rate"]) if "heart_rate" in self.traces else None

    @property
    def days(self) -> Float64[np.ndarray, " reading"] | None:
        """Return days since the midnight before the first reading (without a clock: since the first reading)."""
        if self.local_time is not None:
            since: Float64[np.ndarray, " reading"] = (self.local_time - self.local_time[0] // _DAY * _DAY) / _DAY
            return since
        if self.dt is None or np.isnan(self.dt[1:]).all():
            return None
        found: Float64[np.ndarray, " reading"] = np.cumsum(np.nan_to_num(self.dt)) / 86_400
        return found

    @property
    def dense(self) -> Bool[np.ndarray, " reading"]:
        """Tell which readings are in a dense stretch, such as a workout."""
        return np.zeros(len(self), bool) if self.dt is None else np.nan_to_num(self.dt, nan=np.inf) <= DENSE_SECONDS

    @property
    def sparse(self) -> Bool[np.ndarray, " reading"]:
        """Tell which readings come at the cadence of rest."""
        if self.dt is None:
            return np.zeros(len(self), bool)
        dt = np.nan_to_num(self.dt, nan=np.inf)
        found: Bool[np.ndarray, " reading"] = (dt >= SPARSE_SECONDS[0]) & (dt <= SPARSE_SECONDS[1])
        return found


def signals_of(week: KnownWeek) -> dict[str, Float64[np.ndarray, " reading"]]:
    """Return what a unit may stand for, by name, at each reading; NaN where unknown.

    - each trace (of more than eight, the first eight), missing heart rates as the last known, missing steps as 0;
    - `cadence`: log10 of seconds since the reading before;
    - each mark: `asleep`, `in_workout` …, 1 and 0;
    - `hour_noon` and `hour_evening`: the hour of day as two waves, highest at 12 and at 18 o'clock, since its number
      jumps at midnight.
    """
    found = {name: carried(values) for name, values in list(week.traces.items())[:_MOST_TRACES]}
    if "steps" in found and not np.isnan(week.traces["steps"]).all():
        found["steps"] = np.nan_to_num(week.traces["steps"])
    if week.dt is not None and "cadence" not in found:
        found.pop("dt", None)
        found["cadence"] = np.log10(np.maximum(carried(week.dt), 1.0))
    found.update(week.marks)
    if week.local_time is not None:
        turn = week.local_time % _DAY / _DAY * 2 * np.pi
        found["hour_noon"], found["hour_evening"] = -np.cos(turn), -np.sin(turn)
    return found


def no_signals(_: KnownWeek) -> Mapping[str, Float64[np.ndarray, " reading"]]:
    """Return nothing: no signals of one's own (a lambda could not be sent to another process)."""
    return {}


def carried(values: Float64[np.ndarray, " reading"]) -> Float64[np.ndarray, " reading"]:
    """Return the last known value where there is none, and before the first known value that one."""
    known = ~np.isnan(values)
    if not known.any():
        return values
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))
    found = values[last]
    return np.where(np.isnan(found), values[known.argmax()], found)


def at_positions(values: Float64[np.ndarray, " reading"], positions: int) -> Float64[np.ndarray, " position"]:
    """Return the mean of the readings that each position of a pooled layer holds; NaN where none is known.

    Position `p` holds readings from `p` to `p + 1` times the ratio of the two, rounded; equal numbers change nothing.
    """
    if positions == len(values):
        return values
    start = np.minimum(np.floor(np.arange(positions + 1) * len(values) / positions).astype(int), len(values) - 1)
    known = ~np.isnan(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    end = np.maximum(np.append(start[1:-1], len(values)), start[:-1] + 1)
    number = count[end] - count[start[:-1]]
    return np.where(number > 0, (total[end] - total[start[:-1]]) / np.maximum(number, 1), np.nan)
