"""FIT files of watches, written here byte by byte: what was written comes back, and what is broken is counted."""

import argparse
import random
import struct
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.cli import main
from heartnet.errors import HeartnetError
from heartnet.intake import Intake, Person
from heartnet.sources import garmin
from heartnet.store import open_store

fitdecode = pytest.importorskip("fitdecode")

EPOCH = datetime(1989, 12, 31, tzinfo=UTC)
MIDNIGHT = int((datetime(2024, 3, 5, tzinfo=UTC) - EPOCH).total_seconds()) - 3600  # 2024-03-05 00:00 +01:00
BASES = {"enum": (0x00, "B"), "u8": (0x02, "B"), "u16": (0x84, "H"), "u32": (0x86, "I"), "u32z": (0x8C, "I")}
BASES |= {"byte": (0x0D, "B")}
CRC_TABLE = [0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401]
CRC_TABLE += [0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400]
WALKING, RUNNING, CYCLING = 6, 1, 2


def checksum(data: bytes) -> int:
    """Return the CRC-16 of the FIT protocol, four bits at a time."""
    crc = 0
    for byte in data:
        for nibble in (byte & 0xF, byte >> 4):
            crc = (crc >> 4) ^ CRC_TABLE[crc & 0xF] ^ CRC_TABLE[nibble]
    return crc


class Fit:
    """Writes a FIT file: each message after a definition of its own, if the last one does not fit."""

    def __init__(self, serial: int = 77, product: int = 3290, kind: int = 32) -> None:
        self.body = b""
        self.defined: dict[int, Any] = {}
        self.message(0, {0: ("enum", kind), 1: ("u16", 1), 2: ("u16", product), 3: ("u32z", serial)})

    def message(self, number: int, fields: dict[int, tuple[str, int]], order: str = "<", local: int = 0) -> "Fit":
        layout = (number, order, [(at, base) for at, (base, _) in fields.items()])
        if self.defined.get(local) != layout:
            self.defined[local] = layout
            self.body += struct.pack(f"{order}BBBHB", 0x40 | local, 0, order == ">", number, len(fields))
            for at, (base, _) in fields.items():
                self.body += bytes([at, struct.calcsize(BASES[base][1]), BASES[base][0]])
        formats = "".join(BASES[base][1] for base, _ in fields.values())
        self.body += bytes([local]) + struct.pack(order + formats, *(value for _, value in fields.values()))
        return self

    def info(self, time: int, local: int) -> "Fit":
        return self.message(103, {253: ("u32", time), 0: ("u32", local)})

    def heart(self, time: int, rate: int, *, whole: bool = False) -> "Fit":
        stamp = {253: ("u32", time)} if whole else {26: ("u16", time & 0xFFFF)}
        return self.message(55, {**stamp, 27: ("u8", rate)}, local=1)

    def count(self, time: int, activity: int, count: int) -> "Fit":
        fields = {253: ("u32", time), 3: ("u32", count), 5: ("enum", activity)}
        return self.message(55, fields, local=2)

    def bytes(self, body: bytes | None = None) -> bytes:
        body = self.body if body is None else body
        head = struct.pack("<BBHI4s", 14, 0x20, 2140, len(body), b".FIT")
        head += struct.pack("<H", checksum(head))
        return head + body + struct.pack("<H", checksum(head + body))


def read(*paths: Path, intake: Intake | None = None) -> Intake:
    parser = argparse.ArgumentParser()
    garmin.add_arguments(parser)
    intake = intake or Intake(Account())
    garmin.read(parser.parse_args([str(path) for path in paths]), intake)
    return intake


def one(tmp_path: Path, *files: Fit) -> Intake:
    for number, file in enumerate(files):
        (tmp_path / f"{number}_WELLNESS.fit").write_bytes(file.bytes())
    return read(tmp_path)


def utc(time: int) -> datetime:
    return (EPOCH + timedelta(seconds=time)).replace(tzinfo=None)


def rates(intake: Intake) -> list[tuple[datetime, float]]:
    frame = intake.all_readings().filter(pl.col("heart_rate").is_not_null())
    return frame.sort("time").select("time", "heart_rate").rows()


