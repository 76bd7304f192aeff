"""User-weeks: the container that the model is fed from, and the cutting of readings into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.events import UNKNOWN as UNKNOWN
from heartnet.events import annotate
from heartnet.spool import MONDAY, WEEK
from heartnet.thinning import fold_steps, thin

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
            Int8 column a condition (1, 0 or null), in prepared weeks `utc_offset` (seconds, of the first reading;
            0 where the export gives none), and in simulated weeks columns `true_…`.
        conditions: names of the label columns, in canonical order.
        annotations: what is known of each reading's moment and no input of a network: `asleep`, `in_workout` (uint8,
            `[reading]`; 1, 0 or `UNKNOWN`). In simulated weeks they are the truth, and there are more, as `in_af`.
        provenance: where the weeks come from: `kind` ("simulated" or "prepared"), options, sources.
    """

    readings: npt.NDArray[np.float32]
    local_time: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    table: pl.DataFrame
    conditions: tuple[str, ...]
    annotations: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def week(self, index: int) -> npt.NDArray[np.float32]:
        """Return the readings of one week, `[time, channel]`."""
        return self.readings[self.offsets[index] : self.offsets[index + 1]]

    @property
    def simulated(self) -> bool:
        return self.provenance.get("kind") == "simulated"


def cut_weeks(
    readings: pl.DataFrame,
    *,
    by: Literal["week"] | int = "week",
    min_wear_hours: float | None = None,
    min_readings: int = 1,
    account: Account | None = None,
    events: pl.DataFrame | None = None,
    devices: Sequence[str] = ("",),
    provenance: Mapping[str, object] | None = None,
) -> Weeks:
    """Cut readings into user-weeks and drop those with too little in them.

    A calendar week begins on Monday at 00:00 local time; each reading belongs to the week of its own local time, and
    stands in it by UTC, so that a clock set back (travel, the end of summer time) breaks no order: `dt` is never
    negative, only local time goes back. A week longer than `MAX_READINGS` is thinned (`heartnet.thinning`), its wear
    hours being those before.

    Args:
        readings: as `heartnet.readings.clean` returns them.
        by: `"week"`, or N for consecutive runs of N readings a person; what is left over at the end is dropped.
        min_wear_hours: least sum of the pauses of up to `WEAR_GAP_SECONDS` between readings; `None` is 24 for
            calendar weeks and 0 for runs.
        min_readings: least number of readings with a heart rate.
        account: notes what came in, was dropped and is left, of readings and weeks.
        events: spans of sleep and workouts (`heartnet.intake.EVENT_SCHEMA`), which become annotations; with None there
            are none.
        devices: names, by the numbers in `readings`; a week's is the one that measured most of its heart rates.
        provenance: kept in the result.

    Returns:
        The weeks; none, if none is left.

    Raises:
        HeartnetError: if N is not within 2–`MAX_READINGS`.
    """
    if by != "week" and not 2 <= by <= MAX_READINGS:
        raise HeartnetError(f"runs of {by} readings: expected 'week' or a number from 2 to {MAX_READINGS:,}")
    account = Account() if account is None else account
    if min_wear_hours is None:
        min_wear_hours = 24.0 if by == "week" else 0.0
    readings = _in_order(readings, by)
    time = readings["time"].dt.timestamp("us").to_numpy()
    offset = readings["utc_offset"].cast(pl.Int64).to_numpy() * 1_000_000
    local = time + offset if offset.any() else time
    person = readings["user_id"].rle_id().to_numpy().astype(np.int64)
    heart_rate = readings["heart_rate"].fill_null(np.nan).to_numpy()
    steps = readings["steps"].fill_null(np.nan).to_numpy()

    starts = _week_starts(person, local) if by == "week" else _run_starts(person, by)
    sizes = np.diff(starts, append=len(time))
    wear = _wear_hours(time, starts)
    rates = np.add.reduceat((~np.isnan(heart_rate)).astype(np.int64), starts)
    kept = _account_for_weeks(
        account,
        sizes,
        {
            f"dropped: less than {by} readings left at a person's end": sizes < (0 if by == "week" else by),
            f"dropped: worn less than {min_wear_hours:g} h": wear < min_wear_hours,
            f"dropped: fewer than {min_readings:,} readings with a heart rate": rates < min_readings,
        },
    )
    rows, steps, lengths = _thinned(time, heart_rate, steps, starts, sizes, kept, account)
    account.add("readings", "left", len(rows))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    table = pl.DataFrame(
        {
            "user_id": readings["user_id"].gather(starts[kept]).cast(pl.String),
            "start": pl.Series(_start(local[starts[kept]], by)).cast(pl.Datetime("us")),
            "readings": pl.Series(lengths, dtype=pl.Int64),
            "wear_hours": wear[kept],
            "utc_offset": readings["utc_offset"].gather(starts[kept]),
            "device": _devices(readings, heart_rate, starts, sizes, devices).filter(pl.Series(kept)),
        }
    ).with_columns(
        pl.lit(None, pl.Float64).alias("age"),
        pl.lit(None, pl.String).alias("sex"),
        pl.lit(None, pl.Float64).alias("bmi"),
    )
    whole = len(rows) == len(time)
    if not whole:
        time, local, heart_rate, steps = time[rows], local[rows], heart_rate[rows], steps[rows]
    annotations = {} if events is None else annotate(time, table["user_id"], offsets, events)
    channels = _channels(time, heart_rate, steps, offsets)
    return Weeks(channels, local, offsets, table, (), annotations, dict(provenance or {}))


