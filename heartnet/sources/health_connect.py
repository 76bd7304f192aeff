"""Reads the export of Health Connect (Android, Wear OS): `health_connect_export.zip`, or the SQLite database in it.

The format, as the Android Open Source Project writes it (packages/modules/HealthFitness: `ExportManager`,
`HeartRateRecordHelper`, `SeriesRecordHelper`, `IntervalRecordHelper`, `SleepStageRecordHelper`, `DeviceInfoHelper`,
`Device`, `SleepSessionRecord`). The app copies its own database, so the tables are those of its storage:

- `heart_rate_record_table`, one row a record: `row_id`, `start_time`, `start_zone_offset`, `end_time`,
  `end_zone_offset`, `app_info_id`, `device_info_id`; and `heart_rate_record_series_table`, one row a sample:
  `parent_key` (a `row_id` of the former), `epoch_millis`, `beats_per_minute`.
- `steps_record_table`: the columns of a record, and `count`, the steps from `start_time` to `end_time`.
- `sleep_session_record_table` and `sleep_stages_table` (`parent_key`, `stage_start_time`, `stage_end_time`,
  `stage_type`: 1, 3 and 7 awake, 2, 4, 5 and 6 asleep, 0 unknown); `exercise_session_record_table`.
- `application_info_table` (`package_name`), `device_info_table` (`manufacturer`, `model`, `device_type`: 1 watch,
  2 phone, 3 scale, 4 ring, 6 band, 7 chest strap).
- `weight_record_table` (`weight`, in grams), `height_record_table` (`height`, in metres).

Times are milliseconds since 1970 UTC and offsets seconds east of UTC, in all versions of the schema since Android 14
(`user_version` is kept beside the weeks). A sample has the offset of the start of its record, steps that of their end.

A table that is damaged is read up to the damage, and the account says so.
"""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from heartnet.errors import HeartnetError
from heartnet.intake import Intake, Person
from heartnet.sources.archives import Member, members
from heartnet.sources.sqlite import open_database, size_of

CHUNK_ROWS = 200_000

_LAST_TIME = 4_102_444_800_000  # 2100-01-01; later times, and those before 1970, are no times of readings
_SERIES = "heart_rate_record_series_table"
_RECORDS = "heart_rate_record_table"
_STEPS = "steps_record_table"
_TABLES = {
    _SERIES: ("parent_key", "epoch_millis", "beats_per_minute"),
    _RECORDS: ("row_id", "start_zone_offset", "app_info_id", "device_info_id"),
    _STEPS: ("start_time", "end_time", "end_zone_offset", "count", "app_info_id", "device_info_id"),
    "sleep_session_record_table": ("row_id", "start_time", "end_time"),
    "sleep_stages_table": ("parent_key", "stage_start_time", "stage_end_time", "stage_type"),
    "exercise_session_record_table": ("start_time", "end_time"),
    "application_info_table": ("row_id", "package_name"),
    "device_info_table": ("row_id", "manufacturer", "model", "device_type"),
    "weight_record_table": ("time", "weight"),
    "height_record_table": ("time", "height"),
}
_READ = {
    **dict.fromkeys(("row", "start", "end"), pl.Int64),
    "value": pl.Float64,
    **dict.fromkeys(("offset", "app", "device"), pl.Int64),
}
_ROW_BYTES = 4  # a row takes that at least; pages that are listed again and again hold more rows than they can
_NO_DURATION = pl.lit(None, pl.Float32).alias("duration")
_RANKS = {1: 0, 4: 0, 6: 0, 7: 0, 2: 1}  # by device_type: what is worn, the phone; the others are 2
_DAMAGED = "noted: table that is damaged or cut off; what stands behind the damage is lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `heartnet prepare health-connect`."""
    help = "health_connect_export.zip, the database in it, or a folder with databases"
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help=help)