def steps(intake: Intake) -> list[tuple[datetime, float, float | None]]:
    frame = intake.all_readings().filter(pl.col("steps").is_not_null())
    return frame.sort("time").select("time", "steps", "duration").rows()


def check_account(intake: Intake) -> None:
    account = intake.account
    lost = sum(n for stage, what, n in account if stage == "rows" and what.startswith(("dropped", "merged")))
    assert account.count("rows", "in") - lost == intake.all_readings().height


def test_the_encoder_by_the_decoders_strictest_check() -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600).heart(MIDNIGHT + 60, 61).count(MIDNIGHT + 90, WALKING, 12)
    with fitdecode.FitReader(
        file.bytes(), check_crc=fitdecode.CrcCheck.RAISE, error_handling=fitdecode.ErrorHandling.RAISE
    ) as reader:
        messages = [frame for frame in reader if frame.frame_type == fitdecode.FIT_FRAME_DATA]
    assert [message.name for message in messages] == ["file_id", "monitoring_info", "monitoring", "monitoring"]
    assert messages[0].get_value("garmin_product") == "fenix6"
    assert messages[2].get_value("heart_rate") == 61
    assert messages[3].get_value("steps") == 12


def test_a_day_with_times_of_16_bits(tmp_path: Path) -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600)
    truth = []
    for minute in range(1, 1440 * 2, 7):  # two days after one whole time: 16 bits roll over twice
        file.heart(MIDNIGHT + 60 * minute, 50 + minute % 90)
        truth.append((utc(MIDNIGHT + 60 * minute), 50 + minute % 90))
    intake = one(tmp_path, file)
    assert rates(intake) == truth
    frame = intake.all_readings()
    assert frame["utc_offset"].unique().to_list() == [3600]
    assert frame["instant"].all()
    assert intake.devices[frame["device"][0]].name == "garmin fenix6"
    assert intake.devices[frame["device"][0]].rank == 0
    assert frame["row"].to_list() == list(range(3, 3 + len(truth)))
    check_account(intake)


def test_steps_are_differences_of_counts(tmp_path: Path) -> None:
    hour = 3600
    file = Fit().info(MIDNIGHT, MIDNIGHT + hour)
    file.count(MIDNIGHT + 7 * hour, WALKING, 100)
    file.count(MIDNIGHT + 8 * hour, RUNNING, 1000)
    file.count(MIDNIGHT + 9 * hour, WALKING, 150).count(MIDNIGHT + 9 * hour, RUNNING, 1010)
    file.count(MIDNIGHT + 10 * hour, CYCLING, 5000)
    file.count(MIDNIGHT + 24 * hour, WALKING, 170).count(MIDNIGHT + 24 * hour, WALKING, 0)
    file.count(MIDNIGHT + 25 * hour, WALKING, 200)  # a new day, though the count is larger
    file.count(MIDNIGHT + 26 * hour, WALKING, 20)  # begun anew
    intake = one(tmp_path, file)
    assert steps(intake) == [
        (utc(MIDNIGHT + 7 * hour), 100, 7 * hour),
        (utc(MIDNIGHT + 8 * hour), 1000, hour),
        (utc(MIDNIGHT + 9 * hour), 60, hour),
        (utc(MIDNIGHT + 24 * hour), 20, 15 * hour),
        (utc(MIDNIGHT + 25 * hour), 200, hour),
        (utc(MIDNIGHT + 26 * hour), 20, hour),
    ]
    assert intake.account.count("rows", "noted: cycles that are not steps") == 1
    assert intake.account.count("rows", "merged: step count again, or of another activity then") == 2
    check_account(intake)


def test_a_count_that_goes_on_over_midnight(tmp_path: Path) -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600)
    file.count(MIDNIGHT + 86_340, WALKING, 9000).count(MIDNIGHT + 86_460, WALKING, 9010)
    assert [count for _, count, _ in steps(one(tmp_path, file))] == [9000, 10]


DAY_OF_STEPS = st.lists(
    st.tuples(st.integers(1, 6 * 3600), st.sampled_from([WALKING, RUNNING]), st.integers(0, 900)), max_size=60
)


