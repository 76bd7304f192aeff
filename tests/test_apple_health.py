"""Apple Health exports: genuine by hand-checked values, written against another parser, broken by message."""

import csv
import io
import random
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.cli import main
from heartnet.errors import HeartnetError
from heartnet.intake import Intake, Person
from heartnet.sources import apple_health, apple_xml
from heartnet.sources.apple_records import count_records, device_of, find_records
from heartnet.sources.apple_times import Zones, parse_dates
from heartnet.store import open_store

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
WATCH = (
    "&lt;&lt;HKDevice: 0x282a45810&gt;, name:Apple Watch, manufacturer:Apple, model:Watch, hardware:Watch2,4, "
    "software:4.3.1&gt;"
)
ZONE = '<MetadataEntry key="HKTimeZone" value="{}"/>'
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE HealthData [\n<!ELEMENT HealthData (Me)>\n]>\n'


def read(*files: Path, zone: str | None = None, strict: bool = False) -> Intake:
    intake = Intake(Account(strict=strict), zone=zone)
    apple_health.read(Namespace(files=list(files)), intake)
    check_account(intake)
    return intake


def check_account(intake: Intake) -> None:
    """What came in is handed in, or counted as dropped."""
    dropped = sum(n for stage, what, n in intake.account if stage == "rows" and what.startswith("dropped"))
    assert intake.account.count("rows", "in") - dropped == intake.all_readings().height
    dropped = sum(n for stage, what, n in intake.account if stage == "events" and what.startswith("dropped"))
    assert intake.account.count("events", "in") - dropped == intake.all_events().height


def export(*elements: str, head: str = HEAD) -> str:
    return head + '<HealthData locale="en_US">\n' + "\n".join(elements) + "\n</HealthData>\n"


def record(kind: str = "HeartRate", start: str = "2020-05-01 10:00:00 +0000", value: str = "60", **changes: str) -> str:
    unit = "count/min" if kind == "HeartRate" else "count"
    given = {"type": f"HKQuantityTypeIdentifier{kind}", "sourceName": "Watch", "unit": unit, "creationDate": start}
    given |= {"startDate": start, "endDate": start, "value": value} | changes
    return " <Record " + " ".join(f'{name}="{text}"' for name, text in given.items()) + "/>"


