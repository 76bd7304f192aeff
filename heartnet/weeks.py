"""User-weeks: the container that the model is fed from, and the cutting of readings into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

CHANNELS: tuple[str, ...] = ("heart_rate", "steps", "dt")
"""Columns of `Weeks.readings`: beats a minute, count since the reading before, seconds since the reading before."""

MAX_READINGS = 4096
"""Longest week; a longer one is thinned (Mantas Matelis & Avesh Singh, "Debuggable Deep Learning": 4,096 steps)."""

WEAR_GAP_SECONDS = 1800.0
"""A pause longer than this between two readings counts as not worn."""


@dataclass(frozen=True)
class Weeks:
    """User-weeks in memory or memory-mapped from a store; week `i` is rows `offsets[i]:offsets[i + 1]`.

    Attributes:
        readings: float32, `[reading, channel]`, in natural units, channels as in `CHANNELS`; NaN is missing. The
            first reading of each week has no `dt`.
        local_time: int64, `[reading]`, local wall-clock time in microseconds since 1970-01-01 00:00 local.
        offsets: int64, `[week + 1]`.
        table: one row a week: `user_id` (String), `start` (Datetime, local), `readings` (Int64), `wear_hours`
            (Float64), `device` (String or null), `age` (years), `sex` ("female", "male" or null), `bmi` (kg/m²), one
            Int8 column a condition (1, 0 or null), and in simulated weeks columns `true_…`.
        conditions: names of the label columns, in canonical order.
        truth: per-reading arrays known only of simulated weeks: `asleep`, `in_workout` (uint8, `[reading]`), …
        provenance: where the weeks come from: `kind` ("simulated" or "prepared"), options, sources.
    """

    readings: npt.NDArray[np.float32]
    local_time: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    table: pl.DataFrame
    conditions: tuple[str, ...]
    truth: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def week(self, index: int) -> npt.NDArray[np.float32]:
        """Return the readings of one week, `[time, channel]`."""
        return self.readings[self.offsets[index] : self.offsets[index + 1]]

    @property
    def simulated(self) -> bool:
        return self.provenance.get("kind") == "simulated"
