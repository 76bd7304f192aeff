"""Exports of Fitbit: both generations of a Takeout, made here, and real tables of Fitabase, against rows by hand."""

import argparse
import csv
import gzip
import json
import random
import zipfile
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.intake import RAW_SCHEMA, Intake, Person
from heartnet.sources import fitbit, fitbit_tables

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "fitbit"
OLD = "Takeout/Fitbit/Global Export Data"
NEW = "Takeout/Fitbit/Physical Activity_GoogleData"
NIGHTS = "Takeout/Google Health/Health Fitness Data_GoogleData"
PROFILE = "full_name,date_of_birth,timezone,gender,height,weight\nAda,1984-12-10,Europe/Berlin,FEMALE,170.0,65.0\n"


def beat(time: str, bpm: object, confidence: object = 2) -> dict[str, object]:
    return {"dateTime": time, "value": {"bpm": bpm, "confidence": confidence}}


def dumps(*entries: object) -> str:
    return json.dumps(entries, indent=2)


TAKEOUT = {
    "Takeout/archive_browser.html": "<html>",
    "Takeout/Fitbit/Your Profile/Profile.csv": PROFILE,
    f"{OLD}/heart_rate-2024-01-03.json": dumps(
        beat("01/03/24 08:00:05", 71), beat("01/03/24 08:00:10", 70, 0), beat("01/03/24 08:00:15", 73, 3)
    ),
    f"{OLD}/steps-2024-01-01.json": dumps(
        {"dateTime": "01/01/24 00:01:00", "value": "12"}, {"dateTime": "07/01/24 00:01:00", "value": "0"}
    ),
    f"{OLD}/sleep-2024-01-01.json": dumps(
        {
            "logId": 1,
            "dateOfSleep": "2024-01-03",
            "startTime": "2024-01-02T23:00:00.000",
            "endTime": "2024-01-03T07:00:00.000",
            "type": "stages",
            "levels": {
                "data": [
                    {"dateTime": "2024-01-02T23:00:00.000", "level": "wake", "seconds": 600},
                    {"dateTime": "2024-01-02T23:10:00.000", "level": "light", "seconds": 3600},
                    {"dateTime": "2024-01-03T00:10:00.000", "level": "rem", "seconds": 24600},
                ],
                "shortData": [{"dateTime": "2024-01-03T00:30:00.000", "level": "wake", "seconds": 60}],
            },
        },
        {"logId": 2, "startTime": "2024-07-02T14:00:00.000", "endTime": "2024-07-02T14:30:00.000"},
        {"logId": 3, "startTime": "2024-09-01T23:00:00.000", "endTime": "2024-09-02T07:00:00.000"},
    ),
    f"{OLD}/exercise-0.json": dumps({"startTime": "01/03/24 17:00:00", "duration": 1800000, "activityName": "Run"}),
    f"{NEW}/heart_rate_2024-01-03.csv": (
        "timestamp,beats per minute\n2024-01-03T08:00:05Z,71.0\n2024-01-03T08:00:10Z,70.0\n2024-01-03T08:00:20Z,75.0\n"
    ),
    f"{NEW}/Heart Rate/heart_rate_2024-07-03.csv": (
        "timestamp,beats per minute,data source\n"
        "2024-07-03T08:00:05.250Z,66.5,Google Fitbit Air\n2024-07-03 10:00:10+02:00,67,\"Strap, Web API\"\n"
    ),
    f"{NEW}/steps_2024-07-01.csv": (
        "timestamp,steps,data source\r\n2024-07-01T00:01:00Z,20,MobileTrack\r\n"
        "2024-07-01T00:02:00Z,30,Fit Health Connect\r\n"
    ),
    f"{NEW}/steps_2024-08-01.csv": "no data",
    f"{NIGHTS}/UserSleepStages_2024-09-01.csv": (
        "sleep_id,sleep_stage_id,sleep_stage_type,start_utc_offset,sleep_stage_start,end_utc_offset,sleep_stage_end\n"
        "9,1,LIGHT,-05:00,2024-09-02 03:00:00+0000,-05:00,2024-09-02 05:00:00+0000\n"
        "9,2,AWAKE,-05:00,2024-09-02T05:00:00Z,-05:00,2024-09-02T05:10:00Z\n"
        "9,3,DEEP,-05:00,2024-09-02T05:10:00Z,-05:00,2024-09-02T11:00:00Z\n"
    ),
    f"{NIGHTS}/UserExercises_2024-09-01.csv": (
        "exercise_id,exercise_start,exercise_end,utc_offset,events\n5,2024-09-02T15:00:00Z,2024-09-02T16:00:00Z,-05:00,\"a,b\"\n"
    ),
}  # fmt: skip

