"""The readings table: one row a person and moment; its columns, units, and the rules by which bad rows leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError

SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "time": pl.Datetime("us"),
        "utc_offset": pl.Int32(),
        "heart_rate": pl.Float32(),
        "steps": pl.Float32(),
    }
)
"""`time` is the UTC instant where the offset is known and else the wall clock as written; local time is `time` plus
`utc_offset` seconds. `heart_rate` in beats a minute, `steps` counted since the reading before; null is missing."""

RAW_SCHEMA = pl.Schema({**SCHEMA, "file": pl.UInt16(), "row": pl.Int64()})
"""What a source delivers: readings in any order, and where each was written."""

HEART_RATE_RANGE = (20.0, 250.0)
"""Plausible beats a minute, both ends included. Above 250 lies only what a detector makes of noise (the shortest
conduction through the human AV node is near 240 ms); below 20, only missed beats."""


@dataclass(frozen=True)
class RawReadings:
    """What a source read.

    Attributes:
        frame: columns of `RAW_SCHEMA`; `file` indexes `files`, `row` is the row in it (null if it has no rows).
        files: names of the files.
        provenance: what of the source should be kept beside the weeks, for example which column was what.
    """

    frame: pl.DataFrame
    files: tuple[str, ...]
    provenance: Mapping[str, object] = field(default_factory=dict)

    def places(self, where: pl.Series, column: str, limit: int) -> list[str]:
        """Return up to `limit` descriptions, `"hr.csv row 12: heart_rate 900"`, of the rows where `where` is true."""
        rows = self.frame.filter(where).head(limit).select("file", "row", column).rows()
        return [
            f"{self.files[file]}{'' if row is None else f' row {row}'}: {column} {_plain(value)}"
            for file, row, value in rows
        ]


def clean(raw: RawReadings, account: Account, heart_rate_range: tuple[float, float] = HEART_RATE_RANGE) -> pl.DataFrame:
    """Return the readings, sorted by person and time, one row a person and time, and account for every row lost.

    A heart rate outside the range or a negative step count becomes missing; a row in which nothing was measured (no
    heart rate, and no steps or 0) is dropped. Of several rows at one moment, one is left: its heart rate is the mean
    of the heart rates, its steps the highest count (devices that overlap count the same steps).

    Returns:
        A frame of `SCHEMA`.

    Raises:
        HeartnetError: if no reading is left; with a strict account, at the first bad row.
    """
    raw = _without_bad_values(raw, account, heart_rate_range)
    measured = (pl.col("heart_rate").is_not_null() | (pl.col("steps") > 0)).fill_null(False)
    frame = raw.frame.filter(measured)
    account.note("rows", "dropped: no heart rate, and no steps or 0", raw.frame.height - frame.height)
    raw = RawReadings(frame, raw.files)
    _note_backwards(raw, account)
    frame = _merged(RawReadings(_sorted(frame), raw.files), account)
    account.add("rows", "left", frame.height)
    if frame.is_empty():
        reasons = [f"{what}: {count:,}" for stage, what, count in account if "dropped" in what and count]
        examples = [place for places in account.examples.values() for place in places]
        raise HeartnetError(
            f"no reading is left of {', '.join(raw.files)}. {'; '.join(reasons)}"
            + (f". For example {examples[0]}" if examples else "")
        )
    return frame


def _without_bad_values(raw: RawReadings, account: Account, heart_rate_range: tuple[float, float]) -> RawReadings:
    low, high = heart_rate_range
    frame = raw.frame.with_columns(pl.col("heart_rate", "steps").fill_nan(None))
    raw = RawReadings(frame, raw.files)
    implausible = ~frame["heart_rate"].is_between(low, high).fill_null(True)
    if implausible.any():
        places = raw.places(implausible, "heart_rate", account.max_examples)
        what = f"dropped: heart rate outside {low:g}–{high:g} bpm"
        account.bad("values", what, int(implausible.sum()), places)
    negative = ~(frame["steps"].is_between(0, float("inf"), closed="left").fill_null(True))
    if negative.any():
        places = raw.places(negative, "steps", account.max_examples)
        account.bad("values", "dropped: steps below 0", int(negative.sum()), places)
    if not (implausible.any() or negative.any()):
        return raw
    frame = frame.with_columns(
        pl.when(~implausible).then(pl.col("heart_rate")), pl.when(~negative).then(pl.col("steps"))
    )
    return RawReadings(frame, raw.files)


def _note_backwards(raw: RawReadings, account: Account) -> None:
    same = (pl.col("user_id") == pl.col("user_id").shift()) & (pl.col("file") == pl.col("file").shift())
    back = raw.frame.select((same & (pl.col("time") < pl.col("time").shift())).fill_null(False)).to_series()
    if back.any():
        places = raw.places(back, "time", account.max_examples)
        account.bad("rows", "noted: time before the row above (sorted)", int(back.sum()), places)


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    user, time = pl.col("user_id"), pl.col("time")
    ordered = (user > user.shift()) | ((user == user.shift()) & (time >= time.shift()))
    if frame.select(ordered.fill_null(True).all()).item():
        return frame
    return frame.sort("user_id", "time", maintain_order=True)


def _merged(raw: RawReadings, account: Account) -> pl.DataFrame:
    frame = raw.frame
    again = (pl.col("user_id") == pl.col("user_id").shift()) & (pl.col("time") == pl.col("time").shift())
    frame = frame.with_columns(again=again.fill_null(False))
    if not frame["again"].any():
        return frame.select(SCHEMA.names())
    several = (pl.col("again") | pl.col("again").shift(-1, fill_value=False)).alias("several")
    frame = frame.with_columns(several)
    hr, steps = pl.col("heart_rate"), pl.col("steps")
    conflict = (hr.drop_nulls().n_unique() > 1) | (steps.drop_nulls().n_unique() > 1)
    groups = (
        frame.filter("several")
        .group_by("user_id", "time", maintain_order=True)
        .agg(
            pl.col("utc_offset").first(),
            hr.cast(pl.Float64).mean().cast(pl.Float32),
            steps.max(),
            conflict=conflict,
            pair=(hr.count() <= 1) & (steps.count() <= 1),
            merged=pl.len() - 1,
            file=pl.col("file").last(),
            row=pl.col("row").last(),
            values=pl.format("{}, {}", hr.drop_nulls().unique(maintain_order=True).cast(pl.String).str.join(" and "),
                             steps.drop_nulls().unique(maintain_order=True).cast(pl.String).str.join(" and ")),
        )
    )  # fmt: skip
    for what, kind in (
        ("merged: heart rate and steps of one moment", pl.col("pair")),
        ("merged: the same reading again", ~pl.col("pair") & ~pl.col("conflict")),
    ):
        account.note("rows", what, int(groups.filter(kind)["merged"].sum()))
    conflicts = groups.filter("conflict")
    places = [
        f"{raw.files[file]} row {row}: {time} has {values.strip(', ')}"
        for file, row, time, values in conflicts.head(3).select("file", "row", "time", "values").rows()
    ]
    what = "merged: different values at one moment (mean heart rate, highest steps)"
    account.bad("rows", what, int(conflicts["merged"].sum()), places)
    singles = frame.filter(~pl.col("several")).select(SCHEMA.names())
    return _sorted(pl.concat([singles, groups.select(SCHEMA.names())]))


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
