"""Bad readings leave the table, counted and with a place; the rules for several rows at one moment hold."""

from collections import defaultdict
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.intake import RAW_SCHEMA, Device
from heartnet.readings import SCHEMA, RawReadings, clean

START = datetime(2026, 1, 5)
Row = tuple[str, int, float | None, float | None]


def raw(rows: list[Row]) -> RawReadings:
    """Readings at `(person, second, heart rate, steps)`, written from row 2 on."""
    return RawReadings(
        pl.DataFrame(
            [
                (p, START + timedelta(seconds=s), 0, True, h, n, None, 0, 0, 2 + i, 0)
                for i, (p, s, h, n) in enumerate(rows)
            ],
            schema={**RAW_SCHEMA, "week": pl.Int32()},
            orient="row",
        ),
        ("hr.csv",),
    )


def cleaned(rows: list[Row], **settings: bool) -> tuple[list[tuple[object, ...]], Account]:
    account = Account(**settings)
    frame = clean(raw(rows), account)
    assert frame.schema == {**SCHEMA, "week": pl.Int32()}
    start = pl.lit(START)
    seconds = (pl.col("time") - start).dt.total_seconds()
    return frame.select("user_id", seconds, "heart_rate", "steps").rows(), account


def test_rates_of_0_and_900_are_dropped_and_their_rows_named() -> None:
    rows, account = cleaned([("a", 0, 60, None), ("a", 5, 0, None), ("a", 10, 900, 3), ("a", 15, 20, None)])
    assert rows == [("a", 0, 60, None), ("a", 10, None, 3), ("a", 15, 20, None)]
    key = ("values", "dropped: heart rate outside 20–250 bpm")
    assert account.entries[key] == 2
    assert account.examples[key] == ["hr.csv row 3: heart_rate 0", "hr.csv row 4: heart_rate 900"]
    assert account.count("rows", "dropped: no heart rate, and no steps or 0") == 1


def test_strict_ends_at_the_first_bad_row() -> None:
    with pytest.raises(HeartnetError, match=r"hr\.csv row 3: heart_rate 900.*outside 20–250.*--strict"):
        cleaned([("a", 0, 60, None), ("a", 5, 900, None)], strict=True)


def test_negative_steps_and_not_a_number() -> None:
    rows, account = cleaned([("a", 0, 60, -4), ("a", 5, float("nan"), float("nan")), ("a", 9, float("inf"), 1)])
    assert rows == [("a", 0, 60, None), ("a", 9, None, 1)]
    assert account.count("values", "dropped: steps below 0") == 1
    assert account.count("values", "dropped: heart rate outside 20–250 bpm") == 1


def test_several_rows_at_one_moment() -> None:
    rows, account = cleaned(
        [
            *[("a", 0, 60.0, None), ("a", 0, 61.0, None)],  # two heart rates: the mean
            *[("a", 5, 70.0, None), ("a", 5, 70.0, None), ("a", 5, 70.0, None)],  # the same again, twice
            *[("a", 9, 80.0, None), ("a", 9, None, 12.0)],  # the two channels of one moment
            *[("a", 12, None, 5.0), ("a", 12, None, 8.0)],  # overlapping devices: the highest count
        ]
    )
    assert rows == [("a", 0, 60.5, None), ("a", 5, 70, None), ("a", 9, 80, 12), ("a", 12, None, 8)]
    assert account.count("rows", "merged: the same reading again") == 2
    assert account.count("rows", "merged: heart rate and steps of one moment") == 1
    what = "merged: different values at one moment (mean heart rate, highest steps)"
    assert account.count("rows", what) == 2
    assert account.examples["rows", what][0] == "hr.csv row 3: 2026-01-05 00:00:00 has 60.0 and 61.0"


def test_readings_are_sorted() -> None:
    rows, _ = cleaned([("b", 5, 60, None), ("b", 0, 61, None), ("a", 3, 62, None), ("b", 9, 63, None)])
    assert rows == [("a", 3, 62, None), ("b", 0, 61, None), ("b", 5, 60, None), ("b", 9, 63, None)]


def test_nothing_left_is_empty() -> None:
    rows, account = cleaned([("a", 0, 900, None)])
    assert rows == []
    assert account.count("rows", "left") == 0