EXPECTED = [  # (UTC, offset, bpm, steps, seconds, device)
    ("2024-01-03T08:00:05", 3600, 71.0, None, None, "Fitbit", 0),
    ("2024-01-03T08:00:15", 3600, 73.0, None, None, "Fitbit", 0),
    ("2024-01-01T00:02:00", 3600, None, 12.0, 60.0, "Fitbit", 0),
    ("2024-07-01T00:02:00", 7200, None, 0.0, 60.0, "Fitbit", 0),
    ("2024-07-03T08:00:05.250", 7200, 66.5, None, None, "Google Fitbit Air", 0),
    ("2024-07-03T08:00:10", 7200, 67.0, None, None, "Strap", 0),
    ("2024-01-03T08:00:05", 3600, 71.0, None, None, "Fitbit", 0),
    ("2024-01-03T08:00:20", 3600, 75.0, None, None, "Fitbit", 0),
    ("2024-07-01T00:02:00", 7200, None, 20.0, 60.0, "MobileTrack", 1),
    ("2024-07-01T00:03:00", 7200, None, 30.0, 60.0, "Fit Health Connect", 2),
]
SPANS = [
    ("2024-09-02T03:00", "2024-09-02T05:00", "asleep"),
    ("2024-09-02T05:10", "2024-09-02T11:00", "asleep"),
    ("2024-09-02T15:00", "2024-09-02T16:00", "in_workout"),
    ("2024-01-02T22:10", "2024-01-02T23:10", "asleep"),
    ("2024-01-02T23:10", "2024-01-03T06:00", "asleep"),
    ("2024-07-02T12:00", "2024-07-02T12:30", "asleep"),
    ("2024-01-03T17:00", "2024-01-03T17:30", "in_workout"),
]