def test_midnight_stands_in_the_files_of_both_days(tmp_path: Path) -> None:
    new = Fit().info(MIDNIGHT + 86_400, MIDNIGHT + 90_000).count(MIDNIGHT + 86_400, WALKING, 0)
    new.count(MIDNIGHT + 90_000, WALKING, 7)
    old = Fit().info(MIDNIGHT, MIDNIGHT + 3600).count(MIDNIGHT + 80_000, WALKING, 8000)
    old.count(MIDNIGHT + 86_400, WALKING, 9000)
    assert [count for _, count, _ in steps(one(tmp_path, new, old))] == [8000, 1000, 7]


@settings(max_examples=60, deadline=None)
@given(DAY_OF_STEPS, st.integers(1, 5), st.integers(-48, 56), st.randoms(use_true_random=False))
def test_steps_against_a_plain_loop(
    walk: list[tuple[int, int, int]], cut: int, quarters: int, chance: random.Random
) -> None:
    """A person walks; the watch counts, and begins at 0 at local midnight. Files are cut anywhere, and shuffled."""
    offset = 900 * quarters
    time = MIDNIGHT
    counts = {WALKING: 0, RUNNING: 0}
    day = (time + offset) // 86_400
    expected: dict[int, float] = {}
    messages = []
    for gap, activity, more in walk:
        time += gap
        more = min(more, 4 * gap, 4 * ((time + offset - 1) % 86_400))
        if (time + offset - 1) // 86_400 != day:
            day = (time + offset - 1) // 86_400
            counts = {WALKING: 0, RUNNING: 0}
        counts[activity] += more
        expected[time] = expected.get(time, 0) + more
        messages.append((time, activity, counts[activity]))
    files = []
    for first in range(0, len(messages), 12 * cut):
        file = Fit().info(messages[first][0], messages[first][0] + offset)
        for message in messages[first : first + 12 * cut + 3]:  # three are in the next file again
            file.count(*message)
        files.append(file.heart(messages[first][0], 60))
    chance.shuffle(files)
    if not files:
        return
    with TemporaryDirectory() as folder:
        intake = one(Path(folder), *files)
    found = steps(intake)
    assert [(when, count) for when, count, _ in found] == [(utc(time), n) for time, n in sorted(expected.items())]
    for (before, _, _), (when, _, duration) in pairwise(found):
        assert duration is not None
        assert 0 < duration <= (when - before).total_seconds()
    assert intake.all_readings()["utc_offset"].unique().to_list() == [offset]
    check_account(intake)


def test_two_watches_and_a_file_twice(tmp_path: Path) -> None:
    files = [Fit(serial=serial).info(MIDNIGHT, MIDNIGHT + 3600) for serial in (1, 2)]
    for time, first, second in ((3600, 100, 30), (7200, 180, 90)):
        files[0].count(MIDNIGHT + time, WALKING, first)
        files[1].count(MIDNIGHT + time + 5, WALKING, second)
    (tmp_path / "copy.FIT").write_bytes(files[0].bytes())
    intake = one(tmp_path, *files)
    assert [count for _, count, _ in steps(intake)] == [100, 30, 80, 60]
    assert [device.name for device in intake.devices[1:]] == ["garmin fenix6", "garmin fenix6 (2)"]
    assert intake.account.count("files", "dropped: the same file again") == 1
    assert (intake.account.count("files", "in"), intake.account.count("files", "left")) == (3, 2)
    check_account(intake)


def test_a_traveller(tmp_path: Path) -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600).heart(MIDNIGHT + 60, 60).count(MIDNIGHT + 3600, WALKING, 100)
    file.info(MIDNIGHT + 7200, MIDNIGHT + 7200 + 9 * 3600).heart(MIDNIGHT + 7260, 70)
    file.count(MIDNIGHT + 7300, WALKING, 120)
    frame = one(tmp_path, file).all_readings().sort("time")
    assert frame["utc_offset"].to_list() == [3600, 3600, 9 * 3600, 9 * 3600]
    assert frame["steps"].drop_nulls().to_list() == [100, 20]


