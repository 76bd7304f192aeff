"""User-weeks: the container that the model is fed from, and the cutting of readings into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.thinning import fold_steps, thin

CHANNELS: tuple[str, ...] = ("heart_rate", "steps", "dt")
"""Columns of `Weeks.readings`: beats a minute, count since the reading before, seconds since the reading before."""

MAX_READINGS = 4096
"""Longest week; a longer one is thinned (Mantas Matelis & Avesh Singh, "Debuggable Deep Learning": 4,096 steps)."""

WEAR_GAP_SECONDS = 1800.0
"""A pause longer than this between two readings counts as not worn."""

UNKNOWN = 255
"""In `Weeks.annotations`: nobody knows, for example in a week in which no sleep was recorded."""

_WEEK = 7 * 86_400_000_000
_MONDAY = 4 * 86_400_000_000  # 1970-01-05 was the first Monday


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
    provenance: Mapping[str, object] | None = None,
) -> Weeks:
    """Cut readings into user-weeks and drop those with too little in them.

    A calendar week begins on Monday at 00:00 local time; once a person's new week has begun, a clock set back does
    not return to the old one. A week longer than `MAX_READINGS` is thinned (`heartnet.thinning`), its wear hours
    being those before.

    Args:
        readings: as `heartnet.readings.clean` returns them.
        by: `"week"`, or N for consecutive runs of N readings a person; what is left over at the end is dropped.
        min_wear_hours: least sum of the pauses of up to `WEAR_GAP_SECONDS` between readings; `None` is 24 for
            calendar weeks and 0 for runs.
        min_readings: least number of readings with a heart rate.
        account: notes what came in, was dropped and is left, of readings, weeks and people.
        provenance: kept in the result.

    Raises:
        HeartnetError: if no week is left, or N is not within 2–`MAX_READINGS`.
    """
    if by != "week" and not 2 <= by <= MAX_READINGS:
        raise HeartnetError(f"runs of {by} readings: expected 'week' or a number from 2 to {MAX_READINGS:,}")
    account = Account() if account is None else account
    if min_wear_hours is None:
        min_wear_hours = 24.0 if by == "week" else 0.0
    time = readings["time"].dt.timestamp("us").to_numpy()
    local = time + readings["utc_offset"].cast(pl.Int64).to_numpy() * 1_000_000
    heart_rate = readings["heart_rate"].cast(pl.Float32).fill_null(np.nan).to_numpy()
    steps = readings["steps"].cast(pl.Float32).fill_null(np.nan).to_numpy()

    starts = _week_starts(readings["user_id"], local) if by == "week" else _run_starts(readings["user_id"], by)
    sizes = np.diff(starts, append=len(time))
    wear = _wear_hours(time, starts)
    rates = np.add.reduceat((~np.isnan(heart_rate)).astype(np.int64), starts)
    users = readings["user_id"].gather(starts)
    kept = _account_for_weeks(
        account,
        users,
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
            "user_id": users.filter(pl.Series(kept)),
            "start": pl.Series(_start(local[starts[kept]], by)).cast(pl.Datetime("us")),
            "readings": pl.Series(lengths, dtype=pl.Int64),
            "wear_hours": wear[kept],
            "utc_offset": readings["utc_offset"].gather(starts).filter(pl.Series(kept)),
        }
    ).with_columns(
        pl.lit(None, pl.String).alias("device"),
        pl.lit(None, pl.Float64).alias("age"),
        pl.lit(None, pl.String).alias("sex"),
        pl.lit(None, pl.Float64).alias("bmi"),
    )
    channels = _channels(time[rows], heart_rate[rows], steps[rows], offsets)
    return Weeks(channels, local[rows], offsets, table, conditions=(), provenance=dict(provenance or {}))


def _week_starts(users: pl.Series, local: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    person = users.rle_id().cast(pl.Int64).to_numpy()
    week = (local - _MONDAY) // _WEEK
    key = np.maximum.accumulate(person * (1 << 22) + week + (1 << 21))
    return np.flatnonzero(np.diff(key, prepend=-1))


def _run_starts(users: pl.Series, length: int) -> npt.NDArray[np.int64]:
    runs = users.rle().struct.field("len").to_list()
    firsts = np.concatenate([[0], np.cumsum(runs)[:-1]])
    return np.concatenate([np.arange(first, first + n, length) for first, n in zip(firsts, runs, strict=True)])


def _wear_hours(time: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    pause = np.diff(time, prepend=time[:1])
    pause[starts] = 0
    pause[pause > WEAR_GAP_SECONDS * 1e6] = 0
    return np.add.reduceat(pause, starts) / 3.6e9


def _start(first: npt.NDArray[np.int64], by: Literal["week"] | int) -> npt.NDArray[np.int64]:
    return (first - _MONDAY) // _WEEK * _WEEK + _MONDAY if by == "week" else first


def _account_for_weeks(
    account: Account,
    users: pl.Series,
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
    people, left = users.n_unique(), users.filter(pl.Series(kept)).n_unique()
    account.add("people", "in", people)
    account.note("people", "dropped: no week left", people - left)
    account.add("people", "left", left)
    if not kept.any():
        why = "; ".join(f"{count:,} {what}" for stage, what, count in account if stage == "weeks" and "dropped" in what)
        raise HeartnetError(
            f"no week is left of {len(sizes):,}: {why}. Lower --by N, --min-wear-hours or --min-readings"
        )
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