def pack(path: Path, files: dict[str, str | bytes] | dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpack(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def take(*paths: Path, strict: bool = False, min_confidence: int = 1, **options: Any) -> Intake:
    intake = Intake(Account(strict=strict), **options)
    fitbit.read(argparse.Namespace(files=list(paths), min_confidence=min_confidence), intake)
    return intake


def readings(intake: Intake) -> list[tuple[object, ...]]:
    frame = intake.all_readings()
    assert frame.schema == RAW_SCHEMA
    columns = "time", "utc_offset", "heart_rate", "steps", "duration", "device"
    return [
        (*rest, intake.devices[device].name, intake.devices[device].rank)
        for *rest, device in frame.select(*columns).rows()
    ]


def wanted(rows: Iterable[tuple[Any, ...]] = EXPECTED) -> list[tuple[object, ...]]:
    return [(datetime.fromisoformat(time), *rest) for time, *rest in rows]


def adds_up(intake: Intake) -> None:
    count = intake.account.count
    dropped = sum(n for stage, what, n in intake.account if stage == "rows" and what.startswith("dropped"))
    assert count("rows", "in") - dropped == intake.all_readings().height
    dropped = sum(n for stage, what, n in intake.account if stage == "events" and what.startswith("dropped"))
    assert count("events", "in") - dropped == intake.all_events().height


def message(*paths: Path, **options: Any) -> str:
    with pytest.raises(HeartnetError) as raised:
        take(*paths, **options)
    return str(raised.value)


@pytest.mark.parametrize("how", ["zip", "folder", "two parts"])
def test_both_generations_at_once(tmp_path: Path, how: str) -> None:
    if how == "two parts":  # the profile in the one, the readings in the other
        names = sorted(TAKEOUT, reverse=True)
        first, second = ({name: TAKEOUT[name] for name in part} for part in (names[2:], names[:2]))
        paths = [pack(tmp_path / "1.zip", first), pack(tmp_path / "2.zip", second)]
    else:
        paths = [pack(tmp_path / "takeout.zip", TAKEOUT) if how == "zip" else unpack(tmp_path / "takeout", TAKEOUT)]
    intake = take(*paths)
    assert sorted(readings(intake), key=str) == sorted(wanted(), key=str)
    assert intake.all_readings()["instant"].all()
    assert set(intake.all_readings()["user_id"]) == {"person-1"}
    assert sorted(intake.all_events().select("start", "end", "kind").rows()) == sorted(
        (datetime.fromisoformat(start), datetime.fromisoformat(end), kind) for start, end, kind in SPANS
    )
    assert intake.people == {"person-1": Person(date(1984, 12, 10), None, "female", pytest.approx(65 / 1.7**2))}
    adds_up(intake)
    account = intake.account
    low = "dropped: heart rate with a confidence below 1 (--min-confidence)"
    assert account.count("rows", low) == 2  # in the one generation and in the other
    assert account.count("events", "noted: sleep left out, which UserSleepStages hold too") == 1
    assert account.count("files", "in") == 11
    assert account.count("files", "noted: files of other kinds, not read") == 1
    assert account.count("files", "dropped: file that cannot be read") == 0


def test_confidence_is_an_option(tmp_path: Path) -> None:
    path = pack(tmp_path / "takeout.zip", TAKEOUT)
    for least, expected in ((0, [70, 70, 71, 71, 73, 75]), (1, [71, 71, 73, 75]), (3, [73, 75])):
        rates = take(path, min_confidence=least).all_readings().filter(pl.col("time") < datetime(2024, 2, 1))
        assert sorted(rates["heart_rate"].drop_nulls()) == expected


def test_a_time_zone_option_goes_first_and_without_any_local_times_are_left_out(tmp_path: Path) -> None:
    path = pack(tmp_path / "takeout.zip", TAKEOUT)
    intake = take(path, zone="Asia/Tokyo")
    assert set(intake.all_readings()["utc_offset"]) == {9 * 3600} | {7200}  # one time says its own offset
    assert datetime(2024, 7, 2, 5) in intake.all_events()["start"].to_list()
    bare = {name: text for name, text in TAKEOUT.items() if "Profile" not in name}
    intake = take(pack(tmp_path / "bare.zip", bare))
    assert set(intake.all_readings()["utc_offset"]) == {None, 7200}
    assert intake.all_readings()["time"].min() == datetime(2024, 1, 1, 0, 2)
    assert intake.all_events().height == 4
    (what,) = (what for stage, what, _ in intake.account if stage == "events" and "--time-zone" in what)
    assert intake.account.count("events", what) == 4
    other = bare | {"Takeout/Other/Profile.csv": "name,email\nAda,a@b\n"}
    assert take(pack(tmp_path / "other.zip", other)).people == {}
    odd = TAKEOUT | {"Takeout/Fitbit/Your Profile/Profile.csv": "timezone,height,weight\nMiddle/Earth,x,\n"}
    intake = take(pack(tmp_path / "odd.zip", odd))
    assert intake.account.count("files", "noted: profile without a known time zone") == 1
    assert intake.people["person-1"] == Person()


def test_one_broken_of_a_hundred_files_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    first = date(2024, 1, 1)
    days = [(first + timedelta(days=day)) for day in range(100)]
    files = {f"{OLD}/heart_rate-{day}.json": dumps(beat(f"{day:%m/%d/%y} 12:00:00", 60)) for day in days}
    broken = f"{OLD}/heart_rate-{days[41]}.json"
    files[broken] = files[broken][:-9]
    path = pack(tmp_path / "takeout.zip", files)
    intake = take(path)
    assert intake.all_readings().height == 99
    assert intake.account.count("files", "in") == 100
    assert intake.account.count("files", "dropped: file that cannot be read") == 1
    (place,) = intake.account.examples["files", "dropped: file that cannot be read"]
    assert place.startswith(f"takeout.zip/{broken} is broken JSON: ")
    assert "broken JSON" in message(path, strict=True)
    assert "broken JSON" in message(pack(tmp_path / "one.zip", {broken: files[broken]}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "nests too deep"),
        ('{"a": ' * 100_000, "nests too deep"),
        ('{"dateTime": "01/03/24 08:00:05"}', "holds a dict; expected a list"),
        ("", "broken JSON"),
        (b"\xff\xfe[", "broken JSON"),
        ("[" + "9" * 5000 + "]", "broken JSON"),
        ('["' + "x" * 20_000_000 + '"]', "expected at most 16,777,216 of a JSON file"),
    ],
)
def test_json_that_is_none_is_named(tmp_path: Path, content: str | bytes, reason: str) -> None:
    name = "heart_rate-2024-01-03.json"
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert name in message(path)
    assert reason in message(path)


def test_odd_entries_are_dropped_and_counted(tmp_path: Path) -> None:
    good = beat("01/03/24 08:00:05", 71)
    odd = [
        None, 7, "x", [], {}, beat("x", 60), beat("", 60), {"dateTime": 3, "value": {"bpm": 1}}, beat("\ud800", 60),
        beat("13/03/24 08:00:05", 60), {"dateTime": "01/03/24 08:00:05"}, {"dateTime": "01/03/24 08:00:05", "value": 5},
        beat("01/03/24 08:00:05", None), beat("01/03/24 08:00:05", True), beat("01/03/24 08:00:05", "x"),
        beat("01/03/24 08:00:05", [1]), beat("01/03/24 08:00:05", 10**400), beat("01/03/24 08:00:05", float("nan")),
    ]  # fmt: skip
    path = tmp_path / "heart_rate-2024-01-03.json"
    path.write_text(dumps(*odd, good, beat("01/03/24 08:00:06", 72, "sure"), beat("01/03/24 08:00:07", "73.5", None)))
    intake = take(path)
    assert intake.all_readings()["heart_rate"].to_list() == [71, 72, 73.5]
    assert intake.all_readings()["row"].to_list() == [19, 20, 21]
    assert intake.account.count("rows", "in") == 21
    assert intake.account.count("rows", "dropped: no time from 1970 to 2100") == 10
    assert intake.account.count("rows", "dropped: no number of heart rate") == 8
    adds_up(intake)
    assert "heart_rate-2024-01-03.json row 1: ''" in message(path, strict=True)


def test_what_is_not_of_fitbit_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    other = tmp_path / "garmin.csv"
    other.write_text("Activity Type,Date,Steps\nRun,2024-01-01,5\n")
    assert "garmin.csv" in message(other)
    assert "expected a Google Takeout of Fitbit (heart_rate-2024-01-03.json" in message(other)
    assert "Id,ActivityMinute,Steps" in message(pack(tmp_path / "photos.zip", {"Takeout/Google Photos/a.jpg": "x"}))
    wrong = tmp_path / "heart_rate_2024-01-03.csv"
    wrong.write_text("time;bpm\n2024-01-03;60\n")
    assert "has the columns 'time;bpm'; expected 'timestamp', 'beats per minute'" in message(wrong)
    empty = pack(tmp_path / "empty.zip", {f"{NEW}/steps_2024-01-01.csv": "timestamp,steps,data source\n"})
    assert message(empty) == "no heart rate and no steps in 1 files of Fitbit: nothing to read"
    assert "cannot be read" in message(tmp_path / "absent.zip")
    intake = take(other, pack(tmp_path / "takeout.zip", TAKEOUT))
    assert intake.account.count("files", "dropped: file that cannot be read") == 1


def test_tables_in_odd_dress(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"Timestamp" , "Beats Per Minute"\r\n"2024-01-03T08:00:05Z","60"\r\n\r\n2024-01-03T08:00:06Z,61\n'
        b"2024-01-03T08:00:07Z\n\xff,62\n2024-01-03T08:00:08Z,1e999\n9999-01-03T08:00:08Z,64\n2024-01-03T08:00:09Z,65"
    )
    intake = take(path, zone="Europe/Berlin")
    assert intake.all_readings()["heart_rate"].to_list() == [60, 61, 65]
    assert intake.all_readings()["row"].to_list() == [2, 4, 9]
    assert set(intake.all_readings()["utc_offset"]) == {3600}
    assert intake.account.count("rows", "in") == 7
    assert intake.account.count("rows", "dropped: no time from 1970 to 2100") == 2
    assert intake.account.count("rows", "dropped: no number of heart rate") == 2
    assert (
        intake.account.examples["rows", "dropped: no number of heart rate"][0]
        == "mine.csv row 5: '2024-01-03T08:00:07Z'"
    )


def test_large_tables_come_in_blocks_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitbit_tables, "BLOCK_BYTES", 100)
    lines = [f"2024-01-03T08:{i // 60:02d}:{i % 60:02d}Z,{60 + i % 30}" for i in range(500)]
    path = tmp_path / "heart_rate_2024-01-03.csv"
    path.write_text("timestamp,beats per minute\n" + "\n".join(lines))
    frame = take(path).all_readings()
    assert frame["heart_rate"].to_list() == [60 + i % 30 for i in range(500)]
    assert frame["row"].to_list() == list(range(2, 502))
    long = tmp_path / "heart_rate_2024-01-04.csv"
    long.write_text("timestamp,beats per minute\n" + "x" * 1000)
    assert "a line of more than 100 bytes" in message(long)
    monkeypatch.undo()
    monkeypatch.setattr(fitbit_tables, "FREE_BYTES", 1 << 20)
    bomb = tmp_path / "minuteSteps_2.csv.gz"
    bomb.write_bytes(gzip.compress(b"Id,ActivityMinute,Steps\n" + b"\n" * 20_000_000))
    assert "gzip bomb" in message(bomb)
    cut = tmp_path / "minuteSteps.csv.gz"
    cut.write_bytes(gzip.compress(b"Id,ActivityMinute,Steps\n1,4/12/2016 7:21:00 AM,5\n" * 1000)[:-20])
    assert "is a damaged gzip file, or ends early" in message(cut)