def write(folder: Path, text: str | bytes, name: str = "export.xml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def at(text: str) -> datetime:
    """Parse a date with an offset, to naive UTC."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z").astimezone(UTC).replace(tzinfo=None)


def genuine(name: str) -> Intake:
    if not (DATA / "apple_health").is_dir():
        pytest.skip(f"the genuine exports are not at {DATA}")
    return read(DATA / "apple_health" / name)


def test_genuine_dogsheep() -> None:
    intake = genuine("dogsheep_export.xml")
    row = intake.all_readings().row(0, named=True)
    assert (row["time"], row["heart_rate"], row["utc_offset"]) == (datetime(2018, 9, 10, 9, 28, 55), 72.0, -7 * 3600)
    assert intake.devices[row["device"]].name == "Apple Watch (Watch2,4)"
    assert intake.devices[row["device"]].rank == 0
    assert intake.people == {"person-1": Person(born=date(1990, 2, 2), sex="male")}
    event = intake.all_events().row(0, named=True)
    assert (event["kind"], event["start"]) == ("in_workout", datetime(2016, 11, 14, 14, 25, 41))
    assert event["end"] - event["start"] == timedelta(minutes=5, seconds=11)
    assert intake.account.count("rows", "noted: heart rate with motion context: motion not set") == 1


def test_genuine_tdda() -> None:
    intake = genuine("tdda_export6s3sample.xml")
    frame = intake.all_readings()
    assert frame["steps"].to_list() == [329, 283, 426, 61, 10, 200, 390, 320, 216, 282]
    assert frame["time"][0] == datetime(2014, 9, 13, 9, 27, 59)
    assert set(frame["duration"]) == {5.0}
    assert set(frame["utc_offset"]) == {3600}
    assert intake.people["person-1"].born == date(1965, 7, 31)
    what = "noted: local time by the offset at the time of export (say where, with --time-zone)"
    assert intake.account.count("rows", what) == 10


def test_genuine_opendroid() -> None:
    intake = genuine("opendroid_sampleexport-2.xml")
    frame = intake.all_readings()
    assert frame["steps"].to_list() == [143, 66, 223]
    assert set(frame["utc_offset"]) == {-7 * 3600}  # in September, where the December export wrote -0800
    assert [(d.name, d.rank) for d in intake.devices[1:]] == [("iPhone", 1)]
    assert intake.account.count("events", "dropped: ends where it starts, or before") == 3
    intake = genuine("opendroid_sampleexport.xml")  # wrapped lines, clinical records, an emoji as a watch's name
    assert intake.all_readings().is_empty()
    assert intake.all_events()["start"].to_list() == [datetime(2018, 12, 17, 15, 54, 59)]


def applewatch(name: str) -> list[dict[str, str]]:
    if not (DATA / "applewatch").is_dir():
        pytest.skip(f"the recording is not at {DATA}")
    with (DATA / "applewatch" / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_large_export_gives_back_the_recording_it_was_written_from(tmp_path: Path, zone: str | None) -> None:
    """Ten weeks in January to March, exported in July, so that all offsets are those of summer."""
    here, summer = ZoneInfo("Europe/Berlin"), timezone(timedelta(hours=2))
    elements, heart_rates, steps, backwards = [], [], [], 0

    def written(day: str, clock: str) -> tuple[str, datetime]:
        instant = datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=here).astimezone(UTC)
        return instant.astimezone(summer).strftime("%Y-%m-%d %H:%M:%S %z"), instant.replace(tzinfo=None)

    for row in applewatch("hr.csv"):
        text, time = written(row["Start_Date"], row["Start_Time"])
        elements.append(
            f' <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Simon’s Apple Watch" sourceVersion="4.3.1" '
            f'device="{WATCH}" unit="count/min" creationDate="{text}" startDate="{text}" endDate="{text}" '
            f'value="{row["Value"]}">\n  <MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="1"/>\n'
            " </Record>"
        )
        heart_rates.append((time, float(row["Value"]), "Apple Watch (Watch2,4)"))
    for number, row in enumerate(applewatch("steps.csv")):
        start, begin = written(row["Start_Date"], row["Start_Time"])
        end, time = written(row["End_Date"], row["End_Time"])
        device, name = (f'device="{WATCH}" ', "Apple Watch (Watch2,4)") if number % 3 else ("", "iPhone")
        source = "Simon’s Apple Watch" if number % 3 else "Simon&apos;s iPhone"
        elements.append(
            f' <Record type="HKQuantityTypeIdentifierStepCount" sourceName="{source}" sourceVersion="11.4" {device}'
            f'unit="count" creationDate="{end}" startDate="{start}" endDate="{end}" value="{row["Steps"]}"/>'
        )
        if time < begin:
            backwards += 1
        else:
            steps.append((time, float(row["Steps"]), (time - begin).total_seconds(), name))
    random.Random(0).shuffle(elements)
    if zone is None:  # known from the file's last element
        elements.append(workout("2026-06-01 10:00:00 +0200", "2026-06-01 11:00:00 +0200", "Europe/Berlin"))
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export.xml", export(*elements))
    intake = read(path, zone=zone)
    frame = intake.all_readings().with_columns(
        name=pl.col("device").replace_strict(dict(enumerate(device.name for device in intake.devices)))
    )
    found = frame.filter(pl.col("heart_rate").is_not_null()).select("time", "heart_rate", "name").rows()
    assert sorted(found) == sorted(heart_rates)
    found = frame.filter(pl.col("steps").is_not_null()).select("time", "steps", "duration", "name").rows()
    assert sorted(found) == sorted(steps)
    assert intake.account.count("rows", "dropped: ends before it starts") == backwards
    local = frame.select(pl.col("time") + pl.duration(seconds="utc_offset"))["time"]
    clocks = {datetime.fromisoformat(f"{row['Start_Date']} {row['Start_Time']}") for row in applewatch("hr.csv")}
    assert clocks <= set(local)
    assert intake.account.count("rows", "noted: heart rate with motion context: sedentary") == len(heart_rates)


def workout(start: str, end: str, zone: str) -> str:
    return (
        f' <Workout workoutActivityType="HKWorkoutActivityTypeRunning" startDate="{start}" endDate="{end}">\n'
        f'  <MetadataEntry key="HKTimeZone" value="{zone}"/>\n </Workout>'
    )


def sleep(start: str, end: str, stage: str, zone: str = "Europe/Berlin") -> str:
    return (
        f' <Record type="HKCategoryTypeIdentifierSleepAnalysis" sourceName="W" startDate="{start}" endDate="{end}" '
        f'value="HKCategoryValueSleepAnalysis{stage}">\n  <MetadataEntry key="HKTimeZone" value="{zone}"/>\n </Record>'
    )


def test_an_export_is_known_by_its_root_in_a_zip_a_folder_or_alone(tmp_path: Path) -> None:
    folder = tmp_path / "apple_health_export"
    (folder / "electrocardiograms").mkdir(parents=True)
    write(folder, "<ClinicalDocument xmlns='urn:hl7-org:v3'/>", "export_cda.xml")
    write(folder / "electrocardiograms", "not,xml", "ecg_2020.csv")
    write(folder, "<gpx/>", "route.gpx")
    xml = write(folder, export(record(value="61")), "Экспорт.xml")
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in folder.rglob("*.*"):
            target.write(path, path.relative_to(tmp_path))
    told: list[int] = []
    other = tmp_path / "data.bin"
    other.write_bytes(xml.read_bytes())
    for path in (folder, archive, xml, other):
        intake = read(path)
        assert intake.all_readings()["heart_rate"].to_list() == [61.0]
        assert intake.account.count("files", "in") == 1
    intake = Intake(Account(), progress=lambda _, count: told.append(count))
    apple_health.read(Namespace(files=[archive]), intake)
    with zipfile.ZipFile(archive) as source:
        assert sum(told) == sum(info.compress_size for info in source.infolist())
    assert min(told) >= 0


def test_other_files_are_told_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(HeartnetError, match=r"cda\.xml is not an Apple Health export.*cda\.xml \(ClinicalDocument\)"):
        read(write(tmp_path, "<ClinicalDocument/>", "cda.xml"))
    with pytest.raises(HeartnetError, match=r"hr\.csv is not XML: it begins with b'time,bpm'"):
        read(write(tmp_path, "time,bpm", "hr.csv"))
    with pytest.raises(HeartnetError, match="no XML element was found"):
        read(write(tmp_path, "<?xml version='1.0'?>", "e.xml"))
    with pytest.raises(HeartnetError, match="is not XML: it begins with b''"):
        read(write(tmp_path, "", "e.xml"))
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(HeartnetError, match=r"e\.zip is not an Apple Health export"):
        read(tmp_path / "e.zip")


def test_a_broken_file_among_others_is_counted(tmp_path: Path) -> None:
    good = write(tmp_path, export(record()))
    bad = write(tmp_path, b"PK\x03\x04 cut off", "cut.zip")
    intake = read(bad, good)
    assert intake.all_readings().height == 1
    assert intake.account.count("files", "in") == 2
    assert intake.account.count("files", "dropped: file that cannot be read") == 1
    with pytest.raises(HeartnetError, match=r"cut\.zip is broken or cut off"):
        read(bad, good, strict=True)
    with pytest.raises(HeartnetError, match=r"cut\.zip is broken or cut off"):
        read(bad)


def test_records_in_any_legal_form_are_read(tmp_path: Path) -> None:
    odd = """
<Record
    value='71' endDate = "2020-05-01 10:00:00 +0000"
    startDate="2020-05-01 10:00:00 +0000" unit="count/min" device="a > b, 'c'" sourceName='say "x"'
    type='HKQuantityTypeIdentifierHeartRate' ></Record
>"""
    intake = read(
        write(
            tmp_path,
            export(
                record(value="70"),
                odd,
                record(value="&#55;2"),
                record(value="73", sourceName="A &amp; B&#39;s HKQuantityTypeIdentifierHeartRate' &lt;"),
                f"<!-- {record(value='1')} --><![CDATA[{record(value='2')}]]><?pi {record(value='3')}?>",
                record("HeartRateVariabilitySDNN", value="4"),
                '<MetadataEntry key="HKQuantityTypeIdentifierHeartRate" value="5"/>',
                record(value="74.25"),
            ),
        )
    )
    assert intake.all_readings()["heart_rate"].to_list() == [70.0, 71.0, 72.0, 73.0, 74.25]
    assert intake.all_readings()["row"].to_list() == [1, 2, 3, 4, 5]


def test_a_record_is_found_the_same_beside_an_unusual_one() -> None:
    usual = (
        f'<Record type="HKQuantityTypeIdentifierHeartRate" sourceName="A &amp; B" sourceVersion="7" device="{WATCH}" '
        'unit="count/min" creationDate="a" startDate="b" endDate="c" value="60">\n  <MetadataEntry '
        'key="HKMetadataKeyHeartRateMotionContext" value="2"/></Record>'
    )
    device = WATCH.removeprefix("&lt;&lt;HKDevice: 0x282a45810&gt;").encode()
    expected = (b"HeartRate", b"A &amp; B", device, b"count/min", b"b", b"c", b"60", b"2")
    assert find_records(usual.encode(), "x.xml") == [expected]
    odd = "<Record value='61' type='HKQuantityTypeIdentifierHeartRate'/>"
    assert find_records((usual + odd).encode(), "x.xml")[0] == expected


def test_records_in_a_correlation_are_read_once(tmp_path: Path) -> None:
    group = '<Correlation type="a > b" sourceName="x">' + record(value="61") + record("StepCount") + "</Correlation>"
    intake = read(write(tmp_path, export(record(value="60"), group, '<Correlation type="x"/>', record(value="61"))))
    assert intake.all_readings()["heart_rate"].to_list() == [60.0, 61.0]
    assert intake.account.count("rows", "noted: in a correlation, which only repeats records") == 2


def test_units(tmp_path: Path) -> None:
    texts = [("60", "count/min"), ("1.5", "count/s"), ("3600", "count/hr"), ("60", "furlong"), ("60", "")]
    elements = [record(value=value, unit=unit) for value, unit in texts]
    intake = read(
        write(tmp_path, export(*elements, record("StepCount", unit="km"), record(value="7").replace("unit", "u")))
    )
    assert intake.all_readings()["heart_rate"].to_list() == [60.0, 90.0, 60.0]
    assert intake.account.count("rows", "dropped: unit not known") == 4


BAD = {
    "not a number": [record(value=value) for value in ("abc", "", "nan", "inf", "１", "--1", "1e300")],
    "time not readable": [
        record(start=start)
        for start in (
            "2020-13-01 10:00:00 +0000",
            "2020-02-30 10:00:00 +0000",
            "2020-05-01 24:00:00 +0000",
            "2020-05-01 10:00:00 +9900",
            "2020-05-01 10:00:00 ~0000",
            "2020-05-01 10:00:00",
            "yesterday",
            "",
        )
    ],
    "time before 1970 or after 2099": [
        record(start="9999-12-31 23:59:59 +0000"),
        record("StepCount", endDate="2100-01-01 00:00:00 +0000"),
        record(start="1969-12-31 23:59:59 +0000"),
        record(start="0000-01-01 10:00:00 +0000"),
    ],
    "ends before it starts": [record("StepCount", endDate="2020-05-01 09:59:59 +0000")],
    "record not readable": [record().replace('"60"', '"60'), record().replace(' unit="', " unit=")],
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_records_are_counted_with_their_places(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path, export(record(), *BAD[reason], record()))
    intake = read(path)
    assert intake.all_readings().height == 2
    assert intake.account.count("rows", f"dropped: {reason}") == len(BAD[reason])
    assert "export.xml, heart rate or step record 2: " in intake.account.examples["rows", f"dropped: {reason}"][0]
    with pytest.raises(HeartnetError, match=rf"export\.xml, heart rate or step record 2: .*: dropped: {reason}"):
        read(path, strict=True)


@pytest.mark.parametrize("kept", [1_500_000, 2])
def test_local_time_is_that_of_the_latest_time_zone_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(apple_health, "_MOST_KEPT", kept)
    monkeypatch.setattr(apple_health, "_ROWS", 2)
    monkeypatch.setattr(apple_health, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr(apple_xml, "_READ_BYTES", 300)
    monkeypatch.setattr(apple_xml, "_NEAR", 100)
    monkeypatch.setattr(apple_xml, "_BEGIN_BYTES", 300)
    elements = [
        record(start="2020-01-10 12:00:00 -0700", value="50"),  # before all: Berlin in winter
        record(start="2020-07-10 12:00:00 -0700", value="51"),  # Berlin in summer
        record(start="2020-08-02 12:00:00 -0700", value="52"),  # Tokyo
        record(start="2020-08-01 12:00:00 -0700", value="53"),  # Tokyo, at the very moment
        workout("2020-08-01 12:00:00 -0700", "2020-08-01 13:00:00 -0700", "Asia/Tokyo"),
        workout("2020-08-03 12:00:00 -0700", "2020-08-03 13:00:00 -0700", "Nowhere/Atlantis"),
        sleep("2020-06-01 12:00:00 -0700", "2020-06-01 13:00:00 -0700", "Asleep", "Europe/Berlin"),
    ]
    path = write(tmp_path, export(*elements))
    intake = read(path)
    frame = intake.all_readings().sort("heart_rate")
    assert (frame["utc_offset"] / 3600).to_list() == [1, 2, 9, 9]
    assert frame["time"][0] == datetime(2020, 1, 10, 19)
    assert intake.account.count("time zones", "noted: unknown time zone") == 1
    frame = read(path, zone="America/Los_Angeles").all_readings().sort("heart_rate")
    assert (frame["utc_offset"] / 3600).to_list() == [-8, -7, -7, -7]
    assert frame["time"][0] == datetime(2020, 1, 10, 19)


def test_a_time_zone_is_dated_by_what_it_is_nested_in_even_if_that_was_pieces_ago() -> None:
    zones = Zones()
    for piece in ("<Workout startDate='2020-08-01 12:00:00 -0700'>", "<WorkoutEvent/>", ZONE.format("Asia/Tokyo")):
        zones.add(piece.encode(), "x.xml")
    zones.add(f"<Workout startDate='2020-07-01 12:00:00 -0700'>{ZONE.format('UTC')}".encode(), "x.xml")
    june, july, august = (np.array([np.datetime64(f"2020-0{month}-02", "us").astype(np.int64)]) for month in (6, 7, 8))
    assert [zones.offsets(time).item() for time in (june, july, august)] == [0, 0, 9 * 3600]
    assert zones.unread == 0


def test_sleep_and_workouts_become_events(tmp_path: Path) -> None:
    night = [f"2020-01-0{day} 0{hour}:00:00 +0100" for day in (1, 2) for hour in range(8)]
    stages = ("InBed", "Asleep", "AsleepCore", "AsleepDeep", "AsleepREM", "AsleepUnspecified", "Awake")
    intake = read(
        write(
            tmp_path,
            export(
                *[sleep(night[i], night[i + 1], stage) for i, stage in enumerate(stages)],
                workout(night[8], night[10], "UTC"),
                workout(night[8], night[8], "UTC"),
                workout("soon", night[8], "UTC"),
            ),
        )
    )
    assert intake.all_events().rows() == [
        *[("person-1", at(night[i]), at(night[i + 1]), True, "asleep") for i in range(1, 6)],
        ("person-1", at(night[8]), at(night[10]), True, "in_workout"),
    ]
    assert intake.account.count("events", "dropped: ends where it starts, or before") == 1
    assert intake.account.count("events", "dropped: time not readable") == 1


@pytest.mark.parametrize(
    ("born", "sex", "person"),
    [
        ("1990-02-02", "HKBiologicalSexFemale", Person(born=date(1990, 2, 2), sex="female")),
        ("", "HKBiologicalSexNotSet", Person()),
        ("1990-02-31", "HKBiologicalSexOther", Person()),
    ],
)
def test_the_person(tmp_path: Path, born: str, sex: str, person: Person) -> None:
    me = f'<Me HKCharacteristicTypeIdentifierDateOfBirth="{born}" HKCharacteristicTypeIdentifierBiologicalSex="{sex}"/>'
    intake = read(write(tmp_path, export(me)))
    assert intake.people == {"person-1": person}
    assert intake.account.count("people", "noted: date of birth not readable") == (born == "1990-02-31")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<<HKDevice: 0x2>, name:Anna's, model:Watch, hardware:Watch4,2, x:1>", ("Apple Watch (Watch4,2)", 0)),
        (", name:Anna’s, manufacturer:Apple Inc., model:iPhone, hardware:iPhone12,1>", ("iPhone (iPhone12,1)", 1)),
        ("name:Anna's, model:Watch, hardware:Anna1,1", ("Apple Watch", 0)),
        ("<<HKDevice: 0x2>, name:Anna's iPhone>", ("iPhone", 1)),
        ("<<HKDevice: 0x2>, name:Anna's Watch, manufacturer:Polar, model:H10>", ("other app or device", 2)),
        ("Simon’s Apple\xa0Watch", ("Apple Watch", 0)),
        ("Anna's iPhone", ("iPhone", 1)),
        ("Anna's Mi Watch", ("watch", 0)),
        ("Health Mate", ("other app or device", 2)),
        ("🕛🕐", ("other app or device", 2)),
    ],
)
def test_devices_are_named_by_their_model_never_by_their_owner(text: str, expected: tuple[str, int]) -> None:
    assert device_of(text) == expected


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('<!DOCTYPE HealthData [<!ENTITY a "b">]>', "declares XML entities"),
        ('<!DOCTYPE HealthData [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]>', "declares XML entities"),
        ('<!DOCTYPE HealthData [<!ELEMENT x ANY><!-- ]> --><!ENTITY a "]>">]>', "declares XML entities"),
        ('<!DOCTYPE HealthData SYSTEM "http://example.org/x.dtd">', "a document type in another file"),
        ('<!DOCTYPE HealthData PUBLIC "x" "http://example.org/x.dtd" [<!ELEMENT x ANY>]>', "in another file"),
        ("<?xml version='1.0' encoding='utf-7'?>", "encoding 'utf-7'; expected UTF-8"),
        ("<?xml version='1.0' encoding='zip'?>", "encoding 'zip'; expected UTF-8"),
    ],
)
def test_what_no_export_declares_is_refused(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(HeartnetError, match=message):
        read(write(tmp_path, export(record(sourceName="&a;"), head=head)))
    if "encoding" not in head:
        with pytest.raises(HeartnetError, match=message):
            read(write(tmp_path, export(record(), head=head).encode("utf-16")))


def test_comments_and_element_declarations_are_no_entities(tmp_path: Path) -> None:
    head = "\ufeff<?xml version='1.0'?><!-- a --><!DOCTYPE HealthData [<!-- it's <!ENTITY ]> --><!ELEMENT x ANY>] >"
    head += "<!-- b -->"
    assert read(write(tmp_path, export(record(), head=head))).all_readings().height == 1


def test_billion_laughs_cost_nothing(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 30))
    head = f'<!DOCTYPE HealthData [<!ENTITY l0 "lol">{laughs}]>'
    with pytest.raises(HeartnetError, match="declares XML entities"):
        read(write(tmp_path, export(record(sourceName="&l29;"), head=head)))


@pytest.mark.parametrize("text", ["&xxe;", "&", "a&b", "&#xZZ;"])
def test_references_to_unknown_entities_are_refused(tmp_path: Path, text: str) -> None:
    for changes in ({"sourceName": text}, {"value": text}, {"startDate": text}):
        with pytest.raises(HeartnetError, match="refers to an unknown XML entity"):
            read(write(tmp_path, export(record(), record(**changes))))


def test_declarations_in_the_body_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeartnetError, match="declaration outside its prolog"):
        read(write(tmp_path, export(record(), '<!ENTITY a "b">')))


@pytest.mark.parametrize("endless", ["<!-- ", "<Record x='", "<![CDATA[", "<?x "])
def test_endless_tags_and_comments_are_refused(tmp_path: Path, endless: str) -> None:
    path = write(tmp_path, export(record()) + endless + "a" * (17 << 20))
    with pytest.raises(HeartnetError, match=r"export\.xml holds a tag or comment of over 16,777,216 bytes"):
        read(path)


@pytest.mark.parametrize(
    "hostile",
    [
        "<!-- " * 200_000,
        "<![CDATA[" * 100_000,
        "<?x " * 300_000,
        "<Record x='" + "HKTimeZone HKCategoryTypeIdentifierSleepAnalysis workoutActivityType " * 20_000 + "'/>",
        "<MetadataEntry key='HKTimeZone' value='UTC'/>" * 10_000,
        "<Record " + " " * 1_000_000 + "/>",
        "<Correlation " * 100_000,
        "<Correlation>" * 100_000,
        '<Record type="HKQuantityTypeIdentifierHeartRate" ' * 30_000,
        record(device=", a:" * 250_000),
    ],
)
def test_what_repeats_itself_takes_no_longer_for_that(tmp_path: Path, hostile: str) -> None:
    """A megabyte each; what grows with the square of that would take hours."""
    path = write(tmp_path, export(record(), hostile))
    start = time.process_time()
    assert read(path).all_readings().height >= 1
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "hostile", ["<!-- " * 300_000, "<?<!--?>" * 200_000, "<!DOCTYPE HealthData [" + "<!-- " * 300_000]
)
def test_a_hostile_prolog_takes_no_longer_for_that(tmp_path: Path, hostile: str) -> None:
    start = time.process_time()
    with pytest.raises(HeartnetError, match="no XML element was found"):
        read(write(tmp_path, hostile + export(record(), head="")))
    assert time.process_time() - start < 5


def test_an_endless_prolog_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "<!DOCTYPE HealthData [" + "<!ELEMENT x ANY>" * 100_000 + "]><HealthData></HealthData>")
    with pytest.raises(HeartnetError, match="no XML element was found"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "iso8859-1", "utf-8-sig"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    head = f"<?xml version='1.0' encoding='{encoding.removesuffix('-sig')}'?>"
    me = '<Me HKCharacteristicTypeIdentifierDateOfBirth="1990-02-02" x="é"/>'
    intake = read(write(tmp_path, export(me, *[record(sourceName="é")] * 9000, head=head).encode(encoding)))
    assert intake.all_readings().height == 9000
    assert intake.people["person-1"].born == date(1990, 2, 2)


EARLY = ("files", "noted: ends early; what could be read is kept")


def test_of_a_truncated_export_what_was_read_is_kept(tmp_path: Path) -> None:
    text = export(*[record(value=str(60 + i)) for i in range(9)])
    path = write(tmp_path, text[: text.index('value="68"')])
    intake = read(path)
    assert intake.all_readings()["heart_rate"].to_list() == [60.0 + i for i in range(8)]
    assert intake.account.count("rows", "dropped: record not readable") == 1
    assert "export.xml has no </HealthData> at its end" in intake.account.examples[EARLY][0]
    with pytest.raises(HeartnetError, match="ends early"):
        read(write(tmp_path, text.replace("</HealthData>", "")), strict=True)
    assert read(write(tmp_path, text)).account.count(*EARLY) == 0


def test_of_a_damaged_zip_what_was_read_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("export.xml", export(*[record(value=str(60 + i % 100)) for i in range(20_000)]))
    data = path.read_bytes()
    path.write_bytes(data.replace(b'value="68"', b'value="69"'))
    intake = read(path)
    assert intake.all_readings().height > 10_000
    assert "export.zip/export.xml is broken or cannot be read: Bad CRC-32" in intake.account.examples[EARLY][0]


class Pieces(io.BufferedIOBase):
    """A file that is read in pieces of given sizes, then one of the rest."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes = io.BytesIO(data), iter(sizes)

    def read(self, _: int | None = -1, /) -> bytes:
        return self.data.read(next(self.sizes, -1))


SMALL = export(
    '<Me HKCharacteristicTypeIdentifierDateOfBirth="1990-02-02"/>',
    record(device=WATCH).replace(
        "/>", "><MetadataEntry key='HKMetadataKeyHeartRateMotionContext' value='2'/></Record>"
    ),
    f"<!--{record()}--><![CDATA[{record()}]]><Correlation type='x'>{record()}</Correlation>",
    record("StepCount", "2020-05-01 10:00:00 -0700", "12", sourceName="a > b"),
    sleep("2020-05-01 10:00:00 -0700", "2020-05-01 11:00:00 -0700", "Asleep", "Asia/Tokyo"),
)


def test_no_place_of_a_cut_changes_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apple_xml, "_NEAR", 600)
    data = SMALL.encode()
    instant = np.array([0])
    for sizes in [[i] for i in range(1, len(data))] + [[size] * (len(data) // size) for size in (1, 2, 3, 7, 50)]:
        pieces, repeated = [], 0
        document = apple_xml.Document(Pieces(data, sizes), "x.xml")
        for piece in document:
            pieces.append(piece)
            repeated += count_records(document.correlations)
        found = [row for piece in pieces for row in find_records(piece, "x.xml")]
        assert [(row[0], row[6], row[7]) for row in found] == [(b"HeartRate", b"60", b"2"), (b"StepCount", b"12", b"")]
        assert (repeated, document.ended, document.failed) == (1, True, None)
        if sizes[0] % 5:
            continue
        zones = Zones()
        for piece in apple_xml.Document(Pieces(data, sizes), "x.xml").uncleaned():
            zones.add(piece, "x.xml")
        assert (zones.names, zones.offsets(instant), zones.unread) == (["Asia/Tokyo"], 9 * 3600, 0)


def test_no_place_of_a_cut_changes_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, SMALL)
    expected = read(path)
    assert expected.all_readings().height == 2
    data = path.read_bytes()
    for cut in range(100, len(data), 17):
        monkeypatch.setattr(apple_health.Member, "open", lambda _, cut=cut: Pieces(data, [cut]))
        intake = read(path)
        assert intake.all_readings().equals(expected.all_readings()), cut
        assert intake.all_events().equals(expected.all_events())
        assert intake.people == expected.people
        assert intake.account.entries == expected.account.entries


def test_an_export_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    data = SMALL.encode()
    heights = []
    for end in [*range(0, 120), *range(120, len(data), 5)]:
        try:
            intake = read(write(tmp_path, data[:end]))
        except HeartnetError:
            assert end < data.index(b"<Me")
            continue
        heights.append(intake.all_readings().height)
        assert intake.account.count(*EARLY) == (end < data.index(b"</HealthData") + len(b"</HealthData"))
    assert heights == sorted(heights)
    assert heights[-1] == 2


texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x1F600, exclude_categories=["Cs", "Cn"]), max_size=12)
moments = st.datetimes(datetime(1971, 1, 1), datetime(2098, 1, 1)).map(lambda t: t.replace(microsecond=0))
offsets = st.sampled_from(["+0000", "-0700", "+0530", "+1400", "-1200", "-0330"])


