"""Times the way from a Parquet file to weeks, and how fast a store is opened and serves random weeks.

python benchmarks/bench_prepare.py [--readings 20000000] [--weeks 100000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import polars as pl

from heartnet.account import Account
from heartnet.cli import main as heartnet
from heartnet.intake import Intake
from heartnet.readings import RawReadings, clean
from heartnet.sources.table import TableOptions, read_table
from heartnet.store import open_store, write_store
from heartnet.weeks import Weeks, cut_weeks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=int, default=20_000_000)
    parser.add_argument("--pause", type=int, default=168, help="seconds between readings; 168 is 3,600 a week")
    parser.add_argument("--weeks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cutting(Path(folder), options)
        serving(Path(folder), options)


def cutting(folder: Path, options: Namespace) -> None:
    """Time reading Parquet alone, reading and cutting, and the whole command with its store on disk."""
    file = folder / "readings.parquet"
    write_readings(file, options.readings, options.pause)
    took: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for what, action in (
            ("polars reads the columns (the limit)", lambda: pl.read_parquet(file)),
            ("Parquet to weeks", lambda: cut(file, folder)),
            ("heartnet prepare table, with the store on disk", lambda: prepare(file, folder / "weeks")),
        ):
            start = time.perf_counter()
            action()
            took.setdefault(what, []).append(time.perf_counter() - start)
    for what, seconds in took.items():
        rate = options.readings / float(np.median(seconds)) / 1e6
        print(f"{what:<50} {rate:6.1f} million readings/s (median of {options.rounds}: {np.median(seconds):.2f} s)")


def write_readings(file: Path, count: int, pause: int) -> None:
    """Write readings at even steps, of people with a year each, sorted as exports are."""
    people = max(count * pause // (52 * 604_800), 1)
    each = count // people
    rng = np.random.default_rng(0)
    minute = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(each) * np.timedelta64(pause * 1_000_000, "us")
    pl.concat(
        pl.DataFrame(
            {
                "user_id": pl.Series([f"user-{person:05d}"]).new_from_index(0, each),
                "time": minute,
                "heart_rate": rng.integers(50, 150, each).astype(np.float32),
                "steps": rng.integers(0, 50, each).astype(np.float32),
            }
        )
        for person in range(people)
    ).write_parquet(file)


def cut(file: Path, folder: Path) -> int:
    intake = Intake(Account(), folder=folder)
    read_table([file], TableOptions(), intake)
    count = 0
    for frame in intake.blocks():
        readings = clean(RawReadings(frame, intake.files, intake.devices), intake.account)
        count += len(cut_weeks(readings, account=intake.account))
    intake.spool.close()
    return count


def prepare(file: Path, out: Path) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        assert heartnet(["prepare", "table", str(file), "--out", str(out), "--overwrite"]) == 0


def serving(folder: Path, options: Namespace) -> None:
    """Time opening a store of many weeks, and reading whole weeks at random."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 150, options.weeks)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    readings = rng.normal(70, 10, (int(offsets[-1]), 3)).astype(np.float32)
    table = pl.DataFrame(
        {
            "user_id": [f"user-{week // 5:06d}" for week in range(options.weeks)],
            "start": pl.Series(np.full(options.weeks, np.datetime64("2024-01-01", "us"))),
            "readings": lengths,
            "wear_hours": np.full(options.weeks, 100.0),
        }
    ).with_columns(
        pl.lit(None, pl.String).alias("device"),
        pl.lit(None, pl.Float64).alias("age"),
        pl.lit(None, pl.String).alias("sex"),
        pl.lit(None, pl.Float64).alias("bmi"),
    )
    weeks = Weeks(readings, np.arange(len(readings)), offsets, table, conditions=())
    write_store(weeks, folder / "many")
    opened, served = [], []
    for _ in range(options.rounds):
        start = time.perf_counter()
        store = open_store(folder / "many")
        opened.append(time.perf_counter() - start)
        rows = rng.integers(0, options.weeks, options.weeks)
        start = time.perf_counter()
        total = 0.0
        for row in rows:
            total += float(store.week(row)[-1, 0])
        served.append(options.weeks / (time.perf_counter() - start))
    print(f"{'opening a store of ' + format(options.weeks, ',') + ' weeks':<50} {1000 * np.median(opened):6.0f} ms")
    print(f"{'random weeks from it, each touched':<50} {np.median(served):6,.0f} a second")


if __name__ == "__main__":
    main()