def test_fitabase_in_american_times(tmp_path: Path) -> None:
    path = tmp_path / "minuteStepsNarrow_merged.csv"
    path.write_text(
        "Id,ActivityMinute,Steps\n15,4/12/2016 12:00:00 AM,5\n16,4/12/2016 1:59:00 PM,6\n,4/12/2016 2:00:00 PM,7\n"
    )
    frame = take(path).all_readings()
    assert frame.select("user_id", "time", "instant", "steps", "duration").rows() == [
        ("15", datetime(2016, 4, 12, 0, 1), False, 5.0, 60.0),
        ("16", datetime(2016, 4, 12, 14, 0), False, 6.0, 60.0),
    ]
    frame = take(path, zone="America/New_York").all_readings()
    assert frame.select("time", "utc_offset").rows()[0] == (datetime(2016, 4, 12, 4, 1), -4 * 3600)


def test_real_tables_of_fitabase_against_the_csv_module() -> None:
    names = {"heartrate_seconds.csv.gz": ("Time", "Value", 0), "minute_steps.csv.gz": ("ActivityMinute", "Steps", 60)}
    if not DATA.is_dir():
        pytest.skip(f"the recordings are not at {DATA}")
    frame = take(*(DATA / name for name in names)).all_readings()
    for (name, (time, value, seconds)), channel in zip(names.items(), ("heart_rate", "steps"), strict=True):
        with gzip.open(DATA / name, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        found = frame.filter(pl.col(channel).is_not_null())
        assert found["user_id"].to_list() == [row["Id"] for row in rows]
        assert found[channel].to_list() == [float(row[value]) for row in rows]
        moments = np.array([row[time] for row in rows], dtype="datetime64[us]") + np.timedelta64(seconds, "s")
        assert (found["time"].to_numpy() == moments).all()
        assert found["row"].to_list() == list(range(2, len(rows) + 2))
        assert set(found["duration"]) == {60.0 if seconds else None}
    assert frame.height == 791_446 + 182_940
    assert not frame["instant"].any()


def test_the_night_the_clock_is_set_back_also_where_the_last_night_comes_first(tmp_path: Path) -> None:
    def log(*levels: tuple[str, int]) -> dict[str, object]:
        data = [{"dateTime": time, "level": "light", "seconds": seconds} for time, seconds in levels]
        return {"endTime": levels[-1][0], "levels": {"data": data}}

    files = {
        f"{OLD}/heart_rate-2024-10-27.json": dumps(beat("10/27/24 00:00:00", 50)),
        f"{OLD}/sleep-2024-10-01.json": dumps(
            log(("2024-10-28T02:30:00.000", 60)),
            log(
                ("2024-10-27T02:30:00.000", 1800), ("2024-10-27T02:00:00.000", 1800), ("2024-10-27T02:30:00.000", 1800)
            ),
        ),
    }
    events = take(pack(tmp_path / "takeout.zip", files), zone="Europe/Berlin").all_events()
    starts = [datetime(2024, 10, 27, 0, 30), datetime(2024, 10, 27, 1), datetime(2024, 10, 27, 1, 30)]
    assert events["start"].to_list() == [*starts, datetime(2024, 10, 28, 1, 30)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("01/03/24 08:00:05"),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["dateTime", "value", "bpm", "confidence", "levels", "data", "level", "seconds",
                                       "startTime", "endTime", "duration"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["heart_rate", "steps", "sleep", "exercise"]), value=st.lists(JSON, max_size=5) | JSON)
def test_any_json_is_read_or_refused(tmp_path: Path, kind: str, value: Any) -> None:
    good = {f"{OLD}/heart_rate-2024-01-03.json": TAKEOUT[f"{OLD}/heart_rate-2024-01-03.json"]}
    files = good | {f"{OLD}/{kind}-2024-01-04.json": json.dumps(value)}
    intake = take(pack(tmp_path / "takeout.zip", files), zone="Europe/Berlin")
    adds_up(intake)
    lost = intake.account.count("files", "dropped: file that cannot be read")
    assert lost == (not isinstance(value, list))
    if kind in ("heart_rate", "steps") and not lost:
        assert intake.account.count("rows", "in") == 3 + len(value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), zipped=st.booleans())
def test_any_damage_is_an_error_that_says_so_or_counted(tmp_path: Path, seed: int, zipped: bool) -> None:
    dice = random.Random(seed)

    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(dice.randrange(1, 6)):
            changed[dice.randrange(len(changed))] = dice.choice([dice.randrange(256), 0x22, 0x2C, 0x0A, 0x5D])
        return bytes(changed[: dice.randrange(1, len(data))] if dice.random() < 0.3 else changed)

    path = tmp_path / "takeout.zip"
    if zipped:
        path.write_bytes(damage(pack(path, TAKEOUT).read_bytes()))
    else:
        pack(path, {name: damage(text.encode()) for name, text in TAKEOUT.items()})
    intake = Intake(Account())
    try:
        fitbit.read(argparse.Namespace(files=[path], min_confidence=1), intake)
    except HeartnetError as error:
        said = str(error)
    else:
        said = "takeout.zip"
        adds_up(intake)
    assert "takeout.zip" in said or "no heart rate and no steps" in said
