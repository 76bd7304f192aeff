"""Bad readings leave the table, counted and with a place; the rules for several rows at one moment hold."""

from collections import defaultdict
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.readings import RAW_SCHEMA, SCHEMA, RawReadings, clean

START = datetime(2026, 1, 5)
Row = tuple[str, int, float | None, float | None]


def raw(rows: list[Row]) -> RawReadings:
    """Readings at `(person, second, heart rate, steps)`, written from row 2 on."""
    frame = pl.DataFrame(
        [(p, START + timedelta(seconds=s), 0, h, n, 0, 2 + i) for i, (p, s, h, n) in enumerate(rows)],
        schema=RAW_SCHEMA,
        orient="row",
    )
    return RawReadings(frame, ("hr.csv",))


def cleaned(rows: list[Row], **settings: bool) -> tuple[list[tuple[object, ...]], Account]:
    account = Account(**settings)
    frame = clean(raw(rows), account)
    assert frame.schema == SCHEMA
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


def test_times_backwards_are_sorted_and_counted() -> None:
    rows, account = cleaned([("b", 5, 60, None), ("b", 0, 61, None), ("a", 3, 62, None), ("b", 9, 63, None)])
    assert rows == [("a", 3, 62, None), ("b", 0, 61, None), ("b", 5, 60, None), ("b", 9, 63, None)]
    assert account.count("rows", "noted: time before the row above (sorted)") == 1


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(HeartnetError, match=r"no reading is left of hr\.csv.*outside 20–250 bpm: 1.*row 2: .* 900"):
        cleaned([("a", 0, 900, None)])


heart_rates = st.none() | st.sampled_from([0.0, 19.0, 60.0, 61.0, 250.0, 251.0])
counts = st.none() | st.sampled_from([-1.0, 0.0, 3.0, 7.0])


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
    if not expected:
        with pytest.raises(HeartnetError, match="no reading is left"):
            cleaned(rows)
        return
    found, account = cleaned(rows)
    assert [(p, s, h, n) for p, s, h, n in found] == [(p, s, pytest.approx(h), n) for p, s, h, n in expected]
    gone = sum(n for stage, what, n in account if stage == "rows" and what.startswith(("dropped", "merged")))
    assert len(rows) - gone == account.count("rows", "left") == len(found)
