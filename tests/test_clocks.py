"""Sources of one person that disagree about local time make one timeline, that of the first."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from heartnet.cli import main
from heartnet.clocks import one_clock
from heartnet.intake import RAW_SCHEMA, Device
from heartnet.store import open_store, read_manifest

MONDAY = datetime(2026, 1, 5)
DEVICES = (Device("watch", 0), Device("other watch", 10))


def frame(rows: list[tuple[str, float, int | None, bool, int]]) -> pl.DataFrame:
    """Readings at `(person, hours, offset in hours, instant, device)`."""
    columns = [
        (p, MONDAY + timedelta(hours=h), None if o is None else o * 3600, i, 60.0, None, None, d, 0, 1)
        for p, h, o, i, d in rows
    ]
    return pl.DataFrame(columns, schema=RAW_SCHEMA, orient="row")


def settled(rows: list[tuple[str, float, int | None, bool, int]]) -> tuple[list[tuple[float, float | None]], int]:
    found, changed = one_clock(frame(rows), DEVICES)
    hours = (pl.col("time") - MONDAY).dt.total_seconds() / 3600
    assert found.schema == RAW_SCHEMA
    return found.select(hours, pl.col("utc_offset") / 3600).rows(), changed


def test_the_offsets_of_the_first_source_hold_through_a_journey() -> None:
    rows = [("a", 0, 1, True, 0), ("a", 10, -5, True, 0), ("a", -1, 0, True, 1), ("a", 9, None, True, 1)]
    rows += [("a", 11, 1, True, 1), ("b", 3, 7, True, 1)]
    found, changed = settled(rows)
    assert found == [(0, 1), (10, -5), (-1, 1), (9, 1), (11, -5), (3, 7)]
    assert changed == 3


def test_a_wall_clock_becomes_an_instant_by_the_first_source() -> None:
    known = [("a", 0, 1, True, 0), ("a", 10, 2, True, 0)]
    found, changed = settled([*known, ("a", 5, None, False, 1), ("a", 13, None, False, 1)])
    assert found[2:] == [(4, 1), (11, 2)]
    assert changed == 2


def test_nothing_is_changed_where_the_first_source_knows_no_offset_or_there_is_one_source() -> None:
    rows = [("a", 0, None, False, 0), ("a", 1, 2, True, 1)]
    assert settled(rows) == ([(0, None), (1, 2)], 0)
    rows = [("a", 0, 1, True, 0), ("a", 1, 2, True, 0)]
    assert settled(rows) == ([(0, 1), (1, 2)], 0)


def test_the_same_instants_in_two_places_are_stored_once(tmp_path: Path) -> None:
    """Two exports of the same watch, one with the offset of Los Angeles, one in UTC: a week must not be torn."""
    for name, hours in (("la.csv", -8), ("utc.csv", 0)):
        sign = "-" if hours < 0 else "+"
        local = [MONDAY + timedelta(minutes=5 * i, hours=hours) for i in range(4032)]
        text = [f"{t.isoformat()}{sign}{abs(hours):02d}:00,{60 + i % 9}" for i, t in enumerate(local)]
        (tmp_path / name).write_text("time,hr\n" + "\n".join(text) + "\n")
    sources = ["table", str(tmp_path / "la.csv"), "+", "table", str(tmp_path / "utc.csv")]
    assert main(["prepare", *sources, "--out", str(tmp_path / "weeks"), "--min-wear-hours", "0"]) == 0
    weeks = open_store(tmp_path / "weeks")
    assert len(weeks.readings) == 4032
    assert weeks.table["wear_hours"].max() < 168
    assert weeks.table["utc_offset"].unique().to_list() == [-8 * 3600]
    assert np.nanmax(weeks.readings[:, 2]) == 300
    account = {row["what"]: row["count"] for row in read_manifest(tmp_path / "weeks")["account"]}
    assert account["noted: local time of the source named first"] == 4032


def test_steps_over_mondays_midnight_are_counted_once(tmp_path: Path) -> None:
    """A watch counts from 23:50 to 00:10, a phone from 23:50 to 23:58: the phone's lie in the watch's."""
    columns = {"hr": "time,hr", "watch": "time,end,steps", "phone": "time,end,steps"}
    start = datetime(2026, 1, 11, 20)
    rows = {
        "hr": [f"{start + timedelta(minutes=i)},60" for i in range(480)],
        "watch": ["2026-01-11 23:50:00,2026-01-12 00:10:00,200"],
        "phone": ["2026-01-11 23:50:00,2026-01-11 23:58:00,80"],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([columns[name], *lines]) + "\n")
    first = [str(tmp_path / "hr.csv"), str(tmp_path / "watch.csv"), "--steps-end", "end"]
    second = ["table", str(tmp_path / "phone.csv"), "--steps-end", "end"]
    out = ["--out", str(tmp_path / "weeks"), "--min-wear-hours", "0"]
    assert main(["prepare", "table", *first, "+", *second, *out]) == 0
    weeks = open_store(tmp_path / "weeks")
    assert [float(np.nansum(weeks.week(i)[:, 1])) for i in range(2)] == [100, 100]
