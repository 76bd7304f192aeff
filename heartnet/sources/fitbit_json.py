"""Reads the JSON files of a Fitbit export: heart rate, steps, sleep and exercise, one file a day or month."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from heartnet.errors import HeartnetError
from heartnet.sources.archives import Member
from heartnet.sources.fitbit_tables import in_range

JSON_BYTES = 16 << 20
"""The largest JSON file that is read; that takes up to 80 times as much memory. A day of heart rate has 1 to 5 MB."""

ASLEEP = ("light", "deep", "rem", "asleep")
"""Levels of sleep in which a person sleeps; the others are `wake`, `awake` and `restless`."""


def read_entries(member: Member) -> list[Any]:
    """Return the list that a JSON file holds.

    Raises:
        HeartnetError: if it is too large, broken, or holds something else.
    """
    data = bytearray()
    with member.open() as stream:
        while block := stream.read(1 << 20):
            data += block
            if len(data) > JSON_BYTES:
                raise HeartnetError(
                    f"{member.full_name} holds {member.length:,} bytes; expected at most {JSON_BYTES:,} of a JSON file"
                )
    try:
        entries = json.loads(data)
    except RecursionError as error:
        raise HeartnetError(f"{member.full_name} is no readable JSON: it nests too deep") from error
    except ValueError as error:
        raise HeartnetError(f"{member.full_name} is broken JSON: {error}") from error
    if not isinstance(entries, list):
        raise HeartnetError(f"{member.full_name} holds a {type(entries).__name__}; expected a list of entries")
    return entries


def heart_rates(entries: list[Any]) -> pl.DataFrame:
    """Return `row`, `said`, `time` (UTC), `heart_rate`, `confidence` of `{dateTime, value: {bpm, confidence}}`."""
    values = _fields(entries, "value")
    rate, confidence = _numbers(_fields(values, "bpm")), _numbers(_fields(values, "confidence"))
    return _frame(entries).with_columns(rate.alias("heart_rate"), confidence.alias("confidence"))


def steps(entries: list[Any]) -> pl.DataFrame:
    """Return `row`, `said`, `time` (UTC, begin of the minute), `steps` of entries `{dateTime, value}`."""
    return _frame(entries).with_columns(_numbers(_fields(entries, "value")).alias("steps"))


def sleep(entries: list[Any]) -> pl.DataFrame:
    """Return the spans asleep of sleep logs: `row` (of the log), `said`, `start`, `end`, and `woke`, the log's end.

    All are wall clocks. A log without levels is one span from its start to its end.
    """
    spans: list[tuple[int, str, Any, Any, Any, Any]] = []
    for row, entry in enumerate(entries, 1):
        log_end = _field(entry, "endTime")
        levels = _field(_field(entry, "levels"), "data")
        if isinstance(levels, list) and levels:
            for level in levels:
                name = _field(level, "level")
                if not isinstance(name, str) or name.lower() in ASLEEP:
                    spans.append((row, _said(level), _field(level, "dateTime"), _field(level, "seconds"), "", log_end))
        else:
            spans.append((row, _said(entry), _field(entry, "startTime"), None, log_end, log_end))
    rows, said, starts, lasts, ends, log_ends = zip(*spans, strict=True) if spans else [()] * 6
    start, end, woke = (_texts(texts).str.strptime(_TIME, _ISO, strict=False) for texts in (starts, ends, log_ends))
    end = pl.select(pl.coalesce(end, start + _seconds(_numbers(lasts)))).to_series()
    columns = {"start": in_range(start), "end": in_range(end), "woke": in_range(woke)}
    return pl.DataFrame({"row": pl.Series(rows, dtype=pl.Int64), "said": pl.Series(said, dtype=pl.String), **columns})


def exercise(entries: list[Any]) -> pl.DataFrame:
    """Return the spans of workouts: `row`, `said`, `start`, `end` (UTC)."""
    start = _american(_texts(_fields(entries, "startTime")))
    end = start + _seconds(_numbers(_fields(entries, "duration")) / 1000)
    said = pl.Series("said", map(_said, entries), dtype=pl.String)
    return pl.DataFrame([_rows(entries), said, start.alias("start"), in_range(end).alias("end")])


_TIME = pl.Datetime("us")
_ISO = "%Y-%m-%dT%H:%M:%S%.f"


def _frame(entries: list[Any]) -> pl.DataFrame:
    said = _texts(_fields(entries, "dateTime"))
    return pl.DataFrame([_rows(entries), said.alias("said"), _american(said).alias("time")])


def _rows(entries: list[Any]) -> pl.Series:
    return pl.Series("row", range(1, len(entries) + 1), dtype=pl.Int64)


def _field(entry: Any, name: str) -> Any:
    return entry.get(name) if type(entry) is dict else None


def _fields(entries: list[Any], name: str) -> list[Any]:
    return [entry.get(name) if type(entry) is dict else None for entry in entries]


def _texts(values: Sequence[Any]) -> pl.Series:
    texts = [value if type(value) is str and value.isascii() else None for value in values]
    return pl.Series(texts, dtype=pl.String)


def _numbers(values: Sequence[Any]) -> pl.Series:
    """Return numbers, also those written as text, within ±1e15; null elsewhere."""
    # compared before they are converted: an integer may have thousands of digits
    plain = [value if type(value) in (int, float) and -1e15 < value < 1e15 else None for value in values]
    numbers = pl.Series(plain, dtype=pl.Float64, strict=False)
    if numbers.null_count():
        written = _texts(values).str.slice(0, 20).cast(pl.Float64, strict=False)
        numbers = pl.select(pl.coalesce(numbers, pl.when(written.abs() < 1e15).then(written))).to_series()
    return numbers


def _said(value: Any) -> str:
    return str(value)[:80].encode("ascii", "replace").decode()


def _american(texts: pl.Series) -> pl.Series:
    return in_range(texts.str.strptime(_TIME, "%m/%d/%y %H:%M:%S", strict=False))


def _seconds(column: pl.Series) -> pl.Series:
    """Return durations, null unless from 0 to a year."""
    seconds = pl.select(pl.when(column.is_between(0, 366 * 86_400)).then(column)).to_series()
    return (seconds * 1_000_000).cast(pl.Int64).cast(pl.Duration("us"))