def read(arguments: argparse.Namespace, intake: Intake) -> None:
    """Hand in the heart rates, steps, sleep and workouts of the exports.

    Of several databases, one that cannot be read is counted, and the others are read.

    Raises:
        HeartnetError: if nothing can be read, or, with `--strict`, if a database cannot be read.
    """
    errors: list[HeartnetError] = []
    try:
        _read_all(arguments, intake, errors)
    finally:
        errors.clear()  # errors know of the frames that know of them: archives would stay open until that is found


def _read_all(arguments: argparse.Namespace, intake: Intake, errors: list[HeartnetError]) -> None:
    count = 0
    for path in arguments.files:
        user = intake.user_of(path.name)
        for member in _databases(path):
            count += 1
            try:
                if isinstance(member, HeartnetError):
                    raise member
                with open_database(member) as connection:
                    _Database(connection, member, user, intake).read()
            except HeartnetError as error:
                if intake.account.strict:
                    raise
                errors.append(error)
    if len(errors) == count:
        raise errors[0]
    intake.account.add("files", "in", count)
    intake.account.note("files", "dropped: file that cannot be read", len(errors), [str(error) for error in errors])


def _databases(path: Path) -> list[Member] | list[HeartnetError]:
    """Return the databases of a file, zip or folder, or the reason why there are none."""
    try:
        found = list(members(path, lambda name: name.lower().endswith((".db", ".sqlite")) or name == path.name))
    except HeartnetError as error:
        return [error]
    expected = "expected health_connect_export.db, as the Health Connect app exports it"
    return found or [HeartnetError(f"{path} holds no database: {expected}")]


