"""The readings table: one row a person and moment; its columns, units, and the rules by which bad rows leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.account import Account
from heartnet.intake import Device
from heartnet.steps import near_a_better_one, share_counted_once, time_axis

SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "time": pl.Datetime("us"),
        "utc_offset": pl.Int32(),
        "heart_rate": pl.Float32(),
        "steps": pl.Float32(),
        "device": pl.UInt16(),
    }
)
"""`time` is the UTC instant where the offset is known and else the wall clock as written; local time is `time` plus
`utc_offset` seconds. `heart_rate` in beats a minute, `steps` counted since the reading before; null is missing.
`device` is the number of the device that measured the heart rate, or counted the steps, 0 where it is not known."""

HEART_RATE_RANGE = (20.0, 250.0)
"""Plausible beats a minute, both ends included. Above 250 lies only what a detector makes of noise (the shortest
conduction through the human AV node is near 240 ms); below 20, only missed beats."""

DAY = 86_400_000
"""Milliseconds: steps counted over longer are believed only where nothing else was counted."""

LAST_RANK = 1_000_000
"""Added to the rank of such a count; above that of any device."""


FASTEST_STEPS = 5.0
"""A second; sprinters reach it. An interval may count 50 more, a count without an interval is taken up to 100,000."""

SAME_RANK = 1000
"""Devices of one rank that are told apart."""


@dataclass(frozen=True)
class RawReadings:
    """Readings as written, whole weeks or whole people of them.

    Attributes:
        frame: columns of `heartnet.intake.RAW_SCHEMA`, and `week` (Int32), the number of the calendar week of local
            time, in which overlaps are looked for. `user_id` may be an Enum.
        files: names of the files, by number.
        devices: devices, by number.
    """

    frame: pl.DataFrame
    files: Sequence[str]
    devices: Sequence[Device] = (Device("", 0),)

    def places(self, where: pl.Series, column: str, limit: int) -> list[str]:
        """Return up to `limit` descriptions, `"hr.csv row 12: heart_rate 900"`, of the rows where `where` is true."""
        rows = self.frame.filter(where).head(limit).select("file", "row", column, "utc_offset").rows()
        return [
            f"{self.place(file, row)}: {column} {_clock(value, offset) if column == 'time' else _plain(value)}"
            for file, row, value, offset in rows
        ]

    def place(self, file: int | None, row: int | None) -> str:
        return f"{'' if file is None else self.files[file]}{'' if row is None else f' row {row}'}"


def clean(raw: RawReadings, account: Account, heart_rate_range: tuple[float, float] = HEART_RATE_RANGE) -> pl.DataFrame:
    """Return the readings, sorted by person, week and time, one row a person and time; account for every row lost.

    A heart rate outside the range, a negative step count or more steps than legs can do become missing; a row in which
    nothing was measured (no heart rate, and no steps or 0) is dropped. Each step is counted once
    (`heartnet.steps.share_counted_once`), and a heart rate near one of a better device is dropped; of devices of one
    rank, the better is the one that measured more heart rates in the week. Of several rows at one moment, one is left:
    those of the best device are believed; its heart rate is the mean of theirs, its steps the highest count, or the
    sum of the shares of intervals that end there.

    Returns:
        A frame of `SCHEMA`, and `week`; `user_id` as it came.

    Raises:
        HeartnetError: with a strict account, at the first bad row.
    """
    raw = _without_bad_values(raw, account, heart_rate_range)
    measured = (pl.col("heart_rate").is_not_null() | (pl.col("steps") > 0)).fill_null(False)
    frame = raw.frame.filter(measured)
    account.note("rows", "dropped: no heart rate, and no steps or 0", raw.frame.height - frame.height)
    raw = replace(raw, frame=_sorted(frame))
    _note_mixed_clocks(raw, account)
    raw = _each_step_once(raw, account)
    frame = _merged(raw, account)
    account.add("rows", "left", frame.height)
    return frame


def _without_bad_values(raw: RawReadings, account: Account, heart_rate_range: tuple[float, float]) -> RawReadings:
    low, high = heart_rate_range
    raw = replace(raw, frame=raw.frame.with_columns(pl.col("heart_rate", "steps").fill_nan(None)))
    frame = raw.frame
    implausible = ~frame["heart_rate"].is_between(low, high).fill_null(True)
    negative = ~(frame["steps"].is_between(0, float("inf"), closed="left").fill_null(True))
    span = pl.col("duration").fill_null(0)
    most = pl.when(span > 0).then(FASTEST_STEPS * span + 50).otherwise(100_000)
    many = frame.select((pl.col("steps") > most).fill_null(False)).to_series()
    for column, bad, what in (
        ("heart_rate", implausible, f"dropped: heart rate outside {low:g}–{high:g} bpm"),
        ("steps", negative, "dropped: steps below 0"),
        ("steps", many & ~negative, f"dropped: more than {FASTEST_STEPS:g} steps a second, or 100,000 at once"),
    ):
        if bad.any():
            account.bad("values", what, int(bad.sum()), raw.places(bad, column, account.max_examples))
            frame = frame.with_columns(pl.when(~bad).then(pl.col(column)))
    return replace(raw, frame=frame)


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    user, week, time = (frame[name].to_physical().to_numpy() for name in ("user_id", "week", "time"))
    if frame["user_id"].dtype == pl.String:
        return frame.sort("user_id", "week", "time", maintain_order=True)
    rising = (time[1:] >= time[:-1]) & (week[1:] == week[:-1]) | (week[1:] > week[:-1])
    if ((rising & (user[1:] == user[:-1])) | (user[1:] > user[:-1])).all():
        return frame
    return frame.sort("user_id", "week", "time", maintain_order=True)


def _note_mixed_clocks(raw: RawReadings, account: Account) -> None:
    """Note readings whose local time is that of UTC, where others of the person's week have a place of their own."""
    frame = raw.frame
    if frame.is_empty() or (frame["utc_offset"].null_count() in (0, frame.height) and frame["instant"].n_unique() < 2):
        return
    wall, nowhere = ~pl.col("instant"), pl.col("instant") & pl.col("utc_offset").is_null()
    mixed = (rows & (~rows).any().over("user_id", "week") for rows in (wall, nowhere))
    rows, utc = frame.select(*(each.alias(name) for name, each in zip(("wall", "utc"), mixed, strict=True)))
    what = "noted: time without an offset, where others of the person have one (taken as UTC; see --time-zone)"
    account.bad("rows", what, int(rows.sum()), raw.places(rows, "time", account.max_examples))
    what = "noted: UTC taken as local time, where others of the person have an offset (see --time-zone)"
    account.note("rows", what, int(utc.sum()), raw.places(utc, "time", account.max_examples))


