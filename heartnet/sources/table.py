"""Reads tables of readings: CSV, TSV (also gzipped) and Parquet with any column names.

Wide tables have a column a channel, in one file or one channel a file; long tables have one value a row, its kind in
another column. People stand in a column, in the file name, or all rows are one person's. A column option names the
column (`--heart-rate Value`), for every file that has it, or for one file (`--heart-rate hr.csv:Value`); without it the
usual names are looked for. Rows are numbered as in an editor: the header is row 1.

Times with an offset, and numbers of a `--time-unit`, are instants; others are a wall clock. Steps are counted up to the
time of their row, or, with `--steps-end`, between the two times of the row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.intake import DEFAULT_USER, RAW_SCHEMA, Intake
from heartnet.sources.columns import find_column, find_time, listing, option, require_somewhere
from heartnet.sources.files import Chunk, TableFile
from heartnet.sources.times import is_numeric, parse_times

_OTHER_KIND = ("values", "noted: rows of another kind")


@dataclass(frozen=True)
class TableOptions:
    """What the columns of the files mean; each column as `COL`, `FILE:COL`, and a time also as `COL1+COL2`.

    Attributes:
        time, heart_rate, steps, user_id: columns of wide tables; empty looks for the usual names.
        steps_end: end of the interval in which the steps of a row were counted, which begins at its time.
        kind, value: of long tables, the columns of what was measured and how much.
        kind_heart_rate, kind_steps: what `kind` says for either.
        time_format: a strptime format.
        time_unit: of times that are numbers: `"s"`, `"ms"`, `"us"`, `"ns"`.
    """

    time: Sequence[str] = ()
    heart_rate: Sequence[str] = ()
    steps: Sequence[str] = ()
    steps_end: Sequence[str] = ()
    user_id: Sequence[str] = ()
    kind: Sequence[str] = ()
    value: Sequence[str] = ()
    kind_heart_rate: str | None = None
    kind_steps: str | None = None
    time_format: str | None = None
    time_unit: str | None = None


@dataclass
class _Plan:
    """Which column of a file is what; of long tables, `heart_rate` and `steps` are the kinds' names."""

    file: TableFile
    time: list[str] = field(default_factory=list)
    steps_end: list[str] = field(default_factory=list)
    channels: dict[str, str] = field(default_factory=dict)
    user_id: str | None = None
    user: str | None = None
    kind: str | None = None
    value: str | None = None

    def columns(self) -> list[str]:
        single = (self.user_id, self.kind, self.value)
        return [
            *self.time,
            *self.steps_end,
            *([] if self.kind else self.channels.values()),
            *(name for name in single if name),
        ]

    def as_json(self) -> dict[str, object]:
        found = {
            "time": "+".join(self.time),
            "steps_end": "+".join(self.steps_end),
            **self.channels,
            "user_id": self.user_id,
            "user": self.user,
        }
        return {key: value for key, value in {**found, "kind": self.kind, "value": self.value}.items() if value}


def read_table(paths: Sequence[str | Path], options: TableOptions, intake: Intake) -> None:
    """Hand in the readings of all files, as written.

    Rows that do not fit the header, or without a time or person, are counted and left out; text where a number should
    be becomes missing and is counted.

    Raises:
        HeartnetError: if a file cannot be read, a column is not there, or no time of a file can be read; with a
            strict account, at the first bad row.
    """
    files = [TableFile(path) for path in paths]
    plans = _plans(files, options, intake)
    found: set[str] = set()
    people: dict[str, bool] = {}  # whether steps of theirs were counted
    for plan in plans:
        number = intake.file(plan.file.name)
        any_time = False
        before = _Before()
        for chunk in plan.file.chunks(plan.columns(), intake.account, progress=partial(intake.read, plan.file.name)):
            frame = _readings(plan, chunk, options, intake.account, must_have_time=not any_time)
            any_time = any_time or frame.height > 0
            found.update(name for name in plan.channels if frame[name].null_count() < frame.height)
            for user, steps in frame.group_by("user_id").agg((pl.col("steps") > 0).any()).rows():
                people[user] = people.get(user, False) or bool(steps)
            before.note(plan, frame, intake.account)
            intake.readings(_steps_apart(frame, intake.account).with_columns(pl.lit(number, pl.UInt32).alias("file")))
    _check_kinds(plans, found, options, intake.account)
    if any(people.values()):
        without = [user for user, steps in people.items() if not steps]
        intake.account.note("people", "noted: no steps in these tables, though others have them", len(without), without)
    nameless = [plan.file.name for plan in plans if plan.user == DEFAULT_USER and "heart_rate" in plan.channels]
    if len(nameless) > 1:
        what = "noted: files of heart rates that name no person, taken as one's (see --user-from-filename)"
        intake.account.note("people", what, len(nameless), nameless[:3])
    intake.note("columns", [{"file": plan.file.name, **plan.as_json()} for plan in plans])


