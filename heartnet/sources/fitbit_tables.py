"""Reads the tables of Fitbit's exports, those of Google and those of Fitabase, as streams of numbered rows of text."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import IO, cast

import numpy as np
import polars as pl

from heartnet.errors import HeartnetError
from heartnet.intake import Intake
from heartnet.sources.archives import FREE_BYTES, RATIO, Member
from heartnet.sources.times import parse_times

BLOCK_BYTES = 1 << 22
"""Text that is held at a time; a line may not be longer."""

TIMES = datetime(1970, 1, 1), datetime(2100, 1, 1)
"""Times of readings and events lie between these."""

KINDS = {
    "heart_rate_csv": ("timestamp", "beats per minute"),
    "steps_csv": ("timestamp", "steps"),
    "sleep_csv": ("sleep_id", "sleep_stage_type", "sleep_stage_start", "end_utc_offset", "sleep_stage_end"),
    "exercise_csv": ("exercise_start", "exercise_end"),
    "fitabase_heart_rate": ("id", "time", "value"),
    "fitabase_steps": ("id", "activityminute", "steps"),
}
"""The columns that a table of a kind has, in lower case."""


class Table:
    """A table in an export, comma-separated, perhaps gzipped.

    Attributes:
        columns: the column names, in lower case.

    Raises:
        HeartnetError: if it cannot be read.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self._blocks = _blocks(member)
        self._first = next(self._blocks, "\n")
        header = self._first.partition("\n")[0].removeprefix("\ufeff")
        self.columns = tuple(name.strip(' "\r').lower() for name in header[:10_000].split(","))

    def kind(self) -> str | None:
        """Return the key of `KINDS` whose columns it has."""
        return next((kind for kind, columns in KINDS.items() if set(columns) <= set(self.columns)), None)

    def is_empty(self) -> bool:
        """Tell whether it stands for a kind of data of which there is none: such a file is empty, or says `no data`."""
        return self.columns in (("",), ("no data",))

    def require(self, kind: str) -> None:
        """Raise if it has not the columns of a kind."""
        if not set(KINDS[kind]) <= set(self.columns):
            found = ", ".join(repr(column[:40]) for column in self.columns[:20])
            expected = ", ".join(repr(column) for column in KINDS[kind])
            raise HeartnetError(f"{self.member.full_name} has the columns {found}; expected {expected}")

    def chunks(self, intake: Intake) -> Iterator[pl.DataFrame]:
        """Yield the rows: the columns as strings, blank is null, and `row` (the header is row 1).

        Fields are cut at commas, also within quotes; only columns before such a field can be told.
        """
        row, block = 2, self._first.partition("\n")[2]
        share = min(1.0, self.member.size / max(1, self.member.length))
        # of two columns of one name, the first
        names = {name: f"field_{number}" for number, name in reversed(list(enumerate(self.columns)))}
        while True:
            lines = pl.Series("line", [block[:-1]]).str.split("\n").explode() if block else pl.Series("line", [""])
            rows = pl.Series("row", np.arange(row, row + len(lines)))
            written = lines.str.strip_chars() != ""
            fields = lines.filter(written).str.split_exact(",", len(self.columns) - 1).struct.unnest()
            fields = fields.select(pl.all().str.strip_chars(' "\r'))
            blank = [pl.when(pl.col(field) != "").then(pl.col(field)).alias(name) for name, field in names.items()]
            yield fields.select(blank).with_columns(rows.filter(written))
            intake.read(self.member.full_name, int(len(block) * share))
            row += len(lines)
            if not (block := next(self._blocks, "")):
                return


def heart_rates(chunk: pl.DataFrame) -> pl.DataFrame:
    """Return `row`, `said`, `time`, `offset`, `heart_rate`, `device` of Google's heart rates."""
    return _google(chunk, "beats per minute", "heart_rate")


def steps(chunk: pl.DataFrame) -> pl.DataFrame:
    """Return `row`, `said`, `time` (begin of the minute), `offset`, `steps`, `device` of Google's steps."""
    return _google(chunk, "steps", "steps")


def fitabase(chunk: pl.DataFrame, time: str, value: str, channel: str) -> pl.DataFrame:
    """Return `row`, `said`, `time` (a wall clock), `user_id` and the channel of a table of Fitabase."""
    wall = chunk[time].str.strptime(pl.Datetime("us"), "%m/%d/%Y %I:%M:%S %p", strict=False)
    if wall.null_count() > chunk[time].null_count():
        wall = pl.select(pl.coalesce(wall, parse_times([chunk[time]])[0])).to_series()
    return chunk.select(
        "row", _said(time, value), in_range(wall).alias("time"), _numbers(value, channel), user_id=pl.col("id")
    )


def spans(chunk: pl.DataFrame, start: str, end: str) -> pl.DataFrame:
    """Return `row`, `said`, `start`, `end` of a table of spans."""
    begin, finish = (_times(chunk[name])[0].alias(to) for name, to in ((start, "start"), (end, "end")))
    return chunk.select("row", _said(start, end)).with_columns(begin, finish)


def in_range(found: pl.Series) -> pl.Series:
    """Return the times, null before 1970 and from 2100."""
    return pl.select(pl.when(found.is_between(*TIMES)).then(found)).to_series()


def _google(chunk: pl.DataFrame, column: str, channel: str) -> pl.DataFrame:
    time, offset = _times(chunk["timestamp"])
    device = pl.col("data source") if "data source" in chunk.columns else pl.lit(None, pl.String)
    frame = chunk.select("row", _said("timestamp", column), _numbers(column, channel), device.alias("device"))
    return frame.with_columns(time.alias("time"), offset.alias("offset"))


def _times(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return UTC times, wall clocks where no offset is written, and the offsets."""
    found = column.str.strptime(pl.Datetime("us"), "%Y-%m-%dT%H:%M:%S%.fZ", strict=False)
    offset = pl.select(pl.when(found.is_not_null()).then(pl.lit(0, pl.Int32))).to_series()
    if found.null_count() > column.null_count():
        other, written = parse_times([column])
        offset = pl.select(pl.coalesce(offset, written)).to_series()
        found = pl.select(pl.coalesce(found, other)).to_series()
    return in_range(found), offset


def _numbers(column: str, name: str) -> pl.Expr:
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number).alias(name)


def _said(*columns: str) -> pl.Expr:
    return pl.concat_str(columns, separator=",", ignore_nulls=True).alias("said")


def _blocks(member: Member) -> Iterator[str]:
    """Yield whole lines; bytes that are not UTF-8 as replacement characters, so that they spoil their row only."""
    most = max(RATIO * member.length, FREE_BYTES)
    given = 0
    rest = b""
    with member.open() as stream:
        raw = io.BufferedReader(cast(io.RawIOBase, stream), 1 << 16)
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        text = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
        while True:
            try:
                block = text.read(BLOCK_BYTES)
            except (EOFError, OSError, zlib.error) as error:
                raise HeartnetError(f"{member.full_name} is a damaged gzip file, or ends early: {error}") from error
            given += len(block)
            if zipped and given > most:
                raise HeartnetError(f"{member.full_name} inflates to more than {most:,} bytes (a gzip bomb?)")
            if not block:
                break
            lines, end, rest = (rest + block).rpartition(b"\n")
            if len(rest) > BLOCK_BYTES:
                raise HeartnetError(f"{member.full_name} has a line of more than {BLOCK_BYTES:,} bytes: it is no table")
            if end:
                yield (lines + end).decode("utf-8", "replace")
        if rest:
            yield rest.decode("utf-8", "replace") + "\n"