def _in_order(readings: pl.DataFrame, by: Literal["week"] | int) -> pl.DataFrame:
    """Return the readings with each calendar week in one piece, also where a clock was set back over midnight."""
    if by != "week":
        return readings
    local = (readings["time"].dt.timestamp("us") + readings["utc_offset"].cast(pl.Int64) * 1_000_000).to_numpy()
    week = (local - MONDAY) // WEEK
    back = np.flatnonzero(week[1:] < week[:-1])
    user = readings["user_id"]
    if not (user.gather(back) == user.gather(back + 1)).any():
        return readings
    number = readings["user_id"].rle_id()
    return readings.with_columns(number=number, week=pl.Series(week)).sort("number", "week", maintain_order=True)


def _week_starts(person: npt.NDArray[np.int64], local: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    week = (local - MONDAY) // WEEK
    opens = (week[1:] != week[:-1]) | (person[1:] != person[:-1])
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(opens) + 1])


def _run_starts(person: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    firsts = np.flatnonzero(np.diff(person, prepend=-1))
    ends = np.append(firsts[1:], len(person))
    return np.concatenate([np.arange(first, end, length) for first, end in zip(firsts, ends, strict=True)])


def _devices(
    readings: pl.DataFrame,
    heart_rate: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    names: Sequence[str],
) -> pl.Series:
    """Return for each week the name of the device that measured most of its heart rates, null if it is not known."""
    device = readings["device"].to_numpy()
    measured = ~np.isnan(heart_rate)
    counts = [np.add.reduceat((measured & (device == number)).astype(np.int64), starts) for number in range(len(names))]
    most = np.argmax(np.stack(counts), axis=0) if len(names) > 1 else np.zeros(len(sizes), np.int64)
    found = pl.Series(names, dtype=pl.String).gather(most)
    return found.set(found == "", None)


def _wear_hours(time: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    pause = np.diff(time, prepend=time[:1])
    pause[starts] = 0
    pause[pause > WEAR_GAP_SECONDS * 1e6] = 0
    return np.add.reduceat(pause, starts) / 3.6e9


def _start(first: npt.NDArray[np.int64], by: Literal["week"] | int) -> npt.NDArray[np.int64]:
    return (first - MONDAY) // WEEK * WEEK + MONDAY if by == "week" else first


def _account_for_weeks(
    account: Account,
    sizes: npt.NDArray[np.int64],
    reasons: Mapping[str, npt.NDArray[np.bool_]],
) -> npt.NDArray[np.bool_]:
    """Return which weeks are kept; a week is dropped for the first reason that applies."""
    kept = np.ones(len(sizes), bool)
    account.add("weeks", "in", len(sizes))
    account.add("readings", "in", int(sizes.sum()))
    for what, applies in reasons.items():
        dropped = kept & applies
        if dropped.any():
            account.add("weeks", what, int(dropped.sum()))
            account.add("readings", what, int(sizes[dropped].sum()))
        kept &= ~applies
    account.add("weeks", "left", int(kept.sum()))
    return kept


def _thinned(
    time: npt.NDArray[np.int64],
    heart_rate: npt.NDArray[np.float32],
    steps: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    kept: npt.NDArray[np.bool_],
    account: Account,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the rows of the kept weeks, at most `MAX_READINGS` each, the steps of all rows, and the weeks' lengths."""
    keep_row = np.repeat(kept, sizes)
    lengths = sizes.copy()
    long = np.flatnonzero(kept & (sizes > MAX_READINGS))
    steps = steps.copy() if len(long) else steps
    for week in long:
        rows = slice(starts[week], starts[week] + sizes[week])
        chosen = thin(time[rows], heart_rate[rows], MAX_READINGS)
        keep_row[rows] = False
        keep_row[starts[week] + chosen] = True
        steps[starts[week] + chosen] = fold_steps(steps[rows], chosen)
        lengths[week] = len(chosen)
    if len(long):
        what = f"thinned to {MAX_READINGS:,} readings at most"
        account.add("weeks", f"noted: {what}", len(long))
        account.add("readings", f"merged: {what} a week", int((sizes - lengths)[long].sum()))
    return np.flatnonzero(keep_row), steps, lengths[kept]


def _channels(
    time: npt.NDArray[np.int64],
    heart_rate: npt.NDArray[np.float32],
    steps: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    channels = np.empty((len(time), len(CHANNELS)), np.float32)
    channels[:, 0] = heart_rate
    channels[:, 1] = steps
    channels[:, 2] = np.diff(time, prepend=time[:1]) / 1e6
    channels[offsets[:-1], 2] = np.nan
    return channels
