"""Exports of Health Connect, made here with the tables of its storage, against rows worked out by hand."""

import argparse
import os
import random
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.intake import RAW_SCHEMA, Intake
from heartnet.sources import health_connect

RECORD = (
    "row_id INTEGER PRIMARY KEY AUTOINCREMENT, uuid BLOB UNIQUE NOT NULL, last_modified_time INTEGER, "
    "client_record_id TEXT, device_info_id INTEGER, app_info_id INTEGER, recording_method INTEGER, dedupe_hash BLOB"
)
INTERVAL = (
    RECORD + ", start_time INTEGER, start_zone_offset INTEGER, end_time INTEGER, end_zone_offset INTEGER, "
    "local_date INTEGER"
)
GENERATED = ", local_date_time_start_time INTEGER AS (start_time + 1000 * start_zone_offset)"
SCHEMA = f"""
    PRAGMA user_version = 17;
    CREATE TABLE application_info_table (row_id INTEGER PRIMARY KEY, package_name TEXT NOT NULL UNIQUE, app_name TEXT);
    CREATE TABLE device_info_table (row_id INTEGER PRIMARY KEY, manufacturer TEXT, model TEXT, device_type INTEGER);
    CREATE TABLE heart_rate_record_table ({INTERVAL}{GENERATED});
    CREATE TABLE heart_rate_record_series_table (parent_key INTEGER NOT NULL, beats_per_minute INTEGER,
        epoch_millis INTEGER, FOREIGN KEY (parent_key) REFERENCES heart_rate_record_table (row_id) ON DELETE CASCADE);
    CREATE TABLE steps_record_table ({INTERVAL}, count INTEGER{GENERATED});
    CREATE TABLE sleep_session_record_table ({INTERVAL}, notes TEXT, title TEXT{GENERATED});
    CREATE TABLE sleep_stages_table (parent_key INTEGER NOT NULL, stage_start_time INTEGER NOT NULL,
        stage_end_time INTEGER NOT NULL, stage_type INTEGER NOT NULL);
    CREATE TABLE exercise_session_record_table ({INTERVAL}, exercise_type INTEGER{GENERATED});
    CREATE TABLE weight_record_table ({RECORD}, time INTEGER, zone_offset INTEGER, weight REAL);
    CREATE TABLE height_record_table ({RECORD}, time INTEGER, zone_offset INTEGER, height REAL);
    INSERT INTO application_info_table VALUES (1, 'com.google.android.apps.fitness', 'Fit'),
        (2, 'com.fitbit.FitbitMobile', 'Fitbit');
    INSERT INTO device_info_table VALUES (1, 'Google', 'Pixel 8', 2), (2, 'Google', 'Pixel Watch', 1),
        (3, NULL, NULL, 0);
"""


def at(text: str) -> int:
    """Milliseconds of a UTC time of 2026-03-<text>."""
    return int(datetime.fromisoformat(f"2026-03-{text}").replace(tzinfo=UTC).timestamp() * 1000)


def record(connection: sqlite3.Connection, table: str, start: Any, end: Any, **columns: Any) -> int:
    values = {"uuid": random.randbytes(16), "start_time": start, "end_time": end} | columns
    marks = ", ".join("?" * len(values))
    return int(
        connection.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values())
        ).lastrowid
        or 0
    )


def heart_rates(connection: sqlite3.Connection, samples: list[tuple[Any, Any]], **columns: Any) -> None:
    columns = {"app_info_id": 2, "device_info_id": 2, "start_zone_offset": 3600, "end_zone_offset": 3600} | columns
    parent = record(connection, "heart_rate_record_table", samples[0][0], samples[-1][0], **columns)
    connection.executemany(
        "INSERT INTO heart_rate_record_series_table (parent_key, epoch_millis, beats_per_minute) VALUES (?, ?, ?)",
        [(parent, time, value) for time, value in samples],
    )