def test_times_that_cannot_be_known(tmp_path: Path) -> None:
    file = Fit().heart(MIDNIGHT, 60).count(500, WALKING, 30).heart(500 + 60, 61)
    file.info(MIDNIGHT, MIDNIGHT + 5000).heart(MIDNIGHT + 60, 62).heart(MIDNIGHT + 120, 0).heart(MIDNIGHT + 180, 255)
    intake = one(tmp_path, file)
    assert rates(intake) == [(utc(MIDNIGHT + 60), 62)]
    assert intake.all_readings()["utc_offset"].to_list() == [None]
    counts = {what: count for stage, what, count in intake.account if stage == "rows"}
    assert counts == {
        "in": 5,
        "dropped: no time: before any full timestamp": 1,
        "dropped: no date: time since the device was switched on": 2,
        "dropped: heart rate of 0: not measured": 1,
        "noted: offset from UTC that cannot be": 1,
    }
    places = intake.account.examples["rows", "dropped: no time: before any full timestamp"]
    assert places == [f"{tmp_path.name}/0_WELLNESS.fit message 2"]
    check_account(intake)
    with pytest.raises(HeartnetError, match=r"0_WELLNESS.fit message 2: dropped: no time"):
        read(tmp_path, intake=Intake(Account(strict=True)))
    zoned = read(tmp_path, intake=Intake(Account(), zone="Europe/Berlin"))
    assert zoned.all_readings()["utc_offset"].to_list() == [3600]