def with_devices(rows: list[tuple[int, float | None, float | None, float, int]]) -> tuple[pl.DataFrame, Account]:
    """Clean readings at `(second, heart rate, steps, duration, device)`; device 1 is a watch, 2 a phone."""
    frame = raw([("a", second, rate, steps) for second, rate, steps, _, _ in rows]).frame.with_columns(
        duration=pl.Series([row[3] for row in rows], dtype=pl.Float32),
        device=pl.Series([row[4] for row in rows], dtype=pl.UInt16),
    )
    devices = (Device("", 9), Device("watch", 0), Device("phone", 1))
    account = Account()
    return clean(RawReadings(frame, ("export",), devices), account), account


def test_steps_of_two_devices_are_counted_once_the_watch_first() -> None:
    frame, account = with_devices(
        [
            (60, None, 100, 60, 2),  # all of it lies in what the watch counted
            (90, None, 50, 90, 1),
            (150, None, 30, 60, 2),  # from 90 to 150: the phone alone
            (240, None, 80, 80, 2),  # from 160 to 240, of which the watch counted a half
            (200, None, 20, 40, 1),
            (300, None, 7, 0, 2),  # a moment outside
            (180, None, 9, 0, 2),  # a moment inside
        ]
    )
    found = frame.select((pl.col("time") - START).dt.total_seconds(), "steps").rows()
    assert found == [(90, 50), (150, 30), (200, 20), (240, 40), (300, 7)]
    assert account.count("steps", "dropped: counted by another device, or twice (watch first)") == 149
    what = "merged: measured by a better device too (steps in an interval, heart rates within 30 s)"
    assert account.count("rows", what) == 2
    assert account.count("rows", "left") == 5


def test_intervals_of_one_device_that_overlap_are_counted_once() -> None:
    frame, _ = with_devices([(60, None, 60, 60, 2), (60, None, 60, 60, 2), (90, None, 60, 60, 2)])
    assert frame["steps"].to_list() == [60, 30]


def test_parts_of_intervals_that_end_together_are_added() -> None:
    frame, _ = with_devices([(60, None, 10, 20, 1), (60, None, 60, 60, 2)])  # the phone alone: 40 of 60 s
    assert frame["steps"].to_list() == [50]


def test_heart_rates_near_those_of_a_better_device_are_dropped() -> None:
    frame, account = with_devices(
        [(0, 60, None, 0, 1), (30, 70, None, 0, 2), (31, 71, None, 0, 2), (100, 61, None, 0, 1), (100, 80, None, 0, 2)]
    )
    assert frame["heart_rate"].to_list() == [60, 71, 61]
    assert frame["device"].to_list() == [1, 2, 1]
    assert sum(count for stage, what, count in account if stage == "rows" and "merged" in what) == 2


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(1, 20), st.sampled_from([1, 2])),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_steps_counted_once_against_a_loop_over_seconds(spans: list[tuple[int, int, int, int]]) -> None:
    """Each second's steps belong to the best device that covers it, and of one device to what started first."""
    frame, _ = with_devices([(start + length, None, steps, length, device) for start, length, steps, device in spans])
    order = sorted(spans, key=lambda span: (span[3], span[0], -span[2], span[1]))
    expected = 0.0
    taken: set[int] = set()
    moments: set[tuple[int, int]] = set()
    for start, length, steps, _ in order:
        seconds = set(range(start, start + length))
        expected += steps * len(seconds - taken) / length if length else 0.0
        taken |= seconds
    watch = {s for start, length, _, device in spans if device == 1 for s in range(start, start + length)}
    for start, length, steps, device in order:
        if length == 0 and (start, device) not in moments:
            covered = start - 1 in watch if device == 2 else False
            same = device == 2 and (start, 1) in moments
            expected += 0 if covered or same else steps
            moments.add((start, device))
    assert frame["steps"].sum() == pytest.approx(expected, abs=1e-3)


