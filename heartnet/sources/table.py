"""Reads tables of readings: CSV, TSV (also gzipped) and Parquet with any column names.

Wide tables have a column a channel, in one file or one channel a file; long tables have one value a row, its kind in
another column. People stand in a column, in the file name, or all rows are one person's. A column option names the
column (`--heart-rate Value`), for every file that has it, or for one file (`--heart-rate hr.csv:Value`); without it the
usual names are looked for. Rows are numbered as in an editor: the header is row 1.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.intake import DEFAULT_USER
from heartnet.readings import RAW_SCHEMA, RawReadings
from heartnet.sources.columns import find_column, find_time, listing, option, require_somewhere
from heartnet.sources.files import Chunk, TableFile
from heartnet.sources.times import is_numeric, parse_times

FileProgress = Callable[[TableFile, int], None]
"""Told the file and how many of its bytes were read since the last call."""

_OTHER_KIND = ("values", "noted: rows of another kind")


@dataclass(frozen=True)
class TableOptions:
    """What the columns of the files mean; each column as `COL`, `FILE:COL`, and a time also as `COL1+COL2`.

    Attributes:
        time, heart_rate, steps, user_id: columns of wide tables; empty looks for the usual names.
        kind, value: of long tables, the columns of what was measured and how much.
        kind_heart_rate, kind_steps: what `kind` says for either.
        user: the person, where no column or file name says who it is.
        user_from_filename: a regular expression with one group, the person's name.
        time_format: a strptime format.
        time_unit: of times that are numbers: `"s"`, `"ms"`, `"us"`, `"ns"`.
    """

    time: Sequence[str] = ()
    heart_rate: Sequence[str] = ()
    steps: Sequence[str] = ()
    user_id: Sequence[str] = ()
    kind: Sequence[str] = ()
    value: Sequence[str] = ()
    kind_heart_rate: str | None = None
    kind_steps: str | None = None
    user: str | None = None
    user_from_filename: str | None = None
    time_format: str | None = None
    time_unit: str | None = None


@dataclass
class _Plan:
    """Which column of a file is what; of long tables, `heart_rate` and `steps` are the kinds' names."""

    file: TableFile
    time: list[str] = field(default_factory=list)
    channels: dict[str, str] = field(default_factory=dict)
    user_id: str | None = None
    user: str | None = None
    kind: str | None = None
    value: str | None = None

    def columns(self) -> list[str]:
        single = (self.user_id, self.kind, self.value)
        return [*self.time, *([] if self.kind else self.channels.values()), *(name for name in single if name)]

    def as_json(self) -> dict[str, object]:
        found = {"time": "+".join(self.time), **self.channels, "user_id": self.user_id, "user": self.user}
        return {key: value for key, value in {**found, "kind": self.kind, "value": self.value}.items() if value}


def read_table(
    paths: Sequence[str | Path], options: TableOptions, account: Account, progress: FileProgress | None = None
) -> RawReadings:
    """Return the readings of all files, as written.

    Rows that do not fit the header, or without a time or person, are counted and left out; text where a number should
    be becomes missing and is counted.

    Raises:
        HeartnetError: if a file cannot be read, a column is not there, or no time of a file can be read; with a
            strict account, at the first bad row.
    """
    files = [TableFile(path) for path in paths]
    plans = _plans(files, options)
    frames = []
    for index, plan in enumerate(plans):
        told = None if progress is None else partial(progress, plan.file)
        any_time = False
        for chunk in plan.file.chunks(plan.columns(), account, progress=told):
            frame = _readings(plan, chunk, options, account, must_have_time=not any_time)
            any_time = any_time or frame.height > 0
            frames.append(frame.with_columns(pl.lit(index, pl.UInt16).alias("file")).select(RAW_SCHEMA.names()))
    columns = [{"file": plan.file.name, **plan.as_json()} for plan in plans]
    raw = RawReadings(pl.concat(frames), tuple(file.name for file in files), {"columns": columns})
    _check_kinds(raw, options, account)
    return _with_offsets(raw, account)


def _check_kinds(raw: RawReadings, options: TableOptions, account: Account) -> None:
    """Raise if no row is of a kind that an option names."""
    for channel, kind in (("heart_rate", options.kind_heart_rate), ("steps", options.kind_steps)):
        if kind is not None and raw.frame[channel].is_null().all():
            others = account.examples.get(_OTHER_KIND, [])
            there = f" Other kinds are {', '.join(map(repr, others))}.{did_you_mean(kind, others)}" if others else ""
            name = option(f"kind_{channel}")
            raise HeartnetError(f"{', '.join(raw.files)}: no row of the kind {kind!r} ({name}) has a number.{there}")


