"""How fast an Apple Health export is read, beside lxml reading the same attributes and doing nothing with them.

Writes a synthetic export of that size, as XML and as zip, to a temporary folder: unordered heart rates with motion
context, steps of a watch and a phone, active energy, distance, and sleep. Then alternates on each, every run in a
process of its own, the imports not counted in time but in memory:

- `heartnet`: `heartnet.sources.apple_health.read`, both passes, with readings counted instead of kept;
- `lxml`: `lxml.etree.iterparse` over the records, taking the same attributes and clearing each element.

Counts MB of XML a second of processor time (of all threads), and the peak resident memory of the process.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.table import Row

WATCH = (
    "&lt;&lt;HKDevice: 0x282a45810&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch5,2, "
    "software:7.1&gt;"
)
HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE HealthData [
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation|Workout|ActivitySummary)*)>
]>
<HealthData locale="en_US">
 <ExportDate value="2021-01-22 17:37:58 -0800"/>
 <Me HKCharacteristicTypeIdentifierDateOfBirth="1971-07-09"
  HKCharacteristicTypeIdentifierBiologicalSex="HKBiologicalSexFemale"/>
"""
WANTED = ("HKQuantityTypeIdentifierHeartRate", "HKQuantityTypeIdentifierStepCount")


def rows(*, quick: bool = False) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        xml, archive = Path(folder) / "export.xml", Path(folder) / "export.zip"
        megabytes = write_export(xml, 2_000_000 if quick else 100_000_000) / 1e6
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            target.write(xml, "apple_health_export/export.xml")
        for path in (xml, archive):
            found += compare(path, megabytes, 1 if quick else 3)
    return found


def compare(path: Path, megabytes: float, repeats: int) -> list[Row]:
    """Alternate both readers on a file."""
    results: dict[str, list[list[float]]] = {"heartnet": [], "lxml": []}
    for _ in range(repeats):
        for reader, measured in results.items():
            command = [sys.executable, "-m", "benchmarks.bench_apple_health", reader, str(path)]
            measured.append([float(word) for word in subprocess.check_output(command, text=True).split()])
    speeds = {reader: megabytes / statistics.median(row[0] for row in rows) for reader, rows in results.items()}
    peaks = {reader: max(row[1] for row in rows) for reader, rows in results.items()}
    assert len({row[2] for rows in results.values() for row in rows}) == 1, "the readers found other records"
    name = f"Apple Health export, {path.suffix[1:]}"
    return [
        Row(name, speeds["heartnet"], "MB/s", "lxml", speeds["lxml"]),
        Row(f"{name}: peak memory", peaks["heartnet"], "MB", "lxml", peaks["lxml"]),
    ]


def run(reader: str, path: str) -> None:
    """Print the seconds, the peak memory in MB and the records of one run."""
    read = with_lxml() if reader == "lxml" else with_heartnet()
    start = time.process_time()  # of the process: other programs on the machine do not count
    count = read(Path(path))
    seconds = time.process_time() - start
    scale = 1e6 if sys.platform == "darwin" else 1e3
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, count)


def with_heartnet() -> Callable[[Path], int]:
    import polars as pl

    from heartnet.account import Account
    from heartnet.intake import Intake
    from heartnet.sources import apple_health

    class Counter(Intake):
        count = 0

        def readings(self, frame: pl.DataFrame, zone: str | None = None) -> None:  # noqa: ARG002
            self.count += frame.height

    def read(path: Path) -> int:
        intake = Counter(Account())
        apple_health.read(argparse.Namespace(files=[path]), intake)
        return intake.count

    return read


def with_lxml() -> Callable[[Path], int]:
    from lxml import etree

    def read(path: Path) -> int:
        count = 0
        archive = zipfile.ZipFile(path) if path.suffix == ".zip" else None
        with archive.open(archive.namelist()[0]) if archive else path.open("rb") as file:
            for _, element in etree.iterparse(file, events=("end",), tag="Record"):
                if element.get("type") in WANTED:
                    for name in ("sourceName", "device", "unit", "startDate", "endDate", "value"):
                        element.get(name)
                    count += 1
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        return count

    return read


def write_export(path: Path, size: int, seed: int = 0) -> int:
    """Write an export of about that many bytes, and return how many they are."""
    chance = random.Random(seed)
    written = len(HEAD)
    with path.open("w", encoding="utf-8") as file:
        file.write(HEAD)
        for text in records(chance):
            file.write(text)
            written += len(text.encode())
            if written > size:
                break
        file.write("</HealthData>\n")
    return path.stat().st_size


def records(chance: random.Random) -> Iterator[str]:
    start = datetime(2018, 1, 1)
    watch = f'sourceName="Anna’s Apple Watch" sourceVersion="7.1" device="{WATCH}" '
    phone = 'sourceName="Anna’s iPhone" sourceVersion="14.4" '
    metadata = '<MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="{}"/>'
    while True:
        time = start + timedelta(seconds=chance.randrange(90_000_000))
        end = time + timedelta(seconds=chance.randrange(1, 600))
        at, until = f"{time:%Y-%m-%d %H:%M:%S} -0800", f"{end:%Y-%m-%d %H:%M:%S} -0800"
        span = f'creationDate="{until}" startDate="{at}" endDate="{until}"'
        match chance.random():
            case share if share < 0.40:
                yield (
                    f' <Record type="HKQuantityTypeIdentifierHeartRate" {watch}unit="count/min" creationDate="{until}" '
                    f'startDate="{at}" endDate="{at}" value="{chance.randrange(45, 170)}">\n'
                    f"  {metadata.format(chance.randrange(3))}\n </Record>\n"
                )
            case share if share < 0.55:
                source = watch if share < 0.48 else phone
                kind, steps = "HKQuantityTypeIdentifierStepCount", chance.randrange(1, 900)
                yield f' <Record type="{kind}" {source}unit="count" {span} value="{steps}"/>\n'
            case share if share < 0.85:
                kind = "HKQuantityTypeIdentifierActiveEnergyBurned"
                yield f' <Record type="{kind}" {watch}unit="Cal" {span} value="{chance.random():.4g}"/>\n'
            case share if share < 0.998:
                kind = "HKQuantityTypeIdentifierDistanceWalkingRunning"
                yield f' <Record type="{kind}" {watch}unit="mi" {span} value="{chance.random():.8g}"/>\n'
            case _:
                yield (
                    f' <Record type="HKCategoryTypeIdentifierSleepAnalysis" {watch}{span} '
                    'value="HKCategoryValueSleepAnalysisAsleep">\n'
                    '  <MetadataEntry key="HKTimeZone" value="America/Los_Angeles"/>\n </Record>\n'
                )


if __name__ == "__main__":
    run(*sys.argv[1:])