class _Database:
    """An open database of Health Connect, and where its records go."""

    def __init__(self, connection: sqlite3.Connection, member: Member, user: str, intake: Intake) -> None:
        self.connection, self.user, self.intake = connection, user, intake
        self.name, self.bytes = member.full_name, member.size
        self.tables = self._find_tables()
        self.most_rows = size_of(connection) // _ROW_BYTES
        self.damage: list[str] = []
        self.devices: dict[tuple[int | None, int | None], int] = {}

    def read(self) -> None:
        """Hand in what the database holds.

        Raises:
            HeartnetError: if that is nothing.
        """
        self.rows = max(1, sum(self._last_row(table) for table in (_SERIES, _STEPS)))
        self.told = 0
        columns = _text("manufacturer"), _text("model"), _whole("device_type")
        self.hardware: dict[int | None, tuple[Any, ...]] = dict(self._named("device_info_table", columns))
        self.applications: dict[int | None, tuple[Any, ...]] = dict(
            self._named("application_info_table", (_text("package_name"),))
        )
        handed_in = self._heart_rates() + self._steps()
        self._sleep_and_workouts()
        self._body()
        self._tell(self.bytes)
        if not handed_in and self.damage:
            raise HeartnetError(f"{self.name} is damaged or cut off, and no reading is left: {self.damage[0]}")
        if not handed_in:
            raise HeartnetError(f"{self.name} holds no heart rate and no steps: nothing to read")

    def _find_tables(self) -> set[str]:
        """Return which of the tables are there; views and virtual tables, which run code of their own, do not count."""
        try:
            listing = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
            names = [str(name) for (name,) in self.connection.execute(listing)]
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            found = {name for name in _TABLES if name in names}
            columns = {
                table: [row[1] for row in self.connection.execute(f"PRAGMA table_info({table})")] for table in found
            }
        except sqlite3.Error as error:
            raise HeartnetError(f"{self.name} cannot be read as an SQLite database: {error}") from error
        if not {_SERIES, _RECORDS} <= found and _STEPS not in found:
            raise HeartnetError(
                f"{self.name} is no database of Health Connect: expected the tables {_RECORDS} with {_SERIES}, or "
                f"{_STEPS}; its tables are {', '.join(sorted(names)[:20]) or 'none'}"
            )
        for table in sorted(found):
            missing = [column for column in _TABLES[table] if column not in columns[table]]
            if missing:
                raise HeartnetError(
                    f"{self.name}: table {table} has no column {missing[0]}; its columns are "
                    f"{', '.join(columns[table][:40])}. Version {version} of the schema is not known"
                )
        self.intake.note("health_connect_schema_version", version)
        return found

    def _last_row(self, table: str) -> int:
        if table not in self.tables:
            return 0
        try:
            return max(0, self.connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0)
        except sqlite3.Error:
            return 0  # it serves the progress only

    def _tell(self, count: int) -> None:
        count = min(count, self.bytes - self.told)
        self.told += count
        self.intake.read(self.name, count)

    def _named(self, table: str, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        query = f"SELECT row_id, {', '.join(columns)} FROM {table}"
        for rows in self._chunks(table, query):
            yield from ((row[0], row[1:]) for row in rows)

    def _chunks(self, table: str, query: str) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query, up to where the table is damaged."""
        if table not in self.tables:
            return
        count = 0
        try:
            cursor = self.connection.execute(query)
            while rows := cursor.fetchmany(CHUNK_ROWS):
                count += len(rows)
                if count > self.most_rows:
                    raise sqlite3.DatabaseError(f"more than the {self.most_rows:,} rows that its size can hold")
                yield rows
        except (sqlite3.Error, OverflowError) as error:
            self.damage.append(f"{self.name}, table {table}, after {count:,} rows or more: {error}")
            self.intake.account.bad("tables", _DAMAGED, 1, self.damage[-1:])

    def _heart_rates(self) -> int:
        if _RECORDS not in self.tables:
            return 0
        query = f"""
            SELECT s.rowid, NULL, {_time("s.epoch_millis")}, {_number("s.beats_per_minute")},
                   {_offset("r.start_zone_offset")}, {_whole("r.app_info_id")}, {_whole("r.device_info_id")}
            FROM {_SERIES} s LEFT JOIN {_RECORDS} r ON r.row_id = s.parent_key"""
        return self._readings(_SERIES, query, "heart_rate")

    def _steps(self) -> int:
        query = f"""
            SELECT rowid, {_time("start_time")}, {_time("end_time")}, {_number("count")}, {_offset("end_zone_offset")},
                   {_whole("app_info_id")}, {_whole("device_info_id")}
            FROM {_STEPS}"""
        return self._readings(_STEPS, query, "steps")

    def _readings(self, table: str, query: str, channel: str) -> int:
        file = self.intake.file(f"{self.name}, table {table},")
        handed_in = 0
        for rows in self._chunks(table, query):
            frame = pl.DataFrame(rows, schema=_READ, orient="row")
            if channel == "heart_rate":  # a moment
                frame = frame.with_columns(start="end")
            self.intake.account.add("rows", "in", frame.height)
            self._tell(self.bytes * frame.height // self.rows)
            no_time = pl.col("start").is_null() | pl.col("end").is_null()
            for what, bad in (
                ("dropped: no time from 1970 to 2100", no_time),
                (f"dropped: no number of {channel.replace('_', ' ')}", pl.col("value").is_null()),
                ("dropped: ends before it starts", pl.col("end") < pl.col("start")),
            ):
                frame = self._without(frame, bad, table, what)
            handed_in += frame.height
            pairs = frame.select("app", "device").unique(maintain_order=True)
            numbers = [self._device(*pair) for pair in pairs.rows()]
            pairs = pairs.with_columns(number=pl.Series(numbers, dtype=pl.UInt16))
            frame = frame.join(pairs, on=("app", "device"), how="left", nulls_equal=True, maintain_order="left")
            self.intake.readings(
                frame.select(
                    pl.lit(self.user).alias("user_id"),
                    pl.from_epoch("end", "ms").alias("time"),
                    pl.col("offset").alias("utc_offset"),
                    pl.lit(True).alias("instant"),
                    pl.col("value").alias(channel),
                    ((pl.col("end") - pl.col("start")) / 1000).alias("duration")
                    if channel == "steps"
                    else _NO_DURATION,
                    pl.col("number").alias("device"),
                    pl.lit(file, pl.UInt32).alias("file"),
                    "row",
                )
            )
        return handed_in

    def _without(self, frame: pl.DataFrame, bad: pl.Expr, table: str, what: str, stage: str = "rows") -> pl.DataFrame:
        frame = frame.with_columns(bad=bad.fill_null(False))
        rows = frame.filter("bad")["row"]
        places = [f"{self.name}, table {table}, row {row}" for row in rows.head(self.intake.account.max_examples)]
        self.intake.account.bad(stage, what, len(rows), places)
        return frame.filter(~pl.col("bad")).drop("bad")

    def _device(self, app: int | None, device: int | None) -> int:
        if (app, device) not in self.devices:
            manufacturer, model, kind = self.hardware.get(device, (None, None, None))
            (package,) = self.applications.get(app, (None,))
            hardware = " ".join(part for part in (manufacturer, model) if part)
            name = f"{hardware} ({package})" if hardware and package else hardware or package or "Health Connect"
            self.devices[app, device] = self.intake.device(name, _RANKS.get(kind, 2))
        return self.devices[app, device]

    def _sleep_and_workouts(self) -> None:
        """Hand in the stages of sleep, whole sessions where nothing but their length is known, and the workouts."""
        known = "SELECT parent_key FROM sleep_stages_table WHERE stage_type BETWEEN 1 AND 7 AND parent_key IS NOT NULL"
        alone = f"WHERE row_id NOT IN ({known})" if "sleep_stages_table" in self.tables else ""
        for table, kind, start, end, where in (
            ("sleep_stages_table", "asleep", "stage_start_time", "stage_end_time", "WHERE stage_type IN (2, 4, 5, 6)"),
            ("sleep_session_record_table", "asleep", "start_time", "end_time", alone),
            ("exercise_session_record_table", "in_workout", "start_time", "end_time", ""),
        ):
            query = f"SELECT rowid, {_time(start)}, {_time(end)} FROM {table} {where}"
            for rows in self._chunks(table, query):
                frame = pl.DataFrame(rows, schema={"row": pl.Int64, "start": pl.Int64, "end": pl.Int64}, orient="row")
                self.intake.account.add("events", "in", frame.height)
                bad = ~(pl.col("start") < pl.col("end")).fill_null(False)
                frame = self._without(
                    frame, bad, table, "dropped: sleep or workout without a start before its end", "events"
                )
                times = (pl.from_epoch(name, "ms") for name in ("start", "end"))
                facts = {"user_id": self.user, "instant": True, "kind": kind}
                self.intake.events(frame.select(*times, *(pl.lit(value).alias(name) for name, value in facts.items())))

    def _body(self) -> None:
        """Hand in the body mass index, of the last weight and height."""
        last: list[float | None] = []
        for table, column in (("weight_record_table", "weight"), ("height_record_table", "height")):
            value = _number(column)
            query = f"SELECT {value} FROM {table} WHERE {value} > 0 ORDER BY {_time('time')} DESC LIMIT 1"
            last += [rows[0][0] for rows in self._chunks(table, query)] or [None]
        grams, metres = last
        if grams and metres and 8 < (bmi := grams / 1000 / metres**2) < 100:
            self.intake.person(self.user, Person(bmi=bmi))


def _time(column: str) -> str:
    return f"CASE WHEN typeof({column}) = 'integer' AND {column} BETWEEN 0 AND {_LAST_TIME} THEN {column} END"


def _number(column: str) -> str:
    return f"CASE WHEN typeof({column}) IN ('integer', 'real') THEN CAST({column} AS REAL) END"


def _offset(column: str) -> str:
    return f"CASE WHEN typeof({column}) = 'integer' AND {column} BETWEEN -64800 AND 64800 THEN {column} END"


def _whole(column: str) -> str:
    return f"CASE WHEN typeof({column}) = 'integer' THEN {column} END"


def _text(column: str) -> str:
    return f"CASE WHEN typeof({column}) = 'text' THEN substr({column}, 1, 80) END"