def example(connection: sqlite3.Connection) -> None:
    heart_rates(connection, [(at("01T08:00:00"), 61), (at("01T08:00:05.500"), 62)])
    heart_rates(connection, [(at("29T03:00:00"), 70)], start_zone_offset=7200)
    heart_rates(connection, [(at("02T00:00:00"), 55)], start_zone_offset=None, app_info_id=None, device_info_id=None)
    watch = {"app_info_id": 2, "device_info_id": 2, "start_zone_offset": 3600, "end_zone_offset": 7200}
    record(connection, "steps_record_table", at("01T08:00:00"), at("01T08:01:00"), count=80, **watch)
    phone = watch | {"app_info_id": 1, "device_info_id": 1, "end_zone_offset": 3600}
    record(connection, "steps_record_table", at("01T08:00:10"), at("01T08:15:00"), count=700, **phone)
    scored = record(connection, "sleep_session_record_table", at("01T22:00:00"), at("02T06:00:00"), **watch)
    connection.executemany(
        "INSERT INTO sleep_stages_table VALUES (?, ?, ?, ?)",
        [
            (scored, at("01T22:00:00"), at("01T22:20:00"), 1),
            (scored, at("01T22:20:00"), at("02T01:00:00"), 4),
            (scored, at("02T01:00:00"), at("02T05:50:00"), 6),
            (scored, at("02T05:50:00"), at("02T06:00:00"), 7),
        ],
    )
    record(connection, "sleep_session_record_table", at("03T22:00:00"), at("04T06:00:00"), **watch)
    record(connection, "exercise_session_record_table", at("01T17:00:00"), at("01T17:45:00"), **watch)
    for time, weight in ((1000, 90000.0), (2000, 81000.0)):
        connection.execute(
            "INSERT INTO weight_record_table (uuid, time, weight) VALUES (?, ?, ?)",
            (random.randbytes(16), time, weight),
        )
    connection.execute("INSERT INTO height_record_table (uuid, time, height) VALUES (x'00', 1, 1.8)")


EXPECTED = [  # (time, offset, bpm, steps, seconds, device)
    ("2026-03-01T08:00:00", 3600, 61.0, None, None, "Google Pixel Watch (com.fitbit.FitbitMobile)", 0),
    ("2026-03-01T08:00:05.500", 3600, 62.0, None, None, "Google Pixel Watch (com.fitbit.FitbitMobile)", 0),
    ("2026-03-29T03:00:00", 7200, 70.0, None, None, "Google Pixel Watch (com.fitbit.FitbitMobile)", 0),
    ("2026-03-02T00:00:00", None, 55.0, None, None, "Health Connect", 2),
    ("2026-03-01T08:01:00", 7200, None, 80.0, 60.0, "Google Pixel Watch (com.fitbit.FitbitMobile)", 0),
    ("2026-03-01T08:15:00", 3600, None, 700.0, 890.0, "Google Pixel 8 (com.google.android.apps.fitness)", 1),
]


def make(path: Path, fill: Callable[[sqlite3.Connection], None] = example, schema: str = SCHEMA) -> Path:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(f"PRAGMA synchronous = OFF; {schema}")
    fill(connection)
    connection.commit()
    connection.close()
    return path


def take(*paths: Path, strict: bool = False, **options: Any) -> Intake:
    intake = Intake(Account(strict=strict), **options)
    health_connect.read(argparse.Namespace(files=list(paths)), intake)
    return intake


def readings(intake: Intake) -> list[tuple[object, ...]]:
    frame = intake.all_readings()
    assert frame.schema == RAW_SCHEMA
    assert frame["instant"].all()
    columns = "time", "utc_offset", "heart_rate", "steps", "duration", "device"
    return [
        (*rest, intake.devices[device].name, intake.devices[device].rank)
        for *rest, device in frame.select(*columns).rows()
    ]


def wanted(rows: list[tuple[Any, ...]] = EXPECTED) -> list[tuple[object, ...]]:
    return [(datetime.fromisoformat(time), *rest) for time, *rest in rows]


def adds_up(intake: Intake) -> None:
    count = intake.account.count
    dropped = sum(n for stage, what, n in intake.account if stage == "rows" and what.startswith("dropped"))
    assert count("rows", "in") - dropped == intake.all_readings().height


def message(*paths: Path, **options: Any) -> str:
    with pytest.raises(HeartnetError) as raised:
        take(*paths, **options)
    return str(raised.value)


def test_exact_rows_from_zip_database_and_folder(tmp_path: Path) -> None:
    database = make(tmp_path / "health_connect_export.db")
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(database, "health_connect_export.db")
    folder = tmp_path / "folder"
    folder.mkdir()
    odd = folder / "ä b?c#d%20.db"
    shutil.copy(database, odd)
    for path in (database, tmp_path / "export.zip", folder, odd):
        intake = take(path)
        assert readings(intake) == wanted()
        assert set(intake.all_readings()["user_id"]) == {"person-1"}
        adds_up(intake)
        start, end = "2026-03-01T22:20", "2026-03-02T01:00"
        spans = [
            (start, end, "asleep"),
            (end, "2026-03-02T05:50", "asleep"),
            ("2026-03-03T22:00", "2026-03-04T06:00", "asleep"),
            ("2026-03-01T17:00", "2026-03-01T17:45", "in_workout"),
        ]
        assert intake.all_events().select("start", "end", "kind").rows() == [
            (datetime.fromisoformat(a), datetime.fromisoformat(b), kind) for a, b, kind in spans
        ]
        assert intake.people["person-1"].bmi == pytest.approx(81 / 1.8**2)
        assert intake.provenance["health_connect_schema_version"] == 17