def test_short_forms_of_fields(tmp_path: Path) -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600)
    low_bits = {26: ("u16", (MIDNIGHT + 600) & 0xFFFF), 9: ("u16", 65_000), 24: ("byte", WALKING | 3 << 5)}
    file.message(55, low_bits, order=">")
    rolled = {26: ("u16", (MIDNIGHT + 36_000) & 0xFFFF), 9: ("u16", 500), 24: ("byte", WALKING)}
    file.message(55, rolled)
    minutes = (MIDNIGHT + 43_200) // 60
    file.message(55, {25: ("u8", minutes & 0xFF), 27: ("u8", 77)})
    file.message(55, {253: ("u32", MIDNIGHT + 50_000), 27: ("u8", 78)}, local=3)
    short = (MIDNIGHT + 50_010) & 0x1F
    layout = struct.pack("<BBBHBBBB", 0x41, 0, 0, 55, 1, 27, 1, 0x02)
    file.body += layout + bytes([0x80 | 1 << 5 | short, 79])  # a compressed timestamp: five bits in the header
    intake = one(tmp_path, file)
    assert steps(intake)[0] == (utc(MIDNIGHT + 600), 65_000, 600)
    assert steps(intake)[1][:2] == (utc(MIDNIGHT + 36_000), 1_036)
    hours = 60 * (minutes - (minutes - (MIDNIGHT + 36_000) // 60 & ~0xFF))
    assert rates(intake) == [(utc(hours), 77), (utc(MIDNIGHT + 50_000), 78), (utc(MIDNIGHT + 50_010), 79)]


def test_a_workout(tmp_path: Path) -> None:
    start = MIDNIGHT + 9 * 3600
    file = Fit(kind=4)
    truth = []
    for second in range(0, 600):
        rate = 90 + second // 10
        file.message(20, {253: ("u32", start + second), 3: ("u8", rate), 4: ("u8", 88)})
        truth.append((utc(start + second), rate))
    file.message(18, {253: ("u32", start + 605), 2: ("u32", start), 7: ("u32", 600_400), 5: ("enum", 1)})
    file.message(18, {253: ("u32", start), 2: ("u32", start)})
    file.message(34, {253: ("u32", start + 606), 5: ("u32", start + 606 + 3600)})
    file.message(3, {1: ("enum", 0), 2: ("u8", 41), 3: ("u8", 170), 4: ("u16", 650)})
    intake = one(tmp_path, file)
    assert rates(intake) == truth
    assert intake.all_readings()["utc_offset"].unique().to_list() == [3600]
    events = intake.all_events().select("start", "end", "kind", "instant").rows()
    assert events == [(utc(start), utc(start + 600), "in_workout", True)]
    assert intake.account.count("rows", "noted: workout without times that can be") == 1
    assert intake.people == {"person-1": Person(sex="female", age=41, bmi=pytest.approx(65 / 1.7**2))}
    check_account(intake)


def test_sleep(tmp_path: Path) -> None:
    file = Fit(kind=49)
    for minute, level in ((0, 1), (10, 2), (40, 3), (70, 1), (75, 4), (100, 0), (110, 2)):
        file.message(275, {253: ("u32", MIDNIGHT + 60 * minute), 0: ("enum", level)})
    file.message(21, {253: ("u32", MIDNIGHT + 60 * 120), 0: ("enum", 74), 1: ("enum", 1)})
    intake = one(tmp_path, file, Fit().info(MIDNIGHT, MIDNIGHT + 3600).heart(MIDNIGHT + 60, 50))
    minutes = [(10, 70), (75, 100), (110, 120)]
    expected = [(utc(MIDNIGHT + 60 * a), utc(MIDNIGHT + 60 * b), "asleep") for a, b in minutes]
    assert intake.all_events().select("start", "end", "kind").rows() == expected


def a_file(seed: int) -> Fit:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600)
    for minute in range(seed * 10, seed * 10 + 10):
        file.heart(MIDNIGHT + 60 * minute, 60).count(MIDNIGHT + 60 * minute, WALKING, 8 * minute)
    return file


def test_broken_files_among_others(tmp_path: Path) -> None:
    whole = [a_file(seed).bytes() for seed in range(100)]
    flipped = bytearray(whole[3])
    flipped[60] ^= 1
    broken = {3: bytes(flipped), 7: whole[7][:-30], 11: b"", 13: b"no FIT file at all", 17: whole[17][:-2]}
    for number, data in enumerate(whole):
        (tmp_path / f"{number:03}.fit").write_bytes(broken.get(number, data))
    (tmp_path / "settings.fit").write_bytes(Fit(kind=2).bytes())
    (tmp_path / "._001.fit").write_bytes(b"what macOS leaves behind")
    (tmp_path / "chained.fit").write_bytes(a_file(100).bytes() + a_file(101).bytes())
    (tmp_path / "rest.fit").write_bytes(a_file(102).bytes() + b"\0" * 20)
    intake = read(tmp_path)
    account = intake.account
    assert account.count("files", "dropped: broken or cut off") == 5
    assert [place.split(": ")[0][-7:] for place in account.examples["files", "dropped: broken or cut off"]] == [
        "003.fit",
        "007.fit",
        "011.fit",
    ]
    assert account.count("files", "noted: broken after a part that is whole") == 1
    assert account.count("files", "noted: without heart rate, steps, workout or sleep") == 1
    assert (account.count("files", "in"), account.count("files", "left")) == (103, 98)
    assert len(rates(intake)) == 980
    assert sum(count for _, count, _ in steps(intake)) == 8 * 1029
    check_account(intake)
    with pytest.raises(HeartnetError, match=r"003.fit: mismatching CRC"):
        read(tmp_path, intake=Intake(Account(strict=True)))
    with pytest.raises(HeartnetError, match=r"007.fit: none of 1 FIT files has heart rate or steps .* 007.fit"):
        read(tmp_path / "007.fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeartnetError, match="no FIT file there; expected names that end in"):
        read(tmp_path / "empty")


def test_an_account_export_with_archives_in_it(tmp_path: Path) -> None:
    (tmp_path / "DI_CONNECT").mkdir()
    inner = tmp_path / "DI_CONNECT" / "UploadedFiles_0-_Part1.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for seed in range(5):
            archive.writestr(f"me@example.org_{seed}.fit", a_file(seed).bytes())
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "DI_CONNECT/DI-Connect-Uploaded-Files/UploadedFiles_0-_Part1.zip")
        archive.writestr("DI_CONNECT/broken.zip", inner.read_bytes()[:200])
        archive.writestr("DI_CONNECT/summary.json", "{}")
    intake = read(tmp_path / "export.zip")
    assert len(rates(intake)) == 50
    assert intake.files[0] == "UploadedFiles_0-_Part1.zip/me@example.org_0.fit"
    assert intake.account.count("files", "dropped: zip archive that cannot be read") == 1
    assert len(rates(read(tmp_path / "DI_CONNECT"))) == 50
    check_account(intake)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Monitor"
    folder.mkdir()
    for day in range(7):
        start = MIDNIGHT + 86_400 * day
        file = Fit().info(start, start + 3600).heart(start + 60, 60, whole=True)
        for minute in range(5, 1440, 5):
            file.heart(start + 60 * minute, 60 + minute % 7).count(start + 60 * minute, WALKING, 30 * minute)
        (folder / f"{day}_WELLNESS.fit").write_bytes(file.bytes())
    store = str(tmp_path / "weeks")
    assert main(["prepare", "garmin", str(folder), "--out", store]) == 0
    weeks = open_store(store)
    # Tuesday to Sunday; the Monday after is a week too short
    assert weeks.table.select("readings", "utc_offset").rows() == [(288 * 6, 3600)]
    assert np.nansum(weeks.week(0)[:, 1]) == 6 * 30 * 1435
    assert main(["prepare", "garmin", str(tmp_path / "none.fit"), "--out", f"{store}2"]) == 2
    assert "none.fit" in capsys.readouterr().err


def day_of_everything() -> Fit:
    file = a_file(3)
    file.message(275, {253: ("u32", MIDNIGHT), 0: ("enum", 2)}, local=3)
    file.message(20, {253: ("u32", MIDNIGHT + 9), 3: ("u8", 99)}, local=4)
    file.message(18, {253: ("u32", MIDNIGHT + 605), 2: ("u32", MIDNIGHT), 7: ("u32", 600_400)}, local=5)
    return file.message(34, {253: ("u32", MIDNIGHT + 606), 5: ("u32", MIDNIGHT + 4206)}, local=6)


def test_bytes_at_random_give_a_message_or_a_count(tmp_path: Path) -> None:
    chance = random.Random(5)
    fit = day_of_everything()
    good = fit.bytes()
    outcomes = {"broken": 0, "read": 0}
    (tmp_path / "good.fit").write_bytes(good)
    for turn in range(350):
        body = bytearray(good if turn % 5 == 0 else fit.body)
        for _ in range(chance.choice([1, 1, 3, 20])):
            body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.1:
            del body[chance.randrange(len(body)) :]
        # four of five have a right checksum, so that what they hold is believed
        data = bytes(body) if turn % 5 == 0 else fit.bytes(bytes(body))
        (tmp_path / "spoilt.fit").write_bytes(data)
        intake = read(tmp_path)
        check_account(intake)
        broken = intake.account.count("files", "dropped: broken or cut off")
        same = intake.account.count("files", "dropped: the same file again")
        assert intake.account.count("files", "left") == 2 - broken - same
        outcomes["broken" if broken else "read"] += 1
        assert len(rates(intake)) >= 11
        frame = intake.all_readings()
        assert frame["time"].is_between(datetime(1998, 1, 1), datetime(2127, 1, 1)).all()
        assert (frame["duration"].drop_nulls() > 0).all()
        assert (frame["steps"].drop_nulls() >= 0).all()
    assert outcomes["broken"] > 60
    assert outcomes["read"] > 60


def test_messages_that_are_not_known_say_nothing(tmp_path: Path) -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600).heart(MIDNIGHT + 60, 60, whole=True)
    file.message(9999, {253: ("u32", MIDNIGHT + 100_000), 27: ("u8", 200)}, local=3)  # unknown messages say nothing
    file.heart(MIDNIGHT + 120, 61)
    assert rates(one(tmp_path, file)) == [(utc(MIDNIGHT + 60), 60), (utc(MIDNIGHT + 120), 61)]


def test_developers_fields_are_not_the_profiles(tmp_path: Path) -> None:
    file = Fit().info(MIDNIGHT, MIDNIGHT + 3600)
    file.message(207, {3: ("u8", 0)}, local=3)
    description = {0: ("u8", 0), 1: ("u8", 27), 2: ("u8", 0x02)}
    file.message(206, description, local=4)
    layout: Sequence[int] = [*struct.pack("<BBBHB", 0x65, 0, 0, 55, 1), 253, 4, 0x86, 1, 27, 1, 0]
    file.body += bytes(layout) + struct.pack("<BIB", 5, MIDNIGHT + 60, 199)
    file.heart(MIDNIGHT + 120, 64)
    intake = one(tmp_path, file)
    assert rates(intake) == [(utc(MIDNIGHT + 120), 64)]
    assert intake.all_readings()["row"].to_list() == [6]