def _with_offsets(raw: RawReadings, account: Account) -> RawReadings:
    """Take times without an offset as UTC, and count them where others of the same person have one."""
    without = pl.col("utc_offset").is_null()
    mixed = raw.frame.select(without & ~without.all().over("user_id")).to_series()
    what = "noted: time without an offset, where others of the person have one (taken as UTC)"
    account.bad("rows", what, int(mixed.sum()), raw.places(mixed, "time", account.max_examples))
    return replace(raw, frame=raw.frame.with_columns(pl.col("utc_offset").fill_null(0)))


def _plans(files: Sequence[TableFile], options: TableOptions) -> list[_Plan]:
    if bool(options.kind) != bool(options.value) or (
        options.kind and not (options.kind_heart_rate or options.kind_steps)
    ):
        raise HeartnetError(
            "a long table needs --kind COL, --value COL, and --kind-heart-rate NAME or --kind-steps NAME (or both)"
        )
    for role in ("time", "heart_rate", "steps", "kind", "value"):
        require_somewhere(getattr(options, role), files, option(role))
    by_column = bool(options.user_id) and options.user_from_filename is None
    if by_column and not any(find_column("user_id", options.user_id, file, files) for file in files):
        require_somewhere(options.user_id, files, "--user-id")
    plans = [_plan(file, files, options) for file in files]
    with_people = [plan for plan in plans if plan.user_id]
    for plan in plans:
        if with_people and not plan.user_id and options.user is None:
            raise HeartnetError(
                f"{plan.file.name} has no column that says who it is of, and {with_people[0].file.name} has "
                f"{with_people[0].user_id!r}: name the column (--user-id COL) or the person (--user NAME)"
            )
    return plans


def _plan(file: TableFile, files: Sequence[TableFile], options: TableOptions) -> _Plan:
    plan = _Plan(file, time=find_time(file, files, options.time))
    if options.kind:
        plan.kind, plan.value = (
            find_column("kind", options.kind, file, files),
            find_column("value", options.value, file, files),
        )
        if plan.kind is None or plan.value is None:
            raise HeartnetError(f"{file.name} does not have both columns, --kind and --value. {listing(file)}")
        kinds = {"heart_rate": options.kind_heart_rate, "steps": options.kind_steps}
        plan.channels = {channel: kind for channel, kind in kinds.items() if kind is not None}
    else:
        found = {role: find_column(role, getattr(options, role), file, files) for role in ("heart_rate", "steps")}
        plan.channels = {channel: column for channel, column in found.items() if column is not None}
        if not plan.channels:
            raise HeartnetError(
                f"{file.name} has neither heart rate nor steps under a known name; name the column with "
                f"--heart-rate COL or --steps COL. {listing(file)}"
            )
    if options.user_from_filename is not None:
        plan.user = _user_from(file.name, options.user_from_filename)
    elif options.user_id or options.user is None:
        plan.user_id = find_column("user_id", options.user_id, file, files)
    if plan.user is None and plan.user_id is None:
        plan.user = options.user or DEFAULT_USER
    return plan


def _user_from(name: str, pattern: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise HeartnetError(f"--user-from-filename {pattern!r} is not a regular expression: {error}") from error
    if match is None or len(match.groups()) != 1 or not match.group(1):
        raise HeartnetError(
            f"--user-from-filename {pattern!r} does not find a person in {name!r}: expected one group that matches, "
            r"for example 'CGMacros-(\d+)'"
        )
    return str(match.group(1))


def _readings(
    plan: _Plan, chunk: Chunk, options: TableOptions, account: Account, *, must_have_time: bool
) -> pl.DataFrame:
    """Return the rows of a chunk that have a time and a person; columns of `RAW_SCHEMA` but `file`."""
    texts = [chunk.frame[column] for column in plan.time]
    time, offset = parse_times(texts, options.time_format, options.time_unit)
    blank = texts[0].is_null()
    for text in texts[1:]:
        blank = blank | text.is_null()
    unreadable = time.is_null() & ~blank
    if must_have_time and len(time) and time.is_null().all():
        raise _unreadable_times(plan, chunk, unreadable, options)
    where = _Places(plan.file.name, chunk)
    where.count(account, "rows", "dropped: time not readable", unreadable, plan.time[0])
    account.note("rows", "dropped: no time", int(blank.sum()))
    user = pl.Series([plan.user]).new_from_index(0, len(time)) if plan.user else _text(chunk.frame, plan.user_id)
    nobody = user.is_null() & time.is_not_null()
    where.count(account, "rows", "dropped: no person", nobody, plan.user_id or "")
    kept = time.is_not_null() & user.is_not_null()
    missing = pl.Series([None], dtype=pl.Float32).new_from_index(0, len(time))
    values = _values(plan, chunk, where, kept, account)
    return pl.DataFrame(
        {
            "user_id": user,
            "time": time,
            "utc_offset": offset,
            "heart_rate": values.get("heart_rate", missing),
            "steps": values.get("steps", missing),
            "row": chunk.rows,
        }
    ).filter(kept)


def _values(plan: _Plan, chunk: Chunk, where: _Places, kept: pl.Series, account: Account) -> dict[str, pl.Series]:
    if plan.kind is None or plan.value is None:
        return {
            channel: _numbers(chunk.frame, column, where, kept, account) for channel, column in plan.channels.items()
        }
    kind = _text(chunk.frame, plan.kind)
    other = ~kind.is_in(list(plan.channels.values())).fill_null(False)
    account.note(
        *_OTHER_KIND,
        int((other & kept).sum()),
        kind.filter(other).unique().drop_nulls().to_list()[:3],
    )
    number = _numbers(chunk.frame, plan.value, where, kept & ~other, account)
    return {channel: number.set(kind.ne_missing(name), None) for channel, name in plan.channels.items()}


def _numbers(frame: pl.DataFrame, column: str, where: _Places, kept: pl.Series, account: Account) -> pl.Series:
    series = frame[column]
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Null)):
        raise HeartnetError(f"{where.name}: column {column!r} holds {series.dtype}, expected numbers")
    number = series.cast(pl.Float64, strict=False)
    where.count(account, "values", "dropped: not a number", number.is_null() & series.is_not_null() & kept, column)
    return number.cast(pl.Float32)