@st.composite
def elements(draw: st.DrawFn) -> str:
    """A record or another element in some legal form."""
    start, offset = draw(moments), draw(offsets)
    end = start + timedelta(seconds=draw(st.integers(-5, 5000)))
    kind = draw(st.sampled_from(["HeartRate", "StepCount", "HeartRateVariabilitySDNN", "BodyMass"]))
    attributes = {
        "type": f"HKQuantityTypeIdentifier{kind}",
        "sourceName": draw(texts),
        "unit": draw(st.sampled_from(["count/min", "count", "count/s", "kg"])),
        "startDate": f"{start:%Y-%m-%d %H:%M:%S} {offset}",
        "endDate": f"{end:%Y-%m-%d %H:%M:%S} {offset}",
        "value": draw(st.sampled_from(["72", "72.5", "0", "1e2", "-3", "abc", "", "1,5", "0x1"])),
        **draw(st.dictionaries(st.sampled_from(["sourceVersion", "device", "creationDate"]), texts)),
    }
    for name in draw(st.sets(st.sampled_from(["unit", "value", "endDate", "sourceName"]), max_size=1)):
        if draw(st.integers(0, 9)) == 0:
            del attributes[name]
    names = list(attributes)
    usual = ["type", "sourceName", "sourceVersion", "device", "unit", "creationDate", "startDate", "endDate", "value"]
    names = draw(st.permutations(names)) if draw(st.booleans()) else [name for name in usual if name in names]
    blank = draw(st.sampled_from([" ", " ", "\n  ", "\t"]))
    quote = draw(st.sampled_from([quoteattr, lambda text: '"' + escape(text, {'"': "&quot;"}) + '"', raw]))
    tag = "<Record" + "".join(f"{blank}{name}={quote(attributes[name])}" for name in names)
    close = draw(st.sampled_from(["/>", " />", "></Record>", "><MetadataEntry key='a' value='b'/></Record>"]))
    around = draw(st.sampled_from(["{}", "{}", "{}", "<!--{}-->", "<Correlation type='x'>{}</Correlation>", "\n{}\n"]))
    text = tag + close
    return around.replace("{}", text.replace("--", "- -") if "<!--" in around else text)