heart_rates = st.none() | st.sampled_from([0.0, 19.0, 60.0, 61.0, 250.0, 251.0])
counts = st.none() | st.sampled_from([-1.0, 0.0, 3.0, 7.0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), heart_rates, counts), min_size=1, max_size=40))
def test_against_a_loop_and_no_row_unaccounted(rows: list[Row]) -> None:
    moments: dict[tuple[str, int], list[tuple[float | None, float | None]]] = defaultdict(list)
    for person, second, rate, steps in rows:
        rate = rate if rate is not None and 20 <= rate <= 250 else None
        steps = steps if steps is not None and steps >= 0 else None
        if rate is not None or steps:
            moments[person, second].append((rate, steps))
    expected = []
    for (person, second), values in sorted(moments.items()):
        rates = [rate for rate, _ in values if rate is not None]
        steps_ = [steps for _, steps in values if steps is not None]
        mean = sum(rates) / len(rates) if rates else None
        expected.append((person, second, mean, max(steps_) if steps_ else None))
    found, account = cleaned(rows)
    assert [(p, s, h, n) for p, s, h, n in found] == [(p, s, pytest.approx(h), n) for p, s, h, n in expected]
    gone = sum(n for stage, what, n in account if stage == "rows" and what.startswith(("dropped", "merged")))
    assert len(rows) - gone == account.count("rows", "left") == len(found)


def test_utc_beside_known_places_is_noted() -> None:
    mixed = raw([("a", 0, 60, None), ("a", 60, 61, None), ("b", 0, 62, None)])
    offsets = pl.Series("utc_offset", [None, -25_200, None], dtype=pl.Int32)
    account = Account(strict=True)
    clean(RawReadings(mixed.frame.with_columns(offsets), mixed.files), account)
    what = "noted: UTC taken as local time, where others of the person have an offset (see --time-zone)"
    assert account.entries["rows", what] == 1
    assert account.examples["rows", what] == ["hr.csv row 2: time 2026-01-05 00:00:00 (offset from UTC not known)"]


def test_examples_give_the_clock_that_files_have() -> None:
    two = raw([("a", 0, 60, None), ("a", 60, 61, None), ("a", 120, 62, None)])
    frame = two.frame.with_columns(pl.Series("utc_offset", [-25_200, 20_700, None], dtype=pl.Int32))
    every = pl.Series([True, True, True])
    assert RawReadings(frame, two.files).places(every, "time", 3) == [
        "hr.csv row 2: time 2026-01-04 17:00:00 -07:00",
        "hr.csv row 3: time 2026-01-05 05:46:00 +05:45",
        "hr.csv row 4: time 2026-01-05 00:02:00 (offset from UTC not known)",
    ]


def test_a_count_of_more_than_a_day_is_believed_last() -> None:
    """A watch that says 3 steps in 54 years, since its clock was reset, does not take away what a phone counted."""
    long = 54 * 366 * 86_400.0
    minutes = [(60 * i, None, 10.0, 60.0, 2) for i in range(1, 1441)]
    frame, account = with_devices([*minutes, (86_400, None, 3.0, long, 1)])
    assert frame["steps"].sum() == pytest.approx(14_400 + 3, abs=0.01)
    assert account.count("steps", "dropped: counted by another device, or twice (watch first)") == 0


def test_of_two_watches_the_one_that_measured_more_is_believed() -> None:
    """Two devices of one rank, 10 s apart: interleaved, their difference would look like a racing heart."""
    first = [(300 * i, 60.0, None, 0.0, 1) for i in range(10)]
    second = [(300 * i + 10, 100.0, None, 0.0, 2) for i in range(12)]
    rows = [*first, *second]
    frame = raw([("a", second, rate, steps) for second, rate, steps, _, _ in rows]).frame.with_columns(
        device=pl.Series([row[4] for row in rows], dtype=pl.UInt16)
    )
    account = Account()
    devices = (Device("", 9), Device("watch", 0), Device("strap", 0))
    found = clean(RawReadings(frame, ("export",), devices), account)
    assert found["heart_rate"].to_list() == [100.0] * 12
    what = "merged: measured by a better device too (steps in an interval, heart rates within 30 s)"
    assert account.count("rows", what) == 10


def test_more_steps_than_legs_can_do_are_dropped() -> None:
    frame, account = with_devices(
        [(300, None, 1e12, 300, 2), (600, None, 1550, 300, 2), (900, 70, 1551, 300, 2), (901, None, 1e5, 0, 2)]
    )
    assert frame["steps"].to_list() == [1550, None, 1e5]
    assert account.count("values", "dropped: more than 5 steps a second, or 100,000 at once") == 2
