"""Local time: the offset from UTC of each moment in a time zone, daylight saving included."""

from __future__ import annotations

from zoneinfo import ZoneInfo, available_timezones

import polars as pl

from heartnet.errors import HeartnetError, did_you_mean


def check_zone(name: str) -> str:
    """Return the name if it is a time zone of the IANA database, such as `Europe/Berlin`.

    Raises:
        HeartnetError: if it is not, with the nearest name that is.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        known = sorted(available_timezones())
        raise HeartnetError(
            f"{name!r} is not a time zone.{did_you_mean(name, known)} Expected a name such as Europe/Berlin"
        ) from error
    return name


def utc_offsets(instants: pl.Series, zone: str) -> pl.Series:
    """Return the offsets (Int32, seconds east of UTC) of UTC instants (naive Datetime) in a time zone."""
    local = instants.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return (local.dt.base_utc_offset() + local.dt.dst_offset()).dt.total_seconds().cast(pl.Int32)


def from_wall_clock(times: pl.Series, zone: str) -> pl.Series:
    """Return the UTC instants (naive Datetime) of wall-clock times written in the order in which they happened.

    The hour that a clock set back shows twice is its first pass until, in that hour, a time lies before the one
    above it. A time that a clock set forward skips is read as if the clock had not been set yet, so that
    02:30 becomes 03:30.
    """
    wall = pl.col("wall")
    frame = pl.DataFrame({"wall": times}).with_columns(
        first=wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null"),
        last=wall.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null"),
    )
    twice = (pl.col("first") != pl.col("last")).fill_null(False)
    if frame.select(twice.any()).item():
        set_back = (twice & (wall < wall.shift())).fill_null(False)
        second_pass = twice & (set_back.cast(pl.Int32).cum_sum().over(wall.dt.date()) > 0)
        frame = frame.with_columns(first=pl.when(second_pass).then("last").otherwise("first"))
    if frame["first"].null_count() > times.null_count():
        hours = pl.duration(hours=3)
        before = (wall - hours).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null") + hours
        frame = frame.with_columns(pl.col("first").fill_null(before))
    return frame["first"].dt.convert_time_zone("UTC").dt.replace_time_zone(None).alias(times.name)