def _check_kinds(plans: Sequence[_Plan], found: set[str], options: TableOptions, account: Account) -> None:
    """Raise if no row is of a kind that an option names."""
    for channel, kind in (("heart_rate", options.kind_heart_rate), ("steps", options.kind_steps)):
        if kind is not None and channel not in found:
            others = account.examples.get(_OTHER_KIND, [])
            there = f" Other kinds are {', '.join(map(repr, others))}.{did_you_mean(kind, others)}" if others else ""
            names = ", ".join(plan.file.name for plan in plans)
            raise HeartnetError(
                f"{names}: no row of the kind {kind!r} ({option(f'kind_{channel}')}) has a number.{there}"
            )


@dataclass
class _Before:
    """The last row of a file so far; notes times that lie before those of the row above."""

    user: str | None = None
    time: int = 0

    def note(self, plan: _Plan, frame: pl.DataFrame, account: Account) -> None:
        if frame.is_empty():
            return
        time, user = frame["time"].dt.timestamp("us"), frame["user_id"]
        back = ((time < time.shift()) & (user == user.shift())).fill_null(False)
        back[0] = self.user == user[0] and time[0] < self.time
        self.user, self.time = user[-1], time[-1]
        rows = frame.filter(back).head(account.max_examples).select("row", "time").rows()
        places = [f"{plan.file.name} row {row}: time {moment}" for row, moment in rows]
        account.bad("rows", "noted: time before the row above (sorted)", int(back.sum()), places)


def _steps_apart(frame: pl.DataFrame, account: Account) -> pl.DataFrame:
    """Return the rows with each count of an interval in a row of its own, at the interval's end."""
    if "end" not in frame.columns:
        return frame
    counted = frame.filter(pl.col("steps").is_not_null())
    others = frame.filter(pl.col("heart_rate").is_not_null() | pl.col("steps").is_null())
    account.add("rows", "in", counted.height + others.height - frame.height)
    counted = counted.with_columns(
        duration=(pl.col("end") - pl.col("time")).dt.total_microseconds() / 1e6,
        time="end",
        heart_rate=pl.lit(None, pl.Float32),
    )
    others = others.with_columns(duration=pl.lit(None, pl.Float64), steps=pl.lit(None, pl.Float32))
    return pl.concat([others, counted]).select(name for name in RAW_SCHEMA.names() if name in counted.columns)


def _plans(files: Sequence[TableFile], options: TableOptions, intake: Intake) -> list[_Plan]:
    if bool(options.kind) != bool(options.value) or (
        options.kind and not (options.kind_heart_rate or options.kind_steps)
    ):
        raise HeartnetError(
            "a long table needs --kind COL, --value COL, and --kind-heart-rate NAME or --kind-steps NAME (or both)"
        )
    for role in ("time", "heart_rate", "steps", "steps_end", "kind", "value"):
        require_somewhere(getattr(options, role), files, option(role))
    by_column = bool(options.user_id) and intake.user_from_filename is None
    if by_column and not any(find_column("user_id", options.user_id, file, files) for file in files):
        require_somewhere(options.user_id, files, "--user-id")
    if named := [file.name for file in files if intake.user in file.columns and not options.user_id]:
        raise HeartnetError(
            f"--user {intake.user} makes all rows those of one person of that name, and {named[0]} has a column "
            f"{intake.user!r}: if it says who a row is of, name it by --user-id {intake.user}"
        )
    plans = [_plan(file, files, options, intake) for file in files]
    with_people = [plan for plan in plans if plan.user_id]
    for plan in plans:
        if with_people and not plan.user_id and intake.user is None:
            raise HeartnetError(
                f"{plan.file.name} has no column that says who it is of, and {with_people[0].file.name} has "
                f"{with_people[0].user_id!r}: name the column (--user-id COL) or the person (--user NAME)"
            )
    return plans


