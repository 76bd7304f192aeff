"""How fast a store serves weeks from its memory map, with a warm cache, and what an epoch of it takes in memory."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from torch.utils.data import DataLoader

from benchmarks.measure import alternate, status
from benchmarks.table import Row
from heartnet.account import Account
from heartnet.datamodule import StoredData
from heartnet.store import StoreWriter, open_store
from heartnet.tasks import Conditions
from heartnet.weeks import Weeks

READINGS = 3400
"""Of a week, as many as in simulated weeks; random weeks are of 100, so that finding them is what is timed."""


def rows(*, quick: bool = False) -> list[Row]:
    repeats = 1 if quick else 5
    limit = 8 if quick else 64
    with tempfile.TemporaryDirectory() as folder:
        many, large = Path(folder) / "many", Path(folder) / "large"
        write(many, weeks=10_000 if quick else 100_000, readings=100)
        write(large, weeks=limit * 10_000_000 // (READINGS * 12), readings=READINGS)
        return [*served(many, large, repeats), *epoch(large, limit, repeats)]


def served(many: Path, large: Path, repeats: int) -> list[Row]:
    """Time opening a store, random weeks of it, and all weeks in order, each read whole."""
    store, long = open_store(many), open_store(large)
    chosen = np.random.default_rng(0).integers(0, len(store), len(store))
    buffer = np.empty((READINGS, 3), np.float32)

    def random() -> None:
        for row in chosen:
            store.week(row).max()

    def touch() -> None:
        for row in chosen:
            store.week(row)[-1, 0]

    def in_order() -> None:
        for row in range(len(long)):
            buffer[:] = long.week(row)

    def limit() -> None:
        for row in range(0, len(long.readings), READINGS):
            buffer[:] = plain[row : row + READINGS]

    plain = np.array(long.readings)
    runs: dict[str, Callable[[], object]] = {
        "open": lambda: open_store(many), "random": random, "touch": touch, "order": in_order, "memory": limit,
    }  # fmt: skip
    took = {name: each.processor for name, each in alternate(runs, repeats).items()}
    gigabytes = long.readings.nbytes / 1e9
    return [
        Row(f"loader: opening a store of {len(store):,} weeks", 1000 * took["open"], "ms"),
        Row("loader: random weeks from the memory map", len(chosen) / took["touch"], "weeks/s", limit=50_000,
            of="ours"),
        Row("loader: the same, each read whole", len(chosen) / took["random"], "weeks/s", limit=50_000, of="ours"),
        Row("loader: weeks in order from the memory map", gigabytes / took["order"], "GB/s", "an array in memory",
            gigabytes / took["memory"], 2.0, of="ours"),
    ]  # fmt: skip


def epoch(store: Path, limit: int, repeats: int) -> list[Row]:
    """Measure an epoch of batches: weeks a second, the first batch, and the memory that it adds."""
    data = StoredData(Conditions(), path=store)
    loader = data.train_dataloader()
    workers = DataLoader(loader.dataset, batch_size=None, sampler=loader.sampler, num_workers=2)
    first: dict[str, list[float]] = {"ours": [], "workers": []}
    for _ in range(repeats):
        for name, each in (("ours", loader), ("workers", workers)):
            start = time.perf_counter()
            next(iter(each))
            first[name].append(1000 * (time.perf_counter() - start))
    before, count = status("RssAnon"), len(data.rows["train"])
    # Whatever asks for more than the limit now gets a MemoryError. Mapped files are the system's cache, not counted.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(status("VmData") + limit * 1e6), hard))
    most, start = before, time.process_time()
    for i, _ in enumerate(loader):
        most = max(most, status("RssAnon")) if i % 50 == 0 else most
    seconds = time.process_time() - start
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    return [
        Row("loader: scaled batches of 8 weeks", count / seconds, "weeks/s"),
        Row("loader: to the first batch of an epoch", float(np.median(first["ours"])), "ms", "2 worker processes",
            float(np.median(first["workers"])), 1.0, "most"),
        Row(f"loader: memory that an epoch of a store of {limit * 10} MB adds", (most - before) / 1e6, "MB",
            limit=limit, sense="most", of="ours", note=f"under a limit of {limit} MB on what the process may ask for"),
    ]  # fmt: skip


def write(path: Path, weeks: int, readings: int) -> None:
    """Write a store of random weeks, five a person, of which half have diabetes."""
    rng = np.random.default_rng(0)
    with StoreWriter(path) as writer:
        tables = []
        for first in range(0, weeks, 1000):
            some = np.arange(first, min(first + 1000, weeks))
            values = rng.normal(70, 10, (len(some) * readings, 3)).astype(np.float32)
            table = pl.DataFrame(
                {
                    "user_id": [f"user-{week // 5:06d}" for week in some],
                    "start": pl.Series(np.full(len(some), np.datetime64("2024-01-01", "us"))),
                    "readings": np.full(len(some), readings),
                    "wear_hours": np.full(len(some), 100.0),
                    "diabetes": pl.Series(some // 5 % 2, dtype=pl.Int8),
                }
            ).with_columns(
                pl.lit(None, pl.String).alias("device"),
                pl.lit(None, pl.Float64).alias("age"),
                pl.lit(None, pl.String).alias("sex"),
                pl.lit(None, pl.Float64).alias("bmi"),
            )
            offsets = np.arange(len(some) + 1) * readings
            part = Weeks(values, np.arange(len(values)), offsets, table, conditions=("diabetes",))
            writer.append(part)
            tables.append(table)
        whole = writer.weeks()
        writer.finish(
            Weeks(whole.readings, whole.local_time, whole.offsets, pl.concat(tables), conditions=("diabetes",)),
            Account(),
        )
