"""How fast the way from a Parquet file to weeks is, beside polars reading the file alone; seconds by the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measure import alternate
from benchmarks.table import Row
from heartnet.account import Account
from heartnet.cli import main as heartnet
from heartnet.intake import Intake
from heartnet.readings import RawReadings, clean
from heartnet.sources.table import TableOptions, read_table
from heartnet.weeks import cut_weeks

PAUSE = 168
"""Seconds between readings: 3,600 a week."""


def rows(*, quick: bool = False) -> list[Row]:
    readings, rounds = (200_000, 1) if quick else (20_000_000, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "readings.parquet"
        write_readings(file, readings, PAUSE)
        runs: dict[str, Callable[[], object]] = {
            "read": lambda: pl.read_parquet(file),
            "cut": lambda: cut(file, folder),
            "prepare": lambda: prepare(file, folder / "weeks"),
        }
        took = {name: each.wall for name, each in alternate(runs, rounds, warm_up=False).items()}
    speed = {name: readings / seconds / 1e6 for name, seconds in took.items()}
    unit, beside = "M readings/s", "polars reads the file"
    return [
        Row("prepare: Parquet to weeks", speed["cut"], unit, beside, speed["read"]),
        Row("prepare: the command, with the store on disk", speed["prepare"], unit, beside, speed["read"]),
    ]


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
