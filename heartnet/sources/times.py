"""Reads times as exports write them: ISO 8601 with or without offset, a stated format, or numbers of a stated unit."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from heartnet.errors import HeartnetError

UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
"""Microseconds in a unit of `--time-unit`."""

_FIRST = -2_208_988_800_000_000  # 1900-01-01
_LAST = 10_413_791_999_999_999  # 2299-12-31; databases that shift dates to hide them reach the 23rd century
_OFFSET = r"([+-]\d{2}):?(\d{2})?$"


def parse_times(
    columns: Sequence[pl.Series], time_format: str | None = None, unit: str | None = None
) -> tuple[pl.Series, pl.Series]:
    """Return UTC instants where the text gives an offset and else the wall clock, and the offsets.

    Args:
        columns: one column, or several that are joined by a blank, such as a date and a time.
        time_format: a strptime format; an offset, `%z`, stands last.
        unit: `"s"`, `"ms"`, `"us"` or `"ns"` for numbers since 1970-01-01 00:00, or since any start.

    Returns:
        Datetime in microseconds, null where not readable or not from 1900 to 2299; and Int32 seconds, null where no
        offset is written.
    """
    time, offset = _parsed(columns, time_format, unit)
    return _checked(time.to_physical()), offset


def _parsed(columns: Sequence[pl.Series], time_format: str | None, unit: str | None) -> tuple[pl.Series, pl.Series]:
    for column in columns:
        if column.dtype.is_nested():
            raise HeartnetError(
                f"the times of column {column.name!r} are {column.dtype}, expected times, text or numbers"
            )
    if len(columns) == 1 and isinstance(columns[0].dtype, pl.Datetime):
        return _from_datetimes(columns[0])
    if unit is not None:
        return _checked(_from_numbers(columns[0], UNITS[unit])), _no_offset(columns[0])
    text = _join(columns)
    if time_format is not None:
        return _from_format(text, time_format)
    return _from_iso(text)


def is_numeric(column: pl.Series) -> bool:
    """Tell whether a time column holds plain numbers, which need a unit."""
    return column.dtype.is_numeric() or column.drop_nulls().cast(pl.Float64, strict=False).null_count() == 0


def _from_datetimes(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    zone = getattr(column.dtype, "time_zone", None)
    column = column.cast(pl.Datetime("us", zone))
    if zone is None:
        return column, _no_offset(column)
    wall = column.dt.replace_time_zone(None)
    utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return utc, (wall - utc).dt.total_seconds().cast(pl.Int32)


def _from_numbers(column: pl.Series, microseconds: float) -> pl.Series:
    whole = column.cast(pl.Int64, strict=False)
    if whole.null_count() == column.null_count() and (column.dtype.is_integer() or column.dtype == pl.String):
        if microseconds >= 1:
            limit = _LAST // int(microseconds)
            return pl.select(pl.when(whole.abs() <= limit).then(whole * int(microseconds))).to_series()
        return whole // 1000
    number = column.cast(pl.Float64, strict=False) * microseconds
    return number.round().cast(pl.Int64, strict=False)


def _checked(microseconds: pl.Series) -> pl.Series:
    inside = microseconds.is_between(_FIRST, _LAST)
    return pl.select(pl.when(inside).then(microseconds).cast(pl.Datetime("us"))).to_series()


def _join(columns: Sequence[pl.Series]) -> pl.Series:
    texts = [column.cast(pl.String).str.strip_chars() for column in columns]
    if len(texts) == 1:
        return texts[0]
    return pl.select(pl.concat_str(texts, separator=" ")).to_series()


def _from_format(text: pl.Series, time_format: str) -> tuple[pl.Series, pl.Series]:
    try:
        time = text.str.strptime(pl.Datetime("us"), time_format, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise HeartnetError(f"--time-format {time_format!r} cannot be used: {reason}") from error
    if "%z" not in time_format:
        return time, _no_offset(text)
    return time.dt.replace_time_zone(None), _offsets(text)


def _from_iso(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    dtype = pl.Datetime("us")
    first = str(text[text.is_not_null().arg_max() or 0]) if len(text) else ""
    layout = "%Y-%m-%dT%H:%M:%S%.f" if "T" in first else "%Y-%m-%d %H:%M:%S%.f"
    time = text.str.strptime(dtype, layout, strict=False)
    if time.null_count() == text.null_count():
        return time, _no_offset(text)
    rest = pl.DataFrame({"text": text, "time": time}).select(
        pl.when(pl.col("time").is_null()).then(pl.col("text").str.replace("[Tt]", " ").str.replace(" ?[Zz]$", "+00:00"))
    )["text"]
    parts = rest.str.extract_groups(
        r"^(\d{4}-\d{2}-\d{2}(?: \d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)?) ?((?:[+-]\d{2}(?::?\d{2})?)?)$"
    )
    wall, written = parts.struct.field("1"), parts.struct.field("2")
    length = wall.str.len_bytes()
    full = pl.select(
        pl.when(length == 10).then(wall + " 00:00:00").when(length == 16).then(wall + ":00").otherwise(wall)
    ).to_series()
    parsed = full.str.replace(",", ".").str.strptime(dtype, "%Y-%m-%d %H:%M:%S%.f", strict=False)
    offset = pl.select(pl.when(written != "").then(_offsets(written))).to_series()
    frame = pl.DataFrame({"time": time, "wall": parsed, "offset": offset}).with_columns(
        utc=pl.col("wall") - pl.duration(seconds=pl.col("offset").fill_null(0))
    )
    return frame.select(pl.coalesce("time", "utc"))["time"], frame["offset"]


def _offsets(text: pl.Series) -> pl.Series:
    parts = text.str.extract_groups(_OFFSET)
    hours = parts.struct.field("1")
    minutes = parts.struct.field("2").cast(pl.Int32, strict=False).fill_null(0)
    sign = pl.select(pl.when(hours.str.starts_with("-")).then(-1).otherwise(1).cast(pl.Int32)).to_series()
    seconds = hours.cast(pl.Int32, strict=False) * 3600 + sign * minutes * 60
    return seconds.fill_null(0).cast(pl.Int32).alias("offset")


def _no_offset(like: pl.Series) -> pl.Series:
    return pl.Series("offset", [None], dtype=pl.Int32).new_from_index(0, len(like))