def _each_step_once(raw: RawReadings, account: Account) -> RawReadings:
    """Settle intervals of steps that overlap, and heart rates of several devices."""
    frame = raw.frame
    several = frame["device"].n_unique() > 1
    if frame.is_empty() or not (several or (frame["duration"] > 0).any()):
        return raw
    frame = frame.with_columns(group=pl.struct("user_id", "week").rle_id())
    rank = np.array([device.rank for device in raw.devices])[frame["device"].to_numpy()]
    group = frame["group"].to_numpy().astype(np.int64)
    end = frame["time"].dt.timestamp("ms").to_numpy()
    start = end - (1000 * frame["duration"].fill_null(0.0).clip(0).to_numpy()).astype(np.int64)
    axis = time_axis(group, start, end)
    # A count of days (a clock was reset, a total of the week) tells nothing of the hours: believed after all others.
    belief = _belief(frame, rank) if several else rank
    order = np.where(end - start > DAY, belief + LAST_RANK * SAME_RANK, belief)

    share = np.ones(frame.height)
    counted = np.flatnonzero((frame["steps"] > 0).fill_null(False).to_numpy())
    if len(counted):
        steps = frame["steps"].gather(counted).to_numpy()
        at = (start + axis)[counted], (end + axis)[counted]
        moments = (at[0] == at[1]) & ~several
        share[counted] = np.where(moments, 1.0, share_counted_once(*at, order[counted], steps))
    near = np.zeros(frame.height, bool)
    measured = np.flatnonzero(frame["heart_rate"].is_not_null().to_numpy())
    if several and len(measured):
        near[measured] = near_a_better_one((end + axis)[measured], belief[measured])
    before = frame.select(pl.col("steps").cast(pl.Float64).sum()).item()
    frame = frame.with_columns(
        heart_rate=pl.when(pl.Series(~near)).then(pl.col("heart_rate")),
        steps=pl.when(pl.Series(share > 0)).then((pl.col("steps") * pl.Series(share)).cast(pl.Float32)),
    ).drop("group")
    again = round(before - frame.select(pl.col("steps").cast(pl.Float64).sum()).item())
    account.note("steps", "dropped: counted by another device, or twice (watch first)", again)
    left = frame["heart_rate"].is_not_null() | (frame["steps"] > 0).fill_null(False)
    what = "merged: measured by a better device too (steps in an interval, heart rates within 30 s)"
    account.note("rows", what, int((~left).sum()), raw.places(~left, "time", account.max_examples))
    return replace(raw, frame=frame.filter(left))