def raw(text: str) -> str:
    """Quote with as few references as the standard allows: `>` may stand as it is."""
    return "'" + text.replace("&", "&#38;").replace("<", "&#x3c;").replace("'", "&apos;") + "'"


def by_another_parser(text: str) -> list[tuple[Any, ...]]:
    """The readings as `xml.etree` and `datetime` see them."""
    rows: list[tuple[Any, ...]] = []
    factors = {("HeartRate", "count/min"): 1, ("HeartRate", "count/s"): 60, ("StepCount", "count"): 1}
    for element in ElementTree.fromstring(text).findall("Record"):
        get = element.attrib.get
        kind = get("type", "").removeprefix("HKQuantityTypeIdentifier")
        factor = factors.get((kind, get("unit", "")))
        try:
            start, value = at(get("startDate", "")), float(get("value", ""))
            end = at(get("endDate", "")) if kind == "StepCount" else start
        except ValueError:
            continue
        if factor is None or end < start:
            continue
        if kind == "HeartRate":
            rows.append((start, value * factor, None, None))
        else:
            rows.append((end, None, value, (end - start).total_seconds()))
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(elements(), max_size=8), st.integers(1, 400))
def test_any_export_is_read_as_another_parser_reads_it(
    tmp_path_factory: pytest.TempPathFactory, some: list[str], size: int
) -> None:
    text = export(*some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apple_xml, "_READ_BYTES", size)
        patch.setattr(apple_xml, "_NEAR", 300)
        patch.setattr(apple_health, "_ROWS_AT_ONCE", 2)
        path = write(tmp_path_factory.mktemp("any"), text)
        intake = read(path)
    found = intake.all_readings().select("time", "heart_rate", "steps", "duration").rows()
    assert found == by_another_parser(text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_mutated_exports_are_read_or_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int
) -> None:
    chance = random.Random(seed)
    data = bytearray(SMALL.encode())
    for _ in range(n):
        place = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randrange(30)]
            case 2:
                other = chance.randrange(len(data))
                data[place:place] = data[other : other + chance.randrange(200)]
            case _:
                data[place:place] = chance.choice(
                    [b"<", b">", b'"', b"'", b"&", b"<!--", b"-->", b"]>", b"\0", b"\xff"]
                )
    path = write(tmp_path_factory.mktemp("mutated"), bytes(data))
    try:
        read(path)
    except HeartnetError as error:
        assert "export.xml" in str(error)  # noqa: PT017