def _text(frame: pl.DataFrame, column: str | None) -> pl.Series:
    series = frame[column or ""]
    if series.dtype.is_nested():
        raise HeartnetError(f"column {column!r} holds {series.dtype}, expected text or numbers")
    text = series.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


@dataclass(frozen=True)
class _Places:
    """Notes rows of a chunk in the account, with examples that say where they are."""

    name: str
    chunk: Chunk

    def count(self, account: Account, stage: str, what: str, rows: pl.Series, column: str) -> None:
        if not rows.any():
            return
        at = np.flatnonzero(rows.to_numpy())
        places = [
            f"{self.name} row {self.chunk.rows[row]}: {column} {self.chunk.frame[column][int(row)]!r}"
            for row in at[: account.max_examples]
        ]
        account.bad(stage, what, len(at), places)


def _unreadable_times(plan: _Plan, chunk: Chunk, unreadable: pl.Series, options: TableOptions) -> HeartnetError:
    column = " and ".join(repr(name) for name in plan.time)
    if not unreadable.any():
        return HeartnetError(f"{plan.file.name}: column {column} is blank in every row; name the times with --time COL")
    at = int(np.flatnonzero(unreadable.to_numpy())[0])
    text = " ".join(str(chunk.frame[name][at]) for name in plan.time)
    if options.time_format or options.time_unit:
        given = f"--time-format {options.time_format!r}" if options.time_format else f"--time-unit {options.time_unit}"
        hint = f"and {given} was given; it fits no row"
    elif len(plan.time) == 1 and is_numeric(chunk.frame[plan.time[0]]):
        hint = "a number: say what it counts with --time-unit s, ms, us or ns"
    else:
        hint = (
            "expected ISO 8601 such as 2026-01-03 06:13:06 or 2026-01-03T06:13:06+01:00; say how it is written with "
            "--time-format, for example --time-format '%m/%d/%Y %I:%M:%S %p'"
        )
    return HeartnetError(
        f"{plan.file.name} row {chunk.rows[at]}: no time of column {column} can be read: {text!r}, {hint}"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `heartnet prepare table`."""
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="CSV, TSV (also .gz) or Parquet")
    columns = parser.add_argument_group("columns", "COL, or FILE:COL for one of the files; may be repeated")
    add = partial(columns.add_argument, action="append", default=[], metavar="COL")
    add("--time", help="time of a reading; COL1+COL2 joins a date and a clock time")
    add("--heart-rate", help="beats a minute")
    add("--steps", help="steps since the reading before")
    add("--kind", help="of a long table: what a row measures")
    add("--value", help="of a long table: how much")
    columns.add_argument("--kind-heart-rate", metavar="NAME", help="what --kind says of heart rates")
    columns.add_argument("--kind-steps", metavar="NAME", help="what --kind says of steps")
    people = parser.add_argument_group("people")
    people.add_argument("--user", metavar="NAME", help=f"the person all rows are of (default: {DEFAULT_USER})")
    people.add_argument("--user-from-filename", metavar="REGEX", help="finds the person in the file name, by one group")


def read(arguments: argparse.Namespace, account: Account, progress: FileProgress | None = None) -> RawReadings:
    """Read what the options of `add_arguments` name."""
    names = [item.name for item in fields(TableOptions)]
    return read_table(arguments.files, TableOptions(**{n: getattr(arguments, n) for n in names}), account, progress)