def test_a_time_zone_serves_where_no_offset_is_written_and_people_come_from_file_names(tmp_path: Path) -> None:
    path = make(tmp_path / "anna.db")
    intake = take(path, zone="Asia/Tokyo", user_from_filename=r"(\w+)\.db")
    assert intake.all_readings().filter(pl.col("heart_rate") == 55)["utc_offset"].to_list() == [9 * 3600]
    assert intake.all_readings().filter(pl.col("heart_rate") == 61)["utc_offset"].to_list() == [3600]
    assert set(intake.all_readings()["user_id"]) == {"anna"}


def test_bad_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        example(connection)
        ninety_nine = 253_402_300_799_000
        bad: list[tuple[Any, Any]] = [(None, 60), (ninety_nine, 60), (2**62, 60), (-1, 60), (1.5, 60), ("soon", 60)]
        bad += [(at("05T00:00:00"), None), (at("05T00:00:00"), "many"), (at("05T00:00:00"), b"x" * 3_000_000)]
        heart_rates(connection, [*bad, (at("05T00:00:01"), 58)], start_zone_offset=10**9, device_info_id=b"?")
        record(connection, "steps_record_table", at("05T01:00:00"), at("05T00:00:00"), count=5)
        record(connection, "steps_record_table", at("05T00:00:00"), at("05T00:00:00"), count=6)
        record(connection, "steps_record_table", None, at("05T00:00:00"), count=7)
        record(connection, "sleep_session_record_table", at("05T01:00:00"), at("05T00:00:00"))
        connection.execute(
            "INSERT INTO heart_rate_record_series_table VALUES (999, 59, ?)", (at("05T00:00:02"),)
        )  # no such record

    path = make(tmp_path / "export.db", fill)
    intake = take(path)
    extra = [
        ("2026-03-05T00:00:01", None, 58.0, None, None, "com.fitbit.FitbitMobile", 2),
        ("2026-03-05T00:00:02", None, 59.0, None, None, "Health Connect", 2),
        ("2026-03-05T00:00:00", None, None, 6.0, 0.0, "Health Connect", 2),
    ]
    assert readings(intake) == wanted(EXPECTED[:4] + extra[:2] + EXPECTED[4:] + extra[2:])
    assert intake.account.count("rows", "dropped: no time from 1970 to 2100") == 7
    assert intake.account.count("rows", "dropped: no number of heart rate") == 3
    assert intake.account.count("rows", "dropped: ends before it starts") == 1
    assert intake.account.count("rows", "in") == 6 + 10 + 1 + 3
    adds_up(intake)
    assert intake.account.examples["rows", "dropped: ends before it starts"] == [
        "export.db, table steps_record_table, row 3"
    ]
    assert "export.db, table heart_rate_record_series_table, row 5: dropped: no time" in message(path, strict=True)


def test_nothing_is_written_beside_the_file_and_the_copy_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder = tmp_path / "export"
    folder.mkdir()
    database = make(folder / "health_connect_export.db")
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        archive.write(database, "health_connect_export.db")
    os.chmod(folder, 0o500)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for path in folder.iterdir():
        assert readings(take(path)) == wanted()
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert list(temporary.iterdir()) == []
    os.chmod(folder, 0o700)


def test_journals_beside_it_are_followed_without_touching_them(tmp_path: Path) -> None:
    """A database whose writer is at work: what is committed counts, what is not does not."""
    path = make(tmp_path / "export.db")
    with sqlite3.connect(path) as setting:
        setting.execute("PRAGMA journal_mode = WAL")
    setting.close()
    writer = sqlite3.connect(path)
    heart_rates(writer, [(at("09T00:00:00"), 99)])
    writer.commit()  # into the -wal only
    heart_rates(writer, [(at("09T00:00:05"), 98)])  # not committed
    beside = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert "export.db-wal" in beside
    intake = take(path)
    assert sorted(readings(intake), key=str) == sorted(
        wanted([*EXPECTED, ("2026-03-09T00:00:00", 3600, 99.0, None, None, EXPECTED[0][5], 0)]), key=str
    )
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == beside
    writer.close()