def _plan(file: TableFile, files: Sequence[TableFile], options: TableOptions, intake: Intake) -> _Plan:
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
    if "steps" in plan.channels and options.steps_end:
        plan.steps_end = find_time(file, files, options.steps_end, "--steps-end")
    if intake.user_from_filename is None and (options.user_id or intake.user is None):
        plan.user_id = find_column("user_id", options.user_id, file, files)
    if plan.user_id is None:
        plan.user = intake.user_of(file.name)
    return plan


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
    if must_have_time and _only_dates(time):
        raise HeartnetError(
            f"{plan.file.name}: column {plan.time[0]!r} has dates without a clock time; join it with the column of the "
            f"clock, for example --time {plan.time[0]}+CLOCK. {listing(plan.file)}"
        )
    where = _Places(plan.file.name, chunk)
    where.count(account, "rows", "dropped: time not readable", unreadable, plan.time[0])
    account.note("rows", "dropped: no time", int(blank.sum()))
    user = pl.Series([plan.user]).new_from_index(0, len(time)) if plan.user else _text(chunk.frame, plan.user_id)
    nobody = user.is_null() & time.is_not_null()
    where.count(account, "rows", "dropped: no person", nobody, plan.user_id or "")
    kept = time.is_not_null() & user.is_not_null()
    missing = pl.Series([None], dtype=pl.Float32).new_from_index(0, len(time))
    values = _values(plan, chunk, where, kept, account)
    frame = pl.DataFrame(
        {
            "user_id": user,
            "time": time,
            "utc_offset": offset,
            "heart_rate": values.get("heart_rate", missing),
            "steps": values.get("steps", missing),
            "row": chunk.rows,
        }
    ).with_columns(instant=pl.col("utc_offset").is_not_null() | pl.lit(options.time_unit is not None))
    if plan.steps_end:
        frame = frame.with_columns(end=_ends(plan, chunk, frame["time"], where, options, account))
    return frame if kept.all() else frame.filter(kept)


def _only_dates(time: pl.Series) -> bool:
    """Tell whether times are all at midnight, several on one day."""
    known = time.drop_nulls()
    at_midnight = (known.dt.timestamp("us") % 86_400_000_000 == 0).all()
    return len(known) >= 20 and bool(at_midnight) and known.n_unique() < len(known)


def _ends(
    plan: _Plan, chunk: Chunk, start: pl.Series, where: _Places, options: TableOptions, account: Account
) -> pl.Series:
    """Return the ends of the intervals of steps; one on the wrong side of midnight by its date is put right."""
    end, _ = parse_times([chunk.frame[column] for column in plan.steps_end], options.time_format, options.time_unit)
    frame = pl.DataFrame({"start": start, "end": end})
    length = pl.col("end") - pl.col("start")
    midnight = (
        frame.select(
            (length < pl.duration()) & (length + pl.duration(days=1)).is_between(pl.duration(), pl.duration(hours=1))
        )
        .to_series()
        .fill_null(False)
    )
    column = plan.steps_end[0]
    where.count(account, "rows", "noted: steps that end a day early by their date (a day was added)", midnight, column)
    frame = frame.with_columns(end=pl.when(midnight).then(pl.col("end") + pl.duration(days=1)).otherwise(pl.col("end")))
    wrong = frame.select(~(pl.col("end") >= pl.col("start")).fill_null(False) & pl.col("start").is_not_null())
    bad = wrong.to_series()
    where.count(account, "rows", "noted: steps without an end, or that end before they start (at start)", bad, column)
    return frame.select(pl.when(bad).then("start").otherwise("end").alias("end")).to_series()


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
    runs = series.rle()  # a person's rows usually stand together
    text = runs.struct.field("value").cast(pl.String).str.strip_chars()
    text = text.set(text == "", None).cast(pl.Categorical)
    return text.gather(np.repeat(np.arange(len(text), dtype=np.uint32), runs.struct.field("len").to_numpy()))


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
    add("--steps", help="steps since the reading before, or between --time and --steps-end")
    add("--steps-end", help="time at which the interval of a row's steps ends")
    add("--kind", help="of a long table: what a row measures")
    add("--value", help="of a long table: how much")
    columns.add_argument("--kind-heart-rate", metavar="NAME", help="what --kind says of heart rates")
    columns.add_argument("--kind-steps", metavar="NAME", help="what --kind says of steps")


def read(arguments: argparse.Namespace, intake: Intake) -> None:
    """Hand in what the options of `add_arguments` name."""
    names = [item.name for item in fields(TableOptions)]
    read_table(arguments.files, TableOptions(**{n: getattr(arguments, n) for n in names}), intake)
