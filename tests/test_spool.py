"""What is kept on the disk comes back as what is kept in memory, by whole weeks."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.intake import Intake
from heartnet.readings import RawReadings, clean
from heartnet.spool import Spool
from heartnet.weeks import cut_weeks

MONDAY = datetime(2026, 1, 5)


def handed_in(folder: Path | None, rows_in_memory: int, chunks: list[list[tuple[str, int, int, int]]]) -> Intake:
    """Hand in chunks of `(person, minutes after Monday, duration in minutes, device)`."""
    intake = Intake(Account(), folder=folder)
    intake.spool = Spool(folder, rows_in_memory)
    devices = [intake.device("watch", 0), intake.device("phone", 1)]
    file = intake.file("export")
    for chunk in chunks:
        intake.readings(
            pl.DataFrame(
                {
                    "user_id": [row[0] for row in chunk],
                    "time": [MONDAY + timedelta(minutes=row[1]) for row in chunk],
                    "utc_offset": [3600] * len(chunk),
                    "heart_rate": [60.0 + row[1] % 50 if row[2] == 0 else None for row in chunk],
                    "steps": [7.0 if row[2] else None for row in chunk],
                    "duration": [60.0 * row[2] for row in chunk],
                    "device": [devices[row[3]] for row in chunk],
                    "file": [file] * len(chunk),
                },
                schema_overrides={"heart_rate": pl.Float32, "steps": pl.Float32},
            )
        )
    return intake


def weeks_of(intake: Intake, by: str | int) -> list[tuple[object, ...]]:
    account = Account()
    found: list[tuple[object, ...]] = []
    for frame in intake.blocks(whole_people=by != "week"):
        readings = clean(RawReadings(frame, intake.files, intake.devices), account)
        if readings.is_empty():
            continue
        weeks = cut_weeks(readings, by=by, min_wear_hours=0, account=account)  # type: ignore[arg-type]
        for index, row in enumerate(weeks.table.rows()):
            found.append((row, weeks.week(index).tobytes()))
    found.append(tuple(sorted((stage, what, count) for stage, what, count in account)))
    return found


row = st.tuples(
    st.sampled_from(["zoe", "ann", "bob"]), st.integers(0, 40_000), st.sampled_from([0, 0, 5]), st.integers(0, 1)
)


@settings(deadline=None, max_examples=60)
@given(
    chunks=st.lists(st.lists(row, min_size=1, max_size=30), min_size=1, max_size=6),
    rows_in_memory=st.integers(1, 60),
    by=st.sampled_from(["week", 5]),
)
def test_on_disk_as_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    chunks: list[list[tuple[str, int, int, int]]],
    rows_in_memory: int,
    by: str | int,
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    on_disk = handed_in(folder, rows_in_memory, chunks)
    assert weeks_of(on_disk, by) == weeks_of(handed_in(None, 1_000_000, chunks), by)
    on_disk.spool.close()
    assert list(folder.iterdir()) == []


def test_blocks_are_small_and_hold_whole_weeks_people_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(person, int(m), 0, 0) for person in "cab" for m in rng.choice(40_000, 500, replace=False)]
    rng.shuffle(rows)
    intake = handed_in(tmp_path, 400, [rows[i : i + 100] for i in range(0, len(rows), 100)])
    blocks = list(intake.blocks())
    assert len(blocks) > 3
    assert sum(block.height for block in blocks) == 1500
    seen: list[tuple[str, int]] = []
    for block in blocks:
        seen += block.select(pl.col("user_id").cast(pl.String), "week").unique().sort("user_id", "week").rows()
    assert seen == sorted(set(seen))
    assert all(block.height <= 400 for block in blocks)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(HeartnetError, match=r"cannot keep readings in .*No space left on device"):
        handed_in(tmp_path, 1, [[("a", 0, 0, 0), ("a", 1, 0, 0)]])