def test_a_hot_journal_is_rolled_back_and_a_lock_is_no_obstacle(tmp_path: Path) -> None:
    path = make(tmp_path / "export.db")
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("DELETE FROM heart_rate_record_series_table")
    for second in range(5000):  # more than the cache: pages that are not committed go to the file
        writer.execute("INSERT INTO heart_rate_record_series_table VALUES (1, 200, ?)", (second,))
    crash = tmp_path / "crash"
    crash.mkdir()
    for each in list(tmp_path.glob("export.db*")):
        shutil.copy(each, crash)
    assert (crash / "export.db-journal").stat().st_size > 512
    locked = take(path)
    assert readings(locked) == wanted()
    writer.execute("ROLLBACK")
    writer.close()
    assert readings(take(crash / "export.db")) == wanted()
    link = tmp_path / "link.db"
    link.symlink_to(crash / "export.db")  # its journal lies beside the file, not beside the link
    assert readings(take(link)) == wanted()


def test_what_is_no_export_is_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "steps.csv"
    text.write_text("time,steps\n")
    assert "steps.csv begins with b'time,steps\\n': it is no SQLite database, or an encrypted one" in message(text)
    encrypted = tmp_path / "encrypted.db"
    encrypted.write_bytes(random.Random(0).randbytes(8192))
    assert "encrypted.db begins with" in message(encrypted)
    empty = tmp_path / "empty.db"
    empty.touch()
    assert "empty.db is empty" in message(empty)
    other = make(tmp_path / "chrome.db", lambda _: None, "CREATE TABLE urls (url TEXT); CREATE TABLE visits (id)")
    assert "chrome.db is no database of Health Connect" in message(other)
    assert message(other).endswith("its tables are urls, visits")
    bare = make(tmp_path / "bare.db", lambda _: None)
    assert message(bare) == "bare.db holds no heart rate and no steps: nothing to read"
    changed = make(tmp_path / "new.db", example, SCHEMA)
    with sqlite3.connect(changed) as connection:
        connection.execute("ALTER TABLE steps_record_table RENAME COLUMN count TO total")
    connection.close()
    assert "new.db: table steps_record_table has no column count; its columns are row_id, uuid" in message(changed)
    assert "Version 17 of the schema is not known" in message(changed)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert "holds no database: expected health_connect_export.db" in message(nothing)
    assert "cannot be read" in message(tmp_path / "absent.db")


def test_one_broken_of_several_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    good = make(tmp_path / "good.db")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and nothing more")
    empty = tmp_path / "empty.db"
    empty.touch()
    intake = take(empty, good, broken)
    assert readings(intake) == wanted()
    assert intake.account.count("files", "in") == 3
    assert intake.account.count("files", "dropped: file that cannot be read") == 2
    assert "empty.db is empty" in intake.account.examples["files", "dropped: file that cannot be read"][0]
    message(empty, good, strict=True)
    message(empty, broken)


