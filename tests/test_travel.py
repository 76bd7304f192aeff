"""Journeys: both clocks against a walk through the seconds, and what they do to simulated weeks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.conditions import CONDITIONS
from heartnet.simulate import people as people_module
from heartnet.simulate import simulate
from heartnet.simulate import week as week_module
from heartnet.simulate.travel import (
    AT_HOME,
    BLOCK_DAYS,
    DAY,
    EASTWARD_PER_DAY,
    WEEK,
    WESTWARD_PER_DAY,
    Clocks,
    draw_clocks,
)
from heartnet.weeks import Weeks


def clocks_of(seed: int, first_day: int) -> Clocks:
    """Return a week of someone who travels in every block of days."""
    return draw_clocks(first_day, 13.0, partial(_generator, seed))


def _generator(seed: int, block: int) -> np.random.Generator:
    return np.random.default_rng([seed, block])


@pytest.fixture(scope="module")
def travellers() -> Weeks:
    """Four weeks each of people of whom nearly all travel."""
    patch = pytest.MonkeyPatch()
    often = [replace(t, centre=13.0, spread=0.1) if t.name == "journeys" else t for t in people_module.TRAITS]
    patch.setattr(people_module, "TRAITS", tuple(often))
    weeks = simulate(users=40, weeks_per_user=4, seed=1)
    patch.undo()
    return weeks


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), first_day=st.integers(0, 3 * BLOCK_DAYS))
def test_clocks_against_a_walk_through_the_days(seed: int, first_day: int) -> None:
    clocks = clocks_of(seed, first_day)
    assert len(clocks.jumps) <= 2
    assert np.abs(clocks.offset).max() <= 9
    # Each local day holds at most one jump, and none crosses midnight.
    for k in range(7):
        begin, end = clocks.midnights[k], clocks.midnights[k + 1]
        inside = (clocks.jumps_at >= begin) & (clocks.jumps_at < end)
        assert inside.sum() <= 1
        jump = int(clocks.jumps[inside].sum())
        assert end - begin == DAY - jump
        assert clocks.offset[k + 1] - clocks.offset[k] == jump / 3600
        lag = clocks.lag[k] + jump / 3600
        followed = max(lag - EASTWARD_PER_DAY, 0) if lag > 0 else min(lag + WESTWARD_PER_DAY, 0)
        assert clocks.lag[k + 1] == pytest.approx(followed)
    shown = clocks.local(np.arange(0, clocks.end, 60))
    assert shown[0] == 0
    assert shown.max() < WEEK
    assert clocks.local(np.array([clocks.end]))[0] == WEEK
    steps = np.diff(shown)
    assert sorted(steps[steps != 60] - 60) == sorted(clocks.jumps.tolist())
    days = shown // DAY
    assert np.all(np.diff(days) >= 0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), first_day=st.integers(0, 2 * BLOCK_DAYS))
def test_weeks_follow_one_another(seed: int, first_day: int) -> None:
    one, next_one = clocks_of(seed, first_day), clocks_of(seed, first_day + 7)
    assert one.offset[7] == next_one.offset[0]
    assert one.lag[7] == pytest.approx(next_one.lag[0])
    # The body clock goes on: no jump at the seam, and never faster than it can follow.
    before, after = one.body_hours(np.array([one.end])), next_one.body_hours(np.array([0]))
    assert (before - after) % 24 == pytest.approx(0, abs=1e-6) or (before - after) % 24 == pytest.approx(24, abs=1e-6)
    seconds = np.arange(0, one.end, 600)
    pace = np.diff(one.body_hours(seconds)) / (600 / 3600)
    assert pace.min() > 0.9
    assert pace.max() < 1.1


def test_the_body_clock_is_right_again_at_the_end_of_each_block() -> None:
    for seed in range(300):
        assert clocks_of(seed, BLOCK_DAYS).lag[0] == 0
        assert clocks_of(seed, BLOCK_DAYS).offset[0] == 0


def test_who_stays_at_home_has_a_plain_week() -> None:
    assert draw_clocks(3, 0.0, partial(_generator, 0)) is AT_HOME
    assert AT_HOME.end == WEEK
    assert AT_HOME.farthest == 0
    np.testing.assert_array_equal(AT_HOME.local(np.arange(5)), np.arange(5))
    np.testing.assert_array_equal(AT_HOME.midnights, np.arange(8) * DAY)


def rows(weeks: Weeks, index: int) -> slice:
    return slice(int(weeks.offsets[index]), int(weeks.offsets[index + 1]))


def jumps(weeks: Weeks, index: int) -> npt.NDArray[np.float64]:
    """Return by how many hours the local clock jumped, where it did."""
    shown = np.diff(weeks.local_time[rows(weeks, index)]) / 1e6 - weeks.week(index)[1:, 2]
    return shown[shown != 0] / 3600


def test_local_time_jumps_while_dt_stays_true(travellers: Weeks) -> None:
    assert sum(len(jumps(travellers, index)) for index in range(len(travellers))) > 50
    for index, start in enumerate(travellers.table["start"].dt.timestamp("us")):
        local, dt = travellers.local_time[rows(travellers, index)], travellers.week(index)[:, 2]
        assert dt[1:].min() >= 1
        assert start <= local.min() <= local.max() < start + WEEK * 1_000_000
        found = jumps(travellers, index)
        assert len(found) <= 2
        assert np.all(found == np.rint(found))
        assert len(found) == 0 or travellers.table["true_travel_hours"][index] != 0


def test_the_offset_of_a_week_is_what_the_jumps_before_it_add_up_to(travellers: Weeks) -> None:
    for first in range(0, 160, 4):
        offset = travellers.table["utc_offset"][first] / 3600
        for index in range(first, first + 4):
            assert travellers.table["utc_offset"][index] / 3600 == offset
            offset += jumps(travellers, index).sum()


def test_the_heart_keeps_the_time_of_home_at_first() -> None:
    """The daily swing alone, measured in the first day after a journey 9 hours east."""
    offset = np.array([0.0, 0, 9, 9, 9, 9, 9, 9])
    lag = np.array([0.0, 0, 8.05, 7.1, 6.15, 5.2, 4.25, 3.3])
    clocks = Clocks(offset, lag, np.array([DAY + 12 * 3600]), np.array([9 * 3600]))
    at_noon_by_local_clock = clocks.midnights[2] + 12 * 3600
    assert clocks.body_hours(np.array([at_noon_by_local_clock]))[0] % 24 == pytest.approx(12 - 8.05 + 0.475, abs=0.01)
    assert clocks.farthest == 9
    assert clocks.end == WEEK - 9 * 3600


def test_sleep_is_pulled_by_the_body_clock() -> None:
    """Half way between both clocks: 8 hours to the east it begins 4 hours later by the local clock."""
    person = people_module.draw_person(np.random.default_rng(3), dict.fromkeys(CONDITIONS, 9.0), 1.0, 0.0)
    lag = np.array([0.0, 0, 8, 7, 6, 0, -4, -2])
    away = Clocks(np.zeros(8), lag, AT_HOME.jumps_at, AT_HOME.jumps)
    home, abroad = (week_module._nights(person, c, None, np.random.default_rng(1)).spans for c in (AT_HOME, away))
    np.testing.assert_allclose(abroad.start - home.start, 1800 * lag, atol=1)
    np.testing.assert_array_equal(abroad.end - abroad.start, home.end - home.start)


def test_few_weeks_hold_a_journey_and_many_people_never_go() -> None:
    table = simulate(users=250, weeks_per_user=1, seed=12).table
    assert 0.02 < (table["true_travel_hours"] != 0).mean() < 0.15
    assert 0.3 < (table["true_journeys"] == 0).mean() < 0.55
    assert table.filter(pl.col("true_journeys") == 0)["true_travel_hours"].abs().max() == 0
