"""Real recordings through `heartnet prepare table`, against plain loops over the files."""

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heartnet.cli import main
from heartnet.store import open_store, read_manifest
from heartnet.weeks import Weeks

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


def rows(name: str) -> Iterator[dict[str, str]]:
    path = DATA / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from csv.DictReader(file)


def prepare(tmp_path: Path, folder: str, *words: str) -> tuple[Weeks, dict[tuple[str, str], int]]:
    """Prepare the tables of a folder (words with `@` are files in it); return the weeks and the account."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"the recordings of {folder} are not at {DATA}")
    files = [str(DATA / folder / word[1:]) if word.startswith("@") else word for word in words]
    assert main(["prepare", "table", *files, "--out", str(tmp_path / "weeks")]) == 0
    account = {(row["stage"], row["what"]): row["count"] for row in read_manifest(tmp_path / "weeks")["account"]}
    return open_store(tmp_path / "weeks"), account


def monday(time: datetime) -> datetime:
    return datetime.combine(time.date() - timedelta(days=time.weekday()), datetime.min.time())


def check_weeks(weeks: Weeks, moments: dict[str, dict[datetime, tuple[list[float], list[float]]]]) -> None:
    """Compare weeks with `moments[person][time] = (heart rates, steps)`, of weeks worn for at least 24 hours."""
    expected: dict[tuple[str, datetime], dict[str, Any]] = {}
    for person, times in moments.items():
        by_week: dict[datetime, list[datetime]] = defaultdict(list)
        for time in sorted(times):
            by_week[monday(time)].append(time)
        for start, at in by_week.items():
            wear = sum((b - a for a, b in pairwise(at) if b - a <= timedelta(minutes=30)), timedelta())
            if wear >= timedelta(hours=24) and any(times[time][0] for time in at):
                steps = sum(max(times[time][1], default=0) for time in at)
                expected[person, start] = {"at": at, "wear": wear / timedelta(hours=1), "steps": steps}
    found = weeks.table.select("user_id", "start", "readings", "wear_hours").rows()
    assert [(person, start) for person, start, _, _ in found] == sorted(expected)
    for index, (person, start, count, wear) in enumerate(found):
        want = expected[person, start]
        week = weeks.week(index)
        local = weeks.local_time[weeks.offsets[index] : weeks.offsets[index + 1]]
        at = [datetime(1970, 1, 1) + timedelta(microseconds=int(time)) for time in local]
        assert wear == pytest.approx(want["wear"], abs=1e-9)
        assert np.nansum(week[:, 1].astype(np.float64)) == want["steps"]
        assert (at[0], at[-1]) == (want["at"][0], want["at"][-1])
        assert count == len(want["at"]) if len(want["at"]) <= 4096 else 4090 <= count <= 4096
        assert set(at) <= set(want["at"])
        np.testing.assert_array_equal(week[1:, 2], np.float32([(b - a).total_seconds() for a, b in pairwise(at)]))
        for time, rate in zip(at, week[:, 0].tolist(), strict=True):
            rates = moments[person][time][0]
            assert rate == pytest.approx(sum(rates) / len(rates)) if rates else np.isnan(rate)


def test_applewatch(tmp_path: Path) -> None:
    columns = ["--time", "Start_Date+Start_Time", "--heart-rate", "Value", "--steps", "Steps"]
    weeks, account = prepare(tmp_path, "applewatch", "@hr.csv", "@steps.csv", *columns)
    moments: dict[datetime, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    total = 0
    for channel, name, column in ((0, "hr.csv", "Value"), (1, "steps.csv", "Steps")):
        for row in rows(f"applewatch/{name}"):
            time = datetime.fromisoformat(f"{row['Start_Date']} {row['Start_Time']}")
            moments[time][channel].append(float(row[column]))
            total += 1
    check_weeks(weeks, {"person-1": moments})
    assert account["rows", "in"] == total
    assert account["rows", "left"] == len(moments)
    conflict = "merged: different values at one moment (mean heart rate, highest steps)"
    assert account["rows", conflict] == sum(
        len(rates) + len(steps) - 1 for rates, steps in moments.values() if len(set(rates)) > 1 or len(set(steps)) > 1
    )


def test_fitbit(tmp_path: Path) -> None:
    files = ["@heartrate_seconds.csv.gz", "@minute_steps.csv.gz"]
    weeks, account = prepare(tmp_path, "fitbit", *files, "--heart-rate", "Value")
    moments: dict[str, dict[datetime, tuple[list[float], list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: ([], []))
    )
    for row in rows("fitbit/heartrate_seconds.csv.gz"):
        moments[row["Id"]][datetime.fromisoformat(row["Time"])][0].append(float(row["Value"]))
    resting = 0
    for row in rows("fitbit/minute_steps.csv.gz"):
        resting += row["Steps"] == "0"
        if row["Steps"] != "0":
            moments[row["Id"]][datetime.fromisoformat(row["ActivityMinute"])][1].append(float(row["Steps"]))
    check_weeks(weeks, moments)
    assert account["rows", "dropped: no heart rate, and no steps or 0"] == resting
    assert account["people", "left"] == 5


def rhythm_of(first: float, last: float, intervals: list[tuple[float, float, str]]) -> int | None:
    known = positive = 0.0
    for start, end, rhythm in intervals:
        shared = max(0.0, min(end, last) - max(start, first))
        known += shared
        positive += shared * (rhythm == "AFIB")
    if known < (last - first) / 2:
        return None
    return int(positive > (last - first) / 2)


@pytest.mark.parametrize(("length", "windows"), [(512, 1600), (4096, 192)])
def test_afdb(tmp_path: Path, length: int, windows: int) -> None:
    rules = ["--label-intervals", "@rhythms.csv", "--condition", "atrial_fibrillation=rhythm:AFIB"]
    words = ["@heart_rate.csv.gz", "--time", "seconds", "--time-unit", "s", "--by", str(length), *rules]
    weeks, account = prepare(tmp_path, "afdb", *words)
    beats: dict[str, list[tuple[float, float]]] = defaultdict(list)
    implausible = 0
    for row in rows("afdb/heart_rate.csv.gz"):
        if 20 <= float(row["heart_rate"]) <= 250:
            beats[row["user_id"]].append((float(row["seconds"]), float(row["heart_rate"])))
        else:
            implausible += 1
    intervals: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for row in rows("afdb/rhythms.csv"):
        intervals[row["user_id"]].append((float(row["start_seconds"]), float(row["end_seconds"]), row["rhythm"]))
    expected = []
    for person, found in sorted(beats.items()):
        for first in range(0, len(found) - length + 1, length):
            run = found[first : first + length]
            expected.append((person, run, rhythm_of(run[0][0], run[-1][0], intervals[person])))
    assert len(weeks) == len(expected) == windows
    assert account["values", "dropped: heart rate outside 20–250 bpm"] == implausible
    assert weeks.table["user_id"].to_list() == [person for person, _, _ in expected]
    assert weeks.table["atrial_fibrillation"].to_list() == [label for _, _, label in expected]
    seconds, rates = zip(*(beat for _, run, _ in expected for beat in run), strict=True)
    np.testing.assert_array_equal(weeks.readings[:, 0], np.float32(rates))
    np.testing.assert_array_equal(weeks.local_time, np.round(np.array(seconds) * 1e6).astype(np.int64))


def test_cgmacros(tmp_path: Path) -> None:
    names = sorted(path.name for path in (DATA / "cgmacros").glob("CGMacros-*.csv.gz"))
    bio = ["--labels", "@bio.csv", "--people", "@bio.csv", "--condition", "diabetes=A1c PDL (Lab)>=6.5"]
    person = ["--user-from-filename", r"CGMacros-(\d+)"]
    weeks, account = prepare(tmp_path, "cgmacros", *(f"@{name}" for name in names), *person, *bio)
    moments: dict[str, dict[datetime, tuple[list[float], list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: ([], []))
    )
    for name in names:
        for row in rows(f"cgmacros/{name}"):
            steps = float(row.get("Steps") or 0)
            if row["HR"] or steps:
                moment = moments[name[9:12]][datetime.fromisoformat(row["Timestamp"])]
                moment[0].extend([float(row["HR"])] if row["HR"] else [])
                moment[1].append(steps)
    check_weeks(weeks, moments)
    subjects = {int(row["subject"]): row for row in rows("cgmacros/bio.csv")}
    for user, age, sex, bmi, label in weeks.table.select("user_id", "age", "sex", "bmi", "diabetes").rows():
        row = subjects[int(user)]
        assert (age, sex[0].upper()) == (float(row["Age"]), row["Gender"])
        assert bmi == pytest.approx(float(row["BMI"]))
        assert label == (float(row["A1c PDL (Lab)"]) >= 6.5)
    assert account["people", "left"] == 30