def test_views_and_virtual_tables_and_triggers_are_not_run(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS %s FROM n"
    view = make(
        tmp_path / "view.db",
        lambda _: None,
        f"CREATE TABLE other (x); CREATE VIEW steps_record_table AS {endless % 'count'};",
    )
    assert "its tables are other" in message(view)
    virtual = make(
        tmp_path / "virtual.db",
        lambda _: None,
        "CREATE VIRTUAL TABLE steps_record_table USING fts5 (start_time, end_time, end_zone_offset, count, "
        "app_info_id, device_info_id);",
    )
    assert "no database of Health Connect" in message(virtual)

    def fill(connection: sqlite3.Connection) -> None:
        example(connection)
        connection.execute("DROP TABLE sleep_stages_table")
        connection.execute(f"CREATE VIEW sleep_stages_table AS {endless % 'stage_type'}")
        connection.execute(
            "CREATE TRIGGER t BEFORE UPDATE ON steps_record_table BEGIN DELETE FROM heart_rate_record_table; END"
        )

    assert readings(take(make(tmp_path / "trigger.db", fill))) == wanted()


def test_a_table_cut_off_is_kept_up_to_there_and_said(tmp_path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        heart_rates(connection, [(at("01T00:00:00") + 5000 * i, 60 + i % 40) for i in range(50_000)])

    whole = make(tmp_path / "export.db", fill)
    cut = tmp_path / "cut.db"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    small = health_connect.CHUNK_ROWS
    try:
        health_connect.CHUNK_ROWS = 1000
        intake = take(cut)
    finally:
        health_connect.CHUNK_ROWS = small
    rates = intake.all_readings()["heart_rate"].to_list()
    assert 10_000 < len(rates) < 40_000
    assert rates == [60 + i % 40 for i in range(len(rates))]
    adds_up(intake)
    (place,) = intake.account.examples["tables", health_connect._DAMAGED]
    assert place.startswith("cut.db, table heart_rate_record_series_table, after")
    assert "malformed" in place
    assert "malformed" in message(cut, strict=True)
    stub = tmp_path / "stub.db"
    stub.write_bytes(whole.read_bytes()[:4096])
    assert "stub.db" in message(stub)


def test_a_tree_that_lists_its_pages_again_and_again_ends(tmp_path: Path) -> None:
    """A bomb: each page above the leaves lists the same page below it in all its cells."""

    def fill(connection: sqlite3.Connection) -> None:
        heart_rates(connection, [(i, 60) for i in range(20_000)])

    path = make(tmp_path / "bomb.db", fill)
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name LIKE '%series%'").fetchone()
        assert connection.execute("PRAGMA page_size").fetchone() == (4096,)
    connection.close()
    data = bytearray(path.read_bytes())
    top = data[(root - 1) * 4096 : root * 4096]
    assert top[0] == 5  # a page above the leaves
    cells = [int.from_bytes(top[at : at + 2], "big") for at in range(12, 12 + 2 * int.from_bytes(top[3:5], "big"), 2)]
    below = [int.from_bytes(top[cell : cell + 4], "big") for cell in cells]
    assert len(below) > 50
    for page, child in zip([root, *below[:6]], below[:7], strict=True):
        for cell in cells:
            top[cell : cell + 4] = child.to_bytes(4, "big")
        data[(page - 1) * 4096 : page * 4096] = top
    path.write_bytes(data)
    assert f"more than the {len(data) // 4:,} rows that its size can hold" in message(path)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(make(tmp_path / "export.db"), "export.db")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    assert "has not so much room (10 bytes free" in message(tmp_path / "export.zip")
    assert "TMPDIR" in message(tmp_path / "export.zip")


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.integers(at("01T00:00:00"), at("28T00:00:00")),
    st.integers(0, 250),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(*[VALUES] * 6), max_size=8), samples=st.lists(st.tuples(VALUES, VALUES), max_size=8))
def test_any_values_are_read_or_counted(tmp_path: Path, rows: list[Any], samples: list[Any]) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        example(connection)
        for start, end, count, offset, app, device in rows:
            columns = {"count": count, "end_zone_offset": offset, "app_info_id": app, "device_info_id": device}
            record(connection, "steps_record_table", start, end, **columns)
            record(connection, "sleep_session_record_table", start, end)
            weight = (random.randbytes(16), start, end)
            connection.execute("INSERT INTO weight_record_table (uuid, time, weight) VALUES (?, ?, ?)", weight)
        connection.executemany("INSERT INTO heart_rate_record_series_table VALUES (1, ?, ?)", samples)

    intake = take(make(tmp_path / "export.db", fill))
    adds_up(intake)
    assert intake.account.count("rows", "in") == 6 + len(rows) + len(samples)
    assert intake.all_readings()["time"].is_between(datetime(1970, 1, 1), datetime(2100, 1, 1)).all()
    assert intake.all_readings()["time"].null_count() == 0


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_any_damage_is_an_error_that_says_so_or_counted(tmp_path: Path, seed: int, cut: bool) -> None:
    dice = random.Random(seed)
    whole = tmp_path / "whole.db"
    if not whole.exists():
        make(
            whole, lambda connection: [example(connection), heart_rates(connection, [(i, 60) for i in range(5000)])][0]
        )
    data = bytearray(whole.read_bytes())
    for _ in range(dice.randrange(1, 30)):
        place = dice.choice([dice.randrange(100), dice.randrange(4096), dice.randrange(len(data))])
        data[place] = dice.randrange(256)
    if cut:
        del data[dice.randrange(len(data)) :]
    path = tmp_path / "damaged.db"
    path.write_bytes(data)
    intake = Intake(Account())
    try:
        health_connect.read(argparse.Namespace(files=[path]), intake)
    except HeartnetError as error:
        said = str(error)
    else:
        adds_up(intake)
        said = "damaged.db"
    assert "damaged.db" in said


@pytest.mark.slow
def test_a_million_samples_take_seconds(tmp_path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        for first in range(0, 1_000_000, 100):
            heart_rates(connection, [(at("01T00:00:00") + 5000 * i, 70) for i in range(first, first + 100)])

    path = make(tmp_path / "export.db", fill)
    began = datetime.now()
    assert take(path).all_readings().height == 1_000_000
    assert datetime.now() - began < timedelta(seconds=10)
