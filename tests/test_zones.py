"""Local time in a time zone, through both changes of the clock, against Python's own zoneinfo."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartnet.errors import HeartnetError
from heartnet.zones import check_zone, from_wall_clock, utc_offsets

ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]
moments = st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)), min_size=1, max_size=20)


@given(moments, st.sampled_from(ZONES))
def test_offsets_are_those_of_zoneinfo(times: list[datetime], zone: str) -> None:
    local = [time.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for time in times]
    found = utc_offsets(pl.Series(times, dtype=pl.Datetime("us")), zone)
    assert found.to_list() == [(wall - time).total_seconds() for wall, time in zip(local, times, strict=True)]


@given(st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)), st.sampled_from(ZONES))
def test_a_wall_clock_read_in_order_gives_the_instants_back(start: datetime, zone: str) -> None:
    instants = [start + timedelta(minutes=20 * step) for step in range(300)]
    wall = [time.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for time in instants]
    assert from_wall_clock(pl.Series(wall, dtype=pl.Datetime("us")), zone).to_list() == instants


def test_the_hour_that_is_skipped() -> None:
    wall = pl.Series([datetime(2024, 3, 31, 2, 30), None])
    assert from_wall_clock(wall, "Europe/Berlin").to_list() == [datetime(2024, 3, 31, 1, 30), None]


def test_a_zone_that_is_not_there() -> None:
    assert check_zone("Europe/Berlin") == "Europe/Berlin"
    for name in ("Europe/Berln", "../../etc/passwd", ""):
        with pytest.raises(HeartnetError, match=r"is not a time zone.*Europe/Berlin"):
            check_zone(name)
