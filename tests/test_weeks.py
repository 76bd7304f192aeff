"""Cutting readings into weeks: Mondays, runs, wear, thinning, and no reading unaccounted for."""

from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heartnet.weeks
from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.intake import EVENT_SCHEMA
from heartnet.readings import SCHEMA
from heartnet.weeks import UNKNOWN, Weeks, cut_weeks

MONDAY = datetime(2026, 1, 5)
Row = tuple[str, float, int, float | None, float | None]


def readings(rows: list[Row]) -> pl.DataFrame:
    """Readings at `(person, seconds after Monday, UTC offset, heart rate, steps)`."""
    rows_ = [(p, MONDAY + timedelta(seconds=s), o, h, n, 0) for p, s, o, h, n in rows]
    return pl.DataFrame(rows_, schema=SCHEMA, orient="row").sort("user_id", "time")


def steady(person: str, start: float, count: int, pause: float = 60, offset: int = 0) -> list[Row]:
    return [(person, start + pause * i, offset, 60.0 + i % 7, float(i % 3)) for i in range(count)]


def starts(weeks: Weeks) -> list[str]:
    return [f"{user} {start:%Y-%m-%d %H:%M}" for user, start in weeks.table.select("user_id", "start").rows()]


def test_a_hand_computed_week() -> None:
    rows = [("a", 0.0, 0, 60.0, None), ("a", 1800.0, 0, 61.0, 5.0), ("a", 3601.0, 0, None, 7.0)]
    weeks = cut_weeks(readings(rows), min_wear_hours=0)
    np.testing.assert_array_equal(weeks.week(0), np.float32([[60, np.nan, np.nan], [61, 5, 1800], [np.nan, 7, 1801]]))
    assert weeks.table.row(0, named=True) == {
        "user_id": "a", "start": MONDAY, "readings": 3, "wear_hours": 0.5, "utc_offset": 0,
        "device": None, "age": None, "sex": None, "bmi": None,
    }  # fmt: skip
    assert weeks.local_time[0] == (MONDAY - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def test_the_week_turns_on_monday_at_midnight_local_time() -> None:
    hour = 3600
    rows = [("a", -1.0, 0, 60.0, None), ("a", 0.0, 0, 60.0, None), ("b", -1.0, hour, 60.0, None)]
    weeks = cut_weeks(readings(rows), min_wear_hours=0)
    assert starts(weeks) == ["a 2025-12-29 00:00", "a 2026-01-05 00:00", "b 2026-01-05 00:00"]


def test_a_clock_set_back_over_midnight_returns_to_the_old_week() -> None:
    rows = [("a", -60.0, 3600, 60.0, None), ("a", 0.0, -3600, 61.0, None), ("a", 9000.0, -3600, 62.0, None)]
    weeks = cut_weeks(readings(rows), min_wear_hours=0)
    assert starts(weeks) == ["a 2025-12-29 00:00", "a 2026-01-05 00:00"]
    np.testing.assert_array_equal(weeks.week(1)[1:, 2], [9060])


def test_too_little_worn_is_dropped_and_counted() -> None:
    account = Account()
    rows = steady("a", 0, 1441) + steady("b", 0, 1440) + [("c", 0.0, 0, 50.0, None)]
    weeks = cut_weeks(readings(rows), account=account)
    assert weeks.table["user_id"].to_list() == ["a"]
    assert account.count("weeks", "dropped: worn less than 24 h") == 2
    assert account.count("readings", "dropped: worn less than 24 h") == 1441


def test_weeks_without_a_heart_rate_are_dropped() -> None:
    account = Account()
    rows = [("a", 60.0 * i, 0, None, 5.0) for i in range(2000)] + steady("b", 0, 2000)
    assert cut_weeks(readings(rows), account=account).table["user_id"].to_list() == ["b"]
    assert account.count("weeks", "dropped: fewer than 1 readings with a heart rate") == 1


def test_runs_drop_what_is_left_over() -> None:
    account = Account()
    weeks = cut_weeks(readings(steady("a", 0, 25) + steady("b", 7, 9)), by=10, account=account)
    assert starts(weeks) == ["a 2026-01-05 00:00", "a 2026-01-05 00:10"]
    assert account.count("readings", "dropped: less than 10 readings left at a person's end") == 14
    assert np.isnan(weeks.week(1)[0, 2])


@pytest.mark.parametrize("by", [0, 1, 4097, -5])
def test_impossible_runs(by: int) -> None:
    with pytest.raises(HeartnetError, match="from 2 to 4,096"):
        cut_weeks(readings(steady("a", 0, 25)), by=by)


def test_no_week_left() -> None:
    account = Account()
    weeks = cut_weeks(readings(steady("a", 0, 25)), account=account)
    assert (len(weeks), len(weeks.readings), weeks.table.height) == (0, 0, 0)
    assert account.count("weeks", "dropped: worn less than 24 h") == 1


def test_sleep_and_workouts_become_annotations() -> None:
    rows = steady("a", 0, 5, 60) + steady("a", 7 * 86_400, 5, 60) + steady("b", 0, 3, 60)
    spans = [("a", 60, 170, "asleep"), ("a", 100, 130, "asleep"), ("a", 180, 240, "in_workout")]
    events = pl.DataFrame(
        [(u, MONDAY + timedelta(seconds=s), MONDAY + timedelta(seconds=e), True, kind) for u, s, e, kind in spans],
        schema=EVENT_SCHEMA,
        orient="row",
    )
    found = cut_weeks(readings(rows), min_wear_hours=0, events=events).annotations
    unknown = [UNKNOWN] * 5
    assert found["asleep"].tolist() == [0, 1, 1, 0, 0, *unknown, *unknown[:3]]
    assert found["in_workout"].tolist() == [0, 0, 0, 1, 0, *[0] * 5, *unknown[:3]]
    assert cut_weeks(readings(rows), min_wear_hours=0).annotations == {}


def test_the_device_of_a_week_measured_most_of_its_rates() -> None:
    frame = readings(steady("a", 0, 5)).with_columns(device=pl.Series([1, 2, 2, 1, 2], dtype=pl.UInt16))
    weeks = cut_weeks(frame, min_wear_hours=0, devices=("", "watch", "phone"))
    assert weeks.table["device"].to_list() == ["phone"]


def test_a_long_week_is_thinned_and_keeps_steps_span_and_wear() -> None:
    account = Account()
    rows = steady("a", 0, 1500, 300) + steady("a", 100_001, 5000, 5)
    long = readings(list({row[1]: row for row in rows}.values()))
    weeks = cut_weeks(long, account=account)
    assert 4090 <= len(weeks.week(0)) <= 4096
    assert np.nansum(weeks.readings[:, 1]) == long["steps"].sum()
    assert np.nansum(weeks.readings[:, 2].astype(np.float64)) == 1499 * 300
    assert weeks.table["wear_hours"][0] == pytest.approx(1499 * 300 / 3600)
    merged = account.count("readings", "merged: thinned to 4,096 readings at most a week")
    assert merged == long.height - len(weeks.readings)


times = st.lists(st.integers(0, 3_000_000), min_size=1, max_size=120, unique=True)


@settings(deadline=None)
@given(
    people=st.lists(times, min_size=1, max_size=3),
    by=st.sampled_from(["week", 2, 7, 30]),
    hours=st.sampled_from([0.0, 0.2, 2.0]),
    limit=st.sampled_from([10, 4096]),
    offset=st.sampled_from([0, 3600, -28800]),
)
def test_against_a_loop_and_no_reading_unaccounted(
    people: list[list[int]], by: str | int, hours: float, limit: int, offset: int
) -> None:
    rows = [(str(p), float(s), offset, 60.0, float(s % 11)) for p, at in enumerate(people) for s in at]
    frame = readings(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartnet.weeks, "MAX_READINGS", max(limit, by) if isinstance(by, int) else limit)
        account = Account()
        expected = naive_weeks(people, by, hours, offset)
        weeks = cut_weeks(frame, by=by, min_wear_hours=hours, account=account)  # type: ignore[arg-type]
    assert len(weeks) == len(expected)
    for index, (person, seconds) in enumerate(expected):
        week = weeks.week(index)
        assert weeks.table["user_id"][index] == person
        assert np.nansum(week[:, 1]) == sum(s % 11 for s in seconds)
        assert np.nansum(week[:, 2].astype(np.float64)) == pytest.approx(seconds[-1] - seconds[0])
        assert weeks.table["readings"][index] == len(week) <= max(limit, len(seconds) if by != "week" else 0)
    for stage, total in (("readings", frame.height), ("weeks", account.count("weeks", "in"))):
        gone = sum(n for s, what, n in account if s == stage and what.startswith(("dropped", "merged")))
        assert account.count(stage, "in") == total
        assert total - gone == account.count(stage, "left")
    assert account.count("readings", "left") == len(weeks.readings)


def naive_weeks(people: list[list[int]], by: str | int, hours: float, offset: int) -> list[tuple[str, list[int]]]:
    found = []
    for person, unsorted in enumerate(people):
        groups: dict[int, list[int]] = {}
        for index, second in enumerate(sorted(unsorted)):
            local = MONDAY + timedelta(seconds=second + offset)
            monday = local.date() - timedelta(days=local.weekday())
            groups.setdefault(monday.toordinal() if by == "week" else index // int(by), []).append(second)
        for seconds in groups.values():
            wear = sum(b - a for a, b in pairwise(seconds) if b - a <= 1800)
            if wear / 3600 >= hours and (by == "week" or len(seconds) == by):
                found.append((str(person), seconds))
    return found