@given(st.lists(st.tuples(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), offsets), min_size=1, max_size=20))
def test_dates_are_those_of_datetime(some: list[tuple[datetime, str]]) -> None:
    written = [f"{time:%Y-%m-%d %H:%M:%S} {offset}".rjust(25, "0") for time, offset in some]
    times = parse_dates([text.encode() for text in written])
    expected = [int((at(text) - datetime(1970, 1, 1)).total_seconds()) * 1_000_000 for text in written]
    assert times.instants.tolist() == expected
    assert times.readable.all()
    assert times.usable.tolist() == [0 <= instant < 4_102_444_800_000_000 for instant in expected]


def test_dates_of_other_forms() -> None:
    forms = [
        b"2014-09-20 10:41:28 +0100",
        b"20140920104128+0100",
        b"2014-09-20T10:41:28+01:00",
        b"2014-09-20T09:41:28Z",
    ]
    for form in forms:
        times = parse_dates([forms[0], form, b"2014-09-20 10:41:28"])
        assert times.readable.tolist() == [True, True, False]
        assert times.instants[0] == times.instants[1] == 1_411_206_088_000_000


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two days at one reading a minute, a phone that counts half of the watch's steps again, and a night's sleep."""
    begin = datetime(2020, 1, 14)
    minutes = [f"{begin + timedelta(minutes=i):%Y-%m-%d %H:%M:%S} -0700" for i in range(2881)]
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        text = export(
            '<Me HKCharacteristicTypeIdentifierBiologicalSex="HKBiologicalSexFemale"/>',
            *[record(start=minute, value=str(50 + i % 50), device=WATCH) for i, minute in enumerate(minutes[:-1])],
            *[
                record("StepCount", minutes[i], "10", endDate=minutes[i + 1], sourceName=source, device=attribute)
                for i in range(600, 1200)
                for source, attribute in (("Anna's Watch", WATCH), ("Anna's iPhone", ""))
                if attribute or i % 2
            ],
            sleep(minutes[0], minutes[420], "AsleepCore", "America/Denver"),
        )
        archive.writestr("apple_health_export/export.xml", text)
    assert main(["prepare", "apple-health", str(path), "--out", str(tmp_path / "weeks")]) == 0
    weeks = open_store(tmp_path / "weeks")
    assert len(weeks) == 1
    heart_rate, steps, _ = weeks.week(0).T
    assert np.nansum(steps) == 6000
    assert np.isfinite(heart_rate).sum() == 2880
    assert weeks.local_time[0] == np.datetime64("2020-01-14", "us").astype(np.int64)
    assert "Anna" not in capsys.readouterr().out
    assert not any(b"Anna" in file.read_bytes() for file in (tmp_path / "weeks").iterdir())


def test_nothing_else_is_imported_for_reading() -> None:
    code = "import sys; import heartnet.sources.apple_health; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lxml", "urllib.request", "http.client"} & set(loaded)