def _belief(frame: pl.DataFrame, rank: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return an order of devices for each row: by rank, and among equals by who measured more heart rates that week."""
    keys = frame.select("group", "device", measured=pl.col("heart_rate").is_not_null()).with_columns(
        rank=pl.Series(rank)
    )
    devices = keys.group_by("group", "rank", "device").agg(pl.col("measured").sum())
    devices = devices.sort("group", "rank", -pl.col("measured").cast(pl.Int64), "device")
    place = devices.with_columns(place=pl.int_range(pl.len()).over("group", "rank"))
    found = keys.join(place, on=["group", "rank", "device"], how="left", maintain_order="left")
    belief: npt.NDArray[np.int64] = rank * SAME_RANK + found["place"].to_numpy()
    return belief


def _merged(raw: RawReadings, account: Account) -> pl.DataFrame:
    columns = [*SCHEMA.names(), "week"]
    frame = raw.frame.with_columns(pl.col("utc_offset").fill_null(0))
    time, user = (frame[name].to_physical() for name in ("time", "user_id"))
    again = ((time == time.shift()) & (user == user.shift())).fill_null(False)
    if not again.any():
        return frame.select(columns)
    several = again | again.shift(-1, fill_value=False)
    rank = pl.Series("rank", np.array([device.rank for device in raw.devices])[frame["device"].to_numpy()])
    doubled = frame.with_columns(rank).filter(several)
    hr, steps, spans = pl.col("heart_rate"), pl.col("steps"), pl.col("duration").fill_null(0) > 0
    best_hr = hr.filter(pl.col("rank") == pl.col("rank").filter(hr.is_not_null()).min()).drop_nulls()
    moments = steps.filter(~spans & (pl.col("rank") == pl.col("rank").filter(steps.is_not_null() & ~spans).min()))
    total = pl.sum_horizontal(steps.filter(spans).sum(), moments.max().fill_null(0))
    groups = doubled.group_by("user_id", "time", maintain_order=True).agg(
        pl.col("utc_offset", "week").first(),
        best_hr.cast(pl.Float64).mean().cast(pl.Float32),
        pl.when(steps.is_not_null().any()).then(total).cast(pl.Float32).alias("steps"),
        device=pl.col("device").sort_by(hr.is_null(), "rank").first(),
        conflict=(hr.drop_nulls().n_unique() > 1) | (steps.filter(~spans).drop_nulls().n_unique() > 1),
        pair=(hr.count() <= 1) & (steps.count() <= 1),
        merged=pl.len() - 1,
        file=pl.col("file").last(),
        row=pl.col("row").last(),
        values=pl.format(
            "{}, {}",
            hr.drop_nulls().unique(maintain_order=True).cast(pl.String).str.join(" and "),
            steps.drop_nulls().unique(maintain_order=True).cast(pl.String).str.join(" and "),
        ),
    )
    for what, kind in (
        ("merged: heart rate and steps of one moment", pl.col("pair")),
        ("merged: the same reading again", ~pl.col("pair") & ~pl.col("conflict")),
    ):
        account.note("rows", what, int(groups.filter(kind)["merged"].sum()))
    conflicts = groups.filter("conflict", ~pl.col("pair"))
    places = [
        f"{raw.place(file, row)}: {time} has {values.strip(', ')}"
        for file, row, time, values in conflicts.head(3).select("file", "row", "time", "values").rows()
    ]
    what = "merged: different values at one moment (mean heart rate, highest steps)"
    account.bad("rows", what, int(conflicts["merged"].sum()), places)
    return _sorted(pl.concat([frame.filter(~several).select(columns), groups.select(columns)]))


def _clock(time: datetime, offset: int | None) -> str:
    """Return the clock of the person, as files mostly have it, with its offset; as written if that is not known."""
    if offset is None:
        return f"{time} (offset from UTC not known)"
    east = f"{'-' if offset < 0 else '+'}{abs(offset) // 3600:02}:{abs(offset) // 60 % 60:02}"
    return f"{time + timedelta(seconds=offset)} {east}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
